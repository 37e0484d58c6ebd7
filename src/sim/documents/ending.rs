//! When the faults are over: documents come together, and nothing is missing.

use crate::message::Position;

use super::super::oracle::Broken;
use super::super::world::{Event, World};
use super::truth::Known;
use super::types::Edit;
use super::{MOST_EDITS, NAMES};

impl World<'_> {
    /// So that there is something to compare.
    pub(in crate::sim) fn heal_documents(&mut self) -> Result<(), Broken> {
        let Some(documents) = &mut self.documents else { return Ok(()) };
        for part in &mut documents.parts {
            for document in 0..NAMES.len() {
                if documents.dice.percent(50) {
                    part.wanted.insert(document);
                }
            }
        }
        for index in 0..self.scenario.members {
            self.documents_moved(index)?;
        }
        if let Some(documents) = &mut self.documents {
            documents.keeping.forget_timer();
        }
        let life = self.host.life;
        self.push(0, Event::Keeper { life });
        Ok(())
    }

    /// What applications want open and is not, is opened again.
    pub(in crate::sim) fn reopen_documents(&mut self) -> Result<(), Broken> {
        self.heal_rights()?;
        for index in 0..self.scenario.members {
            if self.members[index].machine.is_none() || !self.members[index].joined_once {
                continue;
            }
            self.start_mirror(index)?;
            let Some(documents) = &self.documents else { return Ok(()) };
            let part = &documents.parts[index];
            let missing: Vec<usize> = part
                .wanted
                .iter()
                .filter(|document| !part.openings.contains_key(document))
                .copied()
                .collect();
            for document in missing {
                self.open(index, document)?;
            }
        }
        Ok(())
    }

    /// Everybody changes once more what they have open.
    pub(in crate::sim) fn last_edits(&mut self) -> Result<(), Broken> {
        self.restrict_somebody()?;
        for index in 0..self.scenario.members {
            for document in 0..NAMES.len() {
                self.edit(index, document, Edit::MAX)?;
            }
        }
        Ok(())
    }

    /// What of documents keeps the cluster from being at rest.
    pub(in crate::sim) fn documents_restless(&self) -> Option<String> {
        let documents = self.documents.as_ref()?;
        if !documents.keeping.is_at_rest() {
            return Some("the keeper has something to do".to_owned());
        }
        if let Some(restless) = documents.mirror_restless() {
            return Some(restless);
        }
        for (index, part) in documents.parts.iter().enumerate() {
            if !part.incoming.is_empty() || !part.outgoing.is_empty() || !part.flying.is_empty() {
                return Some(format!("documents of m{index} have something to take in, or to say"));
            }
            for document in &part.wanted {
                let name = NAMES[*document];
                let Some(opening) = part.openings.get(document) else {
                    return Some(format!("m{index} has not opened {name:?}"));
                };
                if opening.waits_for.is_some() || !opening.replica.is_synced() {
                    let number = opening.number;
                    return Some(format!("{name:?} is not in sync at m{index} (opening {number})"));
                }
            }
        }
        None
    }

    /// All have come together, and nothing is missing.
    pub(in crate::sim) fn check_documents(&self) -> Result<(), Broken> {
        let Some(documents) = &self.documents else { return Ok(()) };
        let life = documents.keeping.life();
        for (document, (name, truth)) in NAMES.iter().zip(&documents.truths).enumerate() {
            let last = truth.last(life);
            for (index, part) in documents.parts.iter().enumerate() {
                let Some(opening) = part.openings.get(&document) else { continue };
                let edits = opening.replica.edits();
                if edits != last.edits {
                    let expected = &last.edits;
                    return Err((17, format!("{name:?} is {edits:?} at m{index}, and not {expected:?}")));
                }
            }
            let end = Position { epoch: u64::MAX, seq: u64::MAX };
            if let Some(state) = documents.keeping.state(name) {
                truth.check(&Known { life, position: end }, &state, "what the keeper has in the end")?;
            } else if !last.edits.is_empty() {
                return Err((17, format!("the keeper does not have {name:?}")));
            }
            documents.check_mirror(life, name, truth)?;
            let remembers = documents.recent > MOST_EDITS as usize;
            truth.check_fates(life, remembers, documents.rights.is_none())?;
        }
        Ok(())
    }
}

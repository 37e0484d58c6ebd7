//! What applications do with documents: they open them, change them, and close them; and some say things in the name of others.

use crate::document::replica::Config;
use crate::document::wire;
use crate::message::{Message, MessageKind};

use super::super::oracle::Broken;
use super::super::world::{Event, World, trace};
use super::opening::{Opening, Outgoing};
use super::types::Edit;
use super::{MODELS, MOST_EDITS, NAMES, NOBODY, Part};

impl World<'_> {
    /// A member's process begins: its application may do something.
    pub(in crate::sim) fn start_documents(&mut self, index: usize) {
        if self.documents.is_some() && index < self.scenario.members {
            let life = self.members[index].life;
            self.push(0, Event::Edit { member: index, life });
        }
    }

    /// A member's process is gone, and with it what it had open.
    pub(in crate::sim) fn end_documents(&mut self, index: usize) {
        let Some(documents) = &mut self.documents else { return };
        let Some(part) = documents.parts.get_mut(index) else { return };
        let wanted = std::mem::take(&mut part.wanted);
        let part = std::mem::replace(part, Part { wanted, ..Part::default() });
        for (document, opening) in part.openings {
            documents.truths[document].on_ended(opening.number);
        }
    }

    /// An application does something to a document, or not.
    pub(in crate::sim) fn on_edit_tick(&mut self, index: usize) -> Result<(), Broken> {
        let life = self.members[index].life;
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let next = documents.dice.scale(documents.edit_every / 4, documents.edit_every * 2);
        let document = documents.dice.below(NAMES.len() as u64) as usize;
        let (what, is_open) =
            (documents.dice.below(100), documents.parts[index].openings.contains_key(&document));
        if !self.in_faults() || self.members[index].machine.is_none() {
            return Ok(());
        }
        self.push(next, Event::Edit { member: index, life });
        self.start_mirror(index)?;
        self.change_rights(index, document)?;
        let Some(documents) = &mut self.documents else { return Ok(()) };
        if documents.chaos.below(1_000) < documents.replaces {
            self.replace_keeper()?;
        } else if documents.chaos.below(1_000) < documents.forges {
            self.forge(index, document)?;
        }
        match (is_open, what) {
            (false, 0..60) => self.open(index, document),
            (true, 0..80) => self.edit(index, document, MOST_EDITS),
            (true, 90..) => self.close_document(index, document),
            _ => Ok(()),
        }
    }

    pub(super) fn open(&mut self, index: usize, document: usize) -> Result<(), Broken> {
        let (me, host, mutant) = (self.members[index].id, self.host.id, self.mutant);
        let Some(documents) = &mut self.documents else { return Ok(()) };
        documents.openings += 1;
        documents.counts.opened += 1;
        let config = Config {
            name: NAMES[document].to_owned(),
            me,
            seed: documents.dice.any().max(1),
            create: false,
            max_unsynced: (8, 1 << 16),
            max_update: 1_000,
            max_message: 1 << 20,
            read_only: false,
            recent: documents.recent,
            mutant,
        };
        let mut opening = Opening::new(documents.openings, MODELS[document], host, config);
        let number = opening.number;
        let ticket = self.members[index].ticket + 1;
        opening.waits_for = Some(ticket);
        let part = &mut documents.parts[index];
        part.openings.insert(document, opening);
        part.wanted.insert(document);
        part.answers = true;
        trace!(self, "m{index} opens {:?} (opening {number})", NAMES[document]);
        self.subscribe_again(index)?;
        self.on_documents(index)
    }

    /// A member says something in the name of another that has the document open.
    pub(super) fn forge(&mut self, index: usize, document: usize) -> Result<(), Broken> {
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let others: Vec<usize> = (0..documents.parts.len())
            .filter(|other| *other != index && documents.parts[*other].openings.contains_key(&document))
            .collect();
        if others.is_empty() || documents.edits >= MOST_EDITS {
            return Ok(());
        }
        let other = documents.chaos.pick(&others);
        let Some(opening) = documents.parts[other].openings.get(&document) else { return Ok(()) };
        documents.edits += 1;
        documents.counts.forged += 1;
        let payload = opening.replica.forge(documents.edits);
        // Nobody cares what becomes of it.
        documents.truths[document].on_edit(NOBODY, &[documents.edits]);
        documents.truths[document].on_ended(NOBODY);
        let message = Message::new(wire::live_topic(NAMES[document]), payload);
        let message =
            message.map_err(|error| (0, error.to_string()))?.with_kind(MessageKind::DocumentFragment);
        documents.parts[index].outgoing.push_back(Outgoing { opening: NOBODY, message });
        let edit = documents.edits;
        trace!(self, "m{index} makes edit {edit} of {:?} in the name of m{other}", NAMES[document]);
        self.submit_of_documents(index)
    }

    pub(super) fn close_document(&mut self, index: usize, document: usize) -> Result<(), Broken> {
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let part = &mut documents.parts[index];
        let Some(opening) = part.openings.remove(&document) else { return Ok(()) };
        part.outgoing.extend(opening.said);
        part.wanted.remove(&document);
        documents.truths[document].on_ended(opening.number);
        trace!(self, "m{index} closes {:?} (opening {})", NAMES[document], opening.number);
        self.subscribe_again(index)?;
        self.submit_of_documents(index)
    }

    pub(super) fn edit(&mut self, index: usize, document: usize, most: Edit) -> Result<(), Broken> {
        let Some(documents) = &mut self.documents else { return Ok(()) };
        if documents.edits >= most {
            return Ok(());
        }
        let first = documents.edits + 1;
        let last = if documents.dice.percent(30) { first + 1 } else { first };
        let strict = documents.dice.percent(50);
        let edits: Vec<Edit> = (first..=last).collect();
        let Some(opening) = documents.parts[index].openings.get_mut(&document) else { return Ok(()) };
        if !opening.replica.edit(&edits, strict) {
            return Ok(());
        }
        let number = opening.number;
        documents.counts.edits += u64::from(last - documents.edits);
        documents.edits = last;
        documents.truths[document].on_edit(number, &edits);
        trace!(
            self,
            "m{index} makes edits {edits:?} of {:?} (opening {number}), strict: {strict}", NAMES[document]
        );
        self.on_documents(index)
    }
}

//! Who may do what with which document: that changes now and then, and nothing is to be ordered that its sender may not say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::document::Access;
use crate::document::keeper::{Decision, Question};
use crate::document::wire;
use crate::id::EndpointId;
use crate::message::{Message, MessageKind};
use crate::proto::host::{Input, Rights as Right, Stamp};

use super::super::dice::{Dice, MICRO, MILLI, SECOND};
use super::super::oracle::Broken;
use super::super::world::{Event, World, trace};
use super::{Documents, NAMES};

/// What keeps to it in a run.
pub(super) struct Rights {
    dice: Dice,
    /// How often they change, in a thousand of what applications do.
    changes: u64,
    /// For how long an answer counts.
    lasts: Duration,
    /// Everybody else may change everything.
    table: BTreeMap<(EndpointId, usize), Access>,
    generation: u64,
    /// Who may not change which document, as the host has been told.
    forbidden: BTreeSet<(EndpointId, usize)>,
    is_healed: bool,
    /// What the keeper asks is answered at once, or else when these say.
    slow: Option<Dice>,
    /// How much was asked.
    asked: u64,
}

/// What the keeper has asked.
pub(super) enum Thought {
    /// The application says it in the end, to the host as well, going by this.
    Open(Question, Stamp),
    /// It has said it, and that is on its way.
    Said(Decision, Option<Input>),
}

impl Rights {
    /// One run with documents in three has them.
    pub(super) fn draw(seed: u64) -> Option<Self> {
        let mut dice = Dice::new(Dice::new(seed ^ 0xacce).any());
        if dice.below(3) != 0 {
            return None;
        }
        let mut slow = Dice::new(seed ^ 0x510e);
        Some(Self {
            changes: dice.pick(&[20, 100]),
            lasts: Duration::from_secs(dice.between(1, 10)),
            dice,
            table: BTreeMap::new(),
            generation: 0,
            forbidden: BTreeSet::new(),
            is_healed: false,
            slow: slow.percent(50).then_some(slow),
            asked: 0,
        })
    }

    /// What the application says.
    pub(super) fn access(&self, id: EndpointId, name: &str) -> Access {
        let document = NAMES.iter().position(|other| *other == name);
        document.and_then(|document| self.table.get(&(id, document)).cloned()).unwrap_or(Access::Write)
    }

    /// It tells the host, going by what it has said of changes so far.
    fn answer(&self, stamp: Stamp, id: EndpointId, name: &str) -> Input {
        let rights = match self.access(id, name) {
            Access::Write => Right::Write,
            Access::Read => Right::Read,
            Access::Denied(_) => Right::Nothing,
        };
        Input::Rights { stamp, id, name: name.to_owned(), rights }
    }

    fn think(&self, question: Question, stamp: Stamp) -> (Decision, Option<Input>) {
        let told = question.document().map(|name| self.answer(stamp, question.who, name));
        (question.put_to(|id, name| self.access(id, name)), told)
    }

    fn stamp(&self, life: u32) -> Stamp {
        Stamp { guard: life.into(), generation: self.generation }
    }
}

impl World<'_> {
    /// A host begins.
    pub(in super::super) fn start_guard(&mut self) {
        let (life, now) = (self.host.life, self.host.clock.now(self.now));
        let rights = self.documents.as_ref().and_then(|documents| documents.rights.as_ref());
        if let (Some(rights), Some(machine)) = (rights, &mut self.host.machine) {
            machine.handle_input(now, Input::Guard(Some((rights.stamp(life), rights.lasts))));
        }
    }

    /// The host wants to know.
    pub(in super::super) fn on_ask_rights(&mut self, id: EndpointId, name: String) {
        let life = self.host.life;
        let Some(rights) = self.documents.as_mut().and_then(|documents| documents.rights.as_mut()) else {
            return;
        };
        let slowest = if rights.dice.percent(5) { 3 * SECOND } else { 50 * MILLI };
        let after = rights.dice.scale(10 * MICRO, slowest);
        self.push(after, Event::Rights { life, id, name });
    }

    pub(in super::super) fn on_rights(&mut self, id: EndpointId, name: &str) -> Result<(), Broken> {
        let life = self.host.life;
        let Some(rights) = self.documents.as_ref().and_then(|documents| documents.rights.as_ref()) else {
            return Ok(());
        };
        let answer = rights.answer(rights.stamp(life), id, name);
        self.tell_host(answer)
    }

    /// The keeper wants to know.
    pub(super) fn put_to_application(&mut self, question: Question) -> Result<(), Broken> {
        let life = self.host.life;
        let Some(Documents { rights: Some(rights), keeping, .. }) = &mut self.documents else {
            return Err((0, "the keeper asks who may do what, and everybody may do everything".to_owned()));
        };
        let stamp = rights.stamp(life);
        rights.asked += 1;
        let number = rights.asked;
        let (mut after, mut is_said) = (0, false);
        if let Some(slow) = &mut rights.slow {
            let slowest = if slow.percent(5) { 3 * SECOND } else { 50 * MILLI };
            (after, is_said) = (slow.scale(10 * MICRO, slowest), slow.percent(50));
        }
        let thought = if is_said {
            let (decision, told) = rights.think(question, stamp);
            Thought::Said(decision, told)
        } else {
            Thought::Open(question, stamp)
        };
        keeping.thinking.insert(number, thought);
        if after == 0 {
            return self.on_decided(number);
        }
        self.push(after, Event::Decided { life, number });
        Ok(())
    }

    /// The application has said what it was asked.
    pub(in crate::sim) fn on_decided(&mut self, number: u64) -> Result<(), Broken> {
        let (life, now) = (self.host.life, self.host.clock.now(self.now));
        let Some(Documents { rights: Some(rights), keeping, .. }) = &mut self.documents else {
            return Ok(());
        };
        let (decision, told) = match keeping.thinking.remove(&number) {
            Some(Thought::Said(decision, told)) => (decision, told),
            Some(Thought::Open(question, stamp)) => rights.think(question, stamp),
            // It was another keeper's.
            None => return Ok(()),
        };
        keeping.on_decided(now, decision);
        if let Some(told) = told {
            self.tell_host(told)?;
        }
        self.perform_keeper(life)?;
        self.submit_of_keeper()
    }

    /// Somebody's rights change, or not.
    pub(super) fn change_rights(&mut self, index: usize, document: usize) -> Result<(), Broken> {
        let id = self.members[index].id;
        let is_awake = self.host.asleep_until <= self.now;
        let Some(rights) = self.documents.as_mut().and_then(|documents| documents.rights.as_mut()) else {
            return Ok(());
        };
        if rights.dice.below(1_000) >= rights.changes || !is_awake {
            return Ok(());
        }
        let access = match rights.dice.below(5) {
            0 | 1 => Access::Write,
            2 | 3 => Access::Read,
            _ => Access::Denied("not now".to_owned()),
        };
        let is_told = rights.dice.percent(60);
        trace!(self, "m{index} has {access:?} to {:?} now, told: {is_told}", NAMES[document]);
        if is_told {
            // What was ordered before is out.
            self.flush()?;
        }
        let Some(documents) = &mut self.documents else { return Ok(()) };
        documents.counts.rights += 1;
        let Some(rights) = &mut documents.rights else { return Ok(()) };
        if access == Access::Write {
            rights.forbidden.remove(&(id, document));
        } else if is_told {
            rights.forbidden.insert((id, document));
        }
        rights.table.insert((id, document), access);
        if is_told { self.tell_changed(Some(NAMES[document])) } else { Ok(()) }
    }

    /// The host is told that something has changed, and so are those that have documents open.
    fn tell_changed(&mut self, name: Option<&str>) -> Result<(), Broken> {
        let life = self.host.life;
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let Some(rights) = &mut documents.rights else { return Ok(()) };
        rights.generation += 1;
        let input = Input::ForgetRights { stamp: rights.stamp(life), name: name.map(ToOwned::to_owned) };
        documents.keeping.on_access_changed(name);
        self.push(0, Event::Keeper { life });
        self.tell_host(input)
    }

    /// When the faults are over, everybody may do everything.
    pub(super) fn heal_rights(&mut self) -> Result<(), Broken> {
        let is_up = self.host.machine.is_some();
        let rights = self.documents.as_mut().and_then(|documents| documents.rights.as_mut());
        let Some(rights) = rights.filter(|rights| is_up && !rights.is_healed) else { return Ok(()) };
        rights.is_healed = true;
        rights.table.clear();
        rights.forbidden.clear();
        self.tell_changed(None)
    }

    /// Everybody may do everything by now, but for somebody who may only read a document, maybe: the host knows, and nobody tells them.
    pub(super) fn restrict_somebody(&mut self) -> Result<(), Broken> {
        let life = self.host.life;
        let ids: Vec<EndpointId> =
            self.members[..self.scenario.members].iter().map(|member| member.id).collect();
        let rights = self.documents.as_mut().and_then(|documents| documents.rights.as_mut());
        let Some(rights) = rights.filter(|rights| rights.is_healed) else { return Ok(()) };
        if !rights.dice.percent(30) {
            return Ok(());
        }
        let whose = (rights.dice.pick(&ids), rights.dice.below(NAMES.len() as u64) as usize);
        trace!(self, "{} may only read {:?} from now on", whose.0, NAMES[whose.1]);
        // What was ordered before is out.
        self.flush()?;
        let rights = self.documents.as_mut().and_then(|documents| documents.rights.as_mut());
        let Some(rights) = rights else { return Ok(()) };
        rights.table.insert(whose, Access::Read);
        rights.forbidden.insert(whose);
        rights.generation += 1;
        let (stamp, name) = (rights.stamp(life), Some(NAMES[whose.1].to_owned()));
        self.tell_host(Input::ForgetRights { stamp, name })
    }

    /// Something about a document was ordered.
    pub(super) fn may_be_ordered(&self, message: &Message) -> Result<(), Broken> {
        let Some(rights) = self.documents.as_ref().and_then(|documents| documents.rights.as_ref()) else {
            return Ok(());
        };
        let Some((name, _)) = wire::name_of(message.topic()) else { return Ok(()) };
        let document = NAMES.iter().position(|other| *other == name);
        let is_forbidden =
            document.is_some_and(|document| rights.forbidden.contains(&(message.origin(), document)));
        if is_forbidden && message.kind() != MessageKind::FullDocumentRequest {
            let (origin, at) = (message.origin(), message.position());
            return Err((6, format!("{origin} may not change {name:?}, and did at {at:?}")));
        }
        Ok(())
    }
}

//! A keeper on a member: beside the host's, with a store that survives its processes.

use std::collections::VecDeque;

use crate::document::keeper::{Comparison, Config, Fold, Keeper, Limits, Output, stored_state};
use crate::document::store::{MemoryStore, Store};
use crate::document::wire::{self, State};
use crate::message::{Message, MessageKind, Position};

use super::super::dice::{Dice, MICRO, MILLI};
use super::super::oracle::Broken;
use super::super::world::{Event, World, trace};
use super::keeping::{Keeping, last_of};
use super::opening::Outgoing;
use super::truth::{Known, Truth};
use super::{Documents, Incoming, NAMES};

/// What it says is of no opening.
pub(super) const MIRROR: u64 = u64::MAX;

/// Where there is one, and what it has stored.
pub(super) struct Mirrors {
    pub(super) member: usize,
    dice: Dice,
    store: MemoryStore,
    /// By the keeper of which life it has stored each document, where that is known.
    lives: [Option<u32>; NAMES.len()],
}

impl Mirrors {
    /// One run with documents in three has one.
    pub(super) fn draw(seed: u64, members: usize) -> Option<Self> {
        let mut dice = Dice::new(Dice::new(seed ^ 0x3177).any());
        let is_there = dice.below(3) == 0;
        let member = dice.below(members as u64) as usize;
        is_there.then(|| Self { member, dice, store: MemoryStore::new(), lives: Default::default() })
    }

    /// What it stores from now on is of these lives. While it asks for a document, what is stored of that stays what it was.
    fn note_lives(&mut self, keeper: &Keeper, keeping: &Keeping, host: Option<u32>) {
        for (name, life) in NAMES.iter().zip(&mut self.lives) {
            if !keeper.asks_for(name) {
                let since = keeper.exact(name).map(|(_, since)| since);
                *life = host.zip(since).and_then(|(host, since)| keeping.life_at(host, Some(since)));
            }
        }
    }
}

/// The keeper in a member's process.
pub(super) struct Mirroring {
    pub(super) keeper: Keeper,
    /// It does not begin before this subscription is in force.
    pub(super) waits_for: Option<u64>,
    folding: VecDeque<(String, State, Fold)>,
    comparing: VecDeque<(String, u64, Comparison)>,
    /// Up to where it has taken in the order.
    at: Option<Position>,
    checked: Option<Position>,
}

impl World<'_> {
    /// Starts it, where there is to be one and is not.
    pub(super) fn start_mirror(&mut self, index: usize) -> Result<(), Broken> {
        let (me, host, mutant) = (self.members[index].id, self.host.id, self.mutant);
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let types = documents.keeping.types();
        let Some(mirrors) = documents.mirrors.as_mut().filter(|mirrors| mirrors.member == index) else {
            return Ok(());
        };
        let part = &mut documents.parts[index];
        if part.mirror.is_some() {
            return Ok(());
        }
        let mut keeper = Keeper::new(Config {
            me,
            is_hosts: false,
            seed: mirrors.dice.any().max(1),
            read_only: false,
            limits: Limits { document: 1 << 20, documents: 10, bytes: 1 << 30 },
            max_message: 1 << 20,
            restricts: false,
            stores: true,
            types,
            mutant,
        });
        keeper.set_host(Some(host));
        for name in NAMES {
            if let Some(stored) = mirrors.store.load(name).map_err(|error| (0, error.to_string()))? {
                keeper.load(name.to_owned(), stored).map_err(|malformed| (0, malformed.to_string()))?;
            }
        }
        let waits_for = Some(self.members[index].ticket + 1);
        part.mirror = Some(Mirroring {
            keeper,
            waits_for,
            folding: VecDeque::new(),
            comparing: VecDeque::new(),
            at: None,
            checked: None,
        });
        part.answers = true;
        trace!(self, "m{index} keeps the documents, too");
        self.subscribe_again(index)
    }

    /// It takes in what waits.
    pub(super) fn mirror_takes(&mut self, index: usize, incoming: &[Incoming]) {
        let answers = wire::answer_topic(self.members[index].id);
        let now = self.members[index].clock.now(self.now);
        let Some(documents) = &mut self.documents else { return };
        let (Some(mirrors), Some(mirror)) = (&mut documents.mirrors, &mut documents.parts[index].mirror)
        else {
            return;
        };
        for incoming in incoming {
            match incoming {
                Incoming::Reset => mirror.keeper.on_reset(now),
                Incoming::Messages(messages) => {
                    for message in messages {
                        let topic = message.topic().as_str();
                        if topic.starts_with(wire::ROOT) || topic == answers {
                            mirror.at = message.position();
                            mirror.keeper.on_message(now, message);
                            let host = message.position().and_then(|at| self.oracle.life_of(at.epoch));
                            mirrors.note_lives(&mirror.keeper, &documents.keeping, host);
                        }
                    }
                }
            }
        }
    }

    /// It does what is due, and what it has is what was ordered.
    pub(super) fn mirror_does(&mut self, index: usize) -> Result<(), Broken> {
        let (now, life) = (self.members[index].clock.now(self.now), self.members[index].life);
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let (Some(mirrors), part) = (&mut documents.mirrors, &mut documents.parts[index]) else {
            return Ok(());
        };
        let Some(mirror) = &mut part.mirror else { return Ok(()) };
        mirror.keeper.handle_timeout(now);
        let host = mirror.at.and_then(|at| self.oracle.life_of(at.epoch));
        mirrors.note_lives(&mirror.keeper, &documents.keeping, host);
        if mirror.at != mirror.checked {
            mirror.checked = mirror.at;
            for (name, truth) in NAMES.iter().zip(&documents.truths) {
                let (Some((state, since)), Some(position)) = (mirror.keeper.exact(name), mirror.at) else {
                    continue;
                };
                let Some(host) = self.oracle.life_of(position.epoch) else { continue };
                let Some(life) = documents.keeping.life_at(host, Some(since)) else { continue };
                documents.counts.mirrored += 1;
                truth.check(
                    &Known { life, position },
                    &state,
                    &format!("what the keeper at m{index} has"),
                )?;
            }
        }
        let mut folds = Vec::new();
        // What was to be folded before.
        while let Some((name, state, fold)) = mirror.folding.pop_front() {
            mirror.keeper.on_folded(&name, fold(&state));
        }
        while let Some((name, nonce, comparison)) = mirror.comparing.pop_front() {
            mirror.keeper.on_compared(&name, nonce, comparison.run());
        }
        mirrors.note_lives(&mirror.keeper, &documents.keeping, host);
        while let Some(output) = mirror.keeper.poll_output().or_else(|| mirror.keeper.poll_part()) {
            let message = match output {
                Output::Say { topic, kind, payload } => {
                    Message::new(topic, payload).map(|message| message.with_kind(kind))
                }
                Output::Answer { to, payload } => Message::new(wire::answer_topic(to), payload)
                    .map(|message| message.with_kind(MessageKind::FullDocument)),
                Output::Store(change) => {
                    let stored = mirrors.store.commit(std::slice::from_ref(&change));
                    stored.map_err(|error| (0, error.to_string()))?;
                    if let Some((name, position)) = change.up_to() {
                        mirror.keeper.on_stored(now, name, position);
                    }
                    continue;
                }
                Output::Ask(_) => return Err((0, "the keeper on a member asks nobody".to_owned())),
                Output::Compare { name, nonce, comparison } => {
                    mirror.comparing.push_back((name, nonce, comparison));
                    folds.push(mirrors.dice.scale(10 * MICRO, 50 * MILLI));
                    continue;
                }
                Output::Fold { name, state, fold } => {
                    mirror.folding.push_back((name, state, fold));
                    folds.push(mirrors.dice.scale(10 * MICRO, 50 * MILLI));
                    continue;
                }
            };
            let message = message.map_err(|error| (0, error.to_string()))?;
            part.outgoing.push_back(Outgoing { opening: MIRROR, message });
        }
        for ((name, truth), stored_by) in NAMES.iter().zip(&documents.truths).zip(mirrors.lives) {
            let stored = mirrors.store.load(name).map_err(|error| (0, error.to_string()))?;
            let (Some(life), Some(stored)) = (stored_by, stored) else { continue };
            let state = stored_state(stored).map_err(|malformed| (0, malformed.to_string()))?;
            let Some(position) = last_of(&state) else { continue };
            let known = Known { life, position };
            truth.check(&known, &state, &format!("what the keeper at m{index} has stored"))?;
        }
        for after in folds {
            self.push(after, Event::Documents { member: index, life });
        }
        Ok(())
    }
}

impl Documents {
    /// What of the keeper on a member keeps the cluster from being at rest.
    pub(super) fn mirror_restless(&self) -> Option<String> {
        let member = self.mirrors.as_ref()?.member;
        match &self.parts[member].mirror {
            Some(mirror) if mirror.keeper.has_caught_up() && mirror.folding.is_empty() => None,
            Some(_) => Some(format!("the keeper at m{member} has not caught up")),
            None => Some(format!("the keeper at m{member} is not there")),
        }
    }

    /// It has what the host's has.
    pub(super) fn check_mirror(&self, life: u32, name: &str, truth: &Truth) -> Result<(), Broken> {
        let Some(mirrors) = &self.mirrors else { return Ok(()) };
        let mirror = self.parts[mirrors.member].mirror.as_ref();
        let position = Position { epoch: u64::MAX, seq: u64::MAX };
        match mirror.and_then(|mirror| mirror.keeper.exact(name)) {
            Some((state, _)) => {
                truth.check(&Known { life, position }, &state, "what the keeper at a member has in the end")
            }
            None if truth.last(life).edits.is_empty() => Ok(()),
            None => Err((17, format!("the keeper at m{} does not have {name:?}", mirrors.member))),
        }
    }
}

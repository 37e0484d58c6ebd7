//! Documents in the simulator: members open two of them, one of each kind, and change them; the host keeps them.
//!
//! Their machines are driven as the crate's own tasks do it. All that is drawn for them comes from dice of their own, so that runs without documents are
//! what they were before there were any.

mod applications;
mod ending;
mod keeping;
mod mirroring;
mod opening;
mod rights;
mod truth;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::document::wire::{self, Live};
use crate::document::{DocumentError, Model};
use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Topic};
use crate::proto::member;
use crate::wire::BatchBuilder;

use super::DocumentCounts;
use super::dice::{Dice, MICRO, MILLI, Nanos};
use super::oracle::Broken;
use super::world::{Event, World, trace};
use keeping::Keeping;
use mirroring::{MIRROR, Mirroring, Mirrors};
use opening::{Opening, Outgoing, Wish};
use rights::Rights;
use truth::{Known, Truth};
use types::Edit;

/// The documents.
const NAMES: [&str; 2] = ["log", "facts"];
const MODELS: [Model; 2] = [Model::Ordered, Model::Commutative];
/// How many edits are made in a run, at most: documents stay short.
const MOST_EDITS: u32 = 60;
/// What is said in another's name is of no opening.
const NOBODY: u64 = 0;
/// One run in so many has documents.
const ONE_IN: u64 = 4;

/// What comes to the documents of a member, in its order.
#[derive(Debug)]
enum Incoming {
    Messages(Vec<Message>),
    Reset,
}

/// The documents of a member's process.
#[derive(Default)]
struct Part {
    openings: BTreeMap<usize, Opening>,
    mirror: Option<Mirroring>,
    /// Those its application wants open, over all its processes.
    wanted: BTreeSet<usize>,
    /// Whether answers are subscribed to.
    answers: bool,
    incoming: VecDeque<Incoming>,
    outgoing: VecDeque<Outgoing>,
    /// Messages without a place, and the openings they are of.
    flying: BTreeMap<u64, (u64, MessageKind, Topic)>,
    timer_at: Option<Nanos>,
    submitting: bool,
}

/// All there is of documents in a run.
pub(super) struct Documents {
    dice: Dice,
    /// For what is done to them beside, so that the rest is as it is without.
    chaos: Dice,
    /// How often somebody says something in another's name, and how often the keeper is replaced, in a thousand of what applications do.
    forges: u64,
    replaces: u64,
    truths: [Truth; 2],
    parts: Vec<Part>,
    keeping: Keeping,
    mirrors: Option<Mirrors>,
    rights: Option<Rights>,
    edits: Edit,
    openings: u64,
    edit_every: Nanos,
    /// How long what was delivered waits for its document, at most.
    slowest: Nanos,
    /// How often the keeper stands still for a while, in percent of what comes.
    stalls: u64,
    /// How many of its own updates a replica remembers.
    recent: usize,
    pub(super) counts: DocumentCounts,
}

impl Part {
    /// Whether there is anything that takes in what the member is delivered.
    fn is_there(&self) -> bool {
        !self.openings.is_empty() || self.mirror.is_some()
    }
}

impl Documents {
    /// Whether a run has documents, and how. Ids are to be unique: where they are not, documents are not to be expected to come out equal.
    pub(super) fn draw(seed: u64, members: usize) -> Option<Self> {
        let mut dice = Dice::new(Dice::new(seed ^ 0xd0f6).any());
        if dice.below(ONE_IN) != 0 {
            return None;
        }
        let stores = dice.percent(60);
        let max_document = dice.pick(&[2_000, 4_000, 1 << 20]);
        let knows = dice.percent(70);
        let mut chaos = Dice::new(Dice::new(seed ^ 0xc4a0).any());
        Some(Self {
            forges: chaos.pick(&[0, 0, 50]),
            replaces: chaos.pick(&[0, 0, 0, 20]),
            chaos,
            truths: [0, 1].map(|index| Truth::new(NAMES[index], MODELS[index])),
            parts: (0..members).map(|_| Part::default()).collect(),
            // Of what it cannot fold it has to keep all.
            keeping: Keeping::new(stores, if knows { max_document } else { 1 << 20 }, knows),
            mirrors: Mirrors::draw(seed, members),
            rights: Rights::draw(seed),
            edits: 0,
            openings: 0,
            edit_every: dice.scale(30 * MILLI, 300 * MILLI),
            slowest: dice.pick(&[0, MILLI, 50 * MILLI]),
            stalls: dice.pick(&[0, 0, 0, 3]),
            recent: dice.pick(&[2, 1_024, 1_024, 1_024, 1_024]),
            counts: DocumentCounts::default(),
            dice,
        })
    }

    fn lag(&mut self) -> Nanos {
        if self.slowest == 0 { 0 } else { self.dice.scale(10 * MICRO, self.slowest) }
    }
}

impl World<'_> {
    /// Messages of an origin, as a batch.
    fn document_batch(&mut self, id: EndpointId, first: u64, messages: &[Message]) -> Result<Bytes, Broken> {
        let mut builder = BatchBuilder::new(first);
        for (message, origin_seq) in messages.iter().zip(first..) {
            if !builder.push(message) {
                return Err((0, "messages of documents are too large for a batch".to_owned()));
            }
            self.oracle.on_accepted(id, origin_seq, message)?;
        }
        Ok(builder.finish())
    }

    /// What a member subscribes to, with what its documents need.
    pub(super) fn with_documents(&self, index: usize, mut filter: BTreeSet<String>) -> BTreeSet<String> {
        let Some(part) = self.documents.as_ref().and_then(|documents| documents.parts.get(index)) else {
            return filter;
        };
        filter.extend(part.openings.keys().map(|document| wire::prefix(NAMES[*document])));
        if part.mirror.is_some() {
            filter.insert(wire::ROOT.to_owned());
        }
        if part.answers {
            filter.insert(wire::answer_topic(self.members[index].id));
            filter.insert(wire::KEEPER_TOPIC.to_owned());
        }
        filter
    }

    /// A member was delivered something.
    pub(super) fn documents_delivered(&mut self, index: usize, messages: &[Message]) {
        let answers = wire::answer_topic(self.members[index].id);
        let life = self.members[index].life;
        let Some(documents) = &mut self.documents else { return };
        let Some(part) = documents.parts.get_mut(index).filter(|part| part.is_there()) else { return };
        let concerns = |message: &&Message| {
            let topic = message.topic().as_str();
            topic.starts_with(wire::ROOT) || topic == answers
        };
        let messages: Vec<Message> = messages.iter().filter(concerns).cloned().collect();
        if !messages.is_empty() {
            part.incoming.push_back(Incoming::Messages(messages));
            let after = documents.lag();
            self.push(after, Event::Documents { member: index, life });
        }
    }

    /// A member is told of a jump; or its consumers overran, and what waited is lost.
    pub(super) fn documents_reset(&mut self, index: usize, overran: bool) {
        let life = self.members[index].life;
        let Some(documents) = &mut self.documents else { return };
        let Some(part) = documents.parts.get_mut(index).filter(|part| part.is_there()) else { return };
        if overran {
            part.incoming.clear();
        }
        part.incoming.push_back(Incoming::Reset);
        let after = documents.lag();
        self.push(after, Event::Documents { member: index, life });
    }

    pub(super) fn documents_subscribed(&mut self, index: usize, ticket: u64) -> Result<(), Broken> {
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let Some(part) = documents.parts.get_mut(index) else { return Ok(()) };
        for opening in part.openings.values_mut() {
            opening.waits_for.take_if(|waits_for| *waits_for <= ticket);
        }
        if let Some(mirror) = &mut part.mirror
            && mirror.waits_for.take_if(|waits_for| *waits_for <= ticket).is_some()
        {
            mirror.keeper.begin(true);
        }
        let life = self.members[index].life;
        self.push(0, Event::Documents { member: index, life });
        Ok(())
    }

    pub(super) fn documents_placed(&mut self, index: usize, first: u64, last: u64) {
        let Some(documents) = &mut self.documents else { return };
        let Some(part) = documents.parts.get_mut(index) else { return };
        part.flying.retain(|origin_seq, _| !(first..=last).contains(origin_seq));
    }

    /// Messages are told to be refused.
    pub(super) fn documents_refused(&mut self, index: usize, first: u64, last: u64) {
        let life = self.members[index].life;
        let Some(documents) = &mut self.documents else { return };
        let Some(part) = documents.parts.get_mut(index) else { return };
        for origin_seq in first..=last {
            let Some((number, kind, topic)) = part.flying.remove(&origin_seq) else { continue };
            documents.counts.forbidden += 1;
            let mut openings = part.openings.values_mut();
            if let Some(opening) = openings.find(|opening| opening.number == number) {
                opening.replica.on_refused(kind);
            } else if let Some(mirror) = part.mirror.as_mut().filter(|_| number == MIRROR) {
                mirror.keeper.on_refused(&topic);
            }
        }
        self.push(0, Event::Documents { member: index, life });
    }

    /// What becomes of messages up to this one is not known.
    pub(super) fn documents_unknown(&mut self, index: usize, up_to: u64) {
        let life = self.members[index].life;
        let Some(documents) = &mut self.documents else { return };
        let Some(part) = documents.parts.get_mut(index) else { return };
        let later = part.flying.split_off(&(up_to + 1));
        let unknown: BTreeSet<u64> =
            std::mem::replace(&mut part.flying, later).into_values().map(|(opening, ..)| opening).collect();
        for opening in part.openings.values_mut().filter(|opening| unknown.contains(&opening.number)) {
            opening.replica.on_unknown();
        }
        if let Some(mirror) = part.mirror.as_mut().filter(|_| unknown.contains(&MIRROR)) {
            mirror.keeper.on_unknown();
        }
        if !unknown.is_empty() {
            self.push(0, Event::Documents { member: index, life });
        }
    }

    /// The documents of a member take in what waits, and do what is due.
    pub(super) fn on_documents(&mut self, index: usize) -> Result<(), Broken> {
        let answers = wire::answer_topic(self.members[index].id);
        let now = self.members[index].clock.now(self.now);
        let is_up = self.members[index].machine.is_some();
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let Documents { parts, truths, counts, keeping, rights, .. } = documents;
        let Some(part) = parts.get_mut(index).filter(|_| is_up) else { return Ok(()) };
        let taken = Vec::from(std::mem::take(&mut part.incoming));
        if part.timer_at.is_some_and(|at| at <= self.now) {
            part.timer_at = None;
        }
        let mut failed = Vec::new();
        for (document, opening) in &mut part.openings {
            let prefix = wire::prefix(NAMES[*document]);
            let truth = &mut truths[*document];
            let mut is_of_no_use = false;
            // What is due comes last.
            for incoming in taken.iter().map(Some).chain([None]) {
                let was_alone = opening.replica.is_alone();
                match incoming {
                    Some(Incoming::Reset) => opening.replica.on_reset(now),
                    Some(Incoming::Messages(messages)) => {
                        for message in messages {
                            let topic = message.topic().as_str();
                            if topic.starts_with(&prefix) || topic == answers || topic == wire::KEEPER_TOPIC {
                                opening.replica.on_message(now, message);
                            }
                        }
                        opening.replica.settle();
                    }
                    None => opening.replica.handle_timeout(now),
                }
                // What it is told now may be of an earlier life.
                let host = opening.replica.position().and_then(|at| self.oracle.life_of(at.epoch));
                let life = host.and_then(|host| keeping.life_at(host, opening.replica.since()));
                // Where it may only read by now, what is under way is told to be refused, and may yet count: rights that have changed without a word hold a little later
                // at the host.
                let is_sure = !was_alone && !opening.replica.is_alone() && rights.is_none();
                let life = life.filter(|_| is_sure);
                is_of_no_use |= perform(opening, *document, truth, counts, life, rights.is_some())?;
            }
            if is_of_no_use {
                failed.push(*document);
            }
            if opening.waits_for.is_none() {
                part.outgoing.append(&mut opening.said);
            }
        }
        self.mirror_takes(index, &taken);
        self.mirror_does(index)?;
        self.check_replicas(index)?;
        for document in failed {
            trace!(self, "m{index} does not get {:?}", NAMES[document]);
            let Some(documents) = &mut self.documents else { return Ok(()) };
            if let Some(opening) = documents.parts[index].openings.remove(&document) {
                documents.truths[document].on_ended(opening.number);
            }
        }
        self.arm_documents(index)?;
        self.submit_of_documents(index)
    }

    pub(super) fn arm_documents(&mut self, index: usize) -> Result<(), Broken> {
        let (clock, life) = (self.members[index].clock, self.members[index].life);
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let Some(part) = documents.parts.get_mut(index) else { return Ok(()) };
        let openings = part.openings.values().filter_map(|opening| opening.replica.poll_timeout());
        let mirror = part.mirror.as_ref().and_then(|mirror| mirror.keeper.poll_timeout());
        let deadline = openings.chain(mirror).min();
        let Some(at) = deadline.map(|deadline| clock.when(self.now, deadline)) else { return Ok(()) };
        if part.timer_at.is_none_or(|armed| at < armed) {
            part.timer_at = Some(at);
            self.spin(at)?;
            self.push(at - self.now, Event::Documents { member: index, life });
        }
        Ok(())
    }

    /// A member's clock jumped.
    pub(super) fn documents_moved(&mut self, index: usize) -> Result<(), Broken> {
        if let Some(part) = self.documents.as_mut().and_then(|documents| documents.parts.get_mut(index)) {
            part.timer_at = None;
        }
        self.arm_documents(index)
    }

    fn check_replicas(&mut self, index: usize) -> Result<(), Broken> {
        let Some(documents) = &mut self.documents else { return Ok(()) };
        for (document, opening) in &mut documents.parts[index].openings {
            let position = opening.replica.position();
            if position == opening.checked {
                continue;
            }
            let (Some(state), Some(position)) = (opening.replica.state(), position) else { continue };
            opening.checked = Some(position);
            documents.counts.compared += 1;
            let Some(life) = self.oracle.life_of(position.epoch) else { continue };
            let Some(life) = documents.keeping.life_at(life, opening.replica.since()) else { continue };
            let whose = format!("what m{index} has (opening {})", opening.number);
            documents.truths[*document].check(&Known { life, position }, &state, &whose)?;
        }
        Ok(())
    }

    /// Sends what documents have to say, as far as there is room.
    pub(super) fn submit_of_documents(&mut self, index: usize) -> Result<(), Broken> {
        loop {
            let member = &mut self.members[index];
            let can = member.machine.as_ref().is_some_and(member::Member::can_submit) && member.joined_once;
            let Some(documents) = &mut self.documents else { return Ok(()) };
            let Some(part) = documents.parts.get_mut(index) else { return Ok(()) };
            if !can || part.submitting || part.outgoing.is_empty() {
                return Ok(());
            }
            part.submitting = true;
            let count = documents.dice.between(1, 4).min(part.outgoing.len() as u64) as usize;
            let (id, first) = (member.id, member.next_origin_seq);
            member.next_origin_seq += count as u64;
            let mut messages = Vec::new();
            for (outgoing, origin_seq) in part.outgoing.drain(..count).zip(first..) {
                let Outgoing { opening, message } = outgoing;
                part.flying.insert(origin_seq, (opening, message.kind(), message.topic().clone()));
                messages.push(message);
            }
            let body = self.document_batch(id, first, &messages)?;
            self.seen[index].open.extend(first..first + count as u64);
            let input = member::Input::Submit { first_origin_seq: first, count: count as u16, body };
            self.tell_member(index, input)?;
            if let Some(documents) = &mut self.documents {
                documents.parts[index].submitting = false;
            }
        }
    }
}

/// What a message about a document is, in a few words.
fn summary(payload: &Bytes) -> String {
    match Live::decode(payload) {
        Ok(Live::Update(update)) => format!("update {} of replica {:x}", update.number, update.replica),
        Ok(Live::Seed(_)) => "the whole document".to_owned(),
        Ok(live) => format!("{live:?}"),
        Err(malformed) => format!("{malformed:?}"),
    }
}

/// Does what a replica wants done; whether it is of no more use. `life` is the life of the keeper that it goes by, if it can be sure of what it tells.
fn perform(
    opening: &mut Opening,
    document: usize,
    truth: &mut Truth,
    counts: &mut DocumentCounts,
    life: Option<u32>,
    has_rights: bool,
) -> Result<bool, Broken> {
    let mut failed = false;
    while let Some(wish) = opening.replica.poll() {
        let message = match wish {
            Wish::Say { kind, payload } => Message::new(wire::live_topic(NAMES[document]), payload)
                .map(|message| message.with_kind(kind)),
            Wish::Answer { to, payload } => Message::new(wire::answer_topic(to), payload)
                .map(|message| message.with_kind(MessageKind::FullDocument)),
            Wish::Refused(edits) => {
                counts.refused += edits.len() as u64;
                truth.on_refused(life.unwrap_or(0), &edits);
                continue;
            }
            // Opened while the host does not answer: its application is told, and tries again.
            Wish::Failed(DocumentError::Unavailable { .. }) => {
                counts.unavailable += 1;
                failed = true;
                continue;
            }
            // Its host and its keeper are of one mind, but for a while.
            Wish::Failed(DocumentError::Refused { reason, .. }) if has_rights && reason == "not now" => {
                counts.denied += 1;
                failed = true;
                continue;
            }
            Wish::Failed(error) => return Err((6, format!("opening {} fails: {error}", opening.number))),
        };
        let message = message.map_err(|error| (0, error.to_string()))?;
        opening.said.push_back(Outgoing { opening: opening.number, message });
    }
    Ok(failed)
}

//! The keeper at the host, and its store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::document::keeper::{Config, Decision, Fold, Keeper, KnownType, Limits, Output, Types};
use crate::document::store::{MemoryStore, Store, StoreChange};
use crate::document::wire::{self, Live, State};
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;
use crate::wire::Window;

use super::super::dice::{MICRO, MILLI, Nanos, SECOND};
use super::super::oracle::Broken;
use super::super::world::{Event, World, trace};
use super::rights::Thought;
use super::truth::Known;
use super::types::{Facts, Log};
use super::{Documents, NAMES};

/// The host's part in documents, in one of its lives; the store has several.
pub(super) struct Keeping {
    /// The lives of keepers so far: in which life of the host each began, and behind which position of it.
    lives: Vec<(u32, Option<Position>)>,
    /// The last position there is.
    ordered: Option<Position>,
    keeper: Option<Keeper>,
    store: Option<MemoryStore>,
    /// What the keeper wants stored, and is not yet.
    uncommitted: VecDeque<StoreChange>,
    incoming: VecDeque<Message>,
    outgoing: VecDeque<Message>,
    /// What it said and was not published yet.
    flying: BTreeSet<u64>,
    folding: VecDeque<(String, State, Fold)>,
    /// What the application thinks about, by number.
    pub(super) thinking: BTreeMap<u64, Thought>,
    timer_at: Option<Nanos>,
    /// It does nothing until then.
    stalled_until: Nanos,
    /// Up to where it has taken in the order of its life.
    at: Option<Position>,
    max_document: usize,
    knows: bool,
}

impl Keeping {
    pub(super) fn new(stores: bool, max_document: usize, knows: bool) -> Self {
        Self {
            lives: Vec::new(),
            ordered: None,
            keeper: None,
            store: stores.then(MemoryStore::new),
            uncommitted: VecDeque::new(),
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
            flying: BTreeSet::new(),
            folding: VecDeque::new(),
            thinking: BTreeMap::new(),
            timer_at: None,
            stalled_until: 0,
            at: None,
            max_document,
            knows,
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.poll_timeout().is_none())
            && self.uncommitted.is_empty()
            && self.incoming.is_empty()
            && self.outgoing.is_empty()
            && self.flying.is_empty()
            && self.folding.is_empty()
            && self.thinking.is_empty()
    }

    /// Stores what comes first of what is to be stored: up to where each document is stored then.
    fn commit(&mut self, changes: usize) -> Result<BTreeMap<String, Position>, Broken> {
        let changes: Vec<StoreChange> = self.uncommitted.drain(..changes).collect();
        let Some(store) = &mut self.store else { return Ok(BTreeMap::new()) };
        store.commit(&changes).map_err(|error| (0, error.to_string()))?;
        let mut stored = BTreeMap::new();
        for (name, position) in changes.iter().filter_map(StoreChange::up_to) {
            let last = stored.entry(name.to_owned()).or_insert(position);
            *last = position.max(*last);
        }
        Ok(stored)
    }

    /// The types that keepers know.
    pub(super) fn types(&self) -> Types {
        let mut types = Types::new();
        if self.knows {
            types.insert("sim.log".into(), KnownType::of::<Log>());
            types.insert("sim.facts".into(), KnownType::of::<Facts>());
        }
        types
    }

    /// The life of the keeper, counted from 1.
    pub(super) fn life(&self) -> u32 {
        self.lives.len() as u32
    }

    /// The life of the keeper that a replica goes by which asked there, in a life of the host.
    pub(super) fn life_at(&self, host: u32, asked: Option<Position>) -> Option<u32> {
        let of_host = |(_, (life, _)): &(u32, &(u32, Option<Position>))| *life == host;
        let mut lives = (1..).zip(&self.lives).filter(of_host);
        let first = lives.next()?.0;
        Some(lives.take_while(|(_, (_, behind))| *behind < asked).last().map_or(first, |(life, _)| life))
    }

    /// The host's clock is not what it was.
    pub(super) fn forget_timer(&mut self) {
        self.timer_at = None;
    }

    /// Who may do what has changed.
    pub(super) fn on_access_changed(&mut self, name: Option<&str>) {
        if let Some(keeper) = &mut self.keeper {
            keeper.on_access_changed(name);
        }
    }

    /// The application has said who may have what.
    pub(super) fn on_decided(&mut self, now: Instant, decision: Decision) {
        if let Some(keeper) = &mut self.keeper {
            keeper.on_decided(now, decision);
        }
    }

    pub(super) fn state(&self, name: &str) -> Option<State> {
        self.keeper.as_ref().and_then(|keeper| keeper.state(name))
    }
}

impl World<'_> {
    pub(in super::super) fn start_keeper(&mut self) -> Result<(), Broken> {
        let Some(documents) = &mut self.documents else { return Ok(()) };
        documents.keeping.ordered = None;
        if documents.dice.percent(10) && documents.keeping.store.is_some() {
            // It comes back on another machine.
            documents.keeping.store = Some(MemoryStore::new());
            documents.truths.iter_mut().for_each(|truth| truth.on_store_lost());
        }
        self.begin_keeper()
    }

    /// The keeper has fallen behind, and misses what waits for it; another one takes its place.
    pub(super) fn replace_keeper(&mut self) -> Result<(), Broken> {
        if self.host.machine.is_none() {
            return Ok(());
        }
        trace!(self, "the keeper is replaced");
        self.end_keeper();
        if let Some(documents) = &mut self.documents {
            documents.counts.keepers += 1;
        }
        self.begin_keeper()
    }

    fn begin_keeper(&mut self) -> Result<(), Broken> {
        let (host_life, id) = (self.host.life, self.host.id);
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let keeping = &mut documents.keeping;
        let before = keeping.life();
        keeping.lives.push((host_life, keeping.ordered));
        let life = keeping.life();
        let types = keeping.types();
        let mut keeper = Keeper::new(Config {
            me: id,
            is_hosts: true,
            seed: 1,
            restricts: documents.rights.is_some(),
            read_only: false,
            limits: Limits { document: keeping.max_document, documents: 10, bytes: 1 << 30 },
            max_message: 1 << 20,
            stores: keeping.store.is_some(),
            types,
            mutant: self.mutant,
        });
        for (name, truth) in NAMES.iter().zip(&mut documents.truths) {
            let stored = match &mut keeping.store {
                Some(store) => store.load(name).map_err(|error| (0, error.to_string()))?,
                None => None,
            };
            let Some(stored) = stored else {
                truth.on_keeper_start(life, None)?;
                continue;
            };
            keeper.load((*name).to_owned(), stored).map_err(|malformed| (0, malformed.to_string()))?;
            let state = keeper.state(name);
            let last = state.as_ref().and_then(last_of);
            let known = last.map(|position| Known { life: before, position });
            truth.on_keeper_start(life, known.zip(state.as_ref()))?;
        }
        keeper.begin(true);
        keeping.keeper = Some(keeper);
        keeping.incoming.clear();
        keeping.outgoing.clear();
        keeping.flying.clear();
        keeping.folding.clear();
        keeping.thinking.clear();
        keeping.timer_at = None;
        keeping.stalled_until = 0;
        keeping.at = None;
        self.push(0, Event::Keeper { life: host_life });
        Ok(())
    }

    /// The host's process is gone. Of what was to be stored, some is.
    pub(in super::super) fn end_keeper(&mut self) {
        let Some(documents) = &mut self.documents else { return };
        let keeping = &mut documents.keeping;
        keeping.keeper = None;
        let changes = documents.dice.below(keeping.uncommitted.len() as u64 + 1) as usize;
        // An error shows when the next one loads it.
        let _ = keeping.commit(changes);
        keeping.uncommitted.clear();
    }

    /// A window was published.
    pub(in super::super) fn documents_ordered(&mut self, body: &bytes::Bytes) -> Result<(), Broken> {
        let (life, is_in_faults) = (self.host.life, self.in_faults());
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let Ok(window) = Window::decode(body, 1 << 20) else { return Ok(()) };
        let before = documents.keeping.incoming.len();
        for message in window.messages {
            if let Some(documents) = &mut self.documents {
                documents.keeping.ordered = message.position();
                if message.origin() == self.host.id {
                    documents.keeping.flying.remove(&message.origin_seq());
                }
            }
            if message.topic().as_str() == wire::LIST_TOPIC {
                if let Some(documents) = &mut self.documents {
                    documents.keeping.incoming.push_back(message);
                }
                continue;
            }
            self.may_be_ordered(&message)?;
            let Some((name, true)) = wire::name_of(message.topic()) else { continue };
            let Some(documents) = &self.documents else { continue };
            let (Some(document), Some(at)) = (documents.find(name), message.position()) else { continue };
            trace!(
                self,
                "at {at}: {:?} of {:?} by {}",
                super::summary(message.payload()),
                NAMES[document],
                message.origin()
            );
            let Some(documents) = &mut self.documents else { continue };
            let lives = documents.keeping.life_at(life, None).unwrap_or(1)..=documents.keeping.life();
            let seeds =
                documents.truths[document].on_record(lives, at, message.origin(), message.payload())?;
            documents.counts.seeds += u64::from(seeds);
            documents.keeping.incoming.push_back(message);
        }
        let Some(documents) = &mut self.documents else { return Ok(()) };
        if documents.keeping.incoming.len() > before {
            let after = documents.lag();
            if documents.stalls > 0 && is_in_faults && documents.dice.percent(documents.stalls) {
                documents.keeping.stalled_until = self.now + documents.dice.scale(SECOND / 2, 15 * SECOND);
            }
            self.push(after, Event::Keeper { life });
        }
        Ok(())
    }

    pub(in super::super) fn on_keeper(&mut self) -> Result<(), Broken> {
        let (life, now) = (self.host.life, self.host.clock.now(self.now));
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let keeping = &mut documents.keeping;
        if keeping.stalled_until > self.now {
            let after = keeping.stalled_until - self.now;
            self.push(after, Event::Keeper { life });
            return Ok(());
        }
        let Some(keeper) = &mut keeping.keeper else { return Ok(()) };
        let news = !keeping.incoming.is_empty();
        for message in keeping.incoming.drain(..) {
            keeping.at = message.position();
            keeper.on_message(now, &message);
        }
        if keeping.timer_at.is_some_and(|at| at <= self.now) {
            keeping.timer_at = None;
        }
        keeper.handle_timeout(now);
        if news {
            self.check_keeper()?;
        }
        self.perform_keeper(life)?;
        self.submit_of_keeper()
    }

    fn check_keeper(&mut self) -> Result<(), Broken> {
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let keeping = &documents.keeping;
        let Some(position) = keeping.at else { return Ok(()) };
        for (name, truth) in NAMES.iter().zip(&documents.truths) {
            if let Some(state) = keeping.state(name) {
                documents.counts.compared += 1;
                truth.check(&Known { life: keeping.life(), position }, &state, "what the keeper has")?;
            }
        }
        Ok(())
    }

    pub(super) fn perform_keeper(&mut self, life: u32) -> Result<(), Broken> {
        let (mut events, mut questions) = (Vec::new(), Vec::new());
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let keeping = &mut documents.keeping;
        let keeper_life = keeping.life();
        let Some(keeper) = &mut keeping.keeper else { return Ok(()) };
        while let Some(output) = keeper.poll_output().or_else(|| keeper.poll_part()) {
            let message = match output {
                Output::Say { topic, kind, payload } => {
                    if let (Ok(Live::Stored(position)), Some(document)) = (
                        Live::decode(&payload),
                        NAMES.iter().position(|name| wire::live_topic(name) == topic),
                    ) {
                        documents.truths[document].on_stored(keeper_life, position);
                    }
                    Message::new(topic, payload).map(|message| message.with_kind(kind))
                }
                Output::Answer { to, payload } => Message::new(wire::answer_topic(to), payload)
                    .map(|message| message.with_kind(MessageKind::FullDocument)),
                Output::Store(change) => {
                    keeping.uncommitted.push_back(change);
                    events.push((documents.dice.scale(10 * MICRO, 200 * MILLI), Event::Stored { life }));
                    continue;
                }
                Output::Ask(question) => {
                    questions.push(question);
                    continue;
                }
                Output::Compare { .. } => {
                    return Err((0, "the host's keeper has nobody to compare with".to_owned()));
                }
                Output::Fold { name, state, fold } => {
                    keeping.folding.push_back((name, state, fold));
                    events.push((documents.dice.scale(10 * MICRO, 50 * MILLI), Event::Folded { life }));
                    continue;
                }
            };
            keeping.outgoing.push_back(message.map_err(|error| (0, error.to_string()))?);
        }
        if let Some(deadline) = keeper.poll_timeout() {
            let at = self.host.clock.when(self.now, deadline);
            if keeping.timer_at.is_none_or(|armed| at < armed) {
                keeping.timer_at = Some(at);
                events.push((at - self.now, Event::Keeper { life }));
            }
        }
        for (after, event) in events {
            self.push(after, event);
        }
        questions.into_iter().try_for_each(|question| self.put_to_application(question))
    }

    pub(super) fn submit_of_keeper(&mut self) -> Result<(), Broken> {
        let (life, id) = (self.host.life, self.host.id);
        loop {
            let Some(machine) = &self.host.machine else { return Ok(()) };
            let Some(documents) = &mut self.documents else { return Ok(()) };
            let waiting = documents.keeping.outgoing.len();
            if waiting == 0 {
                return Ok(());
            }
            if !machine.takes_submits() {
                self.push(5 * MILLI, Event::Keeper { life });
                return Ok(());
            }
            let count = documents.dice.between(1, 4).min(waiting as u64) as usize;
            let messages: Vec<Message> = documents.keeping.outgoing.drain(..count).collect();
            let first = self.host.next_origin_seq;
            documents.keeping.flying.extend(first..first + count as u64);
            self.host.next_origin_seq += count as u64;
            let body = self.document_batch(id, first, &messages)?;
            self.tell_host(crate::proto::host::Input::Local { body })?;
        }
    }

    /// The store has time.
    pub(in super::super) fn on_stored(&mut self) -> Result<(), Broken> {
        let (life, now) = (self.host.life, self.host.clock.now(self.now));
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let keeping = &mut documents.keeping;
        let waiting = keeping.uncommitted.len() as u64;
        if waiting == 0 || keeping.keeper.is_none() {
            return Ok(());
        }
        let changes = documents.dice.between(1, waiting) as usize;
        let stored = keeping.commit(changes)?;
        if let Some(keeper) = &mut keeping.keeper {
            for (name, position) in stored {
                keeper.on_stored(now, &name, position);
            }
        }
        trace!(self, "the keeper's store has {changes} changes of {waiting}");
        self.perform_keeper(life)?;
        self.submit_of_keeper()
    }

    pub(in super::super) fn on_folded(&mut self) -> Result<(), Broken> {
        let life = self.host.life;
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let keeping = &mut documents.keeping;
        let Some(keeper) = &mut keeping.keeper else { return Ok(()) };
        let Some((name, state, fold)) = keeping.folding.pop_front() else { return Ok(()) };
        keeper.on_folded(&name, fold(&state));
        documents.counts.folds += 1;
        trace!(self, "the keeper has folded {name:?}");
        self.check_keeper()?;
        self.perform_keeper(life)?;
        self.submit_of_keeper()
    }
}

/// Up to where a state goes.
pub(super) fn last_of(state: &State) -> Option<Position> {
    state.tail.last().map(|entry| entry.position).or(state.at)
}

impl Documents {
    /// The last epoch that the keeper knows of.
    pub(in super::super) fn last_epoch(&self) -> Option<u64> {
        self.keeping.keeper.as_ref().and_then(Keeper::last_epoch)
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        NAMES.iter().position(|other| *other == name)
    }
}

//! What keeps all documents of a cluster, without knowing their types, as a machine: so that whoever asks for one gets it, and so that they survive. The host's
//! is the one that everybody asks; another comes to have what that one has.

mod asked;
mod catching_up;
mod giving;
mod kept;
mod mirror;
mod missed;
mod room;
mod shelf;
mod types;
mod waiting;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;

use super::Malformed;
use super::pieces::{self, Pieces};
use super::store::{Base, Record, StoreChange, Stored};
use super::transfer::Transfers;
use super::wire::{self, Answer, Entry, Live, State, Update};
use asked::Asked;
pub(crate) use asked::{Decision, Question};
use catching_up::CatchingUp;
use kept::Kept;
use missed::Missed;
pub(crate) use shelf::Limits;
use shelf::{Change, Shelf};
pub(crate) use types::{Comparison, Fold, KnownType, Lacks, Types};

/// How often it is said up to where a document is stored (a guess).
const SAY_STORED_EVERY: Duration = Duration::from_millis(100);

/// What an endpoint may do with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Read and change it.
    Write,
    /// Read it.
    Read,
    /// Nothing, for this reason.
    Denied(String),
}

/// What a keeper is told at its start.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) me: EndpointId,
    /// Whether it answers questions to nobody in particular, as the host's does. Another has to ask for what there is.
    pub(crate) is_hosts: bool,
    /// A random number, not 0.
    pub(crate) seed: u64,
    /// Whether somebody is to be asked who may have what: see [`Output::Ask`]. Otherwise everybody may change everything.
    pub(crate) restricts: bool,
    /// Whether this endpoint may ask, and say nothing else.
    pub(crate) read_only: bool,
    pub(crate) limits: Limits,
    /// The largest message of the cluster, in bytes.
    pub(crate) max_message: usize,
    /// Whether there is a store.
    pub(crate) stores: bool,
    /// The types that are known. Of documents of others all records are kept.
    pub(crate) types: Types,
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) mutant: Option<crate::proto::Mutant>,
}

/// What is in a store, as a document.
#[cfg(any(test, feature = "test-utils"))]
pub(crate) fn stored_state(stored: Stored) -> Result<State, Malformed> {
    Kept::of_stored(stored).map(|kept| kept.state())
}

#[derive(Debug)]
pub(crate) enum Output {
    /// Send this.
    Say { topic: String, kind: MessageKind, payload: Bytes },
    /// Send this on an endpoint's topic.
    Answer { to: EndpointId, payload: Bytes },
    /// Store this.
    Store(StoreChange),
    /// Fold this, and answer with [`Keeper::on_folded`].
    Fold { name: String, state: State, fold: Fold },
    /// Compare these, and answer with [`Keeper::on_compared`].
    Compare { name: String, nonce: u64, comparison: Comparison },
    /// Find out who may have what, and answer with [`Keeper::on_decided`].
    Ask(Question),
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Keeper {
    config: Config,
    /// The topic of answers to us.
    answers: String,
    has_begun: bool,
    /// Of one that is not the host's.
    catching_up: Option<CatchingUp>,
    shelf: Shelf,
    asked: Asked,
    transfers: Transfers,
    pieces: Pieces,
    /// Whose stored positions are to be told.
    unsaid: BTreeSet<String>,
    say_stored_at: Option<Instant>,
    missed: Missed,
    outputs: VecDeque<Output>,
    malformed: u64,
    /// Updates of documents that are kept no more, or never were: there are too many, or it is too large.
    dropped: u64,
    given_up: u64,
}

impl Keeper {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            asked: Asked::default(),
            transfers: Transfers::new(config.max_message),
            pieces: Pieces::default(),
            answers: wire::answer_topic(config.me),
            has_begun: false,
            catching_up: (!config.is_hosts).then(|| CatchingUp::new(config.me, config.seed)),
            shelf: Shelf::new(config.limits),
            config,
            unsaid: BTreeSet::new(),
            say_stored_at: None,
            missed: Missed::default(),
            outputs: VecDeque::new(),
            malformed: 0,
            dropped: 0,
            given_up: 0,
        }
    }

    /// Takes in a document from the store. Before anything else.
    pub(crate) fn load(&mut self, name: String, stored: Stored) -> Result<(), Malformed> {
        if !wire::is_name(&name) {
            return Err(Malformed::new("no document can have this name"));
        }
        self.shelf.put(&name, Kept::of_stored(stored)?);
        self.look_after(&name);
        Ok(())
    }

    /// When all is loaded. `is_late`: something was said in the cluster before it listened, which it does not know of, and whoever has a document open, or keeps it, may
    /// know better.
    pub(crate) fn begin(&mut self, is_late: bool) {
        self.has_begun = true;
        if self.config.is_hosts && is_late {
            self.ask_again(wire::KEEPER_TOPIC.to_owned());
        }
        self.want_all();
    }

    fn ask_again(&mut self, topic: String) {
        self.outputs.push_back(Output::Say {
            topic,
            kind: MessageKind::Data,
            payload: Live::AskAgain.encode(),
        });
    }

    /// Who may do what with this document, or with all, is another thing by now. At the host's, who has it open is to ask again.
    pub(crate) fn on_access_changed(&mut self, name: Option<&str>) {
        if self.config.is_hosts && self.config.restricts {
            self.ask_again(name.map_or_else(|| wire::KEEPER_TOPIC.to_owned(), wire::live_topic));
        }
        // What was thought about before counts no more.
        self.find_out_again(name);
    }

    /// Updates of this document must have passed this keeper by: whoever has it open gives what is missing when it asks for it; and the host's has it.
    fn miss(&mut self, now: Instant, name: &str) {
        self.repeat(now);
        let most = self.config.limits.documents;
        let has_room = self.shelf.has_room(self.wanted() + 1);
        match &mut self.catching_up {
            Some(catching_up) if catching_up.is_wanted(name) => {}
            // Anybody can say so of what there is not.
            Some(_) if !has_room && self.shelf.get(name).is_none() => self.dropped += 1,
            Some(catching_up) if self.missed.miss(now, name, most) => catching_up.want(name),
            None if self.missed.miss(now, name, most) => self.ask_again(wire::live_topic(name)),
            _ => {}
        }
    }

    /// Asks for what was missed too soon after it had been asked for.
    fn repeat(&mut self, now: Instant) {
        for name in self.missed.due(now) {
            self.miss(now, &name);
        }
    }

    /// The epoch of the last position that is known of any document: what is ordered from now on has to be above it.
    pub(crate) fn last_epoch(&self) -> Option<u64> {
        self.shelf.iter().filter_map(|(_, kept)| kept.ledger.at).max().map(|at| at.epoch)
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let catching_up = self.catching_up.as_ref().and_then(CatchingUp::poll_timeout);
        self.say_stored_at.into_iter().chain(catching_up).chain(self.missed.poll_timeout()).min()
    }

    /// The documents: their names, types, and sizes in bytes.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.shelf.iter().filter_map(|(name, kept)| kept.listed(name))
    }

    /// A document as it is now.
    pub(crate) fn state(&self, name: &str) -> Option<State> {
        self.shelf.get(name).filter(|kept| kept.ledger.kind.is_some()).map(Kept::state)
    }

    pub(crate) fn malformed(&self) -> u64 {
        self.malformed
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many documents were given up, since they, or all together, are too large, or cannot be read.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up
    }

    /// What all documents take, in bytes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.shelf.bytes()
    }

    /// A message on a document's topic of changes, or a question for the list of documents, or an answer.
    pub(crate) fn on_message(&mut self, now: Instant, message: &Message) {
        match message.topic().as_str() {
            wire::LIST_TOPIC => self.on_list(now, message),
            wire::KEEPER_TOPIC => self.on_keeper(message.origin(), "", &Live::decode(message.payload())),
            topic if topic == self.answers => self.on_answer(now, message),
            _ => match wire::name_of(message.topic()) {
                Some((name, true)) => self.on_document(now, name, message),
                Some((_, false)) => {}
                None => self.malformed += 1,
            },
        }
        self.catch_up();
    }

    fn on_answer(&mut self, now: Instant, message: &Message) {
        let Some(catching_up) = &mut self.catching_up else { return };
        let answer = Answer::decode(message.payload());
        if !answer.is_ok_and(|answer| catching_up.on_answer(now, message.origin(), answer)) {
            self.malformed += 1;
        }
    }

    /// What only the host's keeper may say. Its own, or that of one before, that does not concern it.
    fn on_keeper(&mut self, from: EndpointId, name: &str, live: &Result<Live, crate::wire::Malformed>) {
        let Some(catching_up) = &self.catching_up else { return };
        match live {
            Ok(live) if catching_up.host == Some(from) => self.on_hosts(name, live),
            _ => self.malformed += 1,
        }
    }

    fn on_document(&mut self, now: Instant, name: &str, message: &Message) {
        let Some(position) = message.position() else { return };
        let from = message.origin();
        let mut payload = message.payload().clone();
        let mut live = Live::decode(&payload);
        // Who may only read may ask, and no more.
        let is_question = message.kind() == MessageKind::FullDocumentRequest;
        if is_question && !matches!(live, Ok(Live::Ask { .. } | Live::More { .. })) {
            self.malformed += 1;
            return;
        }
        if let Ok(Live::Piece(piece)) = live {
            payload = match self.pieces.take(from, name, piece) {
                pieces::Taken::Held => return,
                pieces::Taken::Whole(whole) => whole,
                pieces::Taken::Missed => return self.miss_pieces(now, name),
            };
            live = Live::decode(&payload);
            if !matches!(live, Ok(Live::Update(_) | Live::Seed(_))) {
                self.malformed += 1;
                return;
            }
        }
        let is_sure = self.is_sure(name) || mutant!(self, StoreAhead);
        if let (Some(catching_up), Ok(live)) = (&mut self.catching_up, &live) {
            catching_up.on_live(now, position, from, name, live);
        }
        match live {
            Ok(Live::Ask { nonce, of, anyone }) => self.on_ask(now, from, name, (nonce, of, anyone)),
            Ok(Live::More { nonce, of, next }) if of == self.config.me => {
                self.transfers.more(now, from, name, nonce, next);
            }
            Ok(Live::Update(update)) => {
                self.on_update(now, (position, is_sure), from, name, &update, &payload)
            }
            Ok(Live::Seed(seed)) => self.on_seed(now, (position, is_sure), name, &seed),
            Ok(Live::Stored(_) | Live::AskAgain | Live::GivenUp(_)) => self.on_keeper(from, name, &live),
            Ok(Live::More { .. } | Live::Piece(_)) => {}
            Err(_) => self.malformed += 1,
        }
    }

    fn on_update(
        &mut self,
        now: Instant,
        (position, is_sure): (Position, bool),
        from: EndpointId,
        name: &str,
        update: &Update,
        payload: &Bytes,
    ) {
        let (limit, stores) = (self.config.limits.document, self.config.stores);
        let (mut misses, mut is_due, mut record) = (false, false, None);
        let change = self.shelf.change(name, |kept| {
            misses = kept.ledger.misses(position, from, update);
            let counts = kept.ledger.reaches(position) && kept.ledger.takes(position, from, update);
            if counts {
                let update = wire::own(payload);
                if stores && kept.may_be_written(is_sure) {
                    kept.written = Some(position);
                    record = Some(Record { position, bytes: wire::encode_record(from, &update) });
                }
                kept.push(Entry { position, origin: from, update });
                is_due = kept.is_due(limit);
            }
            counts
        });
        if misses {
            self.miss(now, name);
        }
        self.on_change(now, name, change);
        if matches!(change, Change::Made | Change::Counts) {
            let append = |record| Output::Store(StoreChange::Append { name: name.to_owned(), record });
            self.outputs.extend(record.map(append));
            if is_due || self.shelf.is_over() {
                self.look_after(name);
            }
        }
    }

    fn on_seed(&mut self, now: Instant, (position, is_sure): (Position, bool), name: &str, seed: &Bytes) {
        let (mut is_good, mut base) = (true, None);
        let (types, stores) = (&self.config.types, self.config.stores);
        let change = self.shelf.change(name, |kept| {
            if !kept.ledger.reaches(position) {
                return false;
            }
            let state = kept.ledger.takes_seed(seed, |state| {
                is_good = types::makes_sense(types, position, state);
                is_good
            });
            let Some(state) = state else { return false };
            kept.become_seed(position, state);
            if stores && kept.may_be_written(is_sure) {
                kept.written = Some(position);
                base = Some(Base { position, bytes: kept.state.encode_base() });
            }
            true
        });
        self.malformed += u64::from(!is_good);
        self.on_change(now, name, change);
        if matches!(change, Change::Made | Change::Counts) {
            let replace = |base| Output::Store(StoreChange::Replace { name: name.to_owned(), base });
            self.outputs.extend(base.map(replace));
            self.look_after(name);
        }
    }

    /// Whether what comes of a document now surely comes behind all that there is before it. The host's keeper is what others go by; another asks for what it does not know.
    fn is_sure(&self, name: &str) -> bool {
        let catching_up = self.catching_up.as_ref();
        catching_up.is_none_or(|catching_up| !catching_up.is_wanted(name) && self.shelf.get(name).is_some())
    }

    /// What came of something that stands on a document's topic.
    fn on_change(&mut self, now: Instant, name: &str, change: Change) {
        self.dropped += u64::from(change == Change::NotKept);
        self.look_up(now, name, change);
    }

    fn store(&mut self, change: impl FnOnce() -> StoreChange) {
        if self.config.stores {
            self.outputs.push_back(Output::Store(change()));
        }
    }

    /// Up to there a document is stored.
    pub(crate) fn on_stored(&mut self, now: Instant, name: &str, position: Position) {
        self.on_stored_here(name, position);
        let Some(kept) = self.shelf.get_mut(name) else { return };
        kept.stored = kept.stored.max(Some(position));
        if !self.config.is_hosts {
            return;
        }
        self.unsaid.insert(name.to_owned());
        self.say_stored_at.get_or_insert(now + SAY_STORED_EVERY);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.repeat(now);
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.handle_timeout(now);
            self.catch_up();
        }
        if self.say_stored_at.is_none_or(|at| now < at) {
            return;
        }
        self.say_stored_at = None;
        for name in std::mem::take(&mut self.unsaid) {
            let Some(kept) = self.shelf.get_mut(&name) else { continue };
            let Some(stored) = kept.stored.filter(|stored| Some(*stored) > kept.said_stored) else {
                continue;
            };
            kept.said_stored = Some(stored);
            let (topic, payload) = (wire::live_topic(&name), Live::Stored(stored).encode());
            self.outputs.push_back(Output::Say { topic, kind: MessageKind::Data, payload });
        }
    }
}

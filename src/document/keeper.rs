//! What keeps all documents of a cluster, without knowing their types, as a machine: so that whoever asks for one gets it, and so that they survive. The host's
//! is the one that everybody asks; another comes to have what that one has.

mod catching_up;
mod mirror;

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;
use crate::wire::FloorCharBoundary;

use super::fold::{Folded, Ledger};
use super::join::Held;
use super::pieces::{self, Pieces};
use super::store::{Base, Record, StoreChange, Stored};
use super::transfer::Transfers;
use super::wire::{self, Answer, Entry, Live, State, Word};
use super::{Document, Malformed, Model};
use catching_up::CatchingUp;

/// How often it is said up to where a document is stored (a guess).
const SAY_STORED_EVERY: Duration = Duration::from_millis(100);
/// How often those that have a document open are asked to ask for it again (a guess: many may have it open, and each asks for all of it).
const SAY_ASK_AGAIN_EVERY: Duration = Duration::from_secs(1);
/// How many bytes of records a document may have before they are folded into it; beyond, as many as the document itself has (a guess: a joiner applies so much in
/// some milliseconds).
const FOLD_BYTES: usize = 64 << 10;

/// How long a reason for a refusal may be, in bytes; the rest is cut off (a guess).
const MOST_REASON: usize = 1_024;
/// What an answer has before its reason, in bytes.
const ANSWER: usize = 9;

/// What a record costs beyond its bytes.
const RECORD: usize = 48;

/// Folds records into a document of some type.
pub(crate) type Fold = fn(&State) -> Result<State, Malformed>;

/// Finds out what of a document another state of it lacks: encoded fragments. Of an ordered document that is nothing.
pub(crate) type Lacking = fn(&State, &State) -> Result<Vec<Vec<u8>>, Malformed>;

/// What is known of a type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownType {
    pub(crate) fold: Fold,
    lacking: Lacking,
}

impl KnownType {
    pub(crate) fn of<D: Document>() -> Self {
        Self { fold: fold::<D>, lacking: lacking::<D> }
    }
}

/// The way to fold documents of a type.
fn fold<D: Document>(state: &State) -> Result<State, Malformed> {
    let folded = Folded::<D>::of(state, None)?;
    Ok(State { read_only: state.read_only, ..folded.state() })
}

fn lacking<D: Document>(ours: &State, theirs: &State) -> Result<Vec<Vec<u8>>, Malformed> {
    if D::MODEL == Model::Ordered {
        return Ok(Vec::new());
    }
    let (mut ours, theirs) = (Folded::<D>::of(ours, None)?, Folded::<D>::of(theirs, None)?);
    let merged = ours.document.merge(theirs.document);
    let merged = merged.map_err(|conflict| Malformed::new(conflict.to_string()))?;
    Ok(merged.lacking.iter().map(D::encode).collect())
}

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
    /// Whether this endpoint may ask, and say nothing else.
    pub(crate) read_only: bool,
    /// How large a document may become, with its records, in bytes. One that is larger is no longer given out, nor kept on with.
    pub(crate) max_document: usize,
    /// How many documents there may be.
    pub(crate) max_documents: usize,
    /// The largest message of the cluster, in bytes.
    pub(crate) max_message: usize,
    /// Whether there is a store.
    pub(crate) stores: bool,
    /// The types that are known. Of documents of others all records are kept.
    pub(crate) types: BTreeMap<String, KnownType>,
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) mutant: Option<crate::proto::Mutant>,
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
}

/// A document that is kept.
#[derive(Debug, Default)]
struct Kept {
    /// The snapshot, what belongs to it, and the records since.
    state: State,
    ledger: Ledger,
    tail_bytes: usize,
    is_folding: bool,
    /// Whether what is being folded is not this any more.
    is_another: bool,
    /// Why it is given to nobody any more.
    refused: Option<String>,
    /// Whether that is since the cluster has it no more.
    is_lost: bool,
    /// Where the question stands by whose answer it is as the host's keeper has it.
    since: Option<Position>,
    stored: Option<Position>,
    said_stored: Option<Position>,
}

/// A document that was asked for again.
#[derive(Debug)]
struct AskedAgain {
    /// Not once more before this.
    until: Instant,
    /// Something was missed meanwhile.
    has_to_be_repeated: bool,
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
    documents: BTreeMap<String, Kept>,
    transfers: Transfers,
    pieces: Pieces,
    /// Whose stored positions are to be told.
    unsaid: BTreeSet<String>,
    say_stored_at: Option<Instant>,
    /// Of which documents it was said not long ago that they are to be asked for again, and when.
    asked_again: BTreeMap<String, AskedAgain>,
    outputs: VecDeque<Output>,
    malformed: u64,
    /// Updates of documents that are kept no more, or never were: there are too many, or it is too large.
    dropped: u64,
}

impl Keeper {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            transfers: Transfers::new(config.max_message),
            pieces: Pieces::default(),
            answers: wire::answer_topic(config.me),
            has_begun: false,
            catching_up: (!config.is_hosts).then(|| CatchingUp::new(config.me, config.seed)),
            config,
            documents: BTreeMap::new(),
            unsaid: BTreeSet::new(),
            say_stored_at: None,
            asked_again: BTreeMap::new(),
            outputs: VecDeque::new(),
            malformed: 0,
            dropped: 0,
        }
    }

    /// Takes in a document from the store. Before anything else.
    pub(crate) fn load(&mut self, name: String, stored: Stored) -> Result<(), Malformed> {
        let malformed = |what: crate::wire::Malformed| Malformed::new(what.to_string());
        if !wire::is_name(&name) {
            return Err(Malformed::new("no document can have this name"));
        }
        let mut state = State::default();
        if let Some(base) = &stored.base {
            state = State::decode(&base.bytes).map_err(malformed)?;
            // Records in it stand behind its snapshot.
            if state.tail.is_empty() {
                state.at = Some(base.position);
            }
        }
        let mut kept = Kept::of(state)?;
        if let Some(base) = &stored.base {
            kept.ledger.reaches(base.position);
        }
        for record in stored.records {
            kept.add(wire::decode_record(record.position, &record.bytes).map_err(malformed)?)?;
        }
        kept.stored = kept.ledger.at;
        kept.said_stored = kept.stored;
        self.documents.insert(name.clone(), kept);
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
        self.on_reset();
    }

    fn ask_again(&mut self, topic: String) {
        self.outputs.push_back(Output::Say {
            topic,
            kind: MessageKind::Data,
            payload: Live::AskAgain.encode(),
        });
    }

    /// The host's: who may do what with this document, or with all, is another thing by now. Who has it open is to ask again.
    pub(crate) fn on_access_changed(&mut self, name: Option<&str>) {
        if self.config.is_hosts {
            self.ask_again(name.map_or_else(|| wire::KEEPER_TOPIC.to_owned(), wire::live_topic));
        }
    }

    /// Updates of this document must have passed this keeper by: whoever has it open gives what is missing when it asks for it; and the host's has it.
    fn miss(&mut self, now: Instant, name: &str) {
        if self.catching_up.as_ref().is_some_and(|catching_up| catching_up.is_wanted(name)) {
            return;
        }
        self.asked_again.retain(|_, asked| asked.has_to_be_repeated || now < asked.until);
        if let Some(asked) = self.asked_again.get_mut(name) {
            asked.has_to_be_repeated = true;
        } else if self.asked_again.len() < self.config.max_documents {
            let asked = AskedAgain { until: now + SAY_ASK_AGAIN_EVERY, has_to_be_repeated: false };
            self.asked_again.insert(name.to_owned(), asked);
            match &mut self.catching_up {
                Some(catching_up) => catching_up.want(name),
                None => self.ask_again(wire::live_topic(name)),
            }
        }
    }

    /// Asks for what was missed too soon after it had been asked for.
    fn repeat(&mut self, now: Instant) {
        let due = self.asked_again.iter().filter(|(_, asked)| asked.has_to_be_repeated && asked.until <= now);
        for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.asked_again.remove(&name);
            self.miss(now, &name);
        }
    }

    /// When that is to be done.
    fn repeats_at(&self) -> Option<Instant> {
        let repeated = self.asked_again.values().filter(|asked| asked.has_to_be_repeated);
        repeated.map(|asked| asked.until).min()
    }

    /// The epoch of the last position that is known of any document: what is ordered from now on has to be above it.
    pub(crate) fn last_epoch(&self) -> Option<u64> {
        self.documents.values().filter_map(|kept| kept.ledger.at).max().map(|at| at.epoch)
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A part of a document for somebody who asked, to be sent when there is nothing else to send.
    pub(crate) fn poll_part(&mut self) -> Option<Output> {
        let (to, answer) = self.transfers.next_part()?;
        Some(Output::Answer { to, payload: answer.encode() })
    }

    /// Whether there is one.
    pub(crate) fn has_part(&self) -> bool {
        self.transfers.is_ready()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let catching_up = self.catching_up.as_ref().and_then(CatchingUp::poll_timeout);
        self.say_stored_at.into_iter().chain(catching_up).chain(self.repeats_at()).min()
    }

    /// The documents: their names, types, and sizes in bytes.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.documents.iter().filter_map(|(name, kept)| kept.listed(name))
    }

    /// A document as it is now.
    pub(crate) fn state(&self, name: &str) -> Option<State> {
        self.documents.get(name).filter(|kept| kept.ledger.kind.is_some()).map(Kept::state)
    }

    pub(crate) fn malformed(&self) -> u64 {
        self.malformed
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A message on a document's topic of changes, or a question for the list of documents, or an answer. `access` says what an endpoint may do with a document.
    pub(crate) fn on_message(
        &mut self,
        now: Instant,
        message: &Message,
        access: impl Fn(EndpointId, &str) -> Access,
    ) {
        match message.topic().as_str() {
            wire::LIST_TOPIC => self.on_list(now, message, access),
            wire::KEEPER_TOPIC => self.on_keeper(message.origin(), "", &Live::decode(message.payload())),
            topic if topic == self.answers => self.on_answer(now, message),
            _ => match wire::name_of(message.topic()) {
                Some((name, true)) => self.on_document(now, name, message, access),
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

    fn on_document(
        &mut self,
        now: Instant,
        name: &str,
        message: &Message,
        access: impl Fn(EndpointId, &str) -> Access,
    ) {
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
        if let (Some(catching_up), Ok(live)) = (&mut self.catching_up, &live) {
            catching_up.on_live(now, position, from, name, live);
        }
        let was_there = self.documents.contains_key(name);
        match live {
            Ok(Live::Ask { nonce, of, anyone }) => self.on_ask(now, from, name, (nonce, of, anyone), access),
            Ok(Live::More { nonce, of, next }) if of == self.config.me => {
                self.transfers.more(now, from, name, nonce, next);
            }
            Ok(Live::Update(update)) => {
                let nothing = Ledger::default();
                let numbers = self.documents.get(name).map_or(&nothing, |kept| &kept.ledger);
                if numbers.misses(position, from, &update) {
                    self.miss(now, name);
                }
                if let Some(kept) = self.kept(name, position, |ledger| ledger.takes(position, from, &update))
                {
                    let update = wire::own(&payload);
                    let record = Record { position, bytes: wire::encode_record(from, &update) };
                    kept.push(Entry { position, origin: from, update });
                    self.store(|| StoreChange::Append { name: name.to_owned(), record });
                    self.look_after(name);
                }
                self.look_up(now, name, was_there);
            }
            Ok(Live::Seed(seed)) => {
                self.on_seed(position, name, &seed);
                self.look_up(now, name, was_there);
            }
            Ok(Live::Stored(_) | Live::AskAgain | Live::GivenUp(_)) => self.on_keeper(from, name, &live),
            Ok(Live::More { .. } | Live::Piece(_)) => {}
            Err(_) => self.malformed += 1,
        }
    }

    fn on_seed(&mut self, position: Position, name: &str, seed: &Bytes) {
        let (mut state, mut is_good) = (None, true);
        let types = self.config.types.clone();
        let takes = |ledger: &mut Ledger| {
            state = ledger.takes_seed(seed, |state| {
                is_good = makes_sense(&types, position, state);
                is_good
            });
            state.is_some()
        };
        let is_kept = self.kept(name, position, takes).is_some();
        self.malformed += u64::from(!is_good);
        let Some((kept, state)) = self.documents.get_mut(name).filter(|_| is_kept).zip(state) else { return };
        kept.become_seed(position, state);
        let base = Base { position, bytes: kept.state.encode_base() };
        self.store(|| StoreChange::Replace { name: name.to_owned(), base });
        self.look_after(name);
    }

    /// A question for a document: by its nonce, of whom, and whether anyone is to say that they have it.
    fn on_ask(
        &mut self,
        now: Instant,
        from: EndpointId,
        name: &str,
        (nonce, of, anyone): (u64, Option<EndpointId>, bool),
        access: impl Fn(EndpointId, &str) -> Access,
    ) {
        let say = |word| Some(Answer { nonce, word });
        let mut is_here = true;
        if let Some(catching_up) = &self.catching_up {
            if self.config.read_only || (from == self.config.me && catching_up.has_asked(nonce)) {
                return;
            }
            let has = |kept: &Kept| kept.ledger.kind.is_some() && kept.refused.is_none();
            is_here =
                self.has_begun && !catching_up.is_wanted(name) && self.documents.get(name).is_some_and(has);
        }
        let answer = if of == Some(self.config.me) || (of.is_none() && self.config.is_hosts) {
            match access(from, name) {
                Access::Denied(reason) => say(Word::Refused(reason)),
                // What it does not have the cluster may have.
                _ if !is_here => say(Word::Busy),
                Access::Write => self.give(now, from, nonce, name, false),
                Access::Read => self.give(now, from, nonce, name, true),
            }
        } else if anyone && of.is_none() && is_here {
            say(Word::Offer)
        } else {
            None
        };
        self.answer(from, answer);
    }

    /// A question for the list of documents. Those that the asker may not have are not in it.
    fn on_list(&mut self, now: Instant, message: &Message, access: impl Fn(EndpointId, &str) -> Access) {
        let from = message.origin();
        match Live::decode(message.payload()) {
            Ok(Live::Ask { nonce, of, .. })
                if of == Some(self.config.me) || (of.is_none() && self.config.is_hosts) =>
            {
                let kept = self.documents.iter().filter_map(|(name, kept)| kept.listed(name));
                let list = kept.filter(|(name, ..)| !matches!(access(from, name), Access::Denied(_)));
                // No document has this name.
                let answer = self.transfers.begin(now, from, "", nonce, None, || wire::encode_list(list));
                self.answer(from, answer);
            }
            Ok(Live::Ask { nonce, .. }) => {
                if let Some(catching_up) = &mut self.catching_up {
                    catching_up.on_list_question(now, from, nonce);
                }
            }
            Ok(Live::More { nonce, of, next }) if of == self.config.me => {
                self.transfers.more(now, from, "", nonce, next);
            }
            Ok(_) => {}
            Err(_) => self.malformed += 1,
        }
    }

    /// The document of this name, if what stands there counts; new where there is room for one more.
    fn kept(
        &mut self,
        name: &str,
        position: Position,
        counts: impl FnOnce(&mut Ledger) -> bool,
    ) -> Option<&mut Kept> {
        let documents = self.documents.len();
        match self.documents.entry(name.to_owned()) {
            btree_map::Entry::Occupied(kept) if kept.get().refused.is_some() => self.dropped += 1,
            btree_map::Entry::Occupied(kept) => {
                let kept = kept.into_mut();
                return (kept.ledger.reaches(position) && counts(&mut kept.ledger)).then_some(kept);
            }
            btree_map::Entry::Vacant(room) => {
                let mut kept = Kept::default();
                if kept.ledger.reaches(position) && counts(&mut kept.ledger) {
                    if documents < self.config.max_documents {
                        return Some(room.insert(kept));
                    }
                    self.dropped += 1;
                }
            }
        }
        None
    }

    fn give(
        &mut self,
        now: Instant,
        to: EndpointId,
        nonce: u64,
        name: &str,
        read_only: bool,
    ) -> Option<Answer> {
        let say = |word| Some(Answer { nonce, word });
        let documents = self.documents.len();
        match self.documents.get(name) {
            Some(Kept { refused: Some(reason), .. }) => say(Word::Refused(reason.clone())),
            Some(kept) if kept.ledger.kind.is_some() => {
                let version = kept.ledger.at.map(|at| (at, read_only));
                let state = || State { read_only, ..kept.state() }.encode();
                self.transfers.begin(now, to, name, nonce, version, state)
            }
            None if documents >= self.config.max_documents => {
                say(Word::Refused(format!("there are {documents} documents already")))
            }
            _ => say(Word::Empty { read_only }),
        }
    }

    fn answer(&mut self, to: EndpointId, answer: Option<Answer>) {
        let Some(mut answer) = answer else { return };
        if let Word::Refused(reason) = &mut answer.word {
            let most = MOST_REASON.min(self.config.max_message.saturating_sub(ANSWER));
            reason.truncate(reason.floor_char_boundary_at(most));
        }
        self.outputs.push_back(Output::Answer { to, payload: answer.encode() });
    }

    fn store(&mut self, change: impl FnOnce() -> StoreChange) {
        if self.config.stores {
            self.outputs.push_back(Output::Store(change()));
        }
    }

    /// Folds a document that has grown, and gives up one that is too large.
    fn look_after(&mut self, name: &str) {
        let limit = self.config.max_document;
        let Some(kept) = self.documents.get_mut(name) else { return };
        if kept.is_folding {
            return;
        }
        let kind = kept.ledger.kind.clone().unwrap_or_default();
        let (over, most) = (kept.size() > limit, FOLD_BYTES.max(kept.state.snapshot.len()).min(limit / 2));
        let due = kept.tail_bytes > most || (over && !kept.state.tail.is_empty());
        if let Some(KnownType { fold, .. }) = self.config.types.get(&kind).copied().filter(|_| due) {
            kept.is_folding = true;
            let state = kept.state();
            self.outputs.push_back(Output::Fold { name: name.to_owned(), state, fold });
        } else if over {
            let reason = format!("it has {} bytes, more than the {limit} that are kept", kept.size());
            self.give_up(name, reason);
        }
    }

    /// Keeps a document no more, and says so to who has it open. What is stored of it stays as it is.
    fn give_up(&mut self, name: &str, reason: String) {
        let Some(kept) = self.documents.get_mut(name) else { return };
        tracing::warn!(document = name, reason, "a document is kept no more");
        kept.state = State::default();
        kept.tail_bytes = 0;
        kept.refused = Some(reason.clone());
        if self.config.is_hosts {
            let (topic, payload) = (wire::live_topic(name), Live::GivenUp(reason).encode());
            self.outputs.push_back(Output::Say { topic, kind: MessageKind::Data, payload });
        }
    }

    /// A document was folded up to where its records went then.
    pub(crate) fn on_folded(&mut self, name: &str, folded: Result<State, Malformed>) {
        let Some(kept) = self.documents.get_mut(name) else { return };
        kept.is_folding = false;
        if std::mem::take(&mut kept.is_another) {
            return self.look_after(name);
        }
        match folded {
            Ok(state) => {
                let Some(at) = state.at else { return };
                let mut tail = std::mem::take(&mut kept.state.tail);
                if mutant!(self, DropTail) {
                    tail.clear();
                }
                kept.state =
                    State { tail: tail.into_iter().filter(|entry| entry.position > at).collect(), ..state };
                kept.tail_bytes = kept.state.tail.iter().map(|entry| entry.update.len() + RECORD).sum();
                let base = Base { position: at, bytes: kept.state.encode_base() };
                self.store(|| StoreChange::Replace { name: name.to_owned(), base });
                self.look_after(name);
            }
            Err(malformed) => self.give_up(name, format!("it cannot be read: {malformed}")),
        }
    }

    /// Up to there a document is stored.
    pub(crate) fn on_stored(&mut self, now: Instant, name: &str, position: Position) {
        let Some(kept) = self.documents.get_mut(name) else { return };
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
            let Some(kept) = self.documents.get_mut(&name) else { continue };
            let Some(stored) = kept.stored.filter(|stored| Some(*stored) > kept.said_stored) else {
                continue;
            };
            kept.said_stored = Some(stored);
            let (topic, payload) = (wire::live_topic(&name), Live::Stored(stored).encode());
            self.outputs.push_back(Output::Say { topic, kind: MessageKind::Data, payload });
        }
    }
}

/// Whether this makes sense to its type, as far as that is known.
fn makes_sense(types: &BTreeMap<String, KnownType>, at: Position, state: &State) -> bool {
    let Some(KnownType { fold, .. }) = state.kind.as_ref().and_then(|kind| types.get(kind)) else {
        return true;
    };
    let state = State { at: Some(at), ..state.clone() };
    catch_unwind(AssertUnwindSafe(|| fold(&state).is_ok())).unwrap_or(false)
}

impl Kept {
    /// What is in a state, with those of its records that count.
    fn of(mut state: State) -> Result<Self, Malformed> {
        let ledger = Ledger { kind: state.kind.clone(), numbers: state.numbers.clone(), at: state.at };
        let tail = std::mem::take(&mut state.tail);
        let mut kept = Self { state, ledger, ..Self::default() };
        tail.into_iter().try_for_each(|entry| kept.add(entry))?;
        Ok(kept)
    }

    /// A record, if it counts.
    fn add(&mut self, entry: Entry) -> Result<(), Malformed> {
        if self.ledger.counted(&entry)?.is_some() {
            self.push(entry);
        }
        Ok(())
    }

    fn push(&mut self, entry: Entry) {
        self.tail_bytes += entry.update.len() + RECORD;
        self.state.tail.push(entry);
    }

    /// A seed that counts.
    fn become_seed(&mut self, position: Position, state: State) {
        let snapshot = wire::own(&state.snapshot);
        self.state = State { at: Some(position), read_only: false, snapshot, ..state };
        self.tail_bytes = 0;
    }

    /// Takes what was held, where it counts.
    fn replay(&mut self, held: &[Held], types: &BTreeMap<String, KnownType>) {
        for Held { position, origin, live } in held {
            if !self.ledger.reaches(*position) {
                continue;
            }
            match live {
                Live::Update(update) if self.ledger.takes(*position, *origin, update) => {
                    self.push(Entry { position: *position, origin: *origin, update: update.encode() });
                }
                Live::Seed(seed) => {
                    let takes = |state: &State| makes_sense(types, *position, state);
                    if let Some(state) = self.ledger.takes_seed(seed, takes) {
                        self.become_seed(*position, state);
                    }
                }
                _ => {}
            }
        }
    }

    /// All of it.
    fn state(&self) -> State {
        State { kind: self.ledger.kind.clone(), ..self.state.clone() }
    }

    /// Whether there is anything of it here.
    fn has_content(&self) -> bool {
        self.ledger.kind.is_some() && (self.state.at.is_some() || !self.state.tail.is_empty())
    }

    /// Whether there are updates in this that are not in the other, as far as can be seen by their numbers.
    fn has_more_than(&self, other: &Self) -> bool {
        let theirs = &other.ledger.numbers;
        self.ledger.numbers.iter().any(|(origin, replica, taken)| theirs.last(origin, replica) < taken.number)
    }

    /// The name, the type and the size, if there is a document.
    fn listed<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a str, usize)> {
        Some((name, self.ledger.kind.as_deref()?, self.size()))
    }

    fn size(&self) -> usize {
        self.state.snapshot.len() + self.tail_bytes
    }
}

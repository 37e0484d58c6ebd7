//! What keeps all documents of a cluster, without knowing their types, as a machine: so that whoever asks for one gets it, and so that they survive.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;
use crate::wire::FloorCharBoundary;

use super::fold::{Folded, Ledger};
use super::pieces::{Pieces, Taken};
use super::store::{Base, Record, StoreChange, Stored};
use super::transfer::Transfers;
use super::wire::{self, Answer, Entry, Live, State, Word};
use super::{Document, Malformed};

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

/// The way to fold documents of a type.
pub(crate) fn fold<D: Document>(state: &State) -> Result<State, Malformed> {
    let folded = Folded::<D>::of(state, None)?;
    Ok(State { read_only: state.read_only, ..folded.state() })
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
    /// Whether it answers questions to nobody in particular: the host's does.
    pub(crate) is_hosts: bool,
    /// How large a document may become, with its records, in bytes. One that is larger is no longer given out, nor kept on with.
    pub(crate) max_document: usize,
    /// How many documents there may be.
    pub(crate) max_documents: usize,
    /// The largest message of the cluster, in bytes.
    pub(crate) max_message: usize,
    /// Whether there is a store.
    pub(crate) stores: bool,
    /// By type, how its documents are folded. Of others all records are kept.
    pub(crate) folds: BTreeMap<String, Fold>,
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) mutant: Option<crate::proto::Mutant>,
}

#[derive(Debug)]
pub(crate) enum Output {
    /// Send this on a document's topic.
    Say { name: String, kind: MessageKind, payload: Bytes },
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
    /// Why it is given to nobody any more.
    refused: Option<String>,
    stored: Option<Position>,
    said_stored: Option<Position>,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Keeper {
    config: Config,
    documents: BTreeMap<String, Kept>,
    transfers: Transfers,
    pieces: Pieces,
    /// Whose stored positions are to be told.
    unsaid: BTreeSet<String>,
    say_stored_at: Option<Instant>,
    /// Of which documents it was said not long ago that they are to be asked for again, and when.
    asked_again: BTreeMap<String, Instant>,
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
        let mut state = match &stored.base {
            Some(base) => State { at: Some(base.position), ..State::decode(&base.bytes).map_err(malformed)? },
            None => State::default(),
        };
        let mut kept = Kept {
            ledger: Ledger { kind: state.kind.clone(), numbers: state.numbers.clone(), at: state.at },
            ..Kept::default()
        };
        for record in stored.records {
            let entry = wire::decode_record(record.position, &record.bytes).map_err(malformed)?;
            if kept.ledger.counted(&entry)?.is_some() {
                kept.tail_bytes += entry.update.len() + RECORD;
                state.tail.push(entry);
            }
        }
        kept.stored = kept.ledger.at;
        kept.said_stored = kept.stored;
        kept.state = state;
        self.documents.insert(name.clone(), kept);
        self.look_after(&name);
        Ok(())
    }

    /// When all is loaded: what was changed before it listened it does not know of, and whoever has a document open may know better.
    pub(crate) fn begin(&mut self) {
        let payload = Live::AskAgain.encode();
        self.outputs.push_back(Output::Say { name: String::new(), kind: MessageKind::Data, payload });
    }

    /// Updates of this document must have passed this keeper by: whoever has it open gives what is missing when it asks for it.
    fn miss(&mut self, now: Instant, name: &str) {
        self.asked_again.retain(|_, at| now < *at + SAY_ASK_AGAIN_EVERY);
        if self.asked_again.len() < self.config.max_documents && !self.asked_again.contains_key(name) {
            self.asked_again.insert(name.to_owned(), now);
            let payload = Live::AskAgain.encode();
            self.outputs.push_back(Output::Say { name: name.to_owned(), kind: MessageKind::Data, payload });
        }
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
        self.say_stored_at
    }

    /// The documents: their names, types, and sizes in bytes.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.documents.iter().filter_map(|(name, kept)| kept.listed(name))
    }

    /// A document as it is now.
    pub(crate) fn state(&self, name: &str) -> Option<State> {
        let kept = self.documents.get(name).filter(|kept| kept.ledger.kind.is_some())?;
        Some(State { kind: kept.ledger.kind.clone(), ..kept.state.clone() })
    }

    pub(crate) fn malformed(&self) -> u64 {
        self.malformed
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A message on a document's topic of changes, or a question for the list of documents. `access` says what an endpoint may do with a document.
    pub(crate) fn on_message(
        &mut self,
        now: Instant,
        message: &Message,
        access: impl Fn(EndpointId, &str) -> Access,
    ) {
        match message.topic().as_str() {
            wire::LIST_TOPIC => return self.on_list(now, message, access),
            // Our own, or that of one before.
            wire::KEEPER_TOPIC => return,
            _ => {}
        }
        let name = match wire::name_of(message.topic()) {
            Some((name, true)) => name,
            Some((_, false)) => return,
            None => {
                self.malformed += 1;
                return;
            }
        };
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
                Taken::Held => return,
                Taken::Whole(whole) => whole,
                Taken::Missed => return self.miss(now, name),
            };
            live = Live::decode(&payload);
            if !matches!(live, Ok(Live::Update(_) | Live::Seed(_))) {
                self.malformed += 1;
                return;
            }
        }
        let Ok(live) = live else {
            self.malformed += 1;
            return;
        };
        match live {
            Live::Ask { nonce, of, anyone } => {
                let say = |word| Some(Answer { nonce, word });
                let answer = if of == Some(self.config.me) || (of.is_none() && self.config.is_hosts) {
                    match access(from, name) {
                        Access::Write => self.give(now, from, nonce, name, false),
                        Access::Read => self.give(now, from, nonce, name, true),
                        Access::Denied(reason) => say(Word::Refused(reason)),
                    }
                } else if anyone && of.is_none() && self.documents.contains_key(name) {
                    say(Word::Offer)
                } else {
                    None
                };
                self.answer(from, answer);
            }
            Live::More { nonce, of, next } if of == self.config.me => {
                self.transfers.more(now, from, name, nonce, next);
            }
            Live::Update(update) => {
                let nothing = Ledger::default();
                let numbers = self.documents.get(name).map_or(&nothing, |kept| &kept.ledger);
                if numbers.misses(position, from, &update) {
                    self.miss(now, name);
                }
                let Some(kept) = self.kept(name, position, |ledger| ledger.takes(position, from, &update))
                else {
                    return;
                };
                let update = wire::own(&payload);
                let record = Record { position, bytes: wire::encode_record(from, &update) };
                kept.tail_bytes += update.len() + RECORD;
                kept.state.tail.push(Entry { position, origin: from, update });
                self.store(|| StoreChange::Append { name: name.to_owned(), record });
                self.look_after(name);
            }
            Live::Seed(seed) => {
                let (mut state, mut is_good) = (None, true);
                let folds = self.config.folds.clone();
                let takes = |ledger: &mut Ledger| {
                    state = ledger.takes_seed(&seed, |state| {
                        is_good = makes_sense(&folds, position, state);
                        is_good
                    });
                    state.is_some()
                };
                let kept = self.kept(name, position, takes).is_some();
                self.malformed += u64::from(!is_good);
                let Some((kept, mut state)) = self.documents.get_mut(name).filter(|_| kept).zip(state) else {
                    return;
                };
                state.snapshot = wire::own(&state.snapshot);
                state.at = Some(position);
                state.read_only = false;
                let base = Base { position, bytes: state.encode_base() };
                kept.tail_bytes = 0;
                kept.state = state;
                self.store(|| StoreChange::Replace { name: name.to_owned(), base });
                self.look_after(name);
            }
            Live::More { .. } | Live::Stored(_) | Live::AskAgain | Live::GivenUp(_) | Live::Piece(_) => {}
        }
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
        match self.documents.get_mut(name) {
            Some(Kept { refused: Some(reason), .. }) => say(Word::Refused(reason.clone())),
            Some(kept) if kept.ledger.kind.is_some() => {
                kept.state.read_only = read_only;
                kept.state.kind.clone_from(&kept.ledger.kind);
                let version = kept.ledger.at.map(|at| (at, read_only));
                self.transfers.begin(now, to, name, nonce, version, || kept.state.encode())
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
        if let Some(fold) = self.config.folds.get(&kind).copied().filter(|_| due) {
            kept.is_folding = true;
            let state = State { kind: Some(kind), ..kept.state.clone() };
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
        let payload = Live::GivenUp(reason).encode();
        self.outputs.push_back(Output::Say { name: name.to_owned(), kind: MessageKind::Data, payload });
    }

    /// A document was folded up to where its records went then.
    pub(crate) fn on_folded(&mut self, name: &str, folded: Result<State, Malformed>) {
        let Some(kept) = self.documents.get_mut(name) else { return };
        kept.is_folding = false;
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
        self.unsaid.insert(name.to_owned());
        self.say_stored_at.get_or_insert(now + SAY_STORED_EVERY);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
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
            let payload = Live::Stored(stored).encode();
            self.outputs.push_back(Output::Say { name, kind: MessageKind::Data, payload });
        }
    }
}

/// Whether this makes sense to its type, as far as that is known.
fn makes_sense(folds: &BTreeMap<String, Fold>, at: Position, state: &State) -> bool {
    let Some(fold) = state.kind.as_ref().and_then(|kind| folds.get(kind)) else { return true };
    let state = State { at: Some(at), ..state.clone() };
    catch_unwind(AssertUnwindSafe(|| fold(&state).is_ok())).unwrap_or(false)
}

impl Kept {
    /// The name, the type and the size, if there is a document.
    fn listed<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a str, usize)> {
        Some((name, self.ledger.kind.as_deref()?, self.size()))
    }

    fn size(&self) -> usize {
        self.state.snapshot.len() + self.tail_bytes
    }
}

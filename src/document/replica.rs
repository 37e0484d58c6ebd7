//! An open document on one node, as a machine: what the application changes goes out, what comes in is applied in order, what was missed is asked for.

mod asking;
mod own;
mod taking;

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;

use super::fold::Folded;
use super::join::Join;
use super::pieces::{Pieces, Taken};
use super::resets::Resets;
use super::transfer::Transfers;
use super::wire::{self, Answer, Live, Piece};
use super::{Author, Document, DocumentError, DocumentEvent, Draft, Model, UpdateError};
use own::Patience;
use taking::Took;

/// How often in a row the host may refuse what its keeper says is allowed, before the document is of no use (a guess: rights that change just then are asked for once or twice more).
const MOST_REFUSALS: u32 = 8;

/// How often it is asked for again because somebody's pieces were missed (a guess: who may write can say the last piece alone as often as they like).
const ASK_FOR_MISSED_EVERY: Duration = Duration::from_secs(1);

/// What a replica is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) me: EndpointId,
    /// A random number, not 0.
    pub(crate) seed: u64,
    /// Whether to begin with an empty document where nobody has it who answers.
    pub(crate) create: bool,
    /// How many updates may wait for their places, and how many bytes they may have.
    pub(crate) max_unsynced: (usize, usize),
    /// The largest update, in bytes.
    pub(crate) max_update: usize,
    /// The largest message of the cluster, in bytes.
    pub(crate) max_message: usize,
    /// Whether this endpoint may ask, and say nothing else.
    pub(crate) read_only: bool,
    /// How many of its own updates an ordered document remembers after they had their places, for a host that comes back without them.
    pub(crate) recent: usize,
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) mutant: Option<crate::proto::Mutant>,
}

/// What a replica wants said or done, in this order.
pub(crate) enum Output<D: Document> {
    /// Send this on the document's topic.
    Say { kind: MessageKind, payload: Bytes },
    /// Send this on an endpoint's topic.
    Answer { to: EndpointId, payload: Bytes },
    /// Tell the application.
    Event(DocumentEvent<D>),
}

/// An update of our own: without a place, or remembered for a host that comes back without it.
struct Pending<D: Document> {
    /// Who we were when it was said last.
    replica: u64,
    number: u64,
    /// Under which names it was said before: whoever kept the document then may come back with it.
    earlier: Vec<(u64, u64)>,
    /// Whether it had its place, and did not apply there. The application knows, so it is not tried again.
    refused: bool,
    fragments: Vec<D::Fragment>,
    payload: Bytes,
}

/// Updates of one author that stand one behind the other, and are not in the document yet.
struct Run<D: Document> {
    by: Author,
    fragments: Vec<D::Fragment>,
}

/// The machine.
pub(crate) struct Replica<D: Document> {
    config: Config,
    /// The topic of answers to us.
    answers: String,
    host: Option<EndpointId>,
    /// Who we are among the document's replicas; another one after a merge, and after a loss that leaves holes in our numbers.
    id: u64,
    nonce: u64,
    /// What is in order; of a commutative document with what is pending, too.
    folded: Folded<D>,
    /// Of an ordered document with something pending: with that.
    view: Option<D>,
    /// Whether something came before what the view shows.
    view_is_stale: bool,
    /// Of a commutative document, until it settles.
    run: Option<Run<D>>,
    /// Whether there is a document at all yet.
    begun: bool,
    /// Where the question stands that it last came by.
    since: Option<Position>,
    /// Whether a fragment broke the document, which is being made anew.
    is_broken: bool,
    read_only: bool,
    join: Option<Join>,
    /// What its question waits for, where messages are missed again and again.
    resets: Resets,
    /// Whether it has to be asked for once more when it is there.
    ask_again: bool,
    /// Whether pieces were missed that no question so far stands behind.
    has_missed: bool,
    /// Until when that is no reason to ask.
    quiet_until: Option<Instant>,
    /// Whether the document is offered to a cluster that has lost it.
    seeding: bool,
    /// The questions that the host did not answer, where we went on without.
    unanswered: Vec<u64>,
    patience: Patience,
    pending: VecDeque<Pending<D>>,
    pending_bytes: usize,
    next_number: u64,
    /// How often the host has refused something, since anything of ours had its place.
    refusals: u32,
    recent: VecDeque<Pending<D>>,
    stored: Option<Position>,
    transfers: Transfers,
    pieces: Pieces,
    failed: Option<DocumentError>,
    outputs: VecDeque<Output<D>>,
    /// Malformed messages on the document's topics, passed over.
    malformed: u64,
}

impl<D: Document> fmt::Debug for Replica<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("name", &self.config.name)
            .field("at", &self.folded.ledger.at)
            .field("since", &self.since)
            .field("unsynced", &self.pending.len())
            .field("join", &self.join)
            .finish_non_exhaustive()
    }
}

impl<D: Document> Replica<D> {
    pub(crate) fn new(config: Config) -> Self {
        let mut replica = Self {
            id: config.seed,
            nonce: config.seed,
            answers: wire::answer_topic(config.me),
            host: None,
            transfers: Transfers::new(config.max_message),
            pieces: Pieces::default(),
            folded: Folded::empty(),
            view: None,
            view_is_stale: false,
            run: None,
            begun: false,
            since: None,
            is_broken: false,
            read_only: config.read_only,
            join: None,
            resets: Resets::new(config.seed),
            ask_again: false,
            has_missed: false,
            quiet_until: None,
            seeding: false,
            unanswered: Vec::new(),
            patience: Patience::No,
            pending: VecDeque::new(),
            pending_bytes: 0,
            next_number: 1,
            refusals: 0,
            recent: VecDeque::new(),
            stored: None,
            failed: None,
            outputs: VecDeque::new(),
            malformed: 0,
            config,
        };
        replica.folded.document.set_replica(replica.id);
        replica.ask();
        replica
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output<D>> {
        self.outputs.pop_front()
    }

    /// A part of the document for somebody who asked, to be sent when there is nothing else to send.
    pub(crate) fn poll_part(&mut self) -> Option<Output<D>> {
        let (to, answer) = self.transfers.next_part()?;
        Some(Output::Answer { to, payload: answer.encode() })
    }

    /// Whether there is one.
    pub(crate) fn has_part(&self) -> bool {
        self.transfers.is_ready()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let next = match &self.join {
            Some(join) => join.poll_timeout().or(self.resets.poll_timeout()),
            None => self.quiet_until.filter(|_| self.has_missed),
        };
        next.into_iter().chain(self.patience.poll_timeout()).min()
    }

    /// The document as the application sees it.
    pub(crate) fn document(&self) -> &D {
        self.view.as_ref().unwrap_or(&self.folded.document)
    }

    /// Whether there is a document to work on.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    pub(crate) fn failure(&self) -> Option<&DocumentError> {
        self.failed.as_ref()
    }

    /// Who this is among the document's replicas.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// How many updates have no place yet.
    pub(crate) fn unsynced(&self) -> usize {
        self.pending.len()
    }

    /// Whether all is in place, and nothing is being asked for.
    pub(crate) fn is_synced(&self) -> bool {
        self.pending.is_empty() && self.is_here()
    }

    /// Whether there is a document, and nothing of it is being asked for, or has to be.
    fn is_here(&self) -> bool {
        self.begun && self.join.is_none() && !self.has_missed
    }

    /// Up to where a keeper says it has the document where it survives the keeper.
    pub(crate) fn stored(&self) -> Option<Position> {
        self.stored
    }

    /// Up to where the document is in order.
    pub(crate) fn position(&self) -> Option<Position> {
        self.folded.ledger.at
    }

    /// Malformed messages on the document's topics, passed over.
    pub(crate) fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The document in order, as it travels: what a snapshot at [`position`](Self::position) is. `None` while it is being asked for, where the host did not
    /// answer (then it is right if the host has nothing to say), and for a commutative document that holds what is not in order yet.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn state(&self) -> Option<wire::State> {
        let exact = self.is_here()
            && self.unanswered.is_empty()
            && (D::MODEL == Model::Ordered || self.pending.is_empty());
        exact.then(|| self.folded.state())
    }

    /// Whether it went on without an answer of the host, and what it has need not be what the others have.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn is_alone(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Where the question stands that it last came by.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn since(&self) -> Option<Position> {
        self.since
    }

    /// The number of the next update that is to count.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn next_number(&self) -> u64 {
        self.pending.front().map_or(self.next_number, |pending| pending.number)
    }

    fn nonce(&mut self) -> u64 {
        self.nonce = wire::following(self.nonce);
        (self.nonce & !wire::KEEPERS).max(1)
    }

    fn say(&mut self, kind: MessageKind, live: &Live) {
        self.outputs.push_back(Output::Say { kind, payload: live.encode() });
    }

    fn event(&mut self, event: DocumentEvent<D>) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Ends the document here.
    pub(crate) fn fail(&mut self, error: DocumentError) {
        if self.failed.is_none() {
            self.join = None;
            self.failed = Some(error.clone());
            self.event(DocumentEvent::Failed(error));
        }
    }

    /// Runs code of the document's type: a panic ends this document alone.
    fn guarded<T>(&mut self, code: impl FnOnce(&mut Self) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| code(self))) {
            Ok(value) => Some(value),
            Err(_) => {
                self.fail(DocumentError::Panicked { name: self.config.name.clone() });
                None
            }
        }
    }

    /// Messages may have been missed: the document is asked for again, more slowly where that happens again and again. What was changed here stays.
    pub(crate) fn on_reset(&mut self, now: Instant) {
        if self.failed.is_none() {
            // Whether it is said now or later.
            self.resets.on_reset(now);
            self.ask();
        }
    }

    /// What is here need not be what the cluster has.
    fn ask_anew(&mut self) {
        if self.failed.is_none() {
            self.ask();
        }
    }

    /// What was sent may never come: it is sent again. What came all the same counts once.
    pub(crate) fn on_unknown(&mut self) {
        if self.failed.is_some() {
            return;
        }
        if self.join.is_some() {
            self.ask();
        }
        self.send_again();
    }

    /// The host does not let something of ours have a place: we may not say it, or it was a question of somebody who may not answer. What we may do by now the answer to another
    /// question says; an answer that is under way brings back, or gives up, what is pending anyway.
    pub(crate) fn on_refused(&mut self, kind: MessageKind) {
        let concerns_us = match kind {
            MessageKind::DocumentFragment => {
                self.seeding || (self.join.is_none() && !self.pending.is_empty())
            }
            MessageKind::FullDocumentRequest => self.join.is_some(),
            _ => false,
        };
        if self.failed.is_some() || !concerns_us || mutant!(self, KeepRefused) {
            return;
        }
        self.refusals += u32::from(kind == MessageKind::DocumentFragment);
        if self.refusals > MOST_REFUSALS {
            let (name, reason) =
                (self.config.name.clone(), "the host takes no change of it from here".to_owned());
            return self.fail(DocumentError::Refused { name, reason });
        }
        self.ask();
    }

    /// Who the host is, as far as the endpoint knows: what only a keeper may say is taken from no other.
    pub(crate) fn set_host(&mut self, host: Option<EndpointId>) {
        self.host = host;
    }

    /// A message on one of the document's topics, or of this endpoint's for answers.
    pub(crate) fn on_message(&mut self, now: Instant, message: &Message) {
        let Some(position) = message.position().filter(|_| self.failed.is_none()) else { return };
        let from = message.origin();
        // By the topic, not by the kind: a whole document may stand on the document's topic, too.
        let topic = message.topic();
        let of_all = topic.as_str() == wire::KEEPER_TOPIC;
        if of_all || matches!(wire::name_of(topic), Some((_, true))) {
            // Who may only read may ask, and no more.
            let is_question = message.kind() == MessageKind::FullDocumentRequest;
            match Live::decode(message.payload()) {
                Ok(live) if is_question && !matches!(live, Live::Ask { .. } | Live::More { .. }) => {
                    self.malformed += 1;
                }
                Ok(Live::Piece(piece)) if !of_all => self.on_piece(now, position, from, piece),
                Ok(live) if !of_all || live == Live::AskAgain => self.on_live(now, position, from, live),
                _ => self.malformed += 1,
            }
        } else if topic.as_str() == self.answers {
            match Answer::decode(message.payload()) {
                Ok(answer) => self.on_answer(now, from, answer),
                Err(_) => self.malformed += 1,
            }
        } else {
            self.malformed += 1;
        }
        self.ask_for_missed(now);
    }

    fn on_piece(&mut self, now: Instant, position: Position, from: EndpointId, piece: Piece) {
        match self.pieces.take(from, "", piece) {
            Taken::Held => {}
            Taken::Whole(whole) => match Live::decode(&whole) {
                Ok(live @ (Live::Update(_) | Live::Seed(_))) => self.on_live(now, position, from, live),
                _ => self.malformed += 1,
            },
            // The first ones may have come before the document was asked for: then it is in no answer yet.
            Taken::Missed if self.join.as_ref().is_some_and(Join::is_unasked) => {}
            Taken::Missed => self.has_missed = true,
        }
    }

    /// To be called when what came together has been taken in: the view is brought up to date once for all of it.
    pub(crate) fn settle(&mut self) {
        self.end_run();
        if std::mem::take(&mut self.view_is_stale) && self.failed.is_none() {
            self.guarded(Self::rebuild_view);
            self.event(DocumentEvent::Replaced);
        }
    }

    fn on_live(&mut self, now: Instant, position: Position, from: EndpointId, live: Live) {
        let own = from == self.config.me;
        match live {
            Live::Ask { nonce, of, anyone } if !own => self.on_ask(now, from, nonce, of, anyone),
            Live::More { nonce, of, next } if of == self.config.me => {
                self.transfers.more(now, from, "", nonce, next);
            }
            Live::More { .. } => {}
            Live::Stored(_) | Live::AskAgain | Live::GivenUp(_) => {
                match self.host == Some(from) {
                    true => self.on_keeper(live),
                    false => self.malformed += 1,
                }
                return;
            }
            live => match &mut self.join {
                Some(join) => {
                    let is_seed = matches!(live, Live::Seed(_));
                    if !join.on_live(now, own, position, from, live) {
                        // More than there is room for came behind the question.
                        return self.ask();
                    }
                    if is_seed && own && std::mem::take(&mut self.seeding) {
                        // It, or one before it, is what the document is from now on.
                        if let Some((asked, held)) = self.join.take().and_then(Join::into_held) {
                            self.begin_empty(asked, held);
                        }
                    }
                }
                None => match self.take(position, from, live) {
                    Took::Document if D::MODEL == Model::Ordered => self.bring_back_own(),
                    Took::NotOurs => self.send_under_another_name(),
                    Took::Document | Took::Part => {}
                },
            },
        }
        // A question is a place in the order like any other.
        if self.join.is_none() && self.begun {
            self.folded.ledger.reaches(position);
        }
    }

    /// What only a keeper may say.
    fn on_keeper(&mut self, live: Live) {
        match live {
            Live::Stored(stored) => self.stored = self.stored.max(Some(stored)),
            Live::GivenUp(reason) => {
                let name = self.config.name.clone();
                self.fail(DocumentError::Refused { name, reason });
            }
            // The answer comes from this keeper, as it is now.
            Live::AskAgain if self.join.as_mut().is_some_and(Join::hear_of_keeper) => {}
            Live::AskAgain if self.join.is_some() => self.ask_again = true,
            _ => self.ask_anew(),
        }
    }

    /// Whether there is room for an update.
    pub(crate) fn may_update(&self) -> Result<(), UpdateError> {
        let name = || self.config.name.clone();
        if let Some(error) = &self.failed {
            return Err(UpdateError::Document(error.clone()));
        }
        if !self.begun {
            return Err(UpdateError::Document(DocumentError::Unavailable { name: name() }));
        }
        if self.read_only {
            return Err(UpdateError::ReadOnly { name: name() });
        }
        let (updates, bytes) = self.config.max_unsynced;
        if self.pending.len() >= updates || self.pending_bytes >= bytes {
            return Err(UpdateError::Full { name: name(), unsynced: self.pending.len() });
        }
        Ok(())
    }

    fn panicked(&self) -> UpdateError {
        UpdateError::Document(DocumentError::Panicked { name: self.config.name.clone() })
    }

    /// Changes the document here and now, and lets the change go out. A panic of `change` goes on when that is done.
    ///
    /// # Errors
    /// [`UpdateError`]; then nothing was changed.
    pub(crate) fn update<R>(
        &mut self,
        change: impl FnOnce(&mut Draft<'_, D>) -> R,
    ) -> Result<R, UpdateError> {
        self.may_update()?;
        self.end_run();
        if D::MODEL == Model::Ordered && self.view.is_none() {
            match self.guarded(|replica| replica.folded.document.fork()) {
                Some(fork) => self.view = Some(fork),
                None => return Err(self.panicked()),
            }
        }
        let document = self.view.as_mut().unwrap_or(&mut self.folded.document);
        let mut draft = Draft::new(document);
        let result = catch_unwind(AssertUnwindSafe(|| change(&mut draft)));
        let parts = draft.finish();
        if parts.is_empty() {
            if self.pending.is_empty() {
                self.view = None;
            }
        } else {
            let (fragments, changes): (Vec<D::Fragment>, Vec<D::Change>) = parts.into_iter().unzip();
            let Some(encoded) = self.encoded(&fragments) else { return Err(self.panicked()) };
            let size: usize = encoded.iter().map(Vec::len).sum();
            if size > self.config.max_update {
                let (name, limit) = (self.config.name.clone(), self.config.max_update);
                match D::MODEL {
                    Model::Ordered => _ = self.guarded(Self::rebuild_view),
                    // What was done to it cannot be taken back.
                    Model::Commutative => {
                        self.fail(DocumentError::TooLarge { name: name.clone(), size, limit })
                    }
                }
                return Err(UpdateError::TooLarge { name, size, limit });
            }
            self.submit(fragments, &encoded);
            let author = Author { endpoint: self.config.me, replica: self.id, local: true, position: None };
            self.event(DocumentEvent::Changed { by: author, changes });
        }
        self.see_to_breaks();
        match result {
            Ok(value) => Ok(value),
            Err(panic) => resume_unwind(panic),
        }
    }
}

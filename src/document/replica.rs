//! An open document on one node, as a machine: what the application changes goes out, what comes in is applied in order, what was missed is asked for.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;

use super::fold::{Folded, apply_all, decode_all};
use super::join::{Held, Join, Joined, Step};
use super::pieces::{self, Pieces, Taken};
use super::transfer::Transfers;
use super::wire::{self, Answer, Live, Update, Word};
use super::{Author, Conflict, Document, DocumentError, DocumentEvent, Draft, Merged, Model, UpdateError};

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
    /// Who we were when it was made.
    replica: u64,
    number: u64,
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
    read_only: bool,
    join: Option<Join>,
    /// Whether the document is offered to a cluster that has lost it.
    seeding: bool,
    /// The questions that the host did not answer, where we went on without.
    unanswered: Vec<u64>,
    pending: VecDeque<Pending<D>>,
    pending_bytes: usize,
    next_number: u64,
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
            transfers: Transfers::new(config.max_message),
            pieces: Pieces::default(),
            folded: Folded::empty(),
            view: None,
            view_is_stale: false,
            run: None,
            begun: false,
            read_only: config.read_only,
            join: None,
            seeding: false,
            unanswered: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            next_number: 1,
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
        self.join.as_ref().and_then(Join::poll_timeout)
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
        self.pending.is_empty() && self.join.is_none() && self.begun
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
        let exact = self.begun
            && self.join.is_none()
            && self.unanswered.is_empty()
            && (D::MODEL == Model::Ordered || self.pending.is_empty());
        exact.then(|| self.folded.state())
    }

    /// Whether it went on without an answer of the host, and what it has need not be what the others have.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn is_alone(&self) -> bool {
        !self.unanswered.is_empty()
    }

    fn nonce(&mut self) -> u64 {
        self.nonce =
            self.nonce.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.nonce.max(1)
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

    fn ask(&mut self) {
        self.seeding = false;
        self.unanswered.clear();
        let join = Join::new(self.nonce());
        let question = join.question();
        self.join = Some(join);
        self.say(MessageKind::FullDocumentRequest, &question);
    }

    /// Messages may have been missed: the document is asked for again. What was changed here stays.
    pub(crate) fn on_reset(&mut self) {
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

    fn send_again(&mut self) {
        let again: Vec<Bytes> = self.pending.iter().map(|pending| pending.payload.clone()).collect();
        again.into_iter().for_each(|payload| self.put(payload));
    }

    /// Says an update or a seed, in pieces where messages may not be so large.
    fn put(&mut self, payload: Bytes) {
        let kind = MessageKind::DocumentFragment;
        if payload.len() <= self.config.max_message {
            self.outputs.push_back(Output::Say { kind, payload });
            return;
        }
        let nonce = self.nonce();
        for piece in pieces::cut(nonce, &payload, self.config.max_message) {
            self.say(kind, &Live::Piece(piece));
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let nonce = self.nonce();
        let Some(join) = &mut self.join else { return };
        let step = join.on_timeout(now, nonce);
        self.on_step(step);
    }

    /// A message on one of the document's topics, or of this endpoint's for answers.
    pub(crate) fn on_message(&mut self, now: Instant, message: &Message) {
        let Some(position) = message.position().filter(|_| self.failed.is_none()) else { return };
        let from = message.origin();
        // By the topic, not by the kind: a whole document may stand on the document's topic, too.
        if wire::name_of(message.topic()).is_none() {
            let nonce = self.nonce();
            match (Answer::decode(message.payload()), &mut self.join) {
                // The host has an answer after all, and was slow: what we made of it alone, or had from another, need not be what the others have.
                (Ok(Answer { nonce, word: Word::Part { .. } | Word::Empty { .. } }), _)
                    if self.unanswered.contains(&nonce) =>
                {
                    self.ask();
                }
                (Ok(answer), Some(join)) => {
                    let step = join.on_answer(now, from, answer, nonce);
                    self.on_step(step);
                }
                (Ok(_), None) => {}
                (Err(_), _) => self.malformed += 1,
            }
            return;
        }
        // Who may only read may ask, and no more.
        let is_question = message.kind() == MessageKind::FullDocumentRequest;
        match Live::decode(message.payload()) {
            Ok(live) if is_question && !matches!(live, Live::Ask { .. } | Live::More { .. }) => {
                self.malformed += 1;
            }
            Ok(Live::Piece(piece)) => match self.pieces.take(from, "", piece) {
                Taken::Held => {}
                Taken::Whole(whole) => match Live::decode(&whole) {
                    Ok(live @ (Live::Update(_) | Live::Seed(_))) => self.on_live(now, position, from, live),
                    _ => self.malformed += 1,
                },
                // The first ones may have come before the document was asked for: then it is in no answer yet.
                Taken::Missed if self.join.as_ref().is_some_and(Join::is_unasked) => {}
                Taken::Missed => self.ask(),
            },
            Ok(live) => self.on_live(now, position, from, live),
            Err(_) => self.malformed += 1,
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
            Live::Stored(stored) => {
                self.stored = self.stored.max(Some(stored));
                return;
            }
            live => match &mut self.join {
                Some(join) => {
                    let is_seed = matches!(live, Live::Seed(_));
                    join.on_live(now, own, position, from, live);
                    if is_seed && own && std::mem::take(&mut self.seeding) {
                        // It, or one before it, is what the document is from now on.
                        if let Some((asked, held)) = self.join.take().and_then(Join::into_held) {
                            self.begin(asked, Folded::empty(), held);
                        }
                    }
                }
                None => {
                    if self.take(position, from, live) && D::MODEL == Model::Ordered {
                        self.bring_back_own();
                    }
                }
            },
        }
        // A question is a place in the order like any other.
        if self.join.is_none() && self.begun {
            self.folded.ledger.reaches(position);
        }
    }

    fn on_ask(&mut self, now: Instant, from: EndpointId, nonce: u64, of: Option<EndpointId>, anyone: bool) {
        if self.config.read_only {
            return;
        }
        self.end_run();
        let here = self.join.is_none() && self.begun;
        let say = |word| Some(Answer { nonce, word });
        let answer = if of == Some(self.config.me) {
            if !here || (D::MODEL == Model::Commutative && !self.pending.is_empty()) {
                say(Word::Busy)
            } else {
                match self.guarded(|replica| replica.folded.state()) {
                    Some(state) => self.transfers.begin(now, from, "", nonce, None, || state.encode()),
                    None => say(Word::Busy),
                }
            }
        } else if anyone && of.is_none() && here {
            say(Word::Offer)
        } else {
            None
        };
        if let Some(answer) = answer {
            self.outputs.push_back(Output::Answer { to: from, payload: answer.encode() });
        }
    }

    /// Takes what stands in the order; whether that was the whole document.
    fn take(&mut self, position: Position, from: EndpointId, live: Live) -> bool {
        match live {
            Live::Update(update) => {
                self.take_update(position, from, update);
                false
            }
            // One that counts comes to those who know that there was nothing before.
            Live::Seed(seed) => self.folded.ledger.reaches(position) && self.take_seed(&seed),
            Live::Stored(_) | Live::Piece(_) | Live::Ask { .. } | Live::More { .. } => false,
        }
    }

    fn take_seed(&mut self, seed: &Bytes) -> bool {
        let Some(state) = self.folded.ledger.takes_seed(seed) else { return false };
        if state.kind.as_deref() != Some(D::KIND) {
            self.fail(self.foreign(state.kind));
            return false;
        }
        match self.guarded(|_| D::restore(&state.snapshot)) {
            Some(Ok(document)) => {
                match D::MODEL {
                    Model::Ordered => self.folded.document = document,
                    Model::Commutative => self.merge(document),
                }
                self.view_is_stale = true;
                true
            }
            Some(Err(_)) | None => {
                self.malformed += 1;
                false
            }
        }
    }

    fn foreign(&self, kind: Option<String>) -> DocumentError {
        DocumentError::Kind {
            name: self.config.name.clone(),
            expected: D::KIND,
            found: kind.unwrap_or_default(),
        }
    }

    fn take_update(&mut self, position: Position, from: EndpointId, update: Update) {
        let ledger = &mut self.folded.ledger;
        if !ledger.reaches(position) || !(ledger.takes(position, &update) || mutant!(self, CountTwice)) {
            return;
        }
        if update.kind != D::KIND {
            return self.fail(self.foreign(Some(update.kind)));
        }
        let local = update.replica == self.id;
        let author = Author { endpoint: from, replica: update.replica, local, position: Some(position) };
        let is_pending = self
            .pending
            .front()
            .is_some_and(|own| (own.replica, own.number) == (update.replica, update.number));
        if is_pending {
            return self.take_own();
        }
        if D::MODEL == Model::Commutative {
            return self.add_to_run(author, &update);
        }
        let taken = self.guarded(|replica| {
            let fragments =
                decode_all::<D>(&update).map_err(|malformed| Conflict::new(malformed.to_string()))?;
            apply_all(&mut replica.folded.document, &fragments)
        });
        match taken {
            Some(Ok(changes)) if self.view.is_none() => {
                self.event(DocumentEvent::Changed { by: author, changes })
            }
            Some(Ok(_)) => self.view_is_stale = true,
            // It has its place and no effect: its sender is told there.
            Some(Err(_)) => self.folded.ledger.numbers.refuse(update.replica),
            None => {}
        }
    }

    /// What one author did is taken in together: a document may have as much to do for many updates as for one.
    fn add_to_run(&mut self, by: Author, update: &Update) {
        // What makes no sense has its place and no effect.
        let Some(Ok(fragments)) = self.guarded(|_| decode_all::<D>(update)) else { return };
        let same = |run: &Run<D>| (run.by.endpoint, run.by.replica) == (by.endpoint, by.replica);
        match &mut self.run {
            Some(run) if same(run) => {
                run.by = by;
                run.fragments.extend(fragments);
            }
            _ => {
                self.end_run();
                self.run = Some(Run { by, fragments });
            }
        }
    }

    fn end_run(&mut self) {
        let Some(Run { by, fragments }) = self.run.take().filter(|_| self.failed.is_none()) else { return };
        let changes = self.guarded(|replica| replica.folded.document.replay(&fragments));
        if let Some(changes) = changes.filter(|changes| !changes.is_empty()) {
            self.event(DocumentEvent::Changed { by, changes });
        }
    }

    /// One of our own has its place.
    fn take_own(&mut self) {
        let Some(mut pending) = self.pending.pop_front() else { return };
        self.pending_bytes -= pending.payload.len();
        if D::MODEL == Model::Ordered {
            let applied = self.guarded(|replica| apply_all(&mut replica.folded.document, &pending.fragments));
            if let Some(Err(conflict)) = applied {
                self.view_is_stale = true;
                pending.refused = true;
                self.folded.ledger.numbers.refuse(pending.replica);
                self.event(DocumentEvent::Refused { fragments: pending.fragments.clone(), conflict });
            }
            if self.pending.is_empty() && !self.view_is_stale {
                self.view = None;
            }
            self.recent.push_back(pending);
            self.forget_old();
        }
        if self.pending.is_empty() {
            self.event(DocumentEvent::Synced);
        }
    }

    /// What is pending, on top of what is in order.
    fn rebuild_view(&mut self) {
        if self.pending.is_empty() {
            self.view = None;
            return;
        }
        let mut view = self.folded.document.fork();
        for pending in &self.pending {
            // Whether it applies in the end, its place decides.
            let _ = apply_all(&mut view, &pending.fragments);
        }
        self.view = Some(view);
    }

    fn on_step(&mut self, step: Step) {
        match step {
            Step::Wait => {}
            Step::Say(live) => self.say(MessageKind::FullDocumentRequest, &live),
            Step::Done(joined) => {
                self.join = None;
                self.on_joined(joined);
                self.settle();
            }
        }
    }

    fn on_joined(&mut self, joined: Joined) {
        let name = self.config.name.clone();
        match joined {
            Joined::State { state, asked, held, nonces } => {
                self.unanswered = nonces;
                self.read_only = state.read_only || self.config.read_only;
                let found = state.kind.clone();
                if found.as_ref().is_some_and(|kind| kind != D::KIND) {
                    return self.fail(self.foreign(found));
                }
                // What there is already takes it in, and has its number.
                let replica = (!self.begun).then_some(self.id);
                match self.guarded(|_| Folded::<D>::of(&state, replica)) {
                    Some(Ok(folded)) => self.begin(asked, folded, held),
                    Some(Err(malformed)) => {
                        self.fail(DocumentError::Malformed { name, reason: malformed.to_string() });
                    }
                    None => {}
                }
            }
            Joined::Empty { asked, held, read_only } => {
                self.read_only = read_only || self.config.read_only;
                self.begin_anew(asked, held);
            }
            Joined::Nobody { asked, held, nonces } if self.begun || self.config.create => {
                self.unanswered = nonces;
                self.begin_anew(asked, held);
            }
            Joined::Nobody { .. } => self.fail(DocumentError::Unavailable { name }),
            Joined::Refused(reason) => self.fail(DocumentError::Refused { name, reason }),
        }
    }

    /// There is no document in the cluster; maybe we have one.
    fn begin_anew(&mut self, asked: Position, held: Vec<Held>) {
        let has_something = self.begun && self.folded.ledger.kind.is_some();
        let is_seeded = held.iter().any(|held| matches!(held.live, Live::Seed(_)));
        if D::MODEL == Model::Ordered && has_something && !is_seeded && !self.read_only {
            // The first that comes to its place is the document.
            if let Some(state) = self.guarded(|replica| replica.folded.state()) {
                self.seeding = true;
                self.join = Some(Join::holding(self.nonce(), asked, held));
                self.put(Live::Seed(state.encode()).encode());
            }
            return;
        }
        self.begin(asked, Folded::empty(), held);
    }

    /// From here on there is a document: this one as it was there, with what came meanwhile, and what is ours.
    fn begin(&mut self, asked: Position, mut folded: Folded<D>, held: Vec<Held>) {
        self.end_run();
        folded.ledger.reaches(asked);
        let first = !std::mem::replace(&mut self.begun, true);
        match D::MODEL {
            Model::Commutative if !first => self.come_together(folded),
            _ => self.folded = folded,
        }
        self.folded.document.set_replica(self.id);
        for Held { position, origin, live } in held {
            if !mutant!(self, ForgetHeld) {
                self.take(position, origin, live);
            }
        }
        self.end_run();
        // Only now is it known what of ours is in it: the whole document may be among what came meanwhile.
        if D::MODEL == Model::Ordered {
            self.bring_back_own();
        }
        self.event(if first { DocumentEvent::Opened } else { DocumentEvent::Replaced });
        if self.pending.is_empty() {
            self.event(DocumentEvent::Synced);
        }
    }

    /// A commutative document takes in what the cluster has, and gives it what it lacks.
    fn come_together(&mut self, folded: Folded<D>) {
        let Folded { ledger, document } = folded;
        self.folded.ledger = ledger;
        self.merge(document);
    }

    fn merge(&mut self, document: D) {
        let merged = self.guarded(|replica| replica.folded.document.merge(document));
        self.pending.clear();
        self.pending_bytes = 0;
        // As somebody else: what is still on its way from before may yet count.
        self.be_somebody_else();
        match merged {
            Some(Ok(Merged { lacking, .. })) => {
                if let Some(fragment) = lacking.filter(|_| !self.read_only) {
                    self.submit(vec![fragment]);
                }
            }
            Some(Err(conflict)) => {
                let name = self.config.name.clone();
                self.fail(DocumentError::Malformed { name, reason: conflict.to_string() });
            }
            None => {}
        }
    }

    fn be_somebody_else(&mut self) {
        self.id = self.nonce();
        self.next_number = 1;
        self.folded.document.set_replica(self.id);
    }

    /// An ordered document: what of ours is not in the cluster's goes out again.
    ///
    /// What we sent before we asked stands before the question, or nowhere: an endpoint's messages keep their order. So what the document does not have by
    /// now will not come by itself, but for what was changed here since the question.
    fn bring_back_own(&mut self) {
        let mut has_holes = false;
        let (recent, pending) = (std::mem::take(&mut self.recent), std::mem::take(&mut self.pending));
        let placed = recent.into_iter().map(|own| (own, true));
        for (mut own, had_its_place) in placed.chain(pending.into_iter().map(|own| (own, false))) {
            let numbers = &self.folded.ledger.numbers;
            let has = match had_its_place {
                true => numbers.may_have(own.replica, own.number),
                false => numbers.last(own.replica) >= own.number,
            };
            if !has && own.refused {
                has_holes = true;
                continue;
            }
            if !has {
                self.pending.push_back(own);
                continue;
            }
            if !own.refused && numbers.was_refused(own.replica, own.number) {
                own.refused = true;
                let conflict = Conflict::new("something came before it, while this node was not there");
                self.event(DocumentEvent::Refused { fragments: own.fragments.clone(), conflict });
            }
            self.recent.push_back(own);
        }
        self.forget_old();
        let next = self.folded.ledger.numbers.last(self.id) + 1;
        let follows =
            |(pending, number): (&Pending<D>, u64)| pending.replica == self.id && pending.number == number;
        if has_holes || !self.pending.iter().zip(next..).all(follows) {
            // Some are gone for good: the others go out under another name, or none would ever count.
            self.be_somebody_else();
            for pending in &mut self.pending {
                let (replica, number) = (self.id, self.next_number);
                let payload = encode_update::<D>(replica, number, &pending.fragments);
                (pending.replica, pending.number, pending.payload) = (replica, number, payload);
                self.next_number += 1;
            }
        } else {
            self.next_number = next + self.pending.len() as u64;
        }
        self.pending_bytes = self.pending.iter().map(|pending| pending.payload.len()).sum();
        if !mutant!(self, KeepOwn) {
            self.send_again();
        }
        self.view_is_stale = true;
    }

    fn forget_old(&mut self) {
        let too_many = self.recent.len().saturating_sub(self.config.recent);
        self.recent.drain(..too_many);
    }

    fn submit(&mut self, fragments: Vec<D::Fragment>) {
        let number = self.next_number;
        self.next_number += 1;
        let payload = encode_update::<D>(self.id, number, &fragments);
        self.pending_bytes += payload.len();
        let (replica, refused) = (self.id, false);
        self.pending.push_back(Pending { replica, number, refused, fragments, payload: payload.clone() });
        self.put(payload);
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
                None => {
                    let name = self.config.name.clone();
                    return Err(UpdateError::Document(DocumentError::Panicked { name }));
                }
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
            let size: usize = fragments.iter().map(|fragment| D::encode(fragment).len()).sum();
            if size > self.config.max_update {
                let (name, limit) = (self.config.name.clone(), self.config.max_update);
                match D::MODEL {
                    Model::Ordered => self.rebuild_view(),
                    // What was done to it cannot be taken back.
                    Model::Commutative => {
                        self.fail(DocumentError::TooLarge { name: name.clone(), size, limit })
                    }
                }
                return Err(UpdateError::TooLarge { name, size, limit });
            }
            self.submit(fragments);
            let author = Author { endpoint: self.config.me, replica: self.id, local: true, position: None };
            self.event(DocumentEvent::Changed { by: author, changes });
        }
        match result {
            Ok(value) => Ok(value),
            Err(panic) => resume_unwind(panic),
        }
    }
}

fn encode_update<D: Document>(replica: u64, number: u64, fragments: &[D::Fragment]) -> Bytes {
    let fragments = fragments.iter().map(|fragment| Bytes::from(D::encode(fragment))).collect();
    Update { kind: D::KIND.to_owned(), replica, number, fragments }.encode()
}

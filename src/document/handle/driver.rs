//! Drives the machine of an open document: one task reads, another sends, and the application's threads change it in between.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant as TokioInstant;
use tokio_util::sync::CancellationToken;

use crate::endpoint::{Batch, Endpoint, Event, Events, Messages, Receipt, Sender, StreamOptions};
use crate::error::{RecvError, SendError};
use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;
use crate::sync::lock;

use super::super::outgoing::{Lost, Outgoing, Queue, message, next_lost};
use super::super::presence::{self, Presence, Presences};
use super::super::replica::{Config, Output, Replica};
use super::super::wire;
use super::super::{Document, DocumentError, DocumentEvent, Draft, UpdateError};
use super::{DocumentOptions, subscribe_error};

/// How many events may wait for each that listens (a guess).
const EVENTS: usize = 1_024;
/// How many of its own updates an ordered document remembers (a guess).
const MOST_RECENT: usize = 1_024;

/// What those who wait want to know.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    pub(super) begun: bool,
    pub(super) synced: bool,
    pub(super) unsynced: usize,
    pub(super) stored: Option<Position>,
    pub(super) failed: Option<DocumentError>,
    /// How many updates of others were let in.
    let_in: u64,
}

/// What the handles and the tasks of an open document share.
pub(super) struct Shared<D: Document> {
    name: String,
    me: EndpointId,
    replica: Mutex<Replica<D>>,
    presence: Mutex<OwnPresence>,
    others: Mutex<Presences>,
    events: broadcast::Sender<DocumentEvent<D>>,
    status: watch::Sender<Status>,
    outgoing: Outgoing,
    /// There is a part of the document to be sent to somebody.
    part: Notify,
    /// Answers to others that could not be sent.
    unsent: AtomicU64,
    /// The reader has something new to look at.
    wake: Notify,
    closing: CancellationToken,
    /// The writer is done.
    done: CancellationToken,
    /// How many updates of others may be let in.
    held: watch::Sender<u64>,
    clock: TokioInstant,
}

#[derive(Debug, Default)]
struct OwnPresence {
    state: Option<Bytes>,
    /// When it is to be told, next.
    due: Option<Instant>,
    told: Option<Instant>,
}

/// Starts the tasks of a document.
pub(super) fn start<D: Document, E: Endpoint + ?Sized>(
    endpoint: &E,
    name: &str,
    options: &DocumentOptions,
) -> Arc<Shared<D>> {
    let me = endpoint.id();
    let config = Config {
        name: name.to_owned(),
        me,
        seed: options.replica.unwrap_or_else(random),
        create: options.create,
        max_unsynced: options.max_unsynced,
        max_update: options.max_update,
        read_only: !endpoint.role().may_send(),
        max_message: endpoint.sender().max_message(),
        recent: MOST_RECENT,
        #[cfg(any(test, feature = "test-utils"))]
        mutant: None,
    };
    let (outgoing, queue) = Queue::new();
    let shared = Arc::new(Shared {
        name: name.to_owned(),
        me,
        replica: Mutex::new(Replica::new(config)),
        presence: Mutex::default(),
        others: Mutex::default(),
        events: broadcast::Sender::new(EVENTS),
        status: watch::Sender::default(),
        outgoing,
        part: Notify::new(),
        unsent: AtomicU64::new(0),
        wake: Notify::new(),
        closing: CancellationToken::new(),
        done: CancellationToken::new(),
        held: watch::Sender::new(u64::MAX),
        clock: TokioInstant::now(),
    });
    let reader = Reader {
        shared: Arc::clone(&shared),
        _alive: Alive(Arc::clone(&shared)),
        messages: endpoint.messages_with(&stream_options(me, name)),
        events: Some(endpoint.events()),
        sender: endpoint.sender(),
        let_in: 0,
    };
    // What it has to say from the beginning.
    shared.with(|_| ());
    tokio::spawn(reader.run());
    tokio::spawn(write(Arc::clone(&shared), endpoint.sender(), queue));
    shared
}

/// Changes and answers come in one stream, in their order.
fn stream_options(me: EndpointId, name: &str) -> StreamOptions {
    let answers = wire::answer_topic(me);
    StreamOptions::new().prefix(wire::prefix(name)).prefix(answers).prefix(wire::KEEPER_TOPIC).echo(true)
}

/// A number of the system's generator; where that fails, of the process's hasher.
pub(in crate::document) fn random() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes).max(1),
        Err(_) => {
            use std::hash::{BuildHasher, Hasher, RandomState};
            RandomState::new().build_hasher().finish().max(1)
        }
    }
}

impl<D: Document> Shared<D> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn now(&self) -> Instant {
        Instant::since_start(self.clock.elapsed())
    }

    /// Does something with the machine, and passes on what it wants said, in its order.
    fn with<R>(&self, act: impl FnOnce(&mut Replica<D>) -> R) -> R {
        let mut replica = lock(&self.replica);
        let result = act(&mut replica);
        while let Some(output) = replica.poll_output() {
            match output {
                // Nobody listening is no error.
                Output::Event(event) => _ = self.events.send(event),
                Output::Say { .. } => self.outgoing.send(self.message(output)),
                Output::Answer { .. } => {
                    if !self.outgoing.answer(self.message(output)) {
                        self.unsent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        if replica.has_part() {
            self.part.notify_one();
        }
        self.status.send_if_modified(|status| {
            let failed = replica.failure().is_some() && status.failed.is_none();
            let new = (replica.has_begun(), replica.is_synced(), replica.unsynced(), replica.stored());
            let changed = failed || new != (status.begun, status.synced, status.unsynced, status.stored);
            (status.begun, status.synced, status.unsynced, status.stored) = new;
            if failed {
                status.failed = replica.failure().cloned();
            }
            changed
        });
        result
    }

    /// What the machine wants sent.
    fn message(&self, output: Output<D>) -> Option<Message> {
        match output {
            Output::Say { kind, payload } => message(wire::live_topic(&self.name), kind, payload),
            Output::Answer { to, payload } => {
                message(wire::answer_topic(to), MessageKind::FullDocument, payload)
            }
            Output::Event(_) => None,
        }
    }

    pub(super) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.closing.is_cancelled() && self.status.borrow().failed.is_none()
    }

    pub(super) fn position(&self) -> Option<Position> {
        lock(&self.replica).position()
    }

    pub(super) fn malformed(&self) -> u64 {
        lock(&self.replica).malformed() + lock(&self.others).malformed()
    }

    pub(super) fn unsent(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&D) -> R) -> R {
        read(lock(&self.replica).document())
    }

    pub(super) fn update<R>(&self, change: impl FnOnce(&mut Draft<'_, D>) -> R) -> Result<R, UpdateError> {
        if self.closing.is_cancelled() {
            return Err(self.closed_error().into());
        }
        // A panic in `change` must not keep what was done before it from going out.
        let result = self.with(|replica| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| replica.update(change)))
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn closed_error(&self) -> DocumentError {
        DocumentError::Closed { name: self.name.clone() }
    }

    /// Waits until the status is as it should be.
    async fn wait_for(&self, mut is: impl FnMut(&Status) -> bool) -> Result<(), DocumentError> {
        let mut status = self.status.subscribe();
        let waited = async {
            // The sender lives as long as we do.
            match status.wait_for(|status| is(status) || status.failed.is_some()).await {
                Ok(status) => status.failed.clone().map_or(Ok(()), Err),
                Err(_) => Err(self.closed_error()),
            }
        };
        tokio::select! {
            biased;
            result = waited => result,
            () = self.closing.cancelled() => Err(self.closed_error()),
        }
    }

    pub(super) async fn opened(&self) -> Result<(), DocumentError> {
        self.wait_for(|status| status.begun).await
    }

    pub(super) async fn synced(&self) -> Result<(), DocumentError> {
        self.wait_for(|status| status.synced).await
    }

    pub(super) async fn until_stored(&self, position: Position) -> Result<(), DocumentError> {
        self.wait_for(|status| status.stored.is_some_and(|stored| stored >= position)).await
    }

    pub(super) async fn has_room(&self) -> Result<(), UpdateError> {
        loop {
            let unsynced = match lock(&self.replica).may_update() {
                Err(UpdateError::Full { unsynced, .. }) => unsynced,
                other => return other,
            };
            self.wait_for(|status| status.unsynced < unsynced).await?;
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<DocumentEvent<D>> {
        self.events.subscribe()
    }

    /// Events are passed on while the machine is locked: none falls between the two.
    pub(super) fn watch<R>(&self, read: impl FnOnce(&D) -> R) -> (R, broadcast::Receiver<DocumentEvent<D>>) {
        let replica = lock(&self.replica);
        let events = self.events.subscribe();
        (read(replica.document()), events)
    }

    pub(super) fn set_presence(&self, state: Bytes) {
        let now = self.now();
        let mut own = lock(&self.presence);
        own.state = Some(state);
        own.due = Some(own.told.map_or(now, |told| (told + presence::TELL_AT_MOST_EVERY).max(now)));
        drop(own);
        self.wake.notify_one();
    }

    pub(super) fn presence(&self) -> Vec<Presence> {
        lock(&self.others).all()
    }

    fn tell_presence(&self, state: Option<&Bytes>) {
        let payload = presence::encode(lock(&self.replica).id(), state);
        let topic = wire::presence_topic(&self.name);
        self.outgoing.send(message(topic, MessageKind::Data, payload));
    }

    /// Tells the own presence, if that is due.
    fn tell_presence_if_due(&self) {
        let now = self.now();
        // Kept until it is told, as in `close`: nothing is told behind the goodbye.
        let mut own = lock(&self.presence);
        if self.closing.is_cancelled() || own.due.is_none_or(|due| now < due) {
            return;
        }
        own.told = Some(now);
        own.due = own.state.is_some().then(|| now + presence::TELL_EVERY);
        if own.state.is_some() {
            self.tell_presence(own.state.as_ref());
        }
    }

    pub(super) fn close(&self) {
        let mut own = lock(&self.presence);
        if !self.closing.is_cancelled() && own.state.take().is_some() {
            self.tell_presence(None);
        }
        self.closing.cancel();
    }

    pub(super) async fn closed(&self) {
        self.done.cancelled().await;
    }

    #[cfg(any(test, feature = "test-utils"))]
    pub(super) fn hold(&self, updates: u64) {
        self.held.send_replace(updates);
    }

    #[cfg(any(test, feature = "test-utils"))]
    pub(super) async fn let_in(&self, updates: u64) {
        // An error is the end, and nothing to wait for.
        let _ = self.wait_for(|status| status.let_in >= updates).await;
    }
}

/// Each task has one: where it ends and the document was not closed, by a panic say, the document ends with it, and whoever waits is told.
struct Alive<D: Document>(Arc<Shared<D>>);

impl<D: Document> Drop for Alive<D> {
    fn drop(&mut self) {
        let shared = &self.0;
        if !shared.closing.is_cancelled() {
            let name = shared.name.clone();
            let error = match std::thread::panicking() {
                true => DocumentError::Panicked { name },
                false => DocumentError::Closed { name },
            };
            shared.with(|replica| replica.fail(error));
            shared.closing.cancel();
        }
    }
}

/// Takes in what concerns the document.
struct Reader<D: Document> {
    shared: Arc<Shared<D>>,
    _alive: Alive<D>,
    messages: Messages,
    events: Option<Events>,
    sender: Sender,
    /// How many updates of others were let in.
    let_in: u64,
}

impl<D: Document> Reader<D> {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let end = loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => break None,
                () = sleep_until(&shared, deadline) => {}
                () = shared.wake.notified() => {}
                event = next_event(&mut self.events) => self.on_event(event),
                item = self.messages.next_batch() => match item {
                    Some(Ok(batch)) => self.take(batch).await,
                    Some(Err(RecvError::Overrun)) => {
                        // What waited is lost, but not what is in order: begin again.
                        self.messages = self.sender.messages_with(&stream_options(shared.me, &shared.name));
                        shared.with(Replica::on_reset);
                    }
                    Some(Err(RecvError::Reset { .. } | RecvError::Lagged(_))) => shared.with(Replica::on_reset),
                    Some(Err(_)) | None => break Some(shared.closed_error()),
                },
            }
            let now = shared.now();
            shared.with(|replica| replica.handle_timeout(now));
            shared.tell_presence_if_due();
            if lock(&shared.others).expire(now) {
                // Nobody listening is no error.
                let _ = shared.events.send(DocumentEvent::Presence);
            }
        };
        if let Some(error) = end {
            shared.with(|replica| replica.fail(error));
            shared.closing.cancel();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let replica = lock(&self.shared.replica).poll_timeout();
        let own = lock(&self.shared.presence).due;
        let others = lock(&self.shared.others).next_expiry();
        [replica, own, others].into_iter().flatten().min()
    }

    fn on_event(&mut self, event: Option<Event>) {
        match event {
            Some(Event::MemberLeft { id, .. }) => {
                if lock(&self.shared.others).on_left(id) {
                    // As above.
                    let _ = self.shared.events.send(DocumentEvent::Presence);
                }
            }
            Some(_) => {}
            None => self.events = None,
        }
    }

    async fn take(&mut self, mut batch: Batch) {
        let shared = Arc::clone(&self.shared);
        if batch.as_slice().iter().any(may_be_the_hosts) {
            let host = self.sender.host();
            shared.with(|replica| replica.set_host(host));
        }
        if *shared.held.borrow() == u64::MAX {
            let now = shared.now();
            let mut told = VecDeque::new();
            let mut let_in = 0;
            shared.with(|replica| {
                for message in batch.by_ref() {
                    if is_presence(&message) {
                        told.push_back(message);
                    } else {
                        let_in += u64::from(is_foreign_update(shared.me, &message));
                        replica.on_message(now, &message);
                    }
                }
                replica.settle();
            });
            self.count(let_in);
            told.into_iter().for_each(|message| self.on_presence(now, &message));
            return;
        }
        for message in batch {
            let foreign = is_foreign_update(shared.me, &message);
            if foreign {
                let mut held = shared.held.subscribe();
                // The sender lives as long as we do; what is held back when the document is closed is not needed.
                tokio::select! {
                    _ = held.wait_for(|held| self.let_in < *held) => {}
                    () = shared.closing.cancelled() => return,
                }
            }
            let now = shared.now();
            if is_presence(&message) {
                self.on_presence(now, &message);
            } else {
                shared.with(|replica| {
                    replica.on_message(now, &message);
                    replica.settle();
                });
            }
            self.count(u64::from(foreign));
        }
    }

    fn count(&mut self, let_in: u64) {
        if let_in > 0 {
            self.let_in += let_in;
            let sum = self.let_in;
            self.shared.status.send_modify(|status| status.let_in = sum);
        }
    }

    fn on_presence(&mut self, now: Instant, message: &Message) {
        let from = message.origin();
        // Whatever number it was told under.
        if from == self.shared.me {
            return;
        }
        let first = {
            let mut others = lock(&self.shared.others);
            let before = others.len();
            if !others.on_message(now, from, message.payload()) {
                return;
            }
            others.len() > before
        };
        // Somebody new knows nothing of us.
        if first {
            let mut own = lock(&self.shared.presence);
            if own.state.is_some() {
                let soon = own.told.map_or(now, |told| (told + presence::TELL_AT_MOST_EVERY).max(now));
                own.due = Some(own.due.map_or(soon, |due| due.min(soon)));
            }
        }
        // As above.
        let _ = self.shared.events.send(DocumentEvent::Presence);
    }
}

fn is_presence(message: &Message) -> bool {
    message.kind() == MessageKind::Data && message.topic().as_str().ends_with("/p")
}

/// Whether it may be what only the host may say.
fn may_be_the_hosts(message: &Message) -> bool {
    match message.kind() {
        MessageKind::FullDocument => true,
        MessageKind::Data => !is_presence(message),
        MessageKind::DocumentFragment | MessageKind::FullDocumentRequest => false,
    }
}

fn is_foreign_update(me: EndpointId, message: &Message) -> bool {
    message.kind() == MessageKind::DocumentFragment && message.origin() != me
}

async fn next_event(events: &mut Option<Events>) -> Option<Event> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until<D: Document>(shared: &Shared<D>, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(shared.clock + deadline.elapsed()).await,
        None => std::future::pending().await,
    }
}

/// Sends what the document has to say, in its order.
async fn write<D: Document>(shared: Arc<Shared<D>>, sender: Sender, mut queue: Queue) {
    let _alive = Alive(Arc::clone(&shared));
    let _done = shared.done.clone().drop_guard();
    let topics = [wire::answer_topic(shared.me), wire::KEEPER_TOPIC.to_owned(), wire::prefix(&shared.name)];
    // Not given up when the document is closed meanwhile: what was taken up is to be released, once.
    let taken_up = sender.take_up(&topics).await;
    if let Err(error) = &taken_up {
        shared.with(|replica| replica.fail(subscribe_error(&shared.name, error)));
    }
    // The messages whose fates are open, in their order: the last one's fate does not tell those of the others.
    let mut open: VecDeque<(MessageKind, Receipt)> = VecDeque::new();
    loop {
        let part = || {
            let part = lock(&shared.replica).poll_part();
            part.and_then(|part| shared.message(part))
        };
        let message = tokio::select! {
            biased;
            lost = next_lost(&mut open) => {
                match lost {
                    (Lost::Unknown, _) => shared.with(Replica::on_unknown),
                    (Lost::Refused, kind) => shared.with(|replica| replica.on_refused(kind)),
                }
                continue;
            }
            () = shared.closing.cancelled() => queue.try_next(),
            message = queue.next(&shared.part, part) => message,
        };
        let Some(message) = message else { break };
        let kind = message.kind();
        match sender.send(message).await {
            Ok(receipt) => open.push_back((kind, receipt)),
            Err(error) => on_unsent(&shared, error),
        }
    }
    if taken_up.is_ok() {
        // An endpoint that has ended takes nothing any more anyway.
        let _ = sender.release(&topics).await;
    }
}

/// What is said for others is missed by them, and they ask again. Without what it has to say for itself a document is of no use.
fn on_unsent<D: Document>(shared: &Shared<D>, error: SendError) {
    let reason = error.to_string();
    match error.into_message().kind() {
        MessageKind::DocumentFragment | MessageKind::FullDocumentRequest => {
            let name = shared.name.clone();
            shared.with(|replica| replica.fail(DocumentError::Refused { name, reason }));
        }
        _ => {
            tracing::warn!(document = shared.name, reason, "an answer to another endpoint was not sent");
            shared.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

//! What the handles and the tasks of an open document share: its machine, under one lock, and who waits for what.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant as TokioInstant;
use tokio_util::sync::CancellationToken;

use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;
use crate::sync::lock;

use super::super::outgoing::{Outgoing, message};
use super::super::presence::{self, Presence, Presences};
use super::super::replica::{Config, Output, Replica};
use super::super::wire;
use super::super::{Document, DocumentError, DocumentEvent, Draft, UpdateError};

/// How many events may wait for each that listens (a guess).
const EVENTS: usize = 1_024;

/// What those who wait want to know.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    pub(super) begun: bool,
    pub(super) synced: bool,
    pub(super) unsynced: usize,
    pub(super) stored: Option<Position>,
    pub(super) failed: Option<DocumentError>,
    /// How many updates of others were let in.
    pub(super) let_in: u64,
}

/// What the handles and the tasks of an open document share.
pub(super) struct Shared<D: Document> {
    pub(super) name: String,
    pub(super) me: EndpointId,
    pub(super) replica: Mutex<Replica<D>>,
    pub(super) presence: Mutex<OwnPresence>,
    pub(super) others: Mutex<Presences>,
    pub(super) events: broadcast::Sender<DocumentEvent<D>>,
    pub(super) status: watch::Sender<Status>,
    outgoing: Outgoing,
    /// There is a part of the document to be sent to somebody.
    pub(super) part: Notify,
    /// Answers to others that could not be sent.
    pub(super) unsent: AtomicU64,
    /// The reader has something new to look at.
    pub(super) wake: Notify,
    pub(super) closing: CancellationToken,
    /// The writer is done.
    pub(super) done: CancellationToken,
    /// How many updates of others may be let in.
    pub(super) held: watch::Sender<u64>,
    pub(super) clock: TokioInstant,
}

#[derive(Debug, Default)]
pub(super) struct OwnPresence {
    pub(super) state: Option<Bytes>,
    /// When it is to be told, next.
    pub(super) due: Option<Instant>,
    pub(super) told: Option<Instant>,
}

impl OwnPresence {
    /// When it may be told next.
    pub(super) fn soonest(&self, now: Instant) -> Instant {
        self.told.map_or(now, |told| (told + presence::TELL_AT_MOST_EVERY).max(now))
    }
}

impl<D: Document> Shared<D> {
    pub(super) fn new(config: Config, outgoing: Outgoing) -> Arc<Self> {
        Arc::new(Self {
            name: config.name.clone(),
            me: config.me,
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
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn now(&self) -> Instant {
        Instant::since_start(self.clock.elapsed())
    }

    /// Does something with the machine, and passes on what it wants said, in its order.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut Replica<D>) -> R) -> R {
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
    pub(super) fn message(&self, output: Output<D>) -> Option<Message> {
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

    pub(super) fn closed_error(&self) -> DocumentError {
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
        own.due = Some(own.soonest(now));
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
    pub(super) fn tell_presence_if_due(&self) {
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
pub(super) struct Alive<D: Document>(pub(super) Arc<Shared<D>>);

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

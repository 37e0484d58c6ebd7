//! The task that reads: what concerns an open document goes into its machine.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;

use crate::endpoint::{Batch, Endpoint, Event, Events, Messages, Sender, StreamOptions};
use crate::error::RecvError;
use crate::id::EndpointId;
use crate::message::{Message, MessageKind};
use crate::proto::Instant;
use crate::sync::lock;

use super::super::wire;
use super::super::{Document, DocumentEvent};
use super::shared::{Alive, Shared};

/// Takes in what concerns the document.
pub(super) struct Reader<D: Document> {
    shared: Arc<Shared<D>>,
    _alive: Alive<D>,
    messages: Messages,
    events: Option<Events>,
    sender: Sender,
    /// How many updates of others were let in.
    let_in: u64,
}

impl<D: Document> Reader<D> {
    pub(super) fn new<E: Endpoint + ?Sized>(shared: &Arc<Shared<D>>, endpoint: &E) -> Self {
        Self {
            shared: Arc::clone(shared),
            _alive: Alive(Arc::clone(shared)),
            messages: endpoint.messages_with(&stream_options(shared.me, shared.name())),
            events: Some(endpoint.events()),
            sender: endpoint.sender(),
            let_in: 0,
        }
    }

    pub(super) async fn run(mut self) {
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
                        self.on_reset();
                    }
                    Some(Err(RecvError::Reset { .. } | RecvError::Lagged(_))) => self.on_reset(),
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

    fn on_reset(&self) {
        let now = self.shared.now();
        self.shared.with(|replica| replica.on_reset(now));
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
                let soon = own.soonest(now);
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

/// Changes and answers come in one stream, in their order.
fn stream_options(me: EndpointId, name: &str) -> StreamOptions {
    let answers = wire::answer_topic(me);
    StreamOptions::new().prefix(wire::prefix(name)).prefix(answers).prefix(wire::KEEPER_TOPIC).echo(true)
}

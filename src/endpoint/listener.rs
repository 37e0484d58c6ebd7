//! The channel listener: one task per endpoint that reads the inbound channel and fans each message out to every consumer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::RecvError;
use crate::id::EndpointId;
use crate::message::Message;
use crate::sync::lock;
use crate::wire::Window;

use super::consumer::{Batch, Item, Queue};
use super::stats::Counters;

/// What the driver hands to the listener.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// Messages in order.
    Messages(Vec<Message>),
    /// A window of our own making, not decoded yet.
    Window(Bytes),
    /// Word of a hole, or of the reason why nothing more comes.
    Word(RecvError),
}

/// A consumer in its place.
#[derive(Debug, Clone)]
struct Consumer {
    prefix: String,
    queue: Arc<Queue>,
}

/// The consumers of an endpoint. Changed by the application, read by the listener for every batch.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    state: Mutex<ConsumersState>,
}

#[derive(Debug, Default)]
struct ConsumersState {
    /// Replaced as a whole, so that the listener can go through it without the lock.
    list: Arc<Vec<Consumer>>,
    ended: bool,
}

impl Consumers {
    /// Adds a queue that gets the messages of this prefix from now on. After the end it is ended at once.
    pub(crate) fn add(&self, prefix: &str, capacity: usize) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(capacity));
        let mut state = lock(&self.state);
        if state.ended {
            queue.end();
        } else {
            let kept = state.list.iter().filter(|consumer| !consumer.queue.is_abandoned()).cloned();
            let new = Consumer { prefix: prefix.to_owned(), queue: Arc::clone(&queue) };
            state.list = Arc::new(kept.chain([new]).collect());
        }
        queue
    }

    /// Whether anybody consumes anything.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.state).list.iter().all(|consumer| consumer.queue.is_abandoned())
    }

    fn list(&self) -> Arc<Vec<Consumer>> {
        Arc::clone(&lock(&self.state).list)
    }

    /// Ends all queues, now and in future.
    fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        for consumer in std::mem::take(&mut state.list).iter() {
            consumer.queue.end();
        }
    }
}

/// What the listener needs to know of its endpoint.
#[derive(Debug)]
pub(crate) struct ChannelListener {
    pub(crate) id: EndpointId,
    /// Whether own messages are shown.
    pub(crate) echo: bool,
    pub(crate) max_message: usize,
    /// Prefixes of which one must match, where the driver does not filter.
    pub(crate) subscriptions: Option<Arc<Mutex<std::collections::BTreeSet<String>>>>,
    pub(crate) consumers: Arc<Consumers>,
    pub(crate) counters: Arc<Counters>,
}

impl ChannelListener {
    /// Fans out until the channel closes, then ends the consumers.
    pub(crate) async fn run(self, mut inbound: mpsc::Receiver<Delivery>) {
        while let Some(delivery) = inbound.recv().await {
            match delivery {
                Delivery::Messages(messages) => self.fan_out(messages).await,
                Delivery::Window(body) => match Window::decode(&body, self.max_message) {
                    Ok(window) => self.fan_out(window.messages).await,
                    Err(malformed) => debug_assert!(false, "our own window is {malformed}"),
                },
                Delivery::Word(word) => {
                    for consumer in self.consumers.list().iter() {
                        consumer.queue.push(Item::Word(word.clone())).await;
                    }
                }
            }
        }
        self.consumers.end();
    }

    async fn fan_out(&self, mut messages: Vec<Message>) {
        if !self.echo && messages.iter().any(|message| message.origin() == self.id) {
            messages.retain(|message| message.origin() != self.id);
        }
        if let Some(subscriptions) = &self.subscriptions {
            let subscriptions = lock(subscriptions);
            if !subscriptions.contains("") {
                messages.retain(|m| subscriptions.iter().any(|p| m.topic().as_str().starts_with(p.as_str())));
            }
        }
        if messages.is_empty() {
            return;
        }
        let mut messages = Arc::new(messages);
        let consumers = self.consumers.list();
        for (number, consumer) in consumers.iter().enumerate() {
            // The last one gets ours, so that a consumer that is alone need not share.
            let last = number + 1 == consumers.len();
            let batch =
                consumer.select(if last { std::mem::take(&mut messages) } else { Arc::clone(&messages) });
            if batch.is_empty() {
                continue;
            }
            self.counters.delivered.fetch_add(batch.len() as u64, Ordering::Relaxed);
            if let Err(item) = consumer.queue.try_push(Item::Batch(batch)) {
                self.counters.listener_waits.fetch_add(1, Ordering::Relaxed);
                consumer.queue.push(item).await;
            }
        }
    }
}

impl Consumer {
    /// What of these messages is for this consumer.
    fn select(&self, messages: Arc<Vec<Message>>) -> Batch {
        let matches = |message: &Message| message.topic().as_str().starts_with(&self.prefix);
        // Not even looking at them is what a stream costs that takes all.
        if self.prefix.is_empty() || messages.iter().all(matches) {
            return Batch::new(messages);
        }
        Batch::new(Arc::new(messages.iter().filter(|message| matches(message)).cloned().collect()))
    }
}

//! Consumers: who takes the messages of an endpoint, and how far each has come.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;

use crate::error::RecvError;
use crate::flow::HighWaterMark;
use crate::id::EndpointId;
use crate::message::Message;
use crate::proto::{Instant, Reached};
use crate::sync::lock;

use super::batch::Batch;
use super::handler::OrderKey;
use super::queue::{Item, Load, Queue};

/// A stream or a handler in its place.
#[derive(Debug)]
pub(super) struct Consumer {
    name: String,
    /// One of them matches.
    prefixes: Vec<String>,
    /// Whether own messages are shown, though the endpoint as a whole does not show them.
    echo: bool,
    /// One, or one for each worker of a handler: messages of the same key go to the same.
    queues: Vec<Arc<Queue>>,
    key: OrderKey,
    load: Arc<Load>,
    overrun: AtomicBool,
    /// How much must wait before it is conflated again.
    conflate_at: AtomicUsize,
    watch: Mutex<Watch>,
}

/// When a consumer was last seen to get on.
#[derive(Debug)]
struct Watch {
    pulse: Vec<(u64, u64)>,
    moved_at: Instant,
}

impl Consumer {
    pub(super) fn new(
        name: &str,
        prefixes: &[String],
        echo: bool,
        workers: usize,
        key: OrderKey,
    ) -> Arc<Self> {
        let load = Arc::new(Load::default());
        Arc::new(Self {
            name: name.to_owned(),
            prefixes: prefixes.to_vec(),
            echo,
            queues: (0..workers.max(1)).map(|_| Arc::new(Queue::new(Arc::clone(&load)))).collect(),
            key,
            load,
            overrun: AtomicBool::new(false),
            conflate_at: AtomicUsize::new(0),
            watch: Mutex::new(Watch { pulse: Vec::new(), moved_at: Instant::START }),
        })
    }

    pub(super) fn queues(&self) -> &[Arc<Queue>] {
        &self.queues
    }

    /// Nobody reads any more.
    pub(super) fn abandon(&self) {
        self.queues.iter().for_each(|queue| queue.abandon());
    }

    pub(super) fn end(&self) {
        self.queues.iter().for_each(|queue| queue.end());
    }

    fn is_gone(&self) -> bool {
        self.overrun.load(Ordering::Relaxed) || self.queues.iter().all(|queue| queue.is_abandoned())
    }

    /// What of these messages is for this consumer; those of `own` only if it shows them.
    fn select(&self, messages: Arc<Vec<Message>>, own: Option<EndpointId>) -> Arc<Vec<Message>> {
        let hidden = if self.echo { None } else { own };
        let matches = |message: &Message| {
            let topic = message.topic().as_str();
            self.prefixes.iter().any(|prefix| topic.starts_with(prefix)) && hidden != Some(message.origin())
        };
        // Not even looking at them is what a stream costs that takes all.
        let takes_all = self.prefixes.iter().any(String::is_empty) && hidden.is_none();
        if takes_all || messages.iter().all(matches) {
            return messages;
        }
        Arc::new(messages.iter().filter(|message| matches(message)).cloned().collect())
    }

    /// Puts messages into its queues. `false`, and nothing put in, when more waits there than may: so one batch may go over.
    fn push(
        &self,
        messages: Arc<Vec<Message>>,
        (own, reign): (Option<EndpointId>, u64),
        limits: &Limits,
        outcome: &mut Outcome,
    ) -> bool {
        let messages = self.select(messages, own);
        if messages.is_empty() {
            return true;
        }
        if limits.are_exceeded_by(&self.load, 1) {
            return false;
        }
        outcome.delivered += messages.len() as u64;
        match self.queues.as_slice() {
            [queue] => queue.push(Batch::new(messages, reign)),
            queues => {
                let mut hands: Vec<Vec<Message>> = vec![Vec::new(); queues.len()];
                for message in messages.iter() {
                    hands[self.shard(message)].push(message.clone());
                }
                for (queue, hand) in queues.iter().zip(hands).filter(|(_, hand)| !hand.is_empty()) {
                    queue.push(Batch::new(Arc::new(hand), reign));
                }
            }
        }
        if !limits.conflatable.is_empty() {
            outcome.conflated += self.conflate(limits);
        }
        true
    }

    /// Of conflatable topics, keeps the newest messages alone once half of what may wait is reached.
    fn conflate(&self, limits: &Limits) -> u64 {
        let messages = self.load.messages();
        if messages <= self.conflate_at.load(Ordering::Relaxed) || !limits.are_exceeded_by(&self.load, 2) {
            return 0;
        }
        let gone = self.queues.iter().map(|queue| queue.conflate(&limits.conflatable)).sum();
        // Not again before it has grown to twice what is left: the work is in proportion to what comes.
        self.conflate_at.store(self.load.messages() * 2, Ordering::Relaxed);
        gone
    }

    fn shard(&self, message: &Message) -> usize {
        let mut hasher = DefaultHasher::new();
        match self.key {
            OrderKey::Origin => message.origin().hash(&mut hasher),
            OrderKey::Topic => message.topic().hash(&mut hasher),
        }
        (hasher.finish() % self.queues.len() as u64) as usize
    }

    /// Ends it: it was too slow.
    fn end_overrun(&self) {
        self.overrun.store(true, Ordering::Relaxed);
        self.queues.iter().for_each(|queue| queue.end_with(RecvError::Overrun));
    }

    /// Up to where it is done with all that was put in; `None` when that is everything.
    fn handled(&self) -> Option<Reached> {
        self.queues.iter().filter_map(|queue| queue.handled()).min()
    }
}

/// How much may wait for a consumer, and of what only the newest counts.
#[derive(Debug)]
struct Limits {
    messages: usize,
    bytes: usize,
    age: Duration,
    conflatable: Vec<String>,
}

impl Limits {
    fn new(marks: &HighWaterMark, conflatable: Vec<String>) -> Self {
        let most = |mark: u64| usize::try_from(mark).unwrap_or(usize::MAX);
        Self { messages: most(marks.messages), bytes: most(marks.bytes), age: marks.age, conflatable }
    }

    /// Whether more waits than this part of what may.
    fn are_exceeded_by(&self, load: &Load, part: usize) -> bool {
        load.messages() > self.messages / part || load.bytes() > self.bytes / part
    }
}

/// What became of messages that were dealt out.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Messages put into queues, counted once for each.
    pub(super) delivered: u64,
    /// Messages that newer ones of their topics took the place of.
    pub(super) conflated: u64,
    /// The consumers that ended because they were too slow.
    pub(super) overrun: Vec<String>,
}

/// The consumers of an endpoint. Changed by the application, used by the driver for every window.
#[derive(Debug)]
pub(crate) struct Consumers {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Replaced as a whole, so that the driver can go through it without the lock.
    list: Arc<Vec<Arc<Consumer>>>,
    limits: Arc<Limits>,
    /// Whether a consumer was too slow, and none was added since.
    overran: bool,
    ended: bool,
}

impl Default for Consumers {
    fn default() -> Self {
        let limits = Arc::new(Limits::new(&HighWaterMark::new(), Vec::new()));
        Self { state: Mutex::new(State { list: Arc::default(), limits, overran: false, ended: false }) }
    }
}

impl Consumers {
    /// Sets how much may wait for each consumer.
    pub(super) fn set_marks(&self, marks: &HighWaterMark, conflatable: Vec<String>) {
        lock(&self.state).limits = Arc::new(Limits::new(marks, conflatable));
    }

    /// Adds a consumer that gets the messages of its prefix from now on. After the end it is ended at once.
    pub(super) fn add(&self, consumer: Arc<Consumer>) {
        let mut state = lock(&self.state);
        if state.ended {
            consumer.end();
        } else {
            state.overran = false;
            let kept = state.list.iter().filter(|consumer| !consumer.is_gone()).cloned();
            state.list = Arc::new(kept.chain([consumer]).collect());
        }
    }

    /// Whether anybody consumes anything.
    pub(super) fn is_empty(&self) -> bool {
        self.list().iter().all(|consumer| consumer.is_gone())
    }

    /// Whether anybody wants to see the endpoint's own messages, though it does not show them as a whole.
    pub(super) fn want_echo(&self) -> bool {
        self.list().iter().any(|consumer| consumer.echo && !consumer.is_gone())
    }

    /// Whether there were consumers, and all of them have been too slow.
    pub(super) fn have_all_overrun(&self) -> bool {
        lock(&self.state).overran && self.is_empty()
    }

    /// Up to where all of them are done with all that was dealt out; `None` when that is everything.
    pub(super) fn handled(&self) -> Option<Reached> {
        self.list()
            .iter()
            .filter(|consumer| !consumer.is_gone())
            .filter_map(|consumer| consumer.handled())
            .min()
    }

    fn list(&self) -> Arc<Vec<Arc<Consumer>>> {
        Arc::clone(&lock(&self.state).list)
    }

    /// Deals out messages of a [reign](Reached); those of `own` to consumers with an echo alone.
    /// Never waits: a consumer that has fallen too far behind ends alone.
    pub(super) fn deliver(&self, messages: Vec<Message>, own: Option<EndpointId>, reign: u64) -> Outcome {
        let mut outcome = Outcome::default();
        let (consumers, limits) = {
            let state = lock(&self.state);
            (Arc::clone(&state.list), Arc::clone(&state.limits))
        };
        let mut messages = Arc::new(messages);
        for (number, consumer) in consumers.iter().enumerate() {
            // The last one gets ours, so that a consumer that is alone need not share.
            let last = number + 1 == consumers.len();
            let batch = if last { std::mem::take(&mut messages) } else { Arc::clone(&messages) };
            if !consumer.is_gone() && !consumer.push(batch, (own, reign), &limits, &mut outcome) {
                self.overrun(consumer, &mut outcome);
            }
        }
        outcome
    }

    /// Ends consumers that have taken nothing for the age mark while another has got on.
    pub(super) fn check(&self, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let (consumers, age) = {
            let state = lock(&self.state);
            (Arc::clone(&state.list), state.limits.age)
        };
        let mut stalled = Vec::new();
        let mut newest = Instant::START;
        for consumer in consumers.iter().filter(|consumer| !consumer.is_gone()) {
            let pulse: Vec<(u64, u64)> = consumer.queues.iter().map(|queue| queue.pulse()).collect();
            let mut watch = lock(&consumer.watch);
            if consumer.load.messages() == 0 || watch.pulse != pulse {
                *watch = Watch { pulse, moved_at: now };
            }
            newest = newest.max(watch.moved_at);
            if now.since(watch.moved_at) > age {
                stalled.push((watch.moved_at, Arc::clone(consumer)));
            }
        }
        for (moved_at, consumer) in stalled {
            if newest > moved_at + age {
                self.overrun(&consumer, &mut outcome);
            }
        }
        outcome
    }

    fn overrun(&self, consumer: &Consumer, outcome: &mut Outcome) {
        consumer.end_overrun();
        outcome.overrun.push(consumer.name.clone());
        lock(&self.state).overran = true;
    }

    /// Says a word to all.
    pub(super) fn tell(&self, word: &RecvError) {
        for queue in self.list().iter().flat_map(|consumer| consumer.queues()) {
            queue.push_word(word.clone());
        }
    }

    /// Ends all, now and in future.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        std::mem::take(&mut state.list).iter().for_each(|consumer| consumer.end());
    }
}

/// What a stream shows. See [`Endpoint::messages_with`](super::Endpoint::messages_with).
///
/// ```
/// let options = zincmq::StreamOptions::new().prefix("sensor.").echo(true);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Default)]
pub struct StreamOptions {
    pub(super) prefixes: Vec<String>,
    pub(super) echo: bool,
}

impl StreamOptions {
    /// Everything the endpoint receives, without its own messages unless it was built with `echo(true)`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Topics of this prefix, too, and none but those of such prefixes, of what the endpoint subscribes to. Without any: all.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefixes.push(prefix.into());
        self
    }

    /// Whether the endpoint's own messages are shown, in their places. Default: as the endpoint was built.
    #[must_use]
    pub fn echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }
}

/// The messages an endpoint receives, as a [`Stream`]. Made by [`Endpoint::messages`](super::Endpoint::messages).
///
/// An item is a message, or a word: [`RecvError::Reset`] says that messages were missed and where delivery goes on,
/// [`RecvError::Lagged`] that newer ones have taken the place of some. The stream ends when the endpoint does; before the end it says
/// why, when the host turned the endpoint away or sent it away.
///
/// Streams are independent of each other, and each has a queue, bounded by the cluster's [`HighWaterMark`]. One that
/// overruns it, or is not read for the mark's age while another consumer gets on, ends alone, with [`RecvError::Overrun`]. What is not handled is what the host sees the endpoint lag
/// behind; a message counts as handled when the next one is asked for. Drop streams you do not read.
#[derive(Debug)]
pub struct Messages {
    consumer: Arc<Consumer>,
    current: Batch,
}

impl Messages {
    pub(super) fn new(consumers: &Consumers, options: &StreamOptions) -> Self {
        let everything = [String::new()];
        let prefixes = if options.prefixes.is_empty() { &everything } else { &options.prefixes[..] };
        let consumer = Consumer::new("messages", prefixes, options.echo, 1, OrderKey::Origin);
        consumers.add(Arc::clone(&consumer));
        Self { consumer, current: Batch::default() }
    }

    fn queue(&self) -> &Queue {
        &self.consumer.queues[0]
    }

    /// The next batch: what came in together, for consumers that handle many messages at once. `None` at the end.
    ///
    /// Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`RecvError`], as an item of the stream.
    pub async fn next_batch(&mut self) -> Option<Result<Batch, RecvError>> {
        if !self.current.is_empty() {
            return Some(Ok(std::mem::take(&mut self.current)));
        }
        Some(match self.queue().pop().await? {
            Item::Batch(batch) => Ok(batch),
            Item::Word(word) => Err(word),
        })
    }
}

impl Stream for Messages {
    type Item = Result<Message, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(message) = self.current.next() {
                return Poll::Ready(Some(Ok(message)));
            }
            match self.queue().poll_pop(cx) {
                Poll::Ready(Some(Item::Batch(batch))) => self.current = batch,
                Poll::Ready(Some(Item::Word(word))) => return Poll::Ready(Some(Err(word))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.consumer.abandon();
    }
}

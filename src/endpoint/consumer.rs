//! Consumers: the queues behind message streams and handlers, and the stream itself.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::vec;

use futures::Stream;
use tokio::sync::Notify;

use crate::error::RecvError;
use crate::message::{Message, Position};
use crate::sync::lock;

/// A run of messages in order, as they came in: consecutive but for those that were not asked for.
///
/// Iterate over it to take the messages out one by one.
#[derive(Debug, Clone)]
pub struct Batch {
    messages: Run,
    /// Where the message stood that was taken last.
    last_taken: Option<Position>,
}

#[derive(Debug, Clone)]
enum Run {
    /// Other consumers have it, too: messages are cloned as they are taken. The number says how many were taken.
    Shared(Arc<Vec<Message>>, usize),
    /// Nobody else has it.
    Own(vec::IntoIter<Message>),
}

impl Batch {
    pub(crate) fn new(messages: Arc<Vec<Message>>) -> Self {
        Self { messages: Run::Shared(messages, 0), last_taken: None }
    }

    /// The same batch, to be read: when all other consumers are done with it its messages are moved out, not cloned.
    pub(super) fn unshared(self) -> Self {
        let messages = match self.messages {
            Run::Shared(messages, 0) => match Arc::try_unwrap(messages) {
                Ok(messages) => Run::Own(messages.into_iter()),
                Err(messages) => Run::Shared(messages, 0),
            },
            other => other,
        };
        Self { messages, last_taken: self.last_taken }
    }

    /// The messages that are left, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Message] {
        match &self.messages {
            Run::Shared(messages, taken) => &messages[*taken..],
            Run::Own(messages) => messages.as_slice(),
        }
    }

    /// Where the message stood that was taken last.
    pub(super) fn last_taken(&self) -> Option<Position> {
        self.last_taken
    }

    /// How many messages are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether no message is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self { messages: Run::Own(vec::IntoIter::default()), last_taken: None }
    }
}

impl Iterator for Batch {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let message = match &mut self.messages {
            Run::Shared(messages, taken) => {
                let message = messages.get(*taken)?.clone();
                *taken += 1;
                message
            }
            Run::Own(messages) => messages.next()?,
        };
        self.last_taken = message.position();
        Some(message)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl ExactSizeIterator for Batch {}

/// What a consumer's queue holds.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Batch(Batch),
    /// Word of a hole, or of the reason why nothing more comes.
    Word(RecvError),
}

impl Item {
    fn messages(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.len(),
            Self::Word(_) => 0,
        }
    }
}

/// A bounded queue of one consumer: filled by the listener, emptied by a stream or a handler.
#[derive(Debug)]
pub(crate) struct Queue {
    capacity: usize,
    state: Mutex<QueueState>,
    /// Tells the listener that there is room, or that nobody reads any more.
    room: Notify,
    /// Nobody reads any more. Beside the lock, since the listener asks for every window.
    abandoned: AtomicBool,
}

#[derive(Debug, Default)]
struct QueueState {
    items: VecDeque<Item>,
    messages: usize,
    /// Nothing more comes.
    ended: bool,
    reader: Option<Waker>,
}

impl Queue {
    /// A queue of at least `capacity` messages: a batch goes in while there is room for one message.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default(), room: Notify::new(), abandoned: AtomicBool::new(false) }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Puts an item in unless the queue is full.
    pub(crate) fn try_push(&self, item: Item) -> Result<(), Item> {
        let mut state = lock(&self.state);
        if state.ended || self.is_abandoned() {
            return Ok(());
        }
        // Words are few, at most one for each hole and so for each batch: they need no room of their own.
        if state.messages >= self.capacity && matches!(item, Item::Batch(_)) {
            return Err(item);
        }
        state.messages += item.messages();
        state.items.push_back(item);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// Puts an item in, waiting for room. Not cancel safe.
    pub(crate) async fn push(&self, mut item: Item) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before the attempt, so that no room is missed.
            room.as_mut().enable();
            match self.try_push(item) {
                Ok(()) => return,
                Err(back) => item = back,
            }
            room.await;
        }
    }

    /// Says that nothing more comes.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Takes the next item; `None` at the end.
    pub(crate) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let mut state = lock(&self.state);
        match state.items.pop_front() {
            Some(item) => {
                state.messages -= item.messages();
                drop(state);
                self.room.notify_one();
                Poll::Ready(Some(match item {
                    Item::Batch(batch) => Item::Batch(batch.unshared()),
                    word => word,
                }))
            }
            None if state.ended => Poll::Ready(None),
            None => {
                if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                    state.reader = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Takes the next item; `None` at the end. Cancel safe.
    pub(crate) async fn pop(&self) -> Option<Item> {
        std::future::poll_fn(|cx| self.poll_pop(cx)).await
    }

    /// Says that nobody reads any more.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        lock(&self.state).items.clear();
        self.room.notify_one();
    }
}

/// The messages an endpoint receives, as a [`Stream`]. Made by [`Endpoint::messages`](super::Endpoint::messages).
///
/// An item is a message, or word of a hole: [`RecvError::Reset`] says that messages were missed and where delivery goes on.
/// The stream ends when the endpoint does; with [`RecvError::Refused`] before the end when the host turned it away.
///
/// Streams are independent of each other, and each has a bounded queue: while a stream is not read and its queue is full,
/// delivery within the endpoint waits, which [`Stats::listener_waits`](super::Stats::listener_waits) counts. Drop streams you do not read.
#[derive(Debug)]
pub struct Messages {
    queue: Arc<Queue>,
    current: Batch,
}

impl Messages {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self { queue, current: Batch::default() }
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
        Some(match self.queue.pop().await? {
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
            match self.queue.poll_pop(cx) {
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
        self.queue.abandon();
    }
}

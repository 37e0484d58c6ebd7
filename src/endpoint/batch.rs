//! Batches: what consumers take from their queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec;

use crate::message::{Message, Position};

/// A run of messages in order, as they came in: consecutive but for those that were not asked for.
///
/// Iterate over it to take the messages out one by one. A message counts as handled when the next one is taken, and the last one
/// when the next batch is asked for: that is what the endpoint tells its host of how far it has come.
#[derive(Debug, Clone)]
pub struct Batch {
    messages: Run,
    /// Where the message stood that was taken last.
    last_taken: Option<Position>,
    /// Where to say how far it was handled.
    progress: Option<Arc<Progress>>,
    /// Which of the hosts that the endpoint followed ordered it.
    reign: u64,
}

#[derive(Debug, Clone)]
enum Run {
    /// Other consumers have it, too: messages are cloned as they are taken. The number says how many were taken.
    Shared(Arc<Vec<Message>>, usize),
    /// Nobody else has it.
    Own(vec::IntoIter<Message>),
}

/// Up to which seq the batch that is being handled is done.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU64);

impl Progress {
    pub(super) fn set(&self, seq: u64) {
        self.0.store(seq, Ordering::Release);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Batch {
    pub(crate) fn new(messages: Arc<Vec<Message>>, reign: u64) -> Self {
        Self { messages: Run::Shared(messages, 0), last_taken: None, progress: None, reign }
    }

    pub(super) fn reign(&self) -> u64 {
        self.reign
    }

    /// The same batch, to be read: when all other consumers are done with it its messages are moved out, not cloned.
    pub(super) fn for_reader(self, progress: Arc<Progress>) -> Self {
        let messages = match self.messages {
            Run::Shared(messages, 0) => match Arc::try_unwrap(messages) {
                Ok(messages) => Run::Own(messages.into_iter()),
                Err(messages) => Run::Shared(messages, 0),
            },
            other => other,
        };
        Self { messages, progress: Some(progress), ..self }
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
        Self { messages: Run::Own(vec::IntoIter::default()), last_taken: None, progress: None, reign: 0 }
    }
}

impl Iterator for Batch {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        if let (Some(progress), Some(done)) = (&self.progress, self.last_taken) {
            progress.set(done.seq);
        }
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

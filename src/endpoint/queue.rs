//! The queue of one consumer: filled by the listener, emptied by a stream or a handler.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::error::RecvError;
use crate::message::{Message, Position};
use crate::proto::Reached;
use crate::sync::lock;

use super::batch::{Batch, Progress};

/// What a message costs beside its payload, headers and topic (rounded up from the size of what is kept of it).
const MESSAGE_BYTES: usize = 128;

/// What a message is counted for in a queue, in bytes.
fn weight(message: &Message) -> usize {
    MESSAGE_BYTES
        + message.payload().len()
        + message.headers().as_bytes().len()
        + message.topic().as_str().len()
}

/// Where a batch begins.
fn first_of(batch: &Batch) -> Option<Reached> {
    let position = batch.as_slice().first()?.position()?;
    Some(Reached { reign: batch.reign(), position })
}

/// What a consumer's queue holds.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Batch(Batch),
    /// Word of a hole, or of the reason why nothing more comes.
    Word(RecvError),
}

/// How much waits for a consumer: in one queue, or in those of several workers together.
#[derive(Debug, Default)]
pub(super) struct Load {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    pub(super) fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take(&self, messages: usize, bytes: usize) {
        self.messages.fetch_sub(messages, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Messages on their way to one reader. What may wait is bounded by whoever [pushes](Self::push).
#[derive(Debug)]
pub(crate) struct Queue {
    load: Arc<Load>,
    state: Mutex<State>,
    progress: Arc<Progress>,
    /// Nobody reads any more. Beside the lock, since the listener asks for every window.
    abandoned: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<(Item, usize)>,
    /// Where the batch that is being read begins.
    current: Option<Reached>,
    /// How often something was taken.
    taken: u64,
    /// Nothing more comes.
    ended: bool,
    reader: Option<Waker>,
}

impl Queue {
    pub(super) fn new(load: Arc<Load>) -> Self {
        Self { load, state: Mutex::default(), progress: Arc::default(), abandoned: AtomicBool::new(false) }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Puts a batch in.
    pub(super) fn push(&self, batch: Batch) {
        let bytes = batch.as_slice().iter().map(weight).sum();
        let messages = batch.len();
        if self.put(Item::Batch(batch), bytes) {
            self.load.add(messages, bytes);
        }
    }

    /// Puts a word in. Words are few, at most one for each hole: they need no room.
    pub(super) fn push_word(&self, word: RecvError) {
        self.put(Item::Word(word), 0);
    }

    fn put(&self, item: Item, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        if state.ended || self.is_abandoned() {
            return false;
        }
        state.items.push_back((item, bytes));
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// Says that nothing more comes.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Drops what waits, says why, and that nothing more comes.
    pub(super) fn end_with(&self, word: RecvError) {
        let mut state = lock(&self.state);
        state.clear(&self.load);
        state.items.push_back((Item::Word(word), 0));
        drop(state);
        self.end();
    }

    /// Up to where the reader is done with all that was put in; `None` when that is everything.
    pub(super) fn handled(&self) -> Option<Reached> {
        let state = lock(&self.state);
        let before = |first: Reached, seq: u64| {
            let seq = seq.max(first.position.seq.saturating_sub(1));
            Reached { position: Position { seq, ..first.position }, ..first }
        };
        if let Some(first) = state.current {
            return Some(before(first, self.progress.get()));
        }
        state.items.iter().find_map(|(item, _)| match item {
            Item::Batch(batch) => Some(before(first_of(batch)?, 0)),
            Item::Word(_) => None,
        })
    }

    /// Something that changes when the reader gets on.
    pub(super) fn pulse(&self) -> (u64, u64) {
        (lock(&self.state).taken, self.progress.get())
    }

    /// Takes the next item; `None` at the end. What was taken before is handled.
    pub(crate) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let mut state = lock(&self.state);
        state.current = None;
        match state.items.pop_front() {
            Some((Item::Batch(batch), bytes)) => {
                self.load.take(batch.len(), bytes);
                state.taken += 1;
                state.current = first_of(&batch);
                self.progress.set(state.current.map_or(0, |first| first.position.seq.saturating_sub(1)));
                drop(state);
                Poll::Ready(Some(Item::Batch(batch.for_reader(Arc::clone(&self.progress)))))
            }
            Some((word, _)) => Poll::Ready(Some(word)),
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
        let mut state = lock(&self.state);
        state.clear(&self.load);
        state.current = None;
    }

    /// Keeps of the topics of these prefixes only the newest message each, and tells the reader how many went. Returns that number. Of what documents say none takes
    /// the place of another.
    pub(super) fn conflate(&self, prefixes: &[String]) -> u64 {
        let mut state = lock(&self.state);
        let mut newest: BTreeSet<String> = BTreeSet::new();
        let mut dropped = 0;
        let conflatable = |message: &Message| {
            let topic = message.topic();
            prefixes.iter().any(|prefix| topic.as_str().starts_with(prefix.as_str()))
                && !topic.is_of_documents()
        };
        for (item, bytes) in state.items.iter_mut().rev() {
            let Item::Batch(batch) = item else { continue };
            if !batch.as_slice().iter().any(conflatable) {
                continue;
            }
            let mut kept: Vec<Message> = Vec::new();
            for message in batch.as_slice().iter().rev() {
                if !conflatable(message) || newest.insert(message.topic().as_str().to_owned()) {
                    kept.push(message.clone());
                }
            }
            let (before, weighed) = (batch.len(), *bytes);
            kept.reverse();
            *bytes = kept.iter().map(weight).sum();
            self.load.take(before - kept.len(), weighed - *bytes);
            dropped += (before - kept.len()) as u64;
            *batch = Batch::new(Arc::new(kept), batch.reign());
        }
        if dropped > 0 {
            state.items.retain(|(item, _)| !matches!(item, Item::Batch(batch) if batch.is_empty()));
            match state.items.front_mut() {
                Some((Item::Word(RecvError::Lagged(missed)), _)) => *missed += dropped,
                _ => state.items.push_front((Item::Word(RecvError::Lagged(dropped)), 0)),
            }
        }
        dropped
    }
}

impl State {
    fn clear(&mut self, load: &Load) {
        for (item, bytes) in self.items.drain(..) {
            if let Item::Batch(batch) = item {
                load.take(batch.len(), bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EndpointId;

    fn message(topic: &str, seq: u64) -> Message {
        let mut message = Message::new(topic, seq.to_string()).unwrap();
        message.origin = EndpointId::from_bytes([1; 16]);
        message.origin_seq = seq;
        message.position = Some(Position { epoch: 5, seq });
        message
    }

    fn batch(seqs: std::ops::RangeInclusive<u64>) -> Batch {
        Batch::new(Arc::new(seqs.map(|seq| message("t", seq)).collect()), 1)
    }

    fn at(seq: u64) -> Option<Reached> {
        Some(Reached { reign: 1, position: Position { epoch: 5, seq } })
    }

    #[tokio::test]
    async fn a_message_is_handled_when_the_next_is_taken() {
        let load = Arc::new(Load::default());
        let queue = Queue::new(Arc::clone(&load));
        assert_eq!(queue.handled(), None);
        queue.push(batch(10..=12));
        queue.push(batch(20..=20));
        assert_eq!((queue.handled(), load.messages()), (at(9), 4));
        let Some(Item::Batch(mut first)) = queue.pop().await else { panic!("a batch") };
        assert_eq!((queue.handled(), load.messages()), (at(9), 1));
        first.next();
        assert_eq!(queue.handled(), at(9), "the first is being handled");
        first.next();
        assert_eq!(queue.handled(), at(10));
        first.next();
        assert_eq!(first.next(), None);
        assert_eq!(queue.handled(), at(12));
        let Some(Item::Batch(_)) = queue.pop().await else { panic!("a batch") };
        assert_eq!(queue.handled(), at(19));
        queue.end();
        assert!(queue.pop().await.is_none());
        assert_eq!((queue.handled(), load.messages(), load.bytes()), (None, 0, 0));
    }

    #[tokio::test]
    async fn conflation_keeps_the_newest_of_each_topic_and_says_how_many_went() {
        let load = Arc::new(Load::default());
        let queue = Queue::new(Arc::clone(&load));
        queue.push(Batch::new(Arc::new(vec![message("a", 1), message("b", 2), message("log", 3)]), 1));
        queue.push(Batch::new(Arc::new(vec![message("a", 4), message("a", 5), message("log", 6)]), 1));
        assert_eq!(queue.conflate(&["a".to_owned(), "b".to_owned()]), 2);
        assert_eq!(load.messages(), 4);
        queue.push(Batch::new(Arc::new(vec![message("a", 7)]), 1));
        assert_eq!(queue.conflate(&["a".to_owned()]), 1);
        let Some(Item::Word(RecvError::Lagged(3))) = queue.pop().await else { panic!("word of what went") };
        let mut seqs = Vec::new();
        while let Some(Item::Batch(batch)) = {
            queue.end();
            queue.pop().await
        } {
            seqs.extend(batch.map(|message| message.origin_seq()));
        }
        assert_eq!(seqs, [2, 3, 6, 7]);
        assert_eq!((load.messages(), load.bytes()), (0, 0));
    }

    #[test]
    fn of_what_documents_say_nothing_goes() {
        let queue = Queue::new(Arc::default());
        let topics = ["doc/minutes/f", "doc/minutes/f", "doc-to/me", "doc-to/me", "a", "a"];
        queue.push(Batch::new(
            Arc::new(topics.into_iter().zip(1..).map(|(topic, seq)| message(topic, seq)).collect()),
            1,
        ));
        assert_eq!(queue.conflate(&[String::new()]), 1);
    }
}

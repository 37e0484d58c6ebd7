//! What waits for one peer to be written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::changes::Changes;
use super::monitor::DisconnectReason;
use super::options::{Bound, OnFull};
use super::untrusted::Charge;
use crate::sync::lock;
use crate::zmtp::Message;
use crate::zmtp::command::subscription;
use crate::zmtp::frame::Encoded;

/// How much a writer takes at once (a guess: a few times what the system's buffer takes at once).
const TAKEN_AT_ONCE: usize = 256 * 1024;

/// How many messages, and octets, for one peer alone are one piece of its queue (guesses: what it takes to write many at once).
const OPEN: (usize, usize) = (64, 64 * 1024);

/// What a peer has not been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Messages, those counted in that are just being written.
    pub messages: usize,
    /// Their octets.
    pub bytes: usize,
    /// For how long the oldest of them has waited, or a little longer.
    pub age: Duration,
}

/// Whole messages, encoded: shared by all peers they are for.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) parts: Parts,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) at: Instant,
    /// Kept by the queues of untrusted subscribers, for as long as they hold the chunk.
    pub(super) charge: Option<Arc<Charge>>,
}

/// The pieces of a chunk. Most have one.
#[derive(Debug, Clone)]
pub(super) enum Parts {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Chunk {
    /// Takes what was encoded.
    pub(super) fn of(encoded: &mut Encoded, at: Instant) -> Self {
        Self::new(encoded.take(), at)
    }

    /// Takes what was encoded for several peers, of which some may not take it for long.
    pub(super) fn for_many(encoded: &mut Encoded, at: Instant) -> Self {
        Self::new(encoded.take_for_many(), at)
    }

    fn new((parts, messages, bytes): (Vec<Bytes>, usize, usize), at: Instant) -> Self {
        let parts = match <[Bytes; 1]>::try_from(parts) {
            Ok([part]) => Parts::One(part),
            Err(parts) => Parts::Many(parts.into()),
        };
        Self { parts, messages, bytes, at, charge: None }
    }

    fn put_into(self, pending: &mut VecDeque<Bytes>) {
        match self.parts {
            Parts::One(part) => pending.push_back(part),
            Parts::Many(parts) => pending.extend(parts.iter().cloned()),
        }
    }
}

/// The queue of one peer: filled by the socket, emptied by the connection's task.
#[derive(Debug)]
pub(super) struct PeerQueue {
    state: Mutex<State>,
    bound: Bound,
    age: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Chunk>,
    /// What was pushed for this peer alone and is not a chunk yet.
    open: Encoded,
    open_at: Option<Instant>,
    messages: usize,
    bytes: usize,
    /// Subscriptions that the peer is to be told. They need no room, and go before the messages that wait.
    changes: Changes,
    /// What the connection's task has taken and not written.
    writing: (usize, usize, Option<Instant>),
    /// The charges for it.
    writing_charges: Vec<Arc<Charge>>,
    writer: Option<Waker>,
    /// Whether there is something for the writer elsewhere, since its turn began.
    nudged: bool,
    /// Whether nobody may be told that there is room before there is.
    full: bool,
    dropped: u64,
    /// Why the connection is to end.
    ended: Option<DisconnectReason>,
    /// Whether the connection has ended.
    is_abandoned: bool,
}

impl State {
    fn is_full(&self, bound: &Bound) -> bool {
        bound.is_reached_by(self.messages + self.writing.0, self.bytes + self.writing.1)
    }

    /// Since when the oldest has waited.
    fn oldest(&self) -> Option<Instant> {
        self.writing.2.or_else(|| self.chunks.front().map(|chunk| chunk.at)).or(self.open_at)
    }

    /// Whether nothing goes to the peer any more.
    fn is_ended(&self) -> bool {
        self.ended.is_some() || self.is_abandoned
    }

    fn has_work(&self) -> bool {
        !(self.chunks.is_empty() && self.open.is_empty() && self.changes.is_empty())
    }

    /// Makes what was pushed for this peer alone a chunk.
    fn seal(&mut self) {
        if !self.open.is_empty() {
            let at = self.open_at.take().unwrap_or_else(Instant::now);
            let chunk = Chunk::of(&mut self.open, at);
            self.chunks.push_back(chunk);
        }
    }

    fn wake(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

impl PeerQueue {
    pub(super) fn new(bound: Bound, age: Option<Duration>) -> Self {
        Self { state: Mutex::default(), bound, age }
    }

    /// Adds a message, if there is room. `false`, and nothing done, if there is none.
    pub(super) fn push(&self, message: &Message) -> bool {
        let mut state = lock(&self.state);
        if state.is_ended() || state.is_full(&self.bound) {
            state.full = true;
            return false;
        }
        // So that not all of it goes where the oldest is dropped.
        if state.open.messages() >= OPEN.0 || state.open.bytes() >= OPEN.1 {
            state.seal();
        }
        let before = state.open.bytes();
        state.open.push(message);
        if state.open_at.is_none() {
            state.open_at = Some(Instant::now());
        }
        state.messages += 1;
        state.bytes += state.open.bytes() - before;
        state.wake();
        true
    }

    /// Adds a message for this peer alone. Where there is no room, what `on_full` says, which is not to wait. One whose
    /// connection is about to end is sent nothing.
    pub(super) fn push_or(&self, message: &Message, on_full: OnFull) {
        if self.push(message) {
            return;
        }
        let mut encoded = Encoded::default();
        encoded.push(message);
        self.push_shared(&Chunk::of(&mut encoded, Instant::now()), on_full);
    }

    /// A subscription of this side's has begun or ended; each call for a prefix is the opposite of the one before.
    pub(super) fn push_change(&self, subscribe: bool, prefix: &Bytes) {
        let mut state = lock(&self.state);
        state.changes.push(subscribe, prefix.clone());
        state.wake();
    }

    /// Adds messages that others get, too. Where there is no room, what `on_full` says; whether there is still room afterwards.
    pub(super) fn push_shared(&self, chunk: &Chunk, on_full: OnFull) -> bool {
        let mut state = lock(&self.state);
        if state.is_ended() {
            return true;
        }
        state.seal();
        let is_old = |age| state.oldest().is_some_and(|oldest| chunk.at.duration_since(oldest) > age);
        if state.is_full(&self.bound) || self.age.is_some_and(is_old) {
            match on_full {
                // What was waited for is one run of messages, which may go over.
                OnFull::Block => {}
                OnFull::DropNewest => {
                    state.dropped += chunk.messages as u64;
                    return true;
                }
                OnFull::DropOldest => {
                    let is_old =
                        |oldest: &Chunk| self.age.is_some_and(|age| chunk.at.duration_since(oldest.at) > age);
                    while state.is_full(&self.bound) || state.chunks.front().is_some_and(is_old) {
                        let Some(oldest) = state.chunks.pop_front() else { break };
                        state.messages -= oldest.messages;
                        state.bytes -= oldest.bytes;
                        state.dropped += oldest.messages as u64;
                    }
                }
                OnFull::Disconnect => {
                    state.ended = Some(DisconnectReason::TooSlow);
                    state.wake();
                    return true;
                }
            }
        }
        state.messages += chunk.messages;
        state.bytes += chunk.bytes;
        state.chunks.push_back(chunk.clone());
        state.wake();
        state.full = on_full == OnFull::Block && state.is_full(&self.bound);
        !state.full
    }

    /// Tells the connection's task that there is something for it elsewhere.
    pub(super) fn nudge(&self) {
        let mut state = lock(&self.state);
        state.nudged = true;
        state.wake();
    }

    /// The connection's task begins a turn. Whether it has to look elsewhere: there is nothing to take here, or little, to which more has come elsewhere. Messages
    /// for different subscribers, published one behind the other, so go out in one write.
    pub(super) fn begin_turn(&self) -> bool {
        let mut state = lock(&self.state);
        let was_nudged = std::mem::take(&mut state.nudged);
        !state.has_work() || (was_nudged && state.bytes < OPEN.1)
    }

    pub(super) fn has_room(&self) -> bool {
        let mut state = lock(&self.state);
        state.full = state.is_full(&self.bound);
        !state.full && !state.is_ended()
    }

    /// Takes what is to be written next, to a peer of this minor version; all that was taken before has been. Whether somebody was waiting for the room that is
    /// now there.
    pub(super) fn take(&self, pending: &mut VecDeque<Bytes>, minor: u8) -> bool {
        let mut state = lock(&self.state);
        state.seal();
        state.writing = (0, 0, None);
        state.writing_charges.clear();
        while state.writing.1 < TAKEN_AT_ONCE {
            let Some((subscribe, prefix)) = state.changes.pop() else { break };
            let command = subscription(subscribe, &prefix, minor);
            state.writing.1 += command.len();
            pending.push_back(command);
        }
        while state.writing.1 < TAKEN_AT_ONCE {
            let Some(mut chunk) = state.chunks.pop_front() else { break };
            state.writing_charges.extend(chunk.charge.take());
            state.messages -= chunk.messages;
            state.bytes -= chunk.bytes;
            state.writing.0 += chunk.messages;
            state.writing.1 += chunk.bytes;
            state.writing.2.get_or_insert(chunk.at);
            chunk.put_into(pending);
        }
        state.made_room(&self.bound)
    }

    /// Waits until there is something to take, if that is wanted now; or the connection is to end. Cancel safe.
    pub(super) fn poll_work(&self, cx: &mut Context<'_>, wanted: bool) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.ended.is_some() || (wanted && (state.nudged || state.has_work())) {
            return Poll::Ready(());
        }
        if !state.writer.as_ref().is_some_and(|writer| writer.will_wake(cx.waker())) {
            state.writer = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ends the connection, for this reason.
    pub(super) fn end(&self, reason: DisconnectReason) {
        let mut state = lock(&self.state);
        state.ended.get_or_insert(reason);
        state.wake();
    }

    pub(super) fn ended(&self) -> Option<DisconnectReason> {
        lock(&self.state).ended.clone()
    }

    /// Ends the connection, for this reason, and drops what waits, which counts as dropped.
    pub(super) fn cut(&self, reason: DisconnectReason) {
        let mut state = lock(&self.state);
        state.ended.get_or_insert(reason);
        state.dropped += state.clear() as u64;
        state.wake();
    }

    /// Drops all that waits; how many messages those were.
    pub(super) fn abandon(&self) -> usize {
        let mut state = lock(&self.state);
        state.is_abandoned = true;
        state.clear()
    }

    /// Whether nothing waits to be written, nor is being written.
    pub(super) fn is_flushed(&self) -> bool {
        let state = lock(&self.state);
        !state.has_work() && (state.writing.0, state.writing.1) == (0, 0)
    }

    pub(super) fn backlog(&self) -> Backlog {
        let state = lock(&self.state);
        let age = state.oldest().map_or(Duration::ZERO, |at| at.elapsed());
        Backlog { messages: state.messages + state.writing.0, bytes: state.bytes + state.writing.1, age }
    }

    pub(super) fn dropped(&self) -> u64 {
        lock(&self.state).dropped
    }
}

impl State {
    /// Drops all that waits; how many messages those were.
    fn clear(&mut self) -> usize {
        let lost = self.messages + self.writing.0;
        self.chunks.clear();
        self.writing_charges.clear();
        self.open = Encoded::default();
        self.changes = Changes::default();
        (self.messages, self.bytes, self.writing) = (0, 0, (0, 0, None));
        lost
    }

    /// Whether it was full, and is not any more; told once.
    fn made_room(&mut self, bound: &Bound) -> bool {
        let made = self.full && !self.is_full(bound);
        self.full &= !made;
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn chunk(text: &'static str, at: Instant) -> Chunk {
        let mut encoded = Encoded::default();
        encoded.push(&text.into());
        Chunk::of(&mut encoded, at)
    }

    fn taken(queue: &PeerQueue) -> Vec<Bytes> {
        let mut pending = VecDeque::new();
        queue.take(&mut pending, 1);
        pending.into_iter().map(|bytes| bytes.slice(2..)).collect()
    }

    #[test]
    fn the_oldest_are_dropped_that_have_waited_for_too_long_and_no_others() {
        let queue = PeerQueue::new(Bound::new(10, 1000), Some(2 * SECOND));
        let start = Instant::now();
        for (text, at) in [("a", 0), ("b", 1), ("c", 3), ("d", 4)] {
            assert!(queue.push_shared(&chunk(text, start + SECOND * at), OnFull::DropOldest));
        }
        assert_eq!(queue.dropped(), 2);
        assert_eq!(taken(&queue), ["c", "d"]);
    }

    #[test]
    fn subscriptions_go_before_the_messages_that_wait_and_do_not_make_them_younger() {
        let queue = PeerQueue::new(Bound::new(10, 1000), None);
        assert!(queue.push(&"up".into()));
        let before = lock(&queue.state).oldest();
        queue.push_change(true, &Bytes::from_static(b"t"));
        assert_eq!(lock(&queue.state).oldest(), before);
        assert!(!queue.is_flushed());
        let mut pending = VecDeque::new();
        queue.take(&mut pending, 0);
        assert_eq!(pending, [&b"\0\x02\x01t"[..], b"\0\x02up"]);
        assert!(!queue.is_flushed());
        queue.take(&mut pending, 0);
        assert!(queue.is_flushed());
    }
}

//! What came from peers and was not taken yet.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::hub::Peer;
use super::monitor::DisconnectReason;
use super::options::Bound;
use crate::sync::{lock, until};
use crate::zmtp::Message;

/// What the word that a peer is gone counts for among what is left of it, with the word that it came: a message.
const WORD: (usize, usize) = (1, 0);

/// What came, in order for each peer.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A peer has introduced itself. Told only to those who asked.
    Ready,
    Messages(Batch),
    /// Subscriptions have changed, as the publisher tells.
    Subscriptions,
    /// A peer is gone: nothing more comes from it. Told only to those who asked.
    Gone(Arc<Peer>, DisconnectReason),
}

/// Messages that came from one peer together. They count against the peer's bound until the last of them is taken, or this is dropped.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) peer: Arc<Peer>,
    messages: std::vec::IntoIter<Message>,
    cost: (usize, usize),
}

impl Batch {
    pub(super) fn new(peer: &Arc<Peer>, messages: Vec<Message>, bytes: usize) -> Self {
        let cost = (messages.len(), bytes);
        peer.credit.take(cost);
        Self { peer: Arc::clone(peer), messages: messages.into_iter(), cost }
    }

    /// Takes the first `count` messages, with their part of what this counts for.
    fn split_to(&mut self, count: usize) -> Self {
        let bytes = self.cost.1 * count / self.messages.len();
        let messages: Vec<Message> = self.messages.by_ref().take(count).collect();
        self.cost = (self.cost.0 - count, self.cost.1 - bytes);
        Self { peer: Arc::clone(&self.peer), messages: messages.into_iter(), cost: (count, bytes) }
    }

    /// Gives back what this counts for, once.
    fn settle(&mut self) {
        let cost = std::mem::take(&mut self.cost);
        if cost != (0, 0) {
            self.peer.credit.give_back(cost);
        }
    }
}

impl Iterator for Batch {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let message = self.messages.next();
        // Not when the next one is asked for: whoever has all there is may have no reason to ask.
        if self.messages.len() == 0 {
            self.settle();
        }
        message
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.settle();
    }
}

/// How many connections of its own making may have left something before a socket makes no more: those are not many, and who sends before it receives is not to
/// wait for ever (a guess).
const DIALLED: usize = 8;

/// How much waits to be taken of all peers whose connections have ended. Each of them was bounded by itself; who comes again and again leaves the more.
#[derive(Debug)]
pub(super) struct Leftovers {
    state: Mutex<Left>,
    bound: Bound,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Left {
    /// Of connections that others made.
    messages: usize,
    bytes: usize,
    /// Connections made here that have left something.
    dialled: usize,
}

impl Leftovers {
    pub(super) fn new(bound: Bound) -> Self {
        Self { state: Mutex::default(), bound, taken: Notify::new() }
    }

    fn change(&self, change: impl FnOnce(&mut Left)) {
        change(&mut lock(&self.state));
        self.taken.notify_waiters();
    }

    /// Whether there is room for what one more connection may leave.
    fn has_room(&self, is_ours: bool) -> bool {
        let left = lock(&self.state);
        if is_ours { left.dialled < DIALLED } else { !self.bound.is_reached_by(left.messages, left.bytes) }
    }

    /// Waits for that. Cancel safe.
    pub(super) async fn room(&self, is_ours: bool) {
        until(&self.taken, || self.has_room(is_ours).then_some(())).await;
    }
}

/// How much of a peer waits to be taken.
#[derive(Debug)]
pub(super) struct Credit {
    state: Mutex<Owed>,
    bound: Bound,
}

#[derive(Debug, Default)]
struct Owed {
    messages: usize,
    bytes: usize,
    /// The connection, where it waits for room.
    reader: Option<Waker>,
    /// Where it counts, too, once the connection has ended; and whether that was made here.
    left: Option<(Arc<Leftovers>, bool)>,
}

impl Owed {
    /// Something comes, or is taken: it counts among what is left, if the connection has ended.
    fn change(&mut self, change: impl Fn(&mut usize, &mut usize)) {
        let before = self.messages;
        change(&mut self.messages, &mut self.bytes);
        let Some((left, is_ours)) = &self.left else { return };
        let (was, is) = (usize::from(before > 0), usize::from(self.messages > 0));
        left.change(|left| {
            if *is_ours {
                left.dialled = left.dialled + is - was;
            } else {
                change(&mut left.messages, &mut left.bytes);
            }
        });
    }
}

impl Credit {
    pub(super) fn new(bound: Bound) -> Self {
        Self { state: Mutex::default(), bound }
    }

    fn take(&self, cost: (usize, usize)) {
        lock(&self.state).change(|messages, bytes| {
            *messages += cost.0;
            *bytes += cost.1;
        });
    }

    fn give_back(&self, cost: (usize, usize)) {
        let mut owed = lock(&self.state);
        owed.change(|messages, bytes| {
            *messages -= cost.0;
            *bytes -= cost.1;
        });
        if !self.bound.is_reached_by(owed.messages, owed.bytes)
            && let Some(reader) = owed.reader.take()
        {
            reader.wake();
        }
    }

    /// The connection has ended: what is owed is among what is left.
    pub(super) fn leave(&self, left: &Arc<Leftovers>, is_ours: bool) {
        let mut owed = lock(&self.state);
        let cost = (std::mem::take(&mut owed.messages), std::mem::take(&mut owed.bytes));
        owed.left = Some((Arc::clone(left), is_ours));
        owed.change(|messages, bytes| {
            *messages += cost.0;
            *bytes += cost.1;
        });
    }

    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// How many more messages may wait.
    pub(super) fn room(&self) -> usize {
        let owed = lock(&self.state);
        if self.bound.is_reached_by(owed.messages, owed.bytes) {
            return 0;
        }
        self.bound.messages.max(1) - owed.messages
    }

    /// Waits until there is room. Cancel safe.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut owed = lock(&self.state);
        if !self.bound.is_reached_by(owed.messages, owed.bytes) {
            return Poll::Ready(());
        }
        owed.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The queue to the socket's reader, which peers have their turns in. What may wait is bounded by each
/// peer's [`Credit`].
#[derive(Debug)]
pub(super) struct Inbound {
    state: Mutex<State>,
    /// How many messages a peer gets through in a turn.
    turn: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Arrivals of each peer, by its key, in order; under 0 those that concern the whole socket.
    arrivals: HashMap<u64, VecDeque<Arrival>>,
    /// The keys of those, the next one first.
    turns: VecDeque<u64>,
    reader: Option<Waker>,
    ended: bool,
}

impl Arrival {
    fn key(&self) -> u64 {
        match self {
            Self::Messages(batch) => batch.peer.key,
            Self::Gone(peer, _) => peer.key,
            Self::Ready | Self::Subscriptions => 0,
        }
    }
}

impl State {
    fn push(&mut self, arrival: Arrival) {
        let key = arrival.key();
        let waiting = self.arrivals.entry(key).or_default();
        if waiting.is_empty() {
            self.turns.push_back(key);
        }
        waiting.push_back(arrival);
    }

    /// Takes what is next of the peer whose turn it is.
    fn pop(&mut self, turn: usize) -> Option<Arrival> {
        let key = self.turns.pop_front()?;
        let waiting = self.arrivals.get_mut(&key)?;
        let arrival = match waiting.front_mut()? {
            Arrival::Messages(batch) if batch.messages.len() > turn => {
                Some(Arrival::Messages(batch.split_to(turn)))
            }
            _ => waiting.pop_front(),
        };
        if waiting.is_empty() {
            self.arrivals.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        arrival
    }
}

impl Inbound {
    pub(super) fn new(turn: usize) -> Self {
        Self { state: Mutex::default(), turn: turn.max(1) }
    }

    pub(super) fn push(&self, arrival: Arrival) {
        let mut state = lock(&self.state);
        if state.ended {
            return;
        }
        if let Arrival::Gone(peer, _) = &arrival {
            peer.credit.take(WORD);
        }
        state.push(arrival);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Takes what came first; `None` at the end.
    pub(super) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Arrival>> {
        let mut state = lock(&self.state);
        match state.pop(self.turn) {
            Some(arrival) => {
                drop(state);
                if let Arrival::Gone(peer, _) = &arrival {
                    peer.credit.give_back(WORD);
                }
                Poll::Ready(Some(arrival))
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

    /// Nothing more comes; what waits is dropped.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        let left = std::mem::take(&mut state.arrivals);
        state.turns.clear();
        let reader = state.reader.take();
        drop(state);
        drop(left);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::hub::Hub;
    use super::super::{Options, PeerAddress};
    use super::*;
    use crate::zmtp::SocketType;

    #[test]
    fn peers_have_their_turns_and_each_keeps_its_order() {
        let options = Options { recv_hwm: Bound::new(100, 1 << 20), turn: 2, ..Options::default() };
        let hub = Hub::new(SocketType::Pull, options, true);
        let peers: Vec<_> = (0..3).map(|_| hub.admit(PeerAddress::Ipc, false).unwrap()).collect();
        // One of them floods, and then the others come.
        for (index, count) in [(0, 50), (1, 5), (0, 50), (2, 1)] {
            let message = |number: usize| Message::from(vec![index as u8, number as u8]);
            let before = peers[index].credit.bound.messages - peers[index].credit.room();
            hub.on_messages(&peers[index], (before..before + count).map(message).collect(), 1_000);
        }
        assert_eq!(peers[0].credit.room(), 0);
        hub.inbound.push(Arrival::Gone(Arc::clone(&peers[2]), DisconnectReason::Closed));
        let mut order = Vec::new();
        let mut next = [0; 3];
        let pop = || std::future::poll_fn(|cx| hub.inbound.poll_pop(cx)).now_or_never().flatten();
        while let Some(arrival) = pop() {
            match arrival {
                Arrival::Messages(batch) => {
                    for message in batch {
                        let [index, number] = message.first()[..] else { panic!("{message:?}") };
                        assert_eq!(number, next[usize::from(index)]);
                        next[usize::from(index)] += 1;
                        order.push(index);
                    }
                }
                Arrival::Gone(..) => order.push(9),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(order[..15], [0, 0, 1, 1, 2, 0, 0, 1, 1, 9, 0, 0, 1, 0, 0]);
        assert_eq!(next, [100, 5, 1]);
        assert!(peers.iter().all(|peer| peer.credit.room() == 100));
        assert!(lock(&hub.inbound.state).arrivals.is_empty());
    }
}

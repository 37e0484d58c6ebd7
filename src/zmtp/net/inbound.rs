//! What came from peers and was not taken yet.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::hub::Peer;
use super::monitor::DisconnectReason;
use super::options::Bound;
use crate::sync::lock;
use crate::zmtp::Message;

/// What came, in order for each peer.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A peer has introduced itself. Told only to those who asked.
    Ready(Arc<Peer>),
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

/// How much of a peer waits to be taken.
#[derive(Debug)]
pub(super) struct Credit {
    state: Mutex<(usize, usize, Option<Waker>)>,
    bound: Bound,
}

impl Credit {
    pub(super) fn new(bound: Bound) -> Self {
        Self { state: Mutex::default(), bound }
    }

    fn take(&self, (messages, bytes): (usize, usize)) {
        let mut state = lock(&self.state);
        state.0 += messages;
        state.1 += bytes;
    }

    fn give_back(&self, (messages, bytes): (usize, usize)) {
        let mut state = lock(&self.state);
        state.0 -= messages;
        state.1 -= bytes;
        if !self.bound.is_reached_by(state.0, state.1)
            && let Some(waker) = state.2.take()
        {
            waker.wake();
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let state = lock(&self.state);
        !self.bound.is_reached_by(state.0, state.1)
    }

    /// Waits until there is room. Cancel safe.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if !self.bound.is_reached_by(state.0, state.1) {
            return Poll::Ready(());
        }
        state.2 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The queue to the socket's reader. What may wait is bounded by each peer's [`Credit`].
#[derive(Debug, Default)]
pub(super) struct Inbound(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    arrivals: VecDeque<Arrival>,
    reader: Option<Waker>,
    ended: bool,
}

impl Inbound {
    pub(super) fn push(&self, arrival: Arrival) {
        let mut state = lock(&self.0);
        if state.ended {
            return;
        }
        state.arrivals.push_back(arrival);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Takes what came first; `None` at the end.
    pub(super) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Arrival>> {
        let mut state = lock(&self.0);
        match state.arrivals.pop_front() {
            Some(arrival) => Poll::Ready(Some(arrival)),
            None if state.ended => Poll::Ready(None),
            None => {
                if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                    state.reader = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Takes all that waits.
    pub(super) fn take(&self) -> VecDeque<Arrival> {
        std::mem::take(&mut lock(&self.0).arrivals)
    }

    /// Nothing more comes; what waits is dropped.
    pub(super) fn end(&self) {
        let mut state = lock(&self.0);
        state.ended = true;
        let left = std::mem::take(&mut state.arrivals);
        let reader = state.reader.take();
        drop(state);
        drop(left);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

//! The way out: what the application sends, collected into batches until the driver takes them, and where its receipts are told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::error::{ReserveError, SendError};
use crate::message::{DOCUMENTS, Message, MessageKind};
use crate::sync::lock;
use crate::wire::{BatchBuilder, MAX_QUESTION, Ordered};

use super::receipt::{Fates, Receipt};

/// Collects an endpoint's messages into batches. Shared by all its [`Sender`](super::Sender)s and its driver.
///
/// A message is encoded where it is sent, straight into the batch that goes out next, so that the driver handles batches only.
#[derive(Debug)]
pub(crate) struct Outbound {
    state: Mutex<State>,
    /// Tells the driver that there is something to take.
    work: Notify,
    limit: QueueLimit,
}

/// A bound in messages and in bytes, whichever is met first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimit {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    max_message: usize,
    next_origin_seq: u64,
    open: Option<(BatchBuilder, Arc<Fates>)>,
    full: VecDeque<(BatchBuilder, Arc<Fates>)>,
    messages: usize,
    bytes: usize,
    /// Messages that room is kept for.
    reserved: usize,
    in_flight: VecDeque<(u64, Arc<Fates>)>,
    waiting: Vec<Waker>,
}

/// Whether messages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// The endpoint's role does not let it send, but for questions for documents.
    ReadOnly,
    /// The endpoint shuts down, or has ended.
    Closed,
}

/// A batch on its way to the host.
#[derive(Debug)]
pub(crate) struct OutgoingBatch {
    pub(crate) first_origin_seq: u64,
    pub(crate) count: u16,
    pub(crate) body: Bytes,
}

/// Why a message was not taken.
enum Refusal {
    Full,
    Final(fn(Box<Message>, usize) -> SendError),
}

impl Outbound {
    /// A queue whose first message gets this origin_seq.
    pub(crate) fn new(limit: QueueLimit, max_message: usize, first_origin_seq: u64) -> Self {
        Self {
            state: Mutex::new(State {
                gate: Gate::Open,
                max_message,
                next_origin_seq: first_origin_seq,
                open: None,
                full: VecDeque::new(),
                messages: 0,
                bytes: 0,
                reserved: 0,
                in_flight: VecDeque::new(),
                waiting: Vec::new(),
            }),
            work: Notify::new(),
            limit,
        }
    }

    /// Sets the origin_seq of the first message. Only before there is one.
    pub(crate) fn start_at(&self, first_origin_seq: u64) {
        lock(&self.state).next_origin_seq = first_origin_seq;
    }

    /// Takes a message, or hands it back.
    pub(crate) fn try_send(&self, message: Message) -> Result<Receipt, SendError> {
        self.send_or_register(message, None)
    }

    /// Takes the message out of `slot` as soon as there is room for it, or hands it back in the error.
    pub(crate) fn poll_send(
        &self,
        cx: &mut std::task::Context<'_>,
        slot: &mut Option<Message>,
    ) -> Poll<Result<Receipt, SendError>> {
        let Some(message) = slot.take() else {
            debug_assert!(false, "polled after completion");
            return Poll::Pending;
        };
        match self.send_or_register(message, Some(cx.waker())) {
            Err(SendError::Full { message }) => {
                *slot = Some(*message);
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }

    /// Takes a message; when there is no room, hands it back and remembers whom to wake, under one lock.
    fn send_or_register(&self, message: Message, waker: Option<&Waker>) -> Result<Receipt, SendError> {
        let mut state = lock(&self.state);
        match state.push(&message, Some(self.limit)) {
            Ok((receipt, was_idle)) => {
                drop(state);
                if was_idle {
                    self.work.notify_one();
                }
                Ok(receipt)
            }
            Err(Refusal::Full) => {
                if let Some(waker) = waker {
                    state.register(waker);
                }
                drop(state);
                Err(SendError::Full { message: Box::new(message) })
            }
            Err(Refusal::Final(error)) => {
                let limit = state.max_message;
                drop(state);
                Err(error(Box::new(message), limit))
            }
        }
    }

    /// Keeps room for so many messages as soon as it is there.
    pub(crate) fn poll_reserve(
        self: &Arc<Self>,
        cx: &mut std::task::Context<'_>,
        messages: usize,
    ) -> Poll<Result<Reservation, ReserveError>> {
        match self.try_reserve(messages) {
            Err(ReserveError::Full) => {
                // Registered first, then looked once more, so that no room is missed.
                lock(&self.state).register(cx.waker());
                match self.try_reserve(messages) {
                    Err(ReserveError::Full) => Poll::Pending,
                    result => Poll::Ready(result),
                }
            }
            result => Poll::Ready(result),
        }
    }

    /// Keeps room for so many messages, if it is there.
    pub(crate) fn try_reserve(self: &Arc<Self>, messages: usize) -> Result<Reservation, ReserveError> {
        let mut state = lock(&self.state);
        match state.gate {
            Gate::Open => {}
            Gate::ReadOnly => return Err(ReserveError::ReadOnly),
            Gate::Closed => return Err(ReserveError::Closed),
        }
        if messages > self.limit.messages {
            return Err(ReserveError::TooMany { limit: self.limit.messages });
        }
        if state.messages + state.reserved + messages > self.limit.messages || state.bytes >= self.limit.bytes
        {
            return Err(ReserveError::Full);
        }
        state.reserved += messages;
        Ok(Reservation { outbound: Arc::clone(self), left: messages })
    }

    /// The next batch, if anything waits. Its messages are under way from now on.
    pub(crate) fn take(&self) -> Option<OutgoingBatch> {
        let mut state = lock(&self.state);
        let (builder, fates) = match state.full.pop_front() {
            Some(batch) => batch,
            None => state.open.take()?,
        };
        state.messages -= usize::from(builder.count());
        state.bytes -= builder.bytes();
        let first_origin_seq = builder.first_origin_seq();
        state.in_flight.push_back((first_origin_seq + u64::from(builder.count()) - 1, fates));
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        Some(OutgoingBatch { first_origin_seq, count: builder.count(), body: builder.finish() })
    }

    /// Waits until there may be something to take. Cancel safe.
    pub(crate) async fn work(&self) {
        if self.is_idle() {
            self.work.notified().await;
        }
    }

    fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.open.is_none() && state.full.is_empty()
    }

    /// These messages have their places.
    pub(crate) fn on_ordered(&self, ordered: Ordered) {
        let mut state = lock(&self.state);
        let last = ordered.last_origin_seq();
        for (end, fates) in state.in_flight.iter().take_while(|(_, fates)| fates.first <= last) {
            // A batch that is settled, and of which no receipt was kept, is of interest to nobody.
            if Arc::strong_count(fates) > 1 || *end > last {
                fates.update(|known| known.runs.push(ordered));
            }
        }
        state.settle(last);
    }

    /// Messages under way up to this one that have no place are of unknown fate.
    pub(crate) fn on_unknown(&self, up_to: u64) -> u64 {
        let mut state = lock(&self.state);
        let mut unknown = 0;
        for (last, fates) in state.in_flight.iter().take_while(|(_, fates)| fates.first <= up_to) {
            let from = fates.update(|known| {
                let from = known.open_from(fates.first);
                known.unknown_to = up_to;
                from
            });
            unknown += (up_to.min(*last) + 1).saturating_sub(from);
        }
        state.settle(up_to);
        unknown
    }

    /// How many messages wait.
    pub(crate) fn queued(&self) -> usize {
        lock(&self.state).messages
    }

    pub(crate) fn max_message(&self) -> usize {
        lock(&self.state).max_message
    }

    pub(crate) fn set_max_message(&self, max_message: usize) {
        lock(&self.state).max_message = max_message;
    }

    /// Opens or closes the way. Whoever waits for room is woken to learn of it. What an endpoint that may not send had accepted
    /// before is never sent; returns how many messages those are.
    pub(crate) fn set_gate(&self, gate: Gate) -> usize {
        let mut state = lock(&self.state);
        let before = state.gate;
        if before != Gate::Closed {
            state.gate = gate;
        }
        let may_no_more = before == Gate::Open && state.gate == Gate::ReadOnly;
        let given_up = if may_no_more { state.give_up() } else { GivenUp::default() };
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        given_up.tell()
    }

    /// Gives up what waits and what is under way: its fate is unknown, or it was never sent. Returns how many messages that are.
    /// The gate was closed before, so nobody waits for room.
    pub(crate) fn abandon(&self) -> (usize, u64) {
        let unknown = self.on_unknown(u64::MAX - 1);
        let given_up = lock(&self.state).give_up();
        (given_up.tell(), unknown)
    }
}

/// Whether it is what who may not send may ask all the same.
fn is_question(message: &Message) -> bool {
    message.kind == MessageKind::FullDocumentRequest
        && message.topic.as_str().starts_with(DOCUMENTS)
        && message.headers.as_bytes().is_empty()
        && message.payload.len() <= MAX_QUESTION
}

/// What was accepted and will never be sent.
#[derive(Debug, Default)]
struct GivenUp {
    messages: usize,
    fates: Vec<Arc<Fates>>,
}

impl GivenUp {
    /// Tells those who kept receipts; returns how many messages there are.
    fn tell(self) -> usize {
        for fates in self.fates {
            fates.update(|known| known.never_sent = true);
        }
        self.messages
    }
}

impl State {
    fn has_room(&self, limit: QueueLimit) -> bool {
        self.messages + self.reserved < limit.messages && self.bytes < limit.bytes
    }

    /// Remembers whom to wake when there is room: one entry for a task, however often it asks.
    fn register(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    fn give_up(&mut self) -> GivenUp {
        let batches = std::mem::take(&mut self.full).into_iter().chain(self.open.take());
        let fates = batches.map(|(_, fates)| fates).collect();
        self.bytes = 0;
        GivenUp { messages: std::mem::take(&mut self.messages), fates }
    }

    /// Takes a message, if there is room by this limit.
    fn push(&mut self, message: &Message, limit: Option<QueueLimit>) -> Result<(Receipt, bool), Refusal> {
        match self.gate {
            Gate::Open => {}
            Gate::ReadOnly if is_question(message) => {}
            Gate::ReadOnly => return Err(Refusal::Final(|message, _| SendError::ReadOnly { message })),
            Gate::Closed => return Err(Refusal::Final(|message, _| SendError::Closed { message })),
        }
        if message.payload.len() > self.max_message {
            return Err(Refusal::Final(|message, limit| SendError::TooLarge { message, limit }));
        }
        if limit.is_some_and(|limit| !self.has_room(limit)) {
            return Err(Refusal::Full);
        }
        let was_idle = self.open.is_none() && self.full.is_empty();
        let next = self.next_origin_seq;
        let fresh = || (BatchBuilder::new(next), Arc::new(Fates::new(next)));
        let (builder, fates) = self.open.get_or_insert_with(fresh);
        // An empty builder counts nothing yet.
        let before = if builder.is_empty() { 0 } else { builder.bytes() };
        let fates = if builder.push(message) {
            self.bytes += builder.bytes() - before;
            Arc::clone(fates)
        } else {
            let (mut builder, fates) = fresh();
            // The first message of a batch always goes in.
            builder.push(message);
            self.bytes += builder.bytes();
            let receipt = Arc::clone(&fates);
            self.full.extend(self.open.replace((builder, fates)));
            receipt
        };
        self.messages += 1;
        self.next_origin_seq += 1;
        Ok((Receipt::new(fates, next), was_idle))
    }

    /// Forgets batches of which every message has its fate.
    fn settle(&mut self, up_to: u64) {
        while self.in_flight.front().is_some_and(|(last, _)| *last <= up_to) {
            self.in_flight.pop_front();
        }
    }
}

/// Room in the send queue for some messages, taken ahead by [`Sender::reserve`](super::Sender::reserve). Dropping it gives back what was not used.
#[derive(Debug)]
pub struct Reservation {
    outbound: Arc<Outbound>,
    left: usize,
}

impl Reservation {
    /// How many messages there is still room for.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left
    }

    /// Sends a message into the room that was kept for it. Never waits.
    ///
    /// # Errors
    /// [`SendError`], with the message inside; nothing was sent. [`SendError::Full`] when all the room has been used.
    pub fn send(&mut self, message: Message) -> Result<Receipt, SendError> {
        if self.left == 0 {
            return Err(SendError::Full { message: Box::new(message) });
        }
        let mut state = lock(&self.outbound.state);
        match state.push(&message, None) {
            Ok((receipt, was_idle)) => {
                state.reserved -= 1;
                self.left -= 1;
                drop(state);
                if was_idle {
                    self.outbound.work.notify_one();
                }
                Ok(receipt)
            }
            Err(Refusal::Full) => Err(SendError::Full { message: Box::new(message) }),
            Err(Refusal::Final(error)) => Err(error(Box::new(message), state.max_message)),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = lock(&self.outbound.state);
        state.reserved -= self.left;
        let waiting = if self.left > 0 { std::mem::take(&mut state.waiting) } else { Vec::new() };
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ReceiptError;
    use crate::message::Position;

    fn outbound(messages: usize) -> Outbound {
        Outbound::new(QueueLimit { messages, bytes: 1 << 20 }, 1 << 20, 1)
    }

    fn message(text: &str) -> Message {
        Message::new("t", text.to_owned()).unwrap()
    }

    fn run(first_origin_seq: u64, count: u32, first_seq: u64) -> Ordered {
        Ordered { epoch: 7, first_origin_seq, first_seq, count }
    }

    #[tokio::test]
    async fn room_that_was_kept_is_there_and_nobody_elses() {
        let outbound = Arc::new(outbound(3));
        let mut kept = outbound.try_reserve(2).unwrap();
        outbound.try_send(message("a")).unwrap();
        assert!(matches!(outbound.try_send(message("b")), Err(SendError::Full { .. })));
        assert!(matches!(outbound.try_reserve(1), Err(ReserveError::Full)));
        assert!(matches!(outbound.try_reserve(4), Err(ReserveError::TooMany { limit: 3 })));
        kept.send(message("c")).unwrap();
        assert_eq!(kept.left(), 1);
        let waiting = std::future::poll_fn(|cx| outbound.poll_reserve(cx, 1));
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(kept);
        assert_eq!(waiting.await.unwrap().left(), 1);
    }

    #[test]
    fn a_full_queue_hands_the_message_back() {
        let outbound = outbound(2);
        outbound.try_send(message("a")).unwrap();
        outbound.try_send(message("b")).unwrap();
        let error = outbound.try_send(message("c")).unwrap_err();
        assert!(matches!(error, SendError::Full { .. }));
        assert_eq!(&error.into_message().payload()[..], b"c");
        let batch = outbound.take().unwrap();
        assert_eq!((batch.first_origin_seq, batch.count), (1, 2));
        assert_eq!(outbound.try_send(message("c")).unwrap().origin_seq(), 3);
    }

    #[tokio::test]
    async fn a_batch_ordered_in_two_runs_resolves_each_receipt_exactly() {
        let outbound = outbound(10);
        let receipts: Vec<_> = (0..4).map(|_| outbound.try_send(message("x")).unwrap()).collect();
        outbound.take().unwrap();
        outbound.on_ordered(run(1, 2, 100));
        assert_eq!(receipts[1].ordered().await, Ok(Position { epoch: 7, seq: 101 }));
        outbound.on_ordered(run(3, 2, 200));
        assert_eq!(receipts[2].ordered().await, Ok(Position { epoch: 7, seq: 200 }));
        assert_eq!(receipts[3].ordered().await, Ok(Position { epoch: 7, seq: 201 }));
        assert!(lock(&outbound.state).in_flight.is_empty());
    }

    #[tokio::test]
    async fn what_was_under_way_at_a_loss_is_unknown_and_the_rest_is_not() {
        let outbound = outbound(10);
        let sent = [outbound.try_send(message("a")).unwrap(), outbound.try_send(message("b")).unwrap()];
        outbound.take().unwrap();
        outbound.on_ordered(run(1, 1, 5));
        let queued = outbound.try_send(message("c")).unwrap();
        assert_eq!(outbound.on_unknown(2), 1);
        assert_eq!(sent[0].ordered().await, Ok(Position { epoch: 7, seq: 5 }));
        assert_eq!(sent[1].ordered().await, Err(ReceiptError::Unknown));
        assert_eq!(outbound.abandon(), (1, 0));
        assert_eq!(queued.ordered().await, Err(ReceiptError::NeverSent));
    }

    #[tokio::test]
    async fn the_sender_of_what_is_refused_is_told_so() {
        let outbound = outbound(10);
        let receipts: Vec<_> = (0..3).map(|_| outbound.try_send(message("x")).unwrap()).collect();
        outbound.take().unwrap();
        outbound.on_ordered(run(1, 1, 5));
        outbound.on_ordered(Ordered::refused(2, 2));
        assert_eq!(receipts[0].ordered().await, Ok(Position { epoch: 7, seq: 5 }));
        assert_eq!(receipts[1].ordered().await, Err(ReceiptError::Refused));
        assert_eq!(receipts[2].ordered().await, Err(ReceiptError::Refused));
        assert!(lock(&outbound.state).in_flight.is_empty());
    }

    #[test]
    fn a_large_message_travels_alone_and_counts_come_out_even() {
        let outbound = outbound(100);
        outbound.try_send(message("small")).unwrap();
        outbound.try_send(message(&"x".repeat(100_000))).unwrap();
        outbound.try_send(message("small")).unwrap();
        let counts: Vec<_> = std::iter::from_fn(|| outbound.take()).map(|batch| batch.count).collect();
        assert_eq!(counts, [1, 1, 1]);
        let state = lock(&outbound.state);
        assert_eq!((state.messages, state.bytes), (0, 0));
    }
}

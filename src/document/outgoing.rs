//! What a document or a keeper has to say, on its way to the endpoint's send queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::{Notify, mpsc};

use crate::endpoint::Receipt;
use crate::error::ReceiptError;
use crate::message::{Message, MessageKind};

/// How many messages may go out in a row while parts of whole documents wait (a guess): so that who writes without a pause still answers.
const MOST_IN_A_ROW: usize = 16;
/// How many answers may wait (a guess: seconds of them). Beyond, they are not given, and whoever asked asks again.
const MOST_ANSWERS: usize = 10_000;

/// Where messages are put.
#[derive(Debug)]
pub(super) struct Outgoing {
    live: mpsc::UnboundedSender<Message>,
    waiting: Arc<AtomicUsize>,
}

impl Outgoing {
    /// Puts a message, if there is one, behind the others. Where the writer is gone, nothing is to be sent any more.
    pub(super) fn send(&self, message: Option<Message>) {
        if let Some(message) = message {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let _ = self.live.send(message);
        }
    }

    /// As [`send`](Self::send), for what others ask for: whether there was room.
    pub(super) fn answer(&self, message: Option<Message>) -> bool {
        let has_room = self.waiting.load(Ordering::Relaxed) < MOST_ANSWERS;
        if has_room {
            self.send(message);
        }
        has_room
    }
}

/// Where they go out: what is live first, and it never waits for more than one part.
#[derive(Debug)]
pub(super) struct Queue {
    live: mpsc::UnboundedReceiver<Message>,
    waiting: Arc<AtomicUsize>,
    in_a_row: usize,
}

impl Queue {
    pub(super) fn new() -> (Outgoing, Self) {
        let (sender, live) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        (Outgoing { live: sender, waiting: Arc::clone(&waiting) }, Self { live, waiting, in_a_row: 0 })
    }

    /// What goes out next; `None` at the end. `part` makes a part if there is one to be sent, and `ready` tells when there may be. Cancel safe.
    pub(super) async fn next(
        &mut self,
        ready: &Notify,
        mut part: impl FnMut() -> Option<Message>,
    ) -> Option<Message> {
        loop {
            if self.in_a_row < MOST_IN_A_ROW
                && let Some(message) = self.try_next()
            {
                self.in_a_row += 1;
                return Some(message);
            }
            self.in_a_row = 0;
            if let Some(message) = part() {
                return Some(message);
            }
            tokio::select! {
                biased;
                message = self.live.recv() => return self.taken(message),
                () = ready.notified() => {}
            }
        }
    }

    /// What is live and waits.
    pub(super) fn try_next(&mut self) -> Option<Message> {
        let message = self.live.try_recv().ok();
        self.taken(message)
    }

    fn taken(&self, message: Option<Message>) -> Option<Message> {
        self.waiting.fetch_sub(usize::from(message.is_some()), Ordering::Relaxed);
        message
    }
}

/// A message on a topic of documents.
pub(super) fn message(topic: String, kind: MessageKind, payload: Bytes) -> Option<Message> {
    let message = Message::new(topic, payload);
    debug_assert!(message.is_ok(), "{message:?}");
    Some(message.ok()?.with_kind(kind))
}

/// What became of a message that does not get a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It may have one or not.
    Unknown,
    /// The host does not let it have one.
    Refused,
}

/// Waits until the fate of a message turns out to be none to wait for: what it is, and what was noted of the message. Those that are known by then are done with: several that
/// are told at once are one word, and those that were refused where the same was noted of them.
pub(super) async fn next_lost<T: PartialEq>(open: &mut VecDeque<(T, Receipt)>) -> (Lost, T) {
    let lost = |fate| match fate {
        Err(ReceiptError::Unknown) => Some(Lost::Unknown),
        Err(ReceiptError::Refused) => Some(Lost::Refused),
        Ok(_) | Err(ReceiptError::NeverSent) => None,
    };
    while let Some((_, receipt)) = open.front() {
        let lost_now = lost(receipt.ordered().await);
        let Some((first, _)) = open.pop_front() else { break };
        if let Some(what) = lost_now {
            let same = |(note, receipt): &(T, Receipt)| {
                let is_alike = what == Lost::Unknown || *note == first;
                is_alike && receipt.ordered().now_or_never().and_then(lost) == Some(what)
            };
            while open.front().is_some_and(same) {
                open.pop_front();
            }
            return (what, first);
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_live_goes_before_parts_and_parts_go_all_the_same() {
        let message = |topic: &str| Message::new(topic, Vec::new()).unwrap();
        let (outgoing, mut queue) = Queue::new();
        let ready = Notify::new();
        (0..40).for_each(|_| outgoing.send(Some(message("live"))));
        let mut parts = 3;
        let mut seen = Vec::new();
        for _ in 0..43 {
            let part = || {
                (parts > 0).then(|| {
                    parts -= 1;
                    message("part")
                })
            };
            seen.push(queue.next(&ready, part).await.unwrap());
        }
        let at = |(at, message): (usize, &Message)| (message.topic().as_str() == "part").then_some(at);
        assert_eq!(seen.iter().enumerate().filter_map(at).collect::<Vec<_>>(), [16, 33, 42]);
        drop(outgoing);
        assert!(queue.next(&ready, || None).await.is_none());
    }

    #[test]
    fn who_asks_faster_than_is_sent_is_not_answered_each_time() {
        let message = || Some(Message::new("answer", Vec::new()).unwrap());
        let (outgoing, mut queue) = Queue::new();
        assert_eq!((0..20_000).filter(|_| outgoing.answer(message())).count(), MOST_ANSWERS);
        outgoing.send(message());
        assert_eq!(std::iter::from_fn(|| queue.try_next()).count(), MOST_ANSWERS + 1);
        assert!(outgoing.answer(message()));
    }
}

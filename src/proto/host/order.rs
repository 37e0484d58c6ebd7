//! The one order: positions, and the windows that carry them.

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::Topic;
use crate::wire::{Barrier, MAX_EPOCH, WindowBuilder};

/// How far above a stored epoch a host goes at most: 17 minutes in milliseconds (a guess: two lives
/// meet once in a million, and years
/// pass before the clock is left behind).
const EPOCH_STEPS: u64 = 1 << 20;

/// Gives records their positions and collects them into the open window.
#[derive(Debug)]
pub(super) struct Order {
    epoch: u64,
    /// The number of the last window that was cut.
    number: u64,
    /// The seq of the last message that has one.
    last_seq: u64,
    window: WindowBuilder,
}

/// A window that was cut.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) last_seq: u64,
    pub(super) body: Bytes,
    pub(super) records: u64,
}

impl Order {
    pub(super) fn new(epoch: u64) -> Self {
        Self { epoch: epoch.clamp(1, MAX_EPOCH), number: 0, last_seq: 0, window: WindowBuilder::new() }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of the last window that was cut.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The seq of the last message, the open window's included.
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Where the order stands. The open window is not counted: cut it first.
    pub(super) fn barrier(&self) -> Barrier {
        debug_assert!(self.window.is_empty());
        Barrier { epoch: self.epoch, number: self.number, last_seq: self.last_seq }
    }

    /// Goes on in an epoch above this one, by a step of the incarnation's own: two lives of a host
    /// that rise above the same stored epoch are not to meet. The open window belongs to the old
    /// epoch: cut it first.
    pub(super) fn rise_above(&mut self, epoch: u64, incarnation: u64) {
        debug_assert!(self.window.is_empty());
        self.epoch = (epoch + 1 + incarnation % EPOCH_STEPS).min(MAX_EPOCH);
    }

    /// Gives a record the next position; `false`, and nothing done, when the open window must be cut first.
    pub(super) fn push(&mut self, origin: EndpointId, origin_seq: u64, topic: &Topic, tail: &[u8]) -> bool {
        let taken = self.window.push(topic, origin, origin_seq, tail);
        self.last_seq += u64::from(taken);
        taken
    }

    /// Closes the open window; `None` when it is empty.
    pub(super) fn cut(&mut self) -> Option<Cut> {
        if self.window.is_empty() {
            return None;
        }
        self.number += 1;
        let records = u64::from(self.window.count());
        let window = std::mem::replace(&mut self.window, WindowBuilder::new());
        let body = window.finish(self.epoch, self.number, self.last_seq - records + 1);
        Some(Cut { last_seq: self.last_seq, body, records })
    }
}

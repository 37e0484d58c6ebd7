//! What was submitted and has no place yet.

use std::collections::VecDeque;

use crate::id::EndpointId;
use crate::wire::{MAX_RECORDS, Ordered, Window};

/// The batches of a member that are under way, and what is known of their messages.
#[derive(Debug)]
pub(super) struct InFlight {
    /// The batches of which something is open.
    batches: VecDeque<Batch>,
    bytes: usize,
    limit: Limit,
    next_origin_seq: u64,
    /// The lowest origin_seq whose fate is open.
    open_from: u64,
    /// Places told by the parent of messages in windows that delivery has not reached yet.
    told: VecDeque<Ordered>,
}

/// How much may be under way: a batch is taken while there is room for any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) batches: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Batch {
    first_origin_seq: u64,
    count: u16,
    bytes: usize,
}

/// What a place told or seen comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Up to here, what had no place before is of unknown fate.
    pub(super) unknown_up_to: Option<u64>,
    pub(super) ordered: Ordered,
}

impl InFlight {
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            limit,
            next_origin_seq: 1,
            open_from: 1,
            told: VecDeque::new(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.batches.len() < self.limit.batches && self.bytes < self.limit.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The origin_seq of the next message to be submitted.
    pub(super) fn next_origin_seq(&self) -> u64 {
        self.next_origin_seq
    }

    pub(super) fn submit(&mut self, first_origin_seq: u64, count: u16, bytes: usize) {
        self.next_origin_seq = first_origin_seq + u64::from(count);
        self.bytes += bytes;
        self.batches.push_back(Batch { first_origin_seq, count, bytes });
    }

    /// The parent told places. They count when delivery has passed their window, so that they cannot overtake an echo.
    /// `false` when there are more than can be.
    pub(super) fn on_told(&mut self, ordered: Ordered) -> bool {
        // Each tells of at least one message under way: whoever sends more is not to be believed.
        let plausible = self.told.len() < self.limit.batches * MAX_RECORDS;
        if plausible {
            self.told.push_back(ordered);
        }
        plausible
    }

    /// The next of the places told that counts, now that delivery has come to this window.
    pub(super) fn take_told(&mut self, number: u64) -> Option<Ordered> {
        let ordered = self.told.front().copied().filter(|ordered| ordered.number <= number)?;
        self.told.pop_front();
        Some(ordered)
    }

    /// Messages have places. `None` when that is known already.
    pub(super) fn on_ordered(&mut self, ordered: Ordered) -> Option<Resolved> {
        let last = ordered.last_origin_seq();
        if last < self.open_from || last >= self.next_origin_seq {
            // Known already; or never sent, which only a parent in error would claim.
            return None;
        }
        // What is older was ordered in a window that was lost.
        let unknown_up_to = (ordered.first_origin_seq > self.open_from).then(|| ordered.first_origin_seq - 1);
        self.open_from = last + 1;
        let settled = |batch: &Batch| batch.first_origin_seq + u64::from(batch.count) <= last + 1;
        while let Some(batch) = self.batches.front().filter(|batch| settled(batch)) {
            self.bytes -= batch.bytes;
            self.batches.pop_front();
        }
        Some(Resolved { unknown_up_to, ordered })
    }

    /// The session is over: up to which message the fate of what was under way is unknown, if anything was.
    pub(super) fn lose(&mut self) -> Option<u64> {
        self.told.clear();
        if self.batches.is_empty() {
            return None;
        }
        self.batches.clear();
        self.bytes = 0;
        self.open_from = self.next_origin_seq;
        Some(self.next_origin_seq - 1)
    }
}

/// The runs of an origin's messages in a window: those that stand side by side, in the window as in their origin.
pub(super) fn own_runs(window: &Window, origin: EndpointId) -> Vec<Ordered> {
    let mut runs: Vec<Ordered> = Vec::new();
    for (seq, message) in (window.first_seq..).zip(&window.messages) {
        if message.origin != origin {
            continue;
        }
        match runs.last_mut() {
            Some(run)
                if run.last_origin_seq() + 1 == message.origin_seq
                    && run.first_seq + u64::from(run.count) == seq =>
            {
                run.count += 1;
            }
            _ => runs.push(Ordered {
                epoch: window.epoch,
                number: window.number,
                first_origin_seq: message.origin_seq,
                first_seq: seq,
                count: 1,
            }),
        }
    }
    runs
}

//! What was submitted and has no place yet.

use std::collections::VecDeque;

use crate::wire::Ordered;

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

/// What a place told comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Up to here, what had no place before is of unknown fate.
    pub(super) unknown_up_to: Option<u64>,
    pub(super) ordered: Ordered,
}

impl InFlight {
    pub(super) fn new(limit: Limit) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, limit, next_origin_seq: 1, open_from: 1 }
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

    /// Messages have places. `None` when that is known already.
    pub(super) fn on_ordered(&mut self, ordered: Ordered) -> Option<Resolved> {
        let last = ordered.last_origin_seq();
        if last < self.open_from || last >= self.next_origin_seq {
            // Known already; or never sent, which only a parent in error would claim.
            return None;
        }
        // Places are told in order: what was passed over was not told, for whatever reason.
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
        if self.batches.is_empty() {
            return None;
        }
        self.batches.clear();
        self.bytes = 0;
        self.open_from = self.next_origin_seq;
        Some(self.next_origin_seq - 1)
    }
}

//! What was submitted and has no place yet: kept to be sent again.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::wire::Ordered;

/// The batches of a member that are under way, over all its sessions, and what is known of their messages.
#[derive(Debug)]
pub(super) struct Outbox {
    /// The batches of which something is open.
    batches: VecDeque<Batch>,
    bytes: usize,
    limit: Limit,
    next_origin_seq: u64,
    /// The lowest origin_seq whose fate is open.
    open_from: u64,
    /// Whether nobody knows yet with which number it begins.
    untouched: bool,
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
    body: Bytes,
}

impl Batch {
    fn last_origin_seq(&self) -> u64 {
        self.first_origin_seq + u64::from(self.count) - 1
    }
}

/// What a place told comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Up to here, what had no place before is of unknown fate.
    pub(super) unknown_up_to: Option<u64>,
    pub(super) ordered: Ordered,
}

impl Outbox {
    pub(super) fn new(limit: Limit, first_origin_seq: u64) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            limit,
            next_origin_seq: first_origin_seq,
            open_from: first_origin_seq,
            untouched: true,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.batches.len() < self.limit.batches && self.bytes < self.limit.bytes
    }

    #[cfg(any(test, feature = "test-utils"))]
    pub(super) fn usage(&self) -> (usize, usize) {
        (self.batches.len(), self.bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether the numbers may begin anywhere.
    pub(super) fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// Begins behind this origin_seq.
    pub(super) fn start_after(&mut self, last: u64) {
        debug_assert!(self.untouched);
        self.next_origin_seq = last + 1;
        self.open_from = last + 1;
    }

    /// The application is told with which number it begins.
    pub(super) fn settle_beginning(&mut self) {
        self.untouched = false;
    }

    /// The origin_seq of the next message to be submitted.
    pub(super) fn next_origin_seq(&self) -> u64 {
        self.next_origin_seq
    }

    /// The first message whose fate is not known, which may stand in the middle of a batch; `None` without any.
    pub(super) fn first_open(&self) -> Option<u64> {
        self.batches.front().map(|batch| batch.first_origin_seq.max(self.open_from))
    }

    /// The fate of all messages up to here is known.
    pub(super) fn confirmed(&self) -> u64 {
        self.open_from - 1
    }

    pub(super) fn submit(&mut self, first_origin_seq: u64, count: u16, body: Bytes) {
        debug_assert_eq!(first_origin_seq, self.next_origin_seq);
        self.next_origin_seq = first_origin_seq + u64::from(count);
        self.bytes += body.len();
        self.batches.push_back(Batch { first_origin_seq, count, body });
    }

    /// The batches that end with this origin_seq or later, to be sent again.
    pub(super) fn from(&self, origin_seq: u64) -> impl Iterator<Item = &Bytes> {
        self.batches
            .iter()
            .filter(move |batch| batch.last_origin_seq() >= origin_seq)
            .map(|batch| &batch.body)
    }

    /// Messages have places: those of them of which that was not known. `None` when that was none.
    pub(super) fn on_ordered(&mut self, mut ordered: Ordered) -> Option<Resolved> {
        let last = ordered.last_origin_seq();
        if last < self.open_from || last >= self.next_origin_seq {
            // Known already; or never sent, which only a parent in error would claim.
            return None;
        }
        // Places are told in order: what was passed over was not told, for whatever reason.
        let known = self.open_from.saturating_sub(ordered.first_origin_seq);
        // The run's last message at least is left.
        ordered.skip(known);
        let unknown_up_to = (ordered.first_origin_seq > self.open_from).then(|| ordered.first_origin_seq - 1);
        self.settle(last);
        Some(Resolved { unknown_up_to, ordered })
    }

    /// Gives up what is open up to here: up to which message the fate is unknown, if that of any is.
    pub(super) fn give_up(&mut self, up_to: u64) -> Option<u64> {
        let up_to = up_to.min(self.next_origin_seq - 1);
        if up_to < self.open_from {
            return None;
        }
        self.settle(up_to);
        Some(up_to)
    }

    fn settle(&mut self, up_to: u64) {
        self.open_from = up_to + 1;
        while self.batches.front().is_some_and(|batch| batch.last_origin_seq() <= up_to) {
            self.bytes -= self.batches.pop_front().map_or(0, |batch| batch.body.len());
        }
    }
}

//! The replay ring: the last windows as they were published, to repair from and to measure lag by.

use std::collections::VecDeque;

use bytes::Bytes;

use super::super::Instant;
use super::interface::RingLimit;

/// What a window costs beside its bytes: its entry here, and what an allocation takes (rounded up).
const ENTRY_BYTES: u64 = 128;

/// The last windows. Bounded in messages and bytes, but for the very last window, which is always there.
#[derive(Debug)]
pub(super) struct Ring {
    /// Their numbers are consecutive.
    entries: VecDeque<Entry>,
    messages: u64,
    bytes: u64,
    /// The bytes of all windows ever, these included.
    total: u64,
    limit: RingLimit,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    last_seq: u64,
    records: u64,
    body: Bytes,
    at: Instant,
    /// The bytes of all windows ever before this one.
    before: u64,
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.body.len() as u64 + ENTRY_BYTES
    }
}

/// What is behind a seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) bytes: u64,
    /// When the oldest of it was published.
    pub(super) since: Instant,
    /// Whether it is the very last window alone.
    pub(super) is_last: bool,
}

impl Ring {
    pub(super) fn new(limit: RingLimit) -> Self {
        Self { entries: VecDeque::new(), messages: 0, bytes: 0, total: 0, limit }
    }

    /// Takes in the next window.
    pub(super) fn push(&mut self, now: Instant, number: u64, last_seq: u64, records: u64, body: Bytes) {
        let entry = Entry { number, last_seq, records, body, at: now, before: self.total };
        self.messages += records;
        self.bytes += entry.bytes();
        self.total += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > 1 && (self.messages > self.limit.messages || self.bytes > self.limit.bytes)
        {
            if let Some(entry) = self.entries.pop_front() {
                self.messages -= entry.records;
                self.bytes -= entry.bytes();
            }
        }
    }

    /// The number of the oldest window; `None` while there is none.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.number)
    }

    /// A window by its number.
    pub(super) fn get(&self, number: u64) -> Option<&Bytes> {
        let index = usize::try_from(number.checked_sub(self.oldest()?)?).ok()?;
        self.entries.get(index).map(|entry| &entry.body)
    }

    /// What was published behind this seq, as far as it is still here; `None` when nothing was.
    pub(super) fn behind(&self, seq: u64) -> Option<Behind> {
        let first = self.entries.partition_point(|entry| entry.last_seq <= seq);
        let entry = self.entries.get(first)?;
        Some(Behind {
            bytes: self.total - entry.before,
            since: entry.at,
            // The last one here may be the first one here, and what came before it missed, too.
            is_last: first + 1 == self.entries.len() && entry.last_seq - entry.records <= seq,
        })
    }

    #[cfg(any(test, feature = "test-utils"))]
    pub(super) fn usage(&self) -> (usize, u64, u64) {
        (self.entries.len(), self.messages, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_window_left_is_not_all_that_was_missed() {
        let mut ring = Ring::new(RingLimit { messages: 1, bytes: 1000 });
        for number in 1..=3 {
            ring.push(Instant::START, number, number, 1, Bytes::from_static(b"window"));
        }
        assert_eq!(ring.oldest(), Some(3));
        assert!(ring.behind(2).is_some_and(|behind| behind.is_last));
        assert!(ring.behind(1).is_some_and(|behind| !behind.is_last));
        assert_eq!(ring.behind(3), None);
    }
}

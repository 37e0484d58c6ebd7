//! The log: the last windows of the order, to repair from and to measure lag by.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::wire::{Barrier, EncodedWindow};

use super::Instant;

/// The memory that a window is charged beside its bytes: its entry here, and what an allocation takes
/// (rounded up).
const ENTRY_BYTES: u64 = 128;
/// The number of truncated windows whose places are kept (a guess: 256 MiB of full windows; the
/// places take some hundred KiB). One place would show that a member is behind the log; more show how
/// far.
const PLACES_KEPT: usize = 4_096;
/// The share of the log that a member skips when it goes on behind truncated windows (a guess: more
/// than is truncated while it asks).
const RESUME_SLACK: usize = 8;

/// A bound on a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLimit {
    pub(crate) messages: u64,
    /// Of windows as published, and 128 for each.
    pub(crate) bytes: u64,
}

/// The last windows. A log is bounded in messages and bytes, but it always keeps the very last window.
#[derive(Debug)]
pub(crate) struct Log {
    /// Their numbers are consecutive.
    entries: VecDeque<Entry>,
    /// The places of the last truncated windows: lag is measured beyond what can be repaired.
    truncated: VecDeque<Place>,
    messages: u64,
    bytes: u64,
    /// The bytes of all windows ever, these included.
    total: u64,
    /// The seq of the last record ever.
    last_seq: u64,
    limit: LogLimit,
}

#[derive(Debug)]
struct Entry {
    window: EncodedWindow,
    place: Place,
}

/// The place of a window among all.
#[derive(Debug, Clone, Copy)]
struct Place {
    epoch: u64,
    last_seq: u64,
    appended_at: Instant,
    /// The bytes of all windows ever before this one.
    before: u64,
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.window.body.len() as u64 + ENTRY_BYTES
    }
}

/// The windows behind a seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind {
    pub(crate) bytes: u64,
    /// When the oldest of them was appended.
    pub(crate) since: Instant,
    /// Whether it is the very last window alone.
    pub(crate) is_last: bool,
}

impl Log {
    pub(crate) fn new(limit: LogLimit) -> Self {
        Self {
            entries: VecDeque::new(),
            truncated: VecDeque::new(),
            messages: 0,
            bytes: 0,
            total: 0,
            last_seq: 0,
            limit,
        }
    }

    /// The seq of the last record; 0 before the first.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Appends the next window, and truncates what is beyond the limit.
    pub(crate) fn append(&mut self, now: Instant, window: EncodedWindow) {
        let place =
            Place { epoch: window.epoch, last_seq: window.last_seq, appended_at: now, before: self.total };
        self.last_seq = window.last_seq;
        let entry = Entry { window, place };
        self.messages += entry.window.records();
        self.bytes += entry.bytes();
        self.total += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > 1 && (self.messages > self.limit.messages || self.bytes > self.limit.bytes)
        {
            if let Some(entry) = self.entries.pop_front() {
                self.messages -= entry.window.records();
                self.bytes -= entry.bytes();
                if self.truncated.len() == PLACES_KEPT {
                    self.truncated.pop_front();
                }
                self.truncated.push_back(entry.place);
            }
        }
    }

    /// The number of the oldest window; `None` while there is none.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.window.number)
    }

    /// A window by its number.
    pub(crate) fn get(&self, number: u64) -> Option<&Bytes> {
        let index = usize::try_from(number.checked_sub(self.oldest()?)?).ok()?;
        self.entries.get(index).map(|entry| &entry.window.body)
    }

    /// Where a member goes on that misses truncated windows: a little behind the oldest window, so
    /// that the next one is still here when it asks. `None` while nothing is truncated.
    pub(crate) fn resume_behind(&self) -> Option<Barrier> {
        let (skip, oldest) = (self.entries.len() / RESUME_SLACK, self.oldest()?);
        let place = match skip.checked_sub(1) {
            Some(index) => &self.entries.get(index)?.place,
            None => self.truncated.back()?,
        };
        Some(Barrier { epoch: place.epoch, number: oldest - 1 + skip as u64, last_seq: place.last_seq })
    }

    /// The windows behind this seq, as far as their places are kept; `None` when there are none.
    pub(crate) fn behind(&self, seq: u64) -> Option<Behind> {
        let truncated = self.truncated.partition_point(|place| place.last_seq <= seq);
        let here = self.entries.partition_point(|entry| entry.place.last_seq <= seq);
        let first =
            self.truncated.get(truncated).or_else(|| self.entries.get(here).map(|entry| &entry.place))?;
        Some(Behind {
            bytes: self.total - first.before,
            since: first.appended_at,
            is_last: truncated == self.truncated.len() && here + 1 == self.entries.len(),
        })
    }

    /// Windows, messages and bytes.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn usage(&self) -> (usize, u64, u64) {
        (self.entries.len(), self.messages, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_window_left_is_not_all_that_was_missed() {
        let mut log = Log::new(LogLimit { messages: 1, bytes: 1000 });
        for number in 1..=3 {
            log.append(Instant::START, window(number, b"window"));
        }
        assert_eq!(log.oldest(), Some(3));
        assert!(log.behind(2).is_some_and(|behind| behind.is_last));
        assert!(log.behind(1).is_some_and(|behind| !behind.is_last));
        assert_eq!(log.behind(3), None);
    }

    /// A log of 10 messages and 3 windows' bytes, after this many windows of one message and 100 bytes.
    fn log(windows: u64) -> Log {
        let mut log = Log::new(LogLimit { messages: 10, bytes: 3 * (100 + ENTRY_BYTES) });
        for number in 1..=windows {
            let at = Instant::since_start(std::time::Duration::from_secs(number));
            log.append(at, window(number, &[0; 100]));
        }
        log
    }

    /// A window of one message, the first of which was 1.
    fn window(number: u64, body: &[u8]) -> EncodedWindow {
        let (first_seq, body) = (number, Bytes::copy_from_slice(body));
        EncodedWindow { epoch: 7, number, first_seq, last_seq: first_seq, body }
    }

    /// The end of such a window.
    fn end(number: u64) -> Barrier {
        Barrier { epoch: 7, number, last_seq: number }
    }

    #[test]
    fn those_who_missed_what_is_gone_go_on_with_what_is_not() {
        assert_eq!(log(3).resume_behind(), None, "nothing is gone");
        assert_eq!(log(8).resume_behind(), Some(end(5)), "the oldest is 6");
        let mut long = Log::new(LogLimit { messages: 16, bytes: 1 << 20 });
        (1..=20).for_each(|number| long.append(Instant::START, window(number, b"")));
        assert_eq!((long.oldest(), long.resume_behind()), (Some(5), Some(end(6))));
    }

    #[test]
    fn lag_is_measured_beyond_what_is_kept() {
        let log = log(8);
        assert_eq!(log.oldest(), Some(6));
        for seq in 0..8 {
            let behind = log.behind(seq).unwrap();
            assert_eq!(behind.bytes, (8 - seq) * (100 + ENTRY_BYTES));
            assert_eq!(behind.since.elapsed().as_secs(), seq + 1);
            assert_eq!(behind.is_last, seq == 7);
        }
        assert_eq!(log.behind(8), None);
    }

    #[test]
    fn what_is_remembered_of_windows_that_are_gone_is_bounded() {
        let log = log(3 + 2 * PLACES_KEPT as u64);
        assert_eq!(log.truncated.len(), PLACES_KEPT);
        assert!(log.behind(0).unwrap().bytes > log.limit.bytes, "whoever is further behind is past the log");
    }
}

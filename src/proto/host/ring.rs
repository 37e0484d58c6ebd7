//! The replay ring: the last windows as they were published, to repair from and to measure lag by.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::wire::Barrier;

use super::super::Instant;
use super::interface::RingLimit;

/// What a window costs beside its bytes: its entry here, and what an allocation takes (rounded up).
const ENTRY_BYTES: u64 = 128;
/// Of how many windows that had to go it is remembered where they stood (a guess: 256 MiB of full ones; costs some hundred KiB). One would do to
/// judge whoever is behind them: with it the ring was fuller than it may be. More tell how far that is.
const GONE_KEPT: usize = 4_096;

/// What part of the ring is left out by those who go on behind what is gone (a guess: what comes in while they ask is less).
const RESUME_SLACK: usize = 8;

/// The last windows. Bounded in messages and bytes, but for the very last window, which is always there.
#[derive(Debug)]
pub(super) struct Ring {
    /// Their numbers are consecutive.
    entries: VecDeque<Entry>,
    /// Where the last windows stood that had to go: lag is measured beyond what can be repaired.
    gone: VecDeque<Place>,
    messages: u64,
    bytes: u64,
    /// The bytes of all windows ever, these included.
    total: u64,
    limit: RingLimit,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    records: u64,
    body: Bytes,
    place: Place,
}

/// Where a window stands among all.
#[derive(Debug, Clone, Copy)]
struct Place {
    epoch: u64,
    last_seq: u64,
    /// When it was published.
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
        Self { entries: VecDeque::new(), gone: VecDeque::new(), messages: 0, bytes: 0, total: 0, limit }
    }

    /// Takes in the next window: where it ends, and how many records it has.
    pub(super) fn push(&mut self, now: Instant, end: Barrier, records: u64, body: Bytes) {
        let place = Place { epoch: end.epoch, last_seq: end.last_seq, at: now, before: self.total };
        let entry = Entry { number: end.number, records, body, place };
        self.messages += records;
        self.bytes += entry.bytes();
        self.total += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > 1 && (self.messages > self.limit.messages || self.bytes > self.limit.bytes)
        {
            if let Some(entry) = self.entries.pop_front() {
                self.messages -= entry.records;
                self.bytes -= entry.bytes();
                if self.gone.len() == GONE_KEPT {
                    self.gone.pop_front();
                }
                self.gone.push_back(entry.place);
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

    /// Where to go on for those who miss what is gone: a little behind the oldest window, so that it is still here when they ask for it. `None` while
    /// nothing is gone.
    pub(super) fn resume_behind(&self) -> Option<Barrier> {
        let (skip, oldest) = (self.entries.len() / RESUME_SLACK, self.oldest()?);
        let place = match skip.checked_sub(1) {
            Some(index) => &self.entries.get(index)?.place,
            None => self.gone.back()?,
        };
        Some(Barrier { epoch: place.epoch, number: oldest - 1 + skip as u64, last_seq: place.last_seq })
    }

    /// What was published behind this seq, as far as is remembered; `None` when nothing was.
    pub(super) fn behind(&self, seq: u64) -> Option<Behind> {
        let gone = self.gone.partition_point(|place| place.last_seq <= seq);
        let here = self.entries.partition_point(|entry| entry.place.last_seq <= seq);
        let first = self.gone.get(gone).or_else(|| self.entries.get(here).map(|entry| &entry.place))?;
        Some(Behind {
            bytes: self.total - first.before,
            since: first.at,
            is_last: gone == self.gone.len() && here + 1 == self.entries.len(),
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
            ring.push(Instant::START, end(number), 1, Bytes::from_static(b"window"));
        }
        assert_eq!(ring.oldest(), Some(3));
        assert!(ring.behind(2).is_some_and(|behind| behind.is_last));
        assert!(ring.behind(1).is_some_and(|behind| !behind.is_last));
        assert_eq!(ring.behind(3), None);
    }

    /// A ring of 10 messages and 3 windows' bytes, after this many windows of one message and 100 bytes.
    fn ring(windows: u64) -> Ring {
        let mut ring = Ring::new(RingLimit { messages: 10, bytes: 3 * (100 + ENTRY_BYTES) });
        for number in 1..=windows {
            let at = Instant::since_start(std::time::Duration::from_secs(number));
            ring.push(at, end(number), 1, Bytes::from(vec![0; 100]));
        }
        ring
    }

    /// The end of a window of one message, the first of which was 1.
    fn end(number: u64) -> Barrier {
        Barrier { epoch: 7, number, last_seq: number }
    }

    #[test]
    fn those_who_missed_what_is_gone_go_on_with_what_is_not() {
        assert_eq!(ring(3).resume_behind(), None, "nothing is gone");
        assert_eq!(ring(8).resume_behind(), Some(end(5)), "the oldest is 6");
        let mut long = Ring::new(RingLimit { messages: 16, bytes: 1 << 20 });
        (1..=20).for_each(|number| long.push(Instant::START, end(number), 1, Bytes::new()));
        assert_eq!((long.oldest(), long.resume_behind()), (Some(5), Some(end(6))));
    }

    #[test]
    fn lag_is_measured_beyond_what_is_kept() {
        let ring = ring(8);
        assert_eq!(ring.oldest(), Some(6));
        for seq in 0..8 {
            let behind = ring.behind(seq).unwrap();
            assert_eq!(behind.bytes, (8 - seq) * (100 + ENTRY_BYTES));
            assert_eq!(behind.since.elapsed().as_secs(), seq + 1);
            assert_eq!(behind.is_last, seq == 7);
        }
        assert_eq!(ring.behind(8), None);
    }

    #[test]
    fn what_is_remembered_of_windows_that_are_gone_is_bounded() {
        let ring = ring(3 + 2 * GONE_KEPT as u64);
        assert_eq!(ring.gone.len(), GONE_KEPT);
        assert!(
            ring.behind(0).unwrap().bytes > ring.limit.bytes,
            "whoever is further behind is past the ring"
        );
    }
}

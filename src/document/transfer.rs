//! Whole documents on their way to those that asked, a few parts at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::id::EndpointId;
use crate::proto::Instant;

use super::join::PARTS_AT_ONCE;
use super::wire::{Answer, Word};

/// How large a part is: two of them go into a window, and live traffic never waits for more than one.
const PART: usize = 30 << 10;
/// How many may be under way at once (a guess); others are told to ask again.
const MOST: usize = 256;
/// How many bytes they may take (a guess).
const MOST_BYTES: usize = 256 << 20;
/// After what time without a word the asker is taken for gone (a guess).
const IDLE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Transfer {
    bytes: Bytes,
    /// How many parts were sent.
    sent: u64,
    idle_until: Instant,
}

impl Transfer {
    fn parts(&self) -> u64 {
        self.bytes.len().div_ceil(PART).max(1) as u64
    }

    fn part(&self, index: u64) -> Bytes {
        let start = index as usize * PART;
        self.bytes.slice(start..(start + PART).min(self.bytes.len()))
    }
}

/// The answers that are being given.
#[derive(Debug, Default)]
pub(super) struct Transfers(BTreeMap<(EndpointId, u64), Transfer>);

impl Transfers {
    /// Begins to send what `encode` gives, a document mostly; what is to be said at once.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        to: EndpointId,
        nonce: u64,
        encode: impl FnOnce() -> Bytes,
    ) -> Vec<Answer> {
        self.0.retain(|_, transfer| transfer.idle_until > now);
        let held: usize = self.0.values().map(|transfer| transfer.bytes.len()).sum();
        if self.0.len() >= MOST || held >= MOST_BYTES {
            return vec![Answer { nonce, word: Word::Busy }];
        }
        let transfer = Transfer { bytes: encode(), sent: 0, idle_until: now + IDLE };
        self.0.insert((to, nonce), transfer);
        self.advance(now, to, nonce, 2 * PARTS_AT_ONCE)
    }

    /// The parts before `next` have come.
    pub(super) fn more(&mut self, now: Instant, to: EndpointId, nonce: u64, next: u64) -> Vec<Answer> {
        self.advance(now, to, nonce, next.saturating_add(2 * PARTS_AT_ONCE))
    }

    fn advance(&mut self, now: Instant, to: EndpointId, nonce: u64, up_to: u64) -> Vec<Answer> {
        let Some(transfer) = self.0.get_mut(&(to, nonce)) else { return Vec::new() };
        transfer.idle_until = now + IDLE;
        let of = transfer.parts();
        let range = transfer.sent..up_to.min(of).min(transfer.sent + 2 * PARTS_AT_ONCE);
        transfer.sent = range.end.max(transfer.sent);
        let answers = range
            .map(|index| Answer { nonce, word: Word::Part { index, of, bytes: transfer.part(index) } })
            .collect();
        if transfer.sent == of {
            self.0.remove(&(to, nonce));
        }
        answers
    }
}

//! Whole documents on their way to those that asked. A part is made when there is time to send it, so what waits is one copy of each document.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::Position;
use crate::proto::Instant;

use super::join::PARTS_AT_ONCE;
use super::wire::{self, Answer, Word};

/// How large a part is: two of them go into a window.
const PART: usize = 30 << 10;
/// What is around a part in its message, in bytes, or more.
const AROUND: usize = 64;
/// How many may be under way at once (a guess); others are told to ask again.
const MOST: usize = 256;
/// How many of them may be one endpoint's (a guess).
const MOST_OF_ONE: usize = 64;
/// How many bytes they may take (a guess).
const MOST_BYTES: usize = 256 << 20;
/// After what time without a word the asker is taken for gone (a guess).
const IDLE: Duration = Duration::from_secs(10);

/// Which state of a document it is, to whom it looks the same: up to where it goes, and whether it is read-only.
pub(super) type Version = (Position, bool);

#[derive(Debug)]
struct Transfer {
    nonce: u64,
    version: Option<Version>,
    bytes: Bytes,
    parts: u64,
    /// How many of them were sent.
    sent: u64,
    /// How many may be, before more are asked for.
    wanted: u64,
    idle_until: Instant,
}

/// Whom it is for: an endpoint, of a document, and whether a keeper asked there or whoever has it open.
type Key = (EndpointId, String, bool);

/// The answers that are being given: to each that asks one for each document, the one it asked for last.
#[derive(Debug)]
pub(super) struct Transfers {
    part: usize,
    under_way: BTreeMap<Key, Transfer>,
    /// Whose turn it was.
    last: Option<Key>,
}

impl Transfers {
    /// In messages of at most this many bytes.
    pub(super) fn new(max_message: usize) -> Self {
        let part = max_message.saturating_sub(AROUND).clamp(1, PART);
        Self { part, under_way: BTreeMap::new(), last: None }
    }

    /// Begins to send what `encode` gives, a document mostly, which others may get, too, while it is of this version; or says that there is too much to do.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        to: EndpointId,
        name: &str,
        nonce: u64,
        version: Option<Version>,
        encode: impl FnOnce() -> Bytes,
    ) -> Option<Answer> {
        self.under_way.retain(|_, transfer| transfer.sent < transfer.wanted || transfer.idle_until > now);
        let key = (to, name.to_owned(), wire::is_a_keepers(nonce));
        let same = |((_, other, _), transfer): (&Key, &Transfer)| {
            (other == name && version.is_some() && transfer.version == version)
                .then(|| transfer.bytes.clone())
        };
        // Its own, too: who asks again and again costs no more than who waits.
        let same = self.under_way.iter().find_map(same);
        // It waits for the answer to its last question alone.
        self.under_way.remove(&key);
        let of_one = self.under_way.keys().filter(|(other, ..)| *other == to).count();
        let is_full = self.under_way.len() >= MOST || of_one >= MOST_OF_ONE;
        if is_full || (same.is_none() && self.bytes() >= MOST_BYTES) {
            return Some(Answer { nonce, word: Word::Busy });
        }
        let bytes = same.unwrap_or_else(encode);
        let parts = bytes.len().div_ceil(self.part).max(1) as u64;
        let wanted = parts.min(2 * PARTS_AT_ONCE);
        let transfer = Transfer { nonce, version, bytes, parts, sent: 0, wanted, idle_until: now + IDLE };
        self.under_way.insert(key, transfer);
        None
    }

    /// How many bytes are held; what several get, once.
    fn bytes(&self) -> usize {
        let mut seen = BTreeSet::new();
        let new = self.under_way.values().filter(|transfer| seen.insert(transfer.bytes.as_ptr()));
        new.map(|transfer| transfer.bytes.len()).sum()
    }

    /// The parts before `next` have come.
    pub(super) fn more(&mut self, now: Instant, to: EndpointId, name: &str, nonce: u64, next: u64) {
        let key = (to, name.to_owned(), wire::is_a_keepers(nonce));
        let Some(transfer) = self.under_way.get_mut(&key) else { return };
        // No more than were sent can have come.
        if transfer.nonce == nonce && next <= transfer.sent {
            transfer.wanted = transfer.wanted.max((next + 2 * PARTS_AT_ONCE).min(transfer.parts));
            transfer.idle_until = now + IDLE;
        }
    }

    /// Whether there is a part to be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.under_way.values().any(|transfer| transfer.sent < transfer.wanted)
    }

    /// The next part, and to whom: each in its turn. With the last one a document is done with.
    pub(super) fn next_part(&mut self) -> Option<(EndpointId, Answer)> {
        let after = match &self.last {
            Some(last) => (Bound::Excluded(last.clone()), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let mut later = self.under_way.range(after).chain(&self.under_way);
        let key = later.find(|(_, transfer)| transfer.sent < transfer.wanted)?.0.clone();
        self.last = Some(key.clone());
        let transfer = self.under_way.get_mut(&key)?;
        let index = transfer.sent;
        let of = transfer.parts;
        let start = index as usize * self.part;
        let bytes = transfer.bytes.slice(start..(start + self.part).min(transfer.bytes.len()));
        transfer.sent += 1;
        let answer = Answer { nonce: transfer.nonce, word: Word::Part { index, of, bytes } };
        if transfer.sent == of {
            self.under_way.remove(&key);
        }
        Some((key.0, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> EndpointId {
        EndpointId::from_bytes([n; 16])
    }

    fn document(bytes: usize) -> impl FnOnce() -> Bytes {
        move || Bytes::from(vec![7; bytes])
    }

    /// Who gets what, in turns: whom, of which question, and which part.
    fn parts(transfers: &mut Transfers) -> Vec<(u8, u64, u64)> {
        let part = |(to, answer): (EndpointId, Answer)| match answer.word {
            Word::Part { index, .. } => (to.as_bytes()[0], answer.nonce, index),
            word => panic!("{word:?}"),
        };
        std::iter::from_fn(|| transfers.next_part()).map(part).collect()
    }

    const NOW: Instant = Instant::START;

    #[test]
    fn what_is_asked_for_again_and_again_is_held_once() {
        let mut transfers = Transfers::new(8 << 20);
        for nonce in 1..=1_000 {
            assert_eq!(transfers.begin(NOW, id(1), "it", nonce, None, document(480 << 10)), None);
        }
        assert_eq!((transfers.under_way.len(), transfers.bytes()), (1, 480 << 10));
        assert_eq!(transfers.begin(NOW, id(2), "it", 1, None, document(1)), None, "others have room");
        let parts = parts(&mut transfers);
        assert_eq!(parts.iter().filter(|part| part.0 == 1).count(), 16);
        assert!(parts.iter().all(|(to, nonce, _)| (*to, *nonce) == (1, 1_000) || *to == 2), "{parts:?}");
        assert_eq!(transfers.bytes(), 0, "what was sent is held no more");
    }

    #[test]
    fn a_keeper_and_who_has_it_open_do_not_get_into_each_others_way() {
        let mut transfers = Transfers::new(100);
        for nonce in [1, wire::KEEPERS | 1, 2] {
            assert_eq!(transfers.begin(NOW, id(1), "it", nonce, None, document(36)), None);
        }
        assert_eq!(parts(&mut transfers), [(1, 2, 0), (1, wire::KEEPERS | 1, 0)]);
    }

    #[test]
    fn one_endpoint_does_not_take_all_the_room() {
        let mut transfers = Transfers::new(8 << 20);
        let busy = |nonce| Some(Answer { nonce, word: Word::Busy });
        for n in 0..MOST_OF_ONE {
            assert_eq!(transfers.begin(NOW, id(1), &n.to_string(), 1, None, document(1)), None);
        }
        assert_eq!(transfers.begin(NOW, id(1), "one more", 9, None, document(1)), busy(9));
        assert_eq!(transfers.begin(NOW, id(2), "one more", 9, None, document(1)), None);
    }

    #[test]
    fn many_get_one_copy_and_beyond_the_bytes_they_are_told_to_ask_again() {
        let mut transfers = Transfers::new(8 << 20);
        let version = |seq| Some((Position { epoch: 1, seq }, false));
        assert_eq!(transfers.begin(NOW, id(1), "it", 1, version(1), document(MOST_BYTES)), None);
        for n in 2..100 {
            let encode = || -> Bytes { panic!("it is there already") };
            assert_eq!(transfers.begin(NOW, id(n), "it", 1, version(1), encode), None);
        }
        assert_eq!(transfers.bytes(), MOST_BYTES);
        let mut transfers_of_one = Transfers::new(8 << 20);
        for nonce in 1..=3 {
            let encode = || if nonce == 1 { Bytes::from_static(b"x") } else { panic!("it is there already") };
            assert_eq!(transfers_of_one.begin(NOW, id(1), "it", nonce, version(1), encode), None);
        }
        let busy = Some(Answer { nonce: 5, word: Word::Busy });
        assert_eq!(transfers.begin(NOW, id(100), "it", 5, version(2), document(1)), busy);
        parts(&mut transfers);
        let later = NOW + IDLE;
        assert_eq!(transfers.begin(later, id(100), "it", 6, version(2), document(1)), None, "they are gone");
    }

    #[test]
    fn parts_take_turns_and_come_as_they_are_asked_for() {
        let mut transfers = Transfers::new(100);
        transfers.begin(NOW, id(1), "it", 5, None, document(36 * 20));
        transfers.begin(NOW, id(2), "it", 6, None, document(36 * 2));
        assert_eq!(parts(&mut transfers)[..5], [(1, 5, 0), (2, 6, 0), (1, 5, 1), (2, 6, 1), (1, 5, 2)]);
        assert!(!transfers.is_ready());
        transfers.more(NOW, id(1), "it", 5, 17);
        transfers.more(NOW, id(1), "it", 4, 8);
        assert!(!transfers.is_ready(), "what was not sent has not come, and the question is another");
        transfers.more(NOW, id(1), "it", 5, 8);
        assert_eq!(parts(&mut transfers), [16, 17, 18, 19].map(|index| (1, 5, index)));
    }
}

//! What is larger than a message of the cluster may be, a whole document mostly, goes in pieces. It counts where the last one stands.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::id::EndpointId;

use super::wire::{Live, Piece};

/// How large a piece is, in bytes, where messages may be so large (a guess: others do not wait long for one).
const PIECE: usize = 256 << 10;
/// What is around a piece in its message, in bytes, or more.
const AROUND: usize = 64;
/// How many bytes of pieces are held, of all senders (a guess). Beyond, what was added to longest ago goes.
const MOST_BYTES: usize = 256 << 20;
/// What is counted for each thing that is put together, beside its bytes.
const ENTRY: usize = 512;

/// An update or a seed as it goes out: as it is, or in pieces where messages may not be so large. `nonce` is a fresh one.
pub(super) fn payloads(nonce: impl FnOnce() -> u64, whole: Bytes, max_message: usize) -> Vec<Bytes> {
    if whole.len() <= max_message {
        return vec![whole];
    }
    cut(nonce(), &whole, max_message).map(|piece| Live::Piece(piece).encode()).collect()
}

/// Cuts up what is larger than a message may be.
fn cut(nonce: u64, whole: &Bytes, max_message: usize) -> impl Iterator<Item = Piece> {
    let size = max_message.saturating_sub(AROUND).clamp(1, PIECE);
    let of = whole.len().div_ceil(size) as u64;
    (0..of).map(move |index| {
        let start = index as usize * size;
        Piece { nonce, index, of, bytes: whole.slice(start..(start + size).min(whole.len())) }
    })
}

/// What became of it with a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// More have to come.
    Held,
    Whole(Bytes),
    /// This is the last one, and others did not come here.
    Missed,
}

#[derive(Debug)]
struct Begun {
    nonce: u64,
    next: u64,
    bytes: BytesMut,
    /// Grows with each piece of anything.
    touched: u64,
}

/// Whose it is, and of which document.
type Key = (EndpointId, String);

/// What is being put together: of each sender one thing for each document.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    begun: BTreeMap<Key, Begun>,
    /// What was added to longest ago comes first: there may be so many of them that none can be looked for.
    touched: BTreeMap<u64, Key>,
    /// Their bytes, and those around them.
    held: usize,
    taken: u64,
}

impl Pieces {
    pub(super) fn take(&mut self, from: EndpointId, name: &str, piece: Piece) -> Taken {
        let Piece { nonce, index, of, bytes } = piece;
        let key = (from, name.to_owned());
        self.taken += 1;
        if index == 0 {
            self.remove(&key);
            self.begun.insert(key.clone(), Begun { nonce, next: 0, bytes: BytesMut::new(), touched: 0 });
            self.held += ENTRY;
        }
        let is_last = index.checked_add(1) == Some(of);
        let follows = |begun: &&mut Begun| begun.nonce == nonce && begun.next == index;
        let Some(begun) = self.begun.get_mut(&key).filter(follows) else {
            return if is_last { Taken::Missed } else { Taken::Held };
        };
        begun.bytes.extend_from_slice(&bytes);
        begun.next += 1;
        self.touched.remove(&begun.touched);
        begun.touched = self.taken;
        self.touched.insert(self.taken, key.clone());
        self.held += bytes.len();
        if is_last {
            return self.remove(&key).map_or(Taken::Missed, |whole| Taken::Whole(whole.freeze()));
        }
        while self.held > MOST_BYTES {
            let Some((_, oldest)) = self.touched.pop_first() else { break };
            self.remove(&oldest);
        }
        Taken::Held
    }

    fn remove(&mut self, key: &Key) -> Option<BytesMut> {
        let begun = self.begun.remove(key)?;
        self.touched.remove(&begun.touched);
        self.held -= ENTRY + begun.bytes.len();
        Some(begun.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> EndpointId {
        EndpointId::from_bytes([n; 16])
    }

    #[test]
    fn pieces_come_together_where_none_is_missing() {
        let whole = Bytes::from((0..=255).collect::<Vec<u8>>());
        let cut = |nonce| cut(nonce, &whole, 100).collect::<Vec<_>>();
        assert_eq!((cut(1).len(), cut(1)[7].bytes.len()), (8, 256 - 7 * 36));
        let mut pieces = Pieces::default();
        let mut take = |from, piece| pieces.take(id(from), "it", piece);
        // Two at once.
        for index in 0..7 {
            assert_eq!(take(1, cut(1)[index].clone()), Taken::Held);
            assert_eq!(take(2, cut(9)[index].clone()), Taken::Held);
        }
        assert_eq!(take(1, cut(1)[7].clone()), Taken::Whole(whole.clone()));
        assert_eq!(take(1, cut(1)[7].clone()), Taken::Missed, "it is done with");
        assert_eq!(take(2, cut(8)[7].clone()), Taken::Missed, "that is another's end");
        assert_eq!(take(2, cut(9)[7].clone()), Taken::Whole(whole.clone()));
        // One is lost, and it is said once more.
        for index in [0, 1, 3, 4, 5, 6] {
            assert_eq!(take(1, cut(3)[index].clone()), Taken::Held);
        }
        assert_eq!(take(1, cut(3)[7].clone()), Taken::Missed);
        let last = cut(4).into_iter().map(|piece| take(1, piece)).last();
        assert_eq!(last, Some(Taken::Whole(whole.clone())));
    }

    #[test]
    fn what_nobody_finishes_makes_room() {
        let mut pieces = Pieces::default();
        let megabyte = Bytes::from(vec![0; 1 << 20]);
        let piece = |index| Piece { nonce: 1, index, of: u64::MAX, bytes: megabyte.clone() };
        assert_eq!(pieces.take(id(1), "it", piece(0)), Taken::Held);
        for index in 0..300 {
            pieces.take(id(2 + (index / 30) as u8), "it", piece(index % 30));
        }
        assert_eq!(pieces.held, (240 << 20) + 8 * ENTRY);
        assert!(!pieces.begun.contains_key(&(id(1), "it".to_owned())));
        assert_eq!(pieces.touched.len(), pieces.begun.len());
    }

    /// It takes hours if each looks for what has to go among all the others.
    #[test]
    fn many_that_nobody_finishes_hold_nobody_up() {
        let mut pieces = Pieces::default();
        let most = MOST_BYTES / (ENTRY + 1);
        for n in 0..most + 60_000 {
            let piece = Piece { nonce: 1, index: 0, of: 2, bytes: Bytes::from_static(b"x") };
            assert_eq!(pieces.take(id(1), &n.to_string(), piece), Taken::Held);
        }
        assert_eq!((pieces.begun.len(), pieces.touched.len()), (most, most));
    }
}

//! Frames: a flag octet, a length, a body (RFC 23).

use bytes::{BufMut, Bytes, BytesMut};

use super::violation::Violation;
use super::{Limits, Message};

/// More frames of the message follow.
pub(super) const MORE: u8 = 1;
/// The length has eight octets, not one.
pub(super) const LONG: u8 = 2;
/// It is a command.
pub(super) const COMMAND: u8 = 4;

/// The head of a frame: what its first octets say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) flags: u8,
    pub(super) length: u64,
    /// The octets of the head itself.
    pub(super) size: usize,
}

impl Head {
    /// Reads a head; `None` while it is not complete.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let Some(&flags) = bytes.first() else { return Ok(None) };
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & (COMMAND | MORE) == COMMAND | MORE {
            return Err(Violation::Flags(flags));
        }
        if flags & LONG == 0 {
            return Ok(bytes.get(1).map(|&length| Self { flags, length: length.into(), size: 2 }));
        }
        let length: Option<[u8; 8]> = bytes.get(1..9).and_then(|length| length.try_into().ok());
        Ok(length.map(|length| Self { flags, length: u64::from_be_bytes(length), size: 9 }))
    }

    /// Checks what it declares, before anything is kept or reserved.
    pub(super) fn check(&self, limits: &Limits) -> Result<usize, Violation> {
        let limit = if self.flags & COMMAND != 0 { limits.command } else { limits.frame };
        match usize::try_from(self.length) {
            Ok(length) if length <= limit => Ok(length),
            _ => Err(Violation::FrameSize { declared: self.length, limit: limit as u64 }),
        }
    }
}

/// How many octets the head of a frame of this length has.
pub(super) const fn head_size(length: usize) -> usize {
    if length <= u8::MAX as usize { 2 } else { 9 }
}

/// Writes a head.
pub(super) fn put_head(buffer: &mut BytesMut, flags: u8, length: usize) {
    if length <= u8::MAX as usize {
        buffer.put_u8(flags);
        buffer.put_u8(length as u8);
    } else {
        buffer.put_u8(flags | LONG);
        buffer.put_u64(length as u64);
    }
}

/// Up to which length a frame is copied beside others, rather than handed on as it is: a copy of so many bytes costs less than a part more in each vectored
/// write (a guess).
const COPIED: usize = 4 * 1024;
/// How large the pieces of memory are that small frames are collected in, at first and at most (guesses: a page, and what a socket takes at once). They grow
/// with what is added until it is taken, and shrink with what does not fill a quarter: a queue keeps its last one, and one that waits keeps all of it.
const PIECE: (usize, usize) = (4 * 1024, 64 * 1024);

/// Messages as they go out: small frames copied one behind the other, large ones shared.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    parts: Vec<Bytes>,
    open: BytesMut,
    /// How large the last piece was.
    piece: usize,
    messages: usize,
    bytes: usize,
}

impl Encoded {
    pub(super) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a message.
    pub(super) fn push(&mut self, message: &Message) {
        let frames = message.frames();
        for (index, frame) in frames.iter().enumerate() {
            let more = if index + 1 < frames.len() { MORE } else { 0 };
            let head = head_size(frame.len());
            self.bytes += head + frame.len();
            let copied = if frame.len() <= COPIED { frame.len() } else { 0 };
            if self.open.capacity() - self.open.len() < head + copied {
                self.seal();
                // The first one did not do.
                self.piece = if self.parts.is_empty() { self.piece } else { self.piece * 2 };
                self.piece = self.piece.clamp(PIECE.0, PIECE.1);
                self.open.reserve(self.piece.max(head + copied));
            }
            put_head(&mut self.open, more, frame.len());
            if frame.len() <= COPIED {
                self.open.put_slice(frame);
            } else {
                self.seal();
                self.parts.push(frame.clone());
            }
        }
        self.messages += 1;
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.parts.push(self.open.split().freeze());
        }
    }

    /// Takes all that was added, as [`take`](Self::take) does, for many that may hold it for long: where it is a small part of a piece of memory it gets one of its own, so
    /// that a few octets do not hold all of a piece.
    pub(super) fn take_for_many(&mut self) -> (Vec<Bytes>, usize, usize) {
        if self.parts.is_empty() && self.open.len() < self.piece / 4 {
            self.parts.push(Bytes::copy_from_slice(&self.open));
            self.open.clear();
        }
        self.take()
    }

    /// Takes all that was added: its parts in order, how many messages they are, and their bytes.
    pub(super) fn take(&mut self) -> (Vec<Bytes>, usize, usize) {
        self.seal();
        if self.bytes < self.piece / 4 {
            self.piece = (self.piece / 2).max(PIECE.0);
            if self.open.capacity() > self.piece {
                self.open = BytesMut::new();
            }
        }
        (std::mem::take(&mut self.parts), std::mem::take(&mut self.messages), std::mem::take(&mut self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_used_up_to_255_and_the_long_one_is_understood_below() {
        for (length, size) in [(0, 2), (255, 2), (256, 9), (70_000, 9)] {
            let mut buffer = BytesMut::new();
            put_head(&mut buffer, MORE, length);
            assert_eq!(buffer.len(), size);
            let head = Head::read(&buffer).unwrap().unwrap();
            assert_eq!((head.length, head.size, head.flags & MORE), (length as u64, size, MORE));
        }
        assert_eq!(Head::read(&[LONG, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap().unwrap().length, 1);
        assert_eq!(Head::read(&[LONG, 0, 0, 0]), Ok(None));
        assert_eq!(Head::read(&[COMMAND | MORE, 0]), Err(Violation::Flags(5)));
        assert_eq!(Head::read(&[0xf8]), Err(Violation::Flags(0xf8)));
    }

    #[test]
    fn small_frames_share_a_piece_and_large_ones_are_not_copied() {
        let large = Bytes::from(vec![7; COPIED + 1]);
        let mut encoded = Encoded::default();
        encoded.push(&Message::from("a"));
        encoded.push(&Message::from_frames(["b".into(), large.clone()]).unwrap());
        encoded.push(&Message::from("c"));
        let (parts, messages, bytes) = encoded.take();
        assert_eq!((parts.len(), messages), (3, 3));
        assert_eq!(parts[1].as_ptr(), large.as_ptr());
        assert_eq!(bytes, parts.iter().map(Bytes::len).sum::<usize>());
        assert_eq!(&parts[0][..], [&[0, 1, b'a', MORE, 1, b'b', LONG][..], &4097_u64.to_be_bytes()].concat());
        assert!(encoded.is_empty());
    }

    #[test]
    fn a_few_octets_for_many_hold_no_more_than_themselves() {
        let mut encoded = Encoded::default();
        (0..2_500).for_each(|_| encoded.push(&Message::from("a message of some octets")));
        encoded.take_for_many();
        let mut held = Vec::new();
        for _ in 0..100 {
            encoded.push(&Message::from("rare"));
            let (mut parts, messages, bytes) = encoded.take_for_many();
            assert_eq!((parts.len(), messages, bytes), (1, 1, 6));
            let part = parts.remove(0);
            assert_eq!(part[2..], b"rare"[..]);
            held.push(part);
        }
        // Each is alone in its memory, which it gives as it is.
        for part in held {
            assert!(part.is_unique());
            assert_eq!(Vec::from(part).capacity(), 6);
        }
    }

    #[test]
    fn pieces_are_as_large_as_what_is_added_until_it_is_taken() {
        let mut encoded = Encoded::default();
        let mut run = |messages: usize| {
            (0..messages).for_each(|_| encoded.push(&Message::from("a message of some octets")));
            (encoded.take().0.len(), encoded.open.capacity())
        };
        let (parts, left) = run(1);
        assert!(parts == 1 && left <= PIECE.0, "{left}");
        // 64 KiB, and after that in pieces of that size.
        assert_eq!([run(2_500).0, run(2_500).0], [5, 2]);
        for _ in 0..8 {
            run(1);
        }
        let (parts, left) = run(1);
        assert!(parts == 1 && left <= PIECE.0, "{left}");
    }
}

//! A cursor over received bytes.

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::Topic;

use super::{SIGNATURE, VERSION};

/// What was wrong with received bytes. Nothing of them was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads values off the front of received bytes; every length is checked against what is there.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    /// A reader behind the three opening octets, which must be ours and of this type.
    pub(crate) fn open(bytes: &'a Bytes, kind: u8) -> Result<Self, Malformed> {
        let (actual, reader) = Self::open_any(bytes)?;
        if actual == kind { Ok(reader) } else { Err(Malformed("another type of message was due")) }
    }

    /// A reader behind the three opening octets, and the type they name.
    pub(crate) fn open_any(bytes: &'a Bytes) -> Result<(u8, Self), Malformed> {
        let mut reader = Self::new(bytes);
        if reader.u8()? != SIGNATURE {
            return Err(Malformed("wrong signature octet"));
        }
        if reader.u8()? != VERSION {
            return Err(Malformed("unknown encoding version"));
        }
        Ok((reader.u8()?, reader))
    }

    /// Where the cursor stands.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The next `length` bytes.
    pub(crate) fn slice(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let taken = self.bytes[self.at..].get(..length).ok_or(Malformed("truncated"))?;
        self.at += length;
        Ok(taken)
    }

    /// The next `length` bytes, shared and not copied.
    pub(crate) fn bytes(&mut self, length: usize) -> Result<Bytes, Malformed> {
        let start = self.at;
        self.slice(length)?;
        // An empty slice would keep the whole buffer alive.
        Ok(if length == 0 { Bytes::new() } else { self.bytes.slice(start..self.at) })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, _) = self.bytes[self.at..].split_first_chunk::<N>().ok_or(Malformed("truncated"))?;
        self.at += N;
        Ok(*array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// An unsigned LEB128 varint of at most ten octets.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly all are of one octet.
        match self.bytes.get(self.at) {
            Some(byte) if *byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("varint over 64 bits"))
    }

    /// A varint that counts bytes or entries, at most `limit`.
    #[inline]
    pub(crate) fn length(&mut self, limit: usize, over: &'static str) -> Result<usize, Malformed> {
        usize::try_from(self.varint()?).ok().filter(|length| *length <= limit).ok_or(Malformed(over))
    }

    pub(crate) fn id(&mut self) -> Result<EndpointId, Malformed> {
        self.array().map(EndpointId::from_bytes)
    }

    /// A topic behind its length octet.
    pub(crate) fn topic(&mut self) -> Result<Topic, Malformed> {
        let length = self.u8()?;
        Topic::try_from(self.slice(length.into())?).map_err(|_| Malformed("invalid topic"))
    }

    /// UTF-8 text behind a length octet.
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u8()?;
        std::str::from_utf8(self.slice(length.into())?).map_err(|_| Malformed("text is not UTF-8"))
    }

    /// `count`, if the bytes that are left can hold so many entries of at least `least` bytes: safe to reserve for.
    pub(crate) fn at_most(&self, count: u16, least: usize) -> Result<usize, Malformed> {
        let count = usize::from(count);
        if count * least <= self.bytes.len() - self.at { Ok(count) } else { Err(Malformed("truncated")) }
    }

    /// Succeeds only when everything was read.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(Malformed("trailing bytes")) }
    }
}

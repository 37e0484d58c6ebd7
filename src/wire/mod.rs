//! Bytes: how windows, batches and control messages look on the wire. `docs/protocol.md` describes the same byte by byte.
//!
//! Decoders take what a peer sent. They check every length before they use it, reserve no more than the bytes that are
//! there, and answer with [`Malformed`] instead of a panic. Nothing here knows sockets, clocks or tokio.
//!
//! Fixed-width integers are big-endian, as in ZMTP; columns of records use LEB128 varints.

mod batch;
mod control;
#[cfg(test)]
mod golden;
mod lane;
mod reader;
mod record;
mod table;
mod window;

pub(crate) use batch::{Batch, BatchBuilder, SubmitHead};
pub(crate) use control::{
    Ack, ChildMessage, CloseReason, Hello, MAX_EPOCH, MAX_ORIGIN_SEQ, MAX_TOKEN, MemberEntry, Ordered,
    OriginState, PROTOCOL_VERSION, ParentMessage, Refusal, RefusalCode, Terms, Welcome,
};
pub(crate) use lane::{Barrier, Index, Lane, LaneBody, Nonce, TopicPart, lanes};
pub(crate) use reader::{Malformed, Reader};
pub(crate) use record::{ASK, MAX_QUESTION};
pub(crate) use window::{EncodedWindow, Window, WindowBuilder};

/// Opens every message of the protocol: the letter Z.
pub(crate) const SIGNATURE: u8 = 0x5A;
/// The version of the encodings in this module.
pub(crate) const VERSION: u8 = 1;

/// The most records in a window or batch (design, section 4: "a flush is a window").
pub(crate) const MAX_RECORDS: usize = 1024;
/// The size at which a window or batch is closed, in bytes (design, section 4). A larger message travels alone.
pub(crate) const TARGET_BYTES: usize = 64 * 1024;
/// The most prefixes one subscriber may have (design of the ZMTP engine's limits; a guess).
pub(crate) const MAX_PREFIXES: usize = 1024;

/// The type octets.
mod kind {
    pub(super) const WINDOW: u8 = 0x01;
    pub(super) const TOPIC_PART: u8 = 0x02;
    pub(super) const INDEX: u8 = 0x03;
    pub(super) const BARRIER: u8 = 0x04;
    pub(super) const HEARTBEAT: u8 = 0x05;
    pub(super) const SUBMIT: u8 = 0x10;
    pub(super) const HELLO: u8 = 0x20;
    pub(super) const SUBSCRIBE: u8 = 0x21;
    pub(super) const LIVE: u8 = 0x22;
    pub(super) const LEAVE: u8 = 0x23;
    pub(super) const ACK: u8 = 0x24;
    pub(super) const REPAIR: u8 = 0x25;
    pub(super) const WELCOME: u8 = 0x30;
    pub(super) const REFUSED: u8 = 0x31;
    pub(super) const ORDERED: u8 = 0x32;
    pub(super) const MEMBERSHIP: u8 = 0x33;
    pub(super) const CLOSING: u8 = 0x34;
    pub(super) const MISSED: u8 = 0x35;
    pub(super) const EVICTED: u8 = 0x36;
    pub(super) const RESEND: u8 = 0x37;
    pub(super) const PULSE: u8 = 0x38;
    pub(super) const RECEIVED: u8 = 0x40;
}

/// Puts the three octets that open every message: signature, version, type.
fn put_prefix(buffer: &mut impl bytes::BufMut, kind: u8) {
    buffer.put_slice(&[SIGNATURE, VERSION, kind]);
}

/// Puts an unsigned LEB128 varint.
pub(crate) fn put_varint(buffer: &mut impl bytes::BufMut, mut value: u64) {
    while value >= 0x80 {
        buffer.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// Makes room in the records of a batch or window. The common one is small; a busy one grows to its target at once.
fn reserve(records: &mut bytes::BytesMut, added: usize) {
    const SMALL: usize = 1024;
    if records.capacity() - records.len() < added {
        let room = if records.is_empty() { SMALL } else { TARGET_BYTES.saturating_sub(records.len()) };
        records.reserve(room.max(added));
    }
}

/// Puts bytes through every decoder: none may panic, whatever a peer sends.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode_everything(frame: &bytes::Bytes) {
    const MAX_MESSAGE: usize = 1 << 20;
    let _ = LaneBody::decode_whole(frame, MAX_MESSAGE);
    let _ = LaneBody::decode_index(frame, |_| true);
    let _ = Barrier::decode(frame);
    let _ = Lane::decode(frame);
    let _ = SubmitHead::decode(frame);
    let _ = ChildMessage::decode(frame);
    let _ = ParentMessage::decode(frame);
    if let Ok(topic) = "t".parse() {
        let _ = TopicPart::decode(&topic, frame, MAX_MESSAGE);
    }
    if let Ok(batch) = Batch::decode(frame.clone(), MAX_MESSAGE) {
        assert_eq!(batch.records_in(0..batch.len()).count(), batch.len());
    }
}

/// `str::floor_char_boundary`, which is newer than the MSRV.
pub(crate) trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        (0..=index.min(self.len())).rev().find(|at| self.is_char_boundary(*at)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;

//! The tail of a record: what it says beyond topic, origin and place. The same bytes in batches, windows and
//! topic parts, so that the host copies them as one slice.

use bytes::{BufMut, Bytes};

use crate::id::EndpointId;
use crate::message::{Codec, DOCUMENTS, Headers, MAX_HEADERS, Message, MessageKind, Topic};

use super::{Malformed, Reader, put_varint};

/// A record's tail: `tag, header length, headers, payload length, payload`.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) kind: MessageKind,
    pub(super) codec: Codec,
    pub(super) headers: Headers,
    pub(super) payload: Bytes,
}

/// The shortest record of a batch: topic, tag and two lengths of one octet each. Windows add an origin.
pub(super) const MIN_RECORD: usize = 4;
/// The most a tail adds to its headers and payload: tag and two varints.
const TAIL_OVERHEAD: usize = 1 + 2 + 5;

/// An upper bound of the tail's length.
pub(super) fn tail_bound(message: &Message) -> usize {
    TAIL_OVERHEAD + message.headers.as_bytes().len() + message.payload.len()
}

pub(super) fn put_tail(buffer: &mut impl BufMut, message: &Message) {
    buffer.put_u8(message.kind as u8 | (message.codec as u8) << 4);
    put_varint(buffer, message.headers.as_bytes().len() as u64);
    buffer.put_slice(message.headers.as_bytes());
    put_varint(buffer, message.payload.len() as u64);
    buffer.put_slice(&message.payload);
}

pub(super) fn read_tail(reader: &mut Reader<'_>, max_message: usize) -> Result<Tail, Malformed> {
    let (kind, codec) = read_tag(reader)?;
    let length = reader.length(MAX_HEADERS, "headers over the limit")?;
    let headers = match length {
        0 => Headers::default(),
        _ => Headers::decode(reader.bytes(length)?).map_err(|_| Malformed("invalid headers"))?,
    };
    let length = reader.length(max_message, "payload over the limit")?;
    Ok(Tail { kind, codec, headers, payload: reader.bytes(length)? })
}

/// Reads over a tail, checking all that [`read_tail`] checks.
pub(super) fn skip_tail(reader: &mut Reader<'_>, max_message: usize) -> Result<(), Malformed> {
    read_tag(reader)?;
    let length = reader.length(MAX_HEADERS, "headers over the limit")?;
    Headers::check(reader.slice(length)?).map_err(|_| Malformed("invalid headers"))?;
    let length = reader.length(max_message, "payload over the limit")?;
    reader.slice(length)?;
    Ok(())
}

/// The first octet of a question for a whole document; behind it come a nonce of eight and the id of who is asked.
pub(crate) const ASK: u8 = 0x10;

/// The longest question, in bytes of its payload (a guess: twice as long as one is).
pub(crate) const MAX_QUESTION: usize = 64;

/// Whether a record is a short question for a document. Its tail has been looked at.
pub(super) fn is_question(topic: &Topic, tail: &Bytes) -> bool {
    let is_short = |mut reader: Reader<'_>| -> Result<bool, Malformed> {
        let (kind, _) = read_tag(&mut reader)?;
        let headers = reader.length(MAX_HEADERS, "headers over the limit")?;
        reader.slice(headers)?;
        let payload = reader.length(usize::MAX, "payload over the limit")?;
        Ok(kind == MessageKind::FullDocumentRequest && headers == 0 && payload <= MAX_QUESTION)
    };
    topic.as_str().starts_with(DOCUMENTS) && is_short(Reader::new(tail)).unwrap_or(false)
}

/// Of whom a short question for a document is asked: nil for nobody in particular. `None` for what is no such question. Its tail has been looked at.
pub(super) fn asked_of(topic: &Topic, tail: &Bytes) -> Option<EndpointId> {
    if !is_question(topic, tail) {
        return None;
    }
    let mut reader = Reader::new(tail);
    let mut read = || -> Result<EndpointId, Malformed> {
        read_tag(&mut reader)?;
        let headers = reader.length(MAX_HEADERS, "headers over the limit")?;
        reader.slice(headers)?;
        reader.length(usize::MAX, "payload over the limit")?;
        match reader.u8()? {
            ASK => {
                reader.u64()?;
                reader.id()
            }
            _ => Ok(EndpointId::NIL),
        }
    };
    // What is too short to say so asks nobody.
    Some(read().unwrap_or(EndpointId::NIL))
}

fn read_tag(reader: &mut Reader<'_>) -> Result<(MessageKind, Codec), Malformed> {
    let tag = reader.u8()?;
    let kind = MessageKind::from_bits(tag & 0x0f).ok_or(Malformed("unknown message kind"))?;
    let codec = Codec::from_bits(tag >> 4).ok_or(Malformed("unknown payload codec"))?;
    Ok((kind, codec))
}

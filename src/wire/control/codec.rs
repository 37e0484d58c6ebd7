//! Messages on control channels, in bytes and back.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::flow::{EvictReason, Eviction, HighWaterMark, Lag};
use crate::id::{EndpointId, SessionToken};
use crate::message::Position;
use crate::role::Role;

use super::super::lane::Barrier;
use super::super::{FloorCharBoundary, MAX_PREFIXES, Malformed, Reader, kind, put_prefix};
use super::{
    Ack, ChildMessage, CloseReason, Hello, MAX_EPOCH, MAX_ORIGIN_SEQ, MAX_TOKEN, MemberEntry, Ordered,
    OriginState, PROTOCOL_VERSION, ParentMessage, Refusal, RefusalCode, Terms, Welcome,
};

impl ChildMessage {
    pub(crate) fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        match self {
            Self::Hello(hello) => {
                put_prefix(&mut buffer, kind::HELLO);
                buffer.put_u16(hello.version);
                put_text(&mut buffer, &hello.cluster);
                buffer.put_slice(hello.id.as_bytes());
                buffer.put_slice(&hello.resume.map_or([0; SessionToken::LENGTH], |token| *token.as_bytes()));
                buffer.put_u64(hello.incarnation);
                buffer.put_u64(hello.epoch);
                buffer.put_u64(hello.first_open);
                buffer.put_u64(hello.next_origin_seq);
                buffer.put_u16(hello.token.len() as u16);
                buffer.put_slice(&hello.token);
            }
            Self::Subscribe { nonce, prefixes } => {
                put_prefix(&mut buffer, kind::SUBSCRIBE);
                buffer.put_u64(*nonce);
                buffer.put_u16(prefixes.len() as u16);
                for prefix in prefixes {
                    put_text(&mut buffer, prefix);
                }
            }
            Self::Live { nonce } => {
                put_prefix(&mut buffer, kind::LIVE);
                buffer.put_u64(*nonce);
            }
            Self::Leave => put_prefix(&mut buffer, kind::LEAVE),
            Self::Ack(ack) => {
                put_prefix(&mut buffer, kind::ACK);
                put_position(&mut buffer, ack.stored);
                put_position(&mut buffer, ack.handled);
                buffer.put_u64(ack.confirmed);
            }
            Self::Repair { first, last } => {
                put_prefix(&mut buffer, kind::REPAIR);
                buffer.put_u64(*first);
                buffer.put_u64(*last);
            }
            Self::Received { count } => put_received(&mut buffer, *count),
        }
        buffer.freeze()
    }

    /// Whether this is meant to be a hello, well-formed or not.
    pub(crate) fn is_hello(frame: &Bytes) -> bool {
        Reader::open(frame, kind::HELLO).is_ok()
    }

    /// The nonce of what is meant to be a subscribe, whether or not the prefixes behind it are well-formed.
    pub(crate) fn subscribe_nonce(frame: &Bytes) -> Option<u64> {
        Reader::open(frame, kind::SUBSCRIBE).and_then(|mut reader| reader.u64()).ok()
    }

    pub(crate) fn decode(frame: &Bytes) -> Result<Self, Malformed> {
        let (kind, mut reader) = Reader::open_any(frame)?;
        let message = match kind {
            kind::HELLO => {
                let version = reader.u16()?;
                if version != PROTOCOL_VERSION {
                    // What follows may look different: say no more than that.
                    return Ok(Self::Hello(Hello::of_version(version)));
                }
                let cluster = reader.text()?.to_owned();
                let id = reader.id()?;
                if id.is_nil() {
                    return Err(Malformed("the nil id belongs to nobody"));
                }
                let resume = SessionToken::from_slice(reader.slice(SessionToken::LENGTH)?);
                let (incarnation, epoch) = (reader.u64()?, reader.u64()?);
                let (first_open, next_origin_seq) = (reader.u64()?, reader.u64()?);
                if next_origin_seq == 0 || next_origin_seq > MAX_ORIGIN_SEQ || epoch > MAX_EPOCH {
                    return Err(Malformed("origin_seq or epoch out of range"));
                }
                if first_open >= next_origin_seq {
                    return Err(Malformed("the outbox begins behind its end"));
                }
                let length = usize::from(reader.u16()?);
                if length > MAX_TOKEN {
                    return Err(Malformed("token over the limit"));
                }
                let token = Bytes::copy_from_slice(reader.slice(length)?);
                Self::Hello(Hello {
                    version,
                    cluster,
                    id,
                    resume,
                    incarnation,
                    epoch,
                    first_open,
                    next_origin_seq,
                    token,
                })
            }
            kind::SUBSCRIBE => Self::Subscribe { nonce: reader.u64()?, prefixes: prefixes(&mut reader)? },
            kind::LIVE => Self::Live { nonce: reader.u64()? },
            kind::LEAVE => Self::Leave,
            kind::ACK => Self::Ack(Ack {
                stored: position(&mut reader)?,
                handled: position(&mut reader)?,
                confirmed: reader.u64()?,
            }),
            kind::REPAIR => {
                let (first, last) = (reader.u64()?, reader.u64()?);
                if first == 0 || first > last || last >= u64::MAX - 1 {
                    return Err(Malformed("window numbers out of range"));
                }
                Self::Repair { first, last }
            }
            kind::RECEIVED => Self::Received { count: reader.u64()? },
            _ => return Err(Malformed("unknown type of control message")),
        };
        reader.end()?;
        Ok(message)
    }
}

impl Hello {
    /// The hello of another version of the protocol, of which only the version is known.
    fn of_version(version: u16) -> Self {
        Self {
            version,
            cluster: String::new(),
            id: EndpointId::NIL,
            resume: None,
            incarnation: 0,
            epoch: 0,
            first_open: 0,
            next_origin_seq: 1,
            token: Bytes::new(),
        }
    }
}

impl ParentMessage {
    pub(crate) fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        match self {
            Self::Welcome(welcome) => {
                put_prefix(&mut buffer, kind::WELCOME);
                buffer.put_slice(welcome.session.as_bytes());
                buffer.put_slice(welcome.host.as_bytes());
                buffer.put_u64(welcome.incarnation);
                buffer.put_u8(welcome.role as u8);
                welcome.at.put_place(&mut buffer);
                buffer.put_u8(welcome.origin as u8);
                buffer.put_u64(welcome.last_origin_seq);
                put_terms(&mut buffer, &welcome.terms);
                buffer.put_u32(welcome.max_message);
                put_text(&mut buffer, &welcome.broadcast);
                put_text(&mut buffer, &welcome.submit);
                put_members(&mut buffer, &welcome.members);
            }
            Self::Refused(refusal) => {
                put_prefix(&mut buffer, kind::REFUSED);
                buffer.put_u8(refusal.code as u8);
                put_millis(&mut buffer, refusal.retry_after);
                put_text(&mut buffer, &refusal.reason);
            }
            Self::Repaired(window) => return window.clone(),
            Self::Missed(at) => {
                put_prefix(&mut buffer, kind::MISSED);
                at.put_place(&mut buffer);
            }
            Self::Evicted(eviction) => {
                put_prefix(&mut buffer, kind::EVICTED);
                buffer.put_u8(eviction.reason as u8);
                buffer.put_u64(eviction.lag.messages);
                buffer.put_u64(eviction.lag.bytes);
                put_millis(&mut buffer, eviction.lag.age);
                put_position(&mut buffer, eviction.position);
                put_millis(&mut buffer, eviction.retry_after);
                buffer
                    .put_slice(&eviction.resume.map_or([0; SessionToken::LENGTH], |token| *token.as_bytes()));
                put_text(&mut buffer, &eviction.text);
            }
            Self::Resend { from } => {
                put_prefix(&mut buffer, kind::RESEND);
                buffer.put_u64(*from);
            }
            Self::Pulse { paced } => {
                put_prefix(&mut buffer, kind::PULSE);
                buffer.put_u8(u8::from(*paced));
            }
            Self::Ordered(runs) => {
                put_prefix(&mut buffer, kind::ORDERED);
                buffer.put_u16(runs.len() as u16);
                for run in runs {
                    buffer.put_u64(run.epoch);
                    buffer.put_u64(run.first_origin_seq);
                    buffer.put_u64(run.first_seq);
                    buffer.put_u32(run.count);
                }
            }
            Self::Membership { joined, left } => {
                put_prefix(&mut buffer, kind::MEMBERSHIP);
                put_members(&mut buffer, joined);
                buffer.put_u32(left.len() as u32);
                for id in left {
                    buffer.put_slice(id.as_bytes());
                }
            }
            Self::Closing { reason, epoch, number } => {
                put_prefix(&mut buffer, kind::CLOSING);
                buffer.put_u8(*reason as u8);
                buffer.put_u64(*epoch);
                buffer.put_u64(*number);
            }
            Self::Received { count } => put_received(&mut buffer, *count),
        }
        buffer.freeze()
    }

    pub(crate) fn decode(frame: &Bytes) -> Result<Self, Malformed> {
        let (kind, mut reader) = Reader::open_any(frame)?;
        let message = match kind {
            // Its own decoder reads it, and knows how large a payload may be.
            kind::WINDOW => return Ok(Self::Repaired(frame.clone())),
            kind::WELCOME => Self::Welcome(Welcome {
                session: SessionToken::from_slice(reader.slice(SessionToken::LENGTH)?)
                    .ok_or(Malformed("invalid session token"))?,
                host: reader.id()?,
                incarnation: reader.u64()?,
                role: role(&mut reader)?,
                at: Barrier::read_place(&mut reader)?,
                origin: origin_state(&mut reader)?,
                last_origin_seq: origin_seq(&mut reader)?,
                terms: terms(&mut reader)?,
                max_message: reader.u32()?,
                broadcast: reader.text()?.to_owned(),
                submit: reader.text()?.to_owned(),
                members: members(&mut reader)?,
            }),
            kind::REFUSED => Self::Refused(Refusal {
                code: RefusalCode::from_byte(reader.u8()?).ok_or(Malformed("unknown refusal"))?,
                retry_after: millis(&mut reader)?,
                reason: reader.text()?.to_owned(),
            }),
            kind::MISSED => Self::Missed(Barrier::read_place(&mut reader)?),
            kind::EVICTED => Self::Evicted(Eviction {
                reason: EvictReason::from_byte(reader.u8()?).ok_or(Malformed("unknown reason"))?,
                lag: Lag { messages: reader.u64()?, bytes: reader.u64()?, age: millis(&mut reader)? },
                position: position(&mut reader)?,
                retry_after: millis(&mut reader)?,
                resume: SessionToken::from_slice(reader.slice(SessionToken::LENGTH)?),
                text: reader.text()?.to_owned(),
            }),
            kind::RESEND => Self::Resend { from: origin_seq(&mut reader)? },
            kind::PULSE => Self::Pulse { paced: flag(&mut reader)? },
            kind::ORDERED => {
                let count = reader.u16()?;
                reader.at_most(count, Ordered::BYTES)?;
                Self::Ordered((0..count).map(|_| Ordered::read(&mut reader)).collect::<Result<_, _>>()?)
            }
            kind::MEMBERSHIP => {
                let joined = members(&mut reader)?;
                let count = reader.u32()?;
                let left = (0..count).map(|_| reader.id()).collect::<Result<_, _>>()?;
                Self::Membership { joined, left }
            }
            kind::CLOSING => Self::Closing {
                reason: CloseReason::from_byte(reader.u8()?).ok_or(Malformed("unknown reason"))?,
                epoch: reader.u64()?,
                number: reader.u64()?,
            },
            kind::RECEIVED => Self::Received { count: reader.u64()? },
            _ => return Err(Malformed("unknown type of control message")),
        };
        reader.end()?;
        Ok(message)
    }
}

fn put_received(buffer: &mut BytesMut, count: u64) {
    put_prefix(buffer, kind::RECEIVED);
    buffer.put_u64(count);
}

/// Puts text behind a length octet; what is over 255 bytes is cut at a character.
fn put_text(buffer: &mut BytesMut, text: &str) {
    let text = &text[..text.floor_char_boundary_at(255)];
    buffer.put_u8(text.len() as u8);
    buffer.put_slice(text.as_bytes());
}

fn put_position(buffer: &mut BytesMut, position: Position) {
    buffer.put_u64(position.epoch);
    buffer.put_u64(position.seq);
}

fn position(reader: &mut Reader<'_>) -> Result<Position, Malformed> {
    let position = Position { epoch: reader.u64()?, seq: reader.u64()? };
    if position.epoch > MAX_EPOCH || position.seq >= u64::MAX - 1 {
        return Err(Malformed("epoch or seq out of range"));
    }
    Ok(position)
}

/// Puts a span of time in milliseconds; 49 days stand for all that are longer.
fn put_millis(buffer: &mut BytesMut, span: Duration) {
    buffer.put_u32(u32::try_from(span.as_millis()).unwrap_or(u32::MAX));
}

fn millis(reader: &mut Reader<'_>) -> Result<Duration, Malformed> {
    Ok(Duration::from_millis(reader.u32()?.into()))
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed("a flag is 0 or 1")),
    }
}

fn origin_seq(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let origin_seq = reader.u64()?;
    if origin_seq > MAX_ORIGIN_SEQ {
        return Err(Malformed("origin_seq out of range"));
    }
    Ok(origin_seq)
}

fn origin_state(reader: &mut Reader<'_>) -> Result<OriginState, Malformed> {
    match reader.u8()? {
        0 => Ok(OriginState::New),
        1 => Ok(OriginState::Known),
        2 => Ok(OriginState::Forgotten),
        _ => Err(Malformed("unknown state of an origin")),
    }
}

fn put_terms(buffer: &mut BytesMut, terms: &Terms) {
    buffer.put_u64(terms.marks.messages);
    buffer.put_u64(terms.marks.bytes);
    put_millis(buffer, terms.marks.age);
    put_millis(buffer, terms.heartbeat);
    put_millis(buffer, terms.lease);
    buffer.put_u16(terms.conflatable.len() as u16);
    for prefix in &terms.conflatable {
        put_text(buffer, prefix);
    }
}

fn terms(reader: &mut Reader<'_>) -> Result<Terms, Malformed> {
    let marks = HighWaterMark::new().messages(reader.u64()?).bytes(reader.u64()?).age(millis(reader)?);
    let (heartbeat, lease) = (millis(reader)?, millis(reader)?);
    let none = [marks.age, heartbeat, lease].iter().any(Duration::is_zero);
    if none || marks.messages == 0 || marks.bytes == 0 {
        return Err(Malformed("a mark, heartbeat or lease of nothing"));
    }
    let conflatable = prefixes(reader)?;
    Ok(Terms { marks, heartbeat, lease, conflatable })
}

fn prefixes(reader: &mut Reader<'_>) -> Result<Vec<String>, Malformed> {
    let count = usize::from(reader.u16()?);
    if count > MAX_PREFIXES {
        return Err(Malformed("too many prefixes"));
    }
    (0..count).map(|_| prefix(reader)).collect()
}

fn prefix(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let text = reader.text()?;
    crate::message::check_prefix(text).map_err(|_| Malformed("invalid prefix"))?;
    Ok(text.to_owned())
}

fn put_members(buffer: &mut BytesMut, members: &[MemberEntry]) {
    buffer.put_u32(members.len() as u32);
    for member in members {
        buffer.put_slice(member.id.as_bytes());
        buffer.put_u8(member.role as u8);
    }
}

fn members(reader: &mut Reader<'_>) -> Result<Vec<MemberEntry>, Malformed> {
    let count = reader.u32()?;
    (0..count).map(|_| Ok(MemberEntry { id: reader.id()?, role: role(reader)? })).collect()
}

fn role(reader: &mut Reader<'_>) -> Result<Role, Malformed> {
    Role::from_byte(reader.u8()?).ok_or(Malformed("unknown role"))
}

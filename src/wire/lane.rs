//! Lanes of the broadcast channel, told by the first frame, on which ZMTP subscriptions match:
//! `W` whole windows, `T` + topic the records of one topic in a window, `I` a window's index, `B` + nonce barriers.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::{Message, Position, Topic};

use super::control::MAX_EPOCH;
use super::record::{MIN_RECORD, read_tail, skip_tail};
use super::window::{check_place, put_origins, read_origins};
use super::{MAX_RECORDS, Malformed, Reader, kind, put_prefix, put_varint};

/// The first frame of a broadcast message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lane {
    /// `W`: whole windows.
    Whole,
    /// `I`: indexes.
    Index,
    /// `T` and the topic: its records.
    Topic(Topic),
    /// `B` and the nonce in hexadecimal: one barrier.
    Barrier(Nonce),
}

impl Lane {
    pub(crate) const WHOLE: &'static str = "W";
    pub(crate) const INDEX: &'static str = "I";

    /// The subscription that matches every topic of this prefix.
    pub(crate) fn topics(prefix: &str) -> String {
        format!("T{prefix}")
    }

    /// The first frame of messages on this lane.
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::Whole => Bytes::from_static(Self::WHOLE.as_bytes()),
            Self::Index => Bytes::from_static(Self::INDEX.as_bytes()),
            Self::Topic(topic) => Self::topics(topic.as_str()).into(),
            Self::Barrier(nonce) => nonce.subscription().into(),
        }
    }

    pub(crate) fn decode(frame: &Bytes) -> Result<Self, Malformed> {
        match frame.split_first() {
            Some((b'W', [])) => Ok(Self::Whole),
            Some((b'I', [])) => Ok(Self::Index),
            Some((b'T', topic)) => {
                Topic::try_from(topic).map(Self::Topic).map_err(|_| Malformed("invalid topic"))
            }
            Some((b'B', hex)) => std::str::from_utf8(hex)
                .ok()
                .filter(|hex| hex.len() == 16)
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .map(|nonce| Self::Barrier(Nonce(nonce)))
                .ok_or(Malformed("invalid barrier")),
            _ => Err(Malformed("unknown lane")),
        }
    }
}

/// Tells one barrier from all others; chosen by the child that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nonce(pub(crate) u64);

impl Nonce {
    /// The prefix to subscribe to, which is the barrier's first frame.
    pub(crate) fn subscription(self) -> String {
        format!("B{self}")
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Cuts a window for children that do not take everything: the parts of the topics that are wanted,
/// then the index, each with its first frame. When the index comes, all else must have come.
///
/// The window is one that [`WindowBuilder`](super::WindowBuilder) made. The cost is that of its bytes, and of what is wanted.
pub(crate) fn lanes(
    window: &Bytes,
    mut is_wanted: impl FnMut(&str) -> bool,
) -> Result<Vec<(Bytes, Bytes)>, Malformed> {
    let mut reader = Reader::open(window, kind::WINDOW)?;
    let (epoch, number, first_seq) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let count = reader.u16()?;
    let mut topics = (0..reader.u16()?)
        .map(|_| {
            let name = reader.text()?;
            Ok(Split { name, records: 0, wanted: is_wanted(name).then(Vec::new) })
        })
        .collect::<Result<Vec<_>, Malformed>>()?;
    let origins = read_origins(&mut reader, count)?;
    let mut next_of: Vec<u64> = origins.iter().map(|(_, first)| *first).collect();
    for offset in 0..count {
        let topic = reader.length(topics.len() - 1, "record refers to no topic")?;
        let origin = reader.length(origins.len() - 1, "record refers to no origin")?;
        let start = reader.position();
        skip_tail(&mut reader, usize::MAX)?;
        let origin_seq = next_of[origin];
        next_of[origin] += 1;
        topics[topic].records += 1;
        if let Some(wanted) = &mut topics[topic].wanted {
            wanted.push(SplitRecord { offset, origin, origin_seq, tail: &window[start..reader.position()] });
        }
    }
    reader.end()?;

    let head = |buffer: &mut BytesMut, kind| {
        put_prefix(buffer, kind);
        buffer.put_u64(epoch);
        buffer.put_u64(number);
        buffer.put_u64(first_seq);
    };
    let mut lanes = Vec::new();
    // The place of each origin of the window in the part at hand.
    let mut places = vec![None; origins.len()];
    let mut of_part = Vec::new();
    for Split { name, wanted, .. } in &topics {
        let Some(records) = wanted else { continue };
        of_part.clear();
        for record in records {
            if places[record.origin].is_none() {
                places[record.origin] = Some((of_part.len() as u64, record.origin_seq));
                of_part.push((origins[record.origin].0, record.origin_seq));
            }
        }
        let tails: usize = records.iter().map(|record| record.tail.len() + 2 + 2 + 10).sum();
        let mut buffer = BytesMut::with_capacity(3 + 8 * 3 + 2 + 2 + of_part.len() * 24 + tails);
        head(&mut buffer, kind::TOPIC_PART);
        buffer.put_u16(records.len() as u16);
        put_origins(&mut buffer, &of_part);
        for SplitRecord { offset, origin, origin_seq, tail } in records {
            let (place, first) = places[*origin].unwrap_or_default();
            put_varint(&mut buffer, u64::from(*offset));
            put_varint(&mut buffer, place);
            put_varint(&mut buffer, origin_seq - first);
            buffer.put_slice(tail);
        }
        records.iter().for_each(|record| places[record.origin] = None);
        lanes.push((Lane::topics(name).into(), buffer.freeze()));
    }

    let names: usize = topics.iter().map(|topic| 1 + topic.name.len() + 2).sum();
    let mut buffer = BytesMut::with_capacity(3 + 8 * 4 + 2 + names);
    head(&mut buffer, kind::INDEX);
    buffer.put_u64(first_seq + u64::from(count) - 1);
    buffer.put_u16(topics.len() as u16);
    for Split { name, records, .. } in &topics {
        // Topics are no longer than a length octet can say.
        buffer.put_u8(name.len() as u8);
        buffer.put_slice(name.as_bytes());
        buffer.put_u16(*records);
    }
    lanes.push((Lane::Index.encode(), buffer.freeze()));
    Ok(lanes)
}

/// A topic of a window.
struct Split<'a> {
    name: &'a str,
    records: u16,
    /// Its records, where they are asked for.
    wanted: Option<Vec<SplitRecord<'a>>>,
}

/// A record of a window.
struct SplitRecord<'a> {
    /// Its seq minus the window's first.
    offset: u16,
    /// The place of its origin in the window.
    origin: usize,
    origin_seq: u64,
    tail: &'a [u8],
}

/// The records of one topic in a window, for children that do not take everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicPart {
    pub(crate) epoch: u64,
    pub(crate) number: u64,
    pub(crate) messages: Vec<Message>,
    /// The encoded length, in bytes.
    pub(crate) bytes: usize,
}

impl TopicPart {
    pub(crate) fn decode(topic: &Topic, body: &Bytes, max_message: usize) -> Result<Self, Malformed> {
        let mut reader = Reader::open(body, kind::TOPIC_PART)?;
        let (epoch, number, first_seq) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let count = reader.u16()?;
        check_place(epoch, number, first_seq, count)?;
        let origins = read_origins(&mut reader, count)?;
        let mut messages: Vec<Message> = Vec::with_capacity(reader.at_most(count, MIN_RECORD + 2)?);
        let mut least_offset = 0;
        for _ in 0..count {
            let offset = reader.length(MAX_RECORDS - 1, "seq beyond the window")? as u64;
            if offset < least_offset {
                return Err(Malformed("seqs do not rise"));
            }
            least_offset = offset + 1;
            let origin = reader.length(origins.len() - 1, "record refers to no origin")?;
            let (origin, first) = origins[origin];
            let origin_seq =
                first.checked_add(reader.varint()?).ok_or(Malformed("origin_seq out of range"))?;
            let tail = read_tail(&mut reader, max_message)?;
            messages.push(Message {
                origin,
                origin_seq,
                topic: topic.clone(),
                kind: tail.kind,
                codec: tail.codec,
                headers: tail.headers,
                position: Some(Position { epoch, seq: first_seq.saturating_add(offset) }),
                payload: tail.payload,
            });
        }
        reader.end()?;
        Ok(Self { epoch, number, messages, bytes: body.len() })
    }
}

/// What a window holds: how a child with prefixes knows what it must have received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) epoch: u64,
    pub(crate) number: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// How many of its records have topics that are wanted.
    pub(crate) wanted: usize,
}

impl Index {
    pub(crate) fn decode(body: &Bytes, mut is_wanted: impl FnMut(&str) -> bool) -> Result<Self, Malformed> {
        let mut reader = Reader::open(body, kind::INDEX)?;
        let (epoch, number) = (reader.u64()?, reader.u64()?);
        let (first_seq, last_seq) = (reader.u64()?, reader.u64()?);
        let records = last_seq
            .checked_sub(first_seq)
            .and_then(|span| u16::try_from(span).ok()?.checked_add(1))
            .ok_or(Malformed("seqs out of range"))?;
        check_place(epoch, number, first_seq, records)?;
        let count = reader.u16()?;
        if count == 0 || count > records {
            return Err(Malformed("a table has one to as many topics as there are records"));
        }
        let (mut all, mut wanted) = (0, 0);
        for _ in 0..count {
            let topic = reader.text()?;
            Topic::check(topic).map_err(|_| Malformed("invalid topic"))?;
            let count = usize::from(reader.u16()?);
            all += count;
            wanted += if is_wanted(topic) { count } else { 0 };
        }
        reader.end()?;
        if all != usize::from(records) {
            return Err(Malformed("records per topic do not add up"));
        }
        Ok(Self { epoch, number, first_seq, last_seq, wanted })
    }
}

/// What came on lane `W` or `I`: what the lane is for, or a heartbeat, which names the last window published before it.
#[derive(Debug)]
pub(crate) enum LaneBody<T> {
    Heartbeat(Barrier),
    Content(T),
}

impl LaneBody<super::Window> {
    /// Decodes what came on lane `W`.
    pub(crate) fn decode_whole(body: &Bytes, max_message: usize) -> Result<Self, Malformed> {
        match Reader::open_any(body)?.0 {
            kind::HEARTBEAT => Barrier::decode_heartbeat(body).map(Self::Heartbeat),
            _ => super::Window::decode(body, max_message).map(Self::Content),
        }
    }
}

impl LaneBody<Index> {
    /// Decodes what came on lane `I`.
    pub(crate) fn decode_index(body: &Bytes, is_wanted: impl FnMut(&str) -> bool) -> Result<Self, Malformed> {
        match Reader::open_any(body)?.0 {
            kind::HEARTBEAT => Barrier::decode_heartbeat(body).map(Self::Heartbeat),
            _ => Index::decode(body, is_wanted).map(Self::Content),
        }
    }
}

/// Where the order stands. Published on request, it proves that the subscriptions made before it are live, and names the last
/// window before it; published regularly, as a heartbeat, it shows a lost tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Barrier {
    pub(crate) epoch: u64,
    /// The last window published before the barrier; 0 before the first.
    pub(crate) number: u64,
    /// The last seq of that window; 0 before the first.
    pub(crate) last_seq: u64,
}

impl Barrier {
    pub(crate) fn encode(self) -> Bytes {
        self.put(kind::BARRIER)
    }

    pub(crate) fn encode_heartbeat(self) -> Bytes {
        self.put(kind::HEARTBEAT)
    }

    fn put(self, kind: u8) -> Bytes {
        let mut buffer = BytesMut::with_capacity(3 + 8 * 3);
        put_prefix(&mut buffer, kind);
        self.put_place(&mut buffer);
        buffer.freeze()
    }

    pub(super) fn put_place(self, buffer: &mut BytesMut) {
        buffer.put_u64(self.epoch);
        buffer.put_u64(self.number);
        buffer.put_u64(self.last_seq);
    }

    pub(crate) fn decode(body: &Bytes) -> Result<Self, Malformed> {
        Self::read(Reader::open(body, kind::BARRIER)?)
    }

    pub(crate) fn decode_heartbeat(body: &Bytes) -> Result<Self, Malformed> {
        Self::read(Reader::open(body, kind::HEARTBEAT)?)
    }

    fn read(mut reader: Reader<'_>) -> Result<Self, Malformed> {
        let barrier = Self::read_place(&mut reader)?;
        reader.end()?;
        Ok(barrier)
    }

    pub(super) fn read_place(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let barrier = Self { epoch: reader.u64()?, number: reader.u64()?, last_seq: reader.u64()? };
        if barrier.epoch > MAX_EPOCH || barrier.number >= u64::MAX - 1 || barrier.last_seq >= u64::MAX - 1 {
            return Err(Malformed("epoch, window number or seq out of range"));
        }
        Ok(barrier)
    }
}

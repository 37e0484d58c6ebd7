//! Windows: consecutive records of the order, one message on lane `W`.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::EndpointId;
use crate::message::{Message, Position, Topic};

use super::control::MAX_EPOCH;
use super::record::{MIN_RECORD, read_tail};
use super::table::{TopicTable, read_topics};
use super::{MAX_RECORDS, Malformed, Reader, TARGET_BYTES, kind, put_prefix, put_varint, reserve};

/// The fixed part of a window: opening octets, epoch, number, first seq, and three counts.
const HEAD_BYTES: usize = 3 + 8 + 8 + 8 + 2 + 2 + 2;
/// An entry of the table of origins: an id and an origin_seq.
const ORIGIN_BYTES: usize = 16 + 8;

/// A window as it travels: its bytes, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EncodedWindow {
    pub(crate) epoch: u64,
    /// Without holes within an incarnation of the host, from 1.
    pub(crate) number: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) body: Bytes,
}

impl EncodedWindow {
    /// The number of its records.
    pub(crate) fn records(&self) -> u64 {
        self.last_seq - self.first_seq + 1
    }

    /// The position of its last record.
    pub(crate) fn last(&self) -> Position {
        Position { epoch: self.epoch, seq: self.last_seq }
    }
}

/// A decoded window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) epoch: u64,
    /// The window's number: without holes within an incarnation of the host, from 1.
    pub(crate) number: u64,
    pub(crate) first_seq: u64,
    /// The records, of seqs `first_seq` and following.
    pub(crate) messages: Vec<Message>,
    /// The origins of the records, each with its last origin_seq here. One whose numbers jump may stand there twice.
    pub(crate) origins: Vec<(EndpointId, u64)>,
    /// The encoded length, in bytes.
    pub(crate) bytes: usize,
}

impl Window {
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + self.messages.len() as u64 - 1
    }

    pub(crate) fn decode(body: &Bytes, max_message: usize) -> Result<Self, Malformed> {
        let mut reader = Reader::open(body, kind::WINDOW)?;
        let (epoch, number, first_seq) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let count = reader.u16()?;
        check_place(epoch, number, first_seq, count)?;
        let topics = read_topics(&mut reader, count)?;
        let origins = read_origins(&mut reader, count)?;
        let mut next_of: Vec<u64> = origins.iter().map(|(_, first)| *first).collect();
        let mut messages = Vec::with_capacity(reader.at_most(count, MIN_RECORD + 1)?);
        for offset in 0..u64::from(count) {
            let topic = reader.length(topics.len() - 1, "record refers to no topic")?;
            let origin = reader.length(origins.len() - 1, "record refers to no origin")?;
            let tail = read_tail(&mut reader, max_message)?;
            let origin_seq = next_of[origin];
            next_of[origin] += 1;
            messages.push(Message {
                origin: origins[origin].0,
                origin_seq,
                topic: topics[topic].clone(),
                kind: tail.kind,
                codec: tail.codec,
                headers: tail.headers,
                position: Some(Position { epoch, seq: first_seq + offset }),
                payload: tail.payload,
            });
        }
        reader.end()?;
        let last_of = |((id, _), next): (&(EndpointId, u64), u64)| (*id, next - 1);
        let origins = origins.iter().zip(next_of).map(last_of).collect();
        Ok(Self { epoch, number, first_seq, messages, origins, bytes: body.len() })
    }
}

/// Checks that a window's numbers are in range, so that sums over them cannot overflow.
pub(super) fn check_place(epoch: u64, number: u64, first_seq: u64, count: u16) -> Result<(), Malformed> {
    if count == 0 || usize::from(count) > MAX_RECORDS {
        return Err(Malformed("a window has 1 to 1024 records"));
    }
    if epoch > MAX_EPOCH {
        return Err(Malformed("epoch out of range"));
    }
    if number == 0 || number == u64::MAX || first_seq == 0 || first_seq.checked_add(count.into()).is_none() {
        return Err(Malformed("window number or seq out of range"));
    }
    Ok(())
}

pub(super) fn put_origins(buffer: &mut impl BufMut, origins: &[(EndpointId, u64)]) {
    buffer.put_u16(origins.len() as u16);
    for (id, first) in origins {
        buffer.put_slice(id.as_bytes());
        buffer.put_u64(*first);
    }
}

pub(super) fn read_origins(
    reader: &mut Reader<'_>,
    records: u16,
) -> Result<Vec<(EndpointId, u64)>, Malformed> {
    let count = reader.u16()?;
    if count == 0 || count > records {
        return Err(Malformed("a table has one to as many origins as there are records"));
    }
    (0..count)
        .map(|_| {
            let (id, first) = (reader.id()?, reader.u64()?);
            if first == 0 || first.checked_add(records.into()).is_none() {
                return Err(Malformed("origin_seq out of range"));
            }
            Ok((id, first))
        })
        .collect()
}

/// Collects records into the next window.
#[derive(Debug)]
pub(crate) struct WindowBuilder {
    count: u16,
    topics: TopicTable,
    origins: Vec<(EndpointId, u64)>,
    /// By origin: its place in `origins`, and the origin_seq due next there.
    origin_places: BTreeMap<EndpointId, (u16, u64)>,
    records: BytesMut,
}

impl WindowBuilder {
    pub(crate) fn new() -> Self {
        Self {
            count: 0,
            topics: TopicTable::default(),
            origins: Vec::new(),
            origin_places: BTreeMap::new(),
            records: BytesMut::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Adds a record at the end; `false`, and nothing added, when it does not go into this window. The first one always does.
    pub(crate) fn push(&mut self, topic: &Topic, origin: EndpointId, origin_seq: u64, tail: &[u8]) -> bool {
        let found = self.topics.find(topic);
        let added = tail.len() + 2 * 2 + TopicTable::growth(found, topic) + ORIGIN_BYTES;
        if self.count > 0 && (usize::from(self.count) >= MAX_RECORDS || self.bytes() + added > TARGET_BYTES) {
            return false;
        }
        let (topic, origin) = (self.topics.place(found, topic), self.origin_place(origin, origin_seq));
        reserve(&mut self.records, added);
        put_varint(&mut self.records, topic.into());
        put_varint(&mut self.records, origin.into());
        self.records.put_slice(tail);
        self.count += 1;
        true
    }

    fn bytes(&self) -> usize {
        HEAD_BYTES + self.topics.bytes() + self.origins.len() * ORIGIN_BYTES + self.records.len()
    }

    /// An origin whose origin_seq jumps within the window gets a second entry: the k-th record of an entry has its first plus k.
    fn origin_place(&mut self, origin: EndpointId, origin_seq: u64) -> u16 {
        if let Some((place, next)) = self.origin_places.get_mut(&origin)
            && *next == origin_seq
        {
            *next += 1;
            return *place;
        }
        let place = self.origins.len() as u16;
        self.origins.push((origin, origin_seq));
        self.origin_places.insert(origin, (place, origin_seq + 1));
        place
    }

    /// Whether all its records are of this origin.
    pub(crate) fn is_only_of(&self, origin: EndpointId) -> bool {
        self.origins.iter().all(|(id, _)| *id == origin)
    }

    /// The window; at least one record is in it.
    pub(crate) fn finish(self, epoch: u64, number: u64, first_seq: u64) -> EncodedWindow {
        let mut buffer = BytesMut::with_capacity(self.bytes());
        put_prefix(&mut buffer, kind::WINDOW);
        buffer.put_u64(epoch);
        buffer.put_u64(number);
        buffer.put_u64(first_seq);
        buffer.put_u16(self.count);
        self.topics.put(&mut buffer);
        put_origins(&mut buffer, &self.origins);
        buffer.put_slice(&self.records);
        let last_seq = first_seq + u64::from(self.count) - 1;
        EncodedWindow { epoch, number, first_seq, last_seq, body: buffer.freeze() }
    }
}

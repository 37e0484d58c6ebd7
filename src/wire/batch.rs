//! Batches: what a child submits, two frames on the submit channel. The first names the session, the second holds the
//! records and is the same whichever session it is sent in.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::{EndpointId, SessionToken};
use crate::message::{Message, MessageKind, Topic};

use super::record::{MIN_RECORD, asked_of, put_tail, skip_tail, tail_bound};
use super::table::{TopicTable, read_topics};
use super::{MAX_RECORDS, Malformed, Reader, TARGET_BYTES, kind, put_prefix, put_varint, reserve};

/// The first frame of a submit message: who submits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubmitHead {
    pub(crate) session: SessionToken,
}

impl SubmitHead {
    pub(crate) fn encode(self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(3 + SessionToken::LENGTH);
        put_prefix(&mut buffer, kind::SUBMIT);
        buffer.put_slice(self.session.as_bytes());
        buffer.freeze()
    }

    pub(crate) fn decode(frame: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(frame, kind::SUBMIT)?;
        let session = SessionToken::from_slice(reader.slice(SessionToken::LENGTH)?)
            .ok_or(Malformed("invalid session token"))?;
        reader.end()?;
        Ok(Self { session })
    }
}

/// Collects messages of one origin into a batch.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    first_origin_seq: u64,
    count: u16,
    topics: TopicTable,
    records: BytesMut,
}

impl BatchBuilder {
    pub(crate) fn new(first_origin_seq: u64) -> Self {
        Self { first_origin_seq, count: 0, topics: TopicTable::default(), records: BytesMut::new() }
    }

    pub(crate) fn first_origin_seq(&self) -> u64 {
        self.first_origin_seq
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The length of the encoded body, or a little more.
    pub(crate) fn bytes(&self) -> usize {
        HEAD_BYTES + self.topics.bytes() + self.records.len()
    }

    /// Adds a message as the next of its origin; `false`, and nothing added, when the batch is closed to it.
    pub(crate) fn push(&mut self, message: &Message) -> bool {
        let found = self.topics.find(&message.topic);
        let added = tail_bound(message) + 2 + TopicTable::growth(found, &message.topic);
        if self.count > 0 && (usize::from(self.count) >= MAX_RECORDS || self.bytes() + added > TARGET_BYTES) {
            return false;
        }
        reserve(&mut self.records, added);
        put_varint(&mut self.records, self.topics.place(found, &message.topic).into());
        put_tail(&mut self.records, message);
        self.count += 1;
        true
    }

    /// The encoded body.
    pub(crate) fn finish(self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(self.bytes());
        buffer.put_u64(self.first_origin_seq);
        buffer.put_u16(self.count);
        self.topics.put(&mut buffer);
        buffer.put_slice(&self.records);
        buffer.freeze()
    }
}

/// The fixed part of a batch body: first origin_seq, number of records, number of topics.
const HEAD_BYTES: usize = 8 + 2 + 2;

/// A checked batch: its table, and where its records are.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) first_origin_seq: u64,
    pub(crate) topics: Vec<Topic>,
    records: Vec<(u16, Range<usize>)>,
    body: Bytes,
}

impl Batch {
    /// Checks a whole body: nothing of a malformed batch is ever ordered.
    pub(crate) fn decode(body: Bytes, max_message: usize) -> Result<Self, Malformed> {
        let mut reader = Reader::new(&body);
        let first_origin_seq = reader.u64()?;
        let count = reader.u16()?;
        if count == 0 || usize::from(count) > MAX_RECORDS {
            return Err(Malformed("a batch has 1 to 1024 records"));
        }
        if count > 1 && body.len() > TARGET_BYTES {
            return Err(Malformed("a batch above 64 KiB holds one record"));
        }
        if first_origin_seq == 0 || first_origin_seq.checked_add(count.into()).is_none() {
            return Err(Malformed("origin_seq out of range"));
        }
        let topics = read_topics(&mut reader, count)?;
        let mut records = Vec::with_capacity(reader.at_most(count, MIN_RECORD)?);
        for _ in 0..count {
            let topic = reader.length(topics.len() - 1, "record refers to no topic")? as u16;
            let start = reader.position();
            skip_tail(&mut reader, max_message)?;
            records.push((topic, start..reader.position()));
        }
        reader.end()?;
        Ok(Self { first_origin_seq, topics, records, body })
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether all of it is questions for documents, which who may not send may ask.
    pub(crate) fn is_questions(&self) -> bool {
        (0..self.len()).all(|index| self.asked_of(index).is_some())
    }

    /// Of whom a record asks for a document: nil for nobody in particular. `None` for one that is no question.
    pub(crate) fn asked_of(&self, index: usize) -> Option<EndpointId> {
        let (topic, tail) = self.records.get(index)?;
        asked_of(self.topics.get(usize::from(*topic))?, &self.body.slice(tail.clone()))
    }

    /// The place of a record's topic in `topics`.
    pub(crate) fn topic_of(&self, index: usize) -> Option<usize> {
        self.records.get(index).map(|(topic, _)| usize::from(*topic))
    }

    /// Whether there is any request for a whole document, as far as the records' tags say.
    pub(crate) fn may_ask(&self) -> bool {
        const REQUEST: u8 = MessageKind::FullDocumentRequest as u8;
        self.records
            .iter()
            .any(|(_, tail)| self.body.get(tail.start).is_some_and(|tag| tag & 0x0f == REQUEST))
    }

    /// Some records in order: the topic's place in `topics`, and the tail's bytes. A range that is not in the batch is a
    /// bug of the caller's.
    pub(crate) fn records_in(&self, range: Range<usize>) -> impl Iterator<Item = (u16, &[u8])> {
        self.records[range].iter().map(|(topic, tail)| (*topic, &self.body[tail.clone()]))
    }
}

//! The table of topics at the head of batches and windows: a record names its topic by its place there.

use std::collections::BTreeMap;

use bytes::BufMut;

use crate::message::Topic;

use super::{Malformed, Reader};

/// Topics in the order they were first used, while a batch or window is being built.
#[derive(Debug, Default)]
pub(super) struct TopicTable {
    topics: Vec<Topic>,
    places: BTreeMap<Topic, u16>,
    /// The place used last, tried first: runs of one topic need no look-up.
    last: u16,
    bytes: usize,
}

impl TopicTable {
    /// The table's encoded length without its count.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The topic's place, if it has one already.
    pub(super) fn find(&self, topic: &Topic) -> Option<u16> {
        match self.topics.get(usize::from(self.last)) {
            Some(last) if last == topic => Some(self.last),
            _ => self.places.get(topic).copied(),
        }
    }

    /// How much the table grows by a topic that was or was not [found](Self::find).
    pub(super) fn growth(found: Option<u16>, topic: &Topic) -> usize {
        if found.is_some() { 0 } else { 1 + topic.as_str().len() }
    }

    /// Notes the use of a topic that was [found](Self::find), or else enters it. Its place.
    pub(super) fn place(&mut self, found: Option<u16>, topic: &Topic) -> u16 {
        self.last = found.unwrap_or_else(|| {
            // At most one topic per record, of which there are at most 1,024.
            let place = self.topics.len() as u16;
            self.bytes += Self::growth(None, topic);
            self.topics.push(topic.clone());
            self.places.insert(topic.clone(), place);
            place
        });
        self.last
    }

    pub(super) fn put(&self, buffer: &mut impl BufMut) {
        buffer.put_u16(self.topics.len() as u16);
        for topic in &self.topics {
            put_topic(buffer, topic);
        }
    }
}

pub(super) fn put_topic(buffer: &mut impl BufMut, topic: &Topic) {
    // A topic is at most 255 bytes long: `Topic` sees to it.
    buffer.put_u8(topic.as_str().len() as u8);
    buffer.put_slice(topic.as_str().as_bytes());
}

/// Reads a table that `records` records refer to.
pub(super) fn read_topics(reader: &mut Reader<'_>, records: u16) -> Result<Vec<Topic>, Malformed> {
    let count = reader.u16()?;
    if count == 0 || count > records {
        return Err(Malformed("a table has one to as many topics as there are records"));
    }
    (0..count).map(|_| reader.topic()).collect()
}

//! The table of topics at the head of batches and windows: a record names its topic by its place there.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use bytes::BufMut;

use crate::message::Topic;

use super::{Malformed, Reader};

/// Topics in the order they were first used, while a batch or window is being built.
#[derive(Debug, Default)]
pub(super) struct TopicTable {
    topics: Vec<Topic>,
    /// The places of topics by their hashes; a topic whose hash is taken has the next free one. Long topics that begin alike
    /// cost more to compare than to hash.
    places: BTreeMap<u64, u16>,
    /// The place used last, tried first: runs of one topic need no look-up.
    last: u16,
    bytes: usize,
}

/// What [`TopicTable::find`] found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    At(u16),
    /// Nothing. The topic would have this key.
    No(u64),
}

impl TopicTable {
    /// The table's encoded length without its count.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn find(&self, topic: &Topic) -> Found {
        if self.topics.get(usize::from(self.last)) == Some(topic) {
            return Found::At(self.last);
        }
        let mut key = hash(topic);
        while let Some(place) = self.places.get(&key) {
            if self.topics[usize::from(*place)] == *topic {
                return Found::At(*place);
            }
            key = key.wrapping_add(1);
        }
        Found::No(key)
    }

    /// How much the table grows by a topic that was or was not [found](Self::find).
    pub(super) fn growth(found: Found, topic: &Topic) -> usize {
        match found {
            Found::At(_) => 0,
            Found::No(_) => 1 + topic.as_str().len(),
        }
    }

    /// Notes the use of a topic that was [found](Self::find), or else enters it. Its place.
    pub(super) fn place(&mut self, found: Found, topic: &Topic) -> u16 {
        self.last = match found {
            Found::At(place) => place,
            Found::No(key) => {
                // At most one topic per record, of which there are at most 1,024.
                let place = self.topics.len() as u16;
                self.bytes += Self::growth(found, topic);
                self.topics.push(topic.clone());
                self.places.insert(key, place);
                place
            }
        };
        self.last
    }

    pub(super) fn put(&self, buffer: &mut impl BufMut) {
        buffer.put_u16(self.topics.len() as u16);
        for topic in &self.topics {
            put_topic(buffer, topic);
        }
    }
}

/// The same in every run: the hasher has no key of its own.
fn hash(topic: &Topic) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(topic.as_str().as_bytes());
    hasher.finish()
}

fn put_topic(buffer: &mut impl BufMut, topic: &Topic) {
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

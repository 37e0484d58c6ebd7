//! The documents that are kept, by name, and how much room they take together.

use std::collections::BTreeMap;

use super::kept::Kept;

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How large a document may become, with its records, in bytes. One that is larger is no longer given out, nor kept on with.
    pub(crate) document: usize,
    /// How many documents there may be.
    pub(crate) documents: usize,
    /// What all documents together may take, in bytes, about.
    pub(crate) bytes: usize,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It made the document.
    Made,
    Counts,
    DoesNotCount,
    /// The document is not kept, or not any more.
    NotKept,
}

/// The documents, and what they take together.
#[derive(Debug)]
pub(super) struct Shelf {
    documents: BTreeMap<String, Kept>,
    bytes: usize,
    limits: Limits,
    /// From how many bytes on there is something to be done.
    alarm: usize,
}

impl Shelf {
    pub(super) fn new(limits: Limits) -> Self {
        Self { documents: BTreeMap::new(), bytes: 0, limits, alarm: limits.bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.documents.len()
    }

    /// What they take together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn get(&self, name: &str) -> Option<&Kept> {
        self.documents.get(name)
    }

    /// To change something that it is not counted for; otherwise it is to be [weighed](Self::weigh) then.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Kept> {
        self.documents.get_mut(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Kept)> {
        self.documents.iter()
    }

    /// Whether there may be so many more.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.documents.len() + more <= self.limits.documents
    }

    /// Why there is no room for one more of so many bytes, if so.
    pub(super) fn full(&self, bytes: usize) -> Option<String> {
        let (documents, taken, most) = (self.len(), self.bytes, self.limits.bytes);
        if !self.has_room(1) {
            return Some(format!("there are {documents} documents already"));
        }
        (taken.saturating_add(bytes) > most)
            .then(|| format!("the documents that there are take {taken} of the {most} bytes that are kept"))
    }

    /// Changes the document of this name; makes it, where there is none and the change counts, if there is room. `change` says whether it counts.
    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut Kept) -> bool) -> Change {
        let Some(kept) = self.documents.get_mut(name) else {
            let mut kept = Kept::default();
            return match change(&mut kept) {
                true if self.full(kept.weight()).is_some() => Change::NotKept,
                true => {
                    self.put(name, kept);
                    Change::Made
                }
                false => Change::DoesNotCount,
            };
        };
        if kept.refused.is_some() {
            return Change::NotKept;
        }
        let counts = change(kept);
        kept.weigh(&mut self.bytes);
        if counts { Change::Counts } else { Change::DoesNotCount }
    }

    /// In the place of what there is.
    pub(super) fn put(&mut self, name: &str, mut kept: Kept) {
        self.remove(name);
        kept.weigh(&mut self.bytes);
        self.documents.insert(name.to_owned(), kept);
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(mut kept) = self.documents.remove(name) {
            kept.take_from(&mut self.bytes);
        }
    }

    /// To be called when a document has changed.
    pub(super) fn weigh(&mut self, name: &str) {
        if let Some(kept) = self.documents.get_mut(name) {
            kept.weigh(&mut self.bytes);
        }
    }

    /// Whether all together take more than they may, and it is not waited for something to become less.
    pub(super) fn is_over(&self) -> bool {
        self.bytes > self.alarm
    }

    /// Waits for something to become less: until it has, or there is clearly more. What is to be done is looked for among all of them, which is not for every change.
    pub(super) fn wait(&mut self) {
        self.alarm = self.limits.bytes.max(self.bytes.saturating_add(self.limits.bytes / 256));
    }

    /// Something has become less.
    pub(super) fn wait_no_more(&mut self) {
        self.alarm = self.limits.bytes;
    }

    /// The document that takes most.
    pub(super) fn largest(&self) -> Option<&String> {
        let with_content = self.documents.iter().filter(|(_, kept)| kept.has_content());
        with_content.max_by_key(|(_, kept)| kept.weight()).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::super::wire::State;
    use super::super::kept::DOCUMENT;
    use super::*;

    #[test]
    fn what_documents_take_is_counted_whatever_becomes_of_them() {
        let limits = Limits { document: 1_000, documents: 3, bytes: 10 * DOCUMENT };
        let mut shelf = Shelf::new(limits);
        let sized = |bytes: usize| {
            let snapshot = Bytes::from(vec![0; bytes]);
            Kept::of(State { kind: Some("it".into()), snapshot, ..State::default() }).expect("good")
        };
        let grow = |bytes: usize| {
            move |kept: &mut Kept| {
                kept.set_state(sized(bytes).state);
                true
            }
        };
        assert_eq!(shelf.change("a", grow(100)), Change::Made);
        assert_eq!(shelf.change("a", |_| false), Change::DoesNotCount);
        assert_eq!(shelf.change("b", |_| false), Change::DoesNotCount);
        assert_eq!((shelf.len(), shelf.bytes()), (1, DOCUMENT + 100));
        assert_eq!(shelf.change("a", grow(300)), Change::Counts);
        shelf.put("b", sized(50));
        assert_eq!(shelf.bytes(), 2 * DOCUMENT + 350);
        // There is no room for one more that is so large.
        assert_eq!(shelf.change("c", grow(7 * DOCUMENT)), Change::NotKept);
        shelf.put("b", sized(20));
        shelf.get_mut("a").expect("it is there").clear();
        shelf.weigh("a");
        assert_eq!(shelf.bytes(), 2 * DOCUMENT + 20);
        assert_eq!(shelf.change("c", grow(1)), Change::Made);
        assert_eq!(shelf.change("d", grow(1)), Change::NotKept);
        ["a", "b", "c"].iter().for_each(|name| shelf.remove(name));
        assert_eq!((shelf.len(), shelf.bytes()), (0, 0));
    }
}

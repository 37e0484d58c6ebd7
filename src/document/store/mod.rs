//! Where a keeper keeps documents so that they survive it.
//!
//! [`Store`] is what a keeper asks for. [`MemoryStore`] is the simplest one there is: it survives the keeper, and not the process. `RedbStore` (feature
//! `store`) is one file. A store of your own takes the three calls of the trait.
//!
//! ```
//! use zincmq::Position;
//! use zincmq::document::store::{Base, MemoryStore, Record, Store, StoreChange};
//!
//! let mut store = MemoryStore::new();
//! let at = |seq| Position { epoch: 1, seq };
//! let append = |seq, bytes: &'static str| StoreChange::Append {
//!     name: "minutes".into(),
//!     record: Record { position: at(seq), bytes: bytes.into() },
//! };
//! store.commit(&[append(4, "Present: "), append(9, "all")])?;
//! // Once there are many records, one base takes the place of those it has in it.
//! let base = Base { position: at(4), bytes: "Present: ".into() };
//! store.commit(&[StoreChange::Replace { name: "minutes".into(), base }])?;
//!
//! let stored = store.load("minutes")?.expect("it is there");
//! assert_eq!(stored.base.expect("a base").position, at(4));
//! assert_eq!(stored.records, [Record { position: at(9), bytes: "all".into() }]);
//! # Ok::<(), zincmq::document::store::StoreError>(())
//! ```

mod memory;
#[cfg(feature = "store")]
mod redb;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use memory::MemoryStore;
#[cfg(feature = "store")]
pub use redb::RedbStore;

use crate::message::Position;

/// A document as it was at a position. What the bytes mean only the keeper knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The position: all records up to it, and no others, are in.
    pub position: Position,
    /// The document.
    pub bytes: Bytes,
}

/// A change to a document in its order. What the bytes mean only the keeper knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its position.
    pub position: Position,
    /// The change.
    pub bytes: Bytes,
}

/// What a store has of a document: a base, and the records after it, by position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// `None` while there is none: the records begin with the first.
    pub base: Option<Base>,
    /// All after the base.
    pub records: Vec<Record>,
}

/// One thing to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChange {
    /// A record of a document, after all others of it and after its base: its position is greater. The first one makes the document.
    Append {
        /// The document's name.
        name: String,
        /// The record.
        record: Record,
    },
    /// A new base, not older than the one before it; the records up to its position go. Where there is no such document, it makes it.
    Replace {
        /// The document's name.
        name: String,
        /// The base.
        base: Base,
    },
    /// The document goes, with all there is of it. One that is not there is no error.
    Remove {
        /// The document's name.
        name: String,
    },
}

impl StoreChange {
    /// Up to where a document is stored with it, at least.
    pub(crate) fn up_to(&self) -> Option<(&str, Position)> {
        match self {
            Self::Append { name, record } => Some((name, record.position)),
            Self::Replace { name, base } => Some((name, base.position)),
            Self::Remove { .. } => None,
        }
    }

    /// How many bytes of documents it has.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Append { record, .. } => record.bytes.len(),
            Self::Replace { base, .. } => base.bytes.len(),
            Self::Remove { .. } => 0,
        }
    }
}

/// Keeps documents. Calls may block; the keeper makes them on a thread of their own.
pub trait Store: Send + 'static {
    /// The names of all documents there are, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    fn names(&mut self) -> Result<Vec<String>, StoreError>;

    /// What there is of a document; `None` where there is none of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    fn load(&mut self, name: &str) -> Result<Option<Stored>, StoreError>;

    /// Stores these changes, in this order, all of them or none. When it returns, they survive the end of the process and of the machine.
    ///
    /// # Errors
    /// [`StoreError`]: none of them is stored. Where the system fails while it writes ([`StoreError::Io`]) they may turn out to be, all of them, when
    /// the store is opened again.
    fn commit(&mut self, changes: &[StoreChange]) -> Result<(), StoreError>;
}

/// Why a store cannot do what it was asked for. Every one says which store: the path of its file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is there and is not a store of this crate, or of a newer version of it. It was left as it is.
    #[error("{path}: {reason}; the file was left as it is")]
    Foreign {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is damaged. It was left as it is when that was found.
    #[error(
        "{path} is damaged: {reason}; the file was left as it is: bring back a copy, or move it away to begin an empty one"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is open already: in another process, or in this one.
    #[error("{path} is in use: by another process, or by another store of this one")]
    InUse {
        /// The file.
        path: String,
    },
    /// The system said no.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A record, or a base, is not behind what there is of its document: the caller's mistake. The store is as it was.
    #[error("{path}: {position} of {name:?} does not come after {last}, which is stored")]
    OutOfOrder {
        /// The file.
        path: String,
        /// The document's name.
        name: String,
        /// The position that was to be stored.
        position: Position,
        /// The position that it has to come after, or, for a base, must not come before.
        last: Position,
    },
}

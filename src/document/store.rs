//! Where a keeper keeps documents so that they survive it.

use bytes::Bytes;

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
    /// A record of a document, after all others of it. The first one makes the document.
    Append {
        /// The document's name.
        name: String,
        /// The record.
        record: Record,
    },
    /// A new base; the records up to its position go.
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
    /// [`StoreError`]: none of them is stored.
    fn commit(&mut self, changes: &[StoreChange]) -> Result<(), StoreError>;
}

/// Why a store cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is there and is not a store of this crate, or of another version of it. It was left as it is.
    #[error("{path}: {reason}; the file was left as it is")]
    Foreign {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is damaged. It was left as it is.
    #[error("{path} is damaged: {reason}; the file was left as it is: move it away, or bring back a copy")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process")]
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
}

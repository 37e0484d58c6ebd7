//! Documents that several nodes change at once: every change goes out as a fragment, takes its place in the cluster's order, and comes back to all that
//! have the document open.
//!
//! A [`Document`] is a state and the fragments that change it. There are two kinds ([`Model`]): **ordered** ones are any deterministic state machine, with
//! the host's order as the one truth; **commutative** ones (feature `crdt`) come out equal whatever the order.
//!
//! [`DocumentExt::document`] opens one on any endpoint, [`DocumentHandle::update`] changes it, [`DocumentHandle::read`] and [`DocumentHandle::changes`] show it. A
//! [`Keeper`] at the host gives it to whoever comes later. A type of one's own needs what [`Document`] requires, and maybe `fork`; the example `ordered_counter` has one:
//!
//! ```no_run
//! # #[cfg(feature = "crdt")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use zincmq::document::{DocumentExt, Keeper, crdt::Text};
//! use zincmq::prelude::*;
//!
//! let host = Host::builder().bind("tcp://127.0.0.1:5555").await?;
//! let _keeper = Keeper::builder().start(&host).await?;
//! let client = Client::builder().subscribe_to_nothing().join("tcp://127.0.0.1:5555").await?;
//! let text = client.document::<Text>("minutes").await?;
//! text.update(|text| text.append("Present: all\n")).await??;
//! # Ok(())
//! # }
//! ```

use std::fmt;

use crate::id::EndpointId;
use crate::message::Position;

pub use handle::{DocumentEvents, DocumentExt, DocumentHandle, DocumentOptions};
pub use keep::{DocumentInfo, Keeper, KeeperBuilder, KeeperError, KeeperStats};
pub use keeper::Access;
pub use list::list;
pub use presence::{Presence, PresenceError};

#[cfg(feature = "crdt")]
pub mod crdt;
pub(crate) mod fold;
mod gathering;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "IO happens here")]
mod handle;
mod join;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "IO happens here")]
mod keep;
pub(crate) mod keeper;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "IO happens here")]
mod list;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "IO happens here")]
mod outgoing;
mod pieces;
mod presence;
pub(crate) mod replica;
mod resets;
pub mod store;
#[cfg(test)]
mod tests;
mod transfer;
pub(crate) mod wire;

/// How fragments of a document get along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// The order decides. What a node changed itself it shows at once, on top of what is in order, and does over when something came before it.
    Ordered,
    /// Fragments commute, and one applied twice is as good as applied once (a CRDT). What a node changed itself is simply there.
    Commutative,
}

/// A state that fragments change, the same way everywhere.
///
/// All of it must be deterministic: the same fragments in the same order give the same state, and the same snapshot, on every node. So no clock, no
/// randomness, no iteration over hash maps.
pub trait Document: Sized + Send + 'static {
    /// Names the type and the format of its fragments and snapshots, to tell documents of different types apart: `"text"`, `"myapp.ledger.2"`. 1 to 64 bytes.
    const KIND: &'static str;
    /// How its fragments get along.
    const MODEL: Model;
    /// What changes it.
    type Fragment: Clone + Send + 'static;
    /// What a fragment did, as told by [`changes`](DocumentHandle::changes): patches, say, or `()`.
    type Change: Clone + Send + 'static;

    /// The state before any fragment.
    fn empty() -> Self;

    /// Tells the replica's number, before it makes fragments: a random one, and no other replica of this document may have it, nor may a later one of the
    /// same node. Commutative documents name what they make after it. By default nothing happens.
    fn set_replica(&mut self, number: u64) {
        let _ = number;
    }

    /// Changes the state. When it fails, nothing has changed.
    ///
    /// # Errors
    /// [`Conflict`]: the fragment does not apply to this state (it was made for another, and something came before it).
    fn apply(&mut self, fragment: &Self::Fragment) -> Result<Self::Change, Conflict>;

    /// Applies fragments one after the other, as [`apply`](Self::apply) does, and passes over those that do not apply; what changed, in order. For commutative
    /// documents: types that have less to do in one go do it so, and may tell of all of it as one change.
    fn replay(&mut self, fragments: &[Self::Fragment]) -> Vec<Self::Change> {
        fragments.iter().filter_map(|fragment| self.apply(fragment).ok()).collect()
    }

    /// The whole state as bytes.
    fn snapshot(&self) -> Vec<u8>;

    /// The state of a snapshot. The bytes come from other nodes: they may be anything.
    ///
    /// # Errors
    /// [`Malformed`].
    fn restore(snapshot: &[u8]) -> Result<Self, Malformed>;

    /// The state of a snapshot, or the empty one, and of the fragments that came after it, passing over those that do not apply; with a replica's number, if there is
    /// one to [tell](Self::set_replica). For commutative documents: types that have less to do in one go do it so.
    ///
    /// # Errors
    /// [`Malformed`]: the snapshot is.
    fn rebuild(
        snapshot: Option<&[u8]>,
        fragments: &[Self::Fragment],
        replica: Option<u64>,
    ) -> Result<Self, Malformed> {
        let mut document = snapshot.map_or_else(|| Ok(Self::empty()), Self::restore)?;
        if let Some(number) = replica {
            document.set_replica(number);
        }
        document.replay(fragments);
        Ok(document)
    }

    /// Whether a fragment has left the state of no more use, so that it has to be made anew from what the cluster has: [`rebuild`](Self::rebuild) passes over such
    /// fragments. For commutative documents. By default none does.
    fn is_broken(&self) -> bool {
        false
    }

    /// A fragment as bytes.
    fn encode(fragment: &Self::Fragment) -> Vec<u8>;

    /// The fragment of these bytes. They come from other nodes: they may be anything.
    ///
    /// # Errors
    /// [`Malformed`].
    fn decode(fragment: &[u8]) -> Result<Self::Fragment, Malformed>;

    /// A copy of the state. By default by way of a snapshot; types that are `Clone` do better.
    fn fork(&self) -> Self {
        // A snapshot of our own making.
        Self::restore(&self.snapshot()).unwrap_or_else(|_| Self::empty())
    }

    /// Takes in all that another state of the same document has, and says what changed, and which fragment the other lacks, if any. Commutative documents
    /// only: it is how they come together after they were apart. By default the other takes this one's place.
    ///
    /// # Errors
    /// [`Conflict`]: the other one makes no sense here; nothing has changed.
    fn merge(&mut self, other: Self) -> Result<Merged<Self>, Conflict> {
        *self = other;
        Ok(Merged { change: None, lacking: None })
    }
}

/// What came of [`Document::merge`].
#[derive(Debug)]
pub struct Merged<D: Document> {
    /// What changed here; `None` for nothing, or everything.
    pub change: Option<D::Change>,
    /// What the other one lacks.
    pub lacking: Option<D::Fragment>,
}

/// A fragment does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Conflict(String);

impl Conflict {
    /// For this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Bytes are no fragment, or no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    /// For this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Who changed a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Author {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// A random number that tells the replicas of a document apart: each opening has one, and may come to have another.
    pub replica: u64,
    /// Whether it was changed here.
    pub local: bool,
    /// The change's place in the order, of several updates the last one's; `None` for a change of our own, which is shown before it has one.
    pub position: Option<Position>,
}

/// What happens to an open document.
pub enum DocumentEvent<D: Document> {
    /// The document is there.
    Opened,
    /// It was changed: by an update, or by several of the same author that came one behind the other.
    Changed {
        /// By whom.
        by: Author,
        /// What changed, in order.
        changes: Vec<D::Change>,
    },
    /// It is another one than before in a way that no list of changes tells: own changes were done over on top of others', or it was asked for anew after
    /// a loss. Read it.
    Replaced,
    /// An own update did not apply any more when its turn came, and has no effect. It is not tried again. It may have been refused while this node was not there.
    Refused {
        /// What it was.
        fragments: Vec<D::Fragment>,
        /// Why it does not apply.
        conflict: Conflict,
    },
    /// All own updates have their places.
    Synced,
    /// What others have told of themselves has changed: see [`DocumentHandle::presence`].
    Presence,
    /// This many events were missed: they were not read in time. Read the document.
    Missed(u64),
    /// The document is of no use any more, here; others are not concerned.
    Failed(DocumentError),
}

impl<D: Document> Clone for DocumentEvent<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Opened => Self::Opened,
            Self::Changed { by, changes } => Self::Changed { by: *by, changes: changes.clone() },
            Self::Replaced => Self::Replaced,
            Self::Refused { fragments, conflict } => {
                Self::Refused { fragments: fragments.clone(), conflict: conflict.clone() }
            }
            Self::Synced => Self::Synced,
            Self::Presence => Self::Presence,
            Self::Missed(count) => Self::Missed(*count),
            Self::Failed(error) => Self::Failed(error.clone()),
        }
    }
}

impl<D: Document> fmt::Debug for DocumentEvent<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened => f.write_str("Opened"),
            Self::Changed { by, changes } => {
                f.debug_struct("Changed").field("by", by).field("changes", &changes.len()).finish()
            }
            Self::Replaced => f.write_str("Replaced"),
            Self::Refused { fragments, conflict } => f
                .debug_struct("Refused")
                .field("fragments", &fragments.len())
                .field("conflict", conflict)
                .finish(),
            Self::Synced => f.write_str("Synced"),
            Self::Presence => f.write_str("Presence"),
            Self::Missed(count) => f.debug_tuple("Missed").field(count).finish(),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

/// Why a document cannot be had, or is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Nobody answers who has it: no node of the cluster keeps documents, or the one that does cannot be reached. That is another thing than an empty document.
    #[error("{}", unavailable(name))]
    Unavailable {
        /// The document's name; empty where a [list](list()) of documents was asked for.
        name: String,
    },
    /// The host does not let this endpoint have it.
    #[error("the document {name:?} was refused: {reason}")]
    Refused {
        /// The document's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// It is of another type.
    #[error("the document {name:?} is of type {found:?}, not {expected:?}")]
    Kind {
        /// The document's name.
        name: String,
        /// The type it was opened as.
        expected: &'static str,
        /// The type that it has.
        found: String,
    },
    /// What the cluster has of it makes no sense to its type.
    #[error("the document {name:?} cannot be read: {reason}")]
    Malformed {
        /// The document's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An update of a commutative document was larger than may be sent, and cannot be taken back: open it anew.
    #[error("an update of the document {name:?} has {size} bytes, more than {limit}: make smaller ones")]
    TooLarge {
        /// The document's name.
        name: String,
        /// How large it was, in bytes.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The code of its type panicked.
    #[error("the type of the document {name:?} panicked")]
    Panicked {
        /// The document's name.
        name: String,
    },
    /// No document can have this name.
    #[error("no document can be named {name:?}: a name has 1 to 200 bytes, no `/` and no control character")]
    Name {
        /// The text.
        name: String,
    },
    /// The endpoint has ended, or the document was closed.
    #[error("the document {name:?} was closed, or its endpoint has ended")]
    Closed {
        /// The document's name.
        name: String,
    },
}

fn unavailable(name: &str) -> String {
    if name.is_empty() {
        return "nobody who answers keeps documents: let the host keep them".to_owned();
    }
    format!(
        "nobody who answers has the document {name:?}: let the host keep documents, or open it with `create`"
    )
}

/// Why a document was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Too many updates wait for their places.
    #[error("{unsynced} updates of the document {name:?} wait for their places: wait for `synced`")]
    Full {
        /// The document's name.
        name: String,
        /// How many.
        unsynced: usize,
    },
    /// This endpoint may only read it.
    #[error("the document {name:?} is read-only here")]
    ReadOnly {
        /// The document's name.
        name: String,
    },
    /// The update is larger than may be sent. An ordered document is as it was before; a commutative one has [failed](DocumentError::TooLarge).
    #[error("the update of the document {name:?} has {size} bytes, more than {limit}: make smaller ones")]
    TooLarge {
        /// The document's name.
        name: String,
        /// How large it is, in bytes.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The document is of no use any more.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// What [`DocumentHandle::update`] gives its closure: the document as this node sees it, and the way to change it.
///
/// It dereferences to the document, for reading. [`push`](Self::push) applies a fragment at once; documents of this crate have methods of their own in its place.
pub struct Draft<'a, D: Document> {
    document: &'a mut D,
    parts: Vec<(D::Fragment, D::Change)>,
}

impl<'a, D: Document> Draft<'a, D> {
    #[allow(dead_code)]
    pub(crate) fn new(document: &'a mut D) -> Self {
        Self { document, parts: Vec::new() }
    }

    /// Changes a document that belongs to no node, as tests do, and gives the fragments, for others to [apply](Document::apply). When the closure fails,
    /// what it did before stays done, and the fragments are lost: then the document is of no more use.
    ///
    /// # Errors
    /// What the closure fails with.
    pub fn alone<R, E>(
        document: &'a mut D,
        change: impl FnOnce(&mut Self) -> Result<R, E>,
    ) -> Result<(R, Vec<D::Fragment>), E> {
        let mut draft = Self::new(document);
        let result = change(&mut draft)?;
        Ok((result, draft.finish().into_iter().map(|(fragment, _)| fragment).collect()))
    }

    /// Applies a fragment, and lets it go out with this update.
    ///
    /// # Errors
    /// [`Conflict`]: it does not apply; nothing has changed.
    pub fn push(&mut self, fragment: D::Fragment) -> Result<(), Conflict> {
        let change = self.document.apply(&fragment)?;
        self.parts.push((fragment, change));
        Ok(())
    }

    /// The document itself, for types of this crate that change it first and say what the fragment is afterwards: see [`record`](Self::record).
    #[allow(dead_code)]
    pub(crate) fn document(&mut self) -> &mut D {
        self.document
    }

    /// Notes a fragment that was applied.
    #[allow(dead_code)]
    pub(crate) fn record(&mut self, fragment: D::Fragment, change: D::Change) {
        self.parts.push((fragment, change));
    }

    #[allow(dead_code)]
    pub(crate) fn finish(self) -> Vec<(D::Fragment, D::Change)> {
        self.parts
    }
}

impl<D: Document> std::ops::Deref for Draft<'_, D> {
    type Target = D;

    fn deref(&self) -> &D {
        self.document
    }
}

impl<D: Document> fmt::Debug for Draft<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("kind", &D::KIND)
            .field("parts", &self.parts.len())
            .finish_non_exhaustive()
    }
}

//! What the application holds of an open document.

mod driver;
mod reader;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::endpoint::Endpoint;
use crate::error::SubscribeError;
use crate::message::Position;
use crate::sync::lock;

use super::presence::{Presence, PresenceError};
use super::wire;
use super::{Document, DocumentError, DocumentEvent, Draft, UpdateError};
use shared::Shared;

pub(super) use driver::random;

/// How a document is opened.
///
/// ```
/// use zincmq::document::DocumentOptions;
///
/// let options = DocumentOptions::new().create(true).max_unsynced(10_000, 16 << 20);
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
pub struct DocumentOptions {
    create: bool,
    max_unsynced: (usize, usize),
    max_update: usize,
    replica: Option<u64>,
}

impl Default for DocumentOptions {
    fn default() -> Self {
        Self { create: false, max_unsynced: (4_096, 8 << 20), max_update: 4 << 20, replica: None }
    }
}

impl DocumentOptions {
    /// As documents are opened by default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to begin with an empty document where nobody answers who has it. Default: no, that is [`DocumentError::Unavailable`]. Where a keeper says that
    /// there is no such document, it is empty in any case.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How many updates may wait for their places, and how many bytes they may have together: then `update` waits. Default: 4,096 and 8 MiB (guesses).
    #[must_use]
    pub fn max_unsynced(mut self, updates: usize, bytes: usize) -> Self {
        self.max_unsynced = (updates.max(1), bytes.max(1));
        self
    }

    /// The number of the replica, not 0, in place of a random one. For tests that replay what was written by others: the order of what was written at one place at once
    /// depends on it.
    #[cfg(any(test, feature = "test-utils"))]
    #[doc(hidden)]
    #[must_use]
    pub fn replica(mut self, number: u64) -> Self {
        self.replica = Some(number);
        self
    }

    /// The largest update, in bytes: below the cluster's `max_message`. Default: 4 MiB, half of that one's default.
    #[must_use]
    pub fn max_update(mut self, bytes: usize) -> Self {
        self.max_update = bytes;
        self
    }
}

/// Opens documents on an [`Endpoint`].
pub trait DocumentExt: Endpoint {
    /// Opens a document: takes its topic, asks for it, and returns when it is there. What is already open on this endpoint is shared.
    ///
    /// An endpoint built to take nothing by itself gets the documents it opens and no others. Not to be called inside a handler. Cancel safe.
    ///
    /// ```no_run
    /// # #[cfg(feature = "crdt")]
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use zincmq::document::DocumentExt;
    /// use zincmq::document::crdt::Text;
    /// use zincmq::prelude::*;
    ///
    /// let client = Client::builder().join("tcp://127.0.0.1:5555").await?;
    /// let notes = client.document::<Text>("notes").await?;
    /// notes.update(|text| text.insert(0, "Hello, ")).await??;
    /// println!("{}", notes.read(|text| text.to_string()));
    /// notes.synced().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`DocumentError`].
    fn document<D: Document>(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<DocumentHandle<D>, DocumentError>> + Send {
        self.document_with(name, DocumentOptions::default())
    }

    /// As [`document`](Self::document), with options. Those of the first opening count.
    ///
    /// # Errors
    /// [`DocumentError`].
    fn document_with<D: Document>(
        &self,
        name: &str,
        options: DocumentOptions,
    ) -> impl Future<Output = Result<DocumentHandle<D>, DocumentError>> + Send {
        let opened = open(self, name, options);
        async move {
            let handle = opened?;
            handle.open.shared.opened().await?;
            Ok(handle)
        }
    }
}

impl<E: Endpoint + ?Sized> DocumentExt for E {}

/// The documents that are open on an endpoint.
#[derive(Debug, Default)]
struct Documents(Mutex<BTreeMap<String, Weak<dyn Any + Send + Sync>>>);

fn open<D: Document, E: Endpoint + ?Sized>(
    endpoint: &E,
    name: &str,
    options: DocumentOptions,
) -> Result<DocumentHandle<D>, DocumentError> {
    if !wire::is_name(name) {
        return Err(DocumentError::Name { name: name.to_owned() });
    }
    let documents = endpoint.extensions().get_or_insert_with(Documents::default);
    let mut documents = lock(&documents.0);
    if let Some(open) = documents.get(name).and_then(Weak::upgrade) {
        let open: Arc<Open<D>> = open.downcast().map_err(|_| DocumentError::Kind {
            name: name.to_owned(),
            expected: D::KIND,
            found: "another type, as which it is open here".to_owned(),
        })?;
        if open.shared.is_usable() {
            return Ok(DocumentHandle { open });
        }
    }
    let open = Arc::new(Open { shared: driver::start(endpoint, name, &options) });
    documents.retain(|_, open| open.strong_count() > 0);
    let any: Arc<dyn Any + Send + Sync> = Arc::clone(&open) as _;
    documents.insert(name.to_owned(), Arc::downgrade(&any));
    Ok(DocumentHandle { open })
}

/// Closes the document when the last handle goes.
struct Open<D: Document> {
    shared: Arc<Shared<D>>,
}

impl<D: Document> Drop for Open<D> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// An open document. Clones are the same document; it is closed when the last one goes, or by [`close`](Self::close).
///
/// Where this node misses messages, the document is asked for again, at once; where it misses some again and again, soon after it has asked, only after a while, up to 6.4 s (a guess), so that
/// questions and answers are not what makes others miss something. Until it is there again, the document is what it was, but for own changes, and [`synced`](Self::synced) waits.
pub struct DocumentHandle<D: Document> {
    open: Arc<Open<D>>,
}

impl<D: Document> Clone for DocumentHandle<D> {
    fn clone(&self) -> Self {
        Self { open: Arc::clone(&self.open) }
    }
}

impl<D: Document> fmt::Debug for DocumentHandle<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentHandle")
            .field("name", &self.name())
            .field("kind", &D::KIND)
            .field("unsynced", &self.unsynced())
            .finish_non_exhaustive()
    }
}

impl<D: Document> DocumentHandle<D> {
    fn shared(&self) -> &Shared<D> {
        &self.open.shared
    }

    /// The document's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared().name()
    }

    /// Looks at the document as it is here: with own changes, whether they have their places or not. While `read` runs, the document stands still: be brief, and do not
    /// use the handle inside.
    pub fn read<R>(&self, read: impl FnOnce(&D) -> R) -> R {
        self.shared().read(read)
    }

    /// Changes the document, here at once, and lets the change go out to the others. All that one call does is one update. Waits while too many updates wait for
    /// their places. While `change` runs, the document stands still: be brief, and do not use the handle inside.
    ///
    /// What `change` gives is handed on as it is. An error of its own takes nothing back: what was pushed before it stays, and goes out. Check first, or put into one
    /// fragment what is to apply whole or not at all.
    ///
    /// Cancel safe: a cancelled call has changed nothing.
    ///
    /// # Errors
    /// [`UpdateError`]; nothing was changed, but for [`UpdateError::TooLarge`] of a commutative document, which has failed then.
    pub async fn update<R>(&self, change: impl FnOnce(&mut Draft<'_, D>) -> R) -> Result<R, UpdateError> {
        let mut change = Some(change);
        loop {
            self.shared().has_room().await?;
            match self.try_update(|draft| change.take().map(|change| change(draft))) {
                Ok(Some(result)) => return Ok(result),
                // Another has taken the room meanwhile; without room `change` is not called.
                Err(UpdateError::Full { .. }) | Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`update`](Self::update), without waiting.
    ///
    /// # Errors
    /// [`UpdateError::Full`] where `update` would wait; else as there.
    pub fn try_update<R>(&self, change: impl FnOnce(&mut Draft<'_, D>) -> R) -> Result<R, UpdateError> {
        self.shared().update(change)
    }

    /// What happens to the document from now on, by own changes and those of others.
    pub fn changes(&self) -> DocumentEvents<D> {
        DocumentEvents::new(self.shared().subscribe())
    }

    /// Looks at the document, as [`read`](Self::read) does, and gives [what happens to it](Self::changes) from exactly there on: for those that follow it change by change.
    pub fn watch<R>(&self, read: impl FnOnce(&D) -> R) -> (R, DocumentEvents<D>) {
        let (seen, events) = self.shared().watch(read);
        (seen, DocumentEvents::new(events))
    }

    /// How many updates of this handle have no place in the order yet.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.shared().status().unsynced
    }

    /// Waits until all own updates have their places. That says nothing of a store: see [`until_stored`](Self::until_stored). Cancel safe.
    ///
    /// # Errors
    /// [`DocumentError`]: the document is of no use any more.
    pub async fn synced(&self) -> Result<(), DocumentError> {
        self.shared().synced().await
    }

    /// Waits until a keeper at the host has said that it has the document up to this position where it survives the keeper; after [`synced`](Self::synced), up to
    /// [`position`](Self::position) all own updates are in it. Never, where the host's keeper has no store. Cancel safe.
    ///
    /// # Errors
    /// [`DocumentError`]: the document is of no use any more.
    pub async fn until_stored(&self, position: Position) -> Result<(), DocumentError> {
        self.shared().until_stored(position).await
    }

    /// Up to where the document is in order here.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.shared().position()
    }

    /// How many malformed messages came on the document's topics. They were passed over.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.shared().malformed()
    }

    /// How many answers to other endpoints were not sent: they asked faster than this one can answer, the cluster's messages are too short, or this endpoint may not send. They
    /// ask again.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        self.shared().unsent()
    }

    /// Up to where the host's keeper has said that it has the document where it survives that keeper; `None` where it has said nothing. Other keepers do not tell.
    #[must_use]
    pub fn stored(&self) -> Option<Position> {
        self.shared().status().stored
    }

    /// Tells the others something about this opening of the document: where the cursor is, a name, a colour. They see it until it is told otherwise, the document is
    /// closed, or the endpoint leaves. What is told faster than 25 times a second is passed over, but for the last. At most 4 KiB as MessagePack (a guess).
    ///
    /// # Errors
    /// [`PresenceError`]; what was told before holds.
    pub fn set_presence(&self, value: &(impl Serialize + ?Sized)) -> Result<(), PresenceError> {
        self.shared().set_presence(super::presence::encode_state(value)?);
        Ok(())
    }

    /// What the others have told. When that changes, [`changes`](Self::changes) says [`DocumentEvent::Presence`].
    #[must_use]
    pub fn presence(&self) -> Vec<Presence> {
        self.shared().presence()
    }

    /// Closes the document, here, for all clones of the handle. When this returns, all own updates are with the endpoint, which sees to their places.
    pub async fn close(self) {
        self.shared().close();
        self.shared().closed().await;
    }

    /// Lets no update of others in but the first `updates`, until it is called with a higher number, or `u64::MAX`. For tests that replay who saw what.
    #[cfg(any(test, feature = "test-utils"))]
    #[doc(hidden)]
    pub fn hold(&self, updates: u64) {
        self.shared().hold(updates);
    }

    /// Waits until so many updates of others have been let in.
    #[cfg(any(test, feature = "test-utils"))]
    #[doc(hidden)]
    pub async fn let_in(&self, updates: u64) {
        self.shared().let_in(updates).await;
    }
}

/// What happens to an open document: a [`Stream`] of [`DocumentEvent`]s. It ends when the document is closed.
pub struct DocumentEvents<D: Document>(Pin<Box<dyn Stream<Item = DocumentEvent<D>> + Send>>);

impl<D: Document> DocumentEvents<D> {
    fn new(receiver: broadcast::Receiver<DocumentEvent<D>>) -> Self {
        let stream = futures::stream::unfold(receiver, |mut receiver| async move {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(missed)) => DocumentEvent::Missed(missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((event, receiver))
        });
        // Polled again after its end, it ends again.
        Self(stream.fuse().boxed())
    }
}

impl<D: Document> fmt::Debug for DocumentEvents<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentEvents").finish_non_exhaustive()
    }
}

impl<D: Document> Stream for DocumentEvents<D> {
    type Item = DocumentEvent<D>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// What kept the document's topic from being taken.
pub(super) fn subscribe_error(name: &str, error: &SubscribeError) -> DocumentError {
    match error {
        SubscribeError::Closed => DocumentError::Closed { name: name.to_owned() },
        error => DocumentError::Refused { name: name.to_owned(), reason: error.to_string() },
    }
}

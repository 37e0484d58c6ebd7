//! Endpoints: the nodes of a cluster. A [`Host`] orders and publishes, a [`Client`] joins it; both are an [`Endpoint`].
//!
//! An endpoint is a driver task that owns a machine of `proto` and a link of `transport`, and a listener task that fans
//! messages out. What the application holds is a handle on what they share, the [`node::Node`].

mod auth;
mod batch;
mod client;
mod consumer;
mod driver;
mod event;
mod extensions;
mod handler;
mod host;
mod listener;
mod node;
mod outbound;
mod queue;
mod receipt;
mod sender;
mod stats;

pub use auth::{AllowAnonymous, Authenticator, JoinRequest, SharedToken, authenticate_fn};
pub use batch::Batch;
pub use client::{Client, ClientBuilder};
pub use consumer::{Messages, StreamOptions};
pub use event::{Event, Events, LeaveReason};
pub use extensions::Extensions;
pub use handler::{HandlerError, HandlerHandle, HandlerOptions, HandlerOutcome, MessageHandler, OrderKey};
pub use host::{Host, HostBuilder};
pub(crate) use node::{Guard, Told};
pub use outbound::Reservation;
pub use receipt::Receipt;
pub use sender::Sender;
pub use stats::{MemberLag, Stats};

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{SendError, SubscribeError};
use crate::id::EndpointId;
use crate::message::{Message, TopicError};
use crate::role::Role;

/// An endpoint that is live in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Who.
    pub id: EndpointId,
    /// What it may do.
    pub role: Role,
}

/// What was left when an endpoint shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct ShutdownReport {
    /// Messages that were accepted and never sent.
    pub unsent: usize,
    /// Messages that were sent and whose place the host had not confirmed: they may have been ordered or not.
    pub unknown: u64,
    /// On a host: members that had not said goodbye in time.
    pub members: usize,
}

/// A node of a cluster: a [`Host`] or a [`Client`].
///
/// The trait is object-safe, for code that does not care which it has. The hot path is elsewhere: [`sender`](Self::sender)
/// gives a [`Sender`] that boxes no future, [`messages`](Self::messages) a stream that offers whole batches.
///
/// Clones of a [`Host`] or [`Client`] keep the endpoint alive; senders, streams and events do not. Dropping the last clone ends it
/// without waiting: what it had not sent is lost. [`shutdown`](Self::shutdown) ends it in order. A handler that holds a clone keeps
/// its endpoint alive until it is removed: let it hold a [`Sender`] instead.
#[async_trait]
pub trait Endpoint: Send + Sync + fmt::Debug {
    /// Who this endpoint is.
    fn id(&self) -> EndpointId;

    /// What it is in its cluster.
    fn role(&self) -> Role;

    /// Sends a message, waiting for room in the send queue.
    ///
    /// When this returns, the message is in the queue and goes out in order; the [`Receipt`] tells when it has its place.
    /// Inside a handler this does not wait, since it would wait for itself. Cancel safe: a cancelled call has sent nothing.
    ///
    /// # Errors
    /// [`SendError`], with the message inside; nothing was sent.
    async fn send(&self, message: Message) -> Result<Receipt, SendError>;

    /// Sends a message if there is room in the send queue now.
    ///
    /// # Errors
    /// [`SendError`], with the message inside; nothing was sent.
    fn try_send(&self, message: Message) -> Result<Receipt, SendError>;

    /// A cloneable handle for sending, also a [`Sink`](futures::Sink).
    fn sender(&self) -> Sender;

    /// Takes topics of this prefix, too. Returns when that is in force: messages ordered from then on are delivered.
    ///
    /// An endpoint that was given no prefix at its start takes everything, by the empty prefix. To take less, subscribe to what is
    /// wanted and then `unsubscribe("")`: in this order nothing is missed. While a client is disconnected the change counts from its next session on.
    /// The proof comes with the broadcasts: do not wait for it where you read [`messages`](Self::messages), but in a task of its own.
    /// Inside a handler this is an error. Cancel safe: when cancelled, the change comes into force all the same.
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing changed.
    async fn subscribe(&self, prefix: &str) -> Result<(), SubscribeError>;

    /// Takes topics of this prefix no more, but for those that other prefixes match. A prefix that is not there is no error.
    ///
    /// Returns when that is in force. Cancel safe, as [`subscribe`](Self::subscribe).
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing changed.
    async fn unsubscribe(&self, prefix: &str) -> Result<(), SubscribeError>;

    /// All messages the endpoint receives from now on, in order. Own messages are left out, unless the endpoint was built with `echo(true)`.
    fn messages(&self) -> Messages;

    /// As [`messages`](Self::messages), of some topics alone, or with own messages.
    fn messages_with(&self, options: &StreamOptions) -> Messages;

    /// What services on top of the endpoint keep with it.
    fn extensions(&self) -> &Extensions;

    /// Lets a handler see the messages of a prefix from now on, in order. [`EndpointExt::handle`] is more convenient.
    ///
    /// What the endpoint does not subscribe to, its handlers do not see.
    ///
    /// # Errors
    /// [`TopicError`] when the prefix breaks the rules of topics.
    fn add_handler(
        &self,
        prefix: &str,
        handler: Arc<dyn MessageHandler>,
        options: HandlerOptions,
    ) -> Result<HandlerHandle, TopicError>;

    /// Who is live, as far as this endpoint knows, itself included.
    fn members(&self) -> Vec<Member>;

    /// What happens from now on, besides messages.
    fn events(&self) -> Events;

    /// What was counted so far.
    fn stats(&self) -> Stats;

    /// Ends the endpoint: sends what waits, waits until all of it has its place, says goodbye. A host first waits for its members to leave.
    ///
    /// Takes at most the time given by `shutdown_timeout` in the builder; inside a handler always that, since it waits for handlers. Cancel safe: called again, it goes on waiting. Streams end, handlers finish what they have.
    async fn shutdown(&self) -> ShutdownReport;
}

/// Conveniences for every [`Endpoint`].
pub trait EndpointExt: Endpoint {
    /// Lets a handler see the messages of a prefix from now on, one at a time, in order.
    ///
    /// A closure names its parameter's type, `Message`, and returns nothing or a `Result` whose error becomes a [`HandlerError`].
    /// What was delivered between `join` and this call the handler does not see: where that matters, read
    /// [`join_with_messages`](ClientBuilder::join_with_messages).
    ///
    /// ```no_run
    /// use zincmq::prelude::*;
    ///
    /// # async fn example(endpoint: &dyn Endpoint) -> Result<(), TopicError> {
    /// endpoint.handle("sensor.", |message: Message| async move {
    ///     println!("{}: {} bytes", message.topic(), message.payload().len());
    /// })?;
    /// endpoint.handle("sensor.", |message: Message| async move {
    ///     let celsius: f64 = message.decode()?;
    ///     println!("{celsius} degrees");
    ///     Ok::<(), HandlerError>(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Endpoint::add_handler`].
    fn handle<H: MessageHandler>(&self, prefix: &str, handler: H) -> Result<HandlerHandle, TopicError> {
        self.handle_with(prefix, handler, HandlerOptions::default())
    }

    /// As [`handle`](Self::handle), with options: a name, a queue's length, several messages at once.
    ///
    /// # Errors
    /// As [`Endpoint::add_handler`].
    fn handle_with<H: MessageHandler>(
        &self,
        prefix: &str,
        handler: H,
        options: HandlerOptions,
    ) -> Result<HandlerHandle, TopicError> {
        self.add_handler(prefix, Arc::new(handler), options)
    }
}

impl<E: Endpoint + ?Sized> EndpointExt for E {}

//! The concrete sender: no boxed future, cloneable, a sink.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Sink;

use crate::error::{ReserveError, SendError, SubscribeError};
use crate::id::EndpointId;
use crate::message::Message;
use crate::role::Role;

use super::consumer::{Messages, StreamOptions};
use super::handler::in_handler;
use super::node::{Guard, Node};
use super::outbound::Reservation;
use super::receipt::Receipt;

/// Sends messages of one endpoint. Cloning is cheap; clones share the endpoint's send queue and its order.
///
/// Also a [`Sink`] of messages, without receipts: flushing or closing it means that all were accepted into the send queue, not that
/// they have their place; it can be used on after a close.
///
/// ```no_run
/// use futures::{SinkExt, StreamExt, stream};
/// use zincmq::prelude::*;
///
/// # async fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
/// let mut sink = client.sender();
/// let mut numbers = stream::iter(0..10).map(|n| Ok(Message::new("number", n.to_string()).expect("a topic")));
/// sink.send_all(&mut numbers).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sender {
    node: Arc<Node>,
    /// What `start_send` took while there was no room.
    slot: Option<Message>,
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.node))
    }
}

impl Sender {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, slot: None }
    }

    /// The endpoint's id.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.node.id
    }

    /// What the endpoint may do.
    #[must_use]
    pub fn role(&self) -> Role {
        self.node.role()
    }

    /// The host, as far as the endpoint knows.
    pub(crate) fn host(&self) -> Option<EndpointId> {
        self.node.host()
    }

    /// As [`Endpoint::messages_with`](super::Endpoint::messages_with), for code that must not keep the endpoint alive.
    #[must_use]
    pub fn messages_with(&self, options: &StreamOptions) -> Messages {
        self.node.messages(options)
    }

    /// As [`Endpoint::subscribe`](super::Endpoint::subscribe), for code that must not keep the endpoint alive.
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing changed.
    pub async fn subscribe(&self, prefix: &str) -> Result<(), SubscribeError> {
        self.node.subscribe(prefix).await
    }

    /// As [`Endpoint::unsubscribe`](super::Endpoint::unsubscribe), for code that must not keep the endpoint alive.
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing changed.
    pub async fn unsubscribe(&self, prefix: &str) -> Result<(), SubscribeError> {
        self.node.unsubscribe(prefix).await
    }

    /// The largest message of the cluster, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.node.outbound.max_message()
    }

    /// Takes topics of these prefixes for a service on top of the endpoint, whatever its application subscribes to, until they are [released](Self::release).
    pub(crate) async fn take_up(&self, prefixes: &[String]) -> Result<(), SubscribeError> {
        self.node.take_up(prefixes).await
    }

    pub(crate) async fn release(&self, prefixes: &[String]) -> Result<(), SubscribeError> {
        self.node.release(prefixes).await
    }

    /// Of a host: lets positions from now on be of an epoch above this one, since there are positions of it that are to come before them.
    pub(crate) async fn rise_above(&self, epoch: u64) {
        self.node.rise_above(epoch).await;
    }

    /// Of a host: lets a guard tell what members may say about documents, in the place of the one before; `None`: they may say everything.
    pub(crate) async fn set_guard(&self, guard: Option<Guard>) {
        self.node.set_guard(guard).await;
    }

    /// Sends a message, waiting for room. As [`Endpoint::send`](super::Endpoint::send). Cancel safe: a cancelled call has sent nothing.
    ///
    /// # Errors
    /// [`SendError`], with the message inside; nothing was sent.
    pub async fn send(&self, message: Message) -> Result<Receipt, SendError> {
        match self.node.outbound.try_send(message) {
            Err(SendError::Full { message }) if in_handler() => Err(SendError::WouldBlock { message }),
            Err(SendError::Full { message }) => {
                let mut slot = Some(*message);
                std::future::poll_fn(|cx| self.node.outbound.poll_send(cx, &mut slot)).await
            }
            result => result,
        }
    }

    /// Sends a message if there is room now. As [`Endpoint::try_send`](super::Endpoint::try_send).
    ///
    /// # Errors
    /// [`SendError`], with the message inside; nothing was sent.
    pub fn try_send(&self, message: Message) -> Result<Receipt, SendError> {
        self.node.outbound.try_send(message)
    }

    /// Keeps room for so many messages, waiting for it: handlers that send can take room ahead this way, since inside them `send` never waits.
    ///
    /// Inside a handler this does not wait either. Cancel safe: a cancelled call keeps nothing.
    ///
    /// # Errors
    /// [`ReserveError`]; nothing is kept.
    pub async fn reserve(&self, messages: usize) -> Result<Reservation, ReserveError> {
        if in_handler() {
            return self.node.outbound.try_reserve(messages);
        }
        std::future::poll_fn(|cx| self.node.outbound.poll_reserve(cx, messages)).await
    }

    /// Keeps room for so many messages, if there is room now.
    ///
    /// # Errors
    /// [`ReserveError`]; nothing is kept.
    pub fn try_reserve(&self, messages: usize) -> Result<Reservation, ReserveError> {
        self.node.outbound.try_reserve(messages)
    }

    fn poll_slot(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.slot.is_none() {
            return Poll::Ready(Ok(()));
        }
        match self.node.outbound.poll_send(cx, &mut self.slot) {
            // As in `send`: a handler that waits for room would wait for itself.
            Poll::Pending if in_handler() => match self.slot.take() {
                Some(message) => Poll::Ready(Err(SendError::WouldBlock { message: Box::new(message) })),
                None => Poll::Pending,
            },
            result => result.map_ok(drop),
        }
    }
}

impl Sink<Message> for Sender {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_slot(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), SendError> {
        match self.node.outbound.try_send(message) {
            Err(SendError::Full { message }) => {
                self.slot = Some(*message);
                Ok(())
            }
            result => result.map(drop),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_slot(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_flush(cx)
    }
}

//! Errors, one type per operation.

use std::time::Duration;

use crate::flow::Eviction;
use crate::message::{Message, Position, TopicError};
use crate::transport::{Address, AddressError, BindError};

/// Why a message was not accepted. It comes back inside, unchanged; nothing was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The payload is over the cluster's limit.
    #[error("the payload has {} bytes, the cluster takes at most {limit}: split it, or let the host be built with a larger max_message", .message.payload().len())]
    TooLarge {
        /// The message.
        message: Box<Message>,
        /// The limit in bytes.
        limit: usize,
    },
    /// The endpoint was admitted to receive only.
    #[error("this endpoint was admitted as read-only: ask the host's authenticator for another role")]
    ReadOnly {
        /// The message.
        message: Box<Message>,
    },
    /// The endpoint has ended, or is about to.
    #[error("the endpoint is shut down")]
    Closed {
        /// The message.
        message: Box<Message>,
    },
    /// The send queue is full. Only `try_send` says so.
    #[error("the send queue is full: wait with send, or try again later")]
    Full {
        /// The message.
        message: Box<Message>,
    },
    /// The send queue is full, and `send` was called inside a handler, which must not wait: it would wait for itself.
    #[error(
        "the send queue is full, and a handler must not wait for room: hand the message to a task of its own"
    )]
    WouldBlock {
        /// The message.
        message: Box<Message>,
    },
}

impl SendError {
    /// The message that was not sent.
    #[must_use]
    pub fn into_message(self) -> Message {
        match self {
            Self::TooLarge { message, .. }
            | Self::ReadOnly { message }
            | Self::Closed { message }
            | Self::Full { message }
            | Self::WouldBlock { message } => *message,
        }
    }
}

/// Why no room was kept in the send queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// There is not so much room now, and the call was not to wait: `try_reserve`, or `reserve` inside a handler, which would wait for itself.
    #[error("the send queue has no room for so many messages now: try again later")]
    Full,
    /// There never is so much room.
    #[error(
        "the send queue holds at most {limit} messages: reserve less, or build the endpoint with a larger send_queue"
    )]
    TooMany {
        /// How many messages the queue holds.
        limit: usize,
    },
    /// The endpoint was admitted to receive only.
    #[error("this endpoint was admitted as read-only: ask the host's authenticator for another role")]
    ReadOnly,
    /// The endpoint has ended, or is about to.
    #[error("the endpoint is shut down")]
    Closed,
}

/// Why a receipt has no position to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The message was sent, and the endpoint ended, or was away for so long that the host has forgotten it, before the host's word came.
    /// The message may have been ordered or not.
    #[error("the host's word on the message never came: it may or may not have been ordered")]
    Unknown,
    /// The host does not order it, now or later: it is about a document that this endpoint [may not change](crate::document::KeeperBuilder::access), or, where it was told of
    /// itself, may not read. Nobody has seen it.
    #[error("the host does not order it: this endpoint may not say that about the document")]
    Refused,
    /// The endpoint ended before the message was sent.
    #[error("the endpoint ended before the message was sent")]
    NeverSent,
}

/// What a stream of messages says besides messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// Messages were missed: delivery goes on at `resume_at`. The stream continues.
    #[error("messages were missed: delivery resumes at {resume_at}")]
    Reset {
        /// The last position before the hole.
        after: Option<Position>,
        /// The first position after it.
        resume_at: Position,
    },
    /// Newer messages of the same topics have taken the place of this many, which the stream was too slow to see. The stream continues.
    #[error("{0} messages were replaced by newer ones of their topics")]
    Lagged(u64),
    /// The stream was too slow: more waited for it than may, or it took nothing for too long while others did. It ends; the endpoint goes on.
    #[error("the stream fell too far behind: handle messages faster, or raise the host's high-water mark")]
    Overrun,
    /// The host sent the endpoint away, or the endpoint found itself too slow, and it is not to come back. The stream ends.
    #[error("the endpoint was evicted: {0}")]
    Evicted(Eviction),
    /// The host does not admit the endpoint any more. The stream ends.
    #[error("the host refuses this endpoint: {reason}")]
    Refused {
        /// Why.
        reason: RefusalReason,
    },
}

/// Why a host does not admit an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// It is another cluster's host. It does not tell the name of its cluster.
    #[error("wrong cluster: {0}")]
    WrongCluster(String),
    /// It speaks another version of the protocol.
    #[error("wrong protocol version: {0}")]
    WrongVersion(String),
    /// Its authenticator said no.
    #[error("not authorised: {0}")]
    Unauthorized(String),
    /// Another live member has the same id.
    #[error("duplicate id: {0}")]
    DuplicateId(String),
    /// It takes no more members for now.
    #[error("no room: {0}")]
    Full(String),
    /// It is shutting down.
    #[error("shutting down: {0}")]
    Closing(String),
    /// It evicted the endpoint a moment ago.
    #[error("in quarantine: {0}")]
    Quarantined(String),
    /// It did not understand the hello.
    #[error("malformed hello: {0}")]
    Malformed(String),
}

/// Why a host could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The text is not an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Other machines could reach the address, and nothing says who may join.
    #[error(
        "{address} can be reached from other machines: set a token or an authenticator, or say allow_anonymous() if everyone may join"
    )]
    Unprotected {
        /// The address.
        address: Address,
    },
    /// The addresses of the three channels belong to different transports.
    #[error("the three channels of a host go over one transport, {control} and {other} do not")]
    MixedTransports {
        /// The control channel's address.
        control: Address,
        /// The other.
        other: Address,
    },
    /// An option is out of range.
    #[error("{option} {rule}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// The address could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// Why a client could not join. It has ended; nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The text is not an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A prefix to subscribe to breaks the rules of topics.
    #[error("invalid prefix: {0}")]
    Prefix(#[from] TopicError),
    /// An option is out of range.
    #[error("{option} {rule}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// The host said no.
    #[error("{address} refuses this endpoint: {reason}")]
    Refused {
        /// The host's address.
        address: Address,
        /// Why.
        reason: RefusalReason,
    },
    /// The host sent the endpoint away while it was joining.
    #[error("{address} evicted this endpoint: {eviction}")]
    Evicted {
        /// The host's address.
        address: Address,
        /// Why.
        eviction: Box<Eviction>,
    },
    /// No host admitted the endpoint in time.
    #[error("could not join {address} within {waited:?}: {reason}")]
    TimedOut {
        /// The host's address.
        address: Address,
        /// How long was tried.
        waited: Duration,
        /// What the last attempt met.
        reason: String,
    },
}

/// Why a subscription was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The prefix breaks the rules of topics. Nothing changed.
    #[error("invalid prefix: {0}")]
    Prefix(#[from] TopicError),
    /// There are as many prefixes as one endpoint may have. Nothing changed.
    #[error(
        "an endpoint subscribes to at most {limit} prefixes: subscribe to a shorter one that covers several"
    )]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// It was asked for inside a handler, which must not wait for the broadcast channel: it would wait for itself. Nothing changed.
    #[error("a handler must not wait for a change of subscriptions: let a task of its own ask for it")]
    WouldBlock,
    /// The endpoint has ended.
    #[error("the endpoint is shut down")]
    Closed,
}

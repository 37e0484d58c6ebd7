//! Why sockets do not do what they are asked.

use std::io;

use super::endpoint::{Endpoint, EndpointError};
use crate::zmtp::Message;

/// Why a socket could not be bound, or connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The text is no address.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The system refused.
    #[error("cannot bind {endpoint}: {source}")]
    Io {
        /// What was asked for.
        endpoint: Endpoint,
        /// What the system said.
        source: io::Error,
    },
}

/// The socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the socket is closed")]
pub struct ClosedError;

/// Why a message was not sent. It comes back inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed(Message),
    /// No peer has the identity that the first frame names; or the one that asked is gone.
    #[error("no peer of that identity is connected")]
    Unroutable(Message),
    /// It is not this side's turn: REQ has asked already, REP was asked nothing.
    #[error("it is not this socket's turn to send")]
    OutOfTurn(Message),
}

/// Why a message was not sent at once. It comes back inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// There is no peer with room for it, or the one it is for has none.
    #[error("there is no peer with room for the message")]
    Full(Message),
    /// It never will be sent.
    #[error(transparent)]
    Never(SendError),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
    /// It is not this side's turn: REQ has asked nothing.
    #[error("it is not this socket's turn to receive")]
    OutOfTurn,
    /// The peer that was asked is gone. Ask again: another may answer.
    #[error("the peer that was asked is gone")]
    PeerGone,
}

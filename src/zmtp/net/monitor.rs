//! What happens to a socket's connections.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::broadcast;

use super::endpoint::{Endpoint, PeerAddress};
use crate::zmtp::{SocketType, Violation};

/// How many events a reader may be behind before the oldest are dropped for it (a guess).
pub(super) const CAPACITY: usize = 1024;

/// Something that happened to a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MonitorEvent {
    /// It listens there.
    Listening(Endpoint),
    /// A connection was accepted; its peer has not introduced itself.
    Accepted(PeerAddress),
    /// A connection was refused, for there are too many.
    Refused {
        /// Where it came from.
        address: PeerAddress,
        /// Which limit it met.
        limit: RefusedBy,
    },
    /// A connection that was asked for is there.
    Connected(Endpoint),
    /// An attempt to connect failed; another follows.
    ConnectFailed {
        /// Where to.
        endpoint: Endpoint,
        /// What the system said.
        reason: String,
    },
    /// A peer has introduced itself: messages may be exchanged.
    Ready {
        /// Where it is.
        address: PeerAddress,
        /// Its identity; empty for none.
        identity: Bytes,
        /// Its socket's type.
        kind: SocketType,
    },
    /// A connection has ended. What its peer said before may be received after this.
    Disconnected {
        /// Where its peer was.
        address: PeerAddress,
        /// Its peer's identity, be it one that is refused; empty for none, or where it had not come to that.
        identity: Bytes,
        /// Why.
        reason: DisconnectReason,
        /// Messages that were queued for it and are lost.
        lost: usize,
    },
    /// This reader was too slow, and missed as many events.
    Lagged(u64),
}

/// Which limit a refused connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedBy {
    /// Too many connections in all.
    Connections,
    /// Too many connections from that address.
    PerAddress,
}

/// Why a connection has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer closed it.
    Closed,
    /// The system gave it up.
    Failed(String),
    /// The peer broke the protocol, or does not fit.
    Violation(Violation),
    /// A peer that is connected has the same identity: at ROUTER, or where [`Options::unique_identities`](super::Options::unique_identities) is set.
    IdentityInUse,
    /// A PAIR socket that has its peer already.
    Occupied,
    /// More waited for it than may.
    TooSlow,
    /// Its peer was not trusted yet, and its place or its memory was needed for others
    /// ([`Limits::half_open`](crate::zmtp::Limits::half_open)).
    Displaced,
    /// Its peer was not trusted yet, and did not say what the application expects at first.
    Rejected(&'static str),
    /// The application wanted it.
    Asked,
}

/// The events of a socket from the moment this was made, as a [`Stream`]. A reader more than 1,024 behind is told by [`MonitorEvent::Lagged`].
pub struct Monitor(Pin<Box<dyn Stream<Item = MonitorEvent> + Send>>);

impl Monitor {
    pub(super) fn new(receiver: broadcast::Receiver<MonitorEvent>) -> Self {
        let stream = futures::stream::unfold(receiver, |mut receiver| async move {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(missed)) => MonitorEvent::Lagged(missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((event, receiver))
        });
        Self(stream.fuse().boxed())
    }
}

impl Stream for Monitor {
    type Item = MonitorEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<MonitorEvent>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

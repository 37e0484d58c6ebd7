//! What happens to an endpoint and its cluster, besides messages.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use tokio::sync::broadcast;

use crate::error::RefusalReason;
use crate::flow::Eviction;
use crate::id::EndpointId;
use crate::message::Position;
use crate::role::Role;
use crate::transport::PeerAddress;

/// How many events a reader may be behind before the oldest are dropped for it (a guess).
pub(crate) const EVENT_CAPACITY: usize = 1024;

/// Something that happened to an endpoint or its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This client became a member, for the first time or again.
    Connected {
        /// The host.
        host: EndpointId,
        /// What this endpoint may do.
        role: Role,
        /// Delivery begins, or goes on, behind this position.
        position: Position,
    },
    /// This client lost its host, and tries to come back.
    Disconnected {
        /// What happened.
        reason: String,
    },
    /// The host admits this client no more; it has ended.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
    /// On a host: a member was too slow, or unwanted, and is gone. On a client: it was this endpoint; unless it was built with
    /// [`Rejoin::Never`](crate::Rejoin::Never), it comes back after the time named.
    Evicted {
        /// Who.
        id: EndpointId,
        /// Why, how far it was behind, and when it may come back.
        eviction: Eviction,
    },
    /// A stream or handler was too slow, and has ended; other consumers go on.
    ConsumerOverrun {
        /// The handler's name; `messages` for a stream.
        consumer: String,
    },
    /// Messages were missed; the streams of messages say so, too.
    Reset {
        /// The last position before the hole.
        after: Option<Position>,
        /// The first position after it.
        resume_at: Position,
    },
    /// Another endpoint became a member.
    MemberJoined {
        /// Who.
        id: EndpointId,
        /// What it may do.
        role: Role,
    },
    /// Another endpoint is a member no more.
    MemberLeft {
        /// Who.
        id: EndpointId,
        /// Why, as far as is known here: hosts know, clients are told [`LeaveReason::Unknown`].
        reason: LeaveReason,
    },
    /// This host did not admit an endpoint. Told at most 100 times in a second;
    /// [`Stats::refused_joins`](crate::Stats::refused_joins) counts all.
    JoinRefused {
        /// Who, by its own word; [`EndpointId::NIL`] where it did not come to that.
        id: EndpointId,
        /// Where it called from.
        address: PeerAddress,
        /// Why.
        reason: RefusalReason,
    },
    /// On a host: a member said something about a document that [`access`](crate::document::KeeperBuilder::access) does not let it say. It was not ordered, and the member was
    /// told. At most once a second for each member, and once more when it goes: together these say of all that
    /// [`Stats::refused`](crate::Stats::refused) counts.
    Forbidden {
        /// Who.
        id: EndpointId,
        /// The document's name, of the last messages; empty for the topics that no document has for itself.
        document: String,
        /// How many messages there were since the last time that this was said of it, about whatever document.
        messages: u64,
    },
    /// On a host: a subscriber that is no member took too little, and its connection was cut. What it missed is counted in
    /// [`Stats::transport_drops`](crate::Stats::transport_drops).
    SubscriberCut {
        /// Where it was.
        address: PeerAddress,
    },
    /// A handler returned an error or panicked.
    HandlerFailed {
        /// The handler's name.
        handler: String,
        /// The message it failed on.
        position: Option<Position>,
        /// What it said.
        error: String,
        /// How many messages were given up with it.
        messages: u64,
    },
    /// This reader was too slow, and missed as many events.
    Lagged(u64),
}

/// Why a member is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaveReason {
    /// It said goodbye.
    Left,
    /// Its connection was lost.
    Disconnected,
    /// It came back in a new session before the old one had ended.
    Replaced,
    /// It broke the protocol.
    Violation,
    /// It did not answer.
    Unresponsive,
    /// It was too slow, or unwanted.
    Evicted,
    /// Not known here.
    Unknown,
}

/// The events of an endpoint from the moment this was made, as a [`Stream`]. Made by [`Endpoint::events`](super::Endpoint::events).
///
/// A reader more than 1,024 events behind loses the oldest, and is told by [`Event::Lagged`].
pub struct Events(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<Event>) -> Self {
        let stream = futures::stream::unfold(receiver, |mut receiver| async move {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(missed)) => Event::Lagged(missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((event, receiver))
        });
        // Polled again after its end, it ends again.
        Self(stream.fuse().boxed())
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

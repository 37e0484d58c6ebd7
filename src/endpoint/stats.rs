//! What an endpoint counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::Lag;
use crate::id::EndpointId;
use crate::message::Position;
use crate::transport::Backlog;

/// The counters of one endpoint since its start. A snapshot: the numbers were not read at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Messages of this endpoint that the driver took from the send queue.
    pub sent: u64,
    /// Messages of this endpoint whose place in the order is known.
    pub confirmed: u64,
    /// Messages of this endpoint whose fate is unknown, because a connection was lost before the host's word came.
    pub unknown: u64,
    /// On a host: messages of the whole cluster that it ordered. On a client: messages received.
    pub received: u64,
    /// Windows published or received.
    pub windows: u64,
    /// Messages put into the queues of streams and handlers, counted once for each.
    pub delivered: u64,
    /// Messages that newer ones of their topics took the place of, in the queues of streams and handlers that were behind.
    pub conflated: u64,
    /// Streams and handlers that ended because they were too slow.
    pub overruns: u64,
    /// Messages that a handler failed on, by an error or a panic.
    pub handler_failures: u64,
    /// Windows that did not come on the broadcast channel, and were asked for. Clients only.
    pub missed_windows: u64,
    /// On a client: those of them that came. On a host: windows sent again.
    pub repaired_windows: u64,
    /// Windows that never came, because the host had them no more. Each hole was told as a reset. Clients only.
    pub lost_windows: u64,
    /// Requests for windows that were answered with a reset. Hosts only.
    pub missed_repairs: u64,
    /// Windows that came too far ahead of a gap to be kept, and were asked for like others. Clients only.
    pub set_aside: u64,
    /// Batches submitted again, after a loss. Clients only.
    pub resent_batches: u64,
    /// How often members were asked to submit again what was lost on the way. Hosts only.
    pub resends_asked: u64,
    /// On a host: members evicted. On a client: how often it was evicted, by its host or itself.
    pub evictions: u64,
    /// How often sending was slowed, because the members at the pace were behind. Hosts only.
    pub pauses: u64,
    /// How often sending was slowed for [stragglers](crate::HostBuilder::patience). Hosts only.
    pub straggler_waits: u64,
    /// Endpoints whose messages are remembered no more, after they had been away for long or to
    /// make room for newcomers. Hosts only.
    pub forgotten_origins: u64,
    /// Endpoints that were refused when they asked to join, of which
    /// [`Event::JoinRefused`](crate::Event::JoinRefused) tells at most 100 in a second. Hosts only.
    pub refused_joins: u64,
    /// Malformed messages on the control channel, dropped.
    pub malformed_control: u64,
    /// Malformed messages on the submit channel, dropped. Hosts only.
    pub malformed_submits: u64,
    /// Malformed messages on the broadcast channel, dropped. Clients only.
    pub malformed_broadcasts: u64,
    /// Submitted batches of no known session, dropped. Hosts only.
    pub unknown_sessions: u64,
    /// Submitted batches of endpoints that may only receive, dropped. Hosts only.
    pub forbidden_submits: u64,
    /// On a host: messages about documents that were not ordered, since [`access`](crate::document::KeeperBuilder::access) does not let their senders say them. On a client:
    /// messages of this endpoint of which the host said so.
    pub refused: u64,
    /// Messages or windows that came a second time, dropped.
    pub duplicates: u64,
    /// Broadcast messages that the transport dropped on full queues of subscribers, as far as it can tell. Hosts only.
    pub transport_drops: u64,
    /// Connections that were closed before their peers were authenticated: they did not speak the
    /// protocol, or gave way to others. Hosts only.
    pub rejected_connections: u64,
    /// Sessions begun: 1 after the first join. Clients only.
    pub sessions: u64,
    /// Where each member stands, as of some milliseconds ago. Hosts only.
    pub members: Vec<MemberLag>,
}

/// How far a member has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemberLag {
    /// Which.
    pub id: EndpointId,
    /// How far it is behind: what was published and it has not handled.
    pub lag: Lag,
    /// Up to where it has received everything.
    pub stored: Position,
    /// Up to where it has handled everything.
    pub handled: Position,
    /// What the transport holds for it, where the transport knows.
    pub backlog: Option<Backlog>,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// [`Stats`] while they are being counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* members: Vec::new() }
            }
        }
    };
}

counters! {
    sent, confirmed, unknown, received, windows, delivered, conflated, overruns, handler_failures,
    missed_windows, repaired_windows, lost_windows, missed_repairs, set_aside, resent_batches, resends_asked, evictions, pauses,
    straggler_waits, forgotten_origins, refused_joins,
    malformed_control, malformed_submits, malformed_broadcasts, unknown_sessions, forbidden_submits, refused, duplicates,
    transport_drops, rejected_connections, sessions,
}

/// Sets counters to what a machine or link counted.
macro_rules! set_counters {
    ($counters:expr, $($name:ident = $value:expr),* $(,)?) => {
        $($counters.$name.store($value, std::sync::atomic::Ordering::Relaxed);)*
    };
}
pub(crate) use set_counters;

//! What an endpoint counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one endpoint since its start. A snapshot: the numbers were not read at one instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    /// How often the listener had to wait for a stream or handler whose queue was full.
    pub listener_waits: u64,
    /// Messages that a handler failed on, by an error or a panic.
    pub handler_failures: u64,
    /// Windows that never came. Each hole was told as a reset.
    pub lost_windows: u64,
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
    /// Messages or windows that came a second time, dropped.
    pub duplicates: u64,
    /// Broadcast messages that the transport dropped on full queues of subscribers, as far as it can tell. Hosts only.
    pub transport_drops: u64,
    /// Sessions begun: 1 after the first join. Clients only.
    pub sessions: u64,
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
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    sent, confirmed, unknown, received, windows, delivered, listener_waits, handler_failures, lost_windows,
    malformed_control, malformed_submits, malformed_broadcasts, unknown_sessions, forbidden_submits, duplicates,
    transport_drops, sessions,
}

/// Sets counters to what a machine or link counted.
macro_rules! set_counters {
    ($counters:expr, $($name:ident = $value:expr),* $(,)?) => {
        $($counters.$name.store($value, std::sync::atomic::Ordering::Relaxed);)*
    };
}
pub(crate) use set_counters;

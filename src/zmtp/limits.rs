//! What a peer may cost.

use std::time::Duration;

/// How much of a peer is taken, at most. What goes over is refused before anything is kept of it.
///
/// ```
/// use zincmq::zmtp::Limits;
///
/// let mut limits = Limits::default();
/// limits.frame = 1 << 20;
/// assert_eq!(limits.subscriptions, 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Octets in the body of a frame. Checked against what the frame declares. Default: 16 MiB (a guess).
    pub frame: usize,
    /// Frames in a message. Default: 64 (a guess).
    pub frames: usize,
    /// Octets in all frames of a message together. Default: 64 MiB (a guess).
    pub message: u64,
    /// Octets of messages that are not complete, of all connections of a socket, beside 64 KiB of each. Where there are more, the message that began first is given up with its
    /// connection; a single one is never. Default: 256 MiB (a guess).
    pub unfinished: usize,
    /// For how long a message, or a command, may stay incomplete while less than 4 KiB come. As long as the connection is not read it does not count.
    /// Default: 60 s (a guess: 68 octets a second are slower than any link).
    pub message_time: Duration,
    /// Octets in a command; READY may have 2 KiB of properties. Default: 4 KiB (a guess).
    pub command: usize,
    /// From the connection's beginning to the peer's READY. Default: 5 s (a guess; libzmq takes 30 s).
    pub handshake: Duration,
    /// Prefixes a peer subscribes to. Default: 1,024 (a guess).
    pub subscriptions: usize,
    /// Octets in all of them together. Default: 128 KiB (a guess: as many prefixes of 128 as are allowed).
    pub subscription_bytes: usize,
    /// Octets in a prefix. Default: 4 KiB (a guess: what a command has).
    pub prefix: usize,
    /// Connections of one socket whose peers have not finished the handshake. Above that, the oldest
    /// connection of the address (IPv6: the /64 network) that has most of them is closed with
    /// [`DisconnectReason::Displaced`](super::DisconnectReason). Default: 256 (a guess).
    pub half_open: usize,
    /// How many subscriptions a peer may make and cancel in a second, after as many at once as
    /// [`subscriptions`](Self::subscriptions) allows. A connection above that rate is not read for as
    /// long. `None` for any number. Default: `None`.
    pub subscription_rate: Option<u32>,
    /// Connections of one socket in all. Default: 65,536 (a guess).
    pub connections: usize,
    /// Connections from one address (IPv6: one /64 network); `None` for any number. Never counts for loopback and Unix sockets. Default: `None`.
    pub per_address: Option<usize>,
    /// Connections accepted in a second, by each socket; further ones wait in the system's queue. `None` for any number, 0 counts as 1.
    /// Default: `None`.
    pub accept_rate: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame: 16 << 20,
            frames: 64,
            message: 64 << 20,
            unfinished: 256 << 20,
            message_time: Duration::from_secs(60),
            command: 4 << 10,
            handshake: Duration::from_secs(5),
            subscriptions: 1_024,
            subscription_bytes: 128 << 10,
            prefix: 4 << 10,
            half_open: 256,
            subscription_rate: None,
            connections: 65_536,
            per_address: None,
            accept_rate: None,
        }
    }
}

/// How dead peers are found: by asking for signs of life (RFC 37).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// How often to ask; below 1 ms counts as that.
    pub interval: Duration,
    /// How long the peer may be silent after that. It does not count as long as the system takes nothing more for the peer, which may not have got the question: one
    /// that is gone then is found by [`Options::stalled`](super::Options::stalled).
    pub timeout: Duration,
    /// After how long of silence the peer may take us for dead; what is above 65.5 s counts as that, since libzmq cannot count further. Zero for never.
    pub ttl: Duration,
}

impl Heartbeat {
    /// The TTL as PING has it, in tenths of a second.
    pub(super) fn wire_ttl(&self) -> u16 {
        /// Above it libzmq 4.3 counts wrong: it multiplies in 16 bits.
        const MOST: u128 = 655;
        (self.ttl.as_millis() / 100).min(MOST) as u16
    }
}

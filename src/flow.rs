//! Flow control in words: how far a member may fall behind, how far it is, and what becomes of one that is too far.

use std::fmt;
use std::time::Duration;

use crate::id::SessionToken;
use crate::message::Position;

/// How far a member may fall behind the order before it is a slow one: in messages, in bytes and in time, whichever is met first.
///
/// The ring from which lost windows are repaired covers at least as much. A host holds, for each member, up to this much in
/// its transport's queues; a member holds up to this much in each of its consumers' queues. Whoever is behind by the very last window
/// alone is within the mark in messages and bytes, however large that window is.
///
/// Whoever sends much at once fills windows of up to 1,024 messages, and a healthy member is one or two of them behind while it handles them. Marks below some
/// 10,000 messages (a guess) therefore evict healthy members in bursts, and [`grace`](Self::grace) does not keep a member whose own queues are full.
///
/// ```
/// use std::time::Duration;
/// use zincmq::HighWaterMark;
///
/// let mark = HighWaterMark::new().messages(100_000).bytes(16 << 20).age(Duration::from_secs(2));
/// assert_eq!(mark.grace, Duration::ZERO);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HighWaterMark {
    /// Messages ordered and not handled. Default: 1,000,000 (design of the protocol; ZeroMQ's guide leaves the number to its reader).
    pub messages: u64,
    /// Bytes of the windows they are in, as published, and 128 for each window. Default: 64 MiB (likewise).
    pub bytes: u64,
    /// Since when the oldest of them has been published. Default: 5 s (likewise).
    pub age: Duration,
    /// How long a member may be past its mark before it goes. Default: none.
    pub grace: Duration,
}

impl HighWaterMark {
    /// 1,000,000 messages, 64 MiB, 5 s, no grace.
    #[must_use]
    pub const fn new() -> Self {
        Self { messages: 1_000_000, bytes: 64 << 20, age: Duration::from_secs(5), grace: Duration::ZERO }
    }

    /// With this many messages, at least 1.
    #[must_use]
    pub const fn messages(mut self, messages: u64) -> Self {
        self.messages = messages;
        self
    }

    /// With this many bytes, at least 1.
    #[must_use]
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// With this age: 1 ms to 49 days.
    #[must_use]
    pub const fn age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }

    /// With this grace.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Which of the three a lag is past, if any.
    pub(crate) fn exceeded_by(&self, lag: &Lag) -> Option<EvictReason> {
        if lag.messages > self.messages {
            Some(EvictReason::Messages)
        } else if lag.bytes > self.bytes {
            Some(EvictReason::Bytes)
        } else if lag.age > self.age {
            Some(EvictReason::Age)
        } else {
            None
        }
    }

    /// How much of the mark a lag is, by the measure that is worst: 1.0 is at the mark.
    pub(crate) fn share(&self, lag: &Lag) -> f64 {
        let messages = lag.messages as f64 / self.messages.max(1) as f64;
        let bytes = lag.bytes as f64 / self.bytes.max(1) as f64;
        let age = lag.age.as_secs_f64() / self.age.as_secs_f64().max(1e-9);
        messages.max(bytes).max(age)
    }
}

impl Default for HighWaterMark {
    fn default() -> Self {
        Self::new()
    }
}

/// What a host does about members that are slower than the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SlowPolicy {
    /// The median member sets the pace, with some [patience](crate::HostBuilder::patience) for those a little slower; one that falls past its [`HighWaterMark`]
    /// while the others have not is evicted.
    #[default]
    Evict,
    /// The slowest member sets the pace: senders wait for it, within the mark. One that stands still for the mark's age goes all the same.
    Block,
    /// As `Evict`; and on topics of these prefixes a consumer that falls behind keeps the newest message of each topic, and is told
    /// how many it missed ([`RecvError::Lagged`](crate::RecvError::Lagged)).
    DropOldest {
        /// Prefixes of the topics of which only the newest message counts. The empty one stands for all, but never for what documents say.
        conflatable: Vec<String>,
    },
}

/// What a client does after an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Rejoin {
    /// It comes back when its host lets it, and goes on where it was, or after a [reset](crate::RecvError::Reset) where too much was missed.
    #[default]
    Auto,
    /// It ends: its streams with [`RecvError::Evicted`](crate::RecvError::Evicted).
    Never,
}

/// How far a member is behind the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Lag {
    /// Messages that were ordered and that it has not handled.
    pub messages: u64,
    /// The bytes of their windows.
    pub bytes: u64,
    /// Since when the oldest of them has been published.
    pub age: Duration,
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages, {} bytes, {:.1?}", self.messages, self.bytes, self.age)
    }
}

/// Why a member was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum EvictReason {
    /// It was too many messages behind.
    Messages = 1,
    /// It was too many bytes behind.
    Bytes = 2,
    /// Its oldest unhandled message was too old.
    Age = 3,
    /// It had messages to handle, and handled none for the mark's age.
    Stalled = 4,
    /// Nothing was heard from it for the lease.
    Silent = 5,
    /// The host's application wanted it.
    Kicked = 6,
    /// It evicted itself: all its consumers had overrun.
    Overrun = 7,
}

impl EvictReason {
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Messages,
            2 => Self::Bytes,
            3 => Self::Age,
            4 => Self::Stalled,
            5 => Self::Silent,
            6 => Self::Kicked,
            7 => Self::Overrun,
            _ => return None,
        })
    }

    /// One word for it, as in the command line's events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Stalled => "stalled",
            Self::Silent => "silent",
            Self::Kicked => "kicked",
            Self::Overrun => "overrun",
        }
    }
}

impl fmt::Display for EvictReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of a member that was too slow, or that was sent away: why, how far it was, and when it may come back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Eviction {
    /// Why.
    pub reason: EvictReason,
    /// How far it was behind then.
    pub lag: Lag,
    /// Up to where it had handled, by its last word.
    pub position: Position,
    /// After how long it may join again.
    pub retry_after: Duration,
    /// What the host's application said when it [kicked](crate::Host::kick) the member; else empty.
    pub text: String,
    /// What continues the session in the next hello.
    pub(crate) resume: Option<SessionToken>,
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} behind, handled up to {}", self.reason, self.lag, self.position)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

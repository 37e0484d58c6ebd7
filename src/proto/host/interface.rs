//! What goes into a host and what comes out of it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::flow::{Eviction, HighWaterMark, Lag};
use crate::id::{EndpointId, PeerId, SessionToken};
use crate::message::Position;
use crate::role::Role;
use crate::wire::{CloseReason, EncodedWindow, Ordered, RefusalCode};

use super::super::LogLimit;

use super::rights::{Rights, Stamp};

/// What a host is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) id: EndpointId,
    pub(crate) cluster: String,
    /// A random number that tells this life of the host from all others; not 0.
    pub(crate) incarnation: u64,
    /// The epoch to open: the Unix time in milliseconds where there is no memory of an earlier one.
    pub(crate) epoch: u64,
    /// The origin_seq of the first batch of the host's own.
    pub(crate) first_origin_seq: u64,
    pub(crate) max_message: usize,
    pub(crate) max_members: usize,
    pub(crate) authentication: AuthLimits,
    /// How long the verdict on a hello may take, and how long a peer may take from there to its
    /// membership.
    pub(crate) handshake_timeout: Duration,
    pub(crate) marks: HighWaterMark,
    /// Which member sets the pace: the share of members, in percent, that are at least as fast. 0 is the fastest, 50 the median, 100 the slowest.
    pub(crate) pace_percentile: u8,
    /// For how long at a stretch those at the pace wait for members that are behind, and move. Zero for not at all.
    pub(crate) patience: Duration,
    /// Prefixes of topics of which consumers that fall behind keep the newest message.
    pub(crate) conflatable: Vec<String>,
    /// How much is kept to repair from: at least the marks.
    pub(crate) log: LogLimit,
    /// How often the order's end is told on the broadcast channel.
    pub(crate) heartbeat: Duration,
    /// After how long without a word a member counts as dead.
    pub(crate) lease: Duration,
    /// How long what a member sent is remembered once it has no session.
    pub(crate) origin_ttl: Duration,
    /// Of how many endpoints that is remembered.
    pub(crate) max_origins: usize,
    /// How long an evicted member stays away: at first, and at most. It doubles each time.
    pub(crate) quarantine: (Duration, Duration),
    /// How many bytes of repairs a member gets at once, and in each second (a token bucket).
    pub(crate) repair_rate: RepairRate,
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) mutant: Option<crate::proto::Mutant>,
    /// Where children find the other channels, as the join answer names them.
    pub(crate) broadcast: String,
    pub(crate) submit: String,
}

/// How many hellos may be without a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AuthLimits {
    /// Over all: those the authenticator has, and those that wait for it.
    pub(crate) pending: usize,
    /// Those of one source that the authenticator has at once; at least 1. A source is an IPv4
    /// address, an IPv6 /64, or everything without an address.
    pub(crate) running_per_source: usize,
}

/// One question to the authenticator. The host counts them, so a peer cannot choose or repeat one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AuthQuery(pub(super) u64);

/// A token bucket of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RepairRate {
    pub(crate) burst: u64,
    pub(crate) per_second: u64,
}

/// What happens to a host.
#[derive(Debug)]
pub(crate) enum Input {
    /// A message on the control channel, its frames as they came, and where the connection comes
    /// from, if it has an address.
    Control { peer: PeerId, address: Option<SocketAddr>, frames: Vec<Bytes> },
    /// A control connection closed.
    ControlClosed { peer: PeerId },
    /// A session's broadcast connection closed.
    BroadcastClosed { session: SessionToken },
    /// The authenticator's answer to [`Output::Authenticate`]. Ignored when that question was
    /// cancelled.
    Verdict { query: AuthQuery, verdict: Verdict },
    /// A message on the submit channel, its frames as they came.
    Submit { frames: Vec<Bytes> },
    /// A batch of the host's own. Only while [`Host::takes_submits`](super::Host::takes_submits), but for what must go out before the end.
    Local { body: Bytes },
    /// All of the host's own consumers are done with all messages up to this seq; `None` when there are none. Until this is said
    /// for the first time, there are none.
    LocalHandled { seq: Option<u64> },
    /// Evict a member, for the application's reason.
    Kick { id: EndpointId, text: String },
    /// Go on in an epoch above this one, if this one has been reached: something that outlived the last host knows positions of it.
    RiseAbove { epoch: u64 },
    /// Somebody tells from now on, by [`Output::AskRights`] and [`Input::Rights`], what members may say about documents, and each answer counts for so long; or nobody does, and all
    /// may say everything.
    Guard(Option<(Stamp, Duration)>),
    /// What a member may do with a document. It need not have been asked for.
    Rights { stamp: Stamp, id: EndpointId, name: String, rights: Rights },
    /// What was told of this document, or of all, before `stamp` counts no more.
    ForgetRights { stamp: Stamp, name: Option<String> },
    /// This guard answers no more, and was not taken back: what is known goes on to count for as long as it lasts, and what is not is refused.
    Deaf { guard: u64 },
    /// Nothing more is waiting: what was ordered goes out.
    Flush,
    /// Shut down: say so to all members, and say [`Output::Drained`] when they have left.
    Drain,
}

/// Whether a peer is admitted.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// As this, under a fresh token from the operating system's generator.
    Admit { role: Role, session: SessionToken },
    /// Not, for this reason.
    Refuse { reason: String },
}

/// What a host wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Publish on lane `W`, and deliver to the host's own consumers. `is_own` when all its messages are the host's own.
    Window { window: EncodedWindow, is_own: bool },
    /// Publish on another lane.
    Broadcast { lane: Bytes, body: Bytes },
    /// Send on the control channel.
    Control { peer: PeerId, frame: Bytes },
    /// A session begins, before its token is told; or is over, so that its token is worth nothing any more.
    Session { peer: PeerId, session: SessionToken, is_open: bool },
    /// Cut the broadcast connection of a session; its control connection stays for the last word.
    CutBroadcast { session: SessionToken },
    /// Cut a peer's connections.
    Disconnect { peer: PeerId, session: Option<SessionToken> },
    /// Ask the authenticator, and answer with [`Input::Verdict`].
    Authenticate { query: AuthQuery, address: Option<SocketAddr>, id: EndpointId, token: Bytes },
    /// The answer to this question is of no use any more.
    CancelAuthentication { query: AuthQuery },
    /// Find out what a member may do with a document, and answer with [`Input::Rights`].
    AskRights { guard: u64, id: EndpointId, name: String },
    /// Messages of the host's own have their places.
    Ordered(Ordered),
    /// Something the application may want to know.
    Event(Event),
    /// After [`Input::Drain`]: no member is left.
    Drained,
}

/// What the application may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Joined {
        id: EndpointId,
        role: Role,
    },
    Left {
        id: EndpointId,
        reason: LeaveReason,
    },
    /// It was too slow, or unwanted; also told as `Left`.
    Evicted {
        id: EndpointId,
        eviction: Eviction,
    },
    /// So many messages since this was last told were not ordered, since their sender may not say them; the first of the last ones is about this document.
    Forbidden {
        id: EndpointId,
        document: String,
        messages: u64,
    },
    Refused {
        /// Where the hello came from.
        address: Option<SocketAddr>,
        id: EndpointId,
        code: RefusalCode,
        reason: String,
    },
}

/// Why a member is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaveReason {
    /// It said goodbye.
    Left,
    /// Its connection closed.
    Disconnected,
    /// The host ended the session.
    Closed(CloseReason),
    /// The host evicted it.
    Evicted,
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemberLag {
    pub(crate) id: EndpointId,
    pub(crate) session: SessionToken,
    pub(crate) lag: Lag,
    pub(crate) stored: Position,
    pub(crate) handled: Position,
}

/// What a host counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) windows: u64,
    pub(crate) ordered: u64,
    pub(crate) malformed_control: u64,
    pub(crate) malformed_submits: u64,
    pub(crate) unknown_sessions: u64,
    pub(crate) forbidden_submits: u64,
    /// Messages about documents that their senders may not say.
    pub(crate) refused: u64,
    pub(crate) duplicates: u64,
    /// Windows sent again.
    pub(crate) repaired_windows: u64,
    /// Requests for windows that the log had no more.
    pub(crate) missed_repairs: u64,
    /// Requests to members to send again what was lost on the submit channel.
    pub(crate) resends_asked: u64,
    pub(crate) evictions: u64,
    /// How often the pace was slowed: because the pack was behind, and for stragglers.
    pub(crate) pauses: u64,
    pub(crate) straggler_waits: u64,
    pub(crate) forgotten_origins: u64,
}

//! What goes into a member and what comes out of it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::flow::Eviction;
use crate::id::{EndpointId, SessionToken};
use crate::message::{Message, Position};
use crate::role::Role;
use crate::wire::{MemberEntry, Ordered, RefusalCode, Terms};

pub(crate) use super::super::Reached;
pub(crate) use super::outbox::Limit;

/// What a member is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) id: EndpointId,
    pub(crate) cluster: String,
    pub(crate) token: Bytes,
    /// What to take at first; the empty prefix takes everything.
    pub(crate) prefixes: BTreeSet<String>,
    /// How much may be in the outbox: submitted and without a place.
    pub(crate) outbox: Limit,
    /// The origin_seq to begin with where the host knows of no earlier one.
    pub(crate) first_origin_seq: u64,
    /// Whether to come back after an eviction.
    pub(crate) rejoin: bool,
    /// How long the origins seen under an earlier incarnation of the host are remembered, to know their messages again.
    pub(crate) origin_ttl: Duration,
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) mutant: Option<crate::proto::Mutant>,
    /// How long the parent may take for each step from hello to barrier.
    pub(crate) handshake_timeout: Duration,
    /// How long the first join may take in all.
    pub(crate) join_timeout: Duration,
    /// The pause before another attempt: at first, and at most. It doubles, and is jittered down by up to half.
    pub(crate) backoff: (Duration, Duration),
    /// Seeds jitter and nonces.
    pub(crate) seed: u64,
}

/// What happens to a member.
#[derive(Debug)]
pub(crate) enum Input {
    /// Begin: the first thing ever.
    Start,
    /// The control channel is connected.
    Connected,
    /// It could not be.
    DialFailed { reason: String },
    /// After [`Output::Attach`]: broadcast and submit channels are connected.
    Attached,
    /// They could not be.
    AttachFailed { reason: String },
    /// The control connection was lost; all that came by it was told before. The link is of no more use.
    Lost { reason: String },
    /// The broadcast or the submit connection was lost. The control connection may have a word to say about it: the member says
    /// [`Output::Hangup`] when it has heard it, or has waited long enough.
    LostChannel { reason: String },
    /// A message on the control channel, its frames as they came.
    Control { frames: Vec<Bytes> },
    /// A message on the broadcast channel, its frames as they came.
    Broadcast { frames: Vec<Bytes> },
    /// A batch of the application's. Only while [`Member::can_submit`](super::Member::can_submit).
    Submit { first_origin_seq: u64, count: u16, body: Bytes },
    /// All consumers are done with all messages up to here; without consumers, what was delivered. Any time, and often.
    Handled { up_to: Reached },
    /// All consumers have overrun their queues: the endpoint evicts itself.
    Overrun,
    /// Take these prefixes from now on. [`Output::Subscribed`] with the ticket says when that is in force.
    Subscribe { prefixes: BTreeSet<String>, ticket: u64 },
    /// Go, once everything submitted has its place.
    Leave,
}

/// What a member wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Connect the control channel, and say [`Input::Connected`] or [`Input::DialFailed`].
    Dial,
    /// Drop the link with all its connections.
    Hangup,
    /// Send on the control channel.
    Control { frame: Bytes },
    /// Connect the other channels, named as in the join answer.
    Attach { broadcast: String, submit: String, session: SessionToken },
    /// Subscribe to broadcast messages whose first frame begins so.
    AddLane { prefix: String },
    /// Take that back.
    RemoveLane { prefix: String },
    /// Send on the submit channel.
    Submit { head: Bytes, body: Bytes },
    /// Messages in order, for the application: all that it takes up to this position. There may be none.
    Deliver { messages: Vec<Message>, up_to: Reached },
    /// Messages of the application's have their places.
    Ordered(Ordered),
    /// The fate of the application's messages up to this origin_seq, as far as they have no place, is unknown.
    Unknown { up_to: u64 },
    /// The subscription of this ticket, and all before it, are in force.
    Subscribed { ticket: u64 },
    /// Something the application may want to know.
    Event(Event),
    /// The machine has come to its end.
    Ended(End),
}

/// What the application may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The endpoint is a member. In this session delivery began, or went on, behind `position`. The first time, the next message submitted is
    /// to bear `next_origin_seq`.
    Joined(Joined),
    /// Delivery jumps: what lay between was not received. `after` is the last position known before the hole.
    Reset { after: Option<Position>, resume_at: Position },
    /// The session is over; the member tries to come back.
    Disconnected { reason: String },
    /// The session is over: the endpoint was too slow, or unwanted. It tries to come back if it is to.
    Evicted(Eviction),
    /// Others came and went.
    Membership { joined: Vec<MemberEntry>, left: Vec<EndpointId> },
}

/// The beginning of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) host: EndpointId,
    pub(crate) role: Role,
    pub(crate) max_message: usize,
    pub(crate) position: Position,
    pub(crate) next_origin_seq: u64,
    pub(crate) terms: Terms,
    pub(crate) members: Vec<MemberEntry>,
}

/// How a member ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// As asked.
    Left,
    /// The parent does not admit it.
    Refused { code: RefusalCode, reason: String },
    /// The parent sent it away, or it found itself too slow, and it is not to come back.
    Evicted(Eviction),
    /// The first join took too long.
    TimedOut { reason: String },
}

/// What a member counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) windows: u64,
    pub(crate) received: u64,
    pub(crate) malformed_broadcasts: u64,
    pub(crate) malformed_control: u64,
    pub(crate) duplicates: u64,
    /// Windows that did not come on the broadcast channel and had to be asked for.
    pub(crate) missed_windows: u64,
    /// Those of them that came.
    pub(crate) repaired_windows: u64,
    /// Those of them that the host had no more: each run of them was told as a reset.
    pub(crate) lost_windows: u64,
    /// Windows that came too far ahead of a gap to be kept: they are asked for like others.
    pub(crate) set_aside: u64,
    /// Batches submitted again.
    pub(crate) resent_batches: u64,
    pub(crate) evictions: u64,
    pub(crate) sessions: u64,
}

//! What goes into a member and what comes out of it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::id::{EndpointId, SessionToken};
use crate::message::{Message, Position};
use crate::role::Role;
use crate::wire::{MemberEntry, Ordered, RefusalCode};

pub(crate) use super::in_flight::Limit;

/// What a member is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) id: EndpointId,
    pub(crate) cluster: String,
    pub(crate) token: Bytes,
    /// What to take at first; the empty prefix takes everything.
    pub(crate) prefixes: BTreeSet<String>,
    /// How much may be under way, submitted and without a place.
    pub(crate) in_flight: Limit,
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
    /// One of the three connections was lost.
    Lost { reason: String },
    /// A message on the control channel, its frames as they came.
    Control { frames: Vec<Bytes> },
    /// A message on the broadcast channel, its frames as they came.
    Broadcast { frames: Vec<Bytes> },
    /// A batch of the application's. Only while [`Member::can_submit`].
    Submit { first_origin_seq: u64, count: u16, body: Bytes },
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
    /// Messages in order, for the application.
    Deliver { messages: Vec<Message> },
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
    /// The endpoint is a member. Delivery began behind `position`.
    Joined { host: EndpointId, role: Role, max_message: usize, position: Position, members: Vec<MemberEntry> },
    /// Delivery jumps: what lay between was not received. `after` is the last position known before the hole.
    Reset { after: Option<Position>, resume_at: Position },
    /// The session is over; the member tries to come back.
    Disconnected { reason: String },
    /// Others came and went.
    Membership { joined: Vec<MemberEntry>, left: Vec<EndpointId> },
}

/// How a member ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// As asked.
    Left,
    /// The parent does not admit it.
    Refused { code: RefusalCode, reason: String },
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
    /// Windows that never came.
    pub(crate) lost_windows: u64,
    pub(crate) sessions: u64,
}

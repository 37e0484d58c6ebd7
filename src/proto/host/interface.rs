//! What goes into a host and what comes out of it.

use std::time::Duration;

use bytes::Bytes;

use crate::id::{EndpointId, PeerId, SessionToken};
use crate::role::Role;
use crate::wire::{CloseReason, Ordered, RefusalCode};

/// What a host is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) id: EndpointId,
    pub(crate) cluster: String,
    /// The epoch to open: the Unix time in milliseconds where there is no memory of an earlier one.
    pub(crate) epoch: u64,
    pub(crate) max_message: usize,
    pub(crate) max_members: usize,
    /// How many peers may be under examination at once.
    pub(crate) max_handshakes: usize,
    /// How long a peer may take from its hello to its membership.
    pub(crate) handshake_timeout: Duration,
    /// Where children find the other channels, as the join answer names them.
    pub(crate) broadcast: String,
    pub(crate) submit: String,
}

/// What happens to a host.
#[derive(Debug)]
pub(crate) enum Input {
    /// A message on the control channel, its frames as they came.
    Control { peer: PeerId, frames: Vec<Bytes> },
    /// A control connection closed.
    ControlClosed { peer: PeerId },
    /// A session's broadcast connection closed.
    BroadcastClosed { session: SessionToken },
    /// The authenticator's answer to [`Output::Authenticate`].
    Verdict { peer: PeerId, verdict: Verdict },
    /// A message on the submit channel, its frames as they came.
    Submit { frames: Vec<Bytes> },
    /// A batch of the host's own.
    Local { body: Bytes },
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
    /// Publish on lane `W`, and deliver to the host's own consumers. `foreign` when it holds messages of others than the host.
    Window { body: Bytes, foreign: bool },
    /// Publish on another lane.
    Broadcast { lane: Bytes, body: Bytes },
    /// Send on the control channel.
    Control { peer: PeerId, frame: Bytes },
    /// Cut a peer's connections.
    Disconnect { peer: PeerId, session: Option<SessionToken> },
    /// Ask the authenticator, and answer with [`Input::Verdict`].
    Authenticate { peer: PeerId, id: EndpointId, token: Bytes },
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
    Joined { id: EndpointId, role: Role },
    Left { id: EndpointId, reason: LeaveReason },
    Refused { peer: PeerId, id: EndpointId, code: RefusalCode, reason: String },
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
    pub(crate) duplicates: u64,
}

//! Connections: ordered within one, in any interleaving between them, and cut with a random end of what was in them.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::id::{PeerId, SessionToken};

use super::dice::Nanos;

/// One direction of one of the connections between a member and a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pipe {
    ControlUp,
    ControlDown,
    /// Subscriptions.
    BroadcastUp,
    BroadcastDown,
    SubmitUp,
}

impl Pipe {
    pub(super) const ALL: [Self; 5] =
        [Self::ControlUp, Self::ControlDown, Self::BroadcastUp, Self::BroadcastDown, Self::SubmitUp];

    /// Whether it leads to the host.
    pub(super) fn is_up(self) -> bool {
        !matches!(self, Self::ControlDown | Self::BroadcastDown)
    }
}

/// What travels.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Frames(Vec<Bytes>),
    Subscribe(String),
    Unsubscribe(String),
    /// The other end has closed the connection.
    Closed,
}

#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) items: VecDeque<Item>,
    /// When the last of them arrives.
    pub(super) last_at: Nanos,
    /// Nothing goes in any more.
    pub(super) closed: bool,
}

/// The three connections of one attempt of a member to be one.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) member: usize,
    /// Which life of the host it belongs to.
    pub(super) host_life: u32,
    pub(super) peer: PeerId,
    pub(super) session: Option<SessionToken>,
    /// What the host knows to be subscribed to.
    pub(super) subscriptions: BTreeSet<String>,
    lines: [Line; 5],
    /// Whatever goes in comes out nowhere, and nobody is told.
    pub(super) black_hole: bool,
}

impl Link {
    pub(super) fn new(member: usize, host_life: u32, peer: PeerId) -> Self {
        Self {
            member,
            host_life,
            peer,
            session: None,
            subscriptions: BTreeSet::new(),
            lines: Default::default(),
            black_hole: false,
        }
    }

    pub(super) fn line(&mut self, pipe: Pipe) -> &mut Line {
        &mut self.lines[pipe as usize]
    }
}

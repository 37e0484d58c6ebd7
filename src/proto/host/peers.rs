//! The control connections, and until when each may stay as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::id::{PeerId, SessionToken};
use crate::wire::Hello;

use super::super::Instant;
use super::interface::AuthQuery;

/// What is known of a control connection.
#[derive(Debug)]
pub(super) enum Peer {
    /// It said hello, and has no verdict yet.
    Authenticating { query: AuthQuery, address: Option<SocketAddr>, hello: Hello },
    /// It has a session.
    Admitted { session: SessionToken },
    /// It was told to go, and its session, if it had one, is over.
    Closing { session: Option<SessionToken> },
}

/// The control connections that have said something of use. One deadline each, which goes with the
/// connection.
#[derive(Debug, Default)]
pub(super) struct Peers {
    table: BTreeMap<PeerId, (Peer, Option<Instant>)>,
    deadlines: BTreeSet<(Instant, PeerId)>,
}

impl Peers {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty() && self.deadlines.is_empty()
    }

    pub(super) fn get(&self, id: &PeerId) -> Option<&Peer> {
        self.table.get(id).map(|(peer, _)| peer)
    }

    /// The peer is this from now on, and is to be looked at again at `deadline`.
    pub(super) fn set(&mut self, id: PeerId, peer: Peer, deadline: Instant) {
        self.remove(&id);
        self.deadlines.insert((deadline, id.clone()));
        self.table.insert(id, (peer, Some(deadline)));
    }

    pub(super) fn remove(&mut self, id: &PeerId) -> Option<Peer> {
        let (peer, deadline) = self.table.remove(id)?;
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, id.clone()));
        }
        Some(peer)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A peer whose deadline has come. It has none any more.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<PeerId> {
        self.next_deadline().filter(|deadline| *deadline <= now)?;
        let (_, id) = self.deadlines.pop_first()?;
        if let Some((_, deadline)) = self.table.get_mut(&id) {
            *deadline = None;
        }
        Some(id)
    }
}

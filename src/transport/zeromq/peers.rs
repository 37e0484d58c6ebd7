//! What the ROUTER's monitor has told of its connections. No IO.

use std::collections::{HashMap, VecDeque};

use crate::transport::{PeerAddress, PeerId};

/// How many closed connections are remembered: enough for what can be under way between the crate's tasks and ours.
const CLOSED_KEPT: usize = 1_024;

/// How many connections are remembered. Open ones are bounded by the process's file descriptors; this bounds what is left
/// of those whose closing the monitor dropped. One too many has no address.
const KNOWN_KEPT: usize = 65_536;

/// The open control connections.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: HashMap<PeerId, Known>,
    /// The last that closed, and whether that came before the news of their acceptance.
    closed: VecDeque<(PeerId, bool)>,
}

#[derive(Debug)]
struct Known {
    address: PeerAddress,
    accepted: bool,
    heard: bool,
}

impl Peers {
    /// The peer was accepted from `address`.
    pub(super) fn accepted(&mut self, peer: PeerId, address: PeerAddress) {
        if self.forget_closed(&peer) == Some(true) {
            return;
        }
        if let Some(known) = self.known.get_mut(&peer) {
            known.address = address;
            known.accepted = true;
        } else if self.known.len() < KNOWN_KEPT {
            self.known.insert(peer, Known { address, accepted: true, heard: false });
        }
    }

    /// The peer's connection closed; whether the layer above has heard of the peer.
    pub(super) fn closed(&mut self, peer: &PeerId) -> bool {
        let known = self.known.remove(peer);
        self.forget_closed(peer);
        if self.closed.len() == CLOSED_KEPT {
            self.closed.pop_front();
        }
        let early = known.as_ref().is_none_or(|known| !known.accepted);
        self.closed.push_back((peer.clone(), early));
        known.is_some_and(|known| known.heard)
    }

    /// A message came from the peer: its address, if it is known.
    pub(super) fn heard(&mut self, peer: &PeerId) -> Option<PeerAddress> {
        let known = self.known.get_mut(peer)?;
        known.heard = true;
        Some(known.address.clone())
    }

    /// A message came from the peer, and its address is not waited for any longer.
    pub(super) fn heard_from_unknown(&mut self, peer: &PeerId) {
        let known = Known { address: PeerAddress::Unknown, accepted: false, heard: true };
        self.known.insert(peer.clone(), known);
    }

    /// Whether the peer closed lately and was not accepted again.
    pub(super) fn is_closed(&self, peer: &PeerId) -> bool {
        self.closed.iter().any(|(closed, _)| closed == peer)
    }

    fn forget_closed(&mut self, peer: &PeerId) -> Option<bool> {
        let index = self.closed.iter().position(|(closed, _)| closed == peer)?;
        self.closed.remove(index).map(|(_, early)| early)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &'static str) -> PeerId {
        PeerId::new(name.into())
    }

    #[test]
    fn closing_is_told_of_those_that_were_heard() {
        let mut peers = Peers::default();
        peers.accepted(peer("mute"), PeerAddress::Ipc);
        assert!(!peers.closed(&peer("mute")));
        peers.accepted(peer("loud"), PeerAddress::Ipc);
        assert_eq!(peers.heard(&peer("loud")), Some(PeerAddress::Ipc));
        assert!(peers.closed(&peer("loud")));
        assert!(!peers.closed(&peer("loud")), "once");
    }

    #[test]
    fn a_connection_that_closes_before_its_acceptance_is_told_leaves_nothing() {
        let mut peers = Peers::default();
        assert!(!peers.closed(&peer("hasty")));
        peers.accepted(peer("hasty"), PeerAddress::Ipc);
        assert!(peers.known.is_empty() && peers.closed.is_empty());

        peers.heard_from_unknown(&peer("hasty"));
        assert!(peers.closed(&peer("hasty")));
        peers.accepted(peer("hasty"), PeerAddress::Ipc);
        assert!(peers.known.is_empty() && peers.closed.is_empty());
    }

    #[test]
    fn an_identity_that_comes_again_is_open_again() {
        let mut peers = Peers::default();
        peers.accepted(peer("again"), PeerAddress::Ipc);
        peers.closed(&peer("again"));
        assert!(peers.is_closed(&peer("again")));
        peers.accepted(peer("again"), PeerAddress::Ipc);
        assert!(!peers.is_closed(&peer("again")));
        assert_eq!(peers.heard(&peer("again")), Some(PeerAddress::Ipc));
    }

    #[test]
    fn what_is_remembered_of_closed_connections_is_bounded() {
        let mut peers = Peers::default();
        for n in 0..3 * CLOSED_KEPT {
            peers.closed(&PeerId::new(n.to_be_bytes().to_vec().into()));
        }
        assert_eq!(peers.closed.len(), CLOSED_KEPT);
    }
}

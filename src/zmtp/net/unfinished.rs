//! Messages that have begun to come and are not complete, of all connections of a socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::hub::Peer;
use super::monitor::DisconnectReason;
use crate::sync::lock;
use crate::zmtp::Violation;

/// What a connection may hold of such a message before it counts here: no more than what is read at once.
pub(super) const FREE: usize = 64 * 1024;

/// What they hold together is bounded. Where it is more, the message that began first is given up, with its connection: those of honest peers are soon complete, and
/// who holds others' room for long is to lose it.
#[derive(Debug)]
pub(super) struct Unfinished {
    state: Mutex<State>,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they began.
    held: BTreeMap<u64, (Arc<Peer>, usize)>,
    bytes: usize,
    next: u64,
}

/// A connection's place among them, if it has one.
#[derive(Debug, Default)]
pub(super) struct Ticket(Option<u64>);

impl Unfinished {
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), limit }
    }

    fn reason(&self) -> DisconnectReason {
        DisconnectReason::Violation(Violation::Unfinished { limit: self.limit })
    }

    /// A connection holds so many octets of a message that is not complete.
    pub(super) fn hold(
        &self,
        ticket: &mut Ticket,
        peer: &Arc<Peer>,
        bytes: usize,
    ) -> Result<(), DisconnectReason> {
        if bytes <= FREE {
            self.release(ticket);
            return Ok(());
        }
        let mut state = lock(&self.state);
        let State { held, bytes: all, next } = &mut *state;
        match ticket.0.map(|number| held.get_mut(&number)) {
            Some(Some((_, known))) => {
                *all = *all - *known + bytes;
                *known = bytes;
            }
            // It was given up.
            Some(None) => return Err(self.reason()),
            None => {
                ticket.0 = Some(*next);
                held.insert(*next, (Arc::clone(peer), bytes));
                *next += 1;
                *all += bytes;
            }
        }
        // A single one is bounded by itself.
        while *all > self.limit && held.len() > 1 {
            let Some((number, (first, bytes))) = held.pop_first() else { break };
            *all -= bytes;
            if Some(number) == ticket.0 {
                return Err(self.reason());
            }
            first.queue.end(self.reason());
        }
        Ok(())
    }

    /// The message is complete, or its connection is gone.
    pub(super) fn release(&self, ticket: &mut Ticket) {
        let Some(number) = ticket.0.take() else { return };
        let mut state = lock(&self.state);
        if let Some((_, bytes)) = state.held.remove(&number) {
            state.bytes -= bytes;
        }
    }

    /// How many octets are held.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::hub::Hub;
    use super::super::{Options, PeerAddress};
    use super::*;
    use crate::zmtp::SocketType;

    #[test]
    fn what_is_held_together_is_bounded_and_who_began_first_gives_way() {
        let hub = Hub::new(SocketType::Pull, Options::default(), false);
        let unfinished = Unfinished::new(10 * FREE);
        let mut all: Vec<_> =
            (0..8).map(|_| (hub.admit(PeerAddress::Ipc, false).unwrap(), Ticket::default())).collect();
        for (peer, ticket) in &mut all {
            unfinished.hold(ticket, peer, FREE).unwrap();
            assert_eq!(unfinished.bytes(), 0, "so much is free");
        }
        for (peer, ticket) in &mut all {
            unfinished.hold(ticket, peer, 3 * FREE).unwrap();
            assert!(unfinished.bytes() <= 10 * FREE);
        }
        let ended: Vec<bool> = all.iter().map(|(peer, _)| peer.queue.ended().is_some()).collect();
        assert_eq!(ended, [true, true, true, true, true, false, false, false]);
        let (peer, ticket) = &mut all[0];
        assert!(unfinished.hold(ticket, peer, 4 * FREE).is_err(), "it was given up");
        unfinished.release(ticket);
        // It grows, and is the first of those that are left.
        let (peer, ticket) = &mut all[5];
        assert!(unfinished.hold(ticket, peer, 6 * FREE).is_err());
        all.iter_mut().for_each(|(_, ticket)| unfinished.release(ticket));
        assert_eq!(unfinished.bytes(), 0);
        let (peer, ticket) = &mut all[7];
        unfinished.hold(ticket, peer, 20 * FREE).unwrap();
    }
}

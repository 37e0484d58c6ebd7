//! How many connections a socket has, and whether there may be one more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use super::endpoint::PeerAddress;
use super::monitor::RefusedBy;
use crate::sync::lock;
use crate::zmtp::Limits;

/// Those that are asked for by this side are not counted by address, nor as half open.
#[derive(Debug, Default)]
pub(super) struct Census(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    all: usize,
    half_open: usize,
    by_address: BTreeMap<IpAddr, Share>,
}

/// Those from one address.
#[derive(Debug, Default)]
struct Share {
    all: usize,
    half_open: usize,
}

/// By which address a connection is counted, if it is.
fn counted_by(address: &PeerAddress, is_ours: bool) -> Option<IpAddr> {
    match address {
        PeerAddress::Tcp(tcp) if !is_ours && !address.is_local() => Some(tcp.ip().to_canonical()),
        _ => None,
    }
}

impl Census {
    /// Counts a connection in, or says which limit it meets.
    pub(super) fn admit(
        &self,
        limits: &Limits,
        address: &PeerAddress,
        is_ours: bool,
    ) -> Result<(), RefusedBy> {
        let mut census = lock(&self.0);
        if census.all >= limits.connections {
            return Err(RefusedBy::Connections);
        }
        if !is_ours && census.half_open >= limits.half_open {
            return Err(RefusedBy::HalfOpen);
        }
        if let Some(address) = counted_by(address, is_ours) {
            let share = census.by_address.get(&address);
            if share.is_some_and(|share| limits.per_address.is_some_and(|most| share.all >= most)) {
                return Err(RefusedBy::PerAddress);
            }
            if share.is_some_and(|share| share.half_open >= limits.half_open_per_address) {
                return Err(RefusedBy::HalfOpen);
            }
            let share = census.by_address.entry(address).or_default();
            share.all += 1;
            share.half_open += 1;
        }
        census.all += 1;
        census.half_open += usize::from(!is_ours);
        Ok(())
    }

    /// The handshake is over, well or not.
    pub(super) fn on_introduced(&self, address: &PeerAddress, is_ours: bool) {
        let mut census = lock(&self.0);
        census.half_open -= usize::from(!is_ours);
        if let Some(address) = counted_by(address, is_ours)
            && let Some(share) = census.by_address.get_mut(&address)
        {
            share.half_open -= 1;
        }
    }

    /// Frees the place of a connection. Its handshake is over.
    pub(super) fn leave(&self, address: &PeerAddress, is_ours: bool) {
        let mut census = lock(&self.0);
        census.all -= 1;
        if let Some(address) = counted_by(address, is_ours)
            && let Some(share) = census.by_address.get_mut(&address)
        {
            share.all -= 1;
            if share.all == 0 {
                census.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_the_room_of_all() {
        let limits = Limits { per_address: Some(100), ..Limits::default() };
        let census = Census::default();
        let from = |host| PeerAddress::Tcp((std::net::Ipv4Addr::new(192, 0, 2, host), 1).into());
        let admit = |host| census.admit(&limits, &from(host), false);
        (0..64).for_each(|_| admit(1).unwrap());
        assert_eq!(admit(1), Err(RefusedBy::HalfOpen));
        admit(2).unwrap();
        // Those that have introduced themselves are no strangers.
        (0..64).for_each(|_| census.on_introduced(&from(1), false));
        (0..36).for_each(|_| admit(1).unwrap());
        (0..36).for_each(|_| census.on_introduced(&from(1), false));
        assert_eq!(admit(1), Err(RefusedBy::PerAddress));
        (0..100).for_each(|_| census.leave(&from(1), false));
        assert!(admit(1).is_ok());
        assert_eq!(lock(&census.0).by_address.len(), 2);
    }
}

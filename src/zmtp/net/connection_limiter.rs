//! How many connections a socket has in all, and from each address.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::endpoint::PeerAddress;
use super::monitor::RefusedBy;
use crate::source::Source;
use crate::sync::lock;
use crate::zmtp::Limits;

/// Counts the connections of one socket. Connections that this side dialled are not counted by
/// address.
#[derive(Debug, Default)]
pub(super) struct ConnectionLimiter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    all: usize,
    by_source: BTreeMap<Source, usize>,
}

/// The source a connection is counted under; `None` for one that has no limit by address.
fn counted_source(address: &PeerAddress, is_ours: bool) -> Option<Source> {
    (!is_ours && !address.is_local()).then(|| address.source())
}

impl ConnectionLimiter {
    /// Counts a connection, or names the limit that refuses it.
    pub(super) fn admit(
        &self,
        limits: &Limits,
        address: &PeerAddress,
        is_ours: bool,
    ) -> Result<(), RefusedBy> {
        if lock(&self.0).all >= limits.connections {
            return Err(RefusedBy::Connections);
        }
        self.admit_above(limits, address, is_ours)
    }

    /// Counts a connection though the socket may have all it takes, for another one is about to end.
    pub(super) fn admit_above(
        &self,
        limits: &Limits,
        address: &PeerAddress,
        is_ours: bool,
    ) -> Result<(), RefusedBy> {
        let mut state = lock(&self.0);
        if let Some(source) = counted_source(address, is_ours) {
            let count = state.by_source.get(&source).copied().unwrap_or_default();
            if limits.per_address.is_some_and(|most| count >= most) {
                return Err(RefusedBy::PerAddress);
            }
            state.by_source.insert(source, count + 1);
        }
        state.all += 1;
        Ok(())
    }

    /// Frees the place of a connection that has ended.
    pub(super) fn leave(&self, address: &PeerAddress, is_ours: bool) {
        let mut state = lock(&self.0);
        state.all -= 1;
        if let Some(source) = counted_source(address, is_ours)
            && let Some(count) = state.by_source.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
                state.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_connections_by_address_and_in_all() {
        let limits = Limits { per_address: Some(100), connections: 101, ..Limits::default() };
        let limiter = ConnectionLimiter::default();
        let from = |host| PeerAddress::Tcp((std::net::Ipv4Addr::new(192, 0, 2, host), 1).into());
        let admit = |host| limiter.admit(&limits, &from(host), false);
        (0..100).for_each(|_| admit(1).unwrap());
        assert_eq!(admit(1), Err(RefusedBy::PerAddress));
        admit(2).unwrap();
        assert_eq!(admit(3), Err(RefusedBy::Connections));
        (0..100).for_each(|_| limiter.leave(&from(1), false));
        assert!(admit(1).is_ok());
        assert_eq!(lock(&limiter.0).by_source.len(), 2);
    }
}

//! Hellos that have no verdict yet: those the authenticator has, and those that wait for it.
//!
//! The number of pending hellos is bounded. When it is reached, the source with the most of them
//! gives way to a source with fewer. The authenticator has a bounded number of hellos of each
//! source at once, so a source with slow verdicts delays nobody else, and a crowd behind one
//! address waits instead of being refused.

use std::collections::{BTreeMap, VecDeque};

use crate::id::PeerId;
use crate::source::Source;

use super::interface::{AuthLimits, AuthQuery};

/// Whether another hello can become pending.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// If this one gives way.
    Taken(AuthQuery),
    None,
}

/// A hello that is pending no more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) peer: PeerId,
    /// Whether the authenticator had it.
    pub(super) was_running: bool,
    /// The hello that goes to the authenticator in its place.
    pub(super) next: Option<AuthQuery>,
}

/// The pending hellos, each under a query number of its own.
#[derive(Debug)]
pub(super) struct Authentications {
    limits: AuthLimits,
    last_query: u64,
    pending: BTreeMap<AuthQuery, (PeerId, Source)>,
    /// The queries of each source, oldest first. The authenticator has the first ones, as many as
    /// the limit allows.
    by_source: BTreeMap<Source, VecDeque<AuthQuery>>,
}

impl Authentications {
    pub(super) fn new(limits: AuthLimits) -> Self {
        Self { limits, last_query: 0, pending: BTreeMap::new(), by_source: BTreeMap::new() }
    }

    /// Whether a hello of this source can become pending. The newest hello of the largest share
    /// gives way, if that share is still at least as large afterwards as the newcomer's.
    pub(super) fn room_for(&self, source: Source) -> Room {
        if self.pending.len() < self.limits.pending {
            return Room::Free;
        }
        let share = self.by_source.get(&source).map_or(0, VecDeque::len);
        let largest = self.by_source.values().max_by_key(|queries| queries.len());
        match largest.filter(|largest| largest.len() > share + 1).and_then(|largest| largest.back()) {
            Some(newest) => Room::Taken(*newest),
            None => Room::None,
        }
    }

    /// Makes a hello pending, for which there is room. Returns its query, and whether it goes to
    /// the authenticator at once.
    pub(super) fn begin(&mut self, peer: PeerId, source: Source) -> (AuthQuery, bool) {
        debug_assert!(self.pending.len() < self.limits.pending);
        self.last_query += 1;
        let query = AuthQuery(self.last_query);
        self.pending.insert(query, (peer, source));
        let queries = self.by_source.entry(source).or_default();
        queries.push_back(query);
        (query, queries.len() <= self.limits.running_per_source)
    }

    /// Ends what is pending under this query; `None` if nothing is.
    pub(super) fn end(&mut self, query: AuthQuery) -> Option<Ended> {
        let (peer, source) = self.pending.remove(&query)?;
        let running = self.limits.running_per_source;
        let queries = self.by_source.get_mut(&source)?;
        let index = queries.iter().position(|other| *other == query)?;
        queries.remove(index);
        let was_running = index < running;
        let next = if was_running { queries.get(running - 1).copied() } else { None };
        if queries.is_empty() {
            self.by_source.remove(&source);
        }
        Some(Ended { peer, was_running, next })
    }

    /// Whose hello is pending under this query.
    pub(super) fn peer(&self, query: AuthQuery) -> Option<&PeerId> {
        self.pending.get(&query).map(|(peer, _)| peer)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;

    use super::*;

    const LIMITS: AuthLimits = AuthLimits { pending: 6, running_per_source: 2 };

    fn peer(n: u8) -> PeerId {
        PeerId::new(Bytes::copy_from_slice(&[n]))
    }

    fn source(n: u8) -> Source {
        Source::of(Some(SocketAddr::from(([10, 0, 0, n], 1_000))))
    }

    #[test]
    fn a_source_waits_for_its_own_hellos_alone() {
        let mut table = Authentications::new(LIMITS);
        let (first, _) = table.begin(peer(1), source(1));
        let (second, runs) = table.begin(peer(2), source(1));
        assert!(runs);
        let (third, runs) = table.begin(peer(3), source(1));
        assert!(!runs, "two of its hellos are with the authenticator");
        let (_, runs) = table.begin(peer(4), source(2));
        assert!(runs);
        assert_eq!(table.end(second), Some(Ended { peer: peer(2), was_running: true, next: Some(third) }));
        assert_eq!(table.end(second), None, "once");
        assert_eq!(table.end(first), Some(Ended { peer: peer(1), was_running: true, next: None }));
        assert_eq!(table.peer(third), Some(&peer(3)));
    }

    #[test]
    fn the_newest_of_the_largest_share_gives_way_to_a_smaller_one() {
        let mut table = Authentications::new(LIMITS);
        let queries: Vec<AuthQuery> = (0..6).map(|n| table.begin(peer(n), source(1)).0).collect();
        assert_eq!(table.room_for(source(1)), Room::None, "its own share is the largest");
        for n in 2..=3 {
            let newest = queries[7 - usize::from(n)];
            assert_eq!(table.room_for(source(n)), Room::Taken(newest));
            let ended = table.end(newest).unwrap();
            assert_eq!((ended.was_running, ended.next), (false, None));
            table.begin(peer(10 + n), source(n));
        }
        // Four, one and one: a second one of the smaller shares still finds room, a third does not.
        assert_eq!(table.room_for(source(2)), Room::Taken(queries[3]));
        table.end(queries[3]);
        table.begin(peer(20), source(2));
        assert_eq!(table.room_for(source(2)), Room::None);
    }
}

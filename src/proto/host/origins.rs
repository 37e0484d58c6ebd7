//! What the host knows of those who sent: up to where their messages are ordered. It outlives their sessions, so that nothing is
//! ordered twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::EndpointId;
use crate::wire::Ordered;

use super::super::Instant;
use super::fates::Fates;

/// One origin.
#[derive(Debug)]
pub(super) struct Origin {
    /// The last origin_seq that was ordered, or never will be.
    pub(super) last: u64,
    /// What became of its last messages, as far as it may not know yet.
    pub(super) fates: Fates,
    /// When it is forgotten, if it has no session.
    expires: Option<Instant>,
}

impl Origin {
    /// It is known what becomes of its next messages.
    pub(super) fn push(&mut self, run: Ordered) {
        self.last = run.last_origin_seq();
        self.fates.push(run);
    }
}

/// The table of origins. Bounded: a full one takes no new origin.
#[derive(Debug)]
pub(super) struct Origins {
    table: BTreeMap<EndpointId, Origin>,
    /// Those without a session, by the moment they are forgotten.
    expiring: BTreeSet<(Instant, EndpointId)>,
    max: usize,
    ttl: Duration,
}

impl Origins {
    pub(super) fn new(max: usize, ttl: Duration) -> Self {
        Self { table: BTreeMap::new(), expiring: BTreeSet::new(), max, ttl }
    }

    #[cfg(any(test, feature = "test-utils"))]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn get_mut(&mut self, id: &EndpointId) -> Option<&mut Origin> {
        self.table.get_mut(id)
    }

    /// Whether there is room for this origin, or it is there.
    pub(super) fn has_room_for(&self, id: &EndpointId) -> bool {
        self.table.len() < self.max || self.table.contains_key(id)
    }

    /// The origin has a session now. A new one begins behind `last`.
    pub(super) fn begin(&mut self, id: EndpointId, last: u64) -> &mut Origin {
        let fresh = || Origin { last, fates: Fates::default(), expires: None };
        let origin = self.table.entry(id).or_insert_with(fresh);
        if let Some(at) = origin.expires.take() {
            self.expiring.remove(&(at, id));
        }
        origin
    }

    /// The origin's session is over.
    pub(super) fn end(&mut self, now: Instant, id: EndpointId) {
        if let Some(origin) = self.table.get_mut(&id) {
            let at = now + self.ttl;
            if let Some(old) = origin.expires.replace(at) {
                self.expiring.remove(&(old, id));
            }
            self.expiring.insert((at, id));
        }
    }

    /// Forgets those whose time has come; how many that were.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut forgotten = 0;
        while let Some((_, id)) = self.expiring.first().copied().filter(|(at, _)| *at <= now) {
            self.expiring.pop_first();
            self.table.remove(&id);
            forgotten += 1;
        }
        forgotten
    }
}

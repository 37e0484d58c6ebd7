//! What the host knows of those who sent: up to where their messages are ordered. It outlives their sessions, so that nothing is
//! ordered twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::id::EndpointId;
use crate::wire::Ordered;

use super::super::Instant;

/// How many runs of places are remembered per origin: more than a member has batches under way.
const MAX_RUNS: usize = 1024;

/// One origin.
#[derive(Debug)]
pub(super) struct Origin {
    /// The last origin_seq that was ordered, or never will be.
    pub(super) last: u64,
    /// Where its last messages stand, as far as it may not know yet.
    runs: VecDeque<Ordered>,
    /// When it is forgotten, if it has no session.
    expires: Option<Instant>,
}

impl Origin {
    /// Messages got their places.
    pub(super) fn push(&mut self, run: Ordered) {
        self.last = run.last_origin_seq();
        if !self.runs.back_mut().is_some_and(|last| last.extend(&run)) {
            if self.runs.len() == MAX_RUNS {
                self.runs.pop_front();
            }
            self.runs.push_back(run);
        }
    }

    /// The origin knows of the places up to here.
    pub(super) fn confirm(&mut self, up_to: u64) {
        while self.runs.front().is_some_and(|run| run.last_origin_seq() <= up_to) {
            self.runs.pop_front();
        }
    }

    /// The places of its messages from this one on, as far as they are remembered.
    pub(super) fn places_from(&self, origin_seq: u64) -> Vec<Ordered> {
        self.runs.iter().filter(|run| run.last_origin_seq() >= origin_seq).copied().collect()
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
        let fresh = || Origin { last, runs: VecDeque::new(), expires: None };
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

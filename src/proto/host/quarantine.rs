//! Who was evicted, and for how long it is to stay away.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::EndpointId;

use super::super::Instant;

#[derive(Debug)]
struct Entry {
    until: Instant,
    /// How long this stay is.
    pause: Duration,
}

/// The evicted. Each comes back after a pause that doubles from one eviction to the next, and is forgiven once it has kept out of trouble for
/// as long as the longest pause.
#[derive(Debug)]
pub(super) struct Quarantine {
    entries: BTreeMap<EndpointId, Entry>,
    first: Duration,
    most: Duration,
    max: usize,
}

impl Quarantine {
    pub(super) fn new((first, most): (Duration, Duration), max: usize) -> Self {
        Self { entries: BTreeMap::new(), first, most, max }
    }

    /// Sends one away; for how long.
    pub(super) fn add(&mut self, now: Instant, id: EndpointId) -> Duration {
        let pause = match self.entries.get(&id) {
            Some(entry) => (entry.pause * 2).min(self.most),
            None => self.first,
        };
        if self.entries.len() >= self.max && !self.entries.contains_key(&id) {
            let soonest = self.entries.iter().min_by_key(|(_, entry)| entry.until).map(|(id, _)| *id);
            soonest.map(|id| self.entries.remove(&id));
        }
        self.entries.insert(id, Entry { until: now + pause, pause });
        pause
    }

    /// How long this one is still to stay away, if at all.
    pub(super) fn remaining(&self, now: Instant, id: &EndpointId) -> Option<Duration> {
        self.entries.get(id).map(|entry| entry.until.since(now)).filter(|left| !left.is_zero())
    }

    /// Forgives those who have kept out of trouble.
    pub(super) fn forgive(&mut self, now: Instant) {
        let most = self.most;
        self.entries.retain(|_, entry| entry.until + most > now);
    }
}

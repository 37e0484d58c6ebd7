//! Up to where the messages of each origin have been seen.

use std::collections::BTreeMap;

use crate::id::EndpointId;

/// How many origins are remembered in each of the two halves (a guess: as many as a host remembers by default).
const MAX_ORIGINS: usize = 100_000;

/// The last origin_seq seen of each origin. Bounded: when one half is full it becomes the old half, and what was the old half is
/// forgotten, so that those seen lately stay.
#[derive(Debug, Default)]
pub(super) struct Seen {
    young: BTreeMap<EndpointId, u64>,
    old: BTreeMap<EndpointId, u64>,
}

impl Seen {
    pub(super) fn note(&mut self, origin: EndpointId, origin_seq: u64) {
        if let Some(last) = self.young.get_mut(&origin) {
            *last = origin_seq.max(*last);
            return;
        }
        if self.young.len() == MAX_ORIGINS {
            self.old = std::mem::take(&mut self.young);
        }
        let last = origin_seq.max(self.last(&origin));
        self.young.insert(origin, last);
    }

    /// The last origin_seq seen of this origin; 0 for none.
    pub(super) fn last(&self, origin: &EndpointId) -> u64 {
        self.young.get(origin).or_else(|| self.old.get(origin)).copied().unwrap_or(0)
    }

    /// Takes in what another has seen.
    pub(super) fn merge(&mut self, other: Self) {
        for (origin, last) in other.old.into_iter().chain(other.young) {
            self.note(origin, last);
        }
    }
}

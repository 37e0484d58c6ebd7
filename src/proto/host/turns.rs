//! Sessions that wait for something, one after the other: no session waits for the storm of another.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::id::SessionToken;

/// Sessions that wait, and which of them had its turn last.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: BTreeSet<SessionToken>,
    last: Option<SessionToken>,
}

impl Turns {
    pub(super) fn insert(&mut self, session: SessionToken) {
        self.waiting.insert(session);
    }

    pub(super) fn remove(&mut self, session: SessionToken) {
        self.waiting.remove(&session);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The session whose turn it is. It goes on waiting until it is [removed](Self::remove).
    pub(super) fn next(&mut self) -> Option<SessionToken> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.waiting.range((after, Bound::Unbounded)).next().or_else(|| self.waiting.first());
        self.last = next.copied();
        self.last
    }
}

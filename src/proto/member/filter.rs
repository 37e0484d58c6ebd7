//! What a member takes.

use std::collections::BTreeSet;

use crate::wire::Lane;

/// What a member takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter(pub(super) BTreeSet<String>);

impl Filter {
    pub(super) fn takes_all(&self) -> bool {
        self.0.contains("")
    }

    pub(super) fn matches(&self, topic: &str) -> bool {
        self.0.iter().any(|prefix| topic.starts_with(prefix.as_str()))
    }

    /// The subscriptions on the broadcast channel that bring it.
    pub(super) fn lanes(&self) -> BTreeSet<String> {
        if self.takes_all() {
            return BTreeSet::from([Lane::WHOLE.to_owned()]);
        }
        std::iter::once(Lane::INDEX.to_owned())
            .chain(self.0.iter().map(|prefix| Lane::topics(prefix)))
            .collect()
    }
}

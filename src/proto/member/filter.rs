//! What a member takes.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::wire::{FloorCharBoundary, Lane};

/// What a member takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter(pub(super) BTreeSet<String>);

impl Filter {
    pub(super) fn takes_all(&self) -> bool {
        self.0.contains("")
    }

    pub(super) fn matches(&self, topic: &str) -> bool {
        let mut text = topic;
        // All prefixes of the text are at or before it in the order. If the nearest there is none of them, they begin what
        // the two have in common.
        while let Some(nearest) =
            self.0.range::<str, _>((Bound::Unbounded, Bound::Included(text))).next_back()
        {
            if text.starts_with(nearest.as_str()) {
                return true;
            }
            let common = text.bytes().zip(nearest.bytes()).take_while(|(one, other)| one == other).count();
            text = &text[..text.floor_char_boundary_at(common)];
        }
        false
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Filter;

    proptest! {
        #[test]
        fn a_topic_matches_that_begins_with_a_prefix(prefixes in prop::collection::btree_set("[aäã]{0,4}", 0..8), topics in prop::collection::vec("[aäã]{1,5}", 1..20)) {
            let filter = Filter(prefixes);
            for topic in topics {
                let is_due = filter.0.iter().any(|prefix| topic.starts_with(prefix.as_str()));
                prop_assert_eq!(filter.matches(&topic), is_due);
            }
        }
    }
}

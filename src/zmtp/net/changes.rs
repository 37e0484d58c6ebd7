//! Changes of subscriptions that somebody is still to be told.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// How many changes, and octets of their prefixes, may wait before those are left out that came to nothing (guesses: more than an application makes at once).
const KEPT: (usize, usize) = (1_024, 64 * 1024);

/// What somebody was not told yet of subscriptions, in order. Where there is much of it, it is reduced to what makes up for the difference to what was told
/// last: so it is bounded by the subscriptions there are and were told, however often they change.
#[derive(Debug)]
pub(super) struct Changes {
    /// Whether a subscription has begun, or ended; for each prefix by turns.
    log: VecDeque<(bool, Bytes)>,
    /// Octets of the prefixes.
    bytes: usize,
    /// At how many changes, and octets, it is reduced.
    most: (usize, usize),
}

impl Default for Changes {
    fn default() -> Self {
        Self { log: VecDeque::new(), bytes: 0, most: KEPT }
    }
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// A subscription has begun, or ended: the opposite of the change before of the same prefix.
    pub(super) fn push(&mut self, subscribe: bool, prefix: Bytes) {
        self.bytes += prefix.len();
        self.log.push_back((subscribe, prefix));
        if self.log.len() > self.most.0 || self.bytes > self.most.1 {
            self.reduce();
            // Twice what is left, so that it is not done for each change.
            self.most = (2 * self.log.len() + KEPT.0, 2 * self.bytes + KEPT.1);
        }
    }

    /// Leaves out what came to nothing. What has ended and begun again stays: who publishes may have something for a new subscriber.
    fn reduce(&mut self) {
        let log = std::mem::take(&mut self.log);
        let mut now: BTreeMap<Bytes, bool> =
            log.iter().map(|(begun, prefix)| (prefix.clone(), *begun)).collect();
        for (begun, prefix) in log {
            // Once for each prefix: its first change is the opposite of what was told.
            let Some(is) = now.remove(&prefix) else { continue };
            if !begun {
                self.log.push_back((false, prefix.clone()));
            }
            if is {
                self.log.push_back((true, prefix));
            }
        }
        self.bytes = self.log.iter().map(|(_, prefix)| prefix.len()).sum();
    }

    /// Takes what is to be told next: whether a subscription has begun, and to which prefix.
    pub(super) fn pop(&mut self) -> Option<(bool, Bytes)> {
        let change = self.log.pop_front()?;
        self.bytes -= change.1.len();
        if self.log.is_empty() {
            *self = Self::default();
        }
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn all(changes: &mut Changes) -> Vec<(bool, Bytes)> {
        std::iter::from_fn(|| changes.pop()).collect()
    }

    #[test]
    fn what_came_to_nothing_is_left_out_and_what_began_again_is_not() {
        let mut changes = Changes::default();
        let [a, b, c] = ["a", "b", "c"].map(Bytes::from);
        let pushed = [(true, &c), (true, &a), (false, &b), (false, &a), (true, &b)];
        pushed.into_iter().for_each(|(subscribe, prefix)| changes.push(subscribe, prefix.clone()));
        changes.reduce();
        assert_eq!(all(&mut changes), [(true, c), (false, b.clone()), (true, b)]);
        assert_eq!(changes.bytes, 0);
    }

    #[test]
    fn however_often_subscriptions_change_a_bounded_number_of_changes_waits() {
        let mut changes = Changes::default();
        let prefixes = ["news", "weather"].map(Bytes::from);
        for round in 0..1_000_000 {
            // One that the other side knows of, and one that it does not.
            changes.push(round % 2 == 1, prefixes[0].clone());
            changes.push(round % 2 == 0, prefixes[1].clone());
            assert!(changes.log.len() <= 2 * 3 + KEPT.0);
        }
        changes.push(false, prefixes[0].clone());
        changes.reduce();
        assert_eq!(all(&mut changes), [(false, prefixes[0].clone())]);
        let long = Bytes::from(vec![7; KEPT.1]);
        for round in 0..10 {
            changes.push(round % 2 == 0, long.clone());
            assert!(changes.bytes <= KEPT.1);
        }
    }

    proptest! {
        #[test]
        fn who_is_told_knows_what_there_is(steps in prop::collection::vec(prop::option::weighted(0.8, 0_u8..4), 0..80), each in 1..20_usize) {
            let (mut changes, mut is, mut told) = (Changes::default(), BTreeSet::new(), BTreeSet::new());
            let tell = |told: &mut BTreeSet<Bytes>, (begun, prefix): (bool, Bytes)| {
                assert!(if begun { told.insert(prefix) } else { told.remove(&prefix) }, "a change, each time");
            };
            for (step, prefix) in steps.into_iter().enumerate() {
                match prefix {
                    Some(prefix) => {
                        let prefix = Bytes::from(vec![prefix]);
                        let subscribe = !is.remove(&prefix) && is.insert(prefix.clone());
                        changes.push(subscribe, prefix);
                    }
                    None => changes.pop().into_iter().for_each(|change| tell(&mut told, change)),
                }
                if step % each == 0 {
                    changes.reduce();
                }
            }
            all(&mut changes).into_iter().for_each(|change| tell(&mut told, change));
            prop_assert_eq!(told, is);
        }
    }
}

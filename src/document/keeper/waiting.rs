//! Names in the order in which they came.

use std::collections::BTreeMap;

/// Documents that are to be asked for: each in its turn, so that whoever makes a keeper ask for some again and again keeps it from none.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    order: BTreeMap<u64, String>,
    numbers: BTreeMap<String, u64>,
    next: u64,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.numbers.contains_key(name)
    }

    /// One that waits already keeps its turn.
    pub(super) fn insert(&mut self, name: String) {
        if !self.contains(&name) {
            self.numbers.insert(name.clone(), self.next);
            self.order.insert(self.next, name);
            self.next += 1;
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.numbers.remove(name).is_some_and(|number| self.order.remove(&number).is_some())
    }

    pub(super) fn pop_first(&mut self) -> Option<String> {
        let (_, name) = self.order.pop_first()?;
        self.numbers.remove(&name);
        Some(name)
    }
}

impl Extend<String> for Waiting {
    fn extend<I: IntoIterator<Item = String>>(&mut self, names: I) {
        names.into_iter().for_each(|name| self.insert(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_whatever_its_name() {
        let mut waiting = Waiting::default();
        waiting.extend(["m", "z", "b"].map(ToOwned::to_owned));
        waiting.insert("a".to_owned());
        waiting.insert("m".to_owned());
        assert!(waiting.remove("b") && !waiting.remove("b"));
        assert_eq!((waiting.len(), waiting.contains("z"), waiting.contains("b")), (3, true, false));
        waiting.insert("b".to_owned());
        let popped: Vec<_> = std::iter::from_fn(|| waiting.pop_first()).collect();
        assert_eq!(popped, ["m", "z", "a", "b"]);
        assert_eq!((waiting.len(), waiting.numbers.len()), (0, 0));
    }
}

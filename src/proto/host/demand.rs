//! What all sessions together ask for beyond whole windows.

use super::session::{Filter, Session};

/// The prefixes that sessions ask for, those that take everything left out.
#[derive(Debug, Default)]
pub(super) struct Demand {
    prefixes: PrefixTree,
    /// How many filters do not take everything, and so need indexes.
    filtered: usize,
}

impl Demand {
    /// Adds what a session takes, and what it is about to take.
    pub(super) fn add(&mut self, session: &Session) {
        filters(session).for_each(|filter| self.add_filter(filter));
    }

    pub(super) fn remove(&mut self, session: &Session) {
        filters(session).for_each(|filter| self.remove_filter(filter));
    }

    pub(super) fn add_filter(&mut self, filter: &Filter) {
        if !filter.takes_all() {
            self.filtered += 1;
            filter.prefixes().iter().for_each(|prefix| self.prefixes.add(prefix.as_bytes()));
        }
    }

    pub(super) fn remove_filter(&mut self, filter: &Filter) {
        if !filter.takes_all() {
            self.filtered -= 1;
            filter.prefixes().iter().for_each(|prefix| self.prefixes.remove(prefix.as_bytes()));
        }
    }

    pub(super) fn is_any(&self) -> bool {
        self.filtered > 0
    }

    /// Whether a topic is asked for by any of its prefixes.
    pub(super) fn wants(&self, topic: &str) -> bool {
        self.prefixes.has_prefix_of(topic.as_bytes())
    }
}

fn filters(session: &Session) -> impl Iterator<Item = &Filter> {
    std::iter::once(&session.filter).chain(session.proposed.as_ref().map(|(_, filter)| filter))
}

/// Prefixes, each with how often it is there. A look-up costs no more than the length of its text, whatever the prefixes
/// are, and each of them at most two nodes.
#[derive(Debug, Default)]
struct PrefixTree {
    /// The octets that lead here from the node above: none at the root alone.
    label: Box<[u8]>,
    /// How often the prefix that ends here is there. Below the root, a node where none ends has several children.
    count: usize,
    /// In the order of the first octets of their labels, which differ.
    children: Vec<PrefixTree>,
}

impl PrefixTree {
    fn find(&self, octet: u8) -> Result<usize, usize> {
        self.children.binary_search_by_key(&octet, |child| child.label[0])
    }

    fn add(&mut self, rest: &[u8]) {
        let Some(first) = rest.first() else {
            self.count += 1;
            return;
        };
        match self.find(*first) {
            Err(at) => self.children.insert(at, Self { label: rest.into(), count: 1, children: Vec::new() }),
            Ok(at) => {
                let child = &mut self.children[at];
                let common = child.label.iter().zip(rest).take_while(|(one, other)| one == other).count();
                if common < child.label.len() {
                    let label = child.label[common..].into();
                    let below = Self { label, ..std::mem::take(child) };
                    *child = Self { label: rest[..common].into(), count: 0, children: vec![below] };
                }
                child.add(&rest[common..]);
            }
        }
    }

    /// Takes one that is there away.
    fn remove(&mut self, rest: &[u8]) {
        let Some(first) = rest.first() else {
            self.count -= 1;
            return;
        };
        let Ok(at) = self.find(*first) else { return debug_assert!(false, "it was never added") };
        let child = &mut self.children[at];
        let Some(rest) = rest.strip_prefix(&*child.label) else {
            return debug_assert!(false, "it was never added");
        };
        child.remove(rest);
        if child.count > 0 {
            return;
        }
        match child.children.len() {
            0 => drop(self.children.remove(at)),
            1 => {
                let below = child.children.swap_remove(0);
                *child = Self { label: [&*child.label, &*below.label].concat().into(), ..below };
            }
            _ => {}
        }
    }

    fn has_prefix_of(&self, mut text: &[u8]) -> bool {
        let mut node = self;
        while node.count == 0 {
            let Some(child) = text.first().and_then(|octet| node.find(*octet).ok()) else { return false };
            node = &node.children[child];
            let Some(rest) = text.strip_prefix(&*node.label) else { return false };
            text = rest;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::PrefixTree;

    impl PrefixTree {
        fn nodes(&self) -> usize {
            1 + self.children.iter().map(Self::nodes).sum::<usize>()
        }
    }

    #[test]
    fn a_thousand_prefixes_of_each_other_take_a_node_each_and_leave_none() {
        let prefixes: Vec<Vec<u8>> = (1..=255).map(|length| vec![b'x'; length]).collect();
        let mut tree = PrefixTree::default();
        for prefix in prefixes.iter().rev() {
            tree.add(prefix);
        }
        assert_eq!(tree.nodes(), 256);
        assert!(tree.has_prefix_of(b"xy"));
        prefixes.iter().for_each(|prefix| tree.remove(prefix));
        assert_eq!(tree.nodes(), 1);
        assert!(!tree.has_prefix_of(b"xy"));
    }

    proptest! {
        #[test]
        fn finds_what_a_list_would(changes in prop::collection::vec((any::<bool>(), "[ab]{1,4}"), 0..60), texts in prop::collection::vec("[ab]{0,5}", 1..8)) {
            let (mut tree, mut list) = (PrefixTree::default(), Vec::<String>::new());
            for (adds, prefix) in changes {
                if adds {
                    tree.add(prefix.as_bytes());
                    list.push(prefix);
                } else if let Some(at) = list.iter().position(|other| *other == prefix) {
                    tree.remove(prefix.as_bytes());
                    list.swap_remove(at);
                }
                for text in &texts {
                    let is_due = list.iter().any(|prefix| text.starts_with(prefix.as_str()));
                    prop_assert_eq!(tree.has_prefix_of(text.as_bytes()), is_due);
                }
                list.sort();
                let mut different = list.clone();
                different.dedup();
                prop_assert!(tree.nodes() <= 1 + 2 * different.len());
            }
        }
    }
}

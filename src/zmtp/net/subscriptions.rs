//! Who subscribes to what: a trie of prefixes.

use std::collections::BTreeSet;
use std::sync::Arc;

/// A peer, by its place at the publisher.
pub(super) type Place = u32;

/// The prefixes that peers subscribe to. A prefix costs two nodes at most, however long it is: one for itself, and one where it parts from another. Finding those
/// that match a topic costs a step for each of them on its way; who that is, is worked out once for each prefix until a subscription to it, or to a shorter one
/// that it begins with, changes.
#[derive(Debug)]
pub(super) struct Subscriptions {
    nodes: Vec<Node>,
    /// Places in `nodes` that nothing leads to; the last one is never free.
    free: BTreeSet<u32>,
    /// Counts the changes.
    generation: u64,
    /// How many prefixes there are that somebody subscribes to.
    prefixes: usize,
}

/// But for the root, somebody subscribes to it, or it leads to several.
#[derive(Debug, Default)]
struct Node {
    /// The octets that lead here from the node before: at least one, but for the root.
    label: Box<[u8]>,
    /// The first octets of their labels, in order, and the nodes.
    children: Vec<(u8, u32)>,
    /// Who subscribes to exactly this prefix, in order.
    peers: Vec<Place>,
    /// When that changed last.
    changed: u64,
    /// Who subscribes to this prefix or a shorter one, in order, as of a generation. Only where somebody subscribes to this one, and at the root.
    targets: Option<(u64, Arc<[Place]>)>,
}

const ROOT: u32 = 0;

impl Default for Subscriptions {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], free: BTreeSet::new(), generation: 0, prefixes: 0 }
    }
}

impl Subscriptions {
    /// How many prefixes there are that somebody subscribes to.
    pub(super) fn prefixes(&self) -> usize {
        self.prefixes
    }

    fn at(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// The child that this octet leads to, by its index.
    fn child(&self, at: u32, octet: u8) -> Result<usize, usize> {
        self.at(at).children.binary_search_by_key(&octet, |(octet, _)| *octet)
    }

    /// The child whose label begins this text, and what of the text is left.
    fn step<'a>(&self, at: u32, text: &'a [u8]) -> Option<(u32, &'a [u8])> {
        let index = self.child(at, *text.first()?).ok()?;
        let child = self.at(at).children[index].1;
        Some((child, text.strip_prefix(&*self.at(child).label)?))
    }

    fn insert(&mut self, node: Node) -> u32 {
        match self.free.pop_first() {
            Some(free) => {
                *self.node(free) = node;
                free
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        }
    }

    /// Takes a node out that nothing leads to any more.
    fn release(&mut self, at: u32) -> Node {
        let node = std::mem::take(self.node(at));
        self.free.insert(at);
        while self.free.last().is_some_and(|last| *last as usize + 1 == self.nodes.len()) {
            self.free.pop_last();
            self.nodes.pop();
        }
        if self.nodes.capacity() / 4 > self.nodes.len() {
            self.nodes.shrink_to(self.nodes.len() * 2);
        }
        node
    }

    /// The node of exactly this prefix, which is made where there is none.
    fn reach(&mut self, mut prefix: &[u8]) -> u32 {
        let mut at = ROOT;
        while let Some(&octet) = prefix.first() {
            if let Some((child, rest)) = self.step(at, prefix) {
                (at, prefix) = (child, rest);
                continue;
            }
            match self.child(at, octet) {
                Err(index) => {
                    let leaf = self.insert(Node { label: prefix.into(), ..Node::default() });
                    self.node(at).children.insert(index, (octet, leaf));
                    return leaf;
                }
                // They part within its label: there is to be a node.
                Ok(index) => {
                    let child = self.at(at).children[index].1;
                    let label = std::mem::take(&mut self.node(child).label);
                    let common = label.iter().zip(prefix).take_while(|(one, other)| one == other).count();
                    let fork = Node {
                        label: label[..common].into(),
                        children: vec![(label[common], child)],
                        ..Node::default()
                    };
                    self.node(child).label = label[common..].into();
                    let fork = self.insert(fork);
                    self.node(at).children[index].1 = fork;
                    (at, prefix) = (fork, &prefix[common..]);
                }
            }
        }
        at
    }

    /// Adds a peer's subscription, which it does not have yet. Whether it is the first to this prefix.
    pub(super) fn add(&mut self, prefix: &[u8], peer: Place) -> bool {
        self.generation += 1;
        let generation = self.generation;
        let at = self.reach(prefix);
        let node = self.node(at);
        node.changed = generation;
        let index = node.peers.partition_point(|other| *other < peer);
        node.peers.insert(index, peer);
        let is_first = node.peers.len() == 1;
        self.prefixes += usize::from(is_first);
        is_first
    }

    /// Takes a peer's subscription away. Whether it was the last to this prefix.
    pub(super) fn remove(&mut self, prefix: &[u8], peer: Place) -> bool {
        let (mut before, mut at, mut rest) = (ROOT, ROOT, prefix);
        while !rest.is_empty() {
            let Some((child, left)) = self.step(at, rest) else { return false };
            (before, at, rest) = (at, child, left);
        }
        let Ok(index) = self.at(at).peers.binary_search(&peer) else { return false };
        self.generation += 1;
        let generation = self.generation;
        let node = self.node(at);
        node.changed = generation;
        node.peers.remove(index);
        if !node.peers.is_empty() {
            return false;
        }
        (node.peers, node.targets) = (Vec::new(), None);
        self.prefixes -= 1;
        if at != ROOT && self.at(at).children.is_empty() {
            let octet = self.release(at).label[0];
            self.node(before).children.retain(|(other, _)| *other != octet);
            self.join(before);
        } else {
            self.join(at);
        }
        true
    }

    /// Makes one node of this and its only child, if nothing else speaks for it.
    fn join(&mut self, at: u32) {
        let node = self.at(at);
        let [(_, child)] = node.children[..] else { return };
        if at == ROOT || !node.peers.is_empty() {
            return;
        }
        let child = self.release(child);
        let node = self.node(at);
        let label = [&*node.label, &*child.label].concat().into();
        // What changed here changed who is reached there.
        *node = Node { label, changed: node.changed.max(child.changed), ..child };
    }

    /// Who subscribes to this topic, in order and each once.
    pub(super) fn matching(&mut self, topic: &[u8]) -> Arc<[Place]> {
        // The longest prefix that somebody subscribes to says it all; what leads on from there does not matter.
        let (mut at, mut changed) = (ROOT, self.at(ROOT).changed);
        let (mut on_path, mut rest, mut latest) = (ROOT, topic, changed);
        while let Some((child, left)) = self.step(on_path, rest) {
            (on_path, rest) = (child, left);
            let node = self.at(child);
            latest = latest.max(node.changed);
            if !node.peers.is_empty() {
                (at, changed) = (child, latest);
            }
        }
        if let Some((known, targets)) = &self.at(at).targets
            && *known >= changed
        {
            return Arc::clone(targets);
        }
        let mut all = self.at(ROOT).peers.clone();
        let (mut on_path, mut rest) = (ROOT, topic);
        while on_path != at {
            let Some((child, left)) = self.step(on_path, rest) else { break };
            (on_path, rest) = (child, left);
            all.extend_from_slice(&self.at(child).peers);
        }
        all.sort_unstable();
        all.dedup();
        let targets: Arc<[Place]> = all.into();
        let generation = self.generation;
        self.node(at).targets = Some((generation, Arc::clone(&targets)));
        targets
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_match_and_what_is_not_used_is_free_again() {
        let mut subscriptions = Subscriptions::default();
        assert!(subscriptions.add(b"", 3));
        assert!(subscriptions.add(b"ab", 1));
        assert!(!subscriptions.add(b"ab", 2));
        assert_eq!(subscriptions.matching(b"abc")[..], [1, 2, 3]);
        assert_eq!(subscriptions.matching(b"a")[..], [3]);
        assert!(!subscriptions.remove(b"ab", 1));
        assert!(subscriptions.remove(b"ab", 2));
        assert_eq!(subscriptions.matching(b"abc")[..], [3]);
        assert_eq!((subscriptions.nodes.len(), subscriptions.free.len()), (1, 0));
        subscriptions.add(b"xy", 1);
        assert_eq!(subscriptions.nodes.len(), 2);
        assert!(!subscriptions.remove(b"nothing", 1));
        assert!(!subscriptions.remove(b"x", 1));
    }

    #[test]
    fn a_long_prefix_costs_no_more_nodes_than_a_short_one() {
        let mut subscriptions = Subscriptions::default();
        let long = |last: u8| [&[b'x'; 128 << 10][..], &[last]].concat();
        subscriptions.add(&long(1), 1);
        assert_eq!(subscriptions.nodes.len(), 2);
        for last in 2..=100 {
            subscriptions.add(&long(last), 1);
        }
        // Where they part, and each by itself.
        assert_eq!(subscriptions.nodes.len(), 102);
        for last in 1..=99 {
            assert!(subscriptions.remove(&long(last), 1));
        }
        assert_eq!((subscriptions.nodes.len() - subscriptions.free.len(), subscriptions.prefixes()), (2, 1));
        assert_eq!(subscriptions.matching(&long(100))[..], [1]);
        assert!(subscriptions.remove(&long(100), 1));
        assert_eq!((subscriptions.nodes.len(), subscriptions.free.len()), (1, 0));
        assert!(subscriptions.nodes.capacity() < 16);
    }

    #[test]
    fn a_change_elsewhere_leaves_what_was_worked_out() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(b"news.", 1);
        let one = subscriptions.matching(b"news.x");
        for prefix in [&b"nil"[..], b"news.xyz", b"n"] {
            let changes_it = b"news.".starts_with(prefix);
            subscriptions.add(prefix, 2);
            assert_eq!(Arc::ptr_eq(&subscriptions.matching(b"news.x"), &one), !changes_it, "{prefix:?}");
        }
        assert!(subscriptions.remove(b"n", 2));
        assert_eq!(subscriptions.matching(b"news.x")[..], [1]);
    }

    #[test]
    fn topics_that_the_same_prefix_matches_share_what_was_worked_out() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(b"a", 1);
        subscriptions.add(b"abcdef", 2);
        let one = subscriptions.matching(b"a");
        for topic in [&b"ab"[..], b"abcde", b"ax"] {
            assert!(Arc::ptr_eq(&subscriptions.matching(topic), &one), "{topic:?}");
        }
        assert_eq!(subscriptions.matching(b"abcdef")[..], [1, 2]);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list_after_each_change(changes in prop::collection::vec((any::<bool>(), "[ab]{0,5}", 0_u32..3), 0..60), topics in prop::collection::vec("[ab]{0,6}", 1..6)) {
            let mut subscriptions = Subscriptions::default();
            let mut list = BTreeSet::new();
            for (add, prefix, peer) in changes {
                if add && list.insert((prefix.clone(), peer)) {
                    subscriptions.add(prefix.as_bytes(), peer);
                } else if !add && list.remove(&(prefix.clone(), peer)) {
                    subscriptions.remove(prefix.as_bytes(), peer);
                }
                for topic in &topics {
                    let due: BTreeSet<u32> = list.iter().filter(|(p, _)| topic.starts_with(p.as_str())).map(|(_, peer)| *peer).collect();
                    prop_assert_eq!(subscriptions.matching(topic.as_bytes()).to_vec(), due.into_iter().collect::<Vec<_>>());
                }
                let prefixes: BTreeSet<&String> = list.iter().map(|(prefix, _)| prefix).collect();
                prop_assert_eq!(subscriptions.prefixes(), prefixes.len());
                prop_assert!(subscriptions.nodes.len() - subscriptions.free.len() <= 1 + 2 * prefixes.len());
            }
        }
    }
}

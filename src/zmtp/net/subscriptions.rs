//! Who subscribes to what: a trie of prefixes.

use std::sync::Arc;

/// A peer, by its place at the publisher.
pub(super) type Place = u32;

/// The prefixes that peers subscribe to. Finding those that match a topic costs a step for each octet of the longest prefix that does; who that is, is
/// worked out once for each prefix until a subscription changes.
#[derive(Debug)]
pub(super) struct Subscriptions {
    nodes: Vec<Node>,
    /// Places in `nodes` that nothing leads to.
    free: Vec<u32>,
    /// Counts the changes.
    generation: u64,
    /// How many prefixes there are that somebody subscribes to.
    prefixes: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// The next octet, in order, and the node it leads to.
    children: Vec<(u8, u32)>,
    /// Who subscribes to exactly this prefix, in order.
    peers: Vec<Place>,
    /// Who subscribes to this prefix or a shorter one, in order, as of a generation. Only where somebody subscribes to this one, and at the root.
    targets: Option<(u64, Arc<[Place]>)>,
}

const ROOT: u32 = 0;

impl Default for Subscriptions {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new(), generation: 0, prefixes: 0 }
    }
}

impl Subscriptions {
    /// How many prefixes there are that somebody subscribes to.
    pub(super) fn prefixes(&self) -> usize {
        self.prefixes
    }

    fn node(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    fn child(&self, at: u32, octet: u8) -> Option<u32> {
        let children = &self.nodes[at as usize].children;
        children.binary_search_by_key(&octet, |(octet, _)| *octet).ok().map(|index| children[index].1)
    }

    /// Adds a peer's subscription, which it does not have yet. Whether it is the first to this prefix.
    pub(super) fn add(&mut self, prefix: &[u8], peer: Place) -> bool {
        self.generation += 1;
        let mut at = ROOT;
        for &octet in prefix {
            at = match self.child(at, octet) {
                Some(child) => child,
                None => {
                    let fresh = self.free.pop().unwrap_or_else(|| {
                        self.nodes.push(Node::default());
                        self.nodes.len() as u32 - 1
                    });
                    let children = &mut self.node(at).children;
                    let index = children.partition_point(|(other, _)| *other < octet);
                    children.insert(index, (octet, fresh));
                    fresh
                }
            };
        }
        let peers = &mut self.node(at).peers;
        let index = peers.partition_point(|other| *other < peer);
        peers.insert(index, peer);
        let is_first = peers.len() == 1;
        self.prefixes += usize::from(is_first);
        is_first
    }

    /// Takes a peer's subscription away. Whether it was the last to this prefix.
    pub(super) fn remove(&mut self, prefix: &[u8], peer: Place) -> bool {
        self.generation += 1;
        let mut path = Vec::with_capacity(prefix.len() + 1);
        path.push(ROOT);
        for &octet in prefix {
            match self.child(path[path.len() - 1], octet) {
                Some(child) => path.push(child),
                None => return false,
            }
        }
        let peers = &mut self.node(path[prefix.len()]).peers;
        let Ok(index) = peers.binary_search(&peer) else { return false };
        peers.remove(index);
        let was_last = peers.is_empty();
        self.prefixes -= usize::from(was_last);
        // What leads nowhere any more is taken out, from its end.
        for depth in (1..path.len()).rev() {
            let node = self.node(path[depth]);
            if !node.peers.is_empty() || !node.children.is_empty() {
                break;
            }
            *node = Node::default();
            self.free.push(path[depth]);
            let octet = prefix[depth - 1];
            self.node(path[depth - 1]).children.retain(|(other, _)| *other != octet);
        }
        was_last
    }

    /// Who subscribes to this topic, in order and each once.
    pub(super) fn matching(&mut self, topic: &[u8]) -> Arc<[Place]> {
        // The longest prefix that somebody subscribes to says it all; what leads on from there does not matter.
        let (mut at, mut depth) = (ROOT, 0);
        let mut on_path = ROOT;
        for (index, &octet) in topic.iter().enumerate() {
            let Some(child) = self.child(on_path, octet) else { break };
            on_path = child;
            if !self.nodes[child as usize].peers.is_empty() {
                (at, depth) = (child, index + 1);
            }
        }
        let generation = self.generation;
        if let Some((known, targets)) = &self.nodes[at as usize].targets
            && *known == generation
        {
            return Arc::clone(targets);
        }
        let mut all = self.nodes[ROOT as usize].peers.clone();
        let mut on_path = ROOT;
        for &octet in &topic[..depth] {
            on_path = self.child(on_path, octet).unwrap_or(on_path);
            all.extend_from_slice(&self.nodes[on_path as usize].peers);
        }
        all.sort_unstable();
        all.dedup();
        let targets: Arc<[Place]> = all.into();
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
        assert_eq!((subscriptions.nodes.len(), subscriptions.free.len()), (3, 2));
        subscriptions.add(b"xy", 1);
        assert_eq!(subscriptions.nodes.len(), 3);
        assert!(!subscriptions.remove(b"nothing", 1));
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
        fn it_agrees_with_a_list(changes in prop::collection::vec((any::<bool>(), "[ab]{0,3}", 0_u32..4), 0..60), topic in "[ab]{0,4}") {
            let mut subscriptions = Subscriptions::default();
            let mut list = BTreeSet::new();
            for (add, prefix, peer) in changes {
                if add && list.insert((prefix.clone(), peer)) {
                    subscriptions.add(prefix.as_bytes(), peer);
                } else if !add && list.remove(&(prefix.clone(), peer)) {
                    subscriptions.remove(prefix.as_bytes(), peer);
                }
                let due: BTreeSet<u32> = list.iter().filter(|(p, _)| topic.starts_with(p.as_str())).map(|(_, peer)| *peer).collect();
                prop_assert_eq!(subscriptions.matching(topic.as_bytes()).to_vec(), due.into_iter().collect::<Vec<_>>());
            }
        }
    }
}

mod hostile;
mod text;
mod values;

use super::super::{Conflict, Document, Draft};
use crate::proto::Rng;
use bytes::Bytes;

pub(super) fn replica<D: Document>(number: u64) -> D {
    let mut document = D::empty();
    document.set_replica(number);
    document
}

pub(super) fn edit<D: Document<Fragment = Bytes>>(
    document: &mut D,
    change: impl FnOnce(&mut Draft<'_, D>) -> Result<(), Conflict>,
) -> Vec<Bytes> {
    Draft::alone(document, change).map(|((), fragments)| fragments).unwrap()
}

/// Replicas of one document, and what is on the way to each.
pub(super) struct Cluster<D> {
    pub replicas: Vec<D>,
    inboxes: Vec<Vec<Bytes>>,
    rng: Rng,
}

impl<D: Document<Fragment = Bytes>> Cluster<D> {
    pub(super) fn new(size: usize, seed: u64) -> Self {
        Self {
            replicas: (1..=size as u64).map(replica).collect(),
            inboxes: vec![Vec::new(); size],
            rng: Rng::new(seed),
        }
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.rng.next() % bound.max(1) as u64) as usize
    }

    pub(super) fn send(&mut self, from: usize, fragments: &[Bytes]) {
        for (to, inbox) in self.inboxes.iter_mut().enumerate() {
            if to != from {
                inbox.extend_from_slice(fragments);
            }
        }
    }

    /// One fragment, any of those on the way, and now and then it stays on the way and comes again.
    pub(super) fn deliver(&mut self, to: usize, followed: &mut impl FnMut(usize, D::Change)) -> bool {
        if self.inboxes[to].is_empty() {
            return false;
        }
        let index = self.below(self.inboxes[to].len());
        let again = self.below(8) == 0;
        let inbox = &mut self.inboxes[to];
        let fragment = if again { inbox[index].clone() } else { inbox.swap_remove(index) };
        followed(to, self.replicas[to].apply(&fragment).unwrap());
        true
    }

    /// Edits and deliveries in any order, then all that is left on the way. `change` gets its choice of what to do.
    pub(super) fn run(
        &mut self,
        steps: usize,
        mut change: impl FnMut(&mut Draft<'_, D>, &mut dyn FnMut(usize) -> usize),
        mut followed: impl FnMut(usize, &D::Change),
    ) where
        D: super::Undo,
    {
        for _ in 0..steps {
            let at = self.below(self.replicas.len());
            if self.below(3) == 0 {
                self.deliver(at, &mut |to, change| followed(to, &change));
                continue;
            }
            let mut rng = Rng::new(self.rng.next());
            let mut draft = Draft::new(&mut self.replicas[at]);
            match self.rng.next() % 8 {
                0 => draft.undo().map(drop).unwrap(),
                1 => draft.redo().map(drop).unwrap(),
                _ => change(&mut draft, &mut |bound| (rng.next() % bound.max(1) as u64) as usize),
            }
            for (fragment, change) in draft.finish() {
                followed(at, &change);
                self.send(at, &[D::decode(&D::encode(&fragment)).unwrap()]);
            }
        }
        self.deliver_all(|to, change| followed(to, &change));
    }

    pub(super) fn deliver_all(&mut self, mut followed: impl FnMut(usize, D::Change)) {
        for to in 0..self.replicas.len() {
            while self.deliver(to, &mut followed) {}
        }
    }
}

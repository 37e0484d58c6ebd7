//! What of a document is a node's own: until it has its place, and when the cluster has lost it, or will not have it.

use std::time::Duration;

use bytes::Bytes;

use crate::message::MessageKind;
use crate::proto::Instant;

use super::super::fold::{Folded, apply_all};
use super::super::pieces;
use super::super::wire::{self, Update};
use super::super::{Conflict, Document, DocumentError, DocumentEvent, Merged, Model};
use super::{Output, Pending, Replica};

/// How many names are remembered that an update had before (a guess: it gets another one when a host has lost it together with others).
const MOST_NAMES: usize = 16;

/// How long what would have to go out under another name waits for a host that has not answered (a guess: longer than a keeper stands still that is going to answer).
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// Whether what of ours would have to go out under another name waits for the host, where that did not answer: it may have it under the name that it had, and would take it once more. Others that
/// answered in its place need not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Patience {
    /// There is nothing to wait for.
    #[default]
    No,
    /// It has just begun to wait.
    Begins,
    Until(Instant),
    /// It has waited long enough.
    Over,
}

impl Patience {
    pub(super) fn poll_timeout(self) -> Option<Instant> {
        match self {
            Self::Begins => Some(Instant::START),
            Self::Until(until) => Some(until),
            Self::No | Self::Over => None,
        }
    }

    fn is_waiting(self) -> bool {
        matches!(self, Self::Begins | Self::Until(_))
    }
}

/// How many bytes the updates may have that an ordered document remembers after they had their places (a guess).
const MOST_RECENT_BYTES: usize = 16 << 20;

impl<D: Document> Pending<D> {
    /// All names it was said under, and may be in a document by.
    fn names(&self) -> impl Iterator<Item = (u64, u64)> {
        self.earlier.iter().copied().chain([(self.replica, self.number)])
    }

    /// It is said under another name.
    fn rename(&mut self, replica: u64, number: u64) {
        if self.earlier.len() >= MOST_NAMES {
            self.earlier.remove(0);
        }
        self.earlier.push((self.replica, self.number));
        (self.replica, self.number) = (replica, number);
        self.payload = wire::renumbered(&self.payload, replica, number);
    }
}

impl<D: Document> Replica<D> {
    pub(super) fn send_again(&mut self) {
        if self.patience.is_waiting() {
            return;
        }
        let again: Vec<Bytes> = self.pending.iter().map(|pending| pending.payload.clone()).collect();
        again.into_iter().for_each(|payload| self.put(payload));
    }

    /// What is pending does not count by the names that it has.
    pub(super) fn send_under_another_name(&mut self) {
        if D::MODEL == Model::Ordered && !self.unanswered.is_empty() && self.patience != Patience::Over {
            if self.patience == Patience::No {
                self.patience = Patience::Begins;
            }
            return;
        }
        self.renumber();
        self.send_again();
    }

    /// Sees to what has waited for the host.
    pub(super) fn be_patient(&mut self, now: Instant) {
        match self.patience {
            Patience::Begins => self.patience = Patience::Until(now + MOST_PATIENCE),
            Patience::Until(until) if until <= now => {
                self.patience = Patience::Over;
                // Else it is brought back when the answer is there.
                if self.join.is_none() {
                    self.send_under_another_name();
                }
            }
            _ => {}
        }
    }

    /// Says an update or a seed, in pieces where messages may not be so large.
    pub(super) fn put(&mut self, payload: Bytes) {
        let kind = MessageKind::DocumentFragment;
        let max_message = self.config.max_message;
        let payloads = pieces::payloads(|| self.nonce(), payload, max_message);
        self.outputs.extend(payloads.into_iter().map(|payload| Output::Say { kind, payload }));
    }

    /// What is broken is made anew from what the cluster has.
    pub(super) fn see_to_breaks(&mut self) {
        if D::MODEL == Model::Commutative
            && !self.is_broken
            && self.guarded(|replica| replica.folded.document.is_broken()) == Some(true)
        {
            self.is_broken = true;
            self.ask_anew();
        }
    }

    /// One of our own has its place.
    pub(super) fn take_own(&mut self) {
        let Some(mut pending) = self.pending.pop_front() else { return };
        self.pending_bytes -= pending.payload.len();
        self.refusals = 0;
        if D::MODEL == Model::Ordered {
            let applied = self.guarded(|replica| apply_all(&mut replica.folded.document, &pending.fragments));
            if let Some(Err(conflict)) = applied {
                self.view_is_stale = true;
                pending.refused = true;
                self.folded.ledger.numbers.refuse(self.config.me, pending.replica);
                self.event(DocumentEvent::Refused { fragments: pending.fragments.clone(), conflict });
            }
            if self.pending.is_empty() && !self.view_is_stale {
                self.view = None;
            }
            self.recent.push_back(pending);
            self.forget_old();
        }
        if self.pending.is_empty() {
            self.event(DocumentEvent::Synced);
        }
    }

    /// What is pending, on top of what is in order. A commutative document has it in it.
    pub(super) fn rebuild_view(&mut self) {
        if self.pending.is_empty() || D::MODEL == Model::Commutative {
            self.view = None;
            return;
        }
        let mut view = self.folded.document.fork();
        for pending in &self.pending {
            // Whether it applies in the end, its place decides.
            let _ = apply_all(&mut view, &pending.fragments);
        }
        self.view = Some(view);
    }

    /// A commutative document takes in what the cluster has, and gives it what it lacks.
    pub(super) fn come_together(&mut self, folded: Folded<D>) {
        let Folded { ledger, document } = folded;
        self.folded.ledger = ledger;
        self.merge(document);
    }

    /// In the place of one that is broken comes what the cluster has; what of ours has no place yet is put on top, and goes out again.
    pub(super) fn mend(&mut self, folded: Folded<D>) {
        self.folded = folded;
        let (numbers, me) = (&self.folded.ledger.numbers, self.config.me);
        self.pending.retain(|own| numbers.last(me, own.replica) < own.number);
        if self.read_only {
            let lost: Vec<_> = self.pending.drain(..).map(|own| own.fragments).collect();
            lost.into_iter().for_each(|fragments| self.refuse_to_read_only(fragments));
        }
        self.renumber();
        // As somebody else: some of what we made before may be left out.
        self.tell_replica();
        let own: Vec<D::Fragment> =
            self.pending.iter().flat_map(|pending| pending.fragments.iter().cloned()).collect();
        let is_broken = self.guarded(|replica| {
            replica.folded.document.replay(&own);
            replica.folded.document.is_broken()
        });
        if is_broken == Some(true) {
            let (name, reason) = (self.config.name.clone(), "an own update breaks it".to_owned());
            return self.fail(DocumentError::Malformed { name, reason });
        }
        self.send_again();
    }

    pub(super) fn tell_replica(&mut self) {
        self.guarded(|replica| replica.folded.document.set_replica(replica.id));
    }

    /// What we may only read is as the cluster has it: what of ours is not in it is told to be refused.
    pub(super) fn give_in(&mut self, document: D) {
        let (numbers, me) = (&self.folded.ledger.numbers, self.config.me);
        let lost = self.pending.drain(..).filter(|own| numbers.last(me, own.replica) < own.number);
        let lost: Vec<_> = lost.map(|own| own.fragments).collect();
        lost.into_iter().for_each(|fragments| self.refuse_to_read_only(fragments));
        self.pending_bytes = 0;
        self.folded.document = document;
        self.be_somebody_else();
        self.tell_replica();
    }

    pub(super) fn refuse_to_read_only(&mut self, fragments: Vec<D::Fragment>) {
        let conflict = Conflict::new("the document may only be read here, by now");
        self.event(DocumentEvent::Refused { fragments, conflict });
    }

    pub(super) fn merge(&mut self, document: D) {
        if self.read_only {
            return self.give_in(document);
        }
        let merged = self.guarded(|replica| replica.folded.document.merge(document));
        self.pending.clear();
        self.pending_bytes = 0;
        // As somebody else: what is still on its way from before may yet count.
        self.be_somebody_else();
        match merged {
            Some(Ok(Merged { lacking, .. })) => {
                let lacking: Vec<D::Fragment> = lacking.into_iter().collect();
                match self.encoded(&lacking) {
                    Some(encoded) if !encoded.is_empty() => self.submit(lacking, &encoded),
                    _ => {}
                }
            }
            Some(Err(conflict)) => {
                let name = self.config.name.clone();
                self.fail(DocumentError::Malformed { name, reason: conflict.to_string() });
            }
            None => {}
        }
    }

    /// What is said from now on is said under another number. What a commutative document makes it names as before: it has all that it has made.
    pub(super) fn be_somebody_else(&mut self) {
        self.id = self.nonce();
        self.next_number = 1;
        if D::MODEL == Model::Ordered {
            self.tell_replica();
        }
    }

    /// What is pending gets numbers that count.
    pub(super) fn renumber(&mut self) {
        self.be_somebody_else();
        for (pending, number) in self.pending.iter_mut().zip(1..) {
            pending.rename(self.id, number);
        }
        self.next_number = 1 + self.pending.len() as u64;
        self.pending_bytes = self.pending.iter().map(|pending| pending.payload.len()).sum();
    }

    /// An ordered document: what of ours is not in the cluster's goes out again.
    ///
    /// What we sent before we asked stands before the question, or nowhere: an endpoint's messages keep their order. So what the document does not have by
    /// now will not come by itself, but for what was changed here since the question.
    pub(super) fn bring_back_own(&mut self) {
        let mut has_holes = false;
        let (recent, pending) = (std::mem::take(&mut self.recent), std::mem::take(&mut self.pending));
        let placed = recent.into_iter().map(|own| (own, true));
        for (mut own, had_its_place) in placed.chain(pending.into_iter().map(|own| (own, false))) {
            let (numbers, me) = (&self.folded.ledger.numbers, self.config.me);
            let has = own.names().any(|(replica, number)| match had_its_place {
                true => numbers.may_have(me, replica, number),
                false => numbers.last(me, replica) >= number,
            });
            if !has && own.refused {
                has_holes = true;
                continue;
            }
            if !has && self.read_only {
                has_holes = true;
                self.refuse_to_read_only(own.fragments);
                continue;
            }
            if !has {
                self.pending.push_back(own);
                continue;
            }
            let was_refused = |(replica, number)| numbers.was_refused(me, replica, number);
            if !own.refused && own.names().any(was_refused) {
                own.refused = true;
                let conflict = Conflict::new("something came before it, while this node was not there");
                self.event(DocumentEvent::Refused { fragments: own.fragments.clone(), conflict });
            }
            self.recent.push_back(own);
        }
        self.forget_old();
        let next = self.folded.ledger.numbers.last(self.config.me, self.id) + 1;
        let follows =
            |(pending, number): (&Pending<D>, u64)| pending.replica == self.id && pending.number == number;
        self.pending_bytes = self.pending.iter().map(|pending| pending.payload.len()).sum();
        if mutant!(self, KeepOwn) {
            // Nothing is sent.
        } else if has_holes || !self.pending.iter().zip(next..).all(follows) {
            // Some are gone for good: the others go out under another name, or none would ever count.
            self.send_under_another_name();
        } else {
            self.next_number = next + self.pending.len() as u64;
            self.patience = Patience::No;
            self.send_again();
        }
        self.view_is_stale = true;
    }

    pub(super) fn forget_old(&mut self) {
        let mut bytes = 0;
        let fits = |own: &&Pending<D>| {
            bytes += own.payload.len();
            bytes <= MOST_RECENT_BYTES
        };
        let kept = self.recent.iter().rev().take(self.config.recent).take_while(fits).count();
        self.recent.drain(..self.recent.len() - kept);
    }

    pub(super) fn encoded(&mut self, fragments: &[D::Fragment]) -> Option<Vec<Vec<u8>>> {
        self.guarded(|_| fragments.iter().map(D::encode).collect())
    }

    pub(super) fn submit(&mut self, fragments: Vec<D::Fragment>, encoded: &[Vec<u8>]) {
        let number = self.next_number;
        self.next_number += 1;
        let encoded = encoded.iter().map(|fragment| &fragment[..]);
        let payload = Update::new(D::KIND, self.id, number, encoded).encode();
        self.pending_bytes += payload.len();
        let (replica, refused) = (self.id, false);
        let own =
            Pending { replica, number, earlier: Vec::new(), refused, fragments, payload: payload.clone() };
        self.pending.push_back(own);
        // Behind what waits nothing else counts.
        if !self.patience.is_waiting() {
            self.put(payload);
        }
    }
}

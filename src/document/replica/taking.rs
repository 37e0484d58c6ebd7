//! What stands in the order, and what it makes of the document.

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::Position;

use super::super::fold::{apply_all, decode_all};
use super::super::wire::{Live, Update};
use super::super::{Author, Conflict, Document, DocumentError, DocumentEvent, Model};
use super::{Replica, Run};

/// What something that stands in the order turned out to be.
pub(super) enum Took {
    /// The whole document.
    Document,
    Part,
    /// What of ours was to count next, and does not, here and anywhere: we were forgotten among many others.
    NotOurs,
}

impl<D: Document> Replica<D> {
    /// Takes what stands in the order.
    pub(super) fn take(&mut self, position: Position, from: EndpointId, live: Live) -> Took {
        match live {
            Live::Update(update) => self.take_update(position, from, update),
            // One that counts comes to those who know that there was nothing before.
            Live::Seed(seed) if self.folded.ledger.reaches(position) && self.take_seed(&seed) => {
                Took::Document
            }
            _ => Took::Part,
        }
    }

    pub(super) fn take_seed(&mut self, seed: &Bytes) -> bool {
        let Some(state) = self.folded.ledger.takes_seed(seed, |_| true) else { return false };
        if state.kind.as_deref() != Some(D::KIND) {
            self.fail(self.foreign(state.kind));
            return false;
        }
        match self.guarded(|_| D::restore(&state.snapshot)) {
            Some(Ok(document)) => {
                match D::MODEL {
                    Model::Ordered => {
                        self.folded.document = document;
                        self.tell_replica();
                    }
                    Model::Commutative => self.merge(document),
                }
                self.view_is_stale = true;
                true
            }
            Some(Err(malformed)) => {
                let (name, reason) = (self.config.name.clone(), malformed.to_string());
                self.fail(DocumentError::Malformed { name, reason });
                false
            }
            None => false,
        }
    }

    pub(super) fn foreign(&self, kind: Option<String>) -> DocumentError {
        DocumentError::Kind {
            name: self.config.name.clone(),
            expected: D::KIND,
            found: kind.unwrap_or_default(),
        }
    }

    pub(super) fn take_update(&mut self, position: Position, from: EndpointId, update: Update) -> Took {
        let ledger = &mut self.folded.ledger;
        if !ledger.reaches(position) {
            return Took::Part;
        }
        let is_pending = from == self.config.me
            && self
                .pending
                .front()
                .is_some_and(|own| (own.replica, own.number) == (update.replica, update.number));
        if !(ledger.takes(position, from, &update) || mutant!(self, CountTwice)) {
            return if is_pending { Took::NotOurs } else { Took::Part };
        }
        if update.kind != D::KIND {
            self.fail(self.foreign(Some(update.kind)));
        } else if is_pending {
            self.take_own();
        } else {
            self.take_others(position, from, &update);
        }
        Took::Part
    }

    pub(super) fn take_others(&mut self, position: Position, from: EndpointId, update: &Update) {
        let local = from == self.config.me && update.replica == self.id;
        let author = Author { endpoint: from, replica: update.replica, local, position: Some(position) };
        if D::MODEL == Model::Commutative {
            return self.add_to_run(author, update);
        }
        let taken = self.guarded(|replica| {
            let fragments =
                decode_all::<D>(update).map_err(|malformed| Conflict::new(malformed.to_string()))?;
            apply_all(&mut replica.folded.document, &fragments)
        });
        match taken {
            Some(Ok(changes)) if self.view.is_none() => {
                self.event(DocumentEvent::Changed { by: author, changes })
            }
            Some(Ok(_)) => self.view_is_stale = true,
            // It has its place and no effect: its sender is told there.
            Some(Err(_)) => self.folded.ledger.numbers.refuse(from, update.replica),
            None => {}
        }
    }

    /// What one author did is taken in together: a document may have as much to do for many updates as for one.
    pub(super) fn add_to_run(&mut self, by: Author, update: &Update) {
        // What makes no sense has its place and no effect.
        let Some(Ok(fragments)) = self.guarded(|_| decode_all::<D>(update)) else { return };
        let same = |run: &Run<D>| (run.by.endpoint, run.by.replica) == (by.endpoint, by.replica);
        match &mut self.run {
            Some(run) if same(run) => {
                run.by = by;
                run.fragments.extend(fragments);
            }
            _ => {
                self.end_run();
                self.run = Some(Run { by, fragments });
            }
        }
    }

    pub(super) fn end_run(&mut self) {
        let is_useful = self.failed.is_none() && !self.is_broken;
        let Some(Run { by, fragments }) = self.run.take().filter(|_| is_useful) else { return };
        let changes = self.guarded(|replica| replica.folded.document.replay(&fragments));
        self.see_to_breaks();
        if let Some(changes) = changes.filter(|changes| !changes.is_empty()) {
            self.event(DocumentEvent::Changed { by, changes });
        }
    }
}

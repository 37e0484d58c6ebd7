//! Documents that have grown are folded, and what is too large is given up.

use crate::message::MessageKind;

use super::super::Malformed;
use super::super::store::{Base, StoreChange};
use super::super::wire::{self, Live, State};
use super::kept::Kept;
use super::types::KnownType;
use super::{Keeper, Output};

/// How many bytes of records a document may have before they are folded into it; beyond, as many as the document itself has (a guess: a joiner applies so much in
/// some milliseconds).
const FOLD_BYTES: usize = 64 << 10;

/// Which part of what all may take may come beside while something is folded.
const WHILE_FOLDING: usize = 4;

impl Kept {
    /// Whether it has grown so far that something is to be done, where no more than `limit` are kept.
    pub(super) fn is_due(&self, limit: usize) -> bool {
        self.size() > limit || self.has_long_tail(limit)
    }

    fn has_long_tail(&self, limit: usize) -> bool {
        self.tail_bytes > FOLD_BYTES.max(self.state.snapshot.len()).min(limit / 2)
    }
}

impl Keeper {
    /// Folds a document that has grown, and gives up one that is too large; and where all together take too much, the largest.
    pub(super) fn look_after(&mut self, name: &str) {
        self.shelf.weigh(name);
        let limit = self.shelf.limits().document;
        let Some(kept) = self.shelf.get(name) else { return };
        if kept.is_due(limit) {
            let (is_over, size) = (kept.size() > limit, kept.size());
            // What was folded may be too large all the same, however much came meanwhile.
            let folds = kept.state.snapshot.len() <= limit && !kept.state.tail.is_empty();
            let is_folding = kept.is_folding || (folds && self.fold(name));
            if is_over && !is_folding {
                self.give_up(name, format!("it has {size} bytes, more than the {limit} that are kept"));
            }
        }
        self.relieve();
    }

    /// Gives up documents until all together take no more than they may: the largest first, so that they are few; what can be folded instead is.
    fn relieve(&mut self) {
        while self.shelf.is_over() {
            let (bytes, most) = (self.shelf.bytes(), self.shelf.limits().bytes);
            let Some(name) = self.shelf.largest().cloned() else { return };
            let Some(kept) = self.shelf.get(&name) else { return };
            let has_time = bytes <= most.saturating_add(most / WHILE_FOLDING);
            let is_worth_it = kept.tail_bytes > kept.size() / 4;
            if has_time && (kept.is_folding || (is_worth_it && self.fold(&name))) {
                return self.shelf.wait();
            }
            let reason = format!(
                "of all documents, which take {bytes} bytes, more than the {most} that are kept, it is the largest"
            );
            self.give_up(&name, reason);
        }
    }

    /// Begins to fold a document, if its type is known.
    fn fold(&mut self, name: &str) -> bool {
        let Some(kept) = self.shelf.get_mut(name) else { return false };
        let known = kept.ledger.kind.as_ref().and_then(|kind| self.config.types.get(kind));
        let Some(KnownType { fold, .. }) = known.copied() else { return false };
        kept.is_folding = true;
        let state = kept.state();
        self.outputs.push_back(Output::Fold { name: name.to_owned(), state, fold });
        true
    }

    /// Keeps a document no more, and says so to who has it open. What is stored of it stays as it is.
    fn give_up(&mut self, name: &str, reason: String) {
        let Some(kept) = self.shelf.get_mut(name) else { return };
        tracing::warn!(document = name, reason, "a document is kept no more");
        kept.clear();
        kept.refused = Some(reason.clone());
        self.shelf.weigh(name);
        self.given_up += 1;
        if self.config.is_hosts {
            let (topic, payload) = (wire::live_topic(name), Live::GivenUp(reason).encode());
            self.outputs.push_back(Output::Say { topic, kind: MessageKind::Data, payload });
        }
    }

    /// A document was folded up to where its records went then.
    pub(crate) fn on_folded(&mut self, name: &str, folded: Result<State, Malformed>) {
        let Some(kept) = self.shelf.get_mut(name) else { return };
        kept.is_folding = false;
        self.shelf.wait_no_more();
        let Some(kept) = self.shelf.get_mut(name) else { return };
        if std::mem::take(&mut kept.is_another) {
            return self.look_after(name);
        }
        match folded {
            Ok(state) => {
                let Some(at) = state.at else { return };
                let mut tail = std::mem::take(&mut kept.state.tail);
                if mutant!(self, DropTail) {
                    tail.clear();
                }
                tail.retain(|entry| entry.position > at);
                kept.set_state(State { tail, ..state });
                if !kept.is_ahead {
                    let base = Base { position: at, bytes: kept.state.encode_base() };
                    self.store(|| StoreChange::Replace { name: name.to_owned(), base });
                }
                self.look_after(name);
            }
            Err(malformed) => self.give_up(name, format!("it cannot be read: {malformed}")),
        }
    }
}

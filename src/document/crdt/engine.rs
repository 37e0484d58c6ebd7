//! A yrs document and what all types do with it: edits, fragments, snapshots, merging, undo.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use yrs::undo::UndoManager;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{ClientID, Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, TransactionMut, Update};

use super::super::{Conflict, Malformed};
use super::scan::{self, Contents};
use crate::proto::Rng;

/// Marks transactions that bring in what others did: undo passes them over.
const REMOTE: &str = "remote";
/// How many steps can be undone; when there are twice as many, the older half goes.
const UNDO_STEPS: usize = 500;

/// What a type of document makes of a yrs document: its roots, and what it watches.
pub(super) trait Shape: Clone + Send + 'static {
    /// What items may hold.
    const CONTENTS: Contents;
    /// Makes the roots and watches them.
    fn attach(doc: &Doc) -> Self;
    /// Puts the roots under undo.
    fn track(&self, doc: &Doc, undo: &mut UndoManager<()>);
    /// Forgets what the watchers saw.
    fn forget(&self);
}

/// See the module.
pub(super) struct Engine<S> {
    // Goes before the document it watches.
    undo: Option<UndoManager<()>>,
    shape: S,
    doc: Doc,
    replica: Option<u64>,
    /// The next step of undo goes with the one before.
    joined: bool,
    broken: bool,
}

impl<S: Shape> Engine<S> {
    pub(super) fn new(replica: Option<u64>) -> Self {
        // The identifier is the same everywhere: a document has no name of its own, and chance has no place here.
        let client = ClientID::new(replica.unwrap_or(0));
        let mut options = Options::with_guid_and_client_id("zincmq".into(), client);
        options.offset_kind = OffsetKind::Utf16;
        // Cleaning up deletes marks of formatting that are of no use any more, on each replica by itself and in no fragment.
        options.cleanup_formatting = false;
        let doc = Doc::with_options(options);
        let shape = S::attach(&doc);
        let undo = replica.map(|_| undo_manager(&shape, &doc, Vec::new()));
        Self { undo, shape, doc, replica, joined: false, broken: false }
    }

    pub(super) fn shape(&self) -> &S {
        &self.shape
    }

    /// See [`Document::set_replica`](super::super::Document::set_replica).
    pub(super) fn set_replica(&mut self, number: u64) {
        let number = number & scan::MAX_CLIENT;
        if self.replica == Some(number) || self.broken {
            return;
        }
        let mut other = Self::new(Some(number));
        match other.take_in(&self.state()) {
            Ok(()) => *self = other,
            Err(_) => self.broken = true,
        }
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&yrs::Transaction<'_>, &S) -> R) -> R {
        read(&self.doc.transact(), &self.shape)
    }

    /// A name that nothing else in the document has, if it goes into the next edit; so do those of other numbers below its units.
    pub(super) fn fresh(&self, number: usize) -> String {
        format!("{:x}.{:x}", self.replica.unwrap_or(0), self.clock() + number)
    }

    /// Something that no two edits are likely to share.
    pub(super) fn chance(&self) -> u64 {
        Rng::new(self.replica.unwrap_or(0) ^ (self.clock() as u64).rotate_left(32)).next()
    }

    fn clock(&self) -> usize {
        self.doc.transact().store().get_local_state() as usize
    }

    fn usable(&self) -> Result<(), Conflict> {
        if self.broken { Err(Conflict::new("an earlier fragment broke this document")) } else { Ok(()) }
    }

    /// Changes the document on behalf of this replica, by about so many units. `step`: this begins a step of undo.
    pub(super) fn edit<R>(
        &mut self,
        step: bool,
        units: usize,
        change: impl FnOnce(&mut TransactionMut<'_>, &S) -> R,
    ) -> Result<(R, Bytes), Conflict> {
        self.usable()?;
        if self.replica.is_none() {
            return Err(Conflict::new(
                "this copy of the document has no replica number, and so makes no fragments",
            ));
        }
        if let Some(undo) = &mut self.undo
            && step
            && !std::mem::take(&mut self.joined)
        {
            undo.reset();
        }
        let shape = &self.shape;
        let mut txn = self.doc.transact_mut();
        if (txn.store().get_local_state() as usize).saturating_add(units) > scan::MAX_CLOCK as usize / 2 {
            return Err(Conflict::new("this replica has made as much of this document as it may"));
        }
        let made = caught(|| {
            let result = change(&mut txn, shape);
            (result, sorted::<S>(txn.encode_update_v1()))
        });
        let ended = caught(|| drop(txn));
        match (made, ended) {
            (Some(made), Some(())) => {
                self.forget_old_steps();
                Ok(made)
            }
            _ => Err(self.breaks()),
        }
    }

    /// Takes in a fragment of any replica.
    pub(super) fn apply(&mut self, update: &[u8]) -> Result<(), Conflict> {
        self.usable()?;
        let update = decode::<S>(update).map_err(|malformed| Conflict::new(malformed.to_string()))?;
        self.integrate(update)
    }

    fn take_in(&mut self, update: &[u8]) -> Result<(), Malformed> {
        let update = decode::<S>(update)?;
        self.integrate(update).map_err(|conflict| Malformed::new(conflict.to_string()))
    }

    fn integrate(&mut self, update: Update) -> Result<(), Conflict> {
        let mut txn = self.doc.transact_mut_with(REMOTE);
        let integrated = caught(|| txn.apply_update(update));
        // Not while a panic unwinds: it may panic once more.
        let ended = caught(|| drop(txn));
        match (integrated, ended) {
            (Some(Ok(())), Some(())) => Ok(()),
            _ => Err(self.breaks()),
        }
    }

    #[cfg(test)]
    pub(super) fn break_for_test(&mut self) {
        self.broken = true;
    }

    fn breaks(&mut self) -> Conflict {
        self.broken = true;
        Conflict::new("the fragment broke this document: it makes no sense in it")
    }

    /// The whole state, the same bytes wherever the same fragments were taken in. How a document came to be shows in the pieces yrs keeps it in, and it
    /// keeps what undo may bring back: a document made of the state in one go has none of that.
    pub(super) fn snapshot(&self) -> Vec<u8> {
        sorted::<S>(self.fork().state()).into()
    }

    /// A copy that has no number. An empty one if this one is broken beyond reading.
    pub(super) fn fork(&self) -> Self {
        let mut fork = Self::new(None);
        fork.broken = self.broken || fork.take_in(&self.state()).is_err();
        fork
    }

    fn state(&self) -> Vec<u8> {
        caught(|| self.doc.transact().encode_state_as_update_v1(&StateVector::default()))
            .unwrap_or_else(|| vec![0, 0])
    }

    pub(super) fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
        let mut engine = Self::new(None);
        engine.take_in(snapshot)?;
        Ok(engine)
    }

    /// Takes in the other's state, and says what it lacks.
    pub(super) fn merge(&mut self, other: &Self) -> Result<Option<Bytes>, Conflict> {
        other.usable()?;
        self.apply(&other.state())?;
        let theirs = other.doc.transact().snapshot();
        let txn = self.doc.transact();
        let ours = txn.snapshot();
        let pending = txn.store().pending_update().is_some() || txn.store().pending_ds().is_some();
        let blocks = ours.state_map.iter().any(|(client, clock)| *clock > theirs.state_map.get(client));
        let deletes = ours.delete_set.diff(&theirs.delete_set);
        if !blocks && deletes.is_empty() && !pending {
            return Ok(None);
        }
        let update = txn.encode_state_as_update_v1(&theirs.state_map);
        if pending {
            return Ok(Some(update.into()));
        }
        // yrs puts all deletions there ever were in: what the other lacks will do.
        let Ok(end) = scan::check(&update, S::CONTENTS) else { return Ok(Some(update.into())) };
        let mut lacking = update[..end].to_vec();
        lacking.extend_from_slice(&deletes.encode_v1());
        Ok(Some(lacking.into()))
    }

    /// Whether both have taken in the same, all of it: no fragment waits for one before it.
    pub(super) fn same_history(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.doc.transact(), other.doc.transact());
        ours.store().pending_update().is_none()
            && theirs.store().pending_update().is_none()
            && ours.snapshot() == theirs.snapshot()
    }

    /// Undoes the last step, or does the last one undone again. The watchers see what changed.
    pub(super) fn undo(&mut self, redo: bool) -> Result<Option<Bytes>, Conflict> {
        self.usable()?;
        let Some(undo) = &mut self.undo else { return Ok(None) };
        let made = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&made);
        let subscribed = self.doc.observe_update_v1("undo", move |_, event| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(event.update.clone());
        });
        let done = subscribed.is_ok()
            && caught(|| if redo { undo.redo_blocking() } else { undo.undo_blocking() }).is_some()
            && self.doc.unobserve_update_v1("undo").is_ok();
        if !done {
            return Err(self.breaks());
        }
        let mut made = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(match made.len() {
            0 => None,
            1 => made.pop().map(sorted::<S>),
            _ => yrs::merge_updates_v1(&made).ok().map(sorted::<S>),
        })
    }

    pub(super) fn join_steps(&mut self) {
        self.joined = true;
    }

    pub(super) fn can_undo(&self, redo: bool) -> bool {
        self.undo.as_ref().is_some_and(|undo| if redo { undo.can_redo() } else { undo.can_undo() })
    }

    fn forget_old_steps(&mut self) {
        if let Some(undo) = &self.undo
            && undo.undo_stack().len() >= 2 * UNDO_STEPS
        {
            let steps = undo.undo_stack()[UNDO_STEPS..].to_vec();
            self.undo = None;
            self.undo = Some(undo_manager(&self.shape, &self.doc, steps));
        }
    }
}

impl<S> fmt::Debug for Engine<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("replica", &self.replica)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// A whole update, or a snapshot, if it is one.
pub(super) fn check<S: Shape>(update: &[u8]) -> Result<(), Malformed> {
    scan::check(update, S::CONTENTS).map(drop)
}

fn sorted<S: Shape>(mut update: Vec<u8>) -> Bytes {
    if S::CONTENTS == Contents::Values {
        scan::sort(&mut update, S::CONTENTS);
    }
    update.into()
}

fn decode<S: Shape>(update: &[u8]) -> Result<Update, Malformed> {
    scan::check(update, S::CONTENTS)?;
    match caught(|| Update::decode_v1(update)) {
        Some(Ok(update)) => Ok(update),
        Some(Err(error)) => Err(Malformed::new(error.to_string())),
        None => Err(Malformed::new("no update")),
    }
}

/// The document it touches is not used again after a panic, or only to be dropped.
fn caught<R>(work: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn undo_manager<S: Shape>(shape: &S, doc: &Doc, steps: Vec<yrs::undo::StackItem<()>>) -> UndoManager<()> {
    let mut undo = UndoManager::with_options(yrs::undo::Options {
        // No clock: steps end where `reset` says so.
        capture_timeout_millis: u64::MAX,
        timestamp: Arc::new(|| 1),
        init_undo_stack: steps,
        init_redo_stack: Vec::new(),
        tracked_origins: Default::default(),
        capture_transaction: None,
    });
    shape.track(doc, &mut undo);
    undo
}

/// What a watcher saw, until somebody takes it.
#[derive(Debug)]
pub(super) struct Seen<T>(Arc<Mutex<Vec<T>>>);

impl<T> Seen<T> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn push(&self, item: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(item);
    }

    pub(super) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

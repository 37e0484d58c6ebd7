//! A yrs document and what all types do with it: edits, fragments, snapshots, merging, undo.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use yrs::undo::UndoManager;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{
    ClientID, Doc, OffsetKind, Options, Origin, ReadTxn, StateVector, Transact, TransactionMut, Update,
};

use super::super::{Conflict, Malformed};
use super::scan::{self, Contents, Outline};
use super::workload::{Size, Workload};
use crate::proto::Rng;

/// Marks transactions that bring in what others did: undo passes them over.
const REMOTE: &str = "remote";
/// Marks those that bring in what a document begins with.
const FIRST: &str = "first";
/// How many steps can be undone; when there are twice as many, the older half goes.
const UNDO_STEPS: usize = 500;
/// How many bytes of fragments may wait for earlier ones: as much as a keeper keeps of a document by default (a guess). With more, the document is broken.
const MOST_WAITING: usize = 64 << 20;

/// How many fragments are taken in in one transaction, at most. Of those that one replica made, one behind the other, yrs makes one
/// block at its end, which takes as long as there are pairs of them.
const AT_ONCE: usize = 1_000;
/// How many pieces a document has to have before it is looked at how much work it makes by itself; from then on, whenever it
/// has twice as many (a guess: below, whatever it is made of makes little).
const FIRST_LOOK: usize = 2_000;
/// What one change on behalf of this replica brings, about.
const EDIT: Size = Size { blocks: 2, units: 0, ranges: 1 };
/// So few bytes of what is made here make little work whatever they are.
const SURELY_TAKEN: usize = 1_024;
/// How many fragments that break a document are left out of it when it is made anew (a guess: none are known that come so far).
const MOST_LEFT_OUT: usize = 16;

/// What a type of document makes of a yrs document: its roots, and what it watches.
pub(super) trait Shape: Clone + Send + 'static {
    /// What items may hold.
    const CONTENTS: Contents;
    /// Makes the roots and watches them.
    fn attach(doc: &Doc) -> Self;
    /// Puts the roots under undo.
    fn track(&self, undo: &mut UndoManager<()>);
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
    /// The clock of each client, up to which all it made is here.
    clocks: BTreeMap<u64, u64>,
    /// Fragments that came too early, by a client and a clock of it that they wait for, and for what else.
    waiting: BTreeMap<(u64, u64), BTreeMap<Bytes, Needs>>,
    waiting_bytes: usize,
    /// About how large it is, at most.
    size: Size,
    /// How many pieces it had when it was looked at last.
    looked_at: usize,
    /// What the work is that it makes, while that is counted: until the end of a transaction.
    workload: Option<Workload>,
    /// Why it makes too much.
    too_much: Option<Malformed>,
    broken: bool,
}

/// Clients, and clocks of theirs that must be there.
type Needs = Vec<(u64, u64)>;

impl<S: Shape> Engine<S> {
    pub(super) fn new(replica: Option<u64>) -> Self {
        // The identifier is the same everywhere: a document has no name of its own, and chance has no place here.
        let mut options =
            Options::with_guid_and_client_id("zincmq".into(), ClientID::new(replica.unwrap_or(0)));
        options.offset_kind = OffsetKind::Utf16;
        let doc = Doc::with_options(options);
        let shape = S::attach(&doc);
        let undo = replica.map(|_| undo_manager(&shape, &doc, Vec::new()));
        Self {
            undo,
            shape,
            doc,
            replica,
            joined: false,
            clocks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            size: Size::default(),
            looked_at: 0,
            workload: None,
            too_much: None,
            broken: false,
        }
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
        *self = self.copy(Some(number));
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

    /// The name of the next thing that this replica makes.
    pub(super) fn next_id(&self) -> Option<(u64, u64)> {
        self.replica.map(|replica| (replica, self.clock() as u64))
    }

    /// Changes the document on behalf of this replica by an update, which builds on what is here.
    pub(super) fn edit_by(&mut self, step: bool, units: usize, update: &[u8]) -> Result<Bytes, Conflict> {
        let update = decode(update).map_err(|malformed| Conflict::new(malformed.to_string()))?;
        let (applied, fragment) = self.edit(step, units, |txn, _| txn.apply_update(update).is_ok())?;
        if applied { Ok(fragment) } else { Err(self.breaks()) }
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
                self.tick();
                self.size.add(EDIT);
                self.forget_old_steps();
                self.check_own(&made.1)?;
                Ok(made)
            }
            _ => Err(self.breaks()),
        }
    }

    /// Takes in a fragment of any replica.
    pub(super) fn apply(&mut self, update: &[u8]) -> Result<(), Conflict> {
        self.usable()?;
        let update = Bytes::copy_from_slice(update);
        let done = self.transaction(REMOTE, |engine, txn| engine.integrate_in(txn, update));
        self.workload = None;
        done
    }

    /// Takes in fragments of any replicas, one after the other, as [`apply`](Self::apply) does, and says whether any was of use. What goes with the end of a change
    /// and takes as long as the document is, such as saying where it was changed, is done once for many of them.
    pub(super) fn replay(&mut self, fragments: &[Bytes]) -> bool {
        let mut any = false;
        for fragments in fragments.chunks(AT_ONCE) {
            if self.usable().is_err() {
                break;
            }
            let mut useful = false;
            let done = self.transaction(REMOTE, |engine, txn| {
                useful = engine.replay_in(txn, fragments);
                Ok(())
            });
            self.workload = None;
            any |= useful && done.is_ok();
        }
        any
    }

    fn replay_in(&mut self, txn: &mut TransactionMut<'_>, fragments: &[Bytes]) -> bool {
        let mut any = false;
        for fragment in fragments {
            any |= self.integrate_in(txn, fragment.clone()).is_ok();
            if self.broken {
                break;
            }
        }
        any
    }

    /// One change of the document, by others.
    fn transaction(
        &mut self,
        origin: &str,
        work: impl FnOnce(&mut Self, &mut TransactionMut<'_>) -> Result<(), Conflict>,
    ) -> Result<(), Conflict> {
        let doc = self.doc.clone();
        let mut txn = doc.transact_mut_with(origin);
        let done = work(self, &mut txn).and_then(|()| self.counted(Workload::commit));
        // Not while a panic unwinds: it may panic once more.
        if caught(|| drop(txn)).is_none() {
            return Err(self.breaks());
        }
        done
    }

    fn integrate_in(&mut self, txn: &mut TransactionMut<'_>, fragment: Bytes) -> Result<(), Conflict> {
        let mut ready = self.advance(txn, fragment)?;
        while let Some(fragment) = ready.pop() {
            match self.advance(txn, fragment) {
                Ok(more) => ready.extend(more),
                Err(conflict) if self.broken => return Err(conflict),
                // It came before, and was no good.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Takes in a fragment, or lets it wait, and gives those that waited for it.
    fn advance(&mut self, txn: &mut TransactionMut<'_>, fragment: Bytes) -> Result<Vec<Bytes>, Conflict> {
        let malformed = |malformed: Malformed| Conflict::new(malformed.to_string());
        let outline = scan::check(&fragment, S::CONTENTS).map_err(malformed)?;
        let update = decode(&fragment).map_err(malformed)?;
        // yrs would let it wait, too, but forgets some of what waits, and leaves gaps.
        let missing = outline.needs.iter().filter(|need| !self.has(&outline, **need));
        // Of each client the last one: with that, all before are there.
        let mut of_each = BTreeMap::new();
        for (client, clock) in missing {
            let last = of_each.entry(*client).or_insert(*clock);
            *last = *clock.max(last);
        }
        if !of_each.is_empty() {
            self.wait(fragment, of_each.into_iter().collect());
            if self.waiting_bytes > MOST_WAITING {
                // Without it, this document could come to differ from the others' without a word.
                self.broken = true;
                return Err(Conflict::new("more waits for what is missing than this document may hold"));
            }
            return Ok(Vec::new());
        }
        self.weigh(txn, &fragment, outline.size)?;
        // Nothing waits in yrs: what builds on something missing does not come here. What does wait goes round in a circle, and yrs would leave a gap.
        let taken = caught(|| txn.apply_update(update).is_ok() && txn.store().pending_update().is_none());
        if taken != Some(true) {
            return Err(self.breaks());
        }
        self.size.add(outline.size);
        let mut ready = Vec::new();
        for (client, clocks) in outline.brings {
            let clock = self.clocks.entry(client).or_default();
            *clock = clocks.end.max(*clock);
            let due: Vec<_> = self.waiting.range((client, 0)..(client, *clock)).map(|(at, _)| *at).collect();
            let due: Vec<_> = due.iter().filter_map(|at| self.waiting.remove(at)).flatten().collect();
            for (fragment, needs) in due {
                self.waiting_bytes -= held(fragment.len(), &needs);
                ready.extend(self.wait(fragment, needs));
            }
        }
        Ok(ready)
    }

    /// Lets a fragment wait for what it needs, one after the other, so that it is looked at again once. Gives it back where
    /// all of that is here.
    fn wait(&mut self, fragment: Bytes, mut needs: Needs) -> Option<Bytes> {
        while let Some(need) = needs.pop() {
            if !self.is_here(need) {
                let length = fragment.len();
                self.waiting_bytes += held(length, &needs);
                let before = self.waiting.entry(need).or_default().insert(fragment, needs);
                self.waiting_bytes -= before.map_or(0, |needs| held(length, &needs));
                return None;
            }
        }
        Some(fragment)
    }

    /// Whether the work stays within bounds if this comes to what is here.
    fn weigh(&mut self, txn: &TransactionMut<'_>, fragment: &[u8], size: Size) -> Result<(), Conflict> {
        if self.workload.is_some() {
            return self.counted(|workload| workload.add(fragment));
        }
        let has_doubled = self.size.pieces() > FIRST_LOOK.max(2 * self.looked_at);
        if !has_doubled && !size.may_be_too_much_for(self.size) {
            return Ok(());
        }
        self.workload = Some(Workload::of_document(S::CONTENTS));
        let mut pieces = 0;
        self.counted(|workload| {
            workload.add(&state_in(txn))?;
            workload.commit()?;
            pieces = workload.pieces();
            workload.add(fragment)?;
            workload.finish()
        })?;
        self.looked_at = pieces;
        self.size = Size { blocks: pieces, ranges: 0, ..self.size };
        Ok(())
    }

    /// Counts something, if the work is counted. Of a document that makes too much no more is taken: what is left out, it would
    /// come to differ from the others' without a word.
    fn counted(
        &mut self,
        count: impl FnOnce(&mut Workload) -> Result<(), Malformed>,
    ) -> Result<(), Conflict> {
        self.workload.as_mut().map_or(Ok(()), count).map_err(|too_much| {
            let conflict = Conflict::new(too_much.to_string());
            self.broken = true;
            self.too_much = Some(too_much);
            conflict
        })
    }

    fn has(&self, outline: &Outline, need: (u64, u64)) -> bool {
        self.is_here(need) || outline.has(need.0, need.1)
    }

    fn is_here(&self, (client, clock): (u64, u64)) -> bool {
        self.clocks.get(&client).is_some_and(|known| clock < *known)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    fn breaks(&mut self) -> Conflict {
        self.broken = true;
        Conflict::new("the fragment broke this document: it makes no sense in it")
    }

    /// The clock after a local change.
    fn tick(&mut self) {
        if let Some(replica) = self.replica {
            let clock = self.clock() as u64;
            self.clocks.insert(replica, clock);
        }
    }

    #[cfg(test)]
    pub(super) fn break_for_test(&mut self) {
        self.broken = true;
    }

    /// The whole state, the same bytes wherever the same fragments were taken in. How a document came to be shows in the pieces yrs keeps it in, and it
    /// keeps what undo may bring back: a document made of the state in one go has none of that.
    ///
    /// Fragments that came too early are behind it, each with its length before it. Yjs does not look there.
    pub(super) fn snapshot(&self) -> Vec<u8> {
        let copy = self.fork();
        // Of more work than may be, the others are to hear so when they read it.
        let state = if copy.broken && !self.broken { self.state() } else { copy.state() };
        let mut snapshot: Vec<u8> = sorted::<S>(state).into();
        let mut early: Vec<_> = self.early().collect();
        early.sort_unstable();
        for fragment in early {
            scan::put_number(&mut snapshot, fragment.len() as u64);
            snapshot.extend_from_slice(fragment);
        }
        snapshot
    }

    fn early(&self) -> impl Iterator<Item = &Bytes> {
        self.waiting.values().flat_map(BTreeMap::keys)
    }

    /// A copy that has no number. An empty one if this one is broken beyond reading.
    pub(super) fn fork(&self) -> Self {
        self.copy(None)
    }

    fn copy(&self, replica: Option<u64>) -> Self {
        let mut copy = Self::new(replica);
        let state = Bytes::from(self.state());
        let copied = copy.transaction(FIRST, |copy, txn| copy.integrate_in(txn, state));
        copy.broken = self.broken || copied.is_err();
        copy.waiting.clone_from(&self.waiting);
        copy.waiting_bytes = self.waiting_bytes;
        copy.looked_at = copy.size.pieces();
        copy
    }

    fn state(&self) -> Vec<u8> {
        state_in(&self.doc.transact())
    }

    /// A document made of a snapshot, if there is one, and of the fragments after it, in one go: those that are no good are passed over.
    pub(super) fn rebuild(
        snapshot: Option<&[u8]>,
        fragments: &[Bytes],
        replica: Option<u64>,
    ) -> Result<Self, Malformed> {
        let replica = replica.map(|number| number & scan::MAX_CLIENT);
        let mut first = Vec::new();
        if let Some(snapshot) = snapshot {
            let (outline, mut rest) = scan::check_first(snapshot, S::CONTENTS)?;
            first.push(Bytes::copy_from_slice(&snapshot[..outline.end]));
            while !rest.is_empty() {
                let (fragment, others) = scan::split(rest)?;
                first.push(Bytes::copy_from_slice(fragment));
                rest = others;
            }
        }
        let mut left_out = BTreeSet::new();
        loop {
            let mut engine = Self::new(replica);
            // A snapshot alone was looked at.
            let counts = first.len() + fragments.len() > 1;
            engine.workload = counts.then(|| Workload::of_document(S::CONTENTS));
            let mut done = engine.transaction(FIRST, |engine, txn| {
                first.iter().try_for_each(|fragment| engine.integrate_in(txn, fragment.clone()))
            });
            let mut breaks = None;
            let kept = fragments.iter().enumerate().filter(|(index, _)| !left_out.contains(index));
            for kept in kept.collect::<Vec<_>>().chunks(AT_ONCE) {
                if done.is_err() || breaks.is_some() {
                    break;
                }
                done = engine.transaction(FIRST, |engine, txn| {
                    // One that is no good has its place, and no effect.
                    breaks = kept.iter().find_map(|(index, fragment)| {
                        let _ = engine.integrate_in(txn, Bytes::clone(fragment));
                        engine.broken.then_some(*index)
                    });
                    Ok(())
                });
            }
            if counts && done.is_ok() && !engine.broken {
                // As it is it is given to others, too.
                let state = engine.state();
                done = engine.counted(|workload| {
                    workload.finish()?;
                    scan::check(&state, S::CONTENTS).map(drop)
                });
            }
            engine.workload = None;
            if let Some(too_much) = engine.too_much {
                // Of what makes too much work together nothing is left out: who took it in bit by bit has all of it.
                return Err(too_much);
            }
            match breaks {
                // Once more without it: what comes behind is not to be lost.
                Some(index) if left_out.len() < MOST_LEFT_OUT => _ = left_out.insert(index),
                Some(_) => return Err(Malformed::new("too much of it breaks the document")),
                None => {
                    engine.looked_at = engine.size.pieces();
                    return done.map(|()| engine).map_err(|conflict| Malformed::new(conflict.to_string()));
                }
            }
        }
    }

    /// Takes in the other's state, and says what it lacks. What came too early here it gets as this one did.
    pub(super) fn merge(&mut self, other: &Self) -> Result<Option<Bytes>, Conflict> {
        other.usable()?;
        self.apply(&other.state())?;
        other.early().try_for_each(|fragment| self.apply(fragment))?;
        let theirs = other.doc.transact().snapshot();
        let txn = self.doc.transact();
        let ours = txn.snapshot();
        let blocks = ours.state_map.iter().any(|(client, clock)| *clock > theirs.state_map.get(client));
        let mut deletes = ours.delete_set;
        deletes.diff_with(&theirs.delete_set);
        if !blocks && deletes.is_empty() {
            return Ok(None);
        }
        let update = txn.encode_diff_v1(&theirs.state_map);
        // yrs puts all deletions there ever were in: what the other lacks will do.
        let Ok((outline, _)) = scan::outline(&update, S::CONTENTS) else { return Ok(Some(update.into())) };
        let mut lacking = update[..outline.deletes].to_vec();
        lacking.extend_from_slice(&deletes.encode_v1());
        drop(txn);
        let lacking = sorted::<S>(lacking);
        self.check_own(&lacking)?;
        Ok(Some(lacking))
    }

    /// Whether both have taken in the same, all of it: no fragment waits for one before it.
    pub(super) fn same_history(&self, other: &Self) -> bool {
        self.waiting.is_empty()
            && other.waiting.is_empty()
            && self.doc.transact().snapshot() == other.doc.transact().snapshot()
    }

    /// Undoes the last step, or does the last one undone again. The watchers see what changed. Of several fragments, the first ones bring nothing to light.
    pub(super) fn undo(&mut self, redo: bool) -> Result<Vec<Bytes>, Conflict> {
        self.usable()?;
        let Some(undo) = &mut self.undo else { return Ok(Vec::new()) };
        let made = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&made);
        let subscribed = self.doc.observe_update_v1(move |_, event| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(event.update.clone());
        });
        let done = subscribed.is_ok()
            && caught(|| if redo { undo.redo_blocking() } else { undo.undo_blocking() }).is_some();
        drop(subscribed);
        if !done {
            return Err(self.breaks());
        }
        self.tick();
        let made = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
        let made: Vec<Bytes> = made.into_iter().map(sorted::<S>).collect();
        made.iter().try_for_each(|fragment| self.check_own(fragment))?;
        Ok(made)
    }

    /// Whether others will take what was made here. It cannot be taken back.
    fn check_own(&mut self, fragment: &[u8]) -> Result<(), Conflict> {
        if fragment.len() < SURELY_TAKEN {
            return Ok(());
        }
        let checked = scan::check(fragment, S::CONTENTS);
        checked.map(drop).map_err(|malformed| {
            self.broken = true;
            Conflict::new(format!("nobody takes so large a change, make smaller ones: {malformed}"))
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

/// All there is, as an update; an empty one of what is broken beyond reading.
fn state_in(txn: &impl ReadTxn) -> Vec<u8> {
    caught(|| txn.encode_diff_v1(&StateVector::default())).unwrap_or_else(|| vec![0, 0])
}

/// What a fragment that waits takes, in bytes, with what it waits for.
fn held(fragment: usize, needs: &[(u64, u64)]) -> usize {
    fragment + size_of_val(needs)
}

/// Whether this is what a document begins with.
pub(super) fn is_first(txn: &TransactionMut<'_>) -> bool {
    txn.origin() == Some(&Origin::from(FIRST))
}

/// A whole update, or a snapshot, if it is one.
pub(super) fn check<S: Shape>(update: &[u8]) -> Result<(), Malformed> {
    scan::check(update, S::CONTENTS).map(drop)
}

fn sorted<S: Shape>(mut update: Vec<u8>) -> Bytes {
    scan::sort(&mut update, S::CONTENTS);
    update.into()
}

fn decode(update: &[u8]) -> Result<Update, Malformed> {
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
    let mut undo = UndoManager::with_options(
        doc,
        yrs::undo::Options {
            // No clock: steps end where `reset` says so.
            capture_timeout_millis: u64::MAX,
            timestamp: Arc::new(|| 1),
            init_undo_stack: steps,
            init_redo_stack: Vec::new(),
            tracked_origins: Default::default(),
            capture_transaction: None,
        },
    );
    shape.track(&mut undo);
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

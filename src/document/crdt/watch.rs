//! Watching the roots of documents that hold values.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use yrs::types::Change;
use yrs::{Array as _, ArrayRef, Map as _, MapRef, Observable, TransactionMut};

use super::engine::{self, Seen};
use super::value::Value;
use crate::sync::lock;

/// In how many ranges a transaction may delete before what it changed is found by comparing (a guess). yrs looks through all of
/// them for each piece of the document.
const MOST_RANGES: usize = 1_000;

/// In how many places an array is changed where it is: in more, it is made anew, which takes as long as one such change.
const FEW_CHANGES: usize = 8;

/// Whether what a transaction changed is better found by comparing: what is in a document when it begins it deletes, too, where
/// it was deleted before.
pub(super) fn compares(txn: &TransactionMut<'_>) -> bool {
    engine::is_first(txn) || txn.delete_set().iter().map(|(_, ranges)| ranges.len()).sum::<usize>() > MOST_RANGES
}

/// A key of a map, and what it has now.
pub(super) type Entry = (Arc<str>, Option<Value>);

/// What happened to an array, from its beginning on.
#[derive(Debug)]
pub(super) enum Step {
    /// A transaction begins: from the beginning again.
    Start,
    Keep(usize),
    Delete(usize),
    Insert(Vec<Value>),
    /// This is all of it.
    All(Vec<Value>),
}

pub(super) fn watch_map(map: &MapRef) -> Seen<Entry> {
    let seen = Seen::new();
    let sink = seen.clone();
    // The keys that have something.
    let known = Mutex::new(BTreeSet::new());
    map.observe_with("watch", move |txn, event| {
        let mut known = lock(&known);
        if compares(txn) {
            if engine::is_first(txn) {
                // As it was before nobody has seen it.
                sink.take();
            }
            known.extend(event.target().keys(txn).map(Arc::<str>::from));
            known.retain(|key| see(txn, event.target(), Arc::clone(key), &sink));
            return;
        }
        let mut keys: Vec<Arc<str>> = event.keys(txn).keys().cloned().collect();
        keys.sort_unstable();
        for key in keys {
            if see(txn, event.target(), Arc::clone(&key), &sink) {
                known.insert(key);
            } else {
                known.remove(&key);
            }
        }
    });
    seen
}

/// Tells what a key has now, and whether it has anything.
fn see(txn: &TransactionMut<'_>, map: &MapRef, key: Arc<str>, sink: &Seen<Entry>) -> bool {
    let value = map.get(txn, &key);
    sink.push((key, value.as_ref().map(Value::of)));
    value.is_some()
}

pub(super) fn watch_array(array: &ArrayRef) -> Seen<Step> {
    let seen = Seen::new();
    let sink = seen.clone();
    array.observe_with("watch", move |txn, event| {
        if compares(txn) {
            if engine::is_first(txn) {
                // As it was before nobody has seen it.
                sink.take();
            }
            let values = event.target().iter(txn);
            return sink.push(Step::All(values.map(|value| Value::of(&value)).collect()));
        }
        sink.push(Step::Start);
        for change in event.delta(txn) {
            sink.push(match change {
                Change::Retain(length) => Step::Keep(*length as usize),
                Change::Removed(length) => Step::Delete(*length as usize),
                Change::Added(values) => Step::Insert(values.iter().map(Value::of).collect()),
            });
        }
    });
    seen
}

/// A place where an array changed: `deleted` values at `position` went, and `inserted` came in their place.
///
/// Of several, each counts in the array as those before it left it.
#[derive(Debug, Clone, PartialEq)]
pub struct Splice {
    /// Where.
    pub position: usize,
    /// How many values went.
    pub deleted: usize,
    /// What came.
    pub inserted: Vec<Value>,
}

/// Does to a mirror what the watcher saw.
pub(super) fn follow(mirror: &mut Vec<Value>, seen: &Seen<Step>) -> Vec<Splice> {
    let mut splices: Vec<Splice> = Vec::new();
    // Of one transaction, in the array as it was before.
    let mut changes: Vec<Splice> = Vec::new();
    let (mut at, mut before) = (0, 0);
    for step in seen.take() {
        let (deleted, inserted) = match step {
            Step::Start => {
                change(mirror, std::mem::take(&mut changes));
                (at, before) = (0, 0);
                continue;
            }
            Step::All(values) => {
                change(mirror, std::mem::take(&mut changes));
                splices.extend(difference(mirror, &values));
                *mirror = values;
                continue;
            }
            Step::Keep(length) => {
                (at, before) = (at + length, before + length);
                continue;
            }
            Step::Delete(deleted) => (deleted, Vec::new()),
            Step::Insert(inserted) => (0, inserted),
        };
        changes.push(Splice { position: before, deleted, inserted: inserted.clone() });
        let next = at + inserted.len();
        match splices.last_mut() {
            Some(last) if last.position + last.inserted.len() == at => {
                last.deleted += deleted;
                last.inserted.extend(inserted);
            }
            _ => splices.push(Splice { position: at, deleted, inserted }),
        }
        (at, before) = (next, before + deleted);
    }
    change(mirror, changes);
    splices
}

/// Changes an array in these places, whose positions are those from before. What yrs says of its own array fits it; if ever
/// not, the mirror is left short, not out of step with a panic.
fn change(mirror: &mut Vec<Value>, changes: Vec<Splice>) {
    if changes.len() <= FEW_CHANGES {
        for Splice { position, deleted, inserted } in changes.into_iter().rev() {
            let start = position.min(mirror.len());
            let end = (start + deleted).min(mirror.len());
            mirror.splice(start..end, inserted);
        }
        return;
    }
    let mut rest = std::mem::take(mirror).into_iter();
    let mut at = 0;
    for Splice { position, deleted, inserted } in changes {
        mirror.extend(rest.by_ref().take(position - at));
        rest.by_ref().take(deleted).for_each(drop);
        mirror.extend(inserted);
        at = position + deleted;
    }
    mirror.extend(rest);
}

/// In which part two arrays differ.
fn difference(old: &[Value], new: &[Value]) -> Option<Splice> {
    let shorter = old.len().min(new.len());
    let position = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old.iter().rev().zip(new.iter().rev()).take(shorter - position);
    let tail = tail.take_while(|(a, b)| a == b).count();
    let (deleted, inserted) = (old.len() - tail - position, &new[position..new.len() - tail]);
    let splice = || Splice { position, deleted, inserted: inserted.to_vec() };
    (deleted + inserted.len() > 0).then(splice)
}

//! Watching the roots of documents that hold values.

use std::sync::Arc;

use yrs::types::Change;
use yrs::{ArrayRef, Map as _, MapRef, Observable};

use super::engine::Seen;
use super::value::Value;

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
}

pub(super) fn watch_map(map: &MapRef) -> Seen<Entry> {
    let seen = Seen::new();
    let sink = seen.clone();
    map.observe_with("watch", move |txn, event| {
        let mut keys: Vec<_> = event.keys(txn).keys().cloned().collect();
        keys.sort_unstable();
        for key in keys {
            let value = event.target().get(txn, &key);
            sink.push((key, value.as_ref().map(Value::of)));
        }
    });
    seen
}

pub(super) fn watch_array(array: &ArrayRef) -> Seen<Step> {
    let seen = Seen::new();
    let sink = seen.clone();
    array.observe_with("watch", move |txn, event| {
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
    let mut at = 0;
    for step in seen.take() {
        let splice = match step {
            Step::Start => {
                at = 0;
                continue;
            }
            Step::Keep(length) => {
                at += length;
                continue;
            }
            Step::Delete(deleted) => Splice { position: at, deleted, inserted: Vec::new() },
            Step::Insert(inserted) => Splice { position: at, deleted: 0, inserted },
        };
        // What yrs says of its own array fits it; if ever not, the mirror is left short, not out of step with a panic.
        let start = splice.position.min(mirror.len());
        let end = (start + splice.deleted).min(mirror.len());
        mirror.splice(start..end, splice.inserted.iter().cloned());
        at += splice.inserted.len();
        match splices.last_mut() {
            Some(last) if last.position + last.inserted.len() == splice.position => {
                last.deleted += splice.deleted;
                last.inserted.extend(splice.inserted);
            }
            _ => splices.push(splice),
        }
    }
    splices
}

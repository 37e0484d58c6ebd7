//! Values by name that many set at once.

use std::collections::BTreeMap;

use bytes::Bytes;
use yrs::undo::UndoManager;
use yrs::{Doc, Map as _, MapRef};

use super::super::{Conflict, Document, Draft, Malformed, Merged, Model};
use super::engine::{self, Engine, Seen, Shape};
use super::scan::Contents;
use super::shared;
use super::undo::{Undo, sealed, undoable};
use super::value::Value;
use super::watch::{Entry, watch_map};

/// Values by name. In Yjs terms: a document with a `Y.Map` named `map`.
///
/// Each name has one value; of two that are set at once, one stays, everywhere the same. Setting and removing at once comes out as one of them, too.
///
/// ```
/// use zincmq::document::{Document, Draft, crdt::{Map, Value}};
///
/// # fn main() -> Result<(), zincmq::document::Conflict> {
/// let (mut here, mut there) = (Map::empty(), Map::empty());
/// here.set_replica(1);
/// there.set_replica(2);
/// let (_, ours) = Draft::alone(&mut here, |draft| draft.set("colour", "red"))?;
/// let (_, theirs) = Draft::alone(&mut there, |draft| draft.set("size", 3))?;
/// ours.iter().try_for_each(|fragment| there.apply(fragment).map(drop))?;
/// theirs.iter().try_for_each(|fragment| here.apply(fragment).map(drop))?;
/// assert_eq!(here.get("size"), Some(&Value::Int(3)));
/// assert!(here.iter().eq(there.iter()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Map {
    engine: Engine<MapShape>,
    mirror: BTreeMap<String, Value>,
}

/// A name, and what happened to its value.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyChange {
    /// The name.
    pub key: String,
    /// Its value before; `None` if it had none.
    pub before: Option<Value>,
    /// Its value now; `None` if it has none.
    pub after: Option<Value>,
}

#[derive(Clone)]
struct MapShape {
    root: MapRef,
    seen: Seen<Entry>,
}

impl Shape for MapShape {
    const CONTENTS: Contents = Contents::Values;

    fn attach(doc: &Doc) -> Self {
        let root = doc.get_or_insert_map("map");
        Self { seen: watch_map(&root), root }
    }

    fn track(&self, undo: &mut UndoManager<()>) {
        undo.expand_scope(&self.root);
    }

    fn forget(&self) {
        self.seen.take();
    }
}

impl Map {
    fn new(engine: Engine<MapShape>) -> Self {
        let mut map = Self { engine, mirror: BTreeMap::new() };
        map.follow();
        map
    }

    /// How many names have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mirror.len()
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mirror.is_empty()
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.mirror.get(key)
    }

    /// All names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.mirror.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether both have taken in the same fragments, and so hold the same.
    #[must_use]
    pub fn same_history(&self, other: &Self) -> bool {
        self.engine.same_history(&other.engine)
    }

    fn follow(&mut self) -> Vec<KeyChange> {
        let seen = self.engine.shape().seen.take();
        let changed = seen.into_iter().map(|(key, after)| {
            let key = key.to_string();
            let before = match &after {
                Some(value) => self.mirror.insert(key.clone(), value.clone()),
                None => self.mirror.remove(&key),
            };
            KeyChange { key, before, after }
        });
        changed.filter(|change| change.before != change.after).collect()
    }
}

impl Document for Map {
    const KIND: &'static str = "map";
    const MODEL: Model = Model::Commutative;
    type Fragment = Bytes;
    type Change = Vec<KeyChange>;

    shared!(MapShape);
}

undoable!(Map);

impl Draft<'_, Map> {
    /// Gives a name a value.
    ///
    /// # Errors
    /// [`Conflict`]: the value is nested too deep; or there is no room, or no replica number. Nothing has changed.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<(), Conflict> {
        let any = value.into().to_any()?;
        let first = self.parts.is_empty();
        let ((), fragment) = self.document.engine.edit(first, 1, |txn, shape| {
            shape.root.insert(txn, key, any);
        })?;
        let change = self.document.follow();
        self.record(fragment, change);
        Ok(())
    }

    /// Takes a name's value away. `false` if it had none.
    ///
    /// # Errors
    /// [`Conflict`]: there is no replica number. Nothing has changed.
    pub fn remove(&mut self, key: &str) -> Result<bool, Conflict> {
        if self.get(key).is_none() {
            return Ok(false);
        }
        let first = self.parts.is_empty();
        let ((), fragment) = self.document.engine.edit(first, 0, |txn, shape| {
            shape.root.remove(txn, key);
        })?;
        let change = self.document.follow();
        self.record(fragment, change);
        Ok(true)
    }
}

//! Values in order that many change at once.

use std::ops::Range;

use bytes::Bytes;
use yrs::undo::UndoManager;
use yrs::{Array as _, ArrayRef, Doc};

use super::super::{Conflict, Document, Draft, Malformed, Merged, Model};
use super::engine::{self, Engine, Seen, Shape};
use super::scan::Contents;
use super::shared;
use super::undo::{Undo, sealed, undoable};
use super::value::Value;
use super::watch::{self, Splice, Step, watch_array};

/// Values in order. In Yjs terms: a document with a `Y.Array` named `array`.
///
/// What is put in at once at the same place comes out in the same order everywhere, and what came in together stays together.
///
/// ```
/// use zincmq::document::{Document, Draft, crdt::{Array, Value}};
///
/// # fn main() -> Result<(), zincmq::document::Conflict> {
/// let mut array = Array::empty();
/// array.set_replica(1);
/// Draft::alone(&mut array, |draft| {
///     draft.insert(0, ["a", "c"])?;
///     draft.insert(1, ["b"])
/// })?;
/// assert_eq!(array.values(), [Value::from("a"), "b".into(), "c".into()]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Array {
    engine: Engine<ArrayShape>,
    mirror: Vec<Value>,
}

#[derive(Clone)]
struct ArrayShape {
    root: ArrayRef,
    seen: Seen<Step>,
}

impl Shape for ArrayShape {
    const CONTENTS: Contents = Contents::Values;

    fn attach(doc: &Doc) -> Self {
        let root = doc.get_or_insert_array("array");
        Self { seen: watch_array(&root), root }
    }

    fn track(&self, undo: &mut UndoManager<()>) {
        undo.expand_scope(&self.root);
    }

    fn forget(&self) {
        self.seen.take();
    }
}

impl Array {
    fn new(engine: Engine<ArrayShape>) -> Self {
        let mut array = Self { engine, mirror: Vec::new() };
        array.follow();
        array
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mirror.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mirror.is_empty()
    }

    /// The value at a position.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<&Value> {
        self.mirror.get(position)
    }

    /// All values.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.mirror
    }

    /// Whether both have taken in the same fragments, and so hold the same.
    #[must_use]
    pub fn same_history(&self, other: &Self) -> bool {
        self.engine.same_history(&other.engine)
    }

    fn follow(&mut self) -> Vec<Splice> {
        watch::follow(&mut self.mirror, &self.engine.shape().seen)
    }
}

impl Document for Array {
    const KIND: &'static str = "array";
    const MODEL: Model = Model::Commutative;
    type Fragment = Bytes;
    type Change = Vec<Splice>;

    shared!(ArrayShape);
}

undoable!(Array);

impl Draft<'_, Array> {
    /// Puts values in at a position.
    ///
    /// # Errors
    /// [`Conflict`]: the position is past the end; a value is nested too deep; or there is no room, or no replica number. Nothing has changed.
    pub fn insert<V: Into<Value>>(
        &mut self,
        position: usize,
        values: impl IntoIterator<Item = V>,
    ) -> Result<(), Conflict> {
        self.replace(position..position, values)
    }

    /// Puts a value in at the end.
    ///
    /// # Errors
    /// [`Conflict`], as for [`insert`](Self::insert).
    pub fn append(&mut self, value: impl Into<Value>) -> Result<(), Conflict> {
        self.insert(self.len(), [value])
    }

    /// Takes the values between two positions out.
    ///
    /// # Errors
    /// [`Conflict`]: they are not both in the array, in this order; or there is no replica number. Nothing has changed.
    pub fn delete(&mut self, range: Range<usize>) -> Result<(), Conflict> {
        self.replace(range, [Value::Null; 0])
    }

    /// Puts values in the place of those between two positions.
    ///
    /// # Errors
    /// [`Conflict`], as for [`insert`](Self::insert) and [`delete`](Self::delete).
    pub fn replace<V: Into<Value>>(
        &mut self,
        range: Range<usize>,
        values: impl IntoIterator<Item = V>,
    ) -> Result<(), Conflict> {
        if range.start > range.end || range.end > self.len() {
            return Err(Conflict::new(format!(
                "no part from {} to {} in an array of {} values",
                range.start,
                range.end,
                self.len()
            )));
        }
        let values = values.into_iter().map(|value| value.into().to_any()).collect::<Result<Vec<_>, _>>()?;
        if range.is_empty() && values.is_empty() {
            return Ok(());
        }
        let first = self.parts.is_empty();
        let ((), fragment) = self.document.engine.edit(first, values.len(), |txn, shape| {
            if !range.is_empty() {
                shape.root.remove_range(txn, range.start as u32, range.len() as u32);
            }
            if !values.is_empty() {
                shape.root.insert_range(txn, range.start as u32, values);
            }
        })?;
        let change = self.document.follow();
        self.record(fragment, change);
        Ok(())
    }
}

//! A table whose rows, columns and cells many change at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use yrs::undo::UndoManager;
use yrs::{Array as _, ArrayRef, Doc, Map as _, MapRef, TransactionMut};

use super::super::{Conflict, Document, Draft, Malformed, Merged, Model};
use super::axis::{Axis, Lines};
use super::engine::{self, Engine, Seen, Shape};
use super::scan::Contents;
use super::shared;
use super::undo::{Undo, sealed, undoable};
use super::value::Value;
use super::watch::{Entry, Step, watch_array, watch_map};

/// A table. In Yjs terms: a document with two `Y.Array`s of text, `rows` and `columns`, that hold what rows and columns are called, in order, and a `Y.Map`
/// named `cells`, whose keys are such a row, a comma, and such a column.
///
/// Rows and columns go by numbers here, from 0. What they are called stays the same when others come before them, so a cell that is set while somebody puts
/// rows in ends up in the row that was meant. Of two that set a cell at once, one stays. When a row is removed while somebody sets a cell in it, it is removed.
///
/// Cells hold a [`Value`]. A formula is a text; what it means is the program's business, and it is not rewritten when rows move. One that is to survive that
/// had better name rows and columns as [`row_name`](Self::row_name) and [`column_name`](Self::column_name) do.
///
/// ```
/// use zincmq::document::{Document, Draft, crdt::{Sheet, Value}};
///
/// # fn main() -> Result<(), zincmq::document::Conflict> {
/// let (mut here, mut there) = (Sheet::empty(), Sheet::empty());
/// here.set_replica(1);
/// there.set_replica(2);
/// let (_, start) = Draft::alone(&mut here, |draft| {
///     draft.insert_rows(0, 2)?;
///     draft.insert_columns(0, 1)
/// })?;
/// start.iter().try_for_each(|fragment| there.apply(fragment).map(drop))?;
/// // One puts a row in at the top, while the other sets a cell in the second row.
/// let (_, ours) = Draft::alone(&mut here, |draft| draft.insert_rows(0, 1))?;
/// let (_, theirs) = Draft::alone(&mut there, |draft| draft.set(1, 0, "=1+2"))?;
/// ours.iter().try_for_each(|fragment| there.apply(fragment).map(drop))?;
/// theirs.iter().try_for_each(|fragment| here.apply(fragment).map(drop))?;
/// assert_eq!(here.cell(2, 0), Some(&Value::from("=1+2")));
/// assert_eq!(there.cell(2, 0), here.cell(2, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sheet {
    engine: Engine<SheetShape>,
    rows: Axis,
    columns: Axis,
    /// By what the row and the column are called; also of those that are gone.
    cells: BTreeMap<(Arc<str>, Arc<str>), Value>,
}

/// Something that happened to a sheet. Of several, each counts in the sheet as those before it left it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SheetChange {
    /// Rows went at a place, and others came there. What their cells hold is to be read.
    Rows(Lines),
    /// Columns went at a place, and others came there. What their cells hold is to be read.
    Columns(Lines),
    /// A cell changed.
    Cell {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// What it holds; `None` for nothing.
        value: Option<Value>,
    },
}

#[derive(Clone)]
struct SheetShape {
    rows: ArrayRef,
    columns: ArrayRef,
    cells: MapRef,
    rows_seen: Seen<Step>,
    columns_seen: Seen<Step>,
    cells_seen: Seen<Entry>,
}

impl Shape for SheetShape {
    const CONTENTS: Contents = Contents::Values;

    fn attach(doc: &Doc) -> Self {
        let rows = doc.get_or_insert_array("rows");
        let columns = doc.get_or_insert_array("columns");
        let cells = doc.get_or_insert_map("cells");
        Self {
            rows_seen: watch_array(&rows),
            columns_seen: watch_array(&columns),
            cells_seen: watch_map(&cells),
            rows,
            columns,
            cells,
        }
    }

    fn track(&self, undo: &mut UndoManager<()>) {
        undo.expand_scope(&self.rows);
        undo.expand_scope(&self.columns);
        undo.expand_scope(&self.cells);
    }

    fn forget(&self) {
        self.rows_seen.take();
        self.columns_seen.take();
        self.cells_seen.take();
    }
}

impl Sheet {
    fn new(engine: Engine<SheetShape>) -> Self {
        let mut sheet =
            Self { engine, rows: Axis::new("row"), columns: Axis::new("column"), cells: BTreeMap::new() };
        sheet.follow();
        sheet
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// How many columns there are.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// What a cell holds. `None` if nothing, or there is no such cell.
    #[must_use]
    pub fn cell(&self, row: usize, column: usize) -> Option<&Value> {
        self.cells.get(&(self.rows.name(row)?, self.columns.name(column)?))
    }

    /// What a row is called, for as long as it exists.
    #[must_use]
    pub fn row_name(&self, row: usize) -> Option<Arc<str>> {
        self.rows.name(row)
    }

    /// What a column is called, for as long as it exists.
    #[must_use]
    pub fn column_name(&self, column: usize) -> Option<Arc<str>> {
        self.columns.name(column)
    }

    /// Where the row of this name is now.
    #[must_use]
    pub fn row_named(&self, name: &str) -> Option<usize> {
        self.rows.place(name)
    }

    /// Where the column of this name is now.
    #[must_use]
    pub fn column_named(&self, name: &str) -> Option<usize> {
        self.columns.place(name)
    }

    /// Whether both have taken in the same fragments, and so hold the same.
    #[must_use]
    pub fn same_history(&self, other: &Self) -> bool {
        self.engine.same_history(&other.engine)
    }

    fn follow(&mut self) -> Vec<SheetChange> {
        let shape = self.engine.shape();
        let rows = self.rows.follow(&shape.rows_seen).map(SheetChange::Rows);
        let columns = self.columns.follow(&shape.columns_seen).map(SheetChange::Columns);
        let mut changes: Vec<_> = rows.into_iter().chain(columns).collect();
        for (key, value) in shape.cells_seen.take() {
            let Some((row, column)) = key.split_once(',') else { continue };
            let place = self.rows.place(row).zip(self.columns.place(column));
            let name = (Arc::from(row), Arc::from(column));
            let before = match &value {
                Some(value) => self.cells.insert(name, value.clone()),
                None => self.cells.remove(&name),
            };
            if let Some((row, column)) = place
                && before != value
            {
                changes.push(SheetChange::Cell { row, column, value });
            }
        }
        changes
    }

    /// The key of a cell that is there.
    fn key(&self, row: usize, column: usize) -> Result<String, Conflict> {
        self.rows.check(row..row.saturating_add(1))?;
        self.columns.check(column..column.saturating_add(1))?;
        let names = self.rows.name(row).zip(self.columns.name(column));
        Ok(names.map(|(row, column)| key(&row, &column)).unwrap_or_default())
    }
}

fn key(row: &str, column: &str) -> String {
    format!("{row},{column}")
}

impl Document for Sheet {
    const KIND: &'static str = "sheet";
    const MODEL: Model = Model::Commutative;
    type Fragment = Bytes;
    type Change = Vec<SheetChange>;

    shared!(SheetShape);
}

undoable!(Sheet);

impl Draft<'_, Sheet> {
    /// Puts empty rows in before a row, or at the end.
    ///
    /// # Errors
    /// [`Conflict`]: there is no such place; or there is no room, or no replica number. Nothing has changed.
    pub fn insert_rows(&mut self, row: usize, count: usize) -> Result<(), Conflict> {
        let at = self.document.rows.raw_place(row)?;
        let names = self.fresh(count);
        self.change(count, |txn, shape| insert(txn, &shape.rows, at, names))
    }

    /// Puts empty columns in before a column, or at the end.
    ///
    /// # Errors
    /// [`Conflict`]: there is no such place; or there is no room, or no replica number. Nothing has changed.
    pub fn insert_columns(&mut self, column: usize, count: usize) -> Result<(), Conflict> {
        let at = self.document.columns.raw_place(column)?;
        let names = self.fresh(count);
        self.change(count, |txn, shape| insert(txn, &shape.columns, at, names))
    }

    /// Removes rows, with what is in them.
    ///
    /// # Errors
    /// [`Conflict`]: they are not all there; or there is no replica number. Nothing has changed.
    pub fn remove_rows(&mut self, rows: Range<usize>) -> Result<(), Conflict> {
        let (names, places) = self.document.rows.cut(rows)?;
        let cells: Vec<_> =
            self.document.cells.keys().filter(|(row, _)| names.contains(row)).cloned().collect();
        self.change(0, |txn, shape| {
            remove(txn, &shape.rows, &places);
            cells.iter().for_each(|(row, column)| drop(shape.cells.remove(txn, &key(row, column))));
        })
    }

    /// Removes columns, with what is in them.
    ///
    /// # Errors
    /// [`Conflict`]: they are not all there; or there is no replica number. Nothing has changed.
    pub fn remove_columns(&mut self, columns: Range<usize>) -> Result<(), Conflict> {
        let (names, places) = self.document.columns.cut(columns)?;
        let cells: Vec<_> =
            self.document.cells.keys().filter(|(_, column)| names.contains(column)).cloned().collect();
        self.change(0, |txn, shape| {
            remove(txn, &shape.columns, &places);
            cells.iter().for_each(|(row, column)| drop(shape.cells.remove(txn, &key(row, column))));
        })
    }

    /// Puts a value into a cell.
    ///
    /// # Errors
    /// [`Conflict`]: there is no such cell; the value is nested too deep; or there is no room, or no replica number. Nothing has changed.
    pub fn set(&mut self, row: usize, column: usize, value: impl Into<Value>) -> Result<(), Conflict> {
        let key = self.document.key(row, column)?;
        let any = value.into().to_any()?;
        self.change(1, |txn, shape| {
            shape.cells.insert(txn, key, any);
        })
    }

    /// Empties a cell.
    ///
    /// # Errors
    /// [`Conflict`]: there is no such cell; or there is no replica number. Nothing has changed.
    pub fn clear(&mut self, row: usize, column: usize) -> Result<(), Conflict> {
        let key = self.document.key(row, column)?;
        if self.cell(row, column).is_none() {
            return Ok(());
        }
        self.change(0, |txn, shape| drop(shape.cells.remove(txn, &key)))
    }

    fn fresh(&self, count: usize) -> Vec<String> {
        (0..count).map(|line| self.engine.fresh(line)).collect()
    }

    fn change(
        &mut self,
        units: usize,
        change: impl FnOnce(&mut TransactionMut<'_>, &SheetShape),
    ) -> Result<(), Conflict> {
        let first = self.parts.is_empty();
        let ((), fragment) = self.document.engine.edit(first, units, change)?;
        let change = self.document.follow();
        // Whatever was made has to go out, or what is made after it will wait for it; also where nothing seems to change.
        if *fragment != [0, 0] {
            self.record(fragment, change);
        }
        Ok(())
    }
}

fn insert(txn: &mut TransactionMut<'_>, lines: &ArrayRef, at: usize, names: Vec<String>) {
    if !names.is_empty() {
        lines.insert_range(txn, at as u32, names);
    }
}

/// From the last to the first.
fn remove(txn: &mut TransactionMut<'_>, lines: &ArrayRef, places: &[usize]) {
    places.iter().rev().for_each(|place| lines.remove(txn, *place as u32));
}

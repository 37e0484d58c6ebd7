//! The rows, or the columns, of a sheet.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::Conflict;
use super::engine::Seen;
use super::value::Value;
use super::watch::{self, Step};

/// A place where rows or columns changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    /// Where.
    pub position: usize,
    /// How many went.
    pub removed: usize,
    /// How many came in their place.
    pub inserted: usize,
}

/// Names in an order. When two undo at once that they removed a line, its name is in the array twice: the first counts.
#[derive(Debug)]
pub(super) struct Axis {
    /// "row" or "column".
    what: &'static str,
    raw: Vec<Value>,
    names: Vec<Arc<str>>,
    places: BTreeMap<Arc<str>, usize>,
}

impl Axis {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, raw: Vec::new(), names: Vec::new(), places: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn name(&self, place: usize) -> Option<Arc<str>> {
        self.names.get(place).cloned()
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    pub(super) fn check(&self, lines: Range<usize>) -> Result<(), Conflict> {
        if lines.start <= lines.end && lines.end <= self.len() {
            return Ok(());
        }
        let (what, len) = (self.what, self.len());
        Err(Conflict::new(if lines.start.checked_add(1) == Some(lines.end) {
            format!("no {what} {} in a sheet of {len} {what}s", lines.start)
        } else {
            format!("no {what}s from {} to {} in a sheet of {len} {what}s", lines.start, lines.end)
        }))
    }

    /// Where in the array a line is, or would come.
    pub(super) fn raw_place(&self, place: usize) -> Result<usize, Conflict> {
        self.check(place..place)?;
        Ok(match self.names.get(place) {
            Some(_) if self.raw.len() == self.names.len() => place,
            Some(name) => {
                self.raw.iter().position(|raw| raw.as_str() == Some(name)).unwrap_or(self.raw.len())
            }
            None => self.raw.len(),
        })
    }

    /// The names of these lines, and where in the array they are, from the first to the last.
    pub(super) fn cut(&self, lines: Range<usize>) -> Result<(Vec<Arc<str>>, Vec<usize>), Conflict> {
        self.check(lines.clone())?;
        if self.raw.len() == self.names.len() {
            return Ok((self.names[lines.clone()].to_vec(), lines.collect()));
        }
        let wanted = |raw: &Value| {
            raw.as_str().and_then(|name| self.place(name)).is_some_and(|at| lines.contains(&at))
        };
        let places = (0..self.raw.len()).filter(|place| wanted(&self.raw[*place])).collect();
        Ok((self.names[lines.clone()].to_vec(), places))
    }

    pub(super) fn follow(&mut self, seen: &Seen<Step>) -> Option<Lines> {
        if watch::follow(&mut self.raw, seen).is_empty() {
            return None;
        }
        let before = std::mem::take(&mut self.names);
        self.places.clear();
        for name in self.raw.iter().filter_map(Value::as_str) {
            if !self.places.contains_key(name) {
                let name: Arc<str> = name.into();
                self.places.insert(Arc::clone(&name), self.names.len());
                self.names.push(name);
            }
        }
        let after = &self.names;
        let position = before.iter().zip(after).take_while(|(a, b)| a == b).count();
        let shorter = before.len().min(after.len()) - position;
        let tail =
            before.iter().rev().zip(after.iter().rev()).take(shorter).take_while(|(a, b)| a == b).count();
        let (removed, inserted) = (before.len() - tail - position, after.len() - tail - position);
        (removed + inserted > 0).then_some(Lines { position, removed, inserted })
    }
}

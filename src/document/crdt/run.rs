//! Typing on where one has just typed.
//!
//! yrs looks for a position from the beginning of a text on, piece by piece. Who types mostly types on, or takes back what was just typed: then it is known which
//! character is there, and the edit is told to yrs by that, as one of somebody else would be. The fragment is the same.

use std::ops::Range;

use super::scan::{self, HAS_ORIGIN, HAS_RIGHT_ORIGIN, Piece};
use super::text::Patch;

/// The content of an item that is text.
const TEXT: u8 = 4;

/// What this replica typed last, and where that ends.
#[derive(Debug)]
pub(super) struct Run {
    client: u64,
    /// The clock of the last unit that was put in, whether it is still there or not: what comes next stands behind it.
    last: u64,
    /// The clocks of units that stand right before the end.
    there: Range<u64>,
    /// Where it ends, in code points.
    end: usize,
    /// What stood behind it when it began.
    right: Option<(u64, u64)>,
}

impl Run {
    /// What begins with a fragment of an edit that put text in, up to `end`.
    pub(super) fn begin(fragment: &[u8], end: usize) -> Option<Self> {
        let Piece { client, clocks, right } = scan::piece(fragment)?;
        Some(Self { client, last: clocks.end - 1, there: clocks, end, right })
    }

    /// The update that does an edit of this replica, if it goes on here: `units` before `end` go, or `inserted` comes there.
    pub(super) fn update(
        &self,
        (client, clock): (u64, u64),
        end: usize,
        units: u64,
        inserted: &str,
    ) -> Option<Vec<u8>> {
        if client != self.client || end != self.end {
            return None;
        }
        let mut update = Update(Vec::with_capacity(48 + inserted.len()));
        if units == 0 {
            // One client has one block, at that clock: what it stands behind, what it stands before, what it is. Nothing goes.
            update.numbers(&[1, 1, client, clock]);
            let right_origin = if self.right.is_some() { HAS_RIGHT_ORIGIN } else { 0 };
            update.0.push(TEXT | HAS_ORIGIN | right_origin);
            update.numbers(&[client, self.last]);
            if let Some((client, clock)) = self.right {
                update.numbers(&[client, clock]);
            }
            update.numbers(&[inserted.len() as u64]);
            update.0.extend_from_slice(inserted.as_bytes());
            update.numbers(&[0]);
        } else if inserted.is_empty() && units <= self.there.end - self.there.start {
            // Nothing comes. Of one client, one range goes.
            update.numbers(&[0, 1, client, 1, self.there.end - units, units]);
        } else {
            return None;
        }
        Some(update.0)
    }

    /// That was done: the text ends there now.
    pub(super) fn go_on(&mut self, clock: u64, end: usize, deleted: u64, inserted: u64) {
        self.end = end;
        self.there.end -= deleted;
        if inserted > 0 {
            self.last = clock + inserted - 1;
            // What stands before that may be something else.
            let start = if self.there.end == clock { self.there.start } else { clock };
            self.there = start..clock + inserted;
        }
    }

    /// Others changed the text. Whether it is still known what stands where this ends.
    pub(super) fn follow(&mut self, patch: &Patch) -> bool {
        let inserted = patch.inserted.chars().count();
        // So many code points at most are units that are known.
        let start = self.end.saturating_sub((self.there.end - self.there.start) as usize);
        if patch.position + patch.deleted < start {
            self.end = self.end + inserted - patch.deleted;
            true
        } else {
            patch.position > self.end
        }
    }
}

/// An update that is being written.
struct Update(Vec<u8>);

impl Update {
    fn numbers(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|number| scan::put_number(&mut self.0, *number));
    }
}

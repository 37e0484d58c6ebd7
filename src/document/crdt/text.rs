//! Text that many type in at once.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use ropey::Rope;
use yrs::types::Delta;
use yrs::types::text::YChange;
use yrs::undo::UndoManager;
use yrs::{Any, Doc, Observable, Out, Text as _, TextRef};

use super::super::{Conflict, Document, Draft, Malformed, Merged, Model};
use super::engine::{self, Engine, Seen, Shape};
use super::run::Run;
use super::scan::Contents;
use super::shared;
use super::undo::{Undo, sealed, undoable};
use super::watch;

/// What stands where a Yjs program put a thing that is no text: OBJECT REPLACEMENT CHARACTER.
const EMBEDDED: &str = "\u{fffc}";

/// A text. In Yjs terms: a document with a `Y.Text` named `text`.
///
/// Positions and lengths count code points (Unicode scalar values); methods whose names end in `_utf16` count UTF-16 units as JavaScript, and so Yjs, does.
/// Formatting that Yjs programs put in stays there, unseen; a thing they embed shows as U+FFFC.
///
/// Reading does not touch yrs: a rope stands beside it.
///
/// ```
/// use zincmq::document::{Document, Draft, crdt::Text};
///
/// # fn main() -> Result<(), zincmq::document::Conflict> {
/// let (mut here, mut there) = (Text::empty(), Text::empty());
/// here.set_replica(1);
/// there.set_replica(2);
/// // In a program, a document's handle does this, and sees to it that fragments get around.
/// let ((), fragments) = Draft::alone(&mut here, |draft| draft.insert(0, "Hello 🌍"))?;
/// for fragment in &fragments {
///     there.apply(fragment)?;
/// }
/// assert_eq!(there.to_string(), "Hello 🌍");
/// assert_eq!((there.len(), there.len_utf16()), (7, 8));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Text {
    engine: Engine<TextShape>,
    mirror: Rope,
    /// What was typed here last.
    run: Option<Run>,
}

/// A place where a text changed: `deleted` code points at `position` went, and `inserted` came in their place.
///
/// Of several, each counts in the text as those before it left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Where, in code points.
    pub position: usize,
    /// How many code points went.
    pub deleted: usize,
    /// What came.
    pub inserted: String,
}

#[derive(Clone)]
struct TextShape {
    root: TextRef,
    seen: Seen<Step>,
}

/// What happened to the text, from its beginning on, in UTF-16 units.
#[derive(Debug)]
enum Step {
    /// A transaction begins: from the beginning again.
    Start,
    Keep(usize),
    Delete(usize),
    Insert(String),
    /// What changed is found by comparing.
    Compare,
}

impl Shape for TextShape {
    const CONTENTS: Contents = Contents::Text;

    fn attach(doc: &Doc) -> Self {
        let root = doc.get_or_insert_text("text");
        let seen = Seen::new();
        let sink = seen.clone();
        root.observe_with("watch", move |txn, event| {
            // What is done here is known already.
            if txn.origin().is_none() || engine::is_first(txn) {
                return;
            }
            if watch::compares(txn) {
                return sink.push(Step::Compare);
            }
            sink.push(Step::Start);
            for delta in event.delta(txn) {
                sink.push(match delta {
                    Delta::Retain(length, _) => Step::Keep(*length as usize),
                    Delta::Deleted(length) => Step::Delete(*length as usize),
                    Delta::Inserted(content, _) => Step::Insert(text_of(content).to_owned()),
                });
            }
        });
        Self { root, seen }
    }

    fn track(&self, undo: &mut UndoManager<()>) {
        undo.expand_scope(&self.root);
    }

    fn forget(&self) {
        self.seen.take();
    }
}

fn text_of(content: &Out) -> &str {
    if let Out::Any(Any::String(text)) = content { text } else { EMBEDDED }
}

impl Text {
    fn new(engine: Engine<TextShape>) -> Self {
        let mut text = Self { engine, mirror: Rope::new(), run: None };
        text.engine.shape().forget();
        text.catch_up();
        text
    }

    /// The length in code points.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mirror.len_chars()
    }

    /// The length in UTF-16 units.
    #[must_use]
    pub fn len_utf16(&self) -> usize {
        self.mirror.len_utf16_cu()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mirror.len_bytes() == 0
    }

    /// The part between two positions.
    ///
    /// # Errors
    /// [`Conflict`]: they are not both in the text, in this order.
    pub fn slice(&self, range: Range<usize>) -> Result<String, Conflict> {
        self.mirror.get_slice(range.clone()).map(String::from).ok_or_else(|| {
            Conflict::new(format!("no part from {} to {} in {}", range.start, range.end, Size(self)))
        })
    }

    /// The code point at a position, if there is one.
    #[must_use]
    pub fn char_at(&self, position: usize) -> Option<char> {
        self.mirror.get_char(position)
    }

    /// The pieces it is kept in, one after the other: to read it without a copy.
    pub fn chunks(&self) -> impl Iterator<Item = &str> {
        self.mirror.chunks()
    }

    /// A position in code points as one in UTF-16 units.
    ///
    /// # Errors
    /// [`Conflict`]: it is past the end.
    pub fn to_utf16(&self, position: usize) -> Result<usize, Conflict> {
        self.mirror.try_char_to_utf16_cu(position).map_err(|_| self.past(position, 0))
    }

    /// A position in UTF-16 units as one in code points.
    ///
    /// # Errors
    /// [`Conflict`]: it is past the end, or within a code point.
    pub fn from_utf16(&self, position: usize) -> Result<usize, Conflict> {
        whole(&self.mirror, position).ok_or_else(|| {
            Conflict::new(if position > self.len_utf16() {
                format!("position {position} in UTF-16 units is past the end of {}", Size(self))
            } else {
                format!("position {position} in UTF-16 units is within a code point")
            })
        })
    }

    /// Whether both have taken in the same fragments, and so hold the same.
    #[must_use]
    pub fn same_history(&self, other: &Self) -> bool {
        self.engine.same_history(&other.engine)
    }

    #[cfg(test)]
    pub(super) fn break_for_test(&mut self) {
        self.engine.break_for_test();
    }

    #[cfg(test)]
    pub(super) fn forget_what_was_typed(&mut self) {
        self.run = None;
    }

    fn past(&self, position: usize, length: usize) -> Conflict {
        let text = Size(self);
        Conflict::new(if length == 0 {
            format!("position {position} is past the end of {text}")
        } else {
            format!("{length} code points at position {position} go past the end of {text}")
        })
    }

    fn edit(
        &mut self,
        step: bool,
        position: usize,
        deleted: usize,
        inserted: &str,
    ) -> Result<Option<(Bytes, Vec<Patch>)>, Conflict> {
        let end = position
            .checked_add(deleted)
            .filter(|end| *end <= self.len())
            .ok_or_else(|| self.past(position, deleted))?;
        if deleted == 0 && inserted.is_empty() {
            return Ok(None);
        }
        let at = self.mirror.char_to_utf16_cu(position);
        let units = self.mirror.char_to_utf16_cu(end) - at;
        let fragment = self.make(step, position, (at, units), end, inserted)?;
        self.mirror.remove(position..end);
        self.mirror.insert(position, inserted);
        Ok(Some((fragment, vec![Patch { position, deleted, inserted: inserted.to_owned() }])))
    }

    /// Does an edit in yrs. `at` and `units` are where it is, and what goes, in UTF-16 units.
    fn make(
        &mut self,
        step: bool,
        position: usize,
        (at, units): (usize, usize),
        end: usize,
        inserted: &str,
    ) -> Result<Bytes, Conflict> {
        let next = self.engine.next_id();
        let known = next.zip(self.run.as_ref());
        let update = known.and_then(|(next, run)| run.update(next, end, units as u64, inserted));
        let after = position + inserted.chars().count();
        let mut run = self.run.take();
        let fragment = match update {
            Some(update) => {
                let fragment = self.engine.edit_by(step, inserted.len(), &update)?;
                let length = inserted.encode_utf16().count();
                if let (Some(run), Some((_, clock))) = (&mut run, next) {
                    run.go_on(clock, after, units as u64, length as u64);
                }
                fragment
            }
            None => {
                let ((), fragment) = self.engine.edit(step, inserted.len(), |txn, shape| {
                    if units > 0 {
                        shape.root.remove_range(txn, at as u32, units as u32);
                    }
                    shape.root.insert(txn, at as u32, inserted);
                })?;
                run = Run::begin(&fragment, after);
                fragment
            }
        };
        self.run = run;
        Ok(fragment)
    }

    /// Does to the mirror what the watcher saw.
    fn follow(&mut self) -> Vec<Patch> {
        let mut patches: Vec<Patch> = Vec::new();
        let mut at = 0;
        let mut lost = false;
        // Where what the last patch put in ends.
        let mut end = 0;
        for step in self.engine.shape().seen.take() {
            let patch = match step {
                Step::Start => {
                    at = 0;
                    continue;
                }
                Step::Compare => {
                    lost = true;
                    break;
                }
                Step::Keep(units) => {
                    at += units;
                    continue;
                }
                Step::Delete(units) => {
                    let (Some(position), Some(end)) =
                        (whole(&self.mirror, at), whole(&self.mirror, at + units))
                    else {
                        lost = true;
                        break;
                    };
                    self.mirror.remove(position..end);
                    Patch { position, deleted: end - position, inserted: String::new() }
                }
                Step::Insert(inserted) => {
                    let Some(position) = whole(&self.mirror, at) else {
                        lost = true;
                        break;
                    };
                    self.mirror.insert(position, &inserted);
                    at += inserted.encode_utf16().count();
                    Patch { position, deleted: 0, inserted }
                }
            };
            let start = patch.position;
            let inserted = patch.inserted.chars().count();
            match patches.last_mut().filter(|_| end == start) {
                Some(last) => {
                    last.deleted += patch.deleted;
                    last.inserted.push_str(&patch.inserted);
                }
                None => patches.push(patch),
            }
            end = start + inserted;
        }
        let length = self.engine.read(|txn, shape| shape.root.len(txn));
        if lost || length as usize != self.len_utf16() {
            // Or somebody cut a surrogate pair in two.
            patches.extend(self.catch_up());
        }
        if let Some(run) = &mut self.run
            && !patches.iter().all(|patch| run.follow(patch))
        {
            self.run = None;
        }
        patches
    }

    /// Reads the whole text again, and says how it differs.
    fn catch_up(&mut self) -> Option<Patch> {
        let text: String = self.engine.read(|txn, shape| {
            let parts = shape.root.diff(txn, YChange::identity);
            parts.iter().map(|part| text_of(&part.insert)).collect()
        });
        let old = std::mem::replace(&mut self.mirror, Rope::from_str(&text));
        let new = &self.mirror;
        let shorter = old.len_chars().min(new.len_chars());
        let position = old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count();
        let (olds, news) =
            (old.chars_at(old.len_chars()).reversed(), new.chars_at(new.len_chars()).reversed());
        let tail = olds.zip(news).take(shorter - position).take_while(|(a, b)| a == b).count();
        let deleted = old.len_chars() - tail - position;
        let inserted = new.slice(position..new.len_chars() - tail).to_string();
        (deleted > 0 || !inserted.is_empty()).then_some(Patch { position, deleted, inserted })
    }
}

/// A position in UTF-16 units as one in code points, if it is there and not within one.
fn whole(rope: &Rope, units: usize) -> Option<usize> {
    let position = rope.try_utf16_cu_to_char(units).ok()?;
    (rope.char_to_utf16_cu(position) == units).then_some(position)
}

/// A text's length, in words.
struct Size<'a>(&'a Text);

impl fmt::Display for Size<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text of {} code points", self.0.len())?;
        if self.0.len() != self.0.len_utf16() {
            write!(f, " ({} UTF-16 units)", self.0.len_utf16())?;
        }
        Ok(())
    }
}

/// The whole text.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chunks().try_for_each(|chunk| f.write_str(chunk))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.mirror == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.mirror == **other
    }
}

impl Document for Text {
    const KIND: &'static str = "text";
    const MODEL: Model = Model::Commutative;
    type Fragment = Bytes;
    type Change = Vec<Patch>;

    shared!(TextShape);
}

undoable!(Text);

impl Draft<'_, Text> {
    /// Puts text in at a position, in code points.
    ///
    /// # Errors
    /// [`Conflict`]: the position is past the end; or there is no room, or no replica number. Nothing has changed.
    pub fn insert(&mut self, position: usize, text: &str) -> Result<(), Conflict> {
        self.replace(position, 0, text)
    }

    /// Puts text in at the end.
    ///
    /// # Errors
    /// [`Conflict`], as for [`insert`](Self::insert).
    pub fn append(&mut self, text: &str) -> Result<(), Conflict> {
        self.replace(self.len(), 0, text)
    }

    /// Takes so many code points out at a position.
    ///
    /// # Errors
    /// [`Conflict`]: there are not so many; nothing has changed.
    pub fn delete(&mut self, position: usize, length: usize) -> Result<(), Conflict> {
        self.replace(position, length, "")
    }

    /// Puts text in the place of so many code points.
    ///
    /// # Errors
    /// [`Conflict`], as for [`insert`](Self::insert) and [`delete`](Self::delete).
    pub fn replace(&mut self, position: usize, length: usize, text: &str) -> Result<(), Conflict> {
        let first = self.parts.is_empty();
        if let Some((fragment, patches)) = self.document.edit(first, position, length, text)? {
            self.record(fragment, patches);
        }
        Ok(())
    }

    /// As [`insert`](Self::insert), with the position in UTF-16 units.
    ///
    /// # Errors
    /// [`Conflict`]; also where the position is within a code point.
    pub fn insert_utf16(&mut self, position: usize, text: &str) -> Result<(), Conflict> {
        self.replace_utf16(position, 0, text)
    }

    /// As [`delete`](Self::delete), with position and length in UTF-16 units.
    ///
    /// # Errors
    /// [`Conflict`]; also where one of the ends is within a code point.
    pub fn delete_utf16(&mut self, position: usize, length: usize) -> Result<(), Conflict> {
        self.replace_utf16(position, length, "")
    }

    /// As [`replace`](Self::replace), with position and length in UTF-16 units.
    ///
    /// # Errors
    /// [`Conflict`]; also where one of the ends is within a code point.
    pub fn replace_utf16(&mut self, position: usize, length: usize, text: &str) -> Result<(), Conflict> {
        let start = self.from_utf16(position)?;
        let end = self.from_utf16(position.saturating_add(length))?;
        self.replace(start, end - start, text)
    }
}

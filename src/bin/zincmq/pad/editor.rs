//! A text with a cursor: what a key does to it, and what becomes of the cursor when the text changes. No terminal, no cluster.
//!
//! The text is a copy of the document's, kept up to date with its patches; a key does not change it, but says what is to be changed. What comes of that is
//! told by patches like everything else.

use ropey::Rope;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;
use zincmq::document::crdt::Patch;

/// How far apart tabs stop, in cells.
const TAB: usize = 4;

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A character, or what was pasted.
    Text(String),
    Enter,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    PageUp,
    PageDown,
    Undo,
    Redo,
    Quit,
}

impl Key {
    /// Whether it is about the text, and not only about the cursor.
    pub(super) fn changes_text(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Enter | Self::Backspace | Self::Delete | Self::Undo | Self::Redo)
    }
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing but what the editor has done itself.
    None,
    /// At a position, so many code points go and others come. `joins`: it is one step with what was typed before, for undo.
    Replace {
        position: usize,
        deleted: usize,
        inserted: String,
        joins: bool,
    },
    Undo,
    Redo,
}

/// A piece of a line as it is shown: one cluster of code points that people take for a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it begins, in code points of the line.
    pub(super) position: usize,
    /// How many code points it has.
    pub(super) length: usize,
    /// Where it is shown, in cells from the line's beginning.
    pub(super) column: usize,
    /// How many cells it takes.
    pub(super) width: usize,
    /// What is shown.
    pub(super) symbol: String,
}

/// The text, the cursor, and the part that is seen.
#[derive(Debug, Default)]
pub(super) struct Editor {
    text: Rope,
    /// In code points.
    cursor: usize,
    /// The column that moves up and down keep to, in cells.
    column: Option<usize>,
    /// Whether what was typed last may become one step with what is typed next.
    typing: bool,
    /// The first line that is seen, and how many cells of each are not.
    top: usize,
    left: usize,
    /// How many lines are seen.
    height: usize,
}

impl Editor {
    pub(super) fn new(text: &str) -> Self {
        Self { text: Rope::from_str(text), height: 1, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.text.len_chars()
    }

    pub(super) fn cursor(&self) -> usize {
        self.cursor
    }

    /// What a key does: to the cursor here, to the text by way of the document.
    pub(super) fn on_key(&mut self, key: Key) -> Action {
        let typing = std::mem::take(&mut self.typing);
        let column = self.column.take();
        let replace = |position, deleted, inserted: String| Action::Replace {
            position,
            deleted,
            inserted,
            joins: false,
        };
        match key {
            Key::Text(inserted) => {
                // A word is one step.
                let is_word = !inserted.chars().any(char::is_whitespace);
                self.typing = true;
                return Action::Replace {
                    position: self.cursor,
                    deleted: 0,
                    inserted,
                    joins: typing && is_word,
                };
            }
            Key::Enter => return replace(self.cursor, 0, "\n".to_owned()),
            Key::Backspace => {
                let start = self.before(self.cursor);
                if start < self.cursor {
                    return replace(start, self.cursor - start, String::new());
                }
            }
            Key::Delete => {
                let end = self.after(self.cursor);
                if end > self.cursor {
                    return replace(self.cursor, end - self.cursor, String::new());
                }
            }
            Key::Left => self.cursor = self.before(self.cursor),
            Key::Right => self.cursor = self.after(self.cursor),
            Key::Home => self.cursor = self.text.line_to_char(self.line()),
            Key::End => self.cursor = self.end_of(self.line()),
            Key::Up => self.move_lines(column, -1),
            Key::Down => self.move_lines(column, 1),
            Key::PageUp => self.move_lines(column, -(self.height.max(2) as isize - 1)),
            Key::PageDown => self.move_lines(column, self.height.max(2) as isize - 1),
            Key::Undo => return Action::Undo,
            Key::Redo => return Action::Redo,
            // That is for whoever has the terminal.
            Key::Quit => {}
        }
        Action::None
    }

    /// The text has changed. The cursor goes where something was changed here, and else stays at what it stands before.
    pub(super) fn apply(&mut self, patches: &[Patch], here: bool) {
        for patch in patches {
            let position = patch.position.min(self.text.len_chars());
            let end = (position + patch.deleted).min(self.text.len_chars());
            self.text.remove(position..end);
            self.text.insert(position, &patch.inserted);
            self.cursor = if here { end_of(patch) } else { moved(self.cursor, patch) };
        }
        self.cursor = self.cursor.min(self.len());
    }

    /// The text is another one; where it is the same at both ends, the cursor stays. Gives what differs.
    pub(super) fn reset(&mut self, text: &str) -> Patch {
        let new = Rope::from_str(text);
        let old = &self.text;
        let shorter = old.len_chars().min(new.len_chars());
        let position = old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count();
        let ends = old
            .chars_at(old.len_chars())
            .reversed()
            .zip(new.chars_at(new.len_chars()).reversed())
            .take(shorter - position)
            .take_while(|(a, b)| a == b)
            .count();
        let patch = Patch {
            position,
            deleted: old.len_chars() - ends - position,
            inserted: new.slice(position..new.len_chars() - ends).to_string(),
        };
        self.apply(std::slice::from_ref(&patch), false);
        patch
    }

    /// Lets as much be seen, with the cursor in it. Gives the first line, and how many cells of each line are hidden.
    pub(super) fn scroll(&mut self, width: usize, height: usize) -> (usize, usize) {
        self.height = height;
        let (line, column) = self.place(self.cursor);
        self.top = self.top.min(line).max((line + 1).saturating_sub(height));
        self.left = self.left.min(column).max((column + 1).saturating_sub(width));
        (self.top, self.left)
    }

    /// The line and the column, in cells, of a position.
    pub(super) fn place(&self, position: usize) -> (usize, usize) {
        let position = position.min(self.len());
        let line = self.text.char_to_line(position);
        let within = position - self.text.line_to_char(line);
        let mut column = 0;
        for piece in self.pieces(line) {
            if piece.position + piece.length > within {
                return (line, piece.column);
            }
            column = piece.column + piece.width;
        }
        (line, column)
    }

    pub(super) fn lines(&self) -> usize {
        self.text.len_lines()
    }

    /// A line as it is shown, without its line break.
    pub(super) fn pieces(&self, line: usize) -> Vec<Piece> {
        if line >= self.text.len_lines() {
            return Vec::new();
        }
        let start = self.text.line_to_char(line);
        let text = self.text.slice(start..self.end_of(line)).to_string();
        let (mut position, mut column) = (0, 0);
        let piece = |cluster: &str| {
            let (symbol, width) = shown(cluster, column);
            let length = cluster.chars().count();
            let piece = Piece { position, length, column, width, symbol };
            position += length;
            column += width;
            piece
        };
        text.graphemes(true).map(piece).collect()
    }

    fn line(&self) -> usize {
        self.text.char_to_line(self.cursor)
    }

    /// Where a line ends, before its line break.
    fn end_of(&self, line: usize) -> usize {
        if line + 1 < self.text.len_lines() {
            self.text.line_to_char(line + 1) - 1
        } else {
            self.text.len_chars()
        }
    }

    /// The beginning of what is before a position.
    fn before(&self, position: usize) -> usize {
        let line = self.text.char_to_line(position);
        let start = self.text.line_to_char(line);
        if position == start {
            return position.saturating_sub(1);
        }
        let pieces = self.pieces(line);
        let before = pieces.iter().rev().map(|piece| start + piece.position);
        before.into_iter().find(|begin| *begin < position).unwrap_or(start)
    }

    /// The end of what is behind a position.
    fn after(&self, position: usize) -> usize {
        let line = self.text.char_to_line(position);
        let start = self.text.line_to_char(line);
        if position == self.end_of(line) {
            return (position + 1).min(self.len());
        }
        let pieces = self.pieces(line);
        let behind = pieces.iter().map(|piece| start + piece.position + piece.length);
        behind.into_iter().find(|end| *end > position).unwrap_or(position)
    }

    fn move_lines(&mut self, column: Option<usize>, lines: isize) {
        let (line, own) = self.place(self.cursor);
        let column = column.unwrap_or(own);
        let to = line.saturating_add_signed(lines).min(self.text.len_lines() - 1);
        // The last piece that does not begin behind the column, or the end.
        let start = self.text.line_to_char(to);
        let pieces = self.pieces(to);
        let within = pieces.iter().find(|piece| piece.column + piece.width > column);
        self.cursor = within.map_or_else(|| self.end_of(to), |piece| start + piece.position);
        self.column = Some(column);
    }
}

/// What a cluster is shown as, and how many cells it takes where it begins in this column.
fn shown(cluster: &str, column: usize) -> (String, usize) {
    let mut chars = cluster.chars();
    match (chars.next(), chars.next()) {
        (Some('\t'), None) => (" ".repeat(TAB - column % TAB), TAB - column % TAB),
        // There are pictures of these.
        (Some(c @ '\0'..='\x1f'), None) => (picture(0x2400 + c as u32), 1),
        (Some('\x7f'), None) => (picture(0x2421), 1),
        _ if cluster.chars().any(char::is_control) => ("\u{fffd}".to_owned(), 1),
        _ => match cluster.width() {
            // Something that stands for itself nowhere, such as a lone accent.
            0 => ("\u{fffd}".to_owned(), 1),
            width => (cluster.to_owned(), width),
        },
    }
}

fn picture(code: u32) -> String {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
}

fn end_of(patch: &Patch) -> usize {
    patch.position + patch.inserted.chars().count()
}

/// Where a position is after a patch that somebody else made: what comes in just there comes behind it.
pub(super) fn moved(position: usize, patch: &Patch) -> usize {
    if position <= patch.position {
        position
    } else if position < patch.position + patch.deleted {
        patch.position
    } else {
        position - patch.deleted + patch.inserted.chars().count()
    }
}

/// Where somebody's cursor is after a patch, if it is known whether it was made there.
pub(super) fn moved_by(position: usize, patch: &Patch, there: bool) -> usize {
    if there { end_of(patch) } else { moved(position, patch) }
}

#[cfg(test)]
#[path = "editor/tests.rs"]
mod tests;

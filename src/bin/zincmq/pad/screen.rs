//! What a pad looks like: the text, the cursors in it, and a line about who is here and how things stand.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use unicode_width::UnicodeWidthStr;

use super::editor::Editor;

/// What tells the others apart. More than these share theirs.
const COLOURS: [Color; 6] =
    [Color::Cyan, Color::Magenta, Color::Yellow, Color::Green, Color::LightBlue, Color::LightRed];

/// Somebody else who has the document open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Other {
    pub(super) name: String,
    /// Where the cursor is, in code points.
    pub(super) cursor: usize,
    /// A number of theirs, to choose a colour by.
    pub(super) number: u64,
}

impl Other {
    fn colour(&self) -> Color {
        COLOURS[(self.number % COLOURS.len() as u64) as usize]
    }
}

/// How things stand.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    pub(super) document: String,
    /// Who we are.
    pub(super) name: String,
    /// How many own changes have no place yet.
    pub(super) unsynced: usize,
    pub(super) connection: Connection,
    /// Something to tell until the next key.
    pub(super) word: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Connection {
    #[default]
    Fine,
    Lost(String),
    /// Told until the next key.
    Back,
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, editor: &mut Editor, others: &[Other], status: &Status) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let (text, line) =
        (Rect { height: area.height - 1, ..area }, Rect { y: area.bottom() - 1, height: 1, ..area });
    let (top, left) = editor.scroll(text.width.into(), text.height.into());
    let buffer = frame.buffer_mut();
    draw_text(buffer, text, editor, (top, left));
    for other in others {
        draw_cursor(buffer, text, editor, (top, left), other);
    }
    draw_status(buffer, line, others, status);
    let (line, column) = editor.place(editor.cursor());
    if let Some(position) = seen_at(text, line, column, (top, left)) {
        frame.set_cursor_position(position);
    }
}

/// Where a place of the text is seen, if it is.
fn seen_at(area: Rect, line: usize, column: usize, (top, left): (usize, usize)) -> Option<Position> {
    let x = u16::try_from(column.checked_sub(left)?).ok().filter(|x| *x < area.width)?;
    let y = u16::try_from(line.checked_sub(top)?).ok().filter(|y| *y < area.height)?;
    Some(Position { x: area.x + x, y: area.y + y })
}

fn draw_text(buffer: &mut Buffer, area: Rect, editor: &Editor, (top, left): (usize, usize)) {
    for (y, line) in (area.top()..area.bottom()).zip(top..) {
        if line >= editor.lines() {
            buffer.set_string(area.x, y, "~", Style::new().fg(Color::DarkGray));
            continue;
        }
        for piece in editor.pieces(line) {
            let right = left + usize::from(area.width);
            if piece.column >= right {
                break;
            }
            if piece.column + piece.width <= left {
                continue;
            }
            // What is cut in two by an edge is not shown.
            let whole = piece.column >= left && piece.column + piece.width <= right;
            if let (true, Some(at)) = (whole, seen_at(area, line, piece.column, (top, left))) {
                buffer.set_string(at.x, y, &piece.symbol, Style::new());
            }
        }
    }
}

/// Somebody's cursor, and their name behind the line.
fn draw_cursor(buffer: &mut Buffer, area: Rect, editor: &Editor, seen: (usize, usize), other: &Other) {
    let (line, column) = editor.place(other.cursor);
    if let Some(at) = seen_at(area, line, column, seen) {
        buffer[at].set_style(Style::new().fg(Color::Black).bg(other.colour()));
    }
    let end = editor.pieces(line).last().map_or(0, |piece| piece.column + piece.width);
    // Two cells behind the end, where the cursor itself may be; further, if somebody's name is there.
    let mut column = end + 2;
    while let Some(at) = seen_at(area, line, column, seen) {
        if buffer[at].symbol() == " " && (at.x == area.x || buffer[(at.x - 1, at.y)].symbol() == " ") {
            let room = usize::from(area.right() - at.x);
            buffer.set_stringn(at.x, at.y, &other.name, room, Style::new().fg(other.colour()));
            return;
        }
        column += 1;
    }
}

fn draw_status(buffer: &mut Buffer, area: Rect, others: &[Other], status: &Status) {
    let base = Style::new().add_modifier(Modifier::REVERSED);
    buffer.set_style(area, base);
    let mut parts = vec![(format!(" {} ", status.document), base.add_modifier(Modifier::BOLD))];
    match &status.connection {
        Connection::Fine => {}
        Connection::Lost(_) => {
            parts.push((" connection lost ".to_owned(), Style::new().fg(Color::White).bg(Color::Red)));
        }
        Connection::Back => {
            parts.push((" connected again ".to_owned(), Style::new().fg(Color::Black).bg(Color::Green)));
        }
    }
    if let Some(word) = &status.word {
        parts.push((format!(" {word} "), Style::new().fg(Color::Black).bg(Color::Yellow)));
    }
    if status.unsynced > 0 {
        parts.push((format!(" {} unsynced ", status.unsynced), base));
    }
    parts.push((format!(" {} (you)", status.name), base));
    for other in others {
        parts.push((" ".to_owned(), base));
        parts.push((other.name.clone(), Style::new().fg(Color::Black).bg(other.colour())));
    }
    if let Connection::Lost(reason) = &status.connection {
        parts.push((format!("  {reason}; what is typed goes out when it is back"), base));
    }
    let mut x = area.x;
    for (text, style) in parts {
        x = buffer.set_stringn(x, area.y, text, usize::from(area.right().saturating_sub(x)), style).0;
    }
    let help = " ctrl-q quits ";
    if usize::from(area.right().saturating_sub(x)) > help.width() {
        buffer.set_string(area.right() - help.width() as u16, area.y, help, base);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::pad::editor::Key;

    struct Seen {
        rows: Vec<String>,
        cursor: (u16, u16),
        buffer: Buffer,
    }

    fn seen(size: (u16, u16), editor: &mut Editor, others: &[Other], status: &Status) -> Seen {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(frame, editor, others, status)).unwrap();
        let cursor = terminal.get_cursor_position().unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = (0..size.1)
            .map(|y| {
                let mut row = String::new();
                let mut x = 0;
                while x < size.0 {
                    let symbol = buffer[(x, y)].symbol();
                    row.push_str(symbol);
                    x += symbol.width().max(1) as u16;
                }
                row.trim_end().to_owned()
            })
            .collect();
        Seen { rows, cursor: (cursor.x, cursor.y), buffer }
    }

    fn status() -> Status {
        Status { document: "minutes".to_owned(), name: "ada".to_owned(), ..Status::default() }
    }

    fn bob(cursor: usize) -> Other {
        Other { name: "bob".to_owned(), cursor, number: 0 }
    }

    #[test]
    fn text_cursors_and_who_is_here_are_seen() {
        let mut editor = Editor::new("one\n漢\ttwo\n");
        editor.on_key(Key::Down);
        editor.on_key(Key::Right);
        let seen = seen((44, 5), &mut editor, &[bob(1)], &status());
        assert_eq!(seen.rows[..4], ["one  bob", "漢  two", "", "~"]);
        assert_eq!(seen.rows[4], " minutes  ada (you) bob        ctrl-q quits");
        assert_eq!(seen.cursor, (2, 1));
        assert_eq!(seen.buffer[(1, 0)].bg, Color::Cyan);
        assert_eq!(seen.buffer[(0, 0)].bg, Color::Reset);
        assert_eq!(seen.buffer[(5, 0)].fg, Color::Cyan);
    }

    #[test]
    fn a_cursor_at_the_end_of_a_line_and_two_names_behind_it_have_room() {
        let mut editor = Editor::new("x\n");
        let eve = Other { name: "eve".to_owned(), cursor: 1, number: 1 };
        let seen = seen((30, 3), &mut editor, &[bob(1), eve], &status());
        assert_eq!(seen.rows[0], "x  bob eve");
        // The one drawn last is seen.
        assert_eq!(seen.buffer[(1, 0)].bg, Color::Magenta);
    }

    #[test]
    fn what_is_wide_is_not_cut_in_two() {
        let mut editor = Editor::new("漢字漢字");
        assert_eq!(seen((5, 2), &mut editor, &[], &status()).rows[0], "漢字");
        editor.on_key(Key::End);
        // Scrolled by four cells, to have the cursor behind the end in view.
        let seen = seen((5, 2), &mut editor, &[], &status());
        assert_eq!((seen.rows[0].as_str(), seen.cursor), ("漢字", (4, 0)));
    }

    #[test]
    fn troubles_are_told() {
        let mut editor = Editor::new("");
        let lost = Status {
            unsynced: 3,
            connection: Connection::Lost("the host went away".to_owned()),
            word: Some("read-only".to_owned()),
            ..status()
        };
        let row = seen((130, 2), &mut editor, &[], &lost).rows[1].clone();
        for words in ["connection lost", "3 unsynced", "read-only", "the host went away"] {
            assert!(row.contains(words), "{row}");
        }
        let back = Status { connection: Connection::Back, ..status() };
        assert!(seen((80, 2), &mut editor, &[], &back).rows[1].contains("connected again"));
    }

    #[test]
    fn any_size_will_do() {
        let text: String = (0..50).map(|i| format!("{i}\t漢字 {}\n", "x".repeat(i))).collect();
        for width in 0..12 {
            for height in 0..5 {
                let mut editor = Editor::new(&text);
                for key in [Key::End, Key::PageDown, Key::Down, Key::End] {
                    editor.on_key(key);
                    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                    terminal.draw(|frame| draw(frame, &mut editor, &[bob(7)], &status())).unwrap();
                }
            }
        }
    }
}

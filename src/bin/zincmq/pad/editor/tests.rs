use super::*;

fn patch(position: usize, deleted: usize, inserted: &str) -> Patch {
    Patch { position, deleted, inserted: inserted.to_owned() }
}

/// An editor, and what its keys do to a text that nobody else changes.
struct Alone(Editor);

impl Alone {
    fn new(text: &str) -> Self {
        let mut editor = Editor::new(text);
        editor.scroll(80, 5);
        Self(editor)
    }

    fn press(&mut self, keys: impl IntoIterator<Item = Key>) -> &mut Self {
        for key in keys {
            if let Action::Replace { position, deleted, inserted, .. } = self.0.on_key(key) {
                self.0.apply(&[patch(position, deleted, &inserted)], true);
            }
        }
        self
    }

    fn write(&mut self, text: &str) -> &mut Self {
        self.press(text.chars().map(|c| Key::Text(c.to_string())))
    }

    /// The text, with a bar where the cursor is.
    fn seen(&self) -> String {
        let mut text = self.0.text.clone();
        text.insert_char(self.0.cursor, '|');
        text.to_string()
    }
}

#[test]
fn what_is_typed_comes_where_the_cursor_is() {
    let mut pad = Alone::new("");
    assert_eq!(pad.write("ab").press([Key::Left]).write("x").press([Key::Enter]).seen(), "ax\n|b");
    assert_eq!(pad.press([Key::Text("pasted\ntoo".to_owned())]).seen(), "ax\npasted\ntoo|b");
    assert_eq!(pad.press([Key::Backspace, Key::Delete, Key::Delete]).seen(), "ax\npasted\nto|");
}

#[test]
fn line_breaks_are_passed_and_taken_out_like_anything_else() {
    let mut pad = Alone::new("ab\ncd");
    assert_eq!(pad.press([Key::Down]).seen(), "ab\n|cd");
    assert_eq!(pad.press([Key::Left]).seen(), "ab|\ncd");
    assert_eq!(pad.press([Key::Right]).seen(), "ab\n|cd");
    assert_eq!(pad.press([Key::Backspace]).seen(), "ab|cd");
    assert_eq!(Alone::new("a\nb").press([Key::End, Key::Delete]).seen(), "a|b");
}

#[test]
fn nothing_is_before_the_beginning_or_behind_the_end() {
    let mut pad = Alone::new("");
    for key in [
        Key::Left,
        Key::Right,
        Key::Up,
        Key::Down,
        Key::Home,
        Key::End,
        Key::PageUp,
        Key::PageDown,
        Key::Backspace,
        Key::Delete,
    ] {
        assert_eq!(pad.0.on_key(key.clone()), Action::None, "{key:?}");
        assert_eq!(pad.seen(), "|");
    }
}

#[test]
fn home_and_end_go_to_the_ends_of_the_line() {
    let mut pad = Alone::new("one\ntwo\n");
    assert_eq!(pad.press([Key::Down, Key::End]).seen(), "one\ntwo|\n");
    assert_eq!(pad.press([Key::Home]).seen(), "one\n|two\n");
    assert_eq!(pad.press([Key::Down, Key::Home, Key::End]).seen(), "one\ntwo\n|");
}

#[test]
fn moves_up_and_down_keep_to_a_column_of_cells() {
    let mut pad = Alone::new("long line\nx\n漢字漢字\n\tend");
    pad.press([Key::End, Key::Left, Key::Left]);
    assert_eq!(pad.press([Key::Down]).seen(), "long line\nx|\n漢字漢字\n\tend");
    // Seven cells in: within the fourth of the wide ones, so before it.
    assert_eq!(pad.press([Key::Down]).seen(), "long line\nx\n漢字漢|字\n\tend");
    assert_eq!(pad.press([Key::Down]).seen(), "long line\nx\n漢字漢字\n\tend|");
    assert_eq!(pad.press([Key::Up, Key::Up, Key::Up]).seen(), "long li|ne\nx\n漢字漢字\n\tend");
    assert_eq!(pad.press([Key::Up]).seen(), "long li|ne\nx\n漢字漢字\n\tend");
}

#[test]
fn a_page_is_what_is_seen_but_for_one_line() {
    let text: String = (0..20).map(|i| format!("{i}\n")).collect();
    let mut pad = Alone::new(&text);
    pad.press([Key::PageDown]);
    assert_eq!(pad.0.place(pad.0.cursor), (4, 0));
    pad.press([Key::PageDown, Key::PageUp]);
    assert_eq!(pad.0.place(pad.0.cursor), (4, 0));
    pad.press([Key::PageUp, Key::PageUp]);
    assert_eq!(pad.0.place(pad.0.cursor), (0, 0));
}

#[test]
fn what_people_take_for_a_character_is_passed_and_taken_out_as_one() {
    let mut pad = Alone::new("e\u{301}👩\u{200d}👩\u{200d}👧x");
    assert_eq!(pad.press([Key::Right]).0.cursor(), 2);
    assert_eq!(pad.press([Key::Right]).0.cursor(), 7);
    assert_eq!(pad.press([Key::Left]).0.cursor(), 2);
    assert_eq!(pad.press([Key::Delete]).seen(), "e\u{301}|x");
    assert_eq!(pad.press([Key::Backspace]).seen(), "|x");
}

#[test]
fn pieces_take_as_many_cells_as_they_are_wide() {
    let editor = Editor::new("a\t漢\u{1b}\tz\r\nnext");
    let pieces: Vec<_> = editor
        .pieces(0)
        .into_iter()
        .map(|Piece { position, column, width, symbol, .. }| (position, column, width, symbol))
        .collect();
    let expected = [
        (0, 0, 1, "a"),
        (1, 1, 3, "   "),
        (2, 4, 2, "漢"),
        (3, 6, 1, "␛"),
        (4, 7, 1, " "),
        (5, 8, 1, "z"),
        (6, 9, 1, "␍"),
    ];
    assert_eq!(
        pieces,
        expected.map(|(position, column, width, symbol)| (position, column, width, symbol.to_owned()))
    );
    assert_eq!(editor.place(3), (0, 6));
    assert_eq!(editor.place(7), (0, 10));
    assert_eq!(editor.place(8), (1, 0));
    assert!(Editor::new("\u{301}").pieces(0)[0].width == 1, "an accent alone is seen, too");
}

#[test]
fn the_cursor_stays_at_its_text_when_others_change_theirs() {
    for (change, cursor) in [
        (patch(0, 0, "xyz"), 8),
        (patch(0, 2, ""), 3),
        (patch(5, 0, "behind"), 5),
        (patch(6, 1, "behind"), 5),
        (patch(3, 4, "around"), 3),
        (patch(4, 1, "🌍🌍🌍"), 7),
    ] {
        let mut editor = Editor { cursor: 5, ..Editor::new("0123456789") };
        editor.apply(std::slice::from_ref(&change), false);
        assert_eq!(editor.cursor, cursor, "{change:?}");
    }
    let mut editor = Editor { cursor: 5, ..Editor::new("0123456789") };
    editor.apply(&[patch(0, 1, ""), patch(7, 0, "undone")], true);
    assert_eq!(editor.cursor, 13, "where it was changed here");
}

#[test]
fn a_text_that_is_another_one_keeps_the_cursor_where_it_is_the_same() {
    let mut editor = Editor { cursor: 8, ..Editor::new("one two three") };
    assert_eq!(editor.reset("one 2 three"), patch(4, 3, "2"));
    assert_eq!((editor.cursor, editor.text.to_string().as_str()), (6, "one 2 three"));
    assert_eq!(editor.reset("one 2 three"), patch(11, 0, ""));
    editor.reset("aa");
    editor.reset("aaa");
    editor.reset("");
    assert_eq!(editor.cursor, 0);
}

#[test]
fn a_word_is_one_step_for_undo() {
    let mut editor = Editor::new("");
    let mut joins = |key: Key| match editor.on_key(key) {
        Action::Replace { joins, .. } => joins,
        action => panic!("{action:?}"),
    };
    let text = |text: &str| Key::Text(text.to_owned());
    assert_eq!([joins(text("a")), joins(text("b"))], [false, true]);
    assert_eq!([joins(text(" ")), joins(text("c"))], [false, true]);
    assert_eq!([joins(Key::Enter), joins(text("d"))], [false, false]);
    editor.on_key(Key::Left);
    assert_eq!(
        editor.on_key(text("e")),
        Action::Replace { position: 0, deleted: 0, inserted: "e".to_owned(), joins: false }
    );
    assert_eq!(
        [Key::Undo, Key::Redo, Key::Quit].map(|key| editor.on_key(key)),
        [Action::Undo, Action::Redo, Action::None]
    );
}

#[test]
fn what_is_seen_follows_the_cursor_and_no_more_than_it_has_to() {
    let text: String = (0..20).map(|i| format!("{i} {}\n", "x".repeat(30))).collect();
    let mut pad = Alone::new(&text);
    assert_eq!(pad.0.scroll(10, 5), (0, 0));
    pad.press((0..7).map(|_| Key::Down));
    assert_eq!(pad.0.scroll(10, 5), (3, 0));
    pad.press([Key::Up, Key::Up]);
    assert_eq!(pad.0.scroll(10, 5), (3, 0));
    pad.press([Key::End]);
    assert_eq!(pad.0.scroll(10, 5), (3, 23));
    pad.press([Key::Home]);
    assert_eq!(pad.0.scroll(10, 5), (3, 0));
    // Seen by one cell, or not at all: no reason to panic.
    assert_eq!(pad.0.scroll(1, 1).0, 5);
    pad.0.scroll(0, 0);
}

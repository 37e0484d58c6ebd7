//! The terminal: taken over while a pad is open, and given back however that ends.

use std::io::stdout;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{
    DisableBracketedPaste, EnableBracketedPaste, Event, EventStream, KeyCode, KeyEvent, KeyEventKind,
    KeyModifiers,
};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use futures::StreamExt;
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;

use super::editor::Key;
use crate::failure::Failure;

/// Whether the terminal is taken over. There is one.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What comes from a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Key(Key),
    Resized,
}

/// A terminal that is taken over; given back when this is dropped, or when the main thread panics.
pub(super) struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<std::io::Stdout>>,
    events: EventStream,
}

impl Terminal {
    pub(super) fn enter() -> Result<Self, Failure> {
        give_back_on_panic();
        TAKEN.store(true, Ordering::SeqCst);
        let entered = enable_raw_mode()
            .and_then(|()| execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste))
            .and_then(|()| ratatui::Terminal::new(CrosstermBackend::new(stdout())));
        match entered {
            Ok(inner) => Ok(Self { inner, events: EventStream::new() }),
            Err(error) => {
                give_back();
                Err(Failure::new(format!("cannot take over the terminal: {error}")))
            }
        }
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<(), Failure> {
        self.inner.draw(draw)?;
        Ok(())
    }

    /// The next thing to do something about. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Input, Failure> {
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    if let Some(input) = input(event) {
                        return Ok(input);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::new(format!("cannot read from the terminal: {error}")));
                }
                None => return Ok(Input::Key(Key::Quit)),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back, once.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // Where that fails there is no terminal any more.
        let _ = disable_raw_mode();
        let _ = execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen, crossterm::cursor::Show);
    }
}

/// A panic of this thread is the end, and is to be readable. Those of others, which the library may survive, are not to be written over the text.
fn give_back_on_panic() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        let main = std::thread::current().id();
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().id() == main {
                give_back();
            }
            if !TAKEN.load(Ordering::SeqCst) {
                tell(panic);
            }
        }));
    });
}

/// What an event means, if anything.
fn input(event: Event) -> Option<Input> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => meaning(key).map(Input::Key),
        // Terminals paste carriage returns.
        Event::Paste(text) => Some(Input::Key(Key::Text(text.replace("\r\n", "\n").replace('\r', "\n")))),
        Event::Resize(..) => Some(Input::Resized),
        _ => None,
    }
}

fn meaning(KeyEvent { code, modifiers, .. }: KeyEvent) -> Option<Key> {
    let control = modifiers.contains(KeyModifiers::CONTROL);
    let alt = modifiers.contains(KeyModifiers::ALT);
    Some(match code {
        KeyCode::Esc => Key::Quit,
        KeyCode::Char('q' | 'c') if control && !alt => Key::Quit,
        KeyCode::Char('z') if control && !alt => Key::Undo,
        KeyCode::Char('y' | 'Z') if control && !alt => Key::Redo,
        KeyCode::Char('h') if control && !alt => Key::Backspace,
        KeyCode::Char('j' | 'm') if control && !alt => Key::Enter,
        // Both is how some keyboards get at more characters.
        KeyCode::Char(c) if control == alt => Key::Text(c.to_string()),
        KeyCode::Tab => Key::Text("\t".to_owned()),
        KeyCode::Enter => Key::Enter,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Delete => Key::Delete,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_they_say() {
        let none = KeyModifiers::NONE;
        for (code, modifiers, expected) in [
            (KeyCode::Char('q'), none, Some(Key::Text("q".to_owned()))),
            (KeyCode::Char('Ä'), KeyModifiers::SHIFT, Some(Key::Text("Ä".to_owned()))),
            (KeyCode::Char('q'), KeyModifiers::CONTROL, Some(Key::Quit)),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, Some(Key::Quit)),
            (KeyCode::Char('@'), KeyModifiers::CONTROL | KeyModifiers::ALT, Some(Key::Text("@".to_owned()))),
            (KeyCode::Char('x'), KeyModifiers::CONTROL, None),
            (KeyCode::Char('x'), KeyModifiers::ALT, None),
            (KeyCode::Tab, none, Some(Key::Text("\t".to_owned()))),
            (KeyCode::F(1), none, None),
        ] {
            assert_eq!(meaning(KeyEvent::new(code, modifiers)), expected, "{code:?} {modifiers:?}");
        }
        let paste = Event::Paste("a\r\nb\rc\n".to_owned());
        assert_eq!(input(paste), Some(Input::Key(Key::Text("a\nb\nc\n".to_owned()))));
        assert_eq!(input(Event::FocusGained), None);
    }
}

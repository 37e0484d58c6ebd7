//! `zincmq pad`: a text that many write at once, in the terminal.
//!
//! [`editor`] has the text and the cursor and knows what keys mean, [`screen`] draws; neither knows of terminals or clusters. Here they meet.

#[path = "pad/editor.rs"]
mod editor;
#[path = "pad/screen.rs"]
mod screen;
#[path = "pad/terminal.rs"]
mod terminal;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use zincmq::document::crdt::{Patch, Text};
use zincmq::document::{Conflict, DocumentError, DocumentEvent, DocumentEvents, DocumentHandle, UpdateError};
use zincmq::{Client, Endpoint, EndpointId, Event, Events};

use crate::args::PadArgs;
use crate::doc::{join, open};
use crate::failure::Failure;
use crate::line::printable;
use crate::output::counted;
use crate::stop;
use editor::{Action, Editor, Key, moved_by};
use screen::{Connection, Other, Status};
use terminal::{Input, Terminal};

/// How long to wait at the end for what was typed last to have its place (a guess at what nobody minds).
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How much of somebody's name is shown, in characters.
const MAX_NAME: usize = 24;

pub(crate) async fn run(args: PadArgs) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Failure::with_advice(
            "a pad needs a terminal",
            "zincmq doc edit, doc get and doc watch do without",
        ));
    }
    let stop = stop::on_signal()?;
    let name = args.who.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "somebody".to_owned());
    let client = join(&args.text.join, &stop).await?;
    let wrote = write(&client, &args.text.name, short(&name), &stop).await;
    let report = client.shutdown().await;
    let unsynced = wrote?;
    // What left in the end is not lost.
    if unsynced == 0 || (report.unsent == 0 && report.unknown == 0) {
        return Ok(());
    }
    Err(Failure::new(format!("the connection was lost, and {} with it", counted(unsynced, "change"))))
}

/// Until somebody has enough of it. Gives how many changes have no place then.
async fn write(
    client: &Client,
    document: &str,
    name: String,
    stop: &CancellationToken,
) -> Result<u64, Failure> {
    let happenings = client.events();
    let document = open(client, document, stop).await?;
    let mut pad = Pad::new(document.clone(), name);
    let mut terminal = Terminal::enter()?;
    let wrote = pad.run(&mut terminal, happenings, stop).await;
    // First of all: whatever is told from here on is to be readable.
    drop(terminal);
    drop(pad);
    if wrote.is_ok() {
        // What has no place by then is told.
        let _ = tokio::time::timeout(LAST_WORDS, document.synced()).await;
    }
    let unsynced = document.unsynced() as u64;
    document.close().await;
    wrote.map(|()| unsynced)
}

/// What is told of us to the others who have the document open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Here {
    name: String,
    /// In code points.
    cursor: u64,
}

/// An open document with all that belongs to it on the screen.
struct Pad {
    document: DocumentHandle<Text>,
    changes: DocumentEvents<Text>,
    seen: Seen,
    status: Status,
    told: Option<Here>,
}

impl Pad {
    fn new(document: DocumentHandle<Text>, name: String) -> Self {
        let (editor, changes) = document.watch(|text| Editor::new(&text.to_string()));
        let status = Status { document: printable(document.name()).into_owned(), name, ..Status::default() };
        Self { document, changes, seen: Seen { editor, others: BTreeMap::new() }, status, told: None }
    }

    /// Until somebody has enough of it.
    async fn run(
        &mut self,
        terminal: &mut Terminal,
        mut happenings: Events,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        self.see_others();
        loop {
            self.tell_presence()?;
            self.status.unsynced = self.document.unsynced();
            let others: Vec<Other> = self.seen.others.values().map(|(_, other)| other.clone()).collect();
            let (editor, status) = (&mut self.seen.editor, &self.status);
            terminal.draw(|frame| screen::draw(frame, editor, &others, status))?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                input = terminal.next() => match input? {
                    Input::Key(Key::Quit) => return Ok(()),
                    Input::Key(key) => self.on_key(key)?,
                    Input::Resized => {}
                },
                event = self.changes.next() => match event {
                    Some(event) => self.follow(Some(event))?,
                    None => return Err(Failure::new("the endpoint has ended")),
                },
                Some(event) = happenings.next() => self.on_happening(event),
            }
        }
    }

    fn on_key(&mut self, key: Key) -> Result<(), Failure> {
        self.status.word = None;
        if self.status.connection == Connection::Back {
            self.status.connection = Connection::Fine;
        }
        if !key.changes_text() {
            self.follow(None)?;
            self.seen.editor.on_key(key);
            return Ok(());
        }
        let Self { document, changes, seen, .. } = self;
        let mut told = false;
        let done = document.try_update(|draft| {
            // What others did meanwhile comes first: then the editor's positions are the document's.
            told = seen.follow(None, changes, draft)?;
            match seen.editor.on_key(key) {
                Action::None => {}
                Action::Replace { position, deleted, inserted, joins } => {
                    if joins {
                        draft.same_step();
                    }
                    draft.replace(position, deleted, &inserted)?;
                }
                Action::Undo => _ = draft.undo()?,
                Action::Redo => _ = draft.redo()?,
            }
            Ok(())
        });
        if told {
            self.see_others();
        }
        match done {
            // What was done here comes back as a change.
            Ok(Ok(())) => self.follow(None),
            Ok(Err(Undone::Failed(error))) | Err(UpdateError::Document(error)) => Err(error.into()),
            // It can still be read, and left.
            Ok(Err(Undone::Conflict(conflict))) => {
                self.status.word = Some(conflict.to_string());
                Ok(())
            }
            Err(error) => {
                self.status.word = Some(error.to_string());
                Ok(())
            }
        }
    }

    /// Takes in what has happened to the document.
    fn follow(&mut self, first: Option<DocumentEvent<Text>>) -> Result<(), Failure> {
        let Self { document, changes, seen, .. } = self;
        if document.read(|text| seen.follow(first, changes, text))? {
            self.see_others();
        }
        Ok(())
    }

    fn see_others(&mut self) {
        let told = self.document.presence().into_iter().filter_map(|presence| {
            let here: Here = presence.decode().ok()?;
            Some(((presence.endpoint, presence.replica), here))
        });
        self.seen.see_others(told.collect());
    }

    fn tell_presence(&mut self) -> Result<(), Failure> {
        let here = Here { name: self.status.name.clone(), cursor: self.seen.editor.cursor() as u64 };
        if self.told.as_ref() != Some(&here) {
            self.document.set_presence(&here).map_err(|error| Failure::new(error.to_string()))?;
            self.told = Some(here);
        }
        Ok(())
    }

    fn on_happening(&mut self, event: Event) {
        let lost = |reason: String| Connection::Lost(printable(&reason).into_owned());
        self.status.connection = match event {
            Event::Disconnected { reason } => lost(reason),
            Event::Evicted { eviction, .. } => lost(eviction.to_string()),
            Event::Connected { .. } => Connection::Back,
            _ => return,
        };
    }
}

/// Why a key had no effect.
enum Undone {
    Failed(DocumentError),
    Conflict(Conflict),
}

impl From<DocumentError> for Undone {
    fn from(error: DocumentError) -> Self {
        Self::Failed(error)
    }
}

impl From<Conflict> for Undone {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}

/// Whose cursor: an endpoint, and which of its openings of the document.
type Whose = (EndpointId, u64);

/// The text and the cursors in it.
struct Seen {
    editor: Editor,
    /// What they told last, and what has become of it since.
    others: BTreeMap<Whose, (Here, Other)>,
}

impl Seen {
    /// Takes in all that has happened, up to the text as it is, which stands still meanwhile. Gives whether others have told something of themselves.
    fn follow(
        &mut self,
        first: Option<DocumentEvent<Text>>,
        changes: &mut DocumentEvents<Text>,
        text: &Text,
    ) -> Result<bool, DocumentError> {
        let (mut told, mut replaced) = (false, false);
        let mut next = first;
        // All that there is, whatever the scheduler thinks of it: half of it would be another text.
        while let Some(event) =
            next.take().or_else(|| tokio::task::unconstrained(changes.next()).now_or_never().flatten())
        {
            match event {
                DocumentEvent::Changed { by, changes } if !replaced => {
                    let patches: Vec<Patch> = changes.into_iter().flatten().collect();
                    self.apply(&patches, by.local, (by.endpoint, by.replica));
                }
                DocumentEvent::Replaced | DocumentEvent::Missed(_) => replaced = true,
                DocumentEvent::Presence => told = true,
                DocumentEvent::Failed(error) => return Err(error),
                _ => {}
            }
        }
        if replaced || self.editor.len() != text.len() {
            let patch = self.editor.reset(&text.to_string());
            self.move_others(&patch, None);
            // Their word may have been among what was missed.
            told = true;
        }
        Ok(told)
    }

    fn apply(&mut self, patches: &[Patch], local: bool, by: Whose) {
        self.editor.apply(patches, local);
        for patch in patches {
            self.move_others(patch, Some(by).filter(|_| !local));
        }
    }

    fn move_others(&mut self, patch: &Patch, by: Option<Whose>) {
        for (whose, (_, other)) in &mut self.others {
            other.cursor = moved_by(other.cursor, patch, by == Some(*whose));
        }
    }

    /// What others have told of themselves, all of it. Where that is news, it counts; else what has become of it since.
    fn see_others(&mut self, told: BTreeMap<Whose, Here>) {
        self.others.retain(|whose, _| told.contains_key(whose));
        for (whose, here) in told {
            if self.others.get(&whose).is_none_or(|(before, _)| *before != here) {
                let cursor = usize::try_from(here.cursor).unwrap_or(usize::MAX);
                let number = whose.0.as_bytes().iter().map(|byte| u64::from(*byte)).sum();
                let other = Other { name: short(&here.name), cursor, number };
                self.others.insert(whose, (here, other));
            }
        }
    }
}

/// As much of a name as is shown, and nothing that does something to a terminal.
fn short(name: &str) -> String {
    let name: String = printable(name).replace('\t', " ").chars().take(MAX_NAME).collect();
    if name.trim().is_empty() { "somebody".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use zincmq::Host;
    use zincmq::document::{DocumentExt, Keeper};

    use super::*;

    async fn pad(host: &Host, name: &str) -> (Client, Pad) {
        let client = Client::builder().subscribe_to_nothing().join(host.address()).await.unwrap();
        let document = client.document("pad").await.unwrap();
        (client, Pad::new(document, name.to_owned()))
    }

    impl Pad {
        fn press(&mut self, keys: impl IntoIterator<Item = Key>) {
            for key in keys {
                self.on_key(key).unwrap();
            }
            self.tell_presence().unwrap();
        }

        fn write(&mut self, text: &str) {
            self.press(text.chars().map(|c| Key::Text(c.to_string())));
        }

        /// Follows until something holds.
        async fn until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
            let held = async {
                while !holds(self) {
                    let event = self.changes.next().await;
                    self.follow(event).unwrap();
                }
            };
            tokio::time::timeout(Duration::from_secs(60), held).await.expect("it comes to hold");
        }

        fn text(&self) -> String {
            self.document.read(ToString::to_string)
        }

        fn other(&self) -> Option<(&str, usize)> {
            self.seen.others.values().next().map(|(_, other)| (other.name.as_str(), other.cursor))
        }
    }

    async fn two(name: &str) -> (Host, Keeper, [Client; 2], [Pad; 2]) {
        let host = Host::builder().bind(format!("inproc://{name}")).await.unwrap();
        let keeper = Keeper::builder().start(&host).await.unwrap();
        let ((ada, at_ada), (bob, at_bob)) = (pad(&host, "ada").await, pad(&host, "bob").await);
        (host, keeper, [ada, bob], [at_ada, at_bob])
    }

    #[tokio::test]
    async fn two_pads_show_each_others_text_and_cursors() {
        let (_host, _keeper, _clients, [mut ada, mut bob]) = two("pad-cursors").await;
        ada.write("Hello");
        bob.until(|pad| pad.text() == "Hello" && pad.other() == Some(("ada", 5))).await;
        assert_eq!(bob.seen.editor.cursor(), 0);
        bob.write("Oh: ");
        // Bob's own typing moves what he sees of Ada before she has said anything.
        assert_eq!(bob.other(), Some(("ada", 9)));
        ada.until(|pad| pad.text() == "Oh: Hello" && pad.other() == Some(("bob", 4))).await;
        assert_eq!(ada.seen.editor.cursor(), 9);
        ada.press([Key::Backspace]);
        bob.until(|pad| pad.text() == "Oh: Hell").await;
        assert_eq!((bob.seen.editor.cursor(), bob.other()), (4, Some(("ada", 8))));
    }

    #[tokio::test]
    async fn undo_takes_back_own_words_only() {
        let (_host, _keeper, _clients, [mut ada, mut bob]) = two("pad-undo").await;
        ada.write("one two");
        bob.until(|pad| pad.text() == "one two").await;
        bob.write("bob ");
        ada.until(|pad| pad.text() == "bob one two").await;
        ada.press([Key::Undo]);
        assert_eq!(ada.text(), "bob one");
        ada.press([Key::Undo, Key::Undo]);
        assert_eq!((ada.text().as_str(), ada.seen.editor.cursor()), ("bob ", 4));
        ada.press([Key::Redo]);
        assert_eq!((ada.text().as_str(), ada.seen.editor.cursor()), ("bob one", 7));
        bob.until(|pad| pad.text() == "bob one").await;
    }

    #[tokio::test]
    async fn whoever_leaves_is_not_seen_any_more() {
        let (_host, _keeper, clients, [mut ada, mut bob]) = two("pad-leave").await;
        bob.press([Key::Left]);
        ada.until(|pad| pad.other().is_some()).await;
        drop(bob);
        assert_eq!(clients[1].shutdown().await.unsent, 0);
        ada.until(|pad| pad.other().is_none()).await;
    }

    #[test]
    fn names_do_nothing_to_a_terminal() {
        assert_eq!(short("ada\u{1b}[2J"), "ada\\u{1b}[2J");
        assert_eq!(short(&"x".repeat(100)).len(), MAX_NAME);
        assert_eq!(short(" "), "somebody");
    }
}

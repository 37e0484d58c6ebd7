//! Questions that wait until the application has said what their askers may do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::EndpointId;
use crate::message::Position;

use super::super::Access;
use super::super::wire::State;
use super::giving::Ready;

/// What stands for the list of all documents: none has this name.
pub(super) const LIST: &str = "";
/// How many may wait at once (a guess, as for documents under way); who else asks is told to ask again.
const MOST: usize = 256;
/// How many of them may be one endpoint's (as above).
const MOST_OF_ONE: usize = 64;
/// How many bytes the documents may have that are ready for them, about (as above).
const MOST_BYTES: usize = 256 << 20;

/// A document as it stood where a question does.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) state: State,
    /// What it takes, in bytes, about.
    pub(super) weight: usize,
}

/// Who asks for which document, and whether a keeper does so there or whoever has it open.
type Key = (EndpointId, String, bool);

/// Something that the application is to say.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    ticket: u64,
    pub(crate) who: EndpointId,
    about: About,
}

#[derive(Debug, Clone)]
enum About {
    Document(String),
    /// Which of these it may see.
    List(Vec<String>),
}

impl Question {
    pub(crate) fn about(ticket: u64, who: EndpointId, name: &str) -> Self {
        Self { ticket, who, about: About::Document(name.to_owned()) }
    }

    pub(super) fn about_list(ticket: u64, who: EndpointId, names: Vec<String>) -> Self {
        Self { ticket, who, about: About::List(names) }
    }

    /// The document that it is about; `None` where it is about many.
    pub(crate) fn document(&self) -> Option<&str> {
        match &self.about {
            About::Document(name) => Some(name),
            About::List(_) => None,
        }
    }

    /// Puts it to the application.
    pub(crate) fn put_to(self, access: impl Fn(EndpointId, &str) -> Access) -> Decision {
        let Self { ticket, who, about } = self;
        let may_see = |name: &String| !matches!(access(who, name), Access::Denied(_));
        let verdict = match about {
            About::Document(name) => Verdict::Document(access(who, &name)),
            About::List(names) => Verdict::List(names.into_iter().filter(may_see).collect()),
        };
        Decision { ticket, verdict }
    }
}

/// What the application said.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(super) ticket: u64,
    pub(super) verdict: Verdict,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Document(Access),
    List(BTreeSet<String>),
}

impl Decision {
    /// What it may do with the document, where it is about one.
    pub(crate) fn access(&self) -> Option<&Access> {
        match &self.verdict {
            Verdict::Document(access) => Some(access),
            Verdict::List(_) => None,
        }
    }
}

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// The application is to be asked, by this ticket.
    New(u64),
    /// It is being asked the same already: the asker waits for the answer to its last question alone.
    Waits,
    /// There is too much to do.
    Full,
}

#[derive(Debug)]
struct Open {
    ticket: u64,
    nonce: u64,
    /// Whether its asker has asked once more since the application was asked.
    is_newer: bool,
    ready: Option<Ready<Arc<Held>>>,
}

/// A question that has been answered.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) who: EndpointId,
    pub(super) name: String,
    /// Of the last time that it was asked.
    pub(super) nonce: u64,
    /// Whether that was after the application was asked.
    pub(super) is_newer: bool,
    /// What is to be given, where it is about a document.
    pub(super) ready: Option<Ready<Arc<Held>>>,
}

/// The questions that wait.
#[derive(Debug, Default)]
pub(super) struct Asked {
    open: BTreeMap<Key, Open>,
    tickets: BTreeMap<u64, Key>,
    last: u64,
}

impl Asked {
    pub(super) fn put(&mut self, key: Key, nonce: u64, ready: Option<Ready<Arc<Held>>>) -> Put {
        if let Some(Ready::Document(_, new)) = &ready
            && self.bytes(new) > MOST_BYTES
        {
            return Put::Full;
        }
        if let Some(open) = self.open.get_mut(&key) {
            (open.nonce, open.is_newer, open.ready) = (nonce, true, ready);
            return Put::Waits;
        }
        let first = (key.0, String::new(), false);
        let of_one = self.open.range(first..).take_while(|((who, ..), _)| *who == key.0).count();
        if self.open.len() >= MOST || of_one >= MOST_OF_ONE {
            return Put::Full;
        }
        self.last += 1;
        self.tickets.insert(self.last, key.clone());
        self.open.insert(key, Open { ticket: self.last, nonce, is_newer: false, ready });
        Put::New(self.last)
    }

    /// What is ready, and this; what several wait for, once.
    fn bytes(&self, new: &Arc<Held>) -> usize {
        let ready = self.open.values().filter_map(|open| match &open.ready {
            Some(Ready::Document(_, held)) => Some(held),
            _ => None,
        });
        let each: BTreeMap<_, usize> =
            ready.chain([new]).map(|held| (Arc::as_ptr(held), held.weight)).collect();
        each.values().sum()
    }

    /// Ends a question. `None` where the ticket counts no more.
    pub(super) fn take(&mut self, ticket: u64) -> Option<Taken> {
        let key = self.tickets.remove(&ticket)?;
        let Open { nonce, is_newer, ready, .. } = self.open.remove(&key)?;
        Some(Taken { who: key.0, name: key.1, nonce, is_newer, ready })
    }

    /// A document as it is ready for somebody already: many that ask wait for one copy.
    pub(super) fn state(&self, name: &str, at: Option<Position>) -> Option<Arc<Held>> {
        self.open.iter().filter(|((_, about, _), _)| about == name).find_map(|(_, open)| match &open.ready {
            Some(Ready::Document(up_to, state)) if *up_to == at => Some(Arc::clone(state)),
            _ => None,
        })
    }

    /// Gives new tickets to the questions about a document, or to all: with who asks what. A list is about all, and nothing is done by it: where one of them has changed, it may be as it was.
    pub(super) fn again(&mut self, name: Option<&str>) -> Vec<(u64, EndpointId, String)> {
        let Self { open, tickets, last } = self;
        let concerns = |about: &str| name.is_none_or(|name| name == about);
        let mut new = Vec::new();
        for (key, open) in open.iter_mut().filter(|((_, about, _), _)| concerns(about)) {
            *last += 1;
            tickets.remove(&open.ticket);
            tickets.insert(*last, key.clone());
            (open.ticket, open.is_newer) = (*last, false);
            new.push((*last, key.0, key.1.clone()));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(who: u8, name: &str) -> Key {
        (EndpointId::from_bytes([who; 16]), name.to_owned(), false)
    }

    fn ready(at: u64) -> Option<Ready<Arc<Held>>> {
        Some(Ready::Document(Some(Position { epoch: 1, seq: at }), Arc::default()))
    }

    #[test]
    fn who_asks_again_gets_one_answer_to_its_last_question() {
        let mut asked = Asked::default();
        assert_eq!(asked.put(key(1, "a"), 10, ready(1)), Put::New(1));
        assert_eq!(asked.put(key(1, "a"), 11, ready(2)), Put::Waits);
        assert_eq!(asked.put(key(2, "a"), 20, ready(2)), Put::New(2));
        let Some(Taken { nonce: 11, is_newer: true, ready: Some(Ready::Document(at, _)), .. }) =
            asked.take(1)
        else {
            panic!("the last one");
        };
        assert_eq!(at, Some(Position { epoch: 1, seq: 2 }), "as it stood where that stands");
        assert!(matches!(
            (asked.take(1), asked.take(2)),
            (None, Some(Taken { nonce: 20, is_newer: false, .. }))
        ));
        assert_eq!(asked.put(key(1, "a"), 12, ready(3)), Put::New(3), "that one has been answered");
    }

    #[test]
    fn many_that_ask_for_the_same_wait_for_one_copy() {
        let mut asked = Asked::default();
        asked.put(key(1, "a"), 10, ready(1));
        let at = |seq| Some(Position { epoch: 1, seq });
        let large =
            |seq, weight| Some(Ready::Document(at(seq), Arc::new(Held { state: State::default(), weight })));
        let mut asked_for_more = |who, ready| asked.put(key(who, "b"), 1, ready);
        assert_eq!(asked_for_more(2, large(1, MOST_BYTES)), Put::New(2));
        assert_eq!(asked_for_more(3, large(2, 1)), Put::Full, "there is no room for another");
        let same = asked.state("b", at(1)).expect("it is there");
        assert_eq!(asked.put(key(4, "b"), 1, Some(Ready::Document(at(1), same))), Put::New(3));
        assert!(asked.state("a", at(1)).is_some());
        assert!(asked.state("a", at(2)).is_none() && asked.state("c", at(1)).is_none());
    }

    #[test]
    fn what_was_thought_about_before_a_change_counts_no_more() {
        let mut asked = Asked::default();
        for (key, nonce) in [(key(1, "a"), 10), (key(1, "b"), 11), (key(2, "a"), 20), (key(3, LIST), 30)] {
            asked.put(key, nonce, None);
        }
        let again: Vec<_> =
            asked.again(Some("a")).into_iter().map(|(ticket, _, name)| (ticket, name)).collect();
        let expected = [(5, "a"), (6, "a")].map(|(ticket, name)| (ticket, name.to_owned()));
        assert_eq!(again, expected);
        let mut is_open = |ticket| asked.take(ticket).is_some();
        assert_eq!([1, 3].map(&mut is_open), [false; 2]);
        assert_eq!([2, 5].map(&mut is_open), [true; 2]);
        assert_eq!(asked.again(None).len(), 2);
        assert!(asked.take(7).is_some() && asked.take(8).is_some());
        assert_eq!((asked.open.len(), asked.tickets.len()), (0, 0));
    }

    #[test]
    fn one_that_asks_for_much_keeps_room_for_others() {
        let mut asked = Asked::default();
        let put = |asked: &mut Asked, who: u8, count: usize| {
            (0..count).filter(|name| asked.put(key(who, &name.to_string()), 1, None) != Put::Full).count()
        };
        assert_eq!(put(&mut asked, 1, 1_000), MOST_OF_ONE);
        assert_eq!(put(&mut asked, 2, 1), 1);
        let all: usize = (3..10).map(|who| put(&mut asked, who, 1_000)).sum();
        assert_eq!(MOST_OF_ONE + 1 + all, MOST);
    }
}

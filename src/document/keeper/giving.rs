//! What a keeper answers to those that ask: for a document, and which there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::id::EndpointId;
use crate::message::{Message, Position};
use crate::proto::Instant;
use crate::wire::FloorCharBoundary;

use super::super::Access;
use super::super::transfer::Transfers;
use super::super::wire::{self, Answer, Live, State, Word};
use super::asked::{Decision, Held, LIST, Put, Question, Taken, Verdict};
use super::kept::{DOCUMENT, Kept};
use super::shelf::Shelf;
use super::{Keeper, Output};

/// How long a reason for a refusal may be, in bytes; the rest is cut off (a guess).
const MOST_REASON: usize = 1_024;
/// What an answer has before its reason, in bytes.
const ANSWER: usize = 9;

impl Keeper {
    /// A part of a document for somebody who asked, to be sent when there is nothing else to send.
    pub(crate) fn poll_part(&mut self) -> Option<Output> {
        let (to, answer) = self.transfers.next_part()?;
        Some(Output::Answer { to, payload: answer.encode() })
    }

    /// Whether there is one.
    pub(crate) fn has_part(&self) -> bool {
        self.transfers.is_ready()
    }

    /// A question for a document: by its nonce, of whom, and whether anyone is to say that they have it.
    pub(super) fn on_ask(
        &mut self,
        now: Instant,
        from: EndpointId,
        name: &str,
        (nonce, of, anyone): (u64, Option<EndpointId>, bool),
    ) {
        if let Some(catching_up) = &self.catching_up
            && (self.config.read_only || (from == self.config.me && catching_up.has_asked(nonce)))
        {
            return;
        }
        if self.is_asked(of) {
            let ready = ready(&self.shelf, self.is_here(name), name);
            if self.restricts(from) {
                let ready = ready.map(|at, kept| {
                    self.asked
                        .state(name, at)
                        .unwrap_or_else(|| Arc::new(Held { state: kept.state(), weight: kept.weight() }))
                });
                self.find_out(from, name, nonce, Some(ready));
            } else {
                let answer =
                    reply(&mut self.transfers, (now, from, name, nonce), &Access::Write, ready, Kept::state);
                self.answer(from, answer);
            }
        } else if anyone && of.is_none() && self.is_here(name) {
            self.answer(from, Some(Answer { nonce, word: Word::Offer }));
        }
    }

    /// Whether a question that is put to this endpoint, or to nobody in particular, is this keeper's to answer.
    fn is_asked(&self, of: Option<EndpointId>) -> bool {
        of.map_or(self.config.is_hosts, |of| of == self.config.me)
    }

    /// Whether it is to be found out what this endpoint may have: the keeper's own may have everything.
    fn restricts(&self, who: EndpointId) -> bool {
        self.config.restricts && who != self.config.me
    }

    /// Whether what there is of a document is here: the host's keeper is what others go by.
    fn is_here(&self, name: &str) -> bool {
        let has = |kept: &Kept| kept.ledger.kind.is_some() && kept.refused.is_none();
        self.catching_up.as_ref().is_none_or(|catching_up| {
            self.has_begun && !catching_up.is_wanted(name) && self.shelf.get(name).is_some_and(has)
        })
    }

    /// Has the application say what somebody may do with a document, or which of all of them it may see. What is ready for it stands where its question does, and waits.
    fn find_out(&mut self, who: EndpointId, name: &str, nonce: u64, ready: Option<Ready<Arc<Held>>>) {
        match self.asked.put((who, name.to_owned(), wire::is_a_keepers(nonce)), nonce, ready) {
            Put::New(ticket) => self.put_to_application(ticket, who, name),
            Put::Waits => {}
            Put::Full => self.answer(who, Some(Answer { nonce, word: Word::Busy })),
        }
    }

    fn put_to_application(&mut self, ticket: u64, who: EndpointId, name: &str) {
        let question = if name == LIST {
            let names = self.documents().map(|(name, ..)| name.to_owned()).collect();
            Question::about_list(ticket, who, names)
        } else {
            Question::about(ticket, who, name)
        };
        self.outputs.push_back(Output::Ask(question));
    }

    /// What the application was asked about a document, or all, it is asked again.
    pub(super) fn find_out_again(&mut self, name: Option<&str>) {
        for (ticket, who, name) in self.asked.again(name) {
            self.put_to_application(ticket, who, &name);
        }
    }

    /// The application has said it.
    pub(crate) fn on_decided(&mut self, now: Instant, decision: Decision) {
        let Some(Taken { who, name, nonce, is_newer, ready }) = self.asked.take(decision.ticket) else {
            return;
        };
        match (decision.verdict, ready) {
            (Verdict::Document(access), Some(ready)) => {
                let state = |held: Arc<Held>| held.state.clone();
                let answer = reply(&mut self.transfers, (now, who, &name, nonce), &access, ready, state);
                self.answer(who, answer);
            }
            // There may be more by now, about which the application was not asked.
            (Verdict::List(_), _) if is_newer => self.find_out(who, LIST, nonce, None),
            (Verdict::List(names), _) => self.reply_list(now, who, nonce, Some(&names)),
            (Verdict::Document(_), None) => {}
        }
    }

    /// A question for the list of documents. Those that the asker may not have are not in it.
    pub(super) fn on_list(&mut self, now: Instant, message: &Message) {
        let from = message.origin();
        match Live::decode(message.payload()) {
            Ok(Live::Ask { nonce, of, .. }) if self.is_asked(of) => {
                if self.restricts(from) {
                    self.find_out(from, LIST, nonce, None);
                } else {
                    self.reply_list(now, from, nonce, None);
                }
            }
            Ok(Live::Ask { nonce, .. }) => {
                if let Some(catching_up) = &mut self.catching_up {
                    catching_up.on_list_question(now, from, nonce);
                }
            }
            Ok(Live::More { nonce, of, next }) if of == self.config.me => {
                self.transfers.more(now, from, LIST, nonce, next);
            }
            Ok(_) => {}
            Err(_) => self.malformed += 1,
        }
    }

    /// Gives a list, of these documents if not of all.
    fn reply_list(&mut self, now: Instant, to: EndpointId, nonce: u64, names: Option<&BTreeSet<String>>) {
        let kept = self.shelf.iter().filter_map(|(name, kept)| kept.listed(name));
        let list = kept.filter(|(name, ..)| names.is_none_or(|names| names.contains(*name)));
        let answer = self.transfers.begin(now, to, LIST, nonce, None, || wire::encode_list(list));
        self.answer(to, answer);
    }

    fn answer(&mut self, to: EndpointId, answer: Option<Answer>) {
        let Some(mut answer) = answer else { return };
        if let Word::Refused(reason) = &mut answer.word {
            let most = MOST_REASON.min(self.config.max_message.saturating_sub(ANSWER));
            reason.truncate(reason.floor_char_boundary_at(most));
        }
        self.outputs.push_back(Output::Answer { to, payload: answer.encode() });
    }
}

/// What there is to be answered with where a question stands, to who may have it.
#[derive(Debug)]
pub(super) enum Ready<S> {
    /// What is not here the cluster may have.
    Busy,
    Refused(String),
    Empty,
    /// Up to here, this.
    Document(Option<Position>, S),
}

impl<S> Ready<S> {
    fn map<T>(self, document: impl FnOnce(Option<Position>, S) -> T) -> Ready<T> {
        match self {
            Self::Busy => Ready::Busy,
            Self::Refused(reason) => Ready::Refused(reason),
            Self::Empty => Ready::Empty,
            Self::Document(at, state) => Ready::Document(at, document(at, state)),
        }
    }
}

fn ready<'a>(shelf: &'a Shelf, is_here: bool, name: &str) -> Ready<&'a Kept> {
    match shelf.get(name) {
        _ if !is_here => Ready::Busy,
        Some(Kept { refused: Some(reason), .. }) => Ready::Refused(reason.clone()),
        Some(kept) if kept.ledger.kind.is_some() => Ready::Document(kept.ledger.at, kept),
        Some(_) => Ready::Empty,
        None => shelf.full(DOCUMENT).map_or(Ready::Empty, Ready::Refused),
    }
}

/// Answers a question for a document; `None` where that has begun.
fn reply<S>(
    transfers: &mut Transfers,
    (now, to, name, nonce): (Instant, EndpointId, &str, u64),
    access: &Access,
    ready: Ready<S>,
    state: impl FnOnce(S) -> State,
) -> Option<Answer> {
    let read_only = *access != Access::Write;
    let word = match (access, ready) {
        (Access::Denied(reason), _) => Word::Refused(reason.clone()),
        (_, Ready::Busy) => Word::Busy,
        (_, Ready::Refused(reason)) => Word::Refused(reason),
        (_, Ready::Empty) => Word::Empty { read_only },
        (_, Ready::Document(at, document)) => {
            let state = || State { read_only, ..state(document) }.encode();
            return transfers.begin(now, to, name, nonce, at.map(|at| (at, read_only)), state);
        }
    };
    Some(Answer { nonce, word })
}

//! What a keeper answers to those that ask: for a document, and which there are.

use crate::id::EndpointId;
use crate::message::Message;
use crate::proto::Instant;
use crate::wire::FloorCharBoundary;

use super::super::Access;
use super::super::wire::{self, Answer, Live, State, Word};
use super::kept::{DOCUMENT, Kept};
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
        access: impl Fn(EndpointId, &str) -> Access,
    ) {
        let say = |word| Some(Answer { nonce, word });
        let mut is_here = true;
        if let Some(catching_up) = &self.catching_up {
            if self.config.read_only || (from == self.config.me && catching_up.has_asked(nonce)) {
                return;
            }
            let has = |kept: &Kept| kept.ledger.kind.is_some() && kept.refused.is_none();
            is_here = self.has_begun && !catching_up.is_wanted(name) && self.shelf.get(name).is_some_and(has);
        }
        let answer = if of == Some(self.config.me) || (of.is_none() && self.config.is_hosts) {
            match access(from, name) {
                Access::Denied(reason) => say(Word::Refused(reason)),
                // What it does not have the cluster may have.
                _ if !is_here => say(Word::Busy),
                Access::Write => self.give(now, from, nonce, name, false),
                Access::Read => self.give(now, from, nonce, name, true),
            }
        } else if anyone && of.is_none() && is_here {
            say(Word::Offer)
        } else {
            None
        };
        self.answer(from, answer);
    }

    /// A question for the list of documents. Those that the asker may not have are not in it.
    pub(super) fn on_list(
        &mut self,
        now: Instant,
        message: &Message,
        access: impl Fn(EndpointId, &str) -> Access,
    ) {
        let from = message.origin();
        match Live::decode(message.payload()) {
            Ok(Live::Ask { nonce, of, .. })
                if of == Some(self.config.me) || (of.is_none() && self.config.is_hosts) =>
            {
                let kept = self.shelf.iter().filter_map(|(name, kept)| kept.listed(name));
                let list = kept.filter(|(name, ..)| !matches!(access(from, name), Access::Denied(_)));
                // No document has this name.
                let answer = self.transfers.begin(now, from, "", nonce, None, || wire::encode_list(list));
                self.answer(from, answer);
            }
            Ok(Live::Ask { nonce, .. }) => {
                if let Some(catching_up) = &mut self.catching_up {
                    catching_up.on_list_question(now, from, nonce);
                }
            }
            Ok(Live::More { nonce, of, next }) if of == self.config.me => {
                self.transfers.more(now, from, "", nonce, next);
            }
            Ok(_) => {}
            Err(_) => self.malformed += 1,
        }
    }

    fn give(
        &mut self,
        now: Instant,
        to: EndpointId,
        nonce: u64,
        name: &str,
        read_only: bool,
    ) -> Option<Answer> {
        let say = |word| Some(Answer { nonce, word });
        match self.shelf.get(name) {
            Some(Kept { refused: Some(reason), .. }) => say(Word::Refused(reason.clone())),
            Some(kept) if kept.ledger.kind.is_some() => {
                let version = kept.ledger.at.map(|at| (at, read_only));
                let state = || State { read_only, ..kept.state() }.encode();
                self.transfers.begin(now, to, name, nonce, version, state)
            }
            Some(_) => say(Word::Empty { read_only }),
            None => match self.shelf.full(DOCUMENT) {
                Some(reason) => say(Word::Refused(reason)),
                None => say(Word::Empty { read_only }),
            },
        }
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

//! A list of documents on its way: it is asked for, and comes in parts, as documents do.

use std::time::Duration;

use bytes::BytesMut;

use crate::id::EndpointId;

use super::join::{MOST_BYTES, PARTS_AT_ONCE};
use super::wire::{self, Answer, Listed, Live, Word};

/// How long an answer may take, and each part of it (a guess, as for documents).
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(1);

/// A list that comes in parts.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) nonce: u64,
    parts: BytesMut,
    next: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// A part of the list.
    Came,
    Say(Live),
    Again,
    Done(Vec<Listed>),
    Failed(String),
}

impl Gathering {
    pub(super) fn new(nonce: u64) -> Self {
        Self { nonce, parts: BytesMut::new(), next: 0 }
    }

    pub(super) fn question(&self) -> Live {
        Live::Ask { nonce: self.nonce, of: None, anyone: false }
    }

    pub(super) fn on_answer(&mut self, from: EndpointId, answer: Answer) -> Step {
        if answer.nonce != self.nonce {
            return Step::Wait;
        }
        match answer.word {
            Word::Part { index, of, bytes }
                if index == self.next && index < of && (of == 1 || !bytes.is_empty()) =>
            {
                if self.parts.len() + bytes.len() > MOST_BYTES {
                    return Step::Failed(format!("the list is larger than {MOST_BYTES} bytes"));
                }
                self.parts.extend_from_slice(&bytes);
                self.next += 1;
                if self.next == of {
                    let list = wire::decode_list(&std::mem::take(&mut self.parts).freeze());
                    return list.map_or_else(|malformed| Step::Failed(malformed.to_string()), Step::Done);
                }
                if self.next.is_multiple_of(PARTS_AT_ONCE) {
                    return Step::Say(Live::More { nonce: self.nonce, of: from, next: self.next });
                }
                Step::Came
            }
            Word::Refused(reason) => Step::Failed(reason),
            // Asked again when the time is up.
            Word::Busy | Word::Part { .. } | Word::Empty { .. } | Word::Offer => Step::Wait,
        }
    }
}

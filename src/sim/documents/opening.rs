//! A document that is open on a member, whatever its type.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::document::replica::{Config, Output, Replica};
use crate::document::wire::{State, Update};
use crate::document::{DocumentError, DocumentEvent, Model};
use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;

use super::types::{Edit, Facts, Log, Played};

/// What a replica wants.
#[derive(Debug)]
pub(super) enum Wish {
    Say {
        kind: MessageKind,
        payload: Bytes,
    },
    Answer {
        to: EndpointId,
        payload: Bytes,
    },
    /// Its application is told that these do not apply.
    Refused(Vec<Edit>),
    Failed(DocumentError),
}

/// A replica without its type.
pub(super) trait Replicates {
    fn set_host(&mut self, host: EndpointId);
    fn on_message(&mut self, now: Instant, message: &Message);
    fn settle(&mut self);
    fn on_reset(&mut self, now: Instant);
    fn on_unknown(&mut self);
    fn on_refused(&mut self, kind: MessageKind);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_timeout(&self) -> Option<Instant>;
    fn poll(&mut self) -> Option<Wish>;
    /// Whether these edits were accepted.
    fn edit(&mut self, edits: &[Edit], strict: bool) -> bool;
    fn edits(&self) -> Vec<Edit>;
    fn state(&self) -> Option<State>;
    fn position(&self) -> Option<Position>;
    /// Where the question stands that it last came by.
    fn since(&self) -> Option<Position>;
    /// An update with this edit, as it would be the next one to count.
    fn forge(&self, edit: Edit) -> Bytes;
    fn is_synced(&self) -> bool;
    fn is_alone(&self) -> bool;
}

impl<D: Played> Replicates for Replica<D> {
    fn set_host(&mut self, host: EndpointId) {
        Self::set_host(self, Some(host));
    }

    fn on_message(&mut self, now: Instant, message: &Message) {
        Self::on_message(self, now, message);
    }

    fn settle(&mut self) {
        Self::settle(self);
    }

    fn on_reset(&mut self, now: Instant) {
        Self::on_reset(self, now);
    }

    fn on_unknown(&mut self) {
        Self::on_unknown(self);
    }

    fn on_refused(&mut self, kind: MessageKind) {
        Self::on_refused(self, kind);
    }

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Self::poll_timeout(self)
    }

    fn poll(&mut self) -> Option<Wish> {
        loop {
            return match self.poll_output().or_else(|| self.poll_part())? {
                Output::Say { kind, payload } => Some(Wish::Say { kind, payload }),
                Output::Answer { to, payload } => Some(Wish::Answer { to, payload }),
                Output::Event(DocumentEvent::Refused { fragments, .. }) => {
                    Some(Wish::Refused(fragments.iter().flat_map(D::named).collect()))
                }
                Output::Event(DocumentEvent::Failed(error)) => Some(Wish::Failed(error)),
                Output::Event(_) => continue,
            };
        }
    }

    fn edit(&mut self, edits: &[Edit], strict: bool) -> bool {
        self.update(|draft| {
            for fragment in draft.fragments(edits, strict) {
                // They were made for what is there.
                let pushed = draft.push(fragment);
                debug_assert!(pushed.is_ok());
            }
        })
        .is_ok()
    }

    fn edits(&self) -> Vec<Edit> {
        self.document().edits()
    }

    fn state(&self) -> Option<State> {
        Self::state(self)
    }

    fn position(&self) -> Option<Position> {
        Self::position(self)
    }

    fn since(&self) -> Option<Position> {
        Self::since(self)
    }

    fn forge(&self, edit: Edit) -> Bytes {
        let fragments: Vec<Vec<u8>> = D::empty().fragments(&[edit], false).iter().map(D::encode).collect();
        let fragments = fragments.iter().map(|fragment| &fragment[..]);
        Update::new(D::KIND, self.id(), self.next_number(), fragments).encode()
    }

    fn is_synced(&self) -> bool {
        Self::is_synced(self)
    }

    fn is_alone(&self) -> bool {
        Self::is_alone(self)
    }
}

/// A message to be sent, and the opening that it is of.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) opening: u64,
    pub(super) message: Message,
}

/// From an application's call to its close.
pub(super) struct Opening {
    /// No other has it.
    pub(super) number: u64,
    pub(super) replica: Box<dyn Replicates>,
    /// Nothing is sent before this subscription is in force.
    pub(super) waits_for: Option<u64>,
    pub(super) said: VecDeque<Outgoing>,
    /// Up to where its state was compared.
    pub(super) checked: Option<Position>,
}

impl Opening {
    pub(super) fn new(number: u64, model: Model, host: EndpointId, config: Config) -> Self {
        let mut replica: Box<dyn Replicates> = match model {
            Model::Ordered => Box::new(Replica::<Log>::new(config)),
            Model::Commutative => Box::new(Replica::<Facts>::new(config)),
        };
        replica.set_host(host);
        Self { number, replica, waits_for: None, said: VecDeque::new(), checked: None }
    }
}

//! What was refused of a member's messages, as the application is told: soon, but not of each.

use std::time::Duration;

use crate::id::{EndpointId, SessionToken};
use crate::message::Topic;

use super::super::Instant;
use super::{Event, Host, Output};

/// How often it is told, for each session, that something was refused (a guess).
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What was refused.
#[derive(Debug, Default)]
pub(super) struct Refused {
    messages: u64,
    /// The document that the first of it is about.
    document: Option<String>,
}

impl Refused {
    pub(super) fn add(&mut self, topic: &Topic) {
        self.document.get_or_insert_with(|| topic.document().map_or("", |(name, _)| name).to_owned());
        self.messages += 1;
    }
}

/// What was refused in a session and is not told yet.
#[derive(Debug, Default)]
pub(super) struct Forbidden {
    /// The document is that of the last ones.
    refused: Refused,
    told_at: Option<Instant>,
}

impl Forbidden {
    /// What is to be told: of somebody who goes, whenever it was last told.
    pub(super) fn take(&mut self, now: Instant, id: EndpointId, goes: bool) -> Option<Output> {
        let is_due = goes || self.told_at.is_none_or(|told_at| told_at + TELL_EVERY <= now);
        let document = self.refused.document.take_if(|_| is_due)?;
        self.told_at = Some(now);
        let messages = std::mem::take(&mut self.refused.messages);
        Some(Output::Event(Event::Forbidden { id, document, messages }))
    }
}

impl Host {
    /// Counts what was refused, and lets it be known.
    pub(super) fn tell_refused(&mut self, now: Instant, token: SessionToken, refused: Refused) {
        if refused.messages == 0 {
            return;
        }
        self.counters.refused += refused.messages;
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let messages = session.forbidden.refused.messages + refused.messages;
        session.forbidden.refused = Refused { messages, ..refused };
        self.outputs.extend(session.forbidden.take(now, session.id, false));
    }

    /// Lets what was refused since it was last told be known, where it is time for that; or of all, as nothing comes after it.
    pub(super) fn tell_what_was_refused(&mut self, now: Instant, is_end: bool) {
        for session in self.sessions.values_mut() {
            self.outputs.extend(session.forbidden.take(now, session.id, is_end));
        }
    }
}

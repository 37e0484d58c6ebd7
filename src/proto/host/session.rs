//! What a host knows of its peers, of their sessions, and of what those take.

use std::collections::BTreeMap;

use crate::id::{EndpointId, PeerId, SessionToken};
use crate::role::Role;
use crate::wire::Hello;

use super::super::{ControlCount, Instant};

/// What is known of a control connection.
#[derive(Debug)]
pub(super) enum Peer {
    /// It said hello, and the authenticator is thinking.
    Examined { hello: Hello, deadline: Instant },
    /// It has a session.
    Admitted { session: SessionToken },
    /// It was told to go, and its session, if it had one, is over.
    Closing { deadline: Instant, session: Option<SessionToken> },
}

/// Who submitted messages, and so is told their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Recipient {
    /// The host's own application.
    Local,
    /// A child.
    Session(SessionToken),
}

/// What a session takes.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    all: bool,
    prefixes: Vec<String>,
}

impl Filter {
    pub(super) fn new(prefixes: Vec<String>) -> Self {
        Self { all: prefixes.iter().any(String::is_empty), prefixes }
    }
}

/// One child's membership, from its admission to its end.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) peer: PeerId,
    pub(super) id: EndpointId,
    pub(super) role: Role,
    /// When a session that is not live yet ends.
    pub(super) joining: Option<Instant>,
    /// What the child takes, by its own word.
    pub(super) filter: Filter,
    /// What it is about to take: in force beside `filter` until the child confirms the barrier of this nonce.
    pub(super) proposed: Option<(u64, Filter)>,
    pub(super) next_origin_seq: u64,
    pub(super) control: ControlCount,
}

impl Session {
    /// Whether the child does not take everything, and so needs indexes.
    pub(super) fn is_filtered(&self) -> bool {
        !self.filter.all || self.proposed.as_ref().is_some_and(|(_, filter)| !filter.all)
    }

    /// The prefixes it asks for, of filters that do not take everything.
    fn prefixes(&self) -> impl Iterator<Item = &String> {
        let proposed = self.proposed.as_ref().map(|(_, filter)| filter);
        let filters = std::iter::once(&self.filter).chain(proposed);
        filters.filter(|filter| !filter.all).flat_map(|filter| &filter.prefixes)
    }
}

/// What all sessions together ask for beyond whole windows.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// How many sessions ask for each prefix, those that take everything left out.
    prefixes: BTreeMap<String, usize>,
    /// How many sessions do not take everything, and so need indexes.
    filtered: usize,
}

impl Demand {
    pub(super) fn add(&mut self, session: &Session) {
        self.filtered += usize::from(session.is_filtered());
        for prefix in session.prefixes() {
            *self.prefixes.entry(prefix.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, session: &Session) {
        self.filtered -= usize::from(session.is_filtered());
        for prefix in session.prefixes() {
            if let Some(count) = self.prefixes.get_mut(prefix) {
                *count -= 1;
                if *count == 0 {
                    self.prefixes.remove(prefix);
                }
            }
        }
    }

    pub(super) fn is_any(&self) -> bool {
        self.filtered > 0
    }

    /// Whether a topic is asked for by any of its prefixes.
    pub(super) fn wants(&self, topic: &str) -> bool {
        (0..=topic.len()).filter_map(|end| topic.get(..end)).any(|p| self.prefixes.contains_key(p))
    }
}

//! What a host knows of sessions, and of what those take.

use crate::id::{EndpointId, PeerId, SessionToken};
use crate::role::Role;
use crate::wire::Ack;

use super::super::{ControlCount, Instant};
use super::forbidden::Forbidden;
use super::interface::RepairRate;
use super::rights::Known;
use super::subscribing::FilterChange;

/// Who submitted messages, and so is told their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    pub(super) fn takes_anything(&self) -> bool {
        !self.prefixes.is_empty()
    }

    pub(super) fn takes_all(&self) -> bool {
        self.all
    }

    pub(super) fn prefixes(&self) -> &[String] {
        &self.prefixes
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
    pub(super) change: FilterChange,
    pub(super) control: ControlCount,
    pub(super) flow: Flow,
    /// Windows asked for and not sent yet: from the first to the last number.
    pub(super) repair: Option<(u64, u64)>,
    pub(super) bucket: Bucket,
    /// When it was last asked to send again, and from which origin_seq on.
    pub(super) resend_asked: Option<(u64, Instant)>,
    /// What it may say about documents.
    pub(super) known: Known,
    /// What of it was refused and is not told yet.
    pub(super) forbidden: Forbidden,
}

/// How a member keeps up.
#[derive(Debug)]
pub(super) struct Flow {
    /// The seq behind which its delivery began.
    pub(super) base: u64,
    /// Its last ack; `None` before the first.
    pub(super) ack: Option<Ack>,
    /// The seq up to which it has handled all.
    pub(super) handled: u64,
    /// When it became live.
    pub(super) live_at: Instant,
    /// When anything was last heard from it on control.
    pub(super) heard_at: Instant,
    /// When anything was last said to it on control.
    pub(super) said_at: Instant,
    /// When it was last given a sign of life for its own sake.
    pub(super) pulsed_at: Instant,
    /// When it last handled something, or had nothing to handle.
    pub(super) moved_at: Instant,
    /// Since when it has been past its mark.
    pub(super) past_since: Option<Instant>,
    /// While it is working through what it missed before it came: until when it has to be less behind than ever, and what that is, in messages.
    pub(super) catching_up: Option<(Instant, u64)>,
}

impl Flow {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: 0,
            ack: None,
            handled: 0,
            live_at: now,
            heard_at: now,
            said_at: now,
            pulsed_at: now,
            moved_at: now,
            past_since: None,
            catching_up: Some((now, u64::MAX)),
        }
    }
}

/// A token bucket, in bytes.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: RepairRate,
    tokens: u64,
    filled_at: Instant,
}

impl Bucket {
    pub(super) fn new(rate: RepairRate, now: Instant) -> Self {
        Self { rate, tokens: rate.burst, filled_at: now }
    }

    /// Takes what a window of this size costs; a larger one than the bucket takes all of a full one.
    pub(super) fn take(&mut self, now: Instant, bytes: usize) -> bool {
        let earned = now.since(self.filled_at).as_secs_f64() * self.rate.per_second as f64;
        // What is less than a byte is not lost: it is counted when it has become one.
        if earned >= 1.0 {
            self.tokens = self.tokens.saturating_add(earned as u64).min(self.rate.burst);
            self.filled_at = now;
        }
        let cost = (bytes as u64).min(self.rate.burst);
        let enough = self.tokens >= cost;
        if enough {
            self.tokens -= cost;
        }
        enough
    }
}

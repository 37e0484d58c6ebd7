//! What a member tells its parent of how far it has come.

use std::collections::VecDeque;
use std::time::Duration;

use crate::flow::HighWaterMark;
use crate::message::Position;
use crate::wire::Ack;

use super::super::{Instant, Reached};

/// How often to acknowledge, while there is something to (design, section 5).
const EVERY: Duration = Duration::from_millis(25);
/// What share of the smaller mark may be handled before it is acknowledged at once (design, section 5: an eighth).
const SHARE: u64 = 8;

pub(super) const NOWHERE: Position = Position { epoch: 0, seq: 0 };
const START: Reached = Reached { reign: 0, position: NOWHERE };

/// How far the consumers have come, and what was said of it.
#[derive(Debug)]
pub(super) struct Acks {
    /// Where delivery began under this incarnation of the host: what is before it is none of its business.
    base: Reached,
    handled: Reached,
    /// The windows delivered and not handled: up to where, and their bytes.
    unhandled: VecDeque<(Reached, u64)>,
    unhandled_bytes: u64,
    /// What was handled since the last ack.
    handled_bytes: u64,
    /// The last ack of this session.
    sent: Option<Ack>,
    sent_at: Instant,
    looked_at: Instant,
}

impl Default for Acks {
    fn default() -> Self {
        Self {
            base: START,
            handled: START,
            unhandled: VecDeque::new(),
            unhandled_bytes: 0,
            handled_bytes: 0,
            sent: None,
            sent_at: Instant::START,
            looked_at: Instant::START,
        }
    }
}

impl Acks {
    /// A session begins: its first ack is due.
    pub(super) fn begin(&mut self) {
        self.sent = None;
    }

    /// Delivery jumped to here: from another incarnation of the host, or over what is missing.
    pub(super) fn jump(&mut self, to: Reached) {
        if to.reign != self.base.reign {
            self.base = to;
        }
        if self.unhandled.is_empty() {
            self.handled = to;
        }
    }

    pub(super) fn on_delivered(&mut self, up_to: Reached, bytes: u64) {
        self.unhandled.push_back((up_to, bytes));
        self.unhandled_bytes += bytes;
    }

    pub(super) fn on_handled(&mut self, up_to: Reached) {
        while let Some((_, bytes)) = self.unhandled.front().filter(|(end, _)| *end <= up_to) {
            self.handled_bytes += bytes;
            self.unhandled_bytes -= bytes;
            self.unhandled.pop_front();
        }
        self.handled = self.handled.max(up_to);
    }

    /// How much was delivered and is not handled: messages, those of others' topics counted in, and bytes.
    pub(super) fn unhandled(&self) -> (u64, u64) {
        let handled = self.handled().seq;
        let messages = self.unhandled.back().map_or(0, |(end, _)| end.position.seq.saturating_sub(handled));
        (messages, self.unhandled_bytes)
    }

    /// Up to where all was handled, in the present incarnation.
    pub(super) fn handled(&self) -> Position {
        self.handled.max(self.base).position
    }

    /// What there is to say. Nothing beyond `stored` can have been handled.
    fn current(&self, stored: Position, confirmed: u64) -> Ack {
        // What jumped ahead of the consumers is handled when they are done with what came before.
        let handled = if self.unhandled.is_empty() { stored } else { self.handled().min(stored) };
        Ack { stored, handled, confirmed }
    }

    /// When to look again.
    pub(super) fn next_look(&self, stored: Position, confirmed: u64, pulse: Duration) -> Instant {
        let Some(sent) = self.sent else { return Instant::START };
        let owes = !self.unhandled.is_empty() || sent != self.current(stored, confirmed);
        if owes { self.looked_at + EVERY } else { self.sent_at + pulse }
    }

    /// The ack that is due now, if one is.
    pub(super) fn due(
        &mut self,
        now: Instant,
        stored: Position,
        confirmed: u64,
        marks: &HighWaterMark,
        pulse: Duration,
    ) -> Option<Ack> {
        let messages = self.sent.map_or(0, |sent| self.handled().seq.saturating_sub(sent.handled.seq));
        let eager =
            messages >= (marks.messages / SHARE).max(1) || self.handled_bytes >= (marks.bytes / SHARE).max(1);
        if now < self.next_look(stored, confirmed, pulse) && !eager {
            return None;
        }
        self.looked_at = now;
        let ack = self.current(stored, confirmed);
        if self.sent == Some(ack) && now < self.sent_at + pulse {
            return None;
        }
        self.sent = Some(ack);
        self.sent_at = now;
        self.handled_bytes = 0;
        Some(ack)
    }
}

//! The way of messages through a member: what comes is put in order, what is missing is asked for, what was handled is said.

use bytes::Bytes;

use crate::wire::{
    Barrier, ChildMessage, Index, Lane, LaneBody, MAX_RECORDS, Ordered, TARGET_BYTES, TopicPart, Window,
};

use super::super::Instant;
use super::delivery::Hole;
use super::{Asked, Event, Member, Output, State};

/// How long to wait for windows that were asked for before asking again, if none of them comes (a guess: many round trips).
const REPAIR_RETRY: std::time::Duration = std::time::Duration::from_millis(500);
/// An evicted member that comes back asks for what it missed when its consumers have less than this part of the marks to do (a guess: with what
/// waits ahead of the gap, and what is asked for at once, it stays below them).
const LADEN: u64 = 4;
/// A parent is given a sign of life this many times in a lease.
const PULSES_PER_LEASE: u32 = 5;

impl Member {
    pub(super) fn on_broadcast(&mut self, now: Instant, frames: &[Bytes]) {
        self.heard_broadcast = now;
        let [lane, body] = frames else {
            self.counters.malformed_broadcasts += 1;
            return;
        };
        let max = self.max_message;
        let result = match Lane::decode(lane) {
            Ok(Lane::Whole) => LaneBody::decode_whole(body, max).map(|body| self.on_whole(now, body)),
            Ok(Lane::Index) => LaneBody::decode_index(body, |topic| self.filter.matches(topic))
                .map(|body| self.on_index(now, body)),
            Ok(Lane::Topic(topic)) => TopicPart::decode(&topic, body, max).map(|part| self.on_part(part)),
            Ok(Lane::Barrier(nonce)) => {
                Barrier::decode(body).map(|barrier| self.on_barrier(now, nonce, barrier))
            }
            Err(malformed) => Err(malformed),
        };
        if result.is_err() {
            self.counters.malformed_broadcasts += 1;
        }
    }

    /// Whether the barrier has come, so that windows count.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.state, State::Confirming { .. } | State::Live | State::Leaving { .. })
    }

    fn on_whole(&mut self, now: Instant, body: LaneBody<Window>) {
        // Before the barrier, or on a lane that is being left: what it holds comes, or came, another way.
        if !self.is_receiving() || !self.filter.takes_all() {
            return;
        }
        match body {
            LaneBody::Content(window) => self.delivery.on_window(window),
            LaneBody::Heartbeat(at) => self.delivery.on_head(at),
        }
        self.deliver(now);
    }

    fn on_part(&mut self, part: TopicPart) {
        if !self.filter.takes_all() {
            self.delivery.on_part(part);
        }
    }

    fn on_index(&mut self, now: Instant, body: LaneBody<Index>) {
        if !self.is_receiving() || self.filter.takes_all() {
            self.delivery.forget_parts();
            return;
        }
        match body {
            LaneBody::Content(index) => {
                let trust_blindly = mutant!(self, GapOnLane);
                self.delivery.on_index(&index, &self.filter, trust_blindly);
            }
            LaneBody::Heartbeat(at) => self.delivery.on_head(at),
        }
        self.deliver(now);
    }

    /// A window that was asked for.
    pub(super) fn on_repaired(&mut self, now: Instant, window: &Bytes) {
        match Window::decode(window, self.max_message) {
            Ok(window) => {
                if self.is_receiving() {
                    self.delivery.on_repaired(window);
                    self.deliver(now);
                }
            }
            Err(_) => self.counters.malformed_control += 1,
        }
    }

    /// What was asked for is not there any more.
    pub(super) fn on_missed(&mut self, now: Instant, at: Barrier) {
        if !self.is_receiving() {
            return;
        }
        if let Some(hole) = self.delivery.on_missed(at) {
            let to = crate::message::Position { epoch: at.epoch, seq: at.last_seq };
            self.acks.jump(self.delivery.reached(to));
            self.tell_hole(Some(hole));
        }
        self.asked = None;
        self.deliver(now);
    }

    /// Hands out what is next in order, and asks for what is missing.
    pub(super) fn deliver(&mut self, now: Instant) {
        while let Some(taken) = self.delivery.next(mutant!(self, DeliverAhead)) {
            self.counters.windows += 1;
            self.counters.received += taken.messages.len() as u64;
            let up_to = self.delivery.reached(taken.up_to);
            self.acks.on_delivered(up_to, taken.bytes);
            self.outputs.push_back(Output::Deliver { messages: taken.messages, up_to });
        }
        if let Some((_, ticket)) = self.settling.take_if(|(number, _)| *number <= self.delivery.number()) {
            self.outputs.push_back(Output::Subscribed { ticket });
            self.next_subscription(now);
        }
        self.ask_for_missing(now);
    }

    pub(super) fn tell_hole(&mut self, hole: Option<Hole>) {
        if let Some(Hole { after, resume_at }) = hole {
            self.outputs.push_back(Output::Event(Event::Reset { after, resume_at }));
        }
    }

    /// Asks for the windows that are missing, unless they were asked for and there is still hope.
    pub(super) fn ask_for_missing(&mut self, now: Instant) {
        let wanted = if self.is_receiving() { self.delivery.wanted() } else { None };
        let Some((first, mut last)) = wanted else {
            self.asked = None;
            if self.is_receiving() {
                self.recovers = false;
                self.limit_ahead();
            }
            return;
        };
        if self.recovers {
            if self.is_laden() {
                self.asked = None;
                return;
            }
            last = last.min(first + self.windows_at_once() - 1);
        }
        if let Some(asked) = &mut self.asked {
            if first > asked.first && first <= asked.last {
                // They are coming.
                asked.first = first;
                asked.again_at = now + REPAIR_RETRY;
            }
            if first <= asked.last && now < asked.again_at {
                return;
            }
        }
        self.delivery.on_asked(last - first + 1);
        self.asked = Some(Asked { first, last, again_at: now + REPAIR_RETRY });
        self.say(now, &ChildMessage::Repair { first, last });
    }

    /// Whether consumers have so much to do that what was missed would be too much for them.
    fn is_laden(&self) -> bool {
        let Some(terms) = &self.terms else { return false };
        let (messages, bytes) = self.acks.unhandled();
        messages > terms.marks.messages / LADEN || bytes > terms.marks.bytes / LADEN
    }

    /// How many windows may come at once, full ones, so that consumers have no more than half of the marks to do.
    fn windows_at_once(&self) -> u64 {
        let Some(terms) = &self.terms else { return 1 };
        let (messages, bytes) = self.acks.unhandled();
        let messages = (terms.marks.messages / 2).saturating_sub(messages) / MAX_RECORDS as u64;
        let bytes = (terms.marks.bytes / 2).saturating_sub(bytes) / TARGET_BYTES as u64;
        messages.min(bytes).max(1)
    }

    /// Sets how much may wait ahead of a gap: less than the marks where consumers get it on top of what they have.
    pub(super) fn limit_ahead(&mut self) {
        if let Some(terms) = &self.terms {
            let part = if self.recovers { 2 } else { 1 };
            self.delivery.set_limit(terms.marks.messages / part, terms.marks.bytes / part);
        }
    }

    /// Says how far it has come, if that is due.
    pub(super) fn ack_if_due(&mut self, now: Instant) {
        if !self.is_receiving() {
            return;
        }
        let pulse = self.lease() / PULSES_PER_LEASE;
        let (Some(stored), Some(terms)) = (self.delivery.position(), &self.terms) else { return };
        let due = self.acks.due(now, stored, self.outbox.confirmed(), &terms.marks, pulse);
        if let Some(mut ack) = due {
            if mutant!(self, AckBeforeHandling) {
                ack.handled = ack.stored;
            }
            self.say(now, &ChildMessage::Ack(ack));
        }
    }

    /// When there is something to say of that.
    pub(super) fn next_duty(&self) -> Instant {
        let Some(stored) = self.delivery.position() else { return self.now };
        let next = self.acks.next_look(stored, self.outbox.confirmed(), self.lease() / PULSES_PER_LEASE);
        next.max(self.now)
    }

    /// Own messages have places, by the parent's word. It comes on control, so a member learns of them whether or not it takes their
    /// topics, and however far it is behind in the broadcasts.
    pub(super) fn on_ordered(&mut self, now: Instant, ordered: Ordered) {
        self.outbox_moved_at = now;
        if let Some(resolved) = self.outbox.on_ordered(ordered) {
            self.outputs.extend(resolved.unknown_up_to.map(|up_to| Output::Unknown { up_to }));
            self.outputs.push_back(Output::Ordered(resolved.ordered));
        }
    }

    /// A sign of life. While the parent takes no submissions there is no word of them to wait for.
    pub(super) fn on_pulse(&mut self, now: Instant, paced: bool) {
        if paced {
            self.outbox_moved_at = now;
        }
    }
}

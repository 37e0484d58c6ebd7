//! Changes of what members take: in turns, and within a rate for each member.

use std::time::Duration;

use bytes::Bytes;

use crate::id::SessionToken;
use crate::wire::{ChildMessage, Lane, MAX_PREFIXES, MemberEntry, Nonce};

use super::super::Instant;
use super::interface::RepairRate;
use super::session::{Bucket, Filter};
use super::{Event, Host, Output};

/// The limit on a member's changes, at once and in each second, in bytes (guesses: four filters of
/// the largest size, or 256 small ones).
const RATE: RepairRate = RepairRate { burst: 1 << 20, per_second: 1 << 20 };
/// The cost of a change beside its prefixes, in bytes, and the whole cost of a repeated one (a guess).
const BASE_COST: usize = 4 << 10;
/// The cost of changes, in bytes, after which other work has its turn (a guess: half a millisecond of
/// work). One change is always worked on.
const PER_TURN: usize = 256 << 10;
/// How soon the host goes on with changes that wait.
const PAUSE: Duration = Duration::from_millis(2);

/// The change that a session has asked for and that was not worked on.
#[derive(Debug)]
pub(super) struct FilterChange {
    /// Its nonce, and the whole message. A later one takes its place unread.
    asked: Option<(u64, Bytes)>,
    bucket: Bucket,
}

impl FilterChange {
    pub(super) fn new(now: Instant) -> Self {
        Self { asked: None, bucket: Bucket::new(RATE, now) }
    }
}

impl Host {
    /// A session asks for a barrier. It gets the barrier at the next flush, behind the window that is cut there anyway, so
    /// that no barrier cuts a window.
    pub(super) fn on_subscribe(&mut self, now: Instant, token: SessionToken, nonce: u64, frame: Bytes) {
        self.count_received(now, token);
        if let Some(session) = self.sessions.get_mut(&token) {
            session.change.asked = Some((nonce, frame));
            self.subscribing.insert(token);
        }
    }

    /// Works on the changes that are asked for, as far as the rates allow.
    pub(super) fn serve_subscribes(&mut self, now: Instant) {
        self.cut_window(now);
        let mut left = PER_TURN;
        for _ in 0..self.subscribing.len() {
            let Some(token) = self.subscribing.next() else { break };
            let Some(session) = self.sessions.get_mut(&token) else { continue };
            let is_repeated = |asked| session.proposed.as_ref().is_some_and(|(nonce, _)| *nonce == asked);
            let cost = match &session.change.asked {
                Some((nonce, _)) if is_repeated(*nonce) => BASE_COST,
                Some((_, frame)) => BASE_COST + frame.len(),
                None => 0,
            };
            if session.change.bucket.take(now, cost) {
                self.subscribing.remove(token);
                left = left.saturating_sub(cost);
                if let Some((nonce, frame)) = session.change.asked.take() {
                    self.subscribe(token, nonce, &frame);
                }
            }
            if left == 0 {
                break;
            }
        }
        self.subscribe_at = (!self.subscribing.is_empty()).then(|| now + PAUSE);
    }

    /// Takes a filter in force beside the one that is, and publishes the barrier.
    fn subscribe(&mut self, token: SessionToken, nonce: u64, frame: &Bytes) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        // Asked again, the barrier comes again; the child decides by the one that arrives.
        if session.proposed.as_ref().is_none_or(|(current, _)| *current != nonce) {
            let Ok(ChildMessage::Subscribe { prefixes, .. }) = ChildMessage::decode(frame) else {
                self.counters.malformed_control += 1;
                return;
            };
            debug_assert!(prefixes.len() <= MAX_PREFIXES);
            let filter = Filter::new(prefixes);
            self.demand.add_filter(&filter);
            match session.proposed.replace((nonce, filter)) {
                Some((_, former)) => self.demand.remove_filter(&former),
                None if session.joining.is_some() => {
                    // No barrier that it goes by is before this one.
                    session.flow.base = self.log.last_seq();
                    session.flow.handled = self.log.last_seq();
                }
                None => {}
            }
        }
        self.outputs.push_back(Output::Broadcast {
            lane: Lane::Barrier(Nonce(nonce)).encode(),
            body: self.sequencer.barrier().encode(),
        });
    }

    /// The barrier has arrived: the filter that was asked for with it takes the place of the former.
    pub(super) fn on_live(&mut self, now: Instant, token: SessionToken, nonce: u64) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let Some((_, filter)) = session.proposed.take_if(|(current, _)| *current == nonce) else { return };
        self.demand.remove_filter(&std::mem::replace(&mut session.filter, filter));
        if session.joining.take().is_none() {
            return;
        }
        (session.flow.live_at, session.flow.moved_at) = (now, now);
        let member = MemberEntry { id: session.id, role: session.role };
        self.membership.join(member);
        self.outputs.push_back(Output::Event(Event::Joined { id: member.id, role: member.role }));
    }
}

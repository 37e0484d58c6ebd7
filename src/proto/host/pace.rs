//! Who keeps up: acknowledgements, the pace of the pack, the eviction of those that fall out of it, and leases.

use std::time::Duration;

use crate::flow::{EvictReason, Eviction, Lag};
use crate::id::{EndpointId, SessionToken};
use crate::message::Position;
use crate::wire::{Ack, CloseReason, Lane, ParentMessage};

use super::super::Instant;
use super::session::Session;
use super::{Event, Host, LeaveReason, MemberLag, Output};

/// The share of the high-water mark above which the pack is slowed: the low-water mark (design, section 5: half).
const LOW_WATER: f64 = 0.5;
/// How often the pack is looked at, where it is large (a guess: what is ordered in that time is small against any sensible mark).
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Up to how many members it is looked at whenever something was ordered or acknowledged.
const SMALL_PACK: usize = 64;
/// Members are given a sign of life this many times in a lease.
const PULSES_PER_LEASE: u32 = 5;
/// A host that did nothing for as many heartbeats was asleep, and holds that against nobody.
const ASLEEP: u32 = 10;

impl Host {
    /// Whether [`Input::Submit`](super::Input::Submit) and [`Input::Local`](super::Input::Local) are welcome: not while the pack is behind.
    pub(crate) fn takes_submits(&self) -> bool {
        // Those who are to leave first get rid of what they have to say.
        !self.paced || self.draining
    }

    /// Where each live member stands.
    pub(crate) fn lags(&self, now: Instant) -> Vec<MemberLag> {
        let live = self.sessions.iter().filter(|(_, session)| session.joining.is_none());
        live.map(|(token, session)| MemberLag {
            id: session.id,
            session: *token,
            lag: self.lag(now, session),
            stored: session.flow.ack.map_or(self.at(session.flow.base), |ack| ack.stored),
            handled: self.at(session.flow.handled),
        })
        .collect()
    }

    /// How far the host's own consumers are behind, if there are any.
    pub(crate) fn local_lag(&self, now: Instant) -> Option<Lag> {
        self.local_handled.map(|handled| self.lag_behind(now, handled, self.awake_since))
    }

    /// A seq of this host as a position. Within one incarnation the seq says it all.
    fn at(&self, seq: u64) -> Position {
        Position { epoch: self.sequencer.epoch(), seq }
    }

    /// Notices a sleep of our own, so that its length is held against nobody.
    pub(super) fn wake(&mut self, now: Instant) {
        if now.since(self.now) > self.config.heartbeat * ASLEEP {
            self.awake_since = now;
        }
        self.now = now;
    }

    fn lag(&self, now: Instant, session: &Session) -> Lag {
        self.lag_behind(now, session.flow.handled, session.flow.live_at.max(self.awake_since))
    }

    /// What is behind a seq; nothing is older than `from`.
    fn lag_behind(&self, now: Instant, handled: u64, from: Instant) -> Lag {
        // What is in the open window is not published, and nobody's fault.
        let last_seq = self.log.last_seq();
        match self.log.behind(handled) {
            Some(behind) if handled < last_seq => Lag {
                messages: last_seq - handled,
                bytes: behind.bytes,
                age: now.since(behind.since.max(from)),
            },
            _ => Lag::default(),
        }
    }

    pub(super) fn on_ack(&mut self, now: Instant, token: SessionToken, ack: Ack) {
        let first_epoch = self.first_epoch;
        let (epoch, published) = (self.sequencer.epoch(), self.log.last_seq());
        let Some(session) = self.sessions.get_mut(&token) else { return };
        // One from before this incarnation: nothing of this one is handled yet.
        let here =
            |position: Position, base: u64| if position.epoch < first_epoch { base } else { position.seq };
        let base = session.flow.base;
        let (handled, stored) = (here(ack.handled, base), here(ack.stored, base));
        let in_future = |seq, position: Position| seq > published || position.epoch > epoch;
        if in_future(handled, ack.handled) || in_future(stored, ack.stored) || handled > stored {
            return self.close(now, token, CloseReason::Violation);
        }
        let flow = &mut session.flow;
        // The first one may lie behind the base, where the member comes back to repair what it missed.
        if flow.ack.is_none() || handled > flow.handled {
            flow.handled = handled;
            flow.moved_at = now;
        }
        if handled >= published {
            flow.moved_at = now;
        }
        flow.ack = Some(ack);
        let id = session.id;
        if let Some(origin) = self.origins.get_mut(&id) {
            origin.fates.forget(ack.confirmed);
        }
        self.look_due = true;
    }

    pub(super) fn on_local_handled(&mut self, now: Instant, seq: Option<u64>) {
        if std::mem::replace(&mut self.local_handled, seq) != seq {
            self.local_moved_at = now;
        }
        self.look_due = true;
    }

    /// Looks at the pack, if there is reason to and it is not too soon: sets the pace, and evicts.
    pub(super) fn look_if_due(&mut self, now: Instant) {
        let soon = self.sessions.len() > SMALL_PACK && now < self.looked_at + LOOK_EVERY;
        if self.look_due && !soon {
            self.look(now);
        }
    }

    pub(super) fn look(&mut self, now: Instant) {
        self.look_due = false;
        self.looked_at = now;
        let marks = self.config.marks;
        let local = self.local_lag(now).map(|lag| marks.share(&lag));
        let mut pack: Vec<f64> = local.into_iter().collect();
        let heartbeat = self.config.heartbeat;
        let straggles = |share: f64, moved_at: Instant| share > LOW_WATER && now.since(moved_at) < heartbeat;
        let mut stragglers = local.is_some_and(|share| straggles(share, self.local_moved_at));
        let mut lags = Vec::with_capacity(self.sessions.len());
        for (token, session) in &self.sessions {
            if session.joining.is_none() {
                lags.push((*token, self.lag(now, session)));
            }
        }
        for (token, lag) in &lags {
            let Some(session) = self.sessions.get_mut(token) else { continue };
            let flow = &mut session.flow;
            let share = marks.share(lag);
            if let Some((until, least)) = flow.catching_up {
                flow.catching_up = match flow.ack {
                    // Where it stands is not known before its first word.
                    None => Some((flow.live_at + marks.age, least)).filter(|(until, _)| now < *until),
                    Some(_) if share <= LOW_WATER => None,
                    Some(_) if lag.messages < least => Some((now + marks.age, lag.messages)),
                    Some(_) => Some((until, least)).filter(|_| now < until),
                };
            }
            // Whoever takes nothing is never behind, and no measure for those who do.
            if flow.catching_up.is_none() && session.filter.takes_anything() {
                pack.push(share);
                stragglers |= straggles(share, flow.moved_at);
            }
        }
        let pace = percentile(&mut pack, self.config.pace_percentile);
        let behind = pace > LOW_WATER;
        let waits = self.patience.wait(now, stragglers && !behind);
        self.counters.pauses += u64::from(behind && !self.paced);
        self.counters.straggler_waits += u64::from(waits && !self.paced);
        self.paced = behind || waits;
        for (token, lag) in lags {
            if let Some(reason) = self.judge(now, token, &lag, pace > 1.0) {
                self.evict(now, token, reason, String::new());
            }
        }
    }

    /// Why a member has to go, if it has to.
    fn judge(
        &mut self,
        now: Instant,
        token: SessionToken,
        lag: &Lag,
        pack_is_past: bool,
    ) -> Option<EvictReason> {
        let (marks, awake_since) = (self.config.marks, self.awake_since);
        let flow = &mut self.sessions.get_mut(&token)?.flow;
        if now.since(flow.heard_at.max(awake_since)) > self.config.lease {
            return Some(EvictReason::Silent);
        }
        if lag.messages == 0 {
            flow.moved_at = now;
        }
        // Whoever has all but the last window is not slow, however large that is: somebody has to be the last to get it.
        let has_all_but_last = self.log.behind(flow.handled).is_none_or(|behind| behind.is_last);
        let standstill = now.since(flow.moved_at.max(awake_since).max(flow.live_at));
        if lag.age > marks.age && standstill > marks.age {
            return Some(EvictReason::Stalled);
        }
        let past = marks.exceeded_by(lag).filter(|_| flow.catching_up.is_none() && !pack_is_past);
        let past = past.filter(|reason| *reason == EvictReason::Age || !has_all_but_last);
        let Some(reason) = past else {
            flow.past_since = None;
            return None;
        };
        let since = *flow.past_since.get_or_insert(now);
        (now.since(since) >= marks.grace).then_some(reason)
    }

    pub(super) fn on_kick(&mut self, now: Instant, id: EndpointId, text: String) {
        if let Some(token) = self.by_id.get(&id).copied() {
            self.evict(now, token, EvictReason::Kicked, text);
        }
    }

    /// Sends a member away: it is told why, its broadcast connection is cut, and it is not to come back at once.
    fn evict(&mut self, now: Instant, token: SessionToken, reason: EvictReason, text: String) {
        let Some(session) = self.sessions.get(&token) else { return };
        let (peer, id) = (session.peer.clone(), session.id);
        let (lag, position) = (self.lag(now, session), self.at(session.flow.handled));
        // One that is merely gone need not be kept away.
        let retry_after = match reason {
            EvictReason::Silent => Duration::ZERO,
            _ => self.quarantine.add(now, id),
        };
        let eviction = Eviction { reason, lag, position, retry_after, text, resume: Some(token) };
        self.send(now, token, &ParentMessage::Evicted(eviction.clone()));
        self.counters.evictions += 1;
        self.outputs.push_back(Output::CutBroadcast { session: token });
        self.outputs.push_back(Output::Event(Event::Evicted { id, eviction }));
        self.forget(now, token, LeaveReason::Evicted);
        self.expect_hang_up(now, peer, token);
    }

    /// What is done regularly: the order's end is told to all, signs of life are given, the pack is looked at, what is outdated is forgotten.
    pub(super) fn on_heartbeat(&mut self, now: Instant) {
        let quiet = self.heartbeat_number == self.sequencer.number();
        self.heartbeat_number = self.sequencer.number();
        // Armed first: nothing below may keep the next one from coming.
        self.next_heartbeat =
            if mutant!(self, LostTimer) && quiet { None } else { Some(now + self.config.heartbeat) };
        self.cut_window(now);
        let body = self.sequencer.barrier().encode_heartbeat();
        if self.demand.is_any() {
            self.outputs.push_back(Output::Broadcast { lane: Lane::Index.encode(), body: body.clone() });
        }
        // Always: plain subscribers are not known here.
        self.outputs.push_back(Output::Broadcast { lane: Lane::Whole.encode(), body });
        let pulse = self.config.lease / PULSES_PER_LEASE;
        // While submissions are left unread, their senders are to know, whatever else is said to them.
        let paced = self.paced;
        let due = |session: &Session| {
            let flow = &session.flow;
            now >= flow.said_at + pulse || (paced && now >= flow.pulsed_at + pulse)
        };
        let due = self.sessions.iter().filter(|(_, session)| due(session)).map(|(token, _)| *token);
        for token in due.collect::<Vec<SessionToken>>() {
            if let Some(session) = self.sessions.get_mut(&token) {
                session.flow.pulsed_at = now;
            }
            self.send(now, token, &ParentMessage::Pulse { paced });
        }
        self.tell_what_was_refused(now, false);
        self.look(now);
        self.origins.expire(now);
        self.quarantine.forgive(now);
    }
}

/// The value of which `percent` of the others are at least as low: the lower median for 50, so the lowest of one or two. 0 where there is none.
fn percentile(values: &mut [f64], percent: u8) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let index = (values.len() - 1) * usize::from(percent.min(100)) / 100;
    *values.select_nth_unstable_by(index, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn the_pack_is_the_median_and_the_fastest_of_one_or_two() {
        assert_eq!(percentile(&mut [], 50), 0.0);
        assert_eq!(percentile(&mut [3.0], 50), 3.0);
        assert_eq!(percentile(&mut [9.0, 2.0], 50), 2.0);
        assert_eq!(percentile(&mut [9.0, 2.0, 5.0], 50), 5.0);
        assert_eq!(percentile(&mut [9.0, 2.0, 5.0, 7.0], 50), 5.0);
        assert_eq!(percentile(&mut [9.0, 2.0, 5.0, 7.0], 100), 9.0);
        assert_eq!(percentile(&mut [9.0, 2.0, 5.0, 7.0], 0), 2.0);
    }
}

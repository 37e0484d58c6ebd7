//! How a member comes into a session: hello, welcome, the first barrier; and how it changes what it takes.

use std::time::Duration;

use crate::id::EndpointId;
use crate::message::Position;
use crate::wire::{
    Barrier, ChildMessage, Hello, MemberEntry, Nonce, OriginState, PROTOCOL_VERSION, Refusal, RefusalCode,
    Welcome,
};

use super::super::{ControlCount, Instant};
use super::acks::NOWHERE;
use super::delivery::MEMORY_SLACK;
use super::filter::Filter;
use super::{End, Event, Joined, Member, Output, Pending, State};

/// How long to wait for a barrier before asking again, at first and at most (guesses: a few round trips between neighbours; twice a second). The question often
/// overtakes the subscription to its answer, which goes another way: a long wait is then a wait for nothing.
const BARRIER_RETRY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));

impl Member {
    pub(super) fn on_connected(&mut self, now: Instant) {
        if !matches!(self.state, State::Dialling) {
            return;
        }
        self.control = ControlCount::default();
        self.state = State::Greeting { deadline: now + self.config.handshake_timeout };
        let hello = ChildMessage::Hello(Hello {
            version: PROTOCOL_VERSION,
            cluster: self.config.cluster.clone(),
            id: self.config.id,
            resume: self.session,
            incarnation: self.member_of,
            epoch: self.delivery.epoch(),
            first_open: self.outbox.first_open().unwrap_or(0),
            next_origin_seq: self.outbox.next_origin_seq(),
            token: self.config.token.clone(),
        });
        self.say(now, &hello);
    }

    pub(super) fn on_attached(&mut self, now: Instant) {
        let State::Attaching { welcome } = &self.state else { return };
        self.state =
            State::Joining { welcome: welcome.clone(), deadline: now + self.config.handshake_timeout };
        for prefix in self.filter.lanes() {
            self.outputs.push_back(Output::AddLane { prefix });
        }
        self.subscribe(now, self.filter.clone(), 0);
    }

    /// Asks for the barrier that brings `filter` into force. Its lanes are subscribed to already.
    fn subscribe(&mut self, now: Instant, filter: Filter, ticket: u64) {
        let nonce = Nonce(self.rng.next());
        self.outputs.push_back(Output::AddLane { prefix: nonce.subscription() });
        self.pending = Some(Pending { nonce, filter, ticket, retry_at: now, pause: BARRIER_RETRY.0 });
        self.ask_for_barrier(now);
    }

    pub(super) fn ask_for_barrier(&mut self, now: Instant) {
        let Some(pending) = &mut self.pending else { return };
        pending.retry_at = now + pending.pause;
        pending.pause = (pending.pause * 2).min(BARRIER_RETRY.1);
        let message = ChildMessage::Subscribe {
            nonce: pending.nonce.0,
            prefixes: pending.filter.0.iter().cloned().collect(),
        };
        self.say(now, &message);
    }

    /// Takes up the latest wish for another subscription, when none is pending.
    pub(super) fn next_subscription(&mut self, now: Instant) {
        match self.state {
            State::Live if self.pending.is_none() && self.settling.is_none() => {}
            // One that is leaving still takes what it took.
            State::Live | State::Joining { .. } | State::Confirming { .. } | State::Leaving { .. } => return,
            _ => {
                // There is no session: the next one begins with it.
                if let Some((filter, ticket)) = self.wanted.take() {
                    self.filter = filter;
                    self.settling = None;
                    self.outputs.push_back(Output::Subscribed { ticket });
                }
                return;
            }
        }
        let Some((filter, ticket)) = self.wanted.take() else { return };
        if filter == self.filter {
            // It is in force, but what is still repaired may be from before.
            match self.delivery.settles_at() {
                Some(number) => self.settling = Some((number, ticket)),
                None => self.outputs.push_back(Output::Subscribed { ticket }),
            }
            return;
        }
        for prefix in filter.lanes().difference(&self.filter.lanes()) {
            self.outputs.push_back(Output::AddLane { prefix: prefix.clone() });
        }
        self.subscribe(now, filter, ticket);
    }

    pub(super) fn on_welcome(&mut self, welcome: Welcome) {
        if !matches!(self.state, State::Greeting { .. }) {
            self.counters.malformed_control += 1;
            return;
        }
        if self.outbox.is_untouched() {
            self.outbox.start_after(welcome.last_origin_seq);
        } else if welcome.last_origin_seq >= self.outbox.next_origin_seq() {
            let reason = "another endpoint has sent under this id".to_owned();
            return self.end(End::Refused { code: RefusalCode::DuplicateId, reason });
        }
        if welcome.origin == OriginState::Forgotten {
            self.give_up(welcome.last_origin_seq);
        }
        self.session = Some(welcome.session);
        self.max_message = welcome.max_message as usize;
        self.terms = Some(welcome.terms.clone());
        self.limit_ahead();
        self.outputs.push_back(Output::Attach {
            broadcast: welcome.broadcast.clone(),
            submit: welcome.submit.clone(),
            session: welcome.session,
        });
        self.state = State::Attaching { welcome };
    }

    /// Who came and went. Until the member is live, that belongs to the list it was welcomed with.
    pub(super) fn on_membership(
        &mut self,
        now: Instant,
        mut joined: Vec<MemberEntry>,
        mut left: Vec<EndpointId>,
    ) {
        let is_confirmed = joined.iter().any(|member| member.id == self.config.id);
        joined.retain(|member| member.id != self.config.id);
        left.retain(|id| *id != self.config.id);
        let known = match &mut self.state {
            State::Attaching { welcome } | State::Joining { welcome, .. } => Some(&mut welcome.members),
            State::Confirming { joined, .. } => Some(&mut joined.members),
            _ => None,
        };
        if let Some(known) = known {
            known.retain(|member| !left.contains(&member.id) && joined.iter().all(|new| new.id != member.id));
            known.append(&mut joined);
        } else if !joined.is_empty() || !left.is_empty() {
            self.outputs.push_back(Output::Event(Event::Membership { joined, left }));
        }
        if is_confirmed {
            self.on_confirmed(now);
        }
    }

    fn on_confirmed(&mut self, now: Instant) {
        match std::mem::replace(&mut self.state, State::Live) {
            State::Confirming { joined, last_origin_seq, .. } => {
                self.join_deadline = None;
                self.member_of = self.delivery.incarnation();
                self.outbox.settle_beginning();
                self.pause = self.config.backoff.0;
                self.counters.sessions += 1;
                // What the host has ordered of the outbox it has told by now.
                self.give_up(last_origin_seq);
                if !joined.role.may_send() {
                    self.give_up(u64::MAX - 1);
                }
                self.outputs.push_back(Output::Event(Event::Joined(joined)));
                self.resend(now, last_origin_seq + 1);
                self.next_subscription(now);
            }
            other => self.state = other,
        }
    }

    pub(super) fn on_refused(&mut self, now: Instant, Refusal { code, retry_after, reason }: Refusal) {
        if !matches!(self.state, State::Greeting { .. }) {
            self.counters.malformed_control += 1;
            return;
        }
        let first_join = self.join_deadline.is_some();
        match code {
            // The host may come back, room may become free; and for a member that was admitted once, its name, too.
            RefusalCode::Closing => self.fail(now, &reason),
            RefusalCode::DuplicateId | RefusalCode::Full if !first_join => self.fail(now, &reason),
            // Others that are joining will be done soon.
            RefusalCode::Busy => self.fail(now, &reason),
            RefusalCode::Quarantined => self.back_off(now, retry_after, &reason),
            _ => self.end(End::Refused { code, reason }),
        }
    }

    pub(super) fn on_barrier(&mut self, now: Instant, nonce: Nonce, barrier: Barrier) {
        let Some(pending) = self.pending.take_if(|pending| pending.nonce == nonce) else {
            // A second answer to a question asked twice.
            return;
        };
        self.outputs.push_back(Output::RemoveLane { prefix: nonce.subscription() });
        for prefix in self.filter.lanes().difference(&pending.filter.lanes()) {
            self.outputs.push_back(Output::RemoveLane { prefix: prefix.clone() });
        }
        self.filter = pending.filter;
        self.say(now, &ChildMessage::Live { nonce: nonce.0 });
        match &self.state {
            State::Joining { welcome, .. } => {
                let welcome = welcome.clone();
                self.on_subscribed_first(now, welcome, barrier);
            }
            // A parent that shuts down still delivers, and whoever asked wants to know, whatever comes then.
            State::Live | State::Leaving { .. } => {
                self.delivery.forget_parts();
                self.delivery.on_head(barrier);
                self.delivery.switch_at(barrier.number, self.filter.clone());
                self.settling = Some((barrier.number, pending.ticket));
            }
            _ => {}
        }
        self.deliver(now);
    }

    /// The first barrier of a session: its windows begin behind it.
    fn on_subscribed_first(&mut self, now: Instant, welcome: Welcome, barrier: Barrier) {
        self.heard_broadcast = now;
        // What is in the outbox has been away with the endpoint: it counts from now on.
        self.outbox_moved_at = now;
        let new_incarnation = self.delivery.incarnation() != welcome.incarnation;
        let remember = (!mutant!(self, ForgetOrigins)).then(|| now + self.config.origin_ttl + MEMORY_SLACK);
        let first = self.delivery.position().is_none();
        let hole = self.delivery.begin(barrier, welcome.incarnation, &self.filter, remember);
        self.acks.begin();
        if new_incarnation && let Some((_, ticket)) = self.settling.take() {
            // Its window was of the old one.
            self.outputs.push_back(Output::Subscribed { ticket });
        }
        if first || hole.is_some() {
            let to = Position { epoch: barrier.epoch, seq: barrier.last_seq };
            self.acks.jump(self.delivery.reached(to));
        }
        self.tell_hole(hole);
        self.state = State::Confirming {
            joined: Joined {
                host: welcome.host,
                role: welcome.role,
                max_message: welcome.max_message as usize,
                position: self.delivery.position().unwrap_or(NOWHERE),
                next_origin_seq: self.outbox.next_origin_seq(),
                terms: welcome.terms,
                members: welcome.members,
            },
            last_origin_seq: welcome.last_origin_seq,
            deadline: now + self.config.handshake_timeout,
        };
    }
}

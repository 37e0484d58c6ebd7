//! A child's side: joins, keeps its subscription whole, knows which of its messages have their place.

//!
//! [`Member`] is the machine and its sessions; it keeps three smaller ones: [`delivery::Delivery`] is how far it has come in the
//! order, [`in_flight::InFlight`] what it submitted and has no place yet, [`filter::Filter`] what it takes.

mod delivery;
mod filter;
mod in_flight;
mod interface;

pub(crate) use interface::{Config, Counters, End, Event, Input, Limit, Output};

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::id::{EndpointId, SessionToken};
use crate::message::Position;
use crate::wire::{
    Barrier, ChildMessage, CloseReason, Hello, Index, Lane, MemberEntry, Nonce, Ordered, PROTOCOL_VERSION,
    ParentMessage, RefusalCode, SubmitHead, TopicPart, Welcome, Window,
};

use delivery::{Delivery, Hole, Taken};
use filter::Filter;
use in_flight::InFlight;

use super::rng::Rng;
use super::{ControlCount, Instant};

/// How long to wait for a barrier before asking again, at first and at most (guesses: a few round trips; twice a second).
const BARRIER_RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A subscription asked for, whose barrier has not come.
#[derive(Debug)]
struct Pending {
    nonce: Nonce,
    filter: Filter,
    ticket: u64,
    retry_at: Instant,
    pause: Duration,
}

#[derive(Debug)]
enum State {
    /// Before the start.
    Idle,
    Dialling,
    /// Hello is said; the answer is due.
    Greeting {
        deadline: Instant,
    },
    /// Admitted; the channels are being connected.
    Attaching {
        welcome: Welcome,
    },
    /// Connected; the barrier is due.
    Joining {
        welcome: Welcome,
        deadline: Instant,
    },
    /// The subscription is live; the parent's word that it counts the endpoint as a member is due.
    Confirming {
        joined: Event,
        deadline: Instant,
    },
    Live,
    /// Goodbye is said; the answer is due.
    Leaving {
        deadline: Instant,
    },
    /// Waiting to try again.
    Backoff {
        until: Instant,
    },
    Ended,
}

/// A child's state machine, for all its sessions. See the [module above](super) for how to drive it.
#[derive(Debug)]
pub(crate) struct Member {
    config: Config,
    rng: Rng,
    state: State,
    /// When the first join must be done.
    join_deadline: Option<Instant>,
    /// Why the last attempt failed.
    last_failure: String,
    pause: Duration,
    session: Option<SessionToken>,
    /// The largest payload, by the parent's word.
    max_message: usize,
    control: ControlCount,
    host: Option<EndpointId>,
    delivery: Delivery,
    in_flight: InFlight,
    /// What is in force.
    filter: Filter,
    pending: Option<Pending>,
    /// The latest wish, if it came while another was pending.
    wanted: Option<(Filter, u64)>,
    /// The parent shuts down: nothing more is submitted, and the session ends behind this window.
    closing: Option<u64>,
    leaving: bool,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Member {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            rng: Rng::new(config.seed),
            state: State::Idle,
            join_deadline: None,
            last_failure: "nobody has answered yet".to_owned(),
            pause: config.backoff.0,
            session: None,
            max_message: 0,
            control: ControlCount::default(),
            host: None,
            delivery: Delivery::default(),
            in_flight: InFlight::new(config.in_flight),
            filter: Filter(config.prefixes.clone()),
            pending: None,
            wanted: None,
            closing: None,
            leaving: false,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            lost_windows: self.delivery.lost_windows(),
            duplicates: self.delivery.duplicates(),
            ..self.counters
        }
    }

    /// Whether [`Input::Submit`] is welcome now.
    pub(crate) fn can_submit(&self) -> bool {
        matches!(self.state, State::Live) && self.closing.is_none() && self.in_flight.has_room()
    }

    /// What is to be done next; `None` when all is done for now.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` has something to do, at the earliest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Greeting { deadline }
            | State::Joining { deadline, .. }
            | State::Confirming { deadline, .. }
            | State::Leaving { deadline } => Some(*deadline),
            State::Backoff { until } => Some(*until),
            State::Idle | State::Dialling | State::Attaching { .. } | State::Live | State::Ended => None,
        };
        let retry = self.pending.as_ref().map(|pending| pending.retry_at);
        [state, retry, self.join_deadline].into_iter().flatten().min()
    }

    /// Does what is due. An early call does nothing.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.join_deadline.is_some_and(|deadline| deadline <= now) {
            return self.end(End::TimedOut { reason: self.last_failure.clone() });
        }
        match &self.state {
            State::Greeting { deadline } | State::Confirming { deadline, .. } if *deadline <= now => {
                self.fail(now, "the host does not answer");
            }
            State::Joining { deadline, .. } if *deadline <= now => {
                self.fail(now, "the broadcast channel stays silent");
            }
            // The answer is a courtesy: what matters was ordered before. `fail` ends a member that wants to leave.
            State::Leaving { deadline } if *deadline <= now => self.fail(now, "the host does not answer"),
            State::Backoff { until } if *until <= now => {
                self.state = State::Dialling;
                self.outputs.push_back(Output::Dial);
            }
            _ => {}
        }
        if self.pending.as_ref().is_some_and(|pending| pending.retry_at <= now) {
            self.ask_for_barrier(now);
        }
    }

    /// Takes in what happened.
    pub(crate) fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Start => {
                self.join_deadline = Some(now + self.config.join_timeout);
                self.state = State::Dialling;
                self.outputs.push_back(Output::Dial);
            }
            Input::Connected => self.on_connected(now),
            Input::DialFailed { reason } | Input::AttachFailed { reason } | Input::Lost { reason } => {
                self.fail(now, &reason);
            }
            Input::Attached => self.on_attached(now),
            Input::Control { frames } => self.on_control(now, &frames),
            Input::Broadcast { frames } => self.on_broadcast(now, &frames),
            Input::Submit { first_origin_seq, count, body } => self.on_submit(first_origin_seq, count, body),
            Input::Subscribe { prefixes, ticket } => {
                self.wanted = Some((Filter(prefixes), ticket));
                self.next_subscription(now);
            }
            Input::Leave => {
                self.leaving = true;
                if !matches!(self.state, State::Live | State::Leaving { .. }) {
                    self.end(End::Left);
                }
            }
        }
        self.leave_if_done(now);
    }

    fn on_connected(&mut self, now: Instant) {
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
            epoch: self.delivery.epoch(),
            next_origin_seq: self.in_flight.next_origin_seq(),
            token: self.config.token.clone(),
        });
        self.say(now, &hello);
    }

    fn on_attached(&mut self, now: Instant) {
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

    fn ask_for_barrier(&mut self, now: Instant) {
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
    fn next_subscription(&mut self, now: Instant) {
        match self.state {
            State::Live if self.pending.is_none() => {}
            State::Live | State::Joining { .. } | State::Confirming { .. } => return,
            _ => {
                // There is no session: the next one begins with it.
                if let Some((filter, ticket)) = self.wanted.take() {
                    self.filter = filter;
                    self.outputs.push_back(Output::Subscribed { ticket });
                }
                return;
            }
        }
        let Some((filter, ticket)) = self.wanted.take() else { return };
        if filter == self.filter {
            self.outputs.push_back(Output::Subscribed { ticket });
            return;
        }
        for prefix in filter.lanes().difference(&self.filter.lanes()) {
            self.outputs.push_back(Output::AddLane { prefix: prefix.clone() });
        }
        self.subscribe(now, filter, ticket);
    }

    fn on_control(&mut self, now: Instant, frames: &[Bytes]) {
        let message = match frames {
            [frame] => ParentMessage::decode(frame).ok(),
            _ => None,
        };
        let Some(message) = message else {
            self.counters.malformed_control += 1;
            return;
        };
        if let ParentMessage::Received { count } = message {
            if !self.control.on_report(count) {
                self.counters.malformed_control += 1;
            }
            return;
        }
        if let Some(count) = self.control.on_receive() {
            self.outputs.push_back(Output::Control { frame: ChildMessage::Received { count }.encode() });
        }
        match message {
            ParentMessage::Welcome(welcome) => self.on_welcome(welcome),
            ParentMessage::Refused { code, reason } => self.on_refused(now, code, reason),
            ParentMessage::Ordered(runs) => runs.into_iter().for_each(|run| self.on_ordered(run)),
            ParentMessage::Membership { joined, left } => self.on_membership(now, joined, left),
            ParentMessage::Closing { reason, number, .. } => self.on_closing(now, reason, number),
            ParentMessage::Received { .. } => {}
        }
    }

    fn on_welcome(&mut self, welcome: Welcome) {
        if !matches!(self.state, State::Greeting { .. }) {
            self.counters.malformed_control += 1;
            return;
        }
        self.session = Some(welcome.session);
        self.max_message = welcome.max_message as usize;
        self.outputs.push_back(Output::Attach {
            broadcast: welcome.broadcast.clone(),
            submit: welcome.submit.clone(),
            session: welcome.session,
        });
        self.state = State::Attaching { welcome };
    }

    /// Who came and went. Until the member is live, that belongs to the list it was welcomed with.
    fn on_membership(&mut self, now: Instant, mut joined: Vec<MemberEntry>, mut left: Vec<EndpointId>) {
        let is_confirmed = joined.iter().any(|member| member.id == self.config.id);
        joined.retain(|member| member.id != self.config.id);
        left.retain(|id| *id != self.config.id);
        let known = match &mut self.state {
            State::Attaching { welcome } | State::Joining { welcome, .. } => Some(&mut welcome.members),
            State::Confirming { joined: Event::Joined { members, .. }, .. } => Some(members),
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
            State::Confirming { joined, .. } => {
                self.join_deadline = None;
                self.pause = self.config.backoff.0;
                self.counters.sessions += 1;
                self.outputs.push_back(Output::Event(joined));
                self.next_subscription(now);
            }
            other => self.state = other,
        }
    }

    fn on_refused(&mut self, now: Instant, code: RefusalCode, reason: String) {
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
            _ => self.end(End::Refused { code, reason }),
        }
    }

    fn on_closing(&mut self, now: Instant, reason: CloseReason, number: u64) {
        match reason {
            CloseReason::Left if matches!(self.state, State::Leaving { .. }) => {
                if self.leaving {
                    self.end(End::Left)
                } else {
                    self.fail(now, "the host shut down")
                }
            }
            CloseReason::Shutdown if matches!(self.state, State::Live) => self.closing = Some(number),
            CloseReason::Left => self.fail(now, "the host ended the session"),
            CloseReason::Shutdown => self.fail(now, "the host shut down"),
            CloseReason::Replaced => {
                self.end(End::Refused {
                    code: RefusalCode::DuplicateId,
                    reason: "another session of this endpoint took over".to_owned(),
                });
            }
            CloseReason::Violation => self.fail(now, "the host says that this endpoint broke the protocol"),
            CloseReason::Unresponsive => self.fail(now, "the host says that this endpoint does not answer"),
        }
    }

    fn on_submit(&mut self, first_origin_seq: u64, count: u16, body: Bytes) {
        let session = self.session.filter(|_| self.can_submit());
        self.in_flight.submit(first_origin_seq, count, body.len());
        match session {
            Some(session) => {
                self.outputs.push_back(Output::Submit { head: SubmitHead { session }.encode(), body });
            }
            None => {
                debug_assert!(false, "a batch was submitted out of turn");
                self.lose_in_flight();
            }
        }
    }

    fn on_broadcast(&mut self, now: Instant, frames: &[Bytes]) {
        let [lane, body] = frames else {
            self.counters.malformed_broadcasts += 1;
            return;
        };
        let max = self.max_message;
        let result = match Lane::decode(lane) {
            Ok(Lane::Whole) => Window::decode(body, max).map(|window| self.on_window(window)),
            Ok(Lane::Index) => Index::decode(body).map(|index| self.on_index(&index)),
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
    fn is_receiving(&self) -> bool {
        matches!(self.state, State::Confirming { .. } | State::Live | State::Leaving { .. })
    }

    fn on_window(&mut self, window: Window) {
        // Before the barrier, or on a lane that is being left: what it holds comes, or came, another way.
        if !self.is_receiving() || !self.filter.takes_all() {
            return;
        }
        if let Some(taken) = self.delivery.on_window(window) {
            self.deliver(taken);
        }
    }

    fn on_part(&mut self, part: TopicPart) {
        if !self.filter.takes_all() {
            self.delivery.on_part(part);
        }
    }

    fn on_index(&mut self, index: &Index) {
        if !self.is_receiving() || self.filter.takes_all() {
            self.delivery.forget_parts();
            return;
        }
        if let Some(taken) = self.delivery.on_index(index, &self.filter) {
            self.deliver(taken);
        }
    }

    fn deliver(&mut self, Taken { hole, messages }: Taken) {
        self.tell_hole(hole);
        self.counters.windows += 1;
        self.counters.received += messages.len() as u64;
        if !messages.is_empty() {
            self.outputs.push_back(Output::Deliver { messages });
        }
    }

    fn tell_hole(&mut self, hole: Option<Hole>) {
        if let Some(Hole { after, resume_at }) = hole {
            self.outputs.push_back(Output::Event(Event::Reset { after, resume_at }));
        }
    }

    fn on_barrier(&mut self, now: Instant, nonce: Nonce, barrier: Barrier) {
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
            State::Live => {
                let hole = self.delivery.on_barrier(barrier);
                self.tell_hole(hole);
                self.outputs.push_back(Output::Subscribed { ticket: pending.ticket });
                self.next_subscription(now);
            }
            _ => {}
        }
    }

    /// The first barrier of a session: delivery begins behind it.
    fn on_subscribed_first(&mut self, now: Instant, welcome: Welcome, barrier: Barrier) {
        let same_host = self.host.replace(welcome.host) == Some(welcome.host);
        let hole = self.delivery.begin(barrier, same_host);
        self.tell_hole(hole);
        self.state = State::Confirming {
            joined: Event::Joined {
                host: welcome.host,
                role: welcome.role,
                max_message: welcome.max_message as usize,
                position: Position { epoch: barrier.epoch, seq: barrier.last_seq },
                members: welcome.members,
            },
            deadline: now + self.config.handshake_timeout,
        };
    }

    /// Own messages have places, by the parent's word. It comes on control, so a member learns of them whether or not it takes their
    /// topics, and however far its consumers are behind in the broadcasts.
    fn on_ordered(&mut self, ordered: Ordered) {
        if let Some(resolved) = self.in_flight.on_ordered(ordered) {
            self.outputs.extend(resolved.unknown_up_to.map(|up_to| Output::Unknown { up_to }));
            self.outputs.push_back(Output::Ordered(resolved.ordered));
        }
    }

    fn lose_in_flight(&mut self) {
        self.outputs.extend(self.in_flight.lose().map(|up_to| Output::Unknown { up_to }));
    }

    /// Says goodbye when that was asked for, by the application or the parent, and nothing is under way.
    fn leave_if_done(&mut self, now: Instant) {
        let behind = self.closing.is_some_and(|last| self.delivery.number() < last);
        if (self.leaving || self.closing.is_some())
            && matches!(self.state, State::Live)
            && self.in_flight.is_empty()
            && !behind
        {
            self.state = State::Leaving { deadline: now + self.config.handshake_timeout };
            self.say(now, &ChildMessage::Leave);
        }
    }

    /// Sends a control message, unless the parent owes too many answers: then the session is as good as lost.
    fn say(&mut self, now: Instant, message: &ChildMessage) {
        if self.control.on_send() {
            self.outputs.push_back(Output::Control { frame: message.encode() });
        } else {
            self.fail(now, "the host does not answer");
        }
    }

    /// Ends the session and waits to try again.
    fn fail(&mut self, now: Instant, reason: &str) {
        if matches!(self.state, State::Idle | State::Backoff { .. } | State::Ended) {
            return;
        }
        if self.leaving {
            return self.end(End::Left);
        }
        // The loss of a connection may overtake the parent's farewell.
        let reason = if self.closing.is_some() { "the host shut down" } else { reason };
        if matches!(self.state, State::Live | State::Leaving { .. }) {
            self.outputs.push_back(Output::Event(Event::Disconnected { reason: reason.to_owned() }));
        }
        self.drop_session();
        reason.clone_into(&mut self.last_failure);
        self.state = State::Backoff { until: now + self.rng.jitter(self.pause) };
        self.pause = (self.pause * 2).min(self.config.backoff.1);
        self.next_subscription(now);
    }

    fn drop_session(&mut self) {
        self.outputs.push_back(Output::Hangup);
        self.lose_in_flight();
        if let Some(pending) = self.pending.take()
            && self.wanted.is_none()
            && pending.ticket != 0
        {
            self.wanted = Some((pending.filter, pending.ticket));
        }
        self.delivery.forget_parts();
        self.closing = None;
    }

    fn end(&mut self, end: End) {
        if matches!(self.state, State::Ended) {
            return;
        }
        self.drop_session();
        self.join_deadline = None;
        self.state = State::Ended;
        self.outputs.push_back(Output::Ended(end));
    }
}

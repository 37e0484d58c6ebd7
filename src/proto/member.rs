//! A child's side: joins, keeps its subscription whole, knows which of its messages have their place.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::id::{EndpointId, SessionToken};
use crate::message::{Message, Position};
use crate::role::Role;
use crate::wire::{
    Barrier, ChildMessage, CloseReason, Hello, Index, Lane, MAX_EPOCH, MAX_RECORDS, MemberEntry, Nonce,
    Ordered, PROTOCOL_VERSION, ParentMessage, RefusalCode, SubmitHead, TopicPart, Welcome, Window,
};

use super::rng::Rng;
use super::{ControlCount, Instant};

/// How long to wait for a barrier before asking again, at first and at most (guesses: a few round trips; twice a second).
const BARRIER_RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// What a member is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) id: EndpointId,
    pub(crate) cluster: String,
    pub(crate) token: Bytes,
    /// What to take at first; the empty prefix takes everything.
    pub(crate) prefixes: BTreeSet<String>,
    /// How many batches may be under way, submitted and without a place.
    pub(crate) max_in_flight: usize,
    /// How long the parent may take for each step from hello to barrier.
    pub(crate) handshake_timeout: Duration,
    /// How long the first join may take in all.
    pub(crate) join_timeout: Duration,
    /// The pause before another attempt: at first, and at most. It doubles, and is jittered down by up to half.
    pub(crate) backoff: (Duration, Duration),
    /// Seeds jitter and nonces.
    pub(crate) seed: u64,
}

/// What happens to a member.
#[derive(Debug)]
pub(crate) enum Input {
    /// Begin: the first thing ever.
    Start,
    /// The control channel is connected.
    Connected,
    /// It could not be.
    DialFailed { reason: String },
    /// After [`Output::Attach`]: broadcast and submit channels are connected.
    Attached,
    /// They could not be.
    AttachFailed { reason: String },
    /// One of the three connections was lost.
    Lost { reason: String },
    /// A message on the control channel, its frames as they came.
    Control { frames: Vec<Bytes> },
    /// A message on the broadcast channel, its frames as they came.
    Broadcast { frames: Vec<Bytes> },
    /// A batch of the application's. Only while [`Member::can_submit`].
    Submit { first_origin_seq: u64, count: u16, body: Bytes },
    /// Take these prefixes from now on. [`Output::Subscribed`] with the ticket says when that is in force.
    Subscribe { prefixes: BTreeSet<String>, ticket: u64 },
    /// Go, once everything submitted has its place.
    Leave,
}

/// What a member wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Connect the control channel, and say [`Input::Connected`] or [`Input::DialFailed`].
    Dial,
    /// Drop the link with all its connections.
    Hangup,
    /// Send on the control channel.
    Control { frame: Bytes },
    /// Connect the other channels, named as in the join answer.
    Attach { broadcast: String, submit: String, session: SessionToken },
    /// Subscribe to broadcast messages whose first frame begins so.
    AddLane { prefix: String },
    /// Take that back.
    RemoveLane { prefix: String },
    /// Send on the submit channel.
    Submit { head: Bytes, body: Bytes },
    /// Messages in order, for the application.
    Deliver { messages: Vec<Message> },
    /// Messages of the application's have their places.
    Ordered(Ordered),
    /// The fate of the application's messages up to this origin_seq, as far as they have no place, is unknown.
    Unknown { up_to: u64 },
    /// The subscription of this ticket, and all before it, are in force.
    Subscribed { ticket: u64 },
    /// Something the application may want to know.
    Event(Event),
    /// The machine has come to its end.
    Ended(End),
}

/// What the application may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The endpoint is a member. Delivery began behind `position`.
    Joined { host: EndpointId, role: Role, max_message: usize, position: Position, members: Vec<MemberEntry> },
    /// Delivery jumps: what lay between was not received. `after` is the last position known before the hole.
    Reset { after: Option<Position>, resume_at: Position },
    /// The session is over; the member tries to come back.
    Disconnected { reason: String },
    /// Others came and went.
    Membership { joined: Vec<MemberEntry>, left: Vec<EndpointId> },
}

/// How a member ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// As asked.
    Left,
    /// The parent does not admit it.
    Refused { code: RefusalCode, reason: String },
    /// The first join took too long.
    TimedOut { reason: String },
}

/// What a member counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) windows: u64,
    pub(crate) received: u64,
    pub(crate) malformed_broadcasts: u64,
    pub(crate) malformed_control: u64,
    pub(crate) duplicates: u64,
    /// Windows that never came.
    pub(crate) lost_windows: u64,
    pub(crate) sessions: u64,
}

/// What a member takes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter(BTreeSet<String>);

impl Filter {
    fn takes_all(&self) -> bool {
        self.0.contains("")
    }

    fn matches(&self, topic: &str) -> bool {
        self.0.iter().any(|prefix| topic.starts_with(prefix.as_str()))
    }

    /// The subscriptions on the broadcast channel that bring it.
    fn lanes(&self) -> BTreeSet<String> {
        if self.takes_all() {
            return BTreeSet::from([Lane::WHOLE.to_owned()]);
        }
        std::iter::once(Lane::INDEX.to_owned())
            .chain(self.0.iter().map(|prefix| Lane::topics(prefix)))
            .collect()
    }
}

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
    /// The highest epoch seen.
    epoch: u64,
    /// The last window taken in, and the position delivery has reached.
    number: u64,
    position: Option<Position>,
    /// What is in force.
    filter: Filter,
    pending: Option<Pending>,
    /// The latest wish, if it came while another was pending.
    wanted: Option<(Filter, u64)>,
    /// Parts of one window that wait for its index.
    parts: Vec<TopicPart>,
    in_flight: VecDeque<(u64, u16)>,
    next_origin_seq: u64,
    /// The lowest origin_seq whose fate is open.
    open_from: u64,
    /// Places told by the parent of messages in windows that delivery has not reached yet.
    told: VecDeque<Ordered>,
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
            epoch: 0,
            number: 0,
            position: None,
            filter: Filter(config.prefixes.clone()),
            pending: None,
            wanted: None,
            parts: Vec::new(),
            in_flight: VecDeque::new(),
            next_origin_seq: 1,
            open_from: 1,
            told: VecDeque::new(),
            closing: None,
            leaving: false,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether [`Input::Submit`] is welcome now.
    pub(crate) fn can_submit(&self) -> bool {
        matches!(self.state, State::Live)
            && self.closing.is_none()
            && self.in_flight.len() < self.config.max_in_flight
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
            // The answer is a courtesy: what matters was ordered before.
            State::Leaving { deadline } if *deadline <= now => self.end(End::Left),
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
            epoch: self.epoch,
            next_origin_seq: self.next_origin_seq,
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
            ParentMessage::Ordered(ordered) => self.on_told(ordered),
            ParentMessage::Membership { mut joined, mut left } => {
                if joined.iter().any(|member| member.id == self.config.id) {
                    self.on_confirmed(now);
                }
                joined.retain(|member| member.id != self.config.id);
                left.retain(|id| *id != self.config.id);
                if !joined.is_empty() || !left.is_empty() {
                    self.outputs.push_back(Output::Event(Event::Membership { joined, left }));
                }
            }
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
            // The host may come back, and for a member that was admitted once room and name may become free again.
            RefusalCode::Closing => self.fail(now, &reason),
            RefusalCode::DuplicateId | RefusalCode::Full if !first_join => self.fail(now, &reason),
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
        self.next_origin_seq = first_origin_seq + u64::from(count);
        let Some(session) = self.session.filter(|_| self.can_submit()) else {
            debug_assert!(false, "a batch was submitted out of turn");
            self.outputs.push_back(Output::Unknown { up_to: self.next_origin_seq - 1 });
            return;
        };
        self.in_flight.push_back((first_origin_seq, count));
        self.outputs.push_back(Output::Submit { head: SubmitHead { session }.encode(), body });
    }

    fn on_broadcast(&mut self, now: Instant, frames: &[Bytes]) {
        let [lane, body] = frames else {
            self.counters.malformed_broadcasts += 1;
            return;
        };
        let max = self.max_message;
        let result = match Lane::decode(lane) {
            Ok(Lane::Whole) => Window::decode(body, max).map(|window| self.on_window(window)),
            Ok(Lane::Index) => Index::decode(body).map(|index| self.on_index(index)),
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

    /// Whether a window of this number is the next one, or counts as such after a hole. Says so where there is a hole.
    fn is_due(&mut self, epoch: u64, number: u64, first_seq: u64) -> bool {
        if epoch < self.epoch || number <= self.number || epoch > MAX_EPOCH {
            self.counters.duplicates += 1;
            return false;
        }
        self.epoch = epoch;
        if number > self.number + 1 {
            self.lose(number - self.number - 1);
            self.jump(Position { epoch, seq: first_seq });
        }
        self.number = number;
        true
    }

    /// Counts windows that never came. A parent in error can claim any number of them, again and again.
    fn lose(&mut self, windows: u64) {
        self.counters.lost_windows = self.counters.lost_windows.saturating_add(windows);
    }

    fn jump(&mut self, resume_at: Position) {
        self.outputs.push_back(Output::Event(Event::Reset { after: self.position, resume_at }));
    }

    /// Whether the barrier has come, so that windows count.
    fn is_receiving(&self) -> bool {
        matches!(self.state, State::Confirming { .. } | State::Live | State::Leaving { .. })
    }

    fn on_window(&mut self, window: Window) {
        if !self.is_receiving() || !self.filter.takes_all() {
            // Before the barrier, or on a lane that is being left: what it holds comes, or came, another way.
            return;
        }
        if !self.is_due(window.epoch, window.number, window.first_seq) {
            return;
        }
        self.position = Some(Position { epoch: window.epoch, seq: window.last_seq() });
        // Own messages that stand side by side make a run.
        let mut run: Option<Ordered> = None;
        let id = self.config.id;
        for message in window.messages.iter().filter(|message| message.origin == id) {
            let seq = message.position.map_or(0, |position| position.seq);
            match &mut run {
                Some(run)
                    if run.first_origin_seq + u64::from(run.count) == message.origin_seq
                        && run.first_seq + u64::from(run.count) == seq =>
                {
                    run.count += 1;
                }
                _ => {
                    let next = Ordered {
                        epoch: window.epoch,
                        number: window.number,
                        first_origin_seq: message.origin_seq,
                        first_seq: seq,
                        count: 1,
                    };
                    if let Some(done) = run.replace(next) {
                        self.on_ordered(done);
                    }
                }
            }
        }
        if let Some(run) = run {
            self.on_ordered(run);
        }
        self.deliver(window.messages);
        self.take_told();
    }

    fn on_part(&mut self, part: TopicPart) {
        if self.filter.takes_all() || part.number <= self.number {
            return;
        }
        // Parts of an earlier window whose index never came are of no use: its loss shows by the numbers.
        self.parts.retain(|other| other.number == part.number);
        self.parts.push(part);
    }

    fn on_index(&mut self, index: Index) {
        let mut parts = std::mem::take(&mut self.parts);
        if !self.is_receiving() || self.filter.takes_all() {
            return;
        }
        parts.retain(|part| part.number == index.number && part.epoch == index.epoch);
        let mut messages: Vec<Message> = parts.into_iter().flat_map(|part| part.messages).collect();
        messages.retain(|message| self.filter.matches(message.topic.as_str()));
        let due: usize = index
            .topics
            .iter()
            .filter(|(topic, _)| self.filter.matches(topic.as_str()))
            .map(|(_, count)| usize::from(*count))
            .sum();
        if !self.is_due(index.epoch, index.number, index.first_seq) {
            return;
        }
        let position = Position { epoch: index.epoch, seq: index.last_seq };
        if messages.len() == due {
            messages.sort_by_key(Message::position);
            self.deliver(messages);
        } else {
            // A topic's part was lost: a part of a window is never shown.
            self.lose(1);
            self.jump(Position { epoch: index.epoch, seq: index.last_seq + 1 });
        }
        self.position = Some(position);
        self.take_told();
    }

    fn deliver(&mut self, messages: Vec<Message>) {
        self.counters.windows += 1;
        self.counters.received += messages.len() as u64;
        if !messages.is_empty() {
            self.outputs.push_back(Output::Deliver { messages });
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
        self.parts.clear();
        self.say(now, &ChildMessage::Live { nonce: nonce.0 });
        match &self.state {
            State::Joining { welcome, .. } => {
                let welcome = welcome.clone();
                self.on_subscribed_first(now, welcome, barrier);
            }
            State::Live => {
                // All that was published before the barrier has come by now, or never will.
                if barrier.number > self.number {
                    self.lose(barrier.number - self.number);
                    self.jump(Position { epoch: barrier.epoch, seq: barrier.last_seq + 1 });
                    self.number = barrier.number;
                    self.position = Some(Position { epoch: barrier.epoch, seq: barrier.last_seq });
                }
                self.outputs.push_back(Output::Subscribed { ticket: pending.ticket });
                self.take_told();
                self.next_subscription(now);
            }
            _ => {}
        }
    }

    /// The first barrier of a session: delivery begins behind it.
    fn on_subscribed_first(&mut self, now: Instant, welcome: Welcome, barrier: Barrier) {
        let at = Position { epoch: barrier.epoch, seq: barrier.last_seq };
        let same_host = self.host == Some(welcome.host) && self.epoch == barrier.epoch;
        let missed = self.position.is_some() && !(same_host && self.number == barrier.number);
        self.host = Some(welcome.host);
        self.epoch = self.epoch.max(barrier.epoch);
        self.number = barrier.number;
        if missed {
            self.jump(Position { epoch: at.epoch, seq: at.seq + 1 });
        }
        self.position = Some(at);
        self.state = State::Confirming {
            joined: Event::Joined {
                host: welcome.host,
                role: welcome.role,
                max_message: welcome.max_message as usize,
                position: at,
                members: welcome.members,
            },
            deadline: now + self.config.handshake_timeout,
        };
    }

    /// The parent told places. They count when delivery has passed their window, so that they cannot overtake an echo.
    fn on_told(&mut self, ordered: Ordered) {
        // Each tells of at least one message under way: whoever sends more is not to be believed.
        if self.told.len() >= self.config.max_in_flight * MAX_RECORDS {
            self.counters.malformed_control += 1;
            return;
        }
        self.told.push_back(ordered);
        self.take_told();
    }

    fn take_told(&mut self) {
        while let Some(ordered) = self.told.front().copied().filter(|ordered| ordered.number <= self.number) {
            self.told.pop_front();
            self.on_ordered(ordered);
        }
    }

    /// Own messages have places, by their echo or by the parent's word.
    fn on_ordered(&mut self, ordered: Ordered) {
        let last = ordered.last_origin_seq();
        if last < self.open_from || last >= self.next_origin_seq {
            // Known already; or never sent, which only a parent in error would claim.
            return;
        }
        if ordered.first_origin_seq > self.open_from {
            // What is older was ordered in a window that was lost.
            self.outputs.push_back(Output::Unknown { up_to: ordered.first_origin_seq - 1 });
        }
        self.open_from = last + 1;
        while self.in_flight.front().is_some_and(|(first, count)| first + u64::from(*count) <= self.open_from)
        {
            self.in_flight.pop_front();
        }
        self.outputs.push_back(Output::Ordered(ordered));
    }

    /// Says goodbye when that was asked for, by the application or the parent, and nothing is under way.
    fn leave_if_done(&mut self, now: Instant) {
        let behind = self.closing.is_some_and(|last| self.number < last);
        if (self.leaving || self.closing.is_some())
            && matches!(self.state, State::Live)
            && self.in_flight.is_empty()
            && !behind
        {
            self.say(now, &ChildMessage::Leave);
            self.state = State::Leaving { deadline: now + self.config.handshake_timeout };
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
        if !self.in_flight.is_empty() {
            self.in_flight.clear();
            self.open_from = self.next_origin_seq;
            self.outputs.push_back(Output::Unknown { up_to: self.next_origin_seq - 1 });
        }
        self.told.clear();
        if let Some(pending) = self.pending.take()
            && self.wanted.is_none()
            && pending.ticket != 0
        {
            self.wanted = Some((pending.filter, pending.ticket));
        }
        self.parts.clear();
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

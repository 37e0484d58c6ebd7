//! A child's side: joins, keeps its subscription whole, sends until its messages have their places.
//!
//! [`Member`] is the machine: here, it takes inputs and ends sessions; [`joining`] begins them, [`receiving`] is the way of messages
//! through it. It keeps smaller ones: [`delivery::Delivery`] is how far it has come in the order, [`acks::Acks`] what it says of
//! that, [`outbox::Outbox`] what it submitted and has no place yet, [`filter::Filter`] what it takes.

mod acks;
mod delivery;
mod filter;
mod interface;
mod joining;
mod outbox;
mod receiving;
mod seen;

pub(crate) use interface::{Config, Counters, End, Event, Input, Joined, Limit, Output};

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::flow::{EvictReason, Eviction, Lag};
use crate::id::SessionToken;
use crate::wire::{ChildMessage, CloseReason, Nonce, ParentMessage, RefusalCode, SubmitHead, Terms, Welcome};

use acks::Acks;
use delivery::Delivery;
use filter::Filter;
use outbox::Outbox;

use super::rng::Rng;
use super::{ControlCount, Instant};

/// How long the parent's last word is waited for when another connection than control was lost (a guess: the same as the time in
/// which parents let last words out).
const LAST_WORD: Duration = Duration::from_millis(500);
/// After how long an endpoint that evicted itself comes back (a guess: as a host's first quarantine).
const SELF_EVICTED: Duration = Duration::from_secs(1);

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
        joined: Joined,
        /// What is in the outbox behind this origin_seq is to be sent again.
        last_origin_seq: u64,
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
    /// The incarnation of the last host that it was a member of; 0 before the first. A host that
    /// does not know the endpoint any more knows by this whether it has forgotten it.
    member_of: u64,
    /// The largest payload, by the parent's word.
    max_message: usize,
    control: ControlCount,
    /// What the parent expects, by its welcome.
    terms: Option<Terms>,
    delivery: Delivery,
    acks: Acks,
    /// The windows last asked for.
    asked: Option<Asked>,
    /// Set by an eviction, until what was missed meanwhile has come: its consumers first work off what they have.
    recovers: bool,
    outbox: Outbox,
    /// When something last became of what is in the outbox, or nothing was to be expected.
    outbox_moved_at: Instant,
    /// What is in force on the broadcast channel. What is delivered follows, when it has come to the barrier's window.
    filter: Filter,
    pending: Option<Pending>,
    /// Subscriptions that are in force once this window has been delivered.
    settling: Option<(u64, u64)>,
    /// The latest wish, if it came while another was pending.
    wanted: Option<(Filter, u64)>,
    /// The parent shuts down: nothing more is submitted, and the session ends behind this window.
    closing: Option<u64>,
    leaving: bool,
    /// Another connection than control was lost, for this reason; the parent's last word is waited for.
    broken: Option<(Instant, String)>,
    /// The time as last told.
    now: Instant,
    /// When the member last woke from a sleep of its own.
    awake_since: Instant,
    /// When anything last came by the broadcast and by the control channel.
    heard_broadcast: Instant,
    heard_control: Instant,
    outputs: VecDeque<Output>,
    counters: Counters,
}

/// A request for windows.
#[derive(Debug)]
struct Asked {
    last: u64,
    /// The first that was missing when it was last looked.
    first: u64,
    again_at: Instant,
}

/// What a member holds.
#[cfg(any(test, feature = "test-utils"))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) outbox_batches: usize,
    pub(crate) outbox_bytes: usize,
    pub(crate) ahead_messages: u64,
    pub(crate) ahead_bytes: u64,
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
            member_of: 0,
            max_message: 0,
            control: ControlCount::default(),
            terms: None,
            delivery: Delivery::new(Filter(config.prefixes.clone())),
            acks: Acks::default(),
            asked: None,
            recovers: false,
            outbox: Outbox::new(config.outbox, config.first_origin_seq),
            outbox_moved_at: Instant::START,
            filter: Filter(config.prefixes.clone()),
            pending: None,
            settling: None,
            wanted: None,
            closing: None,
            leaving: false,
            broken: None,
            now: Instant::START,
            awake_since: Instant::START,
            heard_broadcast: Instant::START,
            heard_control: Instant::START,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        let delivery = self.delivery.counters();
        Counters {
            missed_windows: delivery.missed_windows,
            repaired_windows: delivery.repaired_windows,
            lost_windows: delivery.lost_windows,
            set_aside: delivery.set_aside,
            duplicates: delivery.duplicates,
            ..self.counters
        }
    }

    /// What is held, for those who check its bounds.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn usage(&self) -> Usage {
        let (outbox_batches, outbox_bytes) = self.outbox.usage();
        let (ahead_messages, ahead_bytes) = self.delivery.ahead();
        Usage { outbox_batches, outbox_bytes, ahead_messages, ahead_bytes }
    }

    /// Whether it is a member now.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, State::Live) && self.broken.is_none()
    }

    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether [`Input::Submit`] is welcome now.
    pub(crate) fn can_submit(&self) -> bool {
        matches!(self.state, State::Live)
            && self.closing.is_none()
            && self.broken.is_none()
            && self.outbox.has_room()
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
        let broken = self.broken.as_ref().map(|(deadline, _)| *deadline);
        let asked = self.asked.as_ref().map(|asked| asked.again_at);
        let session = self.is_receiving().then(|| self.next_duty().min(self.lease_end())).into_iter().min();
        [state, retry, self.join_deadline, broken, asked, session].into_iter().flatten().min()
    }

    /// When the parent, or the way to it, is given up if nothing is heard until then.
    fn lease_end(&self) -> Instant {
        let mut heard = self.heard_broadcast.min(self.heard_control);
        if !self.outbox.is_empty() {
            heard = heard.min(self.outbox_moved_at);
        }
        heard.max(self.awake_since) + self.lease()
    }

    fn lease(&self) -> Duration {
        self.terms.as_ref().map_or(self.config.handshake_timeout, |terms| terms.lease)
    }

    /// Notices a sleep of our own: what was not heard meanwhile proves nothing.
    fn wake(&mut self, now: Instant) {
        if now.since(self.now) > self.lease() / 2 {
            self.awake_since = now;
        }
        self.now = now;
    }

    /// Does what is due. An early call does nothing.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.wake(now);
        if self.join_deadline.is_some_and(|deadline| deadline <= now) {
            return self.end(End::TimedOut { reason: self.last_failure.clone() });
        }
        if let Some((_, reason)) = self.broken.take_if(|(deadline, _)| *deadline <= now) {
            self.fail(now, &reason);
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
        if self.is_receiving() && self.lease_end() <= now {
            let silent = |heard: Instant| heard.max(self.awake_since) + self.lease() <= now;
            let reason = if silent(self.heard_broadcast) {
                "the broadcast channel has fallen silent"
            } else if silent(self.heard_control) {
                "the control channel has fallen silent"
            } else {
                "what was submitted does not get through"
            };
            self.fail(now, reason);
        }
        if self.pending.as_ref().is_some_and(|pending| pending.retry_at <= now) {
            self.ask_for_barrier(now);
        }
        self.ask_for_missing(now);
        self.ack_if_due(now);
        self.delivery.expire(now);
        self.leave_if_done(now);
    }

    /// Takes in what happened.
    pub(crate) fn handle_input(&mut self, now: Instant, input: Input) {
        self.wake(now);
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
            Input::LostChannel { reason } => self.on_lost_channel(now, reason),
            Input::Attached => self.on_attached(now),
            Input::Control { frames } => self.on_control(now, &frames),
            Input::Broadcast { frames } => self.on_broadcast(now, &frames),
            Input::Submit { first_origin_seq, count, body } => {
                self.on_submit(now, first_origin_seq, count, body)
            }
            Input::Handled { up_to } => {
                self.acks.on_handled(up_to);
                self.ask_for_missing(now);
            }
            Input::Overrun => self.on_overrun(now),
            Input::Subscribe { prefixes, ticket } => {
                self.wanted = Some((Filter(prefixes), ticket));
                self.next_subscription(now);
            }
            Input::Leave => {
                self.leaving = true;
                // What was submitted is still to get its place, in the next session if there is none.
                if !matches!(self.state, State::Live | State::Leaving { .. }) && self.outbox.is_empty() {
                    self.end(End::Left);
                }
            }
        }
        self.ack_if_due(now);
        self.leave_if_done(now);
    }

    fn on_lost_channel(&mut self, now: Instant, reason: String) {
        if self.is_receiving() {
            self.broken.get_or_insert((now + LAST_WORD, reason));
        } else {
            self.fail(now, &reason);
        }
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
        self.heard_control = now;
        if let Some(count) = self.control.on_receive() {
            self.outputs.push_back(Output::Control { frame: ChildMessage::Received { count }.encode() });
        }
        match message {
            ParentMessage::Welcome(welcome) => self.on_welcome(welcome),
            ParentMessage::Refused(refusal) => self.on_refused(now, refusal),
            ParentMessage::Ordered(runs) => runs.into_iter().for_each(|run| self.on_ordered(now, run)),
            ParentMessage::Repaired(window) => self.on_repaired(now, &window),
            ParentMessage::Missed(at) => self.on_missed(now, at),
            ParentMessage::Evicted(eviction) => self.on_evicted(now, eviction),
            ParentMessage::Resend { from } => self.resend(now, from),
            ParentMessage::Pulse { paced } => self.on_pulse(now, paced),
            ParentMessage::Membership { joined, left } => self.on_membership(now, joined, left),
            ParentMessage::Closing { reason, number, .. } => self.on_closing(now, reason, number),
            ParentMessage::Received { .. } => {}
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

    fn on_submit(&mut self, now: Instant, first_origin_seq: u64, count: u16, body: Bytes) {
        debug_assert!(self.can_submit(), "a batch was submitted out of turn");
        if self.outbox.is_empty() {
            self.outbox_moved_at = now;
        }
        self.outbox.submit(first_origin_seq, count, body.clone());
        // Without a session it goes out with the next one.
        if let Some(session) = self.session.filter(|_| matches!(self.state, State::Live)) {
            self.outputs.push_back(Output::Submit { head: SubmitHead { session }.encode(), body });
        }
    }

    /// Sends again what is in the outbox from this origin_seq on.
    fn resend(&mut self, now: Instant, from: u64) {
        let Some(session) = self.session else { return };
        self.outbox_moved_at = now;
        let head = SubmitHead { session }.encode();
        for body in self.outbox.from(from) {
            self.counters.resent_batches += 1;
            self.outputs.push_back(Output::Submit { head: head.clone(), body: body.clone() });
        }
    }

    /// What is in the outbox up to this origin_seq will not be heard of any more.
    fn give_up(&mut self, up_to: u64) {
        self.outputs.extend(self.outbox.give_up(up_to).map(|up_to| Output::Unknown { up_to }));
    }

    /// All consumers have overrun: the endpoint takes itself out of the pack.
    fn on_overrun(&mut self, now: Instant) {
        // One that is out of it, and is to come back, comes with fresh consumers or none.
        if !self.is_receiving() && self.config.rejoin {
            return;
        }
        let position = self.acks.handled();
        let stored = self.delivery.position().unwrap_or(position);
        let lag = Lag { messages: stored.seq.saturating_sub(position.seq), ..Lag::default() };
        let eviction = Eviction {
            reason: EvictReason::Overrun,
            lag,
            position,
            retry_after: SELF_EVICTED,
            text: String::new(),
            resume: self.session,
        };
        if !self.is_receiving() {
            return self.end(End::Evicted(eviction));
        }
        self.say(now, &ChildMessage::Leave);
        self.on_evicted(now, eviction);
    }

    /// The session is over because the endpoint is too slow or unwanted.
    fn on_evicted(&mut self, now: Instant, eviction: Eviction) {
        if matches!(self.state, State::Idle | State::Backoff { .. } | State::Ended) {
            return;
        }
        self.counters.evictions += 1;
        self.recovers = true;
        if !self.config.rejoin {
            return self.end(End::Evicted(eviction));
        }
        let retry_after = eviction.retry_after;
        self.outputs.push_back(Output::Event(Event::Evicted(eviction)));
        self.back_off(now, retry_after, "the host evicted this endpoint");
    }

    /// Says goodbye when that was asked for, by the application or the parent, and nothing is under way.
    fn leave_if_done(&mut self, now: Instant) {
        let behind = self.closing.is_some_and(|last| self.delivery.number() < last);
        if (self.leaving || self.closing.is_some())
            && matches!(self.state, State::Live)
            && self.outbox.is_empty()
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
        // The loss of a connection may overtake the parent's farewell.
        let reason = if self.closing.is_some() { "the host shut down" } else { reason };
        if matches!(self.state, State::Live | State::Leaving { .. }) {
            self.outputs.push_back(Output::Event(Event::Disconnected { reason: reason.to_owned() }));
        }
        self.back_off(now, Duration::ZERO, reason);
    }

    /// Drops the session, and tries again after a pause: at least this one. Who wants to leave, and has nothing more to send, need not.
    fn back_off(&mut self, now: Instant, at_least: Duration, reason: &str) {
        if self.leaving && self.outbox.is_empty() {
            return self.end(End::Left);
        }
        self.drop_session();
        reason.clone_into(&mut self.last_failure);
        self.state = State::Backoff { until: now + at_least + self.rng.jitter(self.pause) };
        self.pause = (self.pause * 2).min(self.config.backoff.1);
        self.next_subscription(now);
    }

    fn drop_session(&mut self) {
        self.outputs.push_back(Output::Hangup);
        if let Some(pending) = self.pending.take()
            && self.wanted.is_none()
            && pending.ticket != 0
        {
            self.wanted = Some((pending.filter, pending.ticket));
        }
        self.delivery.forget_parts();
        self.asked = None;
        self.closing = None;
        self.broken = None;
    }

    fn end(&mut self, end: End) {
        if matches!(self.state, State::Ended) {
            return;
        }
        self.drop_session();
        self.give_up(u64::MAX - 1);
        self.join_deadline = None;
        self.state = State::Ended;
        self.outputs.push_back(Output::Ended(end));
    }
}

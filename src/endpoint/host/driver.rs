//! The host's driver: feeds the machine from the link, the application and the clock, and does what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{LAGS_EVERY, PER_WAKE, TIME_PER_WAKE};
use crate::id::{EndpointId, PeerId, SessionToken};
use crate::proto::Instant;
use crate::proto::host::{
    Config, Event as MachineEvent, Host as Machine, Input, LeaveReason as MachineLeave, Output, Verdict,
};
use crate::role::Role;
use crate::sync::lock;
use crate::transport::{ChannelError, ParentEvent, ParentLink, PeerAddress};
use crate::wire::{CloseReason, Lane, MemberEntry};

use super::super::auth::{Authenticator, JoinRequest};
use super::super::driver::{Clock, reason};
use super::super::event::{Event, LeaveReason};
use super::super::listener::ChannelListener;
use super::super::node::{Command, Guard, Node, Told};
use super::super::outbound::Gate;
use super::super::stats::{MemberLag, set_counters};

/// Runs a host. Never waits for a peer's queue, nor for the host's own consumers. While the pack is behind it takes in no more messages,
/// and goes on with all else.
#[derive(Debug)]
pub(super) struct Driver {
    node: Arc<Node>,
    machine: Machine,
    link: ParentLink,
    clock: Clock,
    listener: ChannelListener,
    /// What is subscribed to; shared with the listener, which filters by it.
    subscriptions: Arc<Mutex<BTreeSet<String>>>,
    /// What the machine was told last of how far the host's consumers are.
    handled: Option<u64>,
    /// When the figures on the members are to be brought up to date.
    lags_at: Instant,
    examiner: Examiner,
    /// Who tells what members may say about documents, if anybody does.
    guard: Option<Guard>,
    /// Whether a shutdown was asked for, and when it must be done.
    draining: Option<Instant>,
    drained: bool,
}

impl Driver {
    pub(super) fn new(
        node: Arc<Node>,
        config: Config,
        link: ParentLink,
        authenticator: Arc<dyn Authenticator>,
        listener: ChannelListener,
        subscriptions: Arc<Mutex<BTreeSet<String>>>,
    ) -> Self {
        node.set_members([MemberEntry { id: node.id, role: Role::Host }]);
        let clock = Clock::start();
        let timeout = config.handshake_timeout;
        Self {
            node,
            machine: Machine::new(config, clock.now()),
            link,
            clock,
            listener,
            subscriptions,
            handled: None,
            lags_at: Instant::START,
            examiner: Examiner {
                authenticator,
                timeout,
                pending: JoinSet::new(),
                addresses: BTreeMap::new(),
            },
            guard: None,
            draining: None,
            drained: false,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let node = Arc::clone(&self.node);
        while !self.drained {
            let deadline = self.machine.poll_timeout().into_iter().chain(self.draining).min();
            let takes = self.machine.takes_submits();
            tokio::select! {
                biased;
                () = node.cancel.cancelled() => break,
                Some(command) = commands.recv() => self.on_command(command),
                Some(event) = self.link.events.recv() => self.on_event(event),
                Some(Ok((peer, verdict))) = self.examiner.pending.join_next() => {
                    self.machine.handle_input(self.clock.now(), Input::Verdict { peer, verdict });
                }
                told = next_told(&mut self.guard) => self.on_told(told),
                () = self.clock.sleep_until(deadline) => {}
                Some(frames) = self.link.submits.recv(), if takes => {
                    self.machine.handle_input(self.clock.now(), Input::Submit { frames });
                }
                () = node.outbound.work(), if takes => {}
            }
            // Whatever came first: members that speak all the time are not to keep the others from hearing of the host.
            self.do_what_is_due();
            self.take_what_waits();
            // All that was accepted goes out before the farewell, as fast as the pack takes it.
            if self.draining.is_some() && self.node.outbound.queued() == 0 {
                self.machine.handle_input(self.clock.now(), Input::Drain);
            }
            self.tell_handled();
            self.machine.handle_input(self.clock.now(), Input::Flush);
            // What was counted is known before anybody can see what came of it.
            self.count();
            let published = self.perform();
            if published {
                // The transport's own tasks need a turn: a publisher that never yields starves its writers.
                tokio::task::yield_now().await;
            }
        }
        self.machine.handle_end(self.clock.now());
        self.perform();
        let members = self.machine.members().count();
        node.end(members);
        // Nobody is to stay connected to a host that does nothing any more.
        drop(self.link);
        self.listener.end();
    }

    /// Tells the machine how far the host's own consumers have come.
    fn tell_handled(&mut self) {
        let now = self.clock.now();
        self.listener.check(now);
        let handled = if self.node.consumers.is_empty() { None } else { self.listener.handled() };
        let seq = handled.map(|position| position.seq);
        if seq != self.handled {
            self.handled = seq;
            self.machine.handle_input(now, Input::LocalHandled { seq });
        }
    }

    /// Takes what is waiting without waiting for more, of each kind a bounded number, for a bounded time.
    fn take_what_waits(&mut self) {
        let until = self.clock.now() + TIME_PER_WAKE;
        for _ in 0..PER_WAKE {
            let Ok(event) = self.link.events.try_recv() else { break };
            self.on_event(event);
            if self.clock.now() >= until {
                break;
            }
        }
        for _ in 0..PER_WAKE {
            let Some(Ok(told)) = self.guard.as_mut().map(|guard| guard.told.try_recv()) else { break };
            self.on_told(Some(told));
        }
        // The pack may fall behind by what is taken here.
        let mut now = self.clock.now();
        let until = now + TIME_PER_WAKE;
        for _ in 0..PER_WAKE {
            if !self.machine.takes_submits() {
                return;
            }
            let Ok(frames) = self.link.submits.try_recv() else { break };
            self.machine.handle_input(now, Input::Submit { frames });
            now = self.clock.now();
            if now >= until {
                break;
            }
        }
        for _ in 0..PER_WAKE {
            if !self.machine.takes_submits() {
                return;
            }
            let Some(batch) = self.node.outbound.take() else { break };
            set_counters!(self.node.counters, sent = batch.first_origin_seq + u64::from(batch.count) - 1);
            self.machine.handle_input(now, Input::Local { body: batch.body });
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Subscribe { prefixes, done } => {
                *lock(&self.subscriptions) = prefixes;
                // A caller that is gone does not mind.
                let _ = done.send(());
            }
            Command::Kick { id, text, done } => {
                let known = self.machine.members().any(|member| member.id == id);
                self.machine.handle_input(self.clock.now(), Input::Kick { id, text });
                // A caller that is gone does not mind.
                let _ = done.send(known);
            }
            Command::RiseAbove { epoch, done } => {
                self.machine.handle_input(self.clock.now(), Input::RiseAbove { epoch });
                // As above.
                let _ = done.send(());
            }
            Command::Guard { guard, done } => {
                let input = guard.as_ref().map(|guard| (guard.stamp, guard.lasts));
                self.guard = guard;
                self.machine.handle_input(self.clock.now(), Input::Guard(input));
                // As above.
                let _ = done.send(());
            }
            Command::Shutdown => {
                if self.draining.is_none() {
                    self.node.outbound.set_gate(Gate::Closed);
                    self.draining = Some(self.clock.now() + self.node.shutdown_timeout);
                }
            }
        }
    }

    /// What the guard says; `None` at its end.
    fn on_told(&mut self, told: Option<Told>) {
        let now = self.clock.now();
        match told {
            Some(Told::Rights { stamp, id, name, rights }) => {
                self.machine.handle_input(now, Input::Rights { stamp, id, name, rights });
            }
            Some(Told::Forget { stamp, name, done }) => {
                self.machine.handle_input(now, Input::ForgetRights { stamp, name });
                // A caller that is gone does not mind.
                let _ = done.send(());
            }
            Some(Told::Release) => {
                self.guard = None;
                self.machine.handle_input(now, Input::Guard(None));
            }
            None => {
                if let Some(guard) = &mut self.guard {
                    guard.is_deaf = true;
                    self.machine.handle_input(now, Input::Deaf { guard: guard.stamp.guard });
                }
            }
        }
    }

    fn on_event(&mut self, event: ParentEvent) {
        let input = match event {
            ParentEvent::Control { peer, address, frames } => {
                self.examiner.note(&peer, address);
                Input::Control { peer, frames }
            }
            ParentEvent::ControlClosed { peer } => {
                self.examiner.forget(&peer);
                Input::ControlClosed { peer }
            }
            ParentEvent::BroadcastClosed { session } => Input::BroadcastClosed { session },
            ParentEvent::SubscriberCut { address } => {
                return self.node.emit(Event::SubscriberCut { address });
            }
        };
        self.machine.handle_input(self.clock.now(), input);
    }

    fn do_what_is_due(&mut self) {
        let now = self.clock.now();
        self.machine.handle_timeout(now);
        self.drained |= self.draining.is_some_and(|deadline| deadline <= now);
    }

    /// Does what the machine wants done. Whether anything was published.
    fn perform(&mut self) -> bool {
        let mut published = false;
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Window { body, last, foreign } => {
                    self.listener.on_window(&body, last, foreign);
                    self.link.channels.broadcast(Lane::Whole.encode(), body);
                    published = true;
                }
                Output::Broadcast { lane, body } => {
                    self.link.channels.broadcast(lane, body);
                    published = true;
                }
                Output::Control { peer, frame } => self.send_control(peer, frame),
                Output::Session { session, is_open: true } => self.link.channels.open_session(session),
                Output::Session { session, is_open: false } => self.link.channels.end_session(session),
                Output::CutBroadcast { session } => self.link.channels.cut_broadcast(session),
                Output::Disconnect { peer, session } => self.disconnect(&peer, session),
                Output::Authenticate { peer, id, token } => self.examiner.examine(peer, id, token),
                Output::Ordered(ordered) => {
                    set_counters!(self.node.counters, confirmed = ordered.last_origin_seq());
                    self.node.outbound.on_ordered(ordered);
                }
                Output::AskRights { guard, id, name } => {
                    // Where it is another's, or gone, so is the question: that is told on its own.
                    let current = self.guard.as_ref().filter(|current| current.stamp.guard == guard);
                    if current.is_some_and(|current| current.asks.send((id, name)).is_err()) {
                        // Its runtime has ended, say: it answers nothing any more.
                        self.on_told(None);
                    }
                }
                Output::Event(event) => self.on_machine_event(event),
                Output::Drained => self.drained = true,
            }
        }
        published
    }

    fn send_control(&mut self, peer: PeerId, frame: Bytes) {
        if let Err(ChannelError::Full(_)) = self.link.channels.send_control(&peer, frame) {
            // It takes nothing any more: its session ends as if it had hung up.
            self.disconnect(&peer, None);
            self.machine.handle_input(self.clock.now(), Input::ControlClosed { peer });
        }
    }

    fn disconnect(&mut self, peer: &PeerId, session: Option<SessionToken>) {
        self.examiner.forget(peer);
        self.link.channels.disconnect(peer, session);
    }

    fn on_machine_event(&mut self, event: MachineEvent) {
        match event {
            MachineEvent::Joined { id, role } => self.node.on_joined(MemberEntry { id, role }),
            MachineEvent::Evicted { id, eviction } => self.node.emit(Event::Evicted { id, eviction }),
            MachineEvent::Forbidden { id, document, messages } => {
                self.node.emit(Event::Forbidden { id, document, messages });
            }
            MachineEvent::Left { id, reason } => self.node.on_left(id, leave_reason(reason)),
            MachineEvent::Refused { peer, id, code, reason: text } => {
                let address = self.examiner.address(&peer);
                self.node.emit(Event::JoinRefused { id, address, reason: reason(code, text) });
            }
        }
    }

    fn count(&mut self) {
        let now = self.clock.now();
        if now >= self.lags_at {
            self.lags_at = now + LAGS_EVERY;
            let lags = self.machine.lags(now).into_iter().map(|member| MemberLag {
                id: member.id,
                lag: member.lag,
                stored: member.stored,
                handled: member.handled,
                backlog: self.link.channels.backlog(member.session),
            });
            *lock(&self.node.lags) = lags.collect();
        }
        let machine = self.machine.counters();
        set_counters!(
            self.node.counters,
            received = machine.ordered,
            windows = machine.windows,
            malformed_control = machine.malformed_control,
            malformed_submits = machine.malformed_submits,
            unknown_sessions = machine.unknown_sessions,
            forbidden_submits = machine.forbidden_submits,
            refused = machine.refused,
            duplicates = machine.duplicates,
            repaired_windows = machine.repaired_windows,
            missed_repairs = machine.missed_repairs,
            resends_asked = machine.resends_asked,
            evictions = machine.evictions,
            pauses = machine.pauses,
            straggler_waits = machine.straggler_waits,
            forgotten_origins = machine.forgotten_origins,
            transport_drops = self.link.channels.dropped(),
        );
    }
}

/// What the guard says next; `None` at its end. Cancel safe.
async fn next_told(guard: &mut Option<Guard>) -> Option<Told> {
    match guard {
        // It may still say that what it told before counts no more.
        Some(Guard { is_deaf: true, told, .. }) => match told.recv().await {
            Some(told) => Some(told),
            None => std::future::pending().await,
        },
        Some(guard) => tokio::select! {
            biased;
            told = guard.told.recv() => told,
            () = guard.asks.closed() => None,
        },
        None => std::future::pending().await,
    }
}

fn leave_reason(reason: MachineLeave) -> LeaveReason {
    match reason {
        MachineLeave::Left | MachineLeave::Closed(CloseReason::Left | CloseReason::Shutdown) => {
            LeaveReason::Left
        }
        MachineLeave::Evicted => LeaveReason::Evicted,
        MachineLeave::Disconnected => LeaveReason::Disconnected,
        MachineLeave::Closed(CloseReason::Replaced) => LeaveReason::Replaced,
        MachineLeave::Closed(CloseReason::Violation) => LeaveReason::Violation,
        MachineLeave::Closed(CloseReason::Unresponsive) => LeaveReason::Unresponsive,
    }
}

/// Runs the authenticator beside the host, and remembers where those under examination call from.
struct Examiner {
    authenticator: Arc<dyn Authenticator>,
    timeout: Duration,
    pending: JoinSet<(PeerId, Verdict)>,
    addresses: BTreeMap<PeerId, PeerAddress>,
}

impl std::fmt::Debug for Examiner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Examiner").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl Examiner {
    fn note(&mut self, peer: &PeerId, address: PeerAddress) {
        self.addresses.entry(peer.clone()).or_insert(address);
    }

    fn address(&self, peer: &PeerId) -> PeerAddress {
        self.addresses.get(peer).cloned().unwrap_or(PeerAddress::Unknown)
    }

    fn forget(&mut self, peer: &PeerId) {
        self.addresses.remove(peer);
    }

    /// The machine bounds how many there are at once.
    fn examine(&mut self, peer: PeerId, id: EndpointId, token: Bytes) {
        let request = JoinRequest { address: self.address(&peer), id, token };
        let authenticator = Arc::clone(&self.authenticator);
        let timeout = self.timeout;
        self.pending.spawn(async move {
            let decision = AssertUnwindSafe(authenticator.authenticate(&request)).catch_unwind();
            let verdict = match tokio::time::timeout(timeout, decision).await {
                Ok(Ok(Ok(role))) => fresh_session()
                    .map(|session| Verdict::Admit { role, session })
                    .ok_or_else(|| "the host has no random numbers".to_owned()),
                Ok(Ok(Err(reason))) => Err(reason),
                Ok(Err(_)) => Err("the authenticator panicked".to_owned()),
                Err(_) => Err("the authenticator took too long".to_owned()),
            };
            (peer, verdict.unwrap_or_else(|reason| Verdict::Refuse { reason }))
        });
    }
}

/// An unguessable session token from the operating system's generator; `None` if that fails.
fn fresh_session() -> Option<SessionToken> {
    loop {
        let mut bytes = [0; SessionToken::LENGTH];
        getrandom::fill(&mut bytes).ok()?;
        if let Some(token) = SessionToken::from_bytes(bytes) {
            return Some(token);
        }
    }
}

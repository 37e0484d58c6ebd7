//! The host's driver: feeds the machine from the link, the application and the clock, and does what it says.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::config::{LAGS_EVERY, PER_WAKE, TIME_PER_WAKE};
use crate::id::PeerId;
use crate::proto::Instant;
use crate::proto::host::{
    AuthQuery, Config, Event as MachineEvent, Host as Machine, Input, LeaveReason as MachineLeave, Output,
    Verdict,
};
use crate::role::Role;
use crate::sync::lock;
use crate::transport::{Address, ChannelError, ParentEvent, ParentLink, PeerAddress};
use crate::wire::{CloseReason, Lane, MemberEntry};

use super::super::auth::{Authenticator, JoinRequest};
use super::super::driver::{Clock, reason};
use super::super::event::{Event, LeaveReason};
use super::super::listener::ChannelListener;
use super::super::node::{Command, Guard, Node, Told};
use super::super::outbound::Gate;
use super::super::stats::{MemberLag, set_counters};
use super::auth_tasks::AuthTasks;

/// How many refused joins are told as events in a second (a guess: few against what a reader of
/// events may be behind, so that those who are refused do not keep it from seeing the rest).
const MAX_REFUSALS_TOLD: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

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
    auth_tasks: AuthTasks,
    /// How many refusals were told as events, since when.
    refusals_told: (Instant, u32),
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
        Self {
            node,
            machine: Machine::new(config, clock.now()),
            link,
            clock,
            listener,
            subscriptions,
            handled: None,
            lags_at: Instant::START,
            auth_tasks: AuthTasks::new(authenticator),
            refusals_told: (Instant::START, 0),
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
                (query, verdict) = self.auth_tasks.next() => self.on_verdict(query, verdict),
                told = next_told(&mut self.guard) => self.on_told(told),
                Some(command) = commands.recv() => self.on_command(command),
                Some(event) = self.link.events.recv() => self.on_event(event),
                () = self.clock.sleep_until(deadline) => {}
                Some(frames) = self.link.submits.recv(), if takes => {
                    self.machine.handle_input(self.clock.now(), Input::Submit { frames });
                }
                () = node.outbound.work(), if takes => {}
            }
            // Each kind of work has its turn after every wake-up: peers that speak all the time
            // delay neither heartbeats nor verdicts nor the application.
            self.do_what_is_due();
            let is_more_waiting = self.take_what_waits(&mut commands);
            // All that was accepted goes out before the farewell, as fast as the pack takes it.
            if self.draining.is_some() && self.node.outbound.queued() == 0 {
                self.machine.handle_input(self.clock.now(), Input::Drain);
            }
            self.tell_handled();
            self.machine.handle_input(self.clock.now(), Input::Flush);
            // What was counted is known before anybody can see what came of it.
            self.count();
            let published = self.perform();
            if published || is_more_waiting {
                // Others need a turn: the transport's writers, and the authenticator's tasks, which
                // this worker may hold.
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
        let seq = handled.map(|handled| handled.position.seq);
        if seq != self.handled {
            self.handled = seq;
            self.machine.handle_input(now, Input::LocalHandled { seq });
        }
    }

    /// Takes what is waiting without waiting for more, of each kind a bounded number, and for a bounded time.
    /// Returns whether more may be waiting.
    fn take_what_waits(&mut self, commands: &mut mpsc::Receiver<Command>) -> bool {
        let mut is_more_waiting = false;
        for taken in 1..=PER_WAKE {
            let Some((query, verdict)) = self.auth_tasks.try_next() else { break };
            self.on_verdict(query, verdict);
            is_more_waiting |= taken == PER_WAKE;
        }
        for taken in 1..=PER_WAKE {
            let Some(Ok(told)) = self.guard.as_mut().map(|guard| guard.told.try_recv()) else { break };
            self.on_told(Some(told));
            is_more_waiting |= taken == PER_WAKE;
        }
        for taken in 1..=PER_WAKE {
            let Ok(command) = commands.try_recv() else { break };
            self.on_command(command);
            is_more_waiting |= taken == PER_WAKE;
        }
        let until = self.clock.now() + TIME_PER_WAKE;
        for taken in 1..=PER_WAKE {
            let Ok(event) = self.link.events.try_recv() else { break };
            self.on_event(event);
            let is_late = self.clock.now() >= until;
            is_more_waiting |= taken == PER_WAKE || is_late;
            if is_late {
                break;
            }
        }
        // The pack may fall behind by what is taken here.
        let mut now = self.clock.now();
        let until = now + TIME_PER_WAKE;
        for taken in 1..=PER_WAKE {
            if !self.machine.takes_submits() {
                return is_more_waiting;
            }
            let Ok(frames) = self.link.submits.try_recv() else { break };
            self.machine.handle_input(now, Input::Submit { frames });
            now = self.clock.now();
            is_more_waiting |= taken == PER_WAKE || now >= until;
            if now >= until {
                break;
            }
        }
        for taken in 1..=PER_WAKE {
            if !self.machine.takes_submits() {
                return is_more_waiting;
            }
            let Some(batch) = self.node.outbound.take() else { break };
            set_counters!(self.node.counters, sent = batch.first_origin_seq + u64::from(batch.count) - 1);
            self.machine.handle_input(now, Input::Local { body: batch.body });
            is_more_waiting |= taken == PER_WAKE;
        }
        is_more_waiting
    }

    fn on_verdict(&mut self, query: AuthQuery, verdict: Verdict) {
        self.machine.handle_input(self.clock.now(), Input::Verdict { query, verdict });
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
                let address = match address {
                    PeerAddress::Tcp(address) => Some(address),
                    PeerAddress::Ipc | PeerAddress::Inproc | PeerAddress::Unknown => None,
                };
                Input::Control { peer, address, frames }
            }
            ParentEvent::ControlClosed { peer } => Input::ControlClosed { peer },
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
                Output::Window { window, is_own } => {
                    self.listener.on_window(&window, is_own);
                    self.link.channels.broadcast(Lane::Whole.encode(), window.body);
                    published = true;
                }
                Output::Broadcast { lane, body } => {
                    self.link.channels.broadcast(lane, body);
                    published = true;
                }
                Output::Control { peer, frame } => self.send_control(peer, frame),
                Output::Session { peer, session, is_open: true } => {
                    self.link.channels.open_session(&peer, session);
                }
                Output::Session { session, is_open: false, .. } => self.link.channels.end_session(session),
                Output::CutBroadcast { session } => self.link.channels.cut_broadcast(session),
                Output::Disconnect { peer, session } => self.link.channels.disconnect(&peer, session),
                Output::Authenticate { query, address, id, token } => {
                    let address = self.peer_address(address);
                    self.auth_tasks.start(query, JoinRequest { address, id, token });
                }
                Output::CancelAuthentication { query } => self.auth_tasks.cancel(query),
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
            self.link.channels.disconnect(&peer, None);
            self.machine.handle_input(self.clock.now(), Input::ControlClosed { peer });
        }
    }

    /// Where a peer with this address calls from. Without one it came the way that the control
    /// channel is bound to.
    fn peer_address(&self, address: Option<SocketAddr>) -> PeerAddress {
        match (address, &self.link.addresses.control) {
            (Some(address), _) => PeerAddress::Tcp(address),
            (None, Address::Ipc(_)) => PeerAddress::Ipc,
            (None, Address::Inproc(_)) => PeerAddress::Inproc,
            (None, Address::Tcp { .. }) => PeerAddress::Unknown,
        }
    }

    fn on_machine_event(&mut self, event: MachineEvent) {
        match event {
            MachineEvent::Joined { id, role } => self.node.on_joined(MemberEntry { id, role }),
            MachineEvent::Evicted { id, eviction } => self.node.emit(Event::Evicted { id, eviction }),
            MachineEvent::Forbidden { id, document, messages } => {
                self.node.emit(Event::Forbidden { id, document, messages });
            }
            MachineEvent::Left { id, reason } => self.node.on_left(id, leave_reason(reason)),
            MachineEvent::Refused { address, id, code, reason: text } => {
                self.node.counters.refused_joins.fetch_add(1, Ordering::Relaxed);
                let now = self.clock.now();
                let (since, told) = self.refusals_told;
                let (since, told) = if now < since + SECOND { (since, told) } else { (now, 0) };
                self.refusals_told = (since, told + 1);
                if told < MAX_REFUSALS_TOLD {
                    let address = self.peer_address(address);
                    self.node.emit(Event::JoinRefused { id, address, reason: reason(code, text) });
                }
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
            rejected_connections = self.link.channels.rejected(),
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

//! The client's driver: feeds the machine from the link, the application and the clock, and does what it says.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::config::{DIAL_TIMEOUT, PER_WAKE};
use crate::error::RecvError;
use crate::id::SessionToken;
use crate::message::Position;
use crate::proto::member::{End, Event as MachineEvent, Input, Joined, Member as Machine, Output};
use crate::proto::{Instant, Reached};
use crate::role::Role;
use crate::transport::{
    Address, Channel, ChannelAddress, ChannelError, ChildChannels, ChildEvent, ChildLink, DialError,
    Transport,
};
use crate::wire::MemberEntry;

use super::super::driver::{Clock, reason};
use super::super::event::{Event, LeaveReason};
use super::super::listener::ChannelListener;
use super::super::node::{Command, Node};
use super::super::outbound::Gate;
use super::super::stats::set_counters;

/// The connection to the host in its stages. Dropping it hangs up.
enum Link {
    Down,
    Dialling(Pin<Box<dyn Future<Output = Result<ChildLink, DialError>> + Send>>),
    /// The control channel is connected.
    Up(ChildLink),
    /// The channels are away being connected; what they hear comes in all the same.
    Attaching {
        work: Pin<Box<dyn Future<Output = Attached> + Send>>,
        events: mpsc::Receiver<ChildEvent>,
        broadcasts: mpsc::Receiver<Vec<Bytes>>,
    },
}

type Attached = (Box<dyn ChildChannels>, Result<(), DialError>);

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Down => "Down",
            Self::Dialling(_) => "Dialling",
            Self::Up(_) => "Up",
            Self::Attaching { .. } => "Attaching",
        })
    }
}

/// What a link has to say.
enum Heard {
    Dialled(Result<ChildLink, DialError>),
    Attached(Attached),
    Event(ChildEvent),
    Broadcast(Vec<Bytes>),
}

impl Link {
    /// What comes next. Cancel safe.
    async fn next(&mut self) -> Heard {
        match self {
            Self::Down => std::future::pending().await,
            Self::Dialling(work) => Heard::Dialled(work.await),
            Self::Up(ChildLink { events, broadcasts, .. }) => tokio::select! {
                biased;
                Some(event) = events.recv() => Heard::Event(event),
                Some(frames) = broadcasts.recv() => Heard::Broadcast(frames),
                else => std::future::pending().await,
            },
            Self::Attaching { work, events, .. } => tokio::select! {
                biased;
                attached = work => Heard::Attached(attached),
                Some(event) = events.recv() => Heard::Event(event),
            },
        }
    }

    /// What is there without waiting.
    fn try_next(&mut self) -> Option<Heard> {
        let Self::Up(ChildLink { events, broadcasts, .. }) = self else { return None };
        if let Ok(event) = events.try_recv() {
            return Some(Heard::Event(event));
        }
        broadcasts.try_recv().ok().map(Heard::Broadcast)
    }
}

/// Runs a client.
#[derive(Debug)]
pub(super) struct Driver {
    node: Arc<Node>,
    machine: Machine,
    transport: Arc<dyn Transport>,
    address: Address,
    link: Link,
    clock: Clock,
    listener: ChannelListener,
    /// What the machine was told last of how far the consumers are.
    handled: Option<Reached>,
    /// Whether it was told that all of them have overrun.
    overrun: bool,
    /// Who waits in `join`, to be told where the order stood.
    joined: Option<oneshot::Sender<Result<Position, End>>>,
    /// Who waits for subscriptions, by ticket.
    subscribers: VecDeque<(u64, oneshot::Sender<()>)>,
    next_ticket: u64,
    /// Whether a shutdown was asked for, and when it must be done.
    leaving: Option<Instant>,
    /// The machine's last word.
    end: Option<End>,
}

impl Driver {
    pub(super) fn new(
        node: Arc<Node>,
        machine: Machine,
        transport: Arc<dyn Transport>,
        address: Address,
        listener: ChannelListener,
        joined: oneshot::Sender<Result<Position, End>>,
    ) -> Self {
        Self {
            node,
            machine,
            transport,
            address,
            link: Link::Down,
            clock: Clock::start(),
            listener,
            handled: None,
            overrun: false,
            joined: Some(joined),
            subscribers: VecDeque::new(),
            next_ticket: 1,
            leaving: None,
            end: None,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let node = Arc::clone(&self.node);
        self.machine.handle_input(self.clock.now(), Input::Start);
        self.perform();
        while self.end.is_none() {
            let deadline = self.machine.poll_timeout().into_iter().chain(self.leaving).min();
            let can_submit = self.machine.can_submit();
            tokio::select! {
                biased;
                () = node.cancel.cancelled() => break,
                Some(command) = commands.recv() => self.on_command(command),
                () = self.clock.sleep_until(deadline) => {}
                heard = self.link.next() => self.on_heard(heard),
                () = node.outbound.work(), if can_submit => {}
            }
            self.perform();
            self.take_what_waits();
            let now = self.clock.now();
            self.tell_handled(now);
            // Whatever came first: an application that asks for much, or a host that sends much, is not to keep it from its acks.
            self.machine.handle_timeout(now);
            self.perform();
            if self.leaving.is_some_and(|deadline| deadline <= now) {
                break;
            }
        }
        self.link = Link::Down;
        let end = self.end.take().unwrap_or(End::Left);
        match &end {
            End::Refused { code, reason: text } => {
                let reason = reason(*code, text.clone());
                node.emit(Event::Refused { reason: reason.clone() });
                self.listener.tell(&RecvError::Refused { reason });
            }
            End::Evicted(eviction) => {
                node.emit(Event::Evicted { id: node.id, eviction: eviction.clone() });
                self.listener.tell(&RecvError::Evicted(eviction.clone()));
            }
            End::Left | End::TimedOut { .. } => {}
        }
        node.end(0);
        if let Some(joined) = self.joined.take() {
            let _ = joined.send(Err(end));
        }
        self.listener.end();
    }

    /// Tells the machine how far the consumers have come.
    fn tell_handled(&mut self, now: Instant) {
        self.listener.check(now);
        // First: without consumers all counts as handled, and what these have dropped is not to count as that.
        if self.node.consumers.have_all_overrun() != self.overrun {
            self.overrun = !self.overrun;
            if self.overrun {
                self.machine.handle_input(now, Input::Overrun);
            }
        }
        let handled = self.listener.handled();
        if handled != self.handled
            && let Some(up_to) = handled
        {
            self.handled = handled;
            self.machine.handle_input(now, Input::Handled { up_to });
        }
    }

    /// Takes what is waiting without waiting for more, of each kind a bounded number.
    fn take_what_waits(&mut self) {
        for _ in 0..PER_WAKE {
            let Some(heard) = self.link.try_next() else { break };
            self.on_heard(heard);
            self.perform();
        }
        for _ in 0..PER_WAKE {
            if !self.machine.can_submit() {
                break;
            }
            let Some(batch) = self.node.outbound.take() else { break };
            set_counters!(self.node.counters, sent = batch.first_origin_seq + u64::from(batch.count) - 1);
            self.machine.handle_input(
                self.clock.now(),
                Input::Submit {
                    first_origin_seq: batch.first_origin_seq,
                    count: batch.count,
                    body: batch.body,
                },
            );
        }
        if self.leaving.is_some() && self.node.outbound.queued() == 0 {
            self.machine.handle_input(self.clock.now(), Input::Leave);
        }
        self.perform();
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Subscribe { prefixes, done } => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.subscribers.push_back((ticket, done));
                self.machine.handle_input(self.clock.now(), Input::Subscribe { prefixes, ticket });
            }
            // Clients have nobody to send away.
            Command::Kick { done, .. } => drop(done.send(false)),
            // Nor do they make epochs, or order anything.
            Command::RiseAbove { done, .. } | Command::Guard { done, .. } => drop(done),
            Command::Shutdown => {
                if self.leaving.is_none() {
                    self.node.outbound.set_gate(Gate::Closed);
                    self.leaving = Some(self.clock.now() + self.node.shutdown_timeout);
                }
            }
        }
    }

    fn on_heard(&mut self, heard: Heard) {
        let input = match heard {
            Heard::Dialled(Ok(link)) => {
                self.link = Link::Up(link);
                Input::Connected
            }
            Heard::Dialled(Err(error)) => {
                self.link = Link::Down;
                Input::DialFailed { reason: error.to_string() }
            }
            Heard::Attached((channels, result)) => {
                if let Link::Attaching { events, broadcasts, .. } =
                    std::mem::replace(&mut self.link, Link::Down)
                {
                    self.link = Link::Up(ChildLink { channels, events, broadcasts });
                }
                match result {
                    Ok(()) => Input::Attached,
                    Err(error) => Input::AttachFailed { reason: error.to_string() },
                }
            }
            Heard::Event(ChildEvent::Control(frames)) => Input::Control { frames },
            Heard::Event(ChildEvent::Lost(channel)) => {
                self.take_in_what_came();
                let reason = format!("the {channel} connection was lost");
                match channel {
                    Channel::Control => Input::Lost { reason },
                    Channel::Broadcast | Channel::Submit => Input::LostChannel { reason },
                }
            }
            Heard::Broadcast(frames) => Input::Broadcast { frames },
        };
        self.machine.handle_input(self.clock.now(), input);
    }

    /// Takes in all broadcasts that came before a connection was lost, room or not: there are no more than the link's queue holds.
    fn take_in_what_came(&mut self) {
        while let Link::Up(ChildLink { broadcasts, .. }) = &mut self.link {
            let Ok(frames) = broadcasts.try_recv() else { break };
            self.machine.handle_input(self.clock.now(), Input::Broadcast { frames });
        }
        self.perform();
    }

    /// Does what the machine wants done. What it counted is known before anybody can see what came of it.
    fn perform(&mut self) {
        self.count();
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Dial => {
                    let (transport, address) = (Arc::clone(&self.transport), self.address.clone());
                    self.link =
                        Link::Dialling(Box::pin(async move { transport.dial(&address, DIAL_TIMEOUT).await }));
                }
                Output::Hangup => self.link = Link::Down,
                Output::Control { frame } => self.with_channels(|channels| channels.send_control(frame)),
                Output::Attach { broadcast, submit, session } => self.attach(&broadcast, &submit, session),
                Output::AddLane { prefix } => self.with_channels(|channels| channels.subscribe(&prefix)),
                Output::RemoveLane { prefix } => self.with_channels(|channels| channels.unsubscribe(&prefix)),
                Output::Submit { head, body } => self.with_channels(|channels| channels.submit(head, body)),
                Output::Deliver { messages, up_to } => self.listener.deliver(messages, up_to),
                Output::Ordered(ordered) => {
                    let counters = &self.node.counters;
                    let counter = if ordered.is_refused() { &counters.refused } else { &counters.confirmed };
                    counter.fetch_add(ordered.count.into(), Ordering::Relaxed);
                    self.node.outbound.on_ordered(ordered);
                }
                Output::Unknown { up_to } => {
                    let unknown = self.node.outbound.on_unknown(up_to);
                    self.node.counters.unknown.fetch_add(unknown, Ordering::Relaxed);
                }
                Output::Subscribed { ticket } => {
                    while self.subscribers.front().is_some_and(|(waiting, _)| *waiting <= ticket) {
                        if let Some((_, done)) = self.subscribers.pop_front() {
                            // A caller that is gone does not mind.
                            let _ = done.send(());
                        }
                    }
                }
                Output::Event(event) => self.on_machine_event(event),
                Output::Ended(end) => self.end = Some(end),
            }
        }
    }

    /// Lets the channels do something, if they are there. A failure ends the session.
    fn with_channels(&mut self, act: impl FnOnce(&mut dyn ChildChannels) -> Result<(), ChannelError>) {
        let Link::Up(link) = &mut self.link else { return };
        if let Err(error) = act(&mut *link.channels) {
            let reason = error.to_string();
            let input = match error {
                ChannelError::Full(Channel::Control) | ChannelError::Closed(Channel::Control) => {
                    Input::Lost { reason }
                }
                ChannelError::Full(_) | ChannelError::Closed(_) => Input::LostChannel { reason },
            };
            self.machine.handle_input(self.clock.now(), input);
        }
    }

    fn attach(&mut self, broadcast: &str, submit: &str, session: SessionToken) {
        let resolve =
            |name: &str| name.parse::<ChannelAddress>().map(|channel| channel.resolve(&self.address));
        let (broadcast, submit) = match (resolve(broadcast), resolve(submit)) {
            (Ok(broadcast), Ok(submit)) => (broadcast, submit),
            (Err(error), _) | (_, Err(error)) => {
                let reason = format!("the host names its channels in a way that is not understood: {error}");
                return self.machine.handle_input(self.clock.now(), Input::AttachFailed { reason });
            }
        };
        match std::mem::replace(&mut self.link, Link::Down) {
            Link::Up(ChildLink { mut channels, events, broadcasts }) => {
                let work = Box::pin(async move {
                    let result = channels.attach(&broadcast, &submit, session, DIAL_TIMEOUT).await;
                    (channels, result)
                });
                self.link = Link::Attaching { work, events, broadcasts };
            }
            other => self.link = other,
        }
    }

    fn on_machine_event(&mut self, event: MachineEvent) {
        let node = &self.node;
        match event {
            MachineEvent::Joined(Joined {
                host,
                role,
                max_message,
                position,
                next_origin_seq,
                terms,
                members,
            }) => {
                node.outbound.set_max_message(max_message);
                node.consumers.set_marks(&terms.marks, terms.conflatable);
                if self.joined.is_some() {
                    node.outbound.start_at(next_origin_seq);
                }
                node.set_role(role);
                let known = [MemberEntry { id: host, role: Role::Host }, MemberEntry { id: node.id, role }];
                node.set_members(members.into_iter().chain(known));
                node.emit(Event::Connected { host, role, position });
                if let Some(joined) = self.joined.take() {
                    let _ = joined.send(Ok(position));
                }
            }
            MachineEvent::Evicted(eviction) => {
                node.set_members([]);
                node.emit(Event::Evicted { id: node.id, eviction });
            }
            MachineEvent::Reset { after, resume_at } => {
                node.emit(Event::Reset { after, resume_at });
                self.listener.tell(&RecvError::Reset { after, resume_at });
            }
            MachineEvent::Disconnected { reason } => {
                node.set_members([]);
                node.emit(Event::Disconnected { reason });
            }
            MachineEvent::Membership { joined, left } => {
                for id in left {
                    node.on_left(id, LeaveReason::Unknown);
                }
                for member in joined {
                    node.on_joined(member);
                }
            }
        }
    }

    fn count(&self) {
        let machine = self.machine.counters();
        set_counters!(
            self.node.counters,
            received = machine.received,
            windows = machine.windows,
            malformed_control = machine.malformed_control,
            malformed_broadcasts = machine.malformed_broadcasts,
            duplicates = machine.duplicates,
            missed_windows = machine.missed_windows,
            repaired_windows = machine.repaired_windows,
            lost_windows = machine.lost_windows,
            set_aside = machine.set_aside,
            resent_batches = machine.resent_batches,
            evictions = machine.evictions,
            sessions = machine.sessions,
        );
    }
}

//! A host and its members without IO: a network of queues that loses what the test tells it to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::host::{self, AuthLimits, Host, LeaveReason, RepairRate, Verdict};
use super::member::{self, End, Member};
use super::{Instant, LogLimit, MAX_UNANSWERED, Reached};
use crate::flow::{EvictReason, HighWaterMark};
use crate::id::{EndpointId, PeerId, SessionToken};
use crate::message::{Message, Position};
use crate::role::Role;
use crate::wire::{
    Ack, Barrier, Batch, BatchBuilder, ChildMessage, CloseReason, Hello, Lane, Nonce, Ordered,
    PROTOCOL_VERSION, ParentMessage, RefusalCode, SubmitHead, WindowBuilder,
};

mod admission;
mod delivery;
mod flow;
mod outbox;
mod rights;
mod sessions;
mod subscribing;

const CLUSTER: &str = "test";

fn id(n: u8) -> EndpointId {
    EndpointId::from_bytes([n; 16])
}

fn host_config() -> host::Config {
    host::Config {
        id: id(100),
        cluster: CLUSTER.into(),
        incarnation: 77,
        epoch: 1000,
        first_origin_seq: 1,
        marks: HighWaterMark::new(),
        pace_percentile: 50,
        patience: Duration::from_millis(50),
        conflatable: Vec::new(),
        log: LogLimit { messages: 1_000_000, bytes: 64 << 20 },
        heartbeat: Duration::from_millis(100),
        lease: Duration::from_secs(10),
        origin_ttl: Duration::from_secs(3600),
        max_origins: 100,
        quarantine: (Duration::from_secs(1), Duration::from_secs(60)),
        repair_rate: RepairRate { burst: 4 << 20, per_second: 32 << 20 },
        mutant: None,
        max_message: 1 << 20,
        max_members: 10,
        authentication: AuthLimits { pending: 3, running_per_source: 3 },
        handshake_timeout: Duration::from_secs(5),
        broadcast: ":1".into(),
        submit: ":2".into(),
    }
}

fn member_config(n: u8, prefixes: &[&str]) -> member::Config {
    member::Config {
        id: id(n),
        cluster: CLUSTER.into(),
        token: Bytes::from_static(b"token"),
        prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
        outbox: member::Limit { batches: 4, bytes: 1 << 20 },
        first_origin_seq: 1,
        rejoin: true,
        origin_ttl: Duration::from_secs(3600),
        mutant: None,
        handshake_timeout: Duration::from_secs(5),
        join_timeout: Duration::from_secs(10),
        backoff: (Duration::from_millis(50), Duration::from_secs(2)),
        seed: n.into(),
    }
}

type Loses = Box<dyn FnMut(usize, &str) -> bool>;

/// A member with its connections.
struct Child {
    machine: Member,
    peer: PeerId,
    connections: u8,
    lanes: BTreeSet<String>,
    attached: Option<SessionToken>,
    next_origin_seq: u64,
    delivered: Vec<Message>,
    ordered: Vec<Ordered>,
    unknown: Vec<u64>,
    events: Vec<member::Event>,
    subscribed: Vec<u64>,
    end: Option<End>,
    /// Its consumers handle nothing.
    stalled: bool,
    /// Up to where it was given messages.
    up_to: Option<Reached>,
}

/// Everything that is under way, in order.
enum Packet {
    ToHost(host::Input),
    ToChild(usize, member::Input),
}

struct World {
    now: Instant,
    host: Host,
    children: Vec<Child>,
    packets: VecDeque<Packet>,
    host_events: Vec<host::Event>,
    host_windows: usize,
    /// What the host wants to know of who may say what.
    asked_rights: Vec<(EndpointId, String)>,
    drained: bool,
    sessions: u8,
    verdict: fn(EndpointId, &[u8]) -> Result<Role, String>,
    /// Whether a broadcast of this lane is lost on its way to this child.
    loses: Loses,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant::since_start(Duration::ZERO),
            host: Host::new(host_config(), Instant::START),
            children: Vec::new(),
            packets: VecDeque::new(),
            host_events: Vec::new(),
            host_windows: 0,
            asked_rights: Vec::new(),
            drained: false,
            sessions: 0,
            verdict: |_, token| {
                assert_eq!(token, b"token");
                Ok(Role::Member)
            },
            loses: Box::new(|_, _| false),
        }
    }

    fn add(&mut self, config: member::Config) -> usize {
        let mut machine = Member::new(config);
        machine.handle_input(self.now, member::Input::Start);
        self.children.push(Child {
            machine,
            peer: PeerId::new(Bytes::new()),
            connections: 0,
            lanes: BTreeSet::new(),
            attached: None,
            next_origin_seq: 1,
            delivered: Vec::new(),
            ordered: Vec::new(),
            unknown: Vec::new(),
            events: Vec::new(),
            subscribed: Vec::new(),
            end: None,
            stalled: false,
            up_to: None,
        });
        self.children.len() - 1
    }

    fn join(&mut self, n: u8, prefixes: &[&str]) -> usize {
        let child = self.add(member_config(n, prefixes));
        self.run();
        assert!(self.children[child].machine.can_submit(), "joined");
        child
    }

    fn submit(&mut self, child: usize, topic: &str, texts: &[&str]) {
        let first = self.children[child].next_origin_seq;
        let mut batch = BatchBuilder::new(first);
        for text in texts {
            assert!(batch.push(&Message::new(topic, (*text).to_owned()).unwrap()));
        }
        self.children[child].next_origin_seq += texts.len() as u64;
        let input = member::Input::Submit {
            first_origin_seq: first,
            count: texts.len() as u16,
            body: batch.finish(),
        };
        self.children[child].machine.handle_input(self.now, input);
    }

    fn subscribe(&mut self, child: usize, prefixes: &[&str], ticket: u64) {
        let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        self.children[child].machine.handle_input(self.now, member::Input::Subscribe { prefixes, ticket });
    }

    fn input(&mut self, input: host::Input) {
        self.host.handle_input(self.now, input);
        self.host.handle_input(self.now, host::Input::Flush);
    }

    /// Lets everything that is under way arrive, and what follows from it.
    fn run(&mut self) {
        loop {
            self.collect();
            let Some(packet) = self.packets.pop_front() else { break };
            match packet {
                Packet::ToHost(input) => self.input(input),
                Packet::ToChild(child, input) => self.children[child].machine.handle_input(self.now, input),
            }
        }
    }

    /// Lets time pass, timers fire and everything arrive.
    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut stuck = 0;
        loop {
            self.run();
            let timers = self.children.iter().filter_map(|child| child.machine.poll_timeout());
            let next = timers.chain(self.host.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            // Where the test jumped ahead, deadlines are past; none is served twice without end.
            stuck = if next > self.now { 0 } else { stuck + 1 };
            assert!(stuck < 100, "a deadline in the past was not served");
            self.now = next.max(self.now);
            self.host.handle_timeout(self.now);
            for child in &mut self.children {
                child.machine.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    /// A member's consumers are done with as many of the messages it was given.
    fn handle_first(&mut self, child: usize, count: usize) {
        let child = &mut self.children[child];
        let Some(message) = count.checked_sub(1).and_then(|last| child.delivered.get(last)) else { return };
        let up_to = Reached { reign: 1, position: message.position().unwrap() };
        child.machine.handle_input(self.now, member::Input::Handled { up_to });
    }

    /// Cuts a member's connections; both sides learn of it.
    fn cut(&mut self, child: usize) {
        let peer = self.children[child].peer.clone();
        self.children[child].attached = None;
        self.packets.push_back(Packet::ToHost(host::Input::ControlClosed { peer }));
        self.packets.push_back(Packet::ToChild(child, member::Input::Lost { reason: "cut".into() }));
    }

    fn collect(&mut self) {
        while let Some(output) = self.host.poll_output() {
            self.on_host_output(output);
        }
        for child in 0..self.children.len() {
            while let Some(output) = self.children[child].machine.poll_output() {
                self.on_child_output(child, output);
            }
        }
    }

    fn on_host_output(&mut self, output: host::Output) {
        match output {
            host::Output::Window { window, .. } => {
                self.host_windows += 1;
                self.publish(Bytes::from_static(b"W"), &window.body);
            }
            host::Output::Broadcast { lane, body } => self.publish(lane, &body),
            host::Output::Control { peer, frame } => {
                if let Some(child) = self.children.iter().position(|child| child.peer == peer) {
                    self.packets
                        .push_back(Packet::ToChild(child, member::Input::Control { frames: vec![frame] }));
                }
            }
            host::Output::Session { .. } => {}
            host::Output::CutBroadcast { session } => {
                if let Some(child) = self.children.iter().position(|child| child.attached == Some(session)) {
                    self.children[child].attached = None;
                    let reason = "the broadcast connection was cut".into();
                    self.packets.push_back(Packet::ToChild(child, member::Input::LostChannel { reason }));
                }
            }
            host::Output::Disconnect { peer, .. } => {
                if let Some(child) = self.children.iter().position(|child| child.peer == peer) {
                    self.children[child].attached = None;
                    let reason = "cut off".into();
                    self.packets.push_back(Packet::ToChild(child, member::Input::Lost { reason }));
                }
            }
            host::Output::Authenticate { query, id, token, .. } => {
                let verdict = match (self.verdict)(id, &token) {
                    Ok(role) => {
                        self.sessions += 1;
                        let session = SessionToken::from_bytes([self.sessions; 16]).unwrap();
                        Verdict::Admit { role, session }
                    }
                    Err(reason) => Verdict::Refuse { reason },
                };
                self.packets.push_back(Packet::ToHost(host::Input::Verdict { query, verdict }));
            }
            host::Output::CancelAuthentication { query } => {
                let is_its = |packet: &Packet| matches!(packet, Packet::ToHost(host::Input::Verdict { query: other, .. }) if *other == query);
                self.packets.retain(|packet| !is_its(packet));
            }
            host::Output::Ordered(_) => {}
            host::Output::AskRights { id, name, .. } => self.asked_rights.push((id, name)),
            host::Output::Event(event) => self.host_events.push(event),
            host::Output::Drained => self.drained = true,
        }
    }

    fn publish(&mut self, lane: Bytes, body: &Bytes) {
        let key = std::str::from_utf8(&lane).unwrap();
        for (index, child) in self.children.iter().enumerate() {
            let takes = child.attached.is_some() && child.lanes.iter().any(|prefix| key.starts_with(prefix));
            if takes && !(self.loses)(index, key) {
                let frames = vec![lane.clone(), body.clone()];
                self.packets.push_back(Packet::ToChild(index, member::Input::Broadcast { frames }));
            }
        }
    }

    fn on_child_output(&mut self, index: usize, output: member::Output) {
        let child = &mut self.children[index];
        let mut say = |input| self.packets.push_back(Packet::ToChild(index, input));
        match output {
            member::Output::Dial => {
                child.connections += 1;
                child.peer = PeerId::new(Bytes::copy_from_slice(&[index as u8, child.connections]));
                say(member::Input::Connected);
            }
            member::Output::Hangup => {
                child.attached = None;
                child.lanes.clear();
            }
            member::Output::Control { frame } => {
                let peer = child.peer.clone();
                let address = Some(([10, 0, 0, index as u8], 1).into());
                let input = host::Input::Control { peer, address, frames: vec![frame] };
                self.packets.push_back(Packet::ToHost(input));
            }
            member::Output::Attach { broadcast, submit, session } => {
                assert_eq!((broadcast.as_str(), submit.as_str()), (":1", ":2"));
                child.attached = Some(session);
                say(member::Input::Attached);
            }
            member::Output::AddLane { prefix } => assert!(child.lanes.insert(prefix), "subscribed twice"),
            member::Output::RemoveLane { prefix } => assert!(child.lanes.remove(&prefix), "never subscribed"),
            member::Output::Submit { head, body } => {
                self.packets.push_back(Packet::ToHost(host::Input::Submit { frames: vec![head, body] }));
            }
            member::Output::Deliver { messages, up_to } => {
                child.delivered.extend(messages);
                child.up_to = Some(up_to);
                if !child.stalled {
                    child.machine.handle_input(self.now, member::Input::Handled { up_to });
                }
            }
            member::Output::Ordered(ordered) => child.ordered.push(ordered),
            member::Output::Unknown { up_to } => child.unknown.push(up_to),
            member::Output::Subscribed { ticket } => child.subscribed.push(ticket),
            member::Output::Event(event) => child.events.push(event),
            member::Output::Ended(end) => child.end = Some(end),
        }
    }

    /// A child that stood still handles what it has, and what comes.
    fn go_on(&mut self, child: usize) {
        let child = &mut self.children[child];
        child.stalled = false;
        if let Some(up_to) = child.up_to {
            child.machine.handle_input(self.now, member::Input::Handled { up_to });
        }
    }

    fn texts(&self, child: usize) -> Vec<&str> {
        self.children[child].delivered.iter().map(|m| std::str::from_utf8(m.payload()).unwrap()).collect()
    }

    fn resets(&self, child: usize) -> Vec<Position> {
        let events = self.children[child].events.iter();
        events
            .filter_map(|event| match event {
                member::Event::Reset { resume_at, .. } => Some(*resume_at),
                _ => None,
            })
            .collect()
    }

    fn left(&self) -> Vec<(EndpointId, LeaveReason)> {
        let events = self.host_events.iter();
        events
            .filter_map(|event| match event {
                host::Event::Left { id, reason } => Some((*id, *reason)),
                _ => None,
            })
            .collect()
    }
}

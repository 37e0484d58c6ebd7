//! A host and its members without IO: a network of queues that loses what the test tells it to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::host::{self, Host, LeaveReason, RepairRate, RingLimit, Verdict};
use super::member::{self, End, Member};
use super::{Instant, MAX_UNANSWERED};
use crate::flow::{EvictReason, HighWaterMark};
use crate::id::{EndpointId, PeerId, SessionToken};
use crate::message::{Message, Position};
use crate::role::Role;
use crate::wire::{
    Ack, Barrier, Batch, BatchBuilder, ChildMessage, CloseReason, Hello, Ordered, PROTOCOL_VERSION,
    ParentMessage, RefusalCode, SubmitHead, WindowBuilder,
};

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
        conflatable: Vec::new(),
        ring: RingLimit { messages: 1_000_000, bytes: 64 << 20 },
        heartbeat: Duration::from_millis(100),
        lease: Duration::from_secs(10),
        origin_ttl: Duration::from_secs(3600),
        max_origins: 100,
        quarantine: (Duration::from_secs(1), Duration::from_secs(60)),
        repair_rate: RepairRate { burst: 4 << 20, per_second: 32 << 20 },
        mutant: None,
        max_message: 1 << 20,
        max_members: 10,
        max_handshakes: 3,
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
    drained: bool,
    sessions: u8,
    verdict: fn(EndpointId) -> Result<Role, String>,
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
            drained: false,
            sessions: 0,
            verdict: |_| Ok(Role::Member),
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
            host::Output::Window { body, .. } => {
                self.host_windows += 1;
                self.publish(Bytes::from_static(b"W"), &body);
            }
            host::Output::Broadcast { lane, body } => self.publish(lane, &body),
            host::Output::Control { peer, frame } => {
                if let Some(child) = self.children.iter().position(|child| child.peer == peer) {
                    self.packets
                        .push_back(Packet::ToChild(child, member::Input::Control { frames: vec![frame] }));
                }
            }
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
            host::Output::Authenticate { peer, id, token } => {
                assert_eq!(&token[..], b"token");
                let verdict = match (self.verdict)(id) {
                    Ok(role) => {
                        self.sessions += 1;
                        let session = SessionToken::from_bytes([self.sessions; 16]).unwrap();
                        Verdict::Admit { role, session }
                    }
                    Err(reason) => Verdict::Refuse { reason },
                };
                self.packets.push_back(Packet::ToHost(host::Input::Verdict { peer, verdict }));
            }
            host::Output::Ordered(_) => {}
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
                self.packets.push_back(Packet::ToHost(host::Input::Control { peer, frames: vec![frame] }));
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

#[test]
fn members_join_and_see_one_order() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["a1", "a2"]);
    world.submit(b, "t", &["b1"]);
    world.submit(a, "t", &["a3"]);
    world.run();
    assert_eq!(world.texts(a).len(), 4);
    assert_eq!(world.children[a].delivered, world.children[b].delivered);
    assert_eq!(world.children[a].ordered.iter().map(|o| u64::from(o.count)).sum::<u64>(), 3);
    assert!(world.resets(a).is_empty());
    assert_eq!(world.host.members().count(), 2);
    let joined = |event: &member::Event| matches!(event, member::Event::Membership { joined, .. } if joined[0].id == id(2));
    assert!(world.children[a].events.iter().any(joined));
}

#[test]
fn the_first_message_after_joining_is_the_first_after_the_named_position() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["before"]);
    world.run();
    let b = world.join(2, &[""]);
    world.submit(a, "t", &["after"]);
    world.run();
    assert_eq!(world.texts(b), ["after"]);
    let position = world.children[b].events.iter().find_map(|event| match event {
        member::Event::Joined(joined) => Some(joined.position),
        _ => None,
    });
    assert_eq!(position, Some(Position { epoch: 1000, seq: 1 }));
}

#[test]
fn a_lost_window_is_repaired_and_nothing_else_is_disturbed() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    let mut windows = 0;
    world.loses = Box::new(move |child, lane| {
        windows += u32::from(child == b && lane == "W");
        child == b && lane == "W" && windows == 2
    });
    for text in ["one", "two", "three"] {
        world.submit(a, "t", &[text]);
        world.run();
    }
    assert_eq!(world.texts(a), ["one", "two", "three"]);
    assert_eq!(world.texts(b), ["one", "two", "three"]);
    assert!(world.resets(a).is_empty() && world.resets(b).is_empty());
    let counters = world.children[b].machine.counters();
    assert_eq!((counters.missed_windows, counters.repaired_windows, counters.lost_windows), (1, 1, 0));
    assert_eq!(world.host.counters().repaired_windows, 1);
}

#[test]
fn a_lost_tail_is_found_by_the_next_heartbeat() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["t"]));
    let (c, d) = (world.join(3, &[""]), world.join(4, &["t"]));
    let mut lost = 0;
    world.loses = Box::new(move |child, lane| {
        lost += u32::from(child >= c && !lane.starts_with('B'));
        // All of the first window, on any lane.
        child >= c && lost <= 3 && !lane.starts_with('B')
    });
    world.submit(a, "t", &["the last word"]);
    world.run();
    assert!(world.texts(c).is_empty() && world.texts(d).is_empty());
    world.run_for(Duration::from_millis(200));
    for child in [a, b, c, d] {
        assert_eq!(world.texts(child), ["the last word"]);
        assert!(world.resets(child).is_empty());
    }
}

#[test]
fn what_the_ring_has_no_more_is_told_as_a_reset() {
    let mut world = World::new();
    world.host = Host::new(
        host::Config { ring: RingLimit { messages: 3, bytes: 1 << 20 }, ..host_config() },
        world.now,
    );
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.loses = Box::new(move |child, lane| child == b && lane == "W");
    for text in ["1", "2", "3", "4", "5"] {
        world.submit(a, "t", &[text]);
        world.run();
    }
    world.loses = Box::new(|_, _| false);
    world.submit(a, "t", &["6"]);
    world.run();
    world.submit(a, "t", &["7"]);
    world.run();
    assert_eq!(world.texts(b), ["7"]);
    assert_eq!(world.resets(b), [Position { epoch: 1000, seq: 7 }]);
    assert_eq!(world.children[b].machine.counters().lost_windows, 6);
    assert_eq!(world.host.counters().missed_repairs, 1);
}

#[test]
fn filtered_members_see_their_topics_and_learn_the_places_of_their_own_messages() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x", "yy"]));
    world.submit(a, "x1", &["1"]);
    world.submit(a, "z", &["2"]);
    world.submit(a, "yy", &["3"]);
    world.submit(a, "y", &["4"]);
    world.submit(b, "z", &["5"]);
    world.submit(b, "x", &["6"]);
    world.run();
    assert_eq!(world.texts(b), ["1", "3", "6"]);
    assert_eq!(world.texts(a).len(), 6);
    let seqs: Vec<u64> = world.children[b].ordered.iter().map(|ordered| ordered.first_seq).collect();
    assert_eq!(seqs, [5, 6]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn a_window_whose_topic_part_was_lost_is_repaired_whole() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x", "y"]));
    let mut parts = 0;
    world.loses = Box::new(move |child, lane| {
        parts += u32::from(child == b && lane == "Tx");
        child == b && lane == "Tx" && parts == 1
    });
    let mut batch = BatchBuilder::new(1);
    for (topic, text) in [("x", "1"), ("z", "not asked for"), ("y", "2")] {
        batch.push(&Message::new(topic, text).unwrap());
    }
    let input = member::Input::Submit { first_origin_seq: 1, count: 3, body: batch.finish() };
    world.children[a].machine.handle_input(world.now, input);
    world.children[a].next_origin_seq = 4;
    world.run();
    world.submit(a, "x", &["3"]);
    world.run();
    assert_eq!(world.texts(b), ["1", "2", "3"]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn a_lost_index_shows_with_the_next_and_is_repaired() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    let mut indexes = 0;
    world.loses = Box::new(move |child, lane| {
        indexes += u32::from(child == b && lane == "I");
        child == b && lane == "I" && indexes == 1
    });
    world.submit(a, "x", &["1"]);
    world.run();
    world.submit(a, "x", &["2"]);
    world.run();
    assert_eq!(world.texts(b), ["1", "2"]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn repairs_keep_to_the_filter_that_was_in_force_at_each_window() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    world.loses = Box::new(move |child, lane| child == b && !lane.starts_with('B'));
    for _ in 0..2 {
        world.submit(a, "x", &["x before"]);
        world.submit(a, "y", &["y before"]);
        world.run();
    }
    // The first gap is seen by the barrier, and repaired after it.
    world.subscribe(b, &["y"], 1);
    world.run();
    world.submit(a, "x", &["x after"]);
    world.submit(a, "y", &["y after"]);
    world.run();
    world.loses = Box::new(|_, _| false);
    world.run_for(Duration::from_millis(200));
    assert_eq!(world.texts(b), ["x before", "x before", "y after"]);
    assert_eq!(world.children[b].subscribed, [1]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn a_change_of_subscription_takes_effect_at_its_barrier_even_if_the_first_is_lost() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    let mut barriers = 0;
    world.loses = Box::new(move |_, lane| {
        barriers += u32::from(lane.starts_with('B'));
        lane.starts_with('B') && barriers < 3
    });
    world.subscribe(b, &["y"], 7);
    world.run();
    assert!(world.children[b].subscribed.is_empty());
    // Until the barrier comes, the old subscription is in force.
    world.submit(a, "x", &["old"]);
    world.submit(a, "y", &["too early"]);
    world.run();
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.children[b].subscribed, [7]);
    world.submit(a, "x", &["too late"]);
    world.submit(a, "y", &["new"]);
    world.run();
    assert_eq!(world.texts(b), ["old", "new"]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn subscriptions_may_change_between_all_and_some_in_mid_traffic() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    let wishes: [&[&str]; 5] = [&["x"], &["", "x"], &["y"], &[], &[""]];
    for (ticket, wish) in (1..).zip(wishes) {
        world.subscribe(b, wish, ticket);
        world.submit(a, "x", &["x"]);
        world.submit(b, "y", &["y"]);
        world.run();
    }
    assert_eq!(world.children[b].subscribed, [1, 2, 3, 4, 5]);
    assert!(world.resets(b).is_empty());
    assert!(world.children[b].unknown.is_empty());
    assert_eq!(world.children[b].ordered.iter().map(|o| u64::from(o.count)).sum::<u64>(), 5);
    world.submit(a, "z", &["z"]);
    world.run();
    assert_eq!(world.texts(b).last(), Some(&"z"));
    assert_eq!(world.texts(a).len(), 11);
}

#[test]
fn what_was_under_way_at_a_loss_is_sent_again_and_what_was_missed_is_repaired() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.cut(a);
    world.submit(a, "t", &["into the void"]);
    // The batch is dropped with the connection.
    world.packets.retain(|packet| !matches!(packet, Packet::ToHost(host::Input::Submit { .. })));
    world.collect();
    world.packets.retain(|packet| !matches!(packet, Packet::ToHost(host::Input::Submit { .. })));
    world.run();
    assert_eq!(world.left(), [(id(1), LeaveReason::Disconnected)]);
    world.submit(b, "t", &["meanwhile"]);
    world.run_for(Duration::from_secs(3));
    assert!(world.children[a].machine.can_submit());
    world.submit(a, "t", &["back"]);
    world.run();
    for child in [a, b] {
        assert_eq!(world.texts(child), ["meanwhile", "into the void", "back"]);
        assert!(world.resets(child).is_empty());
    }
    assert!(world.children[a].unknown.is_empty());
    assert_eq!(world.children[a].machine.counters().resent_batches, 1);
}

#[test]
fn a_place_whose_word_was_lost_is_told_in_the_next_session_and_nothing_is_ordered_twice() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["x", "y"]);
    world.collect();
    let Some(Packet::ToHost(submit)) = world.packets.pop_front() else { panic!("the batch") };
    world.input(submit);
    // All that the host says of it is lost on the way to its sender.
    world.collect();
    world.packets.retain(|packet| !matches!(packet, Packet::ToChild(child, _) if *child == a));
    world.cut(a);
    world.run_for(Duration::from_secs(3));
    assert_eq!(
        world.children[a].ordered,
        [Ordered { epoch: 1000, first_origin_seq: 1, first_seq: 1, count: 2 }]
    );
    assert!(world.children[a].unknown.is_empty());
    for child in [a, b] {
        assert_eq!(world.texts(child), ["x", "y"]);
    }
    assert_eq!(world.host.counters().ordered, 2);
}

#[test]
fn a_host_without_memory_is_sent_again_what_it_had_not_confirmed_and_nothing_is_shown_twice() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["confirmed"]);
    world.run();
    world.submit(a, "t", &["shown, not confirmed"]);
    world.collect();
    let Some(Packet::ToHost(submit)) = world.packets.pop_front() else { panic!("the batch") };
    world.input(submit);
    world.collect();
    let to_b =
        world.packets.iter().position(|packet| matches!(packet, Packet::ToChild(child, _) if *child == b));
    let Some(Packet::ToChild(_, window)) = world.packets.remove(to_b.unwrap()) else { panic!("the window") };
    world.children[b].machine.handle_input(world.now, window);
    // The host dies, and with it what it had said.
    world.packets.clear();
    world.host = Host::new(host::Config { incarnation: 78, epoch: 2000, ..host_config() }, world.now);
    world.cut(a);
    world.cut(b);
    world.run_for(Duration::from_secs(3));
    world.submit(a, "t", &["later"]);
    world.run();
    assert_eq!(world.texts(b), ["confirmed", "shown, not confirmed", "later"]);
    assert_eq!(world.resets(b).len(), 1);
    assert_eq!(world.host.counters().ordered, 2);
    let last = world.children[a].ordered.last().unwrap();
    assert_eq!((last.epoch, last.first_origin_seq, last.first_seq), (2000, 3, 2));
    assert!(world.children[a].unknown.is_empty());
}

#[test]
fn a_client_that_comes_back_without_memory_goes_on_after_its_last_number() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["1", "2"]);
    world.run();
    world.cut(a);
    world.children[a].end = Some(End::Left);
    world.children[a].machine = Member::new(member_config(99, &[""]));
    world.run();
    let again = world.join(1, &[""]);
    let next = world.children[again].events.iter().find_map(|event| match event {
        member::Event::Joined(joined) => Some(joined.next_origin_seq),
        _ => None,
    });
    assert_eq!(next, Some(3));
    world.children[again].next_origin_seq = 3;
    world.submit(again, "t", &["3"]);
    world.run();
    assert_eq!(world.texts(b), ["1", "2", "3"]);
}

#[test]
fn an_origin_that_was_forgotten_is_told_that_the_fate_of_its_outbox_is_unknown() {
    let mut world = World::new();
    world.host = Host::new(host::Config { origin_ttl: Duration::from_secs(1), ..host_config() }, world.now);
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["ordered or not"]);
    world.children[a].machine.handle_input(world.now, member::Input::Lost { reason: "cut".into() });
    world.collect();
    world.packets.clear();
    let peer = world.children[a].peer.clone();
    world.input(host::Input::ControlClosed { peer });
    for _ in 0..20 {
        world.now = world.now + Duration::from_millis(100);
        world.host.handle_timeout(world.now);
    }
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.children[a].unknown, [1]);
    world.submit(a, "t", &["afterwards"]);
    world.run();
    assert_eq!(world.texts(a), ["afterwards"]);
    assert_eq!(world.host.counters().forgotten_origins, 1);
}

#[test]
fn nothing_missed_is_no_reset() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["x"]);
    world.run();
    world.cut(a);
    world.run_for(Duration::from_secs(3));
    assert!(world.children[a].machine.can_submit());
    assert!(world.resets(a).is_empty());
}

#[test]
fn a_member_the_host_still_holds_for_live_takes_its_own_place() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    // Only the member learns of the loss.
    world.packets.push_back(Packet::ToChild(a, member::Input::Lost { reason: "cut".into() }));
    world.run_for(Duration::from_secs(3));
    assert!(world.children[a].machine.can_submit());
    assert_eq!(world.left(), [(id(1), LeaveReason::Closed(CloseReason::Replaced))]);
    assert_eq!(world.host.members().count(), 1);
    // A stranger with the same id has no such claim.
    let stranger = world.add(member_config(1, &[""]));
    world.run();
    let end = world.children[stranger].end.clone();
    assert!(matches!(end, Some(End::Refused { code: RefusalCode::DuplicateId, .. })), "{end:?}");
}

#[test]
fn refusals_end_a_first_join_and_are_reported() {
    let mut world = World::new();
    world.verdict = |_| Err("not you".into());
    let mut wrong_cluster = member_config(2, &[""]);
    wrong_cluster.cluster = "other".into();
    let (a, b) = (world.add(member_config(1, &[""])), world.add(wrong_cluster));
    world.run();
    let refused = |child: usize| match world.children[child].end.clone() {
        Some(End::Refused { code, reason }) => (code, reason),
        end => panic!("{end:?}"),
    };
    assert_eq!(refused(a), (RefusalCode::Unauthorized, "not you".into()));
    assert_eq!(refused(b).0, RefusalCode::Cluster);
    assert_eq!(world.host_events.len(), 2);
    // Those that do not hang up are cut off, and nothing is left of them.
    world.run_for(Duration::from_secs(10));
    assert!(world.host.is_alone());
}

#[test]
fn a_full_host_and_too_many_at_once_are_refused() {
    let mut world = World::new();
    for n in 1..=10 {
        world.join(n, &[""]);
    }
    let late = world.add(member_config(11, &[""]));
    world.run();
    assert!(matches!(world.children[late].end, Some(End::Refused { code: RefusalCode::Full, .. })));
}

#[test]
fn a_joiner_that_falls_silent_is_dropped_at_the_handshake_limit() {
    let mut world = World::new();
    world.loses = Box::new(|_, lane| lane.starts_with('B'));
    let a = world.add(member_config(1, &[""]));
    world.run_for(Duration::from_secs(4));
    assert_eq!(world.children[a].connections, 1);
    world.run_for(Duration::from_secs(7));
    assert!(matches!(world.children[a].end, Some(End::TimedOut { .. })));
    assert_eq!(world.host.members().count(), 0);
    world.run_for(Duration::from_secs(10));
    assert!(world.host.is_alone(), "nothing is left of it");
}

#[test]
fn submits_out_of_turn_unknown_and_malformed_are_counted_and_change_nothing() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    let session = world.children[a].attached.unwrap();
    let batch = |first| {
        let mut batch = BatchBuilder::new(first);
        batch.push(&Message::new("t", "x").unwrap());
        batch.finish()
    };
    let head = SubmitHead { session }.encode();
    let stranger = SubmitHead { session: SessionToken::from_bytes([9; 16]).unwrap() }.encode();
    world.input(host::Input::Submit { frames: vec![head.clone(), batch(1)] });
    world.input(host::Input::Submit { frames: vec![head.clone(), batch(1)] });
    world.input(host::Input::Submit { frames: vec![stranger, batch(2)] });
    world.input(host::Input::Submit { frames: vec![head.clone()] });
    world.input(host::Input::Submit { frames: vec![head.clone(), batch(2).slice(..9)] });
    world.input(host::Input::Submit { frames: vec![Bytes::from_static(b"junk"), batch(2)] });
    world.run();
    let counters = world.host.counters();
    assert_eq!((counters.ordered, counters.duplicates), (1, 1));
    assert_eq!((counters.unknown_sessions, counters.malformed_submits), (1, 3));
    assert_eq!(world.host.members().count(), 1);
    // A hole in a member's numbers shows a loss: it is asked, once, to send again.
    world.input(host::Input::Submit { frames: vec![head.clone(), batch(5)] });
    world.input(host::Input::Submit { frames: vec![head, batch(6)] });
    world.run();
    assert_eq!(world.host.counters().resends_asked, 1);
    assert_eq!(world.host.members().count(), 1);
}

#[test]
fn members_that_join_at_once_know_each_other() {
    let mut world = World::new();
    world.host = Host::new(host::Config { max_handshakes: 10, ..host_config() }, world.now);
    for n in 1..=8 {
        world.add(member_config(n, &[""]));
    }
    world.run();
    for (n, child) in (1..=8).zip(&world.children) {
        let mut known = BTreeSet::new();
        for event in &child.events {
            match event {
                member::Event::Joined(joined) => known = joined.members.iter().map(|m| m.id).collect(),
                member::Event::Membership { joined, .. } => known.extend(joined.iter().map(|m| m.id)),
                _ => {}
            }
        }
        let others: BTreeSet<EndpointId> = (1..=8).filter(|other| *other != n).map(id).collect();
        assert_eq!(known, others, "as member {n} knows");
    }
}

#[test]
fn a_joiner_that_finds_others_joining_tries_again() {
    let mut world = World::new();
    for n in 1..=8 {
        world.add(member_config(n, &[""]));
    }
    // More than the host examines at once.
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.host.members().count(), 8);
}

#[test]
fn full_batches_of_honest_senders_that_take_little_do_not_look_like_silence() {
    let mut world = World::new();
    let marks = HighWaterMark::new().messages(10_000_000).bytes(1 << 30);
    world.host = Host::new(host::Config { marks, ..host_config() }, world.now);
    let limit = member::Limit { batches: 800, bytes: 1 << 30 };
    let senders: Vec<usize> = (1..=2)
        .map(|n| {
            let mut config = member_config(n, &["nothing"]);
            config.outbox = limit;
            world.add(config)
        })
        .collect();
    world.run();
    let texts = vec!["x"; 700];
    for _ in 0..limit.batches {
        for sender in &senders {
            world.submit(*sender, "t", &texts);
        }
    }
    // All of it is under way at once, interleaved, and ordered before any child answers.
    world.collect();
    let mut submits: Vec<VecDeque<host::Input>> = vec![VecDeque::new(), VecDeque::new()];
    for (i, packet) in std::mem::take(&mut world.packets).into_iter().enumerate() {
        let Packet::ToHost(input) = packet else { continue };
        submits[usize::from(i >= limit.batches)].push_back(input);
    }
    for _ in 0..limit.batches {
        for queue in &mut submits {
            world.host.handle_input(world.now, queue.pop_front().unwrap());
        }
        world.host.handle_input(world.now, host::Input::Flush);
    }
    world.run();
    assert_eq!(world.left(), []);
    for sender in senders {
        let told: u64 = world.children[sender].ordered.iter().map(|run| u64::from(run.count)).sum();
        assert_eq!(told, 700 * limit.batches as u64);
    }
}

#[test]
fn a_member_whose_host_falls_silent_in_its_farewell_comes_back() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.input(host::Input::Drain);
    world.collect();
    let Some(Packet::ToChild(_, closing)) = world.packets.pop_front() else { panic!("the word of the end") };
    world.children[a].machine.handle_input(world.now, closing);
    // Nothing arrives any more; a new host is there.
    world.packets.clear();
    world.host = Host::new(host::Config { incarnation: 78, ..host_config() }, world.now);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.children[a].end, None);
    assert!(world.children[a].machine.can_submit());
}

#[test]
fn a_read_only_member_cannot_submit() {
    let mut world = World::new();
    world.verdict = |_| Ok(Role::ReadOnly);
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["no"]);
    world.run();
    assert_eq!(world.host.counters().forbidden_submits, 1);
    assert_eq!(world.host.counters().ordered, 0);
}

#[test]
fn garbage_on_control_is_counted_and_changes_nothing() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    let stranger = PeerId::new(Bytes::from_static(b"stranger"));
    let known = world.children[a].peer.clone();
    let live = ChildMessage::Live { nonce: 1 }.encode();
    let cases = [
        (stranger.clone(), vec![]),
        (stranger.clone(), vec![Bytes::from_static(b"")]),
        (stranger.clone(), vec![Bytes::from_static(b"\x5a\x01\xff")]),
        (stranger, vec![live.clone()]),
        (known, vec![live, Bytes::new()]),
    ];
    let count = cases.len() as u64;
    for (peer, frames) in cases {
        world.input(host::Input::Control { peer, frames });
    }
    world.run();
    assert_eq!(world.host.counters().malformed_control, count);
    assert_eq!(world.host.members().count(), 1);
}

#[test]
fn a_malformed_hello_and_one_from_the_far_future_are_refused_in_words() {
    let mut world = World::new();
    let hello = |epoch| {
        ChildMessage::Hello(Hello {
            version: PROTOCOL_VERSION,
            cluster: CLUSTER.into(),
            id: id(1),
            resume: None,
            incarnation: 0,
            epoch,
            first_open: 0,
            next_origin_seq: 1,
            token: Bytes::from_static(b"token"),
        })
        .encode()
    };
    for (name, frame) in [(1, hello(0).slice(..20)), (2, hello(1 << 60))] {
        let peer = PeerId::new(Bytes::copy_from_slice(&[name]));
        world.input(host::Input::Control { peer, frames: vec![frame] });
    }
    world.run();
    let codes: Vec<_> = world
        .host_events
        .iter()
        .map(|event| match event {
            host::Event::Refused { code, .. } => *code,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(codes, [RefusalCode::Malformed; 2]);
}

#[test]
fn a_child_that_never_answers_is_cut_off() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    // The filtered member is told of each of its messages; its reports do not arrive.
    let mut submitted = 0;
    while world.host.members().count() == 2 && submitted < 2 * MAX_UNANSWERED {
        world.submit(b, "z", &["x"]);
        submitted += 1;
        loop {
            world.packets.retain(|packet| {
                !matches!(packet, Packet::ToHost(host::Input::Control { frames, .. })
                    if matches!(ChildMessage::decode(&frames[0]), Ok(ChildMessage::Received { .. })))
            });
            world.collect();
            world.packets.retain(|packet| {
                !matches!(packet, Packet::ToHost(host::Input::Control { frames, .. })
                    if matches!(ChildMessage::decode(&frames[0]), Ok(ChildMessage::Received { .. })))
            });
            let Some(packet) = world.packets.pop_front() else { break };
            match packet {
                Packet::ToHost(input) => world.input(input),
                Packet::ToChild(child, input) => world.children[child].machine.handle_input(world.now, input),
            }
        }
    }
    assert!(submitted <= MAX_UNANSWERED + 1, "{submitted}");
    assert_eq!(world.left(), [(id(2), LeaveReason::Closed(CloseReason::Unresponsive))]);
    assert_eq!(world.texts(a).len() as u64, submitted);
}

#[test]
fn reports_keep_a_busy_session_alive() {
    let mut world = World::new();
    let b = world.join(2, &["x"]);
    for _ in 0..3 * MAX_UNANSWERED {
        world.submit(b, "z", &["x"]);
        world.run();
    }
    assert_eq!(world.host.members().count(), 1);
    assert_eq!(world.children[b].ordered.len() as u64, 3 * MAX_UNANSWERED);
}

#[test]
fn small_batches_that_are_ordered_together_are_told_together() {
    let mut world = World::new();
    let mut config = member_config(2, &["x"]);
    config.outbox.batches = 2 * MAX_UNANSWERED as usize;
    let b = world.add(config);
    world.run();
    // All under way at once: word of each by itself would be more than may be left unanswered.
    for _ in 0..2 * MAX_UNANSWERED {
        world.submit(b, "z", &["x"]);
    }
    world.collect();
    for packet in std::mem::take(&mut world.packets) {
        let Packet::ToHost(input) = packet else { continue };
        world.host.handle_input(world.now, input);
    }
    world.host.handle_input(world.now, host::Input::Flush);
    world.run();
    assert_eq!(world.host.members().count(), 1, "{:?}", world.left());
    let told = &world.children[b].ordered;
    assert_eq!(told.iter().map(|run| u64::from(run.count)).sum::<u64>(), 2 * MAX_UNANSWERED);
    assert!(told.len() <= world.host_windows, "{} in {} windows", told.len(), world.host_windows);
    assert!(told.windows(2).all(|pair| pair[0].last_origin_seq() + 1 == pair[1].first_origin_seq));
}

#[test]
fn the_outbox_is_bounded_in_batches() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    for _ in 0..4 {
        assert!(world.children[a].machine.can_submit());
        world.submit(a, "t", &["x"]);
    }
    assert!(!world.children[a].machine.can_submit());
    world.run();
    assert!(world.children[a].machine.can_submit());
}

#[test]
fn the_outbox_is_bounded_in_bytes_and_comes_out_even() {
    let mut world = World::new();
    let mut config = member_config(1, &[""]);
    config.outbox.bytes = 100;
    let a = world.add(config);
    world.run();
    for _ in 0..3 {
        assert!(world.children[a].machine.can_submit());
        world.submit(a, "t", &["0123456789", &"x".repeat(100)]);
        assert!(!world.children[a].machine.can_submit());
        world.run();
    }
    assert!(world.children[a].machine.can_submit());
}

#[test]
fn a_loss_that_overtakes_the_farewell_is_told_as_the_hosts_end() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.input(host::Input::Drain);
    world.collect();
    let Some(Packet::ToChild(_, closing)) = world.packets.pop_front() else { panic!("the word of the end") };
    world.children[a].machine.handle_input(world.now, closing);
    world.children[a].machine.handle_input(world.now, member::Input::Lost { reason: "cut".into() });
    world.run();
    let reason = "the host shut down".to_owned();
    assert!(world.children[a].events.contains(&member::Event::Disconnected { reason }));
}

#[test]
fn a_host_without_memory_opens_an_epoch_above_all_that_members_have_seen() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["x"]);
    world.run();
    // The host is restarted, by a clock that is behind.
    world.host = Host::new(host::Config { incarnation: 78, epoch: 10, ..host_config() }, world.now);
    world.cut(a);
    world.run_for(Duration::from_secs(3));
    assert!(world.children[a].machine.can_submit());
    assert_eq!(world.resets(a), [Position { epoch: 1001, seq: 1 }]);
    world.submit(a, "t", &["y"]);
    world.run();
    let delivered = &world.children[a].delivered;
    assert!(delivered[1].position() > delivered[0].position());
    assert_eq!(delivered[1].origin_seq(), 2);
}

#[test]
fn draining_waits_for_what_is_under_way_and_for_farewells() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    world.submit(a, "t", &["last"]);
    world.collect();
    world.input(host::Input::Drain);
    world.run();
    assert!(world.drained);
    assert_eq!(world.texts(a), ["last"]);
    assert_eq!(world.left().len(), 2);
    assert!(world.left().iter().all(|(_, reason)| *reason == LeaveReason::Left));
    for child in [a, b] {
        assert!(world.children[child].unknown.is_empty());
        assert_eq!(world.children[child].end, None, "they try to come back");
    }
    // Until then they are refused, and go on trying.
    world.run_for(Duration::from_secs(5));
    assert!(world.children[a].connections > 2);
}

#[test]
fn leaving_waits_until_everything_has_its_place() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["x"]);
    world.children[a].machine.handle_input(world.now, member::Input::Leave);
    world.run();
    assert_eq!(world.children[a].end, Some(End::Left));
    assert_eq!(world.children[a].ordered.len(), 1);
    assert!(world.children[a].unknown.is_empty());
    assert_eq!(world.left(), [(id(1), LeaveReason::Left)]);
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let run = || {
        let mut world = World::new();
        let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
        world.submit(a, "x", &["1"]);
        world.submit(b, "y", &["2"]);
        world.cut(a);
        world.run_for(Duration::from_secs(3));
        let counts: BTreeMap<usize, usize> = (0..2).map(|i| (i, world.children[i].events.len())).collect();
        (world.now, counts, world.children[a].delivered.clone(), world.host_windows)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_parent_that_counts_to_the_end_again_and_again_overflows_nothing() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    let other = Message::new("t", "far").unwrap();
    let mut batch = BatchBuilder::new(1);
    assert!(batch.push(&other));
    let batch = Batch::decode(batch.finish(), 1 << 20).unwrap();
    let mut window = WindowBuilder::new();
    assert!(batch.records().all(|(_, tail)| window.push(&other.topic, id(9), 1, tail)));
    let body = window.finish(1000, u64::MAX - 1, u64::MAX - 2);
    let missed = ParentMessage::Missed(Barrier { epoch: 1000, number: u64::MAX - 2, last_seq: u64::MAX - 3 });
    for _ in 0..3 {
        let frames = vec![Bytes::from_static(b"W"), body.clone()];
        world.packets.push_back(Packet::ToChild(a, member::Input::Broadcast { frames }));
        world.packets.push_back(Packet::ToChild(a, member::Input::Control { frames: vec![missed.encode()] }));
        world.run_for(Duration::from_secs(1));
        // In the next session the host that it claimed to be is not there.
        world.cut(a);
        world.run_for(Duration::from_secs(3));
    }
    assert_eq!(world.texts(a), ["far"], "the same message again is not shown again");
    assert_eq!(world.children[a].machine.counters().lost_windows, u64::MAX);
    assert_eq!(world.resets(a).len(), 6);
    world.submit(a, "t", &["near"]);
    world.run();
    assert_eq!(world.texts(a).last(), Some(&"near"));
}

/// A host with four members of which the last handles nothing, and marks of ten messages.
fn with_a_snail(change: impl FnOnce(&mut host::Config)) -> World {
    let mut world = World::new();
    let mut config = host_config();
    config.marks = HighWaterMark::new().messages(10);
    change(&mut config);
    world.host = Host::new(config, world.now);
    for n in 1..=4 {
        world.join(n, &[""]);
    }
    world.run_for(Duration::from_millis(100));
    world.children[3].stalled = true;
    world
}

fn evicted(world: &World) -> Vec<(EndpointId, EvictReason, u64)> {
    let events = world.host_events.iter();
    events
        .filter_map(|event| match event {
            host::Event::Evicted { id, eviction } => Some((*id, eviction.reason, eviction.lag.messages)),
            _ => None,
        })
        .collect()
}

/// Sends one message and gives everyone the time to acknowledge it.
fn send_one(world: &mut World) {
    world.submit(0, "t", &["x"]);
    world.run_for(Duration::from_millis(30));
}

#[test]
fn a_snail_is_evicted_past_its_mark_and_nobody_else_is_disturbed() {
    let mut world = with_a_snail(|_| {});
    for _ in 0..10 {
        send_one(&mut world);
    }
    assert_eq!(evicted(&world), []);
    send_one(&mut world);
    assert_eq!(evicted(&world), [(id(4), EvictReason::Messages, 11)]);
    assert_eq!(world.left(), [(id(4), LeaveReason::Evicted)]);
    send_one(&mut world);
    for child in 0..3 {
        assert_eq!(world.texts(child).len(), 12);
        assert!(world.resets(child).is_empty());
    }
    // It knows why, stays away for as long as it was told, and comes back without having missed anything.
    let notice = world.children[3].events.iter().find_map(|event| match event {
        member::Event::Evicted(eviction) => Some(eviction.clone()),
        _ => None,
    });
    let notice = notice.expect("word of the eviction");
    assert_eq!((notice.reason, notice.retry_after), (EvictReason::Messages, Duration::from_secs(1)));
    world.children[3].stalled = false;
    world.run_for(Duration::from_millis(900));
    assert_eq!(world.host.members().count(), 3);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.host.members().count(), 4);
    assert_eq!(world.texts(3).len(), 12);
    assert!(world.resets(3).is_empty());
}

#[test]
fn grace_lets_a_member_catch_up() {
    let mut world = with_a_snail(|config| config.marks.grace = Duration::from_millis(500));
    for _ in 0..12 {
        send_one(&mut world);
    }
    world.run_for(Duration::from_millis(300));
    assert_eq!(evicted(&world), []);
    let up_to = world.children[3].delivered.last().unwrap().position().unwrap();
    let now = world.now;
    world.children[3].machine.handle_input(now, member::Input::Handled { up_to });
    world.run_for(Duration::from_secs(1));
    assert_eq!(evicted(&world), []);
    for _ in 0..12 {
        send_one(&mut world);
    }
    world.run_for(Duration::from_millis(700));
    assert_eq!(evicted(&world).len(), 1);
}

#[test]
fn a_pack_that_is_behind_slows_the_senders_and_loses_nobody() {
    let mut world = with_a_snail(|_| {});
    for child in &mut world.children {
        child.stalled = true;
    }
    for _ in 0..5 {
        send_one(&mut world);
    }
    assert!(world.host.takes_submits());
    send_one(&mut world);
    assert!(!world.host.takes_submits(), "above half of the mark");
    // What was under way all the same evicts nobody: the pack is as far behind.
    for _ in 0..10 {
        send_one(&mut world);
    }
    assert_eq!(evicted(&world), []);
    for child in &mut world.children {
        let up_to = child.delivered.last().unwrap().position().unwrap();
        child.machine.handle_input(world.now, member::Input::Handled { up_to });
    }
    world.run_for(Duration::from_millis(30));
    assert!(world.host.takes_submits());
}

#[test]
fn even_the_pack_goes_when_it_stands_still() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.children[a].stalled = true;
    world.submit(a, "t", &["x"]);
    world.run_for(Duration::from_millis(4900));
    assert_eq!(evicted(&world), []);
    world.run_for(Duration::from_millis(400));
    assert_eq!(evicted(&world), [(id(1), EvictReason::Stalled, 1)]);
}

#[test]
fn one_that_blocks_waits_for_the_slowest() {
    let mut world = with_a_snail(|config| config.pace_percentile = 100);
    for _ in 0..6 {
        send_one(&mut world);
    }
    assert!(!world.host.takes_submits());
    for _ in 0..10 {
        send_one(&mut world);
    }
    assert_eq!(evicted(&world), []);
}

#[test]
fn evictions_in_a_row_keep_away_for_longer() {
    let mut world = with_a_snail(|_| {});
    for round in 1..=3 {
        world.input(host::Input::Kick { id: id(4), text: "out".into() });
        let now = world.now;
        let pause = Duration::from_secs(1 << (round - 1));
        world.run_for(pause);
        assert_eq!(world.host.members().count(), 3, "round {round}");
        world.run_for(pause + Duration::from_secs(4));
        assert_eq!(world.host.members().count(), 4, "round {round}, {:?}", world.now.since(now));
    }
    assert!(evicted(&world).iter().all(|(_, reason, _)| *reason == EvictReason::Kicked));
}

#[test]
fn one_that_is_not_to_come_back_ends() {
    let mut world = World::new();
    let mut config = member_config(1, &[""]);
    config.rejoin = false;
    let a = world.add(config);
    world.run();
    world.input(host::Input::Kick { id: id(1), text: "enough".into() });
    world.run();
    let Some(End::Evicted(eviction)) = &world.children[a].end else { panic!("{:?}", world.children[a].end) };
    assert_eq!((eviction.reason, eviction.text.as_str()), (EvictReason::Kicked, "enough"));
}

#[test]
fn a_member_whose_consumers_have_all_overrun_evicts_itself() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.children[b].machine.handle_input(world.now, member::Input::Overrun);
    world.run();
    assert_eq!(world.left(), [(id(2), LeaveReason::Left)]);
    let told = |event: &member::Event| matches!(event, member::Event::Evicted(eviction) if eviction.reason == EvictReason::Overrun);
    assert!(world.children[b].events.iter().any(told));
    world.submit(a, "t", &["x"]);
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.texts(b), ["x"], "repaired");
}

#[test]
fn a_member_that_falls_silent_loses_its_lease_and_a_silent_host_its_members() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    // Nothing gets through to or from the second member, and no connection closes.
    for _ in 0..110 {
        world.now = world.now + Duration::from_millis(100);
        world.host.handle_timeout(world.now);
        world.children[a].machine.handle_timeout(world.now);
        world.children[b].machine.handle_timeout(world.now);
        loop {
            world.collect();
            let peer = world.children[b].peer.clone();
            world.packets.retain(|packet| match packet {
                Packet::ToHost(host::Input::Control { peer: from, .. }) => *from != peer,
                Packet::ToHost(_) => true,
                Packet::ToChild(child, _) => *child != b,
            });
            match world.packets.pop_front() {
                Some(Packet::ToHost(input)) => world.input(input),
                Some(Packet::ToChild(child, input)) => {
                    world.children[child].machine.handle_input(world.now, input)
                }
                None => break,
            }
        }
    }
    assert_eq!(evicted(&world), [(id(2), EvictReason::Silent, 0)]);
    let lost = |event: &member::Event| matches!(event, member::Event::Disconnected { .. });
    assert!(world.children[b].events.iter().any(lost));
    assert!(!world.children[a].events.iter().any(lost));
}

#[test]
fn a_host_that_slept_holds_that_against_nobody() {
    let mut world = with_a_snail(|_| {});
    world.children[3].stalled = false;
    send_one(&mut world);
    world.now = world.now + Duration::from_secs(60);
    world.run_for(Duration::from_secs(2));
    assert_eq!(evicted(&world), []);
    assert_eq!(world.host.members().count(), 4);
}

#[test]
fn acks_that_claim_what_was_not_published_end_the_session() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    let peer = world.children[a].peer.clone();
    let nowhere = Position { epoch: 1000, seq: 5 };
    let ack = ChildMessage::Ack(Ack { stored: nowhere, handled: nowhere, confirmed: 0 }).encode();
    world.input(host::Input::Control { peer, frames: vec![ack] });
    world.run();
    assert_eq!(world.left(), [(id(1), LeaveReason::Closed(CloseReason::Violation))]);
}

#[test]
fn repairs_are_spread_over_time_by_the_members_rate() {
    let mut world = World::new();
    let rate = RepairRate { burst: 1000, per_second: 10_000 };
    world.host = Host::new(host::Config { repair_rate: rate, ..host_config() }, world.now);
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.loses = Box::new(move |child, lane| child == b && lane == "W");
    for _ in 0..20 {
        world.submit(a, "t", &[&"x".repeat(400)]);
        world.run();
    }
    world.loses = Box::new(|_, _| false);
    world.submit(a, "t", &["last"]);
    world.run();
    assert!(world.texts(b).len() < 5, "{}", world.texts(b).len());
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.texts(b).len(), 21);
    assert!(world.resets(b).is_empty());
}

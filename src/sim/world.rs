//! The run of one seed: a heap of events, and what they do to processes and connections.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;

use crate::id::{EndpointId, PeerId, SessionToken};
use crate::message::{Message, Position};
use crate::proto::host::{self, Host, Verdict};
use crate::proto::member::{self, End, Member};
use crate::proto::{Instant, Mutant};
use crate::role::Role;
use crate::wire::{BatchBuilder, ChildMessage, Lane, ParentMessage};

use super::Fault;
use super::dice::{Dice, MICRO, MILLI, Nanos, SECOND};
use super::network::{Item, Link, Pipe};
use super::node::{Consumer, HostNode, LocalClock, MemberNode};
use super::oracle::{Broken, Oracle, Seen};
use super::report::{Report, Violation};
use super::scenario::{Scenario, TOPICS, draw_filter};

/// Something that happens at a moment.
#[derive(Debug)]
pub(super) enum Event {
    /// What is next in a line comes to its end.
    Arrive {
        link: usize,
        pipe: Pipe,
    },
    StartHost,
    /// A host that shuts down has taken long enough.
    StopHost {
        life: u32,
    },
    HostTimer {
        life: u32,
    },
    Flush {
        life: u32,
    },
    HostTick {
        life: u32,
    },
    HostHandled {
        life: u32,
    },
    Verdict {
        life: u32,
        peer: PeerId,
    },
    /// A message for the host from a peer that it never met.
    Stray {
        pipe: Pipe,
        frames: Vec<Bytes>,
    },
    StartMember {
        member: usize,
    },
    MemberTimer {
        member: usize,
        life: u32,
    },
    Dialled {
        member: usize,
        life: u32,
    },
    Attached {
        member: usize,
        life: u32,
        link: usize,
        session: SessionToken,
    },
    /// The submit connection of this link broke.
    SubmitLost {
        member: usize,
        life: u32,
        link: usize,
    },
    MemberTick {
        member: usize,
        life: u32,
    },
    Handled {
        member: usize,
        life: u32,
    },
    Fault,
    /// The end of a slow or stalled time of a member's consumer, or of the host's.
    Recover {
        member: Option<usize>,
    },
    Heal,
    /// The faults are over: is the cluster at rest?
    Look,
}

struct Entry {
    at: Nanos,
    tie: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.tie).cmp(&(other.at, other.tie))
    }
}

/// How a run comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Faults,
    /// The faults are over, and the cluster has until then to come to rest.
    Healing {
        until: Nanos,
    },
    /// It has come to rest, and nothing is to happen until then.
    Resting {
        until: Nanos,
    },
    /// The last broadcast was lost, on purpose, on its way to member 0: it is to be found by then.
    LostTail {
        until: Nanos,
    },
}

/// How long a cluster may take to come to rest (a guess: above the longest quarantine, lease and catching up that scenarios have).
const REST_WITHIN: Nanos = 60 * SECOND;
/// How many messages are sent, one by one, after the faults.
const LAST_MESSAGES: u64 = 3;
/// How often a machine may be served at one moment of its clock before it counts as spinning.
const SPINS: u32 = 1000;

type Trace<'a> = Option<&'a mut dyn FnMut(&str)>;

macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.trace.is_some() {
            let text = format!($($text)*);
            $world.say(&text);
        }
    };
}
pub(super) use trace;

pub(super) struct World<'a> {
    mutant: Option<Mutant>,
    pub(super) trace: Trace<'a>,
    pub(super) now: Nanos,
    heap: BinaryHeap<Reverse<Entry>>,
    tie: u64,
    pub(super) dice: Dice,
    pub(super) scenario: Scenario,
    pub(super) host: HostNode,
    pub(super) members: Vec<MemberNode>,
    seen: Vec<Seen>,
    pub(super) links: Vec<Link>,
    peers: BTreeMap<PeerId, usize>,
    sessions: BTreeMap<SessionToken, usize>,
    /// By link: the windows last asked for, what was last acknowledged, and when anything was last heard, on the host's clock.
    asked: BTreeMap<usize, (u64, u64)>,
    acked: BTreeMap<usize, u64>,
    heard: BTreeMap<usize, Instant>,
    /// What came in since the host's outputs were last taken: when, and what it acknowledged.
    news: Vec<(usize, Instant, Option<u64>)>,
    /// Since when sessions have been past their mark while the pack was not, and not been less behind than ever, in messages; and when that was last looked at, on the host's clock.
    past: BTreeMap<SessionToken, (Instant, u64)>,
    past_looked_at: Instant,
    oracle: Oracle,
    phase: Phase,
    last_messages: u64,
    /// Set when a session ends, a reset or an eviction comes.
    unrest: bool,
    counter: u64,
    spins: (Nanos, u32),
    report: Report,
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, mutant: Option<Mutant>, trace: Trace<'a>) -> Self {
        // Mixed, so that neighbouring seeds have nothing in common.
        let mut dice = Dice::new(Dice::new(seed).any());
        let scenario = Scenario::draw(&mut dice);
        let drift = |dice: &mut Dice| dice.between(0, scenario.drift * 2) as i64 - scenario.drift as i64;
        let host = HostNode {
            id: EndpointId::from_bytes([200; 16]),
            life: 0,
            machine: None,
            clock: LocalClock::new(0, drift(&mut dice)),
            asleep_until: 0,
            timer_at: None,
            flush_due: false,
            undrained_since: None,
            is_draining: false,
            submits: Default::default(),
            next_origin_seq: 1,
            consumer: Consumer::default(),
        };
        let members = (0..scenario.members)
            .map(|index| MemberNode {
                id: EndpointId::from_bytes([index as u8 + 1; 16]),
                life: 0,
                machine: None,
                clock: LocalClock::new(0, drift(&mut dice)),
                asleep_until: 0,
                timer_at: None,
                link: None,
                next_origin_seq: 1,
                joined_once: false,
                filter: draw_filter(&mut dice),
                ticket: 0,
                consumer: Consumer::default(),
                rejoins: scenario.is_clean() || dice.percent(80),
                is_twin: false,
                starting: true,
                stale: Vec::new(),
                held_until: [0; 5],
                loss: (0, 0),
            })
            .collect::<Vec<_>>();
        let mut world = Self {
            mutant,
            trace,
            now: 0,
            heap: BinaryHeap::new(),
            tie: 0,
            dice,
            seen: members.iter().map(|member| Seen::new(member.filter.clone())).collect(),
            host,
            members,
            links: Vec::new(),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            asked: BTreeMap::new(),
            acked: BTreeMap::new(),
            heard: BTreeMap::new(),
            news: Vec::new(),
            past: BTreeMap::new(),
            past_looked_at: Instant::START,
            oracle: Oracle::default(),
            phase: Phase::Faults,
            last_messages: 0,
            unrest: false,
            counter: 0,
            spins: (0, 0),
            report: Report {
                seed,
                simulated: Duration::ZERO,
                events: 0,
                faults: BTreeMap::new(),
                accepted: 0,
                ordered: 0,
                delivered: 0,
                resets: 0,
                evictions: 0,
                repaired: 0,
                unknown: 0,
                digest: 0,
                violation: None,
            },
            scenario,
        };
        world.push(0, Event::StartHost);
        for member in 0..world.members.len() {
            let at = world.dice.below(100 * MILLI);
            world.push(at, Event::StartMember { member });
        }
        let (first, length) = (world.scenario.fault_every, world.scenario.length);
        if !world.scenario.is_clean() {
            world.push(first, Event::Fault);
        }
        world.push(length, Event::Heal);
        world
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Report {
        trace!(self, "{:#?}", self.scenario);
        while let Some(Reverse(entry)) = self.heap.pop() {
            self.now = entry.at;
            if let Some(until) = self.asleep_until(&entry.event) {
                self.heap.push(Reverse(Entry { at: until, ..entry }));
                continue;
            }
            self.report.events += 1;
            match self.step(entry) {
                Ok(true) => {}
                Ok(false) => break,
                Err((invariant, what)) => {
                    trace!(self, "invariant {invariant} broken: {what}");
                    let at = Duration::from_nanos(self.now);
                    self.report.violation = Some(Violation { invariant, at, what });
                    break;
                }
            }
        }
        self.report.simulated = Duration::from_nanos(self.now);
        self.report.accepted = self.oracle.accepted;
        self.report.ordered = self.oracle.ordered;
        self.report.delivered = self.oracle.delivered;
        self.report
    }

    /// Until when whoever this event is for sleeps.
    fn asleep_until(&self, event: &Event) -> Option<Nanos> {
        let until = match event {
            Event::Arrive { pipe, link } if !pipe.is_up() => {
                self.members[self.links[*link].member].asleep_until
            }
            Event::Arrive { .. }
            | Event::HostTimer { .. }
            | Event::Flush { .. }
            | Event::HostTick { .. }
            | Event::HostHandled { .. }
            | Event::Verdict { .. }
            | Event::Stray { .. } => self.host.asleep_until,
            Event::MemberTimer { member, .. }
            | Event::Dialled { member, .. }
            | Event::Attached { member, .. }
            | Event::SubmitLost { member, .. }
            | Event::MemberTick { member, .. }
            | Event::Handled { member, .. } => self.members[*member].asleep_until,
            _ => 0,
        };
        (until > self.now).then_some(until)
    }

    fn step(&mut self, entry: Entry) -> Result<bool, Broken> {
        let mix = |digest: u64, value: u64| (digest ^ value).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        self.report.digest = mix(mix(self.report.digest, entry.at), self.tie);
        match entry.event {
            Event::Arrive { link, pipe } => self.on_arrive(link, pipe, entry.tie)?,
            Event::StartHost => self.start_host()?,
            Event::StopHost { life } if life == self.host.life => self.kill_host(false),
            Event::HostTimer { life } if life == self.host.life => self.on_host_timer()?,
            Event::Flush { life } if life == self.host.life => self.flush()?,
            Event::HostTick { life } if life == self.host.life => self.on_host_tick()?,
            Event::HostHandled { life } if life == self.host.life => self.on_host_handled()?,
            Event::Verdict { life, peer } if life == self.host.life => {
                self.counter += 1;
                let mut token = [1; 16];
                token[8..].copy_from_slice(&self.counter.to_be_bytes());
                let session = SessionToken::from_bytes(token).ok_or((0, "no token".to_owned()))?;
                let verdict = Verdict::Admit { role: Role::Member, session };
                self.tell_host(host::Input::Verdict { peer, verdict })?;
            }
            Event::Stray { pipe: Pipe::SubmitUp, frames } => {
                self.host.submits.push_back(frames);
                self.host_stepped()?;
            }
            Event::Stray { frames, .. } => {
                let peer = self.fresh_peer();
                self.tell_host(host::Input::Control { peer, frames })?;
            }
            Event::StartMember { member } => self.start_member(member)?,
            Event::MemberTimer { member, life } if life == self.members[member].life => {
                self.on_member_timer(member)?;
            }
            Event::Dialled { member, life } if life == self.members[member].life => {
                self.on_dialled(member)?
            }
            Event::Attached { member, life, link, session }
                if life == self.members[member].life && self.members[member].link == Some(link) =>
            {
                self.on_attached(member, link, session)?;
            }
            Event::SubmitLost { member, life, link }
                if life == self.members[member].life && self.members[member].link == Some(link) =>
            {
                self.tell_member(
                    member,
                    member::Input::LostChannel { reason: "the submit channel broke".into() },
                )?;
            }
            Event::MemberTick { member, life } if life == self.members[member].life => {
                self.on_member_tick(member)?;
            }
            Event::Handled { member, life } if life == self.members[member].life => {
                self.on_handled(member)?
            }
            Event::Fault if self.phase == Phase::Faults => {
                self.inject()?;
                let next = self.dice.scale(self.scenario.fault_every / 4 + 1, self.scenario.fault_every * 4);
                self.push(next, Event::Fault);
            }
            Event::Recover { member } => self.recover(member)?,
            Event::Heal => self.heal()?,
            Event::Look => return self.look(),
            _ => {}
        }
        Ok(true)
    }

    /// Says a line in the trace.
    pub(super) fn say(&mut self, text: &str) {
        let now = Duration::from_nanos(self.now).as_secs_f64();
        if let Some(trace) = &mut self.trace {
            trace(&format!("{now:>12.6} {text}"));
        }
    }

    /// Lets something happen after a while.
    pub(super) fn push(&mut self, after: Nanos, event: Event) {
        self.tie += 1;
        self.heap.push(Reverse(Entry { at: self.now + after, tie: self.tie, event }));
    }

    pub(super) fn count(&mut self, fault: Fault) {
        *self.report.faults.entry(fault).or_default() += 1;
    }

    fn latency(&mut self) -> Nanos {
        let (fastest, slowest) = self.scenario.latency;
        self.dice.between(fastest, slowest)
    }

    pub(super) fn fresh_id(&mut self) -> EndpointId {
        self.counter += 1;
        EndpointId::from_bytes(u128::from(self.counter).to_be_bytes())
    }

    fn fresh_peer(&mut self) -> PeerId {
        self.counter += 1;
        PeerId::new(Bytes::copy_from_slice(&self.counter.to_be_bytes()))
    }

    // --- Connections ---------------------------------------------------------------------------------------------

    fn send(&mut self, link: usize, pipe: Pipe, item: Item) {
        let latency = self.latency();
        let now = self.now;
        let connection = &mut self.links[link];
        if connection.black_hole {
            return;
        }
        let line = connection.line(pipe);
        if line.closed {
            return;
        }
        line.closed = matches!(item, Item::Closed);
        line.items.push_back(item);
        line.last_at = line.last_at.max(now + latency);
        let after = line.last_at - now;
        self.push(after, Event::Arrive { link, pipe });
    }

    /// Closes one direction. What was in it may be lost from some point on.
    pub(super) fn close(&mut self, link: usize, pipe: Pipe, lossy: bool) {
        if self.links[link].line(pipe).closed {
            return;
        }
        if lossy {
            let keep = self.dice.below(self.links[link].line(pipe).items.len() as u64 + 1);
            self.links[link].line(pipe).items.truncate(keep as usize);
        }
        self.send(link, pipe, Item::Closed);
    }

    /// Nobody listens at this end any more.
    pub(super) fn forsake(&mut self, link: usize, pipe: Pipe) {
        let line = self.links[link].line(pipe);
        line.items.clear();
        line.closed = true;
    }

    /// One side of a connection is gone: it hears nothing more, and the other side is told.
    pub(super) fn hang_up(&mut self, link: usize, by_host: bool, lossy: bool) {
        for pipe in Pipe::ALL {
            if pipe.is_up() == by_host {
                self.forsake(link, pipe);
            } else {
                self.close(link, pipe, lossy);
            }
        }
    }

    fn on_arrive(&mut self, index: usize, pipe: Pipe, tie: u64) -> Result<(), Broken> {
        let link = &mut self.links[index];
        let held_until = self.members[link.member].held_until[pipe as usize];
        if held_until > self.now && !link.line(pipe).items.is_empty() {
            let entry = Entry { at: held_until, tie, event: Event::Arrive { link: index, pipe } };
            self.heap.push(Reverse(entry));
            return Ok(());
        }
        let Some(item) = link.line(pipe).items.pop_front() else { return Ok(()) };
        let member = link.member;
        if pipe.is_up() {
            if link.host_life != self.host.life || self.host.machine.is_none() {
                return Ok(());
            }
            return self.arrives_at_host(index, pipe, item);
        }
        if self.members[member].link != Some(index) {
            return Ok(());
        }
        let input = match (pipe, item) {
            (Pipe::ControlDown, Item::Frames(frames)) => member::Input::Control { frames },
            (Pipe::ControlDown, Item::Closed) => member::Input::Lost { reason: "the host closed".into() },
            (Pipe::BroadcastDown, Item::Frames(frames)) => member::Input::Broadcast { frames },
            (_, Item::Closed) => member::Input::LostChannel { reason: "the host closed".into() },
            _ => return Ok(()),
        };
        trace!(self, "m{member} <- {}", describe(pipe, &input));
        self.tell_member(member, input)
    }

    fn arrives_at_host(&mut self, index: usize, pipe: Pipe, item: Item) -> Result<(), Broken> {
        let link = &mut self.links[index];
        let peer = link.peer.clone();
        match (pipe, item) {
            (Pipe::ControlUp, Item::Frames(frames)) => {
                let now = self.host.clock.now(self.now);
                let mut acked = None;
                match frames.first().map(ChildMessage::decode) {
                    Some(Ok(ChildMessage::Repair { first, last })) => {
                        self.asked.insert(index, (first, last));
                    }
                    Some(Ok(ChildMessage::Ack(ack))) => {
                        let here = self.oracle.last_seq(self.host.life) >= ack.handled.seq;
                        let machine = self.host.machine.as_ref();
                        if here && machine.is_some_and(|machine| machine.is_here(ack.handled)) {
                            acked = Some(ack.handled.seq);
                        }
                    }
                    _ => {}
                }
                self.news.push((index, now, acked));
                self.tell_host(host::Input::Control { peer, frames })
            }
            (Pipe::ControlUp, Item::Closed) => self.tell_host(host::Input::ControlClosed { peer }),
            (Pipe::BroadcastUp, Item::Subscribe(prefix)) => {
                link.subscriptions.insert(prefix);
                Ok(())
            }
            (Pipe::BroadcastUp, Item::Unsubscribe(prefix)) => {
                link.subscriptions.remove(&prefix);
                Ok(())
            }
            (Pipe::BroadcastUp, Item::Closed) => match link.session {
                Some(session) => self.tell_host(host::Input::BroadcastClosed { session }),
                None => Ok(()),
            },
            (Pipe::SubmitUp, Item::Frames(frames)) => {
                self.host.submits.push_back(frames);
                self.host_stepped()
            }
            _ => Ok(()),
        }
    }

    // --- The host ------------------------------------------------------------------------------------------------

    fn start_host(&mut self) -> Result<(), Broken> {
        if self.host.machine.is_some() {
            return Ok(());
        }
        let scenario = &self.scenario;
        self.host.life += 1;
        let life = self.host.life;
        // The wall clock may be wrong by seconds. That it shows the same moment in two lives is left out, as is that two draw the same
        // incarnation: both share an epoch then, until a member tells.
        let wall = 1_000_000 + self.now / MILLI + self.dice.below(4_000);
        let drawn = self.dice.any() | 1;
        let config = host::Config {
            id: self.host.id,
            cluster: "sim".into(),
            incarnation: drawn,
            epoch: (wall << 22) + (u64::from(life) << 14),
            first_origin_seq: u64::from(life) << 32,
            max_message: 1 << 20,
            max_members: scenario.members + 3,
            max_handshakes: 3,
            handshake_timeout: scenario.handshake,
            marks: scenario.marks,
            pace_percentile: scenario.pace_percentile,
            patience: scenario.patience,
            conflatable: Vec::new(),
            ring: scenario.ring,
            heartbeat: scenario.heartbeat,
            lease: scenario.lease,
            origin_ttl: scenario.origin_ttl,
            max_origins: scenario.max_origins,
            quarantine: scenario.quarantine,
            repair_rate: scenario.repair_rate,
            mutant: self.mutant,
            broadcast: ":1".into(),
            submit: ":2".into(),
        };
        trace!(self, "host begins life {life} in epoch {}", config.epoch);
        self.oracle.on_host_start(life, config.epoch)?;
        self.host.next_origin_seq = config.first_origin_seq;
        self.host.machine = Some(Host::new(config, self.host.clock.now(self.now)));
        self.host.timer_at = None;
        self.host.flush_due = false;
        self.host.undrained_since = None;
        self.host.submits.clear();
        self.host.consumer = Consumer::default();
        self.push(0, Event::HostTick { life });
        self.flush()
    }

    /// The host is gone. Its machine may be gone with it, so that nobody is told.
    pub(super) fn kill_host(&mut self, silently: bool) {
        if self.host.machine.take().is_none() {
            return;
        }
        let keep = self.scenario.has(Fault::StaleQueue);
        for link in 0..self.links.len() {
            if self.links[link].host_life != self.host.life {
                continue;
            }
            if keep {
                self.keep_stale(link);
            }
            if silently {
                self.links[link].black_hole = true;
                Pipe::ALL.into_iter().for_each(|pipe| self.links[link].line(pipe).items.clear());
            } else {
                self.hang_up(link, true, true);
            }
        }
        self.host.asleep_until = 0;
        if std::mem::take(&mut self.host.is_draining) {
            let after = self.dice.scale(MILLI, 2 * SECOND);
            self.push(after, Event::StartHost);
        }
    }

    /// What is on its way may come to the next host, and what it said by the next connections.
    fn keep_stale(&mut self, link: usize) {
        for pipe in [Pipe::ControlUp, Pipe::SubmitUp, Pipe::BroadcastDown] {
            let items: Vec<Item> = self.links[link].line(pipe).items.iter().cloned().collect();
            for item in items {
                let Item::Frames(frames) = item else { continue };
                if !self.dice.percent(30) {
                    continue;
                }
                self.count(Fault::StaleQueue);
                if pipe == Pipe::BroadcastDown {
                    let member = self.links[link].member;
                    self.members[member].stale.push(frames);
                } else {
                    let after = self.dice.scale(MILLI, 2 * SECOND);
                    self.push(after, Event::Stray { pipe, frames });
                }
            }
        }
    }

    pub(super) fn tell_host(&mut self, input: host::Input) -> Result<(), Broken> {
        let now = self.host.clock.now(self.now);
        let Some(machine) = &mut self.host.machine else { return Ok(()) };
        machine.handle_input(now, input);
        self.host.undrained_since.get_or_insert(now);
        self.host_stepped()
    }

    /// Something went into the host: it is to come out, at once or together with what comes soon.
    fn host_stepped(&mut self) -> Result<(), Broken> {
        if self.dice.percent(self.scenario.eager) {
            return self.flush();
        }
        if !std::mem::replace(&mut self.host.flush_due, true) {
            let after = self.dice.scale(10 * MICRO, 5 * MILLI);
            self.push(after, Event::Flush { life: self.host.life });
        }
        Ok(())
    }

    /// Its clock is not what it was: timers are to be set anew.
    pub(super) fn host_moved(&mut self) -> Result<(), Broken> {
        self.host.timer_at = None;
        self.flush()
    }

    fn on_host_timer(&mut self) -> Result<(), Broken> {
        // One that was armed for later before this one was.
        if self.host.timer_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        self.host.timer_at = None;
        let now = self.host.clock.now(self.now);
        let Some(machine) = &mut self.host.machine else { return Ok(()) };
        machine.handle_timeout(now);
        self.flush()?;
        self.check_snails(now)
    }

    /// Whoever is past the mark while the pack is not has to go in time.
    fn check_snails(&mut self, now: Instant) -> Result<(), Broken> {
        let Some(machine) = &self.host.machine else { return Ok(()) };
        let marks = self.scenario.marks;
        let lags = machine.lags(now);
        let mut shares: Vec<f64> = lags.iter().map(|member| marks.share(&member.lag)).collect();
        shares.extend(machine.local_lag(now).map(|lag| marks.share(&lag)));
        shares.sort_by(f64::total_cmp);
        // The fastest, to be on the safe side: whatever sets the pace is not faster.
        let pack_is_past = shares.first().is_none_or(|share| *share > 1.0);
        let limit = marks.grace + marks.age * 2 + self.scenario.heartbeat * 3;
        // A host that slept, or whose clock jumped, holds that against nobody.
        if now.since(std::mem::replace(&mut self.past_looked_at, now)) > self.scenario.heartbeat * 10 {
            self.past.clear();
        }
        let mut past = BTreeMap::new();
        for member in lags {
            let is_past =
                marks.exceeded_by(&member.lag).is_some() && member.lag.messages > self.scenario.batch * 64;
            if is_past && !pack_is_past && self.scenario.pace_percentile == 0 {
                let (since, least) = *self.past.get(&member.session).unwrap_or(&(now, u64::MAX));
                // One that comes back is let be for as long as it catches up.
                let since = if member.lag.messages < least { now } else { since };
                if now.since(since) > limit {
                    let (id, lag) = (member.id, member.lag);
                    return Err((
                        11,
                        format!("{id} is {lag} behind since {:?}, and was not evicted", since.elapsed()),
                    ));
                }
                past.insert(member.session, (since, least.min(member.lag.messages)));
            }
        }
        self.past = past;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Broken> {
        const AT_ONCE: usize = 8;
        self.host.flush_due = false;
        let now = self.host.clock.now(self.now);
        let life = self.host.life;
        loop {
            let handled = self.host_handled();
            let Some(machine) = &mut self.host.machine else { return Ok(()) };
            for _ in 0..AT_ONCE {
                if !machine.takes_submits() {
                    break;
                }
                let Some(frames) = self.host.submits.pop_front() else { break };
                machine.handle_input(now, host::Input::Submit { frames });
            }
            machine.handle_input(now, host::Input::LocalHandled { seq: handled });
            machine.handle_input(now, host::Input::Flush);
            while let Some(output) = self.host.machine.as_mut().and_then(Host::poll_output) {
                self.on_host_output(output)?;
            }
            let Some(machine) = &mut self.host.machine else { return Ok(()) };
            self.oracle.on_epoch(life, machine.usage().end.epoch)?;
            if self.host.submits.is_empty() || !machine.takes_submits() {
                break;
            }
        }
        self.host.undrained_since = None;
        let Some(machine) = &mut self.host.machine else { return Ok(()) };
        for (link, at, acked) in self.news.drain(..) {
            self.heard.insert(link, at);
            self.acked.extend(acked.map(|acked| (link, acked)));
        }
        let usage = machine.usage();
        let (windows, messages, bytes) = usage.ring;
        let limit = self.scenario.ring;
        if windows > 1 && (messages > limit.messages || bytes > limit.bytes) {
            return Err((10, format!("the ring holds {messages} messages and {bytes} bytes")));
        }
        if usage.origins > self.scenario.max_origins {
            return Err((10, format!("the host remembers {} origins", usage.origins)));
        }
        if let Some(deadline) = machine.poll_timeout() {
            let at = self.host.clock.when(self.now, deadline);
            if self.host.timer_at.is_none_or(|armed| at < armed) {
                self.spin(at)?;
                self.host.timer_at = Some(at);
                self.push(at - self.now, Event::HostTimer { life });
            }
        }
        Ok(())
    }

    /// A machine whose deadline is not served by serving it would run for ever.
    fn spin(&mut self, at: Nanos) -> Result<(), Broken> {
        if at > self.now {
            return Ok(());
        }
        let (when, times) = self.spins;
        self.spins = if when == self.now { (when, times + 1) } else { (self.now, 1) };
        if self.spins.1 > SPINS {
            return Err((0, "a deadline in the past is not served".to_owned()));
        }
        Ok(())
    }

    fn host_handled(&self) -> Option<u64> {
        let consumer = &self.host.consumer;
        let waits = consumer.queue.front().map(|(_, up_to)| up_to.seq - 1);
        self.scenario.host_consumes.then(|| waits.unwrap_or(self.oracle.last_seq(self.host.life)))
    }

    fn on_host_output(&mut self, output: host::Output) -> Result<(), Broken> {
        match output {
            host::Output::Window { body, last, foreign } => {
                trace!(self, "host publishes a window up to {last}");
                let at = self.host.undrained_since.unwrap_or(self.host.clock.now(self.now));
                self.oracle.on_window(self.host.life, &body, at, self.scenario.ring)?;
                if foreign && self.scenario.host_consumes {
                    self.host.consumer.queue.push_back((1, last));
                    if !self.host.consumer.busy && !self.host.consumer.stalled {
                        self.host.consumer.busy = true;
                        let after = self.dice.below(MILLI);
                        self.push(after, Event::HostHandled { life: self.host.life });
                    }
                }
                self.publish(Lane::Whole.encode(), &body);
            }
            host::Output::Broadcast { lane, body } => self.publish(lane, &body),
            host::Output::Control { peer, frame } => {
                let Some(link) = self.peers.get(&peer).copied() else { return Ok(()) };
                if matches!(ParentMessage::decode(&frame), Ok(ParentMessage::Missed(_))) {
                    let asked = self.asked.get(&link).copied().unwrap_or((u64::MAX, u64::MAX));
                    self.oracle.on_missed(self.host.life, asked)?;
                }
                self.send(link, Pipe::ControlDown, Item::Frames(vec![frame]));
            }
            host::Output::CutBroadcast { session } => {
                if let Some(link) = self.sessions.get(&session).copied() {
                    self.forsake(link, Pipe::BroadcastUp);
                    self.close(link, Pipe::BroadcastDown, true);
                }
            }
            host::Output::Disconnect { peer, .. } => {
                if let Some(link) = self.peers.remove(&peer) {
                    self.hang_up(link, true, true);
                }
            }
            host::Output::Authenticate { peer, .. } => {
                let after = self.dice.below(2 * MILLI);
                self.push(after, Event::Verdict { life: self.host.life, peer });
            }
            host::Output::Ordered(_) => {}
            host::Output::Event(event) => {
                trace!(self, "host: {event:?}");
                if let host::Event::Evicted { eviction, .. } = event {
                    self.report.evictions += 1;
                    self.unrest = true;
                    let link = eviction.resume.and_then(|session| self.sessions.get(&session).copied());
                    let now = self.host.clock.now(self.now);
                    let acked = link.and_then(|link| self.acked.get(&link).copied()).unwrap_or(0);
                    let heard =
                        link.and_then(|link| self.heard.get(&link).copied()).unwrap_or(Instant::START);
                    self.oracle.on_evicted(self.host.life, &self.scenario, &eviction, now, acked, heard)?;
                }
            }
            host::Output::Drained => self.kill_host(false),
        }
        Ok(())
    }

    fn publish(&mut self, lane: Bytes, body: &Bytes) {
        let key = std::str::from_utf8(&lane).unwrap_or_default();
        for index in 0..self.links.len() {
            let link = &mut self.links[index];
            let takes = link.session.is_some()
                && !link.line(Pipe::BroadcastDown).closed
                && link.subscriptions.iter().any(|prefix| key.starts_with(prefix.as_str()));
            if !takes {
                continue;
            }
            let full = link.line(Pipe::BroadcastDown).items.len() >= self.scenario.broadcast_queue;
            let (percent, until) = self.members[link.member].loss;
            let is_lost_tail = matches!(self.phase, Phase::LostTail { .. })
                && link.member == 0
                && body.len() > 2
                && !is_heartbeat(body);
            if full || is_lost_tail || (until > self.now && self.dice.percent(percent)) {
                self.count(Fault::BroadcastLoss);
                continue;
            }
            self.send(index, Pipe::BroadcastDown, Item::Frames(vec![lane.clone(), body.clone()]));
        }
    }

    fn on_host_tick(&mut self) -> Result<(), Broken> {
        let every = self.scenario.send_every;
        if matches!(self.phase, Phase::Faults) {
            let next = self.dice.scale(every / 4, every * 2);
            self.push(next, Event::HostTick { life: self.host.life });
            let most = self.scenario.batch;
            let count = self.dice.between(1, most);
            return self.host_sends(count);
        }
        Ok(())
    }

    fn host_sends(&mut self, count: u64) -> Result<(), Broken> {
        let Some(machine) = &mut self.host.machine else { return Ok(()) };
        if !machine.takes_submits() {
            return Ok(());
        }
        let first = self.host.next_origin_seq;
        self.host.next_origin_seq += count;
        let body = self.batch(self.host.id, first, count)?;
        self.tell_host(host::Input::Local { body })
    }

    fn on_host_handled(&mut self) -> Result<(), Broken> {
        self.host.consumer.busy = false;
        if self.host.consumer.stalled {
            return Ok(());
        }
        self.host.consumer.queue.pop_front();
        if !self.host.consumer.queue.is_empty() {
            self.host.consumer.busy = true;
            let after = self.dice.below(MILLI);
            self.push(after, Event::HostHandled { life: self.host.life });
        }
        self.host_stepped()
    }

    /// Messages of an origin, as a batch.
    fn batch(&mut self, id: EndpointId, first: u64, count: u64) -> Result<Bytes, Broken> {
        let mut builder = BatchBuilder::new(first);
        for origin_seq in first..first + count {
            let topic = self.dice.pick(&TOPICS);
            self.counter += 1;
            let length = self.dice.below(self.scenario.payload) as usize;
            let mut payload = self.counter.to_be_bytes().to_vec();
            payload.resize(8 + length, self.counter as u8);
            let Ok(message) = Message::new(topic, payload) else { continue };
            builder.push(&message);
            self.oracle.on_accepted(id, origin_seq, &message)?;
        }
        Ok(builder.finish())
    }

    // --- Members -------------------------------------------------------------------------------------------------

    fn start_member(&mut self, index: usize) -> Result<(), Broken> {
        let member = &mut self.members[index];
        member.starting = false;
        if member.machine.is_some() {
            return Ok(());
        }
        member.life += 1;
        let life = member.life;
        let config = member::Config {
            id: member.id,
            cluster: "sim".into(),
            token: Bytes::new(),
            prefixes: member.filter.clone(),
            outbox: self.scenario.outbox,
            // As of an endpoint whose id is given: above all that it ever sent under it.
            first_origin_seq: (self.now + 1) << 8 | index as u64,
            rejoin: member.rejoins,
            origin_ttl: self.scenario.origin_ttl,
            mutant: self.mutant,
            handshake_timeout: self.scenario.handshake,
            join_timeout: Duration::from_secs(10),
            backoff: self.scenario.backoff,
            seed: self.dice.any(),
        };
        member.machine = Some(Member::new(config));
        member.timer_at = None;
        member.link = None;
        member.joined_once = false;
        member.ticket = 0;
        member.consumer = Consumer::default();
        self.seen[index] = Seen::new(member.filter.clone());
        trace!(self, "m{index} begins life {life}");
        self.push(0, Event::MemberTick { member: index, life });
        self.tell_member(index, member::Input::Start)
    }

    /// A member's process is gone. It comes back after a while.
    pub(super) fn kill_member(&mut self, index: usize, silently: bool) {
        self.members[index].machine = None;
        self.members[index].asleep_until = 0;
        if let Some(link) = self.members[index].link.take() {
            if silently {
                self.links[link].black_hole = true;
                Pipe::ALL.into_iter().for_each(|pipe| self.links[link].line(pipe).items.clear());
            } else {
                self.hang_up(link, false, true);
            }
        }
        self.start_again(index);
    }

    fn start_again(&mut self, index: usize) {
        let gone_for_good = self.members[index].is_twin;
        if !gone_for_good && !std::mem::replace(&mut self.members[index].starting, true) {
            let after = self.dice.scale(MILLI, 2 * SECOND);
            self.push(after, Event::StartMember { member: index });
        }
    }

    pub(super) fn tell_member(&mut self, index: usize, input: member::Input) -> Result<(), Broken> {
        let member = &mut self.members[index];
        let now = member.clock.now(self.now);
        let Some(machine) = &mut member.machine else { return Ok(()) };
        machine.handle_input(now, input);
        self.member_stepped(index)
    }

    fn on_member_timer(&mut self, index: usize) -> Result<(), Broken> {
        let member = &mut self.members[index];
        if member.timer_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        member.timer_at = None;
        let now = member.clock.now(self.now);
        let Some(machine) = &mut member.machine else { return Ok(()) };
        machine.handle_timeout(now);
        self.member_stepped(index)
    }

    /// As [`host_moved`](Self::host_moved).
    pub(super) fn member_moved(&mut self, index: usize) -> Result<(), Broken> {
        self.members[index].timer_at = None;
        self.member_stepped(index)
    }

    fn member_stepped(&mut self, index: usize) -> Result<(), Broken> {
        while let Some(output) = self.members[index].machine.as_mut().and_then(Member::poll_output) {
            self.on_member_output(index, output)?;
        }
        let member = &mut self.members[index];
        let Some(machine) = &member.machine else { return Ok(()) };
        let usage = machine.usage();
        let (outbox, marks) = (self.scenario.outbox, self.scenario.marks);
        let batch = (self.scenario.payload + 64) * self.scenario.batch + 64;
        if usage.outbox_batches > outbox.batches || usage.outbox_bytes as u64 > outbox.bytes as u64 + batch {
            return Err((10, format!("the outbox of m{index} holds {usage:?}")));
        }
        if usage.ahead_messages > marks.messages || usage.ahead_bytes > marks.bytes {
            return Err((10, format!("m{index} holds {usage:?} ahead of a gap")));
        }
        if let Some(deadline) = machine.poll_timeout() {
            let at = member.clock.when(self.now, deadline);
            if member.timer_at.is_none_or(|armed| at < armed) {
                member.timer_at = Some(at);
                let life = member.life;
                self.spin(at)?;
                self.push(at - self.now, Event::MemberTimer { member: index, life });
            }
        }
        Ok(())
    }

    fn on_member_output(&mut self, index: usize, output: member::Output) -> Result<(), Broken> {
        let life = self.members[index].life;
        match output {
            member::Output::Dial => {
                let after = self.latency() * 2;
                self.push(after, Event::Dialled { member: index, life });
            }
            member::Output::Hangup => {
                self.seen[index].on_session_over();
                trace!(self, "m{index} hangs up");
                if let Some(link) = self.members[index].link.take() {
                    let lossy = self.dice.percent(50);
                    self.hang_up(link, false, lossy);
                }
            }
            member::Output::Control { frame } => {
                if let Ok(ChildMessage::Ack(ack)) = ChildMessage::decode(&frame) {
                    let front = self.members[index].consumer.queue.front();
                    // What is left of another life of the host is none of this one's business.
                    let same_life = |up_to: &Position| self.oracle.are_of_one_life(*up_to, ack.handled);
                    if let Some((_, up_to)) =
                        front.filter(|(_, up_to)| *up_to <= ack.handled && same_life(up_to))
                    {
                        let handled = ack.handled;
                        return Err((
                            9,
                            format!(
                                "m{index} says it has handled {handled}, and is at what leads to {up_to}"
                            ),
                        ));
                    }
                    if ack.handled > ack.stored {
                        return Err((9, format!("m{index} acknowledges {ack:?}")));
                    }
                }
                trace!(self, "m{index} -> {:?}", ChildMessage::decode(&frame));
                if let Some(link) = self.members[index].link {
                    self.send(link, Pipe::ControlUp, Item::Frames(vec![frame]));
                }
            }
            member::Output::Attach { session, .. } => {
                if let Some(link) = self.members[index].link {
                    let after = self.latency() * 2;
                    self.push(after, Event::Attached { member: index, life, link, session });
                }
            }
            member::Output::AddLane { prefix } => {
                if let Some(link) = self.members[index].link {
                    self.send(link, Pipe::BroadcastUp, Item::Subscribe(prefix));
                }
            }
            member::Output::RemoveLane { prefix } => {
                if let Some(link) = self.members[index].link {
                    self.send(link, Pipe::BroadcastUp, Item::Unsubscribe(prefix));
                }
            }
            member::Output::Submit { head, body } => {
                if let Some(link) = self.members[index].link {
                    if self.phase == Phase::Faults
                        && self.scenario.has(Fault::SubmitLoss)
                        && self.dice.percent(5)
                    {
                        self.count(Fault::SubmitLoss);
                    } else {
                        self.send(link, Pipe::SubmitUp, Item::Frames(vec![head, body]));
                    }
                }
            }
            member::Output::Deliver { messages, up_to } => self.on_delivered(index, &messages, up_to)?,
            member::Output::Ordered(run) => {
                let id = self.members[index].id;
                self.oracle.on_ordered(&mut self.seen[index], id, run)?;
            }
            member::Output::Unknown { up_to } => self.on_unknown(index, up_to)?,
            member::Output::Subscribed { ticket } => self.seen[index].on_subscribed(ticket),
            member::Output::Event(event) => self.on_member_event(index, event)?,
            member::Output::Ended(end) => {
                trace!(self, "m{index} ends: {end:?}");
                self.unrest = true;
                if matches!(end, End::Evicted(_)) {
                    self.report.evictions += 1;
                }
                if !self.seen[index].open.is_empty() {
                    let open = self.seen[index].open.len();
                    return Err((6, format!("m{index} ended without a word on {open} messages")));
                }
                self.members[index].machine = None;
                self.members[index].link = None;
                self.start_again(index);
            }
        }
        Ok(())
    }

    fn on_unknown(&mut self, index: usize, up_to: u64) -> Result<(), Broken> {
        let open = &mut self.seen[index].open;
        let later = open.split_off(&(up_to + 1));
        let unknown = std::mem::replace(open, later).len() as u64;
        self.report.unknown += unknown;
        trace!(self, "m{index} is told that the fate of {unknown} messages is unknown");
        // Nobody may be left in the dark while the host's memory is whole.
        let ended = self.members[index].machine.as_ref().is_none_or(Member::is_ended);
        let forgot =
            self.host.machine.as_ref().is_none_or(|machine| machine.counters().forgotten_origins > 0);
        if unknown > 0 && !ended && !forgot && !self.scenario.has(Fault::Twin) && self.host.life == 1 {
            return Err((
                6,
                format!("the fate of {unknown} messages of m{index} is unknown, and the host forgot nothing"),
            ));
        }
        Ok(())
    }

    fn on_member_event(&mut self, index: usize, event: member::Event) -> Result<(), Broken> {
        trace!(self, "m{index}: {event:?}");
        match event {
            member::Event::Joined(joined) => {
                let member = &mut self.members[index];
                if !std::mem::replace(&mut member.joined_once, true) {
                    member.next_origin_seq = joined.next_origin_seq;
                    if self.scenario.has(Fault::Twin) {
                        self.oracle.on_begun(member.id, joined.next_origin_seq);
                    }
                }
                // A fresh one takes the place of those that overran.
                member.consumer.gone = false;
                let life = member.link.map_or(0, |link| self.links[link].host_life);
                let end = self.oracle.last_seq(life);
                self.seen[index].on_joined(life, joined.position, end)?;
            }
            member::Event::Reset { after, resume_at } => {
                self.report.resets += 1;
                self.unrest = true;
                self.oracle.on_reset(&mut self.seen[index], after, resume_at)?;
            }
            member::Event::Disconnected { .. } | member::Event::Evicted(_) => {
                self.unrest = true;
                self.seen[index].on_session_over();
            }
            member::Event::Membership { .. } => {}
        }
        Ok(())
    }

    fn on_delivered(&mut self, index: usize, messages: &[Message], up_to: Position) -> Result<(), Broken> {
        self.oracle.on_delivered(&mut self.seen[index], messages, up_to)?;
        let member = &mut self.members[index];
        let consumer = &mut member.consumer;
        consumer.up_to = Some(up_to);
        if consumer.gone || (messages.is_empty() && consumer.queue.is_empty()) {
            return self.tell_member(index, member::Input::Handled { up_to });
        }
        if messages.is_empty() {
            return Ok(());
        }
        let was_empty = consumer.queue.is_empty();
        consumer.queue.push_back((messages.len() as u64, up_to));
        if consumer.messages() > self.scenario.marks.messages && !was_empty {
            trace!(self, "m{index}'s consumer overruns");
            let consumer = &mut self.members[index].consumer;
            consumer.queue.clear();
            consumer.gone = true;
            self.tell_member(index, member::Input::Overrun)?;
            return self.tell_member(index, member::Input::Handled { up_to });
        }
        self.consume(index)
    }

    /// Lets a member's consumer take what waits.
    fn consume(&mut self, index: usize) -> Result<(), Broken> {
        let consumer = &mut self.members[index].consumer;
        if consumer.busy || consumer.stalled {
            return Ok(());
        }
        let Some((messages, _)) = consumer.queue.front().copied() else { return Ok(()) };
        if consumer.pace == 0 {
            return match consumer.take() {
                Some(up_to) => self.tell_member(index, member::Input::Handled { up_to }),
                None => Ok(()),
            };
        }
        consumer.busy = true;
        let (after, life) = (consumer.pace * messages, self.members[index].life);
        self.push(after, Event::Handled { member: index, life });
        Ok(())
    }

    fn on_handled(&mut self, index: usize) -> Result<(), Broken> {
        let consumer = &mut self.members[index].consumer;
        consumer.busy = false;
        if consumer.stalled {
            return Ok(());
        }
        if let Some(up_to) = consumer.take() {
            self.tell_member(index, member::Input::Handled { up_to })?;
        }
        // At full speed again, it takes all at once.
        while self.members[index].consumer.pace == 0 && !self.members[index].consumer.queue.is_empty() {
            if self.members[index].consumer.stalled {
                break;
            }
            self.consume(index)?;
        }
        self.consume(index)
    }

    fn on_dialled(&mut self, index: usize) -> Result<(), Broken> {
        let held = self.members[index].held_until[Pipe::ControlUp as usize] > self.now;
        if held || self.host.machine.is_none() || self.host.asleep_until > self.now {
            return self.tell_member(index, member::Input::DialFailed { reason: "nobody answers".into() });
        }
        let peer = self.fresh_peer();
        let link = self.links.len();
        self.links.push(Link::new(index, self.host.life, peer.clone()));
        self.peers.insert(peer, link);
        self.members[index].link = Some(link);
        self.tell_member(index, member::Input::Connected)
    }

    fn on_attached(&mut self, index: usize, link: usize, session: SessionToken) -> Result<(), Broken> {
        if self.links[link].host_life != self.host.life || self.host.machine.is_none() {
            return self.tell_member(index, member::Input::AttachFailed { reason: "nobody answers".into() });
        }
        self.links[link].session = Some(session);
        self.sessions.insert(session, link);
        for frames in std::mem::take(&mut self.members[index].stale) {
            self.send(link, Pipe::BroadcastDown, Item::Frames(frames));
        }
        self.tell_member(index, member::Input::Attached)
    }

    fn on_member_tick(&mut self, index: usize) -> Result<(), Broken> {
        if self.phase != Phase::Faults {
            return Ok(());
        }
        let (every, life) = (self.scenario.send_every, self.members[index].life);
        let next = self.dice.scale(every / 4, every * 2);
        self.push(next, Event::MemberTick { member: index, life });
        let burst = if self.dice.percent(10) { self.dice.between(1, 10) } else { 1 };
        for _ in 0..burst {
            let count = self.dice.between(1, self.scenario.batch);
            self.member_sends(index, count)?;
        }
        Ok(())
    }

    fn member_sends(&mut self, index: usize, count: u64) -> Result<(), Broken> {
        let member = &mut self.members[index];
        let can = member.machine.as_ref().is_some_and(Member::can_submit);
        if !can || !member.joined_once {
            return Ok(());
        }
        let (id, first) = (member.id, member.next_origin_seq);
        member.next_origin_seq += count;
        let body = self.batch(id, first, count)?;
        self.seen[index].open.extend(first..first + count);
        let input = member::Input::Submit { first_origin_seq: first, count: count as u16, body };
        self.tell_member(index, input)
    }

    pub(super) fn resubscribe(&mut self, index: usize) -> Result<(), Broken> {
        let filter = draw_filter(&mut self.dice);
        let member = &mut self.members[index];
        member.ticket += 1;
        member.filter = filter.clone();
        let ticket = member.ticket;
        self.seen[index].on_subscribe(ticket, filter.clone());
        self.tell_member(index, member::Input::Subscribe { prefixes: filter, ticket })
    }

    /// Another process comes up under a member's id.
    pub(super) fn add_twin(&mut self, of: usize) {
        let original = &self.members[of];
        let twin = MemberNode {
            id: original.id,
            life: 0,
            machine: None,
            clock: LocalClock::new(self.now, 0),
            asleep_until: 0,
            timer_at: None,
            link: None,
            next_origin_seq: 1,
            joined_once: false,
            filter: original.filter.clone(),
            ticket: 0,
            consumer: Consumer::default(),
            rejoins: true,
            is_twin: true,
            starting: true,
            stale: Vec::new(),
            held_until: [0; 5],
            loss: (0, 0),
        };
        self.seen.push(Seen::new(twin.filter.clone()));
        self.members.push(twin);
        self.push(0, Event::StartMember { member: self.members.len() - 1 });
    }

    // --- The end of the faults -----------------------------------------------------------------------------------

    pub(super) fn recover(&mut self, member: Option<usize>) -> Result<(), Broken> {
        let Some(index) = member else {
            self.host.consumer.stalled = false;
            if !self.host.consumer.busy && !self.host.consumer.queue.is_empty() {
                self.host.consumer.busy = true;
                self.push(0, Event::HostHandled { life: self.host.life });
            }
            return Ok(());
        };
        let consumer = &mut self.members[index].consumer;
        consumer.stalled = false;
        consumer.pace = 0;
        if consumer.busy { Ok(()) } else { self.on_handled_again(index) }
    }

    fn on_handled_again(&mut self, index: usize) -> Result<(), Broken> {
        while !self.members[index].consumer.queue.is_empty() && !self.members[index].consumer.busy {
            self.consume(index)?;
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), Broken> {
        trace!(self, "the faults are over");
        self.phase = Phase::Healing { until: self.now + REST_WITHIN };
        self.host.asleep_until = 0;
        for index in 0..self.members.len() {
            self.members[index].asleep_until = 0;
            self.members[index].held_until = [0; 5];
            self.members[index].loss = (0, 0);
            self.members[index].rejoins = true;
            if self.members[index].is_twin {
                self.kill_member(index, false);
            } else if self.members[index].machine.is_none() {
                self.start_again(index);
            }
            self.recover(Some(index))?;
            self.member_moved(index)?;
        }
        // What stood still goes on.
        for link in 0..self.links.len() {
            for pipe in Pipe::ALL {
                for _ in 0..self.links[link].line(pipe).items.len() {
                    let after = self.latency();
                    self.push(after, Event::Arrive { link, pipe });
                }
            }
        }
        self.recover(None)?;
        self.host_moved()?;
        if self.host.machine.is_none() {
            self.push(MILLI, Event::StartHost);
        }
        self.push(10 * MILLI, Event::Look);
        Ok(())
    }

    fn look(&mut self) -> Result<bool, Broken> {
        const LOOK_EVERY: Nanos = 20 * MILLI;
        let restless = self.restless();
        let unrest = std::mem::take(&mut self.unrest);
        match self.phase {
            Phase::Faults => {}
            Phase::Healing { until } => {
                if restless.is_none() && self.last_messages < LAST_MESSAGES {
                    self.last_messages += 1;
                    self.host_sends(1)?;
                    for index in 0..self.members.len() {
                        self.member_sends(index, 1)?;
                    }
                } else if restless.is_none() {
                    trace!(self, "the cluster has come to rest");
                    let quiet = self.scenario.lease.as_nanos() as Nanos * 2 + SECOND / 2;
                    self.phase = Phase::Resting { until: self.now + quiet };
                } else if self.now > until {
                    let what = restless.unwrap_or_default();
                    return Err((17, format!("the cluster does not come to rest: {what}")));
                }
            }
            Phase::Resting { until } => {
                if let Some(what) = restless {
                    return Err((17, format!("the cluster was at rest, and is not any more: {what}")));
                }
                if unrest {
                    return Err((17, "a session ended in a cluster at rest".to_owned()));
                }
                if self.now > until {
                    let heartbeats = self.scenario.heartbeat.as_nanos() as Nanos * 2;
                    // There and back three times, for each of two clocks that may be slow by a twentieth.
                    let slack = self.scenario.latency.1 * 6 + heartbeats / 10 + 5 * MILLI;
                    self.phase = Phase::LostTail { until: self.now + heartbeats + slack };
                    self.host_sends(1)?;
                }
            }
            Phase::LostTail { until } => {
                if self.now > until {
                    if self.scenario.is_clean() {
                        self.check_clean()?;
                    }
                    self.report.repaired = self.repaired();
                    return match restless {
                        Some(what) => {
                            Err((17, format!("a lost tail was not found within two heartbeats: {what}")))
                        }
                        None => Ok(false),
                    };
                }
            }
        }
        self.push(LOOK_EVERY, Event::Look);
        Ok(true)
    }

    fn repaired(&self) -> u64 {
        self.host.machine.as_ref().map_or(0, |machine| machine.counters().repaired_windows)
    }

    /// What keeps the cluster from being at rest, if anything does.
    fn restless(&self) -> Option<String> {
        let Some(host) = &self.host.machine else { return Some("the host is down".to_owned()) };
        let end = host.usage().end;
        for (index, member) in self.members.iter().enumerate().filter(|(_, member)| !member.is_twin) {
            let Some(machine) = &member.machine else { return Some(format!("m{index} is down")) };
            let seen = &self.seen[index];
            if !machine.is_live() {
                return Some(format!("m{index} is not live"));
            }
            if !seen.open.is_empty() || machine.usage().outbox_batches > 0 {
                return Some(format!("m{index} waits for word of {} messages", seen.open.len()));
            }
            let at = seen.at().map(|(life, at)| (life, at.seq));
            if at != Some((self.host.life, end.last_seq)) {
                return Some(format!("m{index} is at {at:?}, and the host at {:?}", (self.host.life, end)));
            }
        }
        let behind =
            host.lags(self.host.clock.now(self.now)).into_iter().find(|member| member.lag.messages > 0);
        if let (Some(member), Phase::Healing { .. } | Phase::Resting { .. }) = (behind, self.phase) {
            return Some(format!("the host holds {} to be {} behind", member.id, member.lag));
        }
        let live = host.members().count();
        (live != self.scenario.members).then(|| format!("the host has {live} members"))
    }

    /// Without faults, nothing may have gone wrong.
    fn check_clean(&self) -> Result<(), Broken> {
        let report = &self.report;
        if report.evictions + report.resets + report.unknown > 0 {
            return Err((11, "an eviction, a reset or an unknown fate in a run without faults".to_owned()));
        }
        Ok(())
    }
}

fn is_heartbeat(body: &Bytes) -> bool {
    body.get(2) == Some(&0x05)
}

/// What an input is, in a word.
fn describe(pipe: Pipe, input: &member::Input) -> String {
    match (pipe, input) {
        (Pipe::ControlDown, member::Input::Control { frames }) => {
            match frames.first().map(ParentMessage::decode) {
                Some(Ok(message)) => format!("{message:?}"),
                _ => "an unreadable control message".to_owned(),
            }
        }
        (_, member::Input::Broadcast { frames }) => {
            let lane = frames.first().map(|lane| String::from_utf8_lossy(lane).into_owned());
            format!("broadcast {}: {} bytes", lane.unwrap_or_default(), frames.get(1).map_or(0, Bytes::len))
        }
        (_, other) => format!("{other:?}"),
    }
}

//! The run of one seed: a heap of events, and what they do to processes and connections.

mod connections;
mod healing;
mod hosting;
mod members;
mod strangers;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;

use crate::id::{EndpointId, PeerId, SessionToken};
use crate::proto::host::{self, AuthQuery, Verdict};
use crate::proto::member;
use crate::proto::{Instant, Mutant};
use crate::role::Role;
use crate::wire::ParentMessage;

use super::Fault;
use super::dice::{Dice, MILLI, Nanos, SECOND};
use super::documents::Documents;
use super::network::{Link, Pipe};
use super::node::{Consumer, HostNode, LocalClock, MemberNode};
use super::oracle::{Broken, Oracle, Seen};
use super::report::{Report, Violation};
use super::scenario::{Scenario, draw_filter};
use strangers::Strangers;

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
        query: AuthQuery,
        /// Whether the token was a good one.
        admits: bool,
    },
    /// A message for the host from a peer that it never met.
    Stray {
        pipe: Pipe,
        frames: Vec<Bytes>,
    },
    /// Peers that do not belong say something.
    Strangers,
    /// The connection of one of them is closed.
    StrangerGone {
        life: u32,
        peer: PeerId,
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
    /// The documents of a member have something to do.
    Documents {
        member: usize,
        life: u32,
    },
    /// A member's application may do something to its documents.
    Edit {
        member: usize,
        life: u32,
    },
    /// The host is to be told what a member may do with a document.
    Rights {
        life: u32,
        id: EndpointId,
        name: String,
    },
    /// The keeper of documents has something to do.
    Keeper {
        life: u32,
    },
    /// Its store has time.
    Stored {
        life: u32,
    },
    /// The application has said what it was asked by it.
    Decided {
        life: u32,
        number: u64,
    },
    /// It has folded a document.
    Folded {
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
    pub(super) mutant: Option<Mutant>,
    pub(super) trace: Trace<'a>,
    pub(super) now: Nanos,
    heap: BinaryHeap<Reverse<Entry>>,
    tie: u64,
    pub(super) dice: Dice,
    pub(super) scenario: Scenario,
    pub(super) host: HostNode,
    pub(super) members: Vec<MemberNode>,
    pub(super) seen: Vec<Seen>,
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
    pub(super) oracle: Oracle,
    pub(super) documents: Option<Documents>,
    strangers: Option<Strangers>,
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
        let mut scenario = Scenario::draw(&mut dice);
        let documents = Documents::draw(seed, scenario.members).filter(|_| scenario.admits_documents());
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
            documents,
            strangers: Strangers::draw(seed),
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
                documents: Default::default(),
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
        if world.strangers.is_some() {
            world.push(0, Event::Strangers);
        }
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
        self.report.documents = self.documents.as_ref().map(|documents| documents.counts).unwrap_or_default();
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
            | Event::Stray { .. }
            | Event::Strangers
            | Event::StrangerGone { .. }
            | Event::Rights { .. }
            | Event::Keeper { .. }
            | Event::Stored { .. }
            | Event::Decided { .. }
            | Event::Folded { .. } => self.host.asleep_until,
            Event::MemberTimer { member, .. }
            | Event::Dialled { member, .. }
            | Event::Attached { member, .. }
            | Event::SubmitLost { member, .. }
            | Event::MemberTick { member, .. }
            | Event::Handled { member, .. }
            | Event::Documents { member, .. }
            | Event::Edit { member, .. } => self.members[*member].asleep_until,
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
            Event::Verdict { life, query, admits: false } if life == self.host.life => {
                let verdict = Verdict::Refuse { reason: "wrong token".to_owned() };
                self.tell_host(host::Input::Verdict { query, verdict })?;
            }
            Event::Verdict { life, query, .. } if life == self.host.life => {
                self.counter += 1;
                let mut token = [1; 16];
                token[8..].copy_from_slice(&self.counter.to_be_bytes());
                let session = SessionToken::from_bytes(token).ok_or((0, "no token".to_owned()))?;
                let verdict = Verdict::Admit { role: Role::Member, session };
                self.tell_host(host::Input::Verdict { query, verdict })?;
            }
            Event::Stray { pipe: Pipe::SubmitUp, frames } => {
                self.host.submits.push_back(frames);
                self.host_stepped()?;
            }
            Event::Stray { frames, .. } => {
                let peer = self.fresh_peer();
                self.tell_host(host::Input::Control { peer, address: None, frames })?;
            }
            Event::Strangers if self.phase == Phase::Faults => self.on_strangers()?,
            Event::StrangerGone { life, peer } if life == self.host.life => {
                self.tell_host(host::Input::ControlClosed { peer })?;
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
            Event::Documents { member, life } if life == self.members[member].life => {
                self.on_documents(member)?;
            }
            Event::Edit { member, life } if life == self.members[member].life => {
                self.on_edit_tick(member)?;
            }
            Event::Rights { life, id, name } if life == self.host.life => self.on_rights(id, &name)?,
            Event::Keeper { life } if life == self.host.life => self.on_keeper()?,
            Event::Stored { life } if life == self.host.life => self.on_stored()?,
            Event::Decided { life, number } if life == self.host.life => self.on_decided(number)?,
            Event::Folded { life } if life == self.host.life => self.on_folded()?,
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

    /// Whether things still go wrong.
    pub(super) fn in_faults(&self) -> bool {
        self.phase == Phase::Faults
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

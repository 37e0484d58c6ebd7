//! The host's side: admits members, gives messages their order, cuts windows.
//!
//! [`Host`] is the machine: this file takes inputs and ends sessions. [`admission`] begins them; its
//! hellos are among [`authentications`] until the verdict. [`ordering`] takes messages in and cuts
//! windows, [`subscribing`] changes filters, [`pace`] compares members, [`repair`] sends again.
//!
//! Its parts: the [`sequencer`](super::sequencer), the [`log`](super::log), the
//! [`demand`] for topics, the [`rights`] to documents, the questions [`asked`] about them, the
//! [`forbidden`] messages, the [`patience`] with stragglers, the [`origins`] with the [`fates`] of
//! their messages, the [`membership`] to tell, the [`quarantine`] of evicted members, its [`peers`],
//! and [`session`]s.

mod admission;
mod asked;
mod authentications;
mod demand;
mod fates;
mod forbidden;
mod interface;
mod membership;
mod ordering;
mod origins;
mod pace;
mod patience;
mod peers;
mod quarantine;
mod repair;
mod rights;
mod session;
mod subscribing;
mod turns;

pub(crate) use rights::{Rights, Stamp};

pub(crate) use interface::{
    AuthLimits, AuthQuery, Config, Counters, Event, Input, LeaveReason, MemberLag, Output, RepairRate,
    Verdict,
};

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::id::{EndpointId, PeerId, SessionToken};
#[cfg(any(test, feature = "test-utils"))]
use crate::message::Position;
#[cfg(any(test, feature = "test-utils"))]
use crate::wire::Barrier;
use crate::wire::{ChildMessage, CloseReason, MemberEntry, Ordered, ParentMessage, RefusalCode};

use super::Instant;
use super::log::Log;
use super::sequencer::Sequencer;
use authentications::Authentications;
use demand::Demand;
use membership::Membership;
use origins::Origins;
use patience::Patience;
use peers::{Peer, Peers};
use quarantine::Quarantine;
use session::Session;
use turns::Turns;

/// How long a refused or closed peer may take to hang up before it is cut off (a guess: far above any round trip).
const HANG_UP: Duration = Duration::from_secs(1);

/// The host's state machine. See the [module above](super) for how to drive it.
///
/// After any number of inputs that order messages, [`Input::Flush`] sends them out: the driver gives it when nothing
/// more is waiting, so windows grow under load and nobody waits for one to fill.
#[derive(Debug)]
pub(crate) struct Host {
    config: Config,
    sequencer: Sequencer,
    log: Log,
    origins: Origins,
    quarantine: Quarantine,
    /// The epoch at the start: what is older belongs to another incarnation.
    first_epoch: u64,
    /// From which of its messages on a session is to be told what became of them, where it has not been told of all.
    untold: BTreeMap<SessionToken, u64>,
    /// The places that messages of the host's own were given since the last flush.
    placed: Vec<Ordered>,
    local_next_origin_seq: u64,
    peers: Peers,
    authentications: Authentications,
    sessions: BTreeMap<SessionToken, Session>,
    by_id: BTreeMap<EndpointId, SessionToken>,
    demand: Demand,
    membership: Membership,
    draining: bool,
    /// The time as last told.
    now: Instant,
    /// When the host last woke from a sleep of its own, or started.
    awake_since: Instant,
    next_heartbeat: Option<Instant>,
    /// The last window at the last heartbeat.
    heartbeat_number: u64,
    /// The seq up to which all of the host's own consumers are done; `None` without any.
    local_handled: Option<u64>,
    /// When that last changed.
    local_moved_at: Instant,
    /// Whether the pack is behind, or waits for stragglers, so that nothing is to be submitted.
    paced: bool,
    patience: Patience,
    /// Whether something changed that the pack is to be looked at for.
    look_due: bool,
    looked_at: Instant,
    /// The sessions that windows are to be sent again to.
    repairs: Turns,
    /// The sessions that have asked for a barrier; and when the host goes on with those that are left.
    subscribing: Turns,
    subscribe_at: Option<Instant>,
    /// Who tells what members may say about documents, if anybody does; and of how many documents it is known, over all sessions.
    guard: Option<rights::Guard>,
    rights: usize,
    /// What is asked of them about members that are gone, and not answered yet.
    left_behind: asked::LeftBehind,
    /// When that goes on.
    repair_at: Option<Instant>,
    outputs: VecDeque<Output>,
    counters: Counters,
}

/// What a host holds.
#[cfg(any(test, feature = "test-utils"))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Windows, messages and bytes in the log.
    pub(crate) log: (usize, u64, u64),
    pub(crate) origins: usize,
    /// Where what was published ends.
    pub(crate) end: Barrier,
}

impl Host {
    pub(crate) fn new(config: Config, now: Instant) -> Self {
        let sequencer = Sequencer::new(config.id, config.epoch);
        Self {
            first_epoch: sequencer.epoch(),
            sequencer,
            log: Log::new(config.log),
            origins: Origins::new(config.max_origins, config.origin_ttl),
            quarantine: Quarantine::new(config.quarantine, config.max_members),
            untold: BTreeMap::new(),
            placed: Vec::new(),
            local_next_origin_seq: config.first_origin_seq,
            peers: Peers::default(),
            authentications: Authentications::new(config.authentication),
            sessions: BTreeMap::new(),
            by_id: BTreeMap::new(),
            demand: Demand::default(),
            membership: Membership::new(now),
            draining: false,
            now,
            awake_since: now,
            next_heartbeat: Some(now + config.heartbeat),
            heartbeat_number: 0,
            local_handled: None,
            local_moved_at: now,
            paced: false,
            patience: Patience::new(config.patience, now),
            look_due: false,
            looked_at: now,
            repairs: Turns::default(),
            subscribing: Turns::default(),
            subscribe_at: None,
            guard: None,
            rights: 0,
            left_behind: asked::LeftBehind::default(),
            repair_at: None,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters { forgotten_origins: self.origins.forgotten(), ..self.counters }
    }

    /// What is held, for those who check its bounds.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            log: self.log.usage(),
            origins: self.origins.len(),
            end: Barrier {
                epoch: self.sequencer.epoch(),
                number: self.sequencer.number(),
                last_seq: self.log.last_seq(),
            },
        }
    }

    /// Whether a position is one of this incarnation.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn is_here(&self, position: Position) -> bool {
        position.epoch >= self.first_epoch
    }

    /// Whether no peer is there whose time could run out.
    #[cfg(test)]
    pub(crate) fn is_alone(&self) -> bool {
        self.peers.is_empty() && self.sessions.is_empty()
    }

    /// Everyone who is live, the host left out.
    pub(crate) fn members(&self) -> impl Iterator<Item = MemberEntry> {
        self.sessions
            .values()
            .filter(|session| session.joining.is_none())
            .map(|session| MemberEntry { id: session.id, role: session.role })
    }

    /// What is to be done next; `None` when all is done for now.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` has something to do, at the earliest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [
            self.peers.next_deadline(),
            self.next_heartbeat,
            self.subscribe_at,
            self.repair_at,
            self.patience.ends_at(),
            self.membership.due_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due: signs of life, the end of what has taken too long. An early call does nothing.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.wake(now);
        if self.next_heartbeat.is_some_and(|at| at <= now) {
            self.on_heartbeat(now);
        }
        if self.subscribe_at.is_some_and(|at| at <= now) {
            self.serve_subscribes(now);
        }
        if self.repair_at.is_some_and(|at| at <= now) {
            self.serve_repairs(now);
        }
        if self.patience.ends_at().is_some_and(|at| at <= now) {
            self.look(now);
        }
        self.tell_membership(now);
        while let Some(peer) = self.peers.take_due(now) {
            match self.peers.get(&peer) {
                Some(Peer::Authenticating { query, .. }) => self.on_late_verdict(now, *query),
                Some(Peer::Closing { session }) => {
                    let session = *session;
                    self.peers.remove(&peer);
                    self.outputs.push_back(Output::Disconnect { peer, session });
                }
                Some(Peer::Admitted { session }) => {
                    let session = *session;
                    if self.sessions.get(&session).is_some_and(|s| s.joining.is_some()) {
                        self.cut(now, session, LeaveReason::Disconnected);
                    }
                }
                None => {}
            }
        }
    }

    /// Nothing more is done by this host: what is left to be told is told.
    pub(crate) fn handle_end(&mut self, now: Instant) {
        self.tell_what_was_refused(now, true);
    }

    /// Takes in what happened.
    pub(crate) fn handle_input(&mut self, now: Instant, input: Input) {
        self.wake(now);
        match input {
            Input::Control { peer, address, frames } => self.on_control(now, peer, address, &frames),
            Input::ControlClosed { peer } => {
                let session = match self.peers.remove(&peer) {
                    Some(Peer::Admitted { session }) => {
                        self.forget(now, session, LeaveReason::Disconnected);
                        Some(session)
                    }
                    Some(Peer::Closing { session }) => session,
                    Some(Peer::Authenticating { query, .. }) => {
                        if !mutant!(self, StaleVerdict) {
                            self.end_authentication(query);
                        }
                        None
                    }
                    None => None,
                };
                // Its broadcast connection is to go with it.
                if session.is_some() {
                    self.outputs.push_back(Output::Disconnect { peer, session });
                }
            }
            Input::BroadcastClosed { session } => {
                // Without its broadcasts a session is of no use to the child, which has noticed, too.
                if self.sessions.contains_key(&session) {
                    self.cut(now, session, LeaveReason::Disconnected);
                }
            }
            Input::Verdict { query, verdict } => self.on_verdict(now, query, verdict),
            // Looked at with each: many may come before the next flush, and the pack is not to be run over.
            Input::Submit { frames } => {
                self.on_submit(now, frames);
                self.look_if_due(now);
            }
            Input::Local { body } => {
                self.on_local(body);
                self.look_if_due(now);
            }
            Input::LocalHandled { seq } => self.on_local_handled(now, seq),
            Input::Kick { id, text } => self.on_kick(now, id, text),
            Input::RiseAbove { epoch } => self.rise_above(now, epoch),
            Input::Guard(guard) => self.on_guard(now, guard),
            Input::Rights { stamp, id, name, rights } => self.on_rights(now, stamp, (id, name), rights),
            Input::ForgetRights { stamp, name } => self.on_forget_rights(now, stamp, name.as_deref()),
            Input::Deaf { guard } => self.on_deaf(now, guard),
            Input::Flush => self.flush(now),
            Input::Drain => self.on_drain(now),
        }
    }

    fn on_control(&mut self, now: Instant, peer: PeerId, address: Option<SocketAddr>, frames: &[Bytes]) {
        if let (Some(Peer::Admitted { session }), [frame]) = (self.peers.get(&peer), frames)
            && let Some(nonce) = ChildMessage::subscribe_nonce(frame)
        {
            return self.on_subscribe(now, *session, nonce, frame.clone());
        }
        let message = match frames {
            [frame] => ChildMessage::decode(frame).ok(),
            _ => None,
        };
        let Some(message) = message else {
            self.counters.malformed_control += 1;
            if self.peers.get(&peer).is_none() && frames.first().is_some_and(ChildMessage::is_hello) {
                let refusal = admission::refusal(RefusalCode::Malformed, "the hello is malformed".to_owned());
                self.refuse(now, (peer, address), EndpointId::NIL, refusal);
            }
            return;
        };
        match (self.peers.get(&peer), message) {
            (None, ChildMessage::Hello(hello)) => self.on_hello(now, peer, address, hello),
            (Some(Peer::Authenticating { query, .. }), ChildMessage::Hello(_)) => {
                // A connection says hello once. Where a transport lets peers choose their ids, this
                // may be another connection than the one whose hello is with the authenticator.
                self.counters.malformed_control += 1;
                let query = *query;
                self.peers.remove(&peer);
                self.end_authentication(query);
                self.outputs.push_back(Output::Disconnect { peer, session: None });
            }
            (Some(Peer::Admitted { session }), message) => {
                let session = *session;
                self.on_session_message(now, session, message);
            }
            // What was on its way when it was told to go.
            (Some(Peer::Closing { session: Some(_), .. }), _) => {}
            // Before its hello a peer has nothing to say, nor before the verdict, nor after it was
            // refused.
            _ => self.counters.malformed_control += 1,
        }
    }

    fn on_session_message(&mut self, now: Instant, token: SessionToken, message: ChildMessage) {
        if let ChildMessage::Received { count } = message {
            let Some(session) = self.sessions.get_mut(&token) else { return };
            session.flow.heard_at = now;
            if !session.control.on_report(count) {
                self.close(now, token, CloseReason::Violation);
            }
            return;
        }
        self.count_received(now, token);
        match message {
            ChildMessage::Live { nonce } => self.on_live(now, token, nonce),
            ChildMessage::Ack(ack) => self.on_ack(now, token, ack),
            ChildMessage::Repair { first, last } => self.on_repair(token, first, last),
            ChildMessage::Leave => self.close(now, token, CloseReason::Left),
            ChildMessage::Hello(_) | ChildMessage::Subscribe { .. } | ChildMessage::Received { .. } => {
                self.counters.malformed_control += 1;
                self.close(now, token, CloseReason::Violation);
            }
        }
    }

    /// Counts a control message within a session, and reports how many there were when that is due.
    fn count_received(&mut self, now: Instant, token: SessionToken) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        session.flow.heard_at = now;
        if let Some(count) = session.control.on_receive() {
            let frame = ParentMessage::Received { count }.encode();
            self.outputs.push_back(Output::Control { peer: session.peer.clone(), frame });
        }
    }

    fn flush(&mut self, now: Instant) {
        self.cut_window(now);
        if !self.subscribing.is_empty() && self.subscribe_at.is_none_or(|at| at <= now) {
            self.serve_subscribes(now);
        }
        self.tell_places(now, false);
        if !self.repairs.is_empty() && self.repair_at.is_none_or(|at| at <= now) {
            self.serve_repairs(now);
        }
        self.look_if_due(now);
        self.tell_membership(now);
        if self.draining && self.sessions.is_empty() {
            self.outputs.push_back(Output::Drained);
        }
    }

    fn tell_membership(&mut self, now: Instant) {
        if let Some(message) = self.membership.take(now) {
            self.send_to_all(now, &message);
        }
    }

    fn on_drain(&mut self, now: Instant) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.cut_window(now);
        self.tell_places(now, true);
        let closing = self.closing(CloseReason::Shutdown);
        self.send_to_all(now, &closing);
    }

    fn send_to_all(&mut self, now: Instant, message: &ParentMessage) {
        let tokens: Vec<SessionToken> = self.sessions.keys().copied().collect();
        for token in tokens {
            self.send(now, token, message);
        }
    }

    fn closing(&self, reason: CloseReason) -> ParentMessage {
        let at = self.sequencer.barrier();
        ParentMessage::Closing { reason, epoch: at.epoch, number: at.number }
    }

    /// Sends a control message within a session, unless the child owes too many answers: then it is cut off.
    fn send(&mut self, now: Instant, token: SessionToken, message: &ParentMessage) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        session.flow.said_at = now;
        if session.control.on_send() {
            let peer = session.peer.clone();
            self.outputs.push_back(Output::Control { peer, frame: message.encode() });
        } else {
            self.cut(now, token, LeaveReason::Closed(CloseReason::Unresponsive));
        }
    }

    /// Ends a session in words: the child is told why and hangs up, or is cut off when it does not.
    fn close(&mut self, now: Instant, token: SessionToken, reason: CloseReason) {
        let Some(session) = self.sessions.get(&token) else { return };
        let peer = session.peer.clone();
        self.cut_window(now);
        self.tell_places(now, true);
        let closing = self.closing(reason);
        self.send(now, token, &closing);
        let leave = if reason == CloseReason::Left { LeaveReason::Left } else { LeaveReason::Closed(reason) };
        self.forget(now, token, leave);
        self.expect_hang_up(now, peer, token);
    }

    /// Gives a peer whose session is over the time to hang up.
    fn expect_hang_up(&mut self, now: Instant, peer: PeerId, session: SessionToken) {
        // `send` may have cut the peer off already.
        if self.peers.get(&peer).is_some() {
            self.peers.set(peer, Peer::Closing { session: Some(session) }, now + HANG_UP);
        }
    }

    /// Ends a session at once.
    fn cut(&mut self, now: Instant, token: SessionToken, reason: LeaveReason) {
        if let Some(session) = self.forget(now, token, reason) {
            self.peers.remove(&session.peer);
            self.outputs.push_back(Output::Disconnect { peer: session.peer, session: Some(token) });
        }
    }

    /// Drops all that is known of a session.
    fn forget(&mut self, now: Instant, token: SessionToken, reason: LeaveReason) -> Option<Session> {
        let mut session = self.sessions.remove(&token)?;
        let peer = session.peer.clone();
        self.outputs.push_back(Output::Session { peer, session: token, is_open: false });
        self.demand.remove(&session);
        self.by_id.remove(&session.id);
        self.origins.end(now, session.id, session.joining.is_none());
        self.repairs.remove(token);
        self.subscribing.remove(token);
        self.rights -= session.known.len();
        self.left_behind.put(session.id, std::mem::take(&mut session.known.asked));
        self.outputs.extend(session.forbidden.take(now, session.id, true));
        self.look_due = true;
        self.untold.remove(&token);
        if session.joining.is_none() {
            self.membership.leave(session.id);
            self.outputs.push_back(Output::Event(Event::Left { id: session.id, reason }));
        }
        Some(session)
    }
}

//! The host's side: admits members, gives messages their order, cuts windows.
//!
//! [`Host`] is the machine: it admits peers and ends sessions. [`order::Order`] gives positions and cuts windows;
//! [`session`] holds what is known of peers and sessions, and what they ask for.

mod interface;
mod order;
mod session;

pub(crate) use interface::{Config, Counters, Event, Input, LeaveReason, Output, Verdict};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::id::{EndpointId, PeerId, SessionToken};
use crate::role::Role;
use crate::wire::{
    Batch, ChildMessage, CloseReason, Hello, Lane, MAX_PREFIXES, MemberEntry, Nonce, Ordered,
    PROTOCOL_VERSION, ParentMessage, RefusalCode, SubmitHead, Welcome,
};

use super::{ControlCount, Instant};
use order::Order;
use session::{Demand, Filter, Peer, Recipient, Session};

/// How long a refused or closed peer may take to hang up before it is cut off (a guess: far above any round trip).
const HANG_UP: Duration = Duration::from_secs(1);

/// How far above its own first epoch a host believes a joiner's: 70 years in milliseconds. A clock may be wrong by some of that; more
/// would let one joiner use up all epochs.
const EPOCH_SLACK: u64 = 1 << 41;

/// The host's state machine. See the [module above](super) for how to drive it.
///
/// After any number of inputs that order messages, [`Input::Flush`] sends them out: the driver gives it when nothing
/// more is waiting, so windows grow under load and nobody waits for one to fill.
#[derive(Debug)]
pub(crate) struct Host {
    config: Config,
    order: Order,
    /// The places given since the last flush, which their senders are to be told.
    placed: BTreeMap<Recipient, Vec<Ordered>>,
    local_next_origin_seq: u64,
    /// Whether the open window holds messages of others than the host.
    foreign: bool,
    peers: BTreeMap<PeerId, Peer>,
    /// When to look at a peer again. An entry whose peer has moved on since means nothing.
    timers: BTreeSet<(Instant, PeerId)>,
    sessions: BTreeMap<SessionToken, Session>,
    by_id: BTreeMap<EndpointId, SessionToken>,
    demand: Demand,
    joined: Vec<MemberEntry>,
    left: Vec<EndpointId>,
    draining: bool,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Host {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            order: Order::new(config.epoch),
            placed: BTreeMap::new(),
            config,
            local_next_origin_seq: 1,
            foreign: false,
            peers: BTreeMap::new(),
            timers: BTreeSet::new(),
            sessions: BTreeMap::new(),
            by_id: BTreeMap::new(),
            demand: Demand::default(),
            joined: Vec::new(),
            left: Vec::new(),
            draining: false,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
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
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    /// Ends what has taken too long. An early call does nothing.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, peer)) =
            self.timers.first().cloned().filter(|(deadline, _)| *deadline <= now)
        {
            self.timers.pop_first();
            match self.peers.get(&peer) {
                Some(Peer::Examined { deadline: actual, .. }) if *actual == deadline => {
                    self.peers.remove(&peer);
                    self.outputs.push_back(Output::Disconnect { peer, session: None });
                }
                Some(Peer::Closing { deadline: actual, session }) if *actual == deadline => {
                    let session = *session;
                    self.peers.remove(&peer);
                    self.outputs.push_back(Output::Disconnect { peer, session });
                }
                Some(Peer::Admitted { session }) => {
                    let session = *session;
                    if self.sessions.get(&session).is_some_and(|s| s.joining == Some(deadline)) {
                        self.cut(session, LeaveReason::Disconnected);
                    }
                }
                _ => {}
            }
        }
    }

    /// Gives a peer until `deadline`.
    fn arm(&mut self, deadline: Instant, peer: &PeerId) -> Instant {
        self.timers.insert((deadline, peer.clone()));
        deadline
    }

    /// Takes in what happened.
    pub(crate) fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Control { peer, frames } => self.on_control(now, peer, &frames),
            Input::ControlClosed { peer } => {
                let session = match self.peers.remove(&peer) {
                    Some(Peer::Admitted { session }) => {
                        self.forget(session, LeaveReason::Disconnected);
                        Some(session)
                    }
                    Some(Peer::Closing { session, .. }) => session,
                    Some(Peer::Examined { .. }) | None => None,
                };
                // Its broadcast connection is to go with it.
                if session.is_some() {
                    self.outputs.push_back(Output::Disconnect { peer, session });
                }
            }
            Input::BroadcastClosed { session } => {
                // Without its broadcasts a session is of no use to the child, which has noticed, too.
                if self.sessions.contains_key(&session) {
                    self.cut(session, LeaveReason::Disconnected);
                }
            }
            Input::Verdict { peer, verdict } => self.on_verdict(now, peer, verdict),
            Input::Submit { frames } => self.on_submit(now, frames),
            Input::Local { body } => self.on_local(body),
            Input::Flush => self.flush(),
            Input::Drain => self.on_drain(),
        }
    }

    fn on_control(&mut self, now: Instant, peer: PeerId, frames: &[Bytes]) {
        let message = match frames {
            [frame] => ChildMessage::decode(frame).ok(),
            _ => None,
        };
        let Some(message) = message else {
            self.counters.malformed_control += 1;
            if !self.peers.contains_key(&peer) && frames.first().is_some_and(ChildMessage::is_hello) {
                let reason = "the hello is malformed".to_owned();
                self.refuse(now, peer, EndpointId::NIL, RefusalCode::Malformed, reason);
            }
            return;
        };
        match (self.peers.get(&peer), message) {
            (None, ChildMessage::Hello(hello)) => self.on_hello(now, peer, hello),
            (Some(Peer::Admitted { session }), message) => {
                let session = *session;
                self.on_session_message(now, session, message);
            }
            // Before its hello a peer has nothing to say, nor while it is examined, nor after it was told to go.
            _ => self.counters.malformed_control += 1,
        }
    }

    fn on_hello(&mut self, now: Instant, peer: PeerId, hello: Hello) {
        let refusal = if hello.version != PROTOCOL_VERSION {
            Some((
                RefusalCode::Version,
                format!(
                    "this host speaks version {PROTOCOL_VERSION} of the protocol, you speak {}",
                    hello.version
                ),
            ))
        } else if hello.cluster != self.config.cluster {
            Some((RefusalCode::Cluster, format!("this is cluster {:?}", self.config.cluster)))
        } else if hello.epoch > self.config.epoch.saturating_add(EPOCH_SLACK) {
            Some((RefusalCode::Malformed, "the epoch is far in the future".to_owned()))
        } else if self.draining {
            Some((RefusalCode::Closing, "the host is shutting down".to_owned()))
        } else if self.sessions.len() >= self.config.max_members {
            Some((RefusalCode::Full, format!("the host takes at most {} members", self.config.max_members)))
        } else if self.handshakes() >= self.config.max_handshakes {
            Some((RefusalCode::Busy, "too many peers are joining at once".to_owned()))
        } else {
            self.duplicate(&hello)
        };
        if let Some((code, reason)) = refusal {
            return self.refuse(now, peer, hello.id, code, reason);
        }
        self.outputs.push_back(Output::Authenticate {
            peer: peer.clone(),
            id: hello.id,
            token: hello.token.clone(),
        });
        let deadline = self.arm(now + self.config.handshake_timeout, &peer);
        self.peers.insert(peer, Peer::Examined { hello, deadline });
    }

    fn handshakes(&self) -> usize {
        self.peers.values().filter(|peer| matches!(peer, Peer::Examined { .. })).count()
    }

    /// Why a hello may not have the id it names: somebody live has it, whose session it does not continue.
    fn duplicate(&self, hello: &Hello) -> Option<(RefusalCode, String)> {
        let taken = match self.by_id.get(&hello.id) {
            Some(session) => hello.resume != Some(*session),
            None => hello.id == self.config.id,
        };
        taken.then(|| (RefusalCode::DuplicateId, format!("endpoint {} is already a member", hello.id)))
    }

    fn refuse(&mut self, now: Instant, peer: PeerId, id: EndpointId, code: RefusalCode, reason: String) {
        let frame = ParentMessage::Refused { code, reason: reason.clone() }.encode();
        self.outputs.push_back(Output::Control { peer: peer.clone(), frame });
        self.outputs.push_back(Output::Event(Event::Refused { peer: peer.clone(), id, code, reason }));
        let deadline = self.arm(now + HANG_UP, &peer);
        self.peers.insert(peer, Peer::Closing { deadline, session: None });
    }

    fn on_verdict(&mut self, now: Instant, peer: PeerId, verdict: Verdict) {
        // A peer that hung up or ran out of time meanwhile is not there any more.
        let hello = match self.peers.remove(&peer) {
            Some(Peer::Examined { hello, .. }) => hello,
            Some(other) => {
                self.peers.insert(peer, other);
                return;
            }
            None => return,
        };
        let (role, session) = match verdict {
            Verdict::Admit { role, session } => (role, session),
            Verdict::Refuse { reason } => {
                return self.refuse(now, peer, hello.id, RefusalCode::Unauthorized, reason);
            }
        };
        if self.draining {
            return self.refuse(
                now,
                peer,
                hello.id,
                RefusalCode::Closing,
                "the host is shutting down".to_owned(),
            );
        }
        if let Some((code, reason)) = self.duplicate(&hello) {
            return self.refuse(now, peer, hello.id, code, reason);
        }
        if let Some(old) = self.by_id.get(&hello.id).copied() {
            self.close(now, old, CloseReason::Replaced);
        }
        if hello.epoch > self.order.epoch() {
            // The joiner has seen a later reign than ours: positions of this one must be above it.
            self.cut_window();
            self.order.rise_above(hello.epoch);
        }
        self.admit(now, peer, &hello, role, session);
    }

    fn admit(&mut self, now: Instant, peer: PeerId, hello: &Hello, role: Role, token: SessionToken) {
        self.cut_window();
        let at = self.order.barrier();
        let welcome = Welcome {
            session: token,
            host: self.config.id,
            role,
            epoch: at.epoch,
            number: at.number,
            last_seq: at.last_seq,
            max_message: u32::try_from(self.config.max_message).unwrap_or(u32::MAX),
            broadcast: self.config.broadcast.clone(),
            submit: self.config.submit.clone(),
            members: self.members().collect(),
        };
        let session = Session {
            peer: peer.clone(),
            id: hello.id,
            role,
            joining: Some(self.arm(now + self.config.handshake_timeout, &peer)),
            filter: Filter::default(),
            proposed: None,
            next_origin_seq: hello.next_origin_seq,
            control: ControlCount { received: 1, ..ControlCount::default() },
        };
        self.peers.insert(peer, Peer::Admitted { session: token });
        self.by_id.insert(hello.id, token);
        self.demand.add(&session);
        self.sessions.insert(token, session);
        self.send(token, &ParentMessage::Welcome(welcome));
    }

    fn on_session_message(&mut self, now: Instant, token: SessionToken, message: ChildMessage) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        if let ChildMessage::Received { count } = message {
            if !session.control.on_report(count) {
                self.close(now, token, CloseReason::Violation);
            }
            return;
        }
        if let Some(count) = session.control.on_receive() {
            let frame = ParentMessage::Received { count }.encode();
            self.outputs.push_back(Output::Control { peer: session.peer.clone(), frame });
        }
        match message {
            ChildMessage::Subscribe { nonce, prefixes } => self.on_subscribe(token, nonce, prefixes),
            ChildMessage::Live { nonce } => self.on_live(token, nonce),
            ChildMessage::Leave => self.close(now, token, CloseReason::Left),
            ChildMessage::Hello(_) | ChildMessage::Received { .. } => {
                self.counters.malformed_control += 1;
                self.close(now, token, CloseReason::Violation);
            }
        }
    }

    fn on_subscribe(&mut self, token: SessionToken, nonce: u64, prefixes: Vec<String>) {
        debug_assert!(prefixes.len() <= MAX_PREFIXES);
        // What was ordered before belongs to the subscription before.
        self.cut_window();
        self.change_filter(token, |session| {
            // Asked again, the barrier comes again; the child decides by the one that arrives.
            if session.proposed.as_ref().is_none_or(|(current, _)| *current != nonce) {
                session.proposed = Some((nonce, Filter::new(prefixes)));
            }
        });
        self.outputs.push_back(Output::Broadcast {
            lane: Lane::Barrier(Nonce(nonce)).encode(),
            body: self.order.barrier().encode(),
        });
    }

    fn on_live(&mut self, token: SessionToken, nonce: u64) {
        let mut first = None;
        self.change_filter(token, |session| {
            if let Some((_, filter)) = session.proposed.take_if(|(current, _)| *current == nonce) {
                session.filter = filter;
                first = session.joining.take().map(|_| MemberEntry { id: session.id, role: session.role });
            }
        });
        if let Some(member) = first {
            self.left.retain(|id| *id != member.id);
            self.joined.push(member);
            self.outputs.push_back(Output::Event(Event::Joined { id: member.id, role: member.role }));
        }
    }

    /// Changes what a session takes, and the sums over all sessions with it.
    fn change_filter(&mut self, token: SessionToken, change: impl FnOnce(&mut Session)) {
        let Some(mut session) = self.sessions.remove(&token) else { return };
        self.demand.remove(&session);
        change(&mut session);
        self.demand.add(&session);
        self.sessions.insert(token, session);
    }

    fn on_submit(&mut self, now: Instant, frames: Vec<Bytes>) {
        let Ok([head, body]) = <[Bytes; 2]>::try_from(frames) else {
            self.counters.malformed_submits += 1;
            return;
        };
        let Ok(SubmitHead { session: token }) = SubmitHead::decode(&head) else {
            self.counters.malformed_submits += 1;
            return;
        };
        let Some(session) = self.sessions.get_mut(&token) else {
            self.counters.unknown_sessions += 1;
            return;
        };
        if !session.role.may_send() {
            self.counters.forbidden_submits += 1;
            return;
        }
        let Ok(batch) = Batch::decode(body, self.config.max_message) else {
            self.counters.malformed_submits += 1;
            return;
        };
        // Exactly the next: what came before was ordered, what comes later shows a loss between child and host.
        match batch.first_origin_seq.cmp(&session.next_origin_seq) {
            std::cmp::Ordering::Less => self.counters.duplicates += batch.len() as u64,
            std::cmp::Ordering::Greater => self.close(now, token, CloseReason::Violation),
            std::cmp::Ordering::Equal => {
                session.next_origin_seq += batch.len() as u64;
                let id = session.id;
                self.order(id, Recipient::Session(token), &batch);
            }
        }
    }

    fn on_local(&mut self, body: Bytes) {
        match Batch::decode(body, self.config.max_message) {
            Ok(batch) => {
                debug_assert_eq!(batch.first_origin_seq, self.local_next_origin_seq);
                self.local_next_origin_seq = batch.first_origin_seq + batch.len() as u64;
                self.order(self.config.id, Recipient::Local, &batch);
            }
            Err(malformed) => debug_assert!(false, "our own batch is {malformed}"),
        }
    }

    /// Gives the records of a batch the next positions.
    fn order(&mut self, origin: EndpointId, sender: Recipient, batch: &Batch) {
        let run = Ordered {
            epoch: self.order.epoch(),
            first_origin_seq: batch.first_origin_seq,
            first_seq: self.order.next_seq(),
            count: batch.len() as u32,
        };
        for (origin_seq, (topic, tail)) in (batch.first_origin_seq..).zip(batch.records()) {
            let topic = &batch.topics[usize::from(topic)];
            if !self.order.push(origin, origin_seq, topic, tail) {
                self.cut_window();
                let fits = self.order.push(origin, origin_seq, topic, tail);
                debug_assert!(fits, "the first record of a window always goes in");
            }
            self.foreign |= sender != Recipient::Local;
        }
        let runs = self.placed.entry(sender).or_default();
        if !runs.last_mut().is_some_and(|last| last.extend(&run)) {
            runs.push(run);
        }
    }

    /// Tells all senders the places of their messages. Once for all that was ordered together: a child that sends many small batches
    /// would otherwise be owed a control message for each, and soon owe too many answers itself.
    fn tell_places(&mut self) {
        for (sender, runs) in std::mem::take(&mut self.placed) {
            match sender {
                Recipient::Local => self.outputs.extend(runs.into_iter().map(Output::Ordered)),
                Recipient::Session(token) => self.send(token, &ParentMessage::Ordered(runs)),
            }
        }
    }

    /// Closes the open window and puts it out, on the lanes that are asked for.
    fn cut_window(&mut self) {
        let Some(cut) = self.order.cut() else { return };
        self.counters.windows += 1;
        self.counters.ordered += cut.records;
        let foreign = std::mem::take(&mut self.foreign);
        self.outputs.push_back(Output::Window { body: cut.body.clone(), foreign });
        if self.demand.is_any() {
            match order::lanes(&cut.body, &self.demand, self.config.max_message) {
                Ok(lanes) => self.outputs.extend(
                    lanes.into_iter().map(|(lane, body)| Output::Broadcast { lane: lane.encode(), body }),
                ),
                Err(malformed) => debug_assert!(false, "our own window is {malformed}"),
            }
        }
    }

    fn flush(&mut self) {
        self.cut_window();
        self.tell_places();
        if !self.joined.is_empty() || !self.left.is_empty() {
            let message = ParentMessage::Membership {
                joined: std::mem::take(&mut self.joined),
                left: std::mem::take(&mut self.left),
            };
            let tokens: Vec<SessionToken> = self.sessions.keys().copied().collect();
            for token in tokens {
                self.send(token, &message);
            }
        }
        if self.draining && self.sessions.is_empty() {
            self.outputs.push_back(Output::Drained);
        }
    }

    fn on_drain(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.cut_window();
        self.tell_places();
        let closing = self.closing(CloseReason::Shutdown);
        let tokens: Vec<SessionToken> = self.sessions.keys().copied().collect();
        for token in tokens {
            self.send(token, &closing);
        }
    }

    fn closing(&self, reason: CloseReason) -> ParentMessage {
        let at = self.order.barrier();
        ParentMessage::Closing { reason, epoch: at.epoch, number: at.number }
    }

    /// Sends a control message within a session, unless the child owes too many answers: then it is cut off.
    fn send(&mut self, token: SessionToken, message: &ParentMessage) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        if session.control.on_send() {
            let peer = session.peer.clone();
            self.outputs.push_back(Output::Control { peer, frame: message.encode() });
        } else {
            self.cut(token, LeaveReason::Closed(CloseReason::Unresponsive));
        }
    }

    /// Ends a session in words: the child is told why and hangs up, or is cut off when it does not.
    fn close(&mut self, now: Instant, token: SessionToken, reason: CloseReason) {
        let Some(session) = self.sessions.get(&token) else { return };
        let peer = session.peer.clone();
        self.cut_window();
        self.tell_places();
        let closing = self.closing(reason);
        self.send(token, &closing);
        let leave = if reason == CloseReason::Left { LeaveReason::Left } else { LeaveReason::Closed(reason) };
        self.forget(token, leave);
        // `send` may have cut the peer off already.
        if self.peers.contains_key(&peer) {
            let deadline = self.arm(now + HANG_UP, &peer);
            self.peers.insert(peer, Peer::Closing { deadline, session: Some(token) });
        }
    }

    /// Ends a session at once.
    fn cut(&mut self, token: SessionToken, reason: LeaveReason) {
        if let Some(session) = self.forget(token, reason) {
            self.peers.remove(&session.peer);
            self.outputs.push_back(Output::Disconnect { peer: session.peer, session: Some(token) });
        }
    }

    /// Drops all that is known of a session.
    fn forget(&mut self, token: SessionToken, reason: LeaveReason) -> Option<Session> {
        let session = self.sessions.remove(&token)?;
        self.demand.remove(&session);
        self.by_id.remove(&session.id);
        self.placed.remove(&Recipient::Session(token));
        if session.joining.is_none() {
            self.joined.retain(|member| member.id != session.id);
            self.left.push(session.id);
            self.outputs.push_back(Output::Event(Event::Left { id: session.id, reason }));
        }
        Some(session)
    }
}

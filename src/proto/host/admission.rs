//! How peers become members: hello, verdict, welcome.

use std::net::SocketAddr;

use crate::id::{EndpointId, PeerId, SessionToken};
use crate::role::Role;
use crate::source::Source;
use crate::wire::{
    CloseReason, Hello, MAX_ORIGIN_SEQ, OriginState, PROTOCOL_VERSION, ParentMessage, Refusal, RefusalCode,
    Terms, Welcome,
};

use super::super::{ControlCount, Instant};
use super::authentications::{Ended, Room};
use super::forbidden::Forbidden;
use super::peers::Peer;
use super::rights::Known;
use super::session::{Bucket, Filter, Flow, Session};
use super::subscribing::FilterChange;
use super::{AuthQuery, Event, HANG_UP, Host, Output, Verdict};

/// How many numbers are left out for what another process under the same id may have in its outbox: more than fit into one (800 batches of 1,024). As numbers
/// begin with the Unix time in microseconds, that is a second: those that later processes propose are above them again soon.
const OUTBOX_ROOM: u64 = 1 << 20;

/// Why a hello is refused for which there is no room.
const TOO_MANY: &str = "too many peers are joining at once";

impl Host {
    pub(super) fn on_hello(&mut self, now: Instant, peer: PeerId, address: Option<SocketAddr>, hello: Hello) {
        if let Some(refusal) = self.refusal(now, &hello) {
            return self.refuse(now, (peer, address), hello.id, refusal);
        }
        let source = Source::of(address);
        match self.authentications.room_for(source) {
            Room::Free => {}
            Room::Taken(query) => self.give_up_authentication(now, query, TOO_MANY),
            Room::None => {
                let refusal = refusal(RefusalCode::Busy, TOO_MANY.to_owned());
                return self.refuse(now, (peer, address), hello.id, refusal);
            }
        }
        let (query, runs) = self.authentications.begin(peer.clone(), source);
        let deadline = now + self.config.handshake_timeout;
        self.peers.set(peer, Peer::Authenticating { query, address, hello }, deadline);
        if runs {
            self.authenticate(query);
        }
    }

    /// Hands a pending hello to the authenticator.
    fn authenticate(&mut self, query: AuthQuery) {
        let peer = self.authentications.peer(query).and_then(|peer| self.peers.get(peer));
        if let Some(Peer::Authenticating { address, hello, .. }) = peer {
            let (address, id, token) = (*address, hello.id, hello.token.clone());
            self.outputs.push_back(Output::Authenticate { query, address, id, token });
        }
    }

    /// A hello is pending no more, for another reason than its verdict.
    pub(super) fn end_authentication(&mut self, query: AuthQuery) {
        if let Some(Ended { was_running, next, .. }) = self.authentications.end(query) {
            if was_running {
                self.outputs.push_back(Output::CancelAuthentication { query });
            }
            next.into_iter().for_each(|next| self.authenticate(next));
        }
    }

    /// Refuses a pending hello, which may come again.
    fn give_up_authentication(&mut self, now: Instant, query: AuthQuery, reason: &str) {
        let peer = self.authentications.peer(query).cloned();
        self.end_authentication(query);
        if let Some(peer) = peer
            && let Some(Peer::Authenticating { address, hello, .. }) = self.peers.remove(&peer)
        {
            let refusal = refusal(RefusalCode::Busy, reason.to_owned());
            self.refuse(now, (peer, address), hello.id, refusal);
        }
    }

    /// The time for the verdict is over.
    pub(super) fn on_late_verdict(&mut self, now: Instant, query: AuthQuery) {
        self.give_up_authentication(now, query, "the authenticator did not decide in time");
    }

    /// Why a peer that says this is refused whatever its token.
    fn refusal(&self, now: Instant, hello: &Hello) -> Option<Refusal> {
        let refusal = |code, reason: String| Some(refusal(code, reason));
        if hello.version != PROTOCOL_VERSION {
            let spoken = hello.version;
            let reason =
                format!("this host speaks version {PROTOCOL_VERSION} of the protocol, you speak {spoken}");
            refusal(RefusalCode::Version, reason)
        } else if hello.cluster != self.config.cluster {
            // Whoever does not know the name is not told it.
            let named = &hello.cluster;
            refusal(RefusalCode::Cluster, format!("the host belongs to another cluster than {named:?}"))
        } else if self.draining {
            refusal(RefusalCode::Closing, "the host is shutting down".to_owned())
        } else if let Some(retry_after) = self.quarantine.remaining(now, &hello.id) {
            let reason = "evicted a moment ago".to_owned();
            Some(Refusal { code: RefusalCode::Quarantined, retry_after, reason })
        } else if self.sessions.len() >= self.config.max_members {
            refusal(RefusalCode::Full, format!("the host takes at most {} members", self.config.max_members))
        } else if !self.origins.has_room_for(&hello.id) {
            let most = self.config.max_origins;
            refusal(
                RefusalCode::Full,
                format!("the host remembers at most {most} endpoints, all of them members"),
            )
        } else {
            self.duplicate(hello)
        }
    }

    /// Why a hello may not have the id it names: somebody live has it, whose session it does not continue.
    fn duplicate(&self, hello: &Hello) -> Option<Refusal> {
        let taken = match self.by_id.get(&hello.id) {
            Some(session) => hello.resume != Some(*session),
            None => hello.id == self.config.id,
        };
        let reason = || format!("endpoint {} is already a member", hello.id);
        taken.then(|| refusal(RefusalCode::DuplicateId, reason()))
    }

    pub(super) fn refuse(
        &mut self,
        now: Instant,
        (peer, address): (PeerId, Option<SocketAddr>),
        id: EndpointId,
        refusal: Refusal,
    ) {
        let frame = ParentMessage::Refused(refusal.clone()).encode();
        let Refusal { code, reason, .. } = refusal;
        self.outputs.push_back(Output::Control { peer: peer.clone(), frame });
        self.outputs.push_back(Output::Event(Event::Refused { address, id, code, reason }));
        self.peers.set(peer, Peer::Closing { session: None }, now + HANG_UP);
    }

    pub(super) fn on_verdict(&mut self, now: Instant, query: AuthQuery, verdict: Verdict) {
        let Some(Ended { peer, next, .. }) = self.authentications.end(query) else { return };
        next.into_iter().for_each(|next| self.authenticate(next));
        let Some(Peer::Authenticating { hello, address, .. }) = self.peers.remove(&peer) else { return };
        let (role, session) = match verdict {
            Verdict::Admit { role, session } => (role, session),
            Verdict::Refuse { reason } => {
                let refusal = refusal(RefusalCode::Unauthorized, reason);
                return self.refuse(now, (peer, address), hello.id, refusal);
            }
        };
        // Much may have changed while the authenticator was thinking.
        if let Some(refusal) = self.refusal(now, &hello) {
            return self.refuse(now, (peer, address), hello.id, refusal);
        }
        if let Some(old) = self.by_id.get(&hello.id).copied() {
            self.close(now, old, CloseReason::Replaced);
        }
        self.admit(now, peer, &hello, role, session);
    }

    fn admit(&mut self, now: Instant, peer: PeerId, hello: &Hello, role: Role, token: SessionToken) {
        self.cut_window(now);
        let (origin, last_origin_seq) = self.recall(hello);
        let welcome = Welcome {
            session: token,
            host: self.config.id,
            incarnation: self.config.incarnation,
            role,
            at: self.sequencer.barrier(),
            origin,
            last_origin_seq,
            terms: Terms {
                marks: self.config.marks,
                heartbeat: self.config.heartbeat,
                lease: self.config.lease,
                conflatable: self.config.conflatable.clone(),
            },
            max_message: u32::try_from(self.config.max_message).unwrap_or(u32::MAX),
            broadcast: self.config.broadcast.clone(),
            submit: self.config.submit.clone(),
            members: self.members().collect(),
        };
        let deadline = now + self.config.handshake_timeout;
        let session = Session {
            peer: peer.clone(),
            id: hello.id,
            role,
            joining: Some(deadline),
            filter: Filter::default(),
            proposed: None,
            change: FilterChange::new(now),
            control: ControlCount { received: 1, ..ControlCount::default() },
            flow: Flow::new(now),
            repair: None,
            bucket: Bucket::new(self.config.repair_rate, now),
            resend_asked: None,
            known: Known::of(self.left_behind.take(&hello.id)),
            forbidden: Forbidden::default(),
        };
        self.peers.set(peer.clone(), Peer::Admitted { session: token }, deadline);
        self.by_id.insert(hello.id, token);
        self.demand.add(&session);
        self.sessions.insert(token, session);
        self.outputs.push_back(Output::Session { peer, session: token, is_open: true });
        self.send(now, token, &ParentMessage::Welcome(welcome));
        if origin == OriginState::Known && hello.first_open != 0 {
            // What is ordered of its outbox, and did not come to its ears.
            self.tell_fates(now, token, hello.first_open..=last_origin_seq);
        }
    }

    /// What is known of a joiner's messages, and with which one it goes on.
    fn recall(&mut self, hello: &Hello) -> (OriginState, u64) {
        let known = self.origins.get_mut(&hello.id).map(|origin| origin.last);
        // By its own word nothing below this comes any more.
        let floor = match hello.first_open {
            0 => hello.next_origin_seq - 1,
            first_open => first_open - 1,
        };
        let (state, last) = if let Some(known) = known {
            // One without memory goes on behind all that another process under its id may still have in its outbox.
            let has_no_memory = hello.epoch == 0 || hello.next_origin_seq <= known;
            let above = if has_no_memory { known.saturating_add(OUTBOX_ROOM) } else { 0 };
            (OriginState::Known, floor.max(above).min(MAX_ORIGIN_SEQ))
        } else if hello.incarnation == self.config.incarnation {
            (OriginState::Forgotten, hello.next_origin_seq - 1)
        } else {
            (OriginState::New, floor)
        };
        let origin = self.origins.begin(hello.id, last);
        origin.last = origin.last.max(last);
        (state, origin.last)
    }
}

pub(super) fn refusal(code: RefusalCode, reason: String) -> Refusal {
    Refusal { code, retry_after: std::time::Duration::ZERO, reason }
}

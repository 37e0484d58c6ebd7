//! The task of a parent's ROUTER: all that is sent, received and closed there goes through it, one thing at a time, on
//! the sockets' thread (see `thread`).
//!
//! A peer that is disconnected from elsewhere just while it is read from would go on being read from.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::zeromq::util::PeerIdentity;
use ::zeromq::{
    Endpoint, Host, MultiPeerBackend, RouterSocket, Socket, SocketEvent, SocketRecv, SocketSend, ZmqMessage,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep_until};

use super::peers::Peers;
use super::{Monitor, has_room};
use crate::id::SessionToken;
use crate::transport::{Frames, ParentEvent, PeerAddress, PeerId};

/// How long a message waits for the news of where its sender was accepted from, which the crate gives right after it
/// begins to read from it.
const ADDRESS_WAIT: Duration = Duration::from_secs(1);

/// The same where the peer is known to have closed: then it is either an identity that came again, or a rest.
const CLOSED_WAIT: Duration = Duration::from_millis(50);

/// How many events may wait for the layer above before the PUB's monitor is left unread. What it then drops are closed
/// broadcast connections, whose sessions fall silent anyway.
const WAITING_EVENTS: usize = 1_024;

/// What the parent's driver wants done.
#[derive(Debug)]
pub(super) enum Command {
    /// Send one frame to a peer.
    Send {
        /// To whom.
        peer: PeerId,
        /// The frame.
        frame: Bytes,
    },
    /// Close a peer's connection, and the broadcast connection of its session.
    Disconnect {
        /// Whose.
        peer: PeerId,
        /// Its session, if it has one.
        session: Option<SessionToken>,
    },
    /// Close the broadcast connection of a session.
    CutBroadcast {
        /// Whose.
        session: SessionToken,
    },
}

/// See the module.
pub(super) struct ControlTask {
    router: RouterSocket,
    subscribers: Arc<dyn MultiPeerBackend>,
    monitor: Monitor,
    broadcast_monitor: Monitor,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<ParentEvent>,
    peers: Peers,
    /// Events that found no room yet. Messages are read only while it is empty; what is added then are closed
    /// connections, no more than were heard of.
    waiting: VecDeque<ParentEvent>,
    unplaced: Option<Unplaced>,
}

/// A message whose sender's address is not known yet.
struct Unplaced {
    peer: PeerId,
    frames: Frames,
    until: Instant,
}

impl ControlTask {
    /// A task for `router`; `subscribers` is the PUB, and the monitors are the former's and the latter's.
    pub(super) fn new(
        router: RouterSocket,
        subscribers: Arc<dyn MultiPeerBackend>,
        (monitor, broadcast_monitor): (Monitor, Monitor),
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<ParentEvent>,
    ) -> Self {
        Self {
            router,
            subscribers,
            monitor,
            broadcast_monitor,
            commands,
            events,
            peers: Peers::default(),
            waiting: VecDeque::new(),
            unplaced: None,
        }
    }

    /// Runs until the link is dropped and all it wanted done is done.
    pub(super) async fn run(mut self) {
        loop {
            let idle = self.waiting.is_empty() && self.unplaced.is_none();
            let until = self.unplaced.as_ref().map_or_else(Instant::now, |unplaced| unplaced.until);
            tokio::select! {
                event = self.monitor.next() => match event {
                    Some(event) => self.on_control_event(event),
                    None => return,
                },
                event = self.broadcast_monitor.next(), if self.waiting.len() < WAITING_EVENTS => match event {
                    Some(event) => self.on_broadcast_event(&event),
                    None => return,
                },
                () = sleep_until(until), if self.unplaced.is_some() => self.on_address_overdue(),
                open = has_room(&self.events), if !self.waiting.is_empty() => {
                    if !open {
                        // Nobody listens: the link is being dropped, and what it wanted sent still goes out.
                        self.waiting.clear();
                    }
                    self.flush();
                }
                command = self.commands.recv() => match command {
                    Some(Command::Send { peer, frame }) => self.send(peer, frame),
                    Some(Command::Disconnect { peer, session }) => self.disconnect(&peer, session),
                    Some(Command::CutBroadcast { session }) => self.cut_broadcast(session),
                    None => return,
                },
                message = self.router.recv(), if idle => {
                    // The crate gives no error here that does not also close the peer it came from.
                    if let Ok(message) = message {
                        self.on_message(message);
                    }
                }
            }
        }
    }

    fn send(&mut self, peer: PeerId, frame: Bytes) {
        let mut message = ZmqMessage::from(frame);
        message.push_front(peer.as_bytes().clone());
        // An error means that the peer is gone, which its Disconnected tells. Nobody else being on this thread, it is not
        // ready only if the 100,000 places the crate has for a peer are taken.
        if self.router.send(message).now_or_never().is_none() {
            self.disconnect(&peer, None);
        }
    }

    fn disconnect(&self, peer: &PeerId, session: Option<SessionToken>) {
        if let Ok(identity) = PeerIdentity::try_from(peer.as_bytes().clone()) {
            self.router.backend().peer_disconnected(&identity);
        }
        if let Some(session) = session {
            self.cut_broadcast(session);
        }
    }

    fn cut_broadcast(&self, session: SessionToken) {
        if let Ok(identity) = PeerIdentity::try_from(&session.as_bytes()[..]) {
            self.subscribers.peer_disconnected(&identity);
        }
    }

    fn on_message(&mut self, message: ZmqMessage) {
        let mut frames = message.into_vecdeque();
        let Some(identity) = frames.pop_front() else {
            return;
        };
        let (peer, frames) = (PeerId::new(identity), Frames::from(frames));
        match self.peers.heard(&peer) {
            Some(address) => self.emit(ParentEvent::Control { peer, address, frames }),
            None => {
                let wait = if self.peers.is_closed(&peer) { CLOSED_WAIT } else { ADDRESS_WAIT };
                self.unplaced = Some(Unplaced { peer, frames, until: Instant::now() + wait });
            }
        }
    }

    fn on_control_event(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Accepted(endpoint, identity) => {
                self.peers.accepted(PeerId::new(identity.into()), peer_address(&endpoint));
                self.place(false);
            }
            SocketEvent::Disconnected(identity) => {
                let peer = PeerId::new(identity.into());
                if self.unplaced.as_ref().is_some_and(|unplaced| unplaced.peer == peer) {
                    self.place(true);
                }
                if self.peers.closed(&peer) {
                    self.emit(ParentEvent::ControlClosed { peer });
                }
            }
            _ => {}
        }
    }

    fn on_broadcast_event(&mut self, event: &SocketEvent) {
        if let SocketEvent::Disconnected(identity) = event
            && let Some(session) = SessionToken::from_slice(identity)
        {
            self.emit(ParentEvent::BroadcastClosed { session });
        }
    }

    fn on_address_overdue(&mut self) {
        match &self.unplaced {
            // Read from a connection that closed in that very moment: closing it again ends that.
            Some(unplaced) if self.peers.is_closed(&unplaced.peer) => {
                self.disconnect(&unplaced.peer, None);
                self.unplaced = None;
            }
            _ => self.place(true),
        }
    }

    /// Hands up the unplaced message if its sender's address is known by now, or need not be.
    fn place(&mut self, anyhow: bool) {
        let Some(Unplaced { peer, frames, until }) = self.unplaced.take() else {
            return;
        };
        match self.peers.heard(&peer) {
            Some(address) => self.emit(ParentEvent::Control { peer, address, frames }),
            None if anyhow => {
                self.peers.heard_from_unknown(&peer);
                self.emit(ParentEvent::Control { peer, address: PeerAddress::Unknown, frames });
            }
            None => self.unplaced = Some(Unplaced { peer, frames, until }),
        }
    }

    /// Hands up an event, behind those that wait.
    fn emit(&mut self, event: ParentEvent) {
        self.waiting.push_back(event);
        self.flush();
    }

    /// Hands up what waits, as far as there is room.
    fn flush(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.waiting.push_front(event);
                return;
            }
        }
    }
}

fn peer_address(endpoint: &Endpoint) -> PeerAddress {
    let ip = match endpoint {
        Endpoint::Tcp(Host::Ipv4(ip), port) => Some(((*ip).into(), *port)),
        // An IPv4 peer of a listener on [::] shall look like one.
        Endpoint::Tcp(Host::Ipv6(ip), port) => Some((ip.to_canonical(), *port)),
        Endpoint::Ipc(_) => return PeerAddress::Ipc,
        _ => None,
    };
    ip.map_or(PeerAddress::Unknown, |address| PeerAddress::Tcp(address.into()))
}

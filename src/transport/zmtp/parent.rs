//! A parent's end of the channels.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{LINGER, endpoint, refused};
use crate::id::SessionToken;
use crate::transport::{
    Address, Backlog, BindAddresses, BindError, BoundAddresses, Channel, ChannelError, Frames,
    ParentChannels, ParentEvent, ParentLimits, ParentLink, PeerAddress, PeerId,
};
use crate::wire::MAX_PREFIXES;
#[cfg(unix)]
use crate::zmtp::ipc;
use crate::zmtp::{
    Arrival, Bound, Core, DisconnectReason, Endpoint, Handle, Limits, Listening, Message, OnFull, Options,
    SocketType,
};

/// The capacity of the queue of control messages to the driver.
const CONTROL_QUEUE: usize = 1_024;
/// The capacity of the queue of batches to the driver. With full ones 16 MiB, or as many large messages.
const SUBMIT_QUEUE: usize = 256;
/// How much may wait for a child on control: somewhat more than may be unanswered there, and what repairs may come to.
const CONTROL: Bound = Bound::new(2_048, 64 << 20);
/// How much that came from one child may wait to be taken, on control and on submit.
const INBOUND: Bound = Bound::new(64, 1 << 20);
/// The largest control message taken of a child: the largest it has to say is a thousand prefixes of 255 bytes (a guess: four times that).
const CONTROL_FRAME: usize = 1 << 20;
/// How many connections each socket takes beside those of children, and a quarter more of them that are about to go: plain subscribers, and those who are not known yet (a guess).
const OTHERS: usize = 1_024;
/// How many control connections may have said nothing yet, and for how long (as of connections that have not introduced themselves).
const SILENT: (usize, Duration) = (256, Duration::from_secs(5));

/// Binds a parent. Cancel safe: a cancelled call leaves nothing bound.
pub(super) async fn bind(addresses: &BindAddresses, limits: &ParentLimits) -> Result<ParentLink, BindError> {
    let options = |frame: usize| Options {
        limits: of_strangers(frame, limits.children),
        recv_hwm: INBOUND,
        stalled: Some(limits.stalled),
        linger: LINGER,
        ..Options::default()
    };
    let control = Options { send_hwm: CONTROL, ..options(CONTROL_FRAME) };
    // Twice what the host lets a member be behind: it judges first, and in words. Until it has, what finds no room is repaired. Whoever is no member has nobody
    // to judge it, and nothing to repair from.
    let broadcast = Options {
        send_hwm: Bound::new(limits.queue().saturating_mul(2), limits.bytes.saturating_mul(2)),
        send_age: Some(limits.age.saturating_mul(2)),
        on_full: OnFull::Disconnect,
        on_full_vouched: Some(OnFull::DropNewest),
        // A session has one connection here: it is cut, and its backlog told, by its name.
        unique_identities: true,
        ..options(CONTROL_FRAME)
    };
    let router = Core::new(SocketType::Router, control, true);
    let publisher = Core::new(SocketType::Pub, broadcast, true);
    let puller = Core::new(SocketType::Pull, options(limits.submit), false);

    let control = Site::open(&router, &addresses.control).await?;
    let beside = |asked: &Option<Address>, suffix| {
        let default = || control.address.with_port(0).with_suffix(suffix);
        asked.clone().unwrap_or_else(default)
    };
    let broadcast = Site::open(&publisher, &beside(&addresses.broadcast, ".pub")).await?;
    let submit = Site::open(&puller, &beside(&addresses.submit, ".pull")).await?;
    // From here on nothing waits, and nothing fails.
    router.listen(control.listening);
    publisher.listen(broadcast.listening);
    puller.listen(submit.listening);
    let addresses =
        BoundAddresses { control: control.address, broadcast: broadcast.address, submit: submit.address };

    let (events, events_out) = mpsc::channel(CONTROL_QUEUE);
    let (submits, submits_out) = mpsc::channel(SUBMIT_QUEUE);
    let dropped = CancellationToken::new();
    let channels = ZmtpParent {
        #[cfg(unix)]
        _files: [control.file, broadcast.file, submit.file],
        control: router.handle(),
        broadcast: publisher.handle(),
        _dropped: dropped.clone().drop_guard(),
    };
    // Each ends when the link is dropped and its last words are out, or have had their time.
    tokio::spawn(hand_up_control(router, events.clone(), dropped.clone()));
    tokio::spawn(hand_up_subscribers(publisher, events, dropped.clone()));
    tokio::spawn(hand_up_submits(puller, submits, dropped));
    Ok(ParentLink { addresses, channels: Box::new(channels), events: events_out, submits: submits_out })
}

/// What is taken of whoever connects, child or not, with frames up to this size.
fn of_strangers(frame: usize, children: usize) -> Limits {
    let connections = children.saturating_add(children / 4).saturating_add(OTHERS);
    let default = Limits::default();
    Limits {
        frame,
        message: frame as u64 + 1024,
        frames: 8,
        unfinished: default.unfinished.max(frame.saturating_mul(4)),
        subscriptions: 2 * MAX_PREFIXES + 8,
        subscription_bytes: 256 << 10,
        prefix: 256,
        connections,
        per_address: Some(connections / 2),
        ..default
    }
}

/// What a socket is to listen at.
struct Site {
    /// Where, with port or path resolved.
    address: Address,
    /// Before the listener, so that it is dropped first.
    #[cfg(unix)]
    file: Option<ipc::IpcFile>,
    listening: Listening,
}

impl Site {
    /// Binds `address`. Dropping it frees the address at once.
    async fn open(socket: &Core, address: &Address) -> Result<Self, BindError> {
        match (address, endpoint(address)) {
            (Address::Tcp { .. }, Some(endpoint)) => {
                let listening = socket.bind(&endpoint).await.map_err(|error| refused(address, error))?;
                let address = match listening.endpoint {
                    Endpoint::Tcp { port, .. } => address.with_port(port),
                    _ => address.clone(),
                };
                Ok(Self {
                    address,
                    #[cfg(unix)]
                    file: None,
                    listening,
                })
            }
            #[cfg(unix)]
            (Address::Ipc(path), Some(_)) => {
                let path = if address.is_ipc_wildcard() { ipc::fresh_path() } else { path.clone() };
                let bound = ipc::listen(&path).await.and_then(|(listener, file)| {
                    Ok((Listening::adopt(listener, Endpoint::Ipc(path.clone()))?, file))
                });
                let (listening, file) = bound.map_err(|error| refused(address, error))?;
                Ok(Self { address: Address::Ipc(path), file: Some(file), listening })
            }
            _ => Err(BindError::Unsupported {
                address: address.clone(),
                reason: "the ZMTP transport binds tcp:// everywhere, and ipc:// on Unix",
            }),
        }
    }
}

/// Lets a socket's task go on until the link is dropped; then lets its last words out.
async fn until_dropped(mut socket: Core, dropped: CancellationToken, work: impl AsyncFnOnce(&mut Core)) {
    // What is left of the work when the link is dropped is of interest to nobody.
    let _ = dropped.run_until_cancelled(work(&mut socket)).await;
    socket.close().await;
}

async fn hand_up_control(router: Core, events: mpsc::Sender<ParentEvent>, dropped: CancellationToken) {
    let work = async |router: &mut Core| {
        let mut strangers =
            Strangers { router: router.handle(), heard: BTreeSet::new(), silent: VecDeque::new() };
        loop {
            let arrival = tokio::select! {
                arrival = router.arrival() => arrival,
                () = strangers.overdue() => {
                    strangers.cut_overdue();
                    continue;
                }
            };
            let Some(arrival) = arrival else { return };
            for event in strangers.sort(arrival) {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    };
    until_dropped(router, dropped, work).await;
}

/// Control connections, by whether they have said anything. Who connects and says nothing is cut off, and who says nothing is nobody to speak of.
struct Strangers {
    router: Handle,
    heard: BTreeSet<PeerId>,
    /// Those that had said nothing when they came, and until when they may go on so.
    silent: VecDeque<(Instant, PeerId)>,
}

impl Strangers {
    /// What the driver is to know of what came.
    fn sort(&mut self, arrival: Arrival) -> Vec<ParentEvent> {
        match arrival {
            Arrival::Ready(peer) => {
                let (most, patience) = SILENT;
                if self.silent.len() >= most {
                    self.silent.retain(|(_, silent)| !self.heard.contains(silent));
                }
                let peer = PeerId::new(peer.identity());
                if self.silent.len() >= most {
                    self.router.disconnect(peer.as_bytes());
                } else {
                    self.silent.push_back((Instant::now() + patience, peer));
                }
                Vec::new()
            }
            Arrival::Messages(batch) => {
                let peer = PeerId::new(batch.peer.identity());
                let address = PeerAddress::from(&batch.peer.address);
                self.heard.insert(peer.clone());
                let event = |message: Message| ParentEvent::Control {
                    peer: peer.clone(),
                    address: address.clone(),
                    frames: message.into_frames(),
                };
                batch.map(event).collect()
            }
            // A ROUTER has none.
            Arrival::Subscriptions => Vec::new(),
            Arrival::Gone(peer, _) => {
                let peer = PeerId::new(peer.identity());
                self.silent.retain(|(_, silent)| *silent != peer);
                if self.heard.remove(&peer) { vec![ParentEvent::ControlClosed { peer }] } else { Vec::new() }
            }
        }
    }

    /// Waits until somebody has said nothing for too long. Cancel safe.
    async fn overdue(&self) {
        match self.silent.front() {
            Some((until, _)) => sleep_until(*until).await,
            None => std::future::pending().await,
        }
    }

    fn cut_overdue(&mut self) {
        while self.silent.front().is_some_and(|(until, _)| *until <= Instant::now()) {
            if let Some((_, peer)) = self.silent.pop_front().filter(|(_, peer)| !self.heard.contains(peer)) {
                self.router.disconnect(peer.as_bytes());
            }
        }
    }
}

async fn hand_up_subscribers(publisher: Core, events: mpsc::Sender<ParentEvent>, dropped: CancellationToken) {
    let work = async |publisher: &mut Core| {
        let handle = publisher.handle();
        while let Some(arrival) = publisher.arrival().await {
            let Arrival::Gone(peer, reason) = arrival else { continue };
            let identity = peer.identity();
            // One that is cut for its slowness is of no session, or of one that is over: none is waiting for word of it.
            let event = match SessionToken::from_slice(&identity) {
                _ if reason == DisconnectReason::TooSlow && !handle.is_vouched(&identity) => {
                    ParentEvent::SubscriberCut { address: (&peer.address).into() }
                }
                Some(session) => ParentEvent::BroadcastClosed { session },
                None => continue,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    };
    until_dropped(publisher, dropped, work).await;
}

async fn hand_up_submits(puller: Core, submits: mpsc::Sender<Frames>, dropped: CancellationToken) {
    let work = async |puller: &mut Core| {
        while let Some(arrival) = puller.arrival().await {
            let Arrival::Messages(batch) = arrival else { continue };
            for message in batch {
                if submits.send(message.into_frames()).await.is_err() {
                    return;
                }
            }
        }
    };
    until_dropped(puller, dropped, work).await;
}

/// What the driver holds of a bound parent.
#[derive(Debug)]
struct ZmtpParent {
    /// Before the listeners, which the tasks hold: see [`IpcFile`](ipc::IpcFile).
    #[cfg(unix)]
    _files: [Option<ipc::IpcFile>; 3],
    control: Handle,
    broadcast: Handle,
    /// Ends the tasks.
    _dropped: DropGuard,
}

impl ParentChannels for ZmtpParent {
    fn broadcast(&mut self, lane: Bytes, body: Bytes) {
        if let Some(message) = Message::from_frames([lane, body]) {
            self.broadcast.publish(&message);
        }
    }

    fn send_control(&mut self, peer: &PeerId, frame: Bytes) -> Result<(), ChannelError> {
        match self.control.try_route(peer.as_bytes(), &frame.into()) {
            Some(false) => Err(ChannelError::Full(Channel::Control)),
            Some(true) | None => Ok(()),
        }
    }

    fn open_session(&mut self, _peer: &PeerId, session: SessionToken) {
        self.broadcast.vouch(session.as_bytes(), true);
    }

    fn end_session(&mut self, session: SessionToken) {
        self.broadcast.vouch(session.as_bytes(), false);
    }

    fn disconnect(&mut self, peer: &PeerId, session: Option<SessionToken>) {
        self.control.disconnect(peer.as_bytes());
        if let Some(session) = session {
            self.cut_broadcast(session);
        }
    }

    fn cut_broadcast(&mut self, session: SessionToken) {
        self.broadcast.disconnect(session.as_bytes());
    }

    fn backlog(&self, session: SessionToken) -> Option<Backlog> {
        let backlog = self.broadcast.backlog(session.as_bytes())?;
        Some(Backlog { messages: backlog.messages, bytes: backlog.bytes })
    }

    fn dropped(&self) -> u64 {
        self.broadcast.dropped()
    }
}

//! A parent's end of the channels.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{LINGER, endpoint, refused};
use crate::id::SessionToken;
use crate::transport::{
    Address, Backlog, BindAddresses, BindError, BoundAddresses, Channel, ChannelError, Frames,
    ParentChannels, ParentEvent, ParentLimits, ParentLink, PeerAddress, PeerId, Protocol,
};
use crate::wire::MAX_PREFIXES;
#[cfg(unix)]
use crate::zmtp::ipc;
use crate::zmtp::{
    Arrival, Bound, Core, DisconnectReason, Endpoint, Handle, Limits, Listening, Message, OnFull, Opening,
    Options, SocketType, Untrusted, Vetting,
};

/// The capacities of the queues of control messages and of batches to the driver (guesses). Children
/// have their turns in front of them, so what is in them is what a child waits for at least.
const CONTROL_QUEUE: usize = 64;
const SUBMIT_QUEUE: usize = 1;
/// How many control messages, and batches, a child gets through before others have their turn (guesses).
const TURNS: (usize, usize) = (4, 1);
/// How much may wait for a child on control: somewhat more than may be unanswered there, and what repairs may come to.
const CONTROL: Bound = Bound::new(2_048, 64 << 20);
/// How much that came from one child may wait to be taken, on control and on submit.
const INBOUND: Bound = Bound::new(64, 1 << 20);
/// The largest control message taken of a child: the largest it has to say is a thousand prefixes of 255 bytes (a guess: four times that).
const CONTROL_FRAME: usize = 1 << 20;
/// How many subscriptions a child may change in a second, after as many at once as it may have (a
/// guess: each costs a microsecond, and the broadcasts that follow up to a hundred).
const SUBSCRIPTION_RATE: u32 = 1_024;

/// Binds a parent. Cancel safe: a cancelled call leaves nothing bound.
pub(super) async fn bind(
    addresses: &BindAddresses,
    limits: &ParentLimits,
    protocol: Protocol,
) -> Result<ParentLink, BindError> {
    let untrusted = Arc::new(Untrusted::new(limits.unauthenticated_bytes));
    let options = |frame: usize, opening: Opening| Options {
        limits: engine_limits(frame, limits),
        recv_hwm: INBOUND,
        stalled: Some(limits.stalled),
        linger: LINGER,
        vetting: Some(Vetting { untrusted: Arc::clone(&untrusted), opening }),
        turn: TURNS.0,
        ..Options::default()
    };
    // A child's answers go to the connection that asked, whatever identity others tell.
    let opening = Opening::Message(protocol.is_hello);
    let control = Options { send_hwm: CONTROL, numbers_peers: true, ..options(CONTROL_FRAME, opening) };
    // Twice what the host lets a member be behind: it judges first, and in words. Until it has, what finds no room is repaired. Whoever is no member has nobody
    // to judge it, and nothing to repair from.
    let broadcast = Options {
        send_hwm: Bound::new(limits.queue().saturating_mul(2), limits.bytes.saturating_mul(2)),
        send_age: Some(limits.age.saturating_mul(2)),
        on_full: OnFull::Disconnect,
        on_full_trusted: Some(OnFull::DropNewest),
        // A session has one connection here: it is cut, and its backlog told, by its name.
        unique_identities: true,
        ..options(CONTROL_FRAME, Opening::Subscriptions)
    };
    let name_of = move |frame: &Bytes| {
        (protocol.session_of)(frame).map(|session| Bytes::copy_from_slice(session.as_bytes()))
    };
    let submit = Options { turn: TURNS.1, ..options(limits.submit, Opening::Name(Arc::new(name_of))) };
    let router = Core::new(SocketType::Router, control, true);
    let publisher = Core::new(SocketType::Pub, broadcast, true);
    let puller = Core::new(SocketType::Pull, submit, false);

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
        submit: puller.handle(),
        _dropped: dropped.clone().drop_guard(),
    };
    // Each ends when the link is dropped and its last words are out, or have had their time.
    tokio::spawn(hand_up_control(router, events.clone(), dropped.clone()));
    tokio::spawn(hand_up_subscribers(publisher, events, dropped.clone()));
    tokio::spawn(hand_up_submits(puller, submits, dropped));
    Ok(ParentLink { addresses, channels: Box::new(channels), events: events_out, submits: submits_out })
}

/// What is taken of children, with frames up to this size.
fn engine_limits(frame: usize, limits: &ParentLimits) -> Limits {
    let unauthenticated = limits.unauthenticated.min(descriptors() / 8);
    // A child that comes back may be there twice for a moment.
    let connections = limits.children.saturating_add(limits.children / 4).saturating_add(unauthenticated);
    let default = Limits::default();
    Limits {
        frame,
        message: frame as u64 + 1024,
        frames: 8,
        unfinished: default.unfinished.max(frame.saturating_mul(4)),
        subscriptions: 2 * MAX_PREFIXES + 8,
        subscription_bytes: 256 << 10,
        subscription_rate: Some(SUBSCRIPTION_RATE),
        prefix: 256,
        half_open: unauthenticated,
        connections,
        per_address: Some(connections / 2),
        ..default
    }
}

/// How many file descriptors the process may have open.
fn descriptors() -> usize {
    #[cfg(unix)]
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        return usize::try_from(most).unwrap_or(usize::MAX);
    }
    usize::MAX
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
        while let Some(arrival) = router.arrival().await {
            match arrival {
                Arrival::Messages(batch) => {
                    let peer = PeerId::new(batch.peer.identity());
                    let address = PeerAddress::from(&batch.peer.address);
                    for message in batch {
                        let (peer, address) = (peer.clone(), address.clone());
                        let event = ParentEvent::Control { peer, address, frames: message.into_frames() };
                        if events.send(event).await.is_err() {
                            return;
                        }
                    }
                }
                // Of others, the driver has not heard.
                Arrival::Gone(peer, _) if peer.has_spoken() => {
                    let event = ParentEvent::ControlClosed { peer: PeerId::new(peer.identity()) };
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                Arrival::Gone(..) | Arrival::Ready | Arrival::Subscriptions => {}
            }
        }
    };
    until_dropped(router, dropped, work).await;
}

async fn hand_up_subscribers(publisher: Core, events: mpsc::Sender<ParentEvent>, dropped: CancellationToken) {
    let work = async |publisher: &mut Core| {
        while let Some(arrival) = publisher.arrival().await {
            let Arrival::Gone(peer, reason) = arrival else { continue };
            let identity = peer.identity();
            // One that is cut for its slowness is of no session, or of one that is over: none is waiting for word of it.
            let event = match SessionToken::from_slice(&identity) {
                _ if reason == DisconnectReason::TooSlow && !peer.is_trusted() => {
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
    submit: Handle,
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

    fn open_session(&mut self, peer: &PeerId, session: SessionToken) {
        self.control.trust(peer.as_bytes(), true);
        self.broadcast.trust(session.as_bytes(), true);
        self.submit.trust(session.as_bytes(), true);
    }

    fn end_session(&mut self, session: SessionToken) {
        self.broadcast.trust(session.as_bytes(), false);
        self.submit.trust(session.as_bytes(), false);
    }

    fn disconnect(&mut self, peer: &PeerId, session: Option<SessionToken>) {
        self.control.disconnect(peer.as_bytes());
        self.control.trust(peer.as_bytes(), false);
        if let Some(session) = session {
            self.cut_broadcast(session);
            self.submit.disconnect(session.as_bytes());
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

    fn rejected(&self) -> u64 {
        self.control.rejected() + self.broadcast.rejected() + self.submit.rejected()
    }
}

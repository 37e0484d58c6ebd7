//! What the parts of a socket share: its peers, its queues, its tasks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection_limiter::ConnectionLimiter;
use super::endpoint::PeerAddress;
use super::inbound::{Arrival, Batch, Credit, Inbound, Leftovers};
use super::monitor::{CAPACITY, DisconnectReason, MonitorEvent, RefusedBy};
use super::options::Options;
use super::publisher::{Change, Publisher};
use super::queue::{Backlog, PeerQueue};
use super::unfinished::Unfinished;
use super::untrusted::Untrusted;
use super::vetting::{FRAME, Vetting};
use crate::sync::{lock, until};
use crate::zmtp::command::MAX_IDENTITY;
use crate::zmtp::connection::later;
use crate::zmtp::{Limits, Message, PeerInfo, SocketType, Violation};

/// One connection, and what waits for it and from it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Tells it from all others of the socket.
    pub(super) key: u64,
    pub(crate) address: PeerAddress,
    pub(super) queue: PeerQueue,
    pub(super) credit: Credit,
    ready: OnceLock<Introduced>,
    /// Whether its connection has ended. It keeps its identity until all that it said is read.
    is_over: AtomicBool,
    /// Its number in [`Untrusted`]; 0 once it is trusted.
    untrusted: AtomicU64,
    /// The trusted name that it has told in its messages.
    name: OnceLock<Bytes>,
    /// Whether anything that it said was handed to the socket's reader.
    pub(super) has_spoken: AtomicBool,
}

/// What is known of a peer that has introduced itself.
#[derive(Debug)]
struct Introduced {
    info: PeerInfo,
    /// Its identity, or the one it was given here.
    identity: Bytes,
}

impl Peer {
    /// Its identity, or the one it was given here; empty before the handshake.
    pub(crate) fn identity(&self) -> Bytes {
        self.ready.get().map(|ready| ready.identity.clone()).unwrap_or_default()
    }

    /// Whether anything that it said was handed to the socket's reader.
    pub(crate) fn has_spoken(&self) -> bool {
        self.has_spoken.load(Ordering::Relaxed)
    }

    /// Whether the peer is trusted; see [`Untrusted`].
    pub(crate) fn is_trusted(&self) -> bool {
        self.untrusted().is_none()
    }

    pub(super) fn untrusted(&self) -> Option<u64> {
        Some(self.untrusted.load(Ordering::Relaxed)).filter(|number| *number != 0)
    }

    pub(super) fn set_untrusted(&self, number: u64) {
        self.untrusted.store(number, Ordering::Relaxed);
    }

    pub(super) fn set_trusted(&self) {
        self.untrusted.store(0, Ordering::Relaxed);
    }

    /// Whether nothing goes to it any more.
    pub(super) fn is_gone(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.queue.ended().is_some()
    }

    /// Its minor version.
    pub(super) fn minor(&self) -> u8 {
        self.ready.get().map_or(0, |ready| ready.info.minor)
    }
}

/// The peers that have introduced themselves.
#[derive(Debug, Default)]
struct Peers {
    /// Those, too, whose connection has ended, and who were not heard out. Mostly one of each name.
    by_identity: HashMap<Bytes, Vec<Arc<Peer>>>,
    /// How many those are.
    known: usize,
    /// Those that are connected, in the order in which they came; messages are dealt out from `next` on.
    list: Vec<Arc<Peer>>,
    next: usize,
    /// The names that are trusted.
    trusted: HashSet<Bytes>,
}

impl Peers {
    fn named(&self, identity: &[u8]) -> &[Arc<Peer>] {
        self.by_identity.get(identity).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, peer: &Arc<Peer>) {
        self.by_identity.entry(peer.identity()).or_default().push(Arc::clone(peer));
        self.known += 1;
        self.list.push(Arc::clone(peer));
    }

    /// Frees a peer's names, if it has any.
    fn free(&mut self, peer: &Peer) {
        self.known -= usize::from(self.free_name(&peer.identity(), peer));
        if let Some(name) = peer.name.get() {
            self.free_name(name, peer);
        }
    }

    /// Frees one name. Returns whether the peer had it.
    fn free_name(&mut self, name: &Bytes, peer: &Peer) -> bool {
        let Some(named) = self.by_identity.get_mut(name) else { return false };
        let before = named.len();
        named.retain(|other| other.key != peer.key);
        let had = named.len() < before;
        if named.is_empty() {
            self.by_identity.remove(name);
        }
        had
    }
}

#[derive(Debug)]
pub(super) struct Hub {
    pub(super) kind: SocketType,
    pub(super) options: Options,
    peers: Mutex<Peers>,
    pub(super) connections: ConnectionLimiter,
    pub(super) untrusted: Arc<Untrusted>,
    pub(super) inbound: Inbound,
    pub(super) unfinished: Unfinished,
    pub(super) leftovers: Arc<Leftovers>,
    publisher: Option<Publisher>,
    /// What a subscribing socket subscribes to, and how often.
    subscriptions: Mutex<BTreeMap<Bytes, usize>>,
    /// Made for the first who listens: it has room for all that it may hold from the beginning.
    events: OnceLock<broadcast::Sender<MonitorEvent>>,
    /// Told when there is a peer more, or room at one that was full.
    pub(super) room: Notify,
    next_key: AtomicU64,
    /// Messages that nobody took: from peers, where this socket does not receive or passes them over; and upward ones of XSUB that found no room.
    unrouted: AtomicU64,
    /// Messages dropped at peers that are gone.
    dropped: AtomicU64,
    /// Connections that were displaced or rejected.
    rejected: AtomicU64,
    /// Whether the reader wants to know of peers that come and go.
    tells_peers: bool,
    /// Until when somebody waits for all to be written.
    closing: OnceLock<Instant>,
    pub(super) cancel: CancellationToken,
    /// Cancelled as soon as no more connections are taken.
    pub(super) listening: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Hub {
    pub(super) fn new(kind: SocketType, options: Options, tells_peers: bool) -> Arc<Self> {
        let cancel = CancellationToken::new();
        // Without a budget of several sockets, the count of half-open connections bounds their memory.
        let untrusted = options
            .vetting
            .as_ref()
            .map_or_else(|| Arc::new(Untrusted::new(usize::MAX)), |vetting| Arc::clone(&vetting.untrusted));
        let publisher = kind
            .publishes()
            .then(|| Publisher::new(&options, kind == SocketType::Xpub, Arc::clone(&untrusted)));
        Arc::new(Self {
            kind,
            unfinished: Unfinished::new(options.limits.unfinished),
            leftovers: Arc::new(Leftovers::new(options.recv_left.unwrap_or(options.recv_hwm))),
            peers: Mutex::default(),
            connections: ConnectionLimiter::default(),
            untrusted,
            inbound: Inbound::new(options.turn),
            publisher,
            subscriptions: Mutex::default(),
            events: OnceLock::new(),
            room: Notify::new(),
            next_key: AtomicU64::new(1),
            unrouted: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            tells_peers,
            closing: OnceLock::new(),
            listening: cancel.child_token(),
            cancel,
            tasks: TaskTracker::new(),
            options,
        })
    }

    pub(super) fn emit(&self, event: MonitorEvent) {
        tracing::debug!(socket = %self.kind, ?event, "zmtp");
        if let Some(events) = self.events.get() {
            // Nobody listening any more is no error.
            let _ = events.send(event);
        }
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<MonitorEvent> {
        self.events.get_or_init(|| broadcast::Sender::new(CAPACITY)).subscribe()
    }

    /// Tells this socket from others that share its [`Untrusted`].
    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Makes room for one more connection, if an untrusted one is there to give way.
    pub(super) fn displace_one(&self) -> bool {
        self.untrusted.displace_one(self.number())
    }

    /// Waits until all displaced connections have ended. Cancel safe.
    pub(super) async fn settled(&self) {
        until(&self.room, || self.untrusted.is_settled(self.number()).then_some(())).await;
    }

    /// Admits a connection, or names the limit that refuses it. A connection that this side dialled is
    /// trusted, and not counted by address.
    pub(super) fn admit(&self, address: PeerAddress, is_ours: bool) -> Result<Arc<Peer>, RefusedBy> {
        let limits = &self.options.limits;
        let mut admitted = self.connections.admit(limits, &address, is_ours);
        if admitted == Err(RefusedBy::Connections) && self.displace_one() {
            // The displaced connection frees its place in a moment.
            admitted = self.connections.admit_above(limits, &address, is_ours);
        }
        admitted?;
        let peer = Arc::new(Peer {
            key: self.next_key.fetch_add(1, Ordering::Relaxed),
            address,
            queue: PeerQueue::new(self.options.send_hwm, self.options.send_age),
            credit: Credit::new(self.options.recv_hwm),
            ready: OnceLock::new(),
            is_over: AtomicBool::new(false),
            untrusted: AtomicU64::new(0),
            name: OnceLock::new(),
            has_spoken: AtomicBool::new(false),
        });
        if !is_ours {
            self.untrusted.enter(&peer, self.number(), limits.half_open);
        }
        Ok(peer)
    }

    /// A peer has introduced itself. It may not fit.
    pub(super) fn on_ready(&self, peer: &Arc<Peer>, info: PeerInfo) -> Result<(), DisconnectReason> {
        let has_none = info.identity.is_empty() || self.options.numbers_peers;
        let identity = if has_none { given_identity(peer.key) } else { info.identity.clone() };
        let (told, kind) = (info.identity.clone(), info.kind);
        // It is set once: a connection introduces itself once. Whether or not it may stay, so that who is refused has a name.
        let _ = peer.ready.set(Introduced { info, identity: identity.clone() });
        {
            // Held to the end, so that a subscription made meanwhile is sent once.
            let subscriptions = lock(&self.subscriptions);
            let mut peers = lock(&self.peers);
            if self.has_unique_identities() && !peers.named(&identity).is_empty() {
                return Err(DisconnectReason::IdentityInUse);
            }
            if self.kind == SocketType::Pair && peers.known > 0 {
                return Err(DisconnectReason::Occupied);
            }
            peers.add(peer);
            if self.options.vetting.is_none() || peers.trusted.contains(&identity) {
                self.untrusted.trust(peer);
            }
            if let Some(publisher) = &self.publisher {
                publisher.add(peer);
            }
            for prefix in subscriptions.keys() {
                peer.queue.push_change(true, prefix);
            }
        }
        self.emit(MonitorEvent::Ready { address: peer.address.clone(), identity: told, kind });
        if self.tells_peers {
            self.inbound.push(Arrival::Ready);
        }
        self.room.notify_waiters();
        Ok(())
    }

    /// A connection has ended: nothing more goes to the peer. Unless it is heard out, what it said before is still to be read, and
    /// [`on_heard_out`](Self::on_heard_out) follows.
    pub(super) fn on_ended(
        &self,
        peer: &Arc<Peer>,
        is_ours: bool,
        reason: &DisconnectReason,
        is_heard_out: bool,
    ) {
        {
            let mut peers = lock(&self.peers);
            peer.is_over.store(true, Ordering::Relaxed);
            peers.list.retain(|other| other.key != peer.key);
        }
        self.untrusted.leave(peer, self.number());
        peer.credit.leave(&self.leftovers, is_ours);
        if let Some(publisher) = &self.publisher
            && publisher.remove(peer) == Change::Woken
        {
            self.inbound.push(Arrival::Subscriptions);
        }
        let is_rejection = matches!(
            reason,
            DisconnectReason::Displaced | DisconnectReason::Rejected(_) | DisconnectReason::Violation(_)
        );
        if is_rejection && !peer.is_trusted() {
            self.rejected.fetch_add(1, Ordering::Relaxed);
        }
        self.dropped.fetch_add(peer.queue.dropped(), Ordering::Relaxed);
        let lost = peer.queue.abandon();
        if *reason == DisconnectReason::TooSlow {
            // Those that a cut queue held are counted already.
            self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
        }
        if is_heard_out {
            self.connections.leave(&peer.address, is_ours);
        }
        let event = MonitorEvent::Disconnected {
            address: peer.address.clone(),
            identity: peer.ready.get().map(|ready| ready.info.identity.clone()).unwrap_or_default(),
            reason: reason.clone(),
            lost,
        };
        {
            let mut peers = lock(&self.peers);
            self.emit(event);
            if is_heard_out {
                self.part_from(&mut peers, peer, reason);
            }
        }
        self.room.notify_waiters();
    }

    /// All that a peer said whose connection has ended was read.
    pub(super) fn on_heard_out(&self, peer: &Arc<Peer>, is_ours: bool, reason: &DisconnectReason) {
        self.connections.leave(&peer.address, is_ours);
        self.part_from(&mut lock(&self.peers), peer, reason);
    }

    /// Tells that a peer is gone, if it was taken, and frees its identity. Under one lock, so that the next of that name is told of after it.
    fn part_from(&self, peers: &mut Peers, peer: &Arc<Peer>, reason: &DisconnectReason) {
        let is_known = peers.named(&peer.identity()).iter().any(|known| known.key == peer.key);
        if is_known && self.tells_peers {
            self.inbound.push(Arrival::Gone(Arc::clone(peer), reason.clone()));
        }
        peers.free(peer);
    }

    /// A subscription of a peer's, or its end.
    pub(super) fn on_subscription(
        &self,
        peer: &Arc<Peer>,
        subscribe: bool,
        prefix: &Bytes,
    ) -> Result<(), Violation> {
        let Some(publisher) = &self.publisher else { return Ok(()) };
        let limits = &self.options.limits;
        let change = if subscribe {
            publisher.subscribe(peer, prefix, limits)
        } else {
            publisher.cancel(peer, prefix)
        };
        match change {
            Change::Refused(violation) => return Err(violation),
            Change::Woken => self.inbound.push(Arrival::Subscriptions),
            Change::None => {}
        }
        Ok(())
    }

    /// Messages came from a peer. Those that this socket does not take are dropped, and counted.
    pub(super) fn on_messages(&self, peer: &Arc<Peer>, messages: Vec<Message>, bytes: usize) {
        if self.kind.receives() {
            // An empty frame has two octets on the wire, and costs its handle all the same.
            let frames: usize = messages.iter().map(Message::len).sum();
            let bytes = bytes.saturating_add(frames * size_of::<Bytes>());
            peer.has_spoken.store(true, Ordering::Relaxed);
            self.inbound.push(Arrival::Messages(Batch::new(peer, messages, bytes)));
        } else {
            self.pass_over(messages.len());
        }
    }

    /// Counts messages that nobody takes.
    pub(super) fn pass_over(&self, count: usize) {
        self.unrouted.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn unrouted(&self) -> u64 {
        self.unrouted.load(Ordering::Relaxed)
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    pub(super) fn publisher(&self) -> Option<&Publisher> {
        self.publisher.as_ref()
    }

    /// Puts what was published into the queues.
    pub(super) fn flush(&self) {
        if let Some(publisher) = &self.publisher {
            publisher.flush();
        }
    }

    /// Subscribes, or takes one of as many subscriptions back, at all peers and at those to come.
    pub(super) fn change_subscription(&self, subscribe: bool, prefix: Bytes) {
        let mut subscriptions = lock(&self.subscriptions);
        let count = subscriptions.entry(prefix.clone()).or_default();
        let before = *count;
        *count = if subscribe { before + 1 } else { before.saturating_sub(1) };
        let (is, was) = (*count > 0, before > 0);
        if !is {
            subscriptions.remove(&prefix);
        }
        if is != was {
            for peer in &lock(&self.peers).list {
                peer.queue.push_change(subscribe, &prefix);
            }
        }
    }

    /// Hands a message to the next peer that has room for it. `false` where none has.
    pub(super) fn deal(&self, message: &Message) -> Option<Arc<Peer>> {
        let mut peers = lock(&self.peers);
        let count = peers.list.len();
        for step in 0..count {
            let index = (peers.next + step) % count;
            if peers.list[index].queue.push(message) {
                peers.next = (index + 1) % count;
                return Some(Arc::clone(&peers.list[index]));
            }
        }
        None
    }

    /// Hands a message to every peer, whatever it subscribes to: upward, from XSUB.
    pub(super) fn send_to_all(&self, message: &Message) {
        for peer in &lock(&self.peers).list {
            if !peer.queue.push(message) {
                self.pass_over(1);
            }
        }
    }

    /// Whether no two peers may have the same identity.
    fn has_unique_identities(&self) -> bool {
        self.options.unique_identities || self.kind == SocketType::Router
    }

    /// Whom to send to by this identity.
    pub(super) fn peer(&self, identity: &[u8]) -> Option<Arc<Peer>> {
        lock(&self.peers).named(identity).iter().find(|peer| !peer.is_gone()).cloned()
    }

    /// Cuts the connections of all peers of this identity, and hears no more of those that have ended. Whether there were any.
    pub(super) fn disconnect(&self, identity: &[u8]) -> bool {
        let peers = lock(&self.peers);
        let named = peers.named(identity);
        named.iter().for_each(|peer| peer.queue.end(DisconnectReason::Asked));
        !named.is_empty()
    }

    /// Trusts the peers of this name from now on, also those to come; or distrusts them.
    pub(super) fn trust(&self, name: &[u8], is_trusted: bool) {
        // A peer that becomes ready meanwhile is among the named ones, or finds its name here.
        let mut peers = lock(&self.peers);
        if is_trusted {
            peers.trusted.insert(Bytes::copy_from_slice(name));
        } else {
            peers.trusted.remove(name);
        }
        for peer in peers.named(name) {
            if is_trusted {
                self.untrusted.trust(peer);
                // Its connection reads with other limits now.
                peer.queue.nudge();
            } else if peer.is_trusted() && !peer.is_gone() {
                self.untrusted.enter(peer, self.number(), self.options.limits.half_open);
            }
        }
    }

    /// Trusts a peer that has told a name in its messages, if the name is trusted. Returns whether it
    /// is.
    pub(super) fn trust_as(&self, peer: &Arc<Peer>, name: Bytes) -> bool {
        let mut peers = lock(&self.peers);
        if !peers.trusted.contains(&name) {
            return false;
        }
        if peer.name.set(name.clone()).is_ok() && name != peer.identity() {
            peers.by_identity.entry(name).or_default().push(Arc::clone(peer));
        }
        self.untrusted.trust(peer);
        true
    }

    pub(super) fn vetting(&self) -> Option<&Vetting> {
        self.options.vetting.as_ref()
    }

    /// What is taken of a peer that is not trusted.
    pub(super) fn untrusted_limits(&self) -> Limits {
        let limits = self.options.limits.clone();
        match self.options.vetting {
            Some(_) => Limits { frame: limits.frame.min(FRAME), message: FRAME as u64, ..limits },
            None => limits,
        }
    }

    /// What waits for a peer of this identity: of several, for the one for which most octets wait.
    pub(super) fn backlog(&self, identity: &[u8]) -> Option<Backlog> {
        let peers = lock(&self.peers);
        let live = peers.named(identity).iter().filter(|peer| !peer.is_over.load(Ordering::Relaxed));
        live.map(|peer| peer.queue.backlog()).max_by_key(|backlog| (backlog.bytes, backlog.messages))
    }

    pub(super) fn peer_count(&self) -> usize {
        lock(&self.peers).list.len()
    }

    /// Messages dropped on full queues.
    pub(super) fn dropped(&self) -> u64 {
        let live: u64 = lock(&self.peers).list.iter().map(|peer| peer.queue.dropped()).sum();
        self.dropped.load(Ordering::Relaxed) + live
    }

    /// From now on, connections tell when they have written all.
    pub(super) fn begin_closing(&self) {
        // Only the first call counts: a socket is closed once.
        let until = later(Instant::now().into_std(), self.options.linger);
        let _ = self.closing.set(Instant::from_std(until));
        self.listening.cancel();
        self.flush();
        lock(&self.peers).list.iter().for_each(|peer| peer.queue.nudge());
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get().is_some()
    }

    /// Until when a socket that is being closed lingers.
    pub(super) fn lingers_until(&self) -> Option<Instant> {
        self.closing.get().copied()
    }

    /// Messages that wait to be written.
    pub(super) fn queued(&self) -> usize {
        lock(&self.peers).list.iter().map(|peer| peer.queue.backlog().messages).sum()
    }

    /// Whether nothing waits to be written any more.
    pub(super) fn is_flushed(&self) -> bool {
        lock(&self.peers).list.iter().all(|peer| peer.queue.is_flushed())
    }
}

/// The identity of a peer that told none: it begins with a zero, as none that is told may (RFC 28).
fn given_identity(key: u64) -> Bytes {
    let mut identity = BytesMut::with_capacity(9);
    identity.put_u8(0);
    identity.put_u64(key);
    debug_assert!(identity.len() <= MAX_IDENTITY);
    identity.freeze()
}

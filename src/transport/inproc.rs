//! `inproc://`: the three channels as bounded queues between links of one process.
//!
//! A bound parent is a [`Hub`] in a registry of the process; children find it by name. All that both sides touch lies
//! in the hub, behind one lock that is never held across a wait. There are no tasks. Room for the news of a closed
//! connection is reserved when it opens, so that a full queue never hides it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{
    Address, Backlog, BindAddresses, BindError, BoundAddresses, Channel, ChannelError, ChildChannels,
    ChildEvent, ChildLink, DialError, Frames, ParentChannels, ParentEvent, ParentLimits, ParentLink,
    PeerAddress, PeerId, Protocol, Transport,
};
use crate::id::SessionToken;
use crate::sync::lock;

/// How many control messages may wait: at the parent from all children, at each child.
const CONTROL_QUEUE: usize = 1_024;

/// How many messages from the submit channel may wait at the parent, for each child that there may be: a child has at most
/// 1,000 unanswered ones, so its sends never find the queue full. Only a bound: what costs memory is what waits.
const SUBMIT_QUEUE: usize = 1_024 * MAX_CHILDREN;

/// How many children a parent may have. Only a bound: what costs memory is what waits.
const MAX_CHILDREN: usize = 65_536;

/// Room set aside at the parent for each child: that its control and its broadcast connection closed.
const PARENT_RESERVE: usize = 2;

/// Room set aside at each child: that one of its three channels was lost.
const CHILD_RESERVE: usize = 3;

/// The bound parents by name.
static REGISTRY: Mutex<BTreeMap<String, Arc<Hub>>> = Mutex::new(BTreeMap::new());

/// Tells those who dial that a name was bound.
static BOUND: Notify = Notify::const_new();

/// The transport for `inproc://NAME`: links within this process.
///
/// One name serves the three channels. A broadcast message that finds no room for a child within [`ParentLimits`] is
/// dropped for that child and counted; [`backlog`](ParentChannels::backlog) tells what waits.
///
/// ```
/// use zincmq::transport::{BindAddresses, InprocTransport, ParentLimits, Protocol, Transport};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let control: zincmq::Address = "inproc://example".parse()?;
/// let addresses = BindAddresses { control: control.clone(), broadcast: None, submit: None };
/// let parent = InprocTransport::new().bind(&addresses, &ParentLimits::default(), Protocol::default()).await?;
/// let child = InprocTransport::new().dial(&control, std::time::Duration::from_secs(1)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct InprocTransport {}

impl InprocTransport {
    /// The transport.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

#[async_trait]
impl Transport for InprocTransport {
    async fn bind(
        &self,
        addresses: &BindAddresses,
        limits: &ParentLimits,
        _protocol: Protocol,
    ) -> Result<ParentLink, BindError> {
        let unsupported =
            |address: &Address, reason| Err(BindError::Unsupported { address: address.clone(), reason });
        let control = &addresses.control;
        let Address::Inproc(name) = control else {
            return unsupported(control, "the in-process transport binds inproc:// only");
        };
        for other in [&addresses.broadcast, &addresses.submit].into_iter().flatten() {
            if other != control {
                return unsupported(other, "in process the three channels share one name");
            }
        }
        let (events, events_out) = mpsc::channel(CONTROL_QUEUE + PARENT_RESERVE * MAX_CHILDREN);
        let (submits, submits_out) = mpsc::channel(SUBMIT_QUEUE);
        let hub = Arc::new(Hub { events, submits, limits: *limits, children: Mutex::default() });
        let mut registry = lock(&REGISTRY);
        if registry.contains_key(name) {
            return Err(BindError::InUse { address: control.clone() });
        }
        registry.insert(name.clone(), Arc::clone(&hub));
        drop(registry);
        BOUND.notify_waiters();
        let addresses =
            BoundAddresses { control: control.clone(), broadcast: control.clone(), submit: control.clone() };
        let channels = Box::new(InprocParent { name: name.clone(), hub, dropped: 0 });
        Ok(ParentLink { addresses, channels, events: events_out, submits: submits_out })
    }

    async fn dial(&self, control: &Address, timeout: Duration) -> Result<ChildLink, DialError> {
        let Address::Inproc(name) = control else {
            return Err(DialError::Unsupported {
                address: control.clone(),
                reason: "the in-process transport dials inproc:// only",
            });
        };
        let dialling = async {
            loop {
                // Before looking, or a name bound in between would be missed.
                let bound = BOUND.notified();
                let hub = lock(&REGISTRY).get(name).map(Arc::clone);
                if let Some(hub) = hub
                    && let Some(link) = hub.accept(name).await
                {
                    return link;
                }
                bound.await;
            }
        };
        timeout_at(Instant::now() + timeout, dialling).await.map_err(|_| DialError::Unreachable {
            address: control.clone(),
            reason: "nothing in this process has bound the name, or it accepts nobody".to_owned(),
        })
    }
}

/// What a parent and its children share.
struct Hub {
    events: mpsc::Sender<ParentEvent>,
    submits: mpsc::Sender<Frames>,
    limits: ParentLimits,
    children: Mutex<Children>,
}

#[derive(Default)]
struct Children {
    /// Set when the parent's link is dropped.
    closed: bool,
    by_peer: HashMap<PeerId, Child>,
    by_session: HashMap<SessionToken, PeerId>,
}

/// A connected child, as its parent sees it.
struct Child {
    events: mpsc::Sender<ChildEvent>,
    /// Of control, broadcast and submit.
    lost: [Option<OwnedPermit<ChildEvent>>; CHILD_RESERVE],
    closed: [OwnedPermit<ParentEvent>; PARENT_RESERVE],
    heard: bool,
    attached: Option<Subscriber>,
}

/// The broadcast channel of an attached child.
struct Subscriber {
    session: SessionToken,
    /// How often each prefix is subscribed.
    prefixes: BTreeMap<Bytes, usize>,
    queue: mpsc::Sender<Frames>,
    /// The sizes of what waits, oldest first, and of some that were taken since.
    sizes: VecDeque<usize>,
    bytes: usize,
}

impl Subscriber {
    fn backlog(&mut self) -> Backlog {
        let messages = self.queue.max_capacity() - self.queue.capacity();
        while self.sizes.len() > messages {
            self.bytes -= self.sizes.pop_front().unwrap_or_default();
        }
        Backlog { messages, bytes: self.bytes }
    }

    /// Queues the message; whether there was room.
    fn push(&mut self, lane: &Bytes, body: &Bytes, limits: &ParentLimits) -> bool {
        let size = lane.len() + body.len();
        let backlog = self.backlog();
        if backlog.messages > 0 && backlog.bytes + size > limits.bytes {
            return false;
        }
        match self.queue.try_send(vec![lane.clone(), body.clone()]) {
            Ok(()) => {
                self.sizes.push_back(size);
                self.bytes += size;
                true
            }
            Err(TrySendError::Full(_)) => false,
            // The child has dropped its receiver: nobody misses the message.
            Err(TrySendError::Closed(_)) => true,
        }
    }
}

impl Hub {
    /// Connects a child, unless the parent is gone. Waits for room while the parent is behind.
    async fn accept(self: Arc<Self>, name: &str) -> Option<ChildLink> {
        let reserve = || self.events.clone().reserve_owned();
        let closed = [reserve().await.ok()?, reserve().await.ok()?];
        let (events, events_out) = mpsc::channel(CONTROL_QUEUE + CHILD_RESERVE);
        let (broadcasts, broadcasts_out) = mpsc::channel(self.limits.queue());
        let reserve = || events.clone().try_reserve_owned().ok();
        let lost = [Some(reserve()?), Some(reserve()?), Some(reserve()?)];
        let peer = PeerId::new(Bytes::copy_from_slice(Uuid::new_v4().as_bytes()));

        let mut children = lock(&self.children);
        if children.closed {
            return None;
        }
        let child = Child { events, lost, closed, heard: false, attached: None };
        children.by_peer.insert(peer.clone(), child);
        let channels =
            InprocChild { name: name.to_owned(), hub: Arc::clone(&self), peer, broadcasts: Some(broadcasts) };
        Some(ChildLink { channels: Box::new(channels), events: events_out, broadcasts: broadcasts_out })
    }

    /// Closes a child's connections and tells both sides.
    fn close(&self, children: &mut Children, peer: &PeerId) {
        let Some(child) = children.by_peer.remove(peer) else {
            return;
        };
        let [control, broadcast, submit] = child.lost;
        let [control_closed, broadcast_closed] = child.closed;
        let tell = |permit: Option<OwnedPermit<ChildEvent>>, channel| {
            permit.map(|permit| permit.send(ChildEvent::Lost(channel)));
        };
        tell(control, Channel::Control);
        if child.heard {
            control_closed.send(ParentEvent::ControlClosed { peer: peer.clone() });
        }
        if let Some(Subscriber { session, .. }) = child.attached {
            tell(broadcast, Channel::Broadcast);
            tell(submit, Channel::Submit);
            broadcast_closed.send(ParentEvent::BroadcastClosed { session });
            if children.by_session.get(&session) == Some(peer) {
                children.by_session.remove(&session);
            }
        }
    }
}

/// A bound parent.
struct InprocParent {
    name: String,
    hub: Arc<Hub>,
    dropped: u64,
}

impl fmt::Debug for InprocParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InprocParent").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ParentChannels for InprocParent {
    fn broadcast(&mut self, lane: Bytes, body: Bytes) {
        for child in lock(&self.hub.children).by_peer.values_mut() {
            if let Some(subscriber) = &mut child.attached
                && subscriber.prefixes.keys().any(|prefix| lane.starts_with(prefix))
                && !subscriber.push(&lane, &body, &self.hub.limits)
            {
                self.dropped += 1;
            }
        }
    }

    fn send_control(&mut self, peer: &PeerId, frame: Bytes) -> Result<(), ChannelError> {
        let children = lock(&self.hub.children);
        let Some(child) = children.by_peer.get(peer) else {
            return Ok(());
        };
        match child.events.try_send(ChildEvent::Control(vec![frame])) {
            Err(TrySendError::Full(_)) => Err(ChannelError::Full(Channel::Control)),
            // A child that takes no events any more is as good as gone.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }

    fn disconnect(&mut self, peer: &PeerId, session: Option<SessionToken>) {
        let mut children = lock(&self.hub.children);
        self.hub.close(&mut children, peer);
        if let Some(peer) = session.and_then(|session| children.by_session.get(&session).cloned()) {
            self.hub.close(&mut children, &peer);
        }
    }

    fn cut_broadcast(&mut self, session: SessionToken) {
        let children = &mut *lock(&self.hub.children);
        let Some(child) =
            children.by_session.remove(&session).and_then(|peer| children.by_peer.get_mut(&peer))
        else {
            return;
        };
        // With the queue goes what is in it, as far as the child has not taken it.
        child.attached = None;
        let [_, broadcast, _] = &mut child.lost;
        broadcast.take().map(|permit| permit.send(ChildEvent::Lost(Channel::Broadcast)));
    }

    fn backlog(&self, session: SessionToken) -> Option<Backlog> {
        let children = &mut *lock(&self.hub.children);
        let child = children.by_peer.get_mut(children.by_session.get(&session)?)?;
        child.attached.as_mut().map(Subscriber::backlog)
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Drop for InprocParent {
    fn drop(&mut self) {
        lock(&REGISTRY).remove(&self.name);
        let mut children = lock(&self.hub.children);
        children.closed = true;
        let peers: Vec<PeerId> = children.by_peer.keys().cloned().collect();
        for peer in peers {
            self.hub.close(&mut children, &peer);
        }
    }
}

/// A dialled child.
struct InprocChild {
    name: String,
    hub: Arc<Hub>,
    peer: PeerId,
    /// The queue of its broadcasts until it attaches.
    broadcasts: Option<mpsc::Sender<Frames>>,
}

impl InprocChild {
    /// Changes the subscriptions of an attached child.
    fn subscriptions(&self, change: impl FnOnce(&mut BTreeMap<Bytes, usize>)) -> Result<(), ChannelError> {
        let mut children = lock(&self.hub.children);
        let attached = children.by_peer.get_mut(&self.peer).and_then(|child| child.attached.as_mut());
        change(&mut attached.ok_or(ChannelError::Closed(Channel::Broadcast))?.prefixes);
        Ok(())
    }
}

impl fmt::Debug for InprocChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InprocChild")
            .field("name", &self.name)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ChildChannels for InprocChild {
    fn send_control(&mut self, frame: Bytes) -> Result<(), ChannelError> {
        let mut children = lock(&self.hub.children);
        let reserved = PARENT_RESERVE * children.by_peer.len();
        let closed = ChannelError::Closed(Channel::Control);
        let child = children.by_peer.get_mut(&self.peer).ok_or(closed.clone())?;
        let events = &self.hub.events;
        if (events.max_capacity() - events.capacity()).saturating_sub(reserved) >= CONTROL_QUEUE {
            return Err(ChannelError::Full(Channel::Control));
        }
        child.heard = true;
        let (peer, address) = (self.peer.clone(), PeerAddress::Inproc);
        events.try_send(ParentEvent::Control { peer, address, frames: vec![frame] }).map_err(|error| {
            match error {
                TrySendError::Full(_) => ChannelError::Full(Channel::Control),
                TrySendError::Closed(_) => closed,
            }
        })
    }

    async fn attach(
        &mut self,
        broadcast: &Address,
        submit: &Address,
        session: SessionToken,
        _timeout: Duration,
    ) -> Result<(), DialError> {
        for address in [broadcast, submit] {
            if !matches!(address, Address::Inproc(name) if *name == self.name) {
                let reason = "in process the three channels share one name";
                return Err(DialError::Unsupported { address: address.clone(), reason });
            }
        }
        let mut guard = lock(&self.hub.children);
        let children = &mut *guard;
        let Some(child) = children.by_peer.get_mut(&self.peer) else {
            let reason = "the parent is gone, or has closed the connection".to_owned();
            return Err(DialError::Unreachable { address: broadcast.clone(), reason });
        };
        let Some(queue) = self.broadcasts.take() else {
            return Err(DialError::Unsupported {
                address: broadcast.clone(),
                reason: "the link is attached already",
            });
        };
        child.attached =
            Some(Subscriber { session, prefixes: BTreeMap::new(), queue, sizes: VecDeque::new(), bytes: 0 });
        children.by_session.insert(session, self.peer.clone());
        Ok(())
    }

    fn subscribe(&mut self, prefix: &str) -> Result<(), ChannelError> {
        self.subscriptions(|prefixes| {
            *prefixes.entry(Bytes::copy_from_slice(prefix.as_bytes())).or_default() += 1;
        })
    }

    fn unsubscribe(&mut self, prefix: &str) -> Result<(), ChannelError> {
        self.subscriptions(|prefixes| {
            if let Some(count) = prefixes.get_mut(prefix.as_bytes()) {
                *count -= 1;
                if *count == 0 {
                    prefixes.remove(prefix.as_bytes());
                }
            }
        })
    }

    fn submit(&mut self, head: Bytes, body: Bytes) -> Result<(), ChannelError> {
        let closed = ChannelError::Closed(Channel::Submit);
        let children = lock(&self.hub.children);
        if children.by_peer.get(&self.peer).is_none_or(|child| child.attached.is_none()) {
            return Err(closed);
        }
        self.hub.submits.try_send(vec![head, body]).map_err(|error| match error {
            TrySendError::Full(_) => ChannelError::Full(Channel::Submit),
            TrySendError::Closed(_) => closed,
        })
    }
}

impl Drop for InprocChild {
    fn drop(&mut self) {
        self.hub.close(&mut lock(&self.hub.children), &self.peer);
    }
}

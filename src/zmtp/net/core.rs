//! What all kinds of sockets are made of.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};

use super::accept;
#[cfg(unix)]
use super::endpoint::unix_listener;
use super::endpoint::{Endpoint, Listener};
use super::error::{ClosedError, SendError, TrySendError};
use super::hub::{Hub, Peer};
use super::inbound::{Arrival, Batch};
use super::monitor::{Monitor, MonitorEvent};
use super::options::{OnFull, Options};
use super::publisher::{Published, Publisher};
use super::queue::Backlog;
use crate::sync::until;
use crate::zmtp::{Message, SocketType};

/// How many messages are published before others have their turn, whether or not anybody subscribes (a guess).
const SENDS_PER_TURN: u32 = 256;

/// The sending part of a socket. It does not keep the socket open.
#[derive(Debug, Clone)]
pub(crate) struct Handle(pub(super) Arc<Hub>);

impl Handle {
    /// Cuts the connections of peers of this identity, with all that waits for them. Whether there were any.
    pub(crate) fn disconnect(&self, identity: &[u8]) -> bool {
        self.0.disconnect(identity)
    }

    pub(crate) fn backlog(&self, identity: &[u8]) -> Option<Backlog> {
        self.0.backlog(identity)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    /// Connections that were closed since their peers were not trusted.
    pub(crate) fn rejected(&self) -> u64 {
        self.0.rejected()
    }

    pub(crate) fn peer_count(&self) -> usize {
        self.0.peer_count()
    }

    pub(super) fn publisher(&self) -> &Publisher {
        match self.0.publisher() {
            Some(publisher) => publisher,
            None => unreachable!("only sockets that publish are asked to"),
        }
    }

    /// Publishes without waiting; what becomes of it where somebody is full is up to the options.
    pub(crate) fn publish(&self, message: &Message) -> Published {
        self.publisher().publish(message)
    }

    /// Trusts the peers of this name from now on, also those to come; or distrusts them. The name is
    /// the identity that a peer has told, or what [`Opening::Name`](super::Opening::Name) finds.
    pub(crate) fn trust(&self, name: &[u8], is_trusted: bool) {
        self.0.trust(name, is_trusted);
    }

    pub(crate) fn subscribe(&self, prefix: Bytes) {
        self.0.change_subscription(true, prefix);
    }

    pub(crate) fn unsubscribe(&self, prefix: Bytes) {
        self.0.change_subscription(false, prefix);
    }

    /// Sends to the next peer, if there is one with room.
    pub(crate) fn try_deal(&self, message: &Message) -> Option<Arc<Peer>> {
        self.0.deal(message)
    }

    /// Sends to a peer: `None` where there is none of that identity, else whether it had room.
    pub(crate) fn try_route(&self, identity: &[u8], message: &Message) -> Option<bool> {
        self.0.peer(identity).map(|peer| peer.queue.push(message))
    }
}

/// Bound, and not taking connections yet. Dropping it frees the endpoint at once.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: Listener,
    pub(crate) endpoint: Endpoint,
}

impl Listening {
    /// A Unix socket that was bound elsewhere, and whose file is kept there.
    ///
    /// # Errors
    /// What the system says.
    #[cfg(unix)]
    pub(crate) fn adopt(listener: std::os::unix::net::UnixListener, endpoint: Endpoint) -> io::Result<Self> {
        Ok(Self { listener: Listener::Ipc { _file: None, listener: unix_listener(listener)? }, endpoint })
    }
}

/// What all sockets do.
#[derive(Debug)]
pub(crate) struct Core {
    pub(super) handle: Handle,
    /// What of the last arrival is left.
    current: Option<Batch>,
    /// What is left of the changes of subscriptions that were asked for.
    changes: std::vec::IntoIter<(bool, Bytes)>,
    sends: AtomicU32,
    closed: AtomicBool,
}

impl Core {
    pub(crate) fn new(kind: SocketType, options: Options, tells_peers: bool) -> Self {
        let hub = Hub::new(kind, options, tells_peers);
        Self {
            handle: Handle(hub),
            current: None,
            changes: Vec::new().into_iter(),
            sends: AtomicU32::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Binds; connections are taken when it is told to [`listen`](Self::listen) there.
    pub(crate) async fn bind(&self, endpoint: &Endpoint) -> io::Result<Listening> {
        let (listener, endpoint) = Listener::bind(endpoint, &self.handle.0.options).await?;
        Ok(Listening { listener, endpoint })
    }

    /// Takes connections, and gives the endpoint with the port that the system chose.
    pub(crate) fn listen(&self, at: Listening) -> Endpoint {
        let Listening { listener, endpoint } = at;
        let hub = &self.handle.0;
        hub.emit(MonitorEvent::Listening(endpoint.clone()));
        hub.tasks.spawn(accept::accept(Arc::clone(hub), listener));
        endpoint
    }

    pub(crate) fn connect(&self, endpoint: Endpoint) {
        self.handle.0.tasks.spawn(accept::keep_connected(Arc::clone(&self.handle.0), endpoint));
    }

    /// Connects; when the connection is lost it is not made again.
    pub(crate) async fn connect_once(&self, endpoint: &Endpoint) -> io::Result<()> {
        accept::connect_once(&self.handle.0, endpoint).await
    }

    pub(crate) fn monitor(&self) -> Monitor {
        Monitor::new(self.handle.0.listen())
    }

    /// What sends, for those who do not receive.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What came first, messages or word of peers; `None` at the end. Cancel safe.
    pub(crate) async fn arrival(&mut self) -> Option<Arrival> {
        if let Some(batch) = self.current.take() {
            return Some(Arrival::Messages(batch));
        }
        std::future::poll_fn(|cx| self.handle.0.inbound.poll_pop(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, ClosedError>> {
        loop {
            if let Some(batch) = &mut self.current {
                if let Some(message) = batch.next() {
                    return Poll::Ready(Ok(Next::Message(Arc::clone(&batch.peer), message)));
                }
                self.current = None;
            }
            if let Some((subscribe, prefix)) = self.changes.next() {
                return Poll::Ready(Ok(Next::Subscription(subscribe, prefix)));
            }
            match self.handle.0.inbound.poll_pop(cx) {
                Poll::Ready(Some(Arrival::Messages(batch))) => self.current = Some(batch),
                Poll::Ready(Some(Arrival::Gone(peer, _))) => return Poll::Ready(Ok(Next::Gone(peer))),
                Poll::Ready(Some(Arrival::Subscriptions)) => {
                    self.changes = self.handle.publisher().changes().into_iter();
                }
                Poll::Ready(Some(Arrival::Ready)) => {}
                Poll::Ready(None) => return Poll::Ready(Err(ClosedError)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    pub(super) async fn next(&mut self) -> Result<Next, ClosedError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next message, from whomever. What came together is handed out without counting who holds the peer.
    pub(super) async fn recv_message(&mut self) -> Result<Message, ClosedError> {
        if let Some(message) = self.current.as_mut().and_then(Iterator::next) {
            return Ok(message);
        }
        loop {
            match self.next().await? {
                Next::Message(_, message) => return Ok(message),
                Next::Subscription(subscribe, prefix) => return Ok(subscription_message(subscribe, &prefix)),
                Next::Gone(_) => {}
            }
        }
    }

    pub(super) async fn recv(&mut self) -> Result<(Arc<Peer>, Message), ClosedError> {
        loop {
            if let Next::Message(peer, message) = self.next().await? {
                return Ok((peer, message));
            }
        }
    }

    /// Does something again and again until it comes to a result; between, waits for room and peers.
    async fn until_room<T>(&self, attempt: impl FnMut() -> Option<T>) -> T {
        until(&self.handle.0.room, attempt).await
    }
    /// Gives others a turn now and then: a sender that never waits would starve its own connections.
    pub(super) async fn take_turns(&self, must: bool) {
        if must || self.sends.fetch_add(1, Ordering::Relaxed) % SENDS_PER_TURN == SENDS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) async fn send_published(&self, message: Message) -> Result<(), SendError> {
        if self.is_closed() {
            return Err(SendError::Closed(message));
        }
        let run_ended = self
            .until_room(|| match self.handle.publish(&message) {
                Published::Sent { run_ended } => Some(run_ended),
                Published::Full => None,
            })
            .await;
        self.take_turns(run_ended).await;
        Ok(())
    }

    /// Does not wait any more once it has sent, so that who is cancelled has sent nothing.
    pub(super) async fn send_dealt(&self, message: Message) -> Result<Arc<Peer>, SendError> {
        if self.is_closed() {
            return Err(SendError::Closed(message));
        }
        Ok(self.until_room(|| self.handle.try_deal(&message)).await)
    }

    /// The same; what came before it is sent is dropped. At once, since what peers have left keeps out those that are waited for.
    pub(super) async fn send_dealt_anew(&mut self, message: Message) -> Result<Arc<Peer>, SendError> {
        let hub = &self.handle.0;
        hub.pass_over(self.current.take().map_or(0, Iterator::count));
        if self.is_closed() {
            return Err(SendError::Closed(message));
        }
        let unwanted = std::future::poll_fn(|cx| {
            while let Poll::Ready(Some(arrival)) = hub.inbound.poll_pop(cx) {
                if let Arrival::Messages(batch) = arrival {
                    hub.pass_over(batch.count());
                }
            }
            Poll::<Infallible>::Pending
        });
        tokio::select! {
            biased;
            never = unwanted => match never {},
            peer = self.until_room(|| self.handle.try_deal(&message)) => Ok(peer),
        }
    }

    pub(super) fn try_send_dealt(&self, message: Message) -> Result<(), TrySendError> {
        if self.is_closed() {
            return Err(TrySendError::Never(SendError::Closed(message)));
        }
        self.handle.try_deal(&message).map(drop).ok_or(TrySendError::Full(message))
    }

    /// Sends to one peer; where there is no room, what the options say. Whether the peer is there. As [`send_dealt`](Self::send_dealt).
    pub(super) async fn send_to(&self, peer: &Peer, message: &Message) -> bool {
        let on_full = self.handle.0.options.on_full;
        self.until_room(|| {
            if peer.is_gone() {
                return Some(false);
            }
            if on_full == OnFull::Block {
                return peer.queue.push(message).then_some(true);
            }
            peer.queue.push_or(message, on_full);
            Some(true)
        })
        .await
    }

    /// Closes the socket: sends what waits, as long as `linger` allows; what still comes is dropped. How many messages were left.
    pub(crate) async fn close(&self) -> usize {
        self.closed.store(true, Ordering::Relaxed);
        self.handle.0.begin_closing();
        let flushed = self.until_room(|| self.handle.0.is_flushed().then_some(()));
        let _ = tokio::time::timeout(self.handle.0.options.linger, flushed).await;
        let left = self.handle.0.queued();
        self.handle.0.cancel.cancel();
        self.handle.0.tasks.close();
        self.handle.0.tasks.wait().await;
        self.handle.0.inbound.end();
        left
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.handle.0.cancel.cancel();
        self.handle.0.inbound.end();
    }
}

/// What came.
pub(super) enum Next {
    Message(Arc<Peer>, Message),
    Subscription(bool, Bytes),
    Gone(Arc<Peer>),
}

/// A subscription as XPUB's application sees it (RFC 29).
fn subscription_message(subscribe: bool, prefix: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(1 + prefix.len());
    frame.put_u8(subscribe.into());
    frame.put_slice(prefix);
    frame.freeze().into()
}

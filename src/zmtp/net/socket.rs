//! The sockets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::futures::Notified;

use super::accept;
#[cfg(unix)]
use super::endpoint::unix_listener;
use super::endpoint::{Endpoint, EndpointError, Listener};
use super::hub::{Hub, Peer};
use super::inbound::{Arrival, Batch};
use super::monitor::{DisconnectReason, Monitor, MonitorEvent};
use super::options::Options;
use super::publisher::{Published, Publisher};
use super::queue::Backlog;
use crate::zmtp::{Message, SocketType};

/// How many messages are published before others have their turn, whether or not anybody subscribes (a guess).
const SENDS_PER_TURN: u32 = 256;

/// Why a socket could not be bound, or connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The text is no address.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The system refused.
    #[error("cannot bind {endpoint}: {source}")]
    Io {
        /// What was asked for.
        endpoint: Endpoint,
        /// What the system said.
        source: io::Error,
    },
}

/// The socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the socket is closed")]
pub struct ClosedError;

/// Why a message was not sent. It comes back inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed(Message),
    /// No peer has the identity that the first frame names; or the one that asked is gone.
    #[error("no peer of that identity is connected")]
    Unroutable(Message),
    /// It is not this side's turn: REQ has asked already, REP was asked nothing.
    #[error("it is not this socket's turn to send")]
    OutOfTurn(Message),
}

/// Why a message was not sent at once. It comes back inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// There is no peer with room for it.
    #[error("there is no peer with room for the message")]
    Full(Message),
    /// It never will be sent.
    #[error(transparent)]
    Never(SendError),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
    /// It is not this side's turn: REQ has asked nothing.
    #[error("it is not this socket's turn to receive")]
    OutOfTurn,
    /// The peer that was asked is gone. Ask again: another may answer.
    #[error("the peer that was asked is gone")]
    PeerGone,
}

/// The sending part of a socket. It does not keep the socket open.
#[derive(Debug, Clone)]
pub(crate) struct Handle(Arc<Hub>);

impl Handle {
    /// Cuts the connection of a peer, with all that waits for it. Whether there was one.
    pub(crate) fn disconnect(&self, identity: &[u8]) -> bool {
        self.0.peer(identity).map(|peer| peer.queue.end(DisconnectReason::Asked)).is_some()
    }

    pub(crate) fn backlog(&self, identity: &[u8]) -> Option<Backlog> {
        self.0.peer(identity).map(|peer| peer.queue.backlog())
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped()
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

    /// Vouches for the subscriber of this identity, be it there or not, or takes that back: what is told of oneself is not to be believed. One that is
    /// vouched for is treated as [`Options::on_full_vouched`] says.
    pub(crate) fn vouch(&self, identity: &[u8], is_vouched: bool) {
        self.publisher().vouch(identity, is_vouched);
    }

    pub(crate) fn is_vouched(&self, identity: &[u8]) -> bool {
        self.publisher().is_vouched(identity)
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
    handle: Handle,
    /// What of the last arrival is left.
    current: Option<Batch>,
    sends: AtomicU32,
    closed: AtomicBool,
}

impl Core {
    pub(crate) fn new(kind: SocketType, options: Options, tells_peers: bool) -> Self {
        let hub = Hub::new(kind, options, tells_peers);
        Self { handle: Handle(hub), current: None, sends: AtomicU32::new(0), closed: AtomicBool::new(false) }
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
            match self.handle.0.inbound.poll_pop(cx) {
                Poll::Ready(Some(Arrival::Messages(batch))) => self.current = Some(batch),
                Poll::Ready(Some(Arrival::Gone(peer, _))) => return Poll::Ready(Ok(Next::Gone(peer))),
                Poll::Ready(Some(Arrival::Ready(_))) => {}
                Poll::Ready(None) => return Poll::Ready(Err(ClosedError)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    async fn next(&mut self) -> Result<Next, ClosedError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next message, from whomever. What came together is handed out without counting who holds the peer.
    async fn recv_message(&mut self) -> Result<Message, ClosedError> {
        if let Some(message) = self.current.as_mut().and_then(Iterator::next) {
            return Ok(message);
        }
        Ok(self.recv().await?.1)
    }

    async fn recv(&mut self) -> Result<(Arc<Peer>, Message), ClosedError> {
        loop {
            if let Next::Message(peer, message) = self.next().await? {
                return Ok((peer, message));
            }
        }
    }

    /// Does something again and again until it comes to a result; between, waits for room and peers.
    async fn until_room<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(result) = attempt() {
                return result;
            }
            let room: Notified<'_> = self.handle.0.room.notified();
            tokio::pin!(room);
            // Registered before the second look, so that no change falls between.
            room.as_mut().enable();
            if let Some(result) = attempt() {
                return result;
            }
            room.await;
        }
    }

    /// Gives others a turn now and then: a sender that never waits would starve its own connections.
    async fn take_turns(&self, must: bool) {
        if must || self.sends.fetch_add(1, Ordering::Relaxed) % SENDS_PER_TURN == SENDS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    async fn send_published(&self, message: Message) -> Result<(), SendError> {
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
    async fn send_dealt(&self, message: Message) -> Result<Arc<Peer>, SendError> {
        if self.is_closed() {
            return Err(SendError::Closed(message));
        }
        Ok(self.until_room(|| self.handle.try_deal(&message)).await)
    }

    fn try_send_dealt(&self, message: Message) -> Result<(), TrySendError> {
        if self.is_closed() {
            return Err(TrySendError::Never(SendError::Closed(message)));
        }
        self.handle.try_deal(&message).map(drop).ok_or(TrySendError::Full(message))
    }

    /// As [`send_dealt`](Self::send_dealt).
    async fn send_routed(&self, identity: &[u8], message: &Message) -> bool {
        self.until_room(|| match self.handle.try_route(identity, message) {
            Some(true) => Some(true),
            Some(false) => None,
            None => Some(false),
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

enum Next {
    Message(Arc<Peer>, Message),
    Gone(Arc<Peer>),
}

/// What every kind of socket has.
macro_rules! socket {
    ($(#[$doc:meta])* $name:ident, $kind:ident, tells_peers: $tells:expr $(, $field:ident: $type:ty)*) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            core: Core,
            $($field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl $name {
            /// A socket with the default [`Options`].
            #[must_use]
            pub fn new() -> Self {
                Self::with_options(Options::default())
            }

            /// A socket with these options.
            #[must_use]
            pub fn with_options(options: Options) -> Self {
                Self { core: Core::new(SocketType::$kind, options, $tells), $($field: Default::default(),)* }
            }

            /// Listens at an endpoint, beside others; gives it with the port that the system chose. Must be called within a tokio runtime. Cancel
            /// safe: a cancelled call leaves nothing bound.
            ///
            /// # Errors
            /// [`BindError`]; nothing is bound then.
            pub async fn bind(&self, endpoint: impl TryInto<Endpoint, Error: Into<EndpointError>>) -> Result<Endpoint, BindError> {
                let endpoint = endpoint.try_into().map_err(Into::into)?;
                let at = self.core.bind(&endpoint).await.map_err(|source| BindError::Io { endpoint, source })?;
                Ok(self.core.listen(at))
            }

            /// Keeps a connection to an endpoint, beside others: made at once or when somebody listens there, and again when it is lost. Must be called
            /// within a tokio runtime.
            ///
            /// # Errors
            /// [`EndpointError`] when the text is no address.
            pub fn connect(&self, endpoint: impl TryInto<Endpoint, Error: Into<EndpointError>>) -> Result<(), EndpointError> {
                self.core.connect(endpoint.try_into().map_err(Into::into)?);
                Ok(())
            }

            /// What happens to its connections from now on.
            #[must_use]
            pub fn monitor(&self) -> Monitor {
                self.core.monitor()
            }

            /// Cuts the connection of the peer of this identity, with all that waits for it. Whether there was one. A socket that connected here comes back.
            pub fn disconnect(&self, identity: &[u8]) -> bool {
                self.core.handle.disconnect(identity)
            }

            /// What waits for the peer of this identity; `None` where there is none.
            #[must_use]
            pub fn backlog(&self, identity: &[u8]) -> Option<Backlog> {
                self.core.handle.backlog(identity)
            }

            /// How many peers have introduced themselves and are connected.
            #[must_use]
            pub fn peers(&self) -> usize {
                self.core.handle.peer_count()
            }

            /// Messages dropped because the queues of those they were for were full.
            #[must_use]
            pub fn dropped(&self) -> u64 {
                self.core.handle.dropped()
            }

            /// Closes it: sends what waits, as long as [`Options::linger`] allows. Gives the number of messages that were left. Dropping it instead
            /// leaves all of them. Cancel safe: dropped then.
            pub async fn close(self) -> usize {
                self.core.close().await
            }
        }
    };
}

/// Receives from all peers alike.
macro_rules! receives {
    ($name:ident) => {
        impl $name {
            /// The next message. Cancel safe.
            ///
            /// # Errors
            /// [`ClosedError`] after the end.
            pub async fn recv(&mut self) -> Result<Message, ClosedError> {
                self.core.recv_message().await
            }
        }
    };
}

/// Sends to one peer after the other.
macro_rules! deals {
    ($name:ident) => {
        impl $name {
            /// Sends a message to the next peer that has room for it, and waits until there is one. Cancel safe: a cancelled call has sent nothing, unless
            /// it was about to return.
            ///
            /// # Errors
            /// [`SendError::Closed`], with the message inside.
            pub async fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
                self.core.send_dealt(message.into()).await?;
                self.core.take_turns(false).await;
                Ok(())
            }

            /// Sends a message to the next peer that has room for it, if there is one now.
            ///
            /// # Errors
            /// [`TrySendError`], with the message inside.
            pub fn try_send(&self, message: impl Into<Message>) -> Result<(), TrySendError> {
                self.core.try_send_dealt(message.into())
            }
        }
    };
}

/// Sends to all that subscribe.
macro_rules! publishes {
    ($name:ident) => {
        impl $name {
            /// Publishes a message to all that subscribe to a prefix of its first frame. What becomes of it for those who are behind is up to
            /// [`Options::on_full`]. Cancel safe: a cancelled call has published nothing, unless it was about to return.
            ///
            /// # Errors
            /// [`SendError::Closed`], with the message inside.
            pub async fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
                self.core.send_published(message.into()).await
            }
        }
    };
}

socket!(
    /// Publishes to subscribers (RFC 29).
    ///
    /// ```
    /// use futures::StreamExt;
    /// use zincmq::zmtp::{PubSocket, SubSocket};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let publisher = PubSocket::new();
    /// let endpoint = publisher.bind("tcp://127.0.0.1:0").await?;
    /// let mut subscriber = SubSocket::new();
    /// subscriber.subscribe("news");
    /// subscriber.connect(endpoint)?;
    /// // A subscription takes a moment to arrive: what is published before is missed.
    /// while publisher.subscriptions() == 0 {
    ///     tokio::task::yield_now().await;
    /// }
    /// publisher.send("news: it works").await?;
    /// assert_eq!(subscriber.recv().await?.first(), "news: it works");
    /// # Ok(()) }
    /// ```
    PubSocket, Pub, tells_peers: false
);
publishes!(PubSocket);

impl PubSocket {
    /// How many different prefixes there are that somebody subscribes to.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.core.handle.publisher().prefixes()
    }
}

socket!(
    /// Publishes to subscribers, and receives their subscriptions as messages: an octet 1 or 0, and the prefix, when the first peer subscribes to it
    /// or the last one takes it back (RFC 29).
    XpubSocket, Xpub, tells_peers: false
);
publishes!(XpubSocket);
receives!(XpubSocket);

socket!(
    /// Subscribes to publishers (RFC 29). What is on its way when a subscription is taken back may still come.
    SubSocket, Sub, tells_peers: false
);
receives!(SubSocket);

impl SubSocket {
    /// Subscribes to a prefix, at all peers and those to come. As often as it is done it has to be taken back.
    pub fn subscribe(&self, prefix: impl Into<Bytes>) {
        self.core.handle.subscribe(prefix.into());
    }

    /// Takes a subscription back.
    pub fn unsubscribe(&self, prefix: impl Into<Bytes>) {
        self.core.handle.unsubscribe(prefix.into());
    }
}

socket!(
    /// Subscribes by sending messages: an octet 1 or 0, and the prefix. Other messages go up to all publishers (RFC 29).
    XsubSocket, Xsub, tells_peers: false
);
receives!(XsubSocket);

impl XsubSocket {
    /// Subscribes, takes a subscription back, or sends a message to all publishers, as its first octet says. Never waits; what finds no room is dropped.
    pub fn send(&self, message: impl Into<Message>) {
        let message = message.into();
        match message.first().first() {
            Some(1) if message.len() == 1 => self.core.handle.subscribe(message.first().slice(1..)),
            Some(0) if message.len() == 1 => self.core.handle.unsubscribe(message.first().slice(1..)),
            _ => self.core.handle.0.send_to_all(&message),
        }
    }
}

socket!(
    /// Deals messages out to pullers, one after the other (RFC 30).
    ///
    /// ```
    /// use zincmq::zmtp::{PullSocket, PushSocket};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut pull = PullSocket::new();
    /// let push = PushSocket::new();
    /// push.connect(pull.bind("tcp://127.0.0.1:0").await?)?;
    /// push.send("work").await?;
    /// assert_eq!(pull.recv().await?.first(), "work");
    /// # Ok(()) }
    /// ```
    PushSocket, Push, tells_peers: false
);
deals!(PushSocket);

socket!(
    /// Takes messages from pushers, fairly (RFC 30).
    PullSocket, Pull, tells_peers: false
);
receives!(PullSocket);

socket!(
    /// Asks many without waiting: deals out, and receives fairly (RFC 28).
    DealerSocket, Dealer, tells_peers: false
);
deals!(DealerSocket);
receives!(DealerSocket);

socket!(
    /// Talks to one peer at a time; further ones are turned away (RFC 31).
    PairSocket, Pair, tells_peers: false
);
deals!(PairSocket);
receives!(PairSocket);

socket!(
    /// Talks to peers by their identities: the first frame of what it sends and receives (RFC 28). A peer that tells none is given one.
    RouterSocket, Router, tells_peers: false
);

impl RouterSocket {
    /// The next message, behind the identity of the peer it came from. Cancel safe.
    ///
    /// # Errors
    /// [`ClosedError`] after the end.
    pub async fn recv(&mut self) -> Result<Message, ClosedError> {
        let (peer, message) = self.core.recv().await?;
        Ok(message.with_first(peer.identity()))
    }

    /// Sends a message to the peer that its first frame names, without that frame; waits until there is room. Cancel safe: a cancelled call has sent nothing,
    /// unless it was about to return.
    ///
    /// # Errors
    /// [`SendError::Unroutable`] where there is no such peer or nothing behind its name, [`SendError::Closed`]; with the message inside.
    pub async fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        let message = message.into();
        if self.core.is_closed() {
            return Err(SendError::Closed(message));
        }
        let Some(body) = Message::from_frames(message.frames()[1..].iter().cloned()) else {
            return Err(SendError::Unroutable(message));
        };
        let sent = self.core.send_routed(message.first(), &body).await;
        self.core.take_turns(false).await;
        if sent { Ok(()) } else { Err(SendError::Unroutable(message)) }
    }
}

socket!(
    /// Asks one peer after the other, and waits for each answer (RFC 28).
    ///
    /// ```
    /// use zincmq::zmtp::{RepSocket, ReqSocket};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut ask, mut answer) = (ReqSocket::new(), RepSocket::new());
    /// ask.connect(answer.bind("tcp://127.0.0.1:0").await?)?;
    /// ask.send("who is there?").await?;
    /// assert_eq!(answer.recv().await?.first(), "who is there?");
    /// answer.send("a socket").await?;
    /// assert_eq!(ask.recv().await?.first(), "a socket");
    /// # Ok(()) }
    /// ```
    ReqSocket, Req, tells_peers: true, asked: Option<u64>
);

impl ReqSocket {
    /// Asks the next peer that has room, and waits until there is one. Cancel safe: a cancelled call has asked nothing, unless it was about to return, and then
    /// the answer is due.
    ///
    /// # Errors
    /// [`SendError::OutOfTurn`] while an answer is due; [`SendError::Closed`]. With the message inside.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        let message = message.into();
        if self.asked.is_some() {
            return Err(SendError::OutOfTurn(message));
        }
        let peer = self.core.send_dealt(message.with_first(Bytes::new())).await?;
        self.asked = Some(peer.key);
        self.core.take_turns(false).await;
        Ok(())
    }

    /// The answer. What others say, or says no answer, is passed over. Cancel safe.
    ///
    /// # Errors
    /// [`RecvError`]; after [`RecvError::PeerGone`] one may ask again.
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        let asked = self.asked.ok_or(RecvError::OutOfTurn)?;
        loop {
            match self.core.next().await.map_err(|ClosedError| RecvError::Closed)? {
                Next::Message(peer, message) if peer.key == asked => {
                    let mut frames = message.into_frames().into_iter();
                    if frames.next().is_some_and(|delimiter| delimiter.is_empty())
                        && let Some(answer) = Message::from_frames(frames)
                    {
                        self.asked = None;
                        return Ok(answer);
                    }
                }
                Next::Gone(peer) if peer.key == asked => {
                    self.asked = None;
                    return Err(RecvError::PeerGone);
                }
                Next::Message(..) | Next::Gone(_) => {}
            }
        }
    }
}

/// Who asked, and the way back through those in between.
#[derive(Debug)]
struct Envelope {
    peer: Arc<Peer>,
    frames: Vec<Bytes>,
}

socket!(
    /// Answers those who ask, one at a time (RFC 28).
    RepSocket, Rep, tells_peers: false, envelope: Option<Envelope>
);

impl RepSocket {
    /// The next question. One that was not answered is given up. What has no delimiter is passed over. Cancel safe.
    ///
    /// # Errors
    /// [`ClosedError`] after the end.
    pub async fn recv(&mut self) -> Result<Message, ClosedError> {
        loop {
            let (peer, message) = self.core.recv().await?;
            let mut frames = message.into_frames();
            let Some(delimiter) = frames.iter().position(Bytes::is_empty) else { continue };
            let body = frames.split_off(delimiter + 1);
            let Some(question) = Message::from_frames(body) else { continue };
            self.envelope = Some(Envelope { peer, frames });
            return Ok(question);
        }
    }

    /// Answers. Cancel safe: a cancelled call has sent nothing, and the answer is still due, unless it was about to return.
    ///
    /// # Errors
    /// [`SendError::OutOfTurn`] where nothing was asked, [`SendError::Unroutable`] when the one who asked is gone, [`SendError::Closed`]; with the message
    /// inside.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        let message = message.into();
        if self.core.is_closed() {
            return Err(SendError::Closed(message));
        }
        let Some(Envelope { peer, frames }) = &self.envelope else {
            return Err(SendError::OutOfTurn(message));
        };
        let whole = frames.iter().chain(message.frames()).cloned();
        let Some(whole) = Message::from_frames(whole) else { return Err(SendError::OutOfTurn(message)) };
        let sent = self.core.send_routed(&peer.identity(), &whole).await;
        self.envelope = None;
        self.core.take_turns(false).await;
        if sent { Ok(()) } else { Err(SendError::Unroutable(message)) }
    }
}

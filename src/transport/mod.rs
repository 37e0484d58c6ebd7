//! How bytes travel between a parent and its children: three channels per link, alike on every
//! transport.
//!
//! | channel | sockets (parent / child) | carries |
//! |---|---|---|
//! | broadcast | PUB / SUB | windows, heartbeats, barriers; may lose |
//! | submit | PULL / PUSH | batches from children |
//! | control | ROUTER / DEALER | join, acknowledgements, repairs, confirmations, membership, evictions |
//!
//! A [`Transport`] binds the parent's side ([`Transport::bind`] gives a [`ParentLink`]) and dials the
//! child's ([`Transport::dial`] gives a [`ChildLink`]). Links hand frames up as they came, through bounded
//! queues, and never interpret them: what they mean is the business of `wire` and `proto`. Sending never
//! waits: a queue that is full is an error the caller acts upon. Dropping a link closes its sockets and ends its tasks.
//!
//! Which transport serves an [`Address`] is decided by [`for_address`]: `tcp://` and `ipc://` by the engine in [`zmtp`](crate::zmtp), or, where
//! [`Carrier::Zeromq`] is asked for, by the `zeromq` crate; `inproc://` by queues of this process.

mod address;
mod inproc;
mod zeromq;
mod zmtp;

pub use address::{Address, AddressError, ChannelAddress};
pub use inproc::InprocTransport;
pub use zeromq::ZeromqTransport;
pub use zmtp::ZmtpTransport;

pub use crate::id::PeerId;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::id::SessionToken;

/// The frames of one multipart message, as they came.
pub type Frames = Vec<Bytes>;

/// Where a peer dialled from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerAddress {
    /// Over TCP from this address.
    Tcp(SocketAddr),
    /// Over a Unix socket, so from this machine.
    Ipc,
    /// From within this process.
    Inproc,
    /// The transport could not tell.
    Unknown,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Ipc => f.write_str("ipc"),
            Self::Inproc => f.write_str("inproc"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// What a parent asks to be bound.
#[derive(Debug, Clone)]
pub struct BindAddresses {
    /// The control channel's address: the one children join.
    pub control: Address,
    /// The broadcast channel's; by default the control address with port 0, or with `.pub` appended to its path.
    pub broadcast: Option<Address>,
    /// The submit channel's; by default the control address with port 0, or with `.pull` appended to its path.
    pub submit: Option<Address>,
}

/// How much a parent's link may hold for one child that does not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParentLimits {
    /// Broadcast messages queued for one subscriber; at least 1,024 whatever is asked for. What finds no room is dropped for it. Default: 100,000.
    pub messages: usize,
    /// Their bytes; a message that is larger by itself still finds an empty queue's room. Default: 64 MiB.
    pub bytes: usize,
    /// For how long the oldest of them may have waited. Default: 10 s.
    pub age: Duration,
    /// The largest frame taken on the submit channel, in bytes. Default: 16 MiB.
    pub submit: usize,
    /// How many children there may be. A channel takes a quarter more connections than that, and 1,024; of those at most half from one address that is not of this
    /// machine. Default: 10,000.
    pub children: usize,
    /// After how long a connection is given up whose other end takes nothing of what was sent; and after how long of silence the system sees
    /// whether the other end is still there. Default: 10 s.
    pub stalled: Duration,
}

impl ParentLimits {
    /// Below so many messages a queue would overflow from heartbeats and control traffic alone (a guess).
    const FEWEST: usize = 1_024;

    /// The bound on queued messages in force.
    fn queue(&self) -> usize {
        self.messages.max(Self::FEWEST)
    }
}

impl Default for ParentLimits {
    fn default() -> Self {
        Self {
            messages: 100_000,
            bytes: 64 << 20,
            age: Duration::from_secs(10),
            submit: 16 << 20,
            children: 10_000,
            stalled: Duration::from_secs(10),
        }
    }
}

/// What was bound, ports and paths resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundAddresses {
    /// The control channel's address.
    pub control: Address,
    /// The broadcast channel's address.
    pub broadcast: Address,
    /// The submit channel's address.
    pub submit: Address,
}

/// One of a link's three channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// PUB / SUB, downward.
    Broadcast,
    /// PUSH / PULL, upward.
    Submit,
    /// DEALER / ROUTER, both ways.
    Control,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broadcast => "broadcast",
            Self::Submit => "submit",
            Self::Control => "control",
        })
    }
}

/// Why a parent could not bind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody already listens there.
    #[error(
        "{address} is in use: stop the process that listens there, or bind another address (port 0 lets the system choose)"
    )]
    InUse {
        /// The address asked for.
        address: Address,
    },
    /// The transport cannot bind such an address.
    #[error("cannot bind {address}: {reason}")]
    Unsupported {
        /// The address asked for.
        address: Address,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The operating system refused.
    #[error("cannot bind {address}: {source}")]
    Io {
        /// The address asked for.
        address: Address,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why a child could not dial.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Nobody answered in time, or the connection was refused until then.
    #[error("nobody answers at {address}: {reason}")]
    Unreachable {
        /// The address dialled.
        address: Address,
        /// What the last attempt met.
        reason: String,
    },
    /// The transport cannot dial such an address.
    #[error("cannot dial {address}: {reason}")]
    Unsupported {
        /// The address dialled.
        address: Address,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Why a frame could not be handed to a channel. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The channel's queue is full.
    #[error("the {0} channel's queue is full")]
    Full(Channel),
    /// The peer is gone, or the channel is not connected.
    #[error("the {0} channel is closed")]
    Closed(Channel),
}

/// What a transport still holds for one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct Backlog {
    /// Messages queued and not yet taken by the subscriber.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// What a parent hears on its control channel, and of its connections.
#[derive(Debug)]
#[non_exhaustive]
pub enum ParentEvent {
    /// A message on the control channel.
    Control {
        /// The connection it came by.
        peer: PeerId,
        /// Where that connection comes from.
        address: PeerAddress,
        /// The message without the identity frame.
        frames: Frames,
    },
    /// A control connection closed.
    ControlClosed {
        /// The connection.
        peer: PeerId,
    },
    /// A subscriber whose identity is a session token closed its broadcast connection.
    BroadcastClosed {
        /// The session.
        session: SessionToken,
    },
    /// A subscriber of no session took too little, and was cut off.
    SubscriberCut {
        /// Where it was.
        address: PeerAddress,
    },
}

/// The parent's end of the three channels.
///
/// Owned by one driver task. No method waits.
pub trait ParentChannels: Send + fmt::Debug {
    /// Publishes a message of two frames: the lane's key, on which subscriptions match, and the body.
    ///
    /// A subscriber whose queue is full misses it; where the transport can tell, that is counted by
    /// [`dropped`](Self::dropped), and the subscriber finds the hole by the window number.
    fn broadcast(&mut self, lane: Bytes, body: Bytes);

    /// Sends one frame to a control connection.
    ///
    /// # Errors
    /// [`ChannelError::Full`] when the queue is full: the frame was not sent and the caller should
    /// [`disconnect`](Self::disconnect) the peer; [`ChannelError::Closed`] when the link is going down.
    /// A peer that is merely gone is no error: its [`ParentEvent::ControlClosed`] tells.
    fn send_control(&mut self, peer: &PeerId, frame: Bytes) -> Result<(), ChannelError>;

    /// A session of this control connection begins: whoever subscribes under its token is judged by
    /// the caller from now on. Due before the token is told to anybody. A transport that
    /// bounds what waits for a subscriber in other ways has nothing to do.
    fn open_session(&mut self, _peer: &PeerId, _session: SessionToken) {}

    /// A session is over: its token is worth nothing any more.
    fn end_session(&mut self, _session: SessionToken) {}

    /// Closes a peer's control connection and the broadcast connection of its session, if it has one.
    ///
    /// What is queued for it may be lost.
    fn disconnect(&mut self, peer: &PeerId, session: Option<SessionToken>);

    /// Closes the broadcast connection of a session, with all that is queued for it. Its control connection stays, for last words.
    fn cut_broadcast(&mut self, session: SessionToken);

    /// What is queued for a subscriber; `None` where the transport does not know.
    fn backlog(&self, session: SessionToken) -> Option<Backlog>;

    /// How many broadcast messages were dropped on full subscriber queues, as far as the transport knows.
    fn dropped(&self) -> u64;
}

/// A bound parent: what it bound, what it hears and how it speaks.
#[derive(Debug)]
pub struct ParentLink {
    /// The addresses, ports and paths resolved.
    pub addresses: BoundAddresses,
    /// Speaks to the children.
    pub channels: Box<dyn ParentChannels>,
    /// Control messages and closed connections. Bounded; while it is full the transport reads no more.
    pub events: mpsc::Receiver<ParentEvent>,
    /// Messages from the submit channel. Bounded; while it is full the transport reads no more.
    pub submits: mpsc::Receiver<Frames>,
}

/// What a child hears on its control channel, and of its connections.
#[derive(Debug)]
#[non_exhaustive]
pub enum ChildEvent {
    /// A message on the control channel.
    Control(Frames),
    /// A connection was lost. The link is of no more use: drop it and dial anew. What comes by control until then may say why,
    /// if that is not the one that was lost.
    Lost(Channel),
}

/// The child's end of the three channels.
///
/// Owned by one driver task. Only [`attach`](Self::attach) waits.
#[async_trait]
pub trait ChildChannels: Send + fmt::Debug {
    /// Sends one frame on the control channel.
    ///
    /// # Errors
    /// [`ChannelError`] when the queue is full or the connection is gone; the link is then of no more use.
    fn send_control(&mut self, frame: Bytes) -> Result<(), ChannelError>;

    /// Connects the broadcast and submit channels, the first under the session's identity.
    ///
    /// Returns when both connections are established, which says nothing about subscriptions. Not cancel safe: drop the link when this is cancelled.
    ///
    /// # Errors
    /// [`DialError`] when either cannot be connected within `timeout`.
    async fn attach(
        &mut self,
        broadcast: &Address,
        submit: &Address,
        session: SessionToken,
        timeout: Duration,
    ) -> Result<(), DialError>;

    /// Adds a subscription: broadcast messages whose lane key begins with `prefix` come in from some moment on.
    ///
    /// Subscriptions reach the parent in the order of the calls. `prefix` is UTF-8, as the zeromq crate takes no other.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] before `attach` and after a loss; [`ChannelError::Full`] when too many are under way.
    fn subscribe(&mut self, prefix: &str) -> Result<(), ChannelError>;

    /// Takes a subscription back.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    fn unsubscribe(&mut self, prefix: &str) -> Result<(), ChannelError>;

    /// Sends a message of two frames on the submit channel.
    ///
    /// # Errors
    /// [`ChannelError`] when the queue is full or the connection is known to be gone; the link is then of no more use.
    fn submit(&mut self, head: Bytes, body: Bytes) -> Result<(), ChannelError>;
}

/// A dialled child: what it hears and how it speaks.
#[derive(Debug)]
pub struct ChildLink {
    /// Speaks to the parent.
    pub channels: Box<dyn ChildChannels>,
    /// Control messages and losses. Bounded; while it is full the transport reads no more.
    pub events: mpsc::Receiver<ChildEvent>,
    /// Messages from the broadcast channel. Bounded; while it is full the transport reads no more.
    pub broadcasts: mpsc::Receiver<Frames>,
}

/// A way for parents and children to reach each other.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug {
    /// Binds a parent's three channels. Cancel safe: a cancelled call leaves nothing bound.
    ///
    /// # Errors
    /// [`BindError`]; nothing stays bound then.
    async fn bind(&self, addresses: &BindAddresses, limits: &ParentLimits) -> Result<ParentLink, BindError>;

    /// Connects a child's control channel, under a random identity.
    ///
    /// Tries until `timeout` has passed, since the parent may be about to start. Cancel safe.
    ///
    /// # Errors
    /// [`DialError`].
    async fn dial(&self, control: &Address, timeout: Duration) -> Result<ChildLink, DialError>;
}

/// What carries `tcp://` and `ipc://`. Both speak ZMTP 3, so endpoints with different ones can be in one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Carrier {
    /// The engine in [`zmtp`](crate::zmtp).
    #[default]
    Zmtp,
    /// The `zeromq` crate. What to know of it is said at [`ZeromqTransport`].
    Zeromq,
}

/// The transport that serves an address.
#[must_use]
pub fn for_address(address: &Address, carrier: Carrier) -> Arc<dyn Transport> {
    match (address, carrier) {
        (Address::Inproc(_), _) => Arc::new(InprocTransport::new()),
        (_, Carrier::Zmtp) => Arc::new(ZmtpTransport::new()),
        (_, Carrier::Zeromq) => Arc::new(ZeromqTransport::new()),
    }
}

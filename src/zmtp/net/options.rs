//! How a socket behaves.

use std::time::Duration;

use super::vetting::Vetting;
use crate::zmtp::{Heartbeat, Identity, Limits};

/// A bound in messages and in bytes, whichever is met first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Messages; at least one always has room.
    pub messages: usize,
    /// Their octets on the wire.
    pub bytes: usize,
}

impl Bound {
    /// A bound of so many messages and bytes.
    #[must_use]
    pub const fn new(messages: usize, bytes: usize) -> Self {
        Self { messages, bytes }
    }

    pub(super) fn is_reached_by(&self, messages: usize, bytes: usize) -> bool {
        messages >= self.messages.max(1) || bytes >= self.bytes.max(1)
    }
}

/// What becomes of a message for a peer whose queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFull {
    /// `send` waits until there is room for everybody it is for.
    Block,
    /// It is dropped for that peer, and counted: what ZeroMQ does.
    #[default]
    DropNewest,
    /// The oldest that wait for that peer are dropped, and counted.
    DropOldest,
    /// That peer is disconnected: the suicidal snail, by force.
    Disconnect,
}

/// How a socket behaves. All have defaults.
///
/// ```
/// use zincmq::zmtp::{Bound, OnFull, Options};
///
/// let mut options = Options::default();
/// options.send_hwm = Bound::new(10_000, 16 << 20);
/// options.on_full = OnFull::Disconnect;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The identity told to peers. Default: none.
    pub identity: Identity,
    /// How much may wait for one peer before it counts as full; a message, or 64 KiB of small ones on their way to several, may go over.
    /// Default: 1,000 messages (as in libzmq) and 64 MiB (a guess).
    pub send_hwm: Bound,
    /// For how long the oldest message for a peer may have waited before that counts as full, too. Publishers only; looked at when there is one more.
    /// [`OnFull::Block`] goes by [`send_hwm`](Self::send_hwm) alone. Default: for ever.
    pub send_age: Option<Duration>,
    /// How much may have come from one peer that was not taken yet, before no more is read from it; what was read at once may go over.
    /// A frame counts for 32 octets more than it has on the wire.
    /// Default: 1,000 messages (as in libzmq) and 64 MiB (a guess).
    pub recv_hwm: Bound,
    /// How much may wait to be taken of all peers whose connections have ended, before no more connections are accepted, and newcomers wait in the system's queue; those that
    /// there are go on, and may leave more. Connections made here are made again as long as no more than eight of them have left something. Default: as
    /// [`recv_hwm`](Self::recv_hwm).
    pub recv_left: Option<Bound>,
    /// What to do where [`send_hwm`](Self::send_hwm) is reached. For those who send to whom it concerns and to nobody else: publishers, ROUTER and REP, where
    /// one peer that does not read is not to stop the others; all others wait. Default: [`OnFull::DropNewest`] (as libzmq).
    pub on_full: OnFull,
    /// The same for trusted subscribers of a socket with [`vetting`](Self::vetting). Default: the same.
    pub(crate) on_full_trusted: Option<OnFull>,
    /// Whether peers are distrusted until the application names them. Default: no.
    pub(crate) vetting: Option<Vetting>,
    /// How many messages a peer gets through before others have their turn, at least one. Default: as
    /// many as were read at once.
    pub(crate) turn: usize,
    /// Whether peers go by numbers of this side's own, whatever identity they tell. Default: no.
    pub(crate) numbers_peers: bool,
    /// Whether a peer is refused that tells the identity of one that is connected ([`DisconnectReason::IdentityInUse`](super::DisconnectReason)). ROUTER, which
    /// sends by it, refuses in any case. Default: no (as libzmq, where ROUTER and REP refuse).
    pub unique_identities: bool,
    /// What is taken of peers.
    pub limits: Limits,
    /// Whether to ask peers for signs of life. Default: no.
    pub heartbeat: Option<Heartbeat>,
    /// The pause before another attempt to connect: at first, and at most. It doubles, and is shortened by up to half at random. Default: 100 ms (as in
    /// libzmq) and 5 s (a guess). One below 1 ms counts as that.
    pub reconnect: (Duration, Duration),
    /// How long an attempt to connect may take, the look-up of the name and all its addresses together; each has an equal share of what is left. Default: 10 s (a guess; Linux takes
    /// two minutes for each address).
    pub connect_timeout: Duration,
    /// How long `close` waits for what was sent to go out. Default: 1 s (a guess; libzmq waits for ever).
    pub linger: Duration,
    /// After how long a TCP connection is given up whose other end takes nothing, and of silence until the system looks whether it is there. Default: none.
    pub stalled: Option<Duration>,
    /// The size of the system's send buffer, in bytes, for TCP. Default: the system's choice.
    pub tcp_send_buffer: Option<usize>,
    /// The size of the system's receive buffer, in bytes, for TCP. Default: the system's choice.
    pub tcp_recv_buffer: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            identity: Identity::default(),
            send_hwm: Bound::new(1_000, 64 << 20),
            send_age: None,
            recv_hwm: Bound::new(1_000, 64 << 20),
            recv_left: None,
            on_full: OnFull::default(),
            on_full_trusted: None,
            vetting: None,
            numbers_peers: false,
            turn: usize::MAX,
            unique_identities: false,
            limits: Limits::default(),
            heartbeat: None,
            reconnect: (Duration::from_millis(100), Duration::from_secs(5)),
            connect_timeout: Duration::from_secs(10),
            linger: Duration::from_secs(1),
            stalled: None,
            tcp_send_buffer: None,
            tcp_recv_buffer: None,
        }
    }
}

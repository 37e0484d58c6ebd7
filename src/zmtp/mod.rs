//! ZeroMQ's wire protocol, ZMTP 3.1, and its sockets, in plain Rust.
//!
//! This module stands by itself: a ZeroMQ library on tokio, which speaks to every other one over TCP and Unix sockets. The endpoints of zincmq
//! are built on it.
//!
//! - **Sockets** of all eleven types: [`PubSocket`], [`SubSocket`], [`XpubSocket`], [`XsubSocket`], [`PushSocket`], [`PullSocket`],
//!   [`DealerSocket`], [`RouterSocket`], [`ReqSocket`], [`RepSocket`], [`PairSocket`]. Each may be bound to several endpoints and connected to
//!   several; connections that are lost are made again.
//! - **Bounds that hold**: [`Options::send_hwm`] and [`Options::recv_hwm`] count messages *and* bytes, for each peer; [`OnFull`] says what becomes of
//!   what finds no room. [`Limits`] says what a peer may cost before it is refused: what a frame declares is checked before anything is reserved.
//! - **Encoded once**: what is published is encoded once, and shared by the queues of all its subscribers.
//! - **Seen**: [`Monitor`] tells of every connection that comes, fails and goes, and why; [`Backlog`] what waits for a peer.
//! - **Without IO**: [`Connection`] is the protocol as a state machine, octets in and events out, for those who have sockets of their own.
//!
//! ```
//! use zincmq::zmtp::{PullSocket, PushSocket};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut pull = PullSocket::new();
//! let endpoint = pull.bind("tcp://127.0.0.1:0").await?;
//! let push = PushSocket::new();
//! push.connect(endpoint)?;
//! push.send("hello").await?;
//! assert_eq!(pull.recv().await?.first(), "hello");
//! # Ok(()) }
//! ```
//!
//! Spoken are versions 3.0 and 3.1 (RFC 23, RFC 37) with the NULL mechanism, so nothing is encrypted. Peers of ZMTP 1 and 2 (before ZeroMQ 4) are
//! turned away.

mod command;
mod connection;
mod frame;
mod greeting;
mod identity;
mod kind;
mod limits;
mod message;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "IO happens here")]
mod net;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test has to begin at some moment")]
mod tests;
mod violation;

pub use connection::{Config, Connection, Event, PeerInfo, encode};
pub use identity::{Identity, IdentityError};
pub use kind::SocketType;
pub use limits::{Heartbeat, Limits};
pub use message::Message;
#[cfg(unix)]
pub(crate) use net::ipc;
pub(crate) use net::{Arrival, Core, Handle, Listening, Opening, Untrusted, Vetting};
pub use net::{
    Backlog, BindError, Bound, ClosedError, DealerSocket, DisconnectReason, Endpoint, EndpointError, Monitor,
    MonitorEvent, OnFull, Options, PairSocket, PeerAddress, PubSocket, PullSocket, PushSocket, RecvError,
    RefusedBy, RepSocket, ReqSocket, RouterSocket, SendError, SubSocket, TrySendError, XpubSocket,
    XsubSocket,
};
pub use violation::Violation;

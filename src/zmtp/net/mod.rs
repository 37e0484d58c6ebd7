//! Sockets on tokio, around the connection machine.
//!
//! A socket is a [`Hub`](hub::Hub), which its handles and tasks share; a task for each connection ([`link`]), each listener ([`accept`]) and each endpoint
//! that is dialled. What is sent waits in a queue for each peer ([`queue`]), what is published in one place first
//! ([`publisher`], [`subscriptions`]), what comes in one queue for all ([`inbound`]).

mod accept;
mod endpoint;
mod hub;
mod inbound;
#[cfg(unix)]
pub(crate) mod ipc;
mod link;
mod monitor;
mod options;
mod publisher;
mod queue;
mod socket;
mod subscriptions;
mod unfinished;

pub use endpoint::{Endpoint, EndpointError, PeerAddress};
pub use monitor::{DisconnectReason, Monitor, MonitorEvent, RefusedBy};
pub use options::{Bound, OnFull, Options};
pub use queue::Backlog;
pub use socket::{
    BindError, ClosedError, DealerSocket, PairSocket, PubSocket, PullSocket, PushSocket, RecvError,
    RepSocket, ReqSocket, RouterSocket, SendError, SubSocket, TrySendError, XpubSocket, XsubSocket,
};
pub(crate) use {inbound::Arrival, socket::Core, socket::Handle, socket::Listening};

//! Sockets on tokio, around the connection machine.
//!
//! A socket is a [`Hub`](hub::Hub), which its handles and tasks share; a task for each connection ([`link`]), each listener ([`accept`]) and each endpoint
//! that is dialled. What is sent waits in a queue for each peer ([`queue`]), what is published in one place first
//! ([`publisher`], [`subscriptions`]), what comes in one queue for all ([`inbound`]).

mod accept;
mod changes;
mod connection_limiter;
mod core;
mod endpoint;
mod error;
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
mod untrusted;
mod vetting;

pub use endpoint::{Endpoint, EndpointError, PeerAddress};
pub use error::{BindError, ClosedError, RecvError, SendError, TrySendError};
pub use monitor::{DisconnectReason, Monitor, MonitorEvent, RefusedBy};
pub use options::{Bound, OnFull, Options};
pub use queue::Backlog;
pub use socket::{
    DealerSocket, PairSocket, PubSocket, PullSocket, PushSocket, RepSocket, ReqSocket, RouterSocket,
    SubSocket, XpubSocket, XsubSocket,
};
pub(crate) use {
    core::Core, core::Handle, core::Listening, inbound::Arrival, untrusted::Untrusted, vetting::Opening,
    vetting::Vetting,
};

//! `tcp://` and `ipc://` by the [`zeromq`](::zeromq) crate.
//!
//! [`ZeromqTransport`] is the way in: `bind` opens the listeners (`listen`, `ipc`) and starts the parent's end
//! (`parent`, with its `thread` and on it the task `control`, which keeps book of its `peers`); `dial` connects (`connect`) and starts the child's end (`child`, with its
//! task `subscriber`). What that crate does not tell or cannot bound is said at [`ZeromqTransport`].

mod child;
mod connect;
mod control;
mod listen;
mod parent;
mod peers;
mod subscriber;
mod thread;

use std::time::Duration;

use ::zeromq::SocketOptions;
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{
    Address, BindAddresses, BindError, ChildLink, DialError, ParentLimits, ParentLink, Protocol, Transport,
};

/// What a socket of the crate tells of its connections. It drops what does not fit into its 1,024 places, so it must be
/// read without waiting for anybody.
type Monitor = futures::channel::mpsc::Receiver<::zeromq::SocketEvent>;

/// A transport for `tcp://` and `ipc://`, over the `zeromq` crate: the reference to interoperate with. [`ZmtpTransport`](super::ZmtpTransport) keeps the
/// promises that this one cannot.
///
/// What to know of it:
///
/// - It does not know what is queued for a subscriber: [`backlog`](super::ParentChannels::backlog) is `None`. Where
///   100,000 messages wait for one, the crate drops the next silently: [`dropped`](super::ParentChannels::dropped) stays 0.
/// - A parent has a thread of its own, for the crate's sockets stand still for ever if several threads run them. It ends
///   with the link; what was queued by then goes out within half a second or not at all.
/// - A peer that is disconnected while it reads nothing keeps what was queued for it, and half its connection, until
///   the system gives the connection up or the link is dropped. Over TCP on Linux that is after [`ParentLimits::stalled`]; over
///   `ipc://`, and elsewhere, it can last as long as the peer: binding there says so in the log.
/// - The queue's bounds in [`ParentLimits`] cannot be set: it always is 100,000 messages.
/// - A child notices the loss of its submit channel only when it next submits.
/// - A TCP port is free again a moment after the link that held it was dropped; a Unix socket's path at once.
///
/// ```
/// use zincmq::transport::{BindAddresses, ParentLimits, Protocol, Transport, ZeromqTransport};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let control = "tcp://127.0.0.1:0".parse()?;
/// let addresses = BindAddresses { control, broadcast: None, submit: None };
/// let parent = ZeromqTransport::new().bind(&addresses, &ParentLimits::default(), Protocol::default()).await?;
/// assert_ne!(parent.addresses.control.to_string(), "tcp://127.0.0.1:0");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ZeromqTransport {}

impl ZeromqTransport {
    /// The transport.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

#[async_trait]
impl Transport for ZeromqTransport {
    async fn bind(
        &self,
        addresses: &BindAddresses,
        limits: &ParentLimits,
        _protocol: Protocol,
    ) -> Result<ParentLink, BindError> {
        parent::bind(addresses, limits).await
    }

    async fn dial(&self, control: &Address, timeout: Duration) -> Result<ChildLink, DialError> {
        child::dial(control, timeout).await
    }
}

/// Waits until the queue has room, and tells whether it is still open. The room is sure only to the one who fills the queue.
async fn has_room<T>(queue: &mpsc::Sender<T>) -> bool {
    queue.reserve().await.is_ok()
}

/// How much is read at once, at most. The crate makes room for a frame at once only when that is more than two chunks, and
/// otherwise copies what it has of the frame while it grows; with its 64 KiB that hits every full window. It also zeroes a
/// chunk before each read. Measured from 8 to 256 KiB: 16 KiB costs least, for messages of 64 B, 1 KiB and 64 KiB alike.
const READ_CHUNK: usize = 16 * 1024;

/// Options of sockets that receive windows or batches.
fn options() -> SocketOptions {
    let mut options = SocketOptions::default();
    // The crate's defaults but for the chunk.
    options.read_buffer(128, READ_CHUNK, 2);
    options
}

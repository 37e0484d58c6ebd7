//! `tcp://` and `ipc://` by the engine in [`zmtp`](crate::zmtp).
//!
//! [`ZmtpTransport`] is the way in: `bind` opens the listeners and starts the parent's end (`parent`), `dial` connects and starts the child's end
//! (`child`). Each socket has a task that hands up what comes; what goes down goes straight into the sockets' queues.

mod child;
mod parent;

use std::io;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Address, BindAddresses, BindError, ChildLink, DialError, ParentLimits, ParentLink, PeerAddress, Protocol,
    Transport,
};
use crate::zmtp::{Endpoint, PeerAddress as ZmtpAddress};

/// How long what was said last may still go out once the link was dropped: last words, not a backlog (a guess).
const LINGER: Duration = Duration::from_millis(500);

/// The transport for `tcp://` and `ipc://`.
///
/// What waits for a subscriber is bounded by twice [`ParentLimits`], in messages, bytes and age. A member misses what finds no room, and is repaired; the host
/// has most likely evicted it before. Any other subscriber is cut off, whatever identity it tells. What waits is told by
/// [`backlog`](super::ParentChannels::backlog). A TCP port is free again a moment after the link that held it was dropped; a Unix socket's path at once.
///
/// ```
/// use zincmq::transport::{BindAddresses, ParentLimits, Protocol, Transport, ZmtpTransport};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let control = "tcp://127.0.0.1:0".parse()?;
/// let addresses = BindAddresses { control, broadcast: None, submit: None };
/// let parent = ZmtpTransport::new().bind(&addresses, &ParentLimits::default(), Protocol::default()).await?;
/// assert_ne!(parent.addresses.control.to_string(), "tcp://127.0.0.1:0");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ZmtpTransport {}

impl ZmtpTransport {
    /// The transport.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

#[async_trait]
impl Transport for ZmtpTransport {
    async fn bind(
        &self,
        addresses: &BindAddresses,
        limits: &ParentLimits,
        protocol: Protocol,
    ) -> Result<ParentLink, BindError> {
        parent::bind(addresses, limits, protocol).await
    }

    async fn dial(&self, control: &Address, timeout: Duration) -> Result<ChildLink, DialError> {
        child::dial(control, timeout).await
    }
}

impl From<&ZmtpAddress> for PeerAddress {
    fn from(address: &ZmtpAddress) -> Self {
        match address {
            // An IPv4 peer of a listener on [::] shall look like one.
            ZmtpAddress::Tcp(address) => Self::Tcp((address.ip().to_canonical(), address.port()).into()),
            ZmtpAddress::Ipc => Self::Ipc,
        }
    }
}

/// The address as the engine's; `None` for one that it does not serve.
fn endpoint(address: &Address) -> Option<Endpoint> {
    match address {
        Address::Tcp { host, port } => Some(Endpoint::Tcp { host: host.clone(), port: *port }),
        #[cfg(unix)]
        Address::Ipc(path) => Some(Endpoint::Ipc(path.clone())),
        _ => None,
    }
}

/// The error for `address`.
fn refused(address: &Address, source: io::Error) -> BindError {
    let address = address.clone();
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Io { address, source },
    }
}

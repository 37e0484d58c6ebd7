//! The host: the endpoint that orders and publishes.

mod auth_tasks;
mod builder;
mod driver;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::id::EndpointId;
use crate::transport::{Address, BoundAddresses};

use super::node::{DropGuard, Node, endpoint};
pub use builder::HostBuilder;

/// The endpoint that admits members, gives every message its place in the one order, and publishes it.
///
/// ```no_run
/// use zincmq::prelude::*;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Host::builder().bind("tcp://127.0.0.1:0").await?;
/// println!("join me at {}", host.address());
/// host.send(Message::new("news", "the host is up")?).await?;
/// let report = host.shutdown().await;
/// assert_eq!(report.unsent, 0);
/// # Ok(())
/// # }
/// ```
///
/// Clones are handles on the same host; see [`Endpoint`](super::Endpoint) for what they can do.
#[derive(Debug, Clone)]
pub struct Host {
    guard: Arc<DropGuard>,
    address: Address,
    bound: BoundAddresses,
}

impl Host {
    /// A host to be configured, and then bound.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// The address to join: the one it was told to advertise, or else the one it bound, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The addresses its three channels are bound to.
    #[must_use]
    pub fn bound(&self) -> &BoundAddresses {
        &self.bound
    }

    /// Sends a member away, for a reason that it is told: its connections are closed, and it may come back after a
    /// [quarantine](HostBuilder::quarantine). Whether there was such a member.
    ///
    /// Returns once that is under way. Cancel safe: when cancelled, the member goes all the same, or stays.
    pub async fn kick(&self, id: EndpointId, reason: impl Into<String>) -> bool {
        self.node().kick(id, reason.into()).await
    }

    fn node(&self) -> &Arc<Node> {
        &self.guard.0
    }
}

endpoint!(Host);

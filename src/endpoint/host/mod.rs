//! The host: the endpoint that orders and publishes.

mod driver;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::config;
use crate::error::HostError;
use crate::id::EndpointId;
use crate::proto::host as machine;
use crate::role::Role;
use crate::transport::{self, Address, AddressError, BindAddresses, BoundAddresses, ChannelAddress};

use super::auth::{AllowAnonymous, Authenticator, SharedToken};
use super::listener::ChannelListener;
use super::node::{DropGuard, Node, endpoint};
use super::outbound::{Outbound, QueueLimit};

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

    fn node(&self) -> &Arc<Node> {
        &self.guard.0
    }
}

endpoint!(Host);

/// Configures a [`Host`].
#[must_use = "a builder does nothing until it is bound"]
pub struct HostBuilder {
    id: EndpointId,
    cluster: String,
    authenticator: Option<Arc<dyn Authenticator>>,
    empty_token: bool,
    broadcast: Option<Address>,
    submit: Option<Address>,
    advertise: Option<Address>,
    invalid: Option<AddressError>,
    echo: bool,
    max_message: usize,
    max_members: usize,
    send_queue: QueueLimit,
    handshake_timeout: Duration,
    shutdown_timeout: Duration,
}

impl Default for HostBuilder {
    fn default() -> Self {
        Self {
            id: EndpointId::random(),
            cluster: config::DEFAULT_CLUSTER.to_owned(),
            authenticator: None,
            empty_token: false,
            broadcast: None,
            submit: None,
            advertise: None,
            invalid: None,
            echo: false,
            max_message: config::MAX_MESSAGE,
            max_members: config::MAX_MEMBERS,
            send_queue: QueueLimit { messages: config::SEND_QUEUE_MESSAGES, bytes: config::SEND_QUEUE_BYTES },
            handshake_timeout: config::HANDSHAKE_TIMEOUT,
            shutdown_timeout: config::SHUTDOWN_TIMEOUT,
        }
    }
}

impl fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBuilder")
            .field("id", &self.id)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl HostBuilder {
    /// Who the host is. Default: a fresh random id.
    pub fn id(mut self, id: EndpointId) -> Self {
        self.id = id;
        self
    }

    /// The name of the cluster: endpoints of another one are refused. At most 255 bytes. Default: `default`.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = name.into();
        self
    }

    /// Who may join. Default: everyone, on addresses that only this machine can reach; elsewhere the host does not start without.
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Only those who show this token may join; it must not be empty. It travels in the clear: see [`Authenticator`].
    pub fn token(mut self, token: impl Into<Bytes>) -> Self {
        let token = token.into();
        self.empty_token = token.is_empty();
        self.authenticator(SharedToken::new(token))
    }

    /// Everyone may join, from other machines, too.
    pub fn allow_anonymous(self) -> Self {
        self.authenticator(AllowAnonymous)
    }

    /// Where to bind the broadcast channel. Default: beside the control channel, on a port of the system's choice or at `PATH.pub`.
    pub fn bind_broadcast(mut self, address: impl TryInto<Address, Error: Into<AddressError>>) -> Self {
        self.broadcast = self.address(address);
        self
    }

    /// Where to bind the submit channel. Default: beside the control channel, on a port of the system's choice or at `PATH.pull`.
    pub fn bind_submit(mut self, address: impl TryInto<Address, Error: Into<AddressError>>) -> Self {
        self.submit = self.address(address);
        self
    }

    /// The address that members can reach the host at, where that is not the one they dial: the other channels are named with
    /// its host part, and port 0 stands for the one that was bound. For hosts behind a translated address. Default: members keep the host part they dialled.
    pub fn advertise(mut self, address: impl TryInto<Address, Error: Into<AddressError>>) -> Self {
        self.advertise = self.address(address);
        self
    }

    /// Whether the host's own consumers see the messages it sends itself. Default: no.
    pub fn echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    /// The largest payload in the cluster, in bytes: 1 to 2^30. Default: 8 MiB. Every member must be able to hold a few of them.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// How many members there may be. Default: 10,000.
    pub fn max_members(mut self, members: usize) -> Self {
        self.max_members = members;
        self
    }

    /// How much may wait in the send queue, in messages and bytes, before `send` waits; each at least 1. A message is taken while
    /// there is any room, so one may go over. Default: 65,536 messages and 16 MiB.
    pub fn send_queue(mut self, messages: usize, bytes: usize) -> Self {
        self.send_queue = QueueLimit { messages, bytes };
        self
    }

    /// How long a joiner, and the authenticator, may take for each step. Default: 5 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How long `shutdown` waits for members to leave and handlers to finish. Default: 5 s.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// Remembers the first address that is none, for `bind` to say so.
    fn address(&mut self, address: impl TryInto<Address, Error: Into<AddressError>>) -> Option<Address> {
        address.try_into().map_err(|error| self.invalid.get_or_insert(error.into())).ok()
    }

    /// Binds the host's channels and starts it.
    ///
    /// Must be called within a tokio runtime. Cancel safe: a cancelled call leaves nothing behind.
    ///
    /// # Errors
    /// [`HostError`]; nothing is bound then.
    pub async fn bind(
        mut self,
        address: impl TryInto<Address, Error: Into<AddressError>>,
    ) -> Result<Host, HostError> {
        let control = address.try_into().map_err(Into::into)?;
        self.check(&control)?;
        let addresses =
            BindAddresses { control, broadcast: self.broadcast.take(), submit: self.submit.take() };
        let link = transport::for_address(&addresses.control).bind(&addresses).await?;
        let bound = link.addresses.clone();
        let (broadcast, submit) = self.channel_names(&bound);

        let machine = machine::Host::new(
            machine::Config {
                id: self.id,
                cluster: self.cluster,
                incarnation: fresh_epoch(),
                epoch: fresh_epoch(),
                first_origin_seq: 1,
                marks: crate::flow::HighWaterMark::new(),
                pace_percentile: 50,
                conflatable: Vec::new(),
                ring: machine::RingLimit { messages: 1_000_000, bytes: 64 << 20 },
                heartbeat: Duration::from_millis(100),
                lease: Duration::from_secs(10),
                origin_ttl: Duration::from_secs(3600),
                max_origins: 100_000,
                quarantine: (Duration::from_secs(1), Duration::from_secs(60)),
                repair_rate: machine::RepairRate { burst: 4 << 20, per_second: 32 << 20 },
                #[cfg(any(test, feature = "test-utils"))]
                mutant: None,
                max_message: self.max_message,
                max_members: self.max_members,
                max_handshakes: config::MAX_HANDSHAKES,
                handshake_timeout: self.handshake_timeout,
                broadcast,
                submit,
            },
            crate::proto::Instant::START,
        );
        let prefixes = BTreeSet::from([String::new()]);
        let (node, commands) = Node::new(
            self.id,
            Role::Host,
            Outbound::new(self.send_queue, self.max_message),
            prefixes.clone(),
            self.shutdown_timeout,
        );
        let subscriptions = Arc::new(Mutex::new(prefixes));
        let (inbound, received) = mpsc::channel(config::INBOUND_WINDOWS);
        let listener = ChannelListener {
            id: self.id,
            echo: self.echo,
            max_message: self.max_message,
            subscriptions: Some(Arc::clone(&subscriptions)),
            consumers: Arc::clone(&node.consumers),
            counters: Arc::clone(&node.counters),
        };
        let authenticator = self.authenticator.unwrap_or_else(|| Arc::new(AllowAnonymous));
        let driver = driver::Driver::new(
            Arc::clone(&node),
            machine,
            link,
            authenticator,
            self.handshake_timeout,
            driver::Consumption { subscriptions, echo: self.echo },
            inbound,
        );
        node.tasks.spawn(listener.run(received));
        node.tasks.spawn(driver.run(commands));
        let address = match (self.advertise, &bound.control) {
            (Some(advertised @ Address::Tcp { port: 0, .. }), Address::Tcp { port, .. }) => {
                advertised.with_port(*port)
            }
            (Some(advertised), _) => advertised,
            (None, control) => control.clone(),
        };
        tracing::info!(endpoint = %node.id, %address, "host is up");
        Ok(Host { guard: Arc::new(DropGuard(node)), address, bound })
    }

    fn check(&mut self, control: &Address) -> Result<(), HostError> {
        if let Some(invalid) = self.invalid.take() {
            return Err(invalid.into());
        }
        if self.cluster.is_empty() || self.cluster.len() > 255 {
            return Err(HostError::Option { option: "cluster", rule: "has 1 to 255 bytes" });
        }
        if self.empty_token {
            let rule =
                "is not empty: whoever shows none would have it; say allow_anonymous() if everyone may join";
            return Err(HostError::Option { option: "token", rule });
        }
        if self.max_message == 0 || self.max_message > config::MAX_MAX_MESSAGE {
            return Err(HostError::Option { option: "max_message", rule: "is 1 to 2^30 bytes" });
        }
        if self.send_queue.messages == 0 || self.send_queue.bytes == 0 {
            return Err(HostError::Option {
                option: "send_queue",
                rule: "holds at least one message and one byte",
            });
        }
        if self.id.is_nil() {
            return Err(HostError::Option { option: "id", rule: "is not the nil id" });
        }
        let all = [Some(control), self.broadcast.as_ref(), self.submit.as_ref()];
        for address in all.into_iter().flatten() {
            if std::mem::discriminant(address) != std::mem::discriminant(control) {
                return Err(HostError::MixedTransports { control: control.clone(), other: address.clone() });
            }
            if self.authenticator.is_none() && !address.is_local() {
                return Err(HostError::Unprotected { address: address.clone() });
            }
        }
        Ok(())
    }

    /// How the join answer names the broadcast and submit channels.
    fn channel_names(&self, bound: &BoundAddresses) -> (String, String) {
        let name = |channel: &Address| match (&self.advertise, channel) {
            (Some(advertised @ Address::Tcp { .. }), Address::Tcp { port, .. }) => {
                ChannelAddress::Full(advertised.with_port(*port))
            }
            _ => ChannelAddress::relative(&bound.control, channel),
        };
        (name(&bound.broadcast).to_string(), name(&bound.submit).to_string())
    }
}

/// The first epoch of a host without memory: the Unix time in milliseconds (design, section 4), and in one process never the
/// same twice, since a host may be dropped and bound again within a millisecond.
fn fresh_epoch() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let next = |last: u64| now.max(last.saturating_add(1));
    // The closure always gives a value.
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last))).map_or(now, next)
}

#[cfg(test)]
mod tests {
    use super::fresh_epoch;

    #[test]
    fn every_host_of_a_process_opens_a_higher_epoch() {
        let epochs: Vec<u64> = (0..1000).map(|_| fresh_epoch()).collect();
        assert!(epochs.is_sorted_by(|a, b| a < b));
    }
}

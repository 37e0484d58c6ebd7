//! The client: an endpoint that joins a host.

mod driver;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::config;
use crate::error::JoinError;
use crate::flow::Rejoin;
use crate::id::EndpointId;
use crate::message::{Position, check_prefix};
use crate::proto::member as machine;
use crate::role::Role;
use crate::transport::{self, Address, AddressError, Carrier};
use crate::wire::{MAX_PREFIXES, MAX_TOKEN};

use super::consumer::{Messages, StreamOptions};
use super::listener::ChannelListener;
use super::node::{DropGuard, Node, endpoint};
use super::outbound::{Outbound, QueueLimit};

/// An endpoint that joins a host, sends to it, and receives what the host orders.
///
/// ```no_run
/// use futures::TryStreamExt;
/// use zincmq::prelude::*;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder().join("tcp://127.0.0.1:5555").await?;
/// let mut messages = client.messages();
/// let receipt = client.send(Message::new("greetings", "hello")?).await?;
/// println!("my message is number {}", receipt.ordered().await?.seq);
/// while let Some(message) = messages.try_next().await? {
///     println!("{} says {:?}", message.origin(), message.payload());
/// }
/// # Ok(())
/// # }
/// ```
///
/// A client that loses its host tries to come back until it is shut down. What it had sent and not seen ordered is sent again, what it missed
/// is repaired; what the host has no more, or a host that was restarted never had, is told as a [reset](crate::RecvError::Reset).
///
/// Clones are handles on the same client; see [`Endpoint`](super::Endpoint) for what they can do.
#[derive(Debug, Clone)]
pub struct Client {
    guard: Arc<DropGuard>,
    address: Address,
    joined_at: Position,
}

impl Client {
    /// A client to be configured, and then to join.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The address of the host it joined.
    #[must_use]
    pub fn host_address(&self) -> &Address {
        &self.address
    }

    /// Where the order stood when it first joined: what it receives begins behind this position.
    #[must_use]
    pub fn joined_at(&self) -> Position {
        self.joined_at
    }

    fn node(&self) -> &Arc<Node> {
        &self.guard.0
    }
}

endpoint!(Client);

/// Configures a [`Client`].
#[must_use = "a builder does nothing until it joins"]
pub struct ClientBuilder {
    /// `None` for a fresh random one.
    id: Option<EndpointId>,
    cluster: String,
    token: Bytes,
    prefixes: BTreeSet<String>,
    takes_nothing: bool,
    carrier: Carrier,
    echo: bool,
    send_queue: QueueLimit,
    rejoin: Rejoin,
    handshake_timeout: Duration,
    join_timeout: Duration,
    shutdown_timeout: Duration,
    backoff: (Duration, Duration),
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            id: None,
            cluster: config::DEFAULT_CLUSTER.to_owned(),
            token: Bytes::new(),
            prefixes: BTreeSet::new(),
            takes_nothing: false,
            carrier: Carrier::default(),
            echo: false,
            send_queue: QueueLimit { messages: config::SEND_QUEUE_MESSAGES, bytes: config::SEND_QUEUE_BYTES },
            rejoin: Rejoin::default(),
            handshake_timeout: config::HANDSHAKE_TIMEOUT,
            join_timeout: config::JOIN_TIMEOUT,
            shutdown_timeout: config::SHUTDOWN_TIMEOUT,
            backoff: config::BACKOFF,
        }
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("id", &self.id)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Who the client is; no other live member may have the same id. Default: a fresh random id.
    ///
    /// One that comes back under an id it had before goes on after its last message that the host knows; where the host knows none, its messages are
    /// numbered from the Unix time in microseconds, so that no number is used again.
    pub fn id(mut self, id: EndpointId) -> Self {
        self.id = Some(id);
        self
    }

    /// The name of the cluster to join, at most 255 bytes. Default: `default`.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = name.into();
        self
    }

    /// What to show to the host's authenticator, at most 4,096 bytes. It travels in the clear: see [`Authenticator`](super::Authenticator).
    /// Default: nothing.
    pub fn token(mut self, token: impl Into<Bytes>) -> Self {
        self.token = token.into();
        self
    }

    /// Takes only topics of this prefix and of others given in the same way. Default: everything.
    pub fn subscribe(mut self, prefix: impl Into<String>) -> Self {
        self.prefixes.insert(prefix.into());
        self
    }

    /// Takes no topic by itself, but what is [subscribed](super::Endpoint::subscribe) to later, and the documents that are opened.
    pub fn subscribe_to_nothing(mut self) -> Self {
        self.takes_nothing = true;
        self
    }

    /// What carries `tcp://` and `ipc://`. The host need not use the same. Default: [`Carrier::Zmtp`].
    pub fn transport(mut self, carrier: Carrier) -> Self {
        self.carrier = carrier;
        self
    }

    /// Whether the client's consumers see the messages it sends itself, when they come back in order. Default: no.
    pub fn echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    /// How much may wait in the send queue, in messages and bytes, before `send` waits; each at least 1. A message is taken while
    /// there is any room, so one may go over. Default: 65,536 messages and 16 MiB.
    pub fn send_queue(mut self, messages: usize, bytes: usize) -> Self {
        self.send_queue = QueueLimit { messages, bytes };
        self
    }

    /// What to do after an eviction. Default: [`Rejoin::Auto`].
    pub fn rejoin(mut self, rejoin: Rejoin) -> Self {
        self.rejoin = rejoin;
        self
    }

    /// How long each step of a join may take. Default: 5 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How long `join` tries, a host that is not up yet included. Default: 10 s.
    pub fn join_timeout(mut self, timeout: Duration) -> Self {
        self.join_timeout = timeout;
        self
    }

    /// How long `shutdown` waits until what was sent has its place, and for handlers. Default: 5 s.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// The pause before another attempt to reach the host: at first, and at most. It doubles from attempt to attempt, and is
    /// shortened by a random part of up to half. Default: 50 ms and 2 s.
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.backoff = (first, most.max(first));
        self
    }

    /// Joins the host at this address.
    ///
    /// Returns when the host has admitted the client and its subscription is proven live: what is ordered from then on is received.
    /// A host that is not up yet is waited for. Must be called within a tokio runtime. Cancel safe: a cancelled call leaves nothing behind.
    ///
    /// # Errors
    /// [`JoinError`]; the client has ended then.
    pub async fn join(
        self,
        address: impl TryInto<Address, Error: Into<AddressError>>,
    ) -> Result<Client, JoinError> {
        let address = address.try_into().map_err(Into::into)?;
        Ok(self.start(address, |_| ()).await?.0)
    }

    /// Joins the host at this address, with a stream of all that is ordered behind [`Client::joined_at`].
    ///
    /// A stream made after [`join`](Self::join) misses what was delivered before it was made; this one misses nothing.
    /// Otherwise as [`join`](Self::join), its cancel safety included.
    ///
    /// ```no_run
    /// use futures::TryStreamExt;
    /// use zincmq::prelude::*;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let (client, mut messages) = Client::builder().join_with_messages("tcp://127.0.0.1:5555").await?;
    /// println!("all after {}:", client.joined_at());
    /// while let Some(message) = messages.try_next().await? {
    ///     println!("{:?}", message.payload());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`JoinError`]; the client has ended then.
    pub async fn join_with_messages(
        self,
        address: impl TryInto<Address, Error: Into<AddressError>>,
    ) -> Result<(Client, Messages), JoinError> {
        let address = address.try_into().map_err(Into::into)?;
        self.start(address, |node| node.messages(&StreamOptions::new())).await
    }

    /// Starts the client and waits until it is a member. `prepare` runs before anything can be delivered.
    async fn start<T>(
        mut self,
        address: Address,
        prepare: impl FnOnce(&Node) -> T,
    ) -> Result<(Client, T), JoinError> {
        self.check()?;
        if self.prefixes.is_empty() && !self.takes_nothing {
            self.prefixes.insert(String::new());
        }
        let mut seed = [0; 8];
        // Without randomness, clients come back in step: worth no error.
        let _ = getrandom::fill(&mut seed);
        let id = self.id.unwrap_or_else(EndpointId::random);
        let first_origin_seq = super::driver::first_origin_seq(self.id.is_none());
        let machine = machine::Member::new(machine::Config {
            id,
            cluster: self.cluster,
            token: self.token,
            prefixes: self.prefixes.clone(),
            outbox: config::OUTBOX,
            first_origin_seq,
            rejoin: self.rejoin == Rejoin::Auto,
            origin_ttl: config::ORIGIN_TTL,
            #[cfg(any(test, feature = "test-utils"))]
            mutant: None,
            handshake_timeout: self.handshake_timeout,
            join_timeout: self.join_timeout,
            backoff: self.backoff,
            seed: u64::from_ne_bytes(seed),
        });
        let (node, commands) = Node::new(
            id,
            Role::Member,
            Outbound::new(self.send_queue, config::MAX_MESSAGE, first_origin_seq),
            self.prefixes,
            self.shutdown_timeout,
        );
        let guard = Arc::new(DropGuard(Arc::clone(&node)));
        let prepared = prepare(&node);
        let listener = ChannelListener::new(Arc::clone(&node), self.echo);
        let (joined, outcome) = oneshot::channel();
        let transport = transport::for_address(&address, self.carrier);
        let driver =
            driver::Driver::new(Arc::clone(&node), machine, transport, address.clone(), listener, joined);
        node.tasks.spawn(driver.run(commands));
        match outcome.await {
            Ok(Ok(joined_at)) => Ok((Client { guard, address, joined_at }, prepared)),
            Ok(Err(machine::End::Refused { code, reason })) => {
                Err(JoinError::Refused { address, reason: super::driver::reason(code, reason) })
            }
            Ok(Err(machine::End::TimedOut { reason })) => {
                Err(JoinError::TimedOut { address, waited: self.join_timeout, reason })
            }
            Ok(Err(machine::End::Evicted(eviction))) => {
                Err(JoinError::Evicted { address, eviction: Box::new(eviction) })
            }
            Ok(Err(machine::End::Left)) | Err(_) => Err(JoinError::TimedOut {
                address,
                waited: self.join_timeout,
                reason: "the runtime is shutting down".to_owned(),
            }),
        }
    }

    fn check(&self) -> Result<(), JoinError> {
        for prefix in &self.prefixes {
            check_prefix(prefix)?;
        }
        let rule = |option, rule| Err(JoinError::Option { option, rule });
        if self.cluster.is_empty() || self.cluster.len() > 255 {
            return rule("cluster", "has 1 to 255 bytes");
        }
        if self.token.len() > MAX_TOKEN {
            return rule("token", "has at most 4096 bytes");
        }
        if self.prefixes.len() > MAX_PREFIXES {
            return rule("subscribe", "is given at most 1024 prefixes");
        }
        if self.send_queue.messages == 0 || self.send_queue.bytes == 0 {
            return rule("send_queue", "holds at least one message and one byte");
        }
        if self.id.is_some_and(|id| id.is_nil()) {
            return rule("id", "is not the nil id");
        }
        Ok(())
    }
}

//! How a host is set up.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::config;
use crate::error::HostError;
use crate::flow::{HighWaterMark, SlowPolicy};
use crate::id::EndpointId;
use crate::message::check_prefix;
use crate::proto::LogLimit;
use crate::proto::host as machine;
use crate::role::Role;
use crate::transport::{
    self, Address, AddressError, BindAddresses, BoundAddresses, Carrier, ChannelAddress, ParentLimits,
    ParentLink, Protocol,
};
use crate::wire::MAX_PREFIXES;

use super::super::auth::{AllowAnonymous, Authenticator, SharedToken};
use super::super::listener::ChannelListener;
use super::super::node::{DropGuard, Node};
use super::super::outbound::{Outbound, QueueLimit};

use super::Host;
use super::driver::Driver;

/// Configures a [`Host`].
#[must_use = "a builder does nothing until it is bound"]
pub struct HostBuilder {
    /// `None` for a fresh random one.
    id: Option<EndpointId>,
    cluster: String,
    authenticator: Option<Arc<dyn Authenticator>>,
    empty_token: bool,
    broadcast: Option<Address>,
    submit: Option<Address>,
    carrier: Carrier,
    advertise: Option<Address>,
    invalid: Option<AddressError>,
    echo: bool,
    max_message: usize,
    max_members: usize,
    /// Connections on each channel, and bytes over all.
    unauthenticated: (usize, usize),
    send_queue: QueueLimit,
    marks: HighWaterMark,
    policy: SlowPolicy,
    pace_percentile: u8,
    patience: Option<Duration>,
    log: Option<LogLimit>,
    heartbeat: Duration,
    lease: Duration,
    origin_ttl: Duration,
    max_origins: usize,
    quarantine: (Duration, Duration),
    handshake_timeout: Duration,
    shutdown_timeout: Duration,
}

impl Default for HostBuilder {
    fn default() -> Self {
        Self {
            id: None,
            cluster: config::DEFAULT_CLUSTER.to_owned(),
            authenticator: None,
            empty_token: false,
            broadcast: None,
            submit: None,
            carrier: Carrier::default(),
            advertise: None,
            invalid: None,
            echo: false,
            max_message: config::MAX_MESSAGE,
            max_members: config::MAX_MEMBERS,
            unauthenticated: config::UNAUTHENTICATED,
            send_queue: QueueLimit { messages: config::SEND_QUEUE_MESSAGES, bytes: config::SEND_QUEUE_BYTES },
            marks: HighWaterMark::new(),
            policy: SlowPolicy::default(),
            pace_percentile: config::PACE_PERCENTILE,
            patience: None,
            log: None,
            heartbeat: config::HEARTBEAT,
            lease: config::LEASE,
            origin_ttl: config::ORIGIN_TTL,
            max_origins: config::MAX_ORIGINS,
            quarantine: config::QUARANTINE,
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
    /// Who the host is. Default: a fresh random id. Under an id of your own its messages are numbered from the Unix time in microseconds,
    /// so that one that comes back under it does not use numbers again.
    pub fn id(mut self, id: EndpointId) -> Self {
        self.id = Some(id);
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

    /// What carries `tcp://` and `ipc://`. Members need not use the same. Default: [`Carrier::Zmtp`].
    pub fn transport(mut self, carrier: Carrier) -> Self {
        self.carrier = carrier;
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

    /// How many connections each of the three channels takes whose peers are not authenticated, plain
    /// ZeroMQ subscribers included; and how much memory they may hold together, in bytes. Above
    /// either, a connection is closed: the oldest from the address that has most of them, or the one
    /// that holds most. The number is at most an eighth of the file descriptors that the process may
    /// open. Default: 1,024 and 32 MiB (guesses). Has no effect on [`Carrier::Zeromq`].
    pub fn unauthenticated(mut self, connections: usize, bytes: usize) -> Self {
        self.unauthenticated = (connections, bytes);
        self
    }

    /// How much may wait in the send queue, in messages and bytes, before `send` waits; each at least 1. A message is taken while
    /// there is any room, so one may go over. Default: 65,536 messages and 16 MiB.
    pub fn send_queue(mut self, messages: usize, bytes: usize) -> Self {
        self.send_queue = QueueLimit { messages, bytes };
        self
    }

    /// How far a member may fall behind before it is a slow one, and so how much the host and each member hold for it. Default: 1,000,000
    /// messages, 64 MiB, 5 s, no grace. Higher marks cost memory: the host keeps as much to repair from, and its transport may
    /// hold as much for each member; each consumer of a member may hold as much, too.
    pub fn high_water_mark(mut self, mark: HighWaterMark) -> Self {
        self.marks = mark;
        self
    }

    /// What to do about members that are slower than the others. Default: [`SlowPolicy::Evict`].
    pub fn slow_policy(mut self, policy: SlowPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Which member sets the pace: while it is more than half of the high-water mark behind, `send` waits everywhere. The number is the share of members, in
    /// percent, that are at least as fast: 0 is the fastest, 50 the median, 100 the slowest. Default: 50. [`SlowPolicy::Block`] means 100.
    pub fn pace_percentile(mut self, percent: u8) -> Self {
        self.pace_percentile = percent;
        self
    }

    /// For how long at a stretch the members at the pace wait for stragglers: for members that are more than half of the high-water mark behind, though those at
    /// the pace are not, and that handled something within the last heartbeat. At most half of the time is spent so, however many they are. Who does at least about half
    /// of what the others do so stays with them; who does less falls past its mark, and costs them no more than that half of the time until then. Default: half a
    /// heartbeat. Zero: nobody waits for stragglers, and whoever has less of the processors than the member at the pace is evicted in time, where all go at full speed.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// How much is kept to repair from, and for members that come back: in messages, and in bytes of windows with 128 for each. At least the
    /// high-water mark. Default: the same. Costs that much memory.
    pub fn replay_ring(mut self, messages: u64, bytes: u64) -> Self {
        self.log = Some(LogLimit { messages, bytes });
        self
    }

    /// How often the host tells where the order ends, so that members find lost messages: 1 ms to 49 days. Default: 100 ms. Shorter costs two small
    /// messages to each member each time.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// After how long without a word the host and its members take each other for dead; at least three heartbeats. Default: 10 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long the host remembers what an endpoint sent once that is no member any more. One that comes back later with messages it had not seen
    /// ordered is told that [their fate is unknown](crate::ReceiptError::Unknown). Default: 1 hour.
    pub fn origin_ttl(mut self, ttl: Duration) -> Self {
        self.origin_ttl = ttl;
        self
    }

    /// Of how many endpoints the host remembers the messages they sent. For a joiner beyond that it
    /// forgets a former member: one that sent nothing, or else the one that has been away for
    /// longest. That one is told when it comes back, as with [`origin_ttl`](Self::origin_ttl). At
    /// least 1. Default: 100,000. Each costs some hundred bytes.
    pub fn max_origins(mut self, origins: usize) -> Self {
        self.max_origins = origins;
        self
    }

    /// How long an evicted member stays away: the first time, and at most. It doubles with each eviction. Default: 1 s and 60 s.
    pub fn quarantine(mut self, first: Duration, most: Duration) -> Self {
        self.quarantine = (first, most.max(first));
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
        let link = transport::for_address(&addresses.control, self.carrier)
            .bind(&addresses, &self.limits(), Protocol::default())
            .await?;
        Ok(self.start(link))
    }

    /// Starts a host on channels that are bound.
    pub(super) fn start(self, link: ParentLink) -> Host {
        let bound = link.addresses.clone();
        let (broadcast, submit) = self.channel_names(&bound);

        let id = self.id.unwrap_or_else(EndpointId::random);
        let first_origin_seq = super::super::driver::first_origin_seq(self.id.is_none());
        let epoch = fresh_epoch();
        let (pace_percentile, conflatable) = match &self.policy {
            SlowPolicy::Evict => (self.pace_percentile, Vec::new()),
            SlowPolicy::Block => (100, Vec::new()),
            SlowPolicy::DropOldest { conflatable } => (self.pace_percentile, conflatable.clone()),
        };
        let config = machine::Config {
            id,
            cluster: self.cluster,
            incarnation: fresh_incarnation(epoch),
            epoch,
            first_origin_seq,
            max_message: self.max_message,
            max_members: self.max_members,
            authentication: config::AUTHENTICATION,
            handshake_timeout: self.handshake_timeout,
            marks: self.marks,
            pace_percentile,
            patience: self.patience.unwrap_or(self.heartbeat / config::PATIENCE_PER_HEARTBEAT),
            conflatable: conflatable.clone(),
            log: self.log.unwrap_or(LogLimit { messages: self.marks.messages, bytes: self.marks.bytes }),
            heartbeat: self.heartbeat,
            lease: self.lease,
            origin_ttl: self.origin_ttl,
            max_origins: self.max_origins,
            quarantine: self.quarantine,
            repair_rate: config::REPAIR_RATE,
            #[cfg(any(test, feature = "test-utils"))]
            mutant: None,
            broadcast,
            submit,
        };
        let prefixes = BTreeSet::from([String::new()]);
        let (node, commands) = Node::new(
            id,
            Role::Host,
            Outbound::new(self.send_queue, self.max_message, first_origin_seq),
            prefixes.clone(),
            self.shutdown_timeout,
        );
        node.consumers.set_marks(&self.marks, conflatable);
        let subscriptions = Arc::new(Mutex::new(prefixes));
        let listener = ChannelListener::of_windows(
            Arc::clone(&node),
            self.echo,
            self.max_message,
            Arc::clone(&subscriptions),
        );
        let driver = Driver::new(
            Arc::clone(&node),
            config,
            link,
            self.authenticator.unwrap_or_else(|| Arc::new(AllowAnonymous)),
            listener,
            subscriptions,
        );
        node.tasks.spawn(driver.run(commands));
        let address = match (self.advertise, &bound.control) {
            (Some(advertised @ Address::Tcp { port: 0, .. }), Address::Tcp { port, .. }) => {
                advertised.with_port(*port)
            }
            (Some(advertised), _) => advertised,
            (None, control) => control.clone(),
        };
        tracing::info!(endpoint = %node.id, %address, "host is up");
        Host { guard: Arc::new(DropGuard(node)), address, bound }
    }

    /// What the transport may hold for a member: what the host itself would let it be behind.
    fn limits(&self) -> ParentLimits {
        let most = |mark: u64| usize::try_from(mark).unwrap_or(usize::MAX);
        ParentLimits {
            messages: most(self.marks.messages),
            bytes: most(self.marks.bytes),
            age: self.marks.age + self.marks.grace,
            // A batch with a largest message, and what is around it. What is a little too large is better counted than cut off.
            submit: (self.max_message + 8 * 1024).max(2 << 20),
            children: self.max_members,
            unauthenticated: self.unauthenticated.0,
            unauthenticated_bytes: self.unauthenticated.1,
            // Not before the host has judged by itself.
            stalled: self.lease.max(self.marks.age + self.marks.grace),
        }
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
        if self.id.is_some_and(|id| id.is_nil()) {
            return Err(HostError::Option { option: "id", rule: "is not the nil id" });
        }
        self.check_flow()?;
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

    fn check_flow(&self) -> Result<(), HostError> {
        let rule = |option, rule| Err(HostError::Option { option, rule });
        let most = Duration::from_millis(u32::MAX.into());
        let spans = |span: Duration| (Duration::from_millis(1)..=most).contains(&span);
        let marks = &self.marks;
        if marks.messages == 0 || marks.bytes == 0 || !spans(marks.age) {
            return rule("high_water_mark", "is at least one message, one byte, and 1 ms to 49 days");
        }
        if self.log.is_some_and(|log| log.messages < marks.messages || log.bytes < marks.bytes) {
            return rule("replay_ring", "covers at least the high-water mark, in messages and in bytes");
        }
        if self.pace_percentile > 100 {
            return rule("pace_percentile", "is 0 to 100");
        }
        if self.patience.is_some_and(|patience| patience > self.lease / 4) {
            return rule("patience", "is at most a quarter of the lease");
        }
        if !spans(self.heartbeat) {
            return rule("heartbeat", "is 1 ms to 49 days");
        }
        if !spans(self.lease) || self.lease < self.heartbeat * 3 {
            return rule("lease", "is at least three heartbeats, and at most 49 days");
        }
        if self.max_origins == 0 {
            return rule("max_origins", "is at least 1");
        }
        if let SlowPolicy::DropOldest { conflatable } = &self.policy {
            if conflatable.len() > MAX_PREFIXES {
                return rule("slow_policy", "names at most 1024 conflatable prefixes");
            }
            if conflatable.iter().any(|prefix| check_prefix(prefix).is_err()) {
                return rule("slow_policy", "names prefixes that topics can begin with");
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

/// A number that tells this life of a host from all others: random, or where there is no randomness the epoch.
fn fresh_incarnation(epoch: u64) -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes).max(1),
        Err(_) => epoch,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::endpoint::Endpoint;
    use crate::id::{PeerId, SessionToken};
    use crate::transport::{Backlog, ChannelError, ParentChannels, ParentEvent, PeerAddress};
    use crate::wire::Lane;

    #[test]
    fn every_host_of_a_process_opens_a_higher_epoch() {
        let epochs: Vec<u64> = (0..1000).map(|_| fresh_epoch()).collect();
        assert!(epochs.is_sorted_by(|a, b| a < b));
    }

    /// Channels on which nothing but the host's own signs of life are of interest.
    #[derive(Debug, Default)]
    struct Heartbeats(Arc<AtomicU64>);

    impl ParentChannels for Heartbeats {
        fn broadcast(&mut self, lane: Bytes, _body: Bytes) {
            self.0.fetch_add(u64::from(lane == Lane::Whole.encode()), Ordering::Relaxed);
        }

        fn send_control(&mut self, _peer: &PeerId, _frame: Bytes) -> Result<(), ChannelError> {
            Ok(())
        }

        fn disconnect(&mut self, _peer: &PeerId, _session: Option<SessionToken>) {}

        fn cut_broadcast(&mut self, _session: SessionToken) {}

        fn backlog(&self, _session: SessionToken) -> Option<Backlog> {
            None
        }

        fn dropped(&self) -> u64 {
            0
        }
    }

    #[tokio::test]
    async fn members_that_speak_all_the_time_do_not_keep_the_others_from_hearing_of_the_host() {
        const HEARTBEAT: Duration = Duration::from_millis(5);
        // More than the driver takes before it gives others a turn: at no time has it nothing to hear.
        let (hear, events) = mpsc::channel(100_000);
        let (_submit, submits) = mpsc::channel(1);
        let control: Address = "tcp://127.0.0.1:1".parse().unwrap();
        let addresses = BoundAddresses { broadcast: control.clone(), submit: control.clone(), control };
        let heartbeats = Arc::new(AtomicU64::new(0));
        let channels = Box::new(Heartbeats(Arc::clone(&heartbeats)));
        let host =
            Host::builder().heartbeat(HEARTBEAT).start(ParentLink { addresses, channels, events, submits });
        let noise = || ParentEvent::Control {
            peer: PeerId::new(Bytes::from_static(b"noise")),
            address: PeerAddress::Inproc,
            frames: Vec::new(),
        };
        while hear.try_send(noise()).is_ok() {}
        let clock = std::time::Instant::now();
        while clock.elapsed() < HEARTBEAT * 40 {
            while hear.try_send(noise()).is_ok() {}
            tokio::task::yield_now().await;
        }
        // One in four of those that are due is enough, on a machine that has others to serve.
        let heard = heartbeats.load(Ordering::Relaxed);
        assert!(heard >= 10, "{heard} signs of life, and {} messages heard", host.stats().malformed_control);
    }
}

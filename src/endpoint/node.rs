//! What the handles of an endpoint and its tasks share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::SubscribeError;
use crate::id::EndpointId;
use crate::message::{TopicError, check_prefix};
use crate::proto::host::{Rights, Stamp};
use crate::role::Role;
use crate::sync::lock;
use crate::wire::{MAX_PREFIXES, MemberEntry};

use super::consumer::{Consumer, Consumers, Messages, StreamOptions};
use super::event::{EVENT_CAPACITY, Event, Events};
use super::extensions::Extensions;
use super::handler::{self, Failure, HandlerHandle, HandlerOptions, MessageHandler};
use super::outbound::{Gate, Outbound};
use super::sender::Sender;
use super::stats::{Counters, MemberLag};
use super::{Member, ShutdownReport};

/// How many requests of the application may wait for the driver (a guess; each waits for its answer).
const COMMANDS: usize = 64;

/// Who tells a host what members may say about documents.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) stamp: Stamp,
    /// For how long an answer counts.
    pub(crate) lasts: Duration,
    /// Of whom, and about which document, something is to be told. The host asks about each member a bounded number at a time.
    pub(crate) asks: mpsc::UnboundedSender<(EndpointId, String)>,
    pub(crate) told: mpsc::UnboundedReceiver<Told>,
    /// Whether nobody answers any more.
    pub(crate) is_deaf: bool,
}

/// What a guard tells its host. Where it ends without a word, what is not known by then is not allowed.
#[derive(Debug)]
pub(crate) enum Told {
    /// What a member may do with a document.
    Rights { stamp: Stamp, id: EndpointId, name: String, rights: Rights },
    /// What was told before this stamp counts no more, of a document or of all. Answers when that is so.
    Forget { stamp: Stamp, name: Option<String>, done: oneshot::Sender<()> },
    /// Nobody is to be asked any more.
    Release,
}

/// A request of the application to the driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Take these prefixes, and answer when that is in force.
    Subscribe { prefixes: BTreeSet<String>, done: oneshot::Sender<()> },
    /// Evict a member, and answer whether there was one. Hosts only.
    Kick { id: EndpointId, text: String, done: oneshot::Sender<bool> },
    /// Go on in an epoch above this one, and answer when that is so. Hosts only.
    RiseAbove { epoch: u64, done: oneshot::Sender<()> },
    /// Ask this guard from now on what members may say about documents; or nobody. Answers when that is so. Hosts only.
    Guard { guard: Option<Guard>, done: oneshot::Sender<()> },
    /// End in order.
    Shutdown,
}

/// Which topics an endpoint takes.
#[derive(Debug)]
struct Prefixes {
    /// What the application subscribed to: once is as good as twice.
    own: BTreeSet<String>,
    /// What services on top of the endpoint use, and how many of them do. What the application does with its own is nothing to them, nor the other way round.
    used: BTreeMap<String, usize>,
}

impl Prefixes {
    fn all(&self) -> BTreeSet<String> {
        self.own.iter().chain(self.used.keys()).cloned().collect()
    }

    /// Whether there is room for this one.
    fn check(&self, prefix: &str) -> Result<(), SubscribeError> {
        let has = self.own.contains(prefix) || self.used.contains_key(prefix);
        if !has && self.all().len() >= MAX_PREFIXES {
            return Err(SubscribeError::TooMany { limit: MAX_PREFIXES });
        }
        Ok(())
    }
}

/// The shared part of an endpoint: its driver and listener write, its handles read.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: EndpointId,
    role: AtomicU8,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) consumers: Arc<Consumers>,
    pub(crate) counters: Arc<Counters>,
    /// Where the members of a host stand.
    pub(crate) lags: Mutex<Vec<MemberLag>>,
    members: Mutex<BTreeMap<EndpointId, Role>>,
    events: Mutex<Option<broadcast::Sender<Event>>>,
    prefixes: Mutex<Prefixes>,
    commands: mpsc::Sender<Command>,
    /// The report of the end, once there is one.
    ended: watch::Sender<Option<ShutdownReport>>,
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) extensions: Extensions,
}

impl Node {
    pub(crate) fn new(
        id: EndpointId,
        role: Role,
        outbound: Outbound,
        prefixes: BTreeSet<String>,
        shutdown_timeout: Duration,
    ) -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(COMMANDS);
        let node = Self {
            id,
            role: AtomicU8::new(role as u8),
            outbound: Arc::new(outbound),
            consumers: Arc::default(),
            counters: Arc::default(),
            lags: Mutex::default(),
            members: Mutex::default(),
            events: Mutex::new(Some(broadcast::Sender::new(EVENT_CAPACITY))),
            prefixes: Mutex::new(Prefixes { own: prefixes, used: BTreeMap::new() }),
            commands,
            ended: watch::Sender::new(None),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            shutdown_timeout,
            extensions: Extensions::default(),
        };
        (Arc::new(node), received)
    }

    pub(crate) fn emit(&self, event: Event) {
        tracing::debug!(endpoint = %self.id, ?event, "event");
        if let Some(events) = &*lock(&self.events) {
            // Nobody listening is no error.
            let _ = events.send(event);
        }
    }

    pub(crate) fn set_role(&self, role: Role) {
        self.role.store(role as u8, Ordering::Release);
        self.outbound.set_gate(if role.may_send() { Gate::Open } else { Gate::ReadOnly });
    }

    pub(crate) fn set_members(&self, members: impl IntoIterator<Item = MemberEntry>) {
        *lock(&self.members) = members.into_iter().map(|member| (member.id, member.role)).collect();
    }

    pub(crate) fn on_joined(&self, member: MemberEntry) {
        if lock(&self.members).insert(member.id, member.role).is_none() {
            self.emit(Event::MemberJoined { id: member.id, role: member.role });
        }
    }

    pub(crate) fn on_left(&self, id: EndpointId, reason: super::LeaveReason) {
        if lock(&self.members).remove(&id).is_some() {
            self.emit(Event::MemberLeft { id, reason });
        }
    }

    /// The driver's last act: nothing goes in or out any more.
    pub(crate) fn end(&self, members: usize) {
        self.outbound.set_gate(Gate::Closed);
        let (unsent, unknown) = self.outbound.abandon();
        lock(&self.members).clear();
        lock(&self.lags).clear();
        lock(&self.events).take();
        self.ended.send_replace(Some(ShutdownReport { unsent, unknown, members }));
    }

    async fn change_prefixes(
        &self,
        change: impl FnOnce(&mut Prefixes) -> Result<(), SubscribeError>,
    ) -> Result<(), SubscribeError> {
        if handler::in_handler() {
            return Err(SubscribeError::WouldBlock);
        }
        // Reserved first: from the change of the set to its dispatch nothing waits, so commands leave in the order of changes.
        let permit = self.commands.reserve().await.map_err(|_| SubscribeError::Closed)?;
        let (done, answer) = oneshot::channel();
        {
            let mut prefixes = lock(&self.prefixes);
            change(&mut prefixes)?;
            permit.send(Command::Subscribe { prefixes: prefixes.all(), done });
        }
        answer.await.map_err(|_| SubscribeError::Closed)
    }

    fn report_failure(&self, failure: Failure) {
        tracing::error!(
            endpoint = %self.id, handler = failure.handler, position = ?failure.position, error = failure.error,
            "a message handler failed"
        );
        self.counters.handler_failures.fetch_add(failure.messages, Ordering::Relaxed);
        self.emit(Event::HandlerFailed {
            handler: failure.handler,
            position: failure.position,
            error: failure.error,
            messages: failure.messages,
        });
    }
}

/// What the handles of an endpoint do: the methods of [`Endpoint`](super::Endpoint), whose documentation holds.
impl Node {
    pub(crate) fn role(&self) -> Role {
        Role::from_byte(self.role.load(Ordering::Acquire)).unwrap_or(Role::Member)
    }

    pub(crate) fn sender(self: &Arc<Self>) -> Sender {
        Sender::new(Arc::clone(self))
    }

    pub(crate) async fn subscribe(&self, prefix: &str) -> Result<(), SubscribeError> {
        check_prefix(prefix)?;
        self.change_prefixes(|prefixes| {
            prefixes.check(prefix)?;
            prefixes.own.insert(prefix.to_owned());
            Ok(())
        })
        .await
    }

    pub(crate) async fn unsubscribe(&self, prefix: &str) -> Result<(), SubscribeError> {
        self.change_prefixes(|prefixes| {
            prefixes.own.remove(prefix);
            Ok(())
        })
        .await
    }

    /// As `subscribe`, for services: each use needs its [`release`](Self::release). Not cancel safe: these may be in use afterwards or not.
    pub(crate) async fn take_up(&self, wanted: &[String]) -> Result<(), SubscribeError> {
        self.change_prefixes(|prefixes| {
            for prefix in wanted {
                prefixes.check(prefix)?;
            }
            for prefix in wanted {
                *prefixes.used.entry(prefix.clone()).or_default() += 1;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn release(&self, unwanted: &[String]) -> Result<(), SubscribeError> {
        self.change_prefixes(|prefixes| {
            for prefix in unwanted {
                if let Some(users) = prefixes.used.get_mut(prefix) {
                    *users -= 1;
                }
            }
            prefixes.used.retain(|_, users| *users > 0);
            Ok(())
        })
        .await
    }

    pub(crate) fn messages(&self, options: &StreamOptions) -> Messages {
        Messages::new(&self.consumers, options)
    }

    pub(crate) fn add_handler(
        self: &Arc<Self>,
        prefix: &str,
        handler: Arc<dyn MessageHandler>,
        mut options: HandlerOptions,
    ) -> Result<HandlerHandle, TopicError> {
        check_prefix(prefix)?;
        if options.name.is_empty() {
            prefix.clone_into(&mut options.name);
        }
        let consumer =
            Consumer::new(&options.name, &[prefix.to_owned()], false, options.workers, options.key);
        self.consumers.add(Arc::clone(&consumer));
        let node = Arc::downgrade(self);
        let report: Arc<dyn Fn(Failure) + Send + Sync> = Arc::new(move |failure| {
            if let Some(node) = node.upgrade() {
                node.report_failure(failure);
            }
        });
        for queue in consumer.queues() {
            let name = options.name.clone();
            let work = handler::run(Arc::clone(queue), Arc::clone(&handler), name, Arc::clone(&report));
            self.tasks.spawn(work);
        }
        Ok(HandlerHandle::new(consumer))
    }

    pub(crate) fn host(&self) -> Option<EndpointId> {
        lock(&self.members).iter().find(|(_, role)| **role == Role::Host).map(|(id, _)| *id)
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        lock(&self.members).iter().map(|(id, role)| Member { id: *id, role: *role }).collect()
    }

    pub(crate) fn events(&self) -> Events {
        let events = lock(&self.events);
        // After the end: a stream that ends at once.
        Events::new(events.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe))
    }

    pub(crate) fn stats(&self) -> super::Stats {
        let mut stats = self.counters.snapshot();
        stats.members.clone_from(&lock(&self.lags));
        stats
    }

    pub(crate) async fn kick(&self, id: EndpointId, text: String) -> bool {
        let (done, answer) = oneshot::channel();
        // A host that has ended has no members.
        let _ = self.commands.send(Command::Kick { id, text, done }).await;
        answer.await.unwrap_or(false)
    }

    pub(crate) async fn rise_above(&self, epoch: u64) {
        let (done, answer) = oneshot::channel();
        // A host that has ended gives no more positions.
        let _ = self.commands.send(Command::RiseAbove { epoch, done }).await;
        let _ = answer.await;
    }

    /// Of a host: lets a guard tell what members may say about documents, in the place of the one before; `None`: they may say everything.
    pub(crate) async fn set_guard(&self, guard: Option<Guard>) {
        let (done, answer) = oneshot::channel();
        // A host that has ended orders nothing.
        let _ = self.commands.send(Command::Guard { guard, done }).await;
        let _ = answer.await;
    }

    pub(crate) async fn shutdown(&self) -> ShutdownReport {
        // The driver keeps to the deadline from when it is told; its tasks have what is left of it.
        let deadline = tokio::time::Instant::now() + self.shutdown_timeout;
        let mut ended = self.ended.subscribe();
        // A closed channel means that the end has come, or is about to.
        let _ = self.commands.send(Command::Shutdown).await;
        let report = match ended.wait_for(Option::is_some).await {
            Ok(report) => report.unwrap_or_default(),
            Err(_) => ShutdownReport::default(),
        };
        self.tasks.close();
        // Handlers have until the deadline, too; after it they are left to themselves.
        let _ = tokio::time::timeout_at(deadline, self.tasks.wait()).await;
        report
    }
}

/// Makes a handle on a node an [`Endpoint`](super::Endpoint). It must have a method `node`.
macro_rules! endpoint {
    ($handle:ty) => {
        #[async_trait::async_trait]
        impl $crate::Endpoint for $handle {
            fn id(&self) -> $crate::EndpointId {
                self.node().id
            }

            fn role(&self) -> $crate::Role {
                self.node().role()
            }

            async fn send(&self, message: $crate::Message) -> Result<$crate::Receipt, $crate::SendError> {
                self.node().sender().send(message).await
            }

            fn try_send(&self, message: $crate::Message) -> Result<$crate::Receipt, $crate::SendError> {
                self.node().outbound.try_send(message)
            }

            fn sender(&self) -> $crate::Sender {
                self.node().sender()
            }

            async fn subscribe(&self, prefix: &str) -> Result<(), $crate::SubscribeError> {
                self.node().subscribe(prefix).await
            }

            async fn unsubscribe(&self, prefix: &str) -> Result<(), $crate::SubscribeError> {
                self.node().unsubscribe(prefix).await
            }

            fn messages(&self) -> $crate::Messages {
                self.node().messages(&$crate::StreamOptions::new())
            }

            fn messages_with(&self, options: &$crate::StreamOptions) -> $crate::Messages {
                self.node().messages(options)
            }

            fn extensions(&self) -> &$crate::Extensions {
                &self.node().extensions
            }

            fn add_handler(
                &self,
                prefix: &str,
                handler: std::sync::Arc<dyn $crate::MessageHandler>,
                options: $crate::HandlerOptions,
            ) -> Result<$crate::HandlerHandle, $crate::TopicError> {
                self.node().add_handler(prefix, handler, options)
            }

            fn members(&self) -> Vec<$crate::Member> {
                self.node().members()
            }

            fn events(&self) -> $crate::Events {
                self.node().events()
            }

            fn stats(&self) -> $crate::Stats {
                self.node().stats()
            }

            async fn shutdown(&self) -> $crate::ShutdownReport {
                self.node().shutdown().await
            }
        }
    };
}
pub(crate) use endpoint;

/// Ends the endpoint without waiting when the last handle goes.
#[derive(Debug)]
pub(crate) struct DropGuard(pub(crate) Arc<Node>);

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.cancel.cancel();
    }
}

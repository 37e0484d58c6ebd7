//! The tasks of a keeper: one reads what is ordered and drives the machine, another sends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant as TokioInstant;
use tokio_util::sync::DropGuard;

use crate::endpoint::{Batch, Messages, Receipt, Sender, StreamOptions};
use crate::error::{RecvError, SendError};
use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Topic};
use crate::proto::Instant;
use crate::sync::lock;

use super::super::Malformed;
use super::super::keeper::{self, Decision, Lacks, Output, Question};
use super::super::outgoing::{Lost, Outgoing, Queue, message, next_lost};
use super::super::wire::{self, State};
use super::KeeperError;
use super::place::Life;
use super::rights::Veto;
use super::storing::{self, Storing, Written};
use super::working::Working;

/// How much may come while the store is being loaded, in bytes (a guess, as for what waits for a store).
const MOST_EARLY: usize = 256 << 20;
/// What a message takes beyond its payload, in bytes, about.
const EARLY: usize = 256;

/// All documents; and answers, which the host's keeper does not get any.
pub(super) fn stream_options(me: EndpointId, is_hosts: bool) -> StreamOptions {
    let options = StreamOptions::new().prefix(wire::ROOT).echo(true);
    if is_hosts { options } else { options.prefix(wire::answer_topic(me)) }
}

/// What a keeper's handles and tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    me: EndpointId,
    is_hosts: bool,
    /// The way to tell the host who may say what.
    veto: Option<Arc<Veto>>,
    pub(super) machine: Mutex<keeper::Keeper>,
    clock: TokioInstant,
    /// There is a part of a document to be sent to somebody.
    part: Notify,
    /// The machine was told something: the driver has to look at it.
    wake: Notify,
    pub(super) unsent: AtomicU64,
    pub(super) commits: watch::Sender<u64>,
    pub(super) has_caught_up: watch::Sender<bool>,
    pub(super) failed: watch::Sender<Option<KeeperError>>,
    pub(super) life: Life,
}

impl Shared {
    pub(super) fn new(
        me: EndpointId,
        is_hosts: bool,
        machine: keeper::Keeper,
        veto: Option<Arc<Veto>>,
        life: Life,
    ) -> Self {
        Self {
            me,
            is_hosts,
            veto,
            machine: Mutex::new(machine),
            clock: TokioInstant::now(),
            part: Notify::new(),
            wake: Notify::new(),
            unsent: AtomicU64::new(0),
            commits: watch::Sender::new(0),
            has_caught_up: watch::Sender::new(false),
            failed: watch::Sender::new(None),
            life,
        }
    }

    fn now(&self) -> Instant {
        Instant::since_start(self.clock.elapsed())
    }

    /// It ends by itself: who hears why can start another one.
    fn end(&self, error: KeeperError) {
        self.life.closing.cancel();
        self.fail(error);
    }

    fn fail(&self, error: KeeperError) {
        if error != KeeperError::Closed {
            tracing::error!(%error, "the keeper of documents");
        }
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(error);
            first
        });
    }
}

/// The application's mind has changed. All of that is done, or nothing: the host goes by it, and takes no answer from before, and whoever has a document open is told.
pub(super) async fn access_changed(shared: &Arc<Shared>, name: Option<String>) {
    let shared = Arc::clone(shared);
    // Not given up where the caller does.
    let changing = tokio::spawn(async move {
        if let Some(veto) = &shared.veto {
            veto.forget(name.clone()).await;
        }
        lock(&shared.machine).on_access_changed(name.as_deref());
        shared.wake.notify_one();
    });
    let _ = changing.await;
}

/// Each task has one: where it ends and the keeper was not closed, by a panic say, the keeper ends with it, and whoever waits is told.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if !self.0.life.closing.is_cancelled() {
            let panicked = std::thread::panicking();
            self.0.end(if panicked { KeeperError::Panicked } else { KeeperError::Closed });
        }
    }
}

/// Waits for something to be done, and takes down what comes meanwhile: a stream that nobody reads is ended.
pub(super) async fn meanwhile<T>(
    messages: &mut Messages,
    work: impl Future<Output = T>,
) -> Result<(T, Vec<Batch>), KeeperError> {
    let mut early = Vec::new();
    let mut bytes = 0;
    tokio::pin!(work);
    loop {
        let item = tokio::select! {
            biased;
            done = &mut work => return Ok((done, early)),
            item = messages.next_batch() => item,
        };
        match item {
            Some(Ok(batch)) => {
                bytes +=
                    batch.as_slice().iter().map(|message| message.payload().len() + EARLY).sum::<usize>();
                early.push(batch);
            }
            Some(Err(_)) => return Err(KeeperError::Overrun),
            None => return Err(KeeperError::Closed),
        }
        if bytes > MOST_EARLY {
            return Err(KeeperError::Overrun);
        }
    }
}

/// What was done beside the driver.
#[derive(Debug)]
pub(super) enum Done {
    Written(Written),
    Folded { name: String, folded: Result<State, Malformed> },
    Compared { name: String, nonce: u64, lacks: Lacks },
    Decided(Decision),
}

/// Starts the tasks: they end with the endpoint, or when the keeper is closed. `early` came before, and who may do what is asked there.
pub(super) fn start(
    shared: &Arc<Shared>,
    (messages, early): (Messages, Vec<Batch>),
    sender: Sender,
    storing: Option<Storing>,
    asking: Option<mpsc::UnboundedSender<Question>>,
    (results, done): (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>),
    ends: DropGuard,
) {
    let (outgoing, queue) = Queue::new();
    let driver = Driver {
        shared: Arc::clone(shared),
        messages,
        sender: sender.clone(),
        outgoing,
        storing: storing.map(|storing| storing.run(results.clone())),
        working: Working::new(results),
        asking,
        done,
        _ends: ends,
    };
    tokio::spawn(driver.run(early));
    tokio::spawn(write(Arc::clone(shared), sender, queue));
}

/// Tells the machine what happens, and does what it wants done.
struct Driver {
    shared: Arc<Shared>,
    messages: Messages,
    sender: Sender,
    outgoing: Outgoing,
    storing: Option<storing::Writer>,
    working: Working,
    asking: Option<mpsc::UnboundedSender<Question>>,
    done: mpsc::UnboundedReceiver<Done>,
    /// Last of all.
    _ends: DropGuard,
}

impl Driver {
    async fn run(mut self, early: Vec<Batch>) {
        let shared = Arc::clone(&self.shared);
        let _alive = Alive(Arc::clone(&shared));
        early.into_iter().for_each(|batch| self.take(batch));
        // What it has to say from the beginning.
        self.perform();
        loop {
            let deadline = lock(&shared.machine).poll_timeout();
            tokio::select! {
                biased;
                () = shared.life.closing.cancelled() => break,
                () = ended(self.asking.as_ref()) => {
                    shared.end(KeeperError::Panicked);
                    break;
                }
                Some(done) = self.done.recv() => self.on_done(done),
                () = sleep_until(&shared, deadline) => {}
                () = shared.wake.notified() => {}
                item = self.messages.next_batch() => match item {
                    Some(Ok(batch)) => self.take(batch),
                    Some(Err(RecvError::Overrun)) if !shared.is_hosts => {
                        self.messages = self.sender.messages_with(&stream_options(shared.me, false));
                        lock(&shared.machine).on_reset(shared.now());
                    }
                    Some(Err(RecvError::Reset { .. } | RecvError::Lagged(_))) if !shared.is_hosts => {
                        lock(&shared.machine).on_reset(shared.now());
                    }
                    Some(Err(RecvError::Overrun | RecvError::Reset { .. } | RecvError::Lagged(_))) => {
                        shared.end(KeeperError::Overrun);
                        break;
                    }
                    Some(Err(_)) | None => break,
                },
            }
            lock(&shared.machine).handle_timeout(shared.now());
            self.perform();
        }
        // What is in order already has been told to it.
        while let Some(Some(Ok(batch))) = self.messages.next_batch().now_or_never() {
            self.take(batch);
        }
        self.perform();
        if let Some(storing) = self.storing.take() {
            storing.end().await;
        }
        // What the store says of the last of it, before the end is told.
        while let Ok(done) = self.done.try_recv() {
            self.on_done(done);
        }
        // Where it ended by itself, what the application has said goes on to hold.
        if let Some(veto) = &shared.veto {
            shared.life.release(|| veto.release());
        }
        shared.fail(KeeperError::Closed);
    }

    fn take(&self, batch: Batch) {
        let now = self.shared.now();
        let mut machine = lock(&self.shared.machine);
        if !self.shared.is_hosts {
            machine.set_host(self.sender.host());
        }
        for message in batch {
            machine.on_message(now, &message);
        }
    }

    fn on_done(&mut self, done: Done) {
        let now = self.shared.now();
        let mut machine = lock(&self.shared.machine);
        match done {
            Done::Folded { name, folded } => {
                self.working.on_done();
                machine.on_folded(&name, folded);
            }
            Done::Compared { name, nonce, lacks } => {
                self.working.on_done();
                machine.on_compared(&name, nonce, lacks);
            }
            Done::Decided(decision) => machine.on_decided(now, decision),
            Done::Written(Written { positions, error }) => {
                for (name, position) in positions {
                    machine.on_stored(now, &name, position);
                }
                match error {
                    Some(error) => {
                        machine.on_store_lost();
                        self.shared.fail(error);
                    }
                    None => self.shared.commits.send_modify(|commits| *commits += 1),
                }
            }
        }
    }

    fn perform(&mut self) {
        loop {
            let Some(output) = lock(&self.shared.machine).poll_output() else { break };
            match output {
                Output::Say { .. } => self.outgoing.send(sent(output)),
                Output::Answer { .. } => {
                    if !self.outgoing.answer(sent(output)) {
                        self.shared.unsent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Output::Store(change) => {
                    if self.storing.as_ref().is_some_and(|storing| !storing.store(change)) {
                        self.shared.fail(KeeperError::Store("it is too slow, and was given up".to_owned()));
                        self.storing = None;
                        lock(&self.shared.machine).on_store_lost();
                    }
                }
                Output::Fold { name, state, fold } => self.working.put(move || {
                    let folded = std::panic::catch_unwind(|| fold(&state));
                    let folded = folded.unwrap_or_else(|_| Err(Malformed::new("its type panicked")));
                    Done::Folded { name, folded }
                }),
                Output::Compare { name, nonce, comparison } => {
                    self.working.put(move || Done::Compared { name, nonce, lacks: comparison.run() });
                }
                Output::Ask(question) => {
                    // Where it has ended, so does this.
                    let _ = self.asking.as_ref().map(|asking| asking.send(question));
                }
            }
        }
        let machine = lock(&self.shared.machine);
        if machine.has_part() {
            self.shared.part.notify_one();
        }
        let has_caught_up = machine.has_caught_up();
        self.shared
            .has_caught_up
            .send_if_modified(|has| std::mem::replace(has, has_caught_up) != has_caught_up);
    }
}

/// What the machine wants sent.
fn sent(output: Output) -> Option<Message> {
    match output {
        Output::Say { topic, kind, payload } => message(topic, kind, payload),
        Output::Answer { to, payload } => message(wire::answer_topic(to), MessageKind::FullDocument, payload),
        Output::Store(_) | Output::Fold { .. } | Output::Compare { .. } | Output::Ask(_) => None,
    }
}

/// Nobody asks the application any more.
async fn ended(asking: Option<&mpsc::UnboundedSender<Question>>) {
    match asking {
        Some(asking) => asking.closed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(shared: &Shared, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(shared.clock + deadline.elapsed()).await,
        None => std::future::pending().await,
    }
}

/// Sends what the keeper has to say.
async fn write(shared: Arc<Shared>, sender: Sender, mut queue: Queue) {
    let _alive = Alive(Arc::clone(&shared));
    let topics = [wire::ROOT.to_owned(), wire::answer_topic(shared.me)];
    // A host takes everything anyway.
    let mut taken_up = false;
    if !shared.is_hosts {
        match sender.take_up(&topics).await {
            Ok(()) => {
                taken_up = true;
                lock(&shared.machine).begin(true);
                shared.wake.notify_one();
            }
            Err(error) => {
                shared.end(KeeperError::Subscribe(error.to_string()));
            }
        }
    }
    // What it has said of its own accord, and whose fates are open.
    let mut open: VecDeque<(Topic, Receipt)> = VecDeque::new();
    loop {
        let part = || lock(&shared.machine).poll_part().and_then(sent);
        let message = tokio::select! {
            biased;
            lost = next_lost(&mut open) => {
                match lost {
                    (Lost::Unknown, _) => lock(&shared.machine).on_unknown(),
                    (Lost::Refused, topic) => lock(&shared.machine).on_refused(&topic),
                }
                shared.wake.notify_one();
                continue;
            }
            message = queue.next(&shared.part, part) => message,
        };
        let Some(message) = message else { break };
        let is_its_own =
            matches!(message.kind(), MessageKind::DocumentFragment | MessageKind::FullDocumentRequest);
        let topic = message.topic().clone();
        match sender.send(message).await {
            Ok(receipt) if is_its_own => open.push_back((topic, receipt)),
            Ok(_) => {}
            Err(SendError::Closed { .. }) => break,
            Err(error) => {
                tracing::warn!(%error, "the keeper of documents could not send something");
                shared.unsent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    if taken_up {
        // An endpoint that has ended takes nothing any more anyway.
        let _ = sender.release(&topics).await;
    }
}

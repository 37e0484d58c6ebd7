//! Handlers: code that is called with each message.

use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;

use crate::message::{Message, Position};

use super::batch::Batch;
use super::consumer::Consumer;
use super::queue::{Item, Queue};

/// What a failed handler says. It is reported as an [`Event`](super::Event), counted, and logged; other messages and handlers go on.
pub type HandlerError = Box<dyn Error + Send + Sync>;

tokio::task_local! {
    /// Set while a handler runs: there, sending must not wait.
    static IN_HANDLER: ();
}

/// Whether the current task is running a handler.
pub(crate) fn in_handler() -> bool {
    IN_HANDLER.try_with(|()| ()).is_ok()
}

/// Handles the messages of some topics.
///
/// A closure from [`Message`] to a future of `()` or of a `Result` is a handler, too. A handler sees messages in order, one at
/// a time, unless it was added with [`HandlerOptions::concurrency`]. Handlers run side by side.
///
/// ```
/// use zincmq::prelude::*;
///
/// struct Counter(std::sync::atomic::AtomicU64);
///
/// #[async_trait::async_trait]
/// impl MessageHandler for Counter {
///     async fn handle(&self, message: Message) -> Result<(), HandlerError> {
///         if message.payload().is_empty() {
///             return Err("an empty message".into());
///         }
///         self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait MessageHandler: Send + Sync + 'static {
    /// Handles one message. Never cancelled by the endpoint; it ends with the runtime.
    ///
    /// # Errors
    /// Any error is reported; the message counts as handled.
    async fn handle(&self, message: Message) -> Result<(), HandlerError>;

    /// Handles messages that came in together, by default one after the other.
    ///
    /// Take from the batch what you handle. After an error or a panic, the handler is called again with what is left;
    /// what is left after `Ok` is passed over. Never cancelled by the endpoint; it ends with the runtime.
    ///
    /// # Errors
    /// As [`handle`](Self::handle).
    async fn handle_batch(&self, batch: &mut Batch) -> Result<(), HandlerError> {
        for message in batch {
            self.handle(message).await?;
        }
        Ok(())
    }
}

/// What a handler's closure may return: nothing, or a result.
pub trait HandlerOutcome: Send {
    /// As a result.
    ///
    /// # Errors
    /// The error there was.
    fn into_result(self) -> Result<(), HandlerError>;
}

impl HandlerOutcome for () {
    fn into_result(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<E: Into<HandlerError> + Send> HandlerOutcome for Result<(), E> {
    fn into_result(self) -> Result<(), HandlerError> {
        self.map_err(Into::into)
    }
}

#[async_trait]
impl<F, Fut> MessageHandler for F
where
    F: Fn(Message) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: HandlerOutcome,
{
    async fn handle(&self, message: Message) -> Result<(), HandlerError> {
        self(message).await.into_result()
    }
}

/// By what messages are told apart where a handler works on several at once: messages of the same key keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OrderKey {
    /// The endpoint that sent them.
    #[default]
    Origin,
    /// What they are about.
    Topic,
}

/// How a handler is run.
///
/// ```
/// use zincmq::{HandlerOptions, OrderKey};
///
/// let options = HandlerOptions::new().named("index").concurrency(4, OrderKey::Topic);
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
pub struct HandlerOptions {
    pub(crate) name: String,
    pub(crate) workers: usize,
    pub(crate) key: OrderKey,
}

impl Default for HandlerOptions {
    fn default() -> Self {
        Self { name: String::new(), workers: 1, key: OrderKey::default() }
    }
}

impl HandlerOptions {
    /// One message at a time, named after the prefix.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The name under which failures are reported, the prefix by default: name handlers where a prefix has several.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Lets up to `workers` messages be handled at once, those of the same key one after the other. At least 1; default 1.
    /// Each worker is a task with its own queue; together they hold what one consumer may.
    #[must_use]
    pub fn concurrency(mut self, workers: usize, key: OrderKey) -> Self {
        self.workers = workers.max(1);
        self.key = key;
        self
    }
}

/// A handler in its place. Dropping it changes nothing: the handler stays until [`remove`](Self::remove) or the endpoint's end.
#[derive(Debug)]
pub struct HandlerHandle {
    consumer: Arc<Consumer>,
}

impl HandlerHandle {
    pub(super) fn new(consumer: Arc<Consumer>) -> Self {
        Self { consumer }
    }

    /// Takes the handler out. It finishes the batch it has and sees no more.
    pub fn remove(self) {
        self.consumer.abandon();
        self.consumer.end();
    }
}

/// One failure of a handler.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) handler: String,
    pub(crate) position: Option<Position>,
    pub(crate) error: String,
    /// How many messages it concerns.
    pub(crate) messages: u64,
}

/// Feeds a handler from one of its queues until that ends.
pub(super) async fn run(
    queue: Arc<Queue>,
    handler: Arc<dyn MessageHandler>,
    name: String,
    report: Arc<dyn Fn(Failure) + Send + Sync>,
) {
    while let Some(item) = queue.pop().await {
        // Holes are told to streams and by events: a handler has nothing to do with them.
        let Item::Batch(mut batch) = item else { continue };
        while !batch.is_empty() {
            let before = batch.len();
            let call = AssertUnwindSafe(handler.handle_batch(&mut batch)).catch_unwind();
            let error = match IN_HANDLER.scope((), call).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panicked: {}", panic_text(&*panic)),
            };
            // The culprit is what was taken last. A handler that took nothing would fail for ever: the rest is given up.
            let (position, messages) = if batch.len() == before {
                (
                    batch.next().and_then(|message| message.position()),
                    std::mem::take(&mut batch).len() as u64 + 1,
                )
            } else {
                (batch.last_taken(), 1)
            };
            report(Failure { handler: name.clone(), position, error, messages });
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with something that is no text")
}

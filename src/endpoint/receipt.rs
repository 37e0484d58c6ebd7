//! What became of messages that were accepted.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::error::ReceiptError;
use crate::message::Position;
use crate::sync::{lock, until};
use crate::wire::Ordered;

/// What became of the messages of one batch; shared by their receipts.
#[derive(Debug)]
pub(super) struct Fates {
    pub(super) first: u64,
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// Runs that rise.
    pub(super) runs: Vec<Ordered>,
    /// Without a place up to here means unknown.
    pub(super) unknown_to: u64,
    pub(super) never_sent: bool,
}

impl Known {
    pub(super) fn open_from(&self, first: u64) -> u64 {
        let placed = self.runs.last().map_or(0, Ordered::last_origin_seq);
        (placed + 1).max(self.unknown_to.saturating_add(1)).max(first)
    }

    fn fate(&self, origin_seq: u64) -> Option<Result<Position, ReceiptError>> {
        let run =
            self.runs.iter().find(|run| (run.first_origin_seq..=run.last_origin_seq()).contains(&origin_seq));
        match run {
            Some(run) if run.is_refused() => Some(Err(ReceiptError::Refused)),
            Some(run) => Some(Ok(Position {
                epoch: run.epoch,
                seq: run.first_seq + (origin_seq - run.first_origin_seq),
            })),
            None if self.never_sent => Some(Err(ReceiptError::NeverSent)),
            None if origin_seq <= self.unknown_to => Some(Err(ReceiptError::Unknown)),
            None => None,
        }
    }
}

impl Fates {
    pub(super) fn new(first: u64) -> Self {
        Self { first, known: Mutex::new(Known::default()), changed: Notify::new() }
    }

    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let result = change(&mut lock(&self.known));
        self.changed.notify_waiters();
        result
    }
}

/// Tells what became of a message that `send` accepted. Dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Receipt {
    fates: Arc<Fates>,
    origin_seq: u64,
}

impl Receipt {
    pub(super) fn new(fates: Arc<Fates>, origin_seq: u64) -> Self {
        Self { fates, origin_seq }
    }

    /// The number of the message among those of its origin.
    #[must_use]
    pub fn origin_seq(&self) -> u64 {
        self.origin_seq
    }

    /// Waits until the message has its place in the order. Cancel safe: ask again at any time.
    ///
    /// # Errors
    /// [`ReceiptError::Unknown`] when the host's word will never come: the message may or may not have been ordered. A lost connection alone
    /// is no reason: the message is sent again.
    /// [`ReceiptError::Refused`] when the host does not order it, since this endpoint may not say that.
    /// [`ReceiptError::NeverSent`] when the endpoint ended first.
    pub async fn ordered(&self) -> Result<Position, ReceiptError> {
        until(&self.fates.changed, || lock(&self.fates.known).fate(self.origin_seq)).await
    }
}

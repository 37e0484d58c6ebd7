//! The place of the keeper at a host: there is one.

use std::sync::{Arc, Mutex};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::sync::lock;

use super::KeeperError;

/// When a keeper is to end, and when it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    /// Whoever wants it to end, or sees that it has to.
    pub(super) closing: CancellationToken,
    pub(super) done: CancellationToken,
    end: Arc<Mutex<End>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum End {
    /// By itself, if it ends.
    #[default]
    Unwanted,
    /// The application has closed it.
    Wanted,
    /// The same, or not, and another waits for its place.
    Succeeded,
}

impl Life {
    /// Ends it with what this returns.
    pub(super) fn ends_with(&self) -> DropGuard {
        self.done.clone().drop_guard()
    }

    /// The application wants it to end.
    pub(super) fn close(&self) {
        let mut end = lock(&self.end);
        if *end == End::Unwanted && !self.closing.is_cancelled() {
            *end = End::Wanted;
        }
        self.closing.cancel();
    }

    /// Does this at its end, if the application wants it to be no more, and no other in its place.
    pub(super) fn release(&self, release: impl FnOnce()) {
        let end = lock(&self.end);
        if *end == End::Wanted {
            release();
        }
    }
}

/// Whose it is, or was, if anybody's.
#[derive(Debug, Default)]
pub(super) struct Place(Mutex<Option<Life>>);

impl Place {
    /// Takes it for this one: when the one before is about to end, after that. Cancel safe.
    pub(super) async fn take(&self, life: &Life) -> Result<(), KeeperError> {
        loop {
            let before = {
                let mut held = lock(&self.0);
                match held.as_ref().filter(|held| !held.done.is_cancelled()) {
                    Some(held) if held.closing.is_cancelled() => {
                        // What that one forbids is forbidden until this one says what is.
                        *lock(&held.end) = End::Succeeded;
                        held.done.clone()
                    }
                    Some(_) => return Err(KeeperError::Occupied),
                    None => {
                        *held = Some(life.clone());
                        return Ok(());
                    }
                }
            };
            before.cancelled().await;
        }
    }
}

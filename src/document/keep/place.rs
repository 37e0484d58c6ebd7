//! The place of the keeper at a host: there is one.

use std::sync::Mutex;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::sync::lock;

use super::KeeperError;

/// When a keeper is to end, and when it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    pub(super) closing: CancellationToken,
    pub(super) done: CancellationToken,
}

impl Life {
    /// Ends it with what this returns.
    pub(super) fn ends_with(&self) -> DropGuard {
        self.done.clone().drop_guard()
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
                    Some(held) if held.closing.is_cancelled() => held.done.clone(),
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

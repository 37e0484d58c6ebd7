//! Small helpers around locks and waiting.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Locks a mutex. A panic of another holder does not spread: our critical sections leave their data whole at every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until an attempt succeeds; it is repeated whenever `changed` is notified. Cancel safe.
pub(crate) async fn until<T>(changed: &Notify, mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        let notified = changed.notified();
        tokio::pin!(notified);
        // Registered before the second attempt, so that no change falls between.
        notified.as_mut().enable();
        if let Some(result) = attempt() {
            return result;
        }
        notified.await;
    }
}

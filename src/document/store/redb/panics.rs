//! Panics of redb. redb asserts what a damaged file may break, so a panic in it is damage.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// True while this thread runs code whose panics [`caught`] catches.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which calls redb. If it panics, returns the panic's message.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    CATCHING.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(false);
    outcome.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let message =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    // redb's assertions give several lines.
    let lines: Vec<_> = message.unwrap_or("without a message").lines().map(str::trim).collect();
    format!("redb cannot make sense of it ({})", lines.join(", "))
}

/// Installs a panic hook that prints nothing for a panic that [`caught`] catches.
pub(super) fn silence() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A panic that aborts is not caught: its text is all that is left.
            if cfg!(panic = "abort") || !CATCHING.get() {
                previous(panic);
            }
        }));
    });
}

//! Ctrl-c and SIGTERM: an orderly end is asked for.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// How long an orderly end may take before the process ends all the same: longer than the endpoint's own deadlines, for the
/// case that standard output takes nothing any more.
const PATIENCE: Duration = Duration::from_secs(20);

/// A token that is cancelled by the first ctrl-c or SIGTERM. The second ends the process at once.
pub(crate) fn on_signal() -> Result<CancellationToken, Failure> {
    let mut signals =
        Signals::listen().map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        asked.cancel();
        // An end by force, in either case: 130 is what shells report for ctrl-c.
        let _ = tokio::time::timeout(PATIENCE, signals.next()).await;
        std::process::exit(130);
    });
    Ok(stop)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

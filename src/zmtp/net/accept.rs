//! Listening and dialling.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::{Endpoint, Listener, Stream};
use super::hub::Hub;
use super::link;
use super::monitor::MonitorEvent;

/// The pause after an accept that failed for a reason of this machine, such as too many open files (a guess).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The least pause between attempts to connect: with none at all one that fails would take a processor.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// Accepts connections until the socket takes no more.
pub(super) async fn accept(hub: Arc<Hub>, listener: Listener) {
    let mut second = (Instant::now(), 0);
    loop {
        if let Some(rate) = hub.options.limits.accept_rate {
            if second.0.elapsed() >= Duration::from_secs(1) {
                second = (Instant::now(), 0);
            } else if second.1 >= rate.max(1) {
                tokio::select! {
                    () = tokio::time::sleep_until(second.0 + Duration::from_secs(1)) => {}
                    () = hub.listening.cancelled() => break,
                }
                continue;
            }
            second.1 += 1;
        }
        // Until what those before have left was taken, newcomers wait in the system's queue.
        let newcomer = async {
            hub.leftovers.room(false).await;
            // The descriptors of displaced connections are in use until those have ended.
            hub.settled().await;
            listener.accept().await
        };
        let accepted = tokio::select! {
            accepted = newcomer => accepted,
            () = hub.listening.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => match hub.admit(address.clone(), false) {
                Ok(peer) => {
                    hub.emit(MonitorEvent::Accepted(address));
                    hub.tasks.spawn(link::run(Arc::clone(&hub), peer, stream, false));
                    // Connections come no faster than those that are there are served.
                    tokio::task::yield_now().await;
                }
                // Dropping the stream closes it: nothing of it is kept.
                Err(limit) => hub.emit(MonitorEvent::Refused { address, limit }),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // If the process has no descriptors left, a member is not to wait for strangers to leave.
                hub.displace_one();
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = hub.listening.cancelled() => break,
                }
            }
        }
    }
}

/// Keeps a connection to an endpoint until the socket ends: as often as it is lost it is made again, after a pause.
pub(super) async fn keep_connected(hub: Arc<Hub>, endpoint: Endpoint) {
    let (first, most) = hub.options.reconnect;
    let (first, most) = (first.max(MIN_PAUSE), most.max(MIN_PAUSE));
    let mut pause = first;
    loop {
        let began = Instant::now();
        let newcomer = async {
            hub.leftovers.room(true).await;
            Stream::connect(&endpoint, hub.options.connect_timeout).await
        };
        let connected = tokio::select! {
            connected = newcomer => connected,
            () = hub.cancel.cancelled() => return,
        };
        match connected {
            Ok((stream, address)) => {
                serve(&hub, &endpoint, stream, address).await;
                // One that held was worth it; one that was refused again and again is not to be a hot loop.
                if began.elapsed() > most {
                    pause = first;
                }
            }
            Err(error) => hub
                .emit(MonitorEvent::ConnectFailed { endpoint: endpoint.clone(), reason: error.to_string() }),
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = hub.cancel.cancelled() => return,
        }
        pause = (pause * 2).min(most);
    }
}

/// Connects once; returns when the connection is there. It is not made again.
pub(super) async fn connect_once(hub: &Arc<Hub>, endpoint: &Endpoint) -> io::Result<()> {
    let (stream, address) = Stream::connect(endpoint, hub.options.connect_timeout).await?;
    hub.emit(MonitorEvent::Connected(endpoint.clone()));
    let peer = hub.admit(address, true).map_err(|limit| io::Error::other(format!("refused by {limit:?}")))?;
    hub.tasks.spawn(link::run(Arc::clone(hub), peer, stream, true));
    Ok(())
}

async fn serve(hub: &Arc<Hub>, endpoint: &Endpoint, stream: Stream, address: super::PeerAddress) {
    hub.emit(MonitorEvent::Connected(endpoint.clone()));
    match hub.admit(address.clone(), true) {
        Ok(peer) => link::run(Arc::clone(hub), peer, stream, true).await,
        Err(limit) => hub.emit(MonitorEvent::Refused { address, limit }),
    }
}

/// Shortened by up to half at random, so that many do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let mut bytes = [0; 2];
    // Without randomness they come back in step: worth no error.
    let _ = getrandom::fill(&mut bytes);
    pause - pause.mul_f64(f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX) / 2.0)
}

//! Connecting a socket, again and again until it works or the time is up.

use std::time::Duration;

use ::zeromq::util::PeerIdentity;
use ::zeromq::{Socket, ZmqError};
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

use super::{Monitor, options};
use crate::transport::{Address, DialError};

/// How long one attempt may take. Within one the crate retries refused connections at doubling intervals, so a longer one
/// would leave a parent that has just started unnoticed for longer; three seconds let a lost SYN be sent again.
const ATTEMPT: Duration = Duration::from_secs(3);

/// The least pause between attempts; as much again at random keeps many children apart.
const PAUSE: Duration = Duration::from_millis(100);

/// A connected socket and what it tells of its connection. Cancel safe: a cancelled call leaves nothing connected.
pub(super) async fn connect<S: Socket>(
    address: &Address,
    identity: Option<PeerIdentity>,
    deadline: Instant,
) -> Result<(S, Monitor), DialError> {
    let endpoint = endpoint(address)?;
    let mut reason = "there was no time to connect".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DialError::Unreachable { address: address.clone(), reason });
        }
        let mut options = options();
        options.connect_timeout(left.min(ATTEMPT));
        if let Some(identity) = &identity {
            options.peer_identity(identity.clone());
        }
        let mut socket = S::with_options(options);
        let monitor = socket.monitor();
        match timeout_at(deadline, socket.connect(&endpoint)).await {
            Ok(Ok(())) => return Ok((socket, monitor)),
            Ok(Err(ZmqError::Endpoint(_))) => {
                return Err(unsupported(address, "the zeromq crate does not understand it"));
            }
            Ok(Err(ZmqError::ConnectTimeout(_))) | Err(_) => {
                reason = "connections are refused, or no ZMTP greeting comes".to_owned();
            }
            Ok(Err(error)) => reason = error.to_string(),
        }
        drop(socket);
        let jitter = PAUSE.mul_f32(f32::from(Uuid::new_v4().as_bytes()[0]) / 256.0);
        sleep_until(deadline.min(Instant::now() + PAUSE + jitter)).await;
    }
}

fn endpoint(address: &Address) -> Result<String, DialError> {
    match address {
        Address::Tcp { port: 0, .. } => Err(unsupported(address, "port 0 is for binding")),
        Address::Tcp { .. } => Ok(address.to_string()),
        Address::Ipc(_) if address.is_ipc_wildcard() => {
            Err(unsupported(address, "the wildcard is for binding"))
        }
        Address::Ipc(path) => match path.to_str() {
            Some(path) => Ok(format!("ipc://{path}")),
            None => Err(unsupported(address, "the path is not UTF-8")),
        },
        Address::Inproc(_) => Err(unsupported(address, "the zeromq transport dials tcp:// and ipc://")),
    }
}

fn unsupported(address: &Address, reason: &'static str) -> DialError {
    DialError::Unsupported { address: address.clone(), reason }
}

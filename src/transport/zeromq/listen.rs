//! Listeners, opened here rather than by the crate: it cannot tell whose a Unix socket's file is, and options must be
//! set before anybody connects.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::lookup_host;

use crate::transport::{Address, BindError};
#[cfg(unix)]
use crate::zmtp::ipc::{self, IpcFile};

/// How many connections may wait to be accepted (as in tokio).
const BACKLOG: i32 = 1024;

/// After how long of silence the system can look for a peer at the latest (Linux: 2^15 - 1 s).
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// The longest time the system lets a peer take nothing (Linux: 2^31 - 1 ms).
#[cfg(target_os = "linux")]
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// A listener, not yet accepting.
pub(super) struct Listening {
    /// Where, with port or path resolved.
    pub(super) address: Address,
    /// Before the listener, so that it is dropped first.
    #[cfg(unix)]
    pub(super) file: Option<IpcFile>,
    /// What the crate shall adopt.
    pub(super) listener: ::zeromq::Listener,
    /// Whether the system gives up connections whose other end takes nothing.
    pub(super) gives_up: bool,
}

impl Listening {
    /// Listens at `address`. Connections whose other end takes nothing for as long as `stalled` are given up, where the system can.
    /// Cancel safe: a cancelled call leaves nothing behind.
    pub(super) async fn open(address: &Address, stalled: Duration) -> Result<Self, BindError> {
        match address {
            Address::Tcp { host, port } => {
                let (listener, port) =
                    listen_tcp(host, *port, stalled).await.map_err(|error| refused(address, error))?;
                Ok(Self {
                    address: address.with_port(port),
                    #[cfg(unix)]
                    file: None,
                    listener: listener.into(),
                    gives_up: cfg!(target_os = "linux"),
                })
            }
            #[cfg(unix)]
            Address::Ipc(path) => {
                let path = if address.is_ipc_wildcard() { ipc::fresh_path() } else { path.clone() };
                let (listener, file) = ipc::listen(&path).await.map_err(|error| refused(address, error))?;
                Ok(Self {
                    address: Address::Ipc(path),
                    file: Some(file),
                    listener: listener.into(),
                    gives_up: false,
                })
            }
            _ => Err(BindError::Unsupported {
                address: address.clone(),
                reason: "the zeromq transport binds tcp:// everywhere, and ipc:// on Unix",
            }),
        }
    }
}

/// Listens at the first of the host's addresses that can be bound. Every TCP listener is made here.
async fn listen_tcp(host: &str, port: u16, stalled: Duration) -> io::Result<(TcpListener, u16)> {
    let mut refusal = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
    for address in lookup_host((host, port)).await? {
        match bind_tcp(address, stalled) {
            Ok(listener) => {
                let port = listener.local_addr()?.port();
                return Ok((listener, port));
            }
            // Going on to the host's next address would hide behind whoever listens at this one.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

fn bind_tcp(address: SocketAddr, stalled: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart need not wait for old connections. Elsewhere the option means another thing.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // Accepted connections inherit both: one finds peers that take nothing, the other those that are gone and are sent nothing.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(stalled.min(MAX_USER_TIMEOUT)))?;
    let keepalive = TcpKeepalive::new().with_time(stalled.clamp(Duration::from_secs(1), MAX_KEEPALIVE));
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The error for `address`.
pub(super) fn refused(address: &Address, source: io::Error) -> BindError {
    let address = address.clone();
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Io { address, source },
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_are_given_up_when_their_peer_takes_nothing() {
        bind_tcp("127.0.0.1:0".parse().unwrap(), Duration::MAX).unwrap();
        let stalled = Duration::from_millis(1234);
        let listener = bind_tcp("127.0.0.1:0".parse().unwrap(), stalled).unwrap();
        let _peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = Socket::from(listener.accept().unwrap().0);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(stalled));
        assert!(accepted.keepalive().unwrap());
    }
}

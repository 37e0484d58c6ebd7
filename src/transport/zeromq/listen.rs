//! Listeners, opened here rather than by the crate: it cannot tell whose a Unix socket's file is, and options must be
//! set before anybody connects.

use std::io;
use std::net::TcpListener;

use tokio::net::lookup_host;

#[cfg(unix)]
use super::ipc::{self, IpcFile};
use crate::transport::{Address, BindError};

/// A listener, not yet accepting.
pub(super) struct Listening {
    /// Where, with port or path resolved.
    pub(super) address: Address,
    /// Before the listener, so that it is dropped first.
    #[cfg(unix)]
    pub(super) file: Option<IpcFile>,
    /// What the crate shall adopt.
    pub(super) listener: ::zeromq::Listener,
}

impl Listening {
    /// Listens at `address`. Cancel safe: a cancelled call leaves nothing behind.
    pub(super) async fn open(address: &Address) -> Result<Self, BindError> {
        match address {
            Address::Tcp { host, port } => {
                let (listener, port) =
                    listen_tcp(host, *port).await.map_err(|error| refused(address, error))?;
                Ok(Self {
                    address: address.with_port(port),
                    #[cfg(unix)]
                    file: None,
                    listener: listener.into(),
                })
            }
            #[cfg(unix)]
            Address::Ipc(path) => {
                let path = if address.is_ipc_wildcard() { ipc::fresh_path() } else { path.clone() };
                let (listener, file) = ipc::listen(&path).await.map_err(|error| refused(address, error))?;
                Ok(Self { address: Address::Ipc(path), file: Some(file), listener: listener.into() })
            }
            _ => Err(BindError::Unsupported {
                address: address.clone(),
                reason: "the zeromq transport binds tcp:// everywhere, and ipc:// on Unix",
            }),
        }
    }
}

/// Listens at the first of the host's addresses that can be bound. Every TCP listener is made here.
async fn listen_tcp(host: &str, port: u16) -> io::Result<(TcpListener, u16)> {
    let mut refusal = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
    for address in lookup_host((host, port)).await? {
        // The standard library sets SO_REUSEADDR on Unix, so a restart need not wait for old connections.
        match TcpListener::bind(address) {
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

/// The error for `address`.
pub(super) fn refused(address: &Address, source: io::Error) -> BindError {
    let address = address.clone();
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Io { address, source },
    }
}

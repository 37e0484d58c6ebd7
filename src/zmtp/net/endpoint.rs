//! Where sockets bind and connect to, and the streams that come of it.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
#[cfg(unix)]
use std::path::PathBuf;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, lookup_host};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

#[cfg(unix)]
use super::ipc::{self, IpcFile};
use super::options::Options;
use crate::source::Source;
use crate::zmtp::connection::later;

/// How many connections may wait to be accepted (as in tokio).
const BACKLOG: i32 = 1024;
/// After how long of silence the system can look for a peer at the latest (Linux: 2^15 - 1 s).
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// The longest time the system lets a peer take nothing (Linux: 2^31 - 1 ms).
#[cfg(target_os = "linux")]
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// An address: `tcp://HOST:PORT` or, on Unix, `ipc://PATH`. For binding, the host may be `*` for all addresses of IPv4, the port `*` or 0 for one that the
/// system chooses, and the path `*` for a new one in the directory of temporary files.
///
/// ```
/// use zincmq::zmtp::Endpoint;
///
/// let endpoint: Endpoint = "tcp://127.0.0.1:5555".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp://127.0.0.1:5555");
/// # Ok::<(), zincmq::zmtp::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A host name or address, and a port; port 0 lets the system choose when it is bound.
    Tcp {
        /// The name or address; IPv6 addresses without their brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket. Binding takes the place of one that nobody answers on; its file goes with the socket that is bound.
    #[cfg(unix)]
    Ipc(PathBuf),
}

/// The text is not an address that can be bound or connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address {reason}")]
pub struct EndpointError {
    text: String,
    reason: &'static str,
}

/// How addresses are written.
const FORM: &str = "that can be used: write tcp://HOST:PORT or ipc://PATH";

impl From<Infallible> for EndpointError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let wrong = |reason| EndpointError { text: text.to_owned(), reason };
        if let Some(rest) = text.strip_prefix("tcp://") {
            let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong(FORM))?;
            let port = if port == "*" { 0 } else { port.parse().map_err(|_| wrong(FORM))? };
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let host = if host == "*" { "0.0.0.0" } else { host };
            return if host.is_empty() {
                Err(wrong(FORM))
            } else {
                Ok(Self::Tcp { host: host.to_owned(), port })
            };
        }
        #[cfg(unix)]
        if let Some(path) = text.strip_prefix("ipc://").filter(|path| !path.is_empty()) {
            if path.starts_with('@') {
                return Err(wrong(
                    "that can be used: sockets without a file are not supported, write ./@NAME for a file of that name",
                ));
            }
            return Ok(Self::Ipc(path.into()));
        }
        Err(wrong(FORM))
    }
}

impl Endpoint {
    /// Whether it leaves something for the system to choose, so that it can be bound, and not connected to.
    fn is_open(&self) -> bool {
        match self {
            Self::Tcp { port, .. } => *port == 0,
            #[cfg(unix)]
            Self::Ipc(path) => path.as_os_str() == "*",
        }
    }

    /// The same, if it can be connected to.
    pub(super) fn for_connecting(self) -> Result<Self, EndpointError> {
        if self.is_open() {
            let reason = "to connect to: a wildcard, and port 0, are for binding";
            return Err(EndpointError { text: self.to_string(), reason });
        }
        Ok(self)
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: &str) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            #[cfg(unix)]
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerAddress {
    /// At this address, over TCP.
    Tcp(SocketAddr),
    /// On this machine, over a Unix socket.
    Ipc,
}

impl PeerAddress {
    /// What it is counted under.
    pub(super) fn source(&self) -> Source {
        match self {
            Self::Tcp(address) => Source::of(Some(*address)),
            Self::Ipc => Source::of(None),
        }
    }

    /// Whether it is counted by address.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Ipc => true,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Ipc => f.write_str("ipc"),
        }
    }
}

/// A bound listener.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    /// The file is dropped first. One that was bound elsewhere has none here.
    #[cfg(unix)]
    Ipc {
        /// Before the listener, so that it is dropped first.
        _file: Option<IpcFile>,
        listener: UnixListener,
    },
}

impl Listener {
    /// Binds; also the endpoint with the port that the system chose.
    pub(super) async fn bind(endpoint: &Endpoint, options: &Options) -> io::Result<(Self, Endpoint)> {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let mut refusal =
                    io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
                for address in lookup_host((host.as_str(), *port)).await? {
                    match bind_tcp(address, options) {
                        Ok(listener) => {
                            let port = listener.local_addr()?.port();
                            return Ok((Self::Tcp(listener), Endpoint::Tcp { host: host.clone(), port }));
                        }
                        // The host's next address would hide behind whoever listens at this one.
                        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                        Err(error) => refusal = error,
                    }
                }
                Err(refusal)
            }
            #[cfg(unix)]
            Endpoint::Ipc(path) => {
                let path = if endpoint.is_open() { ipc::fresh_path() } else { path.clone() };
                let (listener, file) = ipc::listen(&path).await?;
                let listener = unix_listener(listener)?;
                Ok((Self::Ipc { _file: Some(file), listener }, Endpoint::Ipc(path)))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, PeerAddress)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Stream::Tcp(stream), PeerAddress::Tcp(address)))
            }
            #[cfg(unix)]
            Self::Ipc { listener, .. } => Ok((Stream::Ipc(listener.accept().await?.0), PeerAddress::Ipc)),
        }
    }
}

/// A listener of the standard library's, for the runtime.
#[cfg(unix)]
pub(super) fn unix_listener(listener: std::os::unix::net::UnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn bind_tcp(address: SocketAddr, options: &Options) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart need not wait for old connections. Elsewhere the option means another thing.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // Accepted connections inherit the sizes only if they are set before they are made.
    set_buffers(&SockRef::from(&socket), options)?;
    TcpListener::from_std(socket.into())
}

fn set_buffers(socket: &SockRef<'_>, options: &Options) -> io::Result<()> {
    if let Some(size) = options.tcp_send_buffer {
        socket.set_send_buffer_size(size)?;
    }
    if let Some(size) = options.tcp_recv_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    Ok(())
}

/// A connected stream.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Ipc(UnixStream),
}

macro_rules! either {
    ($self:expr, $stream:ident => $act:expr) => {
        match $self {
            Stream::Tcp($stream) => $act,
            #[cfg(unix)]
            Stream::Ipc($stream) => $act,
        }
    };
}

impl Stream {
    /// Connects, within this time: what it takes for a name to be looked up, and for its addresses to answer, one after the other.
    pub(super) async fn connect(endpoint: &Endpoint, within: Duration) -> io::Result<(Self, PeerAddress)> {
        let now = Instant::now();
        let until = Instant::from_std(later(now.into_std(), within));
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let addresses = timeout_at(until, lookup_host((host.as_str(), *port))).await;
                let addresses: Vec<SocketAddr> =
                    addresses.map_err(|_| late("the host name was", within))??.collect();
                let stream = connect_one_of(&addresses, until, within).await?;
                let address = stream.peer_addr()?;
                // The system may choose the very port that is dialled on this machine, and connect the socket with itself.
                if stream.local_addr()? == address {
                    return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there"));
                }
                Ok((Self::Tcp(stream), PeerAddress::Tcp(address)))
            }
            #[cfg(unix)]
            Endpoint::Ipc(path) => {
                let stream = timeout_at(until, UnixStream::connect(path)).await;
                Ok((Self::Ipc(stream.map_err(|_| late("it was", within))??), PeerAddress::Ipc))
            }
        }
    }

    /// Sets what is set on every connection.
    pub(super) fn prepare(&self, options: &Options) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        set_buffers(&socket, options)?;
        if let Some(stalled) = options.stalled {
            #[cfg(target_os = "linux")]
            socket.set_tcp_user_timeout(Some(stalled.min(MAX_USER_TIMEOUT)))?;
            let idle = stalled.clamp(Duration::from_secs(1), MAX_KEEPALIVE);
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
        }
        Ok(())
    }

    /// Reads what is there. When that is less than there was room for it was all, so that the next attempt waits without asking the system.
    pub(super) fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let room = buffer.capacity() - buffer.len();
        let mut read = None;
        let outcome = either!(self, stream => stream.try_io(Interest::READABLE, || {
            let count = *read.insert(stream.try_read_buf(buffer)?);
            if count > 0 { all_if(count < room, count) } else { Ok(count) }
        }));
        read.map_or(outcome, Ok)
    }

    /// Writes what the system takes. When that is not all it takes no more for now, so that the next attempt waits without asking it.
    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = None;
        let outcome = either!(self, stream => stream.try_io(Interest::WRITABLE, || {
            let count = *written.insert(match slices {
                [slice] => stream.try_write(slice)?,
                slices => stream.try_write_vectored(slices)?,
            });
            all_if(count < slices.iter().map(|slice| slice.len()).sum(), count)
        }));
        written.map_or(outcome, Ok)
    }

    /// Whether what the system has taken may be lost when this is closed at once. Over TCP it may not have been sent. A Unix socket has handed it over, but its
    /// peer is told of a failure where something is unread. The system is asked, of which tokio may not have heard yet.
    pub(super) fn may_lose_what_was_written(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            #[cfg(unix)]
            Self::Ipc(stream) => {
                let mut octet = [MaybeUninit::uninit()];
                SockRef::from(stream).peek(&mut octet).is_ok_and(|count| count > 0)
            }
        }
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn shut_down_writing(&self) -> io::Result<()> {
        either!(self, stream => SockRef::from(stream).shutdown(Shutdown::Write))
    }

    /// Lets nothing more come; what came is still to be read. Where the system has that, which is for Unix sockets on Linux: elsewhere it would be lost.
    pub(super) fn shut_down_reading(&self) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Ipc(stream) => SockRef::from(stream).shutdown(Shutdown::Read),
            _ => Ok(()),
        }
    }

    /// Whether the peer has ended its side, as far as tokio has heard. What came before may be unread.
    ///
    /// # Errors
    /// The connection has failed.
    pub(super) fn is_ended(&self) -> io::Result<bool> {
        let look = either!(self, stream => stream.ready(Interest::READABLE | Interest::ERROR).now_or_never());
        let Some(ready) = look.transpose()? else { return Ok(false) };
        if ready.is_error() {
            let error = either!(self, stream => stream.take_error())?;
            return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
        }
        Ok(ready.is_read_closed())
    }

    /// Waits until there is something to read. Only the last caller is woken.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read_ready(cx))
    }

    /// Waits until something may be written. Only the last caller is woken.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(cx))
    }
}

fn late(what: &str, within: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} not answered within {within:?}"))
}

/// A stream to the first of these addresses that answers. Each has an equal share of the time that is left.
async fn connect_one_of(addresses: &[SocketAddr], until: Instant, within: Duration) -> io::Result<TcpStream> {
    let mut refusal = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
    for (index, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(Instant::now()) / left;
        refusal = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => late(&format!("{address} was"), within),
        };
    }
    Err(refusal)
}

/// Lets tokio take a stream for exhausted, as an attempt in vain would. That a part stands for it holds where the system tells of changes, as epoll and kqueue do;
/// tokio does the same there.
fn all_if(exhausted: bool, count: usize) -> io::Result<usize> {
    if exhausted && cfg!(unix) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux drops a SYN where too many wait to be accepted, and says nothing.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_does_not_answer_is_given_up_and_the_next_one_has_its_turn() {
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        let within = Duration::from_millis(300);
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: address.port() };
        let error = loop {
            match Stream::connect(&endpoint, within).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 10);
        };
        assert_eq!(error.to_string(), format!("{address} was not answered within 300ms"));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = listener.local_addr().unwrap();
        let stream = connect_one_of(&[address, other], Instant::now() + within, within).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), other);
    }

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["tcp://127.0.0.1:1", "tcp://[::1]:65535", "tcp://db.example:0"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("tcp://*:*".parse::<Endpoint>().unwrap().to_string(), "tcp://0.0.0.0:0");
        for text in ["", "tcp://", "tcp://x", "tcp://:1", "tcp://x:66000", "ipc://", "ipc://@x", "udp://x:1"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}

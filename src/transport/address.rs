//! Addresses: `tcp://HOST:PORT`, `ipc://PATH` and `inproc://NAME`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where an endpoint listens or is dialled.
///
/// - `tcp://HOST:PORT`: HOST is an IPv4 address, an IPv6 address in brackets, a host name, or `*` for all
///   interfaces; port 0, or `*`, lets the system choose when binding.
/// - `ipc://PATH`: a Unix socket; `ipc://*` makes a fresh path under the system's directory for temporary files when binding.
/// - `inproc://NAME`: queues within this process.
///
/// ```
/// use zincmq::Address;
///
/// let address: Address = "tcp://[::1]:5555".parse()?;
/// assert_eq!(address, Address::Tcp { host: "::1".into(), port: 5555 });
/// assert_eq!(address.to_string(), "tcp://[::1]:5555");
/// # Ok::<(), zincmq::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Tcp {
        /// A host name or an IP address, IPv6 without its brackets.
        host: String,
        /// The port; 0 when binding lets the system choose.
        port: u16,
    },
    /// A Unix socket at this path.
    Ipc(PathBuf),
    /// A name within this process.
    Inproc(String),
}

/// A text that is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

/// The longest path of a Unix socket, in bytes, with room for the suffixes of the broadcast and submit channels:
/// `sun_path` is 108 bytes with its closing zero on Linux (unix(7)); `.pull` takes five.
const MAX_IPC_PATH: usize = 102;

impl Address {
    /// Whether only this machine can reach the address: IPC, in-process, or an IP address of the loopback range.
    ///
    /// A host name counts as loopback only if it is `localhost`: what others resolve to is not known here.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            Self::Ipc(_) | Self::Inproc(_) => true,
        }
    }

    /// This address with another port; unchanged where there are no ports.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        match self {
            Self::Tcp { host, .. } => Self::Tcp { host: host.clone(), port },
            other => other.clone(),
        }
    }

    /// This address with `suffix` appended to its path or name; unchanged for TCP.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Self {
        match self {
            Self::Tcp { .. } => self.clone(),
            Self::Ipc(path) => {
                let mut path = path.clone().into_os_string();
                path.push(suffix);
                Self::Ipc(path.into())
            }
            Self::Inproc(name) => Self::Inproc(format!("{name}{suffix}")),
        }
    }

    /// Whether this is `ipc://*`, which only a parent can bind.
    #[must_use]
    pub fn is_ipc_wildcard(&self) -> bool {
        matches!(self, Self::Ipc(path) if path == Path::new("*"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Inproc(name) => write!(f, "inproc://{name}"),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason| AddressError { text: text.to_owned(), reason };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| error("write tcp://HOST:PORT, ipc://PATH or inproc://NAME"))?;
        match scheme {
            "tcp" => {
                let (host, port) =
                    rest.rsplit_once(':').ok_or_else(|| error("the port is missing: tcp://HOST:PORT"))?;
                let port = match port {
                    "*" => 0,
                    digits => {
                        digits.parse().map_err(|_| error("the port must be a number from 0 to 65535"))?
                    }
                };
                let host = match host.strip_prefix('[') {
                    Some(bracketed) => bracketed
                        .strip_suffix(']')
                        .filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
                        .ok_or_else(|| error("brackets must hold an IPv6 address: tcp://[::1]:PORT"))?,
                    None if host == "*" => "0.0.0.0",
                    None => host,
                };
                if host.is_empty() {
                    return Err(error("the host is missing: tcp://HOST:PORT"));
                }
                if host.contains(':') && !rest.starts_with('[') {
                    return Err(error("an IPv6 address goes in brackets: tcp://[::1]:PORT"));
                }
                if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
                    return Err(error("the host must not contain blanks or slashes"));
                }
                Ok(Self::Tcp { host: host.to_owned(), port })
            }
            "ipc" if rest.is_empty() => Err(error("the path is missing: ipc://PATH")),
            "ipc" if rest.len() > MAX_IPC_PATH => {
                Err(error("the path is too long for a Unix socket: at most 102 bytes"))
            }
            "ipc" if rest.contains('\0') => Err(error("the path must not contain a zero byte")),
            "ipc" => Ok(Self::Ipc(rest.into())),
            "inproc" if rest.is_empty() => Err(error("the name is missing: inproc://NAME")),
            "inproc" => Ok(Self::Inproc(rest.to_owned())),
            _ => Err(error("unknown transport: use tcp, ipc or inproc")),
        }
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<&Address> for Address {
    type Error = AddressError;

    fn try_from(address: &Address) -> Result<Self, Self::Error> {
        Ok(address.clone())
    }
}

impl From<std::convert::Infallible> for AddressError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// How a parent names its broadcast or submit channel in the join answer.
///
/// As text: `:PORT`, `.SUFFIX`, a whole address, or nothing for "the same name".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelAddress {
    /// The host the child dialled, with this port.
    Port(u16),
    /// The path or name the child dialled, with this suffix.
    Suffix(String),
    /// This address, whatever the child dialled.
    Full(Address),
}

impl ChannelAddress {
    /// How a child that dialled `control` is told of `channel`: as little as it needs.
    #[must_use]
    pub fn relative(control: &Address, channel: &Address) -> Self {
        match (control, channel) {
            // Bound to all addresses, it is found at the one that was dialled, too.
            (Address::Tcp { host: a, .. }, Address::Tcp { host: b, port })
                if a == b || matches!(b.as_str(), "0.0.0.0" | "::") =>
            {
                Self::Port(*port)
            }
            (Address::Ipc(a), Address::Ipc(b)) => {
                match b.to_str().zip(a.to_str()).and_then(|(b, a)| b.strip_prefix(a)) {
                    Some(suffix) if suffix.is_empty() || suffix.starts_with('.') => {
                        Self::Suffix(suffix.to_owned())
                    }
                    _ => Self::Full(channel.clone()),
                }
            }
            (Address::Inproc(a), Address::Inproc(b)) if a == b => Self::Suffix(String::new()),
            _ => Self::Full(channel.clone()),
        }
    }

    /// The address to dial, for a child that dialled `control`.
    #[must_use]
    pub fn resolve(&self, control: &Address) -> Address {
        match self {
            Self::Port(port) => control.with_port(*port),
            Self::Suffix(suffix) => control.with_suffix(suffix),
            Self::Full(address) => address.clone(),
        }
    }
}

impl fmt::Display for ChannelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, ":{port}"),
            Self::Suffix(suffix) => f.write_str(suffix),
            Self::Full(address) => address.fmt(f),
        }
    }
}

impl FromStr for ChannelAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(port) = text.strip_prefix(':') {
            return port.parse().map(Self::Port).map_err(|_| AddressError {
                text: text.to_owned(),
                reason: "the port must be a number from 0 to 65535",
            });
        }
        if text.is_empty() || (text.starts_with('.') && !text.contains('/')) {
            return Ok(Self::Suffix(text.to_owned()));
        }
        text.parse().map(Self::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_print_as_they_parse() {
        for text in [
            "tcp://127.0.0.1:0",
            "tcp://[::1]:5555",
            "tcp://host.example:1",
            "ipc:///tmp/a b",
            "ipc://*",
            "inproc://x",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("tcp://*:*"), parse("tcp://0.0.0.0:0"));
    }

    #[test]
    fn wrong_addresses_say_what_to_write() {
        for (text, reason) in [
            ("localhost:5555", "write tcp://"),
            ("udp://a:1", "unknown transport"),
            ("tcp://localhost", "port is missing"),
            ("tcp://localhost:99999", "from 0 to 65535"),
            ("tcp://::1:5555", "in brackets"),
            ("tcp://[nonsense]:5555", "IPv6"),
            ("tcp://:5555", "host is missing"),
            ("tcp://a b:5555", "blanks"),
            ("ipc://", "path is missing"),
            ("inproc://", "name is missing"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(format!("ipc://{}", "x".repeat(103)).parse::<Address>().is_err());
    }

    #[test]
    fn a_child_resolves_channels_against_the_address_it_dialled() {
        let bound = parse("tcp://0.0.0.0:1000");
        let port = ChannelAddress::relative(&bound, &parse("tcp://0.0.0.0:1001"));
        assert_eq!(port.to_string(), ":1001");
        assert_eq!(port.resolve(&parse("tcp://[fe80::1]:1000")), parse("tcp://[fe80::1]:1001"));

        let anywhere = ChannelAddress::relative(&parse("tcp://10.0.0.2:1"), &parse("tcp://0.0.0.0:2"));
        assert_eq!(anywhere, ChannelAddress::Port(2));

        let suffix = ChannelAddress::relative(&parse("ipc:///a/s"), &parse("ipc:///a/s.pub"));
        assert_eq!(suffix.to_string(), ".pub");
        assert_eq!(suffix.resolve(&parse("ipc:///b/s")), parse("ipc:///b/s.pub"));

        let full = ChannelAddress::relative(&bound, &parse("tcp://10.0.0.1:7"));
        assert_eq!(full.to_string().parse::<ChannelAddress>().unwrap(), full);
        assert_eq!(full.resolve(&bound), parse("tcp://10.0.0.1:7"));

        let same = ChannelAddress::relative(&parse("inproc://n"), &parse("inproc://n"));
        assert_eq!(
            same.to_string().parse::<ChannelAddress>().unwrap().resolve(&parse("inproc://n")),
            parse("inproc://n")
        );
    }

    #[test]
    fn only_loopback_ipc_and_inproc_are_local() {
        for text in ["tcp://127.0.0.2:1", "tcp://[::1]:1", "tcp://localhost:1", "ipc://x", "inproc://x"] {
            assert!(parse(text).is_local(), "{text}");
        }
        for text in ["tcp://0.0.0.0:1", "tcp://*:1", "tcp://example.org:1", "tcp://[::]:1"] {
            assert!(!parse(text).is_local(), "{text}");
        }
    }
}

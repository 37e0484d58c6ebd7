//! Commands: READY, ERROR, PING, PONG, SUBSCRIBE, CANCEL (RFC 23, RFC 37).

use bytes::{BufMut, Bytes, BytesMut};

use super::SocketType;
use super::frame::{COMMAND, put_head};
use super::violation::Violation;

/// The longest context that PONG echoes (RFC 37).
pub(super) const MAX_CONTEXT: usize = 16;
/// The longest identity (RFC 28).
pub(super) const MAX_IDENTITY: usize = 255;
/// How many octets of properties a READY may have (a guess: far more than libraries send).
const MAX_PROPERTIES: usize = 2 * 1024;

/// A command as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Ready(Metadata),
    Error(String),
    /// Tenths of a second, and what to echo.
    Ping(u16, Bytes),
    Pong,
    Subscribe(Bytes),
    Cancel(Bytes),
    /// One that is not known.
    Other,
}

/// What a READY says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) kind: Option<SocketType>,
    pub(super) identity: Bytes,
}

impl Command {
    /// Reads the body of a command frame.
    pub(super) fn read(body: &Bytes) -> Result<Self, Violation> {
        let malformed = Violation::Command;
        let length = usize::from(*body.first().ok_or(malformed("it is empty"))?);
        if length == 0 {
            return Err(malformed("it has no name"));
        }
        let name = body.get(1..=length).ok_or(malformed("its name is longer than itself"))?;
        let data = body.slice(1 + length..);
        Ok(match name {
            b"READY" => Self::Ready(Metadata::read(&data)?),
            b"ERROR" => {
                let length = usize::from(*data.first().ok_or(malformed("an ERROR without a reason"))?);
                let reason = data.get(1..=length).ok_or(malformed("a reason longer than the ERROR"))?;
                Self::Error(String::from_utf8_lossy(reason).into_owned())
            }
            b"PING" => match data.get(..2) {
                Some(ttl) => {
                    let context = data.slice(2..data.len().min(2 + MAX_CONTEXT));
                    Self::Ping(u16::from_be_bytes([ttl[0], ttl[1]]), context)
                }
                None => return Err(malformed("a PING without a TTL")),
            },
            b"PONG" => Self::Pong,
            b"SUBSCRIBE" => Self::Subscribe(data),
            b"CANCEL" => Self::Cancel(data),
            _ => Self::Other,
        })
    }
}

impl Metadata {
    /// Reads properties. Names are told apart without regard to case; of several with one name the first counts.
    fn read(data: &Bytes) -> Result<Self, Violation> {
        if data.len() > MAX_PROPERTIES {
            return Err(Violation::Metadata("too many properties"));
        }
        let overruns = Violation::Metadata("a property is longer than the frame");
        let (mut kind, mut identity) = (None, None);
        let mut rest = 0;
        while rest < data.len() {
            let length = usize::from(data[rest]);
            let name = data.get(rest + 1..rest + 1 + length).ok_or(overruns.clone())?;
            if name.is_empty() {
                return Err(Violation::Metadata("a property without a name"));
            }
            rest += 1 + length;
            let size = data.get(rest..rest + 4).and_then(|size| size.try_into().ok());
            let size = u32::from_be_bytes(size.ok_or(overruns.clone())?) as usize;
            rest += 4;
            let end = rest.checked_add(size).filter(|end| *end <= data.len()).ok_or(overruns.clone())?;
            let value = data.slice(rest..end);
            rest = end;
            if name.eq_ignore_ascii_case(b"Socket-Type") {
                kind.get_or_insert(value);
            } else if name.eq_ignore_ascii_case(b"Identity") {
                identity.get_or_insert(value);
            }
        }
        let identity = identity.unwrap_or_default();
        if identity.len() > MAX_IDENTITY {
            return Err(Violation::Metadata("an identity has at most 255 octets"));
        }
        if identity.first() == Some(&0) {
            return Err(Violation::Metadata("an identity does not begin with a zero"));
        }
        // Kept as long as the connection: its own piece of memory, not a part of what was read.
        let identity = Bytes::copy_from_slice(&identity);
        Ok(Self { kind: kind.and_then(|name| SocketType::from_name(&name)), identity })
    }
}

fn put(name: &[u8], data: &[&[u8]]) -> Bytes {
    let length = 1 + name.len() + data.iter().map(|part| part.len()).sum::<usize>();
    let mut buffer = BytesMut::with_capacity(9 + length);
    put_head(&mut buffer, COMMAND, length);
    buffer.put_u8(name.len() as u8);
    buffer.put_slice(name);
    data.iter().for_each(|part| buffer.put_slice(part));
    buffer.freeze()
}

/// READY, with this socket's type and identity.
pub(super) fn ready(kind: SocketType, identity: &[u8]) -> Bytes {
    let mut properties = BytesMut::new();
    let mut property = |name: &[u8], value: &[u8]| {
        properties.put_u8(name.len() as u8);
        properties.put_slice(name);
        properties.put_u32(value.len() as u32);
        properties.put_slice(value);
    };
    property(b"Socket-Type", kind.name().as_bytes());
    if !identity.is_empty() {
        property(b"Identity", identity);
    }
    put(b"READY", &[&properties])
}

/// PING; the TTL in tenths of a second.
pub(super) fn ping(ttl: u16) -> Bytes {
    put(b"PING", &[&ttl.to_be_bytes()])
}

/// PONG, with what PING wanted echoed.
pub(super) fn pong(context: &[u8]) -> Bytes {
    put(b"PONG", &[context])
}

/// A subscription, or its end: a command for peers of 3.1, a message for those of 3.0.
pub(super) fn subscription(subscribe: bool, prefix: &[u8], minor: u8) -> Bytes {
    if minor > 0 {
        return put(if subscribe { b"SUBSCRIBE" } else { b"CANCEL" }, &[prefix]);
    }
    let mut buffer = BytesMut::with_capacity(10 + prefix.len());
    put_head(&mut buffer, 0, 1 + prefix.len());
    buffer.put_u8(subscribe.into());
    buffer.put_slice(prefix);
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(frame: &Bytes) -> Bytes {
        frame.slice(2..)
    }

    #[test]
    fn ready_is_read_as_it_was_written() {
        let metadata = Metadata { kind: Some(SocketType::Sub), identity: "me".into() };
        assert_eq!(Command::read(&body(&ready(SocketType::Sub, b"me"))), Ok(Command::Ready(metadata)));
    }

    #[test]
    fn of_properties_the_first_of_a_name_counts_in_any_case() {
        let data = b"\x05READY\x0bsocket-TYPE\0\0\0\x03PUB\x0bSocket-Type\0\0\0\x03SUB\x06X-None\0\0\0\0";
        let Ok(Command::Ready(metadata)) = Command::read(&Bytes::from_static(data)) else { panic!() };
        assert_eq!(metadata.kind, Some(SocketType::Pub));
    }

    #[test]
    fn malformed_commands_are_told_apart() {
        for wrong in [
            &b""[..],
            b"\0",
            b"\x05PIN",
            b"\x04PING\0",
            b"\x05ERROR",
            b"\x05ERROR\x05no",
            b"\x05READY\x0bSocket-Type\0\0\0\x09PUB",
            b"\x05READY\x0bSocket-Type\xff\xff\xff\xffPUB",
            b"\x05READY\x00\0\0\0\0",
            b"\x05READY\x08Identity\0\0\0\x02\0x",
        ] {
            assert!(Command::read(&Bytes::copy_from_slice(wrong)).is_err(), "{wrong:?}");
        }
        assert_eq!(Command::read(&Bytes::from_static(b"\x05HELLO")), Ok(Command::Other));
    }

    #[test]
    fn a_long_context_is_cut() {
        let ping = put(b"PING", &[&[0, 7], &[9; 20]]);
        assert_eq!(Command::read(&body(&ping)), Ok(Command::Ping(7, vec![9; 16].into())));
    }
}

//! ZMTP by hand: octets as RFC 23 and RFC 37 have them, and a peer that sends what it is told to. Nothing here is taken from the library, so that a
//! mistake of its encoder cannot hide in the decoder's tests.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::common::soon;

pub(crate) const MORE: u8 = 1;
pub(crate) const LONG: u8 = 2;
pub(crate) const COMMAND: u8 = 4;

/// A greeting: this version, this mechanism.
pub(crate) fn greeting_of(major: u8, minor: u8, mechanism: &[u8]) -> Vec<u8> {
    let mut greeting = vec![0; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    (greeting[10], greeting[11]) = (major, minor);
    greeting[12..12 + mechanism.len()].copy_from_slice(mechanism);
    greeting
}

/// The greeting of ZMTP 3.1.
pub(crate) fn greeting() -> Vec<u8> {
    greeting_of(3, 1, b"NULL")
}

/// A frame, its length in the short form where that is possible.
pub(crate) fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    match u8::try_from(body.len()) {
        Ok(length) => [&[flags, length][..], body].concat(),
        Err(_) => long_frame(flags, body),
    }
}

/// A frame, its length in the long form.
pub(crate) fn long_frame(flags: u8, body: &[u8]) -> Vec<u8> {
    [&declared(flags, body.len() as u64)[..], body].concat()
}

/// The head of a frame in the long form, with any length.
pub(crate) fn declared(flags: u8, length: u64) -> Vec<u8> {
    [&[flags | LONG][..], &length.to_be_bytes()].concat()
}

/// A message of these frames.
pub(crate) fn message<B: AsRef<[u8]>>(frames: &[B]) -> Vec<u8> {
    let last = frames.len() - 1;
    let more = |index| if index < last { MORE } else { 0 };
    frames.iter().enumerate().flat_map(|(index, body)| frame(more(index), body.as_ref())).collect()
}

/// A command.
pub(crate) fn command(name: &[u8], data: &[u8]) -> Vec<u8> {
    frame(COMMAND, &[&[name.len() as u8][..], name, data].concat())
}

/// A property of READY.
pub(crate) fn property(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[name.len() as u8][..], name, &(value.len() as u32).to_be_bytes(), value].concat()
}

/// READY of a socket of this type, without an identity.
pub(crate) fn ready(kind: &str) -> Vec<u8> {
    ready_with(&[property(b"Socket-Type", kind.as_bytes())])
}

/// READY with these properties.
pub(crate) fn ready_with(properties: &[Vec<u8>]) -> Vec<u8> {
    command(b"READY", &properties.concat())
}

/// READY with an identity.
pub(crate) fn ready_as(kind: &str, identity: &[u8]) -> Vec<u8> {
    ready_with(&[property(b"Socket-Type", kind.as_bytes()), property(b"Identity", identity)])
}

/// PING, its TTL in tenths of a second.
pub(crate) fn ping(ttl: u16, context: &[u8]) -> Vec<u8> {
    command(b"PING", &[&ttl.to_be_bytes()[..], context].concat())
}

/// A peer at the other end of a connection, without manners of its own.
#[derive(Debug)]
pub(crate) struct Raw {
    stream: TcpStream,
}

impl Raw {
    pub(crate) async fn connect(port: u16) -> Self {
        let stream = soon(TcpStream::connect(("127.0.0.1", port))).await.expect("somebody listens");
        Self::of(stream)
    }

    /// One whose system takes little that it does not read.
    pub(crate) async fn with_little_room(port: u16) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4 << 10).expect("a size");
        let stream = soon(socket.connect(([127, 0, 0, 1], port).into())).await.expect("somebody listens");
        Self::of(stream)
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream }
    }

    /// One that has done everything right so far: both have introduced themselves.
    pub(crate) async fn introduced(port: u16, kind: &str) -> Self {
        let mut raw = Self::connect(port).await;
        raw.introduce(&ready(kind)).await;
        raw
    }

    /// Does the handshake with this READY; gives that of the other side.
    pub(crate) async fn introduce(&mut self, ready: &[u8]) -> Vec<u8> {
        self.send(&greeting()).await;
        self.greeted().await;
        self.send(ready).await;
        self.readied().await
    }

    /// Waits for the other side's greeting and READY; whether they came, or it closed the connection.
    pub(crate) async fn is_introduced(&mut self) -> bool {
        // 64 octets, and a READY in the short form.
        let mut head = [0; 66];
        if soon(self.stream.read_exact(&mut head)).await.is_err() {
            return false;
        }
        let mut ready = vec![0; head[65].into()];
        soon(self.stream.read_exact(&mut ready)).await.is_ok_and(|_| ready.starts_with(b"\x05READY"))
    }

    /// The other side's greeting, which speaks 3.0 or 3.1.
    pub(crate) async fn greeted(&mut self) -> Vec<u8> {
        let greeting = self.octets(64).await;
        // libzmq has a 1 in the padding, for peers of 1.0.
        assert_eq!((greeting[0], greeting[9], greeting[10]), (0xff, 0x7f, 3));
        greeting
    }

    /// The other side's READY.
    pub(crate) async fn readied(&mut self) -> Vec<u8> {
        let (flags, body) = self.frame().await;
        assert_eq!((flags, &body[..6]), (COMMAND, &b"\x05READY"[..]));
        body
    }

    pub(crate) fn port(&self) -> u16 {
        self.stream.local_addr().expect("it is connected").port()
    }

    /// Sends; that the other side closes meanwhile is no error.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = soon(self.stream.write_all(bytes)).await;
    }

    /// Sends as long as the other side takes it; whether it took all.
    #[allow(dead_code)]
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        soon(self.stream.write_all(bytes)).await.is_ok()
    }

    /// Says that nothing more comes.
    pub(crate) async fn shut_down(&mut self) {
        self.stream.shutdown().await.expect("it is connected");
    }

    pub(crate) async fn octets(&mut self, count: usize) -> Vec<u8> {
        let mut octets = vec![0; count];
        soon(self.stream.read_exact(&mut octets)).await.expect("the connection stays open");
        octets
    }

    /// The next frame: its flags, without the one that says how long its length is, and its body.
    pub(crate) async fn frame(&mut self) -> (u8, Vec<u8>) {
        let flags = self.octets(1).await[0];
        let length = if flags & LONG == 0 {
            u64::from(self.octets(1).await[0])
        } else {
            u64::from_be_bytes(self.octets(8).await.try_into().expect("eight"))
        };
        assert!(length < 1 << 25, "{length} octets");
        (flags & !LONG, self.octets(length as usize).await)
    }

    /// The next message, which must come before any command.
    pub(crate) async fn message(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let (flags, body) = self.frame().await;
            assert_eq!(flags & COMMAND, 0, "a message, not {body:?}");
            frames.push(body);
            if flags & MORE == 0 {
                return frames;
            }
        }
    }

    /// Waits until the other side closes the connection; gives what it had sent before.
    pub(crate) async fn closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end as good as any: what was sent to it was not read.
        let _ = soon(self.stream.read_to_end(&mut rest)).await;
        rest
    }

    /// Whether the other side has closed the connection by now, as far as the system knows.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut octets = [0; 4096];
        loop {
            match self.stream.try_read(&mut octets) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => return true,
            }
        }
    }

    /// That the other side is there and listens: it answers a PING. Messages and commands before the answer are passed over.
    pub(crate) async fn is_served(&mut self) {
        self.send(&ping(0, b"there?")).await;
        while self.frame().await != (COMMAND, b"\x04PONGthere?".to_vec()) {}
    }
}

//! What the fuzz targets of ZMTP do with their input. They are in `tests/fuzz`; `tests/zmtp_fuzz.rs` does the same without a fuzzer.
#![allow(clippy::disallowed_methods, reason = "a run has to begin at some moment")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use zincmq::zmtp::{
    Config, Connection, Event, Heartbeat, Identity, Limits, Message, SocketType, Violation, encode,
};

/// The input, octet by octet; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.octet(), self.octet()]))
    }

    fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.octet()).collect()
    }
}

fn config(kind: SocketType, limits: Limits) -> Config {
    Config { kind, identity: Identity::default(), limits, heartbeat: None }
}

fn kind(octet: u8) -> SocketType {
    SocketType::ALL[usize::from(octet) % SocketType::ALL.len()]
}

/// A type that talks to this one.
fn partner(kind: SocketType, octet: u8) -> SocketType {
    let partners: Vec<_> = SocketType::ALL.into_iter().filter(|other| kind.talks_to(*other)).collect();
    partners[usize::from(octet) % partners.len()]
}

fn greeting(minor: u8) -> Vec<u8> {
    let mut greeting = vec![0; 64];
    (greeting[0], greeting[9], greeting[10], greeting[11]) = (0xff, 0x7f, 3, minor);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

fn command(name: &[u8], data: &[u8]) -> Vec<u8> {
    let length = 1 + name.len() + data.len();
    let mut octets = match u8::try_from(length) {
        Ok(length) => vec![4, length],
        Err(_) => [&[6][..], &(length as u64).to_be_bytes()].concat(),
    };
    octets.put_u8(name.len() as u8);
    octets.extend_from_slice(name);
    octets.extend_from_slice(data);
    octets
}

fn ready(kind: SocketType) -> Vec<u8> {
    let name = kind.name().as_bytes();
    command(b"READY", &[b"\x0bSocket-Type", &(name.len() as u32).to_be_bytes()[..], name].concat())
}

/// What a connection comes to: events, and why it ended.
type Outcome = (Vec<Event>, Result<(), Violation>);

/// Any octets in any pieces to a connection of any type. It may refuse them; it must not panic, hold more than its limits, hand on what is against them, or
/// come to another result for another split.
///
/// Four octets decide on all but what the peer sends: the type; whether the peer has introduced itself already, and how; how the rest is split.
pub fn bytes(data: &[u8]) {
    let mut input = Input(data);
    let kind = kind(input.octet());
    let how = input.octet();
    let mut limits = Limits::default();
    if how & 1 != 0 {
        (limits.frame, limits.frames, limits.message, limits.command) = (500, 4, 800, 200);
    }
    let mut octets = Vec::new();
    if how & 2 != 0 {
        octets = [greeting(how >> 2 & 1), ready(partner(kind, how >> 3))].concat();
    }
    let mut split = input.number() as u64;
    octets.extend_from_slice(input.0);

    let mut split_at_random = || {
        // A linear congruential generator (Knuth, MMIX).
        split = split.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + (split >> 59) as usize
    };
    let pieces = run(kind, &limits, &octets, &mut split_at_random);
    let whole = run(kind, &limits, &octets, || usize::MAX);
    assert_eq!(pieces, whole, "it depends on the split");
}

fn run(kind: SocketType, limits: &Limits, mut octets: &[u8], mut size: impl FnMut() -> usize) -> Outcome {
    let now = Instant::now();
    let mut connection = Connection::new(config(kind, limits.clone()), now);
    let (mut buffer, mut events, mut result) = (BytesMut::new(), Vec::new(), Ok(()));
    while result.is_ok() && !octets.is_empty() {
        let most = size();
        let (piece, rest) = octets.split_at(most.min(octets.len()));
        octets = rest;
        buffer.extend_from_slice(piece);
        // As many frames at a time as octets in the piece.
        let mut taken = most;
        while result.is_ok() && taken == most {
            result = connection.handle_frames(now, &mut buffer, most).map(|count| taken = count);
            assert!(taken <= most, "it takes more than it is let");
            events.extend(std::iter::from_fn(|| connection.poll_event()));
        }
        if result.is_ok() {
            let most = limits.frame.max(limits.command).max(64) + 9;
            assert!(buffer.len() < most && connection.missing(&buffer) <= most, "it waits for too much");
        }
        let transmits = std::iter::from_fn(|| connection.poll_transmit()).count();
        assert!(transmits <= 66, "{transmits} transmits");
        events.extend(std::iter::from_fn(|| connection.poll_event()));
    }
    for (index, event) in events.iter().enumerate() {
        match event {
            Event::Ready(peer) => {
                assert!(index == 0 && kind.talks_to(peer.kind) && peer.identity.len() < 256)
            }
            Event::Message(message) => {
                assert!(
                    index > 0 && message.len() <= limits.frames && message.bytes() as u64 <= limits.message
                );
            }
            Event::Subscribe(prefix) | Event::Cancel(prefix) => {
                assert!(matches!(kind, SocketType::Pub | SocketType::Xpub) && prefix.len() <= limits.frame);
            }
            _ => {}
        }
    }
    (events, result)
}

/// One of two ends of a simulated connection.
struct End {
    kind: SocketType,
    connection: Connection,
    /// What has arrived, and was not taken.
    buffer: BytesMut,
    /// What is under way from here.
    wire: VecDeque<u8>,
    /// What the other end has still to be told of.
    due: VecDeque<Event>,
}

impl End {
    fn new(kind: SocketType, heartbeat: Option<Heartbeat>, now: Instant) -> Self {
        let config = Config { heartbeat, ..config(kind, Limits::default()) };
        Self {
            kind,
            connection: Connection::new(config, now),
            buffer: BytesMut::new(),
            wire: VecDeque::new(),
            due: VecDeque::new(),
        }
    }

    fn flush(&mut self) {
        self.wire.extend(std::iter::from_fn(|| self.connection.poll_transmit()).flatten());
    }

    fn send(&mut self, message: &Message, to: SocketType) {
        if self.connection.peer().is_none() {
            return;
        }
        self.flush();
        self.wire.extend(encode(message));
        let first = message.first();
        self.due.push_back(match (message.len(), first.first(), to) {
            (1, Some(1), SocketType::Pub | SocketType::Xpub) => Event::Subscribe(first.slice(1..)),
            (1, Some(0), SocketType::Pub | SocketType::Xpub) => Event::Cancel(first.slice(1..)),
            _ => Event::Message(message.clone()),
        });
    }

    fn send_command(&mut self, name: &[u8], data: &[u8], due: Option<Event>) {
        if self.connection.peer().is_some() {
            self.flush();
            self.wire.extend(command(name, data));
            self.due.extend(due);
        }
    }

    /// Takes up to so many octets that are under way from the other end.
    fn take(&mut self, from: &mut Self, count: usize, now: Instant) {
        let count = count.min(from.wire.len());
        self.buffer.extend(from.wire.drain(..count));
        self.connection.handle_bytes(now, &mut self.buffer).expect("the other end keeps to the protocol");
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Ready(peer) => assert_eq!(peer.kind, from.kind),
                event => assert_eq!(Some(event), from.due.pop_front()),
            }
        }
    }
}

/// Two connected machines and any sequence of operations on them: each must be told of what the other sends, in order and once; neither may find fault with the
/// other, unless it was silent for too long.
pub fn operations(data: &[u8]) {
    let mut input = Input(data);
    let mut now = Instant::now();
    let begin = now;
    let kind = kind(input.octet());
    let how = input.octet();
    let heartbeat = (how & 1 != 0).then_some(Heartbeat {
        interval: Duration::from_millis(200),
        timeout: Duration::from_millis(400),
        ttl: Duration::from_millis(u64::from(how >> 1 & 3) * 300),
    });
    let mut ends = [End::new(kind, heartbeat, now), End::new(partner(kind, how >> 3), None, now)];
    let mut has_ttl = false;
    while !input.0.is_empty() {
        let operation = input.octet();
        let [here, there] = &mut ends;
        let (here, there) = if operation & 1 == 0 { (here, there) } else { (there, here) };
        match operation >> 1 & 7 {
            0 => {
                let frames = 1 + usize::from(operation >> 4) % 4;
                let frames = (0..frames).map(|_| {
                    let length = input.octet();
                    // Long ones are made up: the input is to stay short.
                    if length > 200 {
                        vec![length; usize::from(length - 200) * 100]
                    } else {
                        input.octets(length.into())
                    }
                });
                here.send(&Message::from_frames(frames).expect("a frame at least"), there.kind);
            }
            1 if matches!(there.kind, SocketType::Pub | SocketType::Xpub) => {
                let length = input.octet() % 32;
                let prefix = Bytes::from(input.octets(length.into()));
                if operation & 16 == 0 {
                    here.send_command(b"SUBSCRIBE", &prefix, Some(Event::Subscribe(prefix.clone())));
                } else {
                    here.send_command(b"CANCEL", &prefix, Some(Event::Cancel(prefix.clone())));
                }
            }
            1 => here.send_command(b"UNKNOWN", b"data", None),
            2 => {
                let ttl = input.octet() % 8;
                has_ttl |= ttl > 0;
                let length = input.octet() % 17;
                let context = input.octets(length.into());
                here.send_command(b"PING", &[&[0, ttl][..], &context].concat(), None);
            }
            3 | 4 => {
                let count = input.octet();
                there.flush();
                here.take(there, 1 + usize::from(count), now);
            }
            5 => {
                there.flush();
                here.take(there, usize::MAX, now);
            }
            6 => here.flush(),
            _ => {
                now += Duration::from_millis(u64::from(input.octet()));
                for end in &mut ends {
                    let is_due = end.connection.poll_timeout().is_some_and(|due| due <= now);
                    match end.connection.handle_timeout(now) {
                        Ok(()) => {}
                        Err(Violation::HandshakeTimeout) => {
                            let since = now.duration_since(begin);
                            assert!(is_due && since >= Duration::from_secs(5), "{since:?}");
                            return;
                        }
                        Err(Violation::MessageTime) => {
                            let since = now.duration_since(begin);
                            assert!(is_due && since >= Limits::default().message_time, "{since:?}");
                            return;
                        }
                        Err(Violation::Silent) => {
                            assert!(is_due && (has_ttl || heartbeat.is_some()));
                            return;
                        }
                        Err(other) => panic!("{other}"),
                    }
                    assert!(end.connection.poll_timeout().is_none_or(|due| due > now), "it stays due");
                }
            }
        }
    }
    // All that is under way arrives.
    loop {
        let [one, other] = &mut ends;
        one.flush();
        other.flush();
        if one.wire.is_empty() && other.wire.is_empty() {
            break;
        }
        one.take(other, usize::MAX, now);
        other.take(one, usize::MAX, now);
    }
    for end in &ends {
        assert!(end.due.is_empty() && end.buffer.is_empty() && end.connection.peer().is_some());
    }
}

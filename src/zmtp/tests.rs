//! Properties of the connection machine, from within: what it holds is private.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::frame::{COMMAND, LONG, MORE, put_head};
use super::*;

/// The sockets that are tried: one that publishes, one that takes messages, one that does both.
const KINDS: [(SocketType, SocketType); 3] = [
    (SocketType::Xpub, SocketType::Sub),
    (SocketType::Pull, SocketType::Push),
    (SocketType::Dealer, SocketType::Router),
];

fn config(kind: SocketType, limits: Limits) -> Config {
    Config { kind, identity: Identity::default(), limits, heartbeat: None }
}

/// What a peer may send when it has introduced itself.
#[derive(Debug, Clone)]
enum Item {
    Message(Vec<Vec<u8>>),
    Ping(u16, Vec<u8>),
    Pong,
    Subscription(bool, u8, Vec<u8>),
    Unknown(Vec<u8>),
}

fn item() -> impl Strategy<Value = Item> {
    let octets = || vec(any::<u8>(), 0..300);
    prop_oneof![
        3 => vec(octets(), 1..6).prop_map(Item::Message),
        1 => (0..700_u16, vec(any::<u8>(), 0..20)).prop_map(|(ttl, context)| Item::Ping(ttl, context)),
        1 => Just(Item::Pong),
        2 => (any::<bool>(), 0..2_u8, octets()).prop_map(|(on, minor, prefix)| Item::Subscription(on, minor, prefix)),
        1 => octets().prop_map(Item::Unknown),
    ]
}

fn put_command(buffer: &mut BytesMut, name: &[u8], data: &[u8]) {
    put_head(buffer, COMMAND, 1 + name.len() + data.len());
    buffer.put_u8(name.len() as u8);
    buffer.put_slice(name);
    buffer.put_slice(data);
}

fn session(peer: SocketType, items: &[Item]) -> BytesMut {
    let mut buffer = BytesMut::from(&greeting::ours()[..]);
    buffer.put_slice(&command::ready(peer, b"peer"));
    for item in items {
        match item {
            Item::Message(frames) => {
                let message = Message::from_frames(frames.iter().cloned()).expect("a frame at least");
                buffer.put_slice(&encode(&message));
            }
            Item::Ping(ttl, context) => {
                put_command(&mut buffer, b"PING", &[&ttl.to_be_bytes()[..], context].concat());
            }
            Item::Pong => buffer.put_slice(&command::pong(b"")),
            Item::Subscription(on, minor, prefix) => {
                buffer.put_slice(&command::subscription(*on, prefix, *minor))
            }
            Item::Unknown(data) => put_command(&mut buffer, b"UNKNOWN", data),
        }
    }
    buffer
}

/// What a connection sends and tells when it is given the octets in pieces of these sizes, again and again.
fn outcome(
    kind: SocketType,
    mut octets: &[u8],
    sizes: &[usize],
    now: Instant,
) -> (Vec<u8>, Vec<Event>, Result<(), Violation>) {
    let mut connection = Connection::new(config(kind, Limits::default()), now);
    let (mut buffer, mut sent, mut events) = (BytesMut::new(), Vec::new(), Vec::new());
    for size in sizes.iter().cycle() {
        let (piece, rest) = octets.split_at((*size).min(octets.len()));
        octets = rest;
        buffer.extend_from_slice(piece);
        let result = connection.handle_bytes(now, &mut buffer);
        sent.extend(std::iter::from_fn(|| connection.poll_transmit()).flatten());
        events.extend(std::iter::from_fn(|| connection.poll_event()));
        if result.is_err() || octets.is_empty() {
            return (sent, events, result);
        }
    }
    unreachable!("there is a size")
}

fn small() -> Limits {
    Limits { frame: 200, frames: 4, message: 300, command: 150, ..Limits::default() }
}

fn unlimited() -> Limits {
    Limits {
        frame: usize::MAX,
        frames: usize::MAX,
        message: u64::MAX,
        command: usize::MAX,
        ..Limits::default()
    }
}

/// Octets that are now and then those of frames.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    let body = || vec(any::<u8>(), 0..40);
    let frame = (0..8_u8, body()).prop_map(|(flags, body)| {
        let mut buffer = BytesMut::new();
        put_head(&mut buffer, flags & (MORE | COMMAND), body.len());
        buffer.put_slice(&body);
        buffer.to_vec()
    });
    let long = (0..8_u8, any::<u64>(), body()).prop_map(|(flags, length, body)| {
        [&[flags | LONG][..], &(length >> (length % 64)).to_be_bytes(), &body].concat()
    });
    let command = (prop::sample::select(vec!["READY", "PING", "PONG", "ERROR", "CANCEL", ""]), body())
        .prop_map(|(name, data)| {
            let mut buffer = BytesMut::new();
            put_command(&mut buffer, name.as_bytes(), &data);
            buffer.to_vec()
        });
    vec(prop_oneof![4 => frame, 1 => long, 2 => command, 1 => body()], 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn a_session_is_the_same_however_it_is_split(
        items in vec(item(), 0..20),
        sizes in vec(1_usize..200, 1..20),
        of in 0..KINDS.len(),
    ) {
        let now = Instant::now();
        let (kind, peer) = KINDS[of];
        let session = session(peer, &items);
        let whole = outcome(kind, &session, &[session.len()], now);
        prop_assert_eq!(&whole.2, &Ok(()));
        prop_assert_eq!(outcome(kind, &session, &sizes, now), whole);
    }

    #[test]
    fn a_peer_that_is_wrong_is_found_out_however_its_octets_are_split(
        octets in octets(),
        sizes in vec(1_usize..30, 1..10),
        of in 0..KINDS.len(),
    ) {
        let now = Instant::now();
        let (kind, peer) = KINDS[of];
        let bytes = [&session(peer, &[])[..], &octets].concat();
        let (_, events, result) = outcome(kind, &bytes, &[bytes.len()], now);
        let split = outcome(kind, &bytes, &sizes, now);
        // In pieces more may be answered before the end.
        prop_assert_eq!((split.1, split.2), (events, result));
    }

    #[test]
    fn no_octets_are_held_beyond_the_limits(
        begins_well in prop::option::of(0..KINDS.len()),
        octets in octets(),
        sizes in vec(1_usize..100, 1..10),
        limits in prop_oneof![3 => Just(small()), 1 => Just(unlimited())],
    ) {
        let now = Instant::now();
        let (kind, peer) = KINDS[begins_well.unwrap_or(0)];
        let start = begins_well.map(|_| session(peer, &[])).unwrap_or_default();
        let octets = [&start[..], &octets].concat();
        let mut connection = Connection::new(config(kind, limits.clone()), now);
        let mut buffer = BytesMut::new();
        let mut rest = &octets[..];
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            rest = after;
            buffer.extend_from_slice(piece);
            if connection.handle_bytes(now, &mut buffer).is_err() || rest.is_empty() {
                break;
            }
            let frame = limits.frame.max(limits.command).max(greeting::LENGTH).saturating_add(9);
            prop_assert!(buffer.len() < frame);
            prop_assert!(connection.missing(&buffer) <= frame - buffer.len());
            prop_assert!(connection.partial.len() <= limits.frames);
            prop_assert!(connection.partial_bytes <= limits.message);
            let partial: usize = connection.partial.iter().map(Bytes::len).sum();
            prop_assert_eq!(partial as u64, connection.partial_bytes);
            // The greeting and READY are the same two as ever.
            prop_assert!(connection.transmits.len() <= connection::MAX_TRANSMITS + 2);
            prop_assert!(connection.transmits.iter().all(|bytes| bytes.len() <= greeting::LENGTH.max(40)));
            while connection.poll_event().is_some() {}
        }
    }

    #[test]
    fn messages_come_out_as_they_went_in(
        messages in vec(vec(vec(any::<u8>(), 0..5_000), 1..8), 1..8),
        sizes in vec(1_usize..3_000, 1..10),
    ) {
        let now = Instant::now();
        let messages: Vec<Message> =
            messages.into_iter().map(|frames| Message::from_frames(frames).expect("a frame at least")).collect();
        let mut octets = session(SocketType::Push, &[]);
        messages.iter().for_each(|message| octets.put_slice(&encode(message)));
        let (_, events, result) = outcome(SocketType::Pull, &octets, &sizes, now);
        prop_assert_eq!(result, Ok(()));
        prop_assert!(matches!(events[0], Event::Ready(_)));
        let received: Vec<Event> = messages.into_iter().map(Event::Message).collect();
        prop_assert_eq!(&events[1..], received);
    }
}

#[test]
fn limits_that_are_none_are_no_reason_to_panic() {
    let now = Instant::now();
    let mut connection = Connection::new(config(SocketType::Pull, unlimited()), now);
    let mut buffer = session(SocketType::Push, &[]);
    buffer.put_slice(&[MORE, 3, 1, 2, 3, LONG]);
    buffer.put_u64(u64::MAX - 1);
    // It never comes, and the message would be larger than can be counted.
    assert_eq!(connection.handle_bytes(now, &mut buffer), Err(Violation::MessageSize { limit: u64::MAX }));
    assert_eq!(connection.missing(&buffer), usize::MAX - buffer.len());
}

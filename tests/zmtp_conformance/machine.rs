//! Cases that are more exact without sockets: every split, every pair of types, time as it is told.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use zincmq::zmtp::{Config, Connection, Event, Heartbeat, Identity, Limits, PeerInfo, SocketType, Violation};

use crate::wire::{MORE, command, declared, frame, greeting, greeting_of, message, ping, ready, ready_as};

fn config(kind: SocketType) -> Config {
    Config { kind, identity: Identity::default(), limits: Limits::default(), heartbeat: None }
}

/// Everything a connection says and tells when it is given these pieces.
fn outcome(kind: SocketType, pieces: &[&[u8]], now: Instant) -> (Vec<u8>, Vec<Event>, Result<(), Violation>) {
    let mut connection = Connection::new(config(kind), now);
    let (mut buffer, mut sent, mut events) = (BytesMut::new(), Vec::new(), Vec::new());
    let mut result = Ok(());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        result = connection.handle_bytes(now, &mut buffer);
        sent.extend(std::iter::from_fn(|| connection.poll_transmit()).flatten());
        events.extend(std::iter::from_fn(|| connection.poll_event()));
        if result.is_err() {
            break;
        }
    }
    (sent, events, result)
}

/// A session with something of everything.
fn session(kind: SocketType, minor: u8) -> Vec<u8> {
    let peer = SocketType::ALL.into_iter().find(|peer| kind.talks_to(*peer)).expect("one at least");
    [
        greeting_of(3, minor, b"NULL"),
        ready_as(peer.name(), b"peer"),
        message(&["hello"]),
        ping(0, b"context"),
        frame(MORE, b"one"),
        command(b"PONG", b""),
        frame(0, b""),
        message(&[vec![9; 300]]),
        command(b"SUBSCRIBE", b"a"),
        message(&["\x01b"]),
        command(b"CANCEL", b"a"),
        command(b"UNKNOWN", &[7; 400]),
        message(&["", "body", ""]),
    ]
    .concat()
}

#[test]
fn a_session_is_the_same_one_octet_at_a_time_and_split_at_every_point() {
    let now = Instant::now();
    for kind in SocketType::ALL {
        for minor in [0, 1] {
            let session = session(kind, minor);
            let whole = outcome(kind, &[&session], now);
            assert_eq!(whole.2, Ok(()), "{kind}");
            assert!(whole.1.len() >= 5, "{kind}: {:?}", whole.1);
            let octets: Vec<&[u8]> = session.chunks(1).collect();
            assert_eq!(outcome(kind, &octets, now), whole, "{kind}, octet by octet");
            for at in 0..=session.len() {
                assert_eq!(outcome(kind, &[&session[..at], &session[at..]], now), whole, "{kind}, at {at}");
            }
        }
    }
}

#[test]
fn a_message_is_taken_with_the_octet_that_completes_it() {
    let now = Instant::now();
    let session = [greeting(), ready("PUSH"), message(&["hello"])].concat();
    let octets: Vec<&[u8]> = session.chunks(1).collect();
    let (_, events, _) = outcome(SocketType::Pull, &octets[..octets.len() - 1], now);
    assert!(matches!(events[..], [Event::Ready(_)]));
    let (_, events, _) = outcome(SocketType::Pull, &octets, now);
    assert_eq!(events[1..], [Event::Message("hello".into())]);
}

/// The pairs of RFC 23 and RFC 28 to 31, one by one.
const PAIRS: [(&str, &str); 12] = [
    ("PAIR", "PAIR"),
    ("PUB", "SUB"),
    ("PUB", "XSUB"),
    ("XPUB", "SUB"),
    ("XPUB", "XSUB"),
    ("PUSH", "PULL"),
    ("REQ", "REP"),
    ("REQ", "ROUTER"),
    ("REP", "DEALER"),
    ("DEALER", "ROUTER"),
    ("DEALER", "DEALER"),
    ("ROUTER", "ROUTER"),
];

#[test]
fn of_all_pairs_of_types_those_of_the_rfcs_talk_and_all_others_are_refused() {
    let now = Instant::now();
    let names = SocketType::ALL.map(SocketType::name);
    // STREAM is a type of libzmq's that has no ZMTP; GATHER one of its drafts. No socket here has those.
    let unknown = ["STREAM", "GATHER", "", "PUBLISHER", "pub", "\u{0}PUB"];
    for ours in SocketType::ALL {
        for theirs in names.into_iter().chain(unknown) {
            let known = SocketType::from_name(theirs.as_bytes());
            let (_, events, result) = outcome(ours, &[&[greeting(), ready(theirs)].concat()], now);
            let fits = PAIRS.contains(&(ours.name(), theirs)) || PAIRS.contains(&(theirs, ours.name()));
            match known {
                Some(kind) if fits => {
                    let info = PeerInfo { kind, identity: "".into(), minor: 1 };
                    assert_eq!((events, result), (vec![Event::Ready(info)], Ok(())), "{ours} and {theirs}");
                }
                Some(theirs) => {
                    assert_eq!((events, result), (vec![], Err(Violation::Incompatible { ours, theirs })));
                }
                None => assert_eq!((events, result), (vec![], Err(Violation::SocketType)), "{theirs}"),
            }
        }
    }
}

#[test]
fn nothing_but_the_greeting_is_sent_before_that_of_the_peer_has_come() {
    let now = Instant::now();
    let (sent, _, _) = outcome(SocketType::Push, &[b""], now);
    assert_eq!(sent, greeting());
    let (sent, _, _) = outcome(SocketType::Push, &[&greeting()[..63]], now);
    assert_eq!(sent, greeting());
    let (sent, _, _) = outcome(SocketType::Push, &[&greeting()], now);
    assert_eq!(sent, [greeting(), ready("PUSH")].concat());
}

#[test]
fn the_handshake_has_five_seconds_whatever_trickles_in() {
    let start = Instant::now();
    let mut connection = Connection::new(config(SocketType::Pull), start);
    let due = start + Duration::from_secs(5);
    let mut buffer = BytesMut::new();
    for (step, octet) in greeting().iter().take(49).enumerate() {
        let now = start + Duration::from_millis(100) * step as u32;
        buffer.extend_from_slice(&[*octet]);
        connection.handle_bytes(now, &mut buffer).unwrap();
        assert_eq!(connection.poll_timeout(), Some(due));
        connection.handle_timeout(now).unwrap();
    }
    connection.handle_timeout(due - Duration::from_millis(1)).unwrap();
    assert_eq!(connection.handle_timeout(due), Err(Violation::HandshakeTimeout));
}

/// A connection whose peer has introduced itself.
fn introduced(config: Config, now: Instant) -> Connection {
    let peer = SocketType::ALL.into_iter().find(|peer| config.kind.talks_to(*peer)).expect("one at least");
    let mut connection = Connection::new(config, now);
    let bytes = [greeting(), ready(peer.name())].concat();
    connection.handle_bytes(now, &mut BytesMut::from(&bytes[..])).unwrap();
    while connection.poll_transmit().is_some() {}
    connection
}

#[test]
fn a_peer_is_dead_at_its_ttl_unless_something_came_or_it_takes_the_ttl_back() {
    let start = Instant::now();
    let at = |tenths: u32| start + Duration::from_millis(100) * tenths;
    let mut connection = introduced(config(SocketType::Pull), start);
    let hear = |connection: &mut Connection, now, bytes: &[u8]| {
        connection.handle_bytes(now, &mut BytesMut::from(bytes)).unwrap();
    };
    assert_eq!(connection.poll_timeout(), None);
    hear(&mut connection, at(0), &ping(3, b""));
    assert_eq!(connection.poll_timeout(), Some(at(3)));
    hear(&mut connection, at(2), &message(&["any"]));
    assert_eq!(connection.poll_timeout(), Some(at(5)));
    connection.handle_timeout(at(4)).unwrap();
    hear(&mut connection, at(5), &ping(0, b""));
    assert_eq!(connection.poll_timeout(), None);
    hear(&mut connection, at(6), &ping(u16::MAX, b""));
    connection.handle_timeout(at(6 + 65_534)).unwrap();
    assert_eq!(connection.handle_timeout(at(6 + 65_535)), Err(Violation::Silent));
}

#[test]
fn our_own_ttl_is_never_above_what_libzmq_can_count() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    for (ttl, wire) in [(0, 0), (2_000, 20), (65_500, 655), (65_600, 655), (u64::MAX, 655)] {
        let heartbeat = Heartbeat { interval: second, timeout: second, ttl: Duration::from_millis(ttl) };
        let mut connection =
            introduced(Config { heartbeat: Some(heartbeat), ..config(SocketType::Pull) }, start);
        connection.handle_timeout(start + second).unwrap();
        assert_eq!(connection.poll_transmit().as_deref(), Some(&ping(wire, b"")[..]));
    }
}

#[test]
fn a_peer_is_asked_at_each_interval_and_dead_when_it_does_not_answer() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let heartbeat = Heartbeat { interval: second, timeout: second * 3, ttl: Duration::ZERO };
    let mut connection = introduced(Config { heartbeat: Some(heartbeat), ..config(SocketType::Pull) }, start);
    for turn in 1..=2 {
        assert_eq!(connection.poll_timeout(), Some(start + second * turn));
        connection.handle_timeout(start + second * turn).unwrap();
        assert_eq!(connection.poll_transmit().as_deref(), Some(&ping(0, b"")[..]));
    }
    // An answer, whatever it is.
    let now = start + second * 2;
    connection.handle_bytes(now, &mut BytesMut::from(&command(b"PONG", b"")[..])).unwrap();
    connection.handle_timeout(start + second * 3).unwrap();
    connection.handle_timeout(start + second * 5).unwrap();
    assert_eq!(connection.handle_timeout(start + second * 6), Err(Violation::Silent));
}

#[test]
fn with_an_interval_of_zero_there_is_a_pause_all_the_same() {
    let start = Instant::now();
    let heartbeat =
        Heartbeat { interval: Duration::ZERO, timeout: Duration::from_secs(1), ttl: Duration::ZERO };
    let connection = introduced(Config { heartbeat: Some(heartbeat), ..config(SocketType::Pull) }, start);
    assert!(connection.poll_timeout() > Some(start));
}

#[test]
fn what_may_last_for_ever_is_no_reason_to_panic() {
    let start = Instant::now();
    let heartbeat = Heartbeat { interval: Duration::MAX, timeout: Duration::MAX, ttl: Duration::MAX };
    let mut patient = Config { heartbeat: Some(heartbeat), ..config(SocketType::Pull) };
    patient.limits.handshake = Duration::MAX;
    let mut connection = introduced(patient, start);
    assert!(connection.poll_timeout().is_some_and(|due| due > start + Duration::from_secs(1 << 29)));
    connection.handle_timeout(start).unwrap();
}

#[test]
fn a_peer_that_is_not_read_is_asked_and_not_dead() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let heartbeat = Heartbeat { interval: second, timeout: second, ttl: Duration::ZERO };
    let mut connection = introduced(Config { heartbeat: Some(heartbeat), ..config(SocketType::Pull) }, start);
    for turn in 1..=10 {
        connection.handle_unread(start + second * turn);
        connection.handle_timeout(start + second * turn).unwrap();
        assert_eq!(connection.poll_transmit().as_deref(), Some(&ping(0, b"")[..]));
        assert_eq!(connection.poll_transmit(), None);
    }
    assert_eq!(connection.handle_timeout(start + second * 11), Err(Violation::Silent));
}

#[test]
fn a_peer_that_is_not_read_and_has_asked_before_is_told_twice_a_second_that_this_side_lives() {
    let start = Instant::now();
    let at = |tenths: u32| start + Duration::from_millis(100) * tenths;
    let mut connection = introduced(config(SocketType::Pull), start);
    let told = |connection: &mut Connection, tenths| {
        connection.handle_unread(at(tenths));
        std::iter::from_fn(|| connection.poll_transmit()).collect::<Vec<_>>()
    };
    assert!(told(&mut connection, 100).is_empty(), "it never asked");
    connection.handle_bytes(at(101), &mut BytesMut::from(&ping(0, b"?")[..])).unwrap();
    assert_eq!(connection.poll_transmit().as_deref(), Some(&command(b"PONG", b"?")[..]));
    for (tenths, signs) in [(102, 0), (105, 0), (106, 1), (107, 0), (110, 0), (111, 1), (200, 1)] {
        assert_eq!(told(&mut connection, tenths), vec![command(b"PONG", b""); signs], "after {tenths}");
    }
    // Where it is read, it is answered.
    connection.handle_bytes(at(204), &mut BytesMut::from(&message(&["any"])[..])).unwrap();
    assert!(told(&mut connection, 206).is_empty());
}

#[test]
fn answers_that_are_not_taken_do_not_pile_up() {
    let now = Instant::now();
    let mut connection = introduced(config(SocketType::Pull), now);
    connection.handle_bytes(now, &mut BytesMut::from(&ping(0, b"?").repeat(1000)[..])).unwrap();
    let answers = std::iter::from_fn(|| connection.poll_transmit()).count();
    assert!((1..=64).contains(&answers), "{answers}");
    connection.handle_bytes(now, &mut BytesMut::from(&ping(0, b"!")[..])).unwrap();
    assert_eq!(connection.poll_transmit().as_deref(), Some(&command(b"PONG", b"!")[..]));
}

#[test]
fn a_message_that_does_not_go_on_is_given_up_and_one_that_does_is_not() {
    let start = Instant::now();
    let minute = Duration::from_secs(60);
    let mut connection = introduced(config(SocketType::Pull), start);
    let mut buffer = BytesMut::from(&declared(0, 16 << 20)[..]);
    connection.handle_bytes(start, &mut buffer).unwrap();
    assert_eq!(connection.poll_timeout(), Some(start + minute));
    // As slow as may be: 4 KiB a minute.
    let mut now = start;
    for _ in 0..100 {
        now += minute - Duration::from_millis(1);
        buffer.extend_from_slice(&[7; 4 << 10]);
        connection.handle_bytes(now, &mut buffer).unwrap();
        connection.handle_timeout(now).unwrap();
    }
    // Not read, it cannot go on.
    now += minute;
    connection.handle_unread(now);
    connection.handle_timeout(now).unwrap();
    // Octets that trickle in, and signs of life, are no progress.
    for _ in 0..59 {
        now += minute / 60;
        buffer.extend_from_slice(&[7; 68]);
        connection.handle_bytes(now, &mut buffer).unwrap();
        connection.handle_timeout(now).unwrap();
    }
    assert_eq!(connection.handle_timeout(now + minute / 60), Err(Violation::MessageTime));

    // Between frames, too, and not when all is there.
    let mut connection = introduced(config(SocketType::Pull), start);
    connection.handle_bytes(start, &mut BytesMut::from(&frame(MORE, b"one")[..])).unwrap();
    connection.handle_bytes(start + minute / 2, &mut BytesMut::from(&ping(0, b"")[..])).unwrap();
    assert_eq!(connection.poll_timeout(), Some(start + minute));
    connection.handle_bytes(start + minute / 2, &mut BytesMut::from(&frame(0, b"two")[..])).unwrap();
    assert_eq!(connection.poll_timeout(), None);
}

#[test]
fn a_question_that_has_not_gone_out_needs_no_answer() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let heartbeat = Heartbeat { interval: second, timeout: second, ttl: Duration::ZERO };
    let mut connection = introduced(Config { heartbeat: Some(heartbeat), ..config(SocketType::Push) }, start);
    for turn in 1..=10 {
        connection.handle_blocked(start + second * turn);
        connection.handle_timeout(start + second * turn).unwrap();
    }
    assert_eq!(connection.handle_timeout(start + second * 11), Err(Violation::Silent));
}

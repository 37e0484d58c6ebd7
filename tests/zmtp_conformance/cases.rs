//! The cases that are octets sent to a bound socket, and what becomes of them. The same octets go to the library and to libzmq; the table in
//! `docs/zmtp.md` is this one.

use crate::subject::{FRAME_LIMIT, Kind, Report};
use crate::wire::{
    COMMAND, LONG, MORE, command, declared, frame, greeting, greeting_of, long_frame, message, ping,
    property, ready, ready_as, ready_with,
};

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is closed, and nothing was received.
    Closed,
    /// It is left open, and nothing was received.
    LeftOpen,
    /// These messages are received, and it is left open.
    Delivered(Vec<Report>),
    /// The peer is sent these frames.
    Answered(Vec<(u8, Vec<u8>)>),
}

impl Outcome {
    fn words(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::LeftOpen => "left open",
            Self::Delivered(_) => "accepted",
            Self::Answered(_) => "answered",
        }
    }
}

/// A case.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) number: u32,
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
    /// What the peer sends without waiting for anything.
    pub(crate) first: Vec<u8>,
    /// What it sends when the other side has introduced itself; empty to not wait for that.
    pub(crate) then: Vec<u8>,
    /// What the library does.
    pub(crate) wanted: Outcome,
    /// What the event that tells of the end says, where the library closes the connection.
    pub(crate) why: &'static str,
    /// What libzmq was measured to do, where it differs.
    pub(crate) libzmq: Option<Outcome>,
}

impl Case {
    fn new(number: u32, what: &'static str, first: Vec<u8>, then: Vec<u8>) -> Self {
        let (kind, wanted) = (Kind::Pull, Outcome::Closed);
        Self { number, what, kind, first, then, wanted, why: "", libzmq: None }
    }

    /// Its line in the table of `docs/zmtp.md`.
    pub(crate) fn row(&self) -> String {
        let Self { number, what, kind, wanted, libzmq, .. } = self;
        let libzmq = match libzmq {
            None => "the same",
            // Both take something, but not the same.
            Some(Outcome::Delivered(_)) if matches!(wanted, Outcome::Delivered(_)) => {
                "accepted, with another result"
            }
            Some(other) => other.words(),
        };
        format!("| {number} | {} | {what} | {} | {libzmq} |", kind.name(), wanted.words())
    }

    fn at(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    fn closed(self, why: &'static str) -> Self {
        Self { wanted: Outcome::Closed, why, ..self }
    }

    fn delivered(self, reports: &[&[&[u8]]]) -> Self {
        Self { wanted: Outcome::Delivered(owned(reports)), ..self }
    }

    fn answered(self, frames: &[(u8, &[u8])]) -> Self {
        let frames = frames.iter().map(|(flags, body)| (*flags, body.to_vec())).collect();
        Self { wanted: Outcome::Answered(frames), ..self }
    }

    fn but_libzmq(self, libzmq: Outcome) -> Self {
        Self { libzmq: Some(libzmq), ..self }
    }
}

fn owned(reports: &[&[&[u8]]]) -> Vec<Report> {
    reports.iter().map(|frames| frames.iter().map(|frame| frame.to_vec()).collect()).collect()
}

/// A handshake that begins well, up to the peer's READY.
fn introduced(ready: &[u8]) -> Vec<u8> {
    [&greeting()[..], ready].concat()
}

fn push() -> Vec<u8> {
    introduced(&ready("PUSH"))
}

/// A greeting with one octet changed.
fn spoiled(at: usize, octet: u8) -> Vec<u8> {
    let mut greeting = greeting();
    greeting[at] = octet;
    [greeting, ready("PUSH")].concat()
}

pub(crate) fn all() -> Vec<Case> {
    [greetings(), introductions(), frames(), commands(), subscriptions()].into_iter().flatten().collect()
}

fn greetings() -> Vec<Case> {
    let hello = || message(&["hello"]);
    let mut padded = greeting();
    padded[1..9].fill(0xaa);
    padded[33..].fill(0x55);
    let padded = [padded, ready("PUSH")].concat();
    let version = |major, minor| [greeting_of(major, minor, b"NULL"), ready("PUSH")].concat();
    let mechanism = |name| [greeting_of(3, 1, name), ready("PUSH")].concat();
    vec![
        Case::new(3, "greeting, READY and a message in one segment", [push(), hello()].concat(), vec![])
            .delivered(&[&[b"hello"]])
            .but_libzmq(Outcome::Closed),
        Case::new(4, "a request of HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), vec![])
            .closed("Signature")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(5, "octet 0 of the signature is wrong", spoiled(0, 0xfe), vec![])
            .closed("Signature")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(5, "octet 9 of the signature is wrong", spoiled(9, 0x7e), vec![]).closed("Signature"),
        Case::new(6, "anything in the padding and the filler", padded, hello()).delivered(&[&[b"hello"]]),
        Case::new(7, "version 4.0", version(4, 0), hello()).delivered(&[&[b"hello"]]),
        Case::new(7, "version 3.9", version(3, 9), hello()).delivered(&[&[b"hello"]]),
        // A frame of one octet, which is the identity's flags, as 1.0 begins.
        Case::new(9, "a peer of ZMTP 1.0", b"\x01\x00".to_vec(), vec![])
            .closed("Signature")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(9, "a peer of ZMTP 2.0", b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x08\0\0".to_vec(), vec![])
            .closed("Version")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(10, "the mechanism PLAIN", mechanism(b"PLAIN"), vec![]).closed("Mechanism"),
        Case::new(10, "the mechanism NULLX", mechanism(b"NULLX"), vec![]).closed("Mechanism"),
        Case::new(11, "nothing", vec![], vec![]).at(Kind::Hasty).closed("HandshakeTimeout"),
        Case::new(11, "half a greeting, then nothing", greeting()[..32].to_vec(), vec![])
            .at(Kind::Hasty)
            .closed("HandshakeTimeout"),
        Case::new(11, "a greeting, then nothing", greeting(), vec![])
            .at(Kind::Hasty)
            .closed("HandshakeTimeout"),
        Case::new(12, "a message before READY", introduced(&hello()), vec![]).closed("OutOfTurn"),
        Case::new(12, "PING before READY", introduced(&ping(0, b"")), vec![]).closed("OutOfTurn"),
        Case::new(12, "an unknown command before READY", introduced(&command(b"HELLO", b"")), vec![])
            .closed("OutOfTurn"),
    ]
}

fn introductions() -> Vec<Case> {
    let hello = || message(&["hello"]);
    let kind = || property(b"Socket-Type", b"PUSH");
    let with = |properties: &[Vec<u8>]| introduced(&ready_with(properties));
    let overrun = |length: u32| {
        introduced(&command(b"READY", &[&kind()[..], b"\x01X", &length.to_be_bytes(), b"short"].concat()))
    };
    let identity = |identity: &[u8]| introduced(&ready_as("DEALER", identity));
    let longest = vec![b'i'; 255];
    vec![
        Case::new(13, "READY without Socket-Type", with(&[]), vec![])
            .closed("SocketType")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(13, "the socket type BOGUS", introduced(&ready("BOGUS")), vec![]).closed("SocketType"),
        Case::new(13, "the socket type push", introduced(&ready("push")), vec![]).closed("SocketType"),
        Case::new(14, "SUB to PULL", introduced(&ready("SUB")), vec![]).closed("Incompatible"),
        Case::new(14, "SUB to ROUTER", introduced(&ready("SUB")), vec![])
            .at(Kind::Router)
            .closed("Incompatible"),
        Case::new(15, "a property longer than READY", overrun(6), vec![]).closed("Metadata"),
        Case::new(15, "a property of 2^32 - 1 octets", overrun(u32::MAX), vec![]).closed("Metadata"),
        Case::new(15, "4 KiB of properties", with(&[kind(), property(b"X-Large", &[b'x'; 4096])]), vec![])
            .closed("FrameSize")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(15, "3 KiB of properties", with(&[kind(), property(b"X-Large", &[b'x'; 3072])]), vec![])
            .closed("Metadata")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(15, "a property without a name", with(&[kind(), property(b"", b"x")]), vec![])
            .closed("Metadata")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(16, "property names in other case", with(&[property(b"sOCKET-tYPE", b"PUSH")]), hello())
            .delivered(&[&[b"hello"]]),
        Case::new(
            16,
            "Socket-Type twice, the first fits",
            with(&[kind(), property(b"Socket-Type", b"SUB")]),
            hello(),
        )
        .delivered(&[&[b"hello"]])
        .but_libzmq(Outcome::Closed),
        Case::new(
            16,
            "Socket-Type twice, the second fits",
            with(&[property(b"Socket-Type", b"SUB"), kind()]),
            vec![],
        )
        .closed("Incompatible"),
        Case::new(16, "properties of one's own", with(&[property(b"X-Own", b"x"), kind()]), hello())
            .delivered(&[&[b"hello"]]),
        Case::new(17, "an identity of 255 octets", identity(&longest), hello())
            .at(Kind::Router)
            .delivered(&[&[&longest, b"hello"]]),
        Case::new(17, "an identity of 256 octets", identity(&[b'i'; 256]), vec![])
            .at(Kind::Router)
            .closed("Metadata")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(17, "an identity that begins with a zero", identity(b"\0one"), vec![])
            .at(Kind::Router)
            .closed("Metadata")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(19, "ERROR in the handshake", introduced(&command(b"ERROR", b"\x02no")), vec![])
            .closed("Refused")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(
            19,
            "ERROR with a reason longer than itself",
            introduced(&command(b"ERROR", b"\x09no")),
            vec![],
        )
        .closed("Command"),
        Case::new(20, "a second READY", push(), ready("PUSH"))
            .closed("OutOfTurn")
            .but_libzmq(Outcome::LeftOpen),
    ]
}

fn frames() -> Vec<Case> {
    let hello = || message(&["hello"]);
    let limit = vec![7; FRAME_LIMIT];
    let sizes = [0, 1, 255, 256, 65_536].map(|size| vec![8; size]);
    let sized: Vec<u8> = sizes.iter().flat_map(|body| message(&[body])).collect();
    let reports: Vec<Report> = sizes.iter().map(|body| vec![body.clone()]).collect();
    let many = |count| frame(MORE, b"x").repeat(count);
    let mut cases = vec![
        Case::new(21, "flags 05: a command, and more", push(), frame(COMMAND | MORE, b"\x04PING\0\0"))
            .closed("Flags(5)")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(21, "flags f8: reserved bits", push(), frame(0xf8, b"x"))
            .closed("Flags(248)")
            .but_libzmq(Outcome::Delivered(owned(&[&[b"x"]]))),
        Case::new(21, "flags 08: one reserved bit", push(), frame(0x08, b"x"))
            .closed("Flags(8)")
            .but_libzmq(Outcome::Delivered(owned(&[&[b"x"]]))),
        Case::new(22, "the long form for a frame of 1 octet", push(), long_frame(0, b"x"))
            .delivered(&[&[b"x"]]),
        Case::new(24, "a frame of exactly the limit", push(), long_frame(0, &limit)).delivered(&[&[&limit]]),
        Case::new(
            24,
            "a frame of one octet more than the limit",
            push(),
            long_frame(0, &[&limit[..], b"x"].concat()),
        )
        .closed("FrameSize"),
        Case::new(30, "64 frames, the limit", push(), [many(63), frame(0, b"x")].concat())
            .delivered(&[&[&b"x"[..]; 64]]),
        Case::new(30, "MORE for ever", push(), many(65)).closed("FrameCount").but_libzmq(Outcome::LeftOpen),
        Case {
            wanted: Outcome::Delivered(reports),
            ..Case::new(36, "frames of 0, 1, 255, 256 and 65,536 octets", push(), sized)
        },
        Case::new(36, "empty frames within a message", push(), message(&["", "a", "", "", "b", ""]))
            .delivered(&[&[b"", b"a", b"", b"", b"b", b""]]),
        Case::new(
            36,
            "signs of life between the frames of a message",
            push(),
            [frame(MORE, b"a"), command(b"PONG", b""), frame(0, b"b")].concat(),
        )
        .delivered(&[&[b"a", b"b"]]),
        Case::new(
            36,
            "an unknown command after the handshake",
            push(),
            [command(b"HELLO", b"x"), hello()].concat(),
        )
        .delivered(&[&[b"hello"]]),
    ];
    for (what, length, libzmq) in [
        // libzmq has no limit unless it is given one: it reserves what it can.
        ("a frame that declares 2^31 octets", 1 << 31, Some(Outcome::LeftOpen)),
        ("a frame that declares 2^40 octets", 1 << 40, None),
        ("a frame that declares 2^63 octets", 1 << 63, None),
        ("a frame that declares 2^64 - 1 octets", u64::MAX, None),
    ] {
        let case = Case::new(23, what, push(), declared(LONG, length)).at(Kind::Unlimited);
        cases.push(Case { libzmq, ..case.closed("FrameSize") });
    }
    cases
}

fn commands() -> Vec<Case> {
    let pong = |context: &[u8]| [b"\x04PONG", context].concat();
    let context = *b"0123456789abcdef";
    vec![
        Case::new(25, "a command whose name is longer than itself", push(), frame(COMMAND, b"\x05PING"))
            .closed("Command")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(25, "an empty command", push(), frame(COMMAND, b""))
            .closed("Command")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(25, "a command without a name", push(), [frame(COMMAND, b"\0x"), ping(0, b"?")].concat())
            .closed("Command")
            .but_libzmq(Outcome::Answered(vec![(COMMAND, b"\x04PONG?".to_vec())])),
        Case::new(26, "PING without a context", push(), ping(0, b"")).answered(&[(COMMAND, b"\x04PONG")]),
        Case::new(26, "PING with 16 octets of context", push(), ping(0, &context))
            .answered(&[(COMMAND, &pong(&context))]),
        Case::new(26, "PING with 20 octets of context", push(), ping(0, &[&context[..], b"more"].concat()))
            .answered(&[(COMMAND, &pong(&context))]),
        Case::new(27, "PING without a TTL", push(), command(b"PING", b""))
            .closed("Command")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(27, "PING with half a TTL", push(), command(b"PING", b"\x01"))
            .closed("Command")
            .but_libzmq(Outcome::LeftOpen),
        Case::new(28, "a TTL of 0.3 s, then nothing", push(), ping(3, b"")).closed("Silent"),
    ]
}

fn subscriptions() -> Vec<Case> {
    let old = [greeting_of(3, 0, b"NULL"), ready("SUB")].concat();
    let new = introduced(&ready("SUB"));
    let by_command = [command(b"SUBSCRIBE", b"a"), command(b"CANCEL", b"a")].concat();
    let by_message = [message(&["\x01a"]), message(&["\0a"])].concat();
    let reports: &[&[&[u8]]] = &[&[b"\x01a"], &[b"\0a"]];
    vec![
        Case::new(8, "version 3.0: subscriptions in messages", old.clone(), by_message.clone())
            .at(Kind::Xpub)
            .delivered(reports),
        Case::new(8, "version 3.1: subscriptions in commands", new.clone(), by_command.clone())
            .at(Kind::Xpub)
            .delivered(reports),
        Case::new(8, "version 3.1: subscriptions in messages", new.clone(), by_message)
            .at(Kind::Xpub)
            .delivered(reports),
        Case::new(8, "version 3.0: subscriptions in commands", old, by_command)
            .at(Kind::Xpub)
            .delivered(reports),
        Case::new(
            31,
            "CANCEL without SUBSCRIBE",
            new,
            [command(b"CANCEL", b"b"), command(b"SUBSCRIBE", b"a")].concat(),
        )
        .at(Kind::Xpub)
        .delivered(&[&[b"\x01a"]])
        .but_libzmq(Outcome::Delivered(owned(&[&[b"\0b"], &[b"\x01a"]]))),
    ]
}

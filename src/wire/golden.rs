//! The worked example of `docs/protocol.md`: the bytes shown there are those that the encoders make and the decoders read.

use std::time::Duration;

use bytes::Bytes;

use crate::flow::HighWaterMark;
use crate::id::{EndpointId, SessionToken};
use crate::message::{Codec, Headers, Message, Position};
use crate::role::Role;

use super::*;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// The octets of the document's fenced block `hex NAME`: two digits each, up to the semicolon that opens a remark.
fn shown(name: &str) -> Bytes {
    let opening = format!("```hex {name}\n");
    let (_, block) = DOCUMENT.split_once(&opening).expect("the document has this block");
    let (block, _) = block.split_once("```").expect("the block is closed");
    block
        .lines()
        .filter_map(|line| line.split(';').next())
        .flat_map(str::split_whitespace)
        .map(|octet| u8::from_str_radix(octet, 16).expect("two hexadecimal digits"))
        .collect()
}

#[track_caller]
fn assert_shown(name: &str, encoded: &Bytes) {
    let hex: Vec<_> = encoded.iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(shown(name), encoded, "{name} is in truth {}", hex.join(" "));
}

fn child() -> EndpointId {
    "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap()
}

fn host() -> EndpointId {
    "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()
}

fn session() -> SessionToken {
    SessionToken::from_bytes(std::array::from_fn(|i| 0xa0 + i as u8)).unwrap()
}

/// The two messages that the child of the example submits.
fn submitted() -> [Message; 2] {
    let mut headers = Headers::default();
    headers.insert("lang", b"de").unwrap();
    [
        Message::new("greetings", "hello").unwrap(),
        Message::new("news", "\"hallo\"").unwrap().with_codec(Codec::Json).with_headers(headers),
    ]
}

#[test]
fn the_documents_hello_is_what_a_child_says() {
    let hello = ChildMessage::Hello(Hello {
        version: PROTOCOL_VERSION,
        cluster: "default".into(),
        id: child(),
        resume: None,
        incarnation: 0,
        epoch: 0,
        first_open: 0,
        next_origin_seq: 1,
        token: Bytes::from_static(b"secret"),
    });
    assert_shown("hello", &hello.encode());
    assert_eq!(ChildMessage::decode(&shown("hello")), Ok(hello));
}

#[test]
fn the_documents_welcome_is_what_a_host_answers() {
    let welcome = ParentMessage::Welcome(Welcome {
        session: session(),
        host: host(),
        incarnation: 0x5ca1_ab1e,
        role: Role::Member,
        at: Barrier { epoch: 1_767_225_600_000, number: 3, last_seq: 41 },
        origin: OriginState::New,
        last_origin_seq: 0,
        terms: Terms {
            marks: HighWaterMark::new(),
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_secs(10),
            conflatable: Vec::new(),
        },
        max_message: MAX_MESSAGE as u32,
        broadcast: ":5556".into(),
        submit: ":5557".into(),
        members: vec![MemberEntry { id: EndpointId::from_bytes([0x11; 16]), role: Role::ReadOnly }],
    });
    assert_shown("welcome", &welcome.encode());
    assert_eq!(ParentMessage::decode(&shown("welcome")), Ok(welcome));
}

#[test]
fn the_documents_submit_is_what_a_child_pushes() {
    assert_shown("submit frame 1", &SubmitHead { session: session() }.encode());
    let mut batch = BatchBuilder::new(1);
    for message in submitted() {
        assert!(batch.push(&message));
    }
    assert_shown("submit frame 2", &batch.finish());
    assert_eq!(Batch::decode(shown("submit frame 2"), MAX_MESSAGE).map(|batch| batch.len()), Ok(2));
}

#[test]
fn the_documents_window_is_what_a_host_publishes() {
    let own = Message::new("news", "more").unwrap();
    let [first, second] = submitted();
    let (mut batch, mut window) = (BatchBuilder::new(9), WindowBuilder::new());
    assert!(batch.push(&own));
    let batch = Batch::decode(batch.finish(), MAX_MESSAGE).unwrap();
    for (topic, tail) in batch.records_in(0..batch.len()) {
        window.push(&batch.topics[usize::from(topic)], host(), 9, tail);
    }
    let batch = Batch::decode(shown("submit frame 2"), MAX_MESSAGE).unwrap();
    for ((topic, tail), origin_seq) in batch.records_in(0..batch.len()).zip(1..) {
        window.push(&batch.topics[usize::from(topic)], child(), origin_seq, tail);
    }
    assert_shown("window frame 1", &Lane::Whole.encode());
    assert_shown("window frame 2", &window.finish(1_767_225_600_000, 4, 42).body);

    let window = Window::decode(&shown("window frame 2"), MAX_MESSAGE).unwrap();
    let placed = |message: Message, origin, origin_seq, seq| Message {
        origin,
        origin_seq,
        position: Some(Position { epoch: 1_767_225_600_000, seq }),
        ..message
    };
    assert_eq!((window.number, window.first_seq, window.last_seq()), (4, 42, 44));
    assert_eq!(
        window.messages,
        [placed(own, host(), 9, 42), placed(first, child(), 1, 43), placed(second, child(), 2, 44)]
    );
}

#[test]
fn the_documents_ordered_is_what_a_host_says_of_places_and_of_what_has_none() {
    let places = Ordered { epoch: 1_767_225_600_000, first_origin_seq: 1, first_seq: 43, count: 2 };
    let ordered = ParentMessage::Ordered(vec![places, Ordered::refused(3, 1)]);
    assert_shown("ordered", &ordered.encode());
    assert_eq!(ParentMessage::decode(&shown("ordered")), Ok(ordered));
}

#[test]
fn the_document_is_of_the_version_that_is_spoken() {
    let says =
        format!("This is version {PROTOCOL_VERSION} of the protocol and version {VERSION} of the encodings.");
    assert!(DOCUMENT.contains(&says));
    assert!(DOCUMENT.contains(&format!("| `u16` version of the protocol, {PROTOCOL_VERSION}. ")));
    // A child of version 2 can not read what is refused, and so can not live with a host of today.
    const { assert!(PROTOCOL_VERSION > 2) };
}

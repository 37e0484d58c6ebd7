//! Every two types of sockets that talk to each other, whoever binds, over TCP and Unix sockets: what arrives is what was sent.

use bytes::Bytes;
use zincmq::zmtp::{DisconnectReason, MonitorEvent, PullSocket, SocketType, Violation};

use crate::any::{event, soon};
use crate::party::{Party, Place};
use crate::python::{Python, counting, pythons};

/// What a frame may have at most, by default.
const LIMIT: usize = 16 << 20;

/// Messages by the lengths of their frames.
const MESSAGES: &[&[usize]] = &[
    &[0],
    &[1],
    &[255],
    &[256],
    &[64 << 10],
    &[1 << 20],
    &[0, 1, 0],
    &[256, 0],
    &[0, 0, 0, 255],
    &[64 << 10, 300, 8192],
];

fn message(lengths: &[usize], first: usize) -> Vec<Bytes> {
    let frame = |(index, length): (usize, &usize)| counting(((first + index) % 251) as u8, *length);
    lengths.iter().enumerate().map(frame).collect()
}

/// The frames that an application gives its socket, for a peer to receive these.
fn outer(from: &Party<'_>, to: &Party<'_>, inner: &[Bytes]) -> Vec<Bytes> {
    let mut frames = Vec::new();
    if from.kind == SocketType::Router {
        frames.push(to.identity.into());
    }
    if is_delimited(from.kind, to.kind) {
        frames.push(Bytes::new());
    }
    frames.extend_from_slice(inner);
    frames
}

/// What of the frames that an application gets is the message.
fn inner(at: &Party<'_>, from: &Party<'_>, frames: Vec<Bytes>) -> Vec<Bytes> {
    let mut frames = frames.into_iter();
    if at.kind == SocketType::Router {
        assert_eq!(frames.next().expect("an identity"), from.identity);
    }
    if is_delimited(at.kind, from.kind) {
        assert_eq!(frames.next().expect("a delimiter"), "");
    }
    frames.collect()
}

/// Whether the application has to see to the delimiter itself.
fn is_delimited(at: SocketType, peer: SocketType) -> bool {
    matches!((at, peer), (SocketType::Router, SocketType::Req) | (SocketType::Dealer, SocketType::Rep))
}

async fn pass_on(from: &mut Party<'_>, to: &mut Party<'_>, message: &[Bytes]) {
    let sent = outer(from, to, message);
    let (_, received) = tokio::join!(from.send(&sent), to.recv());
    assert!(inner(to, from, received) == message, "{:?} bytes from {}", lengths(message), from.kind);
}

fn lengths(message: &[Bytes]) -> Vec<usize> {
    message.iter().map(Bytes::len).collect()
}

/// Whether it sends what the other only receives.
fn is_one_way(kind: SocketType) -> bool {
    matches!(kind, SocketType::Pub | SocketType::Xpub | SocketType::Push)
}

/// Whether the other one has to begin.
fn is_asked_first(kind: SocketType, peer: SocketType) -> bool {
    kind == SocketType::Rep || (kind == SocketType::Router && peer != SocketType::Router)
}

/// Connects the two, and passes all messages on: there, and back if there is a way back.
async fn converse(mut one: Party<'_>, mut other: Party<'_>, endpoint: &str, messages: &[&[usize]]) {
    // The one binds.
    let endpoint = one.bind(endpoint).await;
    other.connect(&endpoint).await;
    let turn = is_one_way(other.kind) || is_asked_first(one.kind, other.kind);
    let (mut first, mut second) = if turn { (other, one) } else { (one, other) };
    if matches!(first.kind, SocketType::Pub | SocketType::Xpub) {
        second.subscribe_to_all().await;
        await_subscription(&mut first, &mut second).await;
    }
    for (number, lengths) in messages.iter().enumerate() {
        let message = message(lengths, number);
        pass_on(&mut first, &mut second, &message).await;
        if !is_one_way(first.kind) {
            pass_on(&mut second, &mut first, &message).await;
        }
    }
}

/// Waits until the publisher has been told of the subscription; where it tells nobody, publishes until something has arrived.
async fn await_subscription(publisher: &mut Party<'_>, subscriber: &mut Party<'_>) {
    let subscribed = async {
        if publisher.kind == SocketType::Xpub {
            while publisher.recv_at_once().await.is_none_or(|told| told != ["\x01"]) {
                assert_eq!(subscriber.recv_at_once().await, None);
            }
            return;
        }
        publisher.send(&[Bytes::from_static(b"probe")]).await;
        while subscriber.recv_at_once().await.is_none() {
            publisher.send(&[Bytes::from_static(b"probe")]).await;
        }
    };
    soon("a subscription", subscribed).await;
    publisher.send(&[Bytes::from_static(b"last probe")]).await;
    while subscriber.recv().await != ["last probe"] {}
}

/// All pairs of types, each both ways round.
fn pairs() -> impl Iterator<Item = (SocketType, SocketType)> {
    let all = SocketType::ALL.into_iter();
    all.flat_map(|one| {
        SocketType::ALL.into_iter().filter(move |other| one.talks_to(*other)).map(move |other| (one, other))
    })
}

async fn all_pairs_with_python(python: &std::path::Path, place: Place<'_>) {
    let mut python = Python::start(python);
    for (one, other) in pairs() {
        println!("{one} of the engine binds, {other} of libzmq connects");
        let peer = Party::python(&mut python, other, "other").await;
        converse(Party::engine(one, "one"), peer, &place.endpoint(&format!("{one}{other}")), MESSAGES).await;
        println!("{one} of libzmq binds, {other} of the engine connects");
        let peer = Party::python(&mut python, one, "one").await;
        converse(
            peer,
            Party::engine(other, "other"),
            &place.endpoint(&format!("python{one}{other}")),
            MESSAGES,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_talk_to_each_other_do_with_libzmq_over_tcp() {
    for python in pythons() {
        all_pairs_with_python(python, Place::Tcp).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_talk_to_each_other_do_with_libzmq_over_ipc() {
    for python in pythons() {
        let folder = tempfile::tempdir().expect("a folder");
        all_pairs_with_python(python, Place::Ipc(folder.path())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_talk_to_each_other_do_among_the_engines_own() {
    let folder = tempfile::tempdir().expect("a folder");
    for place in [Place::Tcp, Place::Ipc(folder.path())] {
        for (one, other) in pairs() {
            println!("{one} binds, {other} connects");
            let endpoint = place.endpoint(&format!("{one}{other}"));
            converse(Party::engine(one, "one"), Party::engine(other, "other"), &endpoint, MESSAGES).await;
        }
    }
}

async fn all_pairs_with_the_crate(place: Place<'_>) {
    for (one, other) in pairs() {
        if let Some(peer) = Party::of_crate(other, "other") {
            println!("{one} of the engine binds, {other} of the crate connects");
            let endpoint = place.endpoint(&format!("{one}{other}"));
            converse(Party::engine(one, "one"), peer, &endpoint, MESSAGES).await;
        }
        if let Some(peer) = Party::of_crate(one, "one") {
            println!("{one} of the crate binds, {other} of the engine connects");
            let endpoint = place.endpoint(&format!("crate{one}{other}"));
            converse(peer, Party::engine(other, "other"), &endpoint, MESSAGES).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_talk_to_each_other_do_with_the_zeromq_crate_over_tcp() {
    all_pairs_with_the_crate(Place::Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_talk_to_each_other_do_with_the_zeromq_crate_over_ipc() {
    let folder = tempfile::tempdir().expect("a folder");
    all_pairs_with_the_crate(Place::Ipc(folder.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_16_mib_pass() {
    let messages: &[&[usize]] = &[&[LIMIT], &[1, LIMIT, 0], &[LIMIT, LIMIT]];
    let pairs = [
        (SocketType::Push, SocketType::Pull),
        (SocketType::Pub, SocketType::Sub),
        (SocketType::Dealer, SocketType::Router),
    ];
    for (one, other) in pairs {
        converse(Party::engine(one, "one"), Party::engine(other, "other"), "tcp://127.0.0.1:0", messages)
            .await;
    }
    let Some(python) = pythons().first() else { return };
    let mut python = Python::start(python);
    for (one, other) in pairs {
        let peer = Party::python(&mut python, other, "other").await;
        converse(Party::engine(one, "one"), peer, "tcp://127.0.0.1:0", messages).await;
        let peer = Party::python(&mut python, one, "one").await;
        converse(peer, Party::engine(other, "other"), "tcp://127.0.0.1:0", messages).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_one_byte_more_is_refused_and_others_go_on() {
    let Some(python) = pythons().first() else { return };
    let mut pull = PullSocket::new();
    let mut monitor = pull.monitor();
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    let (mut large, _) = Python::with(python, "PUSH", serde_json::json!({ "connect": [endpoint] })).await;
    large.send(&[counting(0, LIMIT + 1)]).await;
    let reason = event(&mut monitor, "refused", |event| match event {
        MonitorEvent::Disconnected { reason, .. } => Some(reason),
        _ => None,
    })
    .await;
    let expected = Violation::FrameSize { declared: LIMIT as u64 + 1, limit: LIMIT as u64 };
    assert_eq!(reason, DisconnectReason::Violation(expected));
    let (mut honest, _) = Python::with(python, "PUSH", serde_json::json!({ "connect": [endpoint] })).await;
    honest.send(&[counting(7, LIMIT)]).await;
    assert!(*soon("the message", pull.recv()).await.expect("open").first() == counting(7, LIMIT));
    drop(large);
}

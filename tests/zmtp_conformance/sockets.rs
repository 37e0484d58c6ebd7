//! Cases that are about more than one message or one peer: what sockets do over TCP.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::net::TcpListener;
use zincmq::zmtp::{
    Bound, DealerSocket, DisconnectReason, Heartbeat, Message, Monitor, MonitorEvent, OnFull, Options,
    PubSocket, PullSocket, PushSocket, RepSocket, ReqSocket, RouterSocket, SendError, TrySendError,
    Violation, XpubSocket,
};

use crate::common::soon;
use crate::subject::{Kind, Subject, Subscriber, port_of, python};
use crate::wire::{
    COMMAND, MORE, Raw, command, frame, greeting, greeting_of, message, ping, ready, ready_as,
};

pub(crate) fn endpoint(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}")
}

/// The next event that this gives something for.
pub(crate) async fn until<T>(monitor: &mut Monitor, mut wanted: impl FnMut(MonitorEvent) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(soon(monitor.next()).await.expect("it is open")) {
            return found;
        }
    }
}

/// Why the connection from this port ended.
pub(crate) async fn end_of(monitor: &mut Monitor, port: u16) -> DisconnectReason {
    until(monitor, |event| match event {
        MonitorEvent::Disconnected { address, reason, .. } if port_of(&address.to_string()) == port => {
            Some(reason)
        }
        _ => None,
    })
    .await
}

/// Waits until a socket has this many peers.
pub(crate) async fn until_peers(monitor: &mut Monitor, count: usize) {
    for _ in 0..count {
        until(monitor, |event| matches!(event, MonitorEvent::Ready { .. }).then_some(())).await;
    }
}

/// The library and, where there is a Python, libzmq.
async fn subjects(kind: Kind) -> Vec<Subject> {
    let mut subjects = vec![Subject::engine(kind).await];
    if let Some(python) = python() {
        subjects.push(Subject::libzmq(python, kind).await);
    }
    subjects
}

#[tokio::test]
async fn a_session_comes_through_one_octet_at_a_time() {
    for mut subject in subjects(Kind::Pull).await {
        let mut raw = Raw::connect(subject.port).await;
        for octet in [greeting(), ready("PUSH")].concat() {
            raw.send(&[octet]).await;
        }
        assert!(raw.is_introduced().await);
        for octet in [message(&["a", "", "b"]), message(&[&[7; 300]])].concat() {
            raw.send(&[octet]).await;
        }
        assert_eq!(subject.report().await, [&b"a"[..], b"", b"b"]);
        assert_eq!(subject.report().await, [[7; 300]]);
        subject.serves_the_honest().await;
    }
}

#[tokio::test]
async fn a_session_comes_through_split_anywhere() {
    let mut subject = Subject::engine(Kind::Pull).await;
    let session = [greeting(), ready("PUSH"), message(&["hello"])].concat();
    for at in 1..session.len() {
        let mut raw = Raw::connect(subject.port).await;
        raw.send(&session[..at]).await;
        // What comes back shows that the first part has been read, as far as it shows anything.
        if at >= 64 {
            raw.greeted().await;
            raw.readied().await;
        }
        raw.send(&session[at..]).await;
        assert_eq!(subject.report().await, [b"hello"], "at {at}");
    }
    subject.serves_the_honest().await;
}

#[tokio::test]
async fn nothing_is_sent_before_both_have_introduced_themselves() {
    let push = PushSocket::new();
    let port = bind!(push);
    assert!(matches!(push.try_send("early"), Err(TrySendError::Full(_))));
    let mut raw = Raw::connect(port).await;
    let sending = push.send("work");
    tokio::pin!(sending);
    assert!(sending.as_mut().now_or_never().is_none());
    raw.send(&greeting()).await;
    raw.greeted().await;
    raw.readied().await;
    assert!(sending.as_mut().now_or_never().is_none());
    raw.send(&ready("PULL")).await;
    soon(sending).await.unwrap();
    assert_eq!(raw.message().await, [b"work"]);
}

/// A subscription, or its end, as a publisher of this minor version is told.
fn told(minor: u8, subscribe: bool, prefix: &str) -> (u8, Vec<u8>) {
    match (minor, subscribe) {
        (0, _) => (0, [&[u8::from(subscribe)][..], prefix.as_bytes()].concat()),
        (_, true) => (COMMAND, [b"\x09SUBSCRIBE", prefix.as_bytes()].concat()),
        (_, false) => (COMMAND, [b"\x06CANCEL", prefix.as_bytes()].concat()),
    }
}

/// What a publisher of this minor version is told by a subscriber, up to a subscription to `end`.
async fn hear(raw: &mut Raw, minor: u8) -> Vec<(u8, Vec<u8>)> {
    let mut heard = Vec::new();
    while heard.last() != Some(&told(minor, true, "end")) {
        heard.push(raw.frame().await);
    }
    heard
}

async fn publisher(port: u16, minor: u8) -> Raw {
    let mut raw = Raw::connect(port).await;
    raw.send(&[greeting_of(3, minor, b"NULL"), ready("PUB")].concat()).await;
    assert!(raw.is_introduced().await);
    raw
}

#[tokio::test]
async fn subscriptions_go_out_as_messages_to_3_0_and_as_commands_to_3_1() {
    for minor in [0, 1] {
        for is_xsub in [false, true] {
            let mut subscribers = vec![(Subscriber::engine(is_xsub).await, false)];
            if let Some(python) = python() {
                subscribers.push((Subscriber::libzmq(python, is_xsub).await, true));
            }
            for (mut subscriber, is_libzmq) in subscribers {
                for prefix in ["b", "a", "a", "ab", ""] {
                    subscriber.change(true, prefix).await;
                }
                let mut first = publisher(subscriber.port, minor).await;
                // What there was before, each once and in the order of the alphabet.
                for prefix in ["", "a", "ab", "b"] {
                    assert_eq!(first.frame().await, told(minor, true, prefix));
                }
                let changes = [
                    (true, "c"),
                    (true, "c"),
                    (false, "c"),
                    (true, "d"),
                    (false, "c"),
                    (false, "a"),
                    (false, "nothing"),
                    (false, ""),
                    (true, "end"),
                ];
                for (subscribe, prefix) in changes {
                    subscriber.change(subscribe, prefix).await;
                }
                let mut due = vec![(true, "c"), (true, "d"), (false, "c"), (false, ""), (true, "end")];
                // What an application of libzmq's gives its XSUB to send goes out as it is.
                let minor_now = if is_libzmq && is_xsub { 0 } else { minor };
                if is_libzmq {
                    // It tells each subscription, and of their ends the last only: one that was made twice and taken back twice stays with a publisher
                    // that counts.
                    due.insert(1, (true, "c"));
                }
                let due: Vec<_> = due.into_iter().map(|(on, prefix)| told(minor_now, on, prefix)).collect();
                assert_eq!(hear(&mut first, minor_now).await, due);
                // Another one is told what there is now.
                let mut second = publisher(subscriber.port, minor).await;
                let due = ["a", "ab", "b", "d", "end"].map(|prefix| told(minor, true, prefix));
                assert_eq!(hear(&mut second, minor).await, due);
            }
        }
    }
}

#[tokio::test]
async fn a_subscription_made_twice_and_taken_back_once_is_in_force() {
    for by_command in [false, true] {
        for mut subject in subjects(Kind::Xpub).await {
            let subscription = |subscribe: bool, prefix: &str| match (by_command, subscribe) {
                (true, true) => command(b"SUBSCRIBE", prefix.as_bytes()),
                (true, false) => command(b"CANCEL", prefix.as_bytes()),
                (false, _) => message(&[[&[u8::from(subscribe)][..], prefix.as_bytes()].concat()]),
            };
            let mut raw = Raw::introduced(subject.port, "SUB").await;
            for subscribe in [true, true, false] {
                raw.send(&subscription(subscribe, "news")).await;
            }
            // The first is seen by the application, and what is done last.
            raw.send(&subscription(true, "end")).await;
            assert_eq!(subject.report().await, [b"\x01news"]);
            if subject.is_libzmq() {
                // It counts on the subscriber to tell only the first and the last.
                assert_eq!(subject.report().await, [b"\0news"]);
                continue;
            }
            assert_eq!(subject.report().await, [b"\x01end"]);
            subject.send(&[b"news", b"body"]).await;
            assert_eq!(raw.message().await, [b"news", b"body"]);
            raw.send(&subscription(false, "news")).await;
            assert_eq!(subject.report().await, [b"\0news"]);
            subject.send(&[b"news"]).await;
            subject.send(&[b"end"]).await;
            assert_eq!(raw.message().await, [b"end"]);
            drop(raw);
            assert_eq!(subject.report().await, [b"\0end"]);
            subject.serves_the_honest().await;
        }
    }
}

#[tokio::test]
async fn the_identity_of_a_live_peer_is_not_taken_over() {
    for mut subject in subjects(Kind::Router).await {
        let mut first = Raw::connect(subject.port).await;
        first.introduce(&ready_as("DEALER", b"one")).await;
        first.send(&message(&["first"])).await;
        assert_eq!(subject.report().await, [&b"one"[..], b"first"]);
        let mut second = Raw::connect(subject.port).await;
        second.introduce(&ready_as("DEALER", b"one")).await;
        second.send(&message(&["second"])).await;
        if let Some(reason) = subject.end_of(second.port()).await {
            assert_eq!(reason, DisconnectReason::IdentityInUse);
            second.closed().await;
        }
        // The second's message comes to nothing, and the first is answered.
        subject.serves_the_honest().await;
        subject.send(&[b"one", b"answer"]).await;
        assert_eq!(first.message().await, [b"answer"]);
        // libzmq does not close what it does not listen to.
        assert_eq!(second.is_closed(), !subject.is_libzmq());
    }
}

#[tokio::test]
async fn who_is_refused_is_named_in_the_event() {
    let router = RouterSocket::new();
    let mut monitor = router.monitor();
    let port = bind!(router);
    let mut first = Raw::connect(port).await;
    first.introduce(&ready_as("DEALER", b"one")).await;
    until_peers(&mut monitor, 1).await;
    let mut second = Raw::connect(port).await;
    second.introduce(&ready_as("DEALER", b"one")).await;
    let end = until(&mut monitor, |event| match event {
        MonitorEvent::Disconnected { identity, reason, .. } => Some((identity, reason)),
        _ => None,
    });
    assert_eq!(end.await, ("one".into(), DisconnectReason::IdentityInUse));
    // The first has its name still.
    assert_eq!((router.peers(), router.backlog(b"one").is_some()), (1, true));
    first.is_served().await;
}

#[tokio::test]
async fn an_identity_is_free_again_when_its_peer_is_gone() {
    let mut subject = Subject::engine(Kind::Router).await;
    for _ in 0..3 {
        let mut raw = Raw::connect(subject.port).await;
        raw.introduce(&ready_as("DEALER", b"one")).await;
        raw.send(&message(&["again"])).await;
        assert_eq!(subject.report().await, [&b"one"[..], b"again"]);
        let port = raw.port();
        drop(raw);
        assert_eq!(subject.end_of(port).await, Some(DisconnectReason::Closed));
    }
}

#[tokio::test]
async fn a_peer_that_refuses_again_and_again_is_asked_ever_more_seldom() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = Options::default();
    options.reconnect = (Duration::from_millis(50), Duration::from_millis(400));
    let push = PushSocket::with_options(options);
    let mut monitor = push.monitor();
    push.connect(&*endpoint(listener.local_addr().unwrap().port())).unwrap();
    let start = Instant::now();
    for _ in 0..6 {
        let mut raw = Raw::of(soon(listener.accept()).await.unwrap().0);
        raw.send(&[greeting(), command(b"ERROR", b"\x05never")].concat()).await;
        let reason = until(&mut monitor, |event| match event {
            MonitorEvent::Disconnected { reason, .. } => Some(reason),
            _ => None,
        });
        assert_eq!(reason.await, DisconnectReason::Violation(Violation::Refused("never".to_owned())));
        raw.closed().await;
    }
    // Pauses of 50, 100, 200, 400 and 400 ms, shortened by up to half.
    assert!(start.elapsed() >= Duration::from_millis(575), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_silent_peer_is_asked_and_then_cut_off() {
    let mut options = Options::default();
    let millis = Duration::from_millis;
    options.heartbeat =
        Some(Heartbeat { interval: millis(50), timeout: millis(100), ttl: Duration::from_secs(300) });
    let pull = PullSocket::with_options(options);
    let mut monitor = pull.monitor();
    let port = bind!(pull);
    let mut raw = Raw::introduced(port, "PUSH").await;
    assert_eq!(raw.frame().await, (COMMAND, b"\x04PING\x02\x8f".to_vec()));
    assert_eq!(end_of(&mut monitor, raw.port()).await, DisconnectReason::Violation(Violation::Silent));
    raw.closed().await;
}

#[tokio::test]
async fn a_peer_is_not_dead_because_the_application_does_not_receive() {
    let mut options = Options::default();
    let millis = Duration::from_millis;
    options.recv_hwm = Bound::new(1, 1);
    options.heartbeat = Some(Heartbeat { interval: millis(50), timeout: millis(50), ttl: Duration::ZERO });
    let mut pull = PullSocket::with_options(options);
    let mut monitor = pull.monitor();
    let port = bind!(pull);
    let mut raw = Raw::introduced(port, "PUSH").await;
    raw.send(&message(&["first"])).await;
    // Asked ten times and more, and answers; nobody reads that.
    for _ in 0..12 {
        assert_eq!(raw.frame().await, (COMMAND, b"\x04PING\0\0".to_vec()));
        raw.send(&command(b"PONG", b"")).await;
    }
    raw.send(&message(&["second"])).await;
    assert_eq!(soon(pull.recv()).await.unwrap().first(), "first");
    assert_eq!(soon(pull.recv()).await.unwrap().first(), "second");
    // Once it is read, its silence counts again.
    let reason = tokio::select! {
        reason = end_of(&mut monitor, raw.port()) => reason,
        message = pull.recv() => panic!("{message:?}"),
    };
    assert_eq!(reason, DisconnectReason::Violation(Violation::Silent));
}

#[tokio::test]
async fn a_peer_is_read_again_as_soon_as_what_it_sent_was_taken() {
    let mut options = Options::default();
    options.recv_hwm = Bound::new(1, 1);
    let mut pull = PullSocket::with_options(options);
    let mut raw = Raw::introduced(bind!(pull), "PUSH").await;
    for messages in [&["only"][..], &["first", "second"]] {
        raw.send(&messages.iter().flat_map(|text| message(&[text])).collect::<Vec<_>>()).await;
        for text in messages {
            assert_eq!(soon(pull.recv()).await.unwrap().first(), text);
        }
        // Nobody asks for more than that.
        raw.is_served().await;
    }
}

/// What `much` has twice.
const LARGE: usize = 40_000;

/// For a socket that reads no more than it must.
fn held_back() -> Options {
    let mut options = Options::default();
    options.recv_hwm = Bound::new(1, 1);
    options
}

/// More than is read at once, so that some of it is not read, and no more than the system takes at once.
fn much(last: &str) -> Vec<u8> {
    let body = vec![7; LARGE];
    [message(&[&body[..]]), message(&[&body[..]]), message(&[last])].concat()
}

#[tokio::test]
async fn a_peer_that_asks_is_told_that_we_live_though_the_application_does_not_receive() {
    let mut pull = PullSocket::with_options(held_back());
    let mut raw = Raw::introduced(bind!(pull), "PUSH").await;
    raw.is_served().await;
    raw.send(&much("end")).await;
    for _ in 0..3 {
        raw.send(&ping(0, b"behind it")).await;
        assert_eq!(raw.frame().await, (COMMAND, b"\x04PONG".to_vec()));
    }
    for _ in 0..3 {
        soon(pull.recv()).await.unwrap();
    }
    while raw.frame().await != (COMMAND, b"\x04PONGbehind it".to_vec()) {}
}

#[tokio::test]
async fn the_end_of_a_peer_is_noticed_though_the_application_does_not_receive_and_nothing_it_said_is_lost() {
    for heartbeat in [None, Some(Duration::from_millis(10))] {
        let mut options = held_back();
        let timeout = Duration::from_secs(600);
        options.heartbeat = heartbeat.map(|interval| Heartbeat { interval, timeout, ttl: Duration::ZERO });
        let mut router = RouterSocket::with_options(options);
        let mut monitor = router.monitor();
        let port = bind!(router);
        let mut raw = Raw::connect(port).await;
        raw.introduce(&ready_as("DEALER", b"one")).await;
        raw.send(&much("end")).await;
        if heartbeat.is_some() {
            // What it does not read makes its end a reset, which our next PING runs into.
            raw.frame().await;
        }
        let from = raw.port();
        drop(raw);
        let reason = end_of(&mut monitor, from).await;
        assert!(heartbeat.is_some() || reason == DisconnectReason::Closed, "{reason:?}");
        assert_eq!(router.peers(), 0);
        // Nothing goes there any more, and nobody waits for it.
        let to = Message::from_frames(["one", "too late"]).unwrap();
        assert_eq!(soon(router.send(to.clone())).await, Err(SendError::Unroutable(to)));
        // What it said still comes: its name is not given to another before.
        let mut early = Raw::connect(port).await;
        early.introduce(&ready_as("DEALER", b"one")).await;
        assert_eq!(end_of(&mut monitor, early.port()).await, DisconnectReason::IdentityInUse);
        for length in [LARGE, LARGE, 3] {
            let message = soon(router.recv()).await.unwrap();
            assert_eq!((&message.frames()[0][..], message.frames()[1].len()), (&b"one"[..], length));
        }
        soon(async {
            loop {
                let mut next = Raw::connect(port).await;
                next.introduce(&ready_as("DEALER", b"one")).await;
                next.send(&message(&["again"])).await;
                let came = tokio::time::timeout(Duration::from_millis(50), router.recv()).await;
                if let Ok(message) = came {
                    assert_eq!(message.unwrap().frames(), ["one", "again"]);
                    break;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_is_made_again_though_what_came_before_was_not_received() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = held_back();
    options.reconnect = (Duration::from_millis(1), Duration::from_millis(10));
    let mut dealer = DealerSocket::with_options(options);
    dealer.connect(&*endpoint(listener.local_addr().unwrap().port())).unwrap();
    for life in ["one", "two"] {
        let mut raw = Raw::of(soon(listener.accept()).await.unwrap().0);
        raw.introduce(&ready("ROUTER")).await;
        raw.send(&much(life)).await;
    }
    let mut raw = Raw::of(soon(listener.accept()).await.unwrap().0);
    raw.introduce(&ready("ROUTER")).await;
    soon(dealer.send("to who is there")).await.unwrap();
    assert_eq!(raw.message().await, [b"to who is there"]);
    let mut ends = Vec::new();
    for _ in 0..6 {
        ends.push(soon(dealer.recv()).await.unwrap().into_frames().remove(0));
    }
    ends.retain(|frame| frame.len() == 3);
    ends.sort_unstable();
    assert_eq!(ends, ["one", "two"]);
}

#[tokio::test]
async fn large_messages_count_in_full_against_the_mark_though_they_come_in_many_reads() {
    const LARGE: usize = 4 << 20;
    /// More than the system holds for a connection.
    const MANY: usize = 7;
    let mut options = Options::default();
    options.recv_hwm = Bound::new(1_000, 1 << 20);
    // So that a read takes little.
    options.tcp_recv_buffer = Some(32 << 10);
    let mut pull = PullSocket::with_options(options);
    let mut raw = Raw::introduced(bind!(pull), "PUSH").await;
    let mut count = 0;
    let message = message(&[vec![7; LARGE]]);
    let sending = async {
        while count < MANY {
            raw.send(&message).await;
            count += 1;
        }
    };
    let sent = tokio::time::timeout(Duration::from_secs(2), sending).await;
    assert!(sent.is_err(), "{MANY} of them were taken, and nobody received");
    for _ in 0..count {
        assert_eq!(soon(pull.recv()).await.unwrap().bytes(), LARGE);
    }
}

#[tokio::test]
async fn closing_may_wait_for_ever() {
    let mut options = Options::default();
    options.linger = Duration::MAX;
    let push = PushSocket::with_options(options);
    let mut raw = Raw::introduced(bind!(push), "PULL").await;
    soon(push.send("last")).await.unwrap();
    let read = async {
        assert_eq!(raw.message().await, [b"last"]);
        raw.closed().await;
        drop(raw);
    };
    assert_eq!(futures::future::join(soon(push.close()), read).await.0, 0);
}

#[tokio::test]
async fn an_answer_that_was_given_up_is_still_due() {
    let mut options = Options::default();
    options.send_hwm = Bound::new(1, 1);
    options.on_full = OnFull::Block;
    options.tcp_send_buffer = Some(16 << 10);
    let mut rep = RepSocket::with_options(options);
    let mut raw = Raw::introduced(bind!(rep), "DEALER").await;
    raw.send(&[message(&["", "one"]), message(&["", "two"])].concat()).await;
    assert_eq!(soon(rep.recv()).await.unwrap().first(), "one");
    // More than the system takes while nobody reads.
    let large = vec![7; 16 << 20];
    soon(rep.send(large.clone())).await.unwrap();
    assert_eq!(soon(rep.recv()).await.unwrap().first(), "two");
    let given_up = tokio::time::timeout(Duration::from_millis(50), rep.send("two's")).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let reading = async { [raw.message().await, raw.message().await] };
    let (sent, read) = futures::future::join(soon(rep.send("two's")), reading).await;
    sent.unwrap();
    assert!(read == [vec![vec![], large], vec![vec![], b"two's".to_vec()]]);
}

#[tokio::test]
async fn a_question_is_asked_or_not_however_its_asking_is_given_up() {
    let mut req = ReqSocket::new();
    let mut raw = Raw::introduced(bind!(req), "REP").await;
    raw.is_served().await;
    let mut asked = 0;
    // It gives others a turn now and then: that is when it may be given up though it has asked.
    for _ in 0..600_u32 {
        if req.send("?").now_or_never().is_none() {
            assert!(matches!(req.send("?").await, Err(SendError::OutOfTurn(_))), "it has asked");
            asked += 1;
        }
        assert_eq!(raw.message().await, [&b""[..], b"?"]);
        raw.send(&message(&["", "!"])).await;
        assert_eq!(soon(req.recv()).await.unwrap().first(), "!");
    }
    assert_eq!(asked, 2);
}

#[tokio::test]
async fn a_peer_is_not_dead_because_this_process_had_no_turn() {
    let mut options = Options::default();
    let millis = Duration::from_millis;
    options.heartbeat = Some(Heartbeat { interval: millis(50), timeout: millis(200), ttl: Duration::ZERO });
    let pull = PullSocket::with_options(options);
    let mut monitor = pull.monitor();
    let port = bind!(pull);
    let answers = Arc::new(AtomicU64::new(0));
    let answered = Arc::clone(&answers);
    // The peer has a thread of its own, and answers as soon as it has a processor.
    let peer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut raw = Raw::introduced(port, "PUSH").await;
            for _ in 0..5 {
                assert_eq!(raw.frame().await, (COMMAND, b"\x04PING\0\0".to_vec()));
                raw.send(&command(b"PONG", b"")).await;
                answered.fetch_add(1, Ordering::Release);
            }
        });
    });
    until_peers(&mut monitor, 1).await;
    while !peer.is_finished() {
        // Others have this thread: the socket's tasks do not run, for twice as long as the peer has, and until it has answered, if it was asked.
        let (before, since) = (answers.load(Ordering::Acquire), Instant::now());
        let is_over = |answers: u64| answers > before || since.elapsed() > millis(2_000);
        while since.elapsed() < millis(400)
            || !(is_over(answers.load(Ordering::Acquire)) || peer.is_finished())
        {
            std::thread::sleep(millis(5));
        }
        // The runtime looks about for what has happened after 61 turns: what it finds is seen to, and then it is busy again.
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
    peer.join().unwrap();
}

#[tokio::test]
async fn half_a_message_comes_to_nothing() {
    for mut subject in subjects(Kind::Pull).await {
        for half in [
            frame(MORE, b"first of two"),
            [frame(MORE, b"one"), frame(MORE, b"two")].concat(),
            message(&["cut off"])[..5].to_vec(),
        ] {
            let mut raw = Raw::introduced(subject.port, "PUSH").await;
            raw.send(&half).await;
            let port = raw.port();
            drop(raw);
            if let Some(reason) = subject.end_of(port).await {
                assert_eq!(reason, DisconnectReason::Closed);
            }
            subject.serves_the_honest().await;
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_stops_reading_is_cut_off_and_the_others_get_every_message() {
    const MESSAGES: u32 = 20_000;
    let mut options = Options::default();
    // The healthy have room for all of it; the one that does not read goes over in bytes.
    options.send_hwm = Bound::new(1_000, 4 << 20);
    options.on_full = OnFull::Disconnect;
    let publisher = PubSocket::with_options(options);
    let mut monitor = publisher.monitor();
    let port = bind!(publisher);
    let mut stuck = Raw::introduced(port, "SUB").await;
    stuck.send(&command(b"SUBSCRIBE", b"")).await;
    stuck.is_served().await;
    let (received, mut progress) = tokio::sync::watch::channel(0);
    let mut readers = tokio::task::JoinSet::new();
    let progress_of = Arc::new(received);
    let mut healthy = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::introduced(port, "SUB").await;
        raw.send(&command(b"SUBSCRIBE", b"")).await;
        raw.is_served().await;
        healthy.push(raw);
    }
    let slowest = Arc::new(Mutex::new([0_u32; 3]));
    for (index, mut raw) in healthy.into_iter().enumerate() {
        let (slowest, told) = (slowest.clone(), progress_of.clone());
        readers.spawn(async move {
            for number in 0..MESSAGES {
                let frames = raw.message().await;
                assert_eq!(frames[0], number.to_be_bytes());
                let mut counts = slowest.lock().unwrap();
                counts[index] = number + 1;
                told.send_replace(*counts.iter().min().unwrap());
            }
            raw
        });
    }
    let body = Bytes::from(vec![7; 1024]);
    for number in 0..MESSAGES {
        // At most half of what may wait is under way to the healthy, however busy the machine is.
        soon(progress.wait_for(|received| number - received < 500)).await.unwrap();
        let head = Bytes::copy_from_slice(&number.to_be_bytes());
        publisher.send(Message::from_frames([head, body.clone()]).unwrap()).await.unwrap();
    }
    assert_eq!(end_of(&mut monitor, stuck.port()).await, DisconnectReason::TooSlow);
    let mut healthy = Vec::new();
    while let Some(reader) = soon(readers.join_next()).await {
        healthy.push(reader.unwrap());
    }
    assert_eq!(publisher.peers(), 3);
    assert!(publisher.dropped() > 0, "what waited for it is counted");
    for mut raw in healthy {
        raw.is_served().await;
    }
}

#[tokio::test]
async fn three_pushers_are_received_from_fairly() {
    const EACH: usize = 3_000;
    let mut options = Options::default();
    options.recv_hwm = Bound::new(100, 1 << 20);
    let mut pull = PullSocket::with_options(options);
    let port = bind!(pull);
    let mut monitor = pull.monitor();
    let mut pushers = tokio::task::JoinSet::new();
    for name in ["a", "b", "c"] {
        let mut raw = Raw::introduced(port, "PUSH").await;
        pushers.spawn(async move {
            for _ in 0..EACH / 10 {
                raw.send(&message(&[name]).repeat(10)).await;
            }
            raw
        });
    }
    until_peers(&mut monitor, 3).await;
    let mut counts = BTreeMap::new();
    for _ in 0..EACH {
        let from = soon(pull.recv()).await.unwrap().into_frames().remove(0);
        *counts.entry(from).or_insert(0) += 1;
        // Now and then the pushers have their turn.
        tokio::task::yield_now().await;
    }
    // What one pusher may have waiting, and what is read at once, bounds how far it gets ahead.
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(counts.values().all(|count| *count >= EACH / 6), "{counts:?}");
    for _ in EACH..3 * EACH {
        soon(pull.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn push_deals_out_evenly_and_waits_where_there_is_nobody_or_no_room() {
    let mut options = Options::default();
    options.send_hwm = Bound::new(10, 1 << 20);
    let push = PushSocket::with_options(options);
    let mut monitor = push.monitor();
    let port = bind!(push);
    let Err(TrySendError::Full(returned)) = push.try_send("nobody") else { panic!("there is nobody") };
    assert_eq!(returned.first(), "nobody");
    let mut pullers = Vec::new();
    for _ in 0..3 {
        pullers.push(Raw::introduced(port, "PULL").await);
    }
    until_peers(&mut monitor, 3).await;
    for number in 0..300_u32 {
        soon(push.send(number.to_be_bytes().to_vec())).await.unwrap();
    }
    let mut all = Vec::new();
    for puller in &mut pullers {
        let mut numbers = Vec::new();
        for _ in 0..100 {
            numbers.push(u32::from_be_bytes(puller.message().await[0][..].try_into().unwrap()));
        }
        assert!(numbers.is_sorted());
        all.extend(numbers);
    }
    all.sort_unstable();
    assert_eq!(all, (0..300).collect::<Vec<_>>());
    // Nobody reads now: what finds no room comes back, and a sender waits until somebody does.
    let large = Bytes::from(vec![7; 256 * 1024]);
    let full = async {
        loop {
            match push.try_send(large.clone()) {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        }
    };
    assert!(matches!(soon(full).await, TrySendError::Full(_)));
    let waiting = push.send("last");
    tokio::pin!(waiting);
    let mut reader = pullers.remove(0);
    let reading = async {
        loop {
            reader.message().await;
        }
    };
    tokio::select! {
        sent = soon(&mut waiting) => sent.unwrap(),
        () = reading => unreachable!(),
    }
}

#[tokio::test]
async fn a_message_to_an_unknown_identity_comes_back() {
    let mut router = RouterSocket::new();
    let port = bind!(router);
    let to = |identity: &'static [u8]| Message::from_frames([identity, b"body"]).unwrap();
    for identity in [&b"nobody"[..], b"", b"\0\0\0\0\0\0\0\0\x01", &[b'x'; 300]] {
        assert_eq!(soon(router.send(to(identity))).await, Err(SendError::Unroutable(to(identity))));
    }
    assert!(matches!(soon(router.send("one frame")).await, Err(SendError::Unroutable(_))));
    let mut raw = Raw::connect(port).await;
    raw.introduce(&ready_as("DEALER", b"somebody")).await;
    raw.send(&message(&["hello"])).await;
    assert_eq!(soon(router.recv()).await.unwrap().frames(), ["somebody", "hello"]);
    soon(router.send(to(b"somebody"))).await.unwrap();
    assert_eq!(raw.message().await, [b"body"]);
}

#[tokio::test]
async fn messages_of_every_size_come_through_both_ways() {
    let limit = Options::default().limits.frame;
    let mut pull = PullSocket::new();
    let push = PushSocket::new();
    push.connect(&*endpoint(bind!(pull))).unwrap();
    let sizes = [0, 1, 255, 256, 4_095, 4_096, 4_097, 65_535, 65_536, 262_144, limit];
    let body = |size: usize| Bytes::from((0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    for size in sizes {
        let around = Message::from_frames([Bytes::new(), body(size), Bytes::new()]).unwrap();
        for message in [Message::from(body(size)), around] {
            soon(push.send(message.clone())).await.unwrap();
            assert!(soon(pull.recv()).await.unwrap() == message, "{size} octets");
        }
    }
    // All in a row, too, so that they share segments.
    let sending = async {
        for size in sizes.into_iter().rev() {
            push.send(body(size)).await.unwrap();
        }
    };
    let receiving = async {
        for size in sizes.into_iter().rev() {
            assert!(pull.recv().await.unwrap().first() == &body(size), "{size} octets");
        }
    };
    soon(futures::future::join(sending, receiving)).await;
}

/// Fills a socket with half-open connections, and sees the oldest one make room for the next.
async fn displaces_half_open_connections_above(limit: usize, options: Options) {
    let publisher = XpubSocket::with_options(options);
    let mut monitor = publisher.monitor();
    let port = bind!(publisher);
    let mut member = Raw::introduced(port, "SUB").await;
    member.send(&command(b"SUBSCRIBE", b"")).await;
    member.is_served().await;
    until_peers(&mut monitor, 1).await;
    let mut half_open = std::collections::VecDeque::new();
    for index in 0..limit + 2 {
        let mut raw = Raw::connect(port).await;
        // Some say nothing, some a little.
        raw.send(&greeting()[..index % 64]).await;
        half_open.push_back(raw);
        until(&mut monitor, |event| matches!(event, MonitorEvent::Accepted(_)).then_some(())).await;
        if index < limit {
            continue;
        }
        let reason = until(&mut monitor, |event| match event {
            MonitorEvent::Disconnected { reason, .. } => Some(reason),
            _ => None,
        });
        assert_eq!(reason.await, DisconnectReason::Displaced);
        half_open.pop_front().expect("the oldest").closed().await;
    }
    // The member does not notice.
    publisher.send("news").await.unwrap();
    assert_eq!(member.message().await, [b"news"]);
    member.is_served().await;
    // A newcomer that introduces itself takes nobody's place for long.
    let mut next = Raw::introduced(port, "SUB").await;
    next.is_served().await;
    half_open.pop_front().expect("the oldest").closed().await;
    Raw::introduced(port, "SUB").await.is_served().await;
}

#[tokio::test]
async fn the_oldest_half_open_connection_gives_way_above_a_limit() {
    let mut options = Options::default();
    options.limits.half_open = 4;
    // They are not to run out of time while the test does its work.
    options.limits.handshake = Duration::from_secs(600);
    displaces_half_open_connections_above(4, options).await;
}

#[tokio::test]
async fn the_oldest_half_open_connection_gives_way_above_256_by_default() {
    let mut options = Options::default();
    options.limits.handshake = Duration::from_secs(600);
    displaces_half_open_connections_above(256, options).await;
}

#[tokio::test]
async fn a_peer_that_asks_and_does_not_listen_harms_nobody() {
    let mut subject = Subject::engine(Kind::Pull).await;
    let mut raw = Raw::introduced(subject.port, "PUSH").await;
    raw.send(&ping(0, &[b'?'; 16]).repeat(10_000)).await;
    subject.serves_the_honest().await;
    raw.send(&message(&["and a message"])).await;
    assert_eq!(subject.report().await, [b"and a message"]);
}

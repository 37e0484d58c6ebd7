//! What peers without manners may cost, and that they harm nobody else: what is held is counted by what comes of it.

use std::time::Duration;

use futures::StreamExt;
use zincmq::zmtp::{
    Bound, DisconnectReason, Heartbeat, Monitor, MonitorEvent, Options, PullSocket, PushSocket, RecvError,
    ReqSocket, Violation,
};

use crate::common::soon;
use crate::subject::port_of;
use crate::wire::{COMMAND, Raw, command, declared, greeting, message, ready};

const MIB: usize = 1 << 20;

async fn port_at(pull: &PullSocket) -> u16 {
    port_of(&pull.bind("tcp://127.0.0.1:0").await.expect("a free port").to_string())
}

async fn next_end(monitor: &mut Monitor) -> DisconnectReason {
    loop {
        if let MonitorEvent::Disconnected { reason, .. } = soon(monitor.next()).await.expect("it is open") {
            return reason;
        }
    }
}

#[tokio::test]
async fn messages_that_are_not_completed_are_bounded_together_and_the_honest_are_served() {
    let mut options = Options::default();
    options.limits.unfinished = 2 * MIB;
    let mut pull = PullSocket::with_options(options);
    let mut monitor = pull.monitor();
    let port = port_at(&pull).await;
    let mut strangers = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::introduced(port, "PUSH").await;
        raw.send(&[&declared(0, 16 << 20)[..], &vec![7; MIB]].concat()).await;
        strangers.push(raw);
    }
    let unfinished = DisconnectReason::Violation(Violation::Unfinished { limit: 2 * MIB });
    // Two of them are a little more than may be.
    for _ in 0..7 {
        assert_eq!(next_end(&mut monitor).await, unfinished);
    }
    assert_eq!(pull.peers(), 1);
    let mut honest = Raw::introduced(port, "PUSH").await;
    honest.send(&message(&[vec![8; 4 * MIB]])).await;
    assert_eq!(soon(pull.recv()).await.expect("open").bytes(), 4 * MIB);
    assert_eq!(next_end(&mut monitor).await, unfinished);
}

#[tokio::test]
async fn a_message_that_does_not_go_on_is_given_up() {
    let mut options = Options::default();
    options.limits.message_time = Duration::from_millis(100);
    let pull = PullSocket::with_options(options);
    let mut monitor = pull.monitor();
    let port = port_at(&pull).await;
    let mut raw = Raw::introduced(port, "PUSH").await;
    raw.send(&declared(0, 1 << 20)).await;
    assert_eq!(next_end(&mut monitor).await, DisconnectReason::Violation(Violation::MessageTime));
}

#[tokio::test]
async fn what_ended_connections_leave_is_bounded_and_newcomers_wait_for_it() {
    const CONNECTIONS: usize = 200;
    const EACH: usize = 20;
    let mut options = Options::default();
    options.recv_hwm = Bound::new(100, 1 << 20);
    let mut pull = PullSocket::with_options(options);
    let mut monitor = pull.monitor();
    let port = port_at(&pull).await;
    let says = [greeting(), ready("PUSH"), message(&["leftover"]).repeat(EACH)].concat();
    // The listener may be waiting for one more when the last of those that fill the bound ends.
    let taken = 100 / EACH;
    let mut waiting = Vec::new();
    for number in 0..CONNECTIONS {
        let mut raw = Raw::connect(port).await;
        raw.send(&says).await;
        raw.shut_down().await;
        if number < taken {
            raw.closed().await;
        } else {
            waiting.push(raw);
        }
    }
    let mut accepted = 0;
    let count = async {
        while let Some(event) = monitor.next().await {
            accepted += usize::from(matches!(event, MonitorEvent::Accepted(_)));
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), count).await.is_err(), "it is open");
    assert!((taken..=taken + 1).contains(&accepted), "{accepted}");
    for _ in 0..CONNECTIONS * EACH {
        assert_eq!(soon(pull.recv()).await.expect("open").first(), "leftover");
    }
    for mut raw in waiting {
        raw.closed().await;
    }
}

#[tokio::test]
async fn a_peer_that_stops_reading_before_it_was_asked_is_not_dead_for_that() {
    let mut options = Options::default();
    options.send_hwm = Bound::new(64, 64 << 20);
    options.tcp_send_buffer = Some(64 << 10);
    let (interval, timeout) = (Duration::from_secs(2), Duration::from_millis(500));
    options.heartbeat = Some(Heartbeat { interval, timeout, ttl: Duration::ZERO });
    let push = PushSocket::with_options(options);
    let port = port_of(&push.bind("tcp://127.0.0.1:0").await.expect("a free port").to_string());
    let mut raw = Raw::introduced(port, "PULL").await;
    let mut sent = 0;
    // Until the queue is full, and nothing more goes out.
    while let Ok(Ok(())) = tokio::time::timeout(interval / 10, push.send(vec![7; 256 << 10])).await {
        sent += 1;
    }
    // Long enough to have been asked, and taken for dead.
    let mut monitor = push.monitor();
    assert!(tokio::time::timeout(2 * interval, next_end(&mut monitor)).await.is_err(), "it is not dead");
    for _ in 0..sent {
        loop {
            match raw.frame().await {
                (COMMAND, _) => raw.send(&command(b"PONG", b"")).await,
                (_, body) => break assert_eq!(body.len(), 256 << 10),
            }
        }
    }
    assert_eq!(push.peers(), 1);
}

#[tokio::test]
async fn what_was_sent_arrives_though_the_peer_speaks_after_it_is_closed() {
    const MESSAGES: usize = 50;
    let mut options = Options::default();
    options.tcp_send_buffer = Some(4 << 20);
    options.linger = Duration::from_secs(60);
    let push = PushSocket::with_options(options);
    let port = port_of(&push.bind("tcp://127.0.0.1:0").await.expect("a free port").to_string());
    let mut raw = Raw::with_little_room(port).await;
    raw.introduce(&ready("PULL")).await;
    for _ in 0..MESSAGES {
        soon(push.send(vec![7; 16 << 10])).await.expect("open");
    }
    let close = push.close();
    tokio::pin!(close);
    // It has everything handed to the system, and waits for it to be taken.
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut close).await.is_err(), "it waits");
    raw.send(&command(b"PONG", b"")).await;
    let read = async {
        for _ in 0..MESSAGES {
            assert_eq!(raw.message().await[0].len(), 16 << 10);
        }
        assert!(raw.closed().await.is_empty());
        drop(raw);
    };
    assert_eq!(soon(futures::future::join(close, read)).await.0, 0);
}

fn asker(messages: usize) -> (ReqSocket, Monitor) {
    let mut options = Options::default();
    options.recv_hwm = Bound::new(messages, MIB);
    let req = ReqSocket::with_options(options);
    let monitor = req.monitor();
    (req, monitor)
}

async fn answer(port: u16) {
    let mut raw = Raw::introduced(port, "REP").await;
    assert_eq!(raw.message().await, [&b""[..], b"question"]);
    raw.send(&message(&["", "answer"])).await;
    raw.closed().await;
}

#[tokio::test]
async fn who_asks_does_not_wait_for_what_others_have_left() {
    let (mut req, mut monitor) = asker(2);
    let port = port_of(&req.bind("tcp://127.0.0.1:0").await.expect("a free port").to_string());
    for _ in 0..2 {
        let mut talker = Raw::introduced(port, "REP").await;
        // Part of it is read only when there is room for it.
        talker.send(&message(&["", "nobody asked"]).repeat(2_000)).await;
        talker.shut_down().await;
        assert_eq!(next_end(&mut monitor).await, DisconnectReason::Closed);
    }
    {
        let ask = req.send("question");
        tokio::pin!(ask);
        assert!(futures::poll!(&mut ask).is_pending());
        // Those who come first are nobody to ask.
        let mut strangers = Vec::new();
        for _ in 0..4 {
            strangers.push(Raw::connect(port).await);
            tokio::task::yield_now().await;
        }
        tokio::spawn(answer(port));
        soon(ask).await.expect("open");
    }
    assert_eq!(soon(req.recv()).await.expect("an answer").first(), "answer");
}

#[tokio::test]
async fn peers_that_come_and_go_do_not_pile_up_at_one_who_does_not_ask() {
    let (mut req, mut monitor) = asker(4);
    let port = port_of(&req.bind("tcp://127.0.0.1:0").await.expect("a free port").to_string());
    let mut peers = Vec::new();
    for number in 0..20 {
        let mut raw = Raw::connect(port).await;
        raw.send(&[greeting(), ready("REP")].concat()).await;
        raw.shut_down().await;
        // The listener may be waiting for one more when the fourth ends.
        if number < 4 {
            raw.closed().await;
        } else {
            peers.push(raw);
        }
    }
    let mut accepted = 0;
    let count = async {
        while let Some(event) = monitor.next().await {
            accepted += usize::from(matches!(event, MonitorEvent::Accepted(_)));
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), count).await.is_err(), "it is open");
    assert!((4..=5).contains(&accepted), "{accepted}");
    tokio::spawn(answer(port));
    let answer = loop {
        soon(req.send("question")).await.expect("open");
        match soon(req.recv()).await {
            Ok(answer) => break answer,
            // One of those that are about to go.
            Err(error) => assert_eq!(error, RecvError::PeerGone),
        }
    };
    assert_eq!(answer.first(), "answer");
}

//! The patterns where peers are not as one would have them: who has the same name, who does not read, who changes its mind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use zincmq::zmtp::{
    Bound, DealerSocket, DisconnectReason, Heartbeat, Message, Monitor, MonitorEvent, OnFull, Options,
    PairSocket, PubSocket, PullSocket, PushSocket, RepSocket, ReqSocket, RouterSocket, SendError, SubSocket,
    TrySendError, XpubSocket, XsubSocket,
};

use crate::common::soon;
use crate::sockets::{endpoint, until, until_peers};
use crate::wire::{COMMAND, Raw, command, greeting, message, ping, ready_as};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_word_of_a_subscription_is_what_there_is_whoever_subscribes() {
    let mut publisher = XpubSocket::new();
    let port = bind!(publisher);
    let mut leaving = Raw::introduced(port, "SUB").await;
    let mut coming = Raw::introduced(port, "SUB").await;
    leaving.send(&command(b"SUBSCRIBE", b"t")).await;
    assert_eq!(soon(publisher.recv()).await.unwrap().first(), "\u{1}t");
    // Much behind the word, so that it takes a while until the whole of it is seen to.
    let much = command(b"CANCEL", b"nothing").repeat(500);
    let last = [&command(b"CANCEL", b"t")[..], &much].concat();
    let first = [&much[..much.len() / 2], &command(b"SUBSCRIBE", b"t")].concat();
    for round in 0..300 {
        futures::future::join(leaving.send(&last), coming.send(&first)).await;
        futures::future::join(leaving.is_served(), coming.is_served()).await;
        let mut is = None;
        while let Some(message) = publisher.recv().now_or_never() {
            is = Some(message.unwrap().first()[0] == 1);
        }
        assert_ne!(is, Some(false), "round {round}: somebody subscribes, and the application does not know");
        std::mem::swap(&mut leaving, &mut coming);
    }
}

#[tokio::test]
async fn a_subscriber_that_changes_its_mind_for_ever_holds_one_change_for_a_publisher_that_does_not_read() {
    let mut options = Options::default();
    options.tcp_send_buffer = Some(16 << 10);
    let subscriber = SubSocket::with_options(options);
    let mut monitor = subscriber.monitor();
    let port = bind!(subscriber);
    let mut raw = Raw::connect(port).await;
    raw.introduce(&ready_as("PUB", b"pub")).await;
    until_peers(&mut monitor, 1).await;
    // More than the system takes.
    let long = |index: u8| Bytes::from([&[index][..], &[b'x'; 128 << 10]].concat());
    for index in 0..100 {
        subscriber.subscribe(long(index));
    }
    while subscriber.backlog(b"pub").is_none_or(|backlog| backlog.bytes == 0) {
        tokio::task::yield_now().await;
    }
    let before = subscriber.backlog(b"pub").unwrap().bytes;
    let last = long(99);
    for _ in 0..100_000 {
        subscriber.subscribe("news");
        subscriber.unsubscribe("news");
        subscriber.unsubscribe(last.clone());
        subscriber.subscribe(last.clone());
    }
    let after = subscriber.backlog(b"pub").unwrap().bytes;
    assert!(after <= before.max(1 << 20), "{before} octets, and then {after}");
    subscriber.subscribe("end");
    let mut told = BTreeSet::new();
    while !told.contains(&b"end"[..]) {
        let (_, body) = raw.frame().await;
        match (body.strip_prefix(b"\x09SUBSCRIBE"), body.strip_prefix(b"\x06CANCEL")) {
            (Some(prefix), _) => assert!(told.insert(prefix.to_vec()), "told twice"),
            (_, Some(prefix)) => assert!(told.remove(prefix), "it was told of none"),
            _ => panic!("{body:?}"),
        }
    }
    assert_eq!(told.len(), 101);
    assert!(!told.contains(&b"news"[..]));
}

/// The event that says of whom, and why, a connection ended.
async fn parted(monitor: &mut Monitor) -> (Bytes, DisconnectReason) {
    until(monitor, |event| match event {
        MonitorEvent::Disconnected { identity, reason, .. } => Some((identity, reason)),
        _ => None,
    })
    .await
}

/// A peer of this type and identity.
async fn peer(port: u16, kind: &str, identity: &str) -> Raw {
    let mut raw = Raw::connect(port).await;
    raw.introduce(&ready_as(kind, identity.as_bytes())).await;
    raw
}

#[tokio::test]
async fn all_kinds_but_router_take_two_peers_of_one_identity() {
    macro_rules! takes {
        ($($socket:ident: $theirs:literal),*) => {$({
            let socket = $socket::new();
            let mut monitor = socket.monitor();
            let port = bind!(socket);
            let mut first = peer(port, $theirs, "one").await;
            let mut second = peer(port, $theirs, "one").await;
            until_peers(&mut monitor, 2).await;
            first.is_served().await;
            second.is_served().await;
            assert!(socket.backlog(b"one").is_some(), "{}", $theirs);
            // Whoever asks for one of that name means both.
            assert!(socket.disconnect(b"one"));
            for _ in 0..2 {
                assert_eq!(parted(&mut monitor).await, ("one".into(), DisconnectReason::Asked));
            }
            assert_eq!((socket.peers(), socket.disconnect(b"one")), (0, false));
        })*};
    }
    takes!(
        PubSocket: "SUB", XpubSocket: "SUB", SubSocket: "PUB", XsubSocket: "PUB", PushSocket: "PULL", PullSocket: "PUSH",
        DealerSocket: "ROUTER", ReqSocket: "ROUTER", RepSocket: "REQ"
    );
    // Unless that is wanted.
    let mut options = Options::default();
    options.unique_identities = true;
    let pull = PullSocket::with_options(options);
    let mut monitor = pull.monitor();
    let port = bind!(pull);
    let _first = peer(port, "PUSH", "one").await;
    until_peers(&mut monitor, 1).await;
    let _second = peer(port, "PUSH", "one").await;
    assert_eq!(parted(&mut monitor).await, ("one".into(), DisconnectReason::IdentityInUse));
    // PAIR has one peer, whatever its name.
    let pair = PairSocket::new();
    let mut monitor = pair.monitor();
    let port = bind!(pair);
    let _first = peer(port, "PAIR", "one").await;
    until_peers(&mut monitor, 1).await;
    for name in ["one", "two"] {
        let _second = peer(port, "PAIR", name).await;
        assert_eq!(parted(&mut monitor).await, (name.into(), DisconnectReason::Occupied));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_end_of_a_peer_is_told_before_the_next_of_its_name() {
    let router = RouterSocket::new();
    let mut monitor = router.monitor();
    let port = bind!(router);
    let mut coming = tokio::task::JoinSet::new();
    for _ in 0..4 {
        coming.spawn(async move {
            loop {
                let mut raw = Raw::connect(port).await;
                raw.send(&[greeting(), ready_as("DEALER", b"one")].concat()).await;
                raw.is_introduced().await;
            }
        });
    }
    for turn in 0..1_000 {
        let is_ready = until(&mut monitor, |event| match event {
            MonitorEvent::Ready { .. } => Some(true),
            MonitorEvent::Disconnected { identity, reason, .. }
                if identity == "one" && reason != DisconnectReason::IdentityInUse =>
            {
                Some(false)
            }
            MonitorEvent::Lagged(_) => panic!("too slow"),
            _ => None,
        });
        assert_eq!(is_ready.await, turn % 2 == 0, "turn {turn}");
    }
}

#[tokio::test]
async fn a_socket_talks_to_two_servers_of_one_identity() {
    let dealer = DealerSocket::new();
    let mut monitor = dealer.monitor();
    let mut servers = [(), ()].map(|()| RepSocket::with_options(named("server")));
    for server in &servers {
        dealer.connect(&*endpoint(bind!(server))).unwrap();
    }
    until_peers(&mut monitor, 2).await;
    for _ in 0..2 {
        soon(dealer.send(Message::from_frames(["", "to both"]).unwrap())).await.unwrap();
    }
    for server in &mut servers {
        assert_eq!(soon(server.recv()).await.unwrap().first(), "to both");
    }
}

fn named(identity: &str) -> Options {
    let mut options = Options::default();
    options.identity = identity.try_into().unwrap();
    options
}

#[tokio::test]
async fn an_answer_does_not_go_to_the_next_peer_of_that_name() {
    let mut rep = RepSocket::new();
    let mut monitor = rep.monitor();
    let port = bind!(rep);
    let mut first = peer(port, "REQ", "one").await;
    first.send(&message(&["", "a secret?"])).await;
    assert_eq!(soon(rep.recv()).await.unwrap().first(), "a secret?");
    drop(first);
    parted(&mut monitor).await;
    let mut second = peer(port, "REQ", "one").await;
    until_peers(&mut monitor, 1).await;
    assert_eq!(soon(rep.send("a secret")).await, Err(SendError::Unroutable("a secret".into())));
    second.send(&message(&["", "mine?"])).await;
    soon(rep.recv()).await.unwrap();
    soon(rep.send("yours")).await.unwrap();
    assert_eq!(second.message().await, [&b""[..], b"yours"]);
}

#[tokio::test]
async fn an_answer_too_many_is_not_taken_for_the_next_one() {
    let mut req = ReqSocket::new();
    let mut raw = Raw::introduced(bind!(req), "ROUTER").await;
    for round in 0..10 {
        let (question, answer) = (format!("question {round}"), format!("answer {round}"));
        soon(req.send(question.clone())).await.unwrap();
        assert_eq!(raw.message().await, [&b""[..], question.as_bytes()]);
        // At once, so that the second is there when the first is taken; and one that comes by itself.
        let twice = [message(&["", &*answer]), message(&["", "and again"])].concat();
        raw.send(&twice).await;
        assert_eq!(soon(req.recv()).await.unwrap().first(), &answer);
        raw.send(&message(&["", "and once more"])).await;
        raw.is_served().await;
    }
    soon(req.send("last")).await.unwrap();
    assert_eq!(req.unrouted(), 20);
}

#[tokio::test]
async fn one_who_asks_and_does_not_read_does_not_keep_others_from_their_answers() {
    let mut options = Options::default();
    options.send_hwm = Bound::new(4, 1 << 20);
    options.tcp_send_buffer = Some(16 << 10);
    let mut rep = RepSocket::with_options(options.clone());
    let mut router = RouterSocket::with_options(options);
    let (rep_port, router_port) = (bind!(rep), bind!(router));
    let large = Bytes::from(vec![7; 1 << 20]);
    let mut stuck = [Raw::introduced(rep_port, "DEALER").await, Raw::introduced(router_port, "DEALER").await];
    for raw in &mut stuck {
        raw.send(&message(&["", "more"]).repeat(40)).await;
    }
    let answering = async {
        loop {
            tokio::select! {
                question = rep.recv() => {
                    let is_small = question.unwrap().first() == "small";
                    rep.send(if is_small { "small".into() } else { large.clone() }).await.unwrap();
                }
                question = router.recv() => {
                    let mut frames = question.unwrap().into_frames();
                    if frames[2] != "small" {
                        frames[2] = large.clone();
                    }
                    router.send(Message::from_frames(frames).unwrap()).await.unwrap();
                }
            }
        }
    };
    let asking = async {
        let mut answers = Vec::new();
        for port in [rep_port, router_port] {
            let mut req = ReqSocket::new();
            req.connect(&*endpoint(port)).unwrap();
            for _ in 0..100 {
                soon(req.send("small")).await.unwrap();
                answers.push(soon(req.recv()).await.unwrap());
            }
        }
        answers
    };
    let answers = tokio::select! {
        answers = tokio::time::timeout(Duration::from_secs(20), asking) => answers.expect("answered"),
        () = answering => unreachable!(),
    };
    assert!(answers.len() == 200 && answers.iter().all(|answer| answer.first() == "small"));
    assert!(rep.dropped() > 0 && router.dropped() > 0, "what was dropped is counted");
}

#[tokio::test]
async fn router_does_what_its_options_say_where_a_peer_does_not_read() {
    let options = |on_full| {
        let mut options = Options::default();
        options.send_hwm = Bound::new(200, 64 << 20);
        options.tcp_send_buffer = Some(16 << 10);
        options.on_full = on_full;
        options
    };
    let large = Bytes::from(vec![7; 64 << 10]);
    let to = |number: u32| {
        Message::from_frames(["one".into(), number.to_be_bytes().to_vec().into(), large.clone()]).unwrap()
    };
    for on_full in [OnFull::Block, OnFull::DropNewest, OnFull::DropOldest, OnFull::Disconnect] {
        let router = RouterSocket::with_options(options(on_full));
        let mut monitor = router.monitor();
        let mut raw = peer(bind!(router), "DEALER", "one").await;
        until_peers(&mut monitor, 1).await;
        let mut sent = 0;
        loop {
            match router.try_send(to(sent)) {
                Ok(()) => sent += 1,
                Err(TrySendError::Full(message)) => {
                    assert_eq!(message, to(sent));
                    // The connection's task has its turn; then there is room again, or the system takes no more.
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                    if router.backlog(b"one").unwrap().messages >= 200 {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(router.dropped(), 0);
        let more = tokio::time::timeout(Duration::from_millis(50), router.send(to(sent))).await;
        match on_full {
            OnFull::Block => assert!(more.is_err(), "it waits"),
            OnFull::Disconnect => {
                more.unwrap().unwrap();
                assert_eq!(parted(&mut monitor).await.1, DisconnectReason::TooSlow);
                continue;
            }
            _ => {
                more.unwrap().unwrap();
                assert!((1..=100).contains(&router.dropped()), "{on_full:?}: {}", router.dropped());
            }
        }
        // What is left comes in order, and what was dropped is as many as are counted.
        let due = sent + u32::from(on_full != OnFull::Block) - router.dropped() as u32;
        let mut last = None;
        for _ in 0..due {
            let number = u32::from_be_bytes(raw.message().await[0][..].try_into().unwrap());
            assert!(last < Some(number), "{on_full:?}: {number} behind {last:?}");
            last = Some(number);
        }
        let newest = if on_full == OnFull::DropOldest { sent } else { sent - 1 };
        assert_eq!(last, Some(newest), "{on_full:?}");
    }
}

#[tokio::test]
async fn commands_do_not_count_as_octets_of_the_message_that_follows() {
    let mut options = Options::default();
    options.recv_hwm = Bound::new(10, 4_000);
    let mut pull = PullSocket::with_options(options);
    let mut raw = Raw::introduced(bind!(pull), "PUSH").await;
    for _ in 0..20 {
        raw.send(&command(b"UNKNOWN", &[7; 500])).await;
        raw.is_served().await;
    }
    raw.send(&[message(&["small"]), ping(0, b"read")].concat()).await;
    while raw.frame().await != (COMMAND, b"\x04PONGread".to_vec()) {}
    // It is read on.
    raw.is_served().await;
    assert_eq!(soon(pull.recv()).await.unwrap().first(), "small");
}

/// For a socket that reads no more than it must.
fn held_back() -> Options {
    let mut options = Options::default();
    options.recv_hwm = Bound::new(1, 1);
    options
}

#[tokio::test]
async fn a_peer_that_has_ended_and_was_not_heard_out_can_be_cut_off() {
    let router = RouterSocket::with_options(held_back());
    let mut monitor = router.monitor();
    let port = bind!(router);
    let mut first = peer(port, "DEALER", "one").await;
    // More than is read at once, and no more than the system takes.
    first.send(&message(&[vec![7; 40_000]]).repeat(2)).await;
    drop(first);
    assert_eq!(parted(&mut monitor).await, ("one".into(), DisconnectReason::Closed));
    assert!(router.disconnect(b"one"), "its name is in use still");
    // Nobody receives, and the name is free.
    soon(async {
        loop {
            let _next = peer(port, "DEALER", "one").await;
            let taken = until(&mut monitor, |event| match event {
                MonitorEvent::Ready { .. } => Some(true),
                MonitorEvent::Disconnected { reason: DisconnectReason::IdentityInUse, .. } => Some(false),
                _ => None,
            });
            if taken.await {
                break;
            }
        }
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_peer_that_has_stopped_reading_for_good_is_heard_to_its_end_and_no_further() {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    let mut router = RouterSocket::with_options(held_back());
    let mut monitor = router.monitor();
    let at = router.bind("ipc://*").await.unwrap().to_string();
    let path = at.strip_prefix("ipc://").unwrap().to_owned();
    assert_ne!(path, "*");
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(&[greeting(), ready_as("DEALER", b"one")].concat()).unwrap();
    until_peers(&mut monitor, 1).await;
    stream.write_all(&message(&[vec![7; 60_000]]).repeat(2)).unwrap();
    assert_eq!(soon(router.recv()).await.unwrap().first(), "one");
    stream.shutdown(Shutdown::Read).unwrap();
    // Its end is found by writing. It sends on, as long as that is taken.
    let (parted, sent) = std::sync::mpsc::channel::<()>();
    let sender = std::thread::spawn(move || {
        let _ = sent.recv();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        loop {
            if let Err(error) = stream.write_all(&message(&["for ever"])) {
                return error.kind();
            }
        }
    });
    soon(async {
        while router.send(Message::from_frames(["one", "?"]).unwrap()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    until(&mut monitor, |event| matches!(event, MonitorEvent::Disconnected { .. }).then_some(())).await;
    drop(parted);
    let ended = soon(async {
        let mut count = 0;
        while !sender.is_finished() || count == 0 {
            let next = tokio::time::timeout(Duration::from_millis(50), router.recv()).await;
            count += usize::from(next.is_ok());
        }
    });
    ended.await;
    assert_eq!(sender.join().unwrap(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn wildcards_are_for_binding() {
    let pull = PullSocket::new();
    let bound = pull.bind("tcp://127.0.0.1:*").await.unwrap().to_string();
    assert!(bound.starts_with("tcp://127.0.0.1:") && !bound.ends_with(":0"), "{bound}");
    let push = PushSocket::new();
    push.connect(&*bound).unwrap();
    for open in ["tcp://127.0.0.1:*", "tcp://127.0.0.1:0"] {
        assert!(push.connect(open).unwrap_err().to_string().contains("for binding"), "{open}");
    }
    #[cfg(unix)]
    {
        assert!(push.connect("ipc://*").unwrap_err().to_string().contains("for binding"));
        assert!(push.connect("ipc://@name").unwrap_err().to_string().contains("without a file"));
        let bound = pull.bind("ipc://*").await.unwrap();
        push.connect(bound).unwrap();
    }
}

#[tokio::test]
async fn intervals_of_zero_do_not_take_a_processor() {
    let mut options = Options::default();
    options.reconnect = (Duration::ZERO, Duration::ZERO);
    options.heartbeat =
        Some(Heartbeat { interval: Duration::ZERO, timeout: Duration::from_secs(60), ttl: Duration::ZERO });
    let push = PushSocket::with_options(options);
    let mut monitor = push.monitor();
    let mut raw = Raw::introduced(bind!(push), "PULL").await;
    // Others have their turn while it asks.
    raw.is_served().await;
    let start = Instant::now();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    push.connect(&*endpoint(nobody.port())).unwrap();
    for _ in 0..100 {
        until(&mut monitor, |event| matches!(event, MonitorEvent::ConnectFailed { .. }).then_some(())).await;
    }
    // Pauses of a millisecond, shortened by up to half.
    assert!(start.elapsed() >= Duration::from_millis(49), "{:?}", start.elapsed());
}

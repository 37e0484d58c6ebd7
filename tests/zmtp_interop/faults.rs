//! Peers that die and come back, and sockets with several endpoints.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use zincmq::zmtp::{
    DealerSocket, DisconnectReason, Message, Monitor, MonitorEvent, Options, PairSocket, PubSocket,
    PullSocket, PushSocket, RecvError, RepSocket, ReqSocket, RouterSocket, SubSocket,
};

use crate::any::{event, soon};
use crate::party::Place;
use crate::python::{Python, hex, pythons};

/// A test over TCP and Unix sockets, with every Python there is.
async fn everywhere(mut test: impl AsyncFnMut(&'static Path, Place<'_>)) {
    for python in pythons() {
        test(python, Place::Tcp).await;
        let folder = tempfile::tempdir().expect("a folder");
        test(python, Place::Ipc(folder.path())).await;
    }
}

fn quick() -> Options {
    let mut options = Options::default();
    options.reconnect = (Duration::from_millis(10), Duration::from_millis(100));
    options
}

async fn until_ready(monitor: &mut Monitor) {
    event(monitor, "ready", |event| matches!(event, MonitorEvent::Ready { .. }).then_some(())).await;
}

async fn until_gone(monitor: &mut Monitor) -> DisconnectReason {
    event(monitor, "gone", |event| match event {
        MonitorEvent::Disconnected { reason, .. } => Some(reason),
        _ => None,
    })
    .await
}

fn number(frame: &[u8]) -> u64 {
    std::str::from_utf8(frame).expect("text").parse().expect("a number")
}

/// Waits until a connection has ended. Cancel safe.
async fn until_closed(monitor: &mut Monitor) {
    while !matches!(monitor.next().await, Some(MonitorEvent::Disconnected { .. })) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_comes_back_to_a_publisher_that_was_killed_and_misses_nothing_of_others() {
    everywhere(async |python, place| {
        let options = || json!({ "bind": [place.endpoint("honest").replace(":0", ":*")], "SNDHWM": 0 });
        let (mut honest, honest_at) = Python::with(python, "PUB", options()).await;
        honest.order("flood", json!({ "topics": [hex(b"honest"), hex(b"unwanted")] })).await;
        let mut subscriber = SubSocket::with_options(quick());
        subscriber.subscribe("honest");
        subscriber.subscribe("doomed");
        subscriber.connect(honest_at[0].as_str()).expect("an endpoint");
        let mut monitor = subscriber.monitor();
        let mut at = place.endpoint("doomed").replace(":0", ":*");
        let mut last: BTreeMap<Bytes, u64> = BTreeMap::new();
        // The next message, in order and without a gap.
        let mut next = async |subscriber: &mut SubSocket, monitor: &mut Monitor| {
            soon("a message", async {
                tokio::select! {
                    message = subscriber.recv() => {
                        let message = message.expect("open");
                        let (topic, number) = (message.first(), number(&message.frames()[1]));
                        assert!(topic == "honest" || topic.starts_with(b"doomed"), "{topic:?}");
                        let before = last.insert(topic.clone(), number);
                        assert!(before.is_none_or(|before| number == before + 1), "{topic:?} {number}, {before:?}");
                        Some(topic.clone())
                    }
                    () = until_closed(monitor) => None,
                }
            })
            .await
        };
        for life in 0..3 {
            let setting = json!({ "bind": [at], "SNDHWM": 0 });
            let (mut doomed, endpoints) = Python::with(python, "PUB", setting).await;
            let topic = Bytes::from(format!("doomed {life}"));
            doomed.order("flood", json!({ "topics": [hex(&topic), hex(b"unwanted")] })).await;
            if life == 0 {
                at = endpoints[0].clone();
                subscriber.connect(at.as_str()).expect("an endpoint");
            }
            let mut seen = 0;
            while seen < 500 {
                seen += usize::from(next(&mut subscriber, &mut monitor).await.expect("it is there") == topic);
            }
            doomed.kill().await;
            while next(&mut subscriber, &mut monitor).await.is_some() {}
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_come_back_to_a_publisher_that_was_dropped() {
    everywhere(async |python, place| {
        let mut at = place.endpoint("publisher");
        let mut ours = SubSocket::with_options(quick());
        ours.subscribe("");
        let mut theirs = Python::start(python);
        for life in 0..3_u8 {
            let publisher = PubSocket::new();
            let mut monitor = publisher.monitor();
            let bound = soon("the endpoint is free", async {
                loop {
                    match publisher.bind(at.as_str()).await {
                        Ok(bound) => return bound.to_string(),
                        // The one before was dropped just now.
                        Err(_) if life > 0 => tokio::time::sleep(Duration::from_millis(1)).await,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            at = bound.await;
            if life == 0 {
                ours.connect(at.as_str()).expect("an endpoint");
                let setting = json!({ "connect": [at], "subscribe": [""], "RECONNECT_IVL": 10 });
                theirs.open("SUB", setting).await;
            }
            until_ready(&mut monitor).await;
            until_ready(&mut monitor).await;
            let both = async {
                let (mut at_ours, mut at_theirs) = (false, false);
                while !(at_ours && at_theirs) {
                    publisher.send(vec![life]).await.expect("open");
                    let ours = tokio::time::timeout(Duration::from_millis(20), ours.recv()).await;
                    at_ours |= ours.is_ok_and(|message| *message.expect("open").first() == vec![life]);
                    at_theirs |= theirs.take(1000, 20).await.contains(&vec![Bytes::from(vec![life])]);
                }
            };
            soon("both are there again", both).await;
            if life == 1 {
                assert_eq!(publisher.close().await, 0);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_comes_back_under_its_identity_and_another_cannot_take_it() {
    everywhere(async |python, place| {
        let mut router = RouterSocket::new();
        let mut monitor = router.monitor();
        let at = router.bind(place.endpoint("router").as_str()).await.expect("bound").to_string();
        let dealer = |identity: &str| json!({ "connect": [at], "ROUTING_ID": identity, "RECONNECT_IVL": 10 });
        let (mut honest, _) = Python::with(python, "DEALER", dealer("honest")).await;
        honest.send(&["hello".into()]).await;
        assert_eq!(soon("it", router.recv()).await.expect("open").frames(), ["honest", "hello"]);
        let mut waiting: Option<Python> = None;
        for life in 0..3 {
            let mut doomed = match waiting.take() {
                Some(waiting) => waiting,
                None => Python::with(python, "DEALER", dealer("doomed")).await.0,
            };
            let life = Bytes::from(format!("life {life}"));
            doomed.send(std::slice::from_ref(&life)).await;
            assert_eq!(
                soon("it", router.recv()).await.expect("open").frames(),
                [Bytes::from("doomed"), life]
            );
            for (identity, peer) in [("doomed", &mut doomed), ("honest", &mut honest)] {
                router
                    .send(Message::from_frames([identity, "", "and back"]).expect("frames"))
                    .await
                    .expect("there");
                assert_eq!(peer.recv().await, ["", "and back"]);
            }
            let (second, _) = Python::with(python, "DEALER", dealer("doomed")).await;
            while until_gone(&mut monitor).await != DisconnectReason::IdentityInUse {}
            doomed.kill().await;
            // It comes again and again, until the name is free. What it sent before would be lost with a connection that is refused.
            until_ready(&mut monitor).await;
            waiting = Some(second);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dealer_comes_back_to_a_router_that_was_killed() {
    everywhere(async |python, place| {
        let mut options = quick();
        options.identity = "engine".try_into().expect("an identity");
        let mut dealer = DealerSocket::with_options(options);
        let mut monitor = dealer.monitor();
        let mut at = place.endpoint("router").replace(":0", ":*");
        for life in 0..3 {
            let (mut router, endpoints) = Python::with(python, "ROUTER", json!({ "bind": [at] })).await;
            if life == 0 {
                at = endpoints[0].clone();
                dealer.connect(at.as_str()).expect("an endpoint");
            }
            router.send(&["engine".into(), "you first".into()]).await;
            assert_eq!(soon("it", dealer.recv()).await.expect("open").first(), "you first");
            dealer.send("me").await.expect("open");
            assert_eq!(router.recv().await, ["engine", "me"]);
            router.kill().await;
            until_gone(&mut monitor).await;
        }
        // It waits for the next one, who is not there yet.
        let send = dealer.send("patience");
        tokio::pin!(send);
        assert!(futures::poll!(&mut send).is_pending());
        let (mut router, _) = Python::with(python, "ROUTER", json!({ "bind": [at] })).await;
        soon("it is sent", send).await.expect("open");
        assert_eq!(router.recv().await, ["engine", "patience"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_to_those_who_are_left() {
    everywhere(async |python, place| {
        let push = PushSocket::new();
        let mut monitor = push.monitor();
        let at = push.bind(place.endpoint("push").as_str()).await.expect("bound").to_string();
        let pull = || json!({ "connect": [at] });
        let (mut survivor, _) = Python::with(python, "PULL", pull()).await;
        let (mut doomed, _) = Python::with(python, "PULL", pull()).await;
        until_ready(&mut monitor).await;
        until_ready(&mut monitor).await;
        for i in 0..10 {
            push.send(format!("{i}")).await.expect("open");
        }
        // One after the other.
        for (peer, first) in [(&mut survivor, 0), (&mut doomed, 1)] {
            let first = number(&peer.recv().await[0]) - first;
            assert!(first <= 1);
            for _ in 0..4 {
                peer.recv().await;
            }
        }
        doomed.kill().await;
        until_gone(&mut monitor).await;
        for i in 0..100_u64 {
            push.send(format!("{i}")).await.expect("open");
        }
        for i in 0..100 {
            assert_eq!(number(&survivor.recv().await[0]), i);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_to_one_who_dies_fails_and_the_next_one_is_answered() {
    everywhere(async |python, place| {
        let mut req = ReqSocket::with_options(quick());
        let at = req.bind(place.endpoint("req").as_str()).await.expect("bound").to_string();
        let rep = || json!({ "connect": [at] });
        let (mut doomed, _) = Python::with(python, "REP", rep()).await;
        req.send("are you well?").await.expect("open");
        assert_eq!(doomed.recv().await, ["are you well?"]);
        doomed.kill().await;
        assert_eq!(soon("a failure", req.recv()).await, Err(RecvError::PeerGone));
        let (mut other, _) = Python::with(python, "REP", rep()).await;
        soon("another one", req.send("and you?")).await.expect("open");
        assert_eq!(other.recv().await, ["and you?"]);
        other.send(&["yes".into(), "thanks".into()]).await;
        assert_eq!(soon("an answer", req.recv()).await.expect("an answer").frames(), ["yes", "thanks"]);

        let mut rep = RepSocket::new();
        let at = rep.bind(place.endpoint("rep").as_str()).await.expect("bound").to_string();
        let (mut doomed, _) = Python::with(python, "REQ", json!({ "connect": [at] })).await;
        let mut monitor = rep.monitor();
        doomed.send(&["hello?".into()]).await;
        assert_eq!(soon("a question", rep.recv()).await.expect("open").first(), "hello?");
        doomed.kill().await;
        until_gone(&mut monitor).await;
        assert!(rep.send("anybody there?").await.is_err(), "who asked is gone");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_turns_others_away_until_its_peer_is_gone() {
    everywhere(async |python, place| {
        let mut pair = PairSocket::new();
        let mut monitor = pair.monitor();
        let at = pair.bind(place.endpoint("pair").as_str()).await.expect("bound").to_string();
        let setting = || json!({ "connect": [at], "RECONNECT_IVL": 10 });
        let (mut first, _) = Python::with(python, "PAIR", setting()).await;
        first.send(&["first".into()]).await;
        assert_eq!(soon("it", pair.recv()).await.expect("open").first(), "first");
        let (mut second, _) = Python::with(python, "PAIR", setting()).await;
        assert_eq!(until_gone(&mut monitor).await, DisconnectReason::Occupied);
        pair.send("to the first").await.expect("open");
        assert_eq!(first.recv().await, ["to the first"]);
        first.kill().await;
        until_ready(&mut monitor).await;
        second.send(&["second".into()]).await;
        assert_eq!(soon("it", pair.recv()).await.expect("open").first(), "second");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_has_several_endpoints_of_both_kinds() {
    let Some(python) = pythons().first() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut pull = PullSocket::new();
    let mut pushers = Vec::new();
    for place in [Place::Tcp, Place::Tcp, Place::Ipc(folder.path())] {
        let at = pull.bind(place.endpoint("ours").as_str()).await.expect("bound").to_string();
        pushers.push(Python::with(python, "PUSH", json!({ "connect": [at] })).await.0);
    }
    let both = json!({ "bind": ["tcp://127.0.0.1:*", format!("ipc://{}/theirs", folder.path().display())] });
    let (both, endpoints) = Python::with(python, "PUSH", both).await;
    for at in &endpoints {
        pull.connect(at.as_str()).expect("an endpoint");
    }
    soon("five connections", async {
        while pull.peers() < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    pushers.push(both);
    for (pusher, name) in pushers.iter_mut().zip(0_u8..) {
        for i in 0..20 {
            pusher.send(&[vec![name].into(), vec![i].into()]).await;
        }
    }
    let mut seen = [[0; 20]; 4];
    for _ in 0..80 {
        let message = soon("all", pull.recv()).await.expect("open");
        let [name, i] = [0, 1].map(|index| usize::from(message.frames()[index][0]));
        seen[name][i] += 1;
    }
    assert_eq!(seen, [[1; 20]; 4]);
}

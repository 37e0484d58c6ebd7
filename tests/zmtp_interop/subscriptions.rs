//! Subscriptions that come and go while others publish.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use zincmq::zmtp::{Bound, Message, OnFull, Options, PubSocket, SubSocket, XpubSocket, XsubSocket};

use crate::any::soon;
use crate::python::{Python, hex, pythons};

/// What is published in every round: topics of which some are prefixes of others, and the fences.
const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "b", "c", FENCES[0], FENCES[1], FENCES[2]];
const FENCES: [&str; 3] = ["fence 0", "fence 1", "fence 2"];
/// How often subscriptions change.
const CHANGES: usize = 60;
/// How many messages are looked at after each change.
const BEHIND: usize = 100;

/// A subscriber, whoever it is.
enum Subscriber {
    Engine(SubSocket),
    Python(Python),
}

impl Subscriber {
    async fn change(&mut self, subscribe: bool, prefix: &str) {
        match self {
            Self::Engine(socket) if subscribe => socket.subscribe(prefix.to_owned()),
            Self::Engine(socket) => socket.unsubscribe(prefix.to_owned()),
            Self::Python(python) => {
                let order = if subscribe { "subscribe" } else { "unsubscribe" };
                python.ask(order, json!({ "prefix": hex(prefix.as_bytes()) })).await;
            }
        }
    }

    /// Some of what has come; something.
    async fn take(&mut self) -> Vec<Vec<Bytes>> {
        match self {
            Self::Engine(socket) => vec![soon("a message", socket.recv()).await.expect("open").into_frames()],
            Self::Python(python) => {
                let taken = python.take(1_000, 30_000).await;
                assert!(!taken.is_empty(), "something comes");
                taken
            }
        }
    }
}

fn wants(prefixes: &[&str], topic: &str) -> bool {
    prefixes.iter().any(|prefix| topic.starts_with(prefix))
}

/// Subscribes and unsubscribes, and looks at everything that comes: from the first message of a topic on, all of its messages, each once; none that is not
/// subscribed to. A fence is a topic that is subscribed to behind a change: when it comes the change is in force, for nothing overtakes on a connection. How
/// many messages came.
async fn change_and_watch(mut subscriber: Subscriber) -> usize {
    let (mut prefixes, mut fence) = (Vec::new(), FENCES[0]);
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut received = 0;
    for change in 0..CHANGES {
        let before = prefixes.clone();
        let prefix = ["a", "b", "a/b", "a/b/c", "b", "a/b/", "c"][change * 5 % 7];
        let subscribe = !prefixes.contains(&prefix);
        subscriber.change(subscribe, prefix).await;
        if !before.is_empty() {
            subscriber.change(false, fence).await;
        }
        prefixes.retain(|other| *other != fence && *other != prefix);
        fence = FENCES[change % FENCES.len()];
        subscriber.change(true, fence).await;
        prefixes.push(fence);
        if subscribe {
            prefixes.push(prefix);
        }
        // A while behind the fence, too.
        let mut behind = 0;
        while behind < BEHIND {
            for message in subscriber.take().await {
                let text = |index: usize| std::str::from_utf8(&message[index]).expect("text");
                let (topic, number): (_, u64) = (text(0), text(1).parse().expect("a number"));
                received += 1;
                if behind == 0 && topic == fence {
                    last.retain(|topic, _| wants(&prefixes, topic));
                    behind = 1;
                } else {
                    behind += usize::from(behind > 0);
                }
                let is_wanted = wants(&prefixes, topic) || (behind == 0 && wants(&before, topic));
                assert!(is_wanted, "{topic} came; {before:?}, now {prefixes:?}");
                if let Some(before) = last.insert(topic.to_owned(), number) {
                    assert_eq!(number, before + 1, "{topic}");
                }
            }
        }
    }
    received
}

/// Calls `publish` with one round after the other, until it is dropped.
macro_rules! publish_rounds {
    ($socket:expr) => {
        for round in 1_u64.. {
            for topic in TOPICS {
                let message = Message::from_frames([topic.to_owned(), round.to_string()]).expect("frames");
                $socket.send(message).await.expect("open");
            }
        }
    };
}

fn waits() -> Options {
    let mut options = Options::default();
    options.send_hwm = Bound::new(500, 1 << 20);
    options.on_full = OnFull::Block;
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_change_while_the_engine_publishes() {
    let publisher = PubSocket::with_options(waits());
    let endpoint = publisher.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    let mut subscribers = Vec::new();
    for _ in 0..2 {
        let socket = SubSocket::new();
        socket.connect(endpoint.as_str()).expect("an endpoint");
        subscribers.push(Subscriber::Engine(socket));
    }
    for python in pythons() {
        let (python, _) = Python::with(python, "SUB", json!({ "connect": [endpoint] })).await;
        subscribers.push(Subscriber::Python(python));
    }
    let watches = futures::future::join_all(subscribers.into_iter().map(change_and_watch));
    tokio::select! {
        received = watches => println!("received: {received:?}"),
        () = async { publish_rounds!(publisher) } => unreachable!("it goes on"),
    }
    soon("all subscriptions end", async {
        while publisher.subscriptions() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_change_while_libzmq_publishes() {
    for python in pythons() {
        for kind in ["PUB", "XPUB"] {
            let setting = json!({ "bind": ["tcp://127.0.0.1:*"], "SNDHWM": 0 });
            let (mut publisher, endpoints) = Python::with(python, kind, setting).await;
            publisher.order("flood", json!({ "topics": TOPICS.map(|topic| hex(topic.as_bytes())) })).await;
            let socket = SubSocket::new();
            socket.connect(endpoints[0].as_str()).expect("an endpoint");
            let received = change_and_watch(Subscriber::Engine(socket)).await;
            publisher.order("close", json!({})).await;
            println!("{received} received in {} rounds", publisher.answer().await["rounds"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_counts_as_often_as_it_was_made() {
    let mut publisher = XpubSocket::new();
    let endpoint = publisher.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    let mut told = async || soon("a subscription", publisher.recv()).await.expect("open").first().clone();
    let mut subscriber = SubSocket::new();
    subscriber.connect(endpoint.as_str()).expect("an endpoint");
    for _ in 0..2 {
        subscriber.subscribe("twice");
    }
    subscriber.unsubscribe("twice");
    subscriber.subscribe("then");
    // They may have been made before there was a connection: then they come in any order.
    let mut first = [told().await, told().await];
    first.sort_unstable();
    assert_eq!(first, ["\x01then", "\x01twice"]);
    if let Some(python) = pythons().first() {
        let twice = hex(b"twice");
        let (mut second, _) = Python::with(
            python,
            "SUB",
            json!({ "connect": [endpoint], "subscribe": [twice, twice, hex(b"two")] }),
        )
        .await;
        assert_eq!(told().await, "\x01two", "another one's subscription to the same is no news");
        subscriber.unsubscribe("twice");
        subscriber.unsubscribe("then");
        assert_eq!(told().await, "\x00then");
        second.ask("unsubscribe", json!({ "prefix": twice })).await;
        second.ask("unsubscribe", json!({ "prefix": twice })).await;
        assert_eq!(told().await, "\x00twice", "it was the last");
        second.kill().await;
        assert_eq!(told().await, "\x00two", "it went with its connection");
    } else {
        subscriber.unsubscribe("twice");
        assert_eq!(told().await, "\x00twice");
    }
    // It is the same one that still receives.
    subscriber.subscribe("still");
    assert_eq!(told().await, "\x01still");
    publisher.send("still there").await.expect("open");
    assert_eq!(soon("the message", subscriber.recv()).await.expect("open").first(), "still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_xsub_sends_goes_up() {
    let mut publisher = XpubSocket::new();
    let endpoint = publisher.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    let mut next = async || soon("a message", publisher.recv()).await.expect("open").into_frames();
    let mut subscriber = XsubSocket::new();
    subscriber.connect(endpoint.as_str()).expect("an endpoint");
    subscriber.send("\x01topic");
    assert_eq!(next().await, ["\x01topic"]);
    subscriber.send("upward");
    subscriber.send(Message::from_frames(["\x01", "two frames"]).expect("frames"));
    assert_eq!(next().await, ["upward"]);
    assert_eq!(next().await, ["\x01", "two frames"]);
    for python in pythons() {
        let (mut other, _) = Python::with(python, "XSUB", json!({ "connect": [endpoint] })).await;
        other.send(&["\x01other".into()]).await;
        assert_eq!(next().await, ["\x01other"]);
        other.send(&["hello".into()]).await;
        assert_eq!(next().await, ["hello"]);
        other.send(&["\x00other".into()]).await;
        assert_eq!(next().await, ["\x00other"]);

        let (mut other, endpoints) =
            Python::with(python, "XPUB", json!({ "bind": ["tcp://127.0.0.1:*"] })).await;
        subscriber.connect(endpoints[0].as_str()).expect("an endpoint");
        assert_eq!(other.recv().await, ["\x01topic"]);
        subscriber.send("all hear it");
        assert_eq!(other.recv().await, ["all hear it"]);
        assert_eq!(next().await, ["all hear it"]);
        other.send(&["topic of another".into()]).await;
        assert_eq!(soon("the message", subscriber.recv()).await.expect("open").first(), "topic of another");
    }
}

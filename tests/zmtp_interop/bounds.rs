//! What waits is bounded, and what becomes of more is as the options say.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use zincmq::zmtp::{
    Backlog, Bound, DealerSocket, DisconnectReason, Message, MonitorEvent, OnFull, Options, PubSocket,
    PullSocket, PushSocket, SubSocket, TrySendError,
};

use crate::any::{PATIENCE, event, soon, until};
use crate::python::{Python, counting, pythons};

/// How much may wait for a subscriber in these tests.
const BOUND: Bound = Bound::new(64, 1 << 20);
/// What one message has, beside its number.
const BYTES: usize = 8 << 10;
/// A message that waits for as long as this waits.
const WAITS: Duration = Duration::from_millis(300);

fn numbered(number: u64) -> Message {
    Message::from_frames([number.to_string().into(), counting(0, BYTES)]).expect("frames")
}

fn number(frame: &[u8]) -> u64 {
    std::str::from_utf8(frame).expect("text").parse().expect("a number")
}

/// A publisher with a subscriber that takes everything at once, and one in Python that is stopped and started.
struct Stage {
    publisher: PubSocket,
    honest: SubSocket,
    other: Python,
    /// What the one in Python has received.
    received: Vec<u64>,
    sent: u64,
}

impl Stage {
    async fn new(on_full: OnFull) -> Option<Self> {
        let python = pythons().first()?;
        let mut options = Options::default();
        options.send_hwm = BOUND;
        options.on_full = on_full;
        // So that little goes to a process that is stopped.
        options.tcp_send_buffer = Some(64 << 10);
        let publisher = PubSocket::with_options(options);
        let at = publisher.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
        let mut honest = SubSocket::new();
        honest.subscribe("");
        honest.connect(at.as_str()).expect("an endpoint");
        let setting = json!({ "connect": [at], "subscribe": [""], "RCVHWM": 10, "RCVBUF": 64 << 10, "RECONNECT_IVL": 10 });
        let (mut other, _) = Python::with(python, "SUB", setting).await;
        until("both are there", || publisher.peers() == 2).await;
        // Both have subscribed when both receive.
        while other.take(1, 5).await.is_empty() {
            publisher.send("0").await.expect("open");
        }
        publisher.send("first").await.expect("open");
        while soon("the first", honest.recv()).await.expect("open").first() != "first" {}
        while other.recv().await != ["first"] {}
        Some(Self { publisher, honest, other, received: Vec::new(), sent: 0 })
    }

    /// Publishes the next number, and waits until the honest one has it.
    async fn publish(&mut self) {
        self.sent += 1;
        self.publisher.send(numbered(self.sent)).await.expect("open");
        self.is_at_honest().await;
    }

    async fn is_at_honest(&mut self) {
        let message = soon("it", self.honest.recv()).await.expect("open");
        assert_eq!(number(message.first()), self.sent, "the honest one gets everything");
        assert!(*message.frames()[1] == counting(0, BYTES));
    }

    /// Publishes to the one that is stopped until it is so.
    async fn publish_until(&mut self, what: &str, is_so: impl Fn(&PubSocket) -> bool) {
        const ENOUGH: u64 = 20_000;
        while !is_so(&self.publisher) {
            self.publish().await;
            assert!(self.sent < ENOUGH, "{what}");
        }
    }

    async fn take(&mut self) {
        for message in self.other.take(1_000, 20).await {
            self.received.push(number(&message[0]));
        }
    }

    /// Lets the one in Python go on, and goes on until it has received what was published last: that, too, may be dropped as long as it is behind.
    async fn go_on(&mut self) {
        self.other.signal("CONT");
        loop {
            self.publish().await;
            self.take().await;
            if self.received.last() == Some(&self.sent) {
                break;
            }
        }
        assert!(self.received.is_sorted_by(|one, next| one < next), "in order, and each once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_newest_keeps_what_came_first_and_counts_the_rest() {
    let Some(mut stage) = Stage::new(OnFull::DropNewest).await else { return };
    stage.publish().await;
    stage.other.stop().await;
    stage.publish_until("some are dropped", |publisher| publisher.dropped() >= 200).await;
    let (sent, kept) = (stage.sent, stage.sent - stage.publisher.dropped());
    stage.go_on().await;
    // The system may have taken a little more at any time, and made room for one that came later.
    let oldest: Vec<u64> = (1..=BOUND.messages as u64).collect();
    assert!(stage.received.starts_with(&oldest), "{:?}", stage.received);
    assert_eq!(stage.received.iter().filter(|number| **number <= sent).count() as u64, kept);
    assert_eq!(stage.sent - stage.received.len() as u64, stage.publisher.dropped());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_oldest_keeps_what_came_last_and_counts_the_rest() {
    let Some(mut stage) = Stage::new(OnFull::DropOldest).await else { return };
    stage.publish().await;
    stage.other.stop().await;
    stage.publish_until("some are dropped", |publisher| publisher.dropped() >= 200).await;
    let sent = stage.sent;
    stage.other.signal("CONT");
    // With nothing more being sent, so that nothing more is dropped.
    while stage.received.last() != Some(&sent) {
        stage.take().await;
    }
    assert!(stage.received.is_sorted_by(|one, next| one < next), "in order, and each once");
    // What was about to be written counts, too, and a run of messages goes as one.
    let newest: Vec<u64> = (sent - BOUND.messages as u64 / 4..=sent).collect();
    assert!(stage.received.ends_with(&newest), "{:?}", stage.received);
    assert_eq!(sent - stage.received.len() as u64, stage.publisher.dropped());
    stage.go_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnect_cuts_the_one_that_stopped_and_nobody_else() {
    let Some(mut stage) = Stage::new(OnFull::Disconnect).await else { return };
    stage.publish().await;
    let mut monitor = stage.publisher.monitor();
    stage.other.stop().await;
    stage.publish_until("one is cut", |publisher| publisher.peers() == 1).await;
    let (reason, lost) = event(&mut monitor, "it is cut", |event| match event {
        MonitorEvent::Disconnected { reason, lost, .. } => Some((reason, lost)),
        _ => None,
    })
    .await;
    assert_eq!(reason, DisconnectReason::TooSlow);
    assert!(lost > 0 && lost <= BOUND.messages + BOUND.messages / 8, "{lost}");
    assert_eq!(stage.publisher.dropped(), lost as u64, "what went with it is counted");
    stage.go_on().await;
    assert!(stage.publisher.peers() == 2, "it came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_waits_for_the_one_that_stopped_and_loses_nothing() {
    let Some(mut stage) = Stage::new(OnFull::Block).await else { return };
    stage.publish().await;
    stage.other.stop().await;
    loop {
        stage.sent += 1;
        let sent = tokio::time::timeout(WAITS, stage.publisher.send(numbered(stage.sent))).await;
        if sent.is_err() {
            break;
        }
        stage.is_at_honest().await;
        assert!(stage.sent < 20_000, "it waits");
    }
    // The call that was cancelled has sent nothing.
    {
        let Stage { publisher, other, received, sent, .. } = &mut stage;
        let send = publisher.send(numbered(*sent));
        tokio::pin!(send);
        assert!(futures::poll!(&mut send).is_pending());
        other.signal("CONT");
        // Python answers its orders one by one, so that none of them may be dropped.
        let take = async {
            while received.last().is_none_or(|last| last < sent) {
                received.extend(other.take(100, 20).await.iter().map(|message| number(&message[0])));
            }
        };
        let (sent, ()) = soon("it goes on", async { tokio::join!(send, take) }).await;
        sent.expect("open");
    }
    stage.is_at_honest().await;
    stage.go_on().await;
    assert_eq!(stage.received, (1..=stage.sent).collect::<Vec<u64>>());
    assert_eq!(stage.publisher.dropped(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_waits_without_peers() {
    let push = PushSocket::new();
    let at = push.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    assert!(
        matches!(push.try_send("nobody"), Err(TrySendError::Full(message)) if message.first() == "nobody")
    );
    assert!(tokio::time::timeout(WAITS, push.send("given up")).await.is_err());
    let send = push.send("patient");
    tokio::pin!(send);
    assert!(futures::poll!(&mut send).is_pending());
    let mut pull = PullSocket::new();
    pull.connect(at.as_str()).expect("an endpoint");
    soon("it is sent", send).await.expect("open");
    assert_eq!(soon("it", pull.recv()).await.expect("open").first(), "patient");
    drop(pull);
    until("it is gone", || push.peers() == 0).await;
    assert!(matches!(push.try_send("nobody"), Err(TrySendError::Full(_))));
    if let Some(python) = pythons().first() {
        let (mut pull, _) = Python::with(python, "PULL", json!({ "connect": [at] })).await;
        soon("it is sent", push.send("to Python")).await.expect("open");
        assert_eq!(pull.recv().await, ["to Python"]);
    }
}

/// A stopped puller of Python's, and a pusher with some megabytes for it.
async fn with_much_to_send(linger: Duration) -> Option<(PushSocket, Python)> {
    const MESSAGES: u64 = 400;
    let python = pythons().first()?;
    let mut options = Options::default();
    options.linger = linger;
    options.tcp_send_buffer = Some(64 << 10);
    let push = PushSocket::with_options(options);
    let at = push.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    let setting = json!({ "connect": [at], "RCVHWM": 10, "RCVBUF": 64 << 10 });
    let (pull, _) = Python::with(python, "PULL", setting).await;
    until("it is there", || push.peers() == 1).await;
    pull.stop().await;
    for number in 1..=MESSAGES {
        push.send(numbered(number)).await.expect("open");
    }
    Some((push, pull))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_waits_for_what_was_sent() {
    let Some((push, mut pull)) = with_much_to_send(Duration::from_secs(60)).await else { return };
    let close = push.close();
    tokio::pin!(close);
    assert!(tokio::time::timeout(WAITS, &mut close).await.is_err(), "it waits");
    pull.signal("CONT");
    let (left, ()) = tokio::join!(soon("it is closed", close), async {
        for i in 1..=400 {
            assert_eq!(number(&pull.recv().await[0]), i);
        }
    });
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_waits_no_longer_than_linger() {
    let Some((push, pull)) = with_much_to_send(Duration::from_millis(100)).await else { return };
    let left = soon("it is closed", push.close()).await;
    assert!(left > 0 && left <= 400, "{left}");
    drop(pull);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_arrives_though_there_is_something_unread_when_it_is_closed() {
    const MESSAGES: u64 = 100;
    let mut options = Options::default();
    options.recv_hwm = Bound::new(1, 1);
    options.linger = PATIENCE;
    let ours = DealerSocket::with_options(options);
    let at = ours.bind("tcp://127.0.0.1:0").await.expect("bound");
    let mut theirs = DealerSocket::with_options(reluctant());
    theirs.connect(at).expect("an endpoint");
    for number in 0..20 {
        theirs.send(numbered(number)).await.expect("open");
    }
    for number in 0..MESSAGES {
        ours.send(numbered(number)).await.expect("open");
    }
    let take = async move {
        for i in 0..MESSAGES {
            assert_eq!(number(soon("it", theirs.recv()).await.expect("open").first()), i);
        }
    };
    let (left, ()) = tokio::join!(ours.close(), take);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_publisher_that_never_waits_serves_its_subscribers_on_one_thread() {
    let publisher = PubSocket::new();
    let at = publisher.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    let ours = async {
        let mut subscriber = SubSocket::new();
        subscriber.subscribe("");
        subscriber.connect(at.as_str()).expect("an endpoint");
        for _ in 0..20_000 {
            subscriber.recv().await.expect("open");
        }
    };
    let theirs = async {
        let Some(python) = pythons().first() else { return };
        let (mut subscriber, _) =
            Python::with(python, "SUB", json!({ "connect": [at], "subscribe": [""] })).await;
        let mut count = 0;
        while count < 20_000 {
            count += subscriber.take(1_000, 1_000).await.len();
        }
    };
    let both = async { tokio::join!(ours, theirs) };
    let publish = async {
        for number in 0_u64.. {
            publisher.send(Bytes::copy_from_slice(&number.to_be_bytes())).await.expect("open");
        }
    };
    tokio::select! {
        _ = soon("both receive", both) => {}
        () = publish => unreachable!("it goes on"),
    }
}

/// Four tasks send as fast as they can; the peer is full at first, and takes one message after the other then.
async fn keeps_to<F: Future<Output = ()> + Send + 'static>(
    bound: Bound,
    run: Bound,
    send: impl Fn() -> F,
    mut backlog: impl FnMut() -> Backlog,
    mut take: impl AsyncFnMut(),
) {
    const TAKEN: usize = 300;
    let senders: Vec<_> = (0..4).map(|_| tokio::spawn(send())).collect();
    until("it is full", || backlog().messages >= bound.messages).await;
    let mut most = Bound::new(0, 0);
    for _ in 0..TAKEN {
        let now = backlog();
        most = Bound::new(most.messages.max(now.messages), most.bytes.max(now.bytes));
        take().await;
    }
    senders.iter().for_each(tokio::task::JoinHandle::abort);
    println!("at most {most:?} of {bound:?}");
    assert!(
        most.messages <= bound.messages + run.messages && most.bytes <= bound.bytes + run.bytes,
        "{most:?}"
    );
}

/// Options of a peer that takes little at a time, and is called by a name.
fn reluctant() -> Options {
    let mut options = Options::default();
    options.identity = "reluctant".try_into().expect("an identity");
    options.recv_hwm = Bound::new(1, 1);
    options.tcp_recv_buffer = Some(16 << 10);
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_senders_of_one_socket_keep_to_the_bound_together() {
    let bound = Bound::new(100, 1 << 20);
    let mut options = Options::default();
    options.send_hwm = bound;
    options.on_full = OnFull::Block;
    options.tcp_send_buffer = Some(16 << 10);

    let push = Arc::new(PushSocket::with_options(options.clone()));
    let at = push.bind("tcp://127.0.0.1:0").await.expect("bound");
    let mut pull = PullSocket::with_options(reluctant());
    pull.connect(at).expect("an endpoint");
    until("it is there", || push.backlog(b"reluctant").is_some()).await;
    let send = || {
        let push = Arc::clone(&push);
        async move { while push.send(vec![0; 1000]).await.is_ok() {} }
    };
    let take = async || _ = soon("it", pull.recv()).await.expect("open");
    keeps_to(bound, Bound::new(0, 1100), send, || push.backlog(b"reluctant").expect("there"), take).await;

    let publisher = Arc::new(PubSocket::with_options(options));
    let at = publisher.bind("tcp://127.0.0.1:0").await.expect("bound");
    let mut subscriber = SubSocket::with_options(reluctant());
    subscriber.subscribe("");
    subscriber.connect(at).expect("an endpoint");
    until("it is there", || publisher.subscriptions() == 1).await;
    let send = || {
        let publisher = Arc::clone(&publisher);
        async move { while publisher.send(vec![0; 1000]).await.is_ok() {} }
    };
    // What is on its way to several is a run of at most an eighth of the bound, and 64 KiB.
    let run = Bound::new(100 / 8, (64 << 10) + 1100);
    let take = async || _ = soon("it", subscriber.recv()).await.expect("open");
    keeps_to(bound, run, send, || publisher.backlog(b"reluctant").expect("there"), take).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_several_tasks_send_on_one_socket_arrives_once_and_in_the_order_of_each() {
    const EACH: u64 = 5_000;
    let push = Arc::new(PushSocket::new());
    let at = push.bind("tcp://127.0.0.1:0").await.expect("bound");
    let mut pull = PullSocket::new();
    pull.connect(at).expect("an endpoint");
    let senders = (0..4_u8).map(|name| {
        let push = Arc::clone(&push);
        tokio::spawn(async move {
            for number in 0..EACH {
                let message = Message::from_frames([vec![name], number.to_string().into()]).expect("frames");
                push.send(message).await.expect("open");
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    let mut next = [0; 4];
    for _ in 0..4 * EACH {
        let message = soon("all", pull.recv()).await.expect("open");
        let next = &mut next[usize::from(message.first()[0])];
        assert_eq!(number(&message.frames()[1]), *next);
        *next += 1;
    }
    for sender in senders {
        sender.await.expect("all was sent");
    }
}

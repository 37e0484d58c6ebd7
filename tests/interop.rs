//! The library and libzmq, by way of Python: the peers are the scripts in `tests/python` and `examples/python`.
//!
//! They need a Python with pyzmq: the one of `.venv` at the root of the repository, which `tests/run.sh` makes, or the one that
//! `ZINCMQ_PYTHON` names. Where there is none these tests say so and pass, unless `ZINCMQ_REQUIRE_PYTHON=1` is set.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for modules without IO"
)]

mod common;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use common::{Kind, address};
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use zincmq::prelude::*;
use zincmq::{LeaveReason, Messages, Receipt, Stats};

/// Waits for what should happen soon; two minutes allow for a machine that is busy with other things.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("did not happen within two minutes")
}

/// The Python to run peers with; `None`, and a word on it, where tests are to be skipped.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let python = match std::env::var_os("ZINCMQ_PYTHON") {
            Some(path) => PathBuf::from(path),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"),
        };
        let works = std::process::Command::new(&python)
            .args(["-c", "import zmq"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        let required = std::env::var_os("ZINCMQ_REQUIRE_PYTHON").is_some_and(|value| value == "1");
        assert!(works || !required, "{} has no pyzmq: run tests/run.sh, which makes .venv", python.display());
        works.then_some(python)
    });
    if python.is_none() {
        println!(
            "skipped: no Python with pyzmq. tests/run.sh makes one in .venv; ZINCMQ_PYTHON names another"
        );
    }
    python.as_deref()
}

/// A peer in another process, killed when this is dropped.
struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Runs a script of `tests/python`.
    fn script(python: &Path, name: &str, arguments: &[&str]) -> Self {
        Self::start(python, &format!("tests/python/{name}"), arguments)
    }

    /// Runs the example client.
    fn example(python: &Path, arguments: &[&str]) -> Self {
        Self::start(python, "examples/python/zincmq_client.py", arguments)
    }

    fn start(python: &Path, script: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(python)
            .arg("-B")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { stdin: child.stdin.take(), child, lines }
    }

    async fn line(&mut self) -> String {
        soon(self.lines.next_line()).await.expect("UTF-8").expect("the peer has more to say")
    }

    /// The next line, which is these words and what follows them.
    async fn words(&mut self, first: &str) -> Vec<String> {
        let line = self.line().await;
        let rest = line.strip_prefix(first).unwrap_or_else(|| panic!("{line:?} instead of {first:?}"));
        rest.split_whitespace().map(str::to_owned).collect()
    }

    async fn numbers(&mut self, first: &str) -> Vec<u64> {
        self.words(first).await.iter().map(|word| word.parse().expect("a number")).collect()
    }

    /// The next line, a JSON object with this event.
    async fn event(&mut self, event: &str) -> serde_json::Value {
        let line = self.line().await;
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["event"], event, "{line}");
        value
    }

    async fn tell(&mut self, word: &str) {
        let stdin = self.stdin.as_mut().expect("still open");
        soon(stdin.write_all(format!("{word}\n").as_bytes())).await.expect("the peer listens");
    }

    /// Waits until the peer has come to its end, and a good one.
    async fn finish(mut self) {
        drop(self.stdin.take());
        assert_eq!(soon(self.lines.next_line()).await.expect("UTF-8"), None, "it has no more to say");
        let status = soon(self.child.wait()).await.expect("a status");
        assert!(status.success(), "{status}");
    }
}

fn message(topic: &str, text: impl Into<String>) -> Message {
    Message::new(topic, text.into()).unwrap()
}

fn text(message: &Message) -> &str {
    std::str::from_utf8(message.payload()).expect("text")
}

async fn join(host: &Host) -> Client {
    soon(Client::builder().join(host.address())).await.expect("join")
}

async fn next(messages: &mut Messages) -> Message {
    soon(messages.try_next()).await.expect("no hole").expect("no end")
}

/// Waits until the endpoint has counted so much.
async fn until_counted(endpoint: &dyn Endpoint, enough: impl Fn(&Stats) -> bool) {
    let counted = async {
        while !enough(&endpoint.stats()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(120), counted).await.is_err() {
        panic!("not counted: {:?}", endpoint.stats());
    }
}

/// Makes the test run once over each transport that Python speaks.
macro_rules! over_tcp_and_ipc {
    ($(async fn $name:ident($kind:ident: Kind) $body:block)*) => {
        mod tcp { use super::*; $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(Kind::Tcp).await })* }
        mod ipc { use super::*; $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(Kind::Ipc).await })* }
        $(async fn $name($kind: Kind) $body)*
    };
}

over_tcp_and_ipc! {
    async fn the_example_joins_receives_sends_and_leaves(kind: Kind) {
        let Some(python) = python() else { return };
        let host = Host::builder().bind(address(kind)).await.unwrap();
        let mut events = host.events();
        let client = join(&host).await;
        let mut messages = client.messages();
        let to = host.address().to_string();

        let mut listener = Peer::example(python, &[&to, "--count", "3"]);
        listener.event("joined").await;
        let mut sender =
            Peer::example(python, &[&to, "--send", "news", "one", "--send", "talk", "zwö", "--count", "1"]);
        let joined = sender.event("joined").await;
        let mut positions = Vec::new();
        for (origin_seq, (topic, payload)) in [("news", "one"), ("talk", "zwö")].into_iter().enumerate() {
            let received = next(&mut messages).await;
            assert_eq!((received.topic().as_str(), text(&received)), (topic, payload));
            assert_eq!(received.origin_seq(), origin_seq as u64 + 1);
            assert_eq!(received.origin().to_string(), joined["id"]);
            let position = received.position().unwrap();
            for (peer, event) in [(&mut sender, "ordered"), (&mut listener, "message")] {
                let seen = peer.event(event).await;
                assert_eq!((&seen["epoch"], &seen["seq"]), (&position.epoch.into(), &position.seq.into()));
                assert_eq!((&seen["topic"], &seen["payload"]), (&topic.into(), &payload.into()));
                assert_eq!((&seen["origin"], &seen["origin_seq"]), (&joined["id"], &received.origin_seq().into()));
            }
            positions.push(position);
        }
        client.send(message("answer", "three")).await.unwrap();
        for peer in [&mut sender, &mut listener] {
            let seen = peer.event("message").await;
            assert_eq!((&seen["topic"], &seen["payload"]), (&"answer".into(), &"three".into()));
            assert_eq!(seen["origin"], client.id().to_string());
            assert_eq!(seen["seq"], positions[1].seq + 1);
        }
        sender.finish().await;
        listener.finish().await;
        let mut left = 0;
        while left < 2 {
            if let Event::MemberLeft { reason, .. } = soon(events.next()).await.unwrap() {
                assert_eq!(reason, LeaveReason::Left);
                left += 1;
            }
        }
        let mut last = Peer::example(python, &[&to]);
        last.event("joined").await;
        let report = soon(host.shutdown()).await;
        assert_eq!((report.members, report.unknown), (0, 0), "it leaves with the host");
        last.finish().await;
        let stats = host.stats();
        assert_eq!((stats.malformed_control, stats.malformed_submits, stats.duplicates), (0, 0, 0));
    }

    async fn python_peers_that_take_all_and_some_share_the_order(kind: Kind) {
        let Some(python) = python() else { return };
        let cluster = Cluster { rust: 1, rust_share: 2000, python: &[&[], &[], &["t1", "t3"]], python_share: 2000 };
        cluster.run(python, kind).await;
    }

    async fn four_senders_with_100_000_messages_are_seen_in_one_order(kind: Kind) {
        let Some(python) = python() else { return };
        let cluster = Cluster { rust: 3, rust_share: 25_000, python: &[&[]], python_share: 25_000 };
        cluster.run(python, kind).await;
    }

    async fn a_plain_sub_receives_all_windows_after_its_first(kind: Kind) {
        let Some(python) = python() else { return };
        let host = Host::builder().echo(true).bind(address(kind)).await.unwrap();
        let mut at_host = host.messages();
        let mut subscriber = Peer::script(python, "plain_sub.py", &[&host.bound().broadcast.to_string()]);
        let client = join(&host).await;
        // Its subscription is there when it receives something.
        let first = async {
            let mut i = 0_u64;
            loop {
                host.send(message("early", i.to_string())).await.unwrap();
                i += 1;
                if let Ok(line) = tokio::time::timeout(Duration::from_millis(50), subscriber.lines.next_line()).await {
                    return line.unwrap().expect("the subscriber is there");
                }
            }
        };
        let first = soon(first).await;
        for i in 0..5000 {
            client.send(message(["a", "b.c", "ä"][i % 3], format!("from the client {i}"))).await.unwrap();
            host.send(message("h", format!("from the host {i}"))).await.unwrap();
        }
        // Behind everything, the client's messages included.
        let _ = soon(client.shutdown()).await;
        host.send(message("end", "")).await.unwrap();
        let mut expected = Vec::new();
        loop {
            let message = next(&mut at_host).await;
            expected.push(format!(
                "{} {} {} {} {}",
                message.position().unwrap().seq,
                hex(message.origin()),
                message.origin_seq(),
                message.topic(),
                text(&message)
            ));
            if message.topic().as_str() == "end" {
                break;
            }
        }
        let from = expected.iter().position(|line| *line == first).expect("the first is one of those sent");
        for expected in &expected[from + 1..] {
            assert_eq!(subscriber.line().await.trim_end(), expected.trim_end());
        }
        subscriber.finish().await;
    }

    async fn rubbish_on_control_and_submit_is_counted_and_disturbs_nobody(kind: Kind) {
        let Some(python) = python() else { return };
        let host = Host::builder().max_message(65_536).bind(address(kind)).await.unwrap();
        let mut events = host.events();
        let watch = Watch::start(&host).await;
        let mut vandal = Peer::script(python, "vandal.py", &[&host.address().to_string()]);
        let counts = vandal.numbers("done").await;
        let expected = (counts[0], counts[1], counts[2]);
        until_counted(&host, |stats| {
            (stats.malformed_control, stats.malformed_submits, stats.unknown_sessions) == expected
        })
        .await;
        let seen = watch.finish(&host).await;
        // What the vandal did as a member should is there, too.
        assert_eq!(seen.iter().filter(|message| message.topic().as_str() == "vandal").count(), 1);
        assert_eq!(host.stats().duplicates, 0);
        vandal.finish().await;
        while !matches!(soon(events.next()).await.unwrap(), Event::MemberLeft { .. }) {}
    }

    async fn an_xsub_that_sends_on_broadcast_disturbs_nobody(kind: Kind) {
        let Some(python) = python() else { return };
        let host = Host::builder().bind(address(kind)).await.unwrap();
        let watch = Watch::start(&host).await;
        let mut vandals: Vec<_> = (0..2)
            .map(|_| Peer::script(python, "xsub.py", &[&host.bound().broadcast.to_string()]))
            .collect();
        for vandal in &mut vandals {
            vandal.words("sent").await;
        }
        let seen = watch.finish(&host).await;
        assert!(seen.iter().all(|message| message.topic().as_str() == "steady"));
        for vandal in vandals {
            vandal.finish().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_false_publisher_counts_what_is_malformed_and_delivers_the_rest() {
    let Some(python) = python() else { return };
    let mut host = Peer::script(python, "false_host.py", &[]);
    let address = host.words("listening").await.remove(0);
    let client = soon(Client::builder().join(address)).await.unwrap();
    let mut events = client.events();
    let mut messages = client.messages();
    host.tell("rubbish").await;
    let [malformed, barriers] = host.numbers("malformed").await[..] else { panic!("two numbers") };
    assert_eq!(text(&next(&mut messages).await), "first");
    let gap = soon(messages.next()).await.expect("no end");
    let Err(RecvError::Reset { after, resume_at }) = gap else { panic!("{gap:?}") };
    assert_eq!(after, Some(Position { epoch: 1_000_000, seq: 1 }));
    assert_eq!(resume_at, Position { epoch: 1_000_000, seq: 100 });
    assert_eq!(text(&next(&mut messages).await), "tenth");
    until_counted(&client, |stats| stats.duplicates == 4).await;
    let counted = client.stats().malformed_broadcasts;
    assert!((1..=barriers).any(|came| counted == malformed + 3 * came), "{counted}: {malformed}, {barriers}");
    assert_eq!(client.stats().lost_windows, 8);

    host.tell("rubbish on control").await;
    until_counted(&client, |stats| stats.malformed_control == 5).await;

    // The highest numbers there are, in two sessions: nothing overflows, and the client goes on.
    for sessions in 1..=2 {
        host.tell("absurd").await;
        let gap = soon(messages.next()).await.expect("no end");
        assert!(matches!(gap, Err(RecvError::Reset { .. })), "{gap:?}");
        assert_eq!(text(&next(&mut messages).await), "absurd");
        assert_eq!(client.stats().sessions, sessions);
        host.tell("close").await;
        while !matches!(soon(events.next()).await, Some(Event::Connected { .. })) {}
        let gap = soon(messages.next()).await.expect("no end");
        assert!(matches!(gap, Err(RecvError::Reset { .. })), "{gap:?}");
    }
    drop(client);
    host.finish().await;
}

/// The id as the scripts write it.
fn hex(id: EndpointId) -> String {
    id.to_string().replace('-', "")
}

/// A client that sends without end and one that receives, for as long as others do their worst.
struct Watch {
    stop: tokio_util::sync::CancellationToken,
    sending: tokio::task::JoinHandle<(Client, u64)>,
    receiver: Client,
    messages: Messages,
}

impl Watch {
    async fn start(host: &Host) -> Self {
        let (sender, receiver) = (join(host).await, join(host).await);
        let messages = receiver.messages();
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while !stopped.is_cancelled() {
                let receipt = sender.send(message("steady", sent.to_string())).await.unwrap();
                sent += 1;
                soon(receipt.ordered()).await.unwrap();
            }
            (sender, sent)
        });
        Self { stop, sending, receiver, messages }
    }

    /// Asserts that everything sent arrived, once and in order, and returns all that did.
    async fn finish(mut self, host: &Host) -> Vec<Message> {
        self.stop.cancel();
        let (sender, sent) = soon(self.sending).await.unwrap();
        host.send(message("steady", "end")).await.unwrap();
        let (mut seen, mut expected) = (Vec::new(), 0);
        loop {
            let message = next(&mut self.messages).await;
            if message.origin() == sender.id() {
                assert_eq!(text(&message), expected.to_string());
                expected += 1;
            }
            let last = message.origin() == host.id();
            seen.push(message);
            if last {
                break;
            }
        }
        assert_eq!(expected, sent);
        let seqs: Vec<u64> = seen.iter().map(|message| message.position().unwrap().seq).collect();
        assert!(seqs.iter().zip(&seqs[1..]).all(|(a, b)| a + 1 == *b), "no position is missing");
        let stats = self.receiver.stats();
        assert_eq!((stats.lost_windows, stats.malformed_broadcasts, stats.duplicates), (0, 0, 0));
        seen
    }
}

/// A host, clients of the library and clients in Python, all of whom send at once and watch what comes.
struct Cluster<'a> {
    rust: usize,
    rust_share: u64,
    /// The prefixes that each Python client takes; none for everything.
    python: &'a [&'a [&'a str]],
    python_share: u64,
}

/// A message as every client must see it: `epoch seq origin origin_seq topic payload`.
type Line = String;

impl Cluster<'_> {
    const TOPICS: [&'static str; 8] = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];
    /// How many messages each may have under way.
    const WINDOW: usize = 20_000;

    async fn run(&self, python: &Path, kind: Kind) {
        let total = self.rust as u64 * self.rust_share + self.python.len() as u64 * self.python_share;
        let host = Host::builder().bind(address(kind)).await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..self.rust {
            clients.push(soon(Client::builder().echo(true).join(host.address())).await.unwrap());
        }
        let mut peers = Vec::new();
        for prefixes in self.python {
            // Senders number from 1 and go round the topics, so each has an eighth of all.
            let due = total / 8 * if prefixes.is_empty() { 8 } else { prefixes.len() as u64 };
            let (share, due) = (self.python_share.to_string(), due.to_string());
            let to = host.address().to_string();
            let arguments: Vec<&str> =
                [&*to, &*share, &*due].into_iter().chain(prefixes.iter().copied()).collect();
            let mut peer = Peer::script(python, "flood.py", &arguments);
            let id = peer.words("joined").await.remove(0);
            peers.push((peer, id));
        }

        let reading: Vec<_> =
            clients.iter().map(|client| tokio::spawn(read(client.messages(), total))).collect();
        for (peer, _) in &mut peers {
            peer.tell("go").await;
        }
        let writing: Vec<_> =
            clients.iter().map(|client| tokio::spawn(write(client.clone(), self.rust_share))).collect();
        let reading_python: Vec<_> = peers
            .into_iter()
            .map(|(mut peer, _)| {
                tokio::spawn(async move {
                    let mut lines = Vec::new();
                    while let Some(line) = soon(peer.lines.next_line()).await.expect("UTF-8") {
                        lines.push(line);
                    }
                    peer.finish().await;
                    lines
                })
            })
            .collect();

        for task in writing {
            soon(task).await.unwrap();
        }
        let mut orders = Vec::new();
        for task in reading {
            orders.push(soon(task).await.unwrap());
        }
        let order = orders.pop().expect("a client of the library");
        assert_eq!(order.len() as u64, total);
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len() as u64, total, "each once");
        assert!(orders.iter().all(|other| *other == order), "one order");
        for (task, prefixes) in reading_python.into_iter().zip(self.python) {
            let lines = soon(task).await.unwrap();
            let matching = order.iter().filter(|line| {
                let topic = line.split(' ').nth(4).expect("a topic");
                prefixes.is_empty() || prefixes.iter().any(|prefix| topic.starts_with(prefix))
            });
            assert!(lines.iter().eq(matching), "one order, in Python, too: {} lines", lines.len());
        }
        for client in &clients {
            let stats = client.stats();
            assert_eq!((stats.lost_windows, stats.malformed_broadcasts, stats.duplicates), (0, 0, 0));
        }
        assert_eq!(host.stats().malformed_submits, 0);
    }
}

/// Sends `share` messages around the topics, at most a window of them without a place.
async fn write(client: Client, share: u64) {
    let mut under_way: VecDeque<Receipt> = VecDeque::new();
    for i in 1..=share {
        if under_way.len() == Cluster::WINDOW
            && let Some(oldest) = under_way.pop_front()
        {
            soon(oldest.ordered()).await.unwrap();
        }
        let topic = Cluster::TOPICS[i as usize % 8];
        under_way.push_back(client.send(message(topic, i.to_string())).await.unwrap());
    }
    if let Some(last) = under_way.back() {
        soon(last.ordered()).await.unwrap();
    }
}

/// Reads so many messages, and asserts that each origin's come in its order.
async fn read(mut messages: Messages, total: u64) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut due = std::collections::BTreeMap::new();
    while (lines.len() as u64) < total {
        let message = next(&mut messages).await;
        let due: &mut u64 = due.entry(message.origin()).or_insert(1);
        assert_eq!(message.origin_seq(), *due, "origin order");
        assert_eq!(text(&message), due.to_string());
        *due += 1;
        let Position { epoch, seq } = message.position().expect("a place");
        let (origin, topic) = (hex(message.origin()), message.topic());
        lines.push(format!("{epoch} {seq} {origin} {} {topic} {}", message.origin_seq(), text(&message)));
    }
    lines
}

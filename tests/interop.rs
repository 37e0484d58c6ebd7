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
use zincmq::{EvictReason, HighWaterMark, LeaveReason, Messages, Receipt, Stats};

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
        let [control, submits, sessions, rejected, violations] = vandal.numbers("done").await[..] else {
            panic!("five numbers")
        };
        let expected = (control, submits, sessions);
        until_counted(&host, |stats| {
            (stats.malformed_control, stats.malformed_submits, stats.unknown_sessions) == expected
                && stats.rejected_connections >= rejected
        })
        .await;
        let seen = watch.finish(&host).await;
        // What the vandal did as a member should is there, too.
        assert_eq!(seen.iter().filter(|message| message.topic().as_str() == "vandal").count(), 1);
        assert_eq!(host.stats().duplicates, 0);
        vandal.finish().await;
        let mut left = Vec::new();
        while left.last() != Some(&LeaveReason::Disconnected) {
            match soon(events.next()).await.unwrap() {
                Event::MemberLeft { reason, .. } => left.push(reason),
                Event::JoinRefused { .. } | Event::MemberJoined { .. } => {}
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(left.len() as u64, violations + 1, "{left:?}");
        assert!(left[..left.len() - 1].iter().all(|reason| *reason == LeaveReason::Violation), "{left:?}");
    }

    async fn python_members_repair_and_send_again_what_was_lost_and_are_not_evicted(kind: Kind) {
        const SHARE: u64 = 200;
        const ROUNDS: u64 = 20;
        const PER_ROUND: u64 = 100;
        let Some(python) = python() else { return };
        // Far less than is sent: whoever repaired nothing, or said nothing of it, would go.
        let mark = HighWaterMark::new().messages(500);
        let host = Host::builder().high_water_mark(mark).bind(address(kind)).await.unwrap();
        let client = soon(Client::builder().subscribe("none").join(host.address())).await.unwrap();
        let (_watch, mut messages) = soon(Client::builder().join_with_messages(host.address())).await.unwrap();
        let (mut peers, mut printed) = (Vec::new(), Vec::new());
        let prefixes: [&[&str]; 2] = [&[], &["t", "end"]];
        for prefixes in prefixes {
            // The filtered one does not get half of what the client sends.
            let all = ROUNDS * PER_ROUND / if prefixes.is_empty() { 1 } else { 2 } + 2 * SHARE + 1;
            let (to, share, all) = (host.address().to_string(), SHARE.to_string(), all.to_string());
            let arguments: Vec<&str> = [&*to, &*share, &*all].into_iter().chain(prefixes.iter().copied()).collect();
            let mut peer = Peer::script(python, "lossy.py", &arguments);
            peer.words("joined").await;
            peers.push(peer);
            printed.push(Vec::new());
        }
        for peer in &mut peers {
            peer.tell("go").await;
        }
        let mut order = Vec::new();
        for round in 1..=ROUNDS {
            for i in 1..=PER_ROUND {
                let topic = if i % 2 == 0 { "t" } else { "other" };
                client.send(message(topic, format!("round {round}, {i}"))).await.unwrap();
            }
            let last = format!("t round {round}, {PER_ROUND}");
            while !order.last().is_some_and(|line: &Line| line.ends_with(&last)) {
                order.push(line(&next(&mut messages).await));
            }
            for (peer, lines) in peers.iter_mut().zip(&mut printed) {
                while !lines.last().is_some_and(|line: &Line| line.ends_with(&last)) {
                    lines.push(peer.line().await);
                }
            }
        }
        // The members send on, maybe; this is to be the last of all, and nothing comes after it that would show its loss.
        let total = ROUNDS * PER_ROUND + 2 * SHARE;
        while order.len() as u64 <= total {
            if order.len() as u64 == total {
                client.send(message("end", "")).await.unwrap();
            }
            order.push(line(&next(&mut messages).await));
        }
        let mut lost = [0, 0];
        for ((mut peer, mut lines), prefixes) in peers.into_iter().zip(printed).zip(prefixes) {
            let expected: Vec<&Line> =
                order.iter().filter(|line| prefixes.is_empty() || !line.contains(" other ")).collect();
            while lines.len() < expected.len() {
                lines.push(peer.line().await);
            }
            assert!(lines.iter().eq(expected), "each once and in the one order");
            for (sum, lost) in lost.iter_mut().zip(peer.numbers("lost").await) {
                assert!(lost > 0);
                *sum += lost;
            }
            peer.tell("leave").await;
            peer.finish().await;
        }
        let stats = host.stats();
        assert!(stats.repaired_windows > 0 && stats.resends_asked > 0, "{stats:?}, lost {lost:?}");
        assert_eq!((stats.evictions, stats.missed_repairs), (0, 0));
        assert_eq!((stats.malformed_control, stats.malformed_submits, stats.unknown_sessions), (0, 0, 0));
    }

    async fn python_members_that_do_not_keep_up_are_evicted_for_what_they_leave_undone(kind: Kind) {
        let Some(python) = python() else { return };
        let (short, long) = (Duration::from_millis(500), Duration::from_secs(60));
        let mark = HighWaterMark::new();
        let hosts = [
            // Nothing is heard of it, whatever there is to handle.
            ("silent", mark, Duration::from_secs(1), EvictReason::Silent, 5),
            ("idle", mark.messages(100).age(long), long, EvictReason::Messages, 1),
            ("idle", mark.age(short), long, EvictReason::Stalled, 4),
        ];
        for (how, mark, lease, expected, code) in hosts {
            let builder = Host::builder().high_water_mark(mark).lease(lease);
            let host = builder.bind(address(kind)).await.unwrap();
            let mut events = host.events();
            // One that keeps up, so that the host is not merely paced.
            let _client = join(&host).await;
            let mut peer = Peer::script(python, "laggard.py", &[&host.address().to_string(), how]);
            peer.words("joined").await;
            // It has been seen to be there before there is much.
            soon(host.send(message("t", "first")).await.unwrap().ordered()).await.unwrap();
            if expected == EvictReason::Messages {
                for i in 0..200 {
                    soon(host.send(message("t", i.to_string()))).await.unwrap();
                }
            }
            assert_eq!(peer.numbers("evicted").await, [code]);
            let eviction = loop {
                if let Event::Evicted { eviction, .. } = soon(events.next()).await.unwrap() {
                    break eviction;
                }
            };
            assert_eq!(eviction.reason, expected);
            peer.finish().await;
        }
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
    let (mut host, client, mut messages) = FalseHost::join(python).await;
    let [broadcasts, barriers, control] = host.numbers("rubbish", "malformed").await[..] else {
        panic!("three numbers")
    };
    assert_eq!(text(&next(&mut messages).await), "first");
    // Asked for and sent again, among much that is no window; the rest of the gap is gone.
    assert_eq!(text(&next(&mut messages).await), "second");
    assert_eq!(reset(&mut messages).await, (Some(2), 99));
    // Came too early, and was kept.
    assert_eq!(text(&next(&mut messages).await), "ninth");
    assert_eq!(text(&next(&mut messages).await), "tenth");
    until_counted(&client, |stats| stats.duplicates == 3).await;
    let stats = client.stats();
    let counted = stats.malformed_broadcasts;
    assert!(
        (1..=barriers).any(|came| counted == broadcasts + 3 * came),
        "{counted}: {broadcasts}, {barriers}"
    );
    assert_eq!(stats.malformed_control, control);
    assert_eq!((stats.missed_windows, stats.repaired_windows, stats.lost_windows), (7 + 6, 1, 6));
    assert_eq!((stats.set_aside, stats.sessions), (0, 1));
    drop(client);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_keeps_ahead_of_a_gap_what_the_marks_allow_and_asks_for_the_rest() {
    let Some(python) = python() else { return };
    let (mut host, client, mut messages) = FalseHost::join(python).await;
    // The first of thirty windows of 60,000 bytes is lost, and the host has it no more. 1 MiB may wait.
    assert_eq!(host.numbers("flood", "asked").await, [1, 1]);
    until_counted(&client, |stats| stats.set_aside == 12).await;
    assert_eq!(host.numbers("missed", "asked").await, [19, 30]);
    assert_eq!(reset(&mut messages).await, (Some(0), 2));
    for number in 2..=30 {
        let received = next(&mut messages).await;
        assert_eq!((received.position().unwrap().seq, received.payload().len()), (number, 60_000));
        if number == 18 {
            host.tell("rest").await;
        }
    }
    let stats = client.stats();
    assert_eq!((stats.set_aside, stats.repaired_windows, stats.lost_windows), (12, 12, 1));
    assert_eq!((stats.duplicates, stats.malformed_control), (0, 0));
    drop(client);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_believes_no_place_of_what_it_never_sent_and_sends_again_what_has_none() {
    let Some(python) = python() else { return };
    let (mut host, client, _messages) = FalseHost::join(python).await;
    let mut receipts = Vec::new();
    for payload in ["one", "two"] {
        receipts.push(client.send(message("t", payload)).await.expect("open"));
    }
    // Two requests out of range are malformed, one beyond all there is asks for nothing, two ask for both. Runs out of range are malformed,
    // those beyond what was sent mean nothing.
    let [malformed, batches] = host.numbers("places", "malformed").await[..] else { panic!("two numbers") };
    for (receipt, seq) in receipts.into_iter().zip([7, 8]) {
        let place = soon(receipt.ordered()).await.expect("a place");
        assert_eq!(place, Position { epoch: 1_000_000, seq });
    }
    until_counted(&client, |stats| stats.malformed_control == malformed).await;
    let stats = client.stats();
    assert_eq!(
        (stats.confirmed, stats.unknown, stats.resent_batches, stats.sessions),
        (2, 0, 2 * batches, 1)
    );
    drop(client);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_survives_absurd_numbers_and_tells_every_jump() {
    let Some(python) = python() else { return };
    let (mut host, client, mut messages) = FalseHost::join(python).await;
    let mut events = client.events();
    for session in 1..=2 {
        // Heartbeats that are none, that are of an epoch that is over, and one that claims all windows there can be; what is asked for
        // then is gone, twice.
        let asked = host.numbers("absurd", "asked").await;
        assert_eq!(asked, [1, 64, 2_u64.pow(63) + 1, 2_u64.pow(63) + 64]);
        assert_eq!(reset(&mut messages).await, (Some(0), 2_u64.pow(63) + 1));
        assert_eq!(reset(&mut messages).await, (Some(2_u64.pow(63)), u64::MAX - 1));
        let last = next(&mut messages).await;
        assert_eq!((text(&last), last.position().unwrap().seq), ("absurd", u64::MAX - 1));
        assert_eq!(client.stats().sessions, session);
        // It ends with a word, and with the absurdest eviction that is well-formed. The next session begins with the lowest numbers.
        host.tell(if session == 1 { "close" } else { "evict" }).await;
        let mut evicted = None;
        loop {
            match soon(events.next()).await.expect("no end") {
                Event::Evicted { eviction, .. } => evicted = Some(eviction),
                Event::Connected { .. } => break,
                _ => {}
            }
        }
        if session == 2 {
            let eviction = evicted.expect("told");
            assert_eq!(eviction.reason, EvictReason::Bytes);
            assert_eq!((eviction.lag.messages, eviction.lag.bytes), (u64::MAX, u64::MAX));
            assert_eq!(eviction.position, Position { epoch: 1 << 62, seq: u64::MAX - 2 });
        }
        assert_eq!(reset(&mut messages).await, (Some(u64::MAX - 1), 1));
    }
    let stats = client.stats();
    assert_eq!((stats.sessions, stats.evictions), (3, 1));
    assert_eq!(stats.malformed_control, host.numbers("malformed", "malformed").await[0]);
    drop(client);
    host.finish().await;
}

/// A parent that lies: the script `false_host.py`.
struct FalseHost {
    peer: Peer,
}

impl FalseHost {
    async fn join(python: &Path) -> (Self, Client, Messages) {
        let mut peer = Peer::script(python, "false_host.py", &[]);
        let address = peer.words("listening").await.remove(0);
        let (client, messages) = soon(Client::builder().join_with_messages(address)).await.expect("join");
        (Self { peer }, client, messages)
    }

    async fn tell(&mut self, word: &str) {
        self.peer.tell(word).await;
    }

    /// Lets it do something, and takes the numbers that it says then.
    async fn numbers(&mut self, word: &str, answer: &str) -> Vec<u64> {
        self.tell(word).await;
        self.peer.numbers(answer).await
    }

    async fn finish(self) {
        self.peer.finish().await;
    }
}

/// The next item is word of a hole: between which seqs, if there was one before.
async fn reset(messages: &mut Messages) -> (Option<u64>, u64) {
    match soon(messages.next()).await.expect("no end") {
        Err(RecvError::Reset { after, resume_at }) => {
            assert!(after.is_none_or(|after| after.epoch == 1_000_000) && resume_at.epoch == 1_000_000);
            (after.map(|after| after.seq), resume_at.seq)
        }
        other => panic!("{other:?} instead of a reset"),
    }
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

/// A message as every member must see it.
fn line(message: &Message) -> Line {
    let Position { epoch, seq } = message.position().expect("a place");
    let (origin, topic) = (hex(message.origin()), message.topic());
    format!("{epoch} {seq} {origin} {} {topic} {}", message.origin_seq(), text(message))
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
        lines.push(line(&message));
    }
    lines
}

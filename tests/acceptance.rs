//! At scale, in processes of their own: three subscribers, eight topics, four senders at once, 100,000 messages; and members that are
//! killed again and again.
//!
//! `ZINCMQ_ACCEPTANCE_MESSAGES` sets another number of messages in all.
#![cfg(feature = "cli")]

#[path = "common/cli.rs"]
mod cli;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;

use cli::{Zincmq, host, sub};
use serde_json::Value;

const SENDERS: usize = 4;
const TOPICS: usize = 8;
const SUBSCRIBERS: usize = 3;

/// How many messages each topic gets.
fn messages_per_topic() -> usize {
    let all =
        std::env::var("ZINCMQ_ACCEPTANCE_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    usize::div_ceil(all, TOPICS)
}

#[test]
fn every_subscriber_prints_the_one_order_over_tcp() {
    one_order("tcp://127.0.0.1:0");
}

#[test]
fn every_subscriber_prints_the_one_order_over_ipc() {
    one_order("ipc://*");
}

/// Killed members cost the host nothing that stays: what was queued for them goes with them.
#[cfg(target_os = "linux")]
#[test]
fn killed_members_are_reported_the_rest_is_undisturbed_and_memory_does_not_grow() {
    const ROUNDS: usize = 12;
    const WARM_UP: usize = 4;
    const EACH: usize = 4000;
    // What is kept to repair from is full after two rounds, and nobody is ever that far behind.
    let (mut host, address) = host(&["--hwm-bytes", "8388608"]);
    let all = (ROUNDS * EACH).to_string();
    let (mut stays, _) = sub(&address, &["--count", &all]);
    let mut input = String::new();
    for i in 0..EACH {
        writeln!(input, "{i} {}", "x".repeat(1000)).expect("a string");
    }
    let mut resident = Vec::new();
    for _ in 0..ROUNDS {
        let (mut killed, id) = sub(&address, &[]);
        std::thread::scope(|scope| {
            scope.spawn(|| cli::publish(&address, "t", input.as_bytes()));
            assert_eq!(killed.next()["event"], "message", "it is killed while messages flow");
            killed.kill();
            while host.next_event("member_left")["id"] != id.as_str() {}
        });
        for i in 0..EACH {
            let message = stays.next();
            let payload = message["payload"].as_str().expect("text");
            assert_eq!(payload.split(' ').next(), Some(i.to_string().as_str()));
        }
        resident.push(host.resident_bytes());
    }
    let (before, after) = (resident[WARM_UP - 1], resident[ROUNDS - 1]);
    // Each round moves 4 MB; allocators keep some of what was freed.
    assert!(after < before + (8 << 20), "resident memory grew: {resident:?}");
    assert_eq!(stays.next_event("closed")["stats"]["lost_windows"], 0);
}

/// A process of `pub` has one topic, so two of them, one after the other, make a sender of two topics.
fn one_order(bind: &str) {
    let (mut host, address) = host(&["--bind", bind]);
    let each = messages_per_topic();
    let all = each * TOPICS;
    let count = all.to_string();
    let subs: Vec<_> = (0..SUBSCRIBERS).map(|_| sub(&address, &["--count", &count]).0).collect();
    let printed = std::thread::scope(|scope| {
        let readers: Vec<_> = subs.into_iter().map(|mut sub| scope.spawn(move || read(&mut sub))).collect();
        let address = &address;
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                scope.spawn(move || {
                    for topic in (sender..TOPICS).step_by(SENDERS) {
                        send(address, topic, each);
                    }
                })
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().expect("a sender"));
        readers.into_iter().map(|reader| reader.join().expect("a subscriber")).collect::<Vec<_>>()
    });

    assert_eq!(printed[0].len(), all);
    for other in &printed[1..] {
        // Line by line: a failure names the first difference and not a hundred thousand lines.
        let difference = printed[0].iter().zip(other).position(|(a, b)| a != b);
        assert_eq!(difference.map(|i| (&printed[0][i], &other[i])), None);
        assert_eq!(other.len(), all);
    }
    each_once_and_in_the_order_of_its_sender(&printed[0], each);
    host.signal("INT");
    let closed = host.next_event("closed");
    assert_eq!(closed["stats"]["received"], all);
    assert_eq!(closed["stats"]["transport_drops"], 0);
    host.ends_well();
}

/// Feeds one process of `pub`.
fn send(address: &str, topic: usize, each: usize) {
    let topic = format!("topic.{topic}");
    let mut publisher = Zincmq::start(&["--json", "pub", address, "--topic", &topic, "--in-flight", "20000"]);
    let mut input = String::new();
    for i in 0..each {
        writeln!(input, "{topic} {i}").expect("a string");
    }
    let mut stdin = publisher.stdin();
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    assert_eq!(publisher.next()["sent"], each);
    publisher.ends_well();
}

/// The lines of the messages that a subscriber prints, as they are.
fn read(sub: &mut Zincmq) -> Vec<String> {
    let mut lines: Vec<_> = std::iter::from_fn(|| sub.next_line()).collect();
    let closed: Value = serde_json::from_str(&lines.pop().expect("a last line")).expect("JSON");
    assert_eq!(closed["event"], "closed");
    for trouble in ["lost_windows", "malformed_control", "malformed_broadcasts", "duplicates"] {
        assert_eq!(closed["stats"][trouble], 0, "{trouble}");
    }
    sub.ends_well();
    lines
}

fn each_once_and_in_the_order_of_its_sender(lines: &[String], each: usize) {
    let mut origins: BTreeMap<String, u64> = BTreeMap::new();
    let mut of_topic: BTreeMap<String, usize> = BTreeMap::new();
    for (i, line) in lines.iter().enumerate() {
        let message: Value = serde_json::from_str(line).expect("JSON");
        let text = |field: &str| message[field].as_str().expect("a text").to_owned();
        assert_eq!(message["event"], "message");
        assert_eq!(message["seq"], i + 1);
        let last = origins.entry(text("origin")).or_default();
        assert_eq!(message["origin_seq"], *last + 1);
        *last += 1;
        let topic = text("topic");
        let next = of_topic.entry(topic.clone()).or_default();
        assert_eq!(text("payload"), format!("{topic} {next}"));
        *next += 1;
    }
    assert_eq!(of_topic.len(), TOPICS);
    assert_eq!(of_topic.values().collect::<BTreeSet<_>>(), BTreeSet::from([&each]));
}

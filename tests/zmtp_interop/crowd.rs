//! Many connections in one process: what they cost there. The dialling ends are in other processes.

use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use zincmq::zmtp::{Options, PubSocket, SubSocket};

use crate::any::until;
use crate::process::{PATIENCE, Process, Role, play, resident_bytes, say};

/// How long a publisher waits for its orders before it publishes again.
const PAUSE: Duration = Duration::from_millis(50);
/// What a connection may cost the publisher.
const MOST_EACH: u64 = 8 << 10;

/// As many files as the machine allows are allowed to the process.
fn raise_limit(process: &Process, files: u64) {
    let hard = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).expect("it runs");
    let hard = hard.lines().find_map(|line| line.strip_prefix("Max open files")).expect("Linux tells");
    let hard: u64 = hard.split_whitespace().nth(1).and_then(|hard| hard.parse().ok()).unwrap_or(u64::MAX);
    assert!(hard >= files, "{files} open files are needed, and {hard} allowed: see `ulimit -Hn`");
    let limit = format!("--nofile={files}:{hard}");
    let status = Command::new("prlimit").args(["--pid", &process.id().to_string(), &limit]).status();
    assert!(status.expect("prlimit runs").success());
}

/// Connects so many subscribers from so many processes to one publisher, and gives what each costs there.
fn hold(connections: u64, processes: u64) -> u64 {
    /// What a process needs beside.
    const SPARE: u64 = 100;
    let mut publisher = Process::start("crowd::publisher_role", &json!({}));
    raise_limit(&publisher, connections + SPARE);
    publisher.tell("bind");
    let at = publisher.next("bound")["at"].clone();
    // What is there only once is there with the first.
    let mut first = Process::start("crowd::subscribers_role", &json!({ "at": at, "count": 10 }));
    first.tell("connect");
    first.next("connected");
    publisher.tell("publish 10");
    publisher.next("published");
    first.next("received");
    let before = resident_bytes(publisher.id());
    let began = Instant::now();
    let each = connections / processes;
    let mut subscribers: Vec<Process> = (0..processes)
        .map(|_| {
            let process = Process::start("crowd::subscribers_role", &json!({ "at": at, "count": each }));
            raise_limit(&process, each + SPARE);
            process
        })
        .collect();
    subscribers.iter_mut().for_each(|process| process.tell("connect"));
    publisher.tell(&format!("await {}", 10 + connections));
    publisher.next("all");
    subscribers.iter_mut().for_each(|process| _ = process.next("connected"));
    let each_costs =
        |publisher: &Process| resident_bytes(publisher.id()).saturating_sub(before) / connections;
    let cost = each_costs(&publisher);
    println!("{connections} connections in {:?}, {cost} bytes each at the publisher", began.elapsed());
    // They are not only there: all receive.
    let began = Instant::now();
    publisher.tell(&format!("publish {}", 10 + connections));
    publisher.next("published");
    subscribers.iter_mut().for_each(|process| _ = process.next("received"));
    let after = each_costs(&publisher);
    println!("a message to all of them in {:?}, {after} bytes each after it", began.elapsed());
    drop(subscribers);
    publisher.tell("await 10");
    publisher.next("all");
    publisher.ends_well();
    cost.max(after)
}

#[test]
fn a_thousand_idle_subscribers_cost_the_publisher_8_kib_each_at_most() {
    let cost = hold(1_000, 2);
    assert!(cost <= MOST_EACH, "{cost} bytes each");
}

#[test]
#[ignore = "needs 10,000 open files in one process, and half a minute"]
fn ten_thousand_connections_are_held_by_one_process() {
    let cost = hold(10_000, 4);
    assert!(cost <= MOST_EACH, "{cost} bytes each");
}

#[test]
#[ignore = "a role that tests give a process"]
fn publisher_role() {
    play(publisher);
}

#[test]
#[ignore = "a role that tests give a process"]
fn subscribers_role() {
    play(subscribers);
}

async fn publisher(role: Role) {
    let mut orders = role.orders();
    let mut options = Options::default();
    options.limits.half_open = 10_000;
    let publisher = PubSocket::with_options(options);
    let mut publishes = false;
    loop {
        let order = if publishes {
            // A peer is there a moment before its subscription is: one message might be too early.
            publisher.send("to all").await.expect("open");
            match tokio::time::timeout(PAUSE, orders.recv()).await {
                Ok(order) => order,
                Err(_) => continue,
            }
        } else {
            orders.recv().await
        };
        let Some(order) = order else { break };
        publishes = false;
        let (word, number) = order.split_once(' ').unwrap_or((&order, "0"));
        let number: usize = number.parse().expect("a number");
        match word {
            "bind" => {
                let at = publisher.bind("tcp://127.0.0.1:0").await.expect("bound");
                say(&json!({ "event": "bound", "at": at.to_string() }));
            }
            "await" => {
                until("so many are there", || publisher.peers() == number).await;
                say(&json!({ "event": "all" }));
            }
            "publish" => {
                until("so many are there", || publisher.peers() == number).await;
                publishes = true;
                say(&json!({ "event": "published" }));
            }
            other => panic!("{other}?"),
        }
    }
}

async fn subscribers(role: Role) {
    let mut orders = role.orders();
    if orders.recv().await.is_none() {
        return;
    }
    let at = role.text("at").to_owned();
    let mut options = Options::default();
    options.reconnect = (Duration::from_millis(10), Duration::from_secs(1));
    let all: Vec<SubSocket> = (0..role.number("count"))
        .map(|_| {
            let subscriber = SubSocket::with_options(options.clone());
            subscriber.subscribe("");
            subscriber.connect(at.as_str()).expect("an endpoint");
            subscriber
        })
        .collect();
    until("all are connected", || all.iter().all(|subscriber| subscriber.peers() == 1)).await;
    say(&json!({ "event": "connected" }));
    let receive = all.into_iter().map(async |mut subscriber| {
        let message =
            tokio::time::timeout(PATIENCE, subscriber.recv()).await.expect("it comes").expect("open");
        assert_eq!(*message.first(), Bytes::from("to all"));
        subscriber
    });
    let all = futures::future::join_all(receive).await;
    say(&json!({ "event": "received" }));
    // Until the test ends it.
    let _ = orders.recv().await;
    drop(all);
}

//! What a peer can make a socket hold. Each in a process of its own, for what is measured is its resident memory.
#![cfg(target_os = "linux")]

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use zincmq::zmtp::{DisconnectReason, MonitorEvent, Options, PubSocket, PullSocket, Violation};

use crate::common::soon;
use crate::process::{Process, play, resident_bytes, say};
use crate::subject::port_of;
use crate::wire::{COMMAND, Raw, command, declared, message, ping};

const MIB: u64 = 1 << 20;
/// What a process may hold more than before and count as the same: the allocator's pages come and go.
const SLACK: u64 = 2 * MIB;

fn resident() -> u64 {
    resident_bytes(std::process::id())
}

fn held_more(before: u64) {
    say(&json!({ "event": "held", "more": resident().saturating_sub(before) }));
}

/// How much more a process held after it played this part.
fn more_in(role: &str) -> u64 {
    let mut process = Process::start(role, &json!({}));
    let more = process.next("held")["more"].as_u64().expect("a number");
    process.ends_well();
    println!("{role}: {more} octets more");
    more
}

#[test]
fn a_declared_length_reserves_nothing_above_the_limit() {
    assert!(more_in("memory::declare_too_much") < SLACK);
}

#[test]
#[ignore = "a role"]
fn declare_too_much() {
    play(async |_| {
        let mut pull = PullSocket::new();
        let port = port_of(&pull.bind("tcp://127.0.0.1:0").await.unwrap().to_string());
        let mut before = 0;
        for turn in 0..=32 {
            for length in [1 << 31, 1 << 40, 1 << 63, u64::MAX] {
                for flags in [0, COMMAND] {
                    let mut raw = Raw::introduced(port, "PUSH").await;
                    raw.send(&declared(flags, length)).await;
                    raw.send(&[7; 4096]).await;
                    raw.closed().await;
                }
            }
            let mut honest = Raw::introduced(port, "PUSH").await;
            honest.send(&message(&["honest"])).await;
            assert_eq!(soon(pull.recv()).await.unwrap().first(), "honest");
            // The first turn is to warm up.
            if turn == 0 {
                before = resident();
            }
        }
        held_more(before);
    });
}

#[test]
fn a_declared_length_within_the_limit_costs_little_until_it_comes() {
    // 64 connections that declare 16 MiB each and send a little of it.
    assert!(more_in("memory::declare_and_stop") < 8 * MIB);
}

#[test]
#[ignore = "a role"]
fn declare_and_stop() {
    play(async |_| {
        let pull = PullSocket::new();
        let port = port_of(&pull.bind("tcp://127.0.0.1:0").await.unwrap().to_string());
        drop(Raw::introduced(port, "PUSH").await);
        let before = resident();
        let mut peers = Vec::new();
        for _ in 0..64 {
            let mut raw = Raw::introduced(port, "PUSH").await;
            // PING before, so that its answer tells that the head behind it has been read, too.
            raw.send(&[ping(0, b"there?"), declared(0, 16 << 20), vec![7; 1024]].concat()).await;
            assert_eq!(raw.frame().await.1, b"\x04PONGthere?");
            peers.push(raw);
        }
        held_more(before);
    });
}

#[test]
fn subscriptions_are_refused_at_their_limit() {
    assert!(more_in("memory::subscribe_for_ever") < 8 * MIB);
}

#[test]
#[ignore = "a role"]
fn subscribe_for_ever() {
    play(async |_| {
        let publisher = PubSocket::new();
        let mut monitor = publisher.monitor();
        let port = port_of(&publisher.bind("tcp://127.0.0.1:0").await.unwrap().to_string());
        let before = resident();
        let mut raw = Raw::introduced(port, "SUB").await;
        for thousand in 0..100 {
            let prefix = |number: u32| format!("topic {number}").into_bytes();
            let subscriptions = (0..1000).map(|one| command(b"SUBSCRIBE", &prefix(thousand * 1000 + one)));
            raw.send(&subscriptions.collect::<Vec<_>>().concat()).await;
        }
        let refused = Violation::Subscriptions { limit: 1024 };
        assert_eq!(ended(&mut monitor).await, DisconnectReason::Violation(refused));
        // What it had subscribed to is gone with it.
        assert_eq!(publisher.subscriptions(), 0);
        held_more(before);
        let mut honest = Raw::introduced(port, "SUB").await;
        honest.send(&command(b"SUBSCRIBE", b"")).await;
        honest.is_served().await;
        publisher.send("news").await.unwrap();
        assert_eq!(honest.message().await, [b"news"]);
    });
}

#[test]
fn long_subscriptions_are_bounded_together() {
    assert!(more_in("memory::subscribe_at_length") < 64 * MIB);
}

/// The reason of the next connection that ends.
async fn ended(monitor: &mut zincmq::zmtp::Monitor) -> DisconnectReason {
    loop {
        if let MonitorEvent::Disconnected { reason, .. } = soon(monitor.next()).await.expect("it runs") {
            return reason;
        }
    }
}

#[test]
#[ignore = "a role"]
fn subscribe_at_length() {
    play(async |_| {
        let publisher = PubSocket::new();
        let mut monitor = publisher.monitor();
        let port = port_of(&publisher.bind("tcp://127.0.0.1:0").await.unwrap().to_string());
        let before = resident();
        // As a command, and as a message, which may be larger.
        for (length, by_message) in [(4_000, false), (4_000, true), (8 << 20, true)] {
            let mut raw = Raw::introduced(port, "SUB").await;
            for number in 0..1024_u32 {
                let mut prefix = vec![b'x'; length];
                prefix[..4].copy_from_slice(&number.to_be_bytes());
                let bytes = if by_message {
                    message(&[[&[1][..], &prefix].concat()])
                } else {
                    command(b"SUBSCRIBE", &prefix)
                };
                if !raw.try_send(&bytes).await {
                    break;
                }
            }
            let reason = ended(&mut monitor).await;
            assert!(matches!(reason, DisconnectReason::Violation(_)), "{reason:?}");
        }
        held_more(before);
    });
}

#[test]
fn answers_that_a_peer_does_not_read_are_bounded() {
    assert!(more_in("memory::ask_without_listening") < 16 * MIB);
}

#[test]
#[ignore = "a role"]
fn ask_without_listening() {
    play(async |_| {
        let mut options = Options::default();
        options.tcp_send_buffer = Some(4096);
        let pull = PullSocket::with_options(options);
        let port = port_of(&pull.bind("tcp://127.0.0.1:0").await.unwrap().to_string());
        let before = resident();
        let mut raw = Raw::introduced(port, "PUSH").await;
        let pings = ping(0, &[b'?'; 16]).repeat(4096);
        // 100 MiB of questions; the peer may be cut off, or made to wait, before it has asked all of them.
        let ask = async {
            for _ in 0..1024 {
                if !raw.try_send(&pings).await {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(30), ask).await;
        held_more(before);
    });
}

//! A host that is killed as by `kill -9` and started again at the same address, with nothing of what it knew: its clients find out, come back, are
//! told of the hole, and send again what had not come back. Nothing that was accepted is gone in silence, and nothing is delivered twice.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;
#[path = "common/process.rs"]
mod process;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Kind, bind_again, fixed_address, soon};
use futures::StreamExt;
use process::{Process, Role, say};
use serde_json::json;
use tokio::sync::watch;
use zincmq::Address;
use zincmq::prelude::*;

const ROUNDS: usize = 5;
const CLIENTS: usize = 4;
/// How many messages each client gets between two kills, at least.
const PROGRESS: u64 = 3_000;
/// How many messages each client has under way.
const UNDER_WAY: usize = 100;
const LAST_TOPIC: &str = "end";

#[test]
#[ignore = "a process of the test below"]
fn host_role() {
    process::play(host);
}

async fn host(role: Role) {
    let address: Address = role.text("address").parse().expect("an address");
    let host = bind_again(address).await;
    say(&json!({ "event": "listening", "address": host.address().to_string() }));
    let mut orders = role.orders();
    while orders.recv().await.is_some() {}
}

/// What a stream said.
#[derive(Debug)]
enum Item {
    Message(Position, Name),
    Reset { after: Option<Position>, resume_at: Position },
}

/// A message by its origin and its number there.
type Name = (EndpointId, u64);

async fn read(mut messages: Messages, progress: watch::Sender<u64>) -> Vec<Item> {
    let mut items = Vec::new();
    while let Some(item) = messages.next().await {
        match item {
            Ok(message) => {
                let position = message.position().expect("ordered");
                items.push(Item::Message(position, (message.origin(), message.origin_seq())));
                progress.send_modify(|count| *count += 1);
                if message.topic().as_str() == LAST_TOPIC {
                    return items;
                }
            }
            Err(RecvError::Reset { after, resume_at }) => items.push(Item::Reset { after, resume_at }),
            Err(word) => panic!("{word}"),
        }
    }
    panic!("the stream has ended")
}

/// Sends until told to stop: the places of all that was accepted, by number.
async fn send(sender: Sender, stop: Arc<AtomicBool>) -> Vec<(u64, Position)> {
    let mut under_way: VecDeque<Receipt> = VecDeque::new();
    let mut places = Vec::new();
    loop {
        let done = stop.load(Ordering::Relaxed);
        if done || under_way.len() == UNDER_WAY {
            let Some(oldest) = under_way.pop_front() else { return places };
            let place = soon(oldest.ordered()).await.expect("it stays in the outbox until it has its place");
            places.push((oldest.origin_seq(), place));
        }
        if !done {
            let message = Message::new("load", vec![b'x'; places.len() % 300]).expect("a message");
            under_way.push_back(soon(sender.send(message)).await.expect("open"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_killed_and_started_again_is_found_and_nothing_is_lost_in_silence_or_delivered_twice() {
    let address = fixed_address(Kind::Tcp).await;
    let setting = json!({ "address": address.to_string() });
    let start = || {
        let mut host = Process::start("host_role", &setting);
        host.next("listening");
        host
    };
    let mut host = start();
    let stop = Arc::new(AtomicBool::new(false));
    let (mut clients, mut events, mut progress, mut readers, mut sending) =
        (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..CLIENTS {
        let builder =
            Client::builder().echo(true).backoff(Duration::from_millis(10), Duration::from_millis(200));
        let (client, messages) = soon(builder.join_with_messages(address.clone())).await.expect("join");
        let (counted, count) = watch::channel(0);
        readers.push(tokio::spawn(read(messages, counted)));
        events.push(client.events());
        progress.push(count);
        clients.push(client);
    }
    for client in &clients {
        sending.push(tokio::spawn(send(client.sender(), Arc::clone(&stop))));
    }
    let mut away = Vec::new();
    for _ in 0..ROUNDS {
        for count in &mut progress {
            let enough = *count.borrow() + PROGRESS;
            assert!(soon(count.wait_for(|count| *count >= enough)).await.is_ok(), "a reader has failed");
        }
        host.kill();
        let killed = Instant::now();
        host = tokio::task::block_in_place(start);
        for events in &mut events {
            let back = events.filter(|event| std::future::ready(matches!(event, Event::Connected { .. })));
            soon(std::pin::pin!(back).next()).await.expect("it lives");
        }
        away.push(killed.elapsed());
    }
    for count in &mut progress {
        let enough = *count.borrow() + PROGRESS;
        assert!(soon(count.wait_for(|count| *count >= enough)).await.is_ok(), "a reader has failed");
    }
    stop.store(true, Ordering::Relaxed);
    let mut places: BTreeMap<Name, Position> = BTreeMap::new();
    for (client, task) in clients.iter().zip(sending) {
        let of_one = soon(task).await.expect("a sender");
        assert!(of_one.iter().enumerate().all(|(i, (number, _))| *number == i as u64 + 1), "each of them");
        assert!(of_one.is_sorted_by(|a, b| a.1 < b.1), "in their order");
        places.extend(of_one.into_iter().map(|(number, place)| ((client.id(), number), place)));
    }
    let last = clients[0].send(Message::new(LAST_TOPIC, "").expect("a message")).await.expect("open");
    places.insert((clients[0].id(), last.origin_seq()), soon(last.ordered()).await.expect("ordered"));
    let mut seen = Vec::new();
    for reader in readers {
        seen.push(soon(reader).await.expect("a reader"));
    }
    println!("{} messages; back after {away:.1?}", places.len());
    check(&places, &seen);
    for client in &clients {
        let stats = client.stats();
        assert_eq!((stats.unknown, stats.sessions), (0, ROUNDS as u64 + 1));
        println!("{} batches resent, {} duplicates not shown", stats.resent_batches, stats.duplicates);
    }
}

/// What became of each message that was accepted, and what each client was shown.
fn check(places: &BTreeMap<Name, Position>, seen: &[Vec<Item>]) {
    // One order: whoever knows a place knows the same message there.
    let mut order: BTreeMap<Position, Name> = places.iter().map(|(name, place)| (*place, *name)).collect();
    assert_eq!(order.len(), places.len(), "no two have one place");
    for item in seen.iter().flatten() {
        if let Item::Message(place, name) = item {
            assert_eq!(order.entry(*place).or_insert(*name), name, "at {place}");
        }
    }
    for items in seen {
        let mut shown: BTreeSet<Name> = BTreeSet::new();
        let mut last_of: BTreeMap<EndpointId, u64> = BTreeMap::new();
        let mut holes = Vec::new();
        let mut at: Option<Position> = None;
        // Where the next message is, if nothing is left out that was shown before.
        let mut next: Option<Position> = None;
        for item in items {
            match item {
                Item::Reset { after, resume_at } => {
                    assert!(at <= *after && *after < Some(*resume_at), "{at:?}, {after:?}, {resume_at}");
                    let is_new = at.is_none_or(|at| at.epoch < resume_at.epoch);
                    assert!(is_new, "a host that goes on living has all in its ring");
                    holes.push((*after, *resume_at));
                    next = Some(*resume_at);
                }
                Item::Message(place, name) => {
                    assert!(shown.insert(*name), "{name:?} is shown twice");
                    let last = last_of.insert(name.0, name.1).unwrap_or(0);
                    assert!(name.1 > last, "out of the order of its origin");
                    let from = next.unwrap_or(Position { epoch: place.epoch, seq: 1 });
                    assert_eq!(place.epoch, from.epoch, "a new epoch begins with a reset");
                    // What is left out was shown, at its place in an older epoch.
                    for seq in from.seq..place.seq {
                        let left_out = order.get(&Position { epoch: place.epoch, seq });
                        assert!(left_out.is_some_and(|name| shown.contains(name)), "{seq} is missing");
                    }
                    at = Some(*place);
                    next = Some(Position { epoch: place.epoch, seq: place.seq + 1 });
                }
            }
        }
        assert_eq!(holes.len(), ROUNDS, "one reset for each new life of the host");
        let told = |place: Position| {
            holes.iter().any(|(after, resume_at)| *after < Some(place) && place < *resume_at)
        };
        let mut missed = 0;
        for (name, place) in places.iter().filter(|(name, _)| !shown.contains(*name)) {
            assert!(told(*place), "{name:?} at {place} is gone without a word");
            missed += 1;
        }
        println!("{} shown, {missed} in the holes that were told", shown.len());
    }
}

//! Real connections that break: a proxy in front of a host cuts them in the middle of a frame, resets them, swallows what they carry. Whatever
//! it does, what was accepted is delivered to everyone, once and in one order.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;
#[path = "common/dice.rs"]
mod dice;
#[path = "common/proxy.rs"]
mod proxy;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::soon;
use dice::Dice;
use futures::{FutureExt, StreamExt};
use proxy::{Channel, Fault, Proxy, Weather};
use tokio::sync::watch;
use zincmq::prelude::*;
use zincmq::{EvictReason, LeaveReason};

const HEARTBEAT: Duration = Duration::from_millis(100);
const LEASE: Duration = Duration::from_millis(600);
const CUTS: usize = 100;
/// How many messages each member gets between two cuts, at least.
const PROGRESS: u64 = 200;
/// How many messages each sender has under way.
const UNDER_WAY: usize = 64;
/// All members take topics that begin like this, and this one ends it all.
const LAST_TOPIC: &str = "a.end";

/// A host, and a proxy in front of it for each client, at 127.0.0.`first` and so on. Each test has its own, so that they do not meet.
async fn host_and_proxies<const N: usize>(first: u8) -> (Host, [Proxy; N]) {
    loop {
        let builder = Host::builder().heartbeat(HEARTBEAT).lease(LEASE).echo(true);
        let host = builder.bind("tcp://127.0.0.1:0").await.expect("bind");
        let proxies = (0..N as u8).map(|n| Proxy::start(&host, first + n));
        // The kernel chose the ports for the host, and others may have one of them at the proxies' addresses.
        if let Ok(proxies) = futures::future::try_join_all(proxies).await {
            return (host, proxies.try_into().expect("as many"));
        }
    }
}

/// What a member saw, boiled down: two that saw the same have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    count: u64,
    digest: u64,
}

impl Seen {
    fn add(&mut self, message: &Message) {
        let mut hasher = DefaultHasher::new();
        let place = message.position().map(|position| (position.epoch, position.seq));
        (self.digest, place, message.origin(), message.origin_seq()).hash(&mut hasher);
        (message.topic().as_str(), message.payload()).hash(&mut hasher);
        self.count += 1;
        self.digest = hasher.finish();
    }
}

/// Reads until the last topic: all that was seen, and what of it began with `a`; and the last message of each origin.
async fn read(
    mut messages: Messages,
    progress: watch::Sender<u64>,
) -> (Seen, Seen, BTreeMap<EndpointId, u64>) {
    let (mut all, mut some) = (Seen::default(), Seen::default());
    let mut last_of: BTreeMap<EndpointId, u64> = BTreeMap::new();
    let mut last = 0;
    while let Some(item) = messages.next().await {
        let message = item.expect("no reset: the ring covers all absences");
        let position = message.position().expect("ordered");
        assert!(position.seq > last, "{} after {last}", position.seq);
        last = position.seq;
        let last_of = last_of.entry(message.origin()).or_default();
        assert!(message.origin_seq() > *last_of, "each once and in the order of its origin");
        *last_of = message.origin_seq();
        all.add(&message);
        if message.topic().as_str().starts_with('a') {
            some.add(&message);
        }
        progress.send_modify(|count| *count += 1);
        if message.topic().as_str() == LAST_TOPIC {
            break;
        }
    }
    (all, some, last_of)
}

/// Sends until told to stop, a few at a time, and sees that each has its place. How many those were.
async fn send(sender: Sender, stop: Arc<AtomicBool>) -> u64 {
    let mut under_way = VecDeque::new();
    let mut place_of_last = None;
    let mut sent = 0;
    loop {
        let done = stop.load(Ordering::Relaxed);
        if done || under_way.len() == UNDER_WAY {
            let Some(oldest): Option<Receipt> = under_way.pop_front() else { return sent };
            let place = soon(oldest.ordered()).await.expect("nothing is given up");
            assert!(Some(place) > place_of_last, "messages of one sender keep their order");
            place_of_last = Some(place);
        }
        if !done {
            let topic = if sent % 2 == 0 { "a" } else { "b" };
            let message = Message::new(topic, format!("{sent} {}", "x".repeat(sent as usize % 200)));
            under_way.push_back(soon(sender.send(message.expect("a message"))).await.expect("open"));
            sent += 1;
        }
    }
}

async fn until_connected(events: &mut Events) {
    let connected = async {
        while let Some(event) = events.next().await {
            if matches!(event, Event::Connected { .. }) {
                return;
            }
        }
        panic!("it never came back");
    };
    soon(connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cuts_in_a_row_lose_nothing_repeat_nothing_and_change_no_order() {
    let mut dice = Dice::new(20);
    let (host, proxies) = host_and_proxies::<4>(10).await;
    let (mut clients, mut events, mut progress, mut readers) = (vec![], vec![], vec![], vec![]);
    for (n, proxy) in proxies.iter().enumerate() {
        let builder =
            Client::builder().echo(true).backoff(Duration::from_millis(10), Duration::from_millis(200));
        // The last one does not take everything.
        let builder = if n == 3 { builder.subscribe("a") } else { builder };
        let (client, messages) = soon(builder.join_with_messages(proxy.address())).await.expect("join");
        let (counted, count) = watch::channel(0);
        readers.push(tokio::spawn(read(messages, counted)));
        events.push(client.events());
        progress.push(count);
        clients.push(client);
    }
    readers.push(tokio::spawn(read(host.messages(), watch::Sender::new(0))));
    let stop = Arc::new(AtomicBool::new(false));
    let senders = [host.sender(), clients[0].sender(), clients[1].sender()];
    let sending: Vec<_> =
        senders.into_iter().map(|sender| tokio::spawn(send(sender, Arc::clone(&stop)))).collect();

    let began = Instant::now();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for cut in 0..CUTS {
        for count in &mut progress {
            let enough = *count.borrow() + PROGRESS;
            let on = count.wait_for(|count| *count >= enough);
            assert!(soon(on).await.is_ok(), "a reader has failed, before cut {cut}");
        }
        let victim = dice.below(4) as usize;
        // Only those who send notice that they cannot.
        let channels = [Channel::Control, Channel::Broadcast, Channel::Submit];
        let channel = dice.pick(if victim < 2 { &channels[..] } else { &channels[..2] });
        let fault = match dice.below(8) {
            0 => Fault::BlackHole,
            1..4 => Fault::Reset,
            _ => Fault::Cut,
        };
        let after = dice.below(if channel == Channel::Control { 300 } else { 30_000 });
        while events[victim].next().now_or_never().is_some() {}
        while !proxies[victim].doom(channel, after, fault) {
            // It has lost its connection by itself just now, and comes back.
            until_connected(&mut events[victim]).await;
        }
        *kinds.entry(format!("{channel:?} {fault:?}")).or_default() += 1;
        until_connected(&mut events[victim]).await;
        proxies[victim].swallow();
    }
    println!("{CUTS} cuts in {:.1?}: {kinds:?}", began.elapsed());

    stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    for task in sending {
        sent.push(soon(task).await.expect("a sender"));
    }
    let last = host.send(Message::new(LAST_TOPIC, "").expect("a message")).await.expect("open");
    let end = soon(last.ordered()).await.expect("ordered");
    sent[0] += 1;
    let mut seen = Vec::new();
    for reader in readers {
        seen.push(soon(reader).await.expect("a reader"));
    }
    // The messages of each sender are numbered from 1.
    let ids = [host.id(), clients[0].id(), clients[1].id()];
    let sent: BTreeMap<_, _> = ids.into_iter().zip(sent).collect();
    let (all, some, last_of) = &seen[0];
    assert_eq!(*last_of, sent);
    assert_eq!(
        (all.count, end.seq),
        (sent.values().sum(), all.count),
        "all that was accepted, and nothing twice"
    );
    for other in [&seen[1], &seen[2], &seen[4]] {
        assert_eq!(other, &seen[0], "one order");
    }
    assert_eq!(seen[3].1, *some, "one order, of what was asked for");
    assert_eq!(seen[3].0, seen[3].1, "and nothing else");
    for client in &clients {
        let stats = client.stats();
        println!(
            "{} sessions, {} windows repaired, {} batches resent, {} duplicates",
            stats.sessions, stats.repaired_windows, stats.resent_batches, stats.duplicates
        );
        assert_eq!((stats.lost_windows, stats.unknown), (0, 0));
        assert_eq!(
            (stats.malformed_control, stats.malformed_broadcasts),
            (0, 0),
            "no half frame is believed"
        );
    }
    let stats = host.stats();
    println!("{} messages, {} submitted twice", stats.received, stats.duplicates);
    // What a client says on control while the host has just given its session up counts as malformed there.
    assert_eq!((stats.malformed_submits, stats.missed_repairs), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_found_by_both_sides_and_its_connections_are_closed() {
    let (host, [proxy]) = host_and_proxies::<1>(20).await;
    let client = soon(Client::builder().echo(true).join(proxy.address())).await.expect("join");
    let (mut at_host, mut at_client) = (host.events(), client.events());
    // Whoever connects anew falls into it, too, so that each side is on its own.
    proxy.set_weather(Weather { is_dark: true, ..Weather::default() });
    let began = Instant::now();
    for channel in [Channel::Control, Channel::Broadcast, Channel::Submit] {
        assert!(proxy.doom(channel, 0, Fault::BlackHole));
    }
    let host_finds = async {
        while let Some(event) = at_host.next().await {
            match event {
                Event::Evicted { id, eviction } => {
                    assert_eq!((id, eviction.reason), (client.id(), EvictReason::Silent));
                }
                Event::MemberLeft { id, reason } => {
                    assert_eq!((id, reason), (client.id(), LeaveReason::Evicted));
                    return began.elapsed();
                }
                _ => {}
            }
        }
        panic!("the host has ended");
    };
    let client_finds = async {
        while let Some(event) = at_client.next().await {
            if matches!(event, Event::Disconnected { .. }) {
                return began.elapsed();
            }
        }
        panic!("the client has ended");
    };
    let (host_found, client_found) = soon(futures::future::join(host_finds, client_finds)).await;
    println!("a lease of {LEASE:?}: found by the host in {host_found:?}, by the client in {client_found:?}");
    for found in [host_found, client_found] {
        // What was heard last may be some pulses old; a busy machine is allowed as much again.
        assert!(found > LEASE / 2 && found < LEASE * 3, "{found:?}");
    }
    assert_eq!(host.members().len(), 1);
    let sent = client.send(Message::new("a", "from the dark").expect("a message")).await.expect("open");

    proxy.set_weather(Weather::default());
    // In the dark it may have tried to connect: that is given up after some seconds.
    until_connected(&mut at_client).await;
    soon(sent.ordered()).await.expect("ordered");
    proxy.swallow();
    // Each side has closed its ends without hearing from the other. But whose a submit connection is, a host does not know, nor who would connect
    // and says nothing: it keeps its ends of those until it learns that the others are closed.
    soon(proxy.until(|open| {
        let fresh = open.iter().filter(|(_, client, host)| !client && !host).count();
        let mut kept = open.iter().filter(|(_, client, host)| *client && !host);
        kept.all(|(channel, ..)| *channel != Channel::Broadcast)
            && fresh == 3
            && open.iter().all(|(_, client, host)| *client || !host)
    }))
    .await;
    proxy.let_go();
    soon(proxy.until(|open| open.len() == 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delay_and_throttle_change_nothing_in_what_is_delivered() {
    const EACH: u64 = 1_500;
    let (host, [slow, prompt]) = host_and_proxies::<2>(30).await;
    slow.set_weather(Weather { delay: Duration::from_millis(40), rate: Some(400_000), ..Weather::default() });
    let mut readers = Vec::new();
    let mut clients = Vec::new();
    for proxy in [&slow, &prompt] {
        let builder = Client::builder().echo(true);
        let (client, messages) = soon(builder.join_with_messages(proxy.address())).await.expect("join");
        readers.push(tokio::spawn(read(messages, watch::Sender::new(0))));
        clients.push(client);
    }
    let began = Instant::now();
    let senders = [host.sender(), clients[0].sender(), clients[1].sender()];
    let sending = senders.map(|sender| {
        tokio::spawn(async move {
            let mut receipts = Vec::new();
            for i in 0..EACH {
                let message = Message::new("a", format!("{i} {}", "x".repeat(100))).expect("a message");
                receipts.push(soon(sender.send(message)).await.expect("open"));
            }
            for receipt in receipts {
                soon(receipt.ordered()).await.expect("ordered");
            }
        })
    });
    for task in sending {
        soon(task).await.expect("a sender");
    }
    host.send(Message::new(LAST_TOPIC, "").expect("a message")).await.expect("open");
    let mut seen = Vec::new();
    for reader in readers {
        seen.push(soon(reader).await.expect("a reader"));
    }
    println!("{} messages in {:.1?}", seen[0].0.count, began.elapsed());
    assert_eq!(seen[0].0.count, 3 * EACH + 1);
    assert_eq!(seen[0], seen[1]);
    for client in &clients {
        let stats = client.stats();
        assert_eq!((stats.sessions, stats.lost_windows, stats.missed_windows), (1, 0, 0), "nothing was lost");
    }
}

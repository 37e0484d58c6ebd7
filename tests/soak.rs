//! Everybody at full speed, for a while: a publisher on the host and four clients that send, eight subscribers, default marks, over TCP, in
//! processes of their own. Nobody is evicted, nothing is lost, memory stays as it is; and answering everything that comes brings nothing to a
//! standstill.
//!
//! `ZINCMQ_SOAK_SECONDS` sets for how long each takes, 10 by default.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

#[path = "common/process.rs"]
mod process;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use process::{Process, Role, resident_bytes, say};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use zincmq::prelude::*;

const SENDERS: usize = 4;
const SUBSCRIBERS: usize = 8;
/// What each sender has under way: the protocol's advice.
const UNDER_WAY: usize = 20_000;
const PADDING: usize = 200;
const LOAD: &str = "load";
const ANSWERS: &str = "answers";
const LAST_TOPIC: &str = "end";
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// In how long a time something must have been delivered to everyone, on a machine that may have others to serve.
const PROGRESS_IN_MS: u64 = 2_000;
/// How much more the host may hold at one time than at another, its ring being full: what a subscriber may be behind beyond that, which others
/// share, and what the allocator does not give back.
const SLACK: u64 = 64 << 20;

/// One at a time: each takes the whole machine.
static STAGE: Mutex<()> = Mutex::new(());

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn all_at_full_speed_evict_nobody_lose_nothing_and_hold_their_memory() {
    // By the end of the first part the ring has been full for some time.
    let resident = play(false);
    let third = resident.len() / 3;
    let highest = |part: &[u64]| part.iter().max().copied().unwrap_or(0);
    let (first, last) = (highest(&resident[..third]), highest(&resident[2 * third..]));
    println!("resident: up to {} MiB in the first third, {} MiB in the last", first >> 20, last >> 20);
    assert!(last <= first + SLACK, "{resident:?}");
}

#[test]
fn handlers_that_answer_everything_bring_nothing_to_a_standstill() {
    play(true);
}

/// The resident memory of the host, look by look.
fn play(answers: bool) -> Vec<u64> {
    let _alone = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let time = Duration::from_secs(setting("ZINCMQ_SOAK_SECONDS", 10));
    let mut host = Process::start("host_role", &json!({}));
    let address = host.next("listening")["address"].clone();
    let mut senders = Process::start("senders_role", &json!({ "address": address }));
    senders.next("joined");
    // All of them have as much to do: who has more than most is a slow one, and has to go.
    let mut subscribers: Vec<_> = (1..=SUBSCRIBERS)
        .map(|n| {
            let answers_to = if answers { n } else { 0 };
            Process::start("subscriber_role", &json!({ "address": address, "answers_to": answers_to }))
        })
        .collect();
    subscribers.iter_mut().for_each(|one| _ = one.next("joined"));

    let began = Instant::now();
    host.tell("load");
    senders.tell("load");
    let mut resident = Vec::new();
    while began.elapsed() < time {
        std::thread::sleep(LOOK);
        resident.push(resident_bytes(host.id()));
    }
    let mut sent = Vec::new();
    for process in [&mut senders, &mut host] {
        process.tell("stop");
        let stopped = process.next("stopped");
        sent.extend(stopped["sent"].as_array().expect("a list").iter().filter_map(Value::as_u64));
    }
    let mut all = sent.iter().sum::<u64>() + 1;
    if answers {
        all += all - 1;
        for (subscriber, n) in subscribers.iter_mut().zip(1..) {
            let its_own = |sent: &u64| (sent + SUBSCRIBERS as u64 - n) / SUBSCRIBERS as u64;
            subscriber.tell(&sent.iter().map(its_own).sum::<u64>().to_string());
        }
        for subscriber in &mut subscribers {
            println!("{} of the answers left to a task", subscriber.next("settled")["handed_over"]);
        }
    }
    host.tell("end");
    let ended = host.next("ended");
    println!(
        "{all} messages, {:.0} a second; {}",
        all as f64 / began.elapsed().as_secs_f64(),
        ended["stats"]
    );
    assert_eq!(ended["seq"], all, "each has its place, and no more than those");
    for count in ["evictions", "transport_drops", "missed_repairs"] {
        assert_eq!(ended["stats"][count], 0, "{count}");
    }
    let mut longest = 0;
    for subscriber in &mut subscribers {
        let report = subscriber.next("report");
        assert_eq!(report["trouble"], Value::Null);
        assert_eq!(report["count"], all, "each of them, once and in order");
        longest = longest.max(report["longest_pause_ms"].as_u64().expect("a number"));
    }
    println!("nobody was without a message for longer than {longest} ms");
    assert!(longest < PROGRESS_IN_MS, "a standstill of {longest} ms");
    subscribers.into_iter().chain([senders, host]).for_each(Process::ends_well);
    resident
}

#[test]
#[ignore = "a process of the tests above"]
fn host_role() {
    process::play(host);
}

#[test]
#[ignore = "a process of the tests above"]
fn senders_role() {
    process::play(senders);
}

#[test]
#[ignore = "a process of the tests above"]
fn subscriber_role() {
    process::play(subscriber);
}

/// Sends as fast as it can until told to stop, and sees that each message has its place. How many those were.
async fn send(sender: Sender, stop: Arc<AtomicBool>) -> u64 {
    let mut under_way: VecDeque<Receipt> = VecDeque::new();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..64 {
            let message = Message::new(LOAD, vec![b'x'; PADDING]).expect("a message");
            under_way.push_back(sender.send(message).await.expect("open"));
            sent += 1;
        }
        if under_way.len() >= UNDER_WAY {
            for receipt in under_way.drain(..UNDER_WAY / 2) {
                receipt.ordered().await.expect("it has its place");
            }
        }
        tokio::task::yield_now().await;
    }
    for receipt in under_way {
        receipt.ordered().await.expect("it has its place");
    }
    sent
}

/// Lets all of these send from one order to the next.
async fn send_when_told(senders: Vec<Sender>, orders: &mut mpsc::UnboundedReceiver<String>) {
    if orders.recv().await.is_none() {
        return;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let sending: Vec<_> =
        senders.into_iter().map(|sender| tokio::spawn(send(sender, Arc::clone(&stop)))).collect();
    orders.recv().await;
    stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    for task in sending {
        sent.push(task.await.expect("a sender"));
    }
    say(&json!({ "event": "stopped", "sent": sent }));
}

async fn host(role: Role) {
    let host = Host::builder().bind("tcp://127.0.0.1:0").await.expect("bind");
    let mut events = host.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if matches!(event, Event::Evicted { .. } | Event::MemberLeft { .. }) {
                eprintln!("{event:?}");
            }
        }
    });
    say(&json!({ "event": "listening", "address": host.address().to_string() }));
    let mut orders = role.orders();
    send_when_told(vec![host.sender()], &mut orders).await;
    if orders.recv().await.is_some() {
        let last = host.send(Message::new(LAST_TOPIC, "").expect("a message")).await.expect("open");
        let seq = last.ordered().await.expect("ordered").seq;
        let stats = host.stats();
        let counts = json!({
            "evictions": stats.evictions, "transport_drops": stats.transport_drops, "missed_repairs": stats.missed_repairs,
            "pauses": stats.pauses, "straggler_waits": stats.straggler_waits, "repaired_windows": stats.repaired_windows, "windows": stats.windows,
        });
        say(&json!({ "event": "ended", "seq": seq, "stats": counts }));
    }
    while orders.recv().await.is_some() {}
}

async fn senders(role: Role) {
    let mut clients = Vec::new();
    for _ in 0..SENDERS {
        let client = Client::builder().join(role.text("address")).await.expect("join");
        // One that only sends takes nothing: four that took everything would share the processors of one.
        client.unsubscribe("").await.expect("open");
        clients.push(client);
    }
    say(&json!({ "event": "joined" }));
    let mut orders = role.orders();
    send_when_told(clients.iter().map(Client::sender).collect(), &mut orders).await;
    while orders.recv().await.is_some() {}
}

/// What a subscriber has seen.
#[derive(Debug, Default)]
struct Seen {
    count: u64,
    last_of: BTreeMap<EndpointId, u64>,
    before: Option<Instant>,
    longest_pause: Duration,
    /// What went wrong first.
    trouble: Option<String>,
}

impl Seen {
    /// The next one: all of them come, in the one order and in that of their origins.
    fn add(&mut self, message: &Message) {
        let now = Instant::now();
        self.longest_pause =
            self.longest_pause.max(self.before.map_or(Duration::ZERO, |before| now - before));
        self.before = Some(now);
        self.count += 1;
        let last = self.last_of.insert(message.origin(), message.origin_seq()).unwrap_or(0);
        let (seq, number) = (message.position().expect("ordered").seq, message.origin_seq());
        if self.trouble.is_none() && (seq != self.count || number != last + 1) {
            self.trouble = Some(format!("message {} is at {seq}, number {number} after {last}", self.count));
        }
        if message.topic().as_str() == LAST_TOPIC {
            say(&json!({
                "event": "report", "count": self.count, "trouble": self.trouble,
                "longest_pause_ms": self.longest_pause.as_millis() as u64,
            }));
        }
    }
}

/// A handler that counts, and answers where it is to. Where there is no room, an answer is left to a task beside the handler.
struct Answering {
    seen: Mutex<Seen>,
    /// It answers each origin's messages of this number, and of every eighth from there; 0 for none.
    answers_to: u64,
    sender: Sender,
    beside: mpsc::UnboundedSender<Message>,
    receipts: mpsc::UnboundedSender<Receipt>,
    handed_over: AtomicU64,
}

impl Answering {
    async fn on_message(&self, message: Message) {
        self.seen.lock().expect("no panic").add(&message);
        let is_its_own = message.origin_seq() % SUBSCRIBERS as u64 == self.answers_to % SUBSCRIBERS as u64;
        if self.answers_to == 0 || !is_its_own || message.topic().as_str() != LOAD {
            return;
        }
        let answer = Message::new(ANSWERS, message.payload().clone()).expect("a message");
        match self.sender.send(answer).await {
            Ok(receipt) => self.receipts.send(receipt).expect("it is waited for"),
            Err(SendError::WouldBlock { message }) => {
                self.handed_over.fetch_add(1, Ordering::Relaxed);
                self.beside.send(*message).expect("it is taken");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn subscriber(role: Role) {
    // A small send queue, so that it is full now and then.
    let builder = Client::builder().echo(true).send_queue(256, 1 << 20);
    let client = builder.join(role.text("address")).await.expect("join");
    let (beside, mut left) = mpsc::unbounded_channel::<Message>();
    let (settle, mut receipts) = mpsc::unbounded_channel::<Receipt>();
    let answering = Arc::new(Answering {
        seen: Mutex::default(),
        answers_to: role.number("answers_to"),
        sender: client.sender(),
        beside,
        receipts: settle.clone(),
        handed_over: AtomicU64::new(0),
    });
    let (sender, handler) = (client.sender(), Arc::clone(&answering));
    client
        .handle("", move |message: Message| {
            let handler = Arc::clone(&handler);
            async move { handler.on_message(message).await }
        })
        .expect("a prefix");
    tokio::spawn(async move {
        while let Some(message) = left.recv().await {
            let Ok(receipt) = sender.send(message).await else { return };
            settle.send(receipt).expect("it is waited for");
        }
    });
    say(&json!({ "event": "joined" }));
    let mut orders = role.orders();
    let mut settled = 0;
    let mut expected = None;
    loop {
        if expected == Some(settled) {
            say(&json!({ "event": "settled", "handed_over": answering.handed_over.load(Ordering::Relaxed) }));
            expected = None;
        }
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => expected = Some(order.parse::<u64>().expect("a number")),
                None => break,
            },
            Some(receipt) = receipts.recv() => {
                receipt.ordered().await.expect("it has its place");
                settled += 1;
            }
        }
    }
}

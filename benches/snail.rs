//! What a stopped subscriber costs the others: the throughput of seven healthy subscribers without an eighth, with a healthy one, and with one
//! that is stopped by SIGSTOP and evicted while the load goes on. A host and subscribers in processes of their own, interleaved.
//!
//! `docs/benchmarks.md` says what is measured and how to read it. Options, behind `cargo bench --bench snail --`:
//! `--quick` one round of the short runs, `--rounds K` (default 5), `--size BYTES` messages of this size alone.
//!
//! A lost, repeated or misplaced message, an eviction of anyone but the snail, or a run that stalls, is an error: the exit code is 1.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program with a clock"
)]

#[path = "../tests/common/process.rs"]
mod process;
#[path = "common/report.rs"]
mod report;

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use bytes::BytesMut;
use futures::StreamExt;
use process::{PATIENCE, Process, Role, say};
use report::{environment, human, median, rate, ratios};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use zincmq::prelude::*;

type Failure = Box<dyn Error + Send + Sync>;

/// How many subscribers are measured: with the eighth, as many as in `tests/snail.rs`.
const HEALTHY: usize = 7;
/// How many messages may be in flight, counted to the slowest of the healthy, a healthy eighth among them: far from every mark and every
/// queue's bound.
const WINDOW: u64 = 20_000;
/// After how many messages a subscriber tells how far it has come.
const STEP: u64 = WINDOW / 8;
const LOOPBACK: &str = "tcp://127.0.0.1:0";

/// Who is there beside the healthy ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arm {
    Alone,
    WithEighth,
    WithSnail,
}

impl Arm {
    const ALL: [Self; 3] = [Self::Alone, Self::WithEighth, Self::WithSnail];
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
struct Cell {
    size: u64,
    messages: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.messages, human(self.size))
    }
}

/// What one run came to.
struct Outcome {
    /// Messages per second of the slowest of the healthy.
    rate: f64,
    /// How many seconds after the load began the snail was evicted.
    evicted_after: Option<f64>,
}

impl Cell {
    /// The default marks let a member fall behind by a million messages or 64 MiB. In the short runs the snail so is there for half of the
    /// messages and more, in the long ones for the smaller part.
    fn all(quick: bool) -> Vec<Self> {
        [(64, 1_500_000), (64, 6_000_000), (1024, 120_000), (1024, 1_000_000)]
            .into_iter()
            .step_by(if quick { 2 } else { 1 })
            .map(|(size, messages)| Self { size, messages })
            .collect()
    }

    fn run(self, arm: Arm) -> Result<Outcome, Failure> {
        let counted = HEALTHY + usize::from(arm == Arm::WithEighth);
        let setting = json!({ "messages": self.messages, "size": self.size, "counted": counted });
        let mut host = Process::start("host_role", &setting);
        let listening = host.next("listening");
        let join = |number: usize| {
            let setting = json!({
                "address": listening["address"],
                "progress": listening["progress"],
                "messages": self.messages,
                "number": number,
                // Nobody waits for the snail.
                "counted": number < counted,
            });
            Process::start("subscriber_role", &setting)
        };
        let mut healthy: Vec<_> = (0..HEALTHY).map(join).collect();
        let mut eighth = (arm != Arm::Alone).then(|| join(HEALTHY));
        for subscriber in &mut healthy {
            subscriber.next("joined");
        }
        let eighth_id = eighth.as_mut().map(|eighth| eighth.next("joined")["id"].clone());

        host.tell("load");
        if let Some(eighth) = &mut eighth {
            eighth.next("flowing");
            if arm == Arm::WithSnail {
                eighth.signal("STOP");
            }
        }
        let mut evicted = Vec::new();
        let finished = host.until("finished", |line| evicted.push(line.clone()));
        for subscriber in &mut healthy {
            subscriber.next("flowing");
            subscriber.next("done");
        }
        let mut evicted_after = None;
        match (arm, &evicted[..]) {
            (Arm::Alone, []) => {}
            (Arm::WithEighth, []) => _ = eighth.as_mut().map(|eighth| eighth.next("done")),
            (Arm::WithSnail, [line]) if Some(&line["id"]) == eighth_id.as_ref() => {
                evicted_after = line["after"].as_f64();
            }
            (Arm::WithSnail, []) => return Err("the snail was not evicted during the run".into()),
            (_, lines) => return Err(format!("evicted: {lines:?}").into()),
        }
        if arm == Arm::WithSnail {
            // It was told to stop, and cannot be told to end.
            drop(eighth.take());
        }
        healthy.into_iter().chain(eighth).chain([host]).for_each(Process::ends_well);
        let seconds = finished["seconds"].as_f64().ok_or("a number")?;
        Ok(Outcome { rate: self.messages as f64 / seconds, evicted_after })
    }
}

async fn host(role: Role) {
    let marks = zincmq::HighWaterMark::new();
    let host = Host::builder().high_water_mark(marks).bind(LOOPBACK).await.expect("bind");
    let reports = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut orders = role.orders();
    let mut events = host.events();
    say(&json!({
        "event": "listening",
        "address": host.address().to_string(),
        "progress": reports.local_addr().expect("bound").to_string(),
    }));
    let counted = role.number("counted") as usize;
    let progress = Arc::new(Progress::new(counted));
    let mut readers = JoinSet::new();
    for _ in 0..counted {
        let (stream, _) = reports.accept().await.expect("a subscriber");
        readers.spawn(Arc::clone(&progress).read(stream));
    }
    assert_eq!(orders.recv().await.as_deref(), Some("load"));
    let began = Instant::now();
    let load = publish(host.sender(), &role, &progress);
    tokio::pin!(load);
    loop {
        tokio::select! {
            () = &mut load => break,
            event = events.next() => if let Some(Event::Evicted { id, eviction }) = event {
                say(&json!({
                    "event": "evicted",
                    "id": id.to_string(),
                    "reason": eviction.reason.as_str(),
                    "after": began.elapsed().as_secs_f64(),
                }));
            },
        }
    }
    say(&json!({ "event": "finished", "seconds": began.elapsed().as_secs_f64() }));
    // Members leave before their host.
    assert_eq!(orders.recv().await, None);
    let left = host.shutdown().await;
    assert_eq!(left.unsent, 0);
}

/// Publishes all messages at full speed, and waits until every healthy subscriber has them.
async fn publish(sender: Sender, role: &Role, progress: &Progress) {
    let messages = role.number("messages");
    let topic: Topic = "bench".parse().expect("a topic");
    let blank = BytesMut::zeroed(role.number("size") as usize);
    let mut floor = 0;
    for number in 0..messages {
        if number == floor + WINDOW {
            // A full window is waited for until a quarter of it is free, so that neither side pays for a wake-up per message.
            floor = progress.reach(floor + WINDOW / 4, progress.received.len()).await;
        }
        let mut payload = blank.clone();
        payload[..8].copy_from_slice(&number.to_be_bytes());
        let message = Message::new(&topic, payload.freeze()).expect("a message");
        sender.send(message).await.expect("open");
    }
    progress.reach(messages, HEALTHY).await;
}

/// How far each of those who are counted has come.
struct Progress {
    /// By the number each of them tells first.
    received: Vec<AtomicU64>,
    more: Notify,
}

impl Progress {
    fn new(counted: usize) -> Self {
        Self { received: (0..counted).map(|_| AtomicU64::new(0)).collect(), more: Notify::new() }
    }

    /// Takes in what one of them tells, until it ends.
    async fn read(self: Arc<Self>, mut stream: TcpStream) {
        let subscriber = stream.read_u64().await.expect("its number") as usize;
        loop {
            match stream.read_u64().await {
                Ok(count) => self.received[subscriber].store(count, SeqCst),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) => panic!("subscriber {subscriber}: {error}"),
            }
            self.more.notify_one();
        }
    }

    /// Waits until the first `many` of them have come as far as `goal`. How far the slowest of them has come.
    async fn reach(&self, goal: u64, many: usize) -> u64 {
        loop {
            let least = self.received[..many].iter().map(|count| count.load(SeqCst)).min().unwrap_or(0);
            if least >= goal {
                return least;
            }
            tokio::time::timeout(PATIENCE, self.more.notified()).await.expect("messages come through");
        }
    }
}

async fn subscriber(role: Role) {
    let due = role.number("messages");
    let mut progress = None;
    if role.flag("counted") {
        let mut stream = TcpStream::connect(role.text("progress")).await.expect("the host listens");
        stream.set_nodelay(true).expect("a connection");
        stream.write_u64(role.number("number")).await.expect("the host reads");
        progress = Some(stream);
    }
    let builder = Client::builder().join_timeout(PATIENCE);
    let (client, mut messages) =
        builder.join_with_messages(role.text("address")).await.expect("the host is there");
    let mut orders = role.orders();
    say(&json!({ "event": "joined", "id": client.id().to_string() }));
    let (mut received, mut told) = (0, 0);
    while received < due {
        let batch = messages.next_batch().await.expect("it goes on").expect("nothing is lost");
        if received == 0 {
            say(&json!({ "event": "flowing" }));
        }
        for message in batch {
            let number = message.payload().first_chunk().map(|first| u64::from_be_bytes(*first));
            assert_eq!(number, Some(received), "lost, repeated or misplaced");
            received += 1;
        }
        if let Some(progress) = &mut progress
            && (received >= told + STEP || received == due)
        {
            told = received;
            progress.write_u64(received).await.expect("the host reads");
        }
    }
    say(&json!({ "event": "done" }));
    assert_eq!(orders.recv().await, None);
    let _ = client.shutdown().await;
}

struct Options {
    quick: bool,
    rounds: usize,
    size: Option<u64>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self { quick: false, rounds: 0, size: None };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => options.rounds = value()?.parse()?,
                "--size" => options.size = Some(value()?.parse()?),
                // Cargo's own.
                "--bench" => {}
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 1 } else { 5 };
        }
        Ok(options)
    }
}

/// What the arms of one cell came to, round by round.
#[derive(Default)]
struct Results {
    rates: [Vec<f64>; Arm::ALL.len()],
    evicted_after: Vec<f64>,
}

fn measure(options: &Options) -> Result<(), Failure> {
    let cells: Vec<Cell> = Cell::all(options.quick)
        .into_iter()
        .filter(|cell| options.size.is_none_or(|size| size == cell.size))
        .collect();
    let mut results: Vec<Results> = cells.iter().map(|_| Results::default()).collect();
    for round in 0..options.rounds {
        // Whoever goes first in one round goes last in the next.
        let mut arms = Arm::ALL;
        arms.rotate_left(round % Arm::ALL.len());
        for (cell, results) in cells.iter().zip(&mut results) {
            for arm in arms {
                let Outcome { rate, evicted_after } =
                    cell.run(arm).map_err(|error| format!("{cell}, {arm:?}: {error}"))?;
                let evicted = evicted_after.map(|after| format!(", evicted after {after:.2} s"));
                eprintln!(
                    "round {}: {cell}, {arm:?}: {rate:.0}/s in {:.2} s{}",
                    round + 1,
                    cell.messages as f64 / rate,
                    evicted.unwrap_or_default()
                );
                results.rates[arm as usize].push(rate);
                results.evicted_after.extend(evicted_after);
            }
        }
    }
    println!("\nEnvironment: {}; {} rounds, medians; no message lost.\n", environment(), options.rounds);
    println!(
        "| size | messages | (a) 7 alone, msg/s | (b) with a healthy 8th, msg/s | (c) with a stopped 8th, msg/s | evicted after | b/a | c/a |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    for (cell, Results { rates: [alone, eighth, snail], evicted_after }) in cells.iter().zip(&results) {
        println!(
            "| {} | {} | {} | {} | {} | {:.1} s | {} | {} |",
            human(cell.size),
            cell.messages,
            rate(alone),
            rate(eighth),
            rate(snail),
            median(evicted_after.iter().copied()),
            ratios(eighth, alone),
            ratios(snail, alone),
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.get(1).map(String::as_str) {
        Some("host_role") => process::play(host),
        Some("subscriber_role") => process::play(subscriber),
        _ if arguments.iter().any(|argument| argument == "--bench") => {
            let run = || Options::parse(arguments.into_iter()).and_then(|options| measure(&options));
            // A process that ends before its time, or says nothing, is told by a panic.
            match std::panic::catch_unwind(run) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    eprintln!("error: {error}");
                    return ExitCode::FAILURE;
                }
                Err(_) => return ExitCode::FAILURE,
            }
        }
        // `cargo test` runs benchmarks, too, to see that they start.
        _ => println!("run with: cargo bench --bench snail"),
    }
    ExitCode::SUCCESS
}

//! Endpoints beside the bare `zeromq` crate: throughput and round trip over loopback TCP, in one run, interleaved.
//!
//! `docs/benchmarks.md` says what is measured and how to read it. Options, behind `cargo bench --bench endpoint --`:
//! `--quick` one round of small counts, `--scale K` K times as many messages, `--rounds K` (default 5), `--only TEXT` the cells whose name contains it,
//! `--side endpoint|zeromq` one side alone, for profilers.
//!
//! A lost, repeated or misplaced message, or a run that stalls, is an error: the exit code is 1.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program with a clock"
)]

#[path = "common/report.rs"]
mod report;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use report::{environment, human, rate, ratios};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use zeromq::{PubSocket, PullSocket, PushSocket, Socket, SocketRecv, SocketSend, SubSocket, ZmqMessage};
use zincmq::Messages;
use zincmq::prelude::*;

type Failure = Box<dyn Error + Send + Sync>;

/// How many messages may be in flight.
const WINDOW: u64 = 20_000;
/// How many bytes may be in flight, counted once and counted for each subscriber: large messages have a smaller window, so that
/// memory stays sane.
const WINDOW_BYTES: (u64, u64) = (64 << 20, 2 << 30);
/// A run that gets nothing through for so long has lost something.
const STALL: Duration = Duration::from_secs(10);
/// What the bare side sends until every subscriber hears it.
const CALL: &[u8] = &[0];
const LOOPBACK: &str = "tcp://127.0.0.1:0";

/// Which way messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the host to all subscribers. Bare: PUB to SUBs.
    Publish,
    /// From a client by way of the host to all subscribers. Bare: PUSH to PULL, handed on by PUB to SUBs.
    Submit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Endpoint,
    Zeromq,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
struct Cell {
    way: Way,
    size: u64,
    subscribers: usize,
    messages: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.way == Way::Publish { "publish" } else { "submit" };
        write!(f, "{way} {} x {}", human(self.size), self.subscribers)
    }
}

impl Cell {
    fn all(quick: bool, scale: u64) -> Vec<Self> {
        let mut cells = Vec::new();
        for way in [Way::Publish, Way::Submit] {
            for (size, counts) in [
                (64, [1_000_000, 300_000, 60_000]),
                (1024, [300_000, 100_000, 40_000]),
                (64 * 1024, [8_000, 4_000, 1_000]),
            ] {
                for (subscribers, messages) in [1, 8, 64].into_iter().zip(counts) {
                    let messages = if quick { messages / 50 } else { messages * scale };
                    cells.push(Self { way, size, subscribers, messages });
                }
            }
        }
        cells
    }

    fn window(&self) -> u64 {
        let (once, each) = WINDOW_BYTES;
        WINDOW.min(once / self.size).min(each / self.size / self.subscribers as u64)
    }

    async fn run(self, side: Side) -> Result<Duration, Failure> {
        match (side, self.way) {
            (Side::Endpoint, way) => endpoint_throughput(self, way).await,
            (Side::Zeromq, way) => zeromq_throughput(self, way).await,
        }
    }
}

/// How far each subscriber has come, and whether the publisher may send more.
struct Progress {
    received: Vec<Counter>,
    /// What the publisher waits for all subscribers to reach.
    goal: AtomicU64,
    reached: Notify,
    window: u64,
}

/// Alone in its cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

impl Progress {
    fn new(cell: &Cell) -> Arc<Self> {
        Arc::new(Self {
            received: (0..cell.subscribers).map(|_| Counter::default()).collect(),
            goal: AtomicU64::new(0),
            reached: Notify::new(),
            window: cell.window(),
        })
    }

    fn add(&self, subscriber: usize, messages: u64) {
        let before = self.received[subscriber].0.fetch_add(messages, SeqCst);
        let goal = self.goal.load(SeqCst);
        if before < goal && goal <= before + messages {
            self.reached.notify_one();
        }
    }

    fn least(&self) -> u64 {
        self.received.iter().map(|counter| counter.0.load(SeqCst)).min().unwrap_or(0)
    }

    /// Waits until one more may be sent after `sent`. A full window is waited for until a quarter of it is free, so that
    /// neither side pays for a wake-up per message. `floor` is what all subscribers were last seen to have.
    async fn wait_for_room(&self, sent: u64, floor: &mut u64) {
        if sent < *floor + self.window {
            return;
        }
        let goal = sent - self.window + (self.window / 4).max(1);
        self.goal.store(goal, SeqCst);
        loop {
            *floor = self.least();
            if *floor >= goal {
                return;
            }
            self.reached.notified().await;
        }
    }

    /// Waits for the subscribers' tasks, and for an error of any task.
    async fn finish(&self, tasks: &mut JoinSet<Result<(), Failure>>, messages: u64) -> Result<(), Failure> {
        let mut last = u64::MAX;
        loop {
            let sum = self.received.iter().map(|counter| counter.0.load(SeqCst)).sum();
            if sum == last {
                let lost = messages * self.received.len() as u64 - sum;
                return Err(format!("stalled: {lost} deliveries lost").into());
            }
            last = sum;
            let deadline = tokio::time::Instant::now() + STALL;
            while let Ok(next) = tokio::time::timeout_at(deadline, tasks.join_next()).await {
                match next {
                    Some(result) => result??,
                    None => return Ok(()),
                }
            }
        }
    }
}

/// Builds payloads that begin with their number, and checks them at the other end.
struct Payloads(BytesMut);

impl Payloads {
    fn new(cell: &Cell) -> Self {
        Self(BytesMut::zeroed(cell.size as usize))
    }

    fn make(&self, number: u64) -> Bytes {
        let mut payload = self.0.clone();
        payload[..8].copy_from_slice(&number.to_be_bytes());
        payload.freeze()
    }

    fn check(payload: &[u8], expected: u64) -> Result<(), Failure> {
        let number = payload.first_chunk().map(|first| u64::from_be_bytes(*first));
        if number == Some(expected) {
            return Ok(());
        }
        let lost = number.and_then(|number| number.checked_sub(expected));
        Err(match lost {
            Some(lost) => format!("lost {lost} messages behind number {expected}"),
            None => format!("{number:?} came where {expected} was due"),
        }
        .into())
    }
}

async fn endpoint_throughput(cell: Cell, way: Way) -> Result<Duration, Failure> {
    let host = Host::builder().bind(LOOPBACK).await?;
    let progress = Progress::new(&cell);
    let mut tasks = JoinSet::new();
    let mut clients = Vec::new();
    for subscriber in 0..cell.subscribers {
        // The first is the sender when clients send; it receives what it sends as the others do.
        let client = Client::builder().echo(true).join(host.address()).await?;
        tasks.spawn(endpoint_subscriber(client.messages(), subscriber, cell.messages, Arc::clone(&progress)));
        clients.push(client);
    }
    let sender = if way == Way::Publish { host.sender() } else { clients[0].sender() };
    let topic: Topic = "bench".parse()?;
    let start = Instant::now();
    tasks.spawn({
        let progress = Arc::clone(&progress);
        async move {
            let payloads = Payloads::new(&cell);
            let mut floor = 0;
            for number in 0..cell.messages {
                progress.wait_for_room(number, &mut floor).await;
                sender.send(Message::new(&topic, payloads.make(number))?).await?;
            }
            Ok(())
        }
    });
    progress.finish(&mut tasks, cell.messages).await?;
    Ok(start.elapsed())
}

async fn endpoint_subscriber(
    mut messages: Messages,
    subscriber: usize,
    due: u64,
    progress: Arc<Progress>,
) -> Result<(), Failure> {
    let mut received = 0;
    while received < due {
        let batch = messages.next_batch().await.ok_or("the endpoint ended")??;
        let count = batch.len() as u64;
        for message in batch {
            Payloads::check(message.payload(), received)?;
            received += 1;
        }
        progress.add(subscriber, count);
    }
    Ok(())
}

/// The bare sockets: what PUSH sends, a task hands on from PULL to PUB, if `way` says so; SUBs receive it.
struct Bare {
    publisher: Publisher,
    subscribers: Vec<SubSocket>,
    /// The relay, aborted with this.
    _relay: JoinSet<()>,
}

enum Publisher {
    Direct(PubSocket),
    Relayed(PushSocket),
}

impl Publisher {
    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        match self {
            Self::Direct(publisher) => publisher.send(payload.into()).await?,
            Self::Relayed(push) => push.send(payload.into()).await?,
        }
        Ok(())
    }
}

impl Bare {
    async fn connect(subscribers: usize, way: Way) -> Result<Self, Failure> {
        let mut publisher = PubSocket::new();
        let address = publisher.bind(LOOPBACK).await?.to_string();
        let mut sockets = Vec::new();
        for _ in 0..subscribers {
            let mut socket = SubSocket::new();
            socket.connect(&address).await?;
            socket.subscribe("").await?;
            sockets.push(socket);
        }
        let mut relay = JoinSet::new();
        let publisher = match way {
            Way::Publish => Publisher::Direct(publisher),
            Way::Submit => {
                let mut pull = PullSocket::new();
                let mut push = PushSocket::new();
                push.connect(&pull.bind(LOOPBACK).await?.to_string()).await?;
                relay.spawn(async move {
                    while let Ok(message) = pull.recv().await {
                        // The crate drops what finds no room, and says nothing: the subscribers notice.
                        let _ = publisher.send(message).await;
                    }
                });
                Publisher::Relayed(push)
            }
        };
        Ok(Self { publisher, subscribers: sockets, _relay: relay })
    }
}

fn payload(message: &ZmqMessage) -> Result<&[u8], Failure> {
    match message.get(0) {
        Some(frame) if message.len() == 1 => Ok(frame),
        _ => Err("a message of one frame was due".into()),
    }
}

async fn zeromq_throughput(cell: Cell, way: Way) -> Result<Duration, Failure> {
    let Bare { mut publisher, subscribers, _relay } = Bare::connect(cell.subscribers, way).await?;
    let progress = Progress::new(&cell);
    let mut tasks = JoinSet::new();
    let (ready, mut readied) = mpsc::channel(cell.subscribers);
    for (subscriber, socket) in subscribers.into_iter().enumerate() {
        let (progress, ready) = (Arc::clone(&progress), ready.clone());
        tasks.spawn(zeromq_subscriber(socket, subscriber, cell.messages, progress, ready));
    }
    for _ in 0..cell.subscribers {
        while tokio::time::timeout(Duration::from_millis(5), readied.recv()).await.is_err() {
            publisher.send(Bytes::from_static(CALL)).await?;
        }
    }
    let start = Instant::now();
    // The socket comes back, so that it does not close with what it has not written.
    let mut publishing = tokio::spawn({
        let progress = Arc::clone(&progress);
        async move {
            let payloads = Payloads::new(&cell);
            let mut floor = 0;
            for number in 0..cell.messages {
                progress.wait_for_room(number, &mut floor).await;
                publisher.send(payloads.make(number)).await?;
            }
            Ok::<_, Failure>(publisher)
        }
    });
    let finished = progress.finish(&mut tasks, cell.messages).await;
    let elapsed = start.elapsed();
    publishing.abort();
    if let Ok(Err(error)) = (&mut publishing).await {
        return Err(error);
    }
    finished.map(|()| elapsed)
}

async fn zeromq_subscriber(
    mut socket: SubSocket,
    subscriber: usize,
    due: u64,
    progress: Arc<Progress>,
    ready: mpsc::Sender<()>,
) -> Result<(), Failure> {
    let mut ready = Some(ready);
    let mut received = 0;
    while received < due {
        let message = socket.recv().await?;
        let payload = payload(&message)?;
        if payload == CALL {
            if let Some(ready) = ready.take() {
                ready.send(()).await?;
            }
            continue;
        }
        Payloads::check(payload, received)?;
        received += 1;
        progress.add(subscriber, 1);
    }
    Ok(())
}

/// Sends and waits for the receipt, one message at a time.
async fn endpoint_round_trips(count: usize) -> Result<Vec<Duration>, Failure> {
    let host = Host::builder().bind(LOOPBACK).await?;
    let client = Client::builder().join(host.address()).await?;
    let sender = client.sender();
    let topic: Topic = "bench".parse()?;
    let payload = Bytes::from_static(&[7; 64]);
    let work = async move {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            sender.send(Message::new(&topic, payload.clone())?).await?.ordered().await?;
            times.push(start.elapsed());
        }
        Ok(times)
    };
    // On a worker, as in a service.
    let times = tokio::spawn(work).await?;
    drop((host, client));
    times
}

/// Sends by PUSH and waits until it comes back by SUB, one message at a time.
async fn zeromq_round_trips(count: usize) -> Result<Vec<Duration>, Failure> {
    let Bare { mut publisher, mut subscribers, _relay } = Bare::connect(1, Way::Submit).await?;
    let mut subscriber = subscribers.pop().ok_or("one subscriber")?;
    let mut calls = 0;
    loop {
        publisher.send(Bytes::from_static(CALL)).await?;
        calls += 1;
        if tokio::time::timeout(Duration::from_millis(50), subscriber.recv()).await.is_ok() {
            break;
        }
        if calls > 200 {
            return Err("the subscription never took".into());
        }
    }
    let work = async move {
        let mut times = Vec::with_capacity(count);
        let data = Bytes::from_static(&[7; 64]);
        for _ in 0..count {
            let start = Instant::now();
            publisher.send(data.clone()).await?;
            while payload(&subscriber.recv().await?)? != &data[..] {}
            times.push(start.elapsed());
        }
        Ok(times)
    };
    tokio::spawn(work).await?
}

/// Runs in a runtime of its own, so that nothing of one run is left in the next.
fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(300), work).await.map_err(|_| "took over five minutes")?
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

struct Options {
    quick: bool,
    scale: u64,
    rounds: usize,
    only: String,
    sides: Vec<Side>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self {
            quick: false,
            scale: 1,
            rounds: 0,
            only: String::new(),
            sides: vec![Side::Endpoint, Side::Zeromq],
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--scale" => options.scale = value()?.parse::<u64>()?.max(1),
                "--rounds" => options.rounds = value()?.parse()?,
                "--only" => options.only = value()?,
                "--side" => match value()?.as_str() {
                    "endpoint" => options.sides = vec![Side::Endpoint],
                    "zeromq" => options.sides = vec![Side::Zeromq],
                    other => return Err(format!("no side is called {other}").into()),
                },
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

/// What both sides came to, round by round.
struct Results<T> {
    endpoint: Vec<T>,
    zeromq: Vec<T>,
}

impl<T> Results<T> {
    fn new() -> Self {
        Self { endpoint: Vec::new(), zeromq: Vec::new() }
    }

    fn push(&mut self, side: Side, result: T) {
        match side {
            Side::Endpoint => self.endpoint.push(result),
            Side::Zeromq => self.zeromq.push(result),
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    let cells: Vec<Cell> = Cell::all(options.quick, options.scale)
        .into_iter()
        .filter(|cell| cell.to_string().contains(&options.only))
        .collect();
    let mut throughput: Vec<Results<f64>> = cells.iter().map(|_| Results::new()).collect();
    let mut round_trips: Results<(f64, f64)> = Results::new();
    let with_round_trips = "round trip".contains(&options.only);
    for round in 0..options.rounds {
        // Whoever goes first in one round goes last in the next.
        let mut sides = options.sides.clone();
        sides.rotate_left(round % options.sides.len());
        for (cell, results) in cells.iter().zip(&mut throughput) {
            for side in &sides {
                let elapsed = run(cell.run(*side)).map_err(|error| format!("{cell}, {side:?}: {error}"))?;
                let rate = cell.messages as f64 / elapsed.as_secs_f64();
                eprintln!("round {}: {cell}, {side:?}: {rate:.0}/s in {elapsed:.2?}", round + 1);
                results.push(*side, rate);
            }
        }
        for side in sides.iter().filter(|_| with_round_trips) {
            let count = if options.quick { 200 } else { 10_000 };
            let mut times = match side {
                Side::Endpoint => run(endpoint_round_trips(count)),
                Side::Zeromq => run(zeromq_round_trips(count)),
            }
            .map_err(|error| format!("round trip, {side:?}: {error}"))?;
            times.sort_unstable();
            let micros = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
            eprintln!(
                "round {}: round trip, {side:?}: p50 {:.0} us, p99 {:.0} us",
                round + 1,
                micros(50),
                micros(99)
            );
            round_trips.push(*side, (micros(50), micros(99)));
        }
    }
    println!("\nEnvironment: {}; {} rounds, medians; no message lost.\n", environment(), options.rounds);
    println!(
        "| path | size | subscribers | messages | window | endpoint, msg/s | bare zeromq, msg/s | ratio |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    for (cell, results) in cells.iter().zip(&throughput) {
        let path = match cell.way {
            Way::Publish => "host → clients",
            Way::Submit => "client → host → clients",
        };
        println!(
            "| {path} | {} | {} | {} | {} | {} | {} | {} |",
            human(cell.size),
            cell.subscribers,
            cell.messages,
            cell.window(),
            rate(&results.endpoint),
            rate(&results.zeromq),
            ratios(&results.endpoint, &results.zeromq),
        );
    }
    if with_round_trips {
        println!("\n| round trip, 64 B | endpoint | bare zeromq | ratio |\n|---|---:|---:|---:|");
        let split = |times: &[(f64, f64)]| -> (Vec<f64>, Vec<f64>) { times.iter().copied().unzip() };
        let (endpoint, zeromq) = (split(&round_trips.endpoint), split(&round_trips.zeromq));
        for (name, endpoint, zeromq) in [("p50", endpoint.0, zeromq.0), ("p99", endpoint.1, zeromq.1)] {
            println!(
                "| {name} | {} µs | {} µs | {} |",
                rate(&endpoint),
                rate(&zeromq),
                ratios(&endpoint, &zeromq)
            );
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // `cargo test` runs benchmarks, too, to see that they start.
        println!("run with: cargo bench --bench endpoint");
        return ExitCode::SUCCESS;
    }
    match Options::parse(arguments.into_iter()).and_then(|options| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

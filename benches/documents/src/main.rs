//! Documents beside y-websocket, with its own clients and with yrs as clients, and bare yrs in one process as the floor; in one run, interleaved.
//!
//! `docs/benchmarks.md` says what is measured and how to read it. In this directory: `./run.sh`, with the options `--quick` one round of small counts,
//! `--rounds K` (default 3), `--only TEXT` the rows whose name contains it, `--side NAME` one side alone (or several, each behind a `--side` of its own).
//!
//! A lost edit, another text at the end, or a run that stalls, is an error: the exit code is 1.

mod client;
mod edits;
mod process;
mod socket;
mod zinc;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;
use yrs::updates::decoder::Decode;
use yrs::{GetString, Transact, Update};

use crate::edits::Edit;
use crate::process::Process;

type Failure = Box<dyn Error + Send + Sync>;

const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/node");
/// In how many processes watchers are, at most.
const PROCESSES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Zincmq,
    /// With clients on Node.
    Ywebsocket,
    /// With clients in Rust.
    YwebsocketYrs,
}

impl Side {
    const ALL: [Self; 3] = [Self::Zincmq, Self::Ywebsocket, Self::YwebsocketYrs];

    fn name(self) -> &'static str {
        match self {
            Self::Zincmq => "zincmq",
            Self::Ywebsocket => "y-websocket",
            Self::YwebsocketYrs => "y-websocket, clients yrs",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Zincmq => "zincmq",
            Self::Ywebsocket => "y-websocket",
            Self::YwebsocketYrs => "yrs",
        }
    }

    fn parse(name: &str) -> Result<Self, Failure> {
        let side = Self::ALL.into_iter().find(|side| side.option() == name);
        side.ok_or_else(|| format!("no side is called {name}").into())
    }

    fn host(self) -> Result<Process, Failure> {
        match self {
            Self::Zincmq => role("host"),
            Self::Ywebsocket | Self::YwebsocketYrs => node("server.mjs"),
        }
    }

    fn client(self) -> Result<Process, Failure> {
        match self {
            Self::Zincmq => role("zincmq"),
            Self::Ywebsocket => node("client.mjs"),
            Self::YwebsocketYrs => role("yrs"),
        }
    }
}

fn role(name: &str) -> Result<Process, Failure> {
    Process::start(name, Command::new(std::env::current_exe()?).args(["--role", name]))
}

fn node(script: &str) -> Result<Process, Failure> {
    Process::start(script, Command::new("node").args(["--expose-gc", script]).current_dir(NODE))
}

/// Edits in files, and the text that comes of them.
struct Typing {
    edits: PathBuf,
    text: PathBuf,
    count: usize,
    list: Vec<Edit>,
}

impl Typing {
    fn new(directory: &Path, name: &str, list: &[Edit], count: usize) -> Result<Self, Failure> {
        let list = list.get(..count).unwrap_or(list).to_vec();
        let edits = directory.join(format!("{name}-{count}.json"));
        let text = directory.join(format!("{name}-{count}.txt"));
        std::fs::write(&edits, serde_json::to_vec(&list)?)?;
        std::fs::write(&text, edits::result(&list)?)?;
        Ok(Self { edits, text, count: list.len(), list })
    }

    fn order(&self, rate: usize) -> Value {
        json!({ "order": "type", "edits": self.edits, "count": self.count, "rate": rate })
    }
}

/// A host, somebody who types and some who watch.
struct Cluster {
    host: Process,
    typist: Process,
    watchers: Vec<Process>,
    address: String,
}

const NAME: &str = "typed";

fn open(address: &str, names: &[String], times: usize, edits: usize, timed: bool) -> Value {
    json!({ "order": "open", "address": address, "names": names, "times": times, "edits": edits, "timed": timed })
}

impl Cluster {
    /// All of one document.
    fn start(side: Side, watchers: usize, edits: usize, timed: bool) -> Result<Self, Failure> {
        let mut host = side.host()?;
        let address = host.next("listening")?["address"].as_str().ok_or("no address")?.to_owned();
        let mut cluster = Self { host, typist: side.client()?, watchers: Vec::new(), address };
        let names = [NAME.to_owned()];
        for process in 0..watchers.min(PROCESSES) {
            let share = (watchers + PROCESSES - 1 - process) / PROCESSES;
            let mut watcher = side.client()?;
            watcher.asked(&open(&cluster.address, &names, share, edits, timed), "open")?;
            cluster.watchers.push(watcher);
        }
        cluster.typist.asked(&open(&cluster.address, &names, 1, 0, false), "open")?;
        Ok(cluster)
    }

    /// All of it at full speed, until every watcher has it.
    fn types(&mut self, typing: &Typing, watchers: usize) -> Result<Throughput, Failure> {
        let before = self.host.processor_time()?;
        let start = number(&self.typist.asked(&typing.order(0), "typed")?, "start")?;
        let mut end = 0.0_f64;
        for (process, index) in self.watchers.iter_mut().zip(0..) {
            for _ in 0..(watchers + PROCESSES - 1 - index) / PROCESSES {
                end = end.max(number(&process.next("seen")?, "at")?);
            }
        }
        let host = self.host.processor_time()? - before;
        self.check(typing)?;
        let edits = typing.count as f64;
        Ok(Throughput { rate: edits / (end - start) * 1e9, host: host / edits * 1e6 })
    }

    fn check(&mut self, typing: &Typing) -> Result<(), Failure> {
        let order = json!({ "order": "check", "name": NAME, "text": typing.text });
        let all = [&mut self.host, &mut self.typist].into_iter().chain(&mut self.watchers);
        for process in all {
            if process.asked(&order, "checked")?["right"] != true {
                return Err("another text came out".into());
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
struct Throughput {
    /// Edits per second that every watcher has.
    rate: f64,
    /// Processor time of the host's process for each, in microseconds.
    host: f64,
}

fn throughput(side: Side, typing: &Typing, watchers: usize) -> Result<Throughput, Failure> {
    Cluster::start(side, watchers, typing.count, false)?.types(typing, watchers)
}

#[derive(Debug, Clone, Copy)]
struct Latency {
    p50: f64,
    p99: f64,
    host: f64,
}

fn calm(side: Side, typing: &Typing, rate: usize) -> Result<Latency, Failure> {
    let mut cluster = Cluster::start(side, 1, typing.count, true)?;
    let before = cluster.host.processor_time()?;
    let typed = cluster.typist.asked(&typing.order(rate), "typed")?;
    let seen = cluster.watchers[0].next("seen")?;
    let host = cluster.host.processor_time()? - before;
    cluster.check(typing)?;
    let times = |line: &Value| -> Vec<f64> {
        line["times"]
            .as_array()
            .map(|times| times.iter().filter_map(Value::as_f64).collect())
            .unwrap_or_default()
    };
    let (typed, seen) = (times(&typed), times(&seen));
    if typed.len() != typing.count || seen.len() != typing.count {
        return Err("an edit without its time".into());
    }
    // What is just starting is not calm.
    let mut times: Vec<f64> =
        typed.iter().zip(&seen).skip(typing.count / 10).map(|(typed, seen)| (seen - typed) / 1e3).collect();
    times.sort_by(f64::total_cmp);
    let share = |share: usize| times[times.len() * share / 100];
    Ok(Latency { p50: share(50), p99: share(99), host: host / typing.count as f64 * 1e6 })
}

/// A host that has a long document, and somebody who comes late, again and again.
struct Late {
    cluster: Cluster,
    joiner: Process,
}

impl Late {
    /// Types it first; how fast that was.
    fn start(side: Side, typing: &Typing) -> Result<(Self, Throughput), Failure> {
        let mut cluster = Cluster::start(side, 1, typing.count, false)?;
        let result = cluster.types(typing, 1)?;
        let mut late = Self { cluster, joiner: side.client()? };
        // Programs that have just begun are slow.
        for _ in 0..3 {
            late.join(typing)?;
        }
        Ok((late, result))
    }

    /// In milliseconds.
    fn join(&mut self, typing: &Typing) -> Result<f64, Failure> {
        let order = json!({
            "order": "join", "address": self.cluster.address, "name": NAME, "text": typing.text
        });
        let joined = self.joiner.asked(&order, "joined")?;
        if joined["right"] != true {
            return Err("another text came out".into());
        }
        Ok(number(&joined, "took")? / 1e6)
    }
}

#[derive(Debug, Clone, Copy)]
struct Memory {
    host: f64,
    client: f64,
}

/// What an open document takes at the host and at a client that watches, in bytes of resident memory.
fn memory(side: Side, typing: &Typing, documents: usize) -> Result<Memory, Failure> {
    let mut host = side.host()?;
    let address = host.next("listening")?["address"].as_str().ok_or("no address")?.to_owned();
    let (mut typist, mut watcher) = (side.client()?, side.client()?);
    let tidy = json!({ "order": "tidy" });
    let mut resident = |first: usize, count: usize| -> Result<(f64, f64), Failure> {
        let names: Vec<String> = (first..first + count).map(|number| format!("m{number}")).collect();
        watcher.asked(&open(&address, &names, 1, typing.count, false), "open")?;
        // Nothing is typed twice: who has typed in the first ones does no more.
        typist = side.client()?;
        typist.asked(&open(&address, &names, 1, 0, false), "open")?;
        typist.asked(&typing.order(0), "typed")?;
        for _ in 0..count {
            watcher.next("seen")?;
        }
        host.asked(&tidy, "tidy")?;
        watcher.asked(&tidy, "tidy")?;
        Ok((host.resident()?, watcher.resident()?))
    };
    let before = resident(0, documents / 5)?;
    let after = resident(documents, documents)?;
    let check = json!({ "order": "check", "text": typing.text });
    if watcher.asked(&check, "checked")?["right"] != true {
        return Err("another text came out".into());
    }
    let each = |after: f64, before: f64| (after - before) / documents as f64;
    Ok(Memory { host: each(after.0, before.0), client: each(after.1, before.1) })
}

#[derive(Debug, Clone, Copy)]
struct Floor {
    rate: f64,
    local: f64,
    remote: f64,
}

/// An edit and what others do with it, with nothing in between.
fn floor(typing: &Typing) -> Result<Floor, Failure> {
    let ((here, text), (there, other)) = (socket::document(), socket::document());
    let start = Instant::now();
    let updates: Vec<Vec<u8>> = typing.list.iter().map(|edit| socket::edit(&here, &text, edit)).collect();
    let local = start.elapsed();
    let start = Instant::now();
    for update in &updates {
        there.transact_mut().apply_update(Update::decode_v1(update)?)?;
    }
    let remote = start.elapsed();
    if other.get_string(&there.transact()) != text.get_string(&here.transact()) {
        return Err("another text came out".into());
    }
    let micros = |time: std::time::Duration| time.as_secs_f64() / typing.count as f64 * 1e6;
    Ok(Floor {
        rate: typing.count as f64 / (local + remote).as_secs_f64(),
        local: micros(local),
        remote: micros(remote),
    })
}

fn number(line: &Value, name: &str) -> Result<f64, Failure> {
    line[name].as_f64().ok_or_else(|| format!("no {name} in {line}").into())
}

struct Options {
    quick: bool,
    rounds: usize,
    only: String,
    sides: Vec<Side>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self { quick: false, rounds: 0, only: String::new(), sides: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => options.rounds = value()?.parse()?,
                "--only" => options.only = value()?,
                "--side" => options.sides.push(Side::parse(&value()?)?),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 1 } else { 3 };
        }
        if options.sides.is_empty() {
            options.sides = Side::ALL.to_vec();
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// Measures something on each side; whoever goes first in one round goes last in the next.
    fn on_each<T: Copy + std::fmt::Debug>(
        &self,
        round: usize,
        row: &mut Row<T>,
        mut measure: impl FnMut(Side) -> Result<T, Failure>,
    ) -> Result<(), Failure> {
        let mut sides = self.sides.clone();
        let first = round % sides.len();
        sides.rotate_left(first);
        for side in sides {
            let result = measure(side).map_err(|error| format!("{}, {}: {error}", row.name, side.name()))?;
            eprintln!("round {}: {}, {}: {result:.1?}", round + 1, row.name, side.name());
            row.push(side, result);
        }
        Ok(())
    }
}

/// A row of a table: what each side came to, round by round.
struct Row<T> {
    name: String,
    results: Vec<(Side, Vec<T>)>,
}

impl<T: Copy> Row<T> {
    fn new(name: impl Into<String>, sides: &[Side]) -> Self {
        Self { name: name.into(), results: sides.iter().map(|side| (*side, Vec::new())).collect() }
    }

    fn push(&mut self, side: Side, result: T) {
        if let Some((_, results)) = self.results.iter_mut().find(|(other, _)| *other == side) {
            results.push(result);
        }
    }

    /// One column of it as a row of Markdown: the medians, and the ratio to the first that is not of this crate.
    fn print(&self, name: &str, value: impl Fn(T) -> f64) {
        let values = |side: Side| -> Vec<f64> {
            let results = self.results.iter().filter(|(other, _)| *other == side);
            results.flat_map(|(_, results)| results.iter().map(|result| value(*result))).collect()
        };
        let mut line = format!("| {}{name} |", self.name);
        for (side, _) in &self.results {
            line += &format!(" {} |", human(median(values(*side))));
        }
        println!("{line} {} |", ratios(&values(Side::Zincmq), &values(Side::Ywebsocket)));
    }
}

fn human(value: f64) -> String {
    match value {
        none if none.is_nan() => "-".to_owned(),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn heading(first: &str, sides: &[Side]) {
    let names: String = sides.iter().map(|side| format!(" {} |", side.name())).collect();
    println!("\n| {first} |{names} zincmq : y-websocket |\n|---|{}---:|", "---:|".repeat(sides.len()));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

/// The median of the rounds' ratios, and the least and the greatest.
fn ratios(over: &[f64], under: &[f64]) -> String {
    let ratios = || over.iter().zip(under).map(|(over, under)| over / under);
    if over.is_empty() || under.is_empty() {
        return "-".to_owned();
    }
    let (least, most) = (ratios().fold(f64::MAX, f64::min), ratios().fold(0.0, f64::max));
    format!("**{:.2}** ({least:.2} to {most:.2})", median(ratios().collect()))
}

fn environment() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().ok();
        output.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default().trim().to_owned()
    };
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let cpu =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    format!(
        "{cores} cores ({}), {}, Node {}, kernel {}, load at the end {}",
        cpu.unwrap_or("unknown"),
        version("rustc"),
        version("node"),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default()
    )
}

fn measure(options: &Options) -> Result<(), Failure> {
    let directory = TempDir::new()?;
    let directory = directory.path();
    let sides = &options.sides;
    let of = |count: usize| if options.quick { count / 20 } else { count };
    let traces = [
        ("friendsforever", edits::of_two("friendsforever")?),
        ("sveltecomponent", edits::of_one("sveltecomponent")?),
    ];
    let mut rates: Vec<(Typing, usize, Row<Throughput>)> = Vec::new();
    let mut floors: Vec<(Typing, String, Vec<Floor>)> = Vec::new();
    for (trace, edits) in &traces {
        for (watchers, most) in [(1, usize::MAX), (8, 10_000), (64, 2_000)] {
            let typing = Typing::new(directory, trace, edits, of(edits.len().min(most)))?;
            let row = Row::new(format!("{trace}, {} edits, x {watchers}", typing.count), sides);
            if options.wants(&row.name) {
                rates.push((typing, watchers, row));
            }
        }
        let typing = Typing::new(directory, trace, edits, edits.len())?;
        let name = format!("{trace}, {} edits", typing.count);
        if options.wants(&name) {
            floors.push((typing, name, Vec::new()));
        }
    }
    let calm_typing = Typing::new(directory, "calm", &traces[1].1, of(3_000))?;
    let mut latencies: Row<Latency> = Row::new("calm, 200 edits a second", sides);
    let many = Typing::new(directory, "many", &traces[1].1, 1_000)?;
    let documents = of(200);
    let mut memories: Row<Memory> = Row::new("an open document", sides);
    let long = Typing::new(directory, "long", &edits::made_up(of(260_000)), usize::MAX)?;
    let mut joins: Row<f64> = Row::new(format!("late, after {} edits", long.count), sides);
    let mut typed_long: Row<Throughput> = Row::new(format!("long, {} edits, x 1", long.count), sides);
    let mut late: Vec<(Side, Late)> = Vec::new();
    if options.wants(&joins.name) {
        for side in sides {
            let (start, result) = Late::start(*side, &long)?;
            eprintln!("{}, {}: {result:.1?}", typed_long.name, side.name());
            late.push((*side, start));
            typed_long.push(*side, result);
        }
    }
    for round in 0..options.rounds {
        for (typing, watchers, row) in &mut rates {
            options.on_each(round, row, |side| throughput(side, typing, *watchers))?;
        }
        for (typing, _, floors) in &mut floors {
            floors.push(floor(typing)?);
        }
        if options.wants(&latencies.name) {
            options.on_each(round, &mut latencies, |side| calm(side, &calm_typing, 200))?;
        }
        if options.wants(&memories.name) {
            options.on_each(round, &mut memories, |side| memory(side, &many, documents))?;
        }
        if !late.is_empty() {
            options.on_each(round, &mut joins, |side| {
                let (_, late) = late.iter_mut().find(|(other, _)| *other == side).ok_or("no such side")?;
                let times = (0..5).map(|_| late.join(&long)).collect::<Result<Vec<f64>, Failure>>()?;
                Ok(median(times))
            })?;
        }
    }
    println!("\nEnvironment: {}; {} rounds, medians; no edit lost.", environment(), options.rounds);
    let typed = || rates.iter().map(|(_, _, row)| row).chain((!late.is_empty()).then_some(&typed_long));
    if typed().next().is_some() {
        heading("edits per second", sides);
        typed().for_each(|row| row.print("", |result| result.rate));
        heading("processor time of the host, µs per edit", sides);
        typed().for_each(|row| row.print("", |result| result.host));
    }
    if !floors.is_empty() {
        println!(
            "\n| bare yrs, one process | edits per second | µs where it is made | µs where it is applied |\n|---|---:|---:|---:|"
        );
        for (_, name, floors) in &floors {
            let column = |value: fn(&Floor) -> f64| human(median(floors.iter().map(value).collect()));
            println!(
                "| {name} | {} | {} | {} |",
                column(|floor| floor.rate),
                column(|floor| floor.local),
                column(|floor| floor.remote)
            );
        }
    }
    heading("one at a time", sides);
    if options.wants(&latencies.name) {
        latencies.print(", p50, µs", |latency| latency.p50);
        latencies.print(", p99, µs", |latency| latency.p99);
        latencies.print(", processor time of the host, µs per edit", |latency| latency.host);
    }
    if options.wants(&joins.name) {
        joins.print(", ms", |join| join);
    }
    if options.wants(&memories.name) {
        memories.print(" at the host, KiB", |memory| memory.host / 1024.0);
        memories.print(" at a client, KiB", |memory| memory.client / 1024.0);
    }
    Ok(())
}

fn work() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, name] = &arguments[..]
        && role == "--role"
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        return runtime.block_on(async {
            match name.as_str() {
                "host" => zinc::host().await,
                "zincmq" => client::play::<zinc::Zinc>().await,
                "yrs" => client::play::<socket::Socket>().await,
                other => Err(format!("no role is called {other}").into()),
            }
        });
    }
    measure(&Options::parse(arguments.into_iter())?)
}

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

//! The ZMTP engine beside other implementations, in one run, interleaved: libzmq, the `zeromq` crate, omq, and the floor.
//!
//! `docs/benchmarks.md` says what is measured and how to read it. In this directory: `cargo run --release --`, with the options
//! `--quick` one round of small counts, `--rounds K` (default 5), `--only TEXT` the cells whose name contains it, `--side NAME` one side alone (or several,
//! each behind a `--side` of its own).
//!
//! A lost, repeated or misplaced message, or a run that stalls, is an error: the exit code is 1.

mod dial;
mod engine;
mod floor;
mod libzmq;
mod omq;
mod publisher;
mod tasks;
mod window;
mod zeromq_crate;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::process::{Command, ExitCode};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::publisher::Lookup;

type Failure = Box<dyn Error + Send + Sync>;

/// How many messages may be in flight.
const WINDOW: u64 = 20_000;
/// How many bytes may be in flight, counted once and counted for each receiver: large messages have a smaller window, so that
/// memory stays sane.
const WINDOW_BYTES: (u64, u64) = (64 << 20, 2 << 30);
/// The high-water mark of all sockets: more than the window.
const HWM: usize = 100_000;
const LOOPBACK: &str = "tcp://127.0.0.1:0";
const IDLE: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Engine,
    Libzmq,
    Zeromq,
    Omq,
    Floor,
}

impl Side {
    const ALL: [Self; 5] = [Self::Engine, Self::Libzmq, Self::Zeromq, Self::Omq, Self::Floor];

    fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Libzmq => "libzmq",
            Self::Zeromq => "zeromq",
            Self::Omq => "omq",
            Self::Floor => "floor",
        }
    }

    fn parse(name: &str) -> Result<Self, Failure> {
        let side = Self::ALL.into_iter().find(|side| side.name() == name);
        side.ok_or_else(|| format!("no side is called {name}").into())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    Publish,
    Push,
}

/// One row of the table of rates.
#[derive(Debug, Clone, Copy)]
struct Cell {
    pattern: Pattern,
    size: u64,
    receivers: usize,
    messages: u64,
}

impl Cell {
    fn all(quick: bool) -> Vec<Self> {
        let mut cells = Vec::new();
        for (size, counts) in [
            (64, [1_500_000, 400_000, 80_000]),
            (1024, [400_000, 120_000, 30_000]),
            (64 * 1024, [10_000, 4_000, 800]),
        ] {
            let rows =
                [(Pattern::Publish, 1), (Pattern::Publish, 8), (Pattern::Publish, 64), (Pattern::Push, 1)];
            for ((pattern, receivers), messages) in
                rows.into_iter().zip([counts[0], counts[1], counts[2], counts[0]])
            {
                cells.push(Self {
                    pattern,
                    size,
                    receivers,
                    messages: if quick { messages / 50 } else { messages },
                });
            }
        }
        cells
    }

    fn window(&self) -> u64 {
        let (once, each) = WINDOW_BYTES;
        WINDOW.min(once / self.size).min(each / self.size / self.receivers as u64)
    }

    fn run(self, side: Side) -> Result<Duration, Failure> {
        match side {
            Side::Engine => run(tasks::throughput::<engine::Engine>(self)),
            Side::Libzmq => libzmq::throughput(self),
            Side::Zeromq => run(tasks::throughput::<zeromq_crate::Crate>(self)),
            Side::Omq => run(tasks::throughput::<omq::Omq>(self)),
            Side::Floor => run(tasks::throughput::<floor::Floor>(self)),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pattern {
            Pattern::Publish => write!(f, "PUB/SUB {} x {}", human(self.size), self.receivers),
            Pattern::Push => write!(f, "PUSH/PULL {}", human(self.size)),
        }
    }
}

/// The times of round trips, in microseconds, and how many there are in a second.
#[derive(Clone, Copy)]
struct RoundTrips {
    rate: f64,
    p50: f64,
    p99: f64,
}

fn round_trips(side: Side, size: u64, count: u64) -> Result<RoundTrips, Failure> {
    let mut times = match side {
        Side::Engine => run(tasks::round_trips::<engine::Engine>(size, count)),
        Side::Libzmq => libzmq::round_trips(size, count),
        Side::Zeromq => run(tasks::round_trips::<zeromq_crate::Crate>(size, count)),
        Side::Omq => run(tasks::round_trips::<omq::Omq>(size, count)),
        Side::Floor => run(tasks::round_trips::<floor::Floor>(size, count)),
    }?;
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    let micros = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    Ok(RoundTrips { rate: times.len() as f64 / total.as_secs_f64(), p50: micros(50), p99: micros(99) })
}

fn runtime() -> Result<Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Runs in a runtime of its own, so that nothing of one run is left in the next.
fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), work).await.map_err(|_| "took over two minutes")?
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
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
            options.rounds = if options.quick { 1 } else { 5 };
        }
        if options.sides.is_empty() {
            options.sides = Side::ALL.to_vec();
        }
        Ok(options)
    }
}

/// A row of a table: what each side came to, round by round.
struct Row<T> {
    name: String,
    results: Vec<(Side, Vec<T>)>,
}

impl<T: Copy> Row<T> {
    fn new(name: String, sides: &[Side]) -> Self {
        Self { name, results: sides.iter().map(|side| (*side, Vec::new())).collect() }
    }

    fn push(&mut self, side: Side, result: T) {
        if let Some((_, results)) = self.results.iter_mut().find(|(other, _)| *other == side) {
            results.push(result);
        }
    }

    /// One column of it as a row of Markdown: the medians, and the ratio of the engine to libzmq.
    fn print(&self, name: &str, value: impl Fn(T) -> f64) {
        let values = |side: Side| -> Vec<f64> {
            let results = self.results.iter().find(|(other, _)| *other == side);
            results
                .map(|(_, results)| results.iter().map(|result| value(*result)).collect())
                .unwrap_or_default()
        };
        let mut line = format!("| {}{name} |", self.name);
        for (side, _) in &self.results {
            line += &match median(values(*side)) {
                none if none.is_nan() => " - |".to_owned(),
                value if value < 100.0 => format!(" {value:.1} |"),
                value => format!(" {value:.0} |"),
            };
        }
        println!("{line} {} |", ratios(&values(Side::Engine), &values(Side::Libzmq)));
    }
}

fn heading(first: &str, sides: &[Side]) {
    let names: String = sides.iter().map(|side| format!(" {} |", side.name())).collect();
    println!("\n| {first} |{names} engine : libzmq |\n|---|{}---:|", "---:|".repeat(sides.len()));
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

fn human(bytes: u64) -> String {
    if bytes >= 1024 { format!("{} KiB", bytes / 1024) } else { format!("{bytes} B") }
}

fn environment() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let compiler = Command::new("rustc").arg("--version").output().ok();
    let compiler = compiler.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let cpu =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let (major, minor, patch) = zmq::version();
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores ({}), {}, kernel {}, libzmq {major}.{minor}.{patch}, load at the end {}",
        cpu.unwrap_or("unknown"),
        compiler.trim(),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or_default()
    )
}

/// Measures something on each side; whoever goes first in one round goes last in the next.
fn on_each<T: Copy>(
    sides: &[Side],
    round: usize,
    row: &mut Row<T>,
    mut measure: impl FnMut(Side) -> Result<T, Failure>,
    show: impl Fn(T) -> String,
) -> Result<(), Failure> {
    let mut sides = sides.to_vec();
    if sides.is_empty() {
        return Ok(());
    }
    let first = round % sides.len();
    sides.rotate_left(first);
    for side in sides {
        let result = measure(side).map_err(|error| format!("{}, {}: {error}", row.name, side.name()))?;
        eprintln!("round {}: {}, {}: {}", round + 1, row.name, side.name(), show(result));
        row.push(side, result);
    }
    Ok(())
}

fn measure(options: &Options) -> Result<(), Failure> {
    let wanted = |name: &str| name.contains(&options.only);
    let sides = &options.sides;
    let with_subscriptions: Vec<Side> = sides.iter().copied().filter(|side| *side != Side::Floor).collect();
    let cells: Vec<Cell> =
        Cell::all(options.quick).into_iter().filter(|cell| wanted(&cell.to_string())).collect();
    let mut rates: Vec<Row<f64>> = cells.iter().map(|cell| Row::new(cell.to_string(), sides)).collect();
    let mut trips: Vec<(u64, Row<RoundTrips>)> = [64, 1024, 64 * 1024]
        .map(|size| (size, Row::new(format!("REQ/REP {}", human(size)), sides)))
        .into_iter()
        .filter(|(_, row)| wanted(&row.name))
        .collect();
    let mut idle: Row<f64> = Row::new("idle subscriber".to_owned(), &with_subscriptions);
    let look_up: Vec<Side> =
        sides.iter().copied().filter(|side| matches!(side, Side::Engine | Side::Libzmq)).collect();
    let mut lookup: Row<Lookup> = Row::new("subscriptions".to_owned(), &look_up);
    let (with_idle, with_lookup) = (wanted(&idle.name), wanted(&lookup.name));
    for round in 0..options.rounds {
        for (cell, row) in cells.iter().zip(&mut rates) {
            let rate = |side| Ok(cell.messages as f64 / cell.run(side)?.as_secs_f64());
            on_each(sides, round, row, rate, |rate| format!("{rate:.0}/s"))?;
        }
        for (size, row) in &mut trips {
            let count = if options.quick { 500 } else { 10_000 };
            on_each(
                sides,
                round,
                row,
                |side| round_trips(side, *size, count),
                |trips| format!("{:.0}/s, p50 {:.1} us, p99 {:.1} us", trips.rate, trips.p50, trips.p99),
            )?;
        }
        if with_idle {
            let count = if options.quick { IDLE / 10 } else { IDLE };
            on_each(
                &with_subscriptions,
                round,
                &mut idle,
                |side| publisher::idle(side, count),
                |bytes| format!("{bytes:.0} bytes"),
            )?;
        }
        if with_lookup {
            on_each(&look_up, round, &mut lookup, publisher::lookup, |lookup| {
                format!("{:.0} ns for nobody, {:.0} ns for one", lookup.nobody, lookup.one)
            })?;
        }
    }
    println!("\nEnvironment: {}; {} rounds, medians; no message lost.", environment(), options.rounds);
    if !rates.is_empty() {
        heading("messages per second", sides);
        rates.iter().for_each(|row| row.print("", |rate| rate));
    }
    if !trips.is_empty() {
        heading("round trips", sides);
        for (_, row) in &trips {
            row.print(", per second", |trips| trips.rate);
            row.print(", p50, µs", |trips| trips.p50);
            row.print(", p99, µs", |trips| trips.p99);
        }
    }
    if with_idle {
        heading("publisher alone", &with_subscriptions);
        idle.print(", bytes", |bytes| bytes);
    }
    if with_lookup {
        heading("look-up", &look_up);
        lookup.print(": publish for nobody, ns", |lookup| lookup.nobody);
        lookup.print(": publish for one, ns", |lookup| lookup.one);
    }
    Ok(())
}

fn work() -> Result<(), Failure> {
    // A thousand connections and more, with both ends in one process.
    rlimit::increase_nofile_limit(16_384)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [idle, side] if idle == "--idle-publisher" => publisher::child(Side::parse(side)?),
        _ => measure(&Options::parse(arguments.into_iter())?),
    }
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

//! Runs the simulator over many seeds, or shows one seed step by step.
//!
//! ```sh
//! cargo run --release --features test-utils --example simulate -- --seeds 1000
//! cargo run --release --features test-utils --example simulate -- --seed 7 --trace
//! ```
#![allow(clippy::disallowed_methods, reason = "the bans are for the machines; this shows how long they took")]

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use zincmq::sim::{self, DocumentCounts, Fault, Mutant, Report};

const USAGE: &str = "\
Usage: simulate [--seeds N] [--from N] [--threads N] [--mutant NAME]
       simulate --seed N [--trace] [--mutant NAME]

  --seeds N      run so many seeds (default 1000)
  --from N       begin with this one (default 0)
  --threads N    in so many threads (default: one for each processor)
  --seed N       run this one alone
  --trace        show each of its steps
  --mutant NAME  put a bug back into the machines, to see it caught";

struct Options {
    seeds: u64,
    from: u64,
    threads: usize,
    seed: Option<u64>,
    trace: bool,
    mutant: Option<Mutant>,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match options.seed {
        Some(seed) => one(seed, &options),
        None => many(&options),
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { seeds: 1000, from: 0, threads, seed: None, trace: false, mutant: None };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
        match argument.as_str() {
            "--seeds" => options.seeds = number(value()?)?,
            "--from" => options.from = number(value()?)?,
            "--threads" => options.threads = usize::try_from(number(value()?)?.max(1)).unwrap_or(1),
            "--seed" => options.seed = Some(number(value()?)?),
            "--trace" => options.trace = true,
            "--mutant" => {
                let name = value()?;
                let known = || Mutant::ALL.map(Mutant::name).join(", ");
                let found = Mutant::ALL.into_iter().find(|mutant| mutant.name() == name);
                options.mutant =
                    Some(found.ok_or_else(|| format!("no mutant {name:?}: there are {}", known()))?);
            }
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(options)
}

/// Runs one seed.
fn one(seed: u64, options: &Options) -> ExitCode {
    let report = if options.trace {
        let mut out = std::io::stdout().lock();
        // Whoever reads may have seen enough.
        sim::run_traced(seed, options.mutant, &mut |line| drop(writeln!(out, "{line}")))
    } else {
        sim::run(seed, options.mutant)
    };
    println!("{report}");
    for (fault, times) in &report.faults {
        println!("{times:>9} x {}", fault.name());
    }
    if report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What many runs come to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    simulated: Duration,
    faults: BTreeMap<Fault, u64>,
    events: u64,
    accepted: u64,
    ordered: u64,
    delivered: u64,
    resets: u64,
    evictions: u64,
    repaired: u64,
    unknown: u64,
    documents: DocumentCounts,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.simulated += report.simulated;
        for (fault, times) in &report.faults {
            *self.faults.entry(*fault).or_default() += times;
        }
        self.events += report.events;
        self.accepted += report.accepted;
        self.ordered += report.ordered;
        self.delivered += report.delivered;
        self.resets += report.resets;
        self.evictions += report.evictions;
        self.repaired += report.repaired;
        self.unknown += report.unknown;
        self.documents.add(&report.documents);
    }
}

/// Runs many seeds, and stops at the first that goes wrong.
fn many(options: &Options) -> ExitCode {
    let started = Instant::now();
    let end = options.from.saturating_add(options.seeds);
    let (next, stop) = (AtomicU64::new(options.from), AtomicBool::new(false));
    let (done, reports) = mpsc::channel();
    let mut sum = Sum::default();
    let mut failed: Option<Report> = None;
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            let (next, stop, done) = (&next, &stop, done.clone());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || done.send(sim::run(seed, options.mutant)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done);
        let mut bar = Bar::new(options.seeds);
        for report in reports {
            if report.violation.is_some() {
                stop.store(true, Ordering::Relaxed);
                // Of several the lowest seed counts, so that a run repeats.
                if failed.as_ref().is_none_or(|other| report.seed < other.seed) {
                    failed = Some(report);
                }
            } else {
                sum.add(&report);
                bar.show(sum.seeds);
            }
        }
        bar.clear();
    });
    let took = started.elapsed();
    println!("seeds        {} from {}, in {took:.1?}", sum.seeds, options.from);
    println!("simulated    {:.2} hours, {} steps", sum.simulated.as_secs_f64() / 3600.0, sum.events);
    println!(
        "messages     {} accepted, {} ordered, {} of unknown fate",
        sum.accepted, sum.ordered, sum.unknown
    );
    println!(
        "deliveries   {} checked, {} windows repaired, {} resets",
        sum.delivered, sum.repaired, sum.resets
    );
    println!("evictions    {}", sum.evictions);
    let DocumentCounts {
        opened,
        unavailable,
        edits,
        refused,
        seeds,
        folds,
        compared,
        forged,
        rights,
        forbidden,
        denied,
        keepers,
        mirrored,
        ..
    } = sum.documents;
    println!("documents    {opened} opened, {unavailable} not to be had, {edits} edits, {refused} refused");
    println!("             {forged} forged, {keepers} keepers replaced");
    println!(
        "             {rights} changes of rights, {forbidden} messages refused by them, {denied} denied"
    );
    println!(
        "             {compared} states compared, and {mirrored} of keepers on members, {seeds} brought back, {folds} folds"
    );
    for (fault, times) in &sum.faults {
        println!("{times:>12} x {}", fault.name());
    }
    let Some(report) = failed else {
        println!("no violation");
        return ExitCode::SUCCESS;
    };
    let mutant = options.mutant.map_or(String::new(), |mutant| format!(" --mutant {}", mutant.name()));
    println!("\n{report}");
    println!(
        "to see it: cargo run --release --features test-utils --example simulate -- --seed {}{mutant} --trace",
        report.seed
    );
    ExitCode::FAILURE
}

/// A line on a terminal that says how far it is.
struct Bar {
    all: u64,
    shown: Option<Instant>,
    enabled: bool,
}

impl Bar {
    const WIDTH: u64 = 40;

    fn new(all: u64) -> Self {
        Self { all: all.max(1), shown: None, enabled: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, done: u64) {
        const EVERY: Duration = Duration::from_millis(100);
        if !self.enabled || self.shown.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let filled = (done * Self::WIDTH / self.all) as usize;
        let empty = Self::WIDTH as usize - filled.min(Self::WIDTH as usize);
        eprint!("\r[{}{}] {done}/{} seeds", "#".repeat(filled), " ".repeat(empty), self.all);
    }

    fn clear(&self) {
        if self.enabled {
            eprint!("\r{}\r", " ".repeat(Self::WIDTH as usize + 40));
        }
    }
}

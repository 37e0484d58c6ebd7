//! A simulator of whole clusters: the machines of the protocol, driven by a seeded heap of events instead of sockets and clocks.
//!
//! One seed is one run: a host and some members, in a configuration drawn from the seed, exchange messages while connections are slow,
//! stop, break and lose what was in them, processes crash, sleep and come back, clocks drift and jump, and consumers are slow. In some runs members
//! change documents, too, which the host keeps. Then all
//! faults end, and the cluster has to come to rest. The invariants of the protocol are checked at every step, against a record of
//! all that was sent. The same seed gives the same run on every machine.
//!
//! ```
//! let report = zincmq::sim::run(7, None);
//! assert!(report.violation.is_none(), "{report}");
//! ```
//!
//! `cargo run --release --features test-utils --example simulate -- --seeds 1000` runs many, and
//! `-- --seed 7 --trace` shows one step by step. What is modelled and what is not is written down in `docs/simulation.md`.

mod dice;
mod documents;
mod fault;
mod inject;
mod network;
mod node;
mod oracle;
mod report;
mod scenario;
mod world;

pub use crate::proto::Mutant;
pub use fault::Fault;
pub use report::{DocumentCounts, Report, Violation};

/// Runs one seed to its end, or to the first violation; with a bug put back into the machines, if one is named.
#[must_use]
pub fn run(seed: u64, mutant: Option<Mutant>) -> Report {
    world::World::new(seed, mutant, None).run()
}

/// As [`run`]; each step is told to `trace` in a line of text.
#[must_use]
pub fn run_traced(seed: u64, mutant: Option<Mutant>, trace: &mut dyn FnMut(&str)) -> Report {
    world::World::new(seed, mutant, Some(trace)).run()
}

//! The `zincmq` command line: a host, a subscriber, a publisher, documents and an editor for them, and a guided tour.
//!
//! Each subcommand is a module with one entry, `run`; [`args`] is what the user typed, [`line`] what is printed about it.
#![allow(
    clippy::disallowed_methods,
    reason = "the bans are for the sans-IO machines; this program has a clock and tasks"
)]

#[path = "zincmq/args.rs"]
mod args;
#[path = "zincmq/doc.rs"]
mod doc;
#[path = "zincmq/failure.rs"]
mod failure;
#[path = "zincmq/flow.rs"]
mod flow;
#[path = "zincmq/host.rs"]
mod host;
#[path = "zincmq/line.rs"]
mod line;
#[path = "zincmq/output.rs"]
mod output;
#[path = "zincmq/pad.rs"]
mod pad;
#[path = "zincmq/publish.rs"]
mod publish;
#[path = "zincmq/stdin.rs"]
mod stdin;
#[path = "zincmq/stop.rs"]
mod stop;
#[path = "zincmq/subscribe.rs"]
mod subscribe;
#[path = "zincmq/token.rs"]
mod token;
#[path = "zincmq/tour.rs"]
mod tour;

use std::process::ExitCode;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use zincmq::document::store::RedbStore;

use args::{Args, Command};
use failure::Failure;
use output::Output;

/// The exit code of a line of input that makes no sense, as of other wrong usage.
const USAGE: u8 = 2;

/// The exit code of an endpoint that was evicted and is not to come back.
const EVICTED: u8 = 3;

fn main() -> ExitCode {
    let args = Args::get_or_exit();
    trace(args.verbose);
    // A damaged store is told of as an error.
    RedbStore::silence_panics();
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            // On this thread, not on a worker: writing to a slow terminal or pipe must not hold up the endpoint.
            let outcome = runtime.block_on(run(args));
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::new(format!("cannot start: {error}"))),
    };
    match outcome {
        Ok(()) | Err(Failure::NobodyReads) => ExitCode::SUCCESS,
        Err(Failure::Told { message, advice }) => {
            failure::tell(&message, advice.as_deref());
            ExitCode::FAILURE
        }
        Err(Failure::Usage { message, advice }) => {
            failure::tell(&message, advice.as_deref());
            ExitCode::from(USAGE)
        }
        Err(Failure::Evicted { message, advice }) => {
            failure::tell(&message, advice.as_deref());
            ExitCode::from(EVICTED)
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let output = Output::new(args.json);
    match args.command {
        Command::Host(args) => host::run(args, output).await,
        Command::Sub(args) => subscribe::run(args, output).await,
        Command::Pub(args) => publish::run(args, output).await,
        Command::Doc { command } => doc::run(command, output).await,
        Command::Pad(args) => pad::run(args).await,
        Command::Tour => tour::run(output).await,
    }
}

/// Logs to standard error, if asked.
fn trace(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(output::colours(&std::io::stderr()));
    tracing_subscriber::registry().with(log).with(Targets::new().with_target("zincmq", level)).init();
}

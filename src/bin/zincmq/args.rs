//! What the user typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use zincmq::{Address, Carrier, EndpointId, Topic};

use crate::flow::{FlowArgs, MAX_SPAN, RejoinArg};

/// Cluster messaging without a broker: one host orders and publishes, clients join it, send and receive.
///
/// Every message gets its place in one order, and every member sees that order.
#[derive(Debug, Parser)]
#[command(
    name = "zincmq",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Examples:
  zincmq tour                                               see what it does, in a few seconds
  zincmq host --bind tcp://127.0.0.1:5555                   start a host
  zincmq sub tcp://127.0.0.1:5555                           print what is said there
  echo hello | zincmq pub tcp://127.0.0.1:5555 --topic hi   say something
  zincmq pad tcp://127.0.0.1:5555 minutes                   write a text together
  zincmq doc watch tcp://127.0.0.1:5555 minutes             see a text change that others write

Exit codes:
  0  done
  1  something went wrong: standard error says what, and what to do
  2  wrong usage
  3  the host sent this endpoint away, or it fell too far behind, and it is not to come back (--rejoin never)"
)]
pub(crate) struct Args {
    /// Print one JSON object per line
    #[arg(long, global = true, display_order = 900)]
    pub(crate) json: bool,

    /// Log to standard error; -vv and -vvv say more
    #[arg(short, long, global = true, display_order = 901, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// What was typed. Ends the process with advice where that makes no sense.
    pub(crate) fn get_or_exit() -> Self {
        let args = Self::parse();
        if let Command::Host(host) = &args.command {
            host.flow.check().unwrap_or_else(|error| error.exit());
        }
        args
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Host(HostArgs),
    Sub(SubArgs),
    Pub(PubArgs),
    /// Read, change and watch texts that many share
    ///
    /// The host keeps them. A text that nobody has written to is empty.
    #[command(after_help = "\
Examples:
  echo '[0, 0, \"Hello\"]' | zincmq doc edit tcp://127.0.0.1:5555 minutes
  zincmq doc get tcp://127.0.0.1:5555 minutes
  zincmq doc watch tcp://127.0.0.1:5555 minutes
  zincmq doc list tcp://127.0.0.1:5555
  zincmq doc keep tcp://127.0.0.1:5555 --store copy.zincmq")]
    Doc {
        #[command(subcommand)]
        command: DocCommand,
    },
    Pad(PadArgs),
    /// Show what zincmq does: a host and three clients in this process, over real TCP, in a few seconds
    ///
    /// Every claim it makes is checked while it runs; exit code 1 if one does not hold.
    #[command(after_help = "Example:\n  zincmq tour")]
    Tour,
}

/// Start a host: it admits members, orders their messages and publishes them, and keeps documents
///
/// Prints where it listens, then who comes and goes, and who was sent away for being too slow. Ctrl-c ends it in order:
/// members are told, and what was sent to it gets its place.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  zincmq host --bind tcp://127.0.0.1:5555                   for this machine only
  zincmq host --bind tcp://0.0.0.0:5555 --token-file token  for others who have the token
  zincmq host --bind ipc:///tmp/cluster                     over Unix sockets
  zincmq host --store documents.zincmq                      documents survive the host
  zincmq host --hwm-messages 10000 --hwm-age 1000           send slow members away early
  zincmq host --policy drop-oldest --conflatable sensor.    of sensors, only the newest values count")]
pub(crate) struct HostArgs {
    /// Where members join: tcp://HOST:PORT or ipc://PATH; port 0 lets the system choose
    #[arg(long, value_name = "ADDR", default_value = "tcp://127.0.0.1:0", value_parser = bindable)]
    pub(crate) bind: Address,

    /// The name of the cluster: members of another one are refused
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) cluster: String,

    #[command(flatten)]
    pub(crate) carrier: CarrierArgs,

    #[command(flatten)]
    pub(crate) token: TokenArgs,

    /// Let everyone join, from other machines, too
    #[arg(long, conflicts_with_all = ["token", "token_file"])]
    pub(crate) allow_anonymous: bool,

    /// Where to publish [default: beside --bind, on a port of the system's choice or at PATH.pub]
    #[arg(long, value_name = "ADDR", value_parser = bindable)]
    pub(crate) bind_broadcast: Option<Address>,

    /// Where to take messages [default: beside --bind, on a port of the system's choice or at PATH.pull]
    #[arg(long, value_name = "ADDR", value_parser = bindable)]
    pub(crate) bind_submit: Option<Address>,

    /// The address members reach the host at, where that is not the one they dial
    #[arg(long, value_name = "ADDR", value_parser = joinable)]
    pub(crate) advertise: Option<Address>,

    /// Keep documents in this file, so that they survive the host; made if it is not there [default: in memory]
    #[arg(long, value_name = "FILE")]
    pub(crate) store: Option<PathBuf>,

    /// Keep no documents
    #[arg(long, conflicts_with = "store")]
    pub(crate) no_documents: bool,

    #[command(flatten)]
    pub(crate) flow: FlowArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DocCommand {
    /// Change a text by lines of standard input
    ///
    /// Each line is a JSON array [position, deleted, "inserted"]: at a position, so many characters go and others come in
    /// their place. Positions and numbers count code points (Unicode scalar values), in the text as the line before left
    /// it and others changed it meanwhile. Ends when all changes have their places; ctrl-c ends the input. A line that
    /// makes no sense, or names a place that is not in the text, ends it with exit code 2; the lines before it count.
    #[command(after_help = "\
Example:
  echo '[0, 0, \"Hello\"]' | zincmq doc edit tcp://127.0.0.1:5555 minutes")]
    Edit(TextArgs),
    /// Print a text
    ///
    /// Just as it is, without a line break behind it but on a terminal.
    #[command(after_help = "Example:\n  zincmq doc get tcp://127.0.0.1:5555 minutes > minutes.txt")]
    Get(TextArgs),
    /// Print a text, and then each change of it
    ///
    /// A change is a list of patches [position, deleted, "inserted"], in code points, each in the text as the one before
    /// left it. Where no list tells what has happened, after a lost connection say, the whole text comes again. Ctrl-c
    /// ends it.
    #[command(after_help = "Example:\n  zincmq --json doc watch tcp://127.0.0.1:5555 minutes")]
    Watch(TextArgs),
    /// Print the names, types and sizes of all documents
    #[command(after_help = "Example:\n  zincmq doc list tcp://127.0.0.1:5555")]
    List(JoinArgs),
    /// Keep all documents in a file, beside the host
    ///
    /// Has what the host has once the "keeping" line is there, and follows it from then on. A host that comes back without
    /// its documents gets them from here; a new one can go on from the file: see zincmq host --store. Ctrl-c ends it.
    #[command(after_help = "\
Example:
  zincmq doc keep tcp://127.0.0.1:5555 --store copy.zincmq")]
    Keep(KeepArgs),
}

/// How documents are kept beside the host.
#[derive(Debug, clap::Args)]
pub(crate) struct KeepArgs {
    #[command(flatten)]
    pub(crate) join: JoinArgs,

    /// The file; made if it is not there
    #[arg(long, value_name = "FILE")]
    pub(crate) store: PathBuf,
}

/// Write a text together with others, in the terminal
///
/// Everybody who has the text open sees what the others write as they write it, and where they are. Arrows, home, end and
/// page up and down move; ctrl-z undoes what you did yourself, ctrl-y does it again; ctrl-q, ctrl-c and escape end it.
/// Without a connection it goes on, and what you wrote goes out when the host is back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  zincmq pad tcp://127.0.0.1:5555 minutes --name ada")]
pub(crate) struct PadArgs {
    #[command(flatten)]
    pub(crate) text: TextArgs,

    /// Who you are, for the others [default: the environment variable USER]
    #[arg(long = "name", id = "who", value_name = "WHO")]
    pub(crate) who: Option<String>,
}

/// A text in a cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct TextArgs {
    #[command(flatten)]
    pub(crate) join: JoinArgs,

    /// The document's name: 1 to 200 bytes, without `/`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Join a cluster and print what is said there
///
/// Everything ordered after the "joined" line is printed, each message once and in order. When the host goes away, sub
/// waits for it to come back, and says so. When the host sends it away, or it falls too far behind, it says so, too, and
/// comes back or ends, as --rejoin says. What was missed meanwhile is told by a "reset" line. Ctrl-c ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  zincmq sub tcp://127.0.0.1:5555
  zincmq sub tcp://127.0.0.1:5555 --topic sensor. --topic alarm. --count 10
  zincmq --json sub ipc:///tmp/cluster | jq .payload
  zincmq sub tcp://127.0.0.1:5555 --delay-ms 100 --rejoin never    be slow, and see what comes of it

Exit code 3: it was sent away or fell too far behind, and --rejoin is never.")]
pub(crate) struct SubArgs {
    #[command(flatten)]
    pub(crate) join: JoinArgs,

    /// Print only topics that begin with PREFIX; may be given more than once [default: all but those of documents, doc/ and doc-to/]
    #[arg(long = "topic", value_name = "PREFIX")]
    pub(crate) topics: Vec<String>,

    /// End after N messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// Who to be [default: a fresh random id]
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<EndpointId>,

    /// What to do when the host sends it away, or it falls too far behind
    #[arg(long, default_value = "auto")]
    pub(crate) rejoin: RejoinArg,

    /// Be slow on purpose: wait so many milliseconds after each message. It counts as handled only then
    #[arg(long, value_name = "MS", default_value = "0", value_parser = clap::value_parser!(u64).range(..=MAX_SPAN))]
    pub(crate) delay_ms: u64,
}

/// Send each line of standard input as one message
///
/// Ends when every message has come back in its place in the order, and prints how many those were. Lines may hold any
/// bytes. A host that goes away meanwhile is waited for, as long as --timeout says. Ctrl-c ends the input.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  echo hello | zincmq pub tcp://127.0.0.1:5555 --topic greetings
  tail -f app.log | zincmq pub ipc:///tmp/cluster --topic logs.app")]
pub(crate) struct PubArgs {
    #[command(flatten)]
    pub(crate) join: JoinArgs,

    /// What the messages are about
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Topic,

    /// How many messages may be under way, sent and not back in order yet
    #[arg(long, value_name = "N", default_value = "20000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: u32,
}

/// How to get into a cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct JoinArgs {
    /// The host's address, as its first line tells it
    #[arg(value_name = "ADDR", value_parser = joinable)]
    pub(crate) address: Address,

    /// The name of the cluster
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) cluster: String,

    #[command(flatten)]
    pub(crate) carrier: CarrierArgs,

    #[command(flatten)]
    pub(crate) token: TokenArgs,

    /// How long to try to join
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

/// What carries tcp:// and ipc://.
#[derive(Debug, clap::Args)]
pub(crate) struct CarrierArgs {
    /// What carries tcp:// and ipc://; others in the cluster need not use the same
    #[arg(long, value_name = "NAME", default_value = "zmtp")]
    transport: CarrierName,
}

impl CarrierArgs {
    pub(crate) fn carrier(&self) -> Carrier {
        match self.transport {
            CarrierName::Zmtp => Carrier::Zmtp,
            CarrierName::Zeromq => Carrier::Zeromq,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CarrierName {
    /// The engine of this program
    Zmtp,
    /// The crate `zeromq`, for comparison: it bounds less
    Zeromq,
}

/// The shared secret of a cluster. It travels in the clear: on an open network whoever listens can read it.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenArgs {
    /// The cluster's token. Everyone on this machine can see it in the list of processes: better use --token-file or
    /// the environment variable ZINCMQ_TOKEN. It is sent unencrypted
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub(crate) token: Option<String>,

    /// Read the token from a file; a line break at its end is not part of it
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// An address that a host of its own process can bind.
fn bindable(text: &str) -> Result<Address, String> {
    match text.parse().map_err(|error: zincmq::AddressError| error.to_string())? {
        Address::Inproc(_) => {
            Err("inproc:// reaches no further than one process: use tcp:// or ipc://".to_owned())
        }
        address => Ok(address),
    }
}

/// An address that names one host.
fn joinable(text: &str) -> Result<Address, String> {
    match bindable(text)? {
        Address::Tcp { port: 0, .. } => {
            Err("port 0 is for binding: use the address that the host's first line tells".to_owned())
        }
        address if address.is_ipc_wildcard() => {
            Err("ipc://* is for binding: use the address that the host's first line tells".to_owned())
        }
        address => Ok(address),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| !duration.is_zero() && *duration <= Duration::from_secs(365 * 24 * 3600))
        .ok_or_else(|| "write a number of seconds, more than 0 and at most a year".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn addresses_that_name_no_host_are_refused_with_advice() {
        assert!(joinable("tcp://127.0.0.1:0").unwrap_err().contains("first line"));
        assert!(joinable("ipc://*").unwrap_err().contains("first line"));
        assert!(bindable("inproc://x").unwrap_err().contains("ipc://"));
        assert!(bindable("ipc://*").is_ok());
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "soon", "inf", "NaN", "1e300"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}

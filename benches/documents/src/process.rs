//! The processes of a run: they take orders on their standard input and say what happens on their standard output, in lines of JSON.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::Failure;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The same clock in all processes of the machine, in nanoseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Says something to the benchmark.
pub fn say(line: &Value) {
    let mut stdout = std::io::stdout().lock();
    // A benchmark that is gone does not mind.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// What the benchmark orders, line by line. The end of it is the end of the process.
pub fn orders() -> tokio::sync::mpsc::UnboundedReceiver<Value> {
    let (sender, orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                // Whoever listens no more is about to end.
                Ok(order) => _ = sender.send(order),
                Err(error) => eprintln!("no order: {error}"),
            }
        }
    });
    orders
}

/// A running process, ended when dropped.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Result<Self, Failure> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if serde_json::from_str(&line).is_ok_and(|line| sender.send(line).is_err()) {
                    break;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, stdin, lines })
    }

    pub fn tell(&mut self, order: &Value) -> Result<(), Failure> {
        Ok(writeln!(self.stdin.as_mut().ok_or("no standard input")?, "{order}")?)
    }

    /// The next line, which must be of this event.
    pub fn next(&mut self, event: &str) -> Result<Value, Failure> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) if line["event"] == event => Ok(line),
            Ok(line) => Err(format!("{}: not {event} but {line}", self.name).into()),
            Err(error) => Err(format!("{}: no {event}: {error}", self.name).into()),
        }
    }

    pub fn asked(&mut self, order: &Value, event: &str) -> Result<Value, Failure> {
        self.tell(order)?;
        self.next(event)
    }

    /// The processor time it has taken so far, in seconds.
    pub fn processor_time(&self) -> Result<f64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no stat")?.1.split_ascii_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        // A tick is a hundredth of a second, everywhere that matters.
        Ok(ticks as f64 / 100.0)
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> Result<f64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? as f64 * 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

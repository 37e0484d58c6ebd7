//! Processes of a test's own: the test binary again, in a role. They say what they have to say in lines of JSON, are told what to do in
//! lines of text, and end with the test: by their id when they are dropped, by the end of their orders when the test dies.
//!
//! A role is an ignored test that does nothing without its variable in the environment: [`Process::start`] runs it, [`play`] is what it does.
#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take to happen: a machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The variable that tells a process of its role and how to play it.
const ROLE: &str = "ZINCMQ_TEST_ROLE";

/// Bytes of resident memory of a process.
#[cfg(target_os = "linux")]
pub(crate) fn resident_bytes(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// A running process, seen from the test. Ended when dropped, stopped or not.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Process {
    /// Starts this test binary in the role that the ignored test `role` plays.
    pub(crate) fn start(role: &str, setting: &Value) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", role, "--ignored", "--nocapture"])
            .env(ROLE, setting.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the process, or when the test wants no more. What the test harness prints is passed over, in front of a line, too.
            for line in stdout.lines().map_while(Result::ok) {
                let json = line.find('{').and_then(|start| serde_json::from_str(&line[start..]).ok());
                if json.is_some_and(|json: Value| sender.send(json).is_err()) {
                    break;
                }
            }
        });
        Self { name: role.to_owned(), child, stdin, lines }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("open"), "{line}").expect("it reads");
    }

    /// The next line of this event, which must come within the test's patience. Others in between are given to `other`.
    pub(crate) fn until(&mut self, event: &str, mut other: impl FnMut(&Value)) -> Value {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line["event"] == event => return line,
                Ok(line) => other(&line),
                Err(RecvTimeoutError::Disconnected) => panic!("{} ended before its {event}", self.name),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} said no {event} within {PATIENCE:?}", self.name)
                }
            }
        }
    }

    /// The next line, which must be of this event.
    pub(crate) fn next(&mut self, event: &str) -> Value {
        self.until(event, |line| panic!("expected {event}, not {line}"))
    }

    /// Sends a signal by name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Ends it as `kill -9` does, and waits until it has.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it ran");
        self.child.wait().expect("a child of ours");
    }

    /// The lines that nobody has read, of a process that has ended.
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        self.lines.iter().collect()
    }

    /// Closes its standard input and waits for an end in order.
    pub(crate) fn ends_well(mut self) {
        drop(self.stdin.take());
        let until = Instant::now() + PATIENCE;
        // It closes its standard output when it ends.
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{} does not end", self.name),
            }
        }
        let status = self.child.wait().expect("a child of ours");
        assert!(status.success(), "{}: {status}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process knows of its role.
#[derive(Debug)]
pub(crate) struct Role {
    setting: Value,
    starvation: Arc<AtomicU64>,
}

impl Role {
    fn here() -> Option<Self> {
        let setting = serde_json::from_str(&std::env::var(ROLE).ok()?).expect("a role's setting");
        Some(Self { setting, starvation: watch_starvation() })
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.setting[name].as_str().unwrap_or_else(|| panic!("a text {name}"))
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        self.setting[name].as_u64().unwrap_or_else(|| panic!("a number {name}"))
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.setting[name].as_bool().unwrap_or_else(|| panic!("a flag {name}"))
    }

    /// What the test tells, line by line. The end of it is the end of the role.
    pub(crate) fn orders(&self) -> tokio::sync::mpsc::UnboundedReceiver<String> {
        let (sender, orders) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                // Whoever listens no more is about to end.
                let _ = sender.send(line);
            }
        });
        orders
    }

    /// For how long at most this process has wanted to run and was not let, in milliseconds, since this was last asked.
    pub(crate) fn starvation_ms(&self) -> u64 {
        self.starvation.swap(0, Ordering::Relaxed)
    }
}

/// Plays a part, if this process has a role.
pub(crate) fn play<F: Future<Output = ()>>(part: impl FnOnce(Role) -> F) {
    if let Some(role) = Role::here() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(part(role));
    }
}

/// Says something to the test.
pub(crate) fn say(line: &Value) {
    let mut stdout = std::io::stdout().lock();
    // The harness may have left a line open. A test that is gone does not mind.
    let _ = writeln!(stdout, "\n{line}").and_then(|()| stdout.flush());
}

/// Notes how much later than it asked a thread is woken: the machine may have others to serve.
fn watch_starvation() -> Arc<AtomicU64> {
    static WORST: OnceLock<Arc<AtomicU64>> = OnceLock::new();
    const STEP: Duration = Duration::from_millis(5);
    let start = || {
        let worst = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&worst);
        std::thread::spawn(move || {
            loop {
                let before = Instant::now();
                std::thread::sleep(STEP);
                let late = before.elapsed().saturating_sub(STEP);
                noted.fetch_max(late.as_millis() as u64, Ordering::Relaxed);
            }
        });
        worst
    };
    Arc::clone(WORST.get_or_init(start))
}

//! Runs the `zincmq` program: real processes, lines read as they come, every wait bounded, children ended by their id.
#![allow(dead_code, reason = "each test crate uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    reason = "the bans are for the sans-IO machines; this reads pipes on threads"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

/// How long anything may take to happen: a machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `zincmq`. Ended when dropped.
#[derive(Debug)]
pub(crate) struct Zincmq {
    child: Child,
    lines: Receiver<String>,
    /// All that was said on standard error, when it closes.
    stderr: Receiver<String>,
}

impl Zincmq {
    /// Starts it with these arguments and an open standard input.
    pub(crate) fn start<S: AsRef<str>>(args: &[S]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zincmq"));
        command.args(args.iter().map(AsRef::as_ref)).env_remove("ZINCMQ_TOKEN").env("NO_COLOR", "1");
        Self::spawn(command)
    }

    /// As [`start`](Self::start), with a token in the environment.
    pub(crate) fn start_with_token_in_env(args: &[&str], token: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zincmq"));
        command.args(args).env("ZINCMQ_TOKEN", token);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the process, or when the test wants no more.
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let (sender, said) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // What could be read is told; the test may have ended.
            let _ = stderr.read_to_end(&mut text);
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        });
        Self { child, lines, stderr: said }
    }

    /// The next line of its standard output; `None` at the end.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {PATIENCE:?}"),
        }
    }

    /// The next line, which must be JSON.
    pub(crate) fn next(&mut self) -> Value {
        match self.next_line() {
            Some(line) => serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")),
            None => panic!("ended early: {:?}", self.wait()),
        }
    }

    /// The next line of this event, passing over others.
    pub(crate) fn next_event(&mut self, event: &str) -> Value {
        loop {
            let line = self.next();
            if line["event"] == event {
                return line;
            }
        }
    }

    /// Hands over standard input.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("not taken yet")
    }

    /// Writes to standard input and closes it.
    pub(crate) fn feed(&mut self, input: &[u8]) {
        self.stdin().write_all(input).expect("it reads");
    }

    /// Sends a signal by name, such as `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it ran");
    }

    /// How much of its memory is resident.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// Waits for the end: the exit status, and what was said on standard error. Once only.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        // It closes with the process, and can be waited for with a deadline.
        let stderr = self.stderr.recv_timeout(PATIENCE).expect("the end comes, and once");
        (self.child.wait().expect("a child of ours"), stderr)
    }

    /// Waits for an end with exit code 0 and nothing on standard error.
    pub(crate) fn ends_well(&mut self) {
        let (status, stderr) = self.wait();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
    }

    /// Waits for an end with this exit code; gives what was said on standard error.
    pub(crate) fn fails(&mut self, code: i32) -> String {
        let (status, stderr) = self.wait();
        assert_eq!(status.code(), Some(code), "{stderr}");
        stderr
    }
}

impl Drop for Zincmq {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host, and the address to join.
pub(crate) fn host(args: &[&str]) -> (Zincmq, String) {
    let mut host = Zincmq::start(&[&["--json", "host"], args].concat());
    let listening = host.next();
    assert_eq!(listening["event"], "listening");
    let address = listening["address"].as_str().expect("an address").to_owned();
    (host, address)
}

/// A subscriber that has joined, and its id.
pub(crate) fn sub(address: &str, args: &[&str]) -> (Zincmq, String) {
    let mut sub = Zincmq::start(&[&["--json", "sub", address], args].concat());
    let joined = sub.next();
    assert_eq!(joined["event"], "joined");
    let id = joined["id"].as_str().expect("an id").to_owned();
    (sub, id)
}

/// Publishes lines and gives the line it ends with.
pub(crate) fn publish(address: &str, topic: &str, input: &[u8]) -> Value {
    let mut publisher = Zincmq::start(&["--json", "pub", address, "--topic", topic]);
    publisher.feed(input);
    let done = publisher.next();
    publisher.ends_well();
    done
}

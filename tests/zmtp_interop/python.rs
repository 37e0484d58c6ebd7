//! libzmq in another process: `tests/python/zmtp_peer.py`, told what to do.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::any::soon;

/// The Pythons that have pyzmq, the one of the repository first; none, and a word on it, where tests are to be skipped.
pub(crate) fn pythons() -> &'static [PathBuf] {
    static PYTHONS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let pythons = PYTHONS.get_or_init(|| {
        let named =
            |variable: &str, default: PathBuf| std::env::var_os(variable).map_or(default, PathBuf::from);
        let first = named("ZINCMQ_PYTHON", Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"));
        let second = named("ZINCMQ_DEBIAN_PYTHON", "/usr/bin/python3".into());
        let required = std::env::var_os("ZINCMQ_REQUIRE_PYTHON").is_some_and(|value| value == "1");
        let works = version(&first);
        assert!(
            works.is_some() || !required,
            "{} has no pyzmq: run tests/run.sh, which makes .venv",
            first.display()
        );
        let mut pythons = Vec::new();
        for (python, version) in [(first, works), (second.clone(), version(&second))] {
            if let Some(version) = version {
                println!("{}: libzmq {version}", python.display());
                pythons.push(python);
            }
        }
        pythons
    });
    if pythons.is_empty() {
        println!(
            "skipped: no Python with pyzmq. tests/run.sh makes one in .venv; ZINCMQ_PYTHON names another"
        );
    }
    pythons
}

fn version(python: &Path) -> Option<String> {
    let output = std::process::Command::new(python)
        .args(["-c", "import zmq; print(zmq.zmq_version())"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Octets that count up from `first`, modulo 251: a prime, so that nothing that is out of place by a power of two looks right.
pub(crate) fn counting(first: u8, length: usize) -> Bytes {
    static MANY: OnceLock<Vec<u8>> = OnceLock::new();
    let many = MANY.get_or_init(|| (0..251_u8).collect::<Vec<u8>>().repeat(1024));
    let mut counting = many[first.into()..].to_vec();
    while counting.len() < length {
        counting.extend_from_slice(&many[..many.len().min(length - counting.len())]);
    }
    counting.truncate(length);
    counting.into()
}

fn write(frame: &Bytes) -> Value {
    if frame.len() <= 64 {
        return hex(frame);
    }
    assert_eq!(*frame, counting(frame[0], frame.len()), "long frames count");
    json!([frame[0], frame.len()])
}

pub(crate) fn hex(octets: &[u8]) -> Value {
    octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>().into()
}

fn read(written: &Value) -> Bytes {
    let number = |index: usize| written[index].as_u64().expect("a number");
    match written.as_str() {
        None => counting(number(0) as u8, number(1) as usize),
        Some(text) => {
            let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let octets: Option<Vec<u8>> = text.as_bytes().chunks(2).map(octet).collect();
            octets.unwrap_or_else(|| panic!("{text}")).into()
        }
    }
}

fn frames(written: &Value) -> Vec<Bytes> {
    written.as_array().expect("frames").iter().map(read).collect()
}

/// A Python process with a socket; killed when this is dropped.
pub(crate) struct Python {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Python {
    pub(crate) fn start(python: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/zmtp_peer.py");
        let mut child = Command::new(python)
            .arg("-B")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python starts");
        let stdin = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, stdin, lines }
    }

    /// With a socket: its type, options by libzmq's names, and `bind`, `connect`, `subscribe`, `monitor`. Also what was bound.
    pub(crate) async fn with(python: &Path, kind: &str, setting: Value) -> (Self, Vec<String>) {
        let mut peer = Self::start(python);
        let bound = peer.open(kind, setting).await;
        (peer, bound)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    /// Tells it what to do, without waiting for an answer.
    pub(crate) async fn order(&mut self, name: &str, mut order: Value) {
        order["order"] = name.into();
        soon(name, self.stdin.write_all(format!("{order}\n").as_bytes())).await.expect("it listens");
    }

    pub(crate) async fn answer(&mut self) -> Value {
        let line = soon("an answer of Python's", self.lines.next_line()).await.expect("UTF-8");
        serde_json::from_str(&line.expect("it answers")).expect("JSON")
    }

    pub(crate) async fn ask(&mut self, name: &str, order: Value) -> Value {
        self.order(name, order).await;
        self.answer().await
    }

    /// A new socket, in place of the one before.
    pub(crate) async fn open(&mut self, kind: &str, mut setting: Value) -> Vec<String> {
        setting["kind"] = kind.into();
        let answer = self.ask("open", setting).await;
        let bound = answer["bound"].as_array().expect("a list").iter();
        bound.map(|endpoint| endpoint.as_str().expect("a text").to_owned()).collect()
    }

    pub(crate) async fn send(&mut self, message: &[Bytes]) {
        let written: Vec<Value> = message.iter().map(write).collect();
        self.ask("send", json!({ "frames": written })).await;
    }

    pub(crate) async fn recv(&mut self) -> Vec<Bytes> {
        frames(&self.ask("recv", json!({})).await["frames"])
    }

    /// What has come, or comes within so many milliseconds, at most so much.
    pub(crate) async fn take(&mut self, most: usize, wait: u64) -> Vec<Vec<Bytes>> {
        let answer = self.ask("take", json!({ "most": most, "wait": wait })).await;
        answer["messages"].as_array().expect("a list").iter().map(frames).collect()
    }

    /// Sends it a signal by name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let status =
            std::process::Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Stops it, and waits until it has: signals take a moment.
    pub(crate) async fn stop(&self) {
        self.signal("STOP");
        let path = format!("/proc/{}/stat", self.id());
        crate::any::until("it stops", || {
            let stat = std::fs::read_to_string(&path).expect("it is there");
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
        .await;
    }

    /// Ends it as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it ran");
    }
}

//! What is tested: a socket of the library's in this process, or one of libzmq's in another. Both are bound, report what they receive, and send what
//! they are told to.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zincmq::zmtp::{
    DisconnectReason, Message, Monitor, MonitorEvent, Options, PullSocket, RouterSocket, SubSocket,
    XpubSocket, XsubSocket,
};

use crate::common::soon;
use crate::wire::{self, Raw};

/// The limit of a frame's body at all subjects but [`Kind::Unlimited`].
pub(crate) const FRAME_LIMIT: usize = 256 * 1024;
/// The limit of the handshake at [`Kind::Hasty`].
pub(crate) const HASTY: Duration = Duration::from_millis(400);

/// Which socket is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pull,
    /// A PULL socket that has little patience with a handshake.
    Hasty,
    /// A PULL socket with the default limits.
    Unlimited,
    Xpub,
    Router,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Pull, Self::Hasty, Self::Unlimited, Self::Xpub, Self::Router];

    /// The type of the socket.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pull | Self::Hasty | Self::Unlimited => "PULL",
            Self::Xpub => "XPUB",
            Self::Router => "ROUTER",
        }
    }

    /// The type of a peer that it talks to.
    pub(crate) fn peer(self) -> &'static str {
        match self {
            Self::Pull | Self::Hasty | Self::Unlimited => "PUSH",
            Self::Xpub => "SUB",
            Self::Router => "DEALER",
        }
    }
}

/// What a subject received: the frames of a message.
pub(crate) type Report = Vec<Vec<u8>>;

#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    of: Of,
    honest: u32,
}

#[derive(Debug)]
enum Of {
    Engine(Engine),
    Libzmq(Box<Libzmq>),
}

impl Subject {
    pub(crate) async fn engine(kind: Kind) -> Self {
        let mut options = Options::default();
        if kind != Kind::Unlimited {
            options.limits.frame = FRAME_LIMIT;
        }
        if kind == Kind::Hasty {
            options.limits.handshake = HASTY;
        }
        let (engine, port) = Engine::start(kind, options).await;
        Self { kind, port, of: Of::Engine(engine), honest: 0 }
    }

    pub(crate) async fn libzmq(python: &Path, kind: Kind) -> Self {
        let frame = format!("MAXMSGSIZE={FRAME_LIMIT}");
        let handshake = format!("HANDSHAKE_IVL={}", HASTY.as_millis());
        let arguments = match kind {
            Kind::Pull => vec!["PULL", &frame],
            Kind::Hasty => vec!["PULL", &frame, &handshake],
            Kind::Unlimited => vec!["PULL"],
            Kind::Xpub => vec!["XPUB", &frame],
            Kind::Router => vec!["ROUTER", &frame, "ROUTER_MANDATORY=1"],
        };
        let (libzmq, port) = Libzmq::start(python, &arguments).await;
        Self { kind, port, of: Of::Libzmq(Box::new(libzmq)), honest: 0 }
    }

    pub(crate) fn is_libzmq(&self) -> bool {
        matches!(self.of, Of::Libzmq(_))
    }

    /// The next message that it received.
    pub(crate) async fn report(&mut self) -> Report {
        match &mut self.of {
            Of::Engine(engine) => soon(engine.reports.recv()).await.expect("it runs"),
            Of::Libzmq(libzmq) => libzmq.report().await,
        }
    }

    /// Tells it to send.
    pub(crate) async fn send(&mut self, frames: &[&[u8]]) {
        match &mut self.of {
            Of::Engine(engine) => {
                let message = Message::from_frames(frames.iter().map(|frame| frame.to_vec()));
                engine.orders.send(message.expect("a frame")).expect("it runs");
            }
            Of::Libzmq(libzmq) => {
                libzmq.tell(&format!("send {}", words(frames))).await;
                assert_eq!(libzmq.line().await, "sent");
            }
        }
    }

    /// Why the connection from this port ended; `None` for a subject that does not tell.
    pub(crate) async fn end_of(&mut self, port: u16) -> Option<DisconnectReason> {
        match &mut self.of {
            Of::Engine(engine) => Some(engine.end_of(port).await),
            Of::Libzmq(_) => None,
        }
    }

    /// That an honest peer is served, and nothing was received before what it sends.
    pub(crate) async fn serves_the_honest(&mut self) {
        self.honest += 1;
        let word = format!("honest {}", self.honest).into_bytes();
        let mut peer = Raw::introduced(self.port, self.kind.peer()).await;
        match self.kind {
            Kind::Xpub => {
                let prefix = [&[1][..], &word].concat();
                peer.send(&wire::message(&[&prefix])).await;
                assert_eq!(self.report().await, [prefix]);
                self.send(&[&word]).await;
                assert_eq!(peer.message().await, [&word[..]]);
                peer.send(&wire::message(&[&[&[0][..], &word].concat()])).await;
                assert_eq!(self.report().await, [[&[0][..], &word].concat()]);
            }
            Kind::Router => {
                peer.send(&wire::message(&[&word])).await;
                let report = self.report().await;
                assert_eq!((report.len(), &report[1]), (2, &word));
                self.send(&[&report[0], &word]).await;
                assert_eq!(peer.message().await, [&word[..]]);
            }
            Kind::Pull | Kind::Hasty | Kind::Unlimited => {
                peer.send(&wire::message(&[&word])).await;
                assert_eq!(self.report().await, [word]);
            }
        }
    }
}

#[derive(Debug)]
struct Engine {
    reports: mpsc::UnboundedReceiver<Report>,
    orders: mpsc::UnboundedSender<Message>,
    monitor: Monitor,
    task: JoinHandle<()>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs a socket: reports what it receives, sends what it is told to.
macro_rules! run {
    ($socket:expr, $send:expr) => {{
        let mut socket = $socket;
        let (report, reports) = mpsc::unbounded_channel();
        let (orders, mut ordered) = mpsc::unbounded_channel::<Message>();
        let monitor = socket.monitor();
        let endpoint = socket.bind("tcp://127.0.0.1:0").await.expect("a free port");
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = socket.recv() => {
                        let frames = message.expect("it is open").into_frames();
                        let frames = frames.into_iter().map(|frame| frame.to_vec()).collect();
                        // A test that wants no more is about to end.
                        let _ = report.send(frames);
                    }
                    message = ordered.recv() => match message {
                        Some(message) => $send(&socket, message).await,
                        None => return,
                    },
                }
            }
        });
        (Engine { reports, orders, monitor, task }, port_of(&endpoint.to_string()))
    }};
}

impl Engine {
    async fn start(kind: Kind, options: Options) -> (Self, u16) {
        match kind {
            Kind::Pull | Kind::Hasty | Kind::Unlimited => {
                run!(PullSocket::with_options(options), async |_: &PullSocket, _| unreachable!(
                    "PULL sends nothing"
                ))
            }
            Kind::Xpub => run!(XpubSocket::with_options(options), async |socket: &XpubSocket, message| {
                socket.send(message).await.expect("it is open")
            }),
            Kind::Router => {
                run!(RouterSocket::with_options(options), async |socket: &RouterSocket, message| {
                    socket.send(message).await.expect("the peer is there")
                })
            }
        }
    }

    async fn end_of(&mut self, port: u16) -> DisconnectReason {
        loop {
            match soon(self.monitor.next()).await.expect("it runs") {
                MonitorEvent::Disconnected { address, reason, .. }
                    if port_of(&address.to_string()) == port =>
                {
                    return reason;
                }
                MonitorEvent::Lagged(missed) => panic!("{missed} events were missed"),
                _ => {}
            }
        }
    }
}

/// A bound SUB or XSUB socket, which subscribes as it is told to.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) port: u16,
    of: SubscriberOf,
}

#[derive(Debug)]
enum SubscriberOf {
    Sub(SubSocket),
    Xsub(XsubSocket),
    /// Whether it is an XSUB socket.
    Libzmq(Box<Libzmq>, bool),
}

impl Subscriber {
    pub(crate) async fn engine(is_xsub: bool) -> Self {
        const AT: &str = "tcp://127.0.0.1:0";
        let (of, at) = if is_xsub {
            let socket = XsubSocket::new();
            let at = socket.bind(AT).await;
            (SubscriberOf::Xsub(socket), at)
        } else {
            let socket = SubSocket::new();
            let at = socket.bind(AT).await;
            (SubscriberOf::Sub(socket), at)
        };
        Self { port: port_of(&at.expect("a free port").to_string()), of }
    }

    pub(crate) async fn libzmq(python: &Path, is_xsub: bool) -> Self {
        let (libzmq, port) = Libzmq::start(python, &[if is_xsub { "XSUB" } else { "SUB" }]).await;
        Self { port, of: SubscriberOf::Libzmq(Box::new(libzmq), is_xsub) }
    }

    /// Subscribes to a prefix, or takes that back.
    pub(crate) async fn change(&mut self, subscribe: bool, prefix: &'static str) {
        let message = [&[u8::from(subscribe)][..], prefix.as_bytes()].concat();
        match &mut self.of {
            SubscriberOf::Sub(socket) if subscribe => socket.subscribe(prefix),
            SubscriberOf::Sub(socket) => socket.unsubscribe(prefix),
            SubscriberOf::Xsub(socket) => socket.send(message),
            SubscriberOf::Libzmq(libzmq, true) => {
                libzmq.tell(&format!("send {}", words(&[&message]))).await;
                assert_eq!(libzmq.line().await, "sent");
            }
            SubscriberOf::Libzmq(libzmq, false) => {
                let order = if subscribe { "subscribe" } else { "unsubscribe" };
                libzmq.tell(&format!("{order} {}", words(&[prefix.as_bytes()]))).await;
                assert_eq!(libzmq.line().await, "done");
            }
        }
    }
}

/// The port of an address or endpoint in text.
pub(crate) fn port_of(text: &str) -> u16 {
    text.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address of TCP")
}

/// A socket of libzmq's, by way of `tests/python/zmtp_subject.py`; its process ends when this is dropped.
#[derive(Debug)]
struct Libzmq {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Libzmq {
    async fn start(python: &Path, arguments: &[&str]) -> (Self, u16) {
        let mut child = Command::new(python)
            .arg("-B")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/zmtp_subject.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python starts");
        let stdin = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut libzmq = Self { stdin, lines, _child: child };
        let bound = libzmq.line().await;
        let port = bound.strip_prefix("bound ").and_then(|port| port.parse().ok()).expect("a port");
        (libzmq, port)
    }

    async fn line(&mut self) -> String {
        soon(self.lines.next_line()).await.expect("UTF-8").expect("it runs")
    }

    async fn tell(&mut self, order: &str) {
        soon(self.stdin.write_all(format!("{order}\n").as_bytes())).await.expect("it reads");
    }

    async fn report(&mut self) -> Report {
        let line = self.line().await;
        let words = line.strip_prefix("message ").unwrap_or_else(|| panic!("{line:?} instead of a message"));
        words.split(' ').map(unhex).collect()
    }
}

fn words(frames: &[&[u8]]) -> String {
    let word = |frame: &&[u8]| match frame.len() {
        0 => "-".to_owned(),
        _ => frame.iter().map(|octet| format!("{octet:02x}")).collect(),
    };
    frames.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn unhex(word: &str) -> Vec<u8> {
    let digits = word.trim_matches('-').as_bytes().chunks(2);
    let octet = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    digits.map(octet).collect()
}

/// A Python with pyzmq; `None`, and a word on it, where tests are to be skipped.
pub(crate) fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let python = match std::env::var_os("ZINCMQ_PYTHON") {
            Some(path) => PathBuf::from(path),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"),
        };
        let works = std::process::Command::new(&python)
            .args(["-c", "import zmq"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        let required = std::env::var_os("ZINCMQ_REQUIRE_PYTHON").is_some_and(|value| value == "1");
        assert!(works || !required, "{} has no pyzmq: run tests/run.sh, which makes .venv", python.display());
        works.then_some(python)
    });
    if python.is_none() {
        println!(
            "skipped: no Python with pyzmq. tests/run.sh makes one in .venv; ZINCMQ_PYTHON names another"
        );
    }
    python.as_deref()
}

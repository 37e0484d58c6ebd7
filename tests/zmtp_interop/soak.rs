//! A publisher, a router and a puller among peers that connect, die, stall and send rubbish; honest ones miss nothing meanwhile, and nothing is left behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zincmq::zmtp::{
    Bound, DealerSocket, Message, Options, PubSocket, PullSocket, PushSocket, RouterSocket, SubSocket,
};

use crate::any::soon;
use crate::dice::Dice;
use crate::process::{PATIENCE, Process, Role, play, resident_bytes, say};
use crate::python::{Python, counting, pythons};

/// How many vandals of each kind there are at most at a time.
const MOST: usize = 16;
const MOST_PYTHONS: usize = 4;
/// How much more memory may be resident at the end than after the first quarter: what the allocator does not give back.
const SLACK: u64 = 8 << 20;

fn number(frame: &[u8]) -> u64 {
    std::str::from_utf8(frame).expect("text").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "takes ZINCMQ_SOAK_SECONDS, 60 by default"]
async fn honest_peers_lose_nothing_among_vandals() {
    let seconds =
        std::env::var("ZINCMQ_SOAK_SECONDS").ok().and_then(|value| value.parse().ok()).unwrap_or(60);
    let time = Duration::from_secs(seconds);
    let mut set = Process::start("soak::set_role", &json!({}));
    let bound = set.next("bound");
    let at = ["pub", "router", "pull"].map(|socket| bound[socket].as_str().expect("an endpoint").to_owned());
    let honest = Honest::start(&at).await;
    let mut vandals = Vandals::new(at);

    vandals.rage(time / 4).await;
    vandals.leave().await;
    let first = settled(&mut set, &honest).await;
    println!("after a quarter: {first}");
    vandals.rage(time - time / 4).await;
    println!("{:?}", vandals.counts);
    vandals.leave().await;
    let last = settled(&mut set, &honest).await;
    println!("at the end: {last}");

    let counts = honest.finish().await;
    println!("honest: {counts:?}");
    assert!(counts.values().all(|count| *count > 0), "{counts:?}");
    let deadline = Instant::now() + PATIENCE;
    while report(&mut set)["pulled"] != counts["pushed"] {
        assert!(Instant::now() < deadline, "{} of {}", report(&mut set)["pulled"], counts["pushed"]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(last["files"], first["files"], "open files");
    let resident = |report: &Value| report["resident"].as_u64().expect("a number");
    assert!(resident(&last) <= resident(&first) + SLACK, "{} after {}", resident(&last), resident(&first));
    set.ends_well();
}

fn report(set: &mut Process) -> Value {
    set.tell("report");
    let mut report = set.next("report");
    report["resident"] = resident_bytes(set.id()).into();
    report
}

/// The report when only the honest peers are left.
async fn settled(set: &mut Process, honest: &Honest) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = report(set);
        // A connection that was refused or broken off may have its file a little longer.
        let files = report["files"].as_u64().expect("a number");
        let expected = json!([honest.subscribers, 1, 1]);
        if report["peers"] == expected
            && files == report["idle files"].as_u64().expect("a number") + honest.subscribers + 2
        {
            return report;
        }
        assert!(Instant::now() < deadline, "{expected} should be left: {report}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Peers that do as they should. Their tasks give what they have counted.
struct Honest {
    stop: CancellationToken,
    subscribers: u64,
    tasks: Vec<(&'static str, JoinHandle<u64>)>,
}

impl Honest {
    async fn start(at: &[String; 3]) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = vec![
            ("received", tokio::spawn(subscribe(stop.clone(), at[0].clone()))),
            ("echoed", tokio::spawn(ask(stop.clone(), at[1].clone()))),
            ("pushed", tokio::spawn(push(stop.clone(), at[2].clone()))),
        ];
        if let Some(python) = pythons().first() {
            let setting = json!({ "connect": [at[0]], "subscribe": [""], "RCVHWM": 0 });
            let (python, _) = Python::with(python, "SUB", setting).await;
            tasks.push(("received by libzmq", tokio::spawn(subscribe_by_libzmq(stop.clone(), python))));
        }
        Self { stop, subscribers: tasks.len() as u64 - 2, tasks }
    }

    async fn finish(self) -> BTreeMap<&'static str, u64> {
        self.stop.cancel();
        let mut counts = BTreeMap::new();
        for (name, task) in self.tasks {
            counts.insert(name, soon(name, task).await.expect("it ends well"));
        }
        counts
    }
}

/// Looks at what comes: in order, without a gap.
#[derive(Default)]
struct Sequence {
    last: Option<u64>,
    count: u64,
}

impl Sequence {
    fn see(&mut self, number: u64) {
        assert!(self.last.is_none_or(|last| number == last + 1), "{number} after {:?}", self.last);
        self.last = Some(number);
        self.count += 1;
    }
}

async fn subscribe(stop: CancellationToken, at: String) -> u64 {
    let mut subscriber = SubSocket::new();
    subscriber.subscribe("");
    subscriber.connect(at.as_str()).expect("an endpoint");
    let mut sequence = Sequence::default();
    while !stop.is_cancelled() {
        let message = soon("a message", subscriber.recv()).await.expect("open");
        sequence.see(number(&message.frames()[1]));
    }
    sequence.count
}

async fn subscribe_by_libzmq(stop: CancellationToken, mut python: Python) -> u64 {
    let mut sequence = Sequence::default();
    while !stop.is_cancelled() {
        python.take(1_000, 1_000).await.iter().for_each(|message| sequence.see(number(&message[1])));
    }
    sequence.count
}

async fn ask(stop: CancellationToken, at: String) -> u64 {
    let mut dealer = DealerSocket::new();
    dealer.connect(at.as_str()).expect("an endpoint");
    let mut count = 0;
    while !stop.is_cancelled() {
        let question =
            Message::from_frames([Bytes::from(count.to_string()), counting((count % 251) as u8, 3000)]);
        let question = question.expect("frames");
        soon("a question", dealer.send(question.clone())).await.expect("open");
        assert!(soon("an answer", dealer.recv()).await.expect("open") == question);
        count += 1;
    }
    count
}

async fn push(stop: CancellationToken, at: String) -> u64 {
    let push = PushSocket::new();
    push.connect(at.as_str()).expect("an endpoint");
    let mut count = 0;
    while !stop.is_cancelled() {
        let message = Message::from_frames(["honest".to_owned(), count.to_string()]).expect("frames");
        soon("it is sent", push.send(message)).await.expect("open");
        count += 1;
        // Not as fast as it can: the machine has others to serve.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    push.close().await;
    count
}

/// Those who do their worst.
struct Vandals {
    at: [String; 3],
    dice: Dice,
    streams: Vec<TcpStream>,
    sockets: Vec<(SubSocket, DealerSocket, PushSocket)>,
    pythons: Vec<Python>,
    counts: BTreeMap<&'static str, u64>,
}

impl Vandals {
    fn new(at: [String; 3]) -> Self {
        let (streams, sockets, pythons) = Default::default();
        Self { at, dice: Dice::new(1), streams, sockets, pythons, counts: BTreeMap::new() }
    }

    async fn rage(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let what = self.dice.pick(&["rubbish", "rubbish", "sockets", "python", "stall", "kill", "drop"]);
            *self.counts.entry(what).or_default() += 1;
            match what {
                "rubbish" => self.send_rubbish().await,
                "sockets" => self.connect_sockets(),
                "python" => self.start_python().await,
                "stall" => self.pythons.iter().take(2).for_each(|python| python.signal("STOP")),
                "kill" if !self.pythons.is_empty() => {
                    let index = self.dice.below(self.pythons.len() as u64) as usize;
                    self.pythons.swap_remove(index).kill().await;
                }
                _ => {
                    self.streams.truncate(MOST / 2);
                    self.sockets.truncate(MOST / 4);
                }
            }
            tokio::time::sleep(Duration::from_millis(self.dice.below(20))).await;
        }
    }

    /// Octets that are no ZMTP, or begin so, over a connection that is kept for a while or closed at once.
    async fn send_rubbish(&mut self) {
        let at = self.dice.below(3) as usize;
        let host = self.at[at].strip_prefix("tcp://").expect("TCP").to_owned();
        let Ok(mut stream) = TcpStream::connect(host).await else { return };
        let kind = ["SUB", "DEALER", "PUSH"][at];
        let mut octets = Vec::new();
        let depth = self.dice.below(4);
        if depth > 0 {
            octets.extend_from_slice(b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01NULL");
            octets.resize(64, 0);
        }
        if depth > 1 {
            let body = [b"\x05READY\x0bSocket-Type\0\0\0", &[kind.len() as u8][..], kind.as_bytes()].concat();
            octets.extend_from_slice(&[4, body.len() as u8]);
            octets.extend_from_slice(&body);
        }
        if depth > 2 {
            // A frame that declares more than ever comes.
            octets.extend_from_slice(&[2, 0, 0, 0, 0, 0, 255, 0, 0]);
        }
        for _ in 0..self.dice.below(300) {
            octets.push(self.dice.below(256) as u8);
        }
        // It may be cut off while it writes.
        let _ = stream.write_all(&octets).await;
        if self.dice.below(2) == 0 && self.streams.len() < MOST {
            self.streams.push(stream);
        }
    }

    /// Sockets that never receive, and go in the middle of things.
    fn connect_sockets(&mut self) {
        if self.sockets.len() == MOST {
            self.sockets.clear();
        }
        let mut options = Options::default();
        options.recv_hwm = Bound::new(1, 1);
        let sub = SubSocket::with_options(options.clone());
        sub.subscribe("");
        sub.connect(self.at[0].as_str()).expect("an endpoint");
        let dealer = DealerSocket::with_options(options);
        dealer.connect(self.at[1].as_str()).expect("an endpoint");
        let push = PushSocket::new();
        push.connect(self.at[2].as_str()).expect("an endpoint");
        for (_, dealer, push) in &self.sockets {
            // Those that are connected by now.
            let _ = (dealer.try_send("echo this"), push.try_send("not numbered"));
        }
        self.sockets.push((sub, dealer, push));
    }

    async fn start_python(&mut self) {
        let Some(python) = pythons().first().filter(|_| self.pythons.len() < MOST_PYTHONS) else { return };
        let at = self.dice.below(2) as usize;
        let setting = json!({ "connect": [self.at[at]], "RCVHWM": 5 });
        let (mut peer, _) = Python::with(python, ["SUB", "DEALER"][at], setting).await;
        if at == 0 {
            peer.ask("subscribe", json!({ "prefix": "" })).await;
        } else {
            peer.send(&["echo this".into()]).await;
        }
        self.pythons.push(peer);
    }

    async fn leave(&mut self) {
        self.streams.clear();
        self.sockets.clear();
        for python in self.pythons.drain(..) {
            python.kill().await;
        }
    }
}

#[test]
#[ignore = "a role that tests give a process"]
fn set_role() {
    play(set);
}

async fn set(role: Role) {
    let mut orders = role.orders();
    let mut options = Options::default();
    options.limits.handshake = Duration::from_secs(1);
    options.send_hwm = Bound::new(1_000, 1 << 20);
    let publisher = PubSocket::with_options(options.clone());
    let mut router = RouterSocket::with_options(options.clone());
    let mut pull = PullSocket::with_options(options);
    let any = "tcp://127.0.0.1:0";
    let at = [publisher.bind(any).await, router.bind(any).await, pull.bind(any).await];
    let at = at.map(|bound| bound.expect("bound").to_string());
    let idle = files();
    say(&json!({ "event": "bound", "pub": at[0], "router": at[1], "pull": at[2] }));
    let (mut published, mut pulled) = (0, 0);
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            order = orders.recv() => {
                if order.is_none() {
                    break;
                }
                let peers = [publisher.peers(), router.peers(), pull.peers()];
                let report = json!({ "event": "report", "peers": peers, "files": files(), "idle files": idle, "pulled": pulled });
                say(&report);
            }
            _ = pace.tick() => {
                for _ in 0..10 {
                    let message = [Bytes::from("n"), published.to_string().into(), counting(0, 1000)];
                    publisher.send(Message::from_frames(message).expect("frames")).await.expect("open");
                    published += 1;
                }
            }
            message = router.recv() => {
                // One that is gone, or takes nothing, is not waited for.
                let _ = tokio::time::timeout(Duration::from_secs(1), router.send(message.expect("open"))).await;
            }
            message = pull.recv() => {
                let message = message.expect("open");
                if message.first() == "honest" {
                    assert_eq!(number(&message.frames()[1]), pulled, "in order, and each once");
                    pulled += 1;
                }
            }
        }
    }
}

/// How many files this process has open.
fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux tells").count()
}

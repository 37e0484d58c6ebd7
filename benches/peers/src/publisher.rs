//! A publisher alone, of whatever side: what an idle subscriber costs it, and a look-up among many subscriptions.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;
use zeromq::{Socket as _, SocketSend as _};
use zincmq::zmtp::PubSocket;

use crate::dial::dial;
use crate::{Failure, LOOPBACK, Side, engine, libzmq, runtime};

/// What tells that a subscriber is live.
const LIVE: &[u8] = b"live";

fn live() -> Arc<[Bytes]> {
    Arc::new([Bytes::from_static(LIVE)])
}

/// A bound PUB socket.
enum Publisher {
    Engine(Runtime, Arc<PubSocket>),
    Libzmq(zmq::Socket),
    Crate(Runtime, zeromq::PubSocket),
    Omq(Runtime, omq_tokio::Socket),
}

impl Publisher {
    fn bind(side: Side) -> Result<(Self, String), Failure> {
        Ok(match side {
            Side::Engine => {
                let runtime = runtime()?;
                let mut options = engine::options();
                options.limits.half_open = 10_000;
                options.limits.per_address = None;
                let socket = PubSocket::with_options(options);
                let endpoint = runtime.block_on(socket.bind(LOOPBACK))?.to_string();
                (Self::Engine(runtime, Arc::new(socket)), endpoint)
            }
            Side::Libzmq => {
                let context = zmq::Context::new();
                let socket = libzmq::socket(&context, zmq::PUB)?;
                let endpoint = libzmq::bind(&socket)?;
                (Self::Libzmq(socket), endpoint)
            }
            Side::Zeromq => {
                let runtime = runtime()?;
                let mut socket = runtime.block_on(async { zeromq::PubSocket::new() });
                let endpoint = runtime.block_on(socket.bind(LOOPBACK))?.to_string();
                (Self::Crate(runtime, socket), endpoint)
            }
            Side::Omq => {
                let runtime = runtime()?;
                let socket = runtime.block_on(async {
                    omq_tokio::Socket::new(omq_tokio::SocketType::Pub, omq_tokio::Options::default())
                });
                let endpoint = runtime.block_on(socket.bind(LOOPBACK))?.to_string();
                (Self::Omq(runtime, socket), endpoint)
            }
            Side::Floor => return Err("the floor has no subscriptions".into()),
        })
    }

    /// Publishes each of these once; how long that took. On a worker, as in a service.
    fn publish(&mut self, topics: &Arc<[Bytes]>) -> Result<Duration, Failure> {
        let topics = Arc::clone(topics);
        match self {
            Self::Engine(runtime, socket) => {
                let socket = Arc::clone(socket);
                runtime.block_on(runtime.spawn(async move {
                    let start = Instant::now();
                    for topic in &*topics {
                        socket.send(topic.clone()).await?;
                    }
                    Ok(start.elapsed())
                }))?
            }
            Self::Crate(runtime, socket) => runtime.block_on(async {
                let start = Instant::now();
                for topic in &*topics {
                    socket.send(topic.clone().into()).await?;
                }
                Ok(start.elapsed())
            }),
            Self::Omq(runtime, socket) => runtime.block_on(async {
                let start = Instant::now();
                for topic in &*topics {
                    socket.send(omq_tokio::Message::single(topic.clone())).await?;
                }
                Ok(start.elapsed())
            }),
            Self::Libzmq(socket) => {
                let start = Instant::now();
                for topic in &*topics {
                    socket.send(&topic[..], 0)?;
                }
                Ok(start.elapsed())
            }
        }
    }
}

/// The resident memory of this process, in bytes.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// The child process: tells where it listens; answers each line with its resident memory, `p` by publishing first.
pub fn child(side: Side) -> Result<(), Failure> {
    let (mut publisher, endpoint) = Publisher::bind(side)?;
    println!("{endpoint}");
    for line in std::io::stdin().lines() {
        if line? == "p" {
            publisher.publish(&live())?;
        }
        println!("{}", resident()?);
    }
    // Closing is not measured, and some take their time.
    std::process::exit(0)
}

/// What each of so many idle subscribers costs the process of the publisher, in bytes of resident memory.
pub fn idle(side: Side, subscribers: usize) -> Result<f64, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--idle-publisher", side.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(mut commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the child has no pipes".into());
    };
    let mut answers = BufReader::new(answers).lines();
    let mut answer = || answers.next().ok_or("the child ended")?.map_err(Failure::from);
    let endpoint = answer()?;
    let mut ask = |command: &str| -> Result<f64, Failure> {
        writeln!(commands, "{command}")?;
        Ok(answer()?.parse::<u64>()? as f64)
    };
    let result = (|| {
        let before = ask("r")?;
        let mut dialled = Vec::new();
        for _ in 0..subscribers {
            dialled.push(dial(&endpoint, &[Vec::new()])?);
        }
        std::thread::sleep(Duration::from_secs(1));
        let after = ask("r")?;
        ask("p")?;
        for subscriber in &mut dialled {
            subscriber.hear(LIVE)?;
        }
        Ok((after - before) / subscribers as f64)
    })();
    drop(commands);
    child.wait()?;
    result
}

/// What a publish costs among many subscriptions, in nanoseconds.
#[derive(Clone, Copy)]
pub struct Lookup {
    /// Where nobody subscribes to what is published, but to what differs in its last octet.
    pub nobody: f64,
    /// Where one does, another one each time: with what it costs to queue it.
    pub one: f64,
}

/// Ten prefixes for each of a thousand subscribers.
const PEERS: usize = 1_000;
const PREFIXES: usize = 10_000;

/// Measured of sides that look up where they are called, which the other two leave to a task.
pub fn lookup(side: Side) -> Result<Lookup, Failure> {
    let (mut publisher, endpoint) = Publisher::bind(side)?;
    let mut dialled = Vec::new();
    for peer in 0..PEERS {
        let mut prefixes: Vec<Vec<u8>> = (peer..PREFIXES)
            .step_by(PEERS)
            .map(|number| format!("market/{number:05}/").into_bytes())
            .collect();
        prefixes.push(LIVE.to_vec());
        dialled.push(dial(&endpoint, &prefixes)?);
    }
    std::thread::sleep(Duration::from_millis(500));
    publisher.publish(&live())?;
    for subscriber in &mut dialled {
        subscriber.hear(LIVE)?;
    }
    let topics = |last: char| -> Arc<[Bytes]> {
        // In no order that caches would like.
        (0..PREFIXES)
            .map(|number| format!("market/{:05}{last}price", number * 7_919 % PREFIXES).into())
            .collect()
    };
    let mut measure = |topics: &Arc<[Bytes]>, times: u32| -> Result<f64, Failure> {
        publisher.publish(topics)?;
        let mut spent = Duration::ZERO;
        for _ in 0..times {
            spent += publisher.publish(topics)?;
            std::thread::sleep(Duration::from_millis(100));
            for subscriber in &mut dialled {
                subscriber.drain()?;
            }
        }
        Ok(spent.as_secs_f64() * 1e9 / f64::from(times) / topics.len() as f64)
    };
    Ok(Lookup { nobody: measure(&topics('.'), 5)?, one: measure(&topics('/'), 5)? })
}

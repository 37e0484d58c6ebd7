//! A proxy that breaks things: TCP, in front of a host's three ports, for one client.
//!
//! It listens at another address of the loopback range, at the host's own ports: a client that dials it there finds the other two channels there,
//! too, since the host names them by their ports alone. So each client can have a proxy, and a fault hits one of them.
#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zincmq::{Address, Host};

/// One of the three channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Control,
    Broadcast,
    Submit,
}

/// What happens to the connections of a channel that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Both sides are closed.
    Cut,
    /// Both sides are reset.
    Reset,
    /// Nothing is read nor written any more, and nothing closed.
    BlackHole,
}

/// How all connections fare, also those to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Weather {
    /// How much later everything arrives.
    pub(crate) delay: Duration,
    /// How many bytes pass in a second, in each direction of each connection; `None` for as many as will.
    pub(crate) rate: Option<u64>,
    /// Whether connections to come are black holes from the beginning.
    pub(crate) is_dark: bool,
}

/// How much is read at once.
const CHUNK: usize = 16 * 1024;
/// How much may be on its way in one direction of one connection, in chunks.
const UNDER_WAY: usize = 256;

/// See the module. Its connections end with it.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: Address,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    weather: watch::Sender<Weather>,
    /// The connections that were made, in the order of their making.
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Told when a side has closed or a connection is done with.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Connection {
    channel: Channel,
    /// How many bytes have passed, in both directions.
    passed: AtomicU64,
    fate: watch::Sender<Fate>,
    /// Whether the client and the host have closed their sides, as far as it was looked.
    closed: [AtomicBool; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// All is well.
    Open,
    /// The fault comes once so many bytes have passed in all.
    Doomed {
        at: u64,
        fault: Fault,
    },
    /// It has come.
    Struck(Fault),
    /// A black hole is read from again, and swallows all until both sides have closed.
    Swallow,
    /// And where one side has closed, the other is to learn it.
    LetGo,
    Ended,
}

impl Proxy {
    /// A proxy for a host that is bound to 127.0.0.1, at 127.0.0.`last`; each client's is to be its own.
    pub(crate) async fn start(host: &Host, last: u8) -> io::Result<Self> {
        let here = Ipv4Addr::new(127, 0, 0, last);
        let shared = Arc::new(Shared {
            weather: watch::Sender::new(Weather::default()),
            connections: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let bound = host.bound();
        let mut tasks = JoinSet::new();
        for (channel, address) in [
            (Channel::Control, &bound.control),
            (Channel::Broadcast, &bound.broadcast),
            (Channel::Submit, &bound.submit),
        ] {
            let Address::Tcp { port, .. } = *address else { panic!("{address} is not of TCP") };
            let listener = TcpListener::bind((here, port)).await?;
            tasks.spawn(accept(listener, channel, port, Arc::clone(&shared)));
        }
        let Address::Tcp { port, .. } = bound.control else { panic!("not of TCP") };
        Ok(Self { address: Address::Tcp { host: here.to_string(), port }, shared, _tasks: tasks })
    }

    /// What to dial in place of the host.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Lets a fault come over the channel's open connection, after so many more bytes, so in the middle of a frame perhaps. Whether there was one.
    pub(crate) fn doom(&self, channel: Channel, after: u64, fault: Fault) -> bool {
        let connections = self.shared.connections.lock().expect("no panic");
        let open = |one: &&Arc<Connection>| one.channel == channel && *one.fate.borrow() == Fate::Open;
        let Some(one) = connections.iter().rev().find(open) else { return false };
        let at = one.passed.load(Ordering::Relaxed) + after;
        one.fate.send_replace(if after == 0 { Fate::Struck(fault) } else { Fate::Doomed { at, fault } });
        true
    }

    /// Reads from all black holes again: what comes is swallowed, until both sides have closed.
    pub(crate) fn swallow(&self) {
        self.turn(Fate::Struck(Fault::BlackHole), Fate::Swallow);
    }

    /// Closes the other side of black holes of which one side has closed.
    pub(crate) fn let_go(&self) {
        self.turn(Fate::Swallow, Fate::LetGo);
    }

    fn turn(&self, from: Fate, to: Fate) {
        for one in self.shared.connections.lock().expect("no panic").iter() {
            one.fate.send_if_modified(|fate| {
                let turns = *fate == from;
                if turns {
                    *fate = to;
                }
                turns
            });
        }
    }

    /// The connections that are not done with: their channels, and whether the client and the host have closed their sides of a black hole.
    pub(crate) fn open(&self) -> Vec<(Channel, bool, bool)> {
        let connections = self.shared.connections.lock().expect("no panic");
        let open = connections.iter().filter(|one| *one.fate.borrow() != Fate::Ended);
        let closed = |one: &Connection, side: usize| one.closed[side].load(Ordering::Relaxed);
        open.map(|one| (one.channel, closed(one, 0), closed(one, 1))).collect()
    }

    /// Waits until what is open is as it should be.
    pub(crate) async fn until(&self, is_so: impl Fn(&[(Channel, bool, bool)]) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        while !is_so(&self.open()) {
            changed.changed().await.expect("the proxy is there");
        }
    }
}

async fn accept(listener: TcpListener, channel: Channel, port: u16, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    loop {
        let Ok((inner, _)) = listener.accept().await else { return };
        while links.try_join_next().is_some() {}
        let is_dark = shared.weather.borrow().is_dark;
        let fate = watch::Sender::new(if is_dark { Fate::Struck(Fault::BlackHole) } else { Fate::Open });
        let connection =
            Arc::new(Connection { channel, passed: AtomicU64::new(0), fate, closed: Default::default() });
        shared.connections.lock().expect("no panic").push(Arc::clone(&connection));
        let shared = Arc::clone(&shared);
        links.spawn(async move {
            if let Ok(outer) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                link(inner, outer, &connection, &shared).await;
            }
            connection.fate.send_replace(Fate::Ended);
            shared.changed.send_replace(());
        });
    }
}

/// Runs one connection until its end.
async fn link(mut inner: TcpStream, mut outer: TcpStream, connection: &Connection, shared: &Shared) {
    for stream in [&inner, &outer] {
        // What it delays is to be told by the weather alone.
        let _ = stream.set_nodelay(true);
    }
    let mut fate = connection.fate.subscribe();
    let struck = {
        let (from_inner, to_inner) = inner.split();
        let (from_outer, to_outer) = outer.split();
        tokio::select! {
            biased;
            Ok(struck) = fate.wait_for(|fate| matches!(fate, Fate::Struck(_))) => *struck,
            // Closed by one of its sides, which the other is to learn at once.
            () = forward(from_inner, to_outer, connection, shared) => return,
            () = forward(from_outer, to_inner, connection, shared) => return,
        }
    };
    match struck {
        Fate::Struck(Fault::Reset) => {
            for stream in [&inner, &outer] {
                // Without it, the connection is merely closed.
                let _ = stream.set_zero_linger();
            }
        }
        Fate::Struck(Fault::BlackHole) => {
            // Ends with the proxy, too.
            let _ = fate.wait_for(|fate| !matches!(fate, Fate::Struck(_))).await;
            let swallowing = async {
                tokio::join!(
                    swallow(inner, &connection.closed[0], shared),
                    swallow(outer, &connection.closed[1], shared),
                );
            };
            let let_go = async {
                let _ = fate.wait_for(|fate| *fate == Fate::LetGo).await;
                let mut changed = shared.changed.subscribe();
                while connection.closed.iter().all(|closed| !closed.load(Ordering::Relaxed)) {
                    let _ = changed.changed().await;
                }
            };
            tokio::select! {
                () = swallowing => {}
                () = let_go => {}
            }
        }
        _ => {}
    }
}

/// Reads until the other side has closed.
async fn swallow(mut stream: TcpStream, closed: &AtomicBool, shared: &Shared) {
    let mut chunk = vec![0; CHUNK];
    while stream.read(&mut chunk).await.is_ok_and(|read| read > 0) {}
    closed.store(true, Ordering::Relaxed);
    shared.changed.send_replace(());
}

/// Carries bytes in one direction until its end, which it does not see while what came before is under way.
async fn forward(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    connection: &Connection,
    shared: &Shared,
) {
    let (sender, mut under_way) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let reading = async move {
        loop {
            let mut chunk = vec![0; CHUNK];
            match from.read(&mut chunk).await {
                Ok(read) if read > 0 => chunk.truncate(read),
                _ => return,
            }
            let arrives = Instant::now() + shared.weather.borrow().delay;
            if sender.send((arrives, chunk)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((arrives, chunk)) = under_way.recv().await {
            tokio::time::sleep_until(arrives).await;
            if write(&mut to, &chunk, connection, shared).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// Writes at the rate that is given, and no further than the fault.
async fn write(
    to: &mut (impl AsyncWriteExt + Unpin),
    chunk: &[u8],
    connection: &Connection,
    shared: &Shared,
) -> io::Result<()> {
    let passed = connection.passed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    let fate = *connection.fate.borrow();
    if let Fate::Doomed { at, fault } = fate
        && at <= passed + chunk.len() as u64
    {
        let left = usize::try_from(at.saturating_sub(passed)).unwrap_or(chunk.len());
        to.write_all(&chunk[..left.min(chunk.len())]).await?;
        connection.fate.send_replace(Fate::Struck(fault));
        // Not one byte more.
        return std::future::pending().await;
    }
    to.write_all(chunk).await?;
    let rate = shared.weather.borrow().rate;
    if let Some(rate) = rate {
        tokio::time::sleep(Duration::from_secs_f64(chunk.len() as f64 / rate as f64)).await;
    }
    Ok(())
}

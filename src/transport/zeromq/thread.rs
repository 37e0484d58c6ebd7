//! The thread on which a parent's sockets live.
//!
//! In zeromq 0.7 some tasks of a PUB wait for the lock of the subscriber map by yielding and others by blocking their
//! thread (`get_sync`). On a runtime of several threads the lock is then handed to a task that the blocked thread was to
//! run next, and the socket, and everybody who touches it, stands still for ever: two subscriptions in a row while
//! something is published are enough. ROUTER and PULL are built alike. Where one thread does everything nobody ever waits
//! for those locks; so each parent has a thread with a runtime of its own, and nothing that takes them happens elsewhere.
//! When the runtime goes, so does all that the crate spawned on it.

use std::io;
use std::thread;
use std::time::Duration;

use ::zeromq::{
    Listener, PubSocket, PullSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqError, ZmqMessage,
};
use bytes::Bytes;
use futures::FutureExt;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::control::{Command, ControlTask};
use super::options;
use crate::transport::{Frames, ParentEvent};

/// How long what was queued for the peers may still go out once the link was dropped: last words, not a backlog.
const LINGER: Duration = Duration::from_millis(500);

/// How often it is looked whether all has gone out.
const LINGER_STEP: Duration = Duration::from_millis(2);

/// What the sockets listen at, and the far ends of the link's queues.
pub(super) struct Parts {
    pub(super) control: Listener,
    pub(super) broadcast: Listener,
    pub(super) submit: Listener,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<ParentEvent>,
    pub(super) submits: mpsc::Sender<Frames>,
}

/// Starts the thread. It ends with the [`Publisher`], so cancelling this leaves nothing behind.
pub(super) async fn start(parts: Parts) -> io::Result<Publisher> {
    let (ready, started) = oneshot::channel();
    thread::Builder::new().name("zincmq-zeromq".to_owned()).spawn(move || run(parts, ready))?;
    started.await.unwrap_or_else(|_| Err(io::Error::other("the thread of the sockets has ended")))
}

fn run(parts: Parts, ready: oneshot::Sender<io::Result<Publisher>>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        // If the receiver is gone, bind was cancelled. So below.
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        match serve(parts).await {
            Ok((publisher, served)) => {
                drop(ready.send(Ok(publisher)));
                served.await;
            }
            Err(ZmqError::Network(error)) => drop(ready.send(Err(error))),
            Err(error) => drop(ready.send(Err(io::Error::other(error)))),
        }
    });
}

/// Opens the sockets; the future lasts until the publisher is dropped, and what was queued by then has gone out.
async fn serve(parts: Parts) -> Result<(Publisher, impl Future<Output = ()>), ZmqError> {
    let mut router = RouterSocket::new();
    let mut socket = PubSocket::new();
    let mut puller = Puller(PullSocket::with_options(options()));
    let monitors = (router.monitor(), socket.monitor());
    router.bind_listener(parts.control).await?;
    socket.bind_listener(parts.broadcast).await?;
    puller.0.bind_listener(parts.submit).await?;

    let subscribers = socket.backend();
    let control = ControlTask::new(router, subscribers, monitors, parts.commands, parts.events);
    let control = tokio::spawn(control.run());
    let puller = tokio::spawn(puller.run(parts.submits));
    let (home, retired) = oneshot::channel();
    let publisher = Publisher { socket: Some(socket), home: Some(home) };
    let served = async move {
        let socket = retired.await;
        let deadline = Instant::now() + LINGER;
        puller.abort();
        drop(socket);
        // Ends once it has sent what it was told to; if it panicked, there is nothing more to wait for.
        let _ = timeout_at(deadline, control).await;
        let metrics = Handle::current().metrics();
        while metrics.num_alive_tasks() > 0 && Instant::now() < deadline {
            sleep(LINGER_STEP).await;
        }
    };
    Ok((publisher, served))
}

/// The PUB socket, lent to another thread to send with. It goes home to be dropped.
pub(super) struct Publisher {
    socket: Option<PubSocket>,
    home: Option<oneshot::Sender<PubSocket>>,
}

impl Publisher {
    /// Publishes a message.
    pub(super) fn send(&mut self, lane: Bytes, body: Bytes) {
        let mut message = ZmqMessage::from(lane);
        message.push_back(body);
        if let Some(socket) = &mut self.socket {
            // Ready at once, without any of those locks, and never an error: the crate drops what finds no room.
            let _ = socket.send(message).now_or_never();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some((home, socket)) = self.home.take().zip(self.socket.take()) {
            // Were the thread gone, nobody could hold a lock any more.
            drop(home.send(socket));
        }
    }
}

/// The PULL socket. Unlike the others of the crate it does not close its connections when dropped.
struct Puller(PullSocket);

impl Puller {
    async fn run(mut self, submits: mpsc::Sender<Frames>) {
        loop {
            // An error concerns one peer, which the crate has disconnected.
            if let Ok(message) = self.0.recv().await
                && submits.send(message.into_vec()).await.is_err()
            {
                return;
            }
        }
    }
}

impl Drop for Puller {
    fn drop(&mut self) {
        self.0.backend().shutdown();
    }
}

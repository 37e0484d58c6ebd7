//! The engine's sockets behind one face.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use zincmq::zmtp::{
    DealerSocket, Message, Monitor, MonitorEvent, Options, PairSocket, PubSocket, PullSocket, PushSocket,
    RepSocket, ReqSocket, RouterSocket, SendError, SocketType, SubSocket, XpubSocket, XsubSocket,
};

/// How long anything may take to happen: a machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what should happen at once.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: did not happen within {PATIENCE:?}"),
    }
}

/// Waits until something is so. For what tells nobody when it changes.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    soon(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Waits for an event that gives a result.
pub(crate) async fn event<T>(
    monitor: &mut Monitor,
    what: &str,
    mut wanted: impl FnMut(MonitorEvent) -> Option<T>,
) -> T {
    soon(what, async {
        loop {
            if let Some(found) = wanted(monitor.next().await.expect("the socket is there")) {
                return found;
            }
        }
    })
    .await
}

macro_rules! any {
    ($($kind:ident $socket:ident),*) => {
        /// A socket of any type.
        #[derive(Debug)]
        pub(crate) enum Any {
            $($kind($socket),)*
        }

        impl Any {
            pub(crate) fn new(kind: SocketType, options: Options) -> Self {
                match kind {
                    $(SocketType::$kind => Self::$kind($socket::with_options(options)),)*
                    _ => unreachable!("there are eleven"),
                }
            }

            pub(crate) fn kind(&self) -> SocketType {
                match self {
                    $(Self::$kind(_) => SocketType::$kind,)*
                }
            }

            pub(crate) async fn bind(&self, endpoint: &str) -> String {
                let bound = match self {
                    $(Self::$kind(socket) => socket.bind(endpoint).await,)*
                };
                bound.unwrap_or_else(|error| panic!("{error}")).to_string()
            }

            pub(crate) fn connect(&self, endpoint: &str) {
                let connected = match self {
                    $(Self::$kind(socket) => socket.connect(endpoint),)*
                };
                connected.expect("an endpoint");
            }
        }
    };
}

any!(
    Pair PairSocket, Pub PubSocket, Sub SubSocket, Req ReqSocket, Rep RepSocket, Dealer DealerSocket, Router RouterSocket, Pull PullSocket,
    Push PushSocket, Xpub XpubSocket, Xsub XsubSocket
);

impl Any {
    pub(crate) fn subscribe(&self, prefix: &[u8]) {
        match self {
            Self::Sub(socket) => socket.subscribe(prefix.to_vec()),
            Self::Xsub(socket) => socket.send([b"\x01", prefix].concat()),
            _ => panic!("{} does not subscribe", self.kind()),
        }
    }

    pub(crate) async fn send(&mut self, frames: &[Bytes]) {
        let message = Message::from_frames(frames.iter().cloned()).expect("a frame");
        let sent = match self {
            Self::Pair(socket) => socket.send(message).await,
            Self::Pub(socket) => socket.send(message).await,
            Self::Xpub(socket) => socket.send(message).await,
            Self::Push(socket) => socket.send(message).await,
            Self::Dealer(socket) => socket.send(message).await,
            Self::Req(socket) => socket.send(message).await,
            Self::Rep(socket) => socket.send(message).await,
            // Waits for a peer of the identity.
            Self::Router(socket) => loop {
                match socket.send(message.clone()).await {
                    Err(SendError::Unroutable(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
                    sent => break sent,
                }
            },
            Self::Sub(_) | Self::Xsub(_) | Self::Pull(_) => panic!("{} does not send", self.kind()),
        };
        sent.expect("sent");
    }

    pub(crate) async fn recv(&mut self) -> Vec<Bytes> {
        let received = match self {
            Self::Pair(socket) => socket.recv().await,
            Self::Sub(socket) => socket.recv().await,
            Self::Xsub(socket) => socket.recv().await,
            Self::Xpub(socket) => socket.recv().await,
            Self::Pull(socket) => socket.recv().await,
            Self::Dealer(socket) => socket.recv().await,
            Self::Router(socket) => socket.recv().await,
            Self::Rep(socket) => socket.recv().await,
            Self::Req(socket) => Ok(socket.recv().await.expect("an answer")),
            Self::Pub(_) | Self::Push(_) => panic!("{} does not receive", self.kind()),
        };
        received.expect("open").into_frames()
    }
}

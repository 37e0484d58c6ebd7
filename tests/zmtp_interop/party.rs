//! One end of a conversation, whoever it is.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use zincmq::zmtp::{Options, SocketType};

use crate::any::{Any, soon};
use crate::other::Other;
use crate::python::{Python, hex};

pub(crate) enum End<'a> {
    Engine(Any),
    Python(&'a mut Python),
    Crate(Other),
}

pub(crate) struct Party<'a> {
    pub(crate) kind: SocketType,
    /// What routers call it.
    pub(crate) identity: &'static str,
    end: End<'a>,
}

/// Whether a socket of this type tells an identity in libzmq, too.
fn tells_identity(kind: SocketType) -> bool {
    matches!(kind, SocketType::Req | SocketType::Dealer | SocketType::Router)
}

/// Something that nobody else is bound to, as the engine, Python and the crate write it. Paths are in the folder.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    Tcp,
    Ipc(&'a std::path::Path),
}

impl Place<'_> {
    pub(crate) fn endpoint(self, name: &str) -> String {
        match self {
            Place::Tcp => "tcp://127.0.0.1:0".to_owned(),
            Place::Ipc(folder) => format!("ipc://{}/{name}", folder.display()),
        }
    }
}

impl<'a> Party<'a> {
    pub(crate) fn engine(kind: SocketType, identity: &'static str) -> Self {
        let mut options = Options::default();
        if tells_identity(kind) {
            options.identity = identity.try_into().expect("an identity");
        }
        Self { kind, identity, end: End::Engine(Any::new(kind, options)) }
    }

    /// Opens a socket in a Python process that is there.
    pub(crate) async fn python(python: &'a mut Python, kind: SocketType, identity: &'static str) -> Self {
        let setting = if tells_identity(kind) { json!({ "ROUTING_ID": identity }) } else { json!({}) };
        python.open(kind.name(), setting).await;
        Self { kind, identity, end: End::Python(python) }
    }

    /// `None` for types that the crate does not have.
    pub(crate) fn of_crate(kind: SocketType, identity: &'static str) -> Option<Self> {
        let other = Other::new(kind, if tells_identity(kind) { identity } else { "" })?;
        Some(Self { kind, identity, end: End::Crate(other) })
    }

    pub(crate) async fn bind(&mut self, endpoint: &str) -> String {
        match &mut self.end {
            End::Engine(socket) => socket.bind(endpoint).await,
            End::Python(python) => {
                let endpoint = endpoint.replace("127.0.0.1:0", "127.0.0.1:*");
                let answer = python.ask("bind", json!({ "endpoints": [endpoint] })).await;
                answer["bound"][0].as_str().expect("a text").to_owned()
            }
            End::Crate(socket) => socket.bind(endpoint).await,
        }
    }

    pub(crate) async fn connect(&mut self, endpoint: &str) {
        match &mut self.end {
            End::Engine(socket) => socket.connect(endpoint),
            End::Python(python) => _ = python.ask("connect", json!({ "endpoints": [endpoint] })).await,
            End::Crate(socket) => soon("the crate connects", socket.connect(endpoint)).await,
        }
    }

    pub(crate) async fn subscribe_to_all(&mut self) {
        match &mut self.end {
            End::Engine(socket) => socket.subscribe(b""),
            End::Python(python) if self.kind == SocketType::Xsub => {
                python.send(&[Bytes::from_static(&[1])]).await
            }
            End::Python(python) => _ = python.ask("subscribe", json!({ "prefix": hex(b"") })).await,
            End::Crate(socket) => socket.subscribe_to_all().await,
        }
    }

    /// Sends; waits for a peer if there is none.
    pub(crate) async fn send(&mut self, frames: &[Bytes]) {
        match &mut self.end {
            End::Engine(socket) => soon("the engine sends", socket.send(frames)).await,
            End::Python(python) => python.send(frames).await,
            End::Crate(socket) => {
                soon("the crate sends", async {
                    while !socket.send(frames).await {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                })
                .await;
            }
        }
    }

    pub(crate) async fn recv(&mut self) -> Vec<Bytes> {
        match &mut self.end {
            End::Engine(socket) => soon("the engine receives", socket.recv()).await,
            End::Python(python) => python.recv().await,
            End::Crate(socket) => soon("the crate receives", socket.recv()).await,
        }
    }

    /// What comes at once, if something does. It also lets libzmq work off what its own threads have told the socket.
    pub(crate) async fn recv_at_once(&mut self) -> Option<Vec<Bytes>> {
        const AT_ONCE: Duration = Duration::from_millis(20);
        match &mut self.end {
            End::Engine(socket) => tokio::time::timeout(AT_ONCE, socket.recv()).await.ok(),
            End::Python(python) => python.take(1, AT_ONCE.as_millis() as u64).await.pop(),
            End::Crate(socket) => tokio::time::timeout(AT_ONCE, socket.recv()).await.ok(),
        }
    }
}

//! The sockets of the `zeromq` crate behind one face.

use bytes::Bytes;
use zeromq::{Socket, SocketOptions, SocketRecv, SocketSend, ZmqMessage};
use zincmq::zmtp::SocketType;

macro_rules! other {
    ($($kind:ident $socket:ident),*) => {
        /// A socket of any type that the crate has.
        pub(crate) enum Other {
            $($kind(zeromq::$socket),)*
        }

        impl Other {
            /// `None` for a type that it does not have.
            pub(crate) fn new(kind: SocketType, identity: &str) -> Option<Self> {
                let mut options = SocketOptions::default();
                if !identity.is_empty() {
                    options.peer_identity(identity.parse().expect("an identity"));
                }
                match kind {
                    $(SocketType::$kind => Some(Self::$kind(zeromq::$socket::with_options(options))),)*
                    _ => None,
                }
            }

            pub(crate) async fn bind(&mut self, endpoint: &str) -> String {
                let bound = match self {
                    $(Self::$kind(socket) => socket.bind(endpoint).await,)*
                };
                bound.expect("bound").to_string()
            }

            pub(crate) async fn connect(&mut self, endpoint: &str) {
                let connected = match self {
                    $(Self::$kind(socket) => socket.connect(endpoint).await,)*
                };
                connected.expect("connected");
            }
        }
    };
}

other!(
    Pub PubSocket, Sub SubSocket, Req ReqSocket, Rep RepSocket, Dealer DealerSocket, Router RouterSocket, Pull PullSocket, Push PushSocket,
    Xpub XPubSocket, Xsub XSubSocket
);

impl Other {
    pub(crate) async fn subscribe_to_all(&mut self) {
        let subscribed = match self {
            Self::Sub(socket) => socket.subscribe("").await,
            Self::Xsub(socket) => socket.subscribe("").await,
            _ => panic!("it does not subscribe"),
        };
        subscribed.expect("subscribed");
    }

    /// Whether it could. It does not wait for peers.
    pub(crate) async fn send(&mut self, frames: &[Bytes]) -> bool {
        let message = ZmqMessage::try_from(frames.to_vec()).expect("a frame");
        let sent = match self {
            Self::Pub(socket) => socket.send(message).await,
            Self::Xpub(socket) => socket.send(message).await,
            Self::Push(socket) => socket.send(message).await,
            Self::Dealer(socket) => socket.send(message).await,
            Self::Router(socket) => socket.send(message).await,
            Self::Req(socket) => socket.send(message).await,
            Self::Rep(socket) => socket.send(message).await,
            Self::Sub(_) | Self::Xsub(_) | Self::Pull(_) => panic!("it does not send"),
        };
        sent.is_ok()
    }

    pub(crate) async fn recv(&mut self) -> Vec<Bytes> {
        let received = match self {
            Self::Sub(socket) => socket.recv().await,
            Self::Xsub(socket) => socket.recv().await,
            Self::Xpub(socket) => socket.recv().await,
            Self::Pull(socket) => socket.recv().await,
            Self::Dealer(socket) => socket.recv().await,
            Self::Router(socket) => socket.recv().await,
            Self::Req(socket) => socket.recv().await,
            Self::Rep(socket) => socket.recv().await,
            Self::Pub(_) | Self::Push(_) => panic!("it does not receive"),
        };
        received.expect("received").into_vec()
    }
}

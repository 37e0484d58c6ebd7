//! The sockets.

use std::sync::Arc;

use bytes::Bytes;

use super::core::{Core, Next};
use super::endpoint::{Endpoint, EndpointError};
use super::error::{BindError, ClosedError, RecvError, SendError, TrySendError};
use super::hub::Peer;
use super::monitor::Monitor;
use super::options::Options;
use super::queue::Backlog;
use crate::zmtp::{Message, SocketType};

/// What every kind of socket has.
macro_rules! socket {
    ($(#[$doc:meta])* $name:ident, $kind:ident, tells_peers: $tells:expr $(, $field:ident: $type:ty)*) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            core: Core,
            $($field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl $name {
            /// A socket with the default [`Options`].
            #[must_use]
            pub fn new() -> Self {
                Self::with_options(Options::default())
            }

            /// A socket with these options.
            #[must_use]
            pub fn with_options(options: Options) -> Self {
                Self { core: Core::new(SocketType::$kind, options, $tells), $($field: Default::default(),)* }
            }

            /// Listens at an endpoint, beside others; gives it with the port that the system chose. Must be called within a tokio runtime. Cancel
            /// safe: a cancelled call leaves nothing bound.
            ///
            /// # Errors
            /// [`BindError`]; nothing is bound then.
            pub async fn bind(&self, endpoint: impl TryInto<Endpoint, Error: Into<EndpointError>>) -> Result<Endpoint, BindError> {
                let endpoint = endpoint.try_into().map_err(Into::into)?;
                let at = self.core.bind(&endpoint).await.map_err(|source| BindError::Io { endpoint, source })?;
                Ok(self.core.listen(at))
            }

            /// Keeps a connection to an endpoint, beside others: made at once or when somebody listens there, and again when it is lost. Must be called
            /// within a tokio runtime.
            ///
            /// # Errors
            /// [`EndpointError`] when the text is no address, or one that is for binding.
            pub fn connect(&self, endpoint: impl TryInto<Endpoint, Error: Into<EndpointError>>) -> Result<(), EndpointError> {
                self.core.connect(endpoint.try_into().map_err(Into::into)?.for_connecting()?);
                Ok(())
            }

            /// What happens to its connections from now on.
            #[must_use]
            pub fn monitor(&self) -> Monitor {
                self.core.monitor()
            }

            /// Cuts the connections of all peers of this identity, with all that waits for them; of one that has ended nothing more is received that was
            /// not read yet. Whether there were any. A socket that connected here comes back.
            pub fn disconnect(&self, identity: &[u8]) -> bool {
                self.core.handle.disconnect(identity)
            }

            /// What waits for the peer of this identity; of several for the one for which most octets wait; `None` where there is none.
            #[must_use]
            pub fn backlog(&self, identity: &[u8]) -> Option<Backlog> {
                self.core.handle.backlog(identity)
            }

            /// How many peers have introduced themselves and are connected.
            #[must_use]
            pub fn peers(&self) -> usize {
                self.core.handle.peer_count()
            }

            /// Messages dropped because the queues of those they were for were full.
            #[must_use]
            pub fn dropped(&self) -> u64 {
                self.core.handle.dropped()
            }

            /// Messages that came and nobody took: to a socket that does not receive, no question to REP, no answer to REQ. Of XSUB those, too, that it sent and
            /// that found no room.
            #[must_use]
            pub fn unrouted(&self) -> u64 {
                self.core.handle.0.unrouted()
            }

            /// Closes it: sends what waits, as long as [`Options::linger`] allows. Gives the number of messages that were left. Dropping it instead
            /// leaves all of them. Cancel safe: dropped then.
            pub async fn close(self) -> usize {
                self.core.close().await
            }
        }
    };
}

/// Receives from all peers alike.
macro_rules! receives {
    ($name:ident) => {
        impl $name {
            /// The next message. Cancel safe.
            ///
            /// # Errors
            /// [`ClosedError`] after the end.
            pub async fn recv(&mut self) -> Result<Message, ClosedError> {
                self.core.recv_message().await
            }
        }
    };
}

/// Sends to one peer after the other.
macro_rules! deals {
    ($name:ident) => {
        impl $name {
            /// Sends a message to the next peer that has room for it, and waits until there is one. Cancel safe: a cancelled call has sent nothing, unless
            /// it was about to return.
            ///
            /// # Errors
            /// [`SendError::Closed`], with the message inside.
            pub async fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
                self.core.send_dealt(message.into()).await?;
                self.core.take_turns(false).await;
                Ok(())
            }

            /// Sends a message to the next peer that has room for it, if there is one now.
            ///
            /// # Errors
            /// [`TrySendError`], with the message inside.
            pub fn try_send(&self, message: impl Into<Message>) -> Result<(), TrySendError> {
                self.core.try_send_dealt(message.into())
            }
        }
    };
}

/// Sends to all that subscribe.
macro_rules! publishes {
    ($name:ident) => {
        impl $name {
            /// Publishes a message to all that subscribe to a prefix of its first frame. What becomes of it for those who are behind is up to
            /// [`Options::on_full`]. Cancel safe: a cancelled call has published nothing, unless it was about to return.
            ///
            /// # Errors
            /// [`SendError::Closed`], with the message inside.
            pub async fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
                self.core.send_published(message.into()).await
            }
        }
    };
}

socket!(
    /// Publishes to subscribers (RFC 29).
    ///
    /// ```
    /// use futures::StreamExt;
    /// use zincmq::zmtp::{PubSocket, SubSocket};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let publisher = PubSocket::new();
    /// let endpoint = publisher.bind("tcp://127.0.0.1:0").await?;
    /// let mut subscriber = SubSocket::new();
    /// subscriber.subscribe("news");
    /// subscriber.connect(endpoint)?;
    /// // A subscription takes a moment to arrive: what is published before is missed.
    /// while publisher.subscriptions() == 0 {
    ///     tokio::task::yield_now().await;
    /// }
    /// publisher.send("news: it works").await?;
    /// assert_eq!(subscriber.recv().await?.first(), "news: it works");
    /// # Ok(()) }
    /// ```
    PubSocket, Pub, tells_peers: false
);
publishes!(PubSocket);

impl PubSocket {
    /// How many different prefixes there are that somebody subscribes to.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.core.handle.publisher().prefixes()
    }
}

socket!(
    /// Publishes to subscribers, and receives their subscriptions as messages: an octet 1 or 0, and the prefix, when the first peer subscribes to it
    /// or the last one takes it back (RFC 29). Where more than 1,024 of these wait, or 64 KiB, those are left out that came to nothing.
    XpubSocket, Xpub, tells_peers: false
);
publishes!(XpubSocket);
receives!(XpubSocket);

socket!(
    /// Subscribes to publishers (RFC 29). What is on its way when a subscription is taken back may still come.
    SubSocket, Sub, tells_peers: false
);
receives!(SubSocket);

impl SubSocket {
    /// Subscribes to a prefix, at all peers and those to come. As often as it is done it has to be taken back.
    pub fn subscribe(&self, prefix: impl Into<Bytes>) {
        self.core.handle.subscribe(prefix.into());
    }

    /// Takes a subscription back.
    pub fn unsubscribe(&self, prefix: impl Into<Bytes>) {
        self.core.handle.unsubscribe(prefix.into());
    }
}

socket!(
    /// Subscribes by sending messages: an octet 1 or 0, and the prefix. Other messages go up to all publishers (RFC 29).
    XsubSocket, Xsub, tells_peers: false
);
receives!(XsubSocket);

impl XsubSocket {
    /// Subscribes, takes a subscription back, or sends a message to all publishers, as its first octet says. Never waits; what finds no room is dropped.
    pub fn send(&self, message: impl Into<Message>) {
        let message = message.into();
        match message.first().first() {
            Some(1) if message.len() == 1 => self.core.handle.subscribe(message.first().slice(1..)),
            Some(0) if message.len() == 1 => self.core.handle.unsubscribe(message.first().slice(1..)),
            _ => self.core.handle.0.send_to_all(&message),
        }
    }
}

socket!(
    /// Deals messages out to pullers, one after the other (RFC 30).
    ///
    /// ```
    /// use zincmq::zmtp::{PullSocket, PushSocket};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut pull = PullSocket::new();
    /// let push = PushSocket::new();
    /// push.connect(pull.bind("tcp://127.0.0.1:0").await?)?;
    /// push.send("work").await?;
    /// assert_eq!(pull.recv().await?.first(), "work");
    /// # Ok(()) }
    /// ```
    PushSocket, Push, tells_peers: false
);
deals!(PushSocket);

socket!(
    /// Takes messages from pushers, fairly (RFC 30).
    PullSocket, Pull, tells_peers: false
);
receives!(PullSocket);

socket!(
    /// Asks many without waiting: deals out, and receives fairly (RFC 28).
    DealerSocket, Dealer, tells_peers: false
);
deals!(DealerSocket);
receives!(DealerSocket);

socket!(
    /// Talks to one peer at a time; further ones are turned away (RFC 31).
    PairSocket, Pair, tells_peers: false
);
deals!(PairSocket);
receives!(PairSocket);

socket!(
    /// Talks to peers by their identities: the first frame of what it sends and receives (RFC 28). A peer that tells none is given one.
    RouterSocket, Router, tells_peers: false
);

impl RouterSocket {
    /// The next message, behind the identity of the peer it came from. Cancel safe.
    ///
    /// # Errors
    /// [`ClosedError`] after the end.
    pub async fn recv(&mut self) -> Result<Message, ClosedError> {
        let (peer, message) = self.core.recv().await?;
        Ok(message.with_first(peer.identity()))
    }

    /// Sends a message to the peer that its first frame names, without that frame. What becomes of it where that peer's queue is full is up to
    /// [`Options::on_full`]: by default it is dropped and counted, so that nobody is waited for who does not read. Cancel safe: a cancelled call has sent
    /// nothing, unless it was about to return.
    ///
    /// # Errors
    /// [`SendError::Unroutable`] where there is no such peer or nothing behind its name, [`SendError::Closed`]; with the message inside.
    pub async fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        let (peer, body, message) = self.route(message.into())?;
        let sent = self.core.send_to(&peer, &body).await;
        self.core.take_turns(false).await;
        if sent { Ok(()) } else { Err(SendError::Unroutable(message)) }
    }

    /// The same, if there is room now, whatever the options say.
    ///
    /// # Errors
    /// [`TrySendError`], with the message inside.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), TrySendError> {
        let (peer, body, message) = self.route(message.into()).map_err(TrySendError::Never)?;
        if peer.queue.push(&body) { Ok(()) } else { Err(TrySendError::Full(message)) }
    }

    /// Whom a message is for, and what of it; and the message itself.
    fn route(&self, message: Message) -> Result<(Arc<Peer>, Message, Message), SendError> {
        if self.core.is_closed() {
            return Err(SendError::Closed(message));
        }
        let body = Message::from_frames(message.frames()[1..].iter().cloned());
        match self.core.handle.0.peer(message.first()).zip(body) {
            Some((peer, body)) => Ok((peer, body, message)),
            None => Err(SendError::Unroutable(message)),
        }
    }
}

socket!(
    /// Asks one peer after the other, and waits for each answer (RFC 28).
    ///
    /// ```
    /// use zincmq::zmtp::{RepSocket, ReqSocket};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut ask, mut answer) = (ReqSocket::new(), RepSocket::new());
    /// ask.connect(answer.bind("tcp://127.0.0.1:0").await?)?;
    /// ask.send("who is there?").await?;
    /// assert_eq!(answer.recv().await?.first(), "who is there?");
    /// answer.send("a socket").await?;
    /// assert_eq!(ask.recv().await?.first(), "a socket");
    /// # Ok(()) }
    /// ```
    ReqSocket, Req, tells_peers: true, asked: Option<u64>
);

impl ReqSocket {
    /// Asks the next peer that has room, and waits until there is one. What came before that is dropped: it is no answer to this. Cancel safe: a cancelled call has asked nothing, unless it was about to return, and then
    /// the answer is due.
    ///
    /// # Errors
    /// [`SendError::OutOfTurn`] while an answer is due; [`SendError::Closed`]. With the message inside.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        let message = message.into();
        if self.asked.is_some() {
            return Err(SendError::OutOfTurn(message));
        }
        let peer = self.core.send_dealt_anew(message.with_first(Bytes::new())).await?;
        self.asked = Some(peer.key);
        self.core.take_turns(false).await;
        Ok(())
    }

    /// The answer. What others say, or says no answer, is passed over. Cancel safe.
    ///
    /// # Errors
    /// [`RecvError`]; after [`RecvError::PeerGone`] one may ask again.
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        let asked = self.asked.ok_or(RecvError::OutOfTurn)?;
        loop {
            match self.core.next().await.map_err(|ClosedError| RecvError::Closed)? {
                Next::Message(peer, message) if peer.key == asked => {
                    let mut frames = message.into_frames().into_iter();
                    if frames.next().is_some_and(|delimiter| delimiter.is_empty())
                        && let Some(answer) = Message::from_frames(frames)
                    {
                        self.asked = None;
                        return Ok(answer);
                    }
                    self.core.handle.0.pass_over(1);
                }
                Next::Gone(peer) if peer.key == asked => {
                    self.asked = None;
                    return Err(RecvError::PeerGone);
                }
                Next::Message(..) => self.core.handle.0.pass_over(1),
                Next::Gone(_) | Next::Subscription(..) => {}
            }
        }
    }
}

/// Who asked, and the way back through those in between.
#[derive(Debug)]
struct Envelope {
    peer: Arc<Peer>,
    frames: Vec<Bytes>,
}

socket!(
    /// Answers those who ask, one at a time (RFC 28).
    RepSocket, Rep, tells_peers: false, envelope: Option<Envelope>
);

impl RepSocket {
    /// The next question. One that was not answered is given up. What has no delimiter is passed over. Cancel safe.
    ///
    /// # Errors
    /// [`ClosedError`] after the end.
    pub async fn recv(&mut self) -> Result<Message, ClosedError> {
        loop {
            let (peer, message) = self.core.recv().await?;
            let mut frames = message.into_frames();
            let delimiter = frames.iter().position(Bytes::is_empty);
            let body = delimiter.map(|delimiter| frames.split_off(delimiter + 1));
            let Some(question) = body.and_then(Message::from_frames) else {
                self.core.handle.0.pass_over(1);
                continue;
            };
            self.envelope = Some(Envelope { peer, frames });
            return Ok(question);
        }
    }

    /// Answers the one who asked, and nobody else. What becomes of it where that one does not read, and its queue is full, is up to [`Options::on_full`]: by
    /// default it is dropped and counted, so that others are answered. Cancel safe: a cancelled call has sent nothing, and the answer is still due, unless it
    /// was about to return.
    ///
    /// # Errors
    /// [`SendError::OutOfTurn`] where nothing was asked, [`SendError::Unroutable`] when the one who asked is gone, [`SendError::Closed`]; with the message
    /// inside.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        let message = message.into();
        if self.core.is_closed() {
            return Err(SendError::Closed(message));
        }
        let Some(Envelope { peer, frames }) = &self.envelope else {
            return Err(SendError::OutOfTurn(message));
        };
        let whole = frames.iter().chain(message.frames()).cloned();
        let Some(whole) = Message::from_frames(whole) else { return Err(SendError::OutOfTurn(message)) };
        let sent = self.core.send_to(peer, &whole).await;
        self.envelope = None;
        self.core.take_turns(false).await;
        if sent { Ok(()) } else { Err(SendError::Unroutable(message)) }
    }
}

//! The `zeromq` crate.

use bytes::Bytes;
use zeromq::{
    PubSocket, PullSocket, PushSocket, RepSocket, ReqSocket, Socket, SocketRecv, SocketSend, SubSocket,
    ZmqMessage,
};

use crate::tasks::{Receiver, Sender, Wire};
use crate::{Failure, LOOPBACK, Pattern};

pub struct Crate;

/// A socket that sends, or receives, or both.
pub struct Wrapped<S>(S);

pub enum Out {
    Pub(PubSocket),
    Push(PushSocket),
}

pub enum In {
    Sub(SubSocket),
    Pull(PullSocket),
}

impl Wire for Crate {
    type Sender = Out;
    type Receiver = In;
    type Asker = Wrapped<ReqSocket>;
    type Answerer = Wrapped<RepSocket>;

    async fn connect(pattern: Pattern, receivers: usize) -> Result<(Out, Vec<In>), Failure> {
        if pattern == Pattern::Push {
            let (mut push, mut pull) = (PushSocket::new(), PullSocket::new());
            push.connect(&pull.bind(LOOPBACK).await?.to_string()).await?;
            return Ok((Out::Push(push), vec![In::Pull(pull)]));
        }
        let mut publisher = PubSocket::new();
        let endpoint = publisher.bind(LOOPBACK).await?.to_string();
        let mut subscribers = Vec::new();
        for _ in 0..receivers {
            let mut subscriber = SubSocket::new();
            subscriber.connect(&endpoint).await?;
            subscriber.subscribe("").await?;
            subscribers.push(In::Sub(subscriber));
        }
        Ok((Out::Pub(publisher), subscribers))
    }

    async fn ask() -> Result<(Self::Asker, Self::Answerer), Failure> {
        let (mut ask, mut answer) = (ReqSocket::new(), RepSocket::new());
        ask.connect(&answer.bind(LOOPBACK).await?.to_string()).await?;
        Ok((Wrapped(ask), Wrapped(answer)))
    }
}

fn only_frame(message: &ZmqMessage) -> &[u8] {
    message.get(0).map_or(&[], |frame| frame)
}

impl Sender for Out {
    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        match self {
            Self::Pub(socket) => socket.send(payload.into()).await?,
            Self::Push(socket) => socket.send(payload.into()).await?,
        }
        Ok(())
    }
}

impl Receiver for In {
    type Message = ZmqMessage;

    async fn recv(&mut self) -> Result<ZmqMessage, Failure> {
        Ok(match self {
            Self::Sub(socket) => socket.recv().await?,
            Self::Pull(socket) => socket.recv().await?,
        })
    }

    fn payload(message: &ZmqMessage) -> &[u8] {
        only_frame(message)
    }
}

impl<S: SocketSend + Send + 'static> Sender for Wrapped<S> {
    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        Ok(self.0.send(payload.into()).await?)
    }
}

impl<S: SocketRecv + Send + 'static> Receiver for Wrapped<S> {
    type Message = ZmqMessage;

    async fn recv(&mut self) -> Result<ZmqMessage, Failure> {
        Ok(self.0.recv().await?)
    }

    fn payload(message: &ZmqMessage) -> &[u8] {
        only_frame(message)
    }
}

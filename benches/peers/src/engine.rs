//! The engine: `zincmq::zmtp`.

use bytes::Bytes;
use zincmq::zmtp::{
    Bound, Message, Options, PubSocket, PullSocket, PushSocket, RepSocket, ReqSocket, SubSocket,
};

use crate::tasks::{Receiver, Sender, Wire};
use crate::{Failure, HWM, LOOPBACK, Pattern};

pub struct Engine;

pub enum Out {
    Pub(PubSocket),
    Push(PushSocket),
}

pub enum In {
    Sub(SubSocket),
    Pull(PullSocket),
}

pub fn options() -> Options {
    let mut options = Options::default();
    (options.send_hwm, options.recv_hwm) = (Bound::new(HWM, 4 << 30), Bound::new(HWM, 4 << 30));
    options
}

impl Wire for Engine {
    type Sender = Out;
    type Receiver = In;
    type Asker = ReqSocket;
    type Answerer = RepSocket;

    async fn connect(pattern: Pattern, receivers: usize) -> Result<(Out, Vec<In>), Failure> {
        if pattern == Pattern::Push {
            let pull = PullSocket::with_options(options());
            let push = PushSocket::with_options(options());
            push.connect(pull.bind(LOOPBACK).await?)?;
            return Ok((Out::Push(push), vec![In::Pull(pull)]));
        }
        let publisher = PubSocket::with_options(options());
        let endpoint = publisher.bind(LOOPBACK).await?;
        let mut subscribers = Vec::new();
        for _ in 0..receivers {
            let subscriber = SubSocket::with_options(options());
            subscriber.subscribe("");
            subscriber.connect(endpoint.clone())?;
            subscribers.push(In::Sub(subscriber));
        }
        Ok((Out::Pub(publisher), subscribers))
    }

    async fn ask() -> Result<(ReqSocket, RepSocket), Failure> {
        let (ask, answer) = (ReqSocket::with_options(options()), RepSocket::with_options(options()));
        ask.connect(answer.bind(LOOPBACK).await?)?;
        Ok((ask, answer))
    }
}

impl Sender for Out {
    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        match self {
            Self::Pub(socket) => socket.send(payload).await?,
            Self::Push(socket) => socket.send(payload).await?,
        }
        Ok(())
    }
}

impl Receiver for In {
    type Message = Message;

    async fn recv(&mut self) -> Result<Message, Failure> {
        Ok(match self {
            Self::Sub(socket) => socket.recv().await?,
            Self::Pull(socket) => socket.recv().await?,
        })
    }

    fn payload(message: &Message) -> &[u8] {
        message.first()
    }
}

impl Sender for ReqSocket {
    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        Ok(self.send(payload).await?)
    }
}

impl Receiver for ReqSocket {
    type Message = Message;

    async fn recv(&mut self) -> Result<Message, Failure> {
        Ok(self.recv().await?)
    }

    fn payload(message: &Message) -> &[u8] {
        message.first()
    }
}

impl Sender for RepSocket {
    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        Ok(self.send(payload).await?)
    }
}

impl Receiver for RepSocket {
    type Message = Message;

    async fn recv(&mut self) -> Result<Message, Failure> {
        Ok(self.recv().await?)
    }

    fn payload(message: &Message) -> &[u8] {
        message.first()
    }
}

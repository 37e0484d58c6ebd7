//! `omq-tokio`, in the runtime that calls it.

use bytes::Bytes;
use omq_tokio::{Message, Options, Socket, SocketType};

use crate::tasks::{Receiver, Sender, Wire};
use crate::{Failure, HWM, LOOPBACK, Pattern};

pub struct Omq;

pub struct Wrapped(Socket);

fn socket(kind: SocketType) -> Wrapped {
    let options =
        Options { send_hwm: HWM as u32, recv_hwm: HWM as u32, xpub_nodrop: true, ..Options::default() };
    Wrapped(Socket::new(kind, options))
}

impl Wire for Omq {
    type Sender = Wrapped;
    type Receiver = Wrapped;
    type Asker = Wrapped;
    type Answerer = Wrapped;

    async fn connect(pattern: Pattern, receivers: usize) -> Result<(Wrapped, Vec<Wrapped>), Failure> {
        if pattern == Pattern::Push {
            let (push, pull) = (socket(SocketType::Push), socket(SocketType::Pull));
            push.0.connect(pull.0.bind(LOOPBACK).await?).await?;
            return Ok((push, vec![pull]));
        }
        let publisher = socket(SocketType::Pub);
        let endpoint = publisher.0.bind(LOOPBACK).await?;
        let mut subscribers = Vec::new();
        for _ in 0..receivers {
            let subscriber = socket(SocketType::Sub);
            subscriber.0.connect(endpoint.clone()).await?;
            subscriber.0.subscribe(Bytes::new()).await?;
            subscribers.push(subscriber);
        }
        Ok((publisher, subscribers))
    }

    async fn ask() -> Result<(Wrapped, Wrapped), Failure> {
        let (ask, answer) = (socket(SocketType::Req), socket(SocketType::Rep));
        ask.0.connect(answer.0.bind(LOOPBACK).await?).await?;
        Ok((ask, answer))
    }
}

impl Sender for Wrapped {
    async fn send(&mut self, payload: Bytes) -> Result<(), Failure> {
        Ok(self.0.send(Message::single(payload)).await?)
    }
}

impl Receiver for Wrapped {
    type Message = Message;

    async fn recv(&mut self) -> Result<Message, Failure> {
        Ok(self.0.recv().await?)
    }

    fn payload(message: &Message) -> &[u8] {
        message.get(0).unwrap_or_default()
    }
}

//! Plain ZeroMQ sockets, without endpoints and their promises: what `zincmq::zmtp` is by itself.
//!
//! ```sh
//! cargo run --example sockets
//! ```
//!
//! Everything here can be a program of its own, in any language with a ZeroMQ library.

use std::error::Error;
use std::time::Duration;

use futures::StreamExt;
use zincmq::zmtp::{
    Heartbeat, Message, MonitorEvent, OnFull, Options, PubSocket, PullSocket, PushSocket, RepSocket,
    ReqSocket, SubSocket,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    publish().await?;
    deal_out().await?;
    ask().await
}

/// PUB and SUB: by topic, to whoever subscribes.
async fn publish() -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    // A subscriber that falls behind is cut off, not fed with holes.
    options.on_full = OnFull::Disconnect;
    options.heartbeat = Some(Heartbeat {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(3),
        ttl: Duration::from_secs(5),
    });
    let publisher = PubSocket::with_options(options);
    let mut monitor = publisher.monitor();
    let endpoint = publisher.bind("tcp://127.0.0.1:0").await?;
    let mut subscriber = SubSocket::new();
    subscriber.subscribe("sensor.");
    subscriber.connect(endpoint)?;
    while let Some(event) = monitor.next().await {
        if let MonitorEvent::Ready { address, kind, .. } = event {
            println!("a {kind} has come from {address}");
            break;
        }
    }
    // It has come, and its subscription is right behind.
    while publisher.subscriptions() == 0 {
        tokio::task::yield_now().await;
    }
    let message = |topic, body| Message::from_frames([topic, body]).ok_or("a message has a frame");
    publisher.send(message("log.1", "nobody wants this")?).await?;
    publisher.send(message("sensor.1", "21.5")?).await?;
    let received = subscriber.recv().await?;
    println!("{:?} says {:?}", received.first(), received.frame(1));
    println!("{} messages were left when the publisher closed", publisher.close().await);
    Ok(())
}

/// PUSH and PULL: each message to one of those who work.
async fn deal_out() -> Result<(), Box<dyn Error>> {
    let (mut one, mut other) = (PullSocket::new(), PullSocket::new());
    let push = PushSocket::new();
    push.connect(one.bind("tcp://127.0.0.1:0").await?)?;
    push.connect(other.bind("tcp://127.0.0.1:0").await?)?;
    while push.peers() < 2 {
        tokio::task::yield_now().await;
    }
    for job in 1..=4 {
        push.send(format!("job {job}")).await?;
    }
    for _ in 0..2 {
        println!("one has {:?}, the other {:?}", one.recv().await?.first(), other.recv().await?.first());
    }
    Ok(())
}

/// REQ and REP: questions and answers.
async fn ask() -> Result<(), Box<dyn Error>> {
    let mut answers = RepSocket::new();
    let mut asks = ReqSocket::new();
    asks.connect(answers.bind("tcp://127.0.0.1:0").await?)?;
    asks.send("what is six times seven?").await?;
    let question = answers.recv().await?;
    answers.send(format!("{:?}: forty-two", question.first())).await?;
    println!("{:?}", asks.recv().await?.first());
    Ok(())
}

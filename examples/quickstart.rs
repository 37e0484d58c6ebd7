//! A host and two clients in one process: the shortest way to see messages ordered and delivered.
//!
//! `cargo run --example quickstart`

use futures::TryStreamExt;
use zincmq::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One endpoint hosts. Port 0 lets the system choose; `address` is what others join.
    let host = Host::builder().bind("tcp://127.0.0.1:0").await?;
    println!("hosting at {}", host.address());

    // Others join it: in this process here, but it could be any other.
    let alice = Client::builder().join(host.address()).await?;
    let bob = Client::builder().join(host.address()).await?;
    let mut at_bob = bob.messages();

    // What alice sends goes to the host, gets its place in the one order, and comes back to everyone.
    for text in ["one", "two", "three"] {
        let receipt = alice.send(Message::new("greetings", text)?).await?;
        println!("alice: {text:?} is message {} of the cluster", receipt.ordered().await?.seq);
    }
    for _ in 0..3 {
        let message = at_bob.try_next().await?.ok_or("the stream ended")?;
        println!("bob:   {:?} on {}", message.payload(), message.topic());
    }

    // An orderly end: clients first say goodbye, then the host has nobody left to wait for.
    for endpoint in [&alice as &dyn Endpoint, &bob, &host] {
        let report = endpoint.shutdown().await;
        assert_eq!((report.unsent, report.unknown), (0, 0), "nothing was left behind");
    }
    Ok(())
}

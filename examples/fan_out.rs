//! One stream of messages, fanned out to several handlers: each sees its topics in order, all run side by side.
//!
//! `cargo run --example fan_out`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use zincmq::prelude::*;
use zincmq::{HandlerOptions, OrderKey};

#[derive(Debug, Serialize, Deserialize)]
struct Price {
    cents: u64,
}

/// A handler with state of its own.
struct Highest {
    cents: AtomicU64,
    count: Arc<AtomicU64>,
    done: mpsc::Sender<()>,
}

#[async_trait::async_trait]
impl MessageHandler for Highest {
    async fn handle(&self, message: Message) -> Result<(), HandlerError> {
        let price: Price = message.decode()?;
        self.cents.fetch_max(price.cents, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == PRICES {
            println!("highest price: {} cents", self.cents.load(Ordering::Relaxed));
            self.done.send(()).await?;
        }
        Ok(())
    }
}

const PRICES: u64 = 10_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::builder().bind("tcp://127.0.0.1:0").await?;
    let client = Client::builder().join(host.address()).await?;
    let (done, mut finished) = mpsc::channel(2);

    // A handler that is a type: all prices.
    let counted = Arc::new(AtomicU64::new(0));
    client.handle(
        "price.",
        Highest { cents: AtomicU64::new(0), count: Arc::clone(&counted), done: done.clone() },
    )?;

    // A closure, four messages at a time; those of one topic stay in order.
    let apples = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&apples);
    let options = HandlerOptions::new().named("apples").concurrency(4, OrderKey::Topic);
    client.handle_with(
        "price.apple",
        move |message: Message| {
            let (seen, done) = (Arc::clone(&seen), done.clone());
            async move {
                let _: Price = message.decode()?;
                if seen.fetch_add(1, Ordering::Relaxed) + 1 == PRICES / 2 {
                    done.send(()).await?;
                }
                Ok::<(), HandlerError>(())
            }
        },
        options,
    )?;

    // A handler that fails is reported, and disturbs nobody.
    client.handle("price.pear", |message: Message| async move {
        let price: Price = message.decode()?;
        if price.cents == 1 { Err(HandlerError::from("a pear for one cent?")) } else { Ok(()) }
    })?;

    let sender = host.sender();
    for i in 0..PRICES {
        let topic = if i % 2 == 0 { "price.apple" } else { "price.pear" };
        sender.send(Message::encode(topic, &Price { cents: i })?).await?;
    }
    for _ in 0..2 {
        finished.recv().await;
    }
    println!(
        "{} prices, {} of them of apples",
        counted.load(Ordering::Relaxed),
        apples.load(Ordering::Relaxed)
    );

    let report = client.shutdown().await;
    println!("failures reported: {}; {report:?}", client.stats().handler_failures);
    let _ = host.shutdown().await;
    Ok(())
}

//! `zincmq tour`: a host and three clients in this process, over real TCP, with what happens in plain words; and a second host
//! for a member that is too slow.
//!
//! Every sentence it prints as a fact was checked just before; a claim that does not hold ends it with exit code 1.
//! It waits for what happens, never for time to pass.

#[path = "tour/cluster.rs"]
mod cluster;
#[path = "tour/document.rs"]
mod document;
#[path = "tour/echo.rs"]
mod echo;
#[path = "tour/handlers.rs"]
mod handlers;
#[path = "tour/members.rs"]
mod members;
#[path = "tour/narrator.rs"]
mod narrator;
#[path = "tour/order.rs"]
mod order;
#[path = "tour/snail.rs"]
mod snail;

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use zincmq::{Message, Messages};

use crate::failure::Failure;
use crate::output::Output;
use narrator::{Fact, Narrator};

/// How long any one thing may take to happen before the tour gives up. Not an expectation: a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn run(output: Output) -> Result<(), Failure> {
    let started = Instant::now();
    let mut narrator = Narrator::new(output);
    narrator.opening()?;
    let (cluster, streams) = cluster::start(&mut narrator).await?;
    echo::show(&cluster, streams, &mut narrator).await?;
    order::show(&cluster, &mut narrator).await?;
    handlers::show(&cluster, &mut narrator).await?;
    document::show(&cluster, &mut narrator).await?;
    snail::show(&mut narrator).await?;
    members::show(cluster, &mut narrator).await?;
    narrator.fact(&Fact::Done { seconds: started.elapsed().as_secs_f64() })?;
    narrator.closing()
}

/// Ends the tour unless the claim holds.
fn check(holds: bool, claim: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        return Ok(());
    }
    Err(Failure::with_advice(
        format!("this does not hold: {}", claim()),
        "that is a bug in zincmq: please report it, with the output of zincmq -vv tour",
    ))
}

/// Waits for something that must happen.
async fn wait<F: Future>(what: &str, future: F) -> Result<F::Output, Failure> {
    tokio::time::timeout(PATIENCE, future)
        .await
        .map_err(|_| Failure::new(format!("{what} did not happen within two minutes")))
}

/// The next message, which must come, and without a hole before it.
async fn next(messages: &mut Messages) -> Result<Message, Failure> {
    match wait("the next message", messages.try_next()).await? {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Failure::new("the stream of messages ended early")),
        Err(error) => Err(error.into()),
    }
}

fn message(topic: &str, payload: impl Into<bytes::Bytes>) -> Result<Message, Failure> {
    Ok(Message::new(topic, payload)?)
}

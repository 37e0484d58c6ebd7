//! What is sent comes back: the echo, and the receipt.

use std::time::Instant;

use zincmq::{Endpoint, Messages};

use super::cluster::Cluster;
use super::narrator::{Fact, Narrator};
use super::{check, message, next, wait};
use crate::failure::Failure;

/// How many messages go around one after the other.
const ROUND_TRIPS: u64 = 200;

pub(super) async fn show(
    cluster: &Cluster,
    streams: [Messages; 3],
    narrator: &mut Narrator,
) -> Result<(), Failure> {
    narrator.step("Echo")?;
    let Cluster { ada, eve, .. } = cluster;
    let [mut at_ada, mut at_bob, mut at_eve] = streams;
    let receipt = ada.send(message("greetings", "hello")?).await?;
    let position = wait("the place of a message", receipt.ordered()).await??;
    for (name, messages) in [("Ada", &mut at_ada), ("Bob", &mut at_bob), ("Eve", &mut at_eve)] {
        let got = next(messages).await?;
        check(
            got.payload() == "hello" && got.origin() == ada.id() && got.position() == Some(position),
            || format!("{name} receives Ada's message at {position}"),
        )?;
    }
    narrator.say("Ada says \"hello\". The host gives it the next number and publishes it to all.")?;
    narrator
        .holds(&format!("It is number {} for Ada, Bob and Eve; Ada knows it as her own.", position.seq))?;

    // Eve did not ask for her own messages: the next that she sees is Ada's, although hers came first.
    let receipt = eve.send(message("greetings", "from Eve")?).await?;
    wait("the place of a message", receipt.ordered()).await??;
    ada.send(message("greetings", "from Ada")?).await?;
    for (messages, expected) in
        [(&mut at_bob, &["from Eve", "from Ada"][..]), (&mut at_ada, &["from Eve", "from Ada"])]
    {
        for text in expected {
            let got = next(messages).await?;
            check(got.payload() == *text, || format!("{text:?} comes in its turn"))?;
        }
    }
    let got = next(&mut at_eve).await?;
    check(got.payload() == "from Ada", || "Eve's own message is hidden from her".to_owned())?;
    narrator.holds("An own message is hidden from its sender unless asked for: Ada asked, Eve did not.")?;

    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let started = Instant::now();
        let receipt = ada.send(message("ping", "")?).await?;
        wait("the place of a message", receipt.ordered()).await??;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    for messages in [&mut at_ada, &mut at_bob, &mut at_eve] {
        for _ in 0..ROUND_TRIPS {
            let got = next(messages).await?;
            check(got.topic().as_str() == "ping", || "pings come next".to_owned())?;
        }
    }
    times.sort_by(f64::total_cmp);
    let median_us = times[times.len() / 2];
    narrator.say(&format!(
        "{ROUND_TRIPS} messages one after the other, each to the host and back: {median_us:.0} µs in the median."
    ))?;
    narrator.fact(&Fact::Echo { round_trips: ROUND_TRIPS, median_us, hidden_by_default: true })
}

//! Everyone sends at once, and everyone sees the same order.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::future::try_join_all;
use tokio::task::JoinSet;
use zincmq::{Endpoint, EndpointId, Messages, Sender};

use super::cluster::Cluster;
use super::narrator::{Fact, Narrator};
use super::{check, message, wait};
use crate::failure::Failure;
use crate::output::grouped;

/// How many messages each client sends.
const EACH: u64 = 20_000;
/// How many topics they are about.
const TOPICS: u64 = 8;

/// A message as far as its order goes: its number, and whose which it is.
type Entry = (u64, EndpointId, u64);

pub(super) async fn show(cluster: &Cluster, narrator: &mut Narrator) -> Result<(), Failure> {
    narrator.step("One order")?;
    let ids = cluster.ids();
    let all = EACH * ids.len() as u64;
    narrator.say(&format!(
        "Ada, Bob and Eve send {} messages each, all at once, about {TOPICS} topics ...",
        grouped(EACH)
    ))?;
    let eve = cluster.eve.id();
    let readers = [
        (cluster.host.messages(), all),
        (cluster.ada.messages(), all),
        (cluster.bob.messages(), all),
        (cluster.eve.messages(), all - EACH),
    ];
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for client in [&cluster.ada, &cluster.bob, &cluster.eve] {
        senders.spawn(send(client.sender()));
    }
    let readers = readers.map(|(messages, count)| tokio::spawn(read(messages, count)));
    let orders = wait("the last of the messages", try_join_all(readers)).await?;
    let seconds = started.elapsed().as_secs_f64();
    let orders: Vec<Vec<Entry>> = orders?.into_iter().collect::<Result<_, _>>()?;
    while let Some(sent) = senders.join_next().await {
        sent??;
    }

    let [at_host, at_ada, at_bob, at_eve] = &orders[..] else { return Err(Failure::new("four readers")) };
    check(each_once(at_host, &ids), || {
        "every message is there once, each sender's in the order it sent them".to_owned()
    })?;
    check(at_ada == at_host, || "Ada sees the order of the host".to_owned())?;
    check(at_bob == at_host, || "Bob sees the order of the host".to_owned())?;
    let not_hers: Vec<Entry> = at_host.iter().filter(|(_, origin, _)| *origin != eve).copied().collect();
    check(*at_eve == not_hers, || "Eve sees the order of the host, but for her own messages".to_owned())?;

    let rate = all as f64 / seconds;
    narrator.say(&format!(
        "{} messages ordered and delivered to four readers in {seconds:.2} s: {} a second.",
        grouped(all),
        grouped(rate as u64)
    ))?;
    narrator.holds(
        "Compared, message by message: the host, Ada, Bob and Eve saw one and the same order, every message once, and \
         each sender's messages in the order they were sent.",
    )?;
    narrator.fact(&Fact::Order {
        messages: all,
        senders: ids.len() as u64,
        topics: TOPICS,
        seconds,
        messages_per_second: rate,
        orders_compared: orders.len() as u64,
        equal: true,
    })
}

async fn send(sender: Sender) -> Result<(), Failure> {
    for i in 0..EACH {
        sender.send(message(&format!("topic.{}", i % TOPICS), i.to_string())?).await?;
    }
    Ok(())
}

async fn read(mut messages: Messages, count: u64) -> Result<Vec<Entry>, Failure> {
    let mut order = Vec::new();
    while (order.len() as u64) < count {
        match messages.next_batch().await {
            Some(Ok(batch)) => order.extend(batch.as_slice().iter().map(|message| {
                let seq = message.position().map_or(0, |position| position.seq);
                (seq, message.origin(), message.origin_seq())
            })),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(Failure::new("a stream of messages ended early")),
        }
    }
    Ok(order)
}

/// Whether numbers go up by one, and so do those of each sender.
fn each_once(order: &[Entry], ids: &[EndpointId]) -> bool {
    let mut last: BTreeMap<EndpointId, u64> = BTreeMap::new();
    let consecutive = order.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
    let per_origin = order.iter().all(|(_, origin, origin_seq)| {
        last.insert(*origin, *origin_seq).is_none_or(|before| *origin_seq == before + 1)
    });
    let counts =
        ids.iter().all(|id| order.iter().filter(|(_, origin, _)| origin == id).count() as u64 == EACH);
    consecutive && per_origin && counts
}

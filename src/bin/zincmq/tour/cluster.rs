//! A host and its three clients.

use std::collections::BTreeSet;
use std::time::Instant;

use futures::StreamExt;
use zincmq::document::Keeper;
use zincmq::{Client, Endpoint, EndpointId, Event, Events, Host, Messages};

use super::narrator::{Fact, Narrator};
use super::{PATIENCE, check, wait};
use crate::failure::Failure;

/// The cluster of the tour.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) host: Host,
    pub(super) keeper: Keeper,
    /// What happens, as the host sees it.
    pub(super) events: Events,
    /// They see their own messages, too.
    pub(super) ada: Client,
    pub(super) bob: Client,
    /// Eve does not see her own, which is the default.
    pub(super) eve: Client,
}

impl Cluster {
    pub(super) fn ids(&self) -> [EndpointId; 3] {
        [&self.ada, &self.bob, &self.eve].map(Endpoint::id)
    }
}

/// Starts the cluster. Also gives a stream of each client, which misses nothing.
pub(super) async fn start(narrator: &mut Narrator) -> Result<(Cluster, [Messages; 3]), Failure> {
    narrator.step("Joining")?;
    let host = Host::builder().cluster("tour").shutdown_timeout(PATIENCE).bind("tcp://127.0.0.1:0").await?;
    let mut events = host.events();
    let keeper = Keeper::builder().start(&host).await?;
    narrator
        .say(&format!("A host listens on {}. Clients need to know no more than that.", host.address()))?;
    let (ada, at_ada, first) = join(&host, true).await?;
    let (bob, at_bob, second) = join(&host, true).await?;
    let (eve, at_eve, third) = join(&host, false).await?;
    narrator.say(&format!(
        "Ada, Bob and Eve join, in {first:.1}, {second:.1} and {third:.1} ms. A join is over when the subscription is \
         proven to work: nothing that is ordered from then on is missed."
    ))?;

    let mut joined = BTreeSet::new();
    while joined.len() < 3 {
        match wait("the host's word of a new member", events.next()).await? {
            Some(Event::MemberJoined { id, .. }) => joined.insert(id),
            Some(_) => continue,
            None => return Err(Failure::new("the host ended early")),
        };
    }
    let cluster = Cluster { host, keeper, events, ada, bob, eve };
    let ids = cluster.ids();
    check(joined == BTreeSet::from(ids), || {
        "the members that the host reports are Ada, Bob and Eve".to_owned()
    })?;
    narrator.holds("The host reports three new members, by their ids.")?;
    narrator.fact(&Fact::Started {
        address: cluster.host.address().to_string(),
        host: cluster.host.id(),
        members: ids.to_vec(),
        join_ms: vec![first, second, third],
    })?;
    Ok((cluster, [at_ada, at_bob, at_eve]))
}

/// A client, its stream, and the milliseconds it took to join.
pub(super) async fn join(host: &Host, echo: bool) -> Result<(Client, Messages, f64), Failure> {
    let builder =
        Client::builder().cluster("tour").echo(echo).join_timeout(PATIENCE).shutdown_timeout(PATIENCE);
    let started = Instant::now();
    let (client, messages) = builder.join_with_messages(host.address()).await?;
    Ok((client, messages, started.elapsed().as_secs_f64() * 1e3))
}

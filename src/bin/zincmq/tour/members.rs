//! Members leave, and the host closes in order.

use futures::StreamExt;
use zincmq::{Endpoint, EndpointId, Event, Events, LeaveReason, Stats};

use super::cluster::Cluster;
use super::narrator::{Fact, Narrator};
use super::{check, wait};
use crate::failure::Failure;
use crate::output::grouped;

pub(super) async fn show(cluster: Cluster, narrator: &mut Narrator) -> Result<(), Failure> {
    narrator.step("Leaving")?;
    let Cluster { host, keeper, mut events, ada, bob, eve } = cluster;
    let mut at_ada = ada.events();
    let left = bob.id();
    let bob_left = wait("Bob's shutdown", bob.shutdown()).await?;
    check(bob_left.unsent == 0 && bob_left.unknown == 0, || "nothing of Bob's was left behind".to_owned())?;
    let reason = leaves(&mut events, left).await?;
    check(reason == LeaveReason::Left, || format!("Bob said goodbye to the host ({reason:?})"))?;
    leaves(&mut at_ada, left).await?;
    narrator.holds("Bob says goodbye: the host knows why he is gone, and Ada that he is.")?;
    narrator.fact(&Fact::Left { id: left, told: 2 })?;

    narrator.step("Shutting down")?;
    let reports = [
        wait("Ada's shutdown", ada.shutdown()).await?,
        wait("Eve's shutdown", eve.shutdown()).await?,
        wait("the host's shutdown", host.shutdown()).await?,
    ];
    wait("the keeper's end", keeper.close()).await?;
    let unsent: usize = reports.iter().map(|report| report.unsent).sum();
    let unknown: u64 = reports.iter().map(|report| report.unknown).sum();
    let members = reports[2].members;
    check(unsent == 0 && unknown == 0, || {
        format!("nothing is left: {unsent} unsent, {unknown} of unknown fate")
    })?;
    check(members == 0, || format!("no member is left behind: {members} are"))?;
    let stats = [ada.stats(), bob.stats(), eve.stats(), host.stats()];
    let sum = |count: fn(&Stats) -> u64| stats.iter().map(count).sum::<u64>();
    let lost_windows = sum(|stats| stats.lost_windows);
    let malformed =
        sum(|stats| stats.malformed_control + stats.malformed_submits + stats.malformed_broadcasts);
    let ordered = host.stats().received;
    let sent = stats.iter().map(|stats| stats.confirmed).sum::<u64>();
    check(lost_windows == 0 && malformed == 0, || {
        format!("{lost_windows} windows lost, {malformed} malformed: none")
    })?;
    check(ordered == sent, || format!("{sent} messages were sent and {ordered} ordered: the same"))?;
    narrator.say(
        "Ada and Eve leave, then the host closes. Each first sends what waits, and says what was left.",
    )?;
    narrator.holds(&format!(
        "{} messages sent, as many ordered; nothing unsent, nothing of unknown fate, nothing lost.",
        grouped(sent)
    ))?;
    narrator.fact(&Fact::Closed {
        unsent: unsent as u64,
        unknown,
        members: members as u64,
        lost_windows,
        malformed,
        ordered,
    })
}

/// Waits until a member is reported to have left.
async fn leaves(events: &mut Events, who: EndpointId) -> Result<LeaveReason, Failure> {
    let left = wait("the word that a member left", async {
        loop {
            match events.next().await {
                Some(Event::MemberLeft { id, reason }) if id == who => return Some(reason),
                Some(_) => {}
                None => return None,
            }
        }
    })
    .await?;
    left.ok_or_else(|| Failure::new("an endpoint ended early"))
}

//! A member that is too slow is sent away, and comes back; the others keep their pace.
//!
//! At a host of its own, with small marks. How slow the snail is does not depend on the machine: it takes one message, and the next
//! only when it has been told of its eviction. Nobody else is ever more than a round behind, which is no more than a tenth of the mark.

use std::time::Duration;

use futures::StreamExt;
use zincmq::{
    Client, Endpoint, EndpointId, Event, Events, EvictReason, Eviction, HighWaterMark, Host, Message,
    Messages, Sender,
};

use super::cluster::join;
use super::narrator::{Fact, Narrator};
use super::{PATIENCE, check, message, next, wait};
use crate::failure::Failure;
use crate::output::grouped;

/// The mark: how many messages a member may be behind.
const MARK: u64 = 1000;
/// How many messages are sent while the snail is away or on its way back. All of them can be repaired.
const MEANWHILE: u64 = 500;
/// How many messages are sent before it is seen to that they have come.
const ROUND: u64 = 100;
/// The mark in time: more than this step can take, so that only the number of messages counts here.
const AGE: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn show(narrator: &mut Narrator) -> Result<(), Failure> {
    narrator.step("A snail")?;
    let host = Host::builder()
        .cluster("tour")
        .high_water_mark(HighWaterMark::new().messages(MARK).age(AGE))
        .shutdown_timeout(PATIENCE)
        .bind("tcp://127.0.0.1:0")
        .await?;
    let mut events = host.events();
    let (ada, at_ada, _) = join(&host, false).await?;
    let (bob, at_bob, _) = join(&host, false).await?;
    let (snail, mut at_snail, _) = join(&host, false).await?;
    let mut snail_events = snail.events();
    let mut news = News { sender: host.sender(), sent: 0, readers: [("Ada", at_ada), ("Bob", at_bob)] };
    narrator.say(&format!(
        "At a second host nobody may be more than {} messages behind (the default is a million, 64 MiB and 5 s). Ada and \
         Bob join it, and a snail, which takes the first message and dwells on it.",
        grouped(MARK)
    ))?;

    news.send(1).await?;
    check(is(&next(&mut at_snail).await?, 1), || "the snail receives the first message".to_owned())?;
    news.send(MARK - 1).await?;
    check(host.members().iter().any(|member| member.id == snail.id()), || {
        format!("with {MARK} messages to handle the snail is still a member")
    })?;
    news.send(1).await?;
    let eviction = evicted(&mut events, snail.id()).await?;
    let told = evicted(&mut snail_events, snail.id()).await?;
    check(eviction.reason == EvictReason::Messages && eviction.lag.messages == MARK + 1, || {
        format!("the snail is evicted for being {} messages behind: {eviction}", MARK + 1)
    })?;
    let word = |eviction: &Eviction| (eviction.reason, eviction.lag.messages, eviction.position);
    check(word(&told) == word(&eviction), || format!("the snail is told what the host says: {told}"))?;
    narrator.holds(&format!(
        "With {} messages to handle, the snail was still a member. With one more it was sent away, and told why: it was {} \
         messages behind.",
        grouped(MARK),
        grouped(eviction.lag.messages)
    ))?;

    // What it had received is still there for it; the last message may come only when it is back.
    for number in 2..=MARK {
        check(is(&next(&mut at_snail).await?, number), || format!("the snail sees {number} in turn"))?;
    }
    news.send(MEANWHILE).await?;
    narrator.holds(&format!(
        "Ada and Bob kept their pace: each has all {} messages, in order, as they were sent.",
        grouped(news.sent)
    ))?;
    comes_back(&mut snail_events).await?;
    for number in MARK + 1..=news.sent {
        check(is(&next(&mut at_snail).await?, number), || format!("the snail sees {number} in turn"))?;
    }
    let stats = snail.stats();
    check(stats.sessions == 2 && stats.evictions == 1 && stats.lost_windows == 0, || {
        format!("one eviction, a second session and nothing lost: {stats:?}")
    })?;
    narrator.holds(&format!(
        "The snail came back by itself after a pause of {:.0?}, and has them all, too: what it missed was repaired.",
        eviction.retry_after
    ))?;
    let evictions = end(&host, [&ada, &bob, &snail]).await?;
    check(evictions == 1, || format!("one member was evicted: {evictions} were"))?;
    narrator.fact(&Fact::Snail {
        mark: MARK,
        evicted: eviction.reason.as_str(),
        lag_messages: eviction.lag.messages,
        retry_after_ms: eviction.retry_after.as_millis(),
        sent: news.sent,
        received_by_all: news.sent,
        evictions,
        lost_windows: stats.lost_windows,
    })
}

/// What the host sends, and those who keep up.
struct News {
    sender: Sender,
    sent: u64,
    readers: [(&'static str, Messages); 2],
}

impl News {
    /// Sends the next messages, a round at a time: the readers have each before the next is sent.
    async fn send(&mut self, count: u64) -> Result<(), Failure> {
        let end = self.sent + count;
        while self.sent < end {
            let round = self.sent + 1..=end.min(self.sent + ROUND);
            for number in round.clone() {
                self.sender.send(message("news", number.to_string())?).await?;
                self.sent = number;
            }
            for (name, messages) in &mut self.readers {
                for number in round.clone() {
                    check(is(&next(messages).await?, number), || format!("{name} sees {number} in turn"))?;
                }
            }
        }
        Ok(())
    }
}

fn is(message: &Message, number: u64) -> bool {
    message.payload()[..] == *number.to_string().as_bytes()
}

/// Waits until this member is reported to have been evicted.
async fn evicted(events: &mut Events, who: EndpointId) -> Result<Eviction, Failure> {
    let evicted = wait("the word that the snail was evicted", async {
        loop {
            match events.next().await {
                Some(Event::Evicted { id, eviction }) if id == who => return Some(eviction),
                Some(_) => {}
                None => return None,
            }
        }
    })
    .await?;
    evicted.ok_or_else(|| Failure::new("an endpoint ended early"))
}

async fn comes_back(events: &mut Events) -> Result<(), Failure> {
    let back = wait("the snail's return", async {
        loop {
            match events.next().await {
                Some(Event::Connected { .. }) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    })
    .await?;
    check(back, || "the snail comes back by itself".to_owned())
}

/// Ends this cluster in order. How many members were evicted.
async fn end(host: &Host, clients: [&Client; 3]) -> Result<u64, Failure> {
    for client in clients {
        let left = wait("the shutdown of a client", client.shutdown()).await?;
        check(left.unsent == 0 && left.unknown == 0, || "nothing of a client's was left behind".to_owned())?;
    }
    let report = wait("the shutdown of the second host", host.shutdown()).await?;
    check(report.members == 0, || format!("no member is left behind: {} are", report.members))?;
    Ok(host.stats().evictions)
}

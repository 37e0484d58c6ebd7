//! Fan-out to handlers, and subscriptions by prefix.

use futures::StreamExt;
use tokio::sync::mpsc;
use zincmq::{Endpoint, EndpointExt, Event, HandlerHandle, HandlerOptions, Message};

use super::cluster::Cluster;
use super::narrator::{Fact, Narrator};
use super::{check, message, next, wait};
use crate::failure::Failure;
use crate::output::grouped;

/// How many messages go to each of the three topics.
const EACH: u64 = 1000;
/// The alarm that its handler fails on.
const BAD: u64 = 500;

pub(super) async fn show(cluster: &Cluster, narrator: &mut Narrator) -> Result<(), Failure> {
    narrator.step("Handlers and prefixes")?;
    let (bob, eve) = (&cluster.bob, &cluster.eve);
    let mut events = bob.events();
    let (sensor_handler, mut sensor) = counter(bob, "sensor.")?;
    let (kitchen_handler, mut kitchen) = counter(bob, "sensor.kitchen")?;
    let alarm_handler = bob.handle_with(
        "alarm",
        |message: Message| async move {
            if message.payload()[..] == *BAD.to_string().as_bytes() {
                Err("cannot cope with this one")
            } else {
                Ok(())
            }
        },
        HandlerOptions::new().named("alarms"),
    )?;
    narrator.say(
        "Bob sets up three handlers, for \"sensor.\", \"sensor.kitchen\" and \"alarm\": each has a queue of its own, and \
         they run side by side. Eve takes no more than \"alarm\" from now on.",
    )?;
    wait("a change of subscriptions", eve.subscribe("alarm")).await??;
    wait("a change of subscriptions", eve.unsubscribe("")).await??;
    let mut at_eve = eve.messages();

    let sender = cluster.ada.sender();
    for i in 0..EACH {
        for topic in ["sensor.kitchen", "sensor.cellar", "alarm"] {
            sender.send(message(topic, i.to_string())?).await?;
        }
    }
    let sent = 3 * EACH;
    for i in 0..EACH {
        for topic in ["sensor.kitchen", "sensor.cellar"] {
            check(saw(&mut sensor, topic, i).await?, || {
                format!("the handler of \"sensor.\" sees {topic} {i} in turn")
            })?;
        }
        check(saw(&mut kitchen, "sensor.kitchen", i).await?, || {
            format!("the handler of \"sensor.kitchen\" sees {i} in turn")
        })?;
        let got = next(&mut at_eve).await?;
        check(is(&got, "alarm", i), || format!("Eve sees alarm {i} and nothing else"))?;
    }
    narrator.holds(&format!(
        "Of Ada's {} messages, \"sensor.\" saw {}, \"sensor.kitchen\" {}, both in order.",
        grouped(sent),
        grouped(2 * EACH),
        grouped(EACH)
    ))?;
    narrator.holds(&format!("Eve received the {} alarms, and nothing besides.", grouped(EACH)))?;

    let failed = wait("the report of a failed handler", async {
        loop {
            match events.next().await {
                Some(Event::HandlerFailed { handler, messages, .. }) => return Some((handler, messages)),
                Some(_) => {}
                None => return None,
            }
        }
    })
    .await?;
    check(failed.as_ref().is_some_and(|(handler, messages)| handler == "alarms" && *messages == 1), || {
        "one failure of the handler for \"alarm\" is reported".to_owned()
    })?;
    narrator.holds(
        "Bob's handler for \"alarm\" failed on one message, as it was made to: that was reported, and everything else \
         went on.",
    )?;
    for handler in [sensor_handler, kitchen_handler, alarm_handler] {
        handler.remove();
    }
    narrator.fact(&Fact::Handlers {
        sent,
        sensor: 2 * EACH,
        kitchen: EACH,
        alarm_failures: 1,
        subscribed: EACH,
    })
}

/// A handler that hands on what it sees.
fn counter(
    bob: &zincmq::Client,
    prefix: &str,
) -> Result<(HandlerHandle, mpsc::UnboundedReceiver<Message>), Failure> {
    // Unbounded, but no more than this step sends.
    let (seen, receiver) = mpsc::unbounded_channel();
    let handle = bob.handle(prefix, move |message: Message| {
        // The tour may have ended.
        let _ = seen.send(message);
        std::future::ready(())
    })?;
    Ok((handle, receiver))
}

async fn saw(handler: &mut mpsc::UnboundedReceiver<Message>, topic: &str, i: u64) -> Result<bool, Failure> {
    let message = wait("the call of a handler", handler.recv()).await?;
    Ok(message.is_some_and(|message| is(&message, topic, i)))
}

fn is(message: &Message, topic: &str, i: u64) -> bool {
    message.topic().as_str() == topic && message.payload()[..] == *i.to_string().as_bytes()
}

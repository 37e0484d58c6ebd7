//! The suicidal snail, in processes of its own: a host and its subscribers under full load, one of them stopped with SIGSTOP. It is evicted
//! in time, the others notice nothing, the host's memory stays bounded; and it learns of its end when it wakes.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

#[path = "common/process.rs"]
mod process;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use process::{PATIENCE, Process, Role, resident_bytes, say};
use serde_json::{Value, json};
use zincmq::prelude::*;
use zincmq::{HighWaterMark, Rejoin};

const MARK_MESSAGES: u64 = 20_000;
const MARK_BYTES: u64 = 8 << 20;
const MARK_AGE: Duration = Duration::from_secs(2);
/// Long enough that a healthy process which the scheduler leaves waiting for some tens of milliseconds is not taken for a snail.
const GRACE: Duration = Duration::from_millis(500);
/// Longer than the default, so that a machine that is busy with other things does not look like a pause.
const HEARTBEAT: Duration = Duration::from_millis(300);
/// How often members acknowledge (design of the protocol).
const ACK_INTERVAL: Duration = Duration::from_millis(25);
/// How often a host brings its figures on the members up to date, and how often this test looks at them.
const LOOKS: Duration = Duration::from_millis(20 + 5);
/// The send queue of the host.
const QUEUE: (usize, usize) = (4096, 1 << 20);
/// What is not counted in bytes of windows: the allocator's rest, tables, and some hundred bytes for each window that waits somewhere.
const MEMORY_SLACK: u64 = 16 << 20;
/// The messages: their numbers and this.
const PADDING: usize = 256;

/// What one run is like.
struct Scene {
    subscribers: usize,
    rejoin: bool,
    /// How much the host keeps to repair from, as a multiple of the marks.
    ring: u64,
    /// Whether the load goes on while the snail comes back.
    load_goes_on: bool,
}

/// What the stopped subscriber had to say after it was woken, up to its end.
struct Outcome {
    resets: Vec<Value>,
    evictions: usize,
    last_word: Value,
}

#[test]
fn a_stopped_subscriber_is_evicted_in_time_and_the_other_seven_notice_nothing() {
    let outcome = play(&Scene { subscribers: 8, rejoin: true, ring: 1, load_goes_on: true });
    assert_eq!(outcome.evictions, 1, "it learns of its end");
    // It was stopped for longer than the ring reaches back.
    assert_eq!(outcome.resets.len(), 1, "{:?}", outcome.resets);
    assert_eq!(outcome.last_word["event"], "report");
}

#[test]
fn one_that_wakes_while_the_ring_still_covers_it_goes_on_without_a_gap() {
    let outcome = play(&Scene { subscribers: 3, rejoin: true, ring: 50, load_goes_on: false });
    assert_eq!(outcome.evictions, 1, "it learns of its end");
    assert!(outcome.resets.is_empty(), "{:?}", outcome.resets);
    assert_eq!(outcome.last_word["event"], "report");
    assert_eq!(outcome.last_word["count"], outcome.last_word["last"]);
}

#[test]
fn one_that_is_not_to_rejoin_ends_with_the_word_that_it_was_evicted() {
    let outcome = play(&Scene { subscribers: 3, rejoin: false, ring: 1, load_goes_on: true });
    assert!(outcome.resets.is_empty(), "{:?}", outcome.resets);
    assert_eq!(outcome.last_word["event"], "ended");
    assert_eq!(outcome.last_word["evicted"], true);
}

/// One at a time: each takes the whole machine.
static STAGE: Mutex<()> = Mutex::new(());

fn play(scene: &Scene) -> Outcome {
    let _alone = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut host = Process::start("host_role", &json!({ "ring": scene.ring }));
    let address = host.next("listening")["address"].clone();
    let setting = json!({ "address": address, "rejoin": scene.rejoin });
    let mut subscribers: Vec<_> =
        (0..scene.subscribers).map(|_| Process::start("subscriber_role", &setting)).collect();
    let ids: Vec<Value> = subscribers.iter_mut().map(|one| one.next("joined")["id"].clone()).collect();
    let baseline = resident_bytes(host.id());

    host.tell("load");
    for subscriber in &mut subscribers {
        subscriber.next("flowing");
    }
    let (mut snail, snail_id) = (subscribers.remove(0), &ids[0]);
    host.tell(&format!("watch {}", snail_id.as_str().expect("an id")));
    host.next("watching");
    snail.signal("STOP");
    let stopped = Instant::now();
    let evicted = host.next("evicted");
    let took = stopped.elapsed();
    assert_eq!(&evicted["id"], snail_id, "nobody else goes");
    // From the moment at which it was past its mark: the grace; the look at the pack with the next heartbeat, at the latest; and what was on its
    // way, an ack interval. The rest is how exactly this is measured, and how long the host itself was not let run.
    let past_for = Duration::from_millis(evicted["past_for_ms"].as_u64().expect("a number"));
    let starved = Duration::from_millis(evicted["starvation_ms"].as_u64().expect("a number"));
    let in_time = GRACE + HEARTBEAT + ACK_INTERVAL + LOOKS + starved * 2;
    assert!(past_for <= in_time, "evicted {past_for:?} after it was past its mark, {in_time:?} allowed");
    // And it was past its mark, by age, at the latest that long after it was stopped.
    let most = MARK_AGE + in_time + ACK_INTERVAL;
    assert!(took <= most + Duration::from_secs(1), "evicted {took:?} after it was stopped");

    host.tell("memory");
    let memory = host.next("memory");
    let resident = memory["highest"].as_u64().expect("a number");
    let published = memory["ordered"].as_u64().expect("a number") * (PADDING as u64 + 16);
    // What was published and the snail had not handled is held for it, by the transport, until its connection is given up. The ring covers what
    // the others may be behind: they share its bytes.
    let held = evicted["lag_bytes"].as_u64().expect("a number");
    let ring = (MARK_BYTES * scene.ring).min(published);
    let bound = ring + held + QUEUE.1 as u64 + MEMORY_SLACK;
    assert!(
        resident < baseline + bound,
        "resident memory rose from {baseline} to {resident}, by more than {bound}"
    );

    if !scene.load_goes_on {
        host.tell("pause");
        host.next("paused");
    }
    snail.signal("CONT");
    let mut outcome = Outcome { resets: Vec::new(), evictions: 0, last_word: Value::Null };
    let mut note = |line: &Value| match line["event"].as_str() {
        Some("reset") => outcome.resets.push(line.clone()),
        Some("evicted") => outcome.evictions += 1,
        _ => panic!("unexpected: {line}"),
    };
    if scene.rejoin {
        snail.until("rejoined", &mut note);
        if scene.load_goes_on {
            snail.tell("flowing?");
            snail.until("flowing", &mut note);
        }
    } else {
        outcome.last_word = snail.until("ended", &mut note);
    }
    host.tell("end");
    let ended = host.next("ended");
    let all = ended["sent"].as_u64().expect("a number");
    for subscriber in &mut subscribers {
        let report = subscriber.next("report");
        assert_eq!((report["first"].as_u64(), report["last"].as_u64()), (Some(1), Some(all)), "{report}");
        assert_eq!(report["count"], all, "gapless and in order");
        let pause = report["longest_pause_ms"].as_u64().expect("a number");
        // A heartbeat, and what the machine did not let them run: the host, or the subscriber itself.
        let starved = ended["starvation_ms"].as_u64().expect("a number")
            + report["starvation_ms"].as_u64().expect("a number");
        println!("longest pause {pause} ms, starved for up to {starved} ms");
        if scene.load_goes_on {
            let most = HEARTBEAT.as_millis() as u64 + starved;
            assert!(pause <= most, "nothing was delivered for {pause} ms, {most} ms allowed");
        }
    }
    if scene.rejoin {
        outcome.last_word = snail.until("report", &mut note);
        assert_eq!(outcome.last_word["last"], all, "it is with the others again");
    }
    println!(
        "{} subscribers, {all} messages: evicted for its {} {took:?} after the stop, {past_for:?} after the mark; {} MiB more resident, {} MiB allowed",
        scene.subscribers,
        evicted["reason"],
        resident.saturating_sub(baseline) >> 20,
        bound >> 20,
    );
    subscribers.into_iter().chain([snail, host]).for_each(Process::ends_well);
    outcome
}

#[test]
#[ignore = "a process of the tests above"]
fn host_role() {
    process::play(host);
}

#[test]
#[ignore = "a process of the tests above"]
fn subscriber_role() {
    process::play(subscriber);
}

async fn host(role: Role) {
    let ring = role.number("ring");
    let marks = HighWaterMark::new().messages(MARK_MESSAGES).bytes(MARK_BYTES).age(MARK_AGE).grace(GRACE);
    let host = Host::builder()
        .high_water_mark(marks)
        .replay_ring(MARK_MESSAGES * ring, MARK_BYTES * ring)
        .send_queue(QUEUE.0, QUEUE.1)
        .heartbeat(HEARTBEAT)
        .quarantine(Duration::from_millis(200), Duration::from_secs(1))
        .bind("tcp://127.0.0.1:0")
        .await
        .expect("bind");
    let mut orders = role.orders();
    let mut events = host.events();
    let mut load: Option<tokio::task::JoinHandle<()>> = None;
    let mut watched = EndpointId::NIL;
    let mut past_since: Option<Instant> = None;
    let mut highest = 0;
    let mut look = tokio::time::interval(Duration::from_millis(5));
    say(&json!({ "event": "listening", "address": host.address().to_string() }));
    loop {
        tokio::select! {
            biased;
            Some(event) = events.next() => if let Event::Evicted { id, eviction } = event {
                let past_for = past_since.map_or(0, |since| since.elapsed().as_millis() as u64);
                say(&json!({
                    "event": "evicted",
                    "id": id.to_string(),
                    "reason": eviction.reason.as_str(),
                    "lag_messages": eviction.lag.messages,
                    "lag_bytes": eviction.lag.bytes,
                    "past_for_ms": past_for,
                    "starvation_ms": role.starvation_ms(),
                }));
            },
            _ = look.tick() => {
                highest = highest.max(resident_bytes(std::process::id()));
                let stats = host.stats();
                let lag = stats.members.iter().find(|member| member.id == watched).map(|member| member.lag);
                let is_past = |lag: zincmq::Lag| lag.messages > MARK_MESSAGES || lag.bytes > MARK_BYTES || lag.age > MARK_AGE;
                match lag {
                    Some(lag) if is_past(lag) => _ = past_since.get_or_insert_with(Instant::now),
                    Some(_) => past_since = None,
                    None => {}
                }
            }
            order = orders.recv() => match order.as_deref() {
                Some("load") => load = Some(tokio::spawn(publish(host.sender()))),
                Some("memory") => {
                    highest = highest.max(resident_bytes(std::process::id()));
                    say(&json!({ "event": "memory", "highest": highest, "ordered": host.stats().received }));
                }
                Some("pause") => {
                    stop(&mut load).await;
                    say(&json!({ "event": "paused" }));
                }
                Some("end") => {
                    stop(&mut load).await;
                    let last = host.send(Message::new("end", "").expect("a message")).await.expect("open");
                    last.ordered().await.expect("ordered");
                    say(&json!({
                        "event": "ended",
                        "sent": last.origin_seq(),
                        "starvation_ms": role.starvation_ms(),
                    }));
                }
                Some(order) => {
                    let id = order.strip_prefix("watch ").expect("an order");
                    watched = id.parse().expect("an id");
                    // From here on it is measured.
                    role.starvation_ms();
                    say(&json!({ "event": "watching" }));
                }
                None => break,
            },
        }
    }
    let left = host.shutdown().await;
    assert_eq!(left.unsent, 0);
}

async fn stop(load: &mut Option<tokio::task::JoinHandle<()>>) {
    if let Some(load) = load.take() {
        load.abort();
        // It was cancelled.
        let _ = load.await;
    }
}

/// Publishes at full speed, until it is aborted.
async fn publish(sender: Sender) {
    loop {
        for _ in 0..64 {
            let message = Message::new("load", vec![b'x'; PADDING]).expect("a message");
            sender.send(message).await.expect("open");
        }
        tokio::task::yield_now().await;
    }
}

async fn subscriber(role: Role) {
    let rejoin = if role.flag("rejoin") { Rejoin::Auto } else { Rejoin::Never };
    let builder = Client::builder().rejoin(rejoin).join_timeout(PATIENCE);
    let (client, mut messages) =
        builder.join_with_messages(role.text("address")).await.expect("the host is there");
    assert_eq!(client.joined_at().seq, 0);
    let mut orders = role.orders();
    let mut events = client.events();
    say(&json!({ "event": "joined", "id": client.id().to_string() }));
    let (mut first, mut last, mut count) = (0, 0, 0_u64);
    let mut longest = Duration::ZERO;
    let mut before: Option<Instant> = None;
    // How many messages are to come before the word that they flow.
    let mut until_flowing = Some(2_000_u64);
    loop {
        tokio::select! {
            biased;
            Some(event) = events.next() => match event {
                Event::Connected { .. } => say(&json!({ "event": "rejoined" })),
                Event::Evicted { .. } => say(&json!({ "event": "evicted" })),
                _ => {}
            },
            order = orders.recv() => match order.as_deref() {
                Some(_) => until_flowing = Some(2_000),
                None => break,
            },
            item = messages.next_batch() => match item {
                Some(Ok(batch)) => {
                    let now = Instant::now();
                    longest = longest.max(before.map_or(Duration::ZERO, |before| now - before));
                    before = Some(now);
                    let mut ended = false;
                    for message in batch {
                        let seq = message.position().expect("ordered").seq;
                        assert!(seq == last + 1 || count == 0, "{seq} after {last}");
                        // Only the host sends.
                        assert_eq!(message.origin_seq(), seq);
                        if count == 0 {
                            first = seq;
                            // Measured from the beginning of the load.
                            role.starvation_ms();
                        }
                        count += 1;
                        last = seq;
                        ended |= message.topic().as_str() == "end";
                        until_flowing = until_flowing.and_then(|left| match left {
                            1 => {
                                say(&json!({ "event": "flowing" }));
                                None
                            }
                            left => Some(left - 1),
                        });
                    }
                    if ended {
                        say(&json!({
                            "event": "report", "first": first, "last": last, "count": count,
                            "longest_pause_ms": longest.as_millis() as u64, "starvation_ms": role.starvation_ms(),
                        }));
                    }
                }
                Some(Err(RecvError::Reset { after, resume_at })) => {
                    assert_eq!(after.map(|after| after.seq), Some(last), "the hole begins where delivery ended");
                    last = resume_at.seq - 1;
                    say(&json!({ "event": "reset", "resume_at": resume_at.seq }));
                }
                Some(Err(word)) => {
                    let evicted = matches!(word, RecvError::Evicted(_));
                    let after = messages.next().await;
                    assert!(after.is_none(), "the stream ends with its last word, not with {after:?}");
                    return say(&json!({ "event": "ended", "evicted": evicted }));
                }
                None => break,
            },
        }
    }
    // All it sends are acknowledgements.
    let _ = client.shutdown().await;
}

//! The command line, with members that are too slow: real processes, evicted and coming back.
#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the sans-IO machines")]

#[path = "common/cli.rs"]
mod cli;

use std::io::Write;

use cli::{Zincmq, host, publish, sub};
use serde_json::Value;

/// A delay that no test waits for, and an age that none comes to.
const FOREVER: &str = "600000";

/// Lines with the numbers from `first` to `last`.
fn numbers(first: u64, last: u64) -> Vec<u8> {
    (first..=last).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

/// Publishes the numbers from 1 to `last`, ten at a time: the next when this one has printed the last ones, so that it never is far behind.
fn publish_in_step_with(keeps_up: &mut Zincmq, address: &str, last: u64) {
    let mut publisher = Zincmq::start(&["--json", "pub", address, "--topic", "numbers"]);
    let mut input = publisher.stdin();
    for first in (1..=last).step_by(10) {
        input.write_all(&numbers(first, first + 9)).unwrap();
        for number in first..first + 10 {
            assert_eq!(keeps_up.next()["payload"], number.to_string());
        }
    }
    drop(input);
    assert_eq!(publisher.next()["sent"], last);
    publisher.ends_well();
}

/// Reads on until this payload; whatever is missing on the way must be told by a reset that names the hole.
fn reads_on_until(sub: &mut Zincmq, mut last_seq: u64, payload: &str) {
    loop {
        let line = sub.next();
        let seq = match line["event"].as_str() {
            Some("message") => line["seq"].as_u64().unwrap(),
            Some("reset") => {
                assert_eq!(line["after"]["seq"], last_seq, "{line}");
                let resume_at = line["resume_at"]["seq"].as_u64().unwrap();
                assert!(resume_at > last_seq + 1, "{line}");
                last_seq = resume_at - 1;
                continue;
            }
            _ => continue,
        };
        assert_eq!(seq, last_seq + 1, "{line}");
        last_seq = seq;
        if line["payload"] == payload {
            return;
        }
    }
}

/// Whether a member that is too many messages behind may say so. Its own stream may have noticed before the host's word came.
fn is_for_messages(evicted: &Value) -> bool {
    ["messages", "overrun"].iter().any(|reason| evicted["reason"] == *reason)
}

#[test]
fn a_snail_is_evicted_and_ends_with_exit_code_3_while_another_sub_gets_everything() {
    let (mut host, address) = host(&["--hwm-messages", "100", "--hwm-age", FOREVER]);
    let (mut snail, snail_id) = sub(&address, &["--delay-ms", FOREVER, "--rejoin", "never"]);
    let (mut keeps_up, _) = sub(&address, &[]);
    publish_in_step_with(&mut keeps_up, &address, 150);

    let evicted = host.next_event("evicted");
    assert_eq!((&evicted["id"], &evicted["reason"]), (&snail_id.as_str().into(), &"messages".into()));
    let lag = evicted["lag_messages"].as_u64().unwrap();
    assert!((101..=110).contains(&lag), "{evicted}");
    assert!(evicted["lag_bytes"].as_u64().unwrap() > lag, "{evicted}");
    assert!(evicted["lag_age_ms"].is_u64());
    assert_eq!((&evicted["position"]["seq"], &evicted["retry_after_ms"]), (&0.into(), &1000.into()));
    let left = host.next_event("member_left");
    assert_eq!((&left["id"], &left["reason"]), (&snail_id.as_str().into(), &"evicted".into()));

    assert_eq!(snail.next()["payload"], "1");
    let told = snail.next_event("evicted");
    assert_eq!(told["id"], snail_id.as_str());
    assert!(is_for_messages(&told), "{told}");
    assert_eq!(told["position"], evicted["position"]);
    let advice = snail.fails(3);
    assert!(advice.contains("evicted") && advice.contains("--hwm-messages"), "{advice}");
    assert_eq!(snail.next_line(), None);

    publish(&address, "numbers", b"the end");
    assert_eq!(keeps_up.next()["payload"], "the end");
}

#[test]
fn an_evicted_sub_comes_back_by_itself_and_tells_every_hole() {
    let (mut host, address) = host(&["--hwm-messages", "100", "--hwm-age", FOREVER]);
    let (mut snail, snail_id) = sub(&address, &["--delay-ms", "20"]);
    let (mut keeps_up, _) = sub(&address, &[]);
    publish_in_step_with(&mut keeps_up, &address, 500);
    let evicted = host.next_event("evicted");
    assert_eq!((&evicted["id"], &evicted["reason"]), (&snail_id.as_str().into(), &"messages".into()));
    while host.next_event("member_joined")["id"] != snail_id.as_str() {}
    publish(&address, "numbers", b"the end");
    assert_eq!(keeps_up.next()["payload"], "the end");

    reads_on_until(&mut snail, 0, "the end");
    snail.signal("INT");
    let closed = snail.next_event("closed");
    assert!(closed["stats"]["evictions"].as_u64().unwrap() >= 1, "{closed}");
    snail.ends_well();
}

#[test]
fn a_sub_says_when_it_is_evicted_and_when_it_is_back() {
    let (mut host, address) = host(&["--hwm-messages", "100", "--hwm-age", FOREVER]);
    let (mut snail, snail_id) = sub(&address, &["--delay-ms", FOREVER]);
    let (mut keeps_up, _) = sub(&address, &[]);
    publish_in_step_with(&mut keeps_up, &address, 150);
    assert_eq!(host.next_event("evicted")["id"], snail_id.as_str());
    assert_eq!(snail.next()["payload"], "1");
    assert!(is_for_messages(&snail.next_event("evicted")));
    // What it missed may be more than it can hold, beside what it has not looked at: then it goes and comes once more.
    snail.next_event("connected");
    while host.next_event("member_joined")["id"] != snail_id.as_str() {}
}

/// What [`with_an_overrun`] leaves running.
struct Overrun {
    address: String,
    snail: Zincmq,
    _host: Zincmq,
    _keeps_up: Zincmq,
}

/// A snail that dwells on its first message, with another one waiting, and one that is past the mark alone, when one more comes. The host
/// lets it be, by its grace, and does not wait for it, since another keeps up; but the snail holds no more than it may.
fn with_an_overrun(snail_args: &[&str]) -> Overrun {
    let (_host, address) = host(&["--hwm-bytes", "10000", "--hwm-age", FOREVER, "--hwm-grace", FOREVER]);
    let (_keeps_up, _) = sub(&address, &[]);
    let (mut snail, _) = sub(&address, snail_args);
    publish(&address, "t", b"1");
    assert_eq!(snail.next()["payload"], "1");
    publish(&address, "t", b"2");
    publish(&address, "t", &[b'x'; 20_000]);
    publish(&address, "t", b"4");
    let overrun = snail.next();
    assert_eq!((&overrun["event"], &overrun["consumer"]), (&"consumer_overrun".into(), &"messages".into()));
    let evicted = snail.next();
    assert_eq!((&evicted["event"], &evicted["reason"]), (&"evicted".into(), &"overrun".into()));
    assert_eq!((&evicted["lag_messages"], &evicted["position"]["seq"]), (&4.into(), &0.into()));
    Overrun { address, snail, _host, _keeps_up }
}

#[test]
fn a_sub_that_cannot_hold_what_waits_ends_with_exit_code_3() {
    let mut run = with_an_overrun(&["--delay-ms", FOREVER, "--rejoin", "never"]);
    let advice = run.snail.fails(3);
    assert!(advice.contains("overrun") && advice.contains("--rejoin auto"), "{advice}");
    assert_eq!(run.snail.next_line(), None);
}

#[test]
fn a_sub_that_cannot_hold_what_waits_comes_back_and_tells_what_it_dropped() {
    // Long enough for two publishers to come and go, on a machine that is busy.
    let mut run = with_an_overrun(&["--delay-ms", "4000"]);
    let snail = &mut run.snail;
    assert_eq!(snail.next()["event"], "connected");
    publish(&run.address, "t", b"5");
    let reset = snail.next();
    assert_eq!(reset["event"], "reset");
    assert_eq!((&reset["after"]["seq"], &reset["resume_at"]["seq"]), (&1.into(), &5.into()));
    assert_eq!(snail.next()["payload"], "5");
}

#[test]
fn a_sub_that_stands_still_is_evicted_after_the_age_mark() {
    let (mut host, address) = host(&["--hwm-age", "300"]);
    let (mut snail, snail_id) = sub(&address, &["--delay-ms", FOREVER, "--rejoin", "never"]);
    publish(&address, "t", b"1");
    assert_eq!(snail.next()["payload"], "1");
    let evicted = host.next_event("evicted");
    assert_eq!((&evicted["id"], &evicted["lag_messages"]), (&snail_id.as_str().into(), &1.into()));
    assert!(["age", "stalled"].iter().any(|reason| evicted["reason"] == *reason), "{evicted}");
    assert!(evicted["lag_age_ms"].as_u64().unwrap() >= 300);
    assert_eq!(snail.next()["reason"], evicted["reason"]);
    snail.fails(3);
}

#[test]
fn by_the_policy_block_senders_wait_for_the_slowest() {
    let (mut host, address) = host(&["--policy", "block", "--hwm-messages", "100", "--hwm-age", FOREVER]);
    let (mut slow, _) = sub(&address, &["--delay-ms", "2", "--count", "500"]);
    let (mut fast, _) = sub(&address, &["--count", "500"]);
    let mut publisher = Zincmq::start(&["--json", "pub", &address, "--topic", "t", "--in-flight", "20"]);
    publisher.feed(&numbers(1, 500));
    for sub in [&mut fast, &mut slow] {
        reads_on_until(sub, 0, "500");
        let closed = sub.next();
        assert_eq!((&closed["event"], &closed["stats"]["evictions"]), (&"closed".into(), &0.into()));
        sub.ends_well();
    }
    assert_eq!(publisher.next()["sent"], 500);
    publisher.ends_well();
    host.signal("INT");
    let closed = host.next_event("closed");
    assert_eq!(closed["stats"]["evictions"], 0);
    assert!(closed["stats"]["pauses"].as_u64().unwrap() > 0, "{closed}");
}

#[test]
fn by_the_policy_drop_oldest_a_slow_sub_skips_to_the_newest_of_the_topics_named() {
    let (_host, address) = host(&[
        "--policy",
        "drop-oldest",
        "--conflatable",
        "state.",
        "--hwm-messages",
        "1000",
        "--hwm-age",
        FOREVER,
    ]);
    let (mut slow, _) = sub(&address, &["--delay-ms", "10"]);
    publish(&address, "log", &numbers(1, 20));
    let mut publisher =
        Zincmq::start(&["--json", "pub", &address, "--topic", "state.x", "--in-flight", "50"]);
    publisher.feed(&numbers(1, 900));
    assert_eq!(publisher.next()["sent"], 900);

    let (mut logged, mut skipped, mut last) = (0, 0, 0);
    while last < 900 {
        let line = slow.next();
        match line["event"].as_str() {
            Some("lagged") => skipped += line["missed"].as_u64().unwrap(),
            Some("message") if line["topic"] == "log" => logged += 1,
            Some("message") => {
                let number: u64 = line["payload"].as_str().unwrap().parse().unwrap();
                assert!(number > last, "{line}");
                last = number;
            }
            _ => panic!("{line}"),
        }
    }
    assert_eq!(logged, 20);
    assert!(skipped >= 400, "{skipped}");
}

#[test]
fn wrong_marks_and_policies_have_exit_code_2_and_say_what_to_write() {
    for (args, advice) in [
        (&["host", "--hwm-messages", "0"][..], "--hwm-messages <N>"),
        (&["host", "--hwm-messages", "many"], "--hwm-messages <N>"),
        (&["host", "--hwm-bytes", "64MiB"], "--hwm-bytes <N>"),
        (&["host", "--hwm-age", "0"], "1..=4294967295"),
        (&["host", "--hwm-grace", "4294967296"], "0..=4294967295"),
        (&["host", "--policy", "kill"], "evict, block, drop-oldest"),
        (&["host", "--conflatable", "a."], "--policy drop-oldest only"),
        (&["host", "--policy", "block", "--conflatable", "a."], "--policy drop-oldest only"),
        (&["sub", "tcp://127.0.0.1:1", "--rejoin", "later"], "auto, never"),
        (&["sub", "tcp://127.0.0.1:1", "--delay-ms", "slow"], "--delay-ms <MS>"),
    ] {
        let said = Zincmq::start(args).fails(2);
        assert!(said.contains(advice), "{args:?}: {said}");
    }
    // What only the library knows.
    let prefix = "x".repeat(300);
    let said = Zincmq::start(&["host", "--policy", "drop-oldest", "--conflatable", &prefix]).fails(1);
    assert!(said.contains("prefixes that topics can begin with"), "{said}");
}

#[test]
fn help_tells_units_defaults_and_the_exit_code() {
    let help = |args: &[&str]| {
        let mut program = Zincmq::start(args);
        let text: Vec<_> = std::iter::from_fn(|| program.next_line()).collect();
        program.ends_well();
        text.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let host = help(&["host", "--help"]);
    for words in
        ["[default: 1000000]", "[default: 67108864]", "in milliseconds [default: 5000]", "[default: evict]"]
    {
        assert!(host.contains(words), "{words}: {host}");
    }
    let sub = help(&["sub", "--help"]);
    for words in ["[default: auto]", "milliseconds", "Exit code 3"] {
        assert!(sub.contains(words), "{words}: {sub}");
    }
    assert!(help(&["--help"]).contains("3 the host sent this endpoint away, or it fell too far behind"));
}

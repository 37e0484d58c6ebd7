//! The command line: real processes that talk to each other.
#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the sans-IO machines")]

#[path = "common/cli.rs"]
mod cli;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cli::{Zincmq, host, publish, sub};

#[test]
fn what_pub_reads_sub_prints_and_everyone_sees_the_members() {
    let (mut host, address) = host(&[]);
    let (mut sub, sub_id) = sub(&address, &["--count", "3"]);
    assert_eq!(host.next_event("member_joined")["id"], sub_id.as_str());

    let mut publisher = Zincmq::start(&["--json", "pub", &address, "--topic", "greetings"]);
    let joined = host.next_event("member_joined");
    assert_eq!(joined["role"], "member");
    publisher.feed(b"one\n\nthr\xc3\xa9\xc3\xa9");
    let done = publisher.next();
    publisher.ends_well();
    assert_eq!(done["event"], "done");
    assert_eq!(done["sent"], 3);

    for (i, payload) in ["one", "", "thréé"].into_iter().enumerate() {
        let message = sub.next();
        assert_eq!(message["event"], "message");
        assert_eq!(message["topic"], "greetings");
        assert_eq!(message["origin"], joined["id"]);
        assert_eq!(message["origin_seq"], i + 1);
        assert_eq!(message["epoch"], done["first"]["epoch"]);
        assert_eq!(message["seq"], done["first"]["seq"].as_u64().unwrap() + i as u64);
        assert_eq!(message["payload"], payload);
        let mut fields: Vec<&String> = message.as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(fields, ["epoch", "event", "origin", "origin_seq", "payload", "seq", "topic"]);
    }
    let closed = sub.next();
    assert_eq!(closed["event"], "closed");
    assert_eq!(closed["stats"]["lost_windows"], 0);
    assert_eq!(closed["stats"]["malformed_broadcasts"], 0);
    sub.ends_well();
    for _ in 0..2 {
        assert_eq!(host.next_event("member_left")["reason"], "left");
    }
}

#[test]
fn sub_prints_the_topics_of_its_prefixes_only() {
    let (_host, address) = host(&[]);
    let (mut sub, _) = sub(&address, &["--topic", "sensor.", "--topic", "alarm", "--count", "3"]);
    for (topic, text) in [("sensor.1", "a"), ("other", "b"), ("alarm", "c"), ("sensor", "d"), ("alarms", "e")]
    {
        publish(&address, topic, text.as_bytes());
    }
    let topics: Vec<_> = (0..3).map(|_| sub.next()["topic"].as_str().unwrap().to_owned()).collect();
    assert_eq!(topics, ["sensor.1", "alarm", "alarms"]);
    assert_eq!(sub.next()["event"], "closed");
    sub.ends_well();
}

#[test]
fn sub_ends_after_as_many_messages_as_asked_for() {
    let (_host, address) = host(&[]);
    let (mut sub, _) = sub(&address, &["--count", "2"]);
    assert_eq!(publish(&address, "t", b"1\n2\n3\n4\n")["sent"], 4);
    let events: Vec<_> = std::iter::from_fn(|| sub.next_line()).collect();
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(events[2].contains("\"closed\""));
    sub.ends_well();
}

#[test]
fn what_is_no_text_comes_in_base64() {
    let (_host, address) = host(&[]);
    let (mut sub, _) = sub(&address, &[]);
    publish(&address, "t", b"\xff\0\xfe\nplain");
    let binary = sub.next();
    assert_eq!((&binary["payload"], &binary["encoding"]), (&"/wD+".into(), &"base64".into()));
    let plain = sub.next();
    assert_eq!((&plain["payload"], &plain["encoding"]), (&"plain".into(), &serde_json::Value::Null));
}

#[test]
fn pub_with_nothing_to_send_is_done_at_once() {
    let (_host, address) = host(&[]);
    let done = publish(&address, "t", b"");
    assert_eq!(done, serde_json::json!({ "event": "done", "sent": 0, "first": null, "last": null }));
}

#[test]
fn pub_keeps_no_more_in_flight_than_asked_for_and_sends_all_the_same() {
    let (_host, address) = host(&[]);
    let mut publisher = Zincmq::start(&["--json", "pub", &address, "--topic", "t", "--in-flight", "1"]);
    publisher.feed("x\n".repeat(200).as_bytes());
    let done = publisher.next();
    assert_eq!((&done["first"]["seq"], &done["last"]["seq"]), (&1.into(), &200.into()));
    publisher.ends_well();
}

#[test]
fn tokens_come_from_files_the_environment_and_options() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "secret\n").unwrap();
    let file = file.to_str().unwrap();
    let (mut host, address) = host(&["--token-file", file]);
    let pub_args = ["--json", "pub", &address, "--topic", "t"];
    for mut publisher in [
        Zincmq::start(&[&pub_args[..], &["--token", "secret"]].concat()),
        Zincmq::start(&[&pub_args[..], &["--token-file", file]].concat()),
        Zincmq::start_with_token_in_env(&pub_args, "secret"),
    ] {
        publisher.feed(b"x");
        assert_eq!(publisher.next()["sent"], 1);
        publisher.ends_well();
    }

    let advice = Zincmq::start(&[&pub_args[..], &["--token", "wrong"]].concat()).fails(1);
    assert!(advice.contains("wrong token") && advice.contains("--token-file"), "{advice}");
    let advice = Zincmq::start(&["sub", &address]).fails(1);
    assert!(advice.contains("a token is required") && advice.contains("ZINCMQ_TOKEN"), "{advice}");
    let refused = host.next_event("join_refused");
    assert_eq!(refused["code"], "unauthorized");
    assert!(refused["reason"].as_str().unwrap().contains("wrong token"));
    assert!(!advice.contains("secret"));
}

#[test]
fn an_empty_token_is_refused_rather_than_letting_everyone_in() {
    assert!(Zincmq::start(&["host", "--token", ""]).fails(1).contains("--token is empty"));
    assert!(Zincmq::start_with_token_in_env(&["host"], "").fails(1).contains("ZINCMQ_TOKEN is empty"));
}

#[test]
fn other_refusals_come_with_advice() {
    let (_host, address) = host(&["--cluster", "one"]);
    let advice = Zincmq::start(&["sub", &address, "--cluster", "two"]).fails(1);
    assert!(advice.contains("wrong cluster") && advice.contains("--cluster"), "{advice}");
    let (_sub, id) = sub(&address, &["--cluster", "one"]);
    let advice = Zincmq::start(&["sub", &address, "--cluster", "one", "--id", &id]).fails(1);
    assert!(advice.contains("duplicate id") && advice.contains("--id"), "{advice}");
    let advice = Zincmq::start(&["host", "--bind", &address]).fails(1);
    assert!(advice.contains("in use"), "{advice}");
}

#[test]
fn a_host_that_others_can_reach_wants_to_know_who_may_join() {
    let advice = Zincmq::start(&["host", "--bind", "tcp://0.0.0.0:0"]).fails(1);
    assert!(advice.contains("--token-file") && advice.contains("--allow-anonymous"), "{advice}");
    let (_host, address) = host(&["--bind", "tcp://0.0.0.0:0", "--allow-anonymous"]);
    let address = address.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(publish(&address, "t", b"x")["sent"], 1);
}

#[test]
fn wrong_usage_has_exit_code_2_and_says_what_to_write() {
    for (args, advice) in [
        (&["sub", "localhost:5555"][..], "write tcp://HOST:PORT"),
        (&["sub", "tcp://127.0.0.1:0"], "port 0 is for binding"),
        (&["host", "--bind", "inproc://x"], "use tcp:// or ipc://"),
        (&["pub", "tcp://127.0.0.1:1"], "--topic"),
        (&["pub", "tcp://127.0.0.1:1", "--topic", ""], "must not be empty"),
        (&["host", "--token", "a", "--allow-anonymous"], "cannot be used with"),
        (&["sub", "tcp://127.0.0.1:1", "--timeout", "0"], "more than 0"),
    ] {
        let said = Zincmq::start(args).fails(2);
        assert!(said.contains(advice), "{args:?}: {said}");
    }
}

#[test]
fn nobody_listening_is_told_when_the_time_is_over() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    drop(listener);
    for args in
        [&["sub", &address, "--timeout", "0.3"][..], &["pub", &address, "--topic", "t", "--timeout", "0.3"]]
    {
        let started = Instant::now();
        let advice = Zincmq::start(args).fails(1);
        assert!(advice.contains("could not join") && advice.contains("zincmq host"), "{advice}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn a_killed_sub_is_reported_and_the_others_go_on() {
    let (mut host, address) = host(&[]);
    let (mut killed, killed_id) = sub(&address, &[]);
    let (mut stays, _) = sub(&address, &[]);
    publish(&address, "t", b"before");
    assert_eq!(killed.next()["payload"], "before");
    assert_eq!(stays.next()["payload"], "before");
    killed.kill();
    loop {
        let left = host.next_event("member_left");
        if left["id"] == killed_id.as_str() {
            assert_eq!(left["reason"], "disconnected");
            break;
        }
    }
    publish(&address, "t", b"after");
    assert_eq!(stays.next()["payload"], "after");
}

#[test]
fn ctrl_c_drains_the_host_and_a_waiting_sub_says_that_it_is_gone() {
    let (mut host, address) = host(&[]);
    let (mut sub, _) = sub(&address, &[]);
    publish(&address, "t", b"x\ny");
    host.signal("INT");
    let closed = host.next_event("closed");
    assert_eq!((&closed["unsent"], &closed["unknown"]), (&0.into(), &0.into()));
    assert_eq!(closed["stats"]["received"], 2);
    host.ends_well();
    assert_eq!(sub.next()["payload"], "x");
    assert_eq!(sub.next()["payload"], "y");
    assert_eq!(sub.next()["event"], "disconnected");
    sub.signal("INT");
    assert_eq!(sub.next_event("closed")["stats"]["received"], 2);
    sub.ends_well();
}

#[test]
fn sub_comes_back_to_a_host_that_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}", directory.path().join("cluster").display());
    let (mut first, _) = host(&["--bind", &address]);
    let (mut sub, _) = sub(&address, &[]);
    first.signal("TERM");
    first.next_event("closed");
    first.ends_well();
    assert_eq!(sub.next()["event"], "disconnected");
    let (_second, _) = host(&["--bind", &address]);
    // The new host's order is another one: what there was before may have been missed, and sub says so.
    assert_eq!(sub.next_event("connected")["seq"], 0);
    publish(&address, "t", b"hello again");
    assert_eq!(sub.next_event("message")["payload"], "hello again");
}

#[test]
fn pub_gives_up_on_a_host_that_stays_away_and_says_what_became_of_the_messages() {
    let (mut host, address) = host(&[]);
    let (mut sub, _) = sub(&address, &[]);
    let mut publisher =
        Zincmq::start(&["--json", "pub", &address, "--topic", "t", "--in-flight", "1", "--timeout", "1"]);
    let mut input = publisher.stdin();
    input.write_all(b"x\ny\n").unwrap();
    // One in flight: when the second is on its way, the first has come back.
    assert_eq!(sub.next()["payload"], "x");
    assert_eq!(sub.next()["payload"], "y");
    host.kill();
    let said = publisher.fails(1);
    assert!(said.contains("did not come back") && said.contains("--timeout"), "{said}");
    let fates = [
        "2 messages came back in order\n",
        "1 message came back in order, 1 message may or may not have been ordered\n",
    ];
    assert!(fates.iter().any(|fate| said.contains(fate)), "{said}");
    assert_eq!(publisher.next_line(), None);
}

#[test]
fn ctrl_c_ends_the_input_of_pub() {
    let (_host, address) = host(&[]);
    let (mut sub, _) = sub(&address, &[]);
    let mut publisher = Zincmq::start(&["--json", "pub", &address, "--topic", "t"]);
    let mut input = publisher.stdin();
    input.write_all(b"x\n").unwrap();
    assert_eq!(sub.next()["payload"], "x");
    publisher.signal("INT");
    assert_eq!(publisher.next()["sent"], 1);
    publisher.ends_well();
}

#[test]
fn a_sub_whose_reader_goes_away_ends_quietly() {
    let (_host, address) = host(&[]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_zincmq"))
        .args(["--json", "sub", &address])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut joined = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut joined).unwrap();
    drop(stdout);
    publish(&address, "t", b"nobody reads this");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_host_outlives_the_reader_of_its_first_line() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_zincmq"))
        .args(["--json", "host"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    drop(stdout);
    let listening: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = listening["address"].as_str().unwrap();
    // Each of them makes the host print lines that nobody reads.
    for _ in 0..2 {
        assert_eq!(publish(address, "t", b"x")["sent"], 1);
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn addresses_of_sockets_work_the_wildcard_included() {
    let (_host, address) = host(&["--bind", "ipc://*"]);
    assert!(address.starts_with("ipc:///"), "{address}");
    let (mut sub, _) = sub(&address, &[]);
    assert_eq!(publish(&address, "t", b"hello")["sent"], 1);
    assert_eq!(sub.next()["payload"], "hello");
}

#[test]
fn channels_are_bound_where_they_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("ipc://{}", directory.path().join(name).display());
    let mut host = Zincmq::start(&[
        "--json",
        "host",
        "--bind",
        &path("a"),
        "--bind-broadcast",
        &path("b"),
        "--bind-submit",
        &path("c"),
    ]);
    let listening = host.next();
    assert_eq!(listening["broadcast"], path("b"));
    assert_eq!(listening["submit"], path("c"));
    assert_eq!(publish(&path("a"), "t", b"x")["sent"], 1);
}

#[test]
fn text_for_people_names_what_they_need_and_has_no_colours_in_a_pipe() {
    let mut host = Zincmq::start(&["host"]);
    let first = host.next_line().unwrap();
    let address = first.strip_prefix("listening on ").unwrap();
    let mut sub = Zincmq::start(&["sub", address, "--count", "1"]);
    assert!(sub.next_line().unwrap().starts_with("joined host "));
    let mut publisher = Zincmq::start(&["pub", address, "--topic", "greetings"]);
    publisher.feed(b"hello\x1b[2J\n");
    assert!(publisher.next_line().unwrap().starts_with("1 message sent, all in order: positions "));
    let line = sub.next_line().unwrap();
    assert!(line.ends_with("1 greetings  hello\\u{1b}[2J"), "{line}");
}

#[test]
fn the_tour_holds_what_it_says() {
    let mut tour = Zincmq::start(&["tour"]);
    let text: Vec<_> = std::iter::from_fn(|| tour.next_line()).collect();
    tour.ends_well();
    let text = text.join("\n");
    for word in [
        "Joining",
        "Echo",
        "One order",
        "Handlers and prefixes",
        "A document",
        "A snail",
        "Leaving",
        "Shutting down",
        "messages",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains('\x1b'));
}

#[test]
fn the_tour_as_json_has_one_object_for_each_step() {
    let mut tour = Zincmq::start(&["tour", "--json"]);
    let events: Vec<_> = std::iter::from_fn(|| tour.next_line())
        .map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap()["event"].clone())
        .collect();
    tour.ends_well();
    assert_eq!(
        events,
        ["started", "echo", "order", "handlers", "document", "snail", "left", "closed", "done"]
    );
}

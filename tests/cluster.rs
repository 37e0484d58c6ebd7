//! A host and its clients, over every transport: joining, order, echo, receipts, subscriptions, handlers, shutdown.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Kind, address, soon};
use futures::{SinkExt, StreamExt, TryStreamExt};
use zincmq::prelude::*;
use zincmq::{
    HandlerOptions, JoinError, OrderKey, ReceiptError, RefusalReason, SharedToken, SubscribeError,
    authenticate_fn,
};

async fn host(kind: Kind) -> Host {
    Host::builder().bind(address(kind)).await.expect("bind")
}

async fn join(host: &Host) -> Client {
    soon(Client::builder().join(host.address())).await.expect("join")
}

async fn next(messages: &mut Messages) -> Message {
    soon(messages.try_next()).await.expect("no hole").expect("no end")
}

async fn next_payload(messages: &mut Messages) -> String {
    String::from_utf8(next(messages).await.payload().to_vec()).unwrap()
}

fn message(topic: &str, text: impl Into<String>) -> Message {
    Message::new(topic, text.into()).unwrap()
}

/// Makes the test run once over each transport.
macro_rules! over_every_transport {
    ($(async fn $name:ident($kind:ident: Kind) $body:block)*) => {
        mod tcp { use super::*; $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(Kind::Tcp).await })* }
        mod ipc { use super::*; $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(Kind::Ipc).await })* }
        mod inproc { use super::*; $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(Kind::Inproc).await })* }
        $(async fn $name($kind: Kind) $body)*
    };
}

over_every_transport! {
    async fn a_message_reaches_everyone_but_its_origin_and_is_ordered(kind: Kind) {
        let host = host(kind).await;
        let (a, b) = (join(&host).await, join(&host).await);
        let (mut at_host, mut at_a, mut at_b) = (host.messages(), a.messages(), b.messages());
        let receipt = a.send(message("t", "from a")).await.unwrap();
        let position = soon(receipt.ordered()).await.unwrap();
        assert_eq!(position.seq, 1);
        for messages in [&mut at_host, &mut at_b] {
            let received = next(messages).await;
            assert_eq!(received.origin(), a.id());
            assert_eq!(received.origin_seq(), 1);
            assert_eq!(received.position(), Some(position));
        }
        host.send(message("t", "from host")).await.unwrap();
        // The first thing that a sees is not its own message.
        assert_eq!(next_payload(&mut at_a).await, "from host");
        assert_eq!(next_payload(&mut at_b).await, "from host");
    }

    async fn an_echo_is_shown_to_those_who_ask_for_it(kind: Kind) {
        let host = Host::builder().echo(true).bind(address(kind)).await.unwrap();
        let client = soon(Client::builder().echo(true).join(host.address())).await.unwrap();
        let (mut at_host, mut at_client) = (host.messages(), client.messages());
        client.send(message("t", "mine")).await.unwrap();
        assert_eq!(next(&mut at_client).await.origin(), client.id());
        assert_eq!(next_payload(&mut at_host).await, "mine");
        host.send(message("t", "yours")).await.unwrap();
        assert_eq!(next(&mut at_host).await.origin(), host.id());
    }

    async fn everyone_sees_one_order(kind: Kind) {
        const EACH: usize = 2000;
        let host = host(kind).await;
        let mut readers = Vec::new();
        let mut senders = Vec::new();
        for _ in 0..3 {
            let client = soon(Client::builder().echo(true).join(host.address())).await.unwrap();
            readers.push(client.messages());
            senders.push(client);
        }
        let writing: Vec<_> = senders
            .iter()
            .map(|client| {
                let sender = client.sender();
                tokio::spawn(async move {
                    for i in 0..EACH {
                        sender.send(message(&format!("t{}", i % 8), i.to_string())).await.unwrap();
                    }
                })
            })
            .collect();
        let mut seen = Vec::new();
        for reader in &mut readers {
            let mut order = Vec::new();
            for _ in 0..3 * EACH {
                let message = next(reader).await;
                order.push((message.position().unwrap(), message.origin(), message.origin_seq()));
            }
            seen.push(order);
        }
        for task in writing {
            task.await.unwrap();
        }
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0], seen[2]);
        assert!(seen[0].iter().enumerate().all(|(i, (position, ..))| position.seq == i as u64 + 1));
        let mut next_of: BTreeMap<EndpointId, u64> = BTreeMap::new();
        for (_, origin, origin_seq) in &seen[0] {
            let next = next_of.entry(*origin).or_insert(1);
            assert_eq!(origin_seq, next, "origin order");
            *next += 1;
        }
    }

    async fn a_stream_made_with_the_join_begins_right_behind_its_position(kind: Kind) {
        let host = host(kind).await;
        let publisher = {
            let sender = host.sender();
            tokio::spawn(async move {
                loop {
                    let receipt = sender.send(message("t", "x")).await.unwrap();
                    // Not all at once: joining takes longer than filling queues does.
                    receipt.ordered().await.unwrap();
                }
            })
        };
        for _ in 0..20 {
            let (client, mut messages) =
                soon(Client::builder().join_with_messages(host.address())).await.unwrap();
            for i in 1..=3 {
                assert_eq!(next(&mut messages).await.position().unwrap().seq, client.joined_at().seq + i);
            }
        }
        publisher.abort();
    }

    async fn a_hundred_thousand_messages_of_four_senders_arrive_once_and_in_one_order(kind: Kind) {
        const ALL: usize = 100_000;
        const IN_FLIGHT: usize = 20_000;
        let host = Host::builder().echo(true).bind(address(kind)).await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(soon(Client::builder().echo(true).join(host.address())).await.unwrap());
        }
        let reading: Vec<_> = clients
            .iter()
            .map(|client| {
                let mut messages = client.messages();
                tokio::spawn(async move {
                    let mut seen = Vec::with_capacity(ALL);
                    while seen.len() < ALL {
                        for message in messages.next_batch().await.unwrap().unwrap() {
                            assert_eq!(message.topic().as_str(), format!("t{}", message.origin_seq() % 8));
                            seen.push((message.position().unwrap().seq, message.origin(), message.origin_seq()));
                        }
                    }
                    seen
                })
            })
            .collect();
        let endpoints = clients.iter().map(|client| client as &dyn Endpoint).chain([&host as &dyn Endpoint]);
        let sending: Vec<_> = endpoints
            .map(|endpoint| {
                let sender = endpoint.sender();
                tokio::spawn(async move {
                    let mut under_way = std::collections::VecDeque::new();
                    for i in 1..=ALL / 4 {
                        if under_way.len() == IN_FLIGHT {
                            let oldest: Receipt = under_way.pop_front().unwrap();
                            oldest.ordered().await.unwrap();
                        }
                        under_way.push_back(sender.send(message(&format!("t{}", i % 8), "x")).await.unwrap());
                    }
                })
            })
            .collect();
        for task in sending {
            soon(task).await.unwrap();
        }
        let mut seen = Vec::new();
        for task in reading {
            seen.push(soon(task).await.unwrap());
        }
        assert!(seen[0] == seen[1] && seen[0] == seen[2], "one order");
        assert!(seen[0].iter().enumerate().all(|(i, (seq, ..))| *seq == i as u64 + 1), "no hole");
        let mut last: BTreeMap<EndpointId, u64> = BTreeMap::new();
        for (_, origin, origin_seq) in &seen[0] {
            assert_eq!(*origin_seq, last.get(origin).unwrap_or(&0) + 1, "each once and in the order of its origin");
            last.insert(*origin, *origin_seq);
        }
        assert_eq!(last.len(), 4);
    }

    async fn those_who_answer_what_they_receive_never_stand_still(kind: Kind) {
        const ASKED: u64 = 20_000;
        let host = Host::builder().bind(address(kind)).await.unwrap();
        let (asks, streams, handles) = (join(&host).await, join(&host).await, join(&host).await);
        let (done, mut answered) = tokio::sync::mpsc::unbounded_channel();
        // A stream and a handler that wait for the place of each answer, while they are flooded; and a host that answers twice.
        let (mut messages, sender, tell) = (streams.messages(), streams.sender(), done.clone());
        tokio::spawn(async move {
            for _ in 0..ASKED / 10 {
                while next(&mut messages).await.topic().as_str() != "ask" {}
                sender.send(message("stream", "x")).await.unwrap().ordered().await.unwrap();
            }
            tell.send("stream").unwrap();
        });
        let (sender, count, tell) = (handles.sender(), AtomicUsize::new(0), done.clone());
        let state = Arc::new((sender, count, tell));
        handles
            .handle("ask", move |_| {
                let state = Arc::clone(&state);
                async move {
                    let (sender, count, tell) = &*state;
                    let count = count.fetch_add(1, Ordering::Relaxed) as u64;
                    if count < ASKED / 10 {
                        sender.send(message("handler", "x")).await.unwrap().ordered().await.unwrap();
                    } else if count == ASKED - 1 {
                        tell.send("handler").unwrap();
                    }
                }
            })
            .unwrap();
        let (mut messages, sender) = (host.messages(), host.sender());
        tokio::spawn(async move {
            for _ in 0..ASKED {
                while next(&mut messages).await.topic().as_str() != "ask" {}
                for _ in 0..2 {
                    sender.send(message("host", "x")).await.unwrap();
                }
            }
            done.send("host").unwrap();
            // Read on: a stream that is kept and not read holds up the others.
            while messages.next().await.is_some() {}
        });
        for i in 0..ASKED {
            asks.send(message("ask", i.to_string())).await.unwrap();
        }
        for _ in 0..3 {
            soon(answered.recv()).await.unwrap();
        }
    }

    async fn those_who_join_at_once_know_each_other(kind: Kind) {
        let host = host(kind).await;
        let mut joins = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let address = host.address().clone();
            joins.spawn(async move { Client::builder().join(address).await.unwrap() });
        }
        let clients = soon(joins.join_all()).await;
        assert_eq!(host.members().len(), 11);
        for client in &clients {
            let mut events = client.events();
            while client.members().len() < 11 {
                soon(events.next()).await.unwrap();
            }
            assert_eq!(client.members(), host.members());
        }
    }

    async fn a_client_with_prefixes_sees_its_topics_in_the_total_order(kind: Kind) {
        let host = host(kind).await;
        let filtered = soon(Client::builder().subscribe("a.").subscribe("c").join(host.address())).await.unwrap();
        let mut messages = filtered.messages();
        let other = join(&host).await;
        for i in 0..300 {
            other.send(message(["a.x", "b.x", "c", "a"][i % 4], i.to_string())).await.unwrap();
        }
        let mut last = 0;
        for i in (0..300).filter(|i| i % 4 == 0 || i % 4 == 2) {
            let message = next(&mut messages).await;
            assert_eq!(&message.payload()[..], i.to_string().as_bytes());
            let seq = message.position().unwrap().seq;
            assert!(seq > last);
            last = seq;
        }
        // Its own messages are confirmed although it does not receive their topic.
        let receipt = filtered.send(message("b.x", "blind")).await.unwrap();
        assert_eq!(soon(receipt.ordered()).await.unwrap().seq, 301);
        assert_eq!(filtered.stats().lost_windows, 0);
    }

    async fn subscriptions_change_while_messages_flow(kind: Kind) {
        let host = host(kind).await;
        let client = soon(Client::builder().subscribe("a").join(host.address())).await.unwrap();
        let mut messages = client.messages();
        let publisher = {
            let sender = host.sender();
            tokio::spawn(async move {
                let mut i = 0_u64;
                loop {
                    for topic in ["a", "b", "end"] {
                        if sender.send(message(topic, i.to_string())).await.is_err() {
                            return;
                        }
                    }
                    i += 1;
                    tokio::task::yield_now().await;
                }
            })
        };
        soon(client.subscribe("b")).await.unwrap();
        let from_b = async {
            loop {
                if next(&mut messages).await.topic().as_str() == "b" {
                    return;
                }
            }
        };
        soon(from_b).await;
        soon(client.unsubscribe("a")).await.unwrap();
        // From everything to little and back, with windows changing lanes in mid-traffic.
        soon(client.subscribe("")).await.unwrap();
        soon(client.unsubscribe("")).await.unwrap();
        soon(client.unsubscribe("b")).await.unwrap();
        soon(client.subscribe("end")).await.unwrap();
        let sent = soon(host.send(message("end", "the end"))).await.unwrap();
        let until = soon(sent.ordered()).await.unwrap();
        loop {
            let message = next(&mut messages).await;
            if message.position() >= Some(until) {
                assert_eq!(message.topic().as_str(), "end");
                break;
            }
        }
        publisher.abort();
        assert_eq!(client.stats().lost_windows, 0);
        assert_eq!(client.stats().malformed_broadcasts, 0);
    }

    async fn handlers_see_their_topics_in_order_and_a_failing_one_disturbs_nobody(kind: Kind) {
        let host = host(kind).await;
        let client = join(&host).await;
        let mut events = client.events();
        let (seen, mut received) = tokio::sync::mpsc::unbounded_channel();
        client
            .handle("good", move |message: Message| {
                let seen = seen.clone();
                async move { seen.send(message.origin_seq()).map_err(|_| "closed") }
            })
            .unwrap();
        let failing = HandlerOptions::new().named("failing");
        client
            .handle_with("", |message: Message| async move {
                assert_ne!(&message.payload()[..], b"panic", "told to panic");
                if &message.payload()[..] == b"error" { Err("told to fail") } else { Ok(()) }
            }, failing)
            .unwrap();
        for text in ["one", "panic", "two", "error", "three"] {
            host.send(message("good", text)).await.unwrap();
        }
        for i in 1..=5 {
            assert_eq!(soon(received.recv()).await, Some(i));
        }
        let mut failures = Vec::new();
        while failures.len() < 2 {
            if let Event::HandlerFailed { handler, position, error, messages } = soon(events.next()).await.unwrap() {
                assert_eq!((handler.as_str(), messages), ("failing", 1));
                failures.push((position.unwrap().seq, error));
            }
        }
        assert_eq!(failures[0].0, 2);
        assert!(failures[0].1.contains("told to panic"));
        assert_eq!(failures[1], (4, "told to fail".to_owned()));
        assert_eq!(client.stats().handler_failures, 2);
    }

    async fn a_member_that_leaves_and_one_that_vanishes_are_reported(kind: Kind) {
        let host = host(kind).await;
        let mut events = host.events();
        let watcher = join(&host).await;
        let mut seen = watcher.events();
        let (polite, rude) = (join(&host).await, join(&host).await);
        assert_eq!(host.members().len(), 4);
        let (polite_id, rude_id) = (polite.id(), rude.id());
        let _ = soon(polite.shutdown()).await;
        drop(rude);
        let mut left = BTreeMap::new();
        while left.len() < 2 {
            if let Event::MemberLeft { id, reason } = soon(events.next()).await.unwrap() {
                left.insert(id, reason);
            }
        }
        assert_eq!(left[&polite_id], zincmq::LeaveReason::Left);
        assert_eq!(left[&rude_id], zincmq::LeaveReason::Disconnected);
        let mut gone = 0;
        while gone < 2 {
            gone += usize::from(matches!(soon(seen.next()).await.unwrap(), Event::MemberLeft { .. }));
        }
        assert_eq!(watcher.members().len(), 2);
    }

    async fn what_was_sent_before_a_shutdown_arrives(kind: Kind) {
        let host = host(kind).await;
        let (sender, reader) = (join(&host).await, join(&host).await);
        let mut messages = reader.messages();
        for i in 0..5000 {
            sender.send(message("t", i.to_string())).await.unwrap();
        }
        let report = soon(sender.shutdown()).await;
        assert_eq!((report.unsent, report.unknown), (0, 0));
        assert!(matches!(sender.send(message("t", "late")).await, Err(SendError::Closed { .. })));
        for i in 0..100 {
            host.send(message("t", format!("h{i}"))).await.unwrap();
        }
        let shutdown = tokio::spawn({
            let host = host.clone();
            async move { host.shutdown().await }
        });
        for i in 0..5000 {
            assert_eq!(next_payload(&mut messages).await, i.to_string());
        }
        for i in 0..100 {
            assert_eq!(next_payload(&mut messages).await, format!("h{i}"));
        }
        let report = soon(shutdown).await.unwrap();
        assert_eq!((report.unsent, report.unknown, report.members), (0, 0, 0));
    }

    async fn refusals_are_typed(kind: Kind) {
        let host = Host::builder().cluster("blue").token("secret").bind(address(kind)).await.unwrap();
        let mut events = host.events();
        let refusal = |result: Result<Client, JoinError>| match result.expect_err("refused") {
            JoinError::Refused { reason, .. } => reason,
            other => panic!("{other}"),
        };
        let blue = || Client::builder().cluster("blue");
        let wrong = refusal(soon(Client::builder().token("secret").join(host.address())).await);
        let words = "the host belongs to another cluster than \"default\"";
        assert_eq!(wrong, RefusalReason::WrongCluster(words.into()));
        let wrong = refusal(soon(blue().token("guess").join(host.address())).await);
        assert_eq!(wrong, RefusalReason::Unauthorized("wrong token".into()));
        let wrong = refusal(soon(blue().join(host.address())).await);
        assert_eq!(wrong, RefusalReason::Unauthorized("a token is required".into()));
        let member = soon(blue().token("secret").join(host.address())).await.unwrap();
        let wrong = refusal(soon(blue().token("secret").id(member.id()).join(host.address())).await);
        assert!(matches!(wrong, RefusalReason::DuplicateId(_)), "{wrong}");
        let wrong = refusal(soon(blue().token("secret").id(host.id()).join(host.address())).await);
        assert!(matches!(wrong, RefusalReason::DuplicateId(_)), "{wrong}");
        let mut refused = 0;
        while refused < 5 {
            refused += usize::from(matches!(soon(events.next()).await.unwrap(), Event::JoinRefused { .. }));
        }
        assert_eq!(host.members().len(), 2);
    }

    async fn a_read_only_member_receives_and_may_not_send(kind: Kind) {
        let host = Host::builder()
            .authenticator(authenticate_fn(|_| async { Ok(Role::ReadOnly) }))
            .bind(address(kind))
            .await
            .unwrap();
        let client = join(&host).await;
        assert_eq!(client.role(), Role::ReadOnly);
        let mut messages = client.messages();
        let refused = client.send(message("t", "no")).await.unwrap_err();
        assert!(matches!(refused, SendError::ReadOnly { .. }));
        host.send(message("t", "yes")).await.unwrap();
        assert_eq!(next_payload(&mut messages).await, "yes");
    }

    async fn a_client_waits_for_a_host_that_is_not_up_yet(kind: Kind) {
        let address = common::fixed_address(kind).await;
        let joining = tokio::spawn({
            let address = address.clone();
            async move { Client::builder().join(address).await }
        });
        // The client has begun to try; whether the host comes before its first attempt or after is all the same.
        tokio::task::yield_now().await;
        let host = Host::builder().bind(address).await.unwrap();
        let client = soon(joining).await.unwrap().unwrap();
        assert_eq!(host.members().len(), 2);
        drop(client);
    }

    async fn nobody_there_is_told_at_the_deadline(kind: Kind) {
        let address = common::fixed_address(kind).await;
        let result = soon(Client::builder().join_timeout(Duration::from_millis(300)).join(address)).await;
        assert!(matches!(&result, Err(JoinError::TimedOut { reason, .. }) if !reason.is_empty()), "{result:?}");
    }

    async fn a_client_comes_back_to_a_restarted_host(kind: Kind) {
        let address = common::fixed_address(kind).await;
        let host = Host::builder().bind(address.clone()).await.unwrap();
        let client = soon(Client::builder().join(address.clone())).await.unwrap();
        let mut messages = client.messages();
        host.send(message("t", "first")).await.unwrap();
        let first = next(&mut messages).await.position().unwrap();
        let mut events = client.events();
        drop(host);
        loop {
            if matches!(soon(events.next()).await.unwrap(), Event::Disconnected { .. }) {
                break;
            }
        }
        let host = common::bind_again(address).await;
        while !matches!(soon(events.next()).await.unwrap(), Event::Connected { .. }) {}
        assert!(matches!(soon(messages.next()).await, Some(Err(RecvError::Reset { .. }))));
        host.send(message("t", "second")).await.unwrap();
        let second = next(&mut messages).await;
        assert_eq!(&second.payload()[..], b"second");
        assert!(second.position().unwrap() > first, "a restarted host opens a higher epoch");
        assert_eq!(client.stats().sessions, 2);
    }

    async fn messages_of_every_size_travel_whole(kind: Kind) {
        let host = Host::builder().max_message(1 << 20).bind(address(kind)).await.unwrap();
        let client = join(&host).await;
        let mut messages = host.messages();
        let sizes = [0, 1, 255, 256, 65_535, 65_536, 100_000, 1 << 20];
        for size in sizes {
            client.send(Message::new("t", vec![7; size]).unwrap()).await.unwrap();
        }
        for size in sizes {
            assert_eq!(next(&mut messages).await.payload(), &vec![7; size]);
        }
        let large = Message::new("t", vec![0; (1 << 20) + 1]).unwrap();
        let error = client.send(large).await.unwrap_err();
        assert!(matches!(error, SendError::TooLarge { limit: 0x10_0000, .. }));
        assert_eq!(error.into_message().payload().len(), (1 << 20) + 1);
    }
}

#[tokio::test]
async fn a_host_that_others_can_reach_needs_an_authenticator() {
    for address in ["tcp://0.0.0.0:0", "tcp://[::]:0"] {
        let refused = Host::builder().bind(address).await.unwrap_err();
        assert!(matches!(refused, zincmq::HostError::Unprotected { .. }), "{refused}");
        Host::builder().allow_anonymous().bind(address).await.unwrap();
        Host::builder().authenticator(SharedToken::new("x")).bind(address).await.unwrap();
    }
    let refused = Host::builder().bind_submit("tcp://0.0.0.0:0").bind("tcp://127.0.0.1:0").await.unwrap_err();
    assert!(matches!(refused, zincmq::HostError::Unprotected { .. }), "{refused}");
}

#[tokio::test]
async fn an_empty_token_is_not_mistaken_for_one() {
    let refused = Host::builder().token("").bind("inproc://empty-token").await.unwrap_err();
    assert!(matches!(refused, zincmq::HostError::Option { option: "token", .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_keeps_the_host_part_it_dialled() {
    let host = Host::builder().allow_anonymous().bind("tcp://0.0.0.0:0").await.unwrap();
    let zincmq::Address::Tcp { port, .. } = host.address() else { panic!("tcp") };
    for address in [format!("tcp://127.0.0.2:{port}"), format!("tcp://localhost:{port}")] {
        let client = soon(Client::builder().join(address)).await.unwrap();
        let receipt = client.send(message("t", "x")).await.unwrap();
        soon(receipt.ordered()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_advertised_address_is_where_the_channels_are_found() {
    let host = Host::builder()
        .advertise("tcp://127.0.0.3:9")
        .allow_anonymous()
        .bind("tcp://0.0.0.0:0")
        .await
        .unwrap();
    assert_eq!(host.address().to_string(), "tcp://127.0.0.3:9");
    let joined =
        soon(Client::builder().join(format!("tcp://127.0.0.1:{}", port(&host.bound().control)))).await;
    assert_eq!(host.members().len(), 2);
    drop(joined);
}

fn port(address: &zincmq::Address) -> u16 {
    match address {
        zincmq::Address::Tcp { port, .. } => *port,
        other => panic!("{other} has no port"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_feeds_the_same_order() {
    let host = host(Kind::Inproc).await;
    let client = soon(Client::builder().send_queue(4, 1 << 20).join(host.address())).await.unwrap();
    let mut messages = host.messages();
    let mut sink = client.sender();
    let mut many = futures::stream::iter((0..1000).map(|i| Ok(message("t", i.to_string()))));
    soon(sink.send_all(&mut many)).await.unwrap();
    for i in 0..1000 {
        assert_eq!(next_payload(&mut messages).await, i.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sending_in_a_handler_never_waits() {
    let host = host(Kind::Inproc).await;
    let client = soon(Client::builder().send_queue(1, 1 << 20).join(host.address())).await.unwrap();
    let (refused, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    let sender = client.sender();
    client
        .handle("", move |_| {
            let (sender, refused) = (sender.clone(), refused.clone());
            async move {
                // The queue takes one; the driver may or may not have taken it before the next.
                for _ in 0..10_000 {
                    if let Err(error) = sender.send(message("answer", "x")).await {
                        let _ = refused.send(matches!(error, SendError::WouldBlock { .. }));
                        return;
                    }
                }
                let _ = refused.send(true);
            }
        })
        .unwrap();
    host.send(message("question", "?")).await.unwrap();
    assert_eq!(soon(outcomes.recv()).await, Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_with_workers_keeps_the_order_of_each_key() {
    let host = host(Kind::Inproc).await;
    let client = join(&host).await;
    let (seen, mut received) = tokio::sync::mpsc::unbounded_channel();
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let options = HandlerOptions::new().concurrency(4, OrderKey::Topic);
    client
        .handle_with(
            "",
            {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                move |message: Message| {
                    let (seen, running, most) = (seen.clone(), Arc::clone(&running), Arc::clone(&most));
                    async move {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        running.fetch_sub(1, Ordering::SeqCst);
                        let _ = seen.send((message.topic().clone(), message.origin_seq()));
                    }
                }
            },
            options,
        )
        .unwrap();
    for i in 0..2000 {
        host.send(message(&format!("t{}", i % 16), "x")).await.unwrap();
    }
    let mut last: BTreeMap<Topic, u64> = BTreeMap::new();
    for _ in 0..2000 {
        let (topic, origin_seq) = soon(received.recv()).await.unwrap();
        assert!(last.insert(topic, origin_seq).is_none_or(|before| before < origin_seq));
    }
    assert!(most.load(Ordering::SeqCst) <= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shut_down_endpoint_says_so() {
    let host = host(Kind::Inproc).await;
    let client = join(&host).await;
    let mut messages = client.messages();
    let mut events = client.events();
    let _ = soon(client.shutdown()).await;
    assert!(soon(messages.next()).await.is_none());
    while soon(events.next()).await.is_some() {}
    assert!(soon(events.next()).await.is_none(), "ended again");
    assert_eq!(soon(client.subscribe("x")).await, Err(SubscribeError::Closed));
    assert!(soon(client.messages().next()).await.is_none());
    assert_eq!(soon(client.shutdown()).await, zincmq::ShutdownReport::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_no_host_takes_any_more_are_reported() {
    let address = common::fixed_address(Kind::Tcp).await;
    let host = Host::builder().bind(address.clone()).await.unwrap();
    let client =
        soon(Client::builder().shutdown_timeout(Duration::from_millis(200)).join(address)).await.unwrap();
    let mut events = client.events();
    drop(host);
    while !matches!(soon(events.next()).await.unwrap(), Event::Disconnected { .. }) {}
    let receipt = client.send(message("t", "to nobody")).await.unwrap();
    let report = soon(client.shutdown()).await;
    assert_eq!(report.unsent, 1);
    assert_eq!(soon(receipt.ordered()).await, Err(ReceiptError::NeverSent));
}

//! The patterns where peers are not as one would have them: who has the same name, who does not read, who changes its mind.

use bytes::Bytes;
use futures::FutureExt;
use zincmq::zmtp::{Options, SubSocket, XpubSocket};

use crate::common::soon;
use crate::sockets::until_peers;
use crate::wire::{Raw, command, ready_as};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_word_of_a_subscription_is_what_there_is_whoever_subscribes() {
    let mut publisher = XpubSocket::new();
    let port = bind!(publisher);
    let mut leaving = Raw::introduced(port, "SUB").await;
    let mut coming = Raw::introduced(port, "SUB").await;
    leaving.send(&command(b"SUBSCRIBE", b"t")).await;
    assert_eq!(soon(publisher.recv()).await.unwrap().first(), "\u{1}t");
    // Much behind the word, so that it takes a while until the whole of it is seen to.
    let much = command(b"CANCEL", b"nothing").repeat(500);
    let last = [&command(b"CANCEL", b"t")[..], &much].concat();
    let first = [&much[..much.len() / 2], &command(b"SUBSCRIBE", b"t")].concat();
    for round in 0..300 {
        futures::future::join(leaving.send(&last), coming.send(&first)).await;
        futures::future::join(leaving.is_served(), coming.is_served()).await;
        let mut is = None;
        while let Some(message) = publisher.recv().now_or_never() {
            is = Some(message.unwrap().first()[0] == 1);
        }
        assert_ne!(is, Some(false), "round {round}: somebody subscribes, and the application does not know");
        std::mem::swap(&mut leaving, &mut coming);
    }
}

#[tokio::test]
async fn a_subscriber_that_changes_its_mind_for_ever_holds_one_change_for_a_publisher_that_does_not_read() {
    let mut options = Options::default();
    options.tcp_send_buffer = Some(16 << 10);
    let subscriber = SubSocket::with_options(options);
    let mut monitor = subscriber.monitor();
    let port = bind!(subscriber);
    let mut raw = Raw::connect(port).await;
    raw.introduce(&ready_as("PUB", b"pub")).await;
    until_peers(&mut monitor, 1).await;
    // More than the system takes.
    let long = |index: u8| Bytes::from([&[index][..], &[b'x'; 128 << 10]].concat());
    for index in 0..100 {
        subscriber.subscribe(long(index));
    }
    while subscriber.backlog(b"pub").is_none_or(|backlog| backlog.bytes == 0) {
        tokio::task::yield_now().await;
    }
    let before = subscriber.backlog(b"pub").unwrap().bytes;
    let last = long(99);
    for _ in 0..100_000 {
        subscriber.subscribe("news");
        subscriber.unsubscribe("news");
        subscriber.unsubscribe(last.clone());
        subscriber.subscribe(last.clone());
    }
    let after = subscriber.backlog(b"pub").unwrap().bytes;
    assert!(after <= before.max(1 << 20), "{before} octets, and then {after}");
    subscriber.subscribe("end");
    let mut told = std::collections::BTreeSet::new();
    while !told.contains(&b"end"[..]) {
        let (_, body) = raw.frame().await;
        match (body.strip_prefix(b"\x09SUBSCRIBE"), body.strip_prefix(b"\x06CANCEL")) {
            (Some(prefix), _) => assert!(told.insert(prefix.to_vec()), "told twice"),
            (_, Some(prefix)) => assert!(told.remove(prefix), "it was told of none"),
            _ => panic!("{body:?}"),
        }
    }
    assert_eq!(told.len(), 101);
    assert!(!told.contains(&b"news"[..]));
}

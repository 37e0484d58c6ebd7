//! Open documents on endpoints.

use std::time::Duration;

use futures::FutureExt;

use super::*;
use crate::document::tests::Set;
use crate::document::{Conflict, Keeper, Malformed, Model};
use crate::endpoint::{Client, Host};

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

async fn host(name: &str) -> (Host, Keeper) {
    let host = Host::builder().bind(format!("inproc://handle-{name}")).await.unwrap();
    let keeper = Keeper::builder().start(&host).await.unwrap();
    (host, keeper)
}

async fn client(host: &Host) -> Client {
    Client::builder().subscribe_to_nothing().join(host.address()).await.unwrap()
}

fn add(document: &DocumentHandle<Set>, bytes: &[u8]) -> Result<(), UpdateError> {
    document.try_update(|set| set.push(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn what_failed_and_is_opened_anew_hears_the_others() {
    let (host, _keeper) = host("anew").await;
    let (one, other) = (client(&host).await, client(&host).await);
    let options = || DocumentOptions::new().max_update(3);
    let others = in_time(other.document::<Set>("it")).await.unwrap();
    let mut document = in_time(one.document_with::<Set>("it", options())).await.unwrap();
    for round in 0..20 {
        assert!(matches!(add(&document, b"too large"), Err(UpdateError::TooLarge { .. })));
        document = in_time(one.document_with::<Set>("it", options())).await.unwrap();
        add(&document, &[round]).unwrap();
        in_time(document.synced()).await.unwrap();
        let mut changes = document.changes();
        add(&others, &[100 + round]).unwrap();
        while !document.read(|set| set.0.contains(&(100 + round))) {
            in_time(changes.next()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_the_application_subscribed_to_stays_when_a_document_is_closed() {
    let (host, _keeper) = host("own").await;
    let (one, other) = (client(&host).await, client(&host).await);
    one.subscribe("doc/it/").await.unwrap();
    in_time(in_time(one.document::<Set>("it")).await.unwrap().close()).await;
    // What the application no longer wants, a document may.
    let still = in_time(one.document::<Set>("it")).await.unwrap();
    let mut messages = one.messages();
    let others = in_time(other.document::<Set>("it")).await.unwrap();
    in_time(still.clone().close()).await;
    add(&others, b"a").unwrap();
    in_time(others.synced()).await.unwrap();
    while !in_time(messages.next()).await.unwrap().unwrap().payload().ends_with(b"a") {}
    one.unsubscribe("doc/it/").await.unwrap();
    let again = in_time(one.document::<Set>("it")).await.unwrap();
    one.unsubscribe("doc/it/").await.unwrap();
    add(&again, b"b").unwrap();
    in_time(again.synced()).await.unwrap();
}

#[tokio::test]
async fn who_waits_to_ask_again_works_on_and_closes_at_once() {
    let (host, _keeper) = host("waits").await;
    let (one, other) = (client(&host).await, client(&host).await);
    let document = in_time(one.document::<Set>("it")).await.unwrap();
    let others = in_time(other.document::<Set>("it")).await.unwrap();
    let miss = |time: Duration| {
        let shared = document.shared();
        let now = shared.now() + time;
        shared.with(|replica| replica.on_reset(now));
        shared.wake.notify_one();
        assert!(document.synced().now_or_never().is_none());
    };
    miss(Duration::ZERO);
    // This one waits a little.
    miss(Duration::ZERO);
    add(&document, b"a").unwrap();
    in_time(document.synced()).await.unwrap();
    // And this one for longer than anybody does here.
    let long = Duration::from_secs(3_600);
    miss(long);
    miss(long);
    let mut changes = others.changes();
    in_time(document.update(|set| set.push(b"b".to_vec()))).await.unwrap().unwrap();
    assert!(document.synced().now_or_never().is_none());
    assert_eq!(document.read(|set| set.0.len()), 2);
    while others.read(|set| set.0.len()) < 2 {
        in_time(changes.next()).await.unwrap();
    }
    in_time(document.close()).await;
}

/// Panics when its replica is told to it a second time, as when it is begun.
#[derive(Debug)]
struct Fragile;

static TOLD: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

impl Document for Fragile {
    const KIND: &'static str = "test.fragile";
    const MODEL: Model = Model::Commutative;
    type Fragment = ();
    type Change = ();

    fn empty() -> Self {
        Self
    }

    fn set_replica(&mut self, _: u64) {
        assert_eq!(TOLD.fetch_add(1, std::sync::atomic::Ordering::Relaxed), 0, "as asked");
    }

    fn apply(&mut self, (): &()) -> Result<(), Conflict> {
        Ok(())
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(_: &[u8]) -> Result<Self, Malformed> {
        Ok(Self)
    }

    fn encode((): &()) -> Vec<u8> {
        Vec::new()
    }

    fn decode(_: &[u8]) -> Result<(), Malformed> {
        Ok(())
    }
}

#[tokio::test]
async fn a_type_that_panics_anywhere_leaves_nobody_waiting() {
    let (host, _keeper) = host("panic").await;
    let one = client(&host).await;
    let opened = in_time(one.document::<Fragile>("it")).await;
    assert!(matches!(opened, Err(DocumentError::Panicked { .. })), "{opened:?}");
    in_time(one.document::<Set>("another")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_room_for_one_all_wait_for_their_turn() {
    let (host, _keeper) = host("room").await;
    let one = client(&host).await;
    let document = one.document_with::<Set>("it", DocumentOptions::new().max_unsynced(1, 1 << 20));
    let document = in_time(document).await.unwrap();
    let all: Vec<_> = (0..3_000)
        .map(|n| {
            let document = document.clone();
            tokio::spawn(async move { document.update(|set| set.push(vec![n as u8]).unwrap()).await })
        })
        .collect();
    for updated in all {
        in_time(updated).await.unwrap().unwrap();
    }
    in_time(document.synced()).await.unwrap();
    assert_eq!(document.read(|set| set.0.len()), 256);
}

#[tokio::test]
async fn what_an_endpoint_told_under_an_earlier_number_is_nobody_elses() {
    let (host, _keeper) = host("number").await;
    let one = client(&host).await;
    let document = in_time(one.document::<Set>("it")).await.unwrap();
    let earlier = crate::document::presence::encode(77, Some(&"me".into()));
    one.send(crate::Message::new("doc/it/p", earlier).unwrap()).await.unwrap();
    for n in 0..2 {
        add(&document, &[n]).unwrap();
        in_time(document.synced()).await.unwrap();
    }
    assert_eq!(document.presence(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_behind_a_goodbye() {
    let (host, _keeper) = host("goodbye").await;
    let (one, other) = (client(&host).await, client(&host).await);
    let mut messages = other.messages();
    other.subscribe("doc/it/p").await.unwrap();
    for _ in 0..30 {
        let document = in_time(one.document::<Set>("it")).await.unwrap();
        document.set_presence("here").unwrap();
        in_time(document.close()).await;
        one.send(crate::Message::new("doc/it/p", "end").unwrap()).await.unwrap();
        let mut last = 8;
        loop {
            let message = in_time(messages.next()).await.unwrap().unwrap();
            if message.payload() == "end" {
                break;
            }
            last = message.payload().len();
        }
        assert_eq!(last, 8, "the goodbye");
    }
}

#[tokio::test]
async fn who_may_only_read_opens_documents_and_reads_what_changes() {
    let role = |request: crate::JoinRequest| async move {
        Ok(if request.token.is_empty() { crate::Role::ReadOnly } else { crate::Role::Member })
    };
    let host = Host::builder().authenticator(crate::authenticate_fn(role));
    let host = host.bind("inproc://handle-reader").await.unwrap();
    let keeper = Keeper::builder().start(&host).await.unwrap();
    let writer = Client::builder().subscribe_to_nothing().token("w").join(host.address()).await.unwrap();
    let written = in_time(writer.document::<Set>("it")).await.unwrap();
    add(&written, b"a").unwrap();
    let reader = client(&host).await;
    let read = in_time(reader.document::<Set>("it")).await.unwrap();
    let mut changes = read.changes();
    add(&written, b"b").unwrap();
    while read.read(|set| set.0.len()) < 2 {
        in_time(changes.next()).await.unwrap();
    }
    assert!(matches!(add(&read, b"c"), Err(UpdateError::ReadOnly { .. })));
    assert_eq!(in_time(crate::document::list(&reader)).await.unwrap(), keeper.documents());
    // By hand, too.
    let update =
        crate::Message::new("doc/it/f", "x").unwrap().with_kind(crate::MessageKind::DocumentFragment);
    assert!(matches!(reader.send(update).await, Err(crate::SendError::ReadOnly { .. })));
}

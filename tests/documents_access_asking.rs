//! How the application is asked who may do what with documents: who waits for its answers, what it may do meanwhile, and what holds when nobody answers any more.
#![cfg(feature = "crdt")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use common::{Kind, soon};
use futures::{FutureExt, StreamExt};
use zincmq::document::crdt::Text;
use zincmq::document::store::{MemoryStore, Store, StoreChange, StoreError, Stored};
use zincmq::document::{Access, DocumentError, DocumentExt, DocumentHandle, Keeper, KeeperError, list};
use zincmq::prelude::*;
use zincmq::{MessageKind, ReceiptError, StreamOptions};

async fn host() -> Host {
    Host::builder().bind(common::address(Kind::Tcp)).await.expect("bind")
}

async fn join(host: &Host) -> Client {
    soon(Client::builder().join(host.address().clone())).await.expect("join")
}

async fn open(client: &Client, name: &str) -> DocumentHandle<Text> {
    soon(client.document::<Text>(name)).await.expect("open")
}

async fn write(document: &DocumentHandle<Text>, text: &str) {
    document.update(|draft| draft.append(text)).await.expect("open").expect("it fits");
    soon(document.synced()).await.expect("of use");
}

/// Whether something about this document gets its place.
async fn is_ordered(client: &Client, name: &str) -> bool {
    let message = Message::new(format!("doc/{name}/f"), vec![0x02, 0]).expect("a topic");
    let receipt = client.send(message.with_kind(MessageKind::DocumentFragment)).await.expect("it is up");
    match soon(receipt.ordered()).await {
        Ok(_) => true,
        Err(ReceiptError::Refused) => false,
        Err(error) => panic!("{error}"),
    }
}

fn read_only(_: EndpointId, _: &str) -> Access {
    Access::Read
}

/// A store that cannot be read.
#[derive(Debug)]
struct Broken;

impl Store for Broken {
    fn names(&mut self) -> Result<Vec<String>, StoreError> {
        Err(StoreError::Io { path: "it".to_owned(), reason: "as asked".to_owned() })
    }

    fn load(&mut self, _: &str) -> Result<Option<Stored>, StoreError> {
        Ok(None)
    }

    fn commit(&mut self, _: &[StoreChange]) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn what_may_not_be_done_is_not_done_because_a_keeper_fails_to_start() {
    let host = host().await;
    let client = join(&host).await;
    assert!(is_ordered(&client, "it").await, "nobody says otherwise");
    for _ in 0..2 {
        let failed = soon(Keeper::builder().access(read_only).store(Broken).start(&host)).await;
        assert_eq!(failed.expect_err("as asked"), KeeperError::Store("it: as asked".to_owned()));
        assert!(!is_ordered(&client, "it").await);
        // Nor because another does, that would let it be done.
        soon(Keeper::builder().store(Broken).start(&host)).await.expect_err("as asked");
        assert!(!is_ordered(&client, "it").await);
    }
    let keeper = soon(Keeper::builder().start(&host)).await.expect("a keeper");
    assert!(is_ordered(&client, "it").await, "whoever starts it wants it so");
    soon(keeper.close()).await;
}

#[tokio::test]
async fn there_is_one_keeper_at_a_host_and_what_it_forbids_no_other_allows() {
    let host = host().await;
    let client = join(&host).await;
    let keeper = soon(Keeper::builder().access(read_only).start(&host)).await.expect("a keeper");
    let second = soon(Keeper::builder().start(&host)).await;
    assert_eq!(second.expect_err("there is one"), KeeperError::Occupied);
    assert!(!is_ordered(&client, "it").await);
    // One that is about to end is waited for, and so is its store.
    drop(keeper);
    let keeper = soon(Keeper::builder().store(MemoryStore::new()).start(&host)).await.expect("a keeper");
    assert!(is_ordered(&client, "it").await);
    // Elsewhere there may be as many as one likes.
    let _first = soon(Keeper::builder().start(&client)).await.expect("a keeper");
    let _second = soon(Keeper::builder().start(&client)).await.expect("another");
    soon(keeper.close()).await;
}

#[tokio::test]
async fn between_one_keeper_and_the_next_nothing_is_allowed_that_neither_allows() {
    let host = host().await;
    let client = join(&host).await;
    let keeper = soon(Keeper::builder().access(read_only).start(&host)).await.expect("a keeper");
    let is_over = Arc::new(AtomicBool::new(false));
    let trying = tokio::spawn({
        let (client, is_over) = (client.clone(), Arc::clone(&is_over));
        async move {
            let mut ordered = 0;
            while !is_over.load(Ordering::SeqCst) {
                ordered += u32::from(is_ordered(&client, "it").await);
            }
            ordered
        }
    });
    let mut keeper = keeper;
    for _ in 0..50 {
        drop(keeper);
        keeper = soon(Keeper::builder().access(read_only).start(&host)).await.expect("a keeper");
    }
    is_over.store(true, Ordering::SeqCst);
    assert_eq!(soon(trying).await.expect("no panic"), 0);
    soon(keeper.close()).await;
    assert!(is_ordered(&client, "it").await);
}

#[tokio::test]
async fn who_is_asked_may_ask_the_keeper() {
    let host = host().await;
    let itself = Arc::new(OnceLock::<Keeper>::new());
    let asked = Arc::clone(&itself);
    // Who opens it may not see it before there is something in it.
    let access = move |_, name: &str| match asked.get().expect("it has started").get::<Text>(name) {
        Ok(Some((text, _))) if text == *"ready" => Access::Read,
        _ => Access::Denied("not ready".to_owned()),
    };
    let keeper = soon(Keeper::builder().access(access).start(&host)).await.expect("a keeper");
    itself.set(keeper.clone()).expect("once");
    let client = join(&host).await;
    let denied = soon(client.document::<Text>("it")).await.expect_err("there is nothing");
    assert_eq!(denied, DocumentError::Refused { name: "it".to_owned(), reason: "not ready".to_owned() });
    assert_eq!(soon(list(&client)).await.expect("a list").len(), 0);
    // About the host's own application nobody is asked.
    write(&soon(host.document::<Text>("it")).await.expect("open"), "ready").await;
    assert_eq!(open(&client, "it").await.read(ToString::to_string), "ready");
    assert_eq!(soon(list(&client)).await.expect("a list").len(), 1);
    soon(keeper.close()).await;
}

#[tokio::test]
async fn who_has_the_application_think_about_much_keeps_nobody_else_waiting() {
    let host = host().await;
    let (slow, other) = (join(&host).await, join(&host).await);
    let (go, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let (begins, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let thinks_about = slow.id();
    let access = move |id: EndpointId, _: &str| {
        if id == thinks_about {
            begins.send(()).expect("the test waits for it");
            // Until the end of the test.
            let _ = told.lock().expect("no panic").recv();
        }
        Access::Write
    };
    let keeper = soon(Keeper::builder().access(access).start(&host)).await.expect("a keeper");
    // It asks for many, and says something about more.
    let opening = (0..30).map(|number| {
        let slow = slow.clone();
        tokio::spawn(async move { slow.document::<Text>(&format!("slow-{number}")).await.map(drop) })
    });
    let opening: Vec<_> = opening.collect();
    for number in 0..30 {
        let message = Message::new(format!("doc/other-{number}/f"), vec![0x02, 0]).expect("a topic");
        slow.send(message.with_kind(MessageKind::DocumentFragment)).await.expect("it is up");
    }
    soon(begun.recv()).await.expect("the application thinks about it");
    let document = open(&other, "it").await;
    write(&document, "of another").await;
    let (kept, _) = keeper.get::<Text>("it").expect("a text").expect("it is there");
    assert_eq!(kept.to_string(), "of another");
    drop(go);
    for opening in opening {
        soon(opening).await.expect("no panic").expect("it may");
    }
}

#[tokio::test]
async fn a_change_of_rights_comes_into_force_though_nobody_waits_for_it() {
    let host = host().await;
    let (client, other) = (join(&host).await, join(&host).await);
    let may_write = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&may_write);
    let access = move |_, _: &str| if asked.load(Ordering::SeqCst) { Access::Write } else { Access::Read };
    let keeper = soon(Keeper::builder().access(access).start(&host)).await.expect("a keeper");
    let document = open(&client, "it").await;
    write(&document, "a").await;
    let mut asks = other.messages_with(&StreamOptions::new().prefix("doc//"));
    soon(other.subscribe("doc//")).await.expect("it is up");
    may_write.store(false, Ordering::SeqCst);
    assert!(pin!(keeper.access_changed()).now_or_never().is_none(), "the host has to be told");
    // Whoever has one open is asked to ask again.
    soon(asks.next()).await.expect("a message").expect("no loss");
    assert!(!is_ordered(&client, "it").await);
}

#[test]
fn where_the_keepers_runtime_has_ended_nothing_is_allowed_that_was_not_before() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build();
    let (hosts, keepers) = (runtime().expect("a runtime"), runtime().expect("a runtime"));
    let (host, known, unknown) = hosts.block_on(async {
        let host = host().await;
        let (known, unknown) = (join(&host).await, join(&host).await);
        (host, known, unknown)
    });
    let keeper = keepers.block_on(Keeper::builder().access(|_, _| Access::Write).start(&host));
    let keeper = keeper.expect("a keeper");
    hosts.block_on(async { assert!(is_ordered(&known, "it").await) });
    drop(keepers);
    hosts.block_on(async {
        assert!(is_ordered(&known, "it").await);
        assert!(!is_ordered(&unknown, "it").await);
        drop(keeper);
        assert!(!is_ordered(&unknown, "it").await);
        let keeper = soon(Keeper::builder().start(&host)).await.expect("the place is free");
        assert!(is_ordered(&unknown, "it").await);
        soon(keeper.close()).await;
    });
}

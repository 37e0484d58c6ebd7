//! Keepers on other nodes than the host: they have what the cluster has, give it back to a host that lost it, and their stores are as good as the host's.
#![cfg(all(feature = "crdt", feature = "store"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;

use std::time::Duration;

use common::{Kind, bind_again, fixed_address, soon};
use zincmq::document::crdt::Text;
use zincmq::document::store::RedbStore;
use zincmq::document::{Access, DocumentError, DocumentExt, DocumentHandle, Keeper, KeeperError};
use zincmq::prelude::*;

const NAMES: [&str; 3] = ["agenda", "minutes", "notes"];

async fn join(address: &zincmq::Address) -> Client {
    soon(Client::builder().subscribe_to_nothing().join(address.clone())).await.expect("join")
}

async fn open(client: &Client, name: &str) -> DocumentHandle<Text> {
    soon(client.document::<Text>(name)).await.expect("open")
}

/// Writes this at the end of each document, and waits until it is in order.
async fn write(client: &Client, text: &str) {
    for name in NAMES {
        let document = open(client, name).await;
        document.update(|draft| draft.insert(draft.len(), text)).await.expect("open").expect("it fits");
        soon(document.synced()).await.expect("of use");
    }
}

fn kept(keeper: &Keeper, name: &str) -> Option<String> {
    keeper.get::<Text>(name).expect("a text").map(|(text, _)| text.to_string())
}

/// Waits until a keeper has this of all documents.
async fn has(keeper: &Keeper, text: &str) {
    let has = async {
        while NAMES.iter().any(|name| kept(keeper, name).as_deref() != Some(text)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(has).await;
}

#[tokio::test]
async fn a_host_that_lost_all_gets_it_back_from_a_keeper_elsewhere_and_a_new_one_goes_on_from_its_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("documents");
    let address = fixed_address(Kind::Tcp).await;
    let host = bind_again(address.clone()).await;
    let keeper = Keeper::builder().start(&host).await.expect("a keeper");
    let writer = join(&address).await;
    write(&writer, "one").await;
    // It comes late, and is there for the rest.
    let client = join(&address).await;
    let store = RedbStore::open(&path).expect("a store");
    let mirror = Keeper::builder().store(store).start(&client).await.expect("a keeper");
    soon(mirror.caught_up()).await.expect("of use");
    assert_eq!(mirror.documents(), keeper.documents());
    write(&writer, " two").await;
    has(&mirror, "one two").await;
    assert_eq!((mirror.stats().missing, mirror.stats().malformed), (0, 0));
    drop(writer);
    drop((host, keeper));

    // Nobody has a document open.
    let host = bind_again(address.clone()).await;
    let keeper = Keeper::builder().start(&host).await.expect("a keeper");
    has(&keeper, "one two").await;
    let writer = join(&address).await;
    write(&writer, " three").await;
    has(&mirror, "one two three").await;
    soon(mirror.caught_up()).await.expect("of use");
    soon(mirror.close()).await;
    drop((writer, client, keeper));
    assert_eq!(soon(host.shutdown()).await.unsent, 0);
    drop(host);

    // Elsewhere.
    let host = Host::builder().bind(common::address(Kind::Tcp)).await.expect("bind");
    let store = RedbStore::open(&path).expect("it was let go");
    let keeper = Keeper::builder().store(store).start(&host).await.expect("a keeper");
    has(&keeper, "one two three").await;
    soon(keeper.caught_up()).await.expect("of use");
    let writer = join(host.address()).await;
    write(&writer, " four").await;
    has(&keeper, "one two three four").await;
}

#[tokio::test]
async fn where_the_host_keeps_nothing_who_opens_a_document_gets_it_from_a_keeper_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("documents");
    let host = Host::builder().bind(common::address(Kind::Tcp)).await.expect("bind");
    let hosts = Keeper::builder().store(RedbStore::open(&path).expect("a store"));
    let hosts = hosts.start(&host).await.expect("a keeper");
    let writer = join(host.address()).await;
    write(&writer, "one").await;
    drop(writer);
    soon(hosts.close()).await;

    let client = join(host.address()).await;
    let access = |_, name: &str| match name {
        "notes" => Access::Denied("not for you".to_owned()),
        _ => Access::Write,
    };
    let store = RedbStore::open(&path).expect("it was let go");
    let mirror = Keeper::builder().store(store).access(access).start(&client).await.expect("a keeper");
    soon(mirror.caught_up()).await.expect("of use");
    has(&mirror, "one").await;
    let reader = join(host.address()).await;
    assert_eq!(open(&reader, "minutes").await.read(ToString::to_string), "one");
    let denied = soon(reader.document::<Text>("notes")).await.map(|_| ());
    assert_eq!(
        denied,
        Err(DocumentError::Refused { name: "notes".to_owned(), reason: "not for you".to_owned() })
    );
    // On its own endpoint, too.
    assert_eq!(open(&client, "minutes").await.read(ToString::to_string), "one");
    assert_eq!(soon(client.shutdown()).await.unsent, 0);
    assert_eq!(soon(mirror.failed()).await, KeeperError::Closed);
}

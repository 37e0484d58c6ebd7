//! Texts that were typed by people, typed once more: by processes of their own, over every transport and both carriers, each seeing just what its
//! author saw. In the end all have what came out then.
#![cfg(all(target_os = "linux", feature = "crdt", feature = "test-utils"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/trace.rs"]
mod trace;

use std::time::Duration;

use common::Kind;
use process::{Process, Role, say};
use serde_json::{Value, json};
use trace::{Patch, Trace};
use zincmq::document::crdt::Text;
use zincmq::document::{DocumentExt, DocumentHandle, DocumentOptions, Keeper};
use zincmq::prelude::*;
use zincmq::{Address, Carrier};

const NAME: &str = "typed";
/// The second half of a replay, and what the machine may be busy with.
const PATIENCE: Duration = Duration::from_secs(300);

fn carrier(name: &str) -> Carrier {
    match name {
        "zmtp" => Carrier::Zmtp,
        "zeromq" => Carrier::Zeromq,
        other => panic!("{other} is no carrier"),
    }
}

/// A host that keeps documents, in the test's own process.
async fn host(kind: Kind, carrier: Carrier) -> (Host, Keeper) {
    let host = Host::builder().transport(carrier).bind(common::address(kind)).await.expect("bind");
    let keeper = Keeper::builder().start(&host).await.expect("a keeper");
    (host, keeper)
}

async fn join(address: &Address, carrier: Carrier) -> Client {
    let builder = Client::builder().transport(carrier).subscribe_to_nothing();
    builder.join(address.clone()).await.expect("join")
}

async fn apply(document: &DocumentHandle<Text>, patches: &[Patch]) {
    let typed = document.update(|text| {
        for Patch(position, deleted, inserted) in patches {
            text.replace(*position, *deleted, inserted)?;
        }
        Ok::<(), zincmq::document::Conflict>(())
    });
    typed.await.expect("the document is open").expect("the patch fits");
}

#[test]
#[ignore = "a process of the tests below"]
fn typist_role() {
    process::play(typist);
}

/// One of two people, typing.
async fn typist(role: Role) {
    let trace = Trace::load("friendsforever");
    let agent = role.number("agent") as usize;
    let others = trace.of_agent(1 - agent).len() as u64;
    let client =
        join(&role.text("address").parse().expect("an address"), carrier(role.text("carrier"))).await;
    // In a few places both typed at once, and the first one's text came first: that is for the replicas' numbers to say, with bare yrs, too.
    let options = DocumentOptions::new().replica((agent as u64 + 1) << 32);
    let document = client.document_with::<Text>(NAME, options).await.expect("open");
    document.hold(0);
    say(&json!({ "event": "open" }));
    let mut orders = role.orders();
    orders.recv().await.expect("an order");
    for (seen, patches) in trace.of_agent(agent) {
        document.hold(seen);
        document.let_in(seen).await;
        apply(&document, patches).await;
    }
    document.hold(u64::MAX);
    document.synced().await.expect("all is in place");
    document.let_in(others).await;
    let text = document.read(ToString::to_string);
    say(&json!({ "event": "typed", "is_right": text == trace.end_content, "length": text.len() }));
    while orders.recv().await.is_some() {}
}

async fn two_friends(kind: Kind, name: &str) {
    let trace = Trace::load("friendsforever");
    let (host, keeper) = host(kind, carrier(name)).await;
    let typists: Vec<Process> = (0..2)
        .map(|agent| {
            let address = host.address().to_string();
            Process::start("typist_role", &json!({ "agent": agent, "address": address, "carrier": name }))
        })
        .collect();
    // They are waited for on a thread: the host runs on this one.
    let typed = tokio::task::spawn_blocking(move || {
        let mut typists = typists;
        typists.iter_mut().for_each(|typist| _ = typist.next("open"));
        typists.iter_mut().for_each(|typist| typist.tell("type"));
        let typed: Vec<Value> = typists.iter_mut().map(|typist| typist.next("typed")).collect();
        typists.into_iter().for_each(Process::ends_well);
        typed
    });
    let typed = tokio::time::timeout(PATIENCE, typed).await.expect("in time").expect("no panic");
    for typed in typed {
        assert_eq!(typed["is_right"], true, "{typed}");
    }
    let (text, _) = keeper.get::<Text>(NAME).expect("a text").expect("it is kept");
    assert_eq!(text.to_string(), trace.end_content, "what the host has");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_friends_over_tcp() {
    two_friends(Kind::Tcp, "zmtp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_friends_over_ipc() {
    two_friends(Kind::Ipc, "zmtp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_friends_over_tcp_and_the_zeromq_crate() {
    two_friends(Kind::Tcp, "zeromq").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_friends_over_ipc_and_the_zeromq_crate() {
    two_friends(Kind::Ipc, "zeromq").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_types_and_three_watch() {
    let trace = Trace::load("sveltecomponent");
    let (host, keeper) = host(Kind::Tcp, Carrier::Zmtp).await;
    let mut watchers = Vec::new();
    for _ in 0..3 {
        let client = join(host.address(), Carrier::Zmtp).await;
        let document = client.document::<Text>(NAME).await.expect("open");
        watchers.push((client, document));
    }
    let client = join(host.address(), Carrier::Zmtp).await;
    let document = client.document::<Text>(NAME).await.expect("open");
    for txn in &trace.txns {
        apply(&document, &txn.patches).await;
    }
    document.synced().await.expect("all is in place");
    for (_, watcher) in &watchers {
        watcher.let_in(trace.txns.len() as u64).await;
        assert_eq!(watcher.read(ToString::to_string), trace.end_content);
    }
    assert_eq!(document.read(ToString::to_string), trace.end_content);
    let (text, _) = keeper.get::<Text>(NAME).expect("a text").expect("it is kept");
    assert_eq!(text.to_string(), trace.end_content);
    // Whoever comes late has all of it, though the host has folded most.
    let late = join(host.address(), Carrier::Zmtp).await;
    let document = late.document::<Text>(NAME).await.expect("open");
    assert_eq!(document.read(ToString::to_string), trace.end_content);
}

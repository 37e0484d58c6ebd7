//! An ordered document: what is changed here shows at once, the order decides in the end, and who was overtaken is told.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;

use common::{Kind, bind_again, fixed_address, soon};
use futures::StreamExt;
use zincmq::document::{
    Conflict, Document, DocumentError, DocumentEvent, DocumentExt, DocumentHandle, DocumentOptions, Keeper,
    Malformed, Model,
};
use zincmq::prelude::*;

/// A number that is added to, and set by whoever knows what it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counter(i64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Add(i64),
    Set { from: i64, to: i64 },
}

fn number(bytes: &[u8]) -> Result<i64, Malformed> {
    bytes.try_into().map(i64::from_be_bytes).map_err(|_| Malformed::new("no number"))
}

impl Document for Counter {
    const KIND: &'static str = "test.counter";
    const MODEL: Model = Model::Ordered;
    type Fragment = Step;
    type Change = ();

    fn empty() -> Self {
        Self(0)
    }

    fn apply(&mut self, step: &Step) -> Result<(), Conflict> {
        match *step {
            Step::Add(n) => self.0 += n,
            Step::Set { from, to } if self.0 == from => self.0 = to,
            Step::Set { from, .. } => return Err(Conflict::new(format!("it is {}, not {from}", self.0))),
        }
        Ok(())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
        number(snapshot).map(Self)
    }

    fn encode(step: &Step) -> Vec<u8> {
        match step {
            Step::Add(n) => n.to_be_bytes().to_vec(),
            Step::Set { from, to } => [from.to_be_bytes(), to.to_be_bytes()].concat(),
        }
    }

    fn decode(step: &[u8]) -> Result<Step, Malformed> {
        match step.split_at_checked(8) {
            Some((from, to)) if !to.is_empty() => Ok(Step::Set { from: number(from)?, to: number(to)? }),
            _ => number(step).map(Step::Add),
        }
    }

    fn fork(&self) -> Self {
        self.clone()
    }
}

async fn open(address: &zincmq::Address) -> (Client, DocumentHandle<Counter>) {
    let client = Client::builder().subscribe_to_nothing().join(address.clone()).await.expect("join");
    let counter = soon(client.document::<Counter>("counter")).await.expect("open");
    (client, counter)
}

async fn until(counter: &DocumentHandle<Counter>, value: i64) {
    let mut changes = counter.changes();
    let reached = async {
        while counter.read(|counter| counter.0) != value {
            changes.next().await.expect("open");
        }
    };
    soon(reached).await;
}

#[tokio::test]
async fn own_steps_show_at_once_and_the_order_decides() {
    let host = Host::builder().bind(common::address(Kind::Tcp)).await.expect("bind");
    let keeper = Keeper::builder().knows::<Counter>().start(&host).await.expect("a keeper");
    let ((_a, first), (_b, second)) = (open(host.address()).await, open(host.address()).await);
    let mut changes = second.changes();
    first.update(|counter| counter.push(Step::Add(5))).await.expect("open").expect("it applies");
    assert_eq!(first.read(|counter| counter.0), 5, "before anybody else knows");
    until(&second, 5).await;

    // Both set it from what they see; one of them is told that the other was first.
    let mut mine = first.changes();
    first
        .update(|counter| counter.push(Step::Set { from: 5, to: 10 }))
        .await
        .expect("open")
        .expect("it applies");
    second
        .update(|counter| counter.push(Step::Set { from: 5, to: 20 }))
        .await
        .expect("open")
        .expect("it applies");
    soon(first.synced()).await.expect("of use");
    soon(second.synced()).await.expect("of use");
    let refused = async {
        loop {
            let event = tokio::select! {
                event = mine.next() => event,
                event = changes.next() => event,
            };
            if let DocumentEvent::Refused { fragments, .. } = event.expect("the documents are open") {
                return fragments;
            }
        }
    };
    let expected = match soon(refused).await.as_slice() {
        [Step::Set { to: 10, .. }] => 20,
        [Step::Set { to: 20, .. }] => 10,
        other => panic!("{other:?}"),
    };
    until(&first, expected).await;
    until(&second, expected).await;
    let (kept, _) = keeper.get::<Counter>("counter").expect("a counter").expect("it is kept");
    assert_eq!(kept.0, expected);
}

#[tokio::test]
async fn a_host_that_has_lost_everything_is_given_the_document_back() {
    let address = fixed_address(Kind::Tcp).await;
    let host = bind_again(address.clone()).await;
    let keeper = Keeper::builder().knows::<Counter>().start(&host).await.expect("a keeper");
    let ((_a, first), (_b, second)) = (open(&address).await, open(&address).await);
    for _ in 0..10 {
        first.update(|counter| counter.push(Step::Add(1))).await.expect("open").expect("it applies");
        second.update(|counter| counter.push(Step::Add(10))).await.expect("open").expect("it applies");
    }
    until(&first, 110).await;
    until(&second, 110).await;
    drop((host, keeper));

    let host = bind_again(address.clone()).await;
    let keeper = Keeper::builder().knows::<Counter>().start(&host).await.expect("a keeper");
    first.update(|counter| counter.push(Step::Add(1_000))).await.expect("open").expect("it applies");
    until(&first, 1_110).await;
    until(&second, 1_110).await;
    soon(first.synced()).await.expect("of use");
    soon(second.synced()).await.expect("of use");
    let (_c, third) = open(&address).await;
    assert_eq!(third.read(|counter| counter.0), 1_110);
    let (kept, _) = keeper.get::<Counter>("counter").expect("a counter").expect("it is kept");
    assert_eq!(kept.0, 1_110);
}

#[tokio::test]
async fn empty_and_unavailable_are_told_apart() {
    let host = Host::builder().bind(common::address(Kind::Tcp)).await.expect("bind");
    let client = Client::builder().subscribe_to_nothing().join(host.address().clone()).await.expect("join");
    let unavailable = soon(client.document::<Counter>("counter")).await;
    assert_eq!(unavailable.map(|_| ()), Err(DocumentError::Unavailable { name: "counter".into() }));
    let _keeper = Keeper::builder().knows::<Counter>().start(&host).await.expect("a keeper");
    let counter = soon(client.document::<Counter>("counter")).await.expect("it is empty");
    assert_eq!(counter.read(|counter| counter.0), 0);
    assert!(matches!(client.document::<Counter>("a/b").await, Err(DocumentError::Name { .. })));
}

#[tokio::test]
async fn a_keeper_that_comes_late_has_what_is_open_and_so_has_one_in_its_place() {
    let host = Host::builder().bind(common::address(Kind::Tcp)).await.expect("bind");
    let joined = || Client::builder().subscribe_to_nothing().join(host.address().clone());
    let first = joined().await.expect("join");
    let create = DocumentOptions::new().create(true);
    let counter = soon(first.document_with::<Counter>("counter", create)).await.expect("it is new");
    counter.update(|draft| draft.push(Step::Add(1))).await.expect("open").expect("it applies");
    soon(counter.synced()).await.expect("in sync");
    for expected in 1..3 {
        let keeper = Keeper::builder().knows::<Counter>().start(&host).await.expect("a keeper");
        let has_it = async {
            while keeper.documents().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        soon(has_it).await;
        let second = joined().await.expect("join");
        let opened = soon(second.document::<Counter>("counter")).await.expect("it is kept");
        assert_eq!(opened.read(|counter| counter.0), expected);
        counter.update(|draft| draft.push(Step::Add(1))).await.expect("open").expect("it applies");
        soon(counter.synced()).await.expect("in sync");
        keeper.close().await;
    }
}

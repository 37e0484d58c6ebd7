//! One text that eight clients change at once, in the same few places, while their connections are cut, they are sent away, and the host dies twice: once
//! with a store and once without. In the end all have the same text, and nothing of what anybody wrote is missing.
//!
//! `ZINCMQ_EDITS` sets how many edits there are in all, 4,000 by default; 50,000 take minutes without optimisation.
#![cfg(all(target_os = "linux", feature = "crdt", feature = "store"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;
#[path = "common/dice.rs"]
mod dice;
#[path = "common/proxy.rs"]
mod proxy;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dice::Dice;
use proxy::{Channel, Fault, Proxy};
use tokio::runtime::Runtime;
use zincmq::document::crdt::Text;
use zincmq::document::store::{RedbStore, StoreError};
use zincmq::document::{DocumentExt, DocumentHandle, Keeper};
use zincmq::prelude::*;
use zincmq::transport::BoundAddresses;

const CLIENTS: usize = 8;
const NAME: &str = "disputed";
const PATIENCE: Duration = Duration::from_secs(300);

/// A host with a runtime of its own, which ends from one moment to the next.
struct Life {
    runtime: Option<Runtime>,
    host: Host,
    keeper: Keeper,
}

impl Life {
    /// At these addresses, if there was one before.
    fn begin(at: Option<&BoundAddresses>, store: Option<&std::path::Path>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (host, keeper) = runtime.block_on(async {
            let host = loop {
                // Evicted clients are to come back soon, and dead connections to be noticed.
                let builder = Host::builder()
                    .quarantine(Duration::from_millis(50), Duration::from_millis(200))
                    .lease(Duration::from_secs(2));
                let bound = match at {
                    None => builder.bind("tcp://127.0.0.1:0").await,
                    Some(at) => {
                        let builder =
                            builder.bind_broadcast(at.broadcast.clone()).bind_submit(at.submit.clone());
                        builder.bind(at.control.clone()).await
                    }
                };
                match bound {
                    Ok(host) => break host,
                    // The one before has just let go of its sockets.
                    Err(_) if at.is_some() => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            };
            let builder = Keeper::builder();
            let builder = match store {
                Some(path) => builder.store(open(path)),
                None => builder,
            };
            let keeper = builder.start(&host).await.expect("a keeper");
            (host, keeper)
        });
        Self { runtime: Some(runtime), host, keeper }
    }

    /// Nothing is said to anybody, nor brought to an end.
    fn end(mut self) {
        self.runtime.take().expect("it runs").shutdown_background();
    }
}

/// The store, when the one who had it has let go of it.
fn open(path: &std::path::Path) -> RedbStore {
    loop {
        match RedbStore::open(path) {
            Ok(store) => return store,
            Err(StoreError::InUse { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What a client has written and taken back, of its own letter.
#[derive(Debug, Default)]
struct Tally {
    written: AtomicU64,
    taken_back: AtomicU64,
}

fn letter(client: usize) -> char {
    // Some are of two bytes, some of four.
    ['a', 'b', 'c', 'd', 'é', 'ø', '𝄞', '🦀'][client]
}

/// Writes its letter, and takes some of its letters back: those of others are theirs alone, so that each can be accounted for.
async fn dispute(
    document: DocumentHandle<Text>,
    client: usize,
    edits: u64,
    tally: Arc<Tally>,
    done: Arc<AtomicU64>,
) {
    let mut dice = Dice::new(client as u64 + 1);
    let own = letter(client);
    for _ in 0..edits {
        let (place, jitter, takes_back) =
            (dice.below(3) as usize, dice.below(4) as usize, dice.below(4) == 0);
        let edit = document.update(|text| {
            let length = text.len();
            let position = (length * place / 2 + jitter).min(length);
            let near = position.saturating_sub(20)..(position + 20).min(length);
            let found = text.slice(near.clone()).expect("in range").chars().position(|letter| letter == own);
            match found.filter(|_| takes_back) {
                Some(at) => {
                    text.delete(near.start + at, 1).expect("in range");
                    tally.taken_back.fetch_add(1, Ordering::Relaxed);
                }
                None => {
                    text.insert(position, &own.to_string()).expect("in range");
                    tally.written.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        edit.await.expect("the document is of use");
        done.fetch_add(1, Ordering::Relaxed);
        if dice.below(8) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// What two texts do not have in common, at which place, with how long they are.
fn difference(one: &str, other: &str) -> String {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let before = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
    let behind = one[before..].iter().rev().zip(other[before..].iter().rev());
    let behind = behind.take_while(|(one, other)| one == other).count();
    let middle = |text: &[char]| text[before..text.len() - behind].iter().take(400).collect::<String>();
    format!("{} and {} long, at {before} {:?} and {:?}", one.len(), other.len(), middle(&one), middle(&other))
}

#[test]
fn eight_dispute_one_text_and_nothing_of_it_is_missing() {
    let edits = std::env::var("ZINCMQ_EDITS").ok().and_then(|edits| edits.parse().ok()).unwrap_or(4_000);
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().join("documents.redb");
    let clients = Runtime::new().expect("a runtime");
    let mut life = Life::begin(None, Some(&store));
    let bound = life.host.bound().clone();
    let proxies: Vec<Proxy> = clients.block_on(async {
        let proxies = (0..CLIENTS as u8).map(|n| Proxy::start(&life.host, 60 + n));
        futures::future::try_join_all(proxies)
            .await
            .expect("ports that are free at the proxies' addresses, too")
    });
    let opened = clients.block_on(async {
        let open = proxies.iter().map(async |proxy| {
            let builder = Client::builder()
                .subscribe_to_nothing()
                .backoff(Duration::from_millis(10), Duration::from_millis(200));
            let client = builder.join(proxy.address().clone()).await.expect("join");
            let document = client.document::<Text>(NAME).await.expect("open");
            (client, document)
        });
        futures::future::join_all(open).await
    });

    let done = Arc::new(AtomicU64::new(0));
    let tallies: Vec<Arc<Tally>> = (0..CLIENTS).map(|_| Arc::default()).collect();
    let disputes: Vec<_> = opened
        .iter()
        .enumerate()
        .map(|(n, (_, document))| {
            let part = edits / CLIENTS as u64;
            let (tally, done) = (Arc::clone(&tallies[n]), Arc::clone(&done));
            clients.spawn(dispute(document.clone(), n, part, tally, done))
        })
        .collect();

    // Something goes wrong each time that some more edits were made: the dispute goes on meanwhile.
    let mut dice = Dice::new(99);
    let steps = 60;
    for step in 1..steps {
        let until = edits * step / steps;
        clients.block_on(async {
            let progress = async {
                while done.load(Ordering::Relaxed) < until {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let went_on = tokio::time::timeout(PATIENCE, progress).await;
            assert!(went_on.is_ok(), "the dispute stands still at {done:?} of {edits}");
        });
        match step {
            20 | 40 => {
                life.end();
                // The second time nothing is left but what the clients have.
                life =
                    Life::begin(Some(&bound), Some(&store).filter(|_| step == 20).map(|path| path.as_path()));
            }
            step if step % 3 == 0 => {
                let (client, _) = &opened[dice.below(CLIENTS as u64) as usize];
                let (host, id) = (life.host.clone(), client.id());
                life.runtime.as_ref().expect("it runs").block_on(host.kick(id, "a break".to_owned()));
            }
            _ => {
                let proxy = &proxies[dice.below(CLIENTS as u64) as usize];
                let channel = dice.pick(&[Channel::Control, Channel::Broadcast, Channel::Submit]);
                let fault = dice.pick(&[Fault::Cut, Fault::Reset]);
                // One that is not connected just now cannot be cut.
                proxy.doom(channel, dice.below(2_000), fault);
            }
        }
    }
    clients.block_on(async {
        for dispute in disputes {
            tokio::time::timeout(PATIENCE, dispute).await.expect("it ends").expect("no panic");
        }
        for (_, document) in &opened {
            tokio::time::timeout(PATIENCE, document.synced())
                .await
                .expect("all is in place")
                .expect("of use");
        }
    });
    // Whoever opens it now has all of it; what the others have is the same when it has come.
    let expected = clients.block_on(async {
        let client =
            Client::builder().subscribe_to_nothing().join(bound.control.clone()).await.expect("join");
        let document = client.document::<Text>(NAME).await.expect("open");
        document.read(ToString::to_string)
    });
    let kept = life.keeper.get::<Text>(NAME).expect("a text").expect("it is kept").0.to_string();
    assert_eq!(kept, expected, "what the host has");
    for (n, (_, document)) in opened.iter().enumerate() {
        clients.block_on(async {
            let same = async {
                while document.read(ToString::to_string) != expected {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let came = tokio::time::timeout(PATIENCE, same).await;
            let difference = || difference(&document.read(ToString::to_string), &expected);
            assert!(came.is_ok(), "client {n} has another text: {}", difference());
        });
        let (written, taken_back) =
            (tallies[n].written.load(Ordering::Relaxed), tallies[n].taken_back.load(Ordering::Relaxed));
        let there = expected.chars().filter(|there| *there == letter(n)).count() as u64;
        assert_eq!(
            there,
            written - taken_back,
            "of client {n}, which wrote {written} and took {taken_back} back"
        );
    }
    drop(opened);
    life.end();
}

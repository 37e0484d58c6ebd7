//! A document of one's own: a counter with rules, where the order decides.
//!
//! `cargo run --example ordered_counter`: a host and two clients in this process.
//!
//! Or with a host elsewhere (`zincmq host --bind tcp://127.0.0.1:7000`):
//! `cargo run --example ordered_counter -- tcp://127.0.0.1:7000`.
//!
//! Texts and tables of this crate take whatever is done to them. Where that is not good enough — money, stock, seats — write a
//! state machine: a state, what changes it, and when that does not apply. What a node changes, it sees at once; when somebody
//! was faster and it does not apply any more, it is taken back, and told as `Refused`.

use std::error::Error;

use futures::StreamExt;
use zincmq::document::{
    Conflict, Document, DocumentEvent, DocumentExt, DocumentHandle, Keeper, Malformed, Model,
};
use zincmq::prelude::*;

/// The state: how many seats are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seats(u64);

/// What changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// So many more: applies as long as there is room.
    Add(u64),
    /// From just this number to that one: applies as long as nobody was faster.
    CompareAndSet { from: u64, to: u64 },
}

const ROOM: u64 = 100;

impl Document for Seats {
    // Another format is another name: nodes do not mistake one for the other.
    const KIND: &'static str = "example.seats.1";
    const MODEL: Model = Model::Ordered;
    type Fragment = Change;
    /// What listeners are told of a change: the new number.
    type Change = u64;

    fn empty() -> Self {
        Self(0)
    }

    // The same everywhere: no clock, no dice, nothing but the state and the fragment.
    fn apply(&mut self, change: &Change) -> Result<u64, Conflict> {
        self.0 = match change {
            Change::Add(seats) => match self.0.checked_add(*seats).filter(|taken| *taken <= ROOM) {
                Some(taken) => taken,
                None => return Err(Conflict::new(format!("no room for {seats} beside {}", self.0))),
            },
            Change::CompareAndSet { from, to } if *from == self.0 => *to,
            Change::CompareAndSet { from, .. } => {
                return Err(Conflict::new(format!("{} are taken, not {from}", self.0)));
            }
        };
        Ok(self.0)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    // These bytes come from other nodes: look at them before believing them.
    fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
        Ok(Self(number(snapshot)?))
    }

    fn encode(change: &Change) -> Vec<u8> {
        match change {
            Change::Add(seats) => [&b"+"[..], &seats.to_be_bytes()].concat(),
            Change::CompareAndSet { from, to } => {
                [&b"="[..], &from.to_be_bytes(), &to.to_be_bytes()].concat()
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Change, Malformed> {
        match bytes.split_first() {
            Some((b'+', seats)) => Ok(Change::Add(number(seats)?)),
            Some((b'=', both)) if both.len() == 16 => {
                Ok(Change::CompareAndSet { from: number(&both[..8])?, to: number(&both[8..])? })
            }
            _ => Err(Malformed::new("no change of seats")),
        }
    }

    // The default goes by way of a snapshot.
    fn fork(&self) -> Self {
        self.clone()
    }
}

fn number(bytes: &[u8]) -> Result<u64, Malformed> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| Malformed::new("eight bytes make a number"))
}

// On one thread, so that nothing happens between what Ada and what Bob does below: what they do, they do at once.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if let Some(address) = std::env::args().nth(1) {
        return sell(&address.parse()?).await;
    }
    let host = Host::builder().bind("tcp://127.0.0.1:0").await?;
    // A keeper that knows the type keeps its state; another one keeps all changes, which is right, too, and longer.
    let keeper = Keeper::builder().knows::<Seats>().start(&host).await?;
    sell(host.address()).await?;
    assert_eq!(host.shutdown().await.unsent, 0, "nothing was left behind");
    keeper.close().await;
    Ok(())
}

async fn sell(address: &zincmq::Address) -> Result<(), Box<dyn Error>> {
    let join = || Client::builder().subscribe_to_nothing().join(address.clone());
    let (ada, bob) = (join().await?, join().await?);
    let at_ada: DocumentHandle<Seats> = ada.document("concert").await?;
    // Whoever comes to seats that are taken empties them.
    at_ada.update(|seats| seats.push(Change::CompareAndSet { from: seats.0, to: 0 })).await??;
    at_ada.synced().await?;
    let at_bob: DocumentHandle<Seats> = bob.document("concert").await?;

    // Adding gets along with adding: both hold, in either order.
    let (one, other) = futures::join!(
        at_ada.update(|seats| seats.push(Change::Add(3))),
        at_bob.update(|seats| seats.push(Change::Add(4)))
    );
    one??;
    other??;
    at_ada.synced().await?;
    at_bob.synced().await?;
    wait_for(&at_ada, 7).await?;
    wait_for(&at_bob, 7).await?;
    println!("3 and 4 more, at once: {} seats are taken", at_ada.read(|seats| seats.0));

    // Both have seen 7, and both set another number. The order has a first, and the other is refused.
    let mut outcomes = Vec::new();
    for (name, document, to) in [("Ada", &at_ada, 20), ("Bob", &at_bob, 30)] {
        let events = document.changes();
        document.try_update(|seats| seats.push(Change::CompareAndSet { from: 7, to }))??;
        println!("{name} sets {to}, and sees {} at once", document.read(|seats| seats.0));
        outcomes.push((name, document, events));
    }
    let mut refused = 0;
    for (name, document, mut events) in outcomes {
        // An update's fate is told before `Synced`.
        loop {
            match events.next().await.ok_or("the document was closed")? {
                DocumentEvent::Refused { fragments, conflict } => {
                    refused += 1;
                    println!("{name}: Refused {fragments:?}: {conflict}");
                }
                DocumentEvent::Synced => break,
                _ => {}
            }
        }
        println!("{name} sees {} in the end", document.read(|seats| seats.0));
    }
    assert_eq!(refused, 1, "one of the two was first");
    assert_eq!(at_ada.read(Clone::clone), at_bob.read(Clone::clone));

    // What does not apply here and now, `push` says at once.
    let conflict = at_ada.try_update(|seats| seats.push(Change::Add(ROOM)))?.unwrap_err();
    println!("Ada wants {ROOM} more: {conflict}");

    for client in [ada, bob] {
        assert_eq!(client.shutdown().await.unsent, 0, "nothing was left behind");
    }
    Ok(())
}

/// Waits until a node sees this number.
async fn wait_for(document: &DocumentHandle<Seats>, taken: u64) -> Result<(), Box<dyn Error>> {
    let (mut seen, mut events) = document.watch(|seats| seats.0);
    while seen != taken {
        events.next().await.ok_or("the document was closed")?;
        seen = document.read(|seats| seats.0);
    }
    Ok(())
}

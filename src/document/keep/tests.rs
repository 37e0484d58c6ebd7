//! Keepers on hosts.

use std::time::Duration;

use super::super::store::{MemoryStore, StoreChange, Stored};
use super::super::wire::{self, Answer, Live, Update, Word};
use super::*;
use crate::endpoint::{Client, Host};
use crate::{Message, MessageKind, Messages, Receipt};

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

async fn host(name: &str) -> Host {
    Host::builder().bind(format!("inproc://keep-{name}")).await.unwrap()
}

/// Somebody who speaks the protocol by hand.
struct Asker {
    client: Client,
    messages: Messages,
}

impl Asker {
    async fn join(host: &Host) -> Self {
        let client = Client::builder().subscribe_to_nothing().join(host.address()).await.unwrap();
        let messages = client.messages();
        client.subscribe(&wire::answer_topic(client.id())).await.unwrap();
        Self { client, messages }
    }

    async fn say(&self, name: &str, live: &Live) -> Receipt {
        let kind = match live {
            Live::Ask { .. } | Live::More { .. } => MessageKind::FullDocumentRequest,
            _ => MessageKind::DocumentFragment,
        };
        let message = Message::new(wire::live_topic(name), live.encode()).unwrap().with_kind(kind);
        in_time(self.client.send(message)).await.unwrap()
    }

    async fn answer(&mut self) -> Answer {
        use futures::StreamExt;
        let message = in_time(self.messages.next()).await.unwrap().unwrap();
        Answer::decode(message.payload()).unwrap()
    }
}

fn update(number: u64, bytes: usize) -> Live {
    Live::Update(Update::new("ledger", 1, number, [&vec![b'x'; bytes][..]]))
}

#[tokio::test]
async fn who_may_do_what_is_nobodys_end_where_asking_that_panics() {
    let host = host("access").await;
    let access = |_, name: &str| {
        assert_eq!(name, "good", "as asked");
        Access::Write
    };
    let keeper = Keeper::builder().access(access).start(&host).await.unwrap();
    let mut asker = Asker::join(&host).await;
    let question = |nonce| Live::Ask { nonce, of: None, anyone: false };
    asker.say("bad", &question(1)).await;
    assert!(matches!(asker.answer().await, Answer { nonce: 1, word: Word::Refused(_) }));
    asker.say("good", &question(2)).await;
    assert!(matches!(asker.answer().await, Answer { nonce: 2, word: Word::Empty { read_only: false } }));
    in_time(keeper.close()).await;
}

/// A store that panics when something is to be stored.
struct Fragile(MemoryStore);

impl Store for Fragile {
    fn names(&mut self) -> Result<Vec<String>, StoreError> {
        self.0.names()
    }

    fn load(&mut self, name: &str) -> Result<Option<Stored>, StoreError> {
        self.0.load(name)
    }

    fn commit(&mut self, _: &[StoreChange]) -> Result<(), StoreError> {
        panic!("as asked")
    }
}

#[tokio::test]
async fn a_store_that_panics_is_told_of() {
    let host = host("panic").await;
    let keeper = Keeper::builder().store(Fragile(MemoryStore::new())).start(&host).await.unwrap();
    let asker = Asker::join(&host).await;
    asker.say("it", &update(1, 1)).await;
    assert_eq!(in_time(keeper.failed()).await, KeeperError::Store("the store panicked".to_owned()));
    assert_eq!(keeper.documents().len(), 1, "it goes on in memory");
    in_time(keeper.close()).await;
}

/// A store that says when it is to store something, waits until it is told to go on, and fails.
struct Last(std::sync::mpsc::Receiver<()>, mpsc::UnboundedSender<()>);

impl Store for Last {
    fn names(&mut self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    fn load(&mut self, _: &str) -> Result<Option<Stored>, StoreError> {
        Ok(None)
    }

    fn commit(&mut self, _: &[StoreChange]) -> Result<(), StoreError> {
        // The test waits for it, and tells it in the end.
        let _ = self.1.send(());
        let _ = self.0.recv();
        Err(StoreError::Io { path: "it".to_owned(), reason: "no room".to_owned() })
    }
}

#[tokio::test]
async fn what_the_store_says_of_the_last_of_it_is_told_however_the_keeper_ends() {
    for closes in [true, false] {
        let host = host(if closes { "last" } else { "last-of-all" }).await;
        let (go, told) = std::sync::mpsc::channel();
        let (begun, mut begins) = mpsc::unbounded_channel();
        let keeper = Keeper::builder().store(Last(told, begun)).start(&host).await.unwrap();
        let asker = Asker::join(&host).await;
        asker.say("it", &update(1, 1)).await;
        in_time(begins.recv()).await.unwrap();
        let ending = tokio::spawn({
            let keeper = keeper.clone();
            async move {
                match closes {
                    true => keeper.close().await,
                    false => _ = host.shutdown().await,
                }
            }
        });
        // It is on its way to its end before the store is.
        if closes {
            in_time(keeper.guard.0.life.closing.cancelled()).await;
        }
        go.send(()).unwrap();
        assert_eq!(in_time(keeper.failed()).await, KeeperError::Store("it: no room".to_owned()));
        in_time(ending).await.unwrap();
    }
    let keeper = Keeper::builder().start(&host("closed").await).await.unwrap();
    in_time(keeper.clone().close()).await;
    assert_eq!(in_time(keeper.failed()).await, KeeperError::Closed);
}

#[tokio::test]
async fn what_a_keeper_has_to_say_it_says_in_messages_as_short_as_the_clusters() {
    let host = Host::builder().max_message(64).bind("inproc://keep-short").await.unwrap();
    let long = "because of this: ".repeat(100);
    let reason = long.clone();
    let access = move |_, name: &str| match name {
        "no" => Access::Denied(reason.clone()),
        _ => Access::Write,
    };
    let keeper = Keeper::builder().access(access).start(&host).await.unwrap();
    let mut asker = Asker::join(&host).await;
    let question = |nonce| Live::Ask { nonce, of: None, anyone: false };
    asker.say("no", &question(1)).await;
    let Word::Refused(told) = asker.answer().await.word else { panic!("a refusal") };
    assert_eq!((told.len(), long.starts_with(&told)), (55, true));
    // Parts are as short as messages have to be here.
    asker.say("yes", &update(1, 3)).await;
    asker.say("yes", &question(2)).await;
    assert!(matches!(asker.answer().await, Answer { nonce: 2, word: Word::Part { .. } }));
    assert_eq!(keeper.stats().unsent, 0);
    in_time(keeper.close()).await;
}

/// A store that is loaded when it is told to.
struct Slow(std::sync::mpsc::Receiver<()>);

impl Store for Slow {
    fn names(&mut self) -> Result<Vec<String>, StoreError> {
        // Nobody there to tell it is as good.
        let _ = self.0.recv();
        Ok(Vec::new())
    }

    fn load(&mut self, _: &str) -> Result<Option<Stored>, StoreError> {
        Ok(None)
    }

    fn commit(&mut self, _: &[StoreChange]) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn what_is_changed_while_the_store_is_loaded_is_kept() {
    let mark = crate::HighWaterMark::new().messages(100);
    let host = Host::builder().high_water_mark(mark).bind("inproc://keep-slow").await.unwrap();
    let asker = Asker::join(&host).await;
    let (go, told) = std::sync::mpsc::channel();
    let starting = Keeper::builder().store(Slow(told)).start(&host);
    let changing = async {
        for number in 1..=500 {
            let receipt = asker.say("it", &update(number, 1)).await;
            in_time(receipt.ordered()).await.unwrap();
        }
        go.send(()).unwrap();
    };
    let (keeper, ()) = in_time(async { tokio::join!(starting, changing) }).await;
    let keeper = keeper.unwrap();
    let mut asker = asker;
    asker.say("it", &Live::Ask { nonce: 1, of: None, anyone: false }).await;
    assert!(matches!(asker.answer().await.word, Word::Part { .. }));
    assert_eq!(lock(&keeper.guard.0.machine).state("it").unwrap().tail.len(), 500);
    in_time(keeper.close()).await;
}

#[tokio::test]
async fn a_keeper_that_ends_by_itself_leaves_what_it_forbids_in_force_and_its_place_free() {
    let host = host("ends").await;
    let asker = Asker::join(&host).await;
    let read_only = |_, _: &str| Access::Read;
    let keeper = Keeper::builder().access(read_only).start(&host).await.unwrap();
    // As a task of it does that panics: the other one finds it closing.
    let shared = &keeper.guard.0;
    shared.life.closing.cancel();
    in_time(shared.life.done.cancelled()).await;
    let refused = asker.say("it", &update(1, 1)).await;
    assert_eq!(in_time(refused.ordered()).await, Err(crate::ReceiptError::Refused));
    // Nor does it help to let go of it.
    drop(keeper);
    let refused = asker.say("it", &update(1, 1)).await;
    assert_eq!(in_time(refused.ordered()).await, Err(crate::ReceiptError::Refused));
    let keeper = in_time(Keeper::builder().access(read_only).start(&host)).await.unwrap();
    let refused = asker.say("it", &update(1, 1)).await;
    assert_eq!(in_time(refused.ordered()).await, Err(crate::ReceiptError::Refused));
    in_time(keeper.close()).await;
    let placed = asker.say("it", &update(1, 1)).await;
    assert!(in_time(placed.ordered()).await.is_ok());
}

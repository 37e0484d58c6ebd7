//! Who may do what with a document, enforced where messages get their order: a member that speaks by hand gets nothing into a document that it may not change, whatever it says.
#![cfg(feature = "crdt")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::{Kind, soon};
use futures::StreamExt;
use zincmq::document::crdt::Text;
use zincmq::document::{
    Access, DocumentError, DocumentEvent, DocumentExt, DocumentHandle, Keeper, UpdateError,
};
use zincmq::prelude::*;
use zincmq::{MessageKind, ReceiptError, StreamOptions};

const NAME: &str = "minutes";

/// Who may do what: everybody else may change everything.
#[derive(Debug, Clone, Default)]
struct Rights(Arc<Mutex<BTreeMap<EndpointId, Access>>>);

impl Rights {
    fn give(&self, id: EndpointId, access: Access) {
        self.0.lock().expect("no panic").insert(id, access);
    }

    fn of(&self, id: EndpointId) -> Access {
        self.0.lock().expect("no panic").get(&id).cloned().unwrap_or(Access::Write)
    }
}

async fn cluster(kind: Kind, lasts: Duration) -> (Host, Keeper, Rights) {
    let host = Host::builder().bind(common::address(kind)).await.expect("bind");
    let rights = Rights::default();
    let access = rights.clone();
    let keeper = Keeper::builder().access(move |id, _| access.of(id)).access_lasts(lasts);
    let keeper = keeper.start(&host).await.expect("a keeper");
    (host, keeper, rights)
}

async fn join(host: &Host) -> Client {
    soon(Client::builder().join(host.address().clone())).await.expect("join")
}

async fn open(client: &Client) -> DocumentHandle<Text> {
    soon(client.document::<Text>(NAME)).await.expect("open")
}

async fn write(document: &DocumentHandle<Text>, text: &str) {
    document.update(|draft| draft.append(text)).await.expect("open").expect("it fits");
    soon(document.synced()).await.expect("of use");
}

fn live(payload: Vec<u8>) -> Message {
    let message = Message::new(format!("doc/{NAME}/f"), payload).expect("a topic");
    message.with_kind(MessageKind::DocumentFragment)
}

/// An update that would count anywhere: made by a text of another cluster.
async fn forged() -> Message {
    let host = Host::builder().bind(common::address(Kind::Inproc)).await.expect("bind");
    let _keeper = Keeper::builder().start(&host).await.expect("a keeper");
    let mut messages = host.messages();
    let client = join(&host).await;
    write(&open(&client).await, "forged").await;
    loop {
        let message = soon(messages.next()).await.expect("an update").expect("no loss");
        if message.kind() == MessageKind::DocumentFragment {
            return live(message.payload().to_vec());
        }
    }
}

async fn fate(client: &Client, message: Message) -> Result<(), ReceiptError> {
    soon(client.send(message).await.expect("it is up").ordered()).await.map(|_| ())
}

/// The next of these events.
async fn forbidden(events: &mut Events) -> (EndpointId, String, u64) {
    loop {
        if let Event::Forbidden { id, document, messages } = soon(events.next()).await.expect("an event") {
            return (id, document, messages);
        }
    }
}

fn text(document: &DocumentHandle<Text>) -> String {
    document.read(ToString::to_string)
}

#[tokio::test]
async fn a_member_that_speaks_by_hand_gets_nothing_into_a_document_that_it_may_not_change() {
    for (kind, access) in [
        (Kind::Tcp, Access::Read),
        (Kind::Inproc, Access::Read),
        (Kind::Tcp, Access::Denied("not you".to_owned())),
    ] {
        let is_read = access == Access::Read;
        let (host, keeper, rights) = cluster(kind, Duration::from_secs(30)).await;
        let mut events = host.events();
        let (writer, hostile) = (join(&host).await, join(&host).await);
        rights.give(hostile.id(), access);
        let document = open(&writer).await;
        write(&document, "as it was").await;
        let mut questions =
            writer.messages_with(&StreamOptions::new().prefix("doc/").prefix("end").echo(true));

        let forged = forged().await;
        assert_eq!(fate(&hostile, forged.clone()).await, Err(ReceiptError::Refused));
        assert_eq!(forbidden(&mut events).await, (hostile.id(), NAME.to_owned(), 1));
        // A seed; the last of two pieces, and an update with a number far behind the next, by each of which everybody would have to ask again; a word of the host's.
        let mut gap = forged.payload().to_vec();
        let number = 1 + 1 + usize::from(gap[1]) + 8;
        gap[number] = 9;
        let piece = [&[0x06][..], &[7; 8], &[1, 2], b"the end"].concat();
        let ask_again = Message::new("doc//f", vec![0x04]).expect("a topic");
        for message in [live(vec![0x02, 0]), live(piece.clone()), live(gap.clone()), ask_again] {
            assert_eq!(fate(&hostile, message).await, Err(ReceiptError::Refused));
        }
        let here = Message::new(format!("doc/{NAME}/p"), vec![0, 0, 0, 0, 0, 0, 0, 7, 1]).expect("a topic");
        assert_eq!(fate(&hostile, here).await.is_ok(), is_read, "who may read may be seen");
        // What has nothing to do with it goes on.
        assert_eq!(fate(&hostile, Message::new("end", "").expect("a topic")).await, Ok(()));
        let refused = 5 + u64::from(!is_read);
        assert_eq!((host.stats().refused, hostile.stats().refused), (refused, refused));
        write(&document, ", and more").await;
        assert_eq!(text(&document), "as it was, and more");
        let (kept, _) = keeper.get::<Text>(NAME).expect("a text").expect("it is there");
        assert_eq!(kept.to_string(), "as it was, and more");
        assert_eq!((keeper.stats().malformed, document.malformed()), (0, 0));
        // Nobody was made to ask.
        loop {
            let message = soon(questions.next()).await.expect("a message").expect("no loss");
            assert_ne!(message.kind(), MessageKind::FullDocumentRequest);
            if message.topic().as_str() == "end" {
                break;
            }
        }

        // The same counts, where it may: it is nothing else that keeps it out.
        rights.give(hostile.id(), Access::Write);
        soon(keeper.access_changed_for(NAME)).await;
        assert_eq!(fate(&hostile, live(piece)).await, Ok(()));
        assert_eq!(fate(&hostile, forged).await, Ok(()));
        let mut changes = document.changes();
        while !text(&document).contains("forged") {
            soon(changes.next()).await.expect("a change");
        }
        assert!(text(&document).contains("as it was, and more"));
    }
}

#[tokio::test]
async fn of_all_that_was_refused_the_application_is_told_though_the_host_ends_while_its_sender_is_there() {
    let (host, _keeper, rights) = cluster(Kind::Tcp, Duration::from_secs(30)).await;
    let mut events = host.events();
    let hostile = join(&host).await;
    rights.give(hostile.id(), Access::Read);
    for n in 1..=3 {
        assert_eq!(fate(&hostile, live(vec![0x02, n])).await, Err(ReceiptError::Refused));
    }
    assert_eq!(host.stats().refused, 3);
    drop(host);
    let mut told = 0;
    while let Some(event) = soon(events.next()).await {
        if let Event::Forbidden { messages, .. } = event {
            told += messages;
        }
    }
    assert_eq!(told, 3);
}

#[tokio::test]
async fn rights_that_change_while_a_document_is_open_hold_at_once_and_whoever_has_it_open_is_told() {
    let (host, keeper, rights) = cluster(Kind::Tcp, Duration::from_secs(30)).await;
    let client = join(&host).await;
    let document = open(&client).await;
    write(&document, "a").await;

    rights.give(client.id(), Access::Read);
    soon(keeper.access_changed()).await;
    let mut changes = document.changes();
    // What it does before it has heard is told to be in vain.
    let mut refused = 0;
    let mut tried = 0;
    loop {
        match document.update(|draft| draft.append("b")).await {
            Ok(done) => done.expect("it fits"),
            Err(UpdateError::ReadOnly { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        tried += 1;
        soon(document.synced()).await.expect("of use");
    }
    while refused < tried {
        if let DocumentEvent::Refused { fragments, .. } = soon(changes.next()).await.expect("an event") {
            refused += fragments.len();
        }
    }
    assert_eq!(text(&document), "a");

    rights.give(client.id(), Access::Write);
    soon(keeper.access_changed_for(NAME)).await;
    while let Err(error) = document.update(|draft| draft.append("c")).await {
        assert!(matches!(error, UpdateError::ReadOnly { .. }), "{error}");
        soon(changes.next()).await.expect("it asks again");
    }
    soon(document.synced()).await.expect("of use");
    assert_eq!(text(&document), "ac");

    rights.give(client.id(), Access::Denied("never again".to_owned()));
    soon(keeper.access_changed()).await;
    loop {
        if let DocumentEvent::Failed(error) = soon(changes.next()).await.expect("an event") {
            let reason = "never again".to_owned();
            assert_eq!(error, DocumentError::Refused { name: NAME.to_owned(), reason });
            break;
        }
    }
    // Who has it open writes on by itself, and is not stopped by what others may not.
    let other = join(&host).await;
    let theirs = open(&other).await;
    write(&theirs, "d").await;
    assert_eq!(text(&theirs), "acd");
}

#[tokio::test]
async fn rights_that_change_without_a_word_hold_when_the_answer_has_had_its_time() {
    let (host, keeper, rights) = cluster(Kind::Tcp, Duration::from_secs(1)).await;
    let client = join(&host).await;
    let document = open(&client).await;
    let mut changes = document.changes();
    write(&document, "a").await;
    rights.give(client.id(), Access::Read);
    let revoke = async {
        loop {
            match document.update(|draft| draft.append("b")).await {
                Ok(done) => done.expect("it fits"),
                Err(UpdateError::ReadOnly { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            document.synced().await.expect("of use");
        }
    };
    soon(revoke).await;
    loop {
        if matches!(soon(changes.next()).await.expect("an event"), DocumentEvent::Refused { .. }) {
            break;
        }
    }
    assert!(host.stats().refused > 0);
    let (kept, _) = keeper.get::<Text>(NAME).expect("a text").expect("it is there");
    assert_eq!(kept.to_string(), text(&document));
}

#[tokio::test]
async fn an_answer_that_takes_its_time_keeps_nobody_else_waiting_and_a_panic_is_a_denial() {
    let host = Host::builder().bind(common::address(Kind::Tcp)).await.expect("bind");
    let (slow, other) = (join(&host).await, join(&host).await);
    let (decide, decided) = mpsc::channel::<()>();
    let decided = Mutex::new(decided);
    let thinks_about = slow.id();
    let access = move |id: EndpointId, name: &str| {
        assert_ne!(name, "cursed", "as asked");
        if id == thinks_about {
            decided.lock().expect("no panic").recv().expect("an answer");
        }
        Access::Write
    };
    let keeper = Keeper::builder().access(access).start(&host).await.expect("a keeper");
    let forged = forged().await;
    let waiting = slow.send(forged.clone()).await.expect("it is up");
    let behind = slow.send(Message::new("news", "behind it").expect("a topic")).await.expect("it is up");
    // Others go on, with what they say about documents, too.
    let document = open(&other).await;
    write(&document, "of another").await;
    assert_eq!(fate(&other, Message::new("news", "").expect("a topic")).await, Ok(()));
    assert!(futures::poll!(std::pin::pin!(waiting.ordered())).is_pending());
    decide.send(()).expect("it thinks");
    let (first, second) = (soon(waiting.ordered()).await, soon(behind.ordered()).await);
    assert!(first.expect("it may") < second.expect("it may"), "in their order");
    let cursed = Message::new("doc/cursed/f", forged.payload().clone()).expect("a topic");
    let cursed = cursed.with_kind(MessageKind::DocumentFragment);
    assert_eq!(fate(&other, cursed.clone()).await, Err(ReceiptError::Refused));
    // The host's own application may do everything; and so may all, when the keeper is closed.
    soon(host.send(cursed.clone()).await.expect("it is up").ordered()).await.expect("its place");
    soon(keeper.close()).await;
    assert_eq!(fate(&other, cursed).await, Ok(()));
}

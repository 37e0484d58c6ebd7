//! What documents there are: a question to whoever keeps them, on a topic of its own, and the answer in parts, as documents are sent.

use tokio::time::Instant;

use crate::endpoint::{Endpoint, Messages, StreamOptions};
use crate::id::EndpointId;
use crate::message::{Message, MessageKind};

use super::gathering::{ANSWER_TIME, Gathering, Step};
use super::handle::{random, subscribe_error};
use super::wire::{self, Answer, Listed, Live};
use super::{DocumentError, DocumentInfo};

/// How often is asked before it is clear that nobody keeps documents.
const TRIES: u32 = 2;

/// Asks the cluster's keeper which documents there are, by name; those that this endpoint may not have are left out. Cancel safe.
///
/// ```no_run
/// use zincmq::document;
/// use zincmq::prelude::*;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder().join("tcp://127.0.0.1:5555").await?;
/// for document in document::list(&client).await? {
///     println!("{} ({}), {} bytes", document.name, document.kind, document.size);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`DocumentError::Unavailable`]: nobody answers within two seconds, so nobody keeps documents, or the one who does cannot be reached.
/// [`DocumentError::Refused`]: this endpoint may not ask; [`DocumentError::Closed`]: it has ended. The documents' name in these is empty.
pub async fn list<E: Endpoint + ?Sized>(endpoint: &E) -> Result<Vec<DocumentInfo>, DocumentError> {
    let (me, sender) = (endpoint.id(), endpoint.sender());
    // Before the question.
    let options = StreamOptions::new().prefix(wire::answer_topic(me)).echo(true);
    let mut messages = endpoint.messages_with(&options);
    let subscribed = sender.subscribe(&wire::answer_topic(me)).await;
    subscribed.map_err(|error| subscribe_error("", &error))?;
    for _ in 0..TRIES {
        let mut gathering = Gathering::new(random() & !wire::KEEPERS);
        let mut say = Some(gathering.question());
        // Moved by parts of the list alone: others are answered on this topic, too.
        let mut deadline = Instant::now() + ANSWER_TIME;
        loop {
            let step = async {
                if let Some(live) = say.take() {
                    ask(&sender, &live).await?;
                }
                next(&mut messages, me).await
            };
            let Ok(step) = tokio::time::timeout_at(deadline, step).await else { break };
            match step?.map_or(Step::Again, |(from, answer)| gathering.on_answer(from, answer)) {
                Step::Wait => continue,
                Step::Came => {}
                Step::Say(live) => say = Some(live),
                Step::Again => break,
                Step::Done(list) => return Ok(list.into_iter().map(DocumentInfo::from).collect()),
                Step::Failed(reason) => return Err(DocumentError::Refused { name: String::new(), reason }),
            }
            deadline = Instant::now() + ANSWER_TIME;
        }
    }
    Err(DocumentError::Unavailable { name: String::new() })
}

impl From<Listed> for DocumentInfo {
    fn from(Listed { name, kind, size }: Listed) -> Self {
        Self { name, kind, size }
    }
}

async fn ask(sender: &crate::endpoint::Sender, live: &Live) -> Result<(), DocumentError> {
    let refused = |reason: String| DocumentError::Refused { name: String::new(), reason };
    let question =
        Message::new(wire::LIST_TOPIC, live.encode()).map_err(|error| refused(error.to_string()))?;
    let sent = sender.send(question.with_kind(MessageKind::FullDocumentRequest)).await;
    sent.map(drop).map_err(|error| refused(error.to_string()))
}

/// The next answer, and of whom; `None` where one may have been missed.
async fn next(
    messages: &mut Messages,
    me: EndpointId,
) -> Result<Option<(EndpointId, Answer)>, DocumentError> {
    use futures::StreamExt;
    loop {
        match messages.next().await {
            Some(Ok(message)) if message.topic().as_str() == wire::answer_topic(me) => {
                // What is no answer is nobody's.
                let Ok(answer) = Answer::decode(message.payload()) else { continue };
                return Ok(Some((message.origin(), answer)));
            }
            Some(Ok(_)) => {}
            Some(Err(_)) => return Ok(None),
            None => return Err(DocumentError::Closed { name: String::new() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::document::store::{MemoryStore, Record, Store, StoreChange};
    use crate::document::wire::{Update, Word};
    use crate::document::{Access, Keeper};
    use crate::endpoint::{Client, Host};
    use crate::message::Position;

    /// A store with so many documents, each with a name as long as they get.
    fn stored(documents: u64) -> MemoryStore {
        let mut store = MemoryStore::new();
        let update = Update::new("ledger", 1, 1, [&b"fragment"[..]]);
        let bytes = wire::encode_record(EndpointId::NIL, &update.encode());
        let append = |i| StoreChange::Append {
            name: format!("{i:0>200}"),
            record: Record { position: Position { epoch: 1, seq: i + 1 }, bytes: bytes.clone() },
        };
        store.commit(&(0..documents).map(append).collect::<Vec<_>>()).unwrap();
        store
    }

    async fn client(host: &Host) -> Client {
        Client::builder().subscribe_to_nothing().join(host.address()).await.unwrap()
    }

    #[tokio::test]
    async fn a_list_of_any_length_comes_whole() {
        for documents in [0, 1, 5_000] {
            let host = Host::builder().bind(format!("inproc://list-{documents}")).await.unwrap();
            let keeper = Keeper::builder().store(stored(documents)).start(&host).await.unwrap();
            let list = list(&client(&host).await).await.unwrap();
            assert_eq!(list.len() as u64, documents);
            assert_eq!(list, keeper.documents());
            assert!(list.iter().all(|info| info.kind == "ledger" && info.size > 0), "{:?}", list.first());
        }
    }

    #[tokio::test]
    async fn what_is_denied_is_not_listed() {
        let host = Host::builder().bind("inproc://list-denied").await.unwrap();
        let access = |_, name: &str| {
            if name.ends_with('1') { Access::Denied("not for you".to_owned()) } else { Access::Read }
        };
        let keeper = Keeper::builder().store(stored(3)).access(access).start(&host).await.unwrap();
        let list = list(&client(&host).await).await.unwrap();
        assert_eq!(list.iter().map(|info| &info.name[199..]).collect::<Vec<_>>(), ["0", "2"]);
        assert_eq!(keeper.stats().malformed, 0);
    }

    #[tokio::test]
    async fn without_a_keeper_there_is_no_list() {
        let host = Host::builder().bind("inproc://list-nobody").await.unwrap();
        let error = list(&client(&host).await).await.unwrap_err();
        assert_eq!(error, DocumentError::Unavailable { name: String::new() });
        assert!(error.to_string().starts_with("nobody who answers keeps documents"), "{error}");
    }

    #[tokio::test]
    async fn who_is_told_other_things_all_the_time_does_not_wait_for_ever() {
        let host = Host::builder().bind("inproc://list-noise").await.unwrap();
        let (asker, other) = (client(&host).await, client(&host).await);
        let topic = wire::answer_topic(asker.id());
        let noise = async {
            let mut every = tokio::time::interval(Duration::from_millis(50));
            loop {
                every.tick().await;
                let answer = Answer { nonce: 1, word: Word::Busy };
                other.sender().send(Message::new(&*topic, answer.encode()).unwrap()).await.unwrap();
            }
        };
        tokio::select! {
            () = noise => {}
            list = tokio::time::timeout(ANSWER_TIME * (TRIES + 3), list(&asker)) => {
                list.expect("in time").unwrap_err();
            }
        }
    }

    #[test]
    fn a_list_is_what_it_was_and_rubbish_is_none() {
        let bytes = wire::encode_list([("a", "text", 7), ("b c", "sheet", 300)].into_iter());
        assert_eq!(bytes, &b"\x01a\x04text\x07\x03b c\x05sheet\xac\x02"[..]);
        assert_eq!(wire::decode_list(&bytes).unwrap()[1].name, "b c");
        for end in [1, 6, 7, 8, 9, bytes.len() - 1] {
            assert_eq!(wire::decode_list(&bytes.slice(..end)).is_ok(), end == 8, "{end}");
        }
        assert!(wire::decode_list(&Bytes::from_static(b"\x03a/b\x04text\x07")).is_err());
    }
}

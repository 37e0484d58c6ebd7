//! A text that all write at once, and that comes out the same everywhere.

use std::time::Instant;

use futures::StreamExt;
use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;
use zincmq::document::crdt::Text;
use zincmq::document::{self, DocumentEvent, DocumentExt, DocumentHandle};

use super::cluster::Cluster;
use super::narrator::{Fact, Narrator};
use super::{check, wait};
use crate::failure::Failure;
use crate::output::grouped;

/// How many letters each writes, every one an update of its own.
const EACH: u64 = 500;
/// After how many letters each takes one out that is at the beginning by then, whoever wrote it.
const TAKE_OUT: u64 = 10;
/// Ada, Bob and Eve.
const WRITERS: u64 = 3;
const NAME: &str = "minutes";

pub(super) async fn show(cluster: &Cluster, narrator: &mut Narrator) -> Result<(), Failure> {
    narrator.step("A document")?;
    let writers = [("a", &cluster.ada), ("b", &cluster.bob), ("e", &cluster.eve)];
    let documents = try_join_all(writers.map(|(_, client)| client.document::<Text>(NAME)));
    let documents = wait("the opening of a document", documents).await??;
    narrator.say(&format!(
        "Ada, Bob and Eve open one text, \"{NAME}\", and each types {} letters into it at once: at the end, in the middle, \
         over each other. What one types is there at once, and nobody waits for anybody.",
        grouped(EACH)
    ))?;
    let started = Instant::now();
    let done = CancellationToken::new();
    let follower = tokio::spawn(follow(documents[0].clone(), done.clone()));
    let typing = documents.iter().zip(writers).map(|(document, (letter, _))| write(document, letter));
    wait("the last of the letters", try_join_all(typing)).await??;
    // All own updates have their places, and those of others have theirs no later than the last of these.
    let last = documents.iter().filter_map(DocumentHandle::position).max();
    for document in &documents {
        let mut events = document.changes();
        while document.position() < last {
            let event = wait("the last of the others' letters", events.next()).await?;
            check(event.is_some(), || "the document stays open".to_owned())?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    done.cancel();

    let texts: Vec<String> = documents.iter().map(|document| document.read(ToString::to_string)).collect();
    check(texts.iter().all(|text| *text == texts[0]), || "Ada, Bob and Eve have the same text".to_owned())?;
    let followed = wait("the end of following", follower).await??;
    check(followed == texts[0], || "patch by patch, it comes to the same text".to_owned())?;
    // From what the host keeps.
    let late = wait("the opening of a document", cluster.host.document::<Text>(NAME)).await??;
    check(late.read(ToString::to_string) == texts[0], || "who comes late has the same text".to_owned())?;
    let list = wait("the list of documents", document::list(&cluster.bob)).await??;
    let bytes = list.iter().find(|info| info.name == NAME && info.kind == "text").map(|info| info.size);
    let Some(bytes) = bytes else { return Err(Failure::new(format!("{NAME} is not in the list"))) };
    narrator.holds(&format!(
        "{seconds:.2} s later all three have one and the same text of {} letters, and so has whoever comes late: the host \
         keeps it.",
        grouped(texts[0].len() as u64)
    ))?;
    narrator.holds("Followed patch by patch, as editors do, it comes to that text, too.")?;
    for document in documents.into_iter().chain([late]) {
        wait("the end of a document", document.close()).await?;
    }
    narrator.fact(&Fact::Document {
        writers: WRITERS,
        updates: WRITERS * (EACH + EACH / TAKE_OUT),
        length: texts[0].len() as u64,
        bytes_at_host: bytes,
        seconds,
        equal: true,
    })
}

/// Types, as somebody does who looks at nothing but the own screen.
async fn write(document: &DocumentHandle<Text>, letter: &str) -> Result<(), Failure> {
    for i in 0..EACH {
        let typed = document.update(|text| match i % 3 {
            0 => text.append(letter),
            1 => text.insert(text.len() / 2, letter),
            _ => text.insert(0, letter),
        });
        typed.await?.map_err(|conflict| Failure::new(conflict.to_string()))?;
        if i % TAKE_OUT == TAKE_OUT - 1 {
            let taken = document.update(|text| text.delete(0, 1)).await?;
            taken.map_err(|conflict| Failure::new(conflict.to_string()))?;
        }
        if i % 16 == 0 {
            // Let the others have their say.
            tokio::task::yield_now().await;
        }
    }
    Ok(document.synced().await?)
}

/// A text that goes by what it is told, until all has been told.
async fn follow(document: DocumentHandle<Text>, done: CancellationToken) -> String {
    let read = |text: &Text| text.to_string().chars().collect::<Vec<char>>();
    let (mut text, mut events) = document.watch(read);
    loop {
        let event = tokio::select! {
            biased;
            // Whatever is there comes first, whatever the scheduler thinks of it.
            event = tokio::task::unconstrained(events.next()) => event,
            () = done.cancelled() => None,
        };
        match event {
            Some(DocumentEvent::Changed { changes, .. }) => {
                for patch in changes.into_iter().flatten() {
                    text.splice(patch.position..patch.position + patch.deleted, patch.inserted.chars());
                }
            }
            // A reader that is too slow reads all of it.
            Some(DocumentEvent::Missed(_) | DocumentEvent::Replaced) => (text, events) = document.watch(read),
            Some(_) => {}
            None => return text.into_iter().collect(),
        }
    }
}

//! A text that two type in at once.
//!
//! `cargo run --features crdt --example shared_text`: a host and two clients in this process.
//!
//! Or over several terminals: one has `zincmq host --bind tcp://127.0.0.1:7000`, each of the others
//! `cargo run --features crdt --example shared_text -- tcp://127.0.0.1:7000 ada`.

use std::error::Error;

use futures::StreamExt;
use zincmq::document::crdt::Text;
use zincmq::document::{DocumentEvent, DocumentExt, DocumentHandle, Keeper};
use zincmq::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => all_in_one().await,
        [address, name] => {
            let client = join(&address.parse()?).await?;
            let notes = client.document("notes").await?;
            type_a_line(&notes, name).await?;
            notes.synced().await?;
            print!("{}", notes.read(ToString::to_string));
            assert_eq!(client.shutdown().await.unsent, 0, "nothing was left behind");
            Ok(())
        }
        _ => Err("usage: shared_text [ADDRESS NAME]".into()),
    }
}

async fn all_in_one() -> Result<(), Box<dyn Error>> {
    let host = Host::builder().bind("tcp://127.0.0.1:0").await?;
    // Who keeps documents: whoever opens one gets it from here. With `.store(…)` they survive the host.
    let keeper = Keeper::builder().start(&host).await?;

    let (ada, bob) = (join(host.address()).await?, join(host.address()).await?);
    let at_ada: DocumentHandle<Text> = ada.document("notes").await?;
    let at_bob: DocumentHandle<Text> = bob.document("notes").await?;
    let mut seen_by_bob = at_bob.changes();

    // Both type, neither waits for the other: what one types is there at once, and goes out.
    let (one, other) = futures::join!(type_a_line(&at_ada, "ada"), type_a_line(&at_bob, "bob"));
    one?;
    other?;

    // `synced` waits until the own updates have their places, and so are with everybody.
    at_ada.synced().await?;
    at_bob.synced().await?;
    // Bob has all of Ada's when as much came in as she typed.
    let mut from_ada = 0;
    while from_ada < LINE.chars().count() + "ada: ".len() {
        match seen_by_bob.next().await.ok_or("the document was closed")? {
            DocumentEvent::Changed { by, changes } if !by.local => {
                // Whoever shows a text needs no more than this: where it changed, what went and what came.
                let patches: Vec<_> = changes.into_iter().flatten().collect();
                from_ada += patches.iter().map(|patch| patch.inserted.chars().count()).sum::<usize>();
            }
            _ => {}
        }
    }

    let text = at_bob.read(ToString::to_string);
    print!("{text}");
    // Each line is whole: text typed at one place in one go stays together.
    for name in ["ada", "bob"] {
        assert!(text.contains(&format!("{name}: {LINE}")), "{text:?}");
    }
    let (kept, position) = keeper.get::<Text>("notes")?.ok_or("it is kept")?;
    println!("kept by the host, up to {}: {}", position.ok_or("a position")?, kept == *text);

    for endpoint in [&ada as &dyn Endpoint, &bob, &host] {
        assert_eq!(endpoint.shutdown().await.unsent, 0, "nothing was left behind");
    }
    keeper.close().await;
    Ok(())
}

/// Clients get the documents that they open: they need not take anything else.
async fn join(address: &zincmq::Address) -> Result<Client, zincmq::JoinError> {
    Client::builder().subscribe_to_nothing().join(address.clone()).await
}

const LINE: &str = "typed letter by letter\n";

/// Types a line, each letter an update of its own, behind the letter before, wherever that is by now.
async fn type_a_line(notes: &DocumentHandle<Text>, name: &str) -> Result<(), Box<dyn Error>> {
    let start = format!("{name}: ");
    notes.update(|text| text.insert(0, &start)).await??;
    for (typed, letter) in LINE.chars().enumerate() {
        notes
            .update(|text| {
                // What others type moves our line; in an editor, the cursor moves along.
                let whole = text.to_string();
                let line = whole.find(&start).map_or(0, |at| whole[..at].chars().count());
                text.insert(line + start.chars().count() + typed, letter.encode_utf8(&mut [0; 4]))
            })
            .await??;
        // Nobody types this fast: let others have their turn.
        tokio::task::yield_now().await;
    }
    Ok(())
}

//! A whiteboard: shapes, one above the other, that two move and paint at once, and an undo that undoes what one did oneself.
//!
//! `cargo run --features crdt --example whiteboard`: a host and two clients in this process.
//!
//! Or with a host elsewhere (`zincmq host --bind tcp://127.0.0.1:7000`):
//! `cargo run --features crdt --example whiteboard -- tcp://127.0.0.1:7000`.

use std::error::Error;

use futures::StreamExt;
use zincmq::document::crdt::{Canvas, Value};
use zincmq::document::{DocumentEvent, DocumentEvents, DocumentExt, DocumentHandle, Keeper};
use zincmq::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if let Some(address) = std::env::args().nth(1) {
        return draw(&address.parse()?).await;
    }
    let host = Host::builder().bind("tcp://127.0.0.1:0").await?;
    let keeper = Keeper::builder().start(&host).await?;
    draw(host.address()).await?;
    assert_eq!(host.shutdown().await.unsent, 0, "nothing was left behind");
    keeper.close().await;
    Ok(())
}

async fn draw(address: &zincmq::Address) -> Result<(), Box<dyn Error>> {
    let join = || Client::builder().subscribe_to_nothing().join(address.clone());
    let (ada, bob) = (join().await?, join().await?);
    let at_ada: DocumentHandle<Canvas> = ada.document("board").await?;

    // Ada draws a sun behind a house. A shape is of a kind and has properties: what they mean is the program's business.
    let (sun, house) = at_ada
        .update(|board| {
            // Whoever comes to a board that is in use wipes it.
            let old: Vec<_> = board.shapes().map(|shape| shape.name().clone()).collect();
            old.iter().try_for_each(|shape| board.remove(shape))?;
            let sun =
                board.add("circle", [("x", Value::from(40)), ("y", 10.into()), ("fill", "red".into())])?;
            let house =
                board.add("square", [("x", Value::from(40)), ("y", 30.into()), ("fill", "white".into())])?;
            Ok::<_, zincmq::document::Conflict>((sun, house))
        })
        .await??;
    at_ada.synced().await?;
    let at_bob: DocumentHandle<Canvas> = bob.document("board").await?;
    let (mut seen_by_ada, mut seen_by_bob) = (at_ada.changes(), at_bob.changes());

    // At once: Ada moves the sun, Bob paints it and brings it to the front. All of that holds.
    let moved = at_ada.update(|board| {
        board.set(&sun, "x", 80)?;
        board.set(&sun, "y", 5)
    });
    let painted = at_bob.update(|board| {
        board.set(&sun, "fill", "yellow")?;
        board.bring_to_front(&sun)
    });
    let (moved, painted) = futures::join!(moved, painted);
    moved??;
    painted??;
    foreign_change(&mut seen_by_ada).await?;
    foreign_change(&mut seen_by_bob).await?;
    println!("together:\n{}", at_bob.read(picture));
    assert_eq!(at_ada.read(picture), at_bob.read(picture));

    // Ada does not like where she put it. Her undo leaves Bob's paint alone.
    at_ada.update(|board| board.undo()).await??;
    foreign_change(&mut seen_by_bob).await?;
    println!("after Ada's undo:\n{}", at_bob.read(picture));
    assert_eq!(at_ada.read(picture), at_bob.read(picture));
    assert_eq!(at_bob.read(picture), "  white square at 40, 30\n  yellow circle at 40, 10\n");
    at_bob.read(|board| {
        // A shape keeps its name for as long as it exists.
        assert_eq!(board.shape(&house).map(|shape| shape.kind().to_owned()).as_deref(), Some("square"));
    });

    for client in [ada, bob] {
        assert_eq!(client.shutdown().await.unsent, 0, "nothing was left behind");
    }
    Ok(())
}

/// Waits until somebody else's update has come in.
async fn foreign_change(seen: &mut DocumentEvents<Canvas>) -> Result<(), Box<dyn Error>> {
    loop {
        match seen.next().await.ok_or("the document was closed")? {
            DocumentEvent::Changed { by, .. } if !by.local => return Ok(()),
            _ => {}
        }
    }
}

/// What is on the board, from the bottom to the top.
fn picture(board: &Canvas) -> String {
    let mut text = String::new();
    for shape in board.shapes() {
        let number = |name| shape.property(name).and_then(Value::as_i64).unwrap_or_default();
        let fill = shape.property("fill").and_then(Value::as_str).unwrap_or("no");
        text += &format!("  {fill} {} at {}, {}\n", shape.kind(), number("x"), number("y"));
    }
    text
}

//! A table that two work on at once: one puts a row in, while the other fills the row below it.
//!
//! `cargo run --features crdt --example shared_sheet`: a host and two clients in this process.
//!
//! Or with a host elsewhere (`zincmq host --bind tcp://127.0.0.1:7000`):
//! `cargo run --features crdt --example shared_sheet -- tcp://127.0.0.1:7000`.

use std::error::Error;

use futures::StreamExt;
use zincmq::document::crdt::{Sheet, Value};
use zincmq::document::{Conflict, DocumentEvent, DocumentExt, DocumentHandle, Keeper};
use zincmq::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if let Some(address) = std::env::args().nth(1) {
        return work(&address.parse()?).await;
    }
    let host = Host::builder().bind("tcp://127.0.0.1:0").await?;
    let keeper = Keeper::builder().start(&host).await?;
    work(host.address()).await?;
    assert_eq!(host.shutdown().await.unsent, 0, "nothing was left behind");
    keeper.close().await;
    Ok(())
}

async fn work(address: &zincmq::Address) -> Result<(), Box<dyn Error>> {
    let join = || Client::builder().subscribe_to_nothing().join(address.clone());
    let (ada, bob) = (join().await?, join().await?);
    let at_ada: DocumentHandle<Sheet> = ada.document("stock").await?;

    // All that one closure does is one update: nobody sees a half-made table.
    at_ada
        .update(|sheet| {
            // Whoever comes to a table that is in use begins anew.
            sheet.remove_rows(0..sheet.rows())?;
            sheet.remove_columns(0..sheet.columns())?;
            sheet.insert_rows(0, 2)?;
            sheet.insert_columns(0, 2)?;
            sheet.set(0, 0, "apples")?;
            sheet.set(0, 1, 3)?;
            sheet.set(1, 0, "pears")?;
            sheet.set(1, 1, 0)
        })
        .await??;
    at_ada.synced().await?;

    // Whoever comes later gets the whole table.
    let at_bob: DocumentHandle<Sheet> = bob.document("stock").await?;
    let (mut seen_by_ada, mut seen_by_bob) = (at_ada.changes(), at_bob.changes());

    // Ada puts quinces between the two, while Bob counts the pears, which are in row 1 when he looks. Rows keep what they are
    // called, whatever comes before them: by that he finds them when he has counted, and so does the cluster if he was first.
    let pears = at_bob.read(|sheet| sheet.row_name(1)).ok_or("two rows")?;
    let quinces = at_ada.update(|sheet| {
        sheet.insert_rows(1, 1)?;
        sheet.set(1, 0, "quinces")?;
        sheet.set(1, 1, 7)?;
        Ok::<(), Conflict>(())
    });
    let pears = at_bob.update(|sheet| {
        let row = sheet.row_named(&pears).ok_or_else(|| Conflict::new("the pears are gone"))?;
        sheet.set(row, 1, 12)
    });
    let (quinces, pears) = futures::join!(quinces, pears);
    quinces??;
    pears??;

    // Each waits for the other's update.
    for seen in [&mut seen_by_ada, &mut seen_by_bob] {
        while let Some(event) = seen.next().await {
            if matches!(event, DocumentEvent::Changed { by, .. } if !by.local) {
                break;
            }
        }
    }
    let (at_ada, at_bob) = (at_ada.read(table), at_bob.read(table));
    print!("{at_bob}");
    assert_eq!(at_ada, at_bob, "both see the same");
    assert_eq!(at_bob, "apples      3\nquinces     7\npears      12\n");
    for client in [ada, bob] {
        assert_eq!(client.shutdown().await.unsent, 0, "nothing was left behind");
    }
    Ok(())
}

/// The table, for people.
fn table(sheet: &Sheet) -> String {
    let mut text = String::new();
    for row in 0..sheet.rows() {
        let what = sheet.cell(row, 0).and_then(Value::as_str).unwrap_or_default();
        let count = sheet.cell(row, 1).and_then(Value::as_i64).unwrap_or_default();
        text += &format!("{what:<8}{count:>5}\n");
    }
    text
}

//! Documents of this crate.

use futures::StreamExt;
use serde_json::json;
use zincmq::Client as Endpoint;
use zincmq::document::crdt::Text;
use zincmq::document::{Conflict, DocumentEvent, DocumentExt, DocumentHandle, Keeper};
use zincmq::prelude::*;

use crate::Failure;
use crate::client::{Client, Seen};
use crate::edits::Patch;
use crate::process::{orders, say};

pub struct Zinc {
    // Both clients and documents end with the last one who has them.
    _endpoint: std::sync::Arc<Endpoint>,
    document: DocumentHandle<Text>,
}

/// Follows what happens, as an editor does; how many updates that were, the document says.
struct Updates {
    document: DocumentHandle<Text>,
    seen: u64,
}

#[async_trait::async_trait]
impl Seen for Updates {
    async fn next(&mut self) -> Result<usize, Failure> {
        self.seen += 1;
        self.document.let_in(self.seen).await;
        Ok(1)
    }
}

impl Client for Zinc {
    type Connection = std::sync::Arc<Endpoint>;

    async fn connect(address: &str) -> Result<Self::Connection, Failure> {
        Ok(std::sync::Arc::new(Endpoint::builder().subscribe_to_nothing().join(address).await?))
    }

    async fn open(connection: &Self::Connection, name: &str) -> Result<Self, Failure> {
        let document = connection.document::<Text>(name).await?;
        Ok(Self { _endpoint: connection.clone(), document })
    }

    async fn edit(&self, patches: &[Patch]) -> Result<(), Failure> {
        self.document
            .update(|text| {
                for Patch(position, deleted, inserted) in patches {
                    text.replace_utf16(*position, *deleted, inserted)?;
                }
                Ok::<(), Conflict>(())
            })
            .await??;
        Ok(())
    }

    fn seen(&self) -> Box<dyn Seen> {
        let mut events = self.document.changes();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    // One who edits would show this.
                    DocumentEvent::Changed { changes, .. } => drop(changes),
                    DocumentEvent::Failed(error) => eprintln!("error: {error}"),
                    _ => {}
                }
            }
        });
        Box::new(Updates { document: self.document.clone(), seen: 0 })
    }

    fn text(&self) -> String {
        self.document.read(ToString::to_string)
    }

    fn length(&self) -> usize {
        self.document.read(Text::len_utf16)
    }
}

/// The process of a host that keeps documents.
pub async fn host() -> Result<(), Failure> {
    let mut orders = orders();
    let host = Host::builder().bind("tcp://127.0.0.1:0").await?;
    let keeper = Keeper::builder().start(&host).await?;
    say(&json!({ "event": "listening", "address": host.address().to_string() }));
    while let Some(order) = orders.recv().await {
        if order["order"] == "check" {
            let text = std::fs::read_to_string(order["text"].as_str().ok_or("no text")?)?;
            let kept = keeper.get::<Text>(order["name"].as_str().ok_or("no name")?)?;
            let right = kept.is_some_and(|(kept, _)| kept == *text);
            say(&json!({ "event": "checked", "right": right }));
        } else {
            say(&json!({ "event": "tidy" }));
        }
    }
    Ok(())
}

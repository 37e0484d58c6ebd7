//! `zincmq doc watch`: prints a text, and what becomes of it.

use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;
use zincmq::document::crdt::Text;
use zincmq::document::{DocumentEvent, DocumentEvents, DocumentHandle};
use zincmq::{Client, Endpoint, Events};

use super::{join, open};
use crate::args::TextArgs;
use crate::failure::Failure;
use crate::line::{self, ChangeLine, Line};
use crate::output::Output;

pub(super) async fn run(args: TextArgs, stop: &CancellationToken, mut output: Output) -> Result<(), Failure> {
    let client = join(&args.join, stop).await?;
    let watched = watch(&client, &args.name, stop, &mut output).await;
    // Nothing was sent that matters.
    let _ = client.shutdown().await;
    watched
}

async fn watch(
    client: &Client,
    name: &str,
    stop: &CancellationToken,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut happenings = client.events();
    let document = open(client, name, stop).await?;
    let mut changes = begin(&document, output)?;
    loop {
        let event = match changes.next().now_or_never() {
            Some(event) => event,
            None => {
                // Nothing is pending: now is the time to show what was collected.
                output.flush()?;
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    event = changes.next() => event,
                    printed = print_next(&mut happenings, output) => {
                        printed?;
                        continue;
                    }
                }
            }
        };
        if stop.is_cancelled() {
            return output.flush();
        }
        match event {
            Some(DocumentEvent::Changed { by, changes }) => {
                output.line(&Line::Change(ChangeLine::by(by.endpoint, changes.into_iter().flatten())))?;
            }
            Some(DocumentEvent::Replaced | DocumentEvent::Missed(_)) => changes = begin(&document, output)?,
            Some(DocumentEvent::Failed(error)) => {
                output.flush()?;
                return Err(error.into());
            }
            Some(_) => {}
            None => return Err(Failure::new("the endpoint has ended")),
        }
    }
}

/// Prints the text; gives what becomes of it from there on.
fn begin(document: &DocumentHandle<Text>, output: &mut Output) -> Result<DocumentEvents<Text>, Failure> {
    let (text, changes) = document.watch(ToString::to_string);
    output.line(&Line::Change(ChangeLine::whole(text)))?;
    Ok(changes)
}

/// Prints what happens to the connection.
async fn print_next(happenings: &mut Events, output: &mut Output) -> Result<(), Failure> {
    match happenings.next().await {
        // Who else is there is the host's to tell.
        Some(event) => match line::for_event(event) {
            None | Some(Line::MemberJoined { .. } | Line::MemberLeft { .. }) => Ok(()),
            Some(line) => output.line_now(&line),
        },
        // The endpoint has ended: that the document tells.
        None => std::future::pending().await,
    }
}

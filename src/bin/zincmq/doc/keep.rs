//! `zincmq doc keep`: keeps the documents of a cluster beside its host.

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use zincmq::document::store::RedbStore;
use zincmq::document::{Keeper, KeeperError};
use zincmq::{Client, Endpoint};

use super::join;
use crate::args::KeepArgs;
use crate::failure::Failure;
use crate::line::{self, Closed, Line};
use crate::output::Output;

pub(super) async fn run(args: KeepArgs, stop: &CancellationToken, mut output: Output) -> Result<(), Failure> {
    let path = args.store.clone();
    // Before the cluster is joined: nobody is to see a keeper that is about to fail.
    let store = tokio::task::spawn_blocking(move || RedbStore::open(path)).await??;
    let client = join(&args.join, stop).await?;
    let keeper = Keeper::builder().store(store).start(&client).await?;
    let kept = keep(&client, &keeper, &args, stop, &mut output).await;
    // All that it has seen by now is stored, or it says why not.
    let closed = keeper.clone();
    keeper.close().await;
    let stored = match closed.failed().await {
        KeeperError::Closed => Ok(()),
        error => Err(error),
    };
    let report = client.shutdown().await;
    kept?;
    stored?;
    output.line_now(&Line::Closed(Closed::new(report, client.stats())))
}

async fn keep(
    client: &Client,
    keeper: &Keeper,
    args: &KeepArgs,
    stop: &CancellationToken,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut happenings = client.events();
    let mut has_caught_up = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            error = keeper.failed() => return Err(match error {
                KeeperError::Closed => Failure::new("the endpoint has ended"),
                error => error.into(),
            }),
            caught_up = keeper.caught_up(), if !has_caught_up => {
                caught_up?;
                has_caught_up = true;
                let (store, documents) = (args.store.display().to_string(), keeper.documents().len());
                output.line_now(&Line::Keeping { store, documents })?;
            }
            Some(event) = happenings.next() => match line::for_event(event) {
                // Who else is there is the host's to tell.
                None | Some(Line::MemberJoined { .. } | Line::MemberLeft { .. }) => {}
                Some(line) => output.line_now(&line)?,
            },
        }
    }
}

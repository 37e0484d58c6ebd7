//! `zincmq doc list`: which documents there are.

use tokio_util::sync::CancellationToken;
use zincmq::Endpoint;
use zincmq::document::{self, DocumentInfo};

use super::join;
use crate::args::JoinArgs;
use crate::failure::Failure;
use crate::line::Line;
use crate::output::Output;

pub(super) async fn run(args: JoinArgs, stop: &CancellationToken, mut output: Output) -> Result<(), Failure> {
    let client = join(&args, stop).await?;
    let list = tokio::select! {
        list = document::list(&client) => list.map_err(Failure::from),
        () = stop.cancelled() => Err(Failure::new("interrupted before the list was there")),
    };
    // Nothing was sent that matters.
    let _ = client.shutdown().await;
    let list = list?;
    if list.is_empty() && !output.is_json() {
        return output.text("no documents");
    }
    for DocumentInfo { name, kind, size, .. } in list {
        output.line(&Line::Document { name, kind, size })?;
    }
    output.flush()
}

//! `zincmq doc`: the documents that a host keeps, from the command line.
//!
//! Each of these joins, takes the documents it names and nothing else, and leaves; `keep` takes all of them, and stays.

#[path = "doc/edit.rs"]
mod edit;
#[path = "doc/keep.rs"]
mod keep;
#[path = "doc/list.rs"]
mod list;
#[path = "doc/watch.rs"]
mod watch;

use tokio_util::sync::CancellationToken;
use zincmq::document::crdt::Text;
use zincmq::document::{DocumentExt, DocumentHandle};
use zincmq::{Client, Endpoint};

use crate::args::{DocCommand, JoinArgs, TextArgs};
use crate::failure::Failure;
use crate::line::Line;
use crate::output::Output;
use crate::stop;
use crate::subscribe::builder;

pub(crate) async fn run(command: DocCommand, output: Output) -> Result<(), Failure> {
    let stop = stop::on_signal()?;
    match command {
        DocCommand::Edit(args) => edit::run(args, &stop, output).await,
        DocCommand::Get(args) => get(args, &stop, output).await,
        DocCommand::Watch(args) => watch::run(args, &stop, output).await,
        DocCommand::Keep(args) => keep::run(args, &stop, output).await,
        DocCommand::List(args) => list::run(args, &stop, output).await,
    }
}

/// Joins, to take nothing but what is asked for.
pub(crate) async fn join(args: &JoinArgs, stop: &CancellationToken) -> Result<Client, Failure> {
    let builder = builder(args)?.subscribe_to_nothing();
    tokio::select! {
        joined = builder.join(args.address.clone()) => Ok(joined?),
        () = stop.cancelled() => Err(Failure::new("interrupted before the cluster was joined")),
    }
}

/// Opens a text.
pub(crate) async fn open(
    client: &Client,
    name: &str,
    stop: &CancellationToken,
) -> Result<DocumentHandle<Text>, Failure> {
    tokio::select! {
        opened = client.document::<Text>(name) => Ok(opened?),
        () = stop.cancelled() => Err(Failure::new("interrupted before the document was there")),
    }
}

/// `zincmq doc get`.
async fn get(args: TextArgs, stop: &CancellationToken, mut output: Output) -> Result<(), Failure> {
    let client = join(&args.join, stop).await?;
    let opened = open(&client, &args.name, stop).await;
    let text = opened.map(|document| document.read(ToString::to_string));
    // The report is of no interest: nothing was sent that matters.
    let _ = client.shutdown().await;
    let text = text?;
    if output.is_json() {
        return output.line_now(&Line::Text { document: &args.name, text: &text });
    }
    output.raw(&text)
}

//! `zincmq host`: orders and publishes, keeps documents, and prints who comes, goes and is sent away.

use futures::{FutureExt, StreamExt};
use zincmq::document::store::RedbStore;
use zincmq::document::{Keeper, KeeperError};
use zincmq::{Endpoint, Host};

use crate::args::HostArgs;
use crate::failure::Failure;
use crate::line::{self, Closed, Line};
use crate::output::Output;
use crate::{stop, token};

pub(crate) async fn run(args: HostArgs, mut output: Output) -> Result<(), Failure> {
    let mut builder = Host::builder()
        .cluster(args.cluster)
        .transport(args.carrier.carrier())
        .high_water_mark(args.flow.marks())
        .slow_policy(args.flow.policy());
    // The flag wins over the environment: it says what is wanted here and now.
    if args.allow_anonymous {
        builder = builder.allow_anonymous();
    } else if let Some(token) = token::token(&args.token)? {
        builder = builder.token(token);
    }
    if let Some(address) = args.bind_broadcast {
        builder = builder.bind_broadcast(address);
    }
    if let Some(address) = args.bind_submit {
        builder = builder.bind_submit(address);
    }
    if let Some(address) = args.advertise {
        builder = builder.advertise(address);
    }
    let stop = stop::on_signal()?;
    // Before anything is bound: nobody is to see a host that is about to fail.
    let store = match &args.store {
        Some(path) => {
            let path = path.clone();
            Some(tokio::task::spawn_blocking(move || RedbStore::open(path)).await??)
        }
        None => None,
    };
    let host = builder.bind(args.bind).await?;
    let mut events = host.events();
    let keeper = if args.no_documents { None } else { Some(keep(store, &host).await?) };
    // In a task of its own, so that a standard output that takes nothing does not hold up the end.
    let closing = tokio::spawn({
        let host = host.clone();
        async move {
            stop.cancelled().await;
            host.shutdown().await
        }
    });

    let mut reader = Reader(Some(&mut output));
    reader.print(&line::listening(&host, host.id()))?;
    if let (Some(store), Some(keeper)) = (&args.store, &keeper) {
        let documents = keeper.documents().len();
        reader.print(&Line::Keeping { store: store.display().to_string(), documents })?;
    }
    let mut failed = std::pin::pin!(store_failed(keeper.clone()));
    let mut failure = None;
    // The stream ends when the host has.
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => if let Some(line) = line::for_event(event) {
                    reader.print(&line)?;
                },
                None => break,
            },
            error = &mut failed, if failure.is_none() => {
                reader.print(&Line::StoreFailed { reason: error.to_string() })?;
                failure = Some(error);
            }
        }
    }
    let report = closing.await.map_err(|error| Failure::new(format!("the host ended early: {error}")))?;
    // After the host: all that it put in order is kept.
    let failed = match keeper {
        Some(keeper) => {
            let failed = keeper.failed();
            keeper.clone().close().await;
            failed.now_or_never().filter(|error| *error != KeeperError::Closed)
        }
        None => None,
    };
    reader.print(&Line::Closed(Closed::new(report, host.stats())))?;
    failure.or(failed).map_or(Ok(()), |error| Err(error.into()))
}

async fn keep(store: Option<RedbStore>, host: &Host) -> Result<Keeper, Failure> {
    let builder = Keeper::builder();
    let builder = match store {
        Some(store) => builder.store(store),
        None => builder,
    };
    Ok(builder.start(host).await?)
}

/// Waits until a keeper keeps no more, for another reason than that the host has ended.
async fn store_failed(keeper: Option<Keeper>) -> KeeperError {
    match keeper {
        Some(keeper) => match keeper.failed().await {
            KeeperError::Closed => std::future::pending().await,
            error => error,
        },
        None => std::future::pending().await,
    }
}

/// Whoever reads standard output. A host outlives its reader, since others depend on it: `zincmq host | head -1` is fair.
struct Reader<'a>(Option<&'a mut Output>);

impl Reader<'_> {
    fn print(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        let Some(output) = &mut self.0 else { return Ok(()) };
        match output.line_now(line) {
            Err(Failure::NobodyReads) => {
                self.0 = None;
                Ok(())
            }
            result => result,
        }
    }
}

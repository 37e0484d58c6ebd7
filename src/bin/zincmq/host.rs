//! `zincmq host`: orders and publishes, and prints who comes, goes and is sent away.

use futures::StreamExt;
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
    let host = builder.bind(args.bind).await?;
    let mut events = host.events();
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
    // The stream ends when the host has.
    while let Some(event) = events.next().await {
        if let Some(line) = line::for_event(event) {
            reader.print(&line)?;
        }
    }
    let report = closing.await.map_err(|error| Failure::new(format!("the host ended early: {error}")))?;
    reader.print(&Line::Closed(Closed::new(report, host.stats())))
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

//! `zincmq sub`: joins, and prints what is ordered from then on.

use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;
use zincmq::{Batch, Client, Endpoint, EndpointId, Events, Messages, Position, RecvError, Role};

use crate::args::{JoinArgs, SubArgs};
use crate::failure::{self, Failure};
use crate::line::{self, Closed, Line, MessageLine};
use crate::output::Output;
use crate::{stop, token};

pub(crate) async fn run(args: SubArgs, mut output: Output) -> Result<(), Failure> {
    let mut builder = builder(&args.join)?;
    if let Some(id) = args.id {
        builder = builder.id(id);
    }
    for prefix in args.topics {
        builder = builder.subscribe(prefix);
    }
    let stop = stop::on_signal()?;
    let (client, messages) = tokio::select! {
        joined = builder.join_with_messages(args.join.address) => joined?,
        () = stop.cancelled() => return Ok(()),
    };
    let Position { epoch, seq } = client.joined_at();
    output.line_now(&Line::Joined { id: client.id(), host: host_of(&client), epoch, seq })?;
    let mut printer = Printer { left: args.count.unwrap_or(u64::MAX), output: &mut output };
    // The streams end with it: one that nobody reads any more would hold up the shutdown.
    let outcome = printer.run(client.events(), messages, &stop).await;
    let report = client.shutdown().await;
    outcome?;
    output.line_now(&Line::Closed(Closed::new(report, client.stats())))
}

/// A client as the options that `sub` and `pub` share want it.
pub(crate) fn builder(args: &JoinArgs) -> Result<zincmq::ClientBuilder, Failure> {
    let builder = Client::builder().cluster(&args.cluster).join_timeout(args.timeout);
    Ok(match token::token(&args.token)? {
        Some(token) => builder.token(token),
        None => builder,
    })
}

/// The host a client has just joined; nil if it is gone already.
fn host_of(client: &Client) -> EndpointId {
    let host = client.members().into_iter().find(|member| member.role == Role::Host);
    host.map_or(EndpointId::NIL, |host| host.id)
}

/// Prints messages and what happens to the connection.
struct Printer<'a> {
    /// How many messages are still to be printed.
    left: u64,
    output: &'a mut Output,
}

impl Printer<'_> {
    /// Prints until there have been enough messages, or the end is asked for.
    async fn run(
        &mut self,
        mut events: Events,
        mut messages: Messages,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        while self.left > 0 && !stop.is_cancelled() {
            while let Some(Some(event)) = events.next().now_or_never() {
                self.print_event(event)?;
            }
            let item = match messages.next_batch().now_or_never() {
                Some(item) => item,
                None => {
                    // Nothing is pending: now is the time to show what was collected.
                    self.output.flush()?;
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        Some(event) = events.next() => {
                            self.print_event(event)?;
                            continue;
                        }
                        item = messages.next_batch() => item,
                    }
                }
            };
            match item {
                Some(Ok(batch)) => self.print_batch(batch)?,
                Some(Err(RecvError::Reset { after, resume_at })) => {
                    self.output.line(&Line::Reset { after, resume_at })?;
                }
                Some(Err(RecvError::Refused { reason })) => {
                    self.output.flush()?;
                    let message = format!("the host does not admit this endpoint any more: {reason}");
                    return Err(Failure::Told { message, advice: failure::for_refusal(&reason) });
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::new("the endpoint has ended")),
            }
        }
        self.output.flush()
    }

    fn print_event(&mut self, event: zincmq::Event) -> Result<(), Failure> {
        match line::for_event(event) {
            // Who else is there is the host's to tell.
            None | Some(Line::MemberJoined { .. } | Line::MemberLeft { .. }) => Ok(()),
            Some(line) => self.output.line_now(&line),
        }
    }

    fn print_batch(&mut self, batch: Batch) -> Result<(), Failure> {
        for message in batch.as_slice() {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.output.line(&Line::Message(MessageLine::from(message)))?;
        }
        Ok(())
    }
}

//! `zincmq sub`: joins, and prints what is ordered from then on.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;
use zincmq::{
    Batch, Client, Endpoint, EndpointId, Event, Events, Message, Messages, Position, RecvError, Rejoin, Role,
};

use crate::args::{JoinArgs, SubArgs};
use crate::failure::{self, Failure};
use crate::line::{self, Closed, EvictedLine, Line, MessageLine};
use crate::output::Output;
use crate::{stop, token};

pub(crate) async fn run(args: SubArgs, mut output: Output) -> Result<(), Failure> {
    let rejoin = Rejoin::from(args.rejoin);
    let mut builder = builder(&args.join)?.rejoin(rejoin);
    if let Some(id) = args.id {
        builder = builder.id(id);
    }
    let with_documents = !args.topics.is_empty();
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
    let printer = Printer {
        client: &client,
        events: client.events(),
        messages,
        rejoin,
        with_documents,
        delay: Duration::from_millis(args.delay_ms),
        left: args.count.unwrap_or(u64::MAX),
        last: client.joined_at(),
        overran: false,
        is_new: false,
        dropped: false,
        output: &mut output,
    };
    // The streams end with it: one that nobody reads any more would hold up the shutdown.
    let outcome = printer.run(&stop).await;
    let report = client.shutdown().await;
    outcome?;
    output.line_now(&Line::Closed(Closed::new(report, client.stats())))
}

/// A client as the options that `sub` and `pub` share want it.
pub(crate) fn builder(args: &JoinArgs) -> Result<zincmq::ClientBuilder, Failure> {
    let builder =
        Client::builder().cluster(&args.cluster).transport(args.carrier.carrier()).join_timeout(args.timeout);
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

/// Whether it is on a topic that documents take for themselves.
fn is_of_documents(message: &Message) -> bool {
    let topic = message.topic().as_str();
    topic.starts_with("doc/") || topic.starts_with("doc-to/")
}

/// Prints messages and what happens to the endpoint.
struct Printer<'a> {
    client: &'a Client,
    events: Events,
    messages: Messages,
    rejoin: Rejoin,
    /// Whether to print what documents say, which is for no one to read.
    with_documents: bool,
    /// How long to wait after each message.
    delay: Duration,
    /// How many messages are still to be printed.
    left: u64,
    /// The message printed last, or where the order stood before the first.
    last: Position,
    /// The stream fell too far behind and has ended; what becomes of the endpoint is about to be told.
    overran: bool,
    /// The stream is a new one, and what is being printed came from the one before.
    is_new: bool,
    /// What waited behind that was dropped: to be told as soon as it is known where printing goes on.
    dropped: bool,
    output: &'a mut Output,
}

impl Printer<'_> {
    /// Prints until there have been enough messages, or the end is asked for.
    async fn run(mut self, stop: &CancellationToken) -> Result<(), Failure> {
        while self.left > 0 && !stop.is_cancelled() {
            while let Some(Some(event)) = self.events.next().now_or_never() {
                self.print_event(event)?;
            }
            let item = match self.messages.next_batch().now_or_never() {
                Some(item) => item,
                None => {
                    // Nothing is pending: now is the time to show what was collected.
                    self.output.flush()?;
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        Some(event) = self.events.next() => {
                            self.print_event(event)?;
                            continue;
                        }
                        item = self.messages.next_batch() => item,
                    }
                }
            };
            self.dropped |= std::mem::take(&mut self.is_new);
            match item {
                Some(Ok(batch)) => self.print_batch(batch, stop).await?,
                Some(Err(word)) => self.on_word(word, stop).await?,
                None => return Err(Failure::new("the endpoint has ended")),
            }
        }
        self.output.flush()
    }

    /// Fails with an eviction that is not to be survived.
    fn print_event(&mut self, event: Event) -> Result<(), Failure> {
        let outcome = match &event {
            Event::Evicted { eviction, .. } if self.rejoin == Rejoin::Never => {
                Err(Failure::evicted(eviction))
            }
            // The endpoint took itself out, or was on its way out: not before, since with a new stream it would see no reason to.
            Event::Evicted { .. } | Event::Disconnected { .. } | Event::Connected { .. } if self.overran => {
                self.start_over()
            }
            Event::ConsumerOverrun { .. } => {
                self.overran = true;
                Ok(())
            }
            _ => Ok(()),
        };
        match line::for_event(event) {
            // Who else is there is the host's to tell.
            None | Some(Line::MemberJoined { .. } | Line::MemberLeft { .. }) => {}
            Some(line) => self.output.line_now(&line)?,
        }
        outcome
    }

    /// Goes on with a new stream, in place of one that has overrun. Fails where that is not to be survived.
    fn start_over(&mut self) -> Result<(), Failure> {
        if self.rejoin == Rejoin::Never {
            return Err(Failure::overrun());
        }
        self.messages = self.client.messages();
        self.overran = false;
        self.is_new = true;
        Ok(())
    }

    async fn print_batch(&mut self, batch: Batch, stop: &CancellationToken) -> Result<(), Failure> {
        if self.delay.is_zero() {
            for message in batch.as_slice() {
                if self.left == 0 {
                    break;
                }
                self.print_message(message)?;
            }
            return Ok(());
        }
        // Taken one by one: a message counts as handled when the next is taken.
        for message in batch {
            self.print_message(&message)?;
            self.output.flush()?;
            if self.left == 0 || !self.dawdle(stop).await? {
                break;
            }
        }
        Ok(())
    }

    fn print_message(&mut self, message: &Message) -> Result<(), Failure> {
        if let Some(position) = message.position() {
            // It may be that nothing waited.
            if std::mem::take(&mut self.dropped) && position.seq != self.last.seq + 1 {
                self.output.line(&Line::Reset { after: Some(self.last), resume_at: position })?;
            }
            self.last = position;
        }
        if !self.with_documents && is_of_documents(message) {
            return Ok(());
        }
        self.left -= 1;
        self.output.line(&Line::Message(MessageLine::from(message)))
    }

    /// Waits as long as was asked for after each message, and prints what happens meanwhile. `false` when the end is asked for.
    async fn dawdle(&mut self, stop: &CancellationToken) -> Result<bool, Failure> {
        let until = tokio::time::Instant::now() + self.delay;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(false),
                Some(event) = self.events.next() => self.print_event(event)?,
                () = tokio::time::sleep_until(until) => return Ok(true),
            }
        }
    }

    /// What the stream says besides messages.
    async fn on_word(&mut self, word: RecvError, stop: &CancellationToken) -> Result<(), Failure> {
        match word {
            RecvError::Reset { after, resume_at } => {
                // One hole, if what lies before it was dropped.
                let after = if std::mem::take(&mut self.dropped) { Some(self.last) } else { after };
                self.output.line(&Line::Reset { after, resume_at })
            }
            RecvError::Lagged(missed) => self.output.line(&Line::Lagged { missed }),
            RecvError::Overrun => {
                self.overran = true;
                self.await_new_stream(stop).await
            }
            RecvError::Evicted(eviction) => {
                // The event says it first, but for a reader that was too slow to see it.
                let failure = Failure::evicted(&eviction);
                self.output.line_now(&Line::Evicted(EvictedLine::new(self.client.id(), eviction)))?;
                Err(failure)
            }
            RecvError::Refused { reason } => {
                self.output.flush()?;
                let message = format!("the host does not admit this endpoint any more: {reason}");
                Err(Failure::Told { message, advice: failure::for_refusal(&reason) })
            }
            error => Err(error.into()),
        }
    }

    /// The only stream has overrun, so that the endpoint evicts itself: waits for its word of that.
    async fn await_new_stream(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        while self.overran {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                event = self.events.next() => event,
            };
            match event {
                None => return Err(Failure::overrun()),
                // The word was among those missed, or will not be missed any more.
                Some(Event::Lagged(missed)) => {
                    self.output.line_now(&Line::EventsMissed { missed })?;
                    self.start_over()?;
                }
                Some(event) => self.print_event(event)?,
            }
        }
        Ok(())
    }
}

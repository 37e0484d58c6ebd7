//! `zincmq pub`: sends each line of standard input, and waits until all have come back in order.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use zincmq::{Client, Endpoint, Event, Events, Message, Position, Receipt, ReceiptError, SendError, Topic};

use crate::args::PubArgs;
use crate::failure::Failure;
use crate::line::Line;
use crate::output::{Output, counted};
use crate::stdin::{self, Lines};
use crate::stop;
use crate::subscribe::builder;

/// How many bytes may be under way, beside the number of messages: they wait in queues at both ends (a guess at what nobody minds).
const MAX_BYTES: usize = 64 * 1024 * 1024;

pub(crate) async fn run(args: PubArgs, mut output: Output) -> Result<(), Failure> {
    let builder = builder(&args.join)?;
    let stop = stop::on_signal()?;
    let client = tokio::select! {
        joined = builder.join(args.join.address) => joined?,
        () = stop.cancelled() => return Err(Failure::new("interrupted before the cluster was joined: nothing was sent")),
    };
    let events = client.events();
    // It only sends: what others say need not travel here.
    client.unsubscribe("").await?;
    let mut window = Window::new(args.in_flight as usize);
    let outcome = tokio::select! {
        outcome = send_all(&client, &args.topic, &mut window, &stop) => outcome,
        failure = host_gone(events, args.join.timeout) => Err(failure),
    };
    // Ends the endpoint, so that every receipt has its answer.
    let _ = client.shutdown().await;
    window.settle_rest().await;
    match window.outcome(outcome) {
        Ok(done) => output.line_now(&done),
        Err(failure) => Err(failure),
    }
}

/// Sends until the input ends or the end is asked for, and waits until everything has its place.
async fn send_all(
    client: &Client,
    topic: &Topic,
    window: &mut Window,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut input = stdin::lines()?;
    let sender = client.sender();
    loop {
        let lines: Lines = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            lines = input.recv() => match lines {
                Some(lines) => lines?,
                None => break,
            },
        };
        for line in lines {
            let length = line.len();
            window.make_room(length).await;
            let message = Message::new(topic.clone(), line)?;
            match sender.send(message).await {
                Ok(receipt) => window.push(receipt, length),
                Err(error) => return Err(unsendable(window.sent, &error)),
            }
        }
    }
    window.settle_rest().await;
    Ok(())
}

fn unsendable(sent: u64, error: &SendError) -> Failure {
    let message = format!("line {} cannot be sent: {error}", sent + 1);
    match error {
        SendError::ReadOnly { .. } => Failure::with_advice(message, "join with a token that may send"),
        _ => Failure::new(message),
    }
}

/// Waits until the host has been away for too long, or this endpoint, whatever the host let it wait for.
pub(crate) async fn host_gone(mut events: Events, timeout: Duration) -> Failure {
    loop {
        let Some(event) = events.next().await else {
            // The endpoint has ended, and the sending side says why.
            return std::future::pending().await;
        };
        let pause = match event {
            Event::Disconnected { reason } => {
                crate::failure::note(&format!("disconnected ({reason}); waiting for the host to come back"));
                Duration::ZERO
            }
            Event::Evicted { eviction, .. } => {
                crate::failure::note(&format!("evicted ({eviction}); waiting to come back"));
                eviction.retry_after
            }
            _ => continue,
        };
        let back = async { while !matches!(events.next().await, Some(Event::Connected { .. }) | None) {} };
        if tokio::time::timeout(pause + timeout, back).await.is_err() {
            return Failure::with_advice(
                format!("the host went away and did not come back within {timeout:?}"),
                "see that it runs, or wait longer for it with --timeout SECONDS",
            );
        }
    }
}

/// The messages under way. It slides: only the receipts of the newest are kept, however long the input.
#[derive(Debug)]
struct Window {
    most: usize,
    receipts: VecDeque<(Receipt, usize)>,
    bytes: usize,
    sent: u64,
    unknown: u64,
    never_sent: u64,
    first: Option<Position>,
    last: Option<Position>,
}

impl Window {
    fn new(most: usize) -> Self {
        Self {
            most,
            receipts: VecDeque::new(),
            bytes: 0,
            sent: 0,
            unknown: 0,
            never_sent: 0,
            first: None,
            last: None,
        }
    }

    /// Waits until one more message of this length fits. A single one fits whatever its length.
    ///
    /// Once full, it waits until a quarter is free: messages sent one by one as others come back travel in tiny batches.
    async fn make_room(&mut self, length: usize) {
        if self.receipts.len() >= self.most {
            let enough = self.most - self.most.div_ceil(4);
            while self.receipts.len() > enough {
                self.settle_oldest().await;
            }
        }
        while self.receipts.len() >= self.most
            || (!self.receipts.is_empty() && self.bytes + length > MAX_BYTES)
        {
            self.settle_oldest().await;
        }
    }

    fn push(&mut self, receipt: Receipt, length: usize) {
        self.sent += 1;
        self.bytes += length;
        self.receipts.push_back((receipt, length));
    }

    async fn settle_rest(&mut self) {
        while !self.receipts.is_empty() {
            self.settle_oldest().await;
        }
    }

    /// Messages of one origin are ordered as they were sent, so the oldest comes back first. Cancel safe.
    async fn settle_oldest(&mut self) {
        let Some((receipt, _)) = self.receipts.front() else { return };
        let fate = receipt.ordered().await;
        self.bytes -= self.receipts.pop_front().map_or(0, |(_, length)| length);
        match fate {
            Ok(position) => {
                self.first.get_or_insert(position);
                self.last = Some(position);
            }
            Err(ReceiptError::NeverSent) => self.never_sent += 1,
            Err(_) => self.unknown += 1,
        }
    }

    /// What is to be told at the end.
    fn outcome(&self, sending: Result<(), Failure>) -> Result<Line<'static>, Failure> {
        let lost = self.unknown + self.never_sent;
        let ordered = self.sent - lost;
        match sending {
            Ok(()) if lost == 0 => Ok(Line::Done { sent: self.sent, first: self.first, last: self.last }),
            Ok(()) => Err(Failure::with_advice(self.losses(ordered), self.advice())),
            Err(Failure::Told { message, advice }) => {
                Err(Failure::Told { message: format!("{message}; {}", self.losses(ordered)), advice })
            }
            Err(nobody) => Err(nobody),
        }
    }

    fn losses(&self, ordered: u64) -> String {
        let mut text = format!("{} came back in order", counted(ordered, "message"));
        if self.unknown > 0 {
            text += &format!(", {} may or may not have been ordered", counted(self.unknown, "message"));
        }
        if self.never_sent > 0 {
            text += &format!(", {} never left", counted(self.never_sent, "message"));
        }
        text
    }

    fn advice(&self) -> &'static str {
        if self.unknown > 0 {
            "look with zincmq sub which of them arrived before sending them again: the connection was lost while they were under way"
        } else {
            "send them again"
        }
    }
}

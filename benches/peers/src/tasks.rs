//! What is measured of sides that run on tokio.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::window::{CALL, Payloads, Progress, Received, check};
use crate::{Cell, Failure, Pattern};

/// How long connections may take to be proven.
const LIVE: Duration = Duration::from_secs(20);

pub trait Sender: Send + 'static {
    fn send(&mut self, payload: Bytes) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Hands on what was collected, of those who collect.
    fn flush(&mut self) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }
}

pub trait Receiver: Send + 'static {
    type Message: Send;

    fn recv(&mut self) -> impl Future<Output = Result<Self::Message, Failure>> + Send;

    fn payload(message: &Self::Message) -> &[u8];
}

/// An implementation on tokio.
pub trait Wire {
    type Sender: Sender;
    type Receiver: Receiver;
    type Asker: Sender + Receiver;
    type Answerer: Sender + Receiver;

    /// PUB and SUBs, or PUSH and PULL.
    fn connect(
        pattern: Pattern,
        receivers: usize,
    ) -> impl Future<Output = Result<(Self::Sender, Vec<Self::Receiver>), Failure>> + Send;

    /// REQ and REP.
    fn ask() -> impl Future<Output = Result<(Self::Asker, Self::Answerer), Failure>> + Send;
}

pub async fn throughput<W: Wire>(cell: Cell) -> Result<Duration, Failure> {
    let (mut sender, receivers) = W::connect(cell.pattern, cell.receivers).await?;
    let progress = Progress::new(&cell);
    let mut tasks = JoinSet::new();
    for (index, receiver) in receivers.into_iter().enumerate() {
        tasks.spawn(receive(receiver, Received::new(&progress, index)));
    }
    let began = Instant::now();
    while !progress.is_live() {
        if began.elapsed() > LIVE {
            return Err("the receivers never heard the sender".into());
        }
        sender.send(Bytes::from_static(CALL)).await?;
        sender.flush().await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    // The socket comes back, so that it does not close with what it has not written.
    let sending = tokio::spawn({
        let progress = Arc::clone(&progress);
        async move {
            let payloads = Payloads::new(cell.size);
            let mut floor = 0;
            for number in 0..cell.messages {
                if !progress.has_room(number, floor) {
                    sender.flush().await?;
                    progress.wait_for_room(number, &mut floor).await;
                }
                sender.send(payloads.make(number)).await?;
            }
            sender.flush().await?;
            Ok::<_, Failure>(sender)
        }
    });
    let received = async {
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        Ok(start.elapsed())
    };
    let result = tokio::select! {
        result = received => result,
        failure = progress.watch() => Err(failure),
    };
    sending.abort();
    match sending.await {
        Ok(Err(error)) => Err(error),
        _ => result,
    }
}

async fn receive(mut receiver: impl Receiver, mut received: Received) -> Result<(), Failure> {
    loop {
        let message = receiver.recv().await?;
        if received.take(payload_of(&receiver, &message))? {
            return Ok(());
        }
    }
}

fn payload_of<'a, R: Receiver>(_: &R, message: &'a R::Message) -> &'a [u8] {
    R::payload(message)
}

/// Round trips, one after the other.
pub async fn round_trips<W: Wire>(size: u64, count: u64) -> Result<Vec<Duration>, Failure> {
    let (mut asker, mut answerer) = W::ask().await?;
    let answering = tokio::spawn(async move {
        loop {
            let question = answerer.recv().await?;
            answerer.send(Bytes::copy_from_slice(payload_of(&answerer, &question))).await?;
        }
        #[allow(unreachable_code, reason = "names the type")]
        Ok::<(), Failure>(())
    });
    let asking = tokio::spawn(async move {
        let payloads = Payloads::new(size);
        let mut times = Vec::with_capacity(count as usize);
        // The first hundred are to warm up.
        for number in 0..count + 100 {
            let question = payloads.make(number);
            let start = Instant::now();
            asker.send(question).await?;
            let answer = asker.recv().await?;
            let time = start.elapsed();
            check(payload_of(&asker, &answer), number)?;
            if number >= 100 {
                times.push(time);
            }
        }
        Ok(times)
    });
    let times = asking.await?;
    answering.abort();
    let _ = answering.await;
    times
}

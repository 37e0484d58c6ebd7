//! The window of messages in flight, and payloads that are checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::{Cell, Failure};

/// A run that gets nothing through for so long has lost something.
const STALL: Duration = Duration::from_secs(10);
/// What is sent until every receiver hears it.
pub const CALL: &[u8] = &[0];
/// How often a receiver says how far it has come: the same on all sides.
const STEP: u64 = 16;

/// How far each receiver has come, and whether the sender may send more.
pub struct Progress {
    received: Vec<Counter>,
    /// What the sender waits for all receivers to reach.
    goal: AtomicU64,
    reached: Notify,
    messages: u64,
    window: u64,
    /// Receivers that have heard the call.
    pub live: Counter,
    pub receivers: usize,
}

/// Alone in its cache lines.
#[derive(Default)]
#[repr(align(128))]
pub struct Counter(pub AtomicU64);

impl Progress {
    pub fn new(cell: &Cell) -> Arc<Self> {
        Arc::new(Self {
            received: (0..cell.receivers).map(|_| Counter::default()).collect(),
            goal: AtomicU64::new(0),
            reached: Notify::new(),
            messages: cell.messages,
            window: cell.window(),
            live: Counter::default(),
            receivers: cell.receivers,
        })
    }

    fn reach(&self, receiver: usize, count: u64) {
        let before = self.received[receiver].0.swap(count, SeqCst);
        let goal = self.goal.load(SeqCst);
        if before < goal && goal <= count {
            self.reached.notify_one();
        }
    }

    fn least(&self) -> u64 {
        self.received.iter().map(|counter| counter.0.load(SeqCst)).min().unwrap_or(0)
    }

    /// Whether one more may be sent after `sent`; `floor` is what all receivers were last seen to have.
    pub fn has_room(&self, sent: u64, floor: u64) -> bool {
        sent < floor + self.window
    }

    /// Waits until a quarter of the window is free, so that no side pays for a wake-up per message.
    pub async fn wait_for_room(&self, sent: u64, floor: &mut u64) {
        let goal = (sent - self.window + (self.window / 4).max(1)).next_multiple_of(STEP).min(sent);
        self.goal.store(goal, SeqCst);
        loop {
            *floor = self.least();
            if *floor >= goal {
                return;
            }
            self.reached.notified().await;
        }
    }

    /// Fails when nothing gets through any more. Never returns else.
    pub async fn watch(&self) -> Failure {
        let mut last = u64::MAX;
        loop {
            let sum: u64 = self.received.iter().map(|counter| counter.0.load(SeqCst)).sum();
            if sum == last {
                return self.stalled();
            }
            last = sum;
            tokio::time::sleep(STALL).await;
        }
    }

    pub fn stalled(&self) -> Failure {
        let sum: u64 = self.received.iter().map(|counter| counter.0.load(SeqCst)).sum();
        format!("stalled: {} deliveries lost", self.messages * self.received.len() as u64 - sum).into()
    }

    pub fn is_live(&self) -> bool {
        self.live.0.load(SeqCst) == self.receivers as u64
    }
}

/// What one receiver has checked.
pub struct Received {
    progress: Arc<Progress>,
    receiver: usize,
    count: u64,
    called: bool,
}

impl Received {
    pub fn new(progress: &Arc<Progress>, receiver: usize) -> Self {
        Self { progress: Arc::clone(progress), receiver, count: 0, called: false }
    }

    /// Checks what came. Whether it was the last.
    pub fn take(&mut self, payload: &[u8]) -> Result<bool, Failure> {
        if payload == CALL {
            if !std::mem::replace(&mut self.called, true) {
                self.progress.live.0.fetch_add(1, SeqCst);
            }
            return Ok(false);
        }
        check(payload, self.count)?;
        self.count += 1;
        let is_last = self.count == self.progress.messages;
        if is_last || self.count.is_multiple_of(STEP) {
            self.progress.reach(self.receiver, self.count);
        }
        Ok(is_last)
    }
}

pub fn check(payload: &[u8], expected: u64) -> Result<(), Failure> {
    match payload.first_chunk().map(|first| u64::from_be_bytes(*first)) {
        Some(number) if number == expected => Ok(()),
        Some(number) if number > expected => {
            Err(format!("lost {} messages behind number {expected}", number - expected).into())
        }
        number => Err(format!("{number:?} came where {expected} was due").into()),
    }
}

/// Builds payloads that begin with their number.
pub struct Payloads(BytesMut);

impl Payloads {
    pub fn new(size: u64) -> Self {
        Self(BytesMut::zeroed(size as usize))
    }

    pub fn make(&self, number: u64) -> Bytes {
        let mut payload = self.0.clone();
        payload[..8].copy_from_slice(&number.to_be_bytes());
        payload.freeze()
    }

    /// The same, for those who copy it themselves.
    pub fn write(&mut self, number: u64) -> &[u8] {
        self.0[..8].copy_from_slice(&number.to_be_bytes());
        &self.0
    }
}

//! What the drivers of hosts and clients have in common: the clock, and the way to the listener.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant as TokioInstant;

use crate::error::RefusalReason;
use crate::proto::Instant;
use crate::wire::RefusalCode;

use super::listener::Delivery;

/// Tells machines the time.
#[derive(Debug)]
pub(super) struct Clock(TokioInstant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(TokioInstant::now())
    }

    pub(super) fn now(&self) -> Instant {
        Instant::since_start(self.0.elapsed())
    }

    /// Waits until a deadline, for ever without one. Cancel safe.
    pub(super) async fn sleep_until(&self, deadline: Option<Instant>) {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(self.0 + deadline.elapsed()).await,
            None => std::future::pending().await,
        }
    }
}

/// The way from a driver to its listener.
///
/// Bounded: the driver takes messages in only while there [is room](Self::has_room), so what waits here beyond the channel is
/// what one wake-up brought.
#[derive(Debug)]
pub(super) struct Inbound {
    channel: mpsc::Sender<Delivery>,
    waiting: VecDeque<Delivery>,
}

impl Inbound {
    pub(super) fn new(channel: mpsc::Sender<Delivery>) -> Self {
        Self { channel, waiting: VecDeque::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        if self.waiting.is_empty() {
            match self.channel.try_send(delivery) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(delivery)) => self.waiting.push_back(delivery),
            }
        } else {
            self.waiting.push_back(delivery);
        }
    }

    /// Hands over one of those that wait. Cancel safe.
    pub(super) async fn wait_for_room(&mut self) {
        let Ok(permit) = self.channel.reserve().await else {
            self.waiting.clear();
            return;
        };
        if let Some(delivery) = self.waiting.pop_front() {
            permit.send(delivery);
        }
        while let Some(delivery) = self.waiting.pop_front() {
            match self.channel.try_send(delivery) {
                Ok(()) => {}
                Err(error) => {
                    self.waiting.push_front(error.into_inner());
                    break;
                }
            }
        }
    }

    /// Hands over all that wait, for as long as `timeout`, and closes the way.
    pub(super) async fn finish(mut self, timeout: Duration) {
        let flush = async {
            while !self.has_room() {
                self.wait_for_room().await;
            }
        };
        // Consumers that take nothing any more lose what they did not take.
        let _ = tokio::time::timeout(timeout, flush).await;
    }
}

/// A refusal in words.
pub(super) fn reason(code: RefusalCode, text: String) -> RefusalReason {
    match code {
        RefusalCode::Cluster => RefusalReason::WrongCluster(text),
        RefusalCode::Version => RefusalReason::WrongVersion(text),
        RefusalCode::Unauthorized => RefusalReason::Unauthorized(text),
        RefusalCode::DuplicateId => RefusalReason::DuplicateId(text),
        RefusalCode::Full | RefusalCode::Busy | RefusalCode::Quarantined => RefusalReason::Full(text),
        RefusalCode::Closing => RefusalReason::Closing(text),
        RefusalCode::Malformed => RefusalReason::Malformed(text),
    }
}

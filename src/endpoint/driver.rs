//! What the drivers of hosts and clients have in common.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant as TokioInstant;

use crate::error::RefusalReason;
use crate::proto::Instant;
use crate::wire::{MAX_ORIGIN_SEQ, RefusalCode};

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

/// A refusal in words.
pub(super) fn reason(code: RefusalCode, text: String) -> RefusalReason {
    match code {
        RefusalCode::Cluster => RefusalReason::WrongCluster(text),
        RefusalCode::Version => RefusalReason::WrongVersion(text),
        RefusalCode::Unauthorized => RefusalReason::Unauthorized(text),
        RefusalCode::DuplicateId => RefusalReason::DuplicateId(text),
        RefusalCode::Full | RefusalCode::Busy => RefusalReason::Full(text),
        RefusalCode::Quarantined => RefusalReason::Quarantined(text),
        RefusalCode::Closing => RefusalReason::Closing(text),
        RefusalCode::Malformed => RefusalReason::Malformed(text),
    }
}

/// The number of an endpoint's first message: 1 under an id that nobody has seen before. Under one that was given, it may have been used
/// before, and the host may have forgotten that: no number used then is as high as the Unix time in microseconds.
pub(super) fn first_origin_seq(id_is_fresh: bool) -> u64 {
    if id_is_fresh {
        return 1;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX).clamp(1, MAX_ORIGIN_SEQ)
}

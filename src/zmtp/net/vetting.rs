//! Limits on the words of an untrusted peer of a cluster's socket, and on their rate.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::untrusted::Untrusted;

/// The largest frame taken of an untrusted peer, in bytes: a hello with the longest token and
/// names is smaller.
pub(super) const FRAME: usize = 8 * 1024;

/// How many frames an untrusted peer may send at once, and in each second (guesses: a subscriber
/// has a few prefixes, and a flood at this rate costs a millisecond each second).
pub(super) const FRAMES: (u32, u32) = (64, 1_024);

/// Makes a socket distrust its peers until the application names them
/// ([`Handle::trust`](super::Handle::trust)).
#[derive(Debug, Clone)]
pub(crate) struct Vetting {
    /// Shared by the sockets that have one memory budget.
    pub(crate) untrusted: Arc<Untrusted>,
    pub(crate) opening: Opening,
}

/// Finds the name that the first frame of a message bears.
type NameOf = dyn Fn(&Bytes) -> Option<Bytes> + Send + Sync;

/// What an untrusted peer may say first.
#[derive(Clone)]
pub(crate) enum Opening {
    /// One message of one frame that the function accepts, before the handshake limit has passed
    /// once more. A second message before the peer is trusted ends the connection.
    Message(fn(&Bytes) -> bool),
    /// Messages whose first frame, by the function, bears a name that is trusted: so is the peer
    /// from then on. Anything else ends the connection.
    Name(Arc<NameOf>),
    /// Subscriptions. Messages are dropped and counted.
    Subscriptions,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message(_) => "Message",
            Self::Name(_) => "Name",
            Self::Subscriptions => "Subscriptions",
        })
    }
}

/// How many tokens an empty bucket collects before there is one again, so that a flood costs its
/// connection a wake-up for some frames, not for each (a guess).
const REFILL: u32 = 32;

/// A token bucket: a burst at once, then a number a second.
#[derive(Debug)]
pub(super) struct Rate {
    /// The pause that one token costs.
    pause: Duration,
    burst: Duration,
    /// How long an empty bucket stays so.
    refill: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
    /// When an empty bucket has tokens again.
    resume_at: Instant,
}

impl Rate {
    pub(super) fn new((burst, per_second): (u32, u32), now: Instant) -> Self {
        let (burst, pause) = (burst.max(1), Duration::from_secs(1) / per_second.max(1));
        let refill = pause * REFILL.min(burst);
        Self { pause, burst: pause * burst, refill, full_at: now, resume_at: now }
    }

    /// Takes a token, whether or not there is one.
    pub(super) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.pause;
        let missing = self.full_at - now;
        if missing >= self.burst {
            self.resume_at = now + (missing - self.burst) + self.refill;
        }
    }

    /// When there are tokens again; `None` if there are some now.
    pub(super) fn empty_until(&self, now: Instant) -> Option<Instant> {
        (self.resume_at > now).then_some(self.resume_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_a_burst_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut rate = Rate::new((100, 1_000), start);
        let (mut taken, mut pauses) = (0, 0);
        let mut now = start;
        while now < start + Duration::from_secs(10) {
            match rate.empty_until(now) {
                None => {
                    rate.take(now);
                    taken += 1;
                    let most = 100 + (now - start).as_millis();
                    assert!(taken <= most, "{taken} of {most}");
                }
                Some(until) => {
                    pauses += 1;
                    now = until;
                }
            }
        }
        assert!(taken >= 10_000 && pauses <= taken / 30, "{taken} with {pauses} pauses");
        // What was not used comes to no more than a burst.
        now += Duration::from_secs(100);
        let at_once = std::iter::from_fn(|| rate.empty_until(now).is_none().then(|| rate.take(now))).count();
        assert_eq!(at_once, 100);
    }
}

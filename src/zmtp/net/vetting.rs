//! What an untrusted peer of a cluster's socket may say, and how fast.

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

/// A token bucket: a burst at once, then a number a second.
#[derive(Debug)]
pub(super) struct Rate {
    /// The pause that one token costs.
    pause: Duration,
    burst: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl Rate {
    pub(super) fn new((burst, per_second): (u32, u32), now: Instant) -> Self {
        let pause = Duration::from_secs(1) / per_second.max(1);
        Self { pause, burst: pause * burst.max(1), full_at: now }
    }

    /// Takes a token, whether or not there is one.
    pub(super) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.pause;
    }

    /// When there is a token again; `None` if there is one now.
    pub(super) fn empty_until(&self, now: Instant) -> Option<Instant> {
        let until = self.full_at.checked_sub(self.burst)?;
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_a_burst_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut rate = Rate::new((3, 10), start);
        let mut taken = 0;
        for tenth in 0..20 {
            let now = start + Duration::from_millis(tenth * 100);
            while rate.empty_until(now).is_none() {
                rate.take(now);
                taken += 1;
                assert!(taken <= 4 + tenth);
            }
        }
        assert!(taken >= 22, "{taken}");
    }
}

//! The cluster protocol as state machines without IO: [`host::Host`] gives messages their order and admits members,
//! [`member::Member`] is one child's side of a session.
//!
//! Both are driven alike. Whoever owns a machine
//!
//! 1. calls `handle_input(now, input)` for each thing that happened, or `handle_timeout(now)` when the instant that
//!    `poll_timeout` names has come;
//! 2. then calls `poll_output` until it returns `None`, and does what the outputs say;
//! 3. then asks `poll_timeout` anew.
//!
//! No clock, no randomness of the operating system, no sockets and no tasks in here: time and tokens are inputs, the
//! generator is seeded, and maps are ordered, so that a run repeats from its seed. What a peer sends is data: it can be
//! dropped and counted, or end its session, and never panics.

pub(crate) mod host;
mod log;
pub(crate) mod member;
#[cfg(any(test, feature = "test-utils"))]
mod mutant;
mod reached;
mod rng;
mod sequencer;
mod time;

pub(crate) use log::LogLimit;
#[cfg(any(test, feature = "test-utils"))]
pub use mutant::Mutant;
pub(crate) use reached::Reached;
#[cfg(any(test, feature = "crdt", feature = "test-utils"))]
pub(crate) use rng::Rng;
pub(crate) use time::Instant;

/// How many control messages a peer may leave unanswered before its session ends (design: the queues of the zeromq
/// crate are never let fill; they hold 100,000).
pub(crate) const MAX_UNANSWERED: u64 = 1000;
/// After how many control messages a side says how many it received (a guess: a tenth of [`MAX_UNANSWERED`]).
const RECEIVED_EVERY: u64 = 100;

/// Counts the control messages of one session in both directions.
#[derive(Debug, Default)]
struct ControlCount {
    sent: u64,
    answered: u64,
    received: u64,
}

impl ControlCount {
    /// Counts a message about to be sent; `false` when the peer owes too many answers to send more.
    fn on_send(&mut self) -> bool {
        self.sent += 1;
        self.sent - self.answered <= MAX_UNANSWERED
    }

    /// How many messages the peer has not reported.
    fn unanswered(&self) -> u64 {
        self.sent - self.answered
    }

    /// Counts a message that arrived; the number to report when a report is due.
    fn on_receive(&mut self) -> Option<u64> {
        self.received += 1;
        self.received.is_multiple_of(RECEIVED_EVERY).then_some(self.received)
    }

    /// Takes the peer's report; `false` when it claims more than was sent or takes something back.
    fn on_report(&mut self, count: u64) -> bool {
        let plausible = (self.answered..=self.sent).contains(&count);
        if plausible {
            self.answered = count;
        }
        plausible
    }
}

#[cfg(test)]
mod tests;

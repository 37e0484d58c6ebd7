//! Time as the machines know it.

use std::ops::Add;
use std::time::Duration;

/// A moment: the time since some fixed moment that the driver chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    /// The fixed moment itself.
    pub(crate) const START: Self = Self(Duration::ZERO);

    /// The moment this long after the fixed one.
    pub(crate) const fn since_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// How long after the fixed moment.
    pub(crate) const fn elapsed(self) -> Duration {
        self.0
    }

    /// How long after another moment; zero if it is not after it.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

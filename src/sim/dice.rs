//! What is drawn from the seed.

use crate::proto::Rng;

/// A nanosecond count, on the simulation's own clock.
pub(super) type Nanos = u64;
pub(super) const MICRO: Nanos = 1_000;
pub(super) const MILLI: Nanos = 1_000_000;
pub(super) const SECOND: Nanos = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Dice(Rng);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rng::new(seed))
    }

    pub(super) fn any(&mut self) -> u64 {
        self.0.next()
    }

    /// From 0 to below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0.next() % end
    }

    /// From `first` to `last`.
    pub(super) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// As `between`, with small values as likely as large ones: evenly on a logarithmic scale.
    pub(super) fn scale(&mut self, first: u64, last: u64) -> u64 {
        let (low, high) = ((first.max(1) as f64).ln(), (last.max(1) as f64).ln());
        let fraction = (self.0.next() >> 11) as f64 / (1_u64 << 53) as f64;
        ((low + (high - low) * fraction).exp() as u64).clamp(first, last)
    }

    /// With a chance in percent.
    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of these, which are not none.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

//! A small seeded generator for jitter and nonces: never for secrets.

/// SplitMix64 (Steele, Lea and Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Half to all of `duration`, evenly spread: jitter that keeps clients from coming back in step.
    pub(crate) fn jitter(&mut self, duration: std::time::Duration) -> std::time::Duration {
        let fraction = (self.next() >> 40) as f64 / (1_u64 << 24) as f64;
        duration.mul_f64(0.5 + fraction / 2.0)
    }
}

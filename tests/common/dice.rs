//! Chance that repeats: a seeded generator for tests that choose at random.
#![allow(dead_code, reason = "each test crate uses a part of it")]

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Seeded by `ZINCMQ_TEST_SEED`, or as given. The seed is printed, so that a failure can be repeated.
    pub(crate) fn new(default: u64) -> Self {
        let seed =
            std::env::var("ZINCMQ_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default);
        println!("ZINCMQ_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of 0 to `below` - 1.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

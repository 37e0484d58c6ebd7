//! How soon it is asked again for what was missed: at once, but more slowly where that makes somebody miss something again and again.
//!
//! Questions and their answers are messages like all others. Where few may wait for a member, those of some may be what others miss, and their questions what the first ones miss, for ever.

use std::time::Duration;

use crate::proto::Instant;

use super::wire;

/// How long the first question waits that is not asked at once (a guess: about as long as an answer takes).
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// How long one waits at most: seven times twice as long (a guess: some hundreds who ask for some documents each are few by then, and who looks at one still waits for it).
const MOST_DELAY: Duration = Duration::from_millis(6_400);
/// For how long at least nothing is to be missed, until the next question is asked at once (a guess). It is twice as long as the last one waited, where that is more.
const CALM: Duration = Duration::from_secs(1);

/// The resets of late.
#[derive(Debug)]
pub(super) struct Resets {
    /// What the next delay is drawn by, so that those who have missed the same do not ask together again.
    draw: u64,
    /// When it was asked last because of one.
    asked_at: Option<Instant>,
    /// How long that question waited, at most.
    delay: Duration,
    /// When the next one is to be asked, if one waits.
    due: Option<Instant>,
}

impl Resets {
    /// `seed` is a random number.
    pub(super) fn new(seed: u64) -> Self {
        Self { draw: seed, asked_at: None, delay: Duration::ZERO, due: None }
    }

    /// Something may have been missed: whether to ask at once. Otherwise a question [waits](Self::is_waiting) from now on, or still; it stands for whatever is missed until it is asked.
    pub(super) fn on_reset(&mut self, now: Instant) -> bool {
        if self.due.is_some() {
            return false;
        }
        let calm = (self.delay * 2).max(CALM);
        if self.asked_at.is_none_or(|asked_at| asked_at + calm <= now) {
            (self.asked_at, self.delay) = (Some(now), Duration::ZERO);
            return true;
        }
        self.delay = (self.delay * 2).clamp(FIRST_DELAY, MOST_DELAY);
        self.due = Some(now + self.jittered());
        false
    }

    /// Between half of the delay and all of it.
    fn jittered(&mut self) -> Duration {
        self.draw = wire::following(self.draw);
        // The upper bits are the better ones.
        let share = u32::try_from(self.draw >> 48).unwrap_or(0);
        self.delay / 2 + self.delay / 2 * share / (1 << 16)
    }

    /// Whether a question waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.due.is_some()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a question has waited long enough: it is to be asked now.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.take_if(|due| *due <= now).is_some();
        if is_due {
            self.asked_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resets that come as soon as it was asked: how long each question waits.
    fn delays(seed: u64, count: usize) -> Vec<Duration> {
        let (mut resets, mut now) = (Resets::new(seed), Instant::START);
        let mut next = || {
            let before = now;
            if !resets.on_reset(now) {
                now = resets.poll_timeout().expect("it waits");
                assert!(!resets.on_reset(now), "one that waits is enough");
                assert_eq!((resets.poll_timeout(), resets.take_due(now)), (Some(now), true));
            }
            assert!(!resets.is_waiting());
            now.elapsed() - before.elapsed()
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn the_first_is_asked_at_once_and_each_further_one_more_slowly_up_to_a_bound() {
        let delays = delays(7, 20);
        assert_eq!(delays[0], Duration::ZERO);
        for (count, delay) in (0..).zip(&delays[1..]) {
            let most = (FIRST_DELAY * 2_u32.pow(count)).min(MOST_DELAY);
            assert!((most / 2..=most).contains(delay), "{count}: {delay:?}");
        }
    }

    #[test]
    fn each_asks_at_a_time_of_its_own() {
        let firsts: std::collections::BTreeSet<_> = (1..100).map(|seed| delays(seed, 2)[1]).collect();
        assert!(firsts.len() > 50, "{}", firsts.len());
    }

    #[test]
    fn after_a_calm_time_it_is_asked_at_once_again() {
        let (mut resets, mut now) = (Resets::new(1), Instant::START);
        assert!(resets.on_reset(now));
        now = now + CALM;
        assert!(resets.on_reset(now));
        for _ in 0..10 {
            assert!(!resets.on_reset(now));
            now = now + MOST_DELAY;
            assert!(resets.take_due(now));
        }
        now = now + MOST_DELAY;
        assert!(!resets.on_reset(now), "it was long ago for a short delay, and not for this one");
        now = now + MOST_DELAY;
        assert!(resets.take_due(now));
        now = now + MOST_DELAY * 2;
        assert!(resets.on_reset(now));
    }
}

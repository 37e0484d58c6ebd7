//! For how long the pack waits for stragglers: members that are behind, and move, though the pack is not behind.
//!
//! Somebody always gets a little less of the processors than most. Where everybody goes at full speed, the difference adds up to the high-water mark
//! within seconds. So the pack waits for those who work, up to a time at a stretch and half of the time altogether, whoever and
//! however many they are: who does at least half of what the others do stays with them, and a snail can take no more than that.

use std::time::Duration;

use super::super::Instant;

/// What is left of the pack's patience. Waiting uses it up, going on renews it. Once it is used up, all of it has to come back first.
#[derive(Debug)]
pub(super) struct Patience {
    full: Duration,
    left: Duration,
    /// When that was so.
    at: Instant,
    waiting: bool,
    exhausted: bool,
}

impl Patience {
    pub(super) fn new(full: Duration, now: Instant) -> Self {
        Self { full, left: full, at: now, waiting: false, exhausted: full.is_zero() }
    }

    /// Whether to wait from now on, if somebody is to be waited for.
    pub(super) fn wait(&mut self, now: Instant, for_somebody: bool) -> bool {
        let passed = now.since(self.at);
        self.at = now;
        if self.waiting {
            self.left = self.left.saturating_sub(passed);
        } else {
            self.left = self.left.saturating_add(passed).min(self.full);
        }
        self.exhausted = self.left.is_zero() || (self.exhausted && self.left < self.full);
        self.waiting = for_somebody && !self.exhausted;
        self.waiting
    }

    /// When it ends, while it is used up.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.waiting.then(|| self.at + self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Duration = Duration::from_millis(50);

    fn at(ms: u64) -> Instant {
        Instant::since_start(Duration::from_millis(ms))
    }

    #[test]
    fn it_is_used_up_by_waiting_and_comes_back_whole() {
        let mut patience = Patience::new(FULL, at(0));
        assert!(patience.wait(at(100), true));
        assert_eq!(patience.ends_at(), Some(at(150)));
        assert!(patience.wait(at(149), true));
        assert!(!patience.wait(at(150), true), "used up");
        assert_eq!(patience.ends_at(), None);
        assert!(!patience.wait(at(199), true), "not all of it is back");
        assert!(patience.wait(at(200), true));
    }

    #[test]
    fn short_waits_leave_the_rest_of_it() {
        let mut patience = Patience::new(FULL, at(0));
        assert!(patience.wait(at(0), true));
        assert!(!patience.wait(at(30), false));
        assert!(patience.wait(at(40), true));
        assert_eq!(patience.ends_at(), Some(at(70)), "20 ms were left, and 10 came back");
    }

    #[test]
    fn without_any_nobody_is_waited_for() {
        let mut patience = Patience::new(Duration::ZERO, at(0));
        assert!(!patience.wait(at(0), true));
        assert!(!patience.wait(at(1_000), true));
    }

    #[test]
    fn no_more_than_half_of_the_time_is_spent_waiting() {
        let mut patience = Patience::new(FULL, at(0));
        let mut waited = 0;
        for ms in 0..10_000 {
            waited += u64::from(patience.wait(at(ms), true));
        }
        assert!((4_900..=5_060).contains(&waited), "{waited} ms");
    }
}

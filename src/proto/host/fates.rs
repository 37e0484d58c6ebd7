//! What became of an origin's last messages, as far as it may not know yet: where they stand, or that they are refused.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::wire::{MAX_RECORDS, Ordered};

/// How many stretches are remembered: more than a member has batches under way, of which each adds one at most; more where it is taken in pieces, as it waits for what is to be found out.
const MAX_STRETCHES: usize = 1_024;
/// How many messages one holds in which some are refused: as many as a batch. So what it takes to remember one is bounded, to some 170 bytes; others take 40.
const MIXED: u32 = MAX_RECORDS as u32;

/// The fates of messages, in stretches that rise. Bounded: the oldest is forgotten.
#[derive(Debug, Default)]
pub(super) struct Fates {
    stretches: VecDeque<Stretch>,
}

impl Fates {
    /// It is known what becomes of the next messages.
    pub(super) fn push(&mut self, mut run: Ordered) {
        if self.stretches.back_mut().is_some_and(|last| last.take(&mut run)) {
            return;
        }
        if self.stretches.len() == MAX_STRETCHES {
            self.stretches.pop_front();
        }
        self.stretches.push_back(Stretch::new(run));
    }

    /// How many stretches there are.
    pub(super) fn stretches(&self) -> usize {
        self.stretches.len()
    }

    /// What is known to whom it concerns need not be remembered.
    pub(super) fn forget(&mut self, up_to: u64) {
        while self.stretches.front().is_some_and(|stretch| stretch.last_origin_seq() <= up_to) {
            self.stretches.pop_front();
        }
    }

    /// What became of these messages, as far as it is remembered.
    pub(super) fn of(&self, messages: RangeInclusive<u64>) -> Vec<Ordered> {
        let mut runs = Vec::new();
        if messages.is_empty() {
            return runs;
        }
        let begin = self.stretches.partition_point(|stretch| stretch.last_origin_seq() < *messages.start());
        for stretch in self.stretches.range(begin..) {
            if stretch.first_origin_seq > *messages.end() {
                break;
            }
            runs.extend(stretch.runs().into_iter().filter_map(|run| within(run, &messages)));
        }
        runs
    }
}

/// What of a run is among these messages.
fn within(mut run: Ordered, messages: &RangeInclusive<u64>) -> Option<Ordered> {
    if run.last_origin_seq() < *messages.start() || run.first_origin_seq > *messages.end() {
        return None;
    }
    run.skip(messages.start().saturating_sub(run.first_origin_seq));
    run.count -= run.last_origin_seq().saturating_sub(*messages.end()) as u32;
    Some(run)
}

/// Messages one behind the other. Those of them that have places stand one behind the other, too: nobody else's is in between.
#[derive(Debug)]
struct Stretch {
    first_origin_seq: u64,
    count: u32,
    /// How many of them have places, and where the first one of these stands.
    placed: u32,
    epoch: u64,
    first_seq: u64,
    /// Which ones are refused, a bit for each; `None` where all have the same fate.
    refused: Option<Box<Bits>>,
}

type Bits = [u64; MAX_RECORDS / 64];

impl Stretch {
    fn new(run: Ordered) -> Self {
        Self {
            first_origin_seq: run.first_origin_seq,
            count: run.count,
            placed: if run.is_refused() { 0 } else { run.count },
            epoch: run.epoch,
            first_seq: run.first_seq,
            refused: None,
        }
    }

    fn last_origin_seq(&self) -> u64 {
        self.first_origin_seq + u64::from(self.count) - 1
    }

    /// Takes in the messages that follow, as far as they go on where this ends and there is room: whether that is all of them. Else the rest is left.
    fn take(&mut self, run: &mut Ordered) -> bool {
        let goes_on = self.last_origin_seq() + 1 == run.first_origin_seq
            && (run.is_refused()
                || self.placed == 0
                || (self.epoch, self.first_seq + u64::from(self.placed)) == (run.epoch, run.first_seq));
        if !goes_on {
            return false;
        }
        let is_same = self.refused.is_none() && (self.placed == 0) == run.is_refused();
        let most = if is_same { u32::MAX } else { MIXED };
        let count = most.saturating_sub(self.count).min(run.count);
        if count == 0 {
            return false;
        }
        if !is_same {
            let were_refused = if self.placed == 0 { self.count } else { 0 };
            let bits = self.refused.get_or_insert_with(|| {
                let mut bits = Box::<Bits>::default();
                (0..were_refused).for_each(|message| set(&mut bits, message));
                bits
            });
            if run.is_refused() {
                (self.count..self.count + count).for_each(|message| set(bits, message));
            }
        }
        if !run.is_refused() {
            if self.placed == 0 {
                (self.epoch, self.first_seq) = (run.epoch, run.first_seq);
            }
            self.placed += count;
        }
        self.count += count;
        let is_all = count == run.count;
        if !is_all {
            run.skip(count.into());
        }
        is_all
    }

    /// As it is told.
    fn runs(&self) -> Vec<Ordered> {
        let run = |from: u32, count: u32, is_refused: bool, before: u32| {
            let first_origin_seq = self.first_origin_seq + u64::from(from);
            if is_refused {
                return Ordered::refused(first_origin_seq, count);
            }
            Ordered {
                epoch: self.epoch,
                first_origin_seq,
                first_seq: self.first_seq + u64::from(before),
                count,
            }
        };
        let Some(bits) = &self.refused else { return vec![run(0, self.count, self.placed == 0, 0)] };
        let (mut runs, mut from, mut before) = (Vec::new(), 0, 0);
        while from < self.count {
            let is_refused = is_set(bits, from);
            let end = (from..self.count).find(|message| is_set(bits, *message) != is_refused);
            let count = end.unwrap_or(self.count) - from;
            runs.push(run(from, count, is_refused, before));
            from += count;
            before += if is_refused { 0 } else { count };
        }
        runs
    }
}

fn set(bits: &mut Bits, message: u32) {
    bits[message as usize / 64] |= 1 << (message % 64);
}

fn is_set(bits: &Bits, message: u32) -> bool {
    bits[message as usize / 64] & 1 << (message % 64) != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placed(first_origin_seq: u64, first_seq: u64, count: u32) -> Ordered {
        Ordered { epoch: 7, first_origin_seq, first_seq, count }
    }

    /// As many stretches as there may be, of two messages each, one of them refused; others' messages between them.
    fn full() -> Fates {
        let mut fates = Fates::default();
        for batch in 0..MAX_STRETCHES as u64 {
            fates.push(placed(1 + 2 * batch, 1 + 2 * batch, 1));
            fates.push(Ordered::refused(2 + 2 * batch, 1));
        }
        fates
    }

    #[test]
    fn of_more_stretches_than_are_remembered_the_oldest_is_forgotten() {
        let (mut fates, last) = (full(), 2 * MAX_STRETCHES as u64);
        assert_eq!(fates.of(1..=2), [placed(1, 1, 1), Ordered::refused(2, 1)]);
        #[expect(clippy::reversed_empty_ranges, reason = "none at all")]
        let none = 2..=1;
        assert_eq!(fates.of(none), []);
        fates.push(placed(last + 1, last + 1, 1));
        assert_eq!(fates.stretches.len(), MAX_STRETCHES);
        assert_eq!(fates.of(1..=3), [placed(3, 3, 1)]);
        fates.forget(last);
        assert_eq!(fates.of(1..=u64::MAX), [placed(last + 1, last + 1, 1)]);
    }

    #[test]
    fn a_stretch_in_which_some_are_refused_holds_no_more_than_a_batch_and_one_with_one_fate_all() {
        let mut fates = Fates::default();
        for message in 0..1_500 {
            let before = message - message / 3;
            if message % 3 == 2 {
                fates.push(Ordered::refused(1 + message, 1));
            } else {
                fates.push(placed(1 + message, 1 + before, 1));
            }
        }
        let counts = |fates: &Fates| fates.stretches.iter().map(|it| it.count).collect::<Vec<_>>();
        assert_eq!(counts(&fates), [MIXED, 1_500 - MIXED]);
        // What does not go into one goes into it as far as there is room.
        fates.push(Ordered::refused(1_501, 2_000));
        fates.push(Ordered::refused(3_501, 2_000));
        assert_eq!(counts(&fates), [MIXED, MIXED, 4_000 + 1_500 - 2 * MIXED]);
        fates.push(placed(5_501, 1_001, 3));
        assert_eq!(fates.stretches.len(), 4);
        assert_eq!(fates.of(5_500..=5_502), [Ordered::refused(5_500, 1), placed(5_501, 1_001, 2)]);
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_what_became_of_each(
            runs in prop::collection::vec((any::<bool>(), 1_u32..700, any::<bool>()), 1..40),
            (from, count) in (1_u64..3_000, 0_u64..3_000),
        ) {
            let (mut fates, mut truth) = (Fates::default(), Vec::new());
            let (mut origin_seq, mut seq) = (1, 1);
            for (is_refused, count, others_come) in runs {
                seq += u64::from(others_come);
                let run = if is_refused { Ordered::refused(origin_seq, count) } else { placed(origin_seq, seq, count) };
                origin_seq += u64::from(count);
                seq += if is_refused { 0 } else { u64::from(count) };
                truth.extend(each(run));
                fates.push(run);
            }
            truth.retain(|(message, _)| (from..=from + count).contains(message));
            let told: Vec<_> = fates.of(from..=from + count).into_iter().flat_map(each).collect();
            prop_assert_eq!(told, truth);
        }
    }

    fn each(run: Ordered) -> impl Iterator<Item = (u64, u64)> {
        let seq = move |k| if run.is_refused() { 0 } else { run.first_seq + k };
        (0..u64::from(run.count)).map(move |k| (run.first_origin_seq + k, seq(k)))
    }
}

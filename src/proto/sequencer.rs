//! The sequencer: gives records their positions, and cuts the windows that carry them.

use std::collections::VecDeque;

use crate::id::EndpointId;
use crate::message::Topic;
use crate::wire::{Barrier, EncodedWindow, MAX_EPOCH, Ordered, WindowBuilder};

/// How far above a stored epoch a host goes at most: 17 minutes in milliseconds (a guess: two lives
/// meet once in a million, and years pass before the clock is left behind).
const EPOCH_STEPS: u64 = 1 << 20;

/// Gives records their positions and collects them into windows.
///
/// The caller takes finished windows with [`poll_window`](Self::poll_window) after each call.
#[derive(Debug)]
pub(crate) struct Sequencer {
    /// The endpoint whose own records are told from others'.
    own: EndpointId,
    epoch: u64,
    /// The number of the last window that was cut.
    number: u64,
    /// The seq of the last record that has one.
    last_seq: u64,
    open: WindowBuilder,
    finished: VecDeque<FinishedWindow>,
}

/// A window that was cut.
#[derive(Debug)]
pub(crate) struct FinishedWindow {
    pub(crate) window: EncodedWindow,
    /// Whether all its records are of the sequencer's own endpoint.
    pub(crate) is_own: bool,
}

impl Sequencer {
    pub(crate) fn new(own: EndpointId, epoch: u64) -> Self {
        Self {
            own,
            epoch: epoch.clamp(1, MAX_EPOCH),
            number: 0,
            last_seq: 0,
            open: WindowBuilder::new(),
            finished: VecDeque::new(),
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of the last window that was cut.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The end of the order. The open window is not counted: [cut](Self::cut) it first.
    pub(crate) fn barrier(&self) -> Barrier {
        debug_assert!(self.open.is_empty());
        Barrier { epoch: self.epoch, number: self.number, last_seq: self.last_seq }
    }

    /// Goes on in an epoch above this one, by a step of the incarnation's own: two lives of a host
    /// that rise above the same stored epoch are not to meet.
    pub(crate) fn rise_above(&mut self, epoch: u64, incarnation: u64) {
        self.cut();
        self.epoch = (epoch + 1 + incarnation % EPOCH_STEPS).min(MAX_EPOCH);
    }

    /// Gives records of one origin the next positions: their topics and tails, and the origin_seq of
    /// the first.
    pub(crate) fn order<'a>(
        &mut self,
        origin: EndpointId,
        first_origin_seq: u64,
        records: impl Iterator<Item = (&'a Topic, &'a [u8])>,
    ) -> Ordered {
        let first_seq = self.last_seq + 1;
        for (origin_seq, (topic, tail)) in (first_origin_seq..).zip(records) {
            if !self.open.push(topic, origin, origin_seq, tail) {
                self.cut();
                let fits = self.open.push(topic, origin, origin_seq, tail);
                debug_assert!(fits, "the first record of a window always goes in");
            }
            self.last_seq += 1;
        }
        let count = (self.last_seq + 1 - first_seq) as u32;
        Ordered { epoch: self.epoch, first_origin_seq, first_seq, count }
    }

    /// Closes the open window, if it has records.
    pub(crate) fn cut(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let open = std::mem::replace(&mut self.open, WindowBuilder::new());
        let is_own = open.is_only_of(self.own);
        let first_seq = self.last_seq + 1 - u64::from(open.count());
        self.number += 1;
        let window = open.finish(self.epoch, self.number, first_seq);
        self.finished.push_back(FinishedWindow { window, is_own });
    }

    /// The next finished window.
    pub(crate) fn poll_window(&mut self) -> Option<FinishedWindow> {
        self.finished.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MAX_RECORDS, Window};

    const OWN: EndpointId = EndpointId::from_bytes([1; 16]);
    const OTHER: EndpointId = EndpointId::from_bytes([2; 16]);
    /// Raw data without headers or payload.
    const TAIL: &[u8] = &[0, 0, 0];

    fn order(sequencer: &mut Sequencer, origin: EndpointId, first_origin_seq: u64, count: usize) -> Ordered {
        let topic = "t".parse().expect("a topic");
        sequencer.order(origin, first_origin_seq, std::iter::repeat_n((&topic, TAIL), count))
    }

    fn windows(sequencer: &mut Sequencer) -> Vec<FinishedWindow> {
        std::iter::from_fn(|| sequencer.poll_window()).collect()
    }

    #[test]
    fn windows_are_full_or_cut_and_hold_consecutive_seqs() {
        let mut sequencer = Sequencer::new(OWN, 7);
        let run = order(&mut sequencer, OWN, 1, 2 * MAX_RECORDS);
        assert_eq!(
            run,
            Ordered { epoch: 7, first_origin_seq: 1, first_seq: 1, count: 2 * MAX_RECORDS as u32 }
        );
        let run = order(&mut sequencer, OTHER, 10, 1);
        assert_eq!(run.first_seq, 2 * MAX_RECORDS as u64 + 1);
        // The second is full, too, and the third is open.
        let full = windows(&mut sequencer);
        assert_eq!(full.len(), 2);
        sequencer.cut();
        sequencer.cut();
        let cut = windows(&mut sequencer);
        assert_eq!(cut.len(), 1);
        let mut next = 1;
        for (number, FinishedWindow { window, is_own }) in (1..).zip(full.iter().chain(&cut)) {
            let decoded = Window::decode(&window.body, 0).expect("our own");
            assert_eq!((window.epoch, window.number, window.first_seq), (7, number, next));
            assert_eq!((decoded.number, decoded.first_seq), (number, next));
            assert_eq!(decoded.last_seq(), window.last_seq);
            assert_eq!(*is_own, number < 3);
            next = window.last_seq + 1;
        }
        assert_eq!(sequencer.barrier(), Barrier { epoch: 7, number: 3, last_seq: next - 1 });
    }

    #[test]
    fn a_window_is_of_one_epoch() {
        let mut sequencer = Sequencer::new(OWN, 7);
        order(&mut sequencer, OTHER, 1, 1);
        sequencer.rise_above(100, 5);
        assert_eq!(order(&mut sequencer, OTHER, 2, 1).epoch, 106);
        sequencer.cut();
        let epochs: Vec<u64> = windows(&mut sequencer).iter().map(|finished| finished.window.epoch).collect();
        assert_eq!(epochs, [7, 106]);
    }
}

//! Windows in the order of their numbers: what has been taken in, and where there was a hole.

use crate::message::{Message, Position};
use crate::wire::{Barrier, Index, MAX_EPOCH, MAX_RECORDS, TopicPart, Window};

use super::filter::Filter;

/// How far a member has come in the order, over all its sessions.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// The highest epoch seen.
    epoch: u64,
    /// The last window taken in.
    number: u64,
    /// The last position passed; `None` before the first session.
    position: Option<Position>,
    /// Parts of one window that wait for its index.
    parts: Vec<TopicPart>,
    lost_windows: u64,
    duplicates: u64,
}

/// A jump: what lay between was not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) after: Option<Position>,
    pub(super) resume_at: Position,
}

/// What came of a window: perhaps a hole, then messages.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) hole: Option<Hole>,
    pub(super) messages: Vec<Message>,
}

impl Delivery {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn lost_windows(&self) -> u64 {
        self.lost_windows
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// A whole window; `None` when it was had before.
    pub(super) fn on_window(&mut self, window: Window) -> Option<Taken> {
        let hole = self.advance(window.epoch, window.number, window.first_seq)?;
        self.position = Some(Position { epoch: window.epoch, seq: window.last_seq() });
        Some(Taken { hole, messages: window.messages })
    }

    /// The records of one topic: they wait for the index.
    pub(super) fn on_part(&mut self, part: TopicPart) {
        if part.number <= self.number {
            self.duplicates += 1;
            return;
        }
        // Parts of an earlier window whose index never came are of no use: its loss shows by the numbers.
        self.parts.retain(|other| other.number == part.number);
        // A window has no more topics than records; a parent that sends more is in error, which the index will show.
        if self.parts.len() < MAX_RECORDS {
            self.parts.push(part);
        }
    }

    /// The index comes after the parts, so it tells whether they are all there. `None` when the window was had before.
    pub(super) fn on_index(&mut self, index: &Index, filter: &Filter) -> Option<Taken> {
        let mut parts = std::mem::take(&mut self.parts);
        parts.retain(|part| part.number == index.number && part.epoch == index.epoch);
        let mut messages: Vec<Message> = parts.into_iter().flat_map(|part| part.messages).collect();
        messages.retain(|message| filter.matches(message.topic.as_str()));
        let topics = index.topics.iter().filter(|(topic, _)| filter.matches(topic.as_str()));
        let due: usize = topics.map(|(_, count)| usize::from(*count)).sum();

        let mut hole = self.advance(index.epoch, index.number, index.first_seq)?;
        if messages.len() == due {
            messages.sort_by_key(Message::position);
        } else {
            // A topic's part was lost: a part of a window is never shown.
            messages.clear();
            self.lose(1);
            let resume_at = Position { epoch: index.epoch, seq: index.last_seq + 1 };
            hole = Some(Hole { after: self.position, resume_at });
        }
        self.position = Some(Position { epoch: index.epoch, seq: index.last_seq });
        Some(Taken { hole, messages })
    }

    /// The first barrier of a session: delivery goes on behind it. With another host, or behind windows that this one has
    /// published since, that is a hole.
    pub(super) fn begin(&mut self, barrier: Barrier, same_host: bool) -> Option<Hole> {
        let missed_nothing = same_host && self.epoch == barrier.epoch && self.number == barrier.number;
        let hole = self.position.filter(|_| !missed_nothing).map(|after| Hole {
            after: Some(after),
            resume_at: Position { epoch: barrier.epoch, seq: barrier.last_seq + 1 },
        });
        self.epoch = self.epoch.max(barrier.epoch);
        self.number = barrier.number;
        self.position = Some(Position { epoch: barrier.epoch, seq: barrier.last_seq });
        self.forget_parts();
        hole
    }

    /// A later barrier: all that was published before it has come by now, or never will.
    pub(super) fn on_barrier(&mut self, barrier: Barrier) -> Option<Hole> {
        self.forget_parts();
        let lost = barrier.number.checked_sub(self.number).filter(|lost| *lost > 0)?;
        self.lose(lost);
        let resume_at = Position { epoch: barrier.epoch, seq: barrier.last_seq + 1 };
        let hole = Hole { after: self.position, resume_at };
        self.number = barrier.number;
        self.position = Some(Position { epoch: barrier.epoch, seq: barrier.last_seq });
        Some(hole)
    }

    pub(super) fn forget_parts(&mut self) {
        self.parts.clear();
    }

    /// Goes on to a window; `None` when it was had before. Where windows are missing before it, there is a hole.
    fn advance(&mut self, epoch: u64, number: u64, first_seq: u64) -> Option<Option<Hole>> {
        if epoch < self.epoch || number <= self.number || epoch > MAX_EPOCH {
            self.duplicates += 1;
            return None;
        }
        self.epoch = epoch;
        let missing = number - self.number - 1;
        self.number = number;
        if missing == 0 {
            return Some(None);
        }
        self.lose(missing);
        Some(Some(Hole { after: self.position, resume_at: Position { epoch, seq: first_seq } }))
    }

    /// Counts windows that never came. A parent in error can claim any number of them, again and again.
    fn lose(&mut self, windows: u64) {
        self.lost_windows = self.lost_windows.saturating_add(windows);
    }
}

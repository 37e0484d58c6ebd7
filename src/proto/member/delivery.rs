//! Windows in the order of their numbers: what came is handed on without a gap, what is missing is named.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::wire::{Barrier, Index, MAX_RECORDS, TopicPart, Window};

use super::super::{Instant, Reached};
use super::filter::Filter;
use super::seen::Seen;

/// How many windows are asked for at once (a guess: 4 MiB of common windows).
const PER_REQUEST: u64 = 64;

/// How many changes of what is taken may wait for their window (a guess: one for each of many sessions that came to nothing).
const MAX_SWITCHES: usize = 16;

/// How far a member has come in the order, over all its sessions.
///
/// Windows go in as they come, in any order and more than once. [`next`](Self::next) gives them out in the order of their numbers;
/// [`wanted`](Self::wanted) names those that are missing before others.
#[derive(Debug)]
pub(super) struct Delivery {
    /// The incarnation of the host that the numbers belong to; 0 before the first.
    incarnation: u64,
    /// How often delivery began anew, since the numbers were of another incarnation.
    reign: u64,
    /// The highest epoch seen of this incarnation.
    epoch: u64,
    /// What is broadcast under a lower epoch belongs to no session of now.
    floor: u64,
    /// The last window given out.
    number: u64,
    /// The last position passed; `None` before the first session.
    position: Option<Position>,
    /// The last window known to have been published.
    head: u64,
    /// What the windows given out next are filtered by.
    filter: Filter,
    /// The filters that count behind later windows.
    switches: VecDeque<(u64, Filter)>,
    /// The next window, if it has come.
    due: Option<Piece>,
    /// Windows that came ahead of a gap.
    ahead: BTreeMap<u64, Piece>,
    ahead_messages: u64,
    ahead_bytes: u64,
    /// How much may wait there, in messages and bytes.
    ahead_limit: (u64, u64),
    /// Parts of one window that wait for its index.
    parts: Vec<TopicPart>,
    /// What was given out of each origin in this incarnation.
    seen: Seen,
    had: Option<Had>,
    counters: DeliveryCounters,
}

/// What was seen before this incarnation: its origins may send that again.
#[derive(Debug)]
struct Had {
    seen: Seen,
    until: Instant,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DeliveryCounters {
    pub(super) missed_windows: u64,
    pub(super) repaired_windows: u64,
    pub(super) lost_windows: u64,
    pub(super) set_aside: u64,
    pub(super) duplicates: u64,
}

/// A window that came.
#[derive(Debug)]
struct Piece {
    number: u64,
    epoch: u64,
    last_seq: u64,
    messages: Vec<Message>,
    /// The origins of a whole window; one made of parts has its messages alone.
    origins: Option<Vec<(EndpointId, u64)>>,
    bytes: u64,
}

/// A jump: what lay between was not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) after: Option<Position>,
    pub(super) resume_at: Position,
}

/// What a window came to.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) messages: Vec<Message>,
    pub(super) up_to: Position,
    pub(super) bytes: u64,
}

impl Delivery {
    pub(super) fn new(filter: Filter) -> Self {
        Self {
            incarnation: 0,
            reign: 0,
            epoch: 0,
            floor: 0,
            number: 0,
            position: None,
            head: 0,
            filter,
            switches: VecDeque::new(),
            due: None,
            ahead: BTreeMap::new(),
            ahead_messages: 0,
            ahead_bytes: 0,
            ahead_limit: (0, 0),
            parts: Vec::new(),
            seen: Seen::default(),
            had: None,
            counters: DeliveryCounters::default(),
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last window given out.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.position
    }

    /// This position, as one of the present incarnation.
    pub(super) fn reached(&self, position: Position) -> Reached {
        Reached { reign: self.reign, position }
    }

    pub(super) fn counters(&self) -> DeliveryCounters {
        self.counters
    }

    /// How much waits ahead of a gap, in messages and bytes.
    #[cfg(any(test, feature = "test-utils"))]
    pub(super) fn ahead(&self) -> (u64, u64) {
        (self.ahead_messages, self.ahead_bytes)
    }

    /// How much may wait ahead of a gap.
    pub(super) fn set_limit(&mut self, messages: u64, bytes: u64) {
        self.ahead_limit = (messages, bytes);
    }

    /// The first barrier of a session, whose lanes bring what `filter` takes behind it. With the same incarnation of the host
    /// delivery goes on where it was; with another it jumps, and what is sent again by those whose messages were had is known.
    pub(super) fn begin(
        &mut self,
        barrier: Barrier,
        incarnation: u64,
        filter: &Filter,
        remember: Option<Instant>,
    ) -> Option<Hole> {
        self.forget_parts();
        self.floor = barrier.epoch;
        if self.incarnation == incarnation && barrier.number >= self.number && self.position.is_some() {
            self.epoch = self.epoch.max(barrier.epoch);
            // What was claimed to be beyond it was not true.
            self.head = barrier.number;
            self.keep_ahead(|number| number <= barrier.number);
            self.switch_at(barrier.number, filter.clone());
            return None;
        }
        let resume_at = Position { epoch: barrier.epoch, seq: barrier.last_seq + 1 };
        let hole = self.position.map(|after| Hole { after: Some(after), resume_at });
        let seen = std::mem::take(&mut self.seen);
        if let Some(until) = remember.filter(|_| self.position.is_some()) {
            let mut all = self.had.take().map(|had| had.seen).unwrap_or_default();
            all.merge(seen);
            self.had = Some(Had { seen: all, until });
        }
        self.incarnation = incarnation;
        self.reign += 1;
        self.epoch = barrier.epoch;
        self.head = barrier.number;
        self.filter = filter.clone();
        self.switches.clear();
        self.due = None;
        self.keep_ahead(|_| false);
        self.go_to(barrier);
        hole
    }

    /// From behind this window on another filter counts.
    pub(super) fn switch_at(&mut self, number: u64, filter: Filter) {
        let last = self.switches.back().map_or(&self.filter, |(_, filter)| filter);
        if *last != filter {
            if self.switches.len() == MAX_SWITCHES {
                self.switches.pop_back();
            }
            self.switches.push_back((number, filter));
        }
        self.switch(self.number);
    }

    /// The window behind which the latest change of what is taken counts; `None` when it does already.
    pub(super) fn settles_at(&self) -> Option<u64> {
        self.switches.back().map(|(at, _)| *at)
    }

    /// All windows up to this one are done with.
    fn switch(&mut self, number: u64) {
        while self.switches.front().is_some_and(|(at, _)| *at <= number) {
            if let Some((_, filter)) = self.switches.pop_front() {
                self.filter = filter;
            }
        }
    }

    /// The windows up to this one have been published.
    pub(super) fn on_head(&mut self, at: Barrier) {
        if at.epoch >= self.floor {
            self.epoch = self.epoch.max(at.epoch);
            self.head = self.head.max(at.number);
        }
    }

    /// A whole window on the broadcast channel.
    pub(super) fn on_window(&mut self, window: Window) {
        if window.epoch < self.floor {
            self.counters.duplicates += 1;
        } else {
            self.put(Piece::whole(window));
        }
    }

    /// A whole window that was asked for.
    pub(super) fn on_repaired(&mut self, window: Window) {
        let piece = Piece::whole(window);
        if piece.number > self.number && !self.ahead.contains_key(&piece.number) {
            self.counters.repaired_windows += 1;
        }
        self.put(piece);
    }

    /// The records of one topic: they wait for the index.
    pub(super) fn on_part(&mut self, part: TopicPart) {
        if part.number <= self.number || part.epoch < self.floor {
            self.counters.duplicates += 1;
            return;
        }
        // Parts of an earlier window whose index never came are of no use: its loss shows by the numbers.
        if self.parts.first().is_some_and(|other| other.number != part.number) {
            self.parts.clear();
        }
        // A window has no more topics than records; a parent that sends more is in error, which the index will show.
        if self.parts.len() < MAX_RECORDS {
            self.parts.push(part);
        }
    }

    /// The index comes after the parts, so it tells whether they are all there. If not, the window is missing like any other.
    pub(super) fn on_index(&mut self, index: &Index, filter: &Filter, trust_blindly: bool) {
        let mut parts = std::mem::take(&mut self.parts);
        if index.epoch < self.floor {
            self.counters.duplicates += 1;
            return;
        }
        parts.retain(|part| part.number == index.number && part.epoch == index.epoch);
        let bytes = parts.iter().map(|part| part.bytes as u64).sum();
        let mut messages: Vec<Message> = parts.into_iter().flat_map(|part| part.messages).collect();
        messages.retain(|message| filter.matches(message.topic.as_str()));
        if messages.len() == index.wanted || trust_blindly {
            messages.sort_by_key(Message::position);
            self.put(Piece {
                number: index.number,
                epoch: index.epoch,
                last_seq: index.last_seq,
                messages,
                origins: None,
                bytes,
            });
        } else if index.number > self.number {
            self.head = self.head.max(index.number);
        }
    }

    fn put(&mut self, piece: Piece) {
        let waits = |this: &Self| this.due.is_some() && piece.number == this.number + 1;
        if piece.number <= self.number || waits(self) {
            self.counters.duplicates += 1;
            return;
        }
        self.epoch = self.epoch.max(piece.epoch);
        self.head = self.head.max(piece.number);
        if piece.number == self.number + 1 {
            self.due = Some(piece);
            return;
        }
        let (messages, bytes) = (piece.messages.len() as u64, piece.bytes);
        let (max_messages, max_bytes) = self.ahead_limit;
        if self.ahead.contains_key(&piece.number) {
            self.counters.duplicates += 1;
        } else if self.ahead_messages + messages > max_messages || self.ahead_bytes + bytes > max_bytes {
            // It is asked for when its turn comes.
            self.counters.set_aside += 1;
        } else {
            self.ahead_messages += messages;
            self.ahead_bytes += bytes;
            self.ahead.insert(piece.number, piece);
        }
    }

    /// The next window, if it is there.
    pub(super) fn next(&mut self, skip_gaps: bool) -> Option<Taken> {
        let piece = match self.due.take() {
            Some(piece) => piece,
            None => {
                let first = self.ahead.first_entry()?;
                if *first.key() != self.number + 1 && !skip_gaps {
                    return None;
                }
                let piece = first.remove();
                self.ahead_messages -= piece.messages.len() as u64;
                self.ahead_bytes -= piece.bytes;
                piece
            }
        };
        self.switch(piece.number - 1);
        let Piece { number, epoch, last_seq, mut messages, origins, bytes } = piece;
        self.number = number;
        if let Some(origins) = origins {
            if self.filter.takes_all() {
                // What the table says of them need not be gathered from the messages.
                origins.iter().for_each(|(id, last)| self.seen.note(*id, *last));
            } else {
                messages.retain(|message| self.filter.matches(message.topic.as_str()));
                messages.iter().for_each(|message| self.seen.note(message.origin, message.origin_seq));
            }
        } else {
            // What was made of parts was filtered as it came.
            messages.iter().for_each(|message| self.seen.note(message.origin, message.origin_seq));
        }
        if let Some(had) = &self.had {
            let before = messages.len();
            // Those of documents tell by themselves what was had, and only together, all of them, where they stand.
            messages.retain(|message| message.kind() != MessageKind::Data || !had.contains(message));
            self.counters.duplicates += (before - messages.len()) as u64;
        }
        let up_to = Position { epoch, seq: last_seq };
        self.position = Some(up_to);
        Some(Taken { messages, up_to, bytes })
    }

    /// The windows that are missing first, from and to.
    pub(super) fn wanted(&self) -> Option<(u64, u64)> {
        let first = self.number + 1;
        if self.due.is_some() || first > self.head {
            return None;
        }
        let end = self.ahead.first_key_value().map_or(self.head, |(number, _)| number - 1);
        Some((first, end.min(self.number.saturating_add(PER_REQUEST))))
    }

    /// So many windows are asked for.
    pub(super) fn on_asked(&mut self, windows: u64) {
        self.counters.missed_windows = self.counters.missed_windows.saturating_add(windows);
    }

    /// What is missing is not there any more: delivery goes on behind this window.
    pub(super) fn on_missed(&mut self, at: Barrier) -> Option<Hole> {
        if at.number <= self.number {
            return None;
        }
        let resume_at = Position { epoch: at.epoch, seq: at.last_seq + 1 };
        let hole = Hole { after: self.position, resume_at };
        // A parent in error can claim any number of windows, again and again.
        self.counters.lost_windows = self.counters.lost_windows.saturating_add(at.number - self.number);
        self.switch(at.number);
        self.epoch = self.epoch.max(at.epoch);
        self.head = self.head.max(at.number);
        self.due = None;
        self.keep_ahead(|number| number > at.number);
        self.go_to(at);
        Some(hole)
    }

    fn keep_ahead(&mut self, keep: impl Fn(u64) -> bool) {
        self.ahead.retain(|number, _| keep(*number));
        self.ahead_messages = self.ahead.values().map(|piece| piece.messages.len() as u64).sum();
        self.ahead_bytes = self.ahead.values().map(|piece| piece.bytes).sum();
    }

    fn go_to(&mut self, at: Barrier) {
        self.number = at.number;
        self.position = Some(Position { epoch: at.epoch, seq: at.last_seq });
        if let Some(piece) = self.ahead.remove(&(self.number + 1)) {
            self.ahead_messages -= piece.messages.len() as u64;
            self.ahead_bytes -= piece.bytes;
            self.due = Some(piece);
        }
    }

    pub(super) fn forget_parts(&mut self) {
        self.parts.clear();
    }

    /// Forgets what was seen before this incarnation, when nobody sends that again any more.
    pub(super) fn expire(&mut self, now: Instant) {
        self.had.take_if(|had| had.until <= now);
    }
}

impl Had {
    fn contains(&self, message: &Message) -> bool {
        self.seen.last(&message.origin) >= message.origin_seq
    }
}

impl Piece {
    fn whole(window: Window) -> Self {
        Self {
            number: window.number,
            epoch: window.epoch,
            last_seq: window.last_seq(),
            messages: window.messages,
            origins: Some(window.origins),
            bytes: window.bytes as u64,
        }
    }
}

/// How long what was seen is remembered, at the least, beyond the time that an origin may be away.
pub(super) const MEMORY_SLACK: Duration = Duration::from_secs(60);

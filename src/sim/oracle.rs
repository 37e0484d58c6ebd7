//! What was really sent and ordered, and whether what members see agrees with it. Invariants go by their numbers in `docs/simulation.md`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::flow::{EvictReason, Eviction};
use crate::id::EndpointId;
use crate::message::{Message, Position};
use crate::proto::Instant;
use crate::proto::LogLimit;
use crate::wire::{Ordered, Window};

use super::scenario::Scenario;

/// What a window costs beside its bytes, as the log counts.
const ENTRY_BYTES: u64 = 128;

/// What is broken: an invariant by its number, and in words.
pub(super) type Broken = (u8, String);
type Check = Result<(), Broken>;

fn broken<T>(invariant: u8, what: String) -> Result<T, Broken> {
    Err((invariant, what))
}

/// A record of the order.
#[derive(Debug)]
struct Record {
    origin: EndpointId,
    origin_seq: u64,
    topic: String,
    payload: Bytes,
}

#[derive(Debug)]
struct LoggedWindow {
    epoch: u64,
    first_seq: u64,
    records: Vec<Record>,
    bytes: u64,
    /// On the host's clock.
    at: Instant,
}

impl LoggedWindow {
    fn last_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64 - 1
    }
}

/// All that one life of the host has ordered.
#[derive(Debug, Default)]
struct Log {
    /// Once it is known.
    epoch: Option<u64>,
    windows: Vec<LoggedWindow>,
    last_seq: u64,
    placed: BTreeSet<(EndpointId, u64)>,
    /// The oldest window that the log must still have, and how much that and the later ones are.
    ring_from: usize,
    ring_messages: u64,
    ring_bytes: u64,
}

impl Log {
    /// The window that ends with this seq.
    fn ending_at(&self, seq: u64) -> Option<&LoggedWindow> {
        let index = self.windows.partition_point(|window| window.last_seq() < seq);
        self.windows.get(index).filter(|window| window.last_seq() == seq)
    }

    fn record(&self, seq: u64) -> Option<(&LoggedWindow, &Record)> {
        let index = self.windows.partition_point(|window| window.last_seq() < seq);
        let window = self.windows.get(index)?;
        Some((window, window.records.get(usize::try_from(seq.checked_sub(window.first_seq)?).ok()?)?))
    }
}

/// What one life of a member has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Which life of the host it follows, and how far it has come there.
    at: Option<(u32, Position)>,
    /// Behind which position delivery began, if it did not say so yet.
    began_behind: Option<Position>,
    joined_at: Option<Position>,
    /// The last message delivered of each origin, and of each [process](Oracle::process) under its id.
    last_of: BTreeMap<(EndpointId, u64), u64>,
    /// What may be in force: tickets and filters, the latest last.
    filters: Vec<(u64, BTreeSet<String>)>,
    live: bool,
    /// This ticket's filter is alone in force from the beginning of the next session on.
    settles: Option<u64>,
    /// From here on.
    settles_at: Option<(u64, Position)>,
    /// What was accepted from its application and was not heard of again.
    pub(super) open: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    logs: BTreeMap<u32, Log>,
    /// Which life of the host an epoch belongs to.
    epochs: BTreeMap<u64, u32>,
    /// What was sent: topic and payload.
    sent: BTreeMap<(EndpointId, u64), (String, Bytes)>,
    /// What was told to be refused.
    refused: BTreeSet<(EndpointId, u64)>,
    /// With which numbers processes began, under ids that several have at once.
    begun: BTreeSet<(EndpointId, u64)>,
    pub(super) delivered: u64,
    pub(super) ordered: u64,
    pub(super) accepted: u64,
}

fn matches(filter: &BTreeSet<String>, topic: &str) -> bool {
    filter.iter().any(|prefix| topic.starts_with(prefix.as_str()))
}

impl Oracle {
    pub(super) fn on_host_start(&mut self, life: u32, epoch: u64) -> Check {
        self.logs.insert(life, Log::default());
        self.on_epoch(life, epoch)
    }

    /// This life of the host, which knows all that its keeper has stored, stays in this epoch.
    pub(super) fn on_reign(&mut self, life: u32, epoch: u64) {
        self.logs.entry(life).or_default().epoch = Some(epoch);
    }

    /// The host is in this epoch now.
    pub(super) fn on_epoch(&mut self, life: u32, epoch: u64) -> Check {
        let reign = self.logs.get(&life).and_then(|log| log.epoch);
        if let Some(reign) = reign.filter(|reign| *reign != epoch) {
            return broken(8, format!("life {life} of the host went from epoch {reign} to {epoch}"));
        }
        match self.epochs.insert(epoch, life) {
            Some(other) if other != life => {
                broken(8, format!("life {other} and life {life} of the host are both in epoch {epoch}"))
            }
            _ => Ok(()),
        }
    }

    /// One of several processes that have an id at once begins with this number. The messages of each keep their order.
    pub(super) fn on_begun(&mut self, origin: EndpointId, origin_seq: u64) {
        self.begun.insert((origin, origin_seq));
    }

    /// Whose message this is, of the processes under an id: the number that one began with.
    fn process(&self, origin: EndpointId, origin_seq: u64) -> u64 {
        self.begun.range((origin, 0)..=(origin, origin_seq)).next_back().map_or(0, |(_, first)| *first)
    }

    pub(super) fn on_accepted(&mut self, origin: EndpointId, origin_seq: u64, message: &Message) -> Check {
        let content = (message.topic().as_str().to_owned(), message.payload().clone());
        self.accepted += 1;
        match self.sent.insert((origin, origin_seq), content) {
            Some(_) => broken(3, format!("two messages of {origin} bear the number {origin_seq}")),
            None => Ok(()),
        }
    }

    pub(super) fn last_seq(&self, life: u32) -> u64 {
        self.logs.get(&life).map_or(0, |log| log.last_seq)
    }

    /// Which life of the host is in this epoch.
    pub(super) fn life_of(&self, epoch: u64) -> Option<u32> {
        self.epochs.get(&epoch).copied()
    }

    /// Whether both positions are of the same life of the host.
    pub(super) fn are_of_one_life(&self, one: Position, other: Position) -> bool {
        self.epochs.get(&one.epoch) == self.epochs.get(&other.epoch)
    }

    /// The host has published a window.
    pub(super) fn on_window(&mut self, life: u32, body: &Bytes, now: Instant, limit: LogLimit) -> Check {
        let window = match Window::decode(body, 1 << 20) {
            Ok(window) => window,
            Err(malformed) => return broken(0, format!("the host published a window that is {malformed}")),
        };
        self.on_epoch(life, window.epoch)?;
        let log = self.logs.entry(life).or_default();
        let (number, first_seq) = (log.windows.len() as u64 + 1, log.last_seq + 1);
        if (window.number, window.first_seq) != (number, first_seq) {
            let (got, seq) = (window.number, window.first_seq);
            return broken(
                1,
                format!("window {got} at seq {seq} was published where {number} at {first_seq} was due"),
            );
        }
        if log.windows.last().is_some_and(|last| last.epoch > window.epoch) {
            return broken(8, format!("window {number} is of an earlier epoch than the one before"));
        }
        log.last_seq = window.last_seq();
        let mut records = Vec::with_capacity(window.messages.len());
        for message in window.messages {
            let (origin, origin_seq) = (message.origin(), message.origin_seq());
            let record = Record {
                origin,
                origin_seq,
                topic: message.topic().as_str().to_owned(),
                payload: message.payload().clone(),
            };
            let known = self
                .sent
                .get(&(origin, origin_seq))
                .is_some_and(|(topic, payload)| *topic == record.topic && *payload == record.payload);
            if !known {
                return broken(1, format!("message {origin_seq} of {origin} was ordered, and never sent so"));
            }
            if self.refused.contains(&(origin, origin_seq)) {
                return broken(6, format!("message {origin_seq} of {origin} was ordered, and was refused"));
            }
            if !log.placed.insert((origin, origin_seq)) {
                return broken(3, format!("message {origin_seq} of {origin} was ordered twice"));
            }
            records.push(record);
        }
        self.ordered += records.len() as u64;
        let bytes = body.len() as u64 + ENTRY_BYTES;
        log.ring_messages += records.len() as u64;
        log.ring_bytes += bytes;
        log.windows.push(LoggedWindow { epoch: window.epoch, first_seq, records, bytes, at: now });
        while log.ring_from + 1 < log.windows.len()
            && (log.ring_messages > limit.messages || log.ring_bytes > limit.bytes)
        {
            let oldest = &log.windows[log.ring_from];
            log.ring_messages -= oldest.records.len() as u64;
            log.ring_bytes -= oldest.bytes;
            log.ring_from += 1;
        }
        Ok(())
    }

    /// The host says that windows which were asked for are not there any more.
    pub(super) fn on_missed(&self, life: u32, asked: (u64, u64)) -> Check {
        let oldest = self.logs.get(&life).map_or(0, |log| log.ring_from as u64 + 1);
        if asked.0 >= oldest {
            return broken(2, format!("windows {asked:?} were told as gone, and the log begins at {oldest}"));
        }
        Ok(())
    }

    /// The host evicts a member. `acked` is what it last acknowledged, `heard` when anything was last heard from it and `moved` when its
    /// acknowledgements last rose, all on the host's clock.
    pub(super) fn on_evicted(
        &self,
        life: u32,
        scenario: &Scenario,
        eviction: &Eviction,
        now: Instant,
        acked: u64,
        heard: Instant,
    ) -> Check {
        let Some(log) = self.logs.get(&life) else { return Ok(()) };
        let (lag, marks) = (eviction.lag, scenario.marks);
        let handled = eviction.position.seq;
        if handled < acked {
            return broken(11, format!("evicted as if at {handled}, when it had acknowledged {acked}"));
        }
        let behind: Vec<&LoggedWindow> =
            log.windows.iter().filter(|window| window.last_seq() > handled).collect();
        let messages = log.last_seq - handled.min(log.last_seq);
        let bytes: u64 = behind.iter().map(|window| window.bytes).sum();
        let age = behind.first().map_or(std::time::Duration::ZERO, |window| now.since(window.at));
        let just = match eviction.reason {
            EvictReason::Messages => messages > marks.messages,
            EvictReason::Bytes => bytes > marks.bytes,
            EvictReason::Age | EvictReason::Stalled => age > marks.age,
            EvictReason::Silent => now.since(heard) > scenario.lease,
            EvictReason::Kicked => scenario.has(super::Fault::Kick),
            EvictReason::Overrun => false,
        };
        if !just {
            let reason = eviction.reason;
            return broken(
                11,
                format!(
                    "evicted for {reason} at {messages} messages, {bytes} bytes, {age:?}; it claims {lag}"
                ),
            );
        }
        Ok(())
    }

    /// A member delivers what it takes of the order up to a position.
    pub(super) fn on_delivered(&mut self, seen: &mut Seen, messages: &[Message], up_to: Position) -> Check {
        let Some(life) = self.epochs.get(&up_to.epoch).copied() else {
            return broken(8, format!("delivery in epoch {}, where no host has been", up_to.epoch));
        };
        let log = &self.logs[&life];
        let Some(window) = log.ending_at(up_to.seq).filter(|window| window.epoch == up_to.epoch) else {
            return broken(1, format!("delivery up to {up_to}, where no window ends"));
        };
        match seen.at {
            Some((same, at)) if same == life => {
                if window.first_seq != at.seq + 1 || up_to < at {
                    return broken(
                        2,
                        format!("delivery goes on from {at} to {} without a word", window.first_seq),
                    );
                }
            }
            Some((_, at)) => {
                return broken(
                    2,
                    format!("delivery goes from {at} to another life of the host without a word"),
                );
            }
            None => {
                let before = Position { epoch: up_to.epoch, seq: window.first_seq - 1 };
                if seen.joined_at.is_some_and(|joined| joined.seq != before.seq) {
                    return broken(
                        2,
                        format!("delivery begins behind {before}, not where the member joined"),
                    );
                }
                seen.began_behind = Some(before);
            }
        }
        seen.at = Some((life, up_to));
        let mut delivered = messages.iter().peekable();
        for (record, seq) in window.records.iter().zip(window.first_seq..) {
            let place = Some(Position { epoch: up_to.epoch, seq });
            let process = (record.origin, self.process(record.origin, record.origin_seq));
            let last = seen.last_of.get(&process).copied().unwrap_or(0);
            if let Some(message) = delivered.next_if(|message| message.position() == place) {
                let same = message.origin() == record.origin
                    && message.origin_seq() == record.origin_seq
                    && message.topic().as_str() == record.topic
                    && *message.payload() == record.payload;
                if !same {
                    return broken(
                        1,
                        format!("what was delivered at seq {seq} is not what was ordered there"),
                    );
                }
                // Messages of documents come to all who are there, whether or not they were had in another life of the host: documents know them again.
                if record.origin_seq <= last && !record.topic.starts_with("doc") {
                    let (origin, origin_seq) = (record.origin, record.origin_seq);
                    return broken(
                        3,
                        format!(
                            "message {origin_seq} of {origin} was delivered at seq {seq}, after {last} of it"
                        ),
                    );
                }
                if !seen.filters.iter().any(|(_, filter)| matches(filter, &record.topic)) {
                    return broken(
                        2,
                        format!("seq {seq} of topic {} was delivered, and not asked for", record.topic),
                    );
                }
                seen.last_of.insert(process, record.origin_seq.max(last));
                self.delivered += 1;
            } else if record.origin_seq > seen.last_under(record.origin)
                && seen.filters.iter().all(|(_, filter)| matches(filter, &record.topic))
            {
                return broken(2, format!("seq {seq} of topic {} was not delivered", record.topic));
            }
        }
        if delivered.peek().is_some() {
            return broken(2, format!("more was delivered than the window up to {up_to} holds"));
        }
        seen.settle();
        Ok(())
    }

    /// A member is told of a jump.
    pub(super) fn on_reset(&self, seen: &mut Seen, after: Option<Position>, resume_at: Position) -> Check {
        let Some(life) = self.epochs.get(&resume_at.epoch).copied() else {
            return broken(8, format!("a reset to epoch {}, where no host has been", resume_at.epoch));
        };
        match seen.at {
            Some((_, at)) if Some(at) != after => {
                return broken(2, format!("a reset says that delivery was at {after:?}, and it was at {at}"));
            }
            _ => seen.began_behind = None,
        }
        // Another life of the host may have lower epochs.
        if after.is_some_and(|after| resume_at <= after && self.are_of_one_life(after, resume_at)) {
            return broken(9, format!("a reset leads back from {after:?} to {resume_at}"));
        }
        seen.at = Some((life, Position { epoch: resume_at.epoch, seq: resume_at.seq - 1 }));
        seen.settle();
        Ok(())
    }

    /// The host tells that it does not order these, now or later.
    pub(super) fn on_refused(&mut self, seen: &mut Seen, life: u32, id: EndpointId, run: Ordered) -> Check {
        for origin_seq in run.first_origin_seq..=run.last_origin_seq() {
            seen.open.remove(&origin_seq);
            let about = self.sent.get(&(id, origin_seq)).is_some_and(|(topic, _)| topic.starts_with("doc/"));
            if !about || self.logs.get(&life).is_some_and(|log| log.placed.contains(&(id, origin_seq))) {
                return broken(6, format!("message {origin_seq} of {id} was told to be refused, and is not"));
            }
            self.refused.insert((id, origin_seq));
        }
        Ok(())
    }

    /// A member is told the places of messages of its own.
    pub(super) fn on_ordered(&self, seen: &mut Seen, id: EndpointId, run: Ordered) -> Check {
        let life = self.epochs.get(&run.epoch);
        let log = life.and_then(|life| self.logs.get(life));
        for k in 0..u64::from(run.count) {
            let (origin_seq, seq) = (run.first_origin_seq + k, run.first_seq + k);
            seen.open.remove(&origin_seq);
            let right = log.and_then(|log| log.record(seq)).is_some_and(|(window, record)| {
                (record.origin, record.origin_seq, window.epoch) == (id, origin_seq, run.epoch)
            });
            if !right {
                let epoch = run.epoch;
                return broken(
                    6,
                    format!("message {origin_seq} was told to stand at {epoch}:{seq}, and does not"),
                );
            }
        }
        Ok(())
    }
}

impl Seen {
    pub(super) fn new(filter: BTreeSet<String>) -> Self {
        Self { filters: vec![(0, filter)], ..Self::default() }
    }

    /// Which life of the host it follows, and how far it has come.
    pub(super) fn at(&self) -> Option<(u32, Position)> {
        self.at
    }

    /// The highest number delivered of an origin. Processes that have its id at once share it: after a restart of the host, what one of
    /// them sends with lower numbers than the other had used is taken for what was had.
    fn last_under(&self, origin: EndpointId) -> u64 {
        self.last_of.range((origin, 0)..=(origin, u64::MAX)).map(|(_, last)| *last).max().unwrap_or(0)
    }

    pub(super) fn on_subscribe(&mut self, ticket: u64, filter: BTreeSet<String>) {
        self.filters.push((ticket, filter));
    }

    pub(super) fn on_subscribed(&mut self, ticket: u64) {
        if self.live {
            self.filters.retain(|(other, _)| *other >= ticket);
        } else {
            // What was missed meanwhile comes as it was asked for then.
            self.settles = Some(ticket);
        }
    }

    /// It is a member; the host is at this seq by now.
    pub(super) fn on_joined(&mut self, life: u32, position: Position, end: u64) -> Check {
        self.live = true;
        if self.at.is_none() {
            self.joined_at = Some(position);
            self.at = Some((life, position));
        } else if let Some(began) = self.began_behind.take()
            && began.seq != position.seq
        {
            return broken(2, format!("joined at {position}, and delivery began behind {began}"));
        }
        self.began_behind = None;
        self.settles_at =
            self.settles.take().map(|ticket| (ticket, Position { seq: end, ..position })).or(self.settles_at);
        self.settle();
        Ok(())
    }

    pub(super) fn on_session_over(&mut self) {
        self.live = false;
        self.began_behind = None;
    }

    fn settle(&mut self) {
        if let (Some((ticket, from)), Some((_, at))) = (self.settles_at, self.at)
            && at.seq >= from.seq
            && at.epoch >= from.epoch
        {
            self.filters.retain(|(other, _)| *other >= ticket);
            self.settles_at = None;
        }
    }
}

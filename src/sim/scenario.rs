//! What a seed stands for: who takes part, in which configuration, and what goes wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::flow::HighWaterMark;
use crate::proto::LogLimit;
use crate::proto::host::RepairRate;
use crate::proto::member::Limit;

use super::Fault;
use super::dice::{Dice, MICRO, MILLI, Nanos, SECOND};

/// The topics of all messages.
pub(super) const TOPICS: [&str; 5] = ["a", "a.x", "a.y", "b", "c"];
/// What members subscribe to.
const FILTERS: [&[&str]; 6] = [&[""], &[""], &["a"], &["a.x", "b"], &["c"], &["b", "c"]];

#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) members: usize,
    /// The kinds that come in this run.
    pub(super) faults: Vec<Fault>,
    pub(super) fault_every: Nanos,
    /// How long things go wrong.
    pub(super) length: Nanos,
    /// From the fastest to the slowest message.
    pub(super) latency: (Nanos, Nanos),
    /// How many broadcasts may be on their way to one member.
    pub(super) broadcast_queue: usize,
    /// How much is sent at once, at most.
    pub(super) batch: u64,
    pub(super) send_every: Nanos,
    pub(super) payload: u64,
    /// How often the host sends out what it has at once, in percent, instead of when more has come.
    pub(super) eager: u64,
    pub(super) host_consumes: bool,
    pub(super) marks: HighWaterMark,
    pub(super) log: LogLimit,
    pub(super) heartbeat: Duration,
    pub(super) lease: Duration,
    pub(super) origin_ttl: Duration,
    pub(super) max_origins: usize,
    pub(super) quarantine: (Duration, Duration),
    pub(super) repair_rate: RepairRate,
    pub(super) pace_percentile: u8,
    pub(super) patience: Duration,
    pub(super) outbox: Limit,
    pub(super) handshake: Duration,
    pub(super) backoff: (Duration, Duration),
    /// By how much clocks go wrong, in millionths.
    pub(super) drift: u64,
}

impl Scenario {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let millis = |dice: &mut Dice, first, last| Duration::from_millis(dice.scale(first, last));
        // One run in eight goes without any fault: there, nothing at all may go wrong.
        let clean = dice.percent(12);
        let faults = Fault::ALL.into_iter().filter(|_| !clean && dice.percent(40)).collect();
        let batch = if dice.percent(30) { 1 } else { dice.scale(2, 20) };
        // Hostile configurations are as common as sensible ones; without faults they would be faults themselves.
        let messages = if clean { 10_000 } else { dice.pick(&[2, 10, 100, 10_000]) };
        let bytes = if clean { 1 << 22 } else { dice.pick(&[300, 4_000, 1 << 16, 1 << 22]) };
        let age = if clean { Duration::from_secs(2) } else { millis(dice, 200, 3_000) };
        let grace = if dice.percent(50) { Duration::ZERO } else { millis(dice, 10, 500) };
        let marks = HighWaterMark { messages, bytes, age, grace };
        let log = LogLimit {
            messages: dice.pick(&[messages, messages * 2, 10_000]).max(messages),
            bytes: dice.pick(&[bytes, bytes * 2, 1 << 22]).max(bytes),
        };
        let slowest = dice.scale(100 * MICRO, 20 * MILLI);
        let lease = millis(dice, 600, 3_000);
        let quarantine = millis(dice, 20, 500);
        Self {
            members: dice.between(1, 5) as usize,
            faults,
            fault_every: dice.scale(30 * MILLI, SECOND),
            length: dice.scale(SECOND / 4, 5 * SECOND),
            latency: (slowest / dice.between(1, 20), slowest),
            broadcast_queue: if clean { 100_000 } else { dice.pick(&[4, 50, 100_000]) },
            batch,
            send_every: dice.scale(20 * MILLI, 400 * MILLI),
            payload: dice.pick(&[10, 100, 1_000]),
            eager: dice.pick(&[100, 70, 20]),
            host_consumes: dice.percent(50),
            marks,
            log,
            heartbeat: millis(dice, 20, 100),
            lease,
            origin_ttl: if clean { Duration::from_secs(3600) } else { millis(dice, 500, 60_000) },
            max_origins: dice.pick(&[8, 20, 1_000]),
            quarantine: (quarantine, quarantine * dice.between(1, 8) as u32),
            repair_rate: RepairRate {
                burst: dice.pick(&[2_000, 100_000, 4 << 20]),
                // What the log holds can be sent again in some seconds; by default it takes half a second.
                per_second: dice.pick(&[10_000, 1 << 20, 32 << 20]).max(log.bytes / 8),
            },
            pace_percentile: dice.pick(&[50, 50, 50, 0, 100]),
            // Not drawn: the seeds that found something are to play what they played then.
            patience: Duration::from_millis([0, 10, 50][batch as usize % 3]),
            outbox: Limit { batches: dice.pick(&[1, 3, 20, 800]), bytes: dice.pick(&[100, 10_000, 1 << 20]) },
            handshake: millis(dice, 300, 2_000),
            backoff: (millis(dice, 5, 50), millis(dice, 50, 500)),
            drift: dice.pick(&[0, 1_000, 50_000]),
        }
    }

    /// Whether documents can be played with. Two processes under one id are taken for one another across a restart of the host: these do not come in
    /// a run with documents.
    pub(super) fn admits_documents(&mut self) -> bool {
        let admits = self.faults != [Fault::Twin];
        if admits {
            self.faults.retain(|fault| *fault != Fault::Twin);
            // Whoever missed something asks for documents anew, and all that take everything get the answers, too: a mark of two messages is past at once, for ever.
            self.marks.messages = self.marks.messages.max(100);
            self.marks.bytes = self.marks.bytes.max(1 << 16);
            self.log.messages = self.log.messages.max(self.marks.messages);
            self.log.bytes = self.log.bytes.max(self.marks.bytes);
            self.repair_rate.per_second = self.repair_rate.per_second.max(self.log.bytes / 8);
        }
        admits
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Whether nothing goes wrong by itself.
    pub(super) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }
}

/// What to subscribe to.
pub(super) fn draw_filter(dice: &mut Dice) -> BTreeSet<String> {
    dice.pick(&FILTERS).iter().map(|prefix| (*prefix).to_owned()).collect()
}

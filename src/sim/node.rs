//! Simulated processes: machines with their clocks, their consumers, and the applications that use them.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::id::EndpointId;
use crate::proto::host::Host;
use crate::proto::member::Member;
use crate::proto::{Instant, Reached};

use super::dice::Nanos;

/// The clock of one machine: it may run too fast or too slow, and jump forward, as after a sleep.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalClock {
    base: Nanos,
    local_base: Nanos,
    /// Millionths of a second per second.
    drift: i64,
}

impl LocalClock {
    pub(super) fn new(now: Nanos, drift: i64) -> Self {
        Self { base: now, local_base: 0, drift }
    }

    fn nanos(&self, now: Nanos) -> Nanos {
        let elapsed = i128::from(now - self.base);
        self.local_base + (elapsed + elapsed * i128::from(self.drift) / 1_000_000) as Nanos
    }

    pub(super) fn now(&self, now: Nanos) -> Instant {
        Instant::since_start(Duration::from_nanos(self.nanos(now)))
    }

    /// When it will show this moment; now, if it does already.
    pub(super) fn when(&self, now: Nanos, local: Instant) -> Nanos {
        let left = local.elapsed().saturating_sub(self.now(now).elapsed()).as_nanos() as i128;
        if left == 0 {
            now
        } else {
            now + (left * 1_000_000 / i128::from(1_000_000 + self.drift)) as Nanos + 1
        }
    }

    pub(super) fn jump(&mut self, now: Nanos, by: Nanos) {
        *self = Self { base: now, local_base: self.nanos(now) + by, drift: self.drift };
    }
}

/// Those who take what a machine delivers, as one.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    /// What waits: how many messages, and up to where.
    pub(super) queue: VecDeque<(u64, Reached)>,
    /// Up to where all was put in.
    pub(super) up_to: Option<Reached>,
    /// It overran, and is no more.
    pub(super) gone: bool,
    /// It has its hands full: an event will say when it is done.
    pub(super) busy: bool,
    /// How long it takes for a message.
    pub(super) pace: Nanos,
    pub(super) stalled: bool,
}

impl Consumer {
    /// It is done with what it took first: up to where it is done with all, now.
    pub(super) fn take(&mut self) -> Option<Reached> {
        let (_, up_to) = self.queue.pop_front()?;
        if self.queue.is_empty() { self.up_to } else { Some(up_to) }
    }

    pub(super) fn messages(&self) -> u64 {
        self.queue.iter().map(|(messages, _)| messages).sum()
    }
}

/// The host, through all its lives.
#[derive(Debug)]
pub(super) struct HostNode {
    pub(super) id: EndpointId,
    /// Counts from 1.
    pub(super) life: u32,
    /// `None` while it is down.
    pub(super) machine: Option<Host>,
    pub(super) clock: LocalClock,
    pub(super) asleep_until: Nanos,
    pub(super) timer_at: Option<Nanos>,
    pub(super) flush_due: bool,
    /// When the first of what went in, and whose outputs were not taken yet, went in; on its clock.
    pub(super) undrained_since: Option<Instant>,
    pub(super) is_draining: bool,
    /// What came on the submit channel and was not taken yet.
    pub(super) submits: VecDeque<Vec<Bytes>>,
    pub(super) next_origin_seq: u64,
    pub(super) consumer: Consumer,
}

/// A member, through all its lives.
#[derive(Debug)]
pub(super) struct MemberNode {
    pub(super) id: EndpointId,
    /// Counts from 1.
    pub(super) life: u32,
    /// `None` while it is down.
    pub(super) machine: Option<Member>,
    pub(super) clock: LocalClock,
    pub(super) asleep_until: Nanos,
    pub(super) timer_at: Option<Nanos>,
    pub(super) link: Option<usize>,
    pub(super) next_origin_seq: u64,
    pub(super) joined_once: bool,
    pub(super) filter: BTreeSet<String>,
    pub(super) ticket: u64,
    pub(super) consumer: Consumer,
    pub(super) rejoins: bool,
    /// A second process under the id of another member: it is gone for good when it ends.
    pub(super) is_twin: bool,
    /// It is to come up again.
    pub(super) starting: bool,
    /// Broadcasts of a host that died, which come by the next connection.
    pub(super) stale: Vec<Vec<Bytes>>,
    /// Until when each direction of its connections stands still.
    pub(super) held_until: [Nanos; 5],
    /// How many of its broadcasts are lost, in percent, and until when.
    pub(super) loss: (u64, Nanos),
}

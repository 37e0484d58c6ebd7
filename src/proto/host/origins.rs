//! What the host knows of those who sent: up to where their messages are ordered. It outlives their sessions, so that nothing is
//! ordered twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::EndpointId;
use crate::wire::Ordered;

use super::super::Instant;
use super::fates::Fates;

/// How many stretches of fates are kept of origins without a session, over all of them (a guess: 40
/// MiB, or 180 where every stretch holds refused messages). Beyond, the origin whose session ended
/// first is forgotten.
const MAX_ENDED_STRETCHES: usize = 1 << 20;

/// One origin.
#[derive(Debug)]
pub(super) struct Origin {
    /// The last origin_seq that was ordered, or never will be.
    pub(super) last: u64,
    /// What became of its last messages, as far as it may not know yet.
    pub(super) fates: Fates,
    /// Whether it was a live member once.
    was_live: bool,
    /// Whether it is known what became of any message of its own.
    has_sent: bool,
    /// When its last session ended, if it has none.
    ended: Option<Instant>,
}

impl Origin {
    /// It is known what becomes of its next messages.
    pub(super) fn push(&mut self, run: Ordered) {
        self.has_sent = true;
        self.last = run.last_origin_seq();
        self.fates.push(run);
    }
}

/// The table of origins. Bounded: a full one forgets an origin without a session for a newcomer,
/// one that sent nothing first.
#[derive(Debug)]
pub(super) struct Origins {
    table: BTreeMap<EndpointId, Origin>,
    /// Those without a session, by when that ended: those that sent nothing, and those that did.
    ended: [BTreeSet<(Instant, EndpointId)>; 2],
    /// How many stretches of fates they have.
    ended_stretches: usize,
    max: usize,
    ttl: Duration,
    forgotten: u64,
}

impl Origins {
    pub(super) fn new(max: usize, ttl: Duration) -> Self {
        Self {
            table: BTreeMap::new(),
            ended: [BTreeSet::new(), BTreeSet::new()],
            ended_stretches: 0,
            max,
            ttl,
            forgotten: 0,
        }
    }

    #[cfg(any(test, feature = "test-utils"))]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// How many origins that had been live, or sent, were forgotten.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) fn get_mut(&mut self, id: &EndpointId) -> Option<&mut Origin> {
        self.table.get_mut(id)
    }

    /// Whether there is room for this origin, it is there, or another one can be forgotten for it.
    pub(super) fn has_room_for(&self, id: &EndpointId) -> bool {
        self.table.len() < self.max
            || self.table.contains_key(id)
            || self.ended.iter().any(|ended| !ended.is_empty())
    }

    /// The origin has a session now. A new one begins behind `last`.
    pub(super) fn begin(&mut self, id: EndpointId, last: u64) -> &mut Origin {
        if self.table.contains_key(&id) {
            self.take_from_ended(&id);
        } else if self.table.len() >= self.max
            && let Some((_, id)) = self.ended.iter().find_map(BTreeSet::first)
        {
            self.forget(&id.clone());
        }
        let fresh =
            || Origin { last, fates: Fates::default(), was_live: false, has_sent: false, ended: None };
        self.table.entry(id).or_insert_with(fresh)
    }

    /// The origin's session is over, in which it was a live member or not.
    pub(super) fn end(&mut self, now: Instant, id: EndpointId, was_live: bool) {
        let Some(origin) = self.table.get_mut(&id) else { return };
        origin.was_live |= was_live;
        if !origin.was_live && !origin.has_sent {
            // There is nothing to remember of it: by its next hello it is as good as new.
            self.table.remove(&id);
            return;
        }
        origin.ended = Some(now);
        self.ended_stretches += origin.fates.stretches();
        self.ended[usize::from(origin.has_sent)].insert((now, id));
        while self.ended_stretches > MAX_ENDED_STRETCHES
            && let Some((_, id)) = self.ended[1].first()
        {
            self.forget(&id.clone());
        }
    }

    /// Forgets those whose time has come.
    pub(super) fn expire(&mut self, now: Instant) {
        for rank in 0..self.ended.len() {
            while let Some((ended, id)) = self.ended[rank].first().copied()
                && ended + self.ttl <= now
            {
                self.forget(&id);
            }
        }
    }

    fn forget(&mut self, id: &EndpointId) {
        self.take_from_ended(id);
        self.table.remove(id);
        self.forgotten += 1;
    }

    fn take_from_ended(&mut self, id: &EndpointId) {
        if let Some(origin) = self.table.get_mut(id)
            && let Some(ended) = origin.ended.take()
        {
            self.ended[usize::from(origin.has_sent)].remove(&(ended, *id));
            self.ended_stretches -= origin.fates.stretches();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn id(n: u8) -> EndpointId {
        EndpointId::from_bytes([n; 16])
    }

    fn at(seconds: u64) -> Instant {
        Instant::since_start(Duration::from_secs(seconds))
    }

    fn sends(origins: &mut Origins, n: u8, origin_seq: u64) {
        let run = Ordered { epoch: 1, first_origin_seq: origin_seq, first_seq: origin_seq, count: 1 };
        origins.get_mut(&id(n)).unwrap().push(run);
    }

    fn has(origins: &Origins, n: u8) -> bool {
        origins.table.contains_key(&id(n))
    }

    #[test]
    fn of_one_that_never_was_live_nothing_is_remembered() {
        let mut origins = Origins::new(2, TTL);
        origins.begin(id(1), 5);
        origins.end(at(0), id(1), false);
        assert!(!has(&origins, 1));
        // Once it was live, it stays so.
        for was_live in [true, false] {
            origins.begin(id(1), 5);
            origins.end(at(0), id(1), was_live);
            assert!(has(&origins, 1));
        }
        assert_eq!(origins.forgotten(), 0);
    }

    #[test]
    fn a_full_table_forgets_who_sent_nothing_and_then_whose_session_ended_first() {
        let mut origins = Origins::new(4, TTL);
        for n in 1..=4 {
            origins.begin(id(n), 0);
        }
        assert!(!origins.has_room_for(&id(5)), "all have sessions");
        sends(&mut origins, 1, 1);
        sends(&mut origins, 2, 1);
        origins.end(at(2), id(1), true);
        origins.end(at(1), id(2), true);
        origins.end(at(3), id(3), true);
        assert!(origins.has_room_for(&id(5)));
        origins.begin(id(5), 0);
        assert!(!has(&origins, 3) && has(&origins, 1) && has(&origins, 2));
        origins.begin(id(6), 0);
        assert!(!has(&origins, 2) && has(&origins, 1));
        // One that comes back in time is not forgotten.
        origins.begin(id(1), 0);
        assert!(!origins.has_room_for(&id(7)));
        assert_eq!((origins.len(), origins.forgotten()), (4, 2));
    }

    #[test]
    fn all_are_forgotten_when_their_time_has_come() {
        let mut origins = Origins::new(4, TTL);
        for n in 1..=3 {
            origins.begin(id(n), 0);
        }
        sends(&mut origins, 1, 1);
        origins.end(at(1), id(1), true);
        origins.end(at(2), id(2), true);
        origins.expire(at(60));
        assert_eq!(origins.len(), 3);
        origins.expire(at(62));
        assert!(has(&origins, 3));
        assert_eq!((origins.len(), origins.forgotten()), (1, 2));
    }

    #[test]
    fn what_is_remembered_of_the_messages_of_those_who_are_gone_is_bounded() {
        let mut origins = Origins::new(100_000, TTL);
        let ids = |n: u32| EndpointId::from_bytes((u128::from(n) + 1).to_be_bytes());
        let each = 1_024;
        let fit = (MAX_ENDED_STRETCHES / each) as u32;
        for n in 0..fit + 10 {
            let origin = origins.begin(ids(n), 0);
            for message in 1..=each as u64 {
                origin.push(Ordered {
                    epoch: 1,
                    first_origin_seq: message,
                    first_seq: 2 * message,
                    count: 1,
                });
            }
            origins.end(at(n.into()), ids(n), true);
        }
        assert_eq!(origins.len(), fit as usize);
        assert!(!origins.table.contains_key(&ids(9)) && origins.table.contains_key(&ids(10)));
        origins.expire(at(1_000_000));
        assert_eq!((origins.len(), origins.ended_stretches), (0, 0));
    }
}

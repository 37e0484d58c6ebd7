//! Membership: what members are told of who joined and who left.

use std::time::Duration;

use crate::id::EndpointId;
use crate::wire::{MemberEntry, ParentMessage};

use super::super::Instant;
use super::interface::RepairRate;
use super::session::Bucket;

/// The limit on membership messages to a member, at once and in each second (a guess: a member has
/// ten seconds to answer as many messages as it may leave unanswered).
const RATE: RepairRate = RepairRate { burst: 100, per_second: 100 };
/// The time for which changes beyond the rate are gathered (a guess).
const PAUSE: Duration = Duration::from_millis(10);

/// Changes that members have not been told.
#[derive(Debug)]
pub(super) struct Membership {
    joined: Vec<MemberEntry>,
    left: Vec<EndpointId>,
    /// When they are told, if not at once.
    due_at: Option<Instant>,
    bucket: Bucket,
}

impl Membership {
    pub(super) fn new(now: Instant) -> Self {
        Self { joined: Vec::new(), left: Vec::new(), due_at: None, bucket: Bucket::new(RATE, now) }
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    pub(super) fn join(&mut self, member: MemberEntry) {
        self.left.retain(|id| *id != member.id);
        self.joined.push(member);
    }

    pub(super) fn leave(&mut self, id: EndpointId) {
        self.joined.retain(|member| member.id != id);
        self.left.push(id);
    }

    /// The message that tells all changes: at once, unless there were many before.
    pub(super) fn take(&mut self, now: Instant) -> Option<ParentMessage> {
        let is_changed = !self.joined.is_empty() || !self.left.is_empty();
        if !is_changed || self.due_at.is_some_and(|at| now < at) {
            return None;
        }
        if !self.bucket.take(now, 1) {
            self.due_at = Some(now + PAUSE);
            return None;
        }
        self.due_at = None;
        Some(ParentMessage::Membership {
            joined: std::mem::take(&mut self.joined),
            left: std::mem::take(&mut self.left),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Role;

    fn member(n: u8) -> MemberEntry {
        MemberEntry { id: EndpointId::from_bytes([n; 16]), role: Role::Member }
    }

    #[test]
    fn changes_are_told_at_once_and_together_beyond_the_rate() {
        let now = Instant::START;
        let mut membership = Membership::new(now);
        assert_eq!(membership.take(now), None);
        for _ in 0..RATE.burst {
            membership.join(member(1));
            let told = ParentMessage::Membership { joined: vec![member(1)], left: vec![] };
            assert_eq!(membership.take(now), Some(told));
        }
        membership.join(member(2));
        membership.join(member(3));
        membership.leave(member(2).id);
        membership.leave(member(1).id);
        membership.join(member(1));
        assert_eq!(membership.take(now), None);
        assert_eq!(membership.due_at(), Some(now + PAUSE));
        assert_eq!(membership.take(now + PAUSE / 2), None);
        let (joined, left) = (vec![member(3), member(1)], vec![member(2).id]);
        assert_eq!(membership.take(now + PAUSE), Some(ParentMessage::Membership { joined, left }));
        assert_eq!(membership.due_at(), None);
    }
}

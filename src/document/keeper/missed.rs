//! What a keeper has missed, and may not ask for again at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::proto::Instant;

/// How often those that have a document open are asked to ask for it again (a guess: many may have it open, and each asks for all of it).
const SAY_ASK_AGAIN_EVERY: Duration = Duration::from_secs(1);

/// The documents that were asked for again not long ago. What is done for each call does not grow with their number: anybody can make a keeper miss something.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// Whether something was missed meanwhile.
    asked: BTreeMap<String, bool>,
    /// Until when each is not asked for once more, in this order.
    until: VecDeque<(Instant, String)>,
    /// Of how many something was missed meanwhile.
    to_repeat: usize,
}

impl Missed {
    /// Something of this document was missed: whether it is to be asked for now. If not, it will be [due](Self::due), unless there are `most` others.
    pub(super) fn miss(&mut self, now: Instant, name: &str, most: usize) -> bool {
        if let Some(is_to_repeat) = self.asked.get_mut(name) {
            self.to_repeat += usize::from(!std::mem::replace(is_to_repeat, true));
            return false;
        }
        let has_room = self.asked.len() < most;
        if has_room {
            self.asked.insert(name.to_owned(), false);
            self.until.push_back((now + SAY_ASK_AGAIN_EVERY, name.to_owned()));
        }
        has_room
    }

    /// Forgets what may be asked for again by now, and says of what of it something was missed meanwhile.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        while self.until.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, name)) = self.until.pop_front() else { break };
            if self.asked.remove(&name) == Some(true) {
                self.to_repeat -= 1;
                due.push(name);
            }
        }
        due
    }

    /// Whether there is something to be asked for again later.
    pub(super) fn is_pending(&self) -> bool {
        self.to_repeat > 0
    }

    /// When there may be something due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until.front().filter(|_| self.is_pending()).map(|(until, _)| *until)
    }
}

//! Windows sent again to those who missed them.

use std::time::Duration;

use crate::id::SessionToken;
use crate::wire::ParentMessage;

use super::super::{Instant, MAX_UNANSWERED};
use super::Host;

/// How many windows are sent again before other work has its turn (a guess: at most 4 MiB of common windows).
const PER_TURN: usize = 64;
/// How soon it goes on after a turn, and when a member's rate is used up (a guess: a few windows' worth of tokens).
const PAUSE: Duration = Duration::from_millis(2);
/// How many windows one request is answered with at most. More are asked for when these have come.
const PER_REQUEST: u64 = 1024;

impl Host {
    pub(super) fn on_repair(&mut self, token: SessionToken, first: u64, last: u64) {
        let newest = self.sequencer.number();
        let Some(session) = self.sessions.get_mut(&token) else { return };
        // What was not published yet comes by itself.
        if first <= newest {
            session.repair = Some((first, last.min(newest).min(first.saturating_add(PER_REQUEST - 1))));
            self.repairs.insert(token);
        }
    }

    /// Sends again what was asked for, as far as rates and queues allow.
    pub(super) fn serve_repairs(&mut self, now: Instant) {
        self.repair_at = None;
        let mut left = PER_TURN;
        for _ in 0..self.repairs.len() {
            let Some(token) = self.repairs.next() else { break };
            self.serve_repair(now, token, &mut left);
            if left == 0 {
                break;
            }
        }
        if !self.repairs.is_empty() {
            self.repair_at = Some(now + PAUSE);
        }
    }

    fn serve_repair(&mut self, now: Instant, token: SessionToken, left: &mut usize) {
        while let Some(session) = self.sessions.get_mut(&token) {
            let Some((next, last)) = session.repair else { break };
            if next > last {
                session.repair = None;
                break;
            }
            // Half of what may be unanswered is for repairs.
            if *left == 0 || session.control.unanswered() >= MAX_UNANSWERED / 2 {
                return;
            }
            let oldest = self.log.oldest().unwrap_or(u64::MAX);
            let message = match self.log.get(next) {
                Some(window) if session.bucket.take(now, window.len()) => {
                    session.repair = Some((next + 1, last));
                    self.counters.repaired_windows += 1;
                    ParentMessage::Repaired(window.clone())
                }
                Some(_) => return,
                None if mutant!(self, RingEdge) && next + 1 == oldest => {
                    session.repair = Some((next + 1, last));
                    continue;
                }
                None => {
                    debug_assert!(next < oldest, "numbers are consecutive up to the newest");
                    session.repair = None;
                    self.counters.missed_repairs += 1;
                    let Some(at) = self.log.resume_behind() else { break };
                    ParentMessage::Missed(at)
                }
            };
            *left -= 1;
            self.send(now, token, &message);
        }
        self.repairs.remove(token);
    }
}

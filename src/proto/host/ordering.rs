//! How messages get into the order and out to everyone: submissions, windows, places.

use std::ops::{Range, RangeInclusive};

use bytes::Bytes;

use crate::id::{EndpointId, SessionToken};
use crate::wire::{Batch, Ordered, ParentMessage, SubmitHead, lanes};

use super::super::sequencer::FinishedWindow;
use super::super::{Instant, MAX_UNANSWERED};
use super::session::Recipient;
use super::{Host, Output};

/// How long a member may take to send again before it is asked once more (a guess: far above any round trip).
const RESEND_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// How many runs of places are told in one message (a guess: 56 KiB). Of what is refused here and there within batches there may be many.
const RUNS_AT_ONCE: usize = 2_048;
/// How many messages of them at once (a guess: half a megabyte). What is before that is of unknown fate: else a short hello could be owed some 28 MB.
const MOST_AT_ONCE: usize = 8;

impl Host {
    pub(super) fn on_submit(&mut self, now: Instant, frames: Vec<Bytes>) {
        let Ok([head, body]) = <[Bytes; 2]>::try_from(frames) else {
            self.counters.malformed_submits += 1;
            return;
        };
        let Ok(SubmitHead { session: token }) = SubmitHead::decode(&head) else {
            self.counters.malformed_submits += 1;
            return;
        };
        let Some(session) = self.sessions.get(&token) else {
            self.counters.unknown_sessions += 1;
            return;
        };
        let (id, role) = (session.id, session.role);
        let Ok(batch) = Batch::decode(body, self.config.max_message) else {
            self.counters.malformed_submits += 1;
            return;
        };
        if !role.may_send() && !batch.is_questions() {
            self.counters.forbidden_submits += 1;
            return;
        }
        let Some(origin) = self.origins.get_mut(&id) else {
            debug_assert!(false, "every session has an origin");
            return;
        };
        let (last, end) = (origin.last, batch.first_origin_seq + batch.len() as u64 - 1);
        let waits = session.known.waits();
        if batch.first_origin_seq == last + 1 || mutant!(self, SkipDedupe) {
            self.take_in(now, token, &batch, 0);
        } else if end <= last {
            // Had before: its sender has not heard. What it is to be told anyway comes in its turn: it takes what is passed over for of unknown fate.
            self.counters.duplicates += batch.len() as u64;
            let told = self.untold.get(&token).map_or(last, |from| from - 1);
            self.tell_fates(now, token, batch.first_origin_seq..=end.min(told));
        } else if batch.first_origin_seq <= last {
            let had = last + 1 - batch.first_origin_seq;
            self.counters.duplicates += had;
            self.take_in(now, token, &batch, had as usize);
        } else if !waits {
            // Where it is to be found out first what the sender may say, it is asked then.
            self.on_missing(now, token, last + 1);
        }
    }

    /// Messages are missing before those that came.
    fn on_missing(&mut self, now: Instant, token: SessionToken, from: u64) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let asked = session.resend_asked.filter(|(asked, at)| *asked == from && now < *at + RESEND_PAUSE);
        if asked.is_none() {
            session.resend_asked = Some((from, now));
            self.counters.resends_asked += 1;
            self.send(now, token, &ParentMessage::Resend { from });
        }
    }

    pub(super) fn on_local(&mut self, body: Bytes) {
        match Batch::decode(body, self.config.max_message) {
            Ok(batch) => {
                debug_assert_eq!(batch.first_origin_seq, self.local_next_origin_seq);
                self.local_next_origin_seq = batch.first_origin_seq + batch.len() as u64;
                self.order(self.config.id, Recipient::Local, &batch, 0..batch.len());
            }
            Err(malformed) => debug_assert!(false, "our own batch is {malformed}"),
        }
    }

    /// Gives records of a batch the next positions.
    pub(super) fn order(
        &mut self,
        origin: EndpointId,
        sender: Recipient,
        batch: &Batch,
        records: Range<usize>,
    ) {
        if records.is_empty() {
            return;
        }
        let first_origin_seq = batch.first_origin_seq + records.start as u64;
        let records =
            batch.records_in(records).map(|(topic, tail)| (&batch.topics[usize::from(topic)], tail));
        let run = self.sequencer.order(origin, first_origin_seq, records);
        self.publish_windows(self.now);
        self.place(origin, sender, run);
    }

    /// A record gets no place.
    pub(super) fn refuse_record(&mut self, origin: EndpointId, sender: Recipient, origin_seq: u64) {
        self.place(origin, sender, Ordered::refused(origin_seq, 1));
    }

    /// It is known what becomes of the next messages of an origin.
    fn place(&mut self, origin: EndpointId, sender: Recipient, run: Ordered) {
        match sender {
            Recipient::Local => {
                if !self.placed.last_mut().is_some_and(|last| last.extend(&run)) {
                    self.placed.push(run);
                }
            }
            Recipient::Session(token) => {
                if let Some(origin) = self.origins.get_mut(&origin) {
                    origin.push(run);
                }
                self.untold.entry(token).or_insert(run.first_origin_seq);
            }
        }
    }

    /// Tells all senders the places of their messages. Once for all that was ordered together: a child that sends many small batches
    /// would otherwise be owed a control message for each, and soon owe too many answers itself.
    pub(super) fn tell_places(&mut self, now: Instant, at_once: bool) {
        self.outputs.extend(self.placed.drain(..).map(Output::Ordered));
        for (token, from) in std::mem::take(&mut self.untold) {
            if at_once || !self.owes_answers(token) {
                self.tell_fates(now, token, from..=u64::MAX);
            } else {
                // More come together, when it has answered: one that is starved of its processor is not to be cut off for them.
                self.untold.insert(token, from);
            }
        }
    }

    /// Tells a member what became of these messages of its own, as far as that is known and remembered.
    pub(super) fn tell_fates(&mut self, now: Instant, token: SessionToken, messages: RangeInclusive<u64>) {
        let id = self.sessions.get(&token).map(|session| session.id);
        let Some(origin) = id.and_then(|id| self.origins.get_mut(&id)) else { return };
        let runs = origin.fates.of(messages);
        let forgotten = runs.len().saturating_sub(MOST_AT_ONCE * RUNS_AT_ONCE);
        for runs in runs[forgotten..].chunks(RUNS_AT_ONCE) {
            self.send(now, token, &ParentMessage::Ordered(runs.to_vec()));
        }
    }

    /// Whether a member has left so many control messages unanswered that others are to wait. What it is not told keeps its outbox from moving on, so that
    /// there is no more to tell than that holds.
    fn owes_answers(&self, token: SessionToken) -> bool {
        self.sessions.get(&token).is_some_and(|session| session.control.unanswered() >= MAX_UNANSWERED / 4)
    }

    /// Goes on in an epoch above this one, unless it is there already.
    pub(super) fn rise_above(&mut self, now: Instant, epoch: u64) {
        if epoch >= self.sequencer.epoch() {
            self.sequencer.rise_above(epoch, self.config.incarnation);
            self.publish_windows(now);
        }
    }

    /// Closes the open window, and publishes it.
    pub(super) fn cut_window(&mut self, now: Instant) {
        self.sequencer.cut();
        self.publish_windows(now);
    }

    /// Publishes the windows that the sequencer has finished.
    fn publish_windows(&mut self, now: Instant) {
        while let Some(finished) = self.sequencer.poll_window() {
            self.publish(now, finished);
        }
    }

    /// Publishes a window on the lanes that are asked for.
    fn publish(&mut self, now: Instant, FinishedWindow { window, is_own }: FinishedWindow) {
        self.counters.windows += 1;
        self.counters.ordered += window.records();
        self.look_due = true;
        self.log.append(now, window.clone());
        let body = window.body.clone();
        self.outputs.push_back(Output::Window { window, is_own });
        if self.demand.is_any() {
            match lanes(&body, |topic| self.demand.wants(topic)) {
                Ok(lanes) => {
                    self.outputs
                        .extend(lanes.into_iter().map(|(lane, body)| Output::Broadcast { lane, body }));
                }
                Err(malformed) => debug_assert!(false, "our own window is {malformed}"),
            }
        }
    }
}

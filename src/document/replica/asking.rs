//! How a replica comes by its document: what it asks, what it is told, and what of its own it brings.

use crate::id::EndpointId;
use crate::message::{MessageKind, Position};
use crate::proto::Instant;

use super::super::fold::Folded;
use super::super::join::{Held, Join, Joined, Step};
use super::super::wire::{Answer, Live, Word};
use super::super::{Document, DocumentError, DocumentEvent, Model};
use super::own::Patience;
use super::{ASK_FOR_MISSED_EVERY, Output, Replica};

impl<D: Document> Replica<D> {
    /// Asks for the document, at once or when a question that waits is due: until it has its place, what comes is in its answer.
    pub(super) fn ask(&mut self) {
        (self.seeding, self.ask_again, self.has_missed) = (false, false, false);
        self.unanswered.clear();
        let join = Join::new(self.nonce());
        let question = join.question();
        self.join = Some(join);
        if !self.resets.is_waiting() {
            self.say(MessageKind::FullDocumentRequest, &question);
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let nonce = self.nonce();
        let is_due = self.resets.take_due(now);
        if let Some(question) = self.join.as_ref().filter(|_| is_due).map(Join::question) {
            self.say(MessageKind::FullDocumentRequest, &question);
        }
        if let Some(join) = &mut self.join {
            let step = join.on_timeout(now, nonce);
            self.on_step(step);
        }
        self.be_patient(now);
        self.ask_for_missed(now);
    }

    /// Asks for what was missed in pieces, when the answer is there that is under way: that does not have it.
    pub(super) fn ask_for_missed(&mut self, now: Instant) {
        let is_due = self.has_missed && self.quiet_until.is_none_or(|until| until <= now);
        if is_due && self.join.is_none() && self.failed.is_none() {
            self.quiet_until = Some(now + ASK_FOR_MISSED_EVERY);
            self.ask();
        }
    }

    pub(super) fn on_answer(&mut self, now: Instant, from: EndpointId, answer: Answer) {
        let (nonce, host) = (self.nonce(), self.host);
        let is_foreign = host.is_some_and(|host| host != from);
        match &mut self.join {
            // The host has an answer after all, and was slow: what we made of it alone, or had from another, need not be what the others have.
            _ if self.unanswered.contains(&answer.nonce) && !is_foreign => {
                if matches!(answer.word, Word::Part { .. } | Word::Empty { .. }) {
                    self.ask();
                }
            }
            Some(join) if join.may_be_told(from, host, &answer) => {
                let step = join.on_answer(now, from, answer, nonce);
                self.on_step(step);
            }
            // Nobody asked them.
            Some(_) => self.malformed += 1,
            None => {}
        }
    }

    pub(super) fn on_ask(
        &mut self,
        now: Instant,
        from: EndpointId,
        nonce: u64,
        of: Option<EndpointId>,
        anyone: bool,
    ) {
        if self.config.read_only {
            return;
        }
        self.end_run();
        let here = self.is_here();
        let say = |word| Some(Answer { nonce, word });
        let answer = if of == Some(self.config.me) {
            if !here || (D::MODEL == Model::Commutative && !self.pending.is_empty()) {
                say(Word::Busy)
            } else {
                match self.guarded(|replica| replica.folded.state()) {
                    Some(state) => self.transfers.begin(now, from, "", nonce, None, || state.encode()),
                    None => say(Word::Busy),
                }
            }
        } else if anyone && of.is_none() && here {
            say(Word::Offer)
        } else {
            None
        };
        if let Some(answer) = answer {
            self.outputs.push_back(Output::Answer { to: from, payload: answer.encode() });
        }
    }

    pub(super) fn on_step(&mut self, step: Step) {
        match step {
            Step::Wait => {}
            Step::Say(live) => self.say(MessageKind::FullDocumentRequest, &live),
            Step::Done(joined) => {
                self.join = None;
                self.on_joined(joined);
                self.settle();
            }
        }
    }

    pub(super) fn on_joined(&mut self, joined: Joined) {
        let name = self.config.name.clone();
        match joined {
            Joined::State { state, asked, held, others } => {
                match others {
                    // What we may do the host alone says.
                    Some(nonces) => self.unanswered = nonces,
                    None => {
                        self.patience = Patience::No;
                        self.may_only_read(state.read_only);
                    }
                }
                let found = state.kind.clone();
                if found.as_ref().is_some_and(|kind| kind != D::KIND) {
                    return self.fail(self.foreign(found));
                }
                // What there is already takes it in, and has its number.
                let replica = (!self.begun || self.is_broken).then_some(self.id);
                match self.guarded(|_| Folded::<D>::of(&state, replica)) {
                    Some(Ok(folded)) => self.begin(asked, folded, held),
                    Some(Err(malformed)) => {
                        self.fail(DocumentError::Malformed { name, reason: malformed.to_string() });
                    }
                    None => {}
                }
            }
            Joined::Empty { asked, held, read_only } => {
                self.patience = Patience::No;
                self.may_only_read(read_only);
                self.begin_anew(asked, held);
            }
            Joined::Nobody { asked, held, nonces } if self.begun || self.config.create => {
                self.unanswered = nonces;
                self.begin_anew(asked, held);
            }
            Joined::Nobody { .. } => self.fail(DocumentError::Unavailable { name }),
            Joined::Refused(reason) => self.fail(DocumentError::Refused { name, reason }),
        }
    }

    /// What we may do, by the host's word.
    pub(super) fn may_only_read(&mut self, read_only: bool) {
        self.read_only = read_only || self.config.read_only;
        if self.read_only {
            self.refusals = 0;
        }
    }

    /// There is no document in the cluster; maybe we have one.
    pub(super) fn begin_anew(&mut self, asked: Position, held: Vec<Held>) {
        let has_something = self.begun && self.folded.ledger.kind.is_some();
        let is_seeded = held.iter().any(|held| matches!(held.live, Live::Seed(_)));
        if D::MODEL == Model::Ordered && has_something && !is_seeded && !self.read_only {
            // The first that comes to its place is the document.
            if let Some(state) = self.guarded(|replica| replica.folded.state()) {
                self.seeding = true;
                self.join = Some(Join::holding(self.nonce(), asked, held));
                self.put(Live::Seed(state.encode()).encode());
            }
            return;
        }
        self.begin_empty(asked, held);
    }

    pub(super) fn begin_empty(&mut self, asked: Position, held: Vec<Held>) {
        if let Some(empty) = self.guarded(|_| Folded::empty()) {
            self.begin(asked, empty, held);
        }
    }

    /// From here on there is a document: this one as it was there, with what came meanwhile, and what is ours.
    pub(super) fn begin(&mut self, asked: Position, mut folded: Folded<D>, held: Vec<Held>) {
        self.end_run();
        self.since = Some(asked);
        // The word of another host, whose clock was ahead: it says nothing of the positions of this
        // one.
        self.stored.take_if(|stored| stored.epoch > asked.epoch);
        folded.ledger.reaches(asked);
        let first = !std::mem::replace(&mut self.begun, true);
        match D::MODEL {
            Model::Commutative if std::mem::take(&mut self.is_broken) => self.mend(folded),
            Model::Commutative if !first => self.come_together(folded),
            _ => {
                self.folded = folded;
                self.tell_replica();
            }
        }
        for Held { position, origin, live } in held {
            if !mutant!(self, ForgetHeld) {
                self.take(position, origin, live);
            }
        }
        self.end_run();
        // Only now is it known what of ours is in it: the whole document may be among what came meanwhile.
        if D::MODEL == Model::Ordered {
            self.bring_back_own();
            self.guarded(Self::rebuild_view);
            self.view_is_stale = false;
        }
        self.event(if first { DocumentEvent::Opened } else { DocumentEvent::Replaced });
        if std::mem::take(&mut self.ask_again) {
            self.ask_anew();
        } else if self.pending.is_empty() {
            self.event(DocumentEvent::Synced);
        }
    }
}

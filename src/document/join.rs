//! How a node comes by a document: it asks, and what it is told holds where its question stands in the order. What comes behind that is kept meanwhile.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::id::EndpointId;
use crate::message::Position;
use crate::proto::Instant;

use super::wire::{self, Answer, Live, State, Update, Word};

/// How long an answer may take, and each part of it (a guess: a busy host's longest pause, several times over).
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// How often the host is asked before anyone is.
const TRIES_AT_THE_HOST: u32 = 2;
/// How often anyone is asked before it is clear that nobody has it.
const TRIES: u32 = 4;
/// After how many parts the next ones are asked for; twice as many are under way.
pub(super) const PARTS_AT_ONCE: u64 = 8;
/// How many questions are remembered that were not answered in time (a guess).
const MOST_NONCES: usize = 16;
/// The largest document that is taken in, in bytes (a guess).
pub(super) const MOST_BYTES: usize = 256 << 20;

/// How many bytes may come behind a question before it has its answer; beyond, it is asked anew (a guess).
pub(super) const MOST_HELD_BYTES: usize = 64 << 20;

/// A question for a document.
#[derive(Debug)]
pub(super) struct Join {
    nonce: u64,
    asks_nobody: bool,
    /// Those that were asked before, and not answered in time.
    earlier: Vec<Earlier>,
    /// Whether it is asked of the host.
    asks_the_host: bool,
    /// Whose answer counts; the host's for `None`.
    of: Option<EndpointId>,
    tries: u32,
    /// Where it stands in the order, once it has come back.
    asked: Option<Position>,
    deadline: Option<Instant>,
    parts: BytesMut,
    next: u64,
    /// What came behind the question.
    held: Vec<Held>,
    held_bytes: usize,
}

/// A question that was not answered in time.
#[derive(Debug, Clone, Copy)]
struct Earlier {
    nonce: u64,
    /// Whether it was asked of the host.
    asked_the_host: bool,
}

/// What came while the document was not there yet.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) position: Position,
    pub(super) origin: EndpointId,
    pub(super) live: Live,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Step {
    Wait,
    Say(Live),
    Done(Joined),
}

#[derive(Debug)]
pub(super) enum Joined {
    /// The document as it was where the question stands.
    State {
        state: State,
        asked: Position,
        held: Vec<Held>,
        /// Where it is not the host's answer: the questions to that one, which were not answered.
        others: Option<Vec<u64>>,
    },
    /// There is none.
    Empty {
        asked: Position,
        held: Vec<Held>,
        read_only: bool,
    },
    Refused(String),
    /// Nobody has it who answers.
    Nobody {
        asked: Position,
        held: Vec<Held>,
        /// The questions. An answer may yet come.
        nonces: Vec<u64>,
    },
}

impl Join {
    pub(super) fn new(nonce: u64) -> Self {
        Self {
            nonce,
            asks_nobody: false,
            earlier: Vec::new(),
            asks_the_host: true,
            of: None,
            tries: 1,
            asked: None,
            deadline: None,
            parts: BytesMut::new(),
            next: 0,
            held: Vec::new(),
            held_bytes: 0,
        }
    }

    /// One that asks nobody: what comes after `asked` is held.
    pub(super) fn holding(nonce: u64, asked: Position, held: Vec<Held>) -> Self {
        Self { asks_nobody: true, asked: Some(asked), held, ..Self::new(nonce) }
    }

    /// The host's keeper says that it is to be asked again: where it came after the question, and does not know of it, that is asked again in time. Whether it is being asked, and
    /// its answer surely is as it is now: one to a question that has its place may be under way, and was overtaken by this.
    pub(super) fn hear_of_keeper(&mut self) -> bool {
        let is_asked = self.next == 0 && !self.asks_nobody && self.asks_the_host;
        if is_asked {
            self.tries = 1;
        }
        is_asked && self.is_unasked()
    }

    pub(super) fn into_held(self) -> Option<(Position, Vec<Held>)> {
        self.asked.map(|asked| (asked, self.held))
    }

    /// Whether this is its question, or was one of its questions.
    pub(super) fn has_asked(&self, nonce: u64) -> bool {
        self.nonce == nonce || self.has_given_up(nonce)
    }

    /// Whether this was one of its questions, and is not any more.
    pub(super) fn has_given_up(&self, nonce: u64) -> bool {
        self.earlier.iter().any(|earlier| earlier.nonce == nonce)
    }

    /// Whether the question has no place in the order yet.
    pub(super) fn is_unasked(&self) -> bool {
        self.asked.is_none()
    }

    /// The question. It may be said again: until it came back, it is as if it had not been said.
    pub(super) fn question(&self) -> Live {
        Live::Ask { nonce: self.nonce, of: self.of, anyone: self.tries > TRIES_AT_THE_HOST }
    }

    fn again(&mut self, nonce: u64, of: Option<EndpointId>) -> Step {
        let mut earlier = std::mem::take(&mut self.earlier);
        earlier.push(Earlier { nonce: self.nonce, asked_the_host: self.asks_the_host });
        let too_many = earlier.len().saturating_sub(MOST_NONCES);
        earlier.drain(..too_many);
        let (tries, asks_the_host) = (self.tries, of.is_none());
        *self = Self { nonce, earlier, asks_the_host, of, tries, ..Self::new(nonce) };
        Step::Say(self.question())
    }

    /// The questions to the host that it did not answer, the latest ones.
    fn unanswered(&self) -> Vec<u64> {
        let now = Earlier { nonce: self.nonce, asked_the_host: self.asks_the_host };
        let asked = self.earlier.iter().chain([&now]).filter(|earlier| earlier.asked_the_host);
        asked.map(|earlier| earlier.nonce).collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// What stands in the order: the question itself, or what came behind it. `false` if that is too much.
    pub(super) fn on_live(
        &mut self,
        now: Instant,
        own: bool,
        position: Position,
        origin: EndpointId,
        mut live: Live,
    ) -> bool {
        match (&mut live, self.asked) {
            (Live::Ask { nonce, .. }, None) if own && *nonce == self.nonce => {
                self.asked = Some(position);
                self.deadline = Some(now + ANSWER_TIME);
            }
            (Live::Update(Update { fragments: bytes, .. }) | Live::Seed(bytes), Some(asked))
                if position > asked =>
            {
                *bytes = wire::own(bytes);
                self.held_bytes += bytes.len() + size_of::<Held>();
                self.held.push(Held { position, origin, live });
            }
            _ => {}
        }
        self.held_bytes <= MOST_HELD_BYTES
    }

    /// Whether this may be said by them: anybody may offer the document, and answer when asked; else it is the host's word.
    pub(super) fn may_be_told(&self, from: EndpointId, host: Option<EndpointId>, answer: &Answer) -> bool {
        answer.nonce != self.nonce
            || matches!(answer.word, Word::Offer)
            || self.of.or(host).is_none_or(|asked| asked == from)
    }

    /// `nonce` is a fresh one, for a question that has to be asked again.
    pub(super) fn on_answer(&mut self, now: Instant, from: EndpointId, answer: Answer, nonce: u64) -> Step {
        if let Some(earlier) = self.earlier.iter().find(|earlier| earlier.nonce == answer.nonce) {
            // Somebody is there, and slow.
            self.tries = 1;
            let is_told = matches!(answer.word, Word::Part { .. } | Word::Empty { .. } | Word::Refused(_));
            if is_told && earlier.asked_the_host && !self.asks_the_host {
                // The host, which knows better than whoever is asked now. What that one has is not all, maybe, and no other answer would show it.
                return self.again(nonce, None);
            }
            // An answer to the question of now comes, too.
            if self.asked.is_some() {
                self.deadline = Some(now + ANSWER_TIME * 2);
            }
        }
        let Some(asked) = self.asked.filter(|_| answer.nonce == self.nonce) else { return Step::Wait };
        match answer.word {
            Word::Part { index, of, bytes } if index == self.next && index < of => {
                if self.parts.len() + bytes.len() > MOST_BYTES {
                    return Step::Done(Joined::Refused(format!("it is larger than {MOST_BYTES} bytes")));
                }
                self.deadline = Some(now + ANSWER_TIME);
                self.parts.extend_from_slice(&bytes);
                self.next += 1;
                if self.next == of {
                    let bytes: Bytes = std::mem::take(&mut self.parts).freeze();
                    return match State::decode(&bytes) {
                        Ok(state) => {
                            let others = self.of.map(|_| self.unanswered());
                            let held = std::mem::take(&mut self.held);
                            Step::Done(Joined::State { state, asked, held, others })
                        }
                        Err(malformed) => Step::Done(Joined::Refused(malformed.to_string())),
                    };
                }
                if self.next.is_multiple_of(PARTS_AT_ONCE) {
                    return Step::Say(Live::More { nonce: self.nonce, of: from, next: self.next });
                }
                Step::Wait
            }
            Word::Part { .. } => Step::Wait,
            Word::Empty { read_only } => {
                Step::Done(Joined::Empty { asked, held: std::mem::take(&mut self.held), read_only })
            }
            Word::Offer if self.of.is_none() => self.again(nonce, Some(from)),
            Word::Offer => Step::Wait,
            Word::Refused(reason) => Step::Done(Joined::Refused(reason)),
            Word::Busy => {
                // Asked again when the time is up. Somebody is there.
                self.of = None;
                self.tries = self.tries.min(TRIES_AT_THE_HOST);
                Step::Wait
            }
        }
    }

    pub(super) fn on_timeout(&mut self, now: Instant, nonce: u64) -> Step {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Step::Wait;
        }
        self.deadline = None;
        self.tries += 1;
        match self.asked {
            Some(asked) if self.tries > TRIES => {
                let nonces = self.unanswered();
                Step::Done(Joined::Nobody { asked, held: std::mem::take(&mut self.held), nonces })
            }
            _ => self.again(nonce, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: EndpointId = EndpointId::from_bytes([1; 16]);
    const OTHER: EndpointId = EndpointId::from_bytes([2; 16]);

    fn ask(step: Step) -> (u64, Option<EndpointId>) {
        match step {
            Step::Say(Live::Ask { nonce, of, .. }) => (nonce, of),
            step => panic!("no question: {step:?}"),
        }
    }

    /// The question comes back.
    fn place(join: &mut Join, seq: u64) {
        let question = join.question();
        assert!(join.on_live(Instant::START, true, Position { epoch: 1, seq }, OTHER, question));
    }

    /// The host does not answer, and somebody else is asked: its question, and the host's before.
    fn ask_another() -> Join {
        let mut join = Join::new(1);
        for (seq, nonce) in (1..).zip([2, 3]) {
            place(&mut join, seq);
            let late = join.poll_timeout().expect("it has its place");
            assert_eq!(ask(join.on_timeout(late, nonce)), (nonce, None));
        }
        place(&mut join, 3);
        let offer = Answer { nonce: 3, word: Word::Offer };
        assert_eq!(ask(join.on_answer(Instant::START, OTHER, offer, 4)), (4, Some(OTHER)));
        place(&mut join, 4);
        join
    }

    #[test]
    fn a_host_that_is_slow_is_asked_again_and_not_another_that_may_know_less() {
        let empty = |nonce| Answer { nonce, word: Word::Empty { read_only: false } };
        for is_busy in [false, true] {
            let mut join = ask_another();
            if is_busy {
                let busy = Answer { nonce: 4, word: Word::Busy };
                assert!(matches!(join.on_answer(Instant::START, OTHER, busy, 5), Step::Wait));
            }
            assert_eq!(ask(join.on_answer(Instant::START, HOST, empty(3), 5)), (5, None));
            place(&mut join, 5);
            let done = join.on_answer(Instant::START, HOST, empty(5), 6);
            assert!(matches!(done, Step::Done(Joined::Empty { .. })), "{done:?}");
        }
    }

    #[test]
    fn a_keeper_that_came_after_the_question_is_asked_again() {
        let mut join = Join::new(1);
        for nonce in 2..=4 {
            place(&mut join, nonce);
            let late = join.poll_timeout().expect("it has its place");
            ask(join.on_timeout(late, nonce));
        }
        assert!(join.hear_of_keeper());
        place(&mut join, 5);
        assert!(!join.hear_of_keeper(), "the answer may be under way");
        let late = join.poll_timeout().expect("it has its place");
        assert_eq!(ask(join.on_timeout(late, 5)), (5, None), "it is not the last time");
        // Another's answer is none of the keeper's.
        assert!(!ask_another().hear_of_keeper());
    }

    #[test]
    fn another_that_is_slow_is_waited_for() {
        let mut join = ask_another();
        let late = join.poll_timeout().expect("it has its place");
        assert_eq!(ask(join.on_timeout(late, 5)), (5, None));
        place(&mut join, 5);
        let offer = Answer { nonce: 5, word: Word::Offer };
        assert_eq!(ask(join.on_answer(late, OTHER, offer, 6)), (6, Some(OTHER)));
        place(&mut join, 6);
        // Of the first time.
        let answer = Answer { nonce: 4, word: Word::Empty { read_only: false } };
        assert!(matches!(join.on_answer(late, OTHER, answer, 7), Step::Wait));
        let nobody = Word::Empty { read_only: false };
        let done = join.on_answer(late, OTHER, Answer { nonce: 6, word: nobody }, 7);
        assert!(matches!(done, Step::Done(Joined::Empty { .. })), "{done:?}");
    }
}

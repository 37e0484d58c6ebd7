//! What is asked about members, of whoever tells what they may say, and not answered yet. It is bounded for each, over all its sessions: one that comes again and again occupies who is asked by what it left behind, too.

use std::collections::BTreeMap;

use crate::id::EndpointId;

/// How many answers about a member may be outstanding (a guess).
const MOST_ASKED: usize = 64;
/// And how many, beyond, for nothing but the questions that others ask of it (a guess).
const MOST_FOR_OTHERS: usize = 16;
/// How many about those who are gone are remembered (a guess: some 4 MiB). Beyond, those of the longest gone are forgotten: such a one may have as many asked again, but nobody has to wait for
/// what others left behind.
const MOST_LEFT: usize = 16_384;

/// Of one member.
#[derive(Debug, Default)]
pub(super) struct Asked {
    questions: BTreeMap<String, Question>,
    own: usize,
    for_others: usize,
}

/// What is asked about a document.
#[derive(Debug)]
struct Question {
    /// How often: again, where what was told before counts no more.
    times: usize,
    /// By which state it was last asked. An answer by an earlier one does not count.
    generation: u64,
    /// Whether nobody needs it so far but who asked this member.
    is_for_others: bool,
}

impl Asked {
    fn len(&self) -> usize {
        self.own + self.for_others
    }

    /// Whether an answer is outstanding that the member needs itself.
    pub(super) fn is_waited_for(&self) -> bool {
        self.own > 0
    }

    pub(super) fn has_room(&self, for_others: bool) -> bool {
        if for_others { self.for_others < MOST_FOR_OTHERS } else { self.own < MOST_ASKED }
    }

    /// Whether an answer is on its way that counts.
    pub(super) fn is_under_way(&self, name: &str, generation: u64) -> bool {
        self.questions.get(name).is_some_and(|question| question.generation == generation)
    }

    /// Whether it is for others, if it is asked.
    pub(super) fn is_for_others(&self, name: &str) -> Option<bool> {
        self.questions.get(name).map(|question| question.is_for_others)
    }

    /// The member needs it itself by now, if it is asked. Where there is no room for it among its own, it is not counted among them: else two who work together could have asked what they like.
    pub(super) fn make_own(&mut self, name: &str) {
        let Some(question) = self.questions.get_mut(name) else { return };
        if question.is_for_others && self.own + question.times <= MOST_ASKED {
            question.is_for_others = false;
            self.for_others -= question.times;
            self.own += question.times;
        }
    }

    /// It is asked; once more by whom it was needed before, if it was.
    pub(super) fn ask(&mut self, name: &str, generation: u64, for_others: bool) {
        let question = Question { times: 0, generation, is_for_others: for_others };
        let question = self.questions.entry(name.to_owned()).or_insert(question);
        (question.times, question.generation) = (question.times + 1, generation);
        let for_others = question.is_for_others;
        *self.count(for_others) += 1;
    }

    /// There is an answer: whether it was for others, if it was asked for. One that was told unasked is as good: it has occupied whoever told it.
    pub(super) fn answered(&mut self, name: &str) -> Option<bool> {
        let question = self.questions.get_mut(name)?;
        let for_others = question.is_for_others;
        question.times -= 1;
        if question.times == 0 {
            self.questions.remove(name);
        }
        *self.count(for_others) -= 1;
        Some(for_others)
    }

    fn count(&mut self, for_others: bool) -> &mut usize {
        if for_others { &mut self.for_others } else { &mut self.own }
    }
}

/// Of those who are gone.
#[derive(Debug, Default)]
pub(super) struct LeftBehind {
    by_id: BTreeMap<EndpointId, (u64, Asked)>,
    /// In the order in which they went.
    order: BTreeMap<u64, EndpointId>,
    /// How many have gone.
    gone: u64,
    /// How many answers are outstanding.
    len: usize,
}

impl LeftBehind {
    pub(super) fn put(&mut self, id: EndpointId, asked: Asked) {
        if asked.len() == 0 {
            return;
        }
        debug_assert!(!self.by_id.contains_key(&id), "who comes again takes them");
        self.gone += 1;
        self.len += asked.len();
        self.by_id.insert(id, (self.gone, asked));
        self.order.insert(self.gone, id);
        while self.len > MOST_LEFT
            && let Some((_, id)) = self.order.first_key_value()
        {
            self.take(&id.clone());
        }
    }

    /// What is outstanding about one who comes again.
    pub(super) fn take(&mut self, id: &EndpointId) -> Asked {
        let Some((gone, asked)) = self.by_id.remove(id) else { return Asked::default() };
        self.order.remove(&gone);
        self.len -= asked.len();
        asked
    }

    pub(super) fn answered(&mut self, id: &EndpointId, name: &str) {
        let Some((gone, asked)) = self.by_id.get_mut(id) else { return };
        self.len -= usize::from(asked.answered(name).is_some());
        if asked.len() == 0 {
            self.order.remove(&*gone);
            self.by_id.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(questions: usize) -> Asked {
        let mut asked = Asked::default();
        (0..questions).for_each(|n| asked.ask(&n.to_string(), 1, false));
        asked
    }

    #[test]
    fn what_is_left_behind_is_bounded_over_all_and_the_longest_gone_are_forgotten() {
        let id = |n: usize| EndpointId::from_bytes((n as u128 + 1).to_be_bytes());
        let mut left = LeftBehind::default();
        let fit = MOST_LEFT / MOST_ASKED;
        for n in 0..fit {
            left.put(id(n), asked(MOST_ASKED));
        }
        assert!(!left.take(&id(0)).has_room(false));
        left.put(id(0), asked(MOST_ASKED));
        left.put(id(fit), asked(1));
        assert_eq!((left.len, left.order.len()), (MOST_LEFT - MOST_ASKED + 1, fit));
        assert!(left.take(&id(1)).has_room(false), "forgotten: nobody is longer gone");
        assert!(!left.take(&id(0)).has_room(false));
        left.answered(&id(fit), "another");
        left.answered(&id(fit), "0");
        assert!(!left.by_id.contains_key(&id(fit)));
        for n in 2..fit {
            left.take(&id(n));
        }
        assert_eq!((left.len, left.by_id.len(), left.order.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_asked_twice_is_answered_twice_and_counts_for_whoever_needs_it() {
        let mut asked = Asked::default();
        asked.ask("it", 1, true);
        assert!(asked.is_under_way("it", 1) && !asked.is_under_way("it", 2) && !asked.is_waited_for());
        asked.ask("it", 2, true);
        assert!(asked.is_under_way("it", 2));
        asked.make_own("it");
        assert_eq!((asked.own, asked.for_others), (2, 0));
        assert_eq!(asked.answered("it"), Some(false));
        assert!(asked.is_waited_for());
        assert_eq!(asked.answered("it"), Some(false));
        assert!(!asked.is_waited_for());
        assert_eq!(asked.answered("it"), None);
    }
}

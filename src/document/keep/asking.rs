//! Asks the application what endpoints may do with documents: on threads where it keeps nobody waiting but those who want to know, a few questions at once, and of each endpoint fewer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant as TokioInstant;

use crate::id::EndpointId;
use crate::proto::host::Stamp;

use super::super::Access;
use super::super::keeper::{Decision, Question};
use super::AccessFn;
use super::driver::Done;
use super::rights::Veto;

/// How many of the host's questions the application thinks about at once (a guess: threads that wait for a database, say).
const AT_ONCE: usize = 16;
/// How many of them may be about one endpoint (a guess): the rest is for others.
const OF_ONE: usize = 4;
/// How many of the keeper's, beside them (a guess: a list of many documents is one, and takes as long as all of them).
const KEEPERS_AT_ONCE: usize = 8;
/// How many of them may be about one endpoint (as above).
const KEEPERS_OF_ONE: usize = 2;
/// How long the host waits for an answer. What the application has not said by then is a denial (a guess: as for authenticators). Behind others about the same endpoint each has as long.
const TOO_LONG: Duration = Duration::from_secs(5);

/// What the application says; who it cannot tell about may do nothing.
fn ask(access: &AccessFn, who: EndpointId, name: &str) -> Access {
    catch_unwind(AssertUnwindSafe(|| access(who, name))).unwrap_or_else(|_| {
        tracing::error!(%who, name, "the keeper's access callback panicked: taken for a denial");
        Access::Denied("the keeper cannot tell who may have it".to_owned())
    })
}

/// What came of asking.
#[derive(Debug)]
enum Thought {
    /// What the host wanted to know, by its number.
    Host(u64, Access),
    /// What the keeper did.
    Keeper(Heard, Decision),
}

/// What the answer to a question of the keeper's is good for, for the host: about which document, and by which state of its rights; and when the application was asked.
#[derive(Debug)]
struct Heard {
    about: Option<String>,
    stamp: Option<Stamp>,
    at: TokioInstant,
}

/// What the host waits for.
#[derive(Debug)]
struct Open {
    who: EndpointId,
    name: String,
    stamp: Stamp,
    until: TokioInstant,
}

/// The task that asks.
pub(super) struct Asking {
    access: AccessFn,
    /// The way to the host.
    veto: Option<Arc<Veto>>,
    /// The way to the keeper.
    results: mpsc::UnboundedSender<Done>,
    /// What the host wants to know, by number, and has no answer to yet; and when it has waited long enough.
    open: BTreeMap<u64, Open>,
    due: BTreeSet<(TokioInstant, u64)>,
    last: u64,
    hosts: Line<u64>,
    keepers: Line<(Question, Option<Stamp>)>,
    thinking: JoinSet<(EndpointId, Thought)>,
}

impl Asking {
    pub(super) fn new(
        access: AccessFn,
        veto: Option<Arc<Veto>>,
        results: mpsc::UnboundedSender<Done>,
    ) -> Self {
        Self {
            access,
            veto,
            results,
            open: BTreeMap::new(),
            due: BTreeSet::new(),
            last: 0,
            hosts: Line::new(AT_ONCE, OF_ONE),
            keepers: Line::new(KEEPERS_AT_ONCE, KEEPERS_OF_ONE),
            thinking: JoinSet::new(),
        }
    }

    /// Answers the host and the keeper, until neither can ask any more. The host's questions are bounded by it, of each member, and the keeper's by that.
    pub(super) async fn run(
        mut self,
        mut hosts: mpsc::UnboundedReceiver<(EndpointId, String)>,
        mut keepers: mpsc::UnboundedReceiver<Question>,
    ) {
        loop {
            let until = self.due.first().map(|(until, _)| *until);
            tokio::select! {
                Some(thought) = self.thinking.join_next() => self.on_thought(thought),
                Some((who, name)) = hosts.recv() => self.on_host(who, name),
                Some(question) = keepers.recv() => self.on_keeper(question),
                () = tokio::time::sleep_until(until.unwrap_or_else(TokioInstant::now)), if until.is_some() => self.deny(),
                else => break,
            }
            self.begin();
        }
    }

    fn on_host(&mut self, who: EndpointId, name: String) {
        let Some(stamp) = self.stamp() else { return };
        self.last += 1;
        let rounds = 1 + self.hosts.len(&who) / OF_ONE;
        let until = TokioInstant::now() + TOO_LONG * u32::try_from(rounds).unwrap_or(u32::MAX);
        self.open.insert(self.last, Open { who, name, stamp, until });
        self.due.insert((until, self.last));
        self.hosts.push(who, self.last);
    }

    fn on_keeper(&mut self, question: Question) {
        let (who, stamp) = (question.who, self.stamp());
        // The one that waits counts no more.
        self.keepers.remove(&who, |(waiting, _)| waiting.document() == question.document());
        self.keepers.push(who, (question, stamp));
    }

    /// To be taken before the application is asked.
    fn stamp(&self) -> Option<Stamp> {
        self.veto.as_ref().map(|veto| veto.stamp())
    }

    fn begin(&mut self) {
        while let Some((who, number)) = self.hosts.next() {
            let Some(Open { name, until, .. }) = self.open.get_mut(&number) else {
                // It has its answer.
                self.hosts.done(who);
                continue;
            };
            self.due.remove(&(*until, number));
            *until = TokioInstant::now() + TOO_LONG;
            self.due.insert((*until, number));
            let (access, name) = (Arc::clone(&self.access), name.clone());
            self.thinking.spawn_blocking(move || (who, Thought::Host(number, ask(&access, who, &name))));
        }
        while let Some((who, (question, stamp))) = self.keepers.next() {
            let about = question.document().map(ToOwned::to_owned);
            let heard = Heard { about, stamp, at: TokioInstant::now() };
            let access = Arc::clone(&self.access);
            self.thinking.spawn_blocking(move || {
                let decision = question.put_to(|who, name| ask(&access, who, name));
                (who, Thought::Keeper(heard, decision))
            });
        }
    }

    fn on_thought(&mut self, thought: Result<(EndpointId, Thought), JoinError>) {
        // They do not panic, and only the end of their runtime, and of this, cancels them.
        let Ok((who, thought)) = thought else { return };
        match thought {
            Thought::Host(number, access) => {
                self.hosts.done(who);
                if let Some(Open { name, stamp, .. }) = self.close(number) {
                    self.tell_host(stamp, who, name, &access);
                }
            }
            Thought::Keeper(Heard { about, stamp, at }, decision) => {
                self.keepers.done(who);
                // As it was asked anyway, the host is told, too.
                if let (Some(name), Some(stamp), Some(access)) = (about, stamp, decision.access())
                    && at.elapsed() < TOO_LONG
                {
                    let same = |open: &Open| (open.who, &open.name, open.stamp) == (who, &name, stamp);
                    let asked = self.open.iter().filter(|(_, open)| same(open)).map(|(number, _)| *number);
                    for number in asked.collect::<Vec<_>>() {
                        self.close(number);
                    }
                    self.tell_host(stamp, who, name, access);
                }
                // The keeper is gone: nobody needs it.
                let _ = self.results.send(Done::Decided(decision));
            }
        }
    }

    /// The host has waited long enough for some.
    fn deny(&mut self) {
        let now = TokioInstant::now();
        while let Some((until, number)) = self.due.first().copied()
            && until <= now
        {
            let Some(Open { who, name, stamp, .. }) = self.close(number) else { return };
            self.hosts.remove(&who, |waiting| *waiting == number);
            tracing::error!(%who, name, "the keeper's access callback took too long: taken for a denial");
            self.tell_host(stamp, who, name, &Access::Denied(String::new()));
        }
    }

    /// The host waits for this no more, if it does.
    fn close(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.due.remove(&(open.until, number));
        Some(open)
    }

    fn tell_host(&self, stamp: Stamp, who: EndpointId, name: String, access: &Access) {
        if let Some(veto) = &self.veto {
            veto.tell(stamp, who, name, access);
        }
    }
}

/// What waits, each endpoint's in its order, and the endpoints in turn; and how many of each are under way.
#[derive(Debug)]
struct Line<T> {
    most: usize,
    most_of_one: usize,
    waiting: BTreeMap<EndpointId, VecDeque<T>>,
    begun: BTreeMap<EndpointId, usize>,
    /// Whose turn it was.
    last: EndpointId,
}

impl<T> Line<T> {
    fn new(most: usize, most_of_one: usize) -> Self {
        let (waiting, begun) = (BTreeMap::new(), BTreeMap::new());
        Self { most, most_of_one, waiting, begun, last: EndpointId::NIL }
    }

    /// How many of an endpoint's wait, and are under way.
    fn len(&self, who: &EndpointId) -> usize {
        self.waiting.get(who).map_or(0, VecDeque::len) + self.begun.get(who).copied().unwrap_or(0)
    }

    /// Takes out what waits of an endpoint, if it is such.
    fn remove(&mut self, who: &EndpointId, is_such: impl Fn(&T) -> bool) {
        let Some(waiting) = self.waiting.get_mut(who) else { return };
        waiting.retain(|item| !is_such(item));
        if waiting.is_empty() {
            self.waiting.remove(who);
        }
    }

    fn push(&mut self, who: EndpointId, item: T) {
        self.waiting.entry(who).or_default().push_back(item);
    }

    /// What may begin now.
    fn next(&mut self) -> Option<(EndpointId, T)> {
        if self.begun.values().sum::<usize>() >= self.most {
            return None;
        }
        let has_room = |who: &EndpointId| self.begun.get(who).is_none_or(|begun| *begun < self.most_of_one);
        let later = self.waiting.range((Bound::Excluded(self.last), Bound::Unbounded));
        let who = later.chain(&self.waiting).map(|(who, _)| *who).find(has_room)?;
        let waiting = self.waiting.get_mut(&who)?;
        let item = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&who);
        }
        *self.begun.entry(who).or_default() += 1;
        self.last = who;
        Some((who, item))
    }

    /// What was begun is done.
    fn done(&mut self, who: EndpointId) {
        if let Some(begun) = self.begun.get_mut(&who) {
            *begun -= 1;
            if *begun == 0 {
                self.begun.remove(&who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Told;
    use crate::proto::host::Rights;

    fn id(n: u8) -> EndpointId {
        EndpointId::from_bytes([n; 16])
    }

    #[test]
    fn who_wants_much_has_a_few_at_once_and_others_have_their_turn() {
        let mut line = Line::new(AT_ONCE, OF_ONE);
        (0..100).for_each(|number| line.push(id(1), number));
        let begin = |line: &mut Line<u32>| -> Vec<(u8, u32)> {
            std::iter::from_fn(|| line.next().map(|(who, number)| (who.as_bytes()[0], number))).collect()
        };
        assert_eq!(begin(&mut line), [(1, 0), (1, 1), (1, 2), (1, 3)]);
        (2..=9).for_each(|who| (0..2).for_each(|number| line.push(id(who), number)));
        let others = begin(&mut line);
        assert_eq!(others.len(), AT_ONCE - OF_ONE);
        assert_eq!(others[..8], std::array::from_fn::<_, 8, _>(|at| (at as u8 + 2, 0)));
        assert_eq!(others[8..], [(2, 1), (3, 1), (4, 1), (5, 1)]);
        line.done(id(1));
        assert_eq!(begin(&mut line), [(6, 1)], "its turn is behind theirs");
        line.done(id(2));
        line.done(id(3));
        line.done(id(4));
        assert_eq!(begin(&mut line), [(7, 1), (8, 1), (9, 1)]);
        line.done(id(5));
        assert_eq!(begin(&mut line), [(1, 4)]);
    }

    /// Somebody who answers when it is told to, and says of whom it thinks.
    fn slow() -> (AccessFn, std::sync::mpsc::Sender<Access>, mpsc::UnboundedReceiver<String>) {
        let (answers, answer) = std::sync::mpsc::channel();
        let (begins, begun) = mpsc::unbounded_channel();
        let answer = std::sync::Mutex::new(answer);
        let access = move |_, name: &str| {
            begins.send(name.to_owned()).expect("the test waits for it");
            crate::sync::lock(&answer).recv().expect("an answer")
        };
        (Arc::new(access), answers, begun)
    }

    #[tokio::test(start_paused = true)]
    async fn the_host_has_an_answer_in_time_and_no_more_threads_wait_than_may() {
        let (access, answers, mut begun) = slow();
        let (veto, mut told) = Veto::new();
        let (asks, asked) = mpsc::unbounded_channel();
        let (_questions, keepers) = mpsc::unbounded_channel();
        let (results, _done) = mpsc::unbounded_channel();
        tokio::spawn(Asking::new(access, Some(Arc::new(veto)), results).run(asked, keepers));
        let mut next = async || match told.recv().await {
            Some(Told::Rights { name, rights, .. }) => (name, rights),
            other => panic!("{other:?}"),
        };
        for name in ["a", "b", "c", "d", "e"] {
            asks.send((id(1), name.to_owned())).expect("it listens");
        }
        for _ in 0..OF_ONE {
            begun.recv().await.expect("it begins");
        }
        tokio::time::advance(TOO_LONG).await;
        for name in ["a", "b", "c", "d"] {
            assert_eq!(next().await, (name.to_owned(), Rights::Nothing));
        }
        // This one had to wait until they have had their time.
        tokio::time::advance(TOO_LONG).await;
        assert_eq!(next().await, ("e".to_owned(), Rights::Nothing));
        // The threads are still at it: this one has to wait.
        asks.send((id(1), "f".to_owned())).expect("it listens");
        answers.send(Access::Write).expect("somebody waits");
        assert_eq!(begun.recv().await.as_deref(), Some("f"), "nobody needs what was not begun in time");
        for _ in 0..OF_ONE {
            answers.send(Access::Read).expect("somebody waits");
        }
        assert_eq!(next().await, ("f".to_owned(), Rights::Read), "what comes too late counts no more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_application_has_said_to_the_keeper_the_host_need_not_wait_for_unless_it_is_old() {
        let (slow, answers, mut begun) = slow();
        let access: AccessFn = Arc::new(move |who, name: &str| match name {
            "known" => Access::Write,
            _ => slow(who, name),
        });
        let (veto, mut told) = Veto::new();
        let (asks, asked) = mpsc::unbounded_channel();
        let (questions, keepers) = mpsc::unbounded_channel();
        let (results, mut done) = mpsc::unbounded_channel();
        tokio::spawn(Asking::new(access, Some(Arc::new(veto)), results).run(asked, keepers));
        for name in ["a", "b", "c", "d", "known"] {
            asks.send((id(1), name.to_owned())).expect("it listens");
        }
        for _ in 0..OF_ONE {
            begun.recv().await.expect("it begins");
        }
        questions.send(Question::about(1, id(1), "known")).expect("it listens");
        assert!(matches!(done.recv().await, Some(Done::Decided(_))));
        let Some(Told::Rights { name, rights, .. }) = told.recv().await else { panic!("an answer") };
        assert_eq!((name.as_str(), rights), ("known", Rights::Write));
        // One that takes long is no news by then.
        questions.send(Question::about(2, id(1), "old")).expect("it listens");
        assert_eq!(begun.recv().await.as_deref(), Some("old"));
        tokio::time::advance(TOO_LONG).await;
        for _ in 0..OF_ONE {
            let Some(Told::Rights { name, rights, .. }) = told.recv().await else { panic!("an answer") };
            assert_eq!((name.len(), rights), (1, Rights::Nothing));
        }
        for _ in 0..=OF_ONE {
            answers.send(Access::Write).expect("somebody waits");
        }
        assert!(matches!(done.recv().await, Some(Done::Decided(_))), "the keeper has waited for it");
        drop((asks, questions));
        assert!(told.recv().await.is_none(), "nothing is said about what was answered, or took too long");
    }
}

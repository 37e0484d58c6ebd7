//! Asks the application what endpoints may do with documents: on threads where it keeps nobody waiting but those who want to know, a few questions at once, and of each endpoint fewer.

use std::collections::{BTreeMap, VecDeque};
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

/// How many questions the application thinks about at once (a guess: threads that wait for a database, say).
const AT_ONCE: usize = 16;
/// How many of them may be about one endpoint (a guess): the rest is for others.
const OF_ONE: usize = 4;
/// How long the host waits for an answer. What the application has not said by then is a denial (a guess: as for authenticators).
const TOO_LONG: Duration = Duration::from_secs(5);

/// What the application says; who it cannot tell about may do nothing.
fn ask(access: &AccessFn, who: EndpointId, name: &str) -> Access {
    catch_unwind(AssertUnwindSafe(|| access(who, name))).unwrap_or_else(|_| {
        tracing::error!(%who, name, "the keeper's access callback panicked: taken for a denial");
        Access::Denied("the keeper cannot tell who may have it".to_owned())
    })
}

/// Something to be asked.
#[derive(Debug)]
enum Item {
    /// What the host wants to know, by its number.
    Host(u64),
    /// What the keeper does; and what the answer goes by.
    Keeper(Question, Option<Stamp>),
}

/// What came of it.
#[derive(Debug)]
enum Thought {
    Host(u64, Access),
    Keeper { about: Option<String>, stamp: Option<Stamp>, decision: Decision },
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
    line: Line<Item>,
    /// What the host has no answer to yet: the oldest has the lowest number.
    open: BTreeMap<u64, Open>,
    last: u64,
    thinking: JoinSet<(EndpointId, Thought)>,
}

impl Asking {
    pub(super) fn new(
        access: AccessFn,
        veto: Option<Arc<Veto>>,
        results: mpsc::UnboundedSender<Done>,
    ) -> Self {
        let (line, open, thinking) = (Line::default(), BTreeMap::new(), JoinSet::new());
        Self { access, veto, results, line, open, last: 0, thinking }
    }

    /// Answers the host and the keeper, until neither can ask any more. The host's questions are bounded by it, of each member, and the keeper's by that.
    pub(super) async fn run(
        mut self,
        mut hosts: mpsc::UnboundedReceiver<(EndpointId, String)>,
        mut keepers: mpsc::UnboundedReceiver<Question>,
    ) {
        loop {
            let until = self.open.first_key_value().map(|(_, open)| open.until);
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
        self.open.insert(self.last, Open { who, name, stamp, until: TokioInstant::now() + TOO_LONG });
        self.line.push(who, Item::Host(self.last));
    }

    fn on_keeper(&mut self, question: Question) {
        self.line.push(question.who, Item::Keeper(question, self.stamp()));
    }

    /// To be taken before the application is asked.
    fn stamp(&self) -> Option<Stamp> {
        self.veto.as_ref().map(|veto| veto.stamp())
    }

    fn begin(&mut self) {
        while let Some((who, item)) = self.line.next() {
            let access = Arc::clone(&self.access);
            match item {
                Item::Host(number) => {
                    let Some(Open { name, .. }) = self.open.get(&number) else {
                        // That took too long before it could begin.
                        self.line.done(who);
                        continue;
                    };
                    let name = name.clone();
                    self.thinking
                        .spawn_blocking(move || (who, Thought::Host(number, ask(&access, who, &name))));
                }
                Item::Keeper(question, stamp) => {
                    let about = question.document().map(ToOwned::to_owned);
                    self.thinking.spawn_blocking(move || {
                        let decision = question.put_to(|who, name| ask(&access, who, name));
                        (who, Thought::Keeper { about, stamp, decision })
                    });
                }
            }
        }
    }

    fn on_thought(&mut self, thought: Result<(EndpointId, Thought), JoinError>) {
        // They do not panic, and only the end of their runtime, and of this, cancels them.
        let Ok((who, thought)) = thought else { return };
        self.line.done(who);
        match thought {
            Thought::Host(number, access) => {
                if let Some(Open { name, stamp, .. }) = self.open.remove(&number) {
                    self.tell_host(stamp, who, name, &access);
                }
            }
            Thought::Keeper { about, stamp, decision } => {
                // As it was asked anyway, the host is told, too.
                if let (Some(name), Some(stamp), Some(access)) = (about, stamp, decision.access()) {
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
        while let Some(oldest) = self.open.first_entry()
            && oldest.get().until <= now
        {
            let Open { who, name, stamp, .. } = oldest.remove();
            tracing::error!(%who, name, "the keeper's access callback took too long: taken for a denial");
            self.tell_host(stamp, who, name, &Access::Denied(String::new()));
        }
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
    waiting: BTreeMap<EndpointId, VecDeque<T>>,
    begun: BTreeMap<EndpointId, usize>,
    /// Whose turn it was.
    last: EndpointId,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), begun: BTreeMap::new(), last: EndpointId::NIL }
    }
}

impl<T> Line<T> {
    fn push(&mut self, who: EndpointId, item: T) {
        self.waiting.entry(who).or_default().push_back(item);
    }

    /// What may begin now.
    fn next(&mut self) -> Option<(EndpointId, T)> {
        if self.begun.values().sum::<usize>() >= AT_ONCE {
            return None;
        }
        let has_room = |who: &EndpointId| self.begun.get(who).is_none_or(|begun| *begun < OF_ONE);
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
        let mut line = Line::default();
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
        for name in ["a", "b", "c", "d", "e"] {
            assert_eq!(next().await, (name.to_owned(), Rights::Nothing));
        }
        // The threads are still at it: this one has to wait.
        asks.send((id(1), "f".to_owned())).expect("it listens");
        answers.send(Access::Write).expect("somebody waits");
        assert_eq!(begun.recv().await.as_deref(), Some("f"), "nobody needs what was not begun in time");
        for _ in 0..OF_ONE {
            answers.send(Access::Read).expect("somebody waits");
        }
        assert_eq!(next().await, ("f".to_owned(), Rights::Read), "what comes too late counts no more");
    }
}

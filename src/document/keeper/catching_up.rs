//! What a keeper that is not the host's asks for: the list of documents, and each of them whole, a few at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::id::EndpointId;
use crate::message::Position;
use crate::proto::Instant;

use super::super::gathering::{ANSWER_TIME, Gathering, Step as ListStep};
use super::super::join::{Held, Join, Joined, Step};
use super::super::resets::Resets;
use super::super::wire::{self, Answer, Listed, Live, State};
use super::waiting::Waiting;

/// How many documents are asked for at once (a guess: each may hold what comes behind its question).
const MOST_AT_ONCE: usize = 4;
/// How many bytes of documents may wait for the store before no more are asked for (a guess: a part of what may wait for it at all).
const MOST_UNSTORED: usize = 32 << 20;
/// How often the list is asked for before it is clear that nobody has it.
const TRIES: u32 = 2;

/// What came of it.
#[derive(Debug)]
pub(super) enum News {
    Listed(Vec<Listed>),
    Joined {
        name: String,
        joined: Joined,
    },
    /// What was given has its place.
    Given {
        name: String,
        given: Given,
        held: Vec<Held>,
    },
}

/// What the cluster was given, since it lacks it.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) gift: Gift,
    pub(super) theirs: Theirs,
}

/// What the cluster had where the question stands.
#[derive(Debug)]
pub(super) struct Theirs {
    pub(super) state: State,
    pub(super) asked: Position,
    /// Whether the host's keeper says so, and not somebody else who has it.
    pub(super) is_hosts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gift {
    /// It is not known yet what, or it is nothing: by the number of the comparison.
    Compared(u64),
    Seed,
    /// As this replica's first update.
    Update(u64),
}

#[derive(Debug)]
struct UnderWay {
    join: Join,
    /// Whether it has to be asked for once more.
    again: bool,
    /// Whether the host's keeper is there, and was slow: what another gives meanwhile need not be what that one has.
    is_late: bool,
    given: Option<Given>,
}

#[derive(Debug)]
struct Listing {
    gathering: Gathering,
    tries: u32,
    /// Once the question has its place.
    deadline: Option<Instant>,
}

/// The questions of a keeper. What it has to say and what it has learnt is to be taken out after each call.
#[derive(Debug)]
pub(super) struct CatchingUp {
    me: EndpointId,
    nonce: u64,
    pub(super) host: Option<EndpointId>,
    /// What all questions wait for, where messages are missed again and again.
    pub(super) resets: Resets,
    list: Option<Listing>,
    waiting: Waiting,
    under_way: BTreeMap<String, UnderWay>,
    /// Of what the host was asked in vain, by which questions; without a name it is the list. An answer may yet come.
    unanswered: BTreeMap<String, Vec<u64>>,
    /// What the cluster does not take from here.
    refused: BTreeSet<String>,
    /// What the store was told of documents that came, and has not stored yet: up to where, and how many bytes.
    unstored: BTreeMap<String, (Position, usize)>,
    /// On which topic, and what.
    pub(super) said: VecDeque<(String, Live)>,
    pub(super) news: VecDeque<News>,
}

impl CatchingUp {
    /// `seed` is a random number, not 0.
    pub(super) fn new(me: EndpointId, seed: u64) -> Self {
        Self {
            me,
            nonce: seed,
            host: None,
            resets: Resets::new(seed),
            list: None,
            waiting: Waiting::default(),
            under_way: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            refused: BTreeSet::new(),
            unstored: BTreeMap::new(),
            said: VecDeque::new(),
            news: VecDeque::new(),
        }
    }

    pub(super) fn nonce(&mut self) -> u64 {
        self.nonce = wire::following(self.nonce);
        self.nonce | wire::KEEPERS
    }

    /// The document is to be asked for; if it is already, anew.
    pub(super) fn want(&mut self, name: &str) {
        self.under_way.remove(name);
        self.unanswered.remove(name);
        self.waiting.insert(name.to_owned());
    }

    /// The host's keeper says that it is to be asked again: unless its answer is still to begin.
    pub(super) fn want_again(&mut self, name: &str) {
        self.refused.remove(name);
        match self.under_way.get_mut(name) {
            Some(under_way) => under_way.again |= !under_way.join.hear_of_keeper(),
            None => self.want(name),
        }
    }

    pub(super) fn want_list(&mut self) {
        self.unanswered.remove("");
        self.ask_for_list(1);
    }

    /// All of these, and whatever else there is, from the beginning.
    pub(super) fn want_all<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        self.unanswered.clear();
        self.refused.clear();
        self.waiting.extend(std::mem::take(&mut self.under_way).into_keys());
        self.waiting.extend(names.cloned());
        self.want_list();
    }

    /// All of these, and whatever else there is, where the host's answer is not still to begin.
    pub(super) fn want_all_again<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        let under_way: Vec<String> = self.under_way.keys().cloned().collect();
        under_way.iter().for_each(|name| self.want_again(name));
        names.for_each(|name| self.want_again(name));
        self.want_list();
    }

    fn ask_for_list(&mut self, tries: u32) {
        if self.resets.is_waiting() {
            // It is asked for with everything.
            self.list = None;
            return;
        }
        let gathering = Gathering::new(self.nonce());
        self.said.push_back((wire::LIST_TOPIC.to_owned(), gathering.question()));
        self.list = Some(Listing { gathering, tries, deadline: None });
    }

    /// Whether the document is being asked for, or is to be.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.waiting.contains(name) || self.under_way.contains_key(name)
    }

    /// How many documents are being asked for, or are to be.
    pub(super) fn wanted(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }

    /// Whether there is nothing to ask for.
    pub(super) fn is_done(&self) -> bool {
        self.list.is_none() && self.wanted() == 0 && !self.resets.is_waiting()
    }

    /// Whether this is a question of ours.
    pub(super) fn has_asked(&self, nonce: u64) -> bool {
        self.under_way.values().any(|under_way| under_way.join.has_asked(nonce))
    }

    /// The store was told of a document that came.
    pub(super) fn on_written(&mut self, name: &str, position: Position, bytes: usize) {
        self.unstored.insert(name.to_owned(), (position, bytes));
    }

    /// Up to there a document is stored.
    pub(super) fn on_stored(&mut self, name: &str, position: Position) {
        if self.unstored.get(name).is_some_and(|(up_to, _)| *up_to <= position) {
            self.unstored.remove(name);
        }
    }

    /// There is no store any more.
    pub(super) fn on_store_lost(&mut self) {
        self.unstored.clear();
    }

    /// Asks for as many documents as may be asked for at once. What comes faster than it is stored would be more than may wait for the store.
    pub(super) fn ask_for_more(&mut self) {
        if self.resets.is_waiting() {
            return;
        }
        let unstored: usize = self.unstored.values().map(|(_, bytes)| *bytes).sum();
        while self.under_way.len() < MOST_AT_ONCE && unstored < MOST_UNSTORED {
            let Some(name) = self.waiting.pop_first() else { return };
            let join = Join::new(self.nonce());
            self.said.push_back((wire::live_topic(&name), join.question()));
            self.under_way.insert(name, UnderWay { join, again: false, is_late: false, given: None });
        }
    }

    /// What stands on a document's topic of changes.
    pub(super) fn on_live(
        &mut self,
        now: Instant,
        position: Position,
        from: EndpointId,
        name: &str,
        live: &Live,
    ) {
        let own = from == self.me;
        let Some(under_way) = self.under_way.get_mut(name) else { return };
        let came = own
            && match (under_way.given.as_ref().map(|given| given.gift), live) {
                (Some(Gift::Seed), Live::Seed(_)) => true,
                (Some(Gift::Update(replica)), Live::Update(update)) => update.replica == replica,
                _ => false,
            };
        if !under_way.join.on_live(now, own, position, from, live.clone()) {
            // More than there is room for came behind the question.
            return self.want(name);
        }
        if came {
            self.end_giving(name);
        }
    }

    /// A message of another piece than the last one did not come: what it is of stands in no answer yet, unless that is to begin.
    pub(super) fn miss_pieces(&mut self, name: &str) {
        let is_unasked = |under_way: &UnderWay| under_way.join.is_unasked();
        if !self.waiting.contains(name) && !self.under_way.get(name).is_some_and(is_unasked) {
            self.want(name);
        }
    }

    /// A question for the list has its place.
    pub(super) fn on_list_question(&mut self, now: Instant, from: EndpointId, nonce: u64) {
        if let Some(list) = self.list.as_mut().filter(|list| list.gathering.nonce == nonce && from == self.me)
        {
            list.deadline = Some(now + ANSWER_TIME);
        }
    }

    /// `false` if nobody asked them.
    pub(super) fn on_answer(&mut self, now: Instant, from: EndpointId, answer: Answer) -> bool {
        let (nonce, host) = (self.nonce(), self.host);
        let is_the_hosts = host.is_none_or(|host| host == from);
        let asked = |(_, under_way): &(&String, &mut UnderWay)| under_way.join.has_asked(answer.nonce);
        if let Some((name, under_way)) = self.under_way.iter_mut().find(asked) {
            if !under_way.join.may_be_told(from, host, &answer) {
                return false;
            }
            under_way.is_late |= is_the_hosts && under_way.join.has_given_up(answer.nonce);
            let (name, step) = (name.clone(), under_way.join.on_answer(now, from, answer, nonce));
            self.on_step(name, step);
        } else if let Some(list) = self.list.as_mut().filter(|list| list.gathering.nonce == answer.nonce) {
            if !is_the_hosts {
                return false;
            }
            match list.gathering.on_answer(from, answer) {
                ListStep::Wait => {}
                ListStep::Came => list.deadline = Some(now + ANSWER_TIME),
                ListStep::Say(live) => {
                    list.deadline = Some(now + ANSWER_TIME);
                    self.said.push_back((wire::LIST_TOPIC.to_owned(), live));
                }
                ListStep::Again => self.ask_for_list(1),
                ListStep::Done(list) => {
                    self.list = None;
                    self.news.push_back(News::Listed(list));
                }
                ListStep::Failed(reason) => {
                    tracing::warn!(reason, "the host's list of documents");
                    self.list = None;
                }
            }
        } else if is_the_hosts && wire::is_a_keepers(answer.nonce) {
            // It was slow.
            let late = self.unanswered.iter().find(|(_, nonces)| nonces.contains(&answer.nonce));
            match late.map(|(name, _)| name.clone()) {
                Some(name) if name.is_empty() => self.want_list(),
                Some(name) => self.want(&name),
                None => {}
            }
        }
        true
    }

    fn on_step(&mut self, name: String, step: Step) {
        match step {
            Step::Wait => {}
            Step::Say(live) => self.said.push_back((wire::live_topic(&name), live)),
            Step::Done(_) if self.under_way.get(&name).is_some_and(|under_way| under_way.again) => {
                self.want(&name);
            }
            Step::Done(joined) => {
                let is_late = self.under_way.remove(&name).is_some_and(|under_way| under_way.is_late);
                if let Joined::Nobody { nonces, .. } | Joined::State { others: Some(nonces), .. } = &joined {
                    if is_late {
                        self.waiting.insert(name.clone());
                    } else {
                        self.unanswered.insert(name.clone(), nonces.clone());
                    }
                }
                self.news.push_back(News::Joined { name, joined });
            }
        }
    }

    /// Something is given to the cluster. Until it has its place all is held, as if it were asked for.
    pub(super) fn give(&mut self, name: &str, held: Vec<Held>, given: Given) {
        let join = Join::holding(self.nonce(), given.theirs.asked, held);
        let again = self.waiting.remove(name);
        self.under_way.insert(name.to_owned(), UnderWay { join, again, is_late: false, given: Some(given) });
    }

    /// A comparison has come to its end: whether it is still of use. Nothing is, where the document is asked for anew.
    pub(super) fn is_compared(&self, name: &str, nonce: u64) -> bool {
        let given = self.under_way.get(name).and_then(|under_way| under_way.given.as_ref());
        given.is_some_and(|given| given.gift == Gift::Compared(nonce))
    }

    /// This is given.
    pub(super) fn say_gift(&mut self, name: &str, gift: Gift) {
        if let Some(given) = self.under_way.get_mut(name).and_then(|under_way| under_way.given.as_mut()) {
            given.gift = gift;
        }
    }

    /// Nothing is to be given, or what was has its place.
    pub(super) fn end_giving(&mut self, name: &str) {
        match self.under_way.remove(name) {
            Some(UnderWay { join, again: false, given: Some(given), .. }) => {
                if let Some((_, held)) = join.into_held() {
                    self.news.push_back(News::Given { name: name.to_owned(), given, held });
                }
            }
            _ => self.want(name),
        }
    }

    /// What was said may have no place: it is said again.
    pub(super) fn on_unknown(&mut self) {
        let is_open = |under_way: &UnderWay| under_way.join.is_unasked() || under_way.given.is_some();
        let names = self.under_way.iter().filter(|(_, under_way)| is_open(under_way));
        for name in names.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.want(&name);
        }
        if self.list.as_ref().is_some_and(|list| list.deadline.is_none()) {
            self.want_list();
        }
    }

    /// The host does not let something of this document have a place: a gift, or a question of somebody who may not answer.
    pub(super) fn on_refused(&mut self, name: &str) {
        let Some(under_way) = self.under_way.get(name) else { return };
        if under_way.given.is_some() {
            self.refused.insert(name.to_owned());
        }
        self.want(name);
    }

    /// Whether the cluster does not take this document from here, since it was last asked for everything.
    pub(super) fn was_refused(&self, name: &str) -> bool {
        self.refused.contains(name)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let joins = self.under_way.values().filter_map(|under_way| under_way.join.poll_timeout());
        joins.chain(self.list.as_ref().and_then(|list| list.deadline)).chain(self.resets.poll_timeout()).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.resets.take_due(now) {
            // The documents wait already.
            self.want_list();
        }
        let is_due = |join: &Join| join.poll_timeout().is_some_and(|deadline| deadline <= now);
        let due = self.under_way.iter().filter(|(_, under_way)| is_due(&under_way.join));
        for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let nonce = self.nonce();
            let Some(under_way) = self.under_way.get_mut(&name) else { continue };
            let step = under_way.join.on_timeout(now, nonce);
            self.on_step(name, step);
        }
        if let Some(list) = self.list.take_if(|list| list.deadline.is_some_and(|deadline| deadline <= now)) {
            self.unanswered.entry(String::new()).or_default().push(list.gathering.nonce);
            if list.tries < TRIES {
                self.ask_for_list(list.tries + 1);
            }
        }
    }
}

//! Who may say what about documents, before it is ordered: as a keeper at this host tells, for each member and document, for a while.
//!
//! What is not known is asked for, and the batch that it stands in is not taken: its sender is asked to send it again when the answer is there. So nothing waits here; others
//! wait for whoever decides only where what is to be known of them stands behind that.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{EndpointId, SessionToken};
use crate::message::Topic;
use crate::wire::{Batch, ParentMessage};

use super::super::Instant;
use super::asked::{Asked, LeftBehind};
use super::forbidden::Refused;
use super::session::Recipient;
use super::{Host, Output};

/// Of how many documents it is remembered what a member may do (a guess: a batch may speak of as many).
const MOST_OF_ONE: usize = 1_024;
/// Of how many, for all members together (a guess: some 10 MiB). Beyond, the member with the most is asked about anew.
const MOST: usize = 65_536;
/// Of how many documents it is remembered of a member, beyond, for nothing but the questions that others ask of it (a guess). Others choose these: they take the room of none of its own, nor does it
/// wait for an answer about them.
const MOST_FOR_OTHERS: usize = 16;

/// What a member may say about a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// It may ask.
    Nothing,
    /// And tell of itself.
    Read,
    /// And change it.
    Write,
}

/// By whose word, and by which state of it: what was asked of another, or before it was told that something had changed, does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) guard: u64,
    pub(crate) generation: u64,
}

/// Somebody who tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard {
    stamp: Stamp,
    /// For how long what was told counts.
    lasts: Duration,
    /// Whether nobody answers any more: what is not known is not allowed.
    is_deaf: bool,
}

/// What was told of a member and a document.
#[derive(Debug)]
struct Told {
    rights: Rights,
    at: Instant,
    /// Whether nobody needed it so far but who asked this member.
    is_for_others: bool,
}

/// What is known of what one member may do.
#[derive(Debug, Default)]
pub(super) struct Known {
    told: BTreeMap<String, Told>,
    /// How many are for others.
    for_others: usize,
    /// What is asked for, and not answered yet.
    pub(super) asked: Asked,
    /// Whether something it sent was not taken for want of an answer. Then one is outstanding.
    waits: bool,
}

impl Known {
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    pub(super) fn len(&self) -> usize {
        self.told.len()
    }

    /// Of a member that comes: nothing, but that answers about it may be outstanding.
    pub(super) fn of(asked: Asked) -> Self {
        Self { asked, ..Self::default() }
    }

    /// The member itself needs this, if it is there, or asked for.
    fn make_own(&mut self, name: &str) {
        self.asked.make_own(name);
        if let Some(told) = self.told.get_mut(name)
            && std::mem::take(&mut told.is_for_others)
        {
            self.for_others -= 1;
        }
    }

    /// Whether it was there.
    fn forget(&mut self, name: &str) -> bool {
        let told = self.told.remove(name);
        self.for_others -= usize::from(told.as_ref().is_some_and(|told| told.is_for_others));
        told.is_some()
    }

    fn forget_all(&mut self) {
        self.told.clear();
        self.for_others = 0;
    }

    /// Makes room: whether there was anything to forget.
    fn forget_oldest(&mut self, is_for_others: bool) -> bool {
        let may_go = self.told.iter().filter(|(_, told)| told.is_for_others == is_for_others);
        let Some(name) = may_go.min_by_key(|(_, told)| told.at).map(|(name, _)| name.clone()) else {
            return false;
        };
        self.forget(&name)
    }
}

/// What its sender may say on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    Say,
    /// Nothing but questions.
    Ask,
    Unknown,
}

impl Host {
    /// Of how many documents it is known what members may do, counted for each member.
    #[cfg(test)]
    pub(crate) fn rights_known(&self) -> usize {
        assert_eq!(self.rights, self.sessions.values().map(|session| session.known.len()).sum::<usize>());
        self.rights
    }

    /// Somebody tells from now on who may say what; or nobody does.
    pub(super) fn on_guard(&mut self, now: Instant, guard: Option<(Stamp, Duration)>) {
        self.guard = guard.map(|(stamp, lasts)| Guard { stamp, lasts, is_deaf: false });
        self.left_behind = LeftBehind::default();
        self.go_on_without(now, |known| {
            known.forget_all();
            known.asked = Asked::default();
        });
    }

    /// What was told of a document, or of all, counts no more.
    pub(super) fn on_forget_rights(&mut self, now: Instant, stamp: Stamp, name: Option<&str>) {
        let Some(guard) = self.guard.as_mut().filter(|guard| guard.stamp.guard == stamp.guard) else {
            return;
        };
        // Two of them may overtake each other.
        guard.stamp.generation = stamp.generation.max(guard.stamp.generation);
        if !mutant!(self, KeepRights) {
            // Answers that are on their way count no more, since they are of another generation.
            self.go_on_without(now, |known| match name {
                Some(name) => _ = known.forget(name),
                None => known.forget_all(),
            });
        }
    }

    /// Nobody answers any more.
    pub(super) fn on_deaf(&mut self, now: Instant, guard: u64) {
        if let Some(guard) = self.guard.as_mut().filter(|current| current.stamp.guard == guard) {
            guard.is_deaf = true;
            self.left_behind = LeftBehind::default();
            self.go_on_without(now, |known| known.asked = Asked::default());
        }
    }

    /// What was told or asked for counts no more: who waits is to send again.
    fn go_on_without(&mut self, now: Instant, forget: impl Fn(&mut Known)) {
        let mut waiting = Vec::new();
        self.rights = 0;
        for (token, session) in &mut self.sessions {
            forget(&mut session.known);
            self.rights += session.known.told.len();
            if std::mem::take(&mut session.known.waits) {
                waiting.push(*token);
            }
        }
        for token in waiting {
            self.ask_to_send_again(now, token);
        }
    }

    /// What a member may do with a document.
    pub(super) fn on_rights(
        &mut self,
        now: Instant,
        stamp: Stamp,
        (id, name): (EndpointId, String),
        rights: Rights,
    ) {
        let Some(guard) = self.guard.filter(|guard| guard.stamp.guard == stamp.guard) else { return };
        // Whichever state it is by, who was asked has done with it.
        let Some(token) = self.by_id.get(&id).copied() else {
            return self.left_behind.answered(&id, &name);
        };
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let for_others = session.known.asked.answered(&name).unwrap_or(false);
        if stamp == guard.stamp {
            self.note_rights(now, token, name, rights, for_others);
        }
        let Some(session) = self.sessions.get_mut(&token) else { return };
        if session.known.waits && !session.known.asked.is_waited_for() {
            session.known.waits = false;
            self.ask_to_send_again(now, token);
        }
    }

    /// Remembers what a member may do, if there is room.
    fn note_rights(
        &mut self,
        now: Instant,
        token: SessionToken,
        name: String,
        rights: Rights,
        for_others: bool,
    ) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        if let Some(told) = session.known.told.get_mut(&name) {
            (told.rights, told.at) = (rights, now);
            return;
        }
        if for_others {
            if !self.has_room_for_others(token) {
                return;
            }
        } else {
            self.make_room(token);
        }
        let Some(session) = self.sessions.get_mut(&token) else { return };
        session.known.told.insert(name, Told { rights, at: now, is_for_others: for_others });
        session.known.for_others += usize::from(for_others);
        self.rights += 1;
    }

    /// Sees to it that there is room for one more of a member's own.
    fn make_room(&mut self, token: SessionToken) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        if session.known.told.len() - session.known.for_others >= MOST_OF_ONE {
            self.rights -= usize::from(session.known.forget_oldest(false));
        } else if self.rights >= MOST
            && let Some(most) = self.sessions.values_mut().max_by_key(|session| session.known.len())
        {
            // Whoever speaks of most documents pays for it.
            self.rights -= most.known.len();
            most.known.forget_all();
        }
    }

    /// Whether there is room for one more of those that others ask a member about: nothing but such a one makes it.
    fn has_room_for_others(&mut self, token: SessionToken) -> bool {
        let Some(session) = self.sessions.get_mut(&token) else { return false };
        if session.known.for_others >= MOST_FOR_OTHERS {
            let is_forgotten = session.known.forget_oldest(true);
            self.rights -= usize::from(is_forgotten);
            return is_forgotten;
        }
        self.rights < MOST
    }

    /// It is known by now what its sender may say: what was not taken is to come again.
    fn ask_to_send_again(&mut self, now: Instant, token: SessionToken) {
        let id = self.sessions.get(&token).map(|session| session.id);
        let last = id.and_then(|id| self.origins.get_mut(&id)).map(|origin| origin.last);
        let (Some(session), Some(last)) = (self.sessions.get_mut(&token), last) else { return };
        session.resend_asked = Some((last + 1, now));
        self.send(now, token, &ParentMessage::Resend { from: last + 1 });
    }

    /// What a member may say on a topic; asks for what is not known, and in good time for what soon is not. It may be others who want to know.
    fn may(&mut self, now: Instant, token: SessionToken, topic: &Topic, for_others: bool) -> May {
        let Some(guard) = self.guard else { return May::Say };
        let Some((name, is_presence)) = topic.document() else { return May::Say };
        if name.is_empty() {
            // There the host alone has something to say.
            return May::Ask;
        }
        let Some(session) = self.sessions.get_mut(&token) else { return May::Ask };
        let may = |rights| match rights {
            Rights::Write => May::Say,
            Rights::Read if is_presence => May::Say,
            Rights::Read | Rights::Nothing => May::Ask,
        };
        let (id, known, generation) = (session.id, &mut session.known, guard.stamp.generation);
        if !for_others {
            known.make_own(name);
        }
        let told = known.told.get(name).map(|told| (told.rights, now.since(told.at)));
        let told = told.filter(|(_, age)| *age < guard.lasts);
        if told.is_none() {
            self.rights -= usize::from(known.forget(name));
        }
        if guard.is_deaf {
            return told.map_or(May::Ask, |(rights, _)| may(rights));
        }
        let result = told.map_or(May::Unknown, |(rights, _)| may(rights));
        let is_fresh = told.is_some_and(|(_, age)| age < guard.lasts / 2);
        if is_fresh || known.asked.is_under_way(name, generation) {
            return result;
        }
        let is_own = !for_others || known.told.get(name).is_some_and(|told| !told.is_for_others);
        let is_for_others = known.asked.is_for_others(name).unwrap_or(!is_own);
        // Who waits does so for what it has asked itself: others, who ask about the same, wait with it.
        let is_in_the_way = for_others && if is_for_others { self.rights >= MOST } else { known.waits };
        if known.asked.has_room(is_for_others) && !is_in_the_way {
            known.asked.ask(name, generation, is_for_others);
            let (guard, name) = (guard.stamp.guard, name.to_owned());
            self.outputs.push_back(Output::AskRights { guard, id, name });
        }
        result
    }

    /// Whether a question for a document may be asked of this endpoint. Its answer would be taken for the document: while a keeper at the host says who may change it, nobody
    /// else may make it.
    fn may_be_asked(&mut self, now: Instant, of: EndpointId, topic: &Topic) -> May {
        if of.is_nil() || of == self.config.id {
            return May::Say;
        }
        // Who is not there could come, and answer.
        let Some(token) = self.by_id.get(&of).copied() else { return May::Ask };
        match self.may(now, token, topic, true) {
            May::Say => May::Say,
            // Whoever asks asks again, and by then it is known.
            May::Ask | May::Unknown => May::Ask,
        }
    }

    /// Gives the records of a batch from `skip` on, which are the next of their sender, their places, as far as it may say them.
    pub(super) fn take_in(&mut self, now: Instant, token: SessionToken, batch: &Batch, skip: usize) {
        let Some(id) = self.sessions.get(&token).map(|session| session.id) else { return };
        let sender = Recipient::Session(token);
        if self.guard.is_none() || !batch.topics.iter().any(|topic| topic.document().is_some()) {
            return self.order(id, sender, batch, skip..batch.len());
        }
        let may_ask = batch.may_ask();
        let mut looked_up: Vec<Option<May>> = vec![None; batch.topics.len()];
        let (mut begin, mut refused) = (skip, Refused::default());
        for index in skip..batch.len() {
            let Some(place) = batch.topic_of(index) else { break };
            let topic = &batch.topics[place];
            let asked_of = if may_ask { batch.asked_of(index) } else { None };
            let may = match asked_of {
                Some(of) => self.may_be_asked(now, of, topic),
                None => match looked_up[place] {
                    Some(may) => may,
                    None => *looked_up[place].insert(self.may(now, token, topic, false)),
                },
            };
            match may {
                May::Say => continue,
                May::Ask => refused.add(topic),
                May::Unknown => {
                    self.order(id, sender, batch, begin..index);
                    // What is behind it comes again, with it: all that is to be known for that is asked for at once.
                    for later in index..batch.len() {
                        if let Some(place) = batch.topic_of(later)
                            && looked_up[place].is_none()
                            && !(may_ask && batch.asked_of(later).is_some())
                        {
                            looked_up[place] = Some(self.may(now, token, &batch.topics[place], false));
                        }
                    }
                    if let Some(session) = self.sessions.get_mut(&token) {
                        debug_assert!(session.known.asked.is_waited_for(), "or it would wait for ever");
                        session.known.waits = true;
                    }
                    return self.tell_refused(now, token, refused);
                }
            }
            self.order(id, sender, batch, begin..index);
            self.refuse_record(id, sender, batch.first_origin_seq + index as u64);
            begin = index + 1;
        }
        self.order(id, sender, batch, begin..batch.len());
        self.tell_refused(now, token, refused);
    }
}

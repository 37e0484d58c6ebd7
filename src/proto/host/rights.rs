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
use super::session::Recipient;
use super::{Event, Host, Output};

/// Of how many documents it is remembered what a member may do (a guess: a batch may speak of as many).
const MOST_OF_ONE: usize = 1_024;
/// Of how many, for all members together (a guess: some 10 MiB). Beyond, the member with the most is asked about anew.
const MOST: usize = 65_536;
/// How many answers about a member may be outstanding (a guess).
const MOST_ASKED: usize = 64;
/// Of how many documents it is remembered of a member, beyond, for nothing but the questions that others ask of it (a guess). Others choose these: they take the room of none of its own, nor does it
/// wait for an answer about them.
const MOST_FOR_OTHERS: usize = 16;
/// How often it is told, for each member, that something of it was refused (a guess).
const TELL_EVERY: Duration = Duration::from_secs(1);

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
    /// `None` until there is an answer.
    rights: Option<Rights>,
    at: Instant,
    is_asked: bool,
    /// Whether nobody needed it so far but who asked this member.
    is_for_others: bool,
}

/// What is known of what one member may do.
#[derive(Debug, Default)]
pub(super) struct Known {
    told: BTreeMap<String, Told>,
    /// How many are for others.
    for_others: usize,
    /// How many answers are outstanding, those for others left out.
    asked: usize,
    /// Whether something it sent was not taken for want of an answer.
    waits: bool,
    /// What was refused, and not told yet; and when it last was.
    refused: u64,
    refused_told: Option<Instant>,
}

impl Known {
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    pub(super) fn len(&self) -> usize {
        self.told.len()
    }

    /// To be called when some of them, whoever they are for, may have been forgotten.
    fn count_for_others(&mut self) {
        self.for_others = self.told.values().filter(|told| told.is_for_others).count();
    }

    /// Makes room: whether there was anything to forget.
    fn forget_oldest(&mut self, is_for_others: bool) -> bool {
        let may_go = |told: &Told| !told.is_asked && told.is_for_others == is_for_others;
        let oldest = self.told.iter().filter(|(_, told)| may_go(told)).min_by_key(|(_, told)| told.at);
        let Some(name) = oldest.map(|(name, _)| name.clone()) else { return false };
        self.told.remove(&name);
        self.for_others -= usize::from(is_for_others);
        true
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
        self.forget_rights(now, None);
    }

    /// What was told of a document, or of all, counts no more.
    pub(super) fn on_forget_rights(&mut self, now: Instant, stamp: Stamp, name: Option<&str>) {
        let Some(guard) = self.guard.as_mut().filter(|guard| guard.stamp.guard == stamp.guard) else {
            return;
        };
        // Two of them may overtake each other.
        guard.stamp.generation = stamp.generation.max(guard.stamp.generation);
        if !mutant!(self, KeepRights) {
            self.forget_rights(now, name);
        }
    }

    /// Nobody answers any more.
    pub(super) fn on_deaf(&mut self, now: Instant, guard: u64) {
        if let Some(guard) = self.guard.as_mut().filter(|current| current.stamp.guard == guard) {
            guard.is_deaf = true;
            self.go_on_without(now, |known| known.told.retain(|_, told| told.rights.is_some()));
        }
    }

    fn forget_rights(&mut self, now: Instant, name: Option<&str>) {
        self.go_on_without(now, |known| match name {
            Some(name) => {
                known.told.remove(name);
                // Answers from before count no more.
                known.told.retain(|_, told| told.rights.is_some());
            }
            None => known.told.clear(),
        });
    }

    /// What was asked for does not come: who waits for it is to send again.
    fn go_on_without(&mut self, now: Instant, forget: impl Fn(&mut Known)) {
        let mut waiting = Vec::new();
        self.rights = 0;
        for (token, session) in &mut self.sessions {
            forget(&mut session.known);
            session.known.asked = 0;
            session.known.told.values_mut().for_each(|told| told.is_asked = false);
            session.known.count_for_others();
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
        if self.guard.is_none_or(|guard| guard.stamp != stamp) {
            return;
        }
        let Some(token) = self.by_id.get(&id).copied() else { return };
        if !self.sessions.get(&token).is_some_and(|session| session.known.told.contains_key(&name)) {
            self.make_room(token);
        }
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let known = &mut session.known;
        if let Some(told) = known.told.get_mut(&name) {
            (told.rights, told.at) = (Some(rights), now);
            let was_asked = std::mem::take(&mut told.is_asked);
            known.asked -= usize::from(was_asked && !told.is_for_others);
        } else {
            let told = Told { rights: Some(rights), at: now, is_asked: false, is_for_others: false };
            known.told.insert(name, told);
            self.rights += 1;
        }
        if session.known.waits && session.known.asked == 0 {
            session.known.waits = false;
            self.ask_to_send_again(now, token);
        }
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
            let before = most.known.len();
            most.known.told.retain(|_, told| told.is_asked);
            most.known.count_for_others();
            self.rights -= before - most.known.len();
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
        let known = &mut session.known;
        if !for_others
            && let Some(told) = known.told.get_mut(name)
            && std::mem::take(&mut told.is_for_others)
        {
            known.for_others -= 1;
            known.asked += usize::from(told.is_asked);
        }
        let result = match known.told.get_mut(name) {
            Some(told) if guard.is_deaf => return told.rights.map_or(May::Ask, may),
            None if guard.is_deaf => return May::Ask,
            Some(told) => {
                let age = now.since(told.at);
                told.rights.take_if(|_| age >= guard.lasts);
                let result = told.rights.map_or(May::Unknown, may);
                if told.is_asked || (told.rights.is_some() && age < guard.lasts / 2) {
                    return result;
                }
                result
            }
            None => May::Unknown,
        };
        let id = session.id;
        let is_new = !known.told.contains_key(name);
        let may_be_asked = if for_others && is_new {
            self.has_room_for_others(token)
        } else {
            // Who waits does so for what it has asked itself: others, who ask about the same, wait with it.
            let may_be_asked = known.asked < MOST_ASKED && !(for_others && known.waits);
            if may_be_asked && is_new {
                self.make_room(token);
            }
            may_be_asked
        };
        if may_be_asked {
            self.expect(now, token, name, for_others);
            let name = name.to_owned();
            self.outputs.push_back(Output::AskRights { guard: guard.stamp.guard, id, name });
        }
        result
    }

    /// An answer is going to come.
    fn expect(&mut self, now: Instant, token: SessionToken, name: &str, for_others: bool) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let known = &mut session.known;
        if let Some(told) = known.told.get_mut(name) {
            told.is_asked = true;
            known.asked += usize::from(!told.is_for_others);
        } else {
            let told = Told { rights: None, at: now, is_asked: true, is_for_others: for_others };
            known.told.insert(name.to_owned(), told);
            known.for_others += usize::from(for_others);
            known.asked += usize::from(!for_others);
            self.rights += 1;
        }
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

    /// Counts what was refused, and lets it be known.
    fn tell_refused(&mut self, now: Instant, token: SessionToken, refused: Refused) {
        let Refused { document: Some(document), messages } = refused else { return };
        self.counters.refused += messages;
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let known = &mut session.known;
        known.refused += messages;
        if known.refused_told.is_none_or(|told| told + TELL_EVERY <= now) {
            known.refused_told = Some(now);
            let messages = std::mem::take(&mut known.refused);
            let event = Event::Forbidden { id: session.id, document, messages };
            self.outputs.push_back(Output::Event(event));
        }
    }
}

/// What of a batch was refused.
#[derive(Debug, Default)]
struct Refused {
    /// The document that the first of it is about.
    document: Option<String>,
    messages: u64,
}

impl Refused {
    fn add(&mut self, topic: &Topic) {
        let name = || topic.document().map_or("", |(name, _)| name).to_owned();
        self.document.get_or_insert_with(name);
        self.messages += 1;
    }
}

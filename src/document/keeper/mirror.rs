//! A keeper that is not the host's: it comes to have what the cluster has, and gives the cluster back what that has lost.

use bytes::Bytes;

use crate::message::{MessageKind, Position, Topic};
use crate::proto::Instant;

use super::super::join::{Held, Joined};
use super::super::pieces;
use super::super::store::{Base, StoreChange};
use super::super::wire::{self, Live, State, Update};
use super::catching_up::{Gift, Given, News, Theirs};
use super::kept::Kept;
use super::shelf::Change;
use super::types::{Comparison, Lacks};
use super::{Keeper, Output};

impl Keeper {
    /// Who the host is, as far as the endpoint knows: what only its keeper may say is taken from no other.
    pub(crate) fn set_host(&mut self, host: Option<crate::EndpointId>) {
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.host = host;
        }
    }

    /// Messages may have been missed: everything is asked for again, more slowly where that happens again and again. What there is stays until then.
    pub(crate) fn on_reset(&mut self, now: Instant) {
        if let Some(catching_up) = &mut self.catching_up {
            // Whether it is said now or later.
            catching_up.resets.on_reset(now);
            self.want_all();
        }
    }

    /// Everything is asked for.
    pub(super) fn want_all(&mut self) {
        let Some(catching_up) = &mut self.catching_up else { return };
        catching_up.want_all(self.shelf.iter().map(|(name, _)| name));
        self.catch_up();
    }

    /// Up to there a document is stored: there may be room for more.
    pub(super) fn on_stored_here(&mut self, name: &str, position: Position) {
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.on_stored(name, position);
            self.catch_up();
        }
    }

    /// The store is given up: the keeper goes on in memory.
    pub(crate) fn on_store_lost(&mut self) {
        self.config.stores = false;
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.on_store_lost();
            self.catch_up();
        }
    }

    /// What was sent may never come: it is sent again.
    pub(crate) fn on_unknown(&mut self) {
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.on_unknown();
            self.catch_up();
        }
    }

    /// What was said of a document was refused: it is asked for again, and given nothing more.
    pub(crate) fn on_refused(&mut self, topic: &Topic) {
        if let (Some(catching_up), Some((name, _))) = (&mut self.catching_up, wire::name_of(topic)) {
            catching_up.on_refused(name);
            self.catch_up();
        }
    }

    /// How many documents are being asked for, or are to be.
    pub(crate) fn wanted(&self) -> usize {
        self.catching_up.as_ref().map_or(0, |catching_up| catching_up.wanted())
    }

    /// Whether it has what the cluster has, as far as anybody has told it.
    pub(crate) fn has_caught_up(&self) -> bool {
        let Some(catching_up) = &self.catching_up else { return self.has_begun };
        self.has_begun && catching_up.is_done() && !self.missed.is_pending()
    }

    /// A document that is as the host's keeper has it, and where the question stands that it came by.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn exact(&self, name: &str) -> Option<(State, Position)> {
        let kept = self.shelf.get(name).filter(|kept| !self.asks_for(name) && kept.refused.is_none())?;
        Some((kept.state(), kept.since?))
    }

    /// Whether a document is being asked for, or is to be.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn asks_for(&self, name: &str) -> bool {
        self.catching_up.as_ref().is_some_and(|catching_up| catching_up.is_wanted(name))
    }

    /// What the host's keeper alone may say.
    pub(super) fn on_hosts(&mut self, name: &str, live: &Live) {
        let Some(catching_up) = &mut self.catching_up else { return };
        match live {
            Live::AskAgain if name.is_empty() => {
                catching_up.want_all_again(self.shelf.iter().map(|(name, _)| name))
            }
            Live::AskAgain if self.shelf.get(name).is_some() || catching_up.is_wanted(name) => {
                catching_up.want_again(name);
            }
            Live::GivenUp(reason) if !name.is_empty() => self.refuse(name, reason.clone()),
            _ => {}
        }
    }

    /// The last piece of something came, and others did not.
    pub(super) fn miss_pieces(&mut self, now: Instant, name: &str) {
        let has_room = self.shelf.has_room(self.wanted() + 1);
        match &mut self.catching_up {
            Some(catching_up) if has_room || self.shelf.get(name).is_some() => catching_up.miss_pieces(name),
            Some(_) => self.dropped += 1,
            None => self.miss(now, name),
        }
    }

    /// Does what follows from answers, and asks for more.
    pub(super) fn catch_up(&mut self) {
        loop {
            let Some(catching_up) = &mut self.catching_up else { return };
            match catching_up.news.pop_front() {
                Some(News::Listed(list)) => {
                    for listed in list {
                        let is_there = self.shelf.get(&listed.name).is_some();
                        if !is_there && !catching_up.is_wanted(&listed.name) {
                            let size = usize::try_from(listed.size).unwrap_or(usize::MAX);
                            let has_room = self.shelf.has_room(catching_up.wanted() + 1);
                            match has_room && self.shelf.full(size).is_none() {
                                true => catching_up.want(&listed.name),
                                false => self.dropped += 1,
                            }
                        }
                    }
                }
                Some(News::Joined { name, joined }) => self.on_joined(&name, joined),
                Some(News::Given { name, given: Given { gift, theirs }, held }) => {
                    self.come_to(&name, theirs, held, Some(gift));
                }
                None => {
                    catching_up.ask_for_more();
                    let kind = MessageKind::FullDocumentRequest;
                    let said = catching_up.said.drain(..);
                    self.outputs.extend(said.map(|(topic, live)| Output::Say {
                        topic,
                        kind,
                        payload: live.encode(),
                    }));
                    return;
                }
            }
        }
    }

    fn on_joined(&mut self, name: &str, joined: Joined) {
        match joined {
            Joined::State { state, asked, held, others } => {
                self.come_to(name, Theirs { state, asked, is_hosts: others.is_none() }, held, None);
            }
            Joined::Empty { asked, held, read_only } => {
                let state = State { read_only, ..State::default() };
                self.come_to(name, Theirs { state, asked, is_hosts: true }, held, None);
            }
            Joined::Refused(reason) => self.refuse(name, reason),
            Joined::Nobody { .. } => self.go_on(name),
        }
    }

    /// Nobody has told what the cluster has: what there is goes on as it is.
    fn go_on(&mut self, name: &str) {
        if let Some(kept) = self.shelf.get_mut(name) {
            kept.since = None;
        }
        self.write_all(name);
    }

    /// The host does not give it, or keeps it no more: what there is stays as it is, and is not kept on with until the host gives it.
    fn refuse(&mut self, name: &str, reason: String) {
        if let Some(kept) = self.shelf.get_mut(name) {
            kept.refused = Some(reason);
        } else if self.shelf.has_room(1) {
            self.shelf.put(name, Kept::refused(reason));
        }
    }

    /// This is what the cluster had, and what came behind the question.
    fn come_to(&mut self, name: &str, theirs: Theirs, held: Vec<Held>, given: Option<Gift>) {
        let was_refused = self.catching_up.as_ref().is_some_and(|catching_up| catching_up.was_refused(name));
        let read_only = theirs.state.read_only || self.config.read_only || was_refused;
        let kept = Kept::of(State { read_only: false, ..theirs.state.clone() }).ok();
        // Nothing in it can stand behind the question.
        let Some(mut kept) = kept.filter(|kept| kept.ledger.at <= Some(theirs.asked)) else {
            self.malformed += 1;
            return match theirs.is_hosts {
                true => self.refuse(name, "what the cluster has of it cannot be read".to_owned()),
                false => self.go_on(name),
            };
        };
        kept.ledger.reaches(theirs.asked);
        kept.replay(&held, &self.config.types);
        kept.since = Some(theirs.asked).filter(|_| theirs.is_hosts);
        let comparison = if read_only { None } else { self.comparison(name, &kept, given) };
        match (comparison, &mut self.catching_up) {
            (Some(comparison), Some(catching_up)) => {
                let nonce = catching_up.nonce();
                catching_up.give(name, held, Given { gift: Gift::Compared(nonce), theirs });
                self.outputs.push_back(Output::Compare { name: name.to_owned(), nonce, comparison });
            }
            _ => self.replace(name, kept),
        }
    }

    /// How to find out what the cluster lacks of what is here, after what it was given already: all of it, or of a commutative document some. `None` where that is nothing.
    fn comparison(&self, name: &str, theirs: &Kept, given: Option<Gift>) -> Option<Comparison> {
        let ours = self.shelf.get(name).filter(|ours| ours.has_content())?;
        let kind = ours.ledger.kind.as_ref()?;
        let known = self.config.types.get(kind).copied();
        let theirs = match (&theirs.ledger.kind, given) {
            (None, None) if known.is_some() || ours.state.tail.is_empty() => None,
            (Some(same), None | Some(Gift::Seed)) if same == kind && ours.has_more_than(theirs) => {
                known.is_some().then(|| Some(theirs.state()))?
            }
            _ => return None,
        };
        Some(Comparison { ours: ours.state(), theirs, known })
    }

    /// A comparison has come to its end. What the cluster lacks is given to it, and what is here waits until that has its place.
    pub(crate) fn on_compared(&mut self, name: &str, nonce: u64, lacks: Lacks) {
        let Some(catching_up) = self.catching_up.as_mut().filter(|own| own.is_compared(name, nonce)) else {
            return;
        };
        let kind = self.shelf.get(name).and_then(|kept| kept.ledger.kind.as_ref());
        match (lacks, kind) {
            (Lacks::All(state), _) => {
                catching_up.say_gift(name, Gift::Seed);
                self.put(name, Live::Seed(State { read_only: false, ..state }.encode()).encode());
            }
            (Lacks::Some(fragments), Some(kind)) => {
                let replica = catching_up.nonce();
                let update = Update::new(kind, replica, 1, fragments.iter().map(|fragment| &fragment[..]));
                catching_up.say_gift(name, Gift::Update(replica));
                self.put(name, update.encode());
            }
            _ => catching_up.end_giving(name),
        }
        self.catch_up();
    }

    /// Says an update or a seed, in pieces where messages may not be so large.
    fn put(&mut self, name: &str, payload: Bytes) {
        let kind = MessageKind::DocumentFragment;
        let nonce = || self.catching_up.as_mut().map_or(0, |catching_up| catching_up.nonce());
        let payloads = pieces::payloads(nonce, payload, self.config.max_message);
        let say = |payload| Output::Say { topic: wire::live_topic(name), kind, payload };
        self.outputs.extend(payloads.into_iter().map(say));
    }

    /// In the place of what there is comes what the cluster has.
    fn replace(&mut self, name: &str, mut kept: Kept) {
        let before = self.shelf.get_mut(name);
        if kept.ledger.kind.is_none() {
            match before {
                // It may be all there is of it, here or in the store.
                Some(before) if before.has_content() || before.written.is_some() => {
                    before.refused = Some("the cluster has lost it, and cannot have it from here".to_owned());
                    before.is_lost = true;
                    self.write_all(name);
                }
                _ => self.shelf.remove(name),
            }
            return;
        }
        if let Some(before) = before {
            // What is being folded is another document.
            (kept.is_folding, kept.is_another) = (before.is_folding, before.is_folding);
        } else if self.shelf.full(kept.weight()).is_some() {
            self.dropped += 1;
            return;
        }
        if self.config.stores {
            let changes = kept.written_over(name, self.shelf.get(name));
            if let (Some(catching_up), Some(written)) = (&mut self.catching_up, kept.written) {
                match changes.iter().map(StoreChange::bytes).sum() {
                    0 => {}
                    bytes => catching_up.on_written(name, written, bytes),
                }
            }
            self.outputs.extend(changes.into_iter().map(Output::Store));
        }
        self.shelf.put(name, kept);
        self.look_after(name);
    }

    /// What came while a document was asked for, which nobody has told, is all there is of it: the store is to have it.
    fn write_all(&mut self, name: &str) {
        let Some(kept) = self.shelf.get_mut(name).filter(|kept| kept.is_ahead) else { return };
        let Some(position) = kept.ledger.at else { return };
        kept.is_ahead = false;
        kept.written = Some(position);
        let base = Base { position, bytes: kept.state().encode() };
        self.store(|| StoreChange::Replace { name: name.to_owned(), base });
    }

    /// Something came of a document that is not there, or not as the cluster has it.
    pub(super) fn look_up(&mut self, now: Instant, name: &str, change: Change) {
        let Some(catching_up) = &mut self.catching_up else { return };
        match change {
            Change::Made if !catching_up.is_wanted(name) => catching_up.want(name),
            Change::NotKept if self.shelf.get(name).is_some_and(|kept| kept.is_lost) => self.miss(now, name),
            _ => {}
        }
    }
}

//! What documents really are: the fold of what was ordered, made anew here, and whether replicas and the keeper agree with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::rc::Rc;

use bytes::Bytes;

use crate::document::Model;
use crate::document::wire::{Live, State, Update};
use crate::id::EndpointId;
use crate::message::Position;

use super::super::oracle::Broken;
use super::types::Edit;

type Check = Result<(), Broken>;

fn broken<T>(invariant: u8, what: String) -> Result<T, Broken> {
    Err((invariant, what))
}

/// What a document is at some position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fold {
    kind: Option<String>,
    numbers: BTreeMap<(EndpointId, u64), (u64, Position)>,
    pub(super) edits: Vec<Edit>,
}

impl Fold {
    fn of(snapshot: &State) -> Option<Self> {
        let numbers = snapshot.numbers.iter();
        let numbers = numbers
            .map(|(origin, replica, taken)| ((origin, replica), (taken.number, taken.position)))
            .collect();
        let edits = read(&snapshot.snapshot)?;
        Some(Self { kind: snapshot.kind.clone(), numbers, edits })
    }

    /// An update in its place: which edits it had to it, and whether they count. `None` where the update does not.
    fn take(
        &mut self,
        model: Model,
        at: Position,
        origin: EndpointId,
        update: &Update,
    ) -> Option<(Vec<Edit>, bool)> {
        let last = self.numbers.get(&(origin, update.replica)).map_or(0, |(number, _)| *number);
        let fits = self.kind.as_ref().is_none_or(|kind| *kind == update.kind);
        if !fits || update.number != last + 1 {
            return None;
        }
        self.kind = Some(update.kind.clone());
        self.numbers.insert((origin, update.replica), (update.number, at));
        let fragments: Vec<Vec<Edit>> =
            update.fragments().map(|fragment| read(&fragment)).collect::<Option<_>>()?;
        match model {
            Model::Commutative => {
                let edits: Vec<Edit> = fragments.into_iter().flatten().collect();
                let all: BTreeSet<Edit> = self.edits.iter().chain(&edits).copied().collect();
                self.edits = all.into_iter().collect();
                Some((edits, true))
            }
            Model::Ordered => {
                let before = self.edits.len();
                let applies = fragments.iter().all(|line| {
                    let fits = line.get(1).is_none_or(|behind| self.edits.last().unwrap_or(&0) == behind);
                    self.edits.extend(line.first());
                    fits
                });
                if !applies {
                    self.edits.truncate(before);
                }
                Some((fragments.iter().filter_map(|line| line.first().copied()).collect(), applies))
            }
        }
    }

    /// A whole document in its place; whether it counts.
    fn take_seed(&mut self, seed: &Bytes) -> bool {
        let seed = State::decode(seed).ok().filter(|seed| self.kind.is_none() && seed.kind.is_some());
        match seed.as_ref().and_then(Self::of) {
            Some(fold) => {
                *self = fold;
                true
            }
            None => false,
        }
    }
}

fn read(bytes: &[u8]) -> Option<Vec<Edit>> {
    let (edits, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| edits.iter().map(|edit| Edit::from_be_bytes(*edit)).collect())
}

/// What became of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Fate {
    /// Whose it is.
    opening: u64,
    /// Where it came to be in the document, if anywhere, the last time.
    placed: Option<(u32, Position)>,
    /// In which life of the keeper its author was told that it does not apply; 0 where it was on its own then, and may have been wrong.
    refused: Option<u32>,
}

/// A document's folds over one life of a keeper, by position; the first one is what that life began with.
#[derive(Debug, Default)]
struct History {
    first: Rc<Fold>,
    since: Vec<(Position, Rc<Fold>)>,
    /// Up to where the keeper has said that it has it stored.
    stored: Option<Position>,
}

impl History {
    fn at(&self, position: Position) -> &Fold {
        let index = self.since.partition_point(|(at, _)| *at <= position);
        index.checked_sub(1).map_or(&self.first, |index| &self.since[index].1)
    }

    fn last(&self) -> &Rc<Fold> {
        self.since.last().map_or(&self.first, |(_, fold)| fold)
    }
}

/// What is known of one document.
#[derive(Debug)]
pub(super) struct Truth {
    name: String,
    model: Model,
    lives: BTreeMap<u32, History>,
    fates: BTreeMap<Edit, Fate>,
    /// Openings that came to their end.
    ended: BTreeSet<u64>,
}

/// What of the document a position stands for.
pub(super) struct Known {
    pub(super) life: u32,
    pub(super) position: Position,
}

impl Truth {
    pub(super) fn new(name: &str, model: Model) -> Self {
        Self {
            name: name.to_owned(),
            model,
            lives: BTreeMap::new(),
            fates: BTreeMap::new(),
            ended: BTreeSet::new(),
        }
    }

    /// A life of a keeper begins with this document, which the one before had stored.
    pub(super) fn on_keeper_start(&mut self, life: u32, stored: Option<(Known, &State)>) -> Check {
        let mut history = History::default();
        let promised = self.lives.values().next_back().and_then(|before| before.stored);
        if let Some((known, state)) = stored {
            self.check(&known, state, "what was stored")?;
            let before = self.lives.get(&known.life).map(|before| Rc::new(before.at(known.position).clone()));
            history.first = before.unwrap_or_default();
            history.stored = Some(known.position);
            if promised.is_some_and(|promised| promised > known.position) {
                let at = known.position;
                return broken(
                    6,
                    format!("{} was told to be stored up to {promised:?}, and is up to {at}", self.name),
                );
            }
        } else if promised.is_some() {
            return broken(6, format!("{} was told to be stored, and is not there", self.name));
        }
        self.lives.insert(life, history);
        Ok(())
    }

    /// What was stored is gone.
    pub(super) fn on_store_lost(&mut self) {
        self.lives.values_mut().for_each(|history| history.stored = None);
    }

    /// The keeper says that it has the document stored up to there.
    pub(super) fn on_stored(&mut self, life: u32, position: Position) {
        let history = self.lives.entry(life).or_default();
        history.stored = history.stored.max(Some(position));
    }

    /// A message on the document's topic has its place; whether it is a whole document, and counts. `lives` are those of the host's keepers: replicas that came by the document
    /// of an earlier one go by that until they ask again.
    pub(super) fn on_record(
        &mut self,
        lives: RangeInclusive<u32>,
        at: Position,
        origin: EndpointId,
        payload: &Bytes,
    ) -> Result<bool, Broken> {
        let mut seeds = false;
        for life in lives.clone() {
            seeds = self.take(life, lives.start() == lives.end(), at, origin, payload)?;
        }
        Ok(seeds)
    }

    fn take(
        &mut self,
        life: u32,
        is_only: bool,
        at: Position,
        origin: EndpointId,
        payload: &Bytes,
    ) -> Result<bool, Broken> {
        let history = self.lives.entry(life).or_default();
        match Live::decode(payload) {
            Ok(Live::Update(update)) => {
                let mut fold = Fold::clone(history.last());
                let Some((edits, applies)) = fold.take(self.model, at, origin, &update) else {
                    return Ok(false);
                };
                for edit in edits.iter().filter(|_| applies) {
                    // What is brought back for a new keeper may come twice to who has not asked again yet; and to all, if a whole document was on its way that
                    // counts with the new keeper and did not with the one before.
                    if self.model == Model::Ordered
                        && is_only
                        && fold.edits.iter().filter(|other| *other == edit).count() > 1
                    {
                        return broken(3, format!("edit {edit} of {} counts twice: at {at}, too", self.name));
                    }
                    let fate = self.fates.entry(*edit).or_default();
                    fate.placed = fate.placed.max(Some((life, at)));
                }
                history.since.push((at, Rc::new(fold)));
            }
            Ok(Live::Seed(seed)) => {
                let mut fold = Fold::clone(history.last());
                if fold.take_seed(&seed) {
                    for edit in &fold.edits {
                        let fate = self.fates.entry(*edit).or_default();
                        fate.placed = fate.placed.max(Some((life, at)));
                    }
                    history.since.push((at, Rc::new(fold)));
                    return Ok(true);
                }
            }
            Ok(_) => {}
            Err(malformed) => {
                return broken(0, format!("a malformed message about {}: {malformed:?}", self.name));
            }
        }
        Ok(false)
    }

    pub(super) fn on_edit(&mut self, opening: u64, edits: &[Edit]) {
        for edit in edits {
            self.fates.insert(*edit, Fate { opening, ..Fate::default() });
        }
    }

    /// The author was told that these do not apply.
    pub(super) fn on_refused(&mut self, life: u32, edits: &[Edit]) {
        for edit in edits {
            self.fates.entry(*edit).or_default().refused = Some(life);
        }
    }

    pub(super) fn on_ended(&mut self, opening: u64) {
        self.ended.insert(opening);
    }

    /// Somebody has this state, and it is to be what the order makes of it there.
    pub(super) fn check(&self, known: &Known, state: &State, whose: &str) -> Check {
        let nothing = History::default();
        let expected = self.lives.get(&known.life).unwrap_or(&nothing).at(known.position);
        let Some(mut fold) = Fold::of(state) else {
            return broken(13, format!("{whose} of {} cannot be read", self.name));
        };
        for entry in &state.tail {
            let taken = match Live::decode(&entry.update) {
                Ok(Live::Update(update)) => fold.take(self.model, entry.position, entry.origin, &update),
                _ => None,
            };
            if taken.is_none() {
                return broken(13, format!("{whose} of {} has a record that does not count", self.name));
            }
        }
        // Before the first update a state may know of its type already, or not.
        if expected.kind.is_none() && fold.numbers.is_empty() && fold.edits.is_empty() {
            return Ok(());
        }
        if fold != *expected {
            let at = known.position;
            return broken(13, format!("{whose} of {} at {at} is {fold:?}, and not {expected:?}", self.name));
        }
        Ok(())
    }

    /// The document as it is in the end.
    pub(super) fn last(&self, life: u32) -> Rc<Fold> {
        self.lives.get(&life).map(|history| Rc::clone(history.last())).unwrap_or_default()
    }

    /// When all has come to rest: every edit is there, or its author knows, or is gone.
    /// `all_may`: nobody was ever kept from bringing back what it had.
    pub(super) fn check_fates(&self, life: u32, remembers: bool, all_may: bool) -> Check {
        let last = self.last(life);
        for (edit, fate) in &self.fates {
            let is_there = last.edits.contains(edit);
            // A copy may have been under way when the host lost its memory.
            let placed = fate.placed.map(|(placed, _)| placed);
            if is_there && fate.refused >= placed {
                return broken(6, format!("edit {edit} of {} was refused, and is there", self.name));
            }
            if is_there || fate.refused.is_some() {
                continue;
            }
            // A replica that remembers only some of its updates brings only these back.
            let forgot = !remembers && fate.placed.is_none_or(|(placed, _)| placed != life);
            // Nor does one that may only read by then.
            let forgot = forgot || (!all_may && fate.placed.is_some_and(|(placed, _)| placed != life));
            if !self.ended.contains(&fate.opening) && !forgot {
                return broken(
                    6,
                    format!("edit {edit} of {} is gone, and its author lives: {fate:?}", self.name),
                );
            }
            // What was in the document, and whose author has gone, goes with the memory of a host alone.
            let Some((placed, at)) = fate.placed else { continue };
            let stored = self.lives.get(&placed).and_then(|history| history.stored);
            if placed == life {
                return broken(6, format!("edit {edit} of {} was there at {at}, and is gone", self.name));
            }
            if stored >= Some(at) {
                return broken(6, format!("edit {edit} of {} was stored, and is gone", self.name));
            }
        }
        Ok(())
    }
}

//! A document that is kept.

use crate::message::Position;

use super::super::Malformed;
use super::super::fold::{Ledger, Numbers};
use super::super::join::Held;
use super::super::store::{Base, Record, StoreChange, Stored};
use super::super::wire::{self, Entry, Live, State};
use super::types::{Types, makes_sense};

/// What a record costs beyond its bytes.
pub(super) const RECORD: usize = 48;
/// What a document costs beyond what is in it, about: its name, and its place among the others.
pub(super) const DOCUMENT: usize = 512;
/// What is remembered of a replica costs, about.
const REPLICA: usize = 112;

#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The snapshot, what belongs to it, and the records since.
    pub(super) state: State,
    pub(super) ledger: Ledger,
    pub(super) tail_bytes: usize,
    pub(super) is_folding: bool,
    /// Whether what is being folded is not this any more.
    pub(super) is_another: bool,
    /// Why it is given to nobody any more.
    pub(super) refused: Option<String>,
    /// Whether that is since the cluster has it no more.
    pub(super) is_lost: bool,
    /// Where the question stands by whose answer it is as the host's keeper has it.
    pub(super) since: Option<Position>,
    /// Up to where the store was told of it.
    pub(super) written: Option<Position>,
    /// Whether there is more here than that: what came while it was asked for. Something may be missing before it, so it is no part of what is stored, which has no
    /// holes.
    pub(super) is_ahead: bool,
    pub(super) stored: Option<Position>,
    pub(super) said_stored: Option<Position>,
    /// What the state without its tail is counted for.
    base_bytes: usize,
    /// What it is counted for among the others.
    weighed: usize,
}

impl Kept {
    /// What is in a state, with those of its records that count.
    pub(super) fn of(mut state: State) -> Result<Self, Malformed> {
        let ledger = Ledger { kind: state.kind.clone(), numbers: state.numbers.clone(), at: state.at };
        let tail = std::mem::take(&mut state.tail);
        let mut kept = Self { ledger, ..Self::default() };
        kept.set_state(state);
        tail.into_iter().try_for_each(|entry| kept.add(entry))?;
        Ok(kept)
    }

    /// None of which there is anything here, for this reason.
    pub(super) fn refused(reason: String) -> Self {
        Self { refused: Some(reason), ..Self::default() }
    }

    /// What is in a store.
    pub(super) fn of_stored(stored: Stored) -> Result<Self, Malformed> {
        let malformed = |what: crate::wire::Malformed| Malformed::new(what.to_string());
        let mut state = State::default();
        if let Some(base) = &stored.base {
            state = State::decode(&base.bytes).map_err(malformed)?;
            // Records in it stand behind its snapshot.
            if state.tail.is_empty() {
                state.at = Some(base.position);
            }
        }
        let mut kept = Self::of(state)?;
        if let Some(base) = &stored.base {
            kept.ledger.reaches(base.position);
        }
        for record in stored.records {
            kept.add(wire::decode_record(record.position, &record.bytes).map_err(malformed)?)?;
        }
        kept.written = kept.ledger.at;
        kept.stored = kept.ledger.at;
        kept.said_stored = kept.stored;
        Ok(kept)
    }

    /// A record, if it counts.
    fn add(&mut self, entry: Entry) -> Result<(), Malformed> {
        if self.ledger.counted(&entry)?.is_some() {
            self.push(entry);
        }
        Ok(())
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.tail_bytes += entry.update.len() + RECORD;
        self.state.tail.push(entry);
    }

    /// A state, and those of its records that are in it.
    pub(super) fn set_state(&mut self, state: State) {
        self.tail_bytes = state.tail.iter().map(|entry| entry.update.len() + RECORD).sum();
        let ranges: usize = state.numbers.iter().map(|(_, _, taken)| taken.refused.len()).sum();
        // The ledger may have them, too.
        self.base_bytes =
            state.snapshot.len() + state.numbers.len() * REPLICA + 2 * ranges * size_of::<(u64, u64)>();
        self.state = state;
    }

    /// A seed that counts.
    pub(super) fn become_seed(&mut self, position: Position, state: State) {
        let snapshot = wire::own(&state.snapshot);
        self.set_state(State { at: Some(position), read_only: false, snapshot, ..state });
    }

    /// Takes what was held, where it counts.
    pub(super) fn replay(&mut self, held: &[Held], types: &Types) {
        for Held { position, origin, live } in held {
            if !self.ledger.reaches(*position) {
                continue;
            }
            match live {
                Live::Update(update) if self.ledger.takes(*position, *origin, update) => {
                    self.push(Entry { position: *position, origin: *origin, update: update.encode() });
                }
                Live::Seed(seed) => {
                    let takes = |state: &State| makes_sense(types, *position, state);
                    if let Some(state) = self.ledger.takes_seed(seed, takes) {
                        self.become_seed(*position, state);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether the store is to be told what comes now: only if that, and what came before, is known to have nothing missing before it.
    pub(super) fn may_be_written(&mut self, is_sure: bool) -> bool {
        self.is_ahead |= !is_sure;
        !self.is_ahead
    }

    /// Lets go of what is in it. What it is, it is remembered to be.
    pub(super) fn clear(&mut self) {
        self.set_state(State::default());
        self.ledger.numbers = Numbers::default();
        // What comes of the folding is not it.
        self.is_another = self.is_folding;
    }

    /// All of it.
    pub(super) fn state(&self) -> State {
        State { kind: self.ledger.kind.clone(), ..self.state.clone() }
    }

    /// Whether there is anything of it here.
    pub(super) fn has_content(&self) -> bool {
        self.ledger.kind.is_some() && (self.state.at.is_some() || !self.state.tail.is_empty())
    }

    /// Whether there are updates in this that are not in the other, as far as can be seen by their numbers.
    pub(super) fn has_more_than(&self, other: &Self) -> bool {
        let theirs = &other.ledger.numbers;
        self.ledger.numbers.iter().any(|(origin, replica, taken)| theirs.last(origin, replica) < taken.number)
    }

    /// What makes this of what the store has of the document: little, where that is the same up to where it goes.
    pub(super) fn written_over(&mut self, name: &str, before: Option<&Self>) -> Vec<StoreChange> {
        let was = before.and_then(|before| before.written);
        self.written = self.ledger.at;
        if let Some(records) = before.and_then(|before| self.beyond(before)) {
            let append = |entry: &Entry| {
                let bytes = wire::encode_record(entry.origin, &entry.update);
                let record = Record { position: entry.position, bytes };
                StoreChange::Append { name: name.to_owned(), record }
            };
            return records.iter().map(append).collect();
        }
        // Of a host that did not rise above it.
        let is_older = was > self.written;
        let remove = is_older.then(|| StoreChange::Remove { name: name.to_owned() });
        let base = self.written.map(|position| Base { position, bytes: self.state().encode() });
        let replace = base.map(|base| StoreChange::Replace { name: name.to_owned(), base });
        remove.into_iter().chain(replace).collect()
    }

    /// The records that this has behind what the store was told of the other, if otherwise both are the same: up to there, the same updates had the same places.
    pub(super) fn beyond<'a>(&'a self, other: &Self) -> Option<&'a [Entry]> {
        let written = other.written.filter(|_| !other.is_ahead)?;
        if self.state.at > Some(written) || self.ledger.at < Some(written) {
            return None;
        }
        let (before, behind) =
            self.state.tail.split_at(self.state.tail.partition_point(|entry| entry.position <= written));
        let mut up_to =
            Ledger { kind: self.state.kind.clone(), numbers: self.state.numbers.clone(), at: self.state.at };
        for entry in before {
            up_to.counted(entry).ok()?;
        }
        let is_same = (up_to.kind.is_none() || up_to.kind == other.ledger.kind)
            && up_to.numbers.is_as_far_as(&other.ledger.numbers);
        is_same.then_some(behind)
    }

    /// The name, the type and the size, if there is a document.
    pub(super) fn listed<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a str, usize)> {
        Some((name, self.ledger.kind.as_deref()?, self.size()))
    }

    /// The bytes of the document and of its records.
    pub(super) fn size(&self) -> usize {
        self.state.snapshot.len() + self.tail_bytes
    }

    /// What it takes of the room for all documents, about.
    pub(super) fn weight(&self) -> usize {
        DOCUMENT + self.base_bytes + self.tail_bytes + self.ledger.numbers.len() * REPLICA
    }

    /// Counts it as what it takes now.
    pub(super) fn weigh(&mut self, all: &mut usize) {
        self.take_from(all);
        self.weighed = self.weight();
        *all += self.weighed;
    }

    /// Counts it no more.
    pub(super) fn take_from(&mut self, all: &mut usize) {
        *all -= std::mem::take(&mut self.weighed);
    }
}

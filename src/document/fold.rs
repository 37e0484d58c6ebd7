//! A document in its order: which updates count, and what they make of it. The same on every node, whatever was sent twice.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::Position;

use super::wire::{Entry, Live, State, Update};
use super::{Conflict, Document, Malformed, Model};

/// What was taken of each endpoint's replicas: exactly the next one is taken, others are passed over. So what is sent again after a loss counts once, even
/// where the cluster itself has forgotten who sent it. What an endpoint says under the number of another's replica is of a replica of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Numbers(BTreeMap<(u64, EndpointId), Taken>);

/// What was taken of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The last.
    pub(crate) number: u64,
    /// Where that stands.
    pub(crate) position: Position,
    /// Those that did not apply, as ranges from and to: whoever made them may not have been there to see it.
    pub(crate) refused: Vec<(u64, u64)>,
}

impl Numbers {
    /// Of how many replicas that is remembered (a guess: of many more than have a document open at once). Beyond, the one that was silent for longest is forgotten.
    pub(crate) const MOST: usize = 1_024;
    /// How many ranges of refused ones are remembered of a replica, the latest ones (a guess: it has to miss so many of its own fates to notice).
    pub(crate) const MOST_REFUSED: usize = 32;

    /// Whether this update is the next of its replica, which is so noted.
    pub(crate) fn take(&mut self, origin: EndpointId, replica: u64, number: u64, position: Position) -> bool {
        if let Some(taken) = self.0.get_mut(&(replica, origin)) {
            let is_next = number == taken.number + 1;
            if is_next {
                (taken.number, taken.position) = (number, position);
            }
            return is_next;
        }
        if number != 1 {
            return false;
        }
        if self.0.len() >= Self::MOST {
            let oldest = self.0.iter().min_by_key(|(_, taken)| taken.position).map(|(whose, _)| *whose);
            oldest.and_then(|whose| self.0.remove(&whose));
        }
        self.0.insert((replica, origin), Taken { number, position, refused: Vec::new() });
        true
    }

    /// Whether others of its replica must have come before this update, which are not known here.
    pub(crate) fn misses(&self, origin: EndpointId, replica: u64, number: u64) -> bool {
        number > self.last(origin, replica) + 1
    }

    /// What was taken last of this replica did not apply.
    pub(crate) fn refuse(&mut self, origin: EndpointId, replica: u64) {
        let Some(taken) = self.0.get_mut(&(replica, origin)) else { return };
        match taken.refused.last_mut().filter(|(_, last)| last + 1 == taken.number) {
            Some((_, last)) => *last = taken.number,
            None => taken.refused.push((taken.number, taken.number)),
        }
        if taken.refused.len() > Self::MOST_REFUSED {
            taken.refused.remove(0);
        }
    }

    /// Whether this update had its place, and did not apply.
    pub(crate) fn was_refused(&self, origin: EndpointId, replica: u64, number: u64) -> bool {
        let is_in = |(first, last): &(u64, u64)| (*first..=*last).contains(&number);
        self.of(origin, replica).is_some_and(|taken| taken.refused.iter().any(is_in))
    }

    /// The last that was taken of an endpoint's replica, 0 for none.
    pub(crate) fn last(&self, origin: EndpointId, replica: u64) -> u64 {
        self.of(origin, replica).map_or(0, |taken| taken.number)
    }

    /// Whether an update that had its place once is among those that were taken. Of a replica that may have been forgotten, it is taken to be.
    pub(crate) fn may_have(&self, origin: EndpointId, replica: u64, number: u64) -> bool {
        match self.of(origin, replica) {
            Some(taken) => taken.number >= number,
            None => self.0.len() >= Self::MOST,
        }
    }

    fn of(&self, origin: EndpointId, replica: u64) -> Option<&Taken> {
        self.0.get(&(replica, origin))
    }

    /// Whether the same updates were the last ones that were taken, at the same places. What did not apply may be known of one of the two alone.
    pub(super) fn is_as_far_as(&self, other: &Self) -> bool {
        let last = |(whose, taken): (&(u64, EndpointId), &Taken)| (*whose, taken.number, taken.position);
        self.0.iter().map(last).eq(other.0.iter().map(last))
    }

    pub(crate) fn set(&mut self, origin: EndpointId, replica: u64, taken: Taken) {
        self.0.insert((replica, origin), taken);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// By the replicas' numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EndpointId, u64, &Taken)> {
        self.0.iter().map(|((replica, origin), taken)| (*origin, *replica, taken))
    }
}

/// What is known of a document without knowing its type: what was taken of it, and of which type it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// Set by the first update, or the seed, that was taken; those of other types are passed over.
    pub(crate) kind: Option<String>,
    pub(crate) numbers: Numbers,
    /// Up to where all was looked at.
    pub(crate) at: Option<Position>,
}

impl Ledger {
    /// Whether this stands behind all that was looked at, which then ends with it.
    pub(crate) fn reaches(&mut self, position: Position) -> bool {
        let is_new = self.at.is_none_or(|at| at < position);
        if is_new {
            self.at = Some(position);
        }
        is_new
    }

    /// Whether an update counts.
    pub(crate) fn takes(&mut self, position: Position, origin: EndpointId, update: &Update) -> bool {
        let fits = self.kind.as_ref().is_none_or(|kind| *kind == update.kind);
        let takes = fits && self.numbers.take(origin, update.replica, update.number, position);
        if takes && self.kind.is_none() {
            self.kind = Some(update.kind.clone());
        }
        takes
    }

    /// Whether others must have come before this update, which are not known here.
    pub(crate) fn misses(&self, position: Position, origin: EndpointId, update: &Update) -> bool {
        let is_new = self.at.is_none_or(|at| at < position);
        let fits = self.kind.as_ref().is_none_or(|kind| *kind == update.kind);
        is_new && fits && self.numbers.misses(origin, update.replica, update.number)
    }

    /// The update of a record, if it counts in its place.
    pub(crate) fn counted(&mut self, entry: &Entry) -> Result<Option<Update>, Malformed> {
        let Ok(Live::Update(update)) = Live::decode(&entry.update) else {
            return Err(Malformed::new("a record that is no update"));
        };
        let counts = self.reaches(entry.position) && self.takes(entry.position, entry.origin, &update);
        Ok(counts.then_some(update))
    }

    /// A seed, if it counts: it does where nothing was taken before, and it makes sense.
    pub(crate) fn takes_seed(
        &mut self,
        seed: &Bytes,
        makes_sense: impl FnOnce(&State) -> bool,
    ) -> Option<State> {
        if self.kind.is_some() {
            return None;
        }
        let state = State::decode(seed).ok().filter(|state| state.kind.is_some() && state.tail.is_empty())?;
        if !makes_sense(&state) {
            return None;
        }
        self.kind.clone_from(&state.kind);
        self.numbers.clone_from(&state.numbers);
        Some(state)
    }
}

/// A document, and what is known of it.
#[derive(Debug)]
pub(crate) struct Folded<D> {
    pub(crate) ledger: Ledger,
    pub(crate) document: D,
}

impl<D: Document> Folded<D> {
    pub(crate) fn empty() -> Self {
        Self { ledger: Ledger::default(), document: D::empty() }
    }

    /// The document of a state, with its tail, for a replica of this number, if for one; up to where it goes, it says itself.
    pub(crate) fn of(state: &State, replica: Option<u64>) -> Result<Self, Malformed> {
        if state.kind.as_ref().is_some_and(|kind| kind != D::KIND) {
            return Err(Malformed::new("a document of another type"));
        }
        let mut ledger = Ledger { kind: state.kind.clone(), numbers: state.numbers.clone(), at: state.at };
        let snapshot = state.at.is_some().then_some(&state.snapshot[..]);
        let document = match D::MODEL {
            Model::Commutative => {
                let mut fragments = Vec::new();
                for entry in &state.tail {
                    let update = ledger.counted(entry)?;
                    // What makes no sense has its place and no effect.
                    fragments.extend(
                        update.and_then(|update| decode_all::<D>(&update).ok()).into_iter().flatten(),
                    );
                }
                let document = D::rebuild(snapshot, &fragments, replica)?;
                if document.is_broken() {
                    return Err(Malformed::new("a fragment of it breaks it"));
                }
                document
            }
            Model::Ordered => {
                let mut document = snapshot.map_or_else(|| Ok(D::empty()), D::restore)?;
                for entry in &state.tail {
                    let Some(update) = ledger.counted(entry)? else { continue };
                    let fragments = decode_all::<D>(&update).ok();
                    if fragments.and_then(|fragments| apply_all(&mut document, &fragments).ok()).is_none() {
                        // A conflict has its place in the order, and no effect.
                        ledger.numbers.refuse(entry.origin, update.replica);
                    }
                }
                document
            }
        };
        Ok(Self { ledger, document })
    }

    /// The document as it travels, as it is now.
    pub(crate) fn state(&self) -> State {
        State {
            kind: self.ledger.kind.clone(),
            at: self.ledger.at,
            numbers: self.ledger.numbers.clone(),
            snapshot: Bytes::from(self.document.snapshot()),
            tail: Vec::new(),
            read_only: false,
        }
    }
}

pub(crate) fn decode_all<D: Document>(update: &Update) -> Result<Vec<D::Fragment>, Malformed> {
    update.fragments().map(|fragment| D::decode(&fragment)).collect()
}

/// Applies all fragments of an ordered document, or none. Those of a commutative one stand each for itself.
pub(crate) fn apply_all<D: Document>(
    document: &mut D,
    fragments: &[D::Fragment],
) -> Result<Vec<D::Change>, Conflict> {
    match fragments {
        [fragment] => Ok(vec![document.apply(fragment)?]),
        fragments if D::MODEL == Model::Commutative => {
            let applied: Vec<_> = fragments.iter().map(|fragment| document.apply(fragment)).collect();
            let (changes, conflicts): (Vec<_>, Vec<_>) = applied.into_iter().partition(Result::is_ok);
            match conflicts.into_iter().find_map(Result::err).filter(|_| changes.is_empty()) {
                Some(conflict) => Err(conflict),
                None => Ok(changes.into_iter().filter_map(Result::ok).collect()),
            }
        }
        fragments => {
            let mut fork = document.fork();
            let changes = fragments.iter().map(|fragment| fork.apply(fragment)).collect::<Result<_, _>>()?;
            *document = fork;
            Ok(changes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Position {
        Position { epoch: 1, seq }
    }

    const ME: EndpointId = EndpointId::from_bytes([1; 16]);
    const OTHER: EndpointId = EndpointId::from_bytes([2; 16]);

    #[test]
    fn exactly_the_next_is_taken_of_each_endpoints_own() {
        let mut numbers = Numbers::default();
        assert!(!numbers.take(ME, 7, 2, at(1)));
        assert!(numbers.take(ME, 7, 1, at(2)));
        assert!(!numbers.take(ME, 7, 1, at(3)));
        assert!(!numbers.take(ME, 7, 3, at(4)));
        assert!(!numbers.take(OTHER, 7, 2, at(5)));
        assert!(numbers.take(OTHER, 7, 1, at(6)));
        assert!(numbers.take(ME, 7, 2, at(7)));
        assert_eq!((numbers.last(ME, 7), numbers.last(OTHER, 7), numbers.last(ME, 8)), (2, 1, 0));
    }

    #[test]
    fn the_one_that_was_silent_for_longest_is_forgotten() {
        let mut numbers = Numbers::default();
        for replica in 1..=Numbers::MOST as u64 {
            assert!(numbers.take(ME, replica, 1, at(replica)));
        }
        assert!(numbers.take(ME, 1, 2, at(5_000)));
        assert!(numbers.take(ME, 9_999, 1, at(5_001)));
        assert_eq!((numbers.len(), numbers.last(ME, 1), numbers.last(ME, 2)), (Numbers::MOST, 2, 0));
    }
}

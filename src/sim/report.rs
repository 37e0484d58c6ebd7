//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Fault;

/// What came of one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How long the run took on its own clock.
    pub simulated: Duration,
    /// Steps taken.
    pub events: u64,
    /// How often each kind of fault came.
    pub faults: BTreeMap<Fault, u64>,
    /// Messages that the machines accepted.
    pub accepted: u64,
    /// Messages that hosts gave a place.
    pub ordered: u64,
    /// Messages delivered to members, each checked.
    pub delivered: u64,
    /// Jumps that members were told of.
    pub resets: u64,
    /// Members evicted.
    pub evictions: u64,
    /// Windows sent again.
    pub repaired: u64,
    /// Messages whose senders were told that their fate is unknown.
    pub unknown: u64,
    /// What was done to documents.
    pub documents: DocumentCounts,
    /// A sum over all that happened: two runs of one seed have the same.
    pub digest: u64,
    /// The first thing that was not as promised.
    pub violation: Option<Violation>,
}

/// What was done to documents, in runs that have some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DocumentCounts {
    /// How often members opened one.
    pub opened: u64,
    /// How often one could not be had: nobody answered.
    pub unavailable: u64,
    /// Edits that replicas accepted.
    pub edits: u64,
    /// Those of them that did not apply in their places.
    pub refused: u64,
    /// Whole documents that replicas gave to a host that had lost them, and that counted.
    pub seeds: u64,
    /// How often the keeper folded one.
    pub folds: u64,
    /// Updates that somebody said in another's name.
    pub forged: u64,
    /// How often it changed who may do what.
    pub rights: u64,
    /// Messages that the host refused, since their senders may not say them.
    pub forbidden: u64,
    /// Openings that ended, since it may not even be read any more.
    pub denied: u64,
    /// How often another keeper took the place of one that had fallen behind.
    pub keepers: u64,
    /// States of replicas and keepers that were compared with what was ordered.
    pub compared: u64,
    /// States of keepers on members that were compared with it.
    pub mirrored: u64,
}

impl DocumentCounts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.unavailable += other.unavailable;
        self.edits += other.edits;
        self.refused += other.refused;
        self.seeds += other.seeds;
        self.folds += other.folds;
        self.forged += other.forged;
        self.rights += other.rights;
        self.forbidden += other.forbidden;
        self.denied += other.denied;
        self.keepers += other.keepers;
        self.compared += other.compared;
        self.mirrored += other.mirrored;
    }
}

/// Something that was not as promised.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The invariant, by its number in `docs/simulation.md`; 0 for a machine that breaks its own contract.
    pub invariant: u8,
    /// When, on the run's clock.
    pub at: Duration,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {:.1?} simulated in {} steps, {} messages accepted, {} ordered, {} deliveries, {} resets, {} evictions, \
             {} windows repaired, {} of unknown fate",
            self.seed,
            self.simulated,
            self.events,
            self.accepted,
            self.ordered,
            self.delivered,
            self.resets,
            self.evictions,
            self.repaired,
            self.unknown,
        )?;
        if let Some(violation) = &self.violation {
            write!(f, "\n{violation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {} broken after {:.6?}: {}", self.invariant, self.at, self.what)
    }
}

//! The two types of documents that are played with: small, and such that what went wrong shows.

use std::collections::BTreeSet;

use crate::document::{Conflict, Document, Malformed, Merged, Model};

/// An edit has a number that no other has, so that one that is missing, or there twice, shows.
pub(super) type Edit = u32;

/// An ordered document: a log. An entry may say behind which one alone it may stand (a compare-and-set).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Log(pub(super) Vec<Edit>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) edit: Edit,
    /// The entry that has to be the last one; 0 for none at all.
    pub(super) behind: Option<Edit>,
}

fn edits(bytes: &[u8]) -> Result<Vec<Edit>, Malformed> {
    let (edits, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() {
        Ok(edits.iter().map(|edit| Edit::from_be_bytes(*edit)).collect())
    } else {
        Err(Malformed::new("no edits"))
    }
}

fn bytes<'a>(edits: impl IntoIterator<Item = &'a Edit>) -> Vec<u8> {
    edits.into_iter().flat_map(|edit| edit.to_be_bytes()).collect()
}

impl Document for Log {
    const KIND: &'static str = "sim.log";
    const MODEL: Model = Model::Ordered;
    type Fragment = Line;
    type Change = Edit;

    fn empty() -> Self {
        Self::default()
    }

    fn apply(&mut self, line: &Line) -> Result<Edit, Conflict> {
        match line.behind {
            Some(behind) if behind != self.0.last().copied().unwrap_or(0) => Err(Conflict::new("too late")),
            _ => {
                self.0.push(line.edit);
                Ok(line.edit)
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        bytes(&self.0)
    }

    fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
        edits(snapshot).map(Self)
    }

    fn encode(line: &Line) -> Vec<u8> {
        bytes([line.edit].iter().chain(&line.behind))
    }

    fn decode(fragment: &[u8]) -> Result<Line, Malformed> {
        match edits(fragment)?.as_slice() {
            [edit] => Ok(Line { edit: *edit, behind: None }),
            [edit, behind] => Ok(Line { edit: *edit, behind: Some(*behind) }),
            _ => Err(Malformed::new("no line")),
        }
    }
}

/// A commutative one: a set that grows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Facts(pub(super) BTreeSet<Edit>);

impl Document for Facts {
    const KIND: &'static str = "sim.facts";
    const MODEL: Model = Model::Commutative;
    type Fragment = Vec<Edit>;
    type Change = ();

    fn empty() -> Self {
        Self::default()
    }

    fn apply(&mut self, facts: &Vec<Edit>) -> Result<(), Conflict> {
        self.0.extend(facts);
        Ok(())
    }

    fn snapshot(&self) -> Vec<u8> {
        bytes(&self.0)
    }

    fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
        Ok(Self(edits(snapshot)?.into_iter().collect()))
    }

    fn encode(facts: &Vec<Edit>) -> Vec<u8> {
        bytes(facts)
    }

    fn decode(fragment: &[u8]) -> Result<Vec<Edit>, Malformed> {
        edits(fragment)
    }

    fn merge(&mut self, other: Self) -> Result<Merged<Self>, Conflict> {
        let lacking: Vec<Edit> = self.0.difference(&other.0).copied().collect();
        self.0.extend(other.0);
        Ok(Merged { change: None, lacking: (!lacking.is_empty()).then_some(lacking) })
    }
}

/// What the simulator wants to know of a type.
pub(super) trait Played: Document {
    /// The edits that are in it.
    fn edits(&self) -> Vec<Edit>;
    /// Makes edits; with `strict`, they stand behind what is there now or nowhere.
    fn fragments(&self, edits: &[Edit], strict: bool) -> Vec<Self::Fragment>;
    /// The edits that a fragment makes.
    fn named(fragment: &Self::Fragment) -> Vec<Edit>;
}

impl Played for Log {
    fn edits(&self) -> Vec<Edit> {
        self.0.clone()
    }

    fn fragments(&self, edits: &[Edit], strict: bool) -> Vec<Line> {
        let last = self.0.last().copied().unwrap_or(0);
        let behind = std::iter::once(&last).chain(edits);
        let line = |(edit, behind): (&Edit, &Edit)| Line { edit: *edit, behind: strict.then_some(*behind) };
        edits.iter().zip(behind).map(line).collect()
    }

    fn named(line: &Line) -> Vec<Edit> {
        vec![line.edit]
    }
}

impl Played for Facts {
    fn edits(&self) -> Vec<Edit> {
        self.0.iter().copied().collect()
    }

    fn fragments(&self, edits: &[Edit], _: bool) -> Vec<Vec<Edit>> {
        edits.iter().map(|edit| vec![*edit]).collect()
    }

    fn named(facts: &Vec<Edit>) -> Vec<Edit> {
        facts.clone()
    }
}

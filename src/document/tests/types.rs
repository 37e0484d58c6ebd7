//! Documents to test with.

use std::collections::BTreeSet;

use super::super::{Conflict, Document, Malformed, Merged, Model};

/// A line of bytes; a fragment may say how long it has to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Line(pub(super) Vec<u8>);

pub(super) type Part = (Vec<u8>, Option<u8>);

impl Document for Line {
    const KIND: &'static str = "test.line";
    const MODEL: Model = Model::Ordered;
    type Fragment = Part;
    type Change = ();

    fn empty() -> Self {
        Self::default()
    }

    fn apply(&mut self, (text, at): &Part) -> Result<(), Conflict> {
        assert!(text != b"panic", "as asked");
        if at.is_some_and(|at| usize::from(at) != self.0.len()) {
            return Err(Conflict::new("not there any more"));
        }
        self.0.extend_from_slice(text);
        Ok(())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
        Ok(Self(snapshot.to_vec()))
    }

    fn encode((text, at): &Part) -> Vec<u8> {
        let mut bytes = text.clone();
        bytes.push(at.unwrap_or(u8::MAX));
        bytes
    }

    fn decode(fragment: &[u8]) -> Result<Part, Malformed> {
        let (at, text) = fragment.split_last().ok_or_else(|| Malformed::new("no part"))?;
        Ok((text.to_vec(), Some(*at).filter(|at| *at != u8::MAX)))
    }
}

/// Bytes that were there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::document) struct Set(pub(in crate::document) BTreeSet<u8>);

impl Document for Set {
    const KIND: &'static str = "test.set";
    const MODEL: Model = Model::Commutative;
    type Fragment = Vec<u8>;
    type Change = ();

    fn empty() -> Self {
        Self::default()
    }

    fn apply(&mut self, bytes: &Vec<u8>) -> Result<(), Conflict> {
        self.0.extend(bytes);
        Ok(())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.iter().copied().collect()
    }

    fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
        Ok(Self(snapshot.iter().copied().collect()))
    }

    fn encode(bytes: &Vec<u8>) -> Vec<u8> {
        bytes.clone()
    }

    fn decode(fragment: &[u8]) -> Result<Vec<u8>, Malformed> {
        Ok(fragment.to_vec())
    }

    fn merge(&mut self, other: Self) -> Result<Merged<Self>, Conflict> {
        let lacking: Vec<u8> = self.0.difference(&other.0).copied().collect();
        self.0.extend(other.0);
        Ok(Merged { change: None, lacking: (!lacking.is_empty()).then_some(lacking) })
    }
}

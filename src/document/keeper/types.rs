//! What a keeper can do with documents of types that it knows, which it is told as plain functions.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::message::Position;

use super::super::fold::Folded;
use super::super::wire::State;
use super::super::{Document, Malformed, Model};

/// Folds records into a document of some type.
pub(crate) type Fold = fn(&State) -> Result<State, Malformed>;

/// Finds out what of a document another state of it lacks: encoded fragments. Of an ordered document that is nothing.
pub(crate) type Lacking = fn(&State, &State) -> Result<Vec<Vec<u8>>, Malformed>;

/// Whether a state makes sense.
type Check = fn(&State) -> Result<(), Malformed>;

/// What is known of a type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownType {
    pub(crate) fold: Fold,
    lacking: Lacking,
    check: Check,
}

/// The types that are known, by their names.
pub(crate) type Types = BTreeMap<String, KnownType>;

impl KnownType {
    pub(crate) fn of<D: Document>() -> Self {
        Self { fold: fold::<D>, lacking: lacking::<D>, check: check::<D> }
    }
}

/// The way to fold documents of a type.
fn fold<D: Document>(state: &State) -> Result<State, Malformed> {
    let folded = Folded::<D>::of(state, None)?;
    Ok(State { read_only: state.read_only, ..folded.state() })
}

/// As [`fold`], without what takes most of the time: a snapshot.
fn check<D: Document>(state: &State) -> Result<(), Malformed> {
    Folded::<D>::of(state, None).map(drop)
}

fn lacking<D: Document>(ours: &State, theirs: &State) -> Result<Vec<Vec<u8>>, Malformed> {
    if D::MODEL == Model::Ordered {
        return Ok(Vec::new());
    }
    let (mut ours, theirs) = (Folded::<D>::of(ours, None)?, Folded::<D>::of(theirs, None)?);
    let merged = ours.document.merge(theirs.document);
    let merged = merged.map_err(|conflict| Malformed::new(conflict.to_string()))?;
    Ok(merged.lacking.iter().map(D::encode).collect())
}

/// Whether this makes sense to its type, as far as that is known.
pub(super) fn makes_sense(types: &Types, at: Position, state: &State) -> bool {
    let Some(KnownType { check, .. }) = state.kind.as_ref().and_then(|kind| types.get(kind)) else {
        return true;
    };
    let state = State { at: Some(at), ..state.clone() };
    catch_unwind(AssertUnwindSafe(|| check(&state).is_ok())).unwrap_or(false)
}

/// What is to be looked at to find out what the cluster lacks of a document, and takes time where that is large.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(super) ours: State,
    /// `None` where there is nothing of it.
    pub(super) theirs: Option<State>,
    pub(super) known: Option<KnownType>,
}

/// What the cluster lacks of a document.
#[derive(Debug)]
pub(crate) enum Lacks {
    Nothing,
    /// The document, without records.
    All(State),
    /// Encoded fragments.
    Some(Vec<Vec<u8>>),
}

impl Comparison {
    pub(crate) fn run(self) -> Lacks {
        let Self { ours, theirs, known } = self;
        let compare = || match (theirs, known) {
            (None, _) if ours.tail.is_empty() => Ok(Lacks::All(ours)),
            (None, Some(known)) => (known.fold)(&ours).map(Lacks::All),
            (Some(theirs), Some(known)) => (known.lacking)(&ours, &theirs).map(Lacks::Some),
            (_, None) => Ok(Lacks::Nothing),
        };
        // What makes no sense, or makes its type panic, is nothing to be given.
        match catch_unwind(AssertUnwindSafe(compare)) {
            Ok(Ok(Lacks::Some(fragments))) if fragments.is_empty() => Lacks::Nothing,
            Ok(Ok(lacks)) => lacks,
            _ => Lacks::Nothing,
        }
    }
}

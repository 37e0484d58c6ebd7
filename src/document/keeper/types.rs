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

/// What is known of a type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownType {
    pub(crate) fold: Fold,
    pub(super) lacking: Lacking,
}

/// The types that are known, by their names.
pub(crate) type Types = BTreeMap<String, KnownType>;

impl KnownType {
    pub(crate) fn of<D: Document>() -> Self {
        Self { fold: fold::<D>, lacking: lacking::<D> }
    }
}

/// The way to fold documents of a type.
fn fold<D: Document>(state: &State) -> Result<State, Malformed> {
    let folded = Folded::<D>::of(state, None)?;
    Ok(State { read_only: state.read_only, ..folded.state() })
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
    let Some(KnownType { fold, .. }) = state.kind.as_ref().and_then(|kind| types.get(kind)) else {
        return true;
    };
    let state = State { at: Some(at), ..state.clone() };
    catch_unwind(AssertUnwindSafe(|| fold(&state).is_ok())).unwrap_or(false)
}

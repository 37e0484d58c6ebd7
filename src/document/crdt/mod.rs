//! Documents that commute: texts, maps, arrays, sheets and canvases that any number of nodes change at once, and that come out equal.
//!
//! They are Yjs documents, by way of yrs: a fragment is a Yjs update (version 1 of the encoding), a snapshot is one with everything in it, and a Yjs program
//! reads and writes them. Each type says which roots it keeps its content in.
//!
//! Fragments may come in any order, and twice. One that comes before what it builds on waits for that; nobody sees it until then. Replicas that have taken in
//! the same fragments hold the same, and their snapshots are the same bytes. (Those of a text may not be, in which a Yjs program embedded objects of several
//! keys: their keys come in any order.)
//!
//! Fragments come from other nodes, so they may be anything. Each is looked through before yrs sees it: lengths, nesting, and that it holds only what a
//! document of its type may hold: no types within types, no documents within documents. yrs may panic all the same on an update that is well formed and
//! makes no sense. The panic ends there; the document is broken from then on, and says [`Conflict`](super::Conflict) to whatever comes after, while others
//! go on. (Where panics abort, it is the process that ends.)
//!
//! A document makes fragments once it has a [replica number](super::Document::set_replica). Two replicas must never have the same, at any time: what they
//! make would go by the same names, and no two would agree any more. Copies ([`fork`](super::Document::fork)) have none.

mod array;
mod axis;
mod canvas;
mod circle;
mod engine;
mod fraction;
mod map;
mod run;
mod scan;
mod sheet;
#[cfg(test)]
mod tests;
mod text;
mod undo;
mod value;
mod watch;
mod workload;

pub use array::Array;
pub use axis::Lines;
pub use canvas::{Canvas, CanvasChange, Shape};
pub use map::{KeyChange, Map};
pub use sheet::{Sheet, SheetChange};
pub use text::{Patch, Text};
pub use undo::Undo;
pub use value::Value;
pub use watch::Splice;

/// What all documents of this module do alike: the functions of [`Document`](super::Document), by way of `new` and `follow`.
macro_rules! shared {
    ($shape:ty) => {
        fn set_replica(&mut self, number: u64) {
            self.engine.set_replica(number);
            // What was seen on the way is known.
            self.engine.shape().forget();
        }

        fn empty() -> Self {
            Self::new(Engine::new(None))
        }

        fn apply(&mut self, fragment: &Bytes) -> Result<Self::Change, Conflict> {
            self.engine.apply(fragment)?;
            Ok(self.follow())
        }

        fn replay(&mut self, fragments: &[Bytes]) -> Vec<Self::Change> {
            if self.engine.replay(fragments) { vec![self.follow()] } else { Vec::new() }
        }

        fn snapshot(&self) -> Vec<u8> {
            self.engine.snapshot()
        }

        fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
            Self::rebuild(Some(snapshot), &[], None)
        }

        fn rebuild(
            snapshot: Option<&[u8]>,
            fragments: &[Bytes],
            replica: Option<u64>,
        ) -> Result<Self, Malformed> {
            Engine::rebuild(snapshot, fragments, replica).map(Self::new)
        }

        fn is_broken(&self) -> bool {
            self.engine.is_broken()
        }

        fn encode(fragment: &Bytes) -> Vec<u8> {
            fragment.to_vec()
        }

        fn decode(fragment: &[u8]) -> Result<Bytes, Malformed> {
            engine::check::<$shape>(fragment)?;
            Ok(Bytes::copy_from_slice(fragment))
        }

        fn fork(&self) -> Self {
            Self::new(self.engine.fork())
        }

        fn merge(&mut self, other: Self) -> Result<Merged<Self>, Conflict> {
            let lacking = self.engine.merge(&other.engine)?;
            let change = self.follow();
            Ok(Merged { change: (!change.is_empty()).then_some(change), lacking })
        }
    };
}
use shared;

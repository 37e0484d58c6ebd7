//! Documents that commute: texts, maps, arrays, sheets and canvases that any number of nodes change at once, and that come out equal.
//!
//! They are Yjs documents, by way of yrs: a fragment is a Yjs update (version 1 of the encoding), a snapshot is one with everything in it, and a Yjs program
//! reads and writes them. Each type says which root it keeps its content in.
//!
//! Fragments come from other nodes, so they may be anything. Each is looked through before yrs sees it: lengths, nesting, and that it holds only what a
//! document of its type may hold. yrs may panic on an update that is well formed and makes no sense; the panic ends there, the document is then broken,
//! and says [`Conflict`](super::Conflict) to whatever comes after, while others go on. (Where panics abort, it is the process that ends.)
//!
//! Two replicas with the same fragments hold the same content, though their snapshots may differ in bytes: those say also how the content came to be in
//! pieces. `same_history` of each type compares them.

mod array;
mod axis;
mod canvas;
mod engine;
mod fraction;
mod map;
mod scan;
mod sheet;
#[cfg(test)]
mod tests;
mod text;
mod undo;
mod value;
mod watch;

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

        fn snapshot(&self) -> Vec<u8> {
            self.engine.snapshot()
        }

        fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
            Engine::restore(snapshot).map(Self::new)
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

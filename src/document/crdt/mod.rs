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

mod engine;
mod scan;
#[cfg(test)]
mod tests;
mod text;
mod undo;

pub use text::{Patch, Text};
pub use undo::Undo;

/// What all documents of this kind do alike.
macro_rules! shared {
    () => {
        fn set_replica(&mut self, number: u64) {
            self.engine.set_replica(number);
        }

        fn snapshot(&self) -> Vec<u8> {
            self.engine.snapshot()
        }

        fn encode(fragment: &bytes::Bytes) -> Vec<u8> {
            fragment.to_vec()
        }
    };
}
use shared;

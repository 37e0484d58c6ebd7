//! Undoing what one did oneself.

use bytes::Bytes;

use super::super::{Conflict, Document, Draft};

/// A document that can undo what was done here, and leaves alone what others did. Implemented by the types of this module.
///
/// A step is what one update did: one closure given to [`update`](crate::document::DocumentHandle::update). [`Draft::same_step`] makes one step of several, as editors do with what
/// is typed in one go. About the last 500 steps are kept, for as long as the document is open.
pub trait Undo: Document<Fragment = Bytes> + sealed::Undo {
    /// Whether there is something to undo.
    fn can_undo(&self) -> bool;
    /// Whether something was undone that can be done again.
    fn can_redo(&self) -> bool;
}

pub(super) mod sealed {
    use super::{Bytes, Conflict, Document};

    pub trait Undo: Document {
        fn step_back(&mut self, redo: bool) -> Result<(Vec<Bytes>, Self::Change), Conflict>;
        fn join_steps(&mut self);
        /// The change of a fragment that changes nothing.
        fn nothing() -> Self::Change;
    }
}

impl<D: Undo> Draft<'_, D> {
    /// Undoes the last step of this node. `false` if there is none, or others have undone it already.
    ///
    /// # Errors
    /// [`Conflict`]: the document is broken.
    pub fn undo(&mut self) -> Result<bool, Conflict> {
        self.step_back(false)
    }

    /// Does again what was undone last. `false` if there is nothing.
    ///
    /// # Errors
    /// [`Conflict`]: the document is broken.
    pub fn redo(&mut self) -> Result<bool, Conflict> {
        self.step_back(true)
    }

    /// Counts what this update does to the step before it. To be called before anything else is.
    pub fn same_step(&mut self) {
        self.document.join_steps();
    }

    fn step_back(&mut self, redo: bool) -> Result<bool, Conflict> {
        let (mut fragments, change) = self.document.step_back(redo)?;
        let Some(last) = fragments.pop() else { return Ok(false) };
        for fragment in fragments {
            self.record(fragment, D::nothing());
        }
        self.record(last, change);
        Ok(true)
    }
}

/// Undo for a type of this module, by way of its engine and `follow`.
macro_rules! undoable {
    ($document:ty) => {
        impl Undo for $document {
            fn can_undo(&self) -> bool {
                self.engine.can_undo(false)
            }

            fn can_redo(&self) -> bool {
                self.engine.can_undo(true)
            }
        }

        impl sealed::Undo for $document {
            fn step_back(&mut self, redo: bool) -> Result<(Vec<Bytes>, Self::Change), Conflict> {
                Ok((self.engine.undo(redo)?, self.follow()))
            }

            fn nothing() -> Self::Change {
                Vec::new()
            }

            fn join_steps(&mut self) {
                self.engine.join_steps();
            }
        }
    };
}
pub(super) use undoable;

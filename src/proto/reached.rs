//! How far an endpoint has come, over several hosts.

use crate::message::Position;

/// A position, as an endpoint came to it. Within one incarnation of the host positions grow. The
/// next incarnation may have lower ones, if its clock was behind, and all of them are later all the
/// same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reached {
    /// Counts the incarnations that the endpoint followed.
    pub(crate) reign: u64,
    pub(crate) position: Position,
}

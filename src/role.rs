//! Roles: what an endpoint may do in its cluster.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an endpoint is in its cluster, and so what it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[repr(u8)]
pub enum Role {
    /// Gives messages their order and publishes them.
    Host = 0,
    /// Receives, and may not send anything but questions for documents.
    ReadOnly = 1,
    /// Sends and receives.
    Member = 2,
}

impl Role {
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Host,
            1 => Self::ReadOnly,
            2 => Self::Member,
            _ => return None,
        })
    }

    /// Whether such an endpoint may send messages.
    #[must_use]
    pub const fn may_send(self) -> bool {
        !matches!(self, Self::ReadOnly)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::ReadOnly => "read-only",
            Self::Member => "member",
        })
    }
}

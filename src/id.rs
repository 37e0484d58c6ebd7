//! Identities: who an endpoint is, and which session of it speaks.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of an endpoint: a UUID, unique in its cluster.
///
/// Every message carries the id of the endpoint that sent it as its
/// [`origin`](crate::Message::origin); that is how a sender knows its echo.
///
/// ```
/// use zincmq::EndpointId;
///
/// let id = EndpointId::random();
/// assert_eq!(id.to_string().parse::<EndpointId>()?, id);
/// # Ok::<(), zincmq::IdError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointId(Uuid);

impl EndpointId {
    /// The id of no endpoint: all bits zero. Never admitted to a cluster.
    pub const NIL: Self = Self(Uuid::nil());

    /// A fresh random id (UUID version 4).
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "the application asks for it; machines get their id as an input"
    )]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id made of these sixteen bytes, in the order the wire carries them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The sixteen bytes of the id, in the order the wire carries them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Whether this is [`EndpointId::NIL`].
    #[must_use]
    pub const fn is_nil(&self) -> bool {
        self.0.is_nil()
    }
}

impl From<Uuid> for EndpointId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl From<EndpointId> for Uuid {
    fn from(id: EndpointId) -> Self {
        id.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointId({})", self.0)
    }
}

/// A text that is not an [`EndpointId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an endpoint id: write a UUID such as 67e55044-10b1-426f-9247-bb680e5fe0c8")]
pub struct IdError {
    text: String,
}

impl FromStr for EndpointId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self).map_err(|_| IdError { text: text.to_owned() })
    }
}

/// The secret name of one session of a child with its parent.
///
/// The parent issues it in the join answer. It is the ZMTP identity of the child's
/// SUB socket and opens every submit batch, so it must be unguessable: sixteen bytes
/// from the operating system's generator. The first is never zero, because ZMTP
/// reserves identities that begin with a zero octet (RFC 23, "identity").
///
/// Its `Debug` form shows only the first two bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionToken([u8; 16]);

impl SessionToken {
    /// The length of a token on the wire, in bytes.
    pub const LENGTH: usize = 16;

    /// The token made of these bytes; `None` when the first is zero.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Option<Self> {
        if bytes[0] == 0 { None } else { Some(Self(bytes)) }
    }

    /// The token in this slice; `None` unless it is sixteen bytes of which the first is not zero.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Self::from_bytes(bytes.try_into().ok()?)
    }

    /// The bytes of the token.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionToken({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// Names one control connection at a parent: the ZMTP identity its ROUTER knows it by.
///
/// It is random per connection and says nothing about who the peer is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(Bytes);

impl PeerId {
    /// The peer with this identity.
    #[must_use]
    pub fn new(identity: Bytes) -> Self {
        Self(identity)
    }

    /// The identity's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerId(")?;
        for byte in &self.0 {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

//! The name a socket tells its peers.

use bytes::Bytes;

use super::command::MAX_IDENTITY;

/// The identity of a socket (RFC 28): ROUTER knows its peers by it. At most 255 octets, of which the first is no zero; empty for none.
///
/// ```
/// use zincmq::zmtp::{Identity, IdentityError, Options};
///
/// let mut options = Options::default();
/// options.identity = "worker-1".try_into()?;
/// assert_eq!(Identity::try_from("\0mine"), Err(IdentityError::BeginsWithZero));
/// # Ok::<(), IdentityError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Identity(Bytes);

/// Why octets are no identity. Peers would close a connection on which they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There are more than 255.
    #[error("an identity has at most 255 octets")]
    TooLong,
    /// That is kept for those that are given by ROUTER.
    #[error("an identity does not begin with a zero")]
    BeginsWithZero,
}

impl Identity {
    /// Its octets.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl TryFrom<Bytes> for Identity {
    type Error = IdentityError;

    fn try_from(bytes: Bytes) -> Result<Self, IdentityError> {
        if bytes.len() > MAX_IDENTITY {
            return Err(IdentityError::TooLong);
        }
        if bytes.first() == Some(&0) {
            return Err(IdentityError::BeginsWithZero);
        }
        Ok(Self(bytes))
    }
}

macro_rules! from {
    ($($type:ty: $make:expr),*) => {$(
        impl TryFrom<$type> for Identity {
            type Error = IdentityError;

            fn try_from(octets: $type) -> Result<Self, IdentityError> {
                Self::try_from($make(octets))
            }
        }
    )*};
}

from!(&[u8]: Bytes::copy_from_slice, Vec<u8>: Bytes::from, &str: (|text: &str| Bytes::copy_from_slice(text.as_bytes())), String: Bytes::from);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_that_peers_would_refuse_are_refused() {
        assert_eq!(Identity::try_from(""), Ok(Identity::default()));
        assert_eq!(Identity::try_from(vec![1; 255]).map(|identity| identity.as_bytes().len()), Ok(255));
        assert_eq!(Identity::try_from(vec![1; 256]), Err(IdentityError::TooLong));
        assert_eq!(Identity::try_from(&b"\0x"[..]), Err(IdentityError::BeginsWithZero));
    }
}

//! Headers: small named values beside a payload.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// The longest headers of one message, in encoded bytes (design: "headers, at most 1 KiB").
pub(crate) const MAX_HEADERS: usize = 1024;

/// Named values beside the payload of a message, in the order they were added.
///
/// A name is 1 to 255 bytes of UTF-8, a value any bytes. Each pair costs its bytes and three more; all together are
/// at most 1,024 bytes. A name may occur more than once. Cloning is cheap.
///
/// ```
/// use zincmq::Headers;
///
/// let mut headers = Headers::default();
/// headers.insert("trace", b"00-4bf92f35")?;
/// assert_eq!(headers.value("trace"), Some(&b"00-4bf92f35"[..]));
/// # Ok::<(), zincmq::HeadersError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Bytes);

/// Why headers were refused. They are as they were before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadersError {
    /// The name is empty or longer than 255 bytes.
    #[error("a header's name has 1 to 255 bytes, this one has {length}")]
    Name {
        /// The name's length in bytes.
        length: usize,
    },
    /// All headers together would be over 1,024 bytes.
    #[error(
        "the headers of a message have at most 1024 bytes, these would have {length}: put large values into the payload"
    )]
    TooLong {
        /// What the length would be, in encoded bytes.
        length: usize,
    },
    /// The bytes are not an encoding of headers.
    #[error("malformed headers")]
    Malformed,
}

impl Headers {
    /// Adds a pair at the end.
    ///
    /// # Errors
    /// [`HeadersError`]; nothing was added.
    pub fn insert(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HeadersError> {
        let value = value.as_ref();
        let name_length = match u8::try_from(name.len()) {
            Ok(length) if length > 0 => length,
            _ => return Err(HeadersError::Name { length: name.len() }),
        };
        let length = self.0.len() + 3 + name.len() + value.len();
        let value_length = match u16::try_from(value.len()) {
            Ok(value_length) if length <= MAX_HEADERS => value_length,
            _ => return Err(HeadersError::TooLong { length }),
        };
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_slice(&self.0);
        bytes.put_u8(name_length);
        bytes.put_slice(name.as_bytes());
        bytes.put_u16(value_length);
        bytes.put_slice(value);
        self.0 = bytes.freeze();
        Ok(())
    }

    /// The first value of this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            // Well-formed by construction: `insert` and `decode` are the only ways in.
            let (name, value, after) = split_pair(rest)?;
            rest = after;
            Some((name, value))
        })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The encoded bytes.
    pub(crate) fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Headers from their encoding.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, HeadersError> {
        Self::check(&bytes)?;
        Ok(Self(bytes))
    }

    /// Checks an encoding.
    pub(crate) fn check(bytes: &[u8]) -> Result<(), HeadersError> {
        if bytes.len() > MAX_HEADERS {
            return Err(HeadersError::TooLong { length: bytes.len() });
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (_, _, after) = split_pair(rest).ok_or(HeadersError::Malformed)?;
            rest = after;
        }
        Ok(())
    }
}

/// The first pair and what follows it; `None` at the end or when malformed.
fn split_pair(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (&name_length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(name_length.into())?;
    let (value_length, rest) = rest.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*value_length).into())?;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    Some((name, value, rest))
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_order_and_repeat_names() {
        let mut headers = Headers::default();
        headers.insert("a", b"1").unwrap();
        headers.insert("b", b"").unwrap();
        headers.insert("a", [0xff]).unwrap();
        let decoded = Headers::decode(headers.as_bytes().clone()).unwrap();
        assert_eq!(decoded.iter().collect::<Vec<_>>(), [("a", &b"1"[..]), ("b", b""), ("a", &[0xff])]);
        assert_eq!(decoded.value("a"), Some(&b"1"[..]));
        assert_eq!(decoded.value("c"), None);
    }

    #[test]
    fn headers_over_the_limit_are_refused_and_nothing_changes() {
        let mut headers = Headers::default();
        headers.insert("k", vec![0; 1020]).unwrap();
        assert_eq!(headers.insert("k", b""), Err(HeadersError::TooLong { length: 1028 }));
        assert_eq!(headers.iter().count(), 1);
        assert_eq!(headers.insert("", b""), Err(HeadersError::Name { length: 0 }));
        assert!(matches!(Headers::default().insert("k", vec![0; 70_000]), Err(HeadersError::TooLong { .. })));
    }

    #[test]
    fn malformed_encodings_are_refused() {
        for bytes in
            [&b"\x00"[..], b"\x01", b"\x01a\x00", b"\x01a\x00\x02x", b"\x01\xff\x00\x00", b"\x00\x00\x00"]
        {
            assert_eq!(Headers::check(bytes), Err(HeadersError::Malformed), "{bytes:?}");
        }
    }
}

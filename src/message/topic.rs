//! Topics: what a message is about, and what subscriptions match on.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a message is about: a text of 1 to 255 bytes of UTF-8 without control characters.
///
/// Subscriptions match by prefix, as everywhere in ZeroMQ: `"sensor."` matches `"sensor.1"`. By convention levels are
/// separated by dots. Cloning is cheap.
///
/// ```
/// use zincmq::Topic;
///
/// let topic: Topic = "sensor.1.temperature".parse()?;
/// assert!(topic.as_str().starts_with("sensor."));
/// assert!("".parse::<Topic>().is_err());
/// # Ok::<(), zincmq::TopicError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Arc<str>);

/// Where documents are (docs/protocol.md).
pub(crate) const DOCUMENTS: &str = "doc/";
/// Where answers about documents are.
pub(crate) const ANSWERS: &str = "doc-to/";
/// The longest name of a document, in bytes: with what is around it, a topic holds it.
pub(crate) const MAX_DOCUMENT_NAME: usize = 200;

impl Topic {
    /// Whether documents are talked of there: each of those messages counts.
    pub(crate) fn is_of_documents(&self) -> bool {
        [DOCUMENTS, ANSWERS].iter().any(|prefix| self.as_str().starts_with(prefix))
    }

    /// The name of the document that this is a topic of, empty for those of all documents, and whether it is where presence is told.
    pub(crate) fn document(&self) -> Option<(&str, bool)> {
        let (name, rest) = self.as_str().strip_prefix(DOCUMENTS)?.split_once('/')?;
        (name.len() <= MAX_DOCUMENT_NAME).then_some((name, rest == "p"))
    }

    /// The longest topic, in bytes of UTF-8: its length takes one octet on the wire.
    pub const MAX_LENGTH: usize = 255;

    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks a text against the rules for topics without keeping it.
    ///
    /// # Errors
    /// [`TopicError`] says which rule it breaks.
    pub fn check(text: &str) -> Result<(), TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        check_prefix(text)
    }
}

/// Checks a subscription's prefix: as a topic, but it may be empty, which matches everything.
pub(crate) fn check_prefix(text: &str) -> Result<(), TopicError> {
    if text.len() > Topic::MAX_LENGTH {
        return Err(TopicError::TooLong { length: text.len() });
    }
    let has_control_character = if text.is_ascii() {
        // Without an early end, so that many octets are looked at in one step.
        text.bytes().fold(false, |found, octet| found | octet.is_ascii_control())
    } else {
        text.chars().any(char::is_control)
    };
    if has_control_character {
        return Err(TopicError::ControlCharacter);
    }
    Ok(())
}

/// Why a text is no [`Topic`], or no prefix of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// A topic needs at least one byte.
    #[error("a topic must not be empty")]
    Empty,
    /// It is longer than [`Topic::MAX_LENGTH`].
    #[error("a topic has at most 255 bytes of UTF-8, this one has {length}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It contains a control character such as a line break.
    #[error("a topic must not contain control characters")]
    ControlCharacter,
    /// Its bytes are not UTF-8.
    #[error("a topic must be UTF-8")]
    NotUtf8,
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<&str> for Topic {
    type Error = TopicError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for Topic {
    type Error = TopicError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<&Topic> for Topic {
    type Error = TopicError;

    fn try_from(topic: &Topic) -> Result<Self, Self::Error> {
        Ok(topic.clone())
    }
}

impl From<std::convert::Infallible> for TopicError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl TryFrom<&[u8]> for Topic {
    type Error = TopicError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        std::str::from_utf8(bytes).map_err(|_| TopicError::NotUtf8)?.parse()
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.as_str().to_owned()
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_named_when_broken() {
        assert_eq!("".parse::<Topic>(), Err(TopicError::Empty));
        assert_eq!("a\nb".parse::<Topic>(), Err(TopicError::ControlCharacter));
        assert_eq!("x".repeat(256).parse::<Topic>(), Err(TopicError::TooLong { length: 256 }));
        assert_eq!(Topic::try_from(&b"\xff"[..]), Err(TopicError::NotUtf8));
        assert_eq!("ü".repeat(127).parse::<Topic>().unwrap().as_str().len(), 254);
        assert_eq!("x".repeat(255).parse::<Topic>().unwrap().as_str().len(), 255);
    }
}

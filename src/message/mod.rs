//! Messages: what travels, who sent it, and its place in the order.

mod codec;
mod headers;
mod topic;

pub use codec::{Codec, DecodeError, EncodeError};
pub(crate) use codec::{decode_messagepack, encode_messagepack};
pub(crate) use headers::MAX_HEADERS;
pub use headers::{Headers, HeadersError};
pub(crate) use topic::{ANSWERS, DOCUMENTS, MAX_DOCUMENT_NAME, check_prefix};
pub use topic::{Topic, TopicError};

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::EndpointId;

/// A place in the cluster's one total order.
///
/// `seq` counts 1, 2, 3 … over all messages of the cluster. Positions compare by epoch first.
/// `epoch` grows with every new host, unless the host's clock was set back: then the positions
/// behind the [reset](crate::RecvError::Reset) are lower than those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The reign of one host. A host that starts without memory opens the epoch of its Unix time in milliseconds.
    pub epoch: u64,
    /// The number of the message in the order.
    pub seq: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.seq)
    }
}

/// What a message is for. Everything but data is for [documents](crate::document); it is carried like data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
#[repr(u8)]
pub enum MessageKind {
    /// Application data.
    #[default]
    Data = 0,
    /// A whole document.
    FullDocument = 1,
    /// A change to a document.
    DocumentFragment = 2,
    /// A request for a whole document.
    FullDocumentRequest = 3,
}

impl MessageKind {
    pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Data,
            1 => Self::FullDocument,
            2 => Self::DocumentFragment,
            3 => Self::FullDocumentRequest,
            _ => return None,
        })
    }
}

/// A message: a payload about a topic.
///
/// Made with [`new`](Self::new) or [`encode`](Self::encode) and handed to `send`; received with the
/// [`origin`](Self::origin), [`origin_seq`](Self::origin_seq) and [`position`](Self::position) that the sender and
/// the host gave it. Cloning is cheap: the payload is shared.
///
/// ```
/// use zincmq::Message;
///
/// let message = Message::new("greetings", "hello")?;
/// assert_eq!(message.topic().as_str(), "greetings");
/// assert_eq!(message.position(), None, "the host has not ordered it yet");
/// # Ok::<(), zincmq::TopicError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(crate) origin: EndpointId,
    pub(crate) origin_seq: u64,
    pub(crate) topic: Topic,
    pub(crate) kind: MessageKind,
    pub(crate) codec: Codec,
    pub(crate) headers: Headers,
    pub(crate) position: Option<Position>,
    pub(crate) payload: Bytes,
}

impl Message {
    /// A data message of raw bytes.
    ///
    /// # Errors
    /// [`TopicError`] when the topic breaks the rules of [`Topic`].
    pub fn new<T>(topic: T, payload: impl Into<Bytes>) -> Result<Self, TopicError>
    where
        T: TryInto<Topic>,
        TopicError: From<T::Error>,
    {
        Ok(Self {
            origin: EndpointId::NIL,
            origin_seq: 0,
            topic: topic.try_into()?,
            kind: MessageKind::Data,
            codec: Codec::Raw,
            headers: Headers::default(),
            position: None,
            payload: payload.into(),
        })
    }

    /// This message as another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: MessageKind) -> Self {
        self.kind = kind;
        self
    }

    /// This message with its payload declared to be of `codec`. The payload's bytes stay as they are.
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// This message with these headers in place of those it had.
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// The endpoint that sent it; [`EndpointId::NIL`] before it is sent.
    #[must_use]
    pub fn origin(&self) -> EndpointId {
        self.origin
    }

    /// Its number among the messages of its origin: 1, 2, 3 …; 0 before it is sent.
    #[must_use]
    pub fn origin_seq(&self) -> u64 {
        self.origin_seq
    }

    /// What it is about.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// How the payload is encoded.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The named values beside the payload.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its place in the order; `None` before the host has given it one.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The payload, without copying it.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }
}

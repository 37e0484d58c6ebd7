//! Payload codecs: raw bytes, MessagePack, JSON and Protobuf.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Message, Topic, TopicError};

/// How a payload is encoded. Peers in other languages read it from the message, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
#[repr(u8)]
pub enum Codec {
    /// Bytes as they are.
    #[default]
    Raw = 0,
    /// MessagePack, structs as maps from field names.
    MessagePack = 1,
    /// JSON.
    Json = 2,
    /// Protobuf, one message without a length before it.
    Protobuf = 3,
}

impl Codec {
    pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Raw,
            1 => Self::MessagePack,
            2 => Self::Json,
            3 => Self::Protobuf,
            _ => return None,
        })
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw bytes",
            Self::MessagePack => "MessagePack",
            Self::Json => "JSON",
            Self::Protobuf => "Protobuf",
        })
    }
}

/// Why a value could not be made into a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The topic breaks the rules of [`Topic`].
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The value cannot be represented.
    #[error("the value has no representation in {codec}: {source}")]
    Value {
        /// The codec asked for.
        codec: Codec,
        /// What the codec said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a payload could not be made into a value. The message is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The payload is of another codec.
    #[error("the payload is {actual}, not {expected}: use the method for {actual} (payload() for raw bytes)")]
    OtherCodec {
        /// What the called method decodes.
        expected: Codec,
        /// What the message says its payload is.
        actual: Codec,
    },
    /// The payload does not decode to the wanted type.
    #[error("the payload is not a valid {codec} encoding of the wanted type: {source}")]
    Value {
        /// The codec of the payload.
        codec: Codec,
        /// What the codec said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A value as MessagePack.
pub(crate) fn encode_messagepack<V: Serialize + ?Sized>(value: &V) -> Result<Vec<u8>, EncodeError> {
    rmp_serde::to_vec_named(value).map_err(|e| value_error(Codec::MessagePack, e))
}

/// The value that this is as MessagePack.
pub(crate) fn decode_messagepack<V: DeserializeOwned>(bytes: &[u8]) -> Result<V, DecodeError> {
    rmp_serde::from_slice(bytes).map_err(|e| decode_error(Codec::MessagePack, e))
}

impl Message {
    /// A data message of a value as MessagePack, the default for serde types.
    ///
    /// Structs become maps from field names, so that fields can be added later and other languages find them.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use zincmq::Message;
    ///
    /// #[derive(Debug, PartialEq, Serialize, Deserialize)]
    /// struct Reading { celsius: f64 }
    ///
    /// let message = Message::encode("sensor.1", &Reading { celsius: 21.5 })?;
    /// assert_eq!(message.decode::<Reading>()?, Reading { celsius: 21.5 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode<T, V>(topic: T, value: &V) -> Result<Self, EncodeError>
    where
        T: TryInto<Topic>,
        TopicError: From<T::Error>,
        V: Serialize + ?Sized,
    {
        let payload = encode_messagepack(value)?;
        Ok(Self::new(topic, payload)?.with_codec(Codec::MessagePack))
    }

    /// The value in a MessagePack payload.
    ///
    /// # Errors
    /// [`DecodeError::OtherCodec`] when the payload is of another codec; [`DecodeError::Value`] when it does not fit the type.
    pub fn decode<V: DeserializeOwned>(&self) -> Result<V, DecodeError> {
        self.expect_codec(Codec::MessagePack)?;
        decode_messagepack(&self.payload)
    }

    /// A data message of a value as JSON.
    ///
    /// # Errors
    /// [`EncodeError`].
    #[cfg(feature = "json")]
    pub fn encode_json<T, V>(topic: T, value: &V) -> Result<Self, EncodeError>
    where
        T: TryInto<Topic>,
        TopicError: From<T::Error>,
        V: Serialize + ?Sized,
    {
        let payload = serde_json::to_vec(value).map_err(|e| value_error(Codec::Json, e))?;
        Ok(Self::new(topic, payload)?.with_codec(Codec::Json))
    }

    /// The value in a JSON payload.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    #[cfg(feature = "json")]
    pub fn decode_json<V: DeserializeOwned>(&self) -> Result<V, DecodeError> {
        self.expect_codec(Codec::Json)?;
        serde_json::from_slice(&self.payload).map_err(|e| decode_error(Codec::Json, e))
    }

    /// A data message of a Protobuf message.
    ///
    /// # Errors
    /// [`EncodeError::Topic`].
    #[cfg(feature = "protobuf")]
    pub fn encode_protobuf<T, V>(topic: T, value: &V) -> Result<Self, EncodeError>
    where
        T: TryInto<Topic>,
        TopicError: From<T::Error>,
        V: prost::Message,
    {
        Ok(Self::new(topic, value.encode_to_vec())?.with_codec(Codec::Protobuf))
    }

    /// The Protobuf message in the payload.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    #[cfg(feature = "protobuf")]
    pub fn decode_protobuf<V: prost::Message + Default>(&self) -> Result<V, DecodeError> {
        self.expect_codec(Codec::Protobuf)?;
        V::decode(self.payload.clone()).map_err(|e| decode_error(Codec::Protobuf, e))
    }

    fn expect_codec(&self, expected: Codec) -> Result<(), DecodeError> {
        if self.codec == expected {
            Ok(())
        } else {
            Err(DecodeError::OtherCodec { expected, actual: self.codec })
        }
    }
}

fn value_error(codec: Codec, source: impl std::error::Error + Send + Sync + 'static) -> EncodeError {
    EncodeError::Value { codec, source: Box::new(source) }
}

fn decode_error(codec: Codec, source: impl std::error::Error + Send + Sync + 'static) -> DecodeError {
    DecodeError::Value { codec, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_refuses_another_codec_by_name() {
        let raw = Message::new("t", "x").unwrap();
        let error = raw.decode::<String>().unwrap_err();
        assert!(matches!(
            error,
            DecodeError::OtherCodec { expected: Codec::MessagePack, actual: Codec::Raw }
        ));
        assert!(error.to_string().contains("raw bytes"));
    }

    #[test]
    fn a_payload_that_does_not_fit_the_type_is_an_error() {
        let text = Message::encode("t", "words").unwrap();
        assert!(matches!(text.decode::<u64>(), Err(DecodeError::Value { codec: Codec::MessagePack, .. })));
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_round_trips() {
        let message = Message::encode_json("t", &[1, 2, 3]).unwrap();
        assert_eq!(&message.payload()[..], b"[1,2,3]");
        assert_eq!(message.decode_json::<Vec<u32>>().unwrap(), [1, 2, 3]);
        assert!(message.decode::<Vec<u32>>().is_err());
    }

    #[cfg(feature = "protobuf")]
    #[test]
    fn protobuf_round_trips() {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Reading {
            #[prost(double, tag = "1")]
            celsius: f64,
        }
        let message = Message::encode_protobuf("t", &Reading { celsius: 21.5 }).unwrap();
        assert_eq!(message.decode_protobuf::<Reading>().unwrap(), Reading { celsius: 21.5 });
    }
}

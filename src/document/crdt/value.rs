//! What maps, arrays, sheets and canvases hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use yrs::{Any, Out};

use super::super::Conflict;
use super::scan::MAX_DEPTH;

/// The whole numbers that a float holds exactly reach to here, in both directions.
const EXACT: u64 = (1 << 53) - 1;

/// A value as in JSON, and bytes.
///
/// Numbers are as in JavaScript, since Yjs programs read them: a float without a fraction comes out as the whole number it is, if that has 53 bits. Whole
/// numbers beyond are big integers there. Values nest 32 levels deep at the most.
///
/// ```
/// use zincmq::document::crdt::Value;
///
/// assert_eq!(Value::from(3), Value::Int(3));
/// assert_eq!(Value::from("x").as_str(), Some("x"));
/// assert_eq!(Value::from(vec![1, 2]), Value::List(vec![Value::Int(1), Value::Int(2)]));
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text. It is replaced as a whole: what many type in is a [`Text`](super::Text).
    Text(String),
    /// Bytes.
    Bytes(Bytes),
    /// Values in order; replaced as a whole.
    List(Vec<Value>),
    /// Values by name; replaced as a whole.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The number, whole or not, if it is one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    /// The truth value, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(truth) = self { Some(*truth) } else { None }
    }

    pub(super) fn to_any(&self) -> Result<Any, Conflict> {
        self.nested(0).ok_or_else(|| Conflict::new(format!("a value nested deeper than {MAX_DEPTH} levels")))
    }

    fn nested(&self, depth: usize) -> Option<Any> {
        if depth > MAX_DEPTH {
            return None;
        }
        Some(match self {
            Self::Null => Any::Null,
            Self::Bool(truth) => Any::Bool(*truth),
            Self::Int(number) if number.unsigned_abs() <= EXACT => Any::Number(*number as f64),
            Self::Int(number) => Any::BigInt(*number),
            Self::Float(number) => Any::Number(*number),
            Self::Text(text) => Any::String(text.as_str().into()),
            Self::Bytes(bytes) => Any::Buffer(bytes.as_ref().into()),
            Self::List(values) => {
                Any::Array(values.iter().map(|value| value.nested(depth + 1)).collect::<Option<_>>()?)
            }
            Self::Map(values) => Any::Map(Arc::new(
                values
                    .iter()
                    .map(|(name, value)| Some((name.clone(), value.nested(depth + 1)?)))
                    .collect::<Option<_>>()?,
            )),
        })
    }

    pub(super) fn of(out: &Out) -> Self {
        if let Out::Any(any) = out { Self::of_any(any) } else { Self::Null }
    }

    fn of_any(any: &Any) -> Self {
        match any {
            Any::Null | Any::Undefined => Self::Null,
            Any::Bool(truth) => Self::Bool(*truth),
            Any::BigInt(number) => Self::Int(*number),
            Any::Number(number) if number.fract() == 0.0 && number.abs() <= EXACT as f64 => {
                Self::Int(*number as i64)
            }
            Any::Number(number) => Self::Float(*number),
            Any::String(text) => Self::Text(text.to_string()),
            Any::Buffer(bytes) => Self::Bytes(Bytes::copy_from_slice(bytes)),
            Any::Array(values) => Self::List(values.iter().map(Self::of_any).collect()),
            Any::Map(values) => {
                Self::Map(values.iter().map(|(name, value)| (name.clone(), Self::of_any(value))).collect())
            }
        }
    }
}

macro_rules! from {
    ($($from:ty => $value:ident: $make:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $make
            }
        })*
    };
}

from! {
    bool => truth: Self::Bool(truth);
    i32 => number: Self::Int(number.into());
    u32 => number: Self::Int(number.into());
    i64 => number: Self::Int(number);
    f64 => number: Self::of_any(&Any::Number(number));
    &str => text: Self::Text(text.to_owned());
    String => text: Self::Text(text);
    Bytes => bytes: Self::Bytes(bytes);
}

impl<V: Into<Value>> From<Vec<V>> for Value {
    fn from(values: Vec<V>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

impl<V: Into<Value>> From<BTreeMap<String, V>> for Value {
    fn from(values: BTreeMap<String, V>) -> Self {
        Self::Map(values.into_iter().map(|(name, value)| (name, value.into())).collect())
    }
}

impl<V: Into<Value>> From<Option<V>> for Value {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

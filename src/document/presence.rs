//! What is known of those who have a document open, for as long as they have: cursors, names.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::EndpointId;
use crate::message::DecodeError;
use crate::proto::Instant;

use super::Malformed;

/// How often a presence is told again (a guess).
pub(super) const TELL_EVERY: Duration = Duration::from_secs(5);
/// After what time without a word it is gone: three of them (a guess).
const EXPIRES_AFTER: Duration = Duration::from_secs(15);
/// The shortest time between two that are told: what is between them is passed over (a guess: a moving cursor looks smooth).
pub(super) const TELL_AT_MOST_EVERY: Duration = Duration::from_millis(40);
/// Of how many that is kept (a guess).
const MOST: usize = 1_024;

/// How large what is told may be, in bytes (a guess: a cursor, a name and a colour take a hundred).
const MOST_STATE: usize = 4 << 10;

/// Why a presence was not told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// The value has no form as MessagePack.
    #[error(transparent)]
    Encode(#[from] crate::EncodeError),
    /// It is larger than others take.
    #[error("the presence has {size} bytes, others take at most {limit}: tell less")]
    TooLarge {
        /// How large it is, in bytes.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
}

/// What somebody who has a document open wants the others to know, for as long as that is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Who.
    pub endpoint: EndpointId,
    /// Tells the openings of a document apart.
    pub replica: u64,
    /// What.
    pub state: Bytes,
}

impl Presence {
    /// The state as a value, as it was given to [`set_presence`](super::DocumentHandle::set_presence).
    ///
    /// # Errors
    /// [`DecodeError::Value`] when it does not fit the type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        crate::message::decode_messagepack(&self.state)
    }
}

pub(super) fn encode_state(value: &(impl Serialize + ?Sized)) -> Result<Bytes, PresenceError> {
    let state = crate::message::encode_messagepack(value)?;
    match state.len() {
        size if size > MOST_STATE => Err(PresenceError::TooLarge { size, limit: MOST_STATE }),
        _ => Ok(state.into()),
    }
}

/// A presence as it travels: nothing behind the replica says that it is gone.
pub(super) fn encode(replica: u64, state: Option<&Bytes>) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u64(replica);
    if let Some(state) = state {
        bytes.put_u8(1);
        bytes.put_slice(state);
    }
    bytes.freeze()
}

fn decode(bytes: &Bytes) -> Result<(u64, Option<Bytes>), Malformed> {
    let malformed = || Malformed::new("no presence");
    let (replica, rest) = bytes.split_first_chunk::<8>().ok_or_else(malformed)?;
    let state = match rest.first() {
        None => None,
        // Kept for as long as it lasts: not with the window it came in.
        Some(1) if bytes.len() - 9 <= MOST_STATE => Some(Bytes::copy_from_slice(&bytes[9..])),
        Some(_) => return Err(malformed()),
    };
    Ok((u64::from_be_bytes(*replica), state))
}

/// Those of others.
#[derive(Debug, Default)]
pub(super) struct Presences {
    told: BTreeMap<(EndpointId, u64), (Bytes, Instant)>,
    malformed: u64,
}

impl Presences {
    /// Takes what was told; whether that changed anything.
    pub(super) fn on_message(&mut self, now: Instant, from: EndpointId, payload: &Bytes) -> bool {
        let Ok((replica, state)) = decode(payload) else {
            self.malformed += 1;
            return false;
        };
        match state {
            Some(state) if self.told.len() < MOST || self.told.contains_key(&(from, replica)) => {
                // An endpoint has a document open once. After a lost connection it goes on under another number, and says no goodbye.
                self.told.retain(|(endpoint, number), _| *endpoint != from || *number == replica);
                let before = self.told.insert((from, replica), (state.clone(), now));
                before.is_none_or(|(before, _)| before != state)
            }
            Some(_) => false,
            None => self.told.remove(&(from, replica)).is_some(),
        }
    }

    /// An endpoint is gone, and with it what it was.
    pub(super) fn on_left(&mut self, id: EndpointId) -> bool {
        let before = self.told.len();
        self.told.retain(|(endpoint, _), _| *endpoint != id);
        self.told.len() != before
    }

    /// Forgets those of whom nothing was heard for long.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.told.len();
        self.told.retain(|_, (_, told)| now.since(*told) < EXPIRES_AFTER);
        self.told.len() != before
    }

    /// When the next one expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.told.values().map(|(_, told)| *told + EXPIRES_AFTER).min()
    }

    pub(super) fn len(&self) -> usize {
        self.told.len()
    }

    /// How much was told that is no presence, or too large for one. It was passed over.
    pub(super) fn malformed(&self) -> u64 {
        self.malformed
    }

    pub(super) fn all(&self) -> Vec<Presence> {
        let presence = |((endpoint, replica), (state, _)): (&(EndpointId, u64), &(Bytes, Instant))| {
            Presence { endpoint: *endpoint, replica: *replica, state: state.clone() }
        };
        self.told.iter().map(presence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_presence_lasts_as_long_as_its_owner_speaks() {
        let (mut presences, who) = (Presences::default(), EndpointId::from_bytes([1; 16]));
        let state = Bytes::from_static(b"here");
        let at = |seconds| Instant::since_start(Duration::from_secs(seconds));
        assert!(presences.on_message(at(0), who, &encode(7, Some(&state))));
        assert!(!presences.on_message(at(5), who, &encode(7, Some(&state))), "told again, nothing new");
        assert_eq!(presences.all(), [Presence { endpoint: who, replica: 7, state: state.clone() }]);
        assert!(!presences.expire(at(19)));
        assert!(presences.expire(at(20)));
        assert!(presences.on_message(at(21), who, &encode(7, Some(&state))));
        assert!(presences.on_message(at(22), who, &encode(7, None)));
        assert!(presences.on_message(at(23), who, &encode(8, Some(&Bytes::new()))));
        assert!(presences.on_left(who));
        assert_eq!(presences.all(), []);
        assert!(presences.on_message(at(23), who, &encode(9, Some(&state))));
        assert!(presences.on_message(at(23), who, &encode(10, Some(&state))));
        assert_eq!(presences.all(), [Presence { endpoint: who, replica: 10, state }], "the same, come back");
        assert!(!presences.on_message(at(24), who, &Bytes::from_static(b"short")));
        assert_eq!(presences.malformed(), 1);
    }

    #[test]
    fn what_is_too_large_is_told_by_nobody_and_taken_from_nobody() {
        let error = encode_state(&"x".repeat(MOST_STATE)).unwrap_err();
        assert!(matches!(error, PresenceError::TooLarge { size: 4_099, limit: 4_096 }), "{error}");
        let (mut presences, who) = (Presences::default(), EndpointId::from_bytes([1; 16]));
        for (size, is_taken) in [(MOST_STATE, true), (MOST_STATE + 1, false)] {
            let told = encode(7, Some(&vec![0; size].into()));
            assert_eq!(presences.on_message(Instant::START, who, &told), is_taken);
        }
        assert_eq!(presences.malformed(), 1);
    }
}

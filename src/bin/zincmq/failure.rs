//! What went wrong, and what the user can do about it.

use std::io::Write;

use zincmq::document::store::StoreError;
use zincmq::document::{DocumentError, KeeperError, UpdateError};
use zincmq::{
    EvictReason, Eviction, HostError, JoinError, ReceiptError, RecvError, RefusalReason, SendError,
    SubscribeError, TopicError,
};

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The reader of standard output has gone: nothing is wrong, and there is nobody to tell.
    NobodyReads,
    /// What to say on standard error.
    Told { message: String, advice: Option<String> },
    /// The same of input that makes no sense.
    Usage { message: String, advice: Option<String> },
    /// The same of an endpoint that was evicted, and is not to come back.
    Evicted { message: String, advice: Option<String> },
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Told { message: message.into(), advice: None }
    }

    pub(crate) fn with_advice(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Told { message: message.into(), advice: Some(advice.into()) }
    }

    /// An endpoint that does not come back after this.
    pub(crate) fn evicted(eviction: &Eviction) -> Self {
        let advice = match eviction.reason {
            EvictReason::Kicked => None,
            EvictReason::Silent => {
                Some("see that the host can be reached; --rejoin auto comes back by itself")
            }
            _ => Some(TOO_SLOW),
        };
        Self::Evicted {
            message: format!("this endpoint was evicted: {eviction}"),
            advice: advice.map(str::to_owned),
        }
    }

    /// An endpoint that does not come back after it fell behind by itself.
    pub(crate) fn overrun() -> Self {
        Self::Evicted {
            message: "this endpoint fell too far behind".to_owned(),
            advice: Some(TOO_SLOW.to_owned()),
        }
    }
}

/// What to do about an endpoint that is too slow.
const TOO_SLOW: &str = "take fewer topics with --topic PREFIX, read faster, or start the host with higher marks (--hwm-messages, \
                        --hwm-bytes, --hwm-age); --rejoin auto comes back by itself";

/// Says it on standard error.
pub(crate) fn tell(message: &str, advice: Option<&str>) {
    let mut stderr = std::io::stderr().lock();
    // Where nobody hears it, the exit code has to do.
    let _ = writeln!(stderr, "error: {message}");
    if let Some(advice) = advice {
        let _ = writeln!(stderr, "  try: {advice}");
    }
}

/// Says on standard error what is no failure yet.
pub(crate) fn note(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "note: {message}");
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        let advice = match &error {
            JoinError::Refused { reason, .. } => {
                return Self::Told { message: error.to_string(), advice: for_refusal(reason) };
            }
            JoinError::Evicted { eviction, .. } => return Self::evicted(eviction),
            JoinError::TimedOut { .. } => {
                "see that a host runs there (zincmq host --bind ADDR) and that the address is the one it printed; \
                 --timeout SECONDS waits longer"
            }
            _ => return Self::new(error.to_string()),
        };
        Self::with_advice(error.to_string(), advice)
    }
}

/// What to do when a host refuses.
pub(crate) fn for_refusal(reason: &RefusalReason) -> Option<String> {
    let advice = match reason {
        RefusalReason::Unauthorized(_) => {
            "give the token the host was started with: --token-file FILE, or the environment variable ZINCMQ_TOKEN"
        }
        RefusalReason::WrongCluster(_) => "name the host's cluster: --cluster NAME",
        RefusalReason::DuplicateId(_) => "take another --id, or leave it out for a fresh one",
        RefusalReason::WrongVersion(_) => "use the same release of zincmq on both sides",
        RefusalReason::Full(_) | RefusalReason::Closing(_) | RefusalReason::Quarantined(_) => {
            "try again in a while"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match &error {
            HostError::Unprotected { address } => Self::with_advice(
                format!("{address} can be reached from other machines, and nothing says who may join"),
                "set a token with --token-file FILE, or say --allow-anonymous if everyone may join",
            ),
            _ => Self::new(error.to_string()),
        }
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        match &error {
            DocumentError::Unavailable { name } if name.is_empty() => {
                Self::with_advice("no host that answers keeps documents", KEEPS_NONE)
            }
            DocumentError::Unavailable { name } => {
                Self::with_advice(format!("nobody who answers has the document {name:?}"), KEEPS_NONE)
            }
            DocumentError::Kind { .. } => {
                Self::with_advice(error.to_string(), "this command is for texts: see zincmq doc list")
            }
            _ => Self::new(error.to_string()),
        }
    }
}

/// What to do where nobody answers who has a document.
const KEEPS_NONE: &str = "start the host with zincmq host, and without --no-documents";

impl From<UpdateError> for Failure {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Document(error) => error.into(),
            error => Self::new(error.to_string()),
        }
    }
}

/// Errors that say all there is to say.
macro_rules! told_as_they_are {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error.to_string())
            }
        })*
    };
}

told_as_they_are!(
    SendError,
    ReceiptError,
    RecvError,
    SubscribeError,
    TopicError,
    KeeperError,
    StoreError,
    tokio::task::JoinError,
);

//! What a peer can do wrong.

/// Why a connection was closed: what its peer did against the protocol, or what it has no part in. Nothing of it was taken for a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// It does not begin as ZMTP does.
    #[error("it does not speak ZMTP: the signature of the greeting is wrong")]
    Signature,
    /// It speaks a version before 3.0.
    #[error("it speaks ZMTP {major}, and 3.0 is the least: give it a newer ZeroMQ library")]
    Version {
        /// The major version it named.
        major: u8,
    },
    /// It wants another security mechanism than NULL.
    #[error("it wants the mechanism {0:?}, and only NULL is spoken here")]
    Mechanism(String),
    /// It took too long to introduce itself.
    #[error("it did not finish the handshake in time")]
    HandshakeTimeout,
    /// It sent a message or another command where READY was due, or READY where it was not.
    #[error("it sent {0} where the handshake does not allow it")]
    OutOfTurn(&'static str),
    /// Its READY command cannot be read.
    #[error("its READY command is malformed: {0}")]
    Metadata(&'static str),
    /// Its READY names no socket type, or one that is not known.
    #[error("its socket type is missing or not known")]
    SocketType,
    /// Its socket type is not one this socket talks to.
    #[error("it is a {theirs}, which a {ours} does not talk to")]
    Incompatible {
        /// The type of this socket.
        ours: super::SocketType,
        /// The type of the peer's.
        theirs: super::SocketType,
    },
    /// It said why it refuses the connection.
    #[error("it refused the connection: {0:?}")]
    Refused(String),
    /// The flags of a frame are not allowed.
    #[error("a frame has the flags {0:#04x}")]
    Flags(u8),
    /// A frame declares to be larger than is allowed. Nothing of it was kept.
    #[error("a frame declares {declared} bytes, and {limit} are allowed")]
    FrameSize {
        /// What it declares.
        declared: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A message has too many frames.
    #[error("a message has more than {limit} frames")]
    FrameCount {
        /// How many are allowed.
        limit: usize,
    },
    /// A message is too large over all its frames.
    #[error("a message has more than {limit} bytes")]
    MessageSize {
        /// How many are allowed.
        limit: u64,
    },
    /// A command cannot be read.
    #[error("a command is malformed: {0}")]
    Command(&'static str),
    /// It subscribes to too much.
    #[error("it has more than {limit} subscriptions")]
    Subscriptions {
        /// How many are allowed.
        limit: usize,
    },
    /// What it subscribes to is too long, all prefixes together.
    #[error("its subscriptions have more than {limit} bytes")]
    SubscriptionBytes {
        /// How many are allowed.
        limit: usize,
    },
    /// What it subscribes to is too long.
    #[error("a prefix has more than {limit} bytes")]
    PrefixSize {
        /// How many are allowed.
        limit: usize,
    },
    /// A message of its, or a command, began and did not go on.
    #[error("a message began and did not go on")]
    MessageTime,
    /// A message of its was not complete when those of all peers had more bytes than are allowed, and had begun before any other.
    #[error(
        "the messages of all peers that are not complete have more than {limit} bytes, and its own began first"
    )]
    Unfinished {
        /// How many are allowed.
        limit: usize,
    },
    /// It is silent for longer than it said it would ever be, or than it may.
    #[error("nothing was heard from it for too long")]
    Silent,
}

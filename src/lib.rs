#![doc = include_str!("../README.md")]
//!
//! # Where to go from here
//!
//! - [`Host`] and [`Client`] are the two kinds of [`Endpoint`]; [`Message`] is what they exchange.
//! - [`MessageHandler`] and [`Messages`] are the two ways of receiving, [`Sender`] and [`Receipt`] the hot path of sending.
//! - [`Authenticator`] decides who joins; [`Event`] and [`Stats`] tell what happens.
//! - [`document`] has documents that many change at once: [`DocumentExt::document`](document::DocumentExt::document) opens one, a [`Keeper`](document::Keeper) keeps them.
//! - [`zmtp`] is a ZeroMQ library of its own, which carries the cluster; [`transport`] holds what carries the bytes.

/// Whether a bug was put back into a machine. Never in builds for use.
macro_rules! mutant {
    ($machine:expr, $mutant:ident) => {{
        #[cfg(any(test, feature = "test-utils"))]
        let is_back = $machine.config.mutant == Some($crate::proto::Mutant::$mutant);
        #[cfg(not(any(test, feature = "test-utils")))]
        let is_back = false;
        is_back
    }};
}

mod config;
pub mod document;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "IO happens here")]
mod endpoint;
mod error;
mod flow;
mod id;
mod message;
mod proto;
mod role;
#[cfg(any(test, feature = "test-utils"))]
pub mod sim;
mod sync;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "IO happens here")]
pub mod transport;
mod wire;
pub mod zmtp;

pub use endpoint::{
    AllowAnonymous, Authenticator, Batch, Client, ClientBuilder, Endpoint, EndpointExt, Event, Events,
    Extensions, HandlerError, HandlerHandle, HandlerOptions, HandlerOutcome, Host, HostBuilder, JoinRequest,
    LeaveReason, Member, MemberLag, MessageHandler, Messages, OrderKey, Receipt, Reservation, Sender,
    SharedToken, ShutdownReport, Stats, StreamOptions, authenticate_fn,
};
pub use error::{
    HostError, JoinError, ReceiptError, RecvError, RefusalReason, ReserveError, SendError, SubscribeError,
};
pub use flow::{EvictReason, Eviction, HighWaterMark, Lag, Rejoin, SlowPolicy};
pub use id::{EndpointId, IdError, SessionToken};
pub use message::{
    Codec, DecodeError, EncodeError, Headers, HeadersError, Message, MessageKind, Position, Topic, TopicError,
};
pub use role::Role;
pub use transport::{Address, AddressError, Carrier};

/// Feeds bytes to every decoder of the wire format, for fuzzing: they may refuse them, and must not panic.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn fuzz_decoders(frame: &bytes::Bytes) {
    wire::decode_everything(frame);
}

/// What most programs use.
pub mod prelude {
    pub use crate::{
        Client, Endpoint, EndpointExt, EndpointId, Event, Events, HandlerError, Host, JoinRequest, Message,
        MessageHandler, Messages, Position, Receipt, RecvError, Role, SendError, Sender, Topic, TopicError,
        authenticate_fn,
    };
}

//! Real-time messaging and documents inside a cluster of services, without a broker, over ZeroMQ's wire protocol ZMTP.
//!
//! One endpoint is the [`Host`], the others are [`Client`]s; behind the [`Endpoint`] trait they are alike. Whatever one of them sends, the host puts into one
//! order and broadcasts to everyone, so that all see the same [`Message`]s at the same [`Position`]s. Nothing is lost in silence: what a member misses is
//! repaired before anything behind it is delivered, or it is told; what [`send`](Endpoint::send) accepted has its place once, or its [`Receipt`] says that
//! nobody knows. Members that are too slow for the [`HighWaterMark`] are sent away, and slow nobody.
//!
//! ```no_run
//! use futures::TryStreamExt;
//! use zincmq::prelude::*;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::builder().bind("tcp://127.0.0.1:5555").await?;
//! let client = Client::builder().join("tcp://127.0.0.1:5555").await?;
//!
//! let mut messages = client.messages();
//! let receipt = host.send(Message::encode("sensor.1", &21.5)?).await?;
//! println!("ordered as {}", receipt.ordered().await?);
//! // Also an error that tells what was missed, `Reset` or `Lagged`; the stream goes on behind it.
//! while let Some(message) = messages.try_next().await? {
//!     println!("{} degrees", message.decode::<f64>()?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Documents** are on top of that: several nodes open one and change it at once, and all come out equal.
//!
//! ```no_run
//! # #[cfg(feature = "crdt")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use zincmq::document::{DocumentExt, Keeper, crdt::Text};
//! use zincmq::prelude::*;
//!
//! let host = Host::builder().bind("tcp://127.0.0.1:5555").await?;
//! let keeper = Keeper::builder().start(&host).await?;
//!
//! let client = Client::builder().subscribe_to_nothing().join("tcp://127.0.0.1:5555").await?;
//! let minutes = client.document::<Text>("minutes").await?;
//! minutes.update(|text| text.append("Present: all\n")).await??;
//! minutes.synced().await?;
//! # keeper.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go from here
//!
//! - [`Host::builder`] and [`Client::builder`] tell what can be set, its units and defaults.
//! - [`MessageHandler`] and [`Messages`] are the two ways of receiving, [`Sender`] and [`Receipt`] the hot path of sending.
//! - [`Authenticator`] decides who joins; [`Event`] and [`Stats`] tell what happens.
//! - [`document`] has documents: [`DocumentExt::document`](document::DocumentExt::document) opens one, a [`Keeper`](document::Keeper) keeps them.
//! - [`zmtp`] is a ZeroMQ library of its own, which carries the cluster; [`transport`] holds what carries the bytes.
//!
//! With the source come examples, the protocol byte by byte, and benchmarks; its `README.md` leads to them.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | (none) | host, clients, all transports, raw and MessagePack payloads, documents of one's own types |
//! | `json` | JSON payloads |
//! | `protobuf` | Protobuf payloads, by `prost` |
//! | `crdt` | texts, maps, arrays, sheets and canvases that many change at once, in the format of Yjs, by `yrs` |
//! | `store` | documents kept in a file, by `redb` |
//! | `cli` | the `zincmq` command |
//! | `test-utils` | `zincmq::sim`, the simulator of whole clusters |
//!
//! # What is not there yet
//!
//! Nothing is encrypted: tokens and messages can be read by whoever can listen on the network. There is no failover and there are no trees of hosts; a host
//! has no memory of messages beyond its life, but for documents in a store. The futures need a tokio runtime with IO and time enabled.

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
mod source;
mod sync;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "IO happens here")]
pub mod transport;
mod wire;
pub mod zmtp;

/// The README's examples are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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

//! The engine's sockets, `zincmq::zmtp`, and those of others: libzmq by way of Python, the `zeromq` crate, and the engine's own.
//!
//! Python has pyzmq: it is that of `.venv` at the root of the repository, which `tests/run.sh` makes, or the one that `ZINCMQ_PYTHON` names. Where there is
//! none, tests that need it say so and pass, unless `ZINCMQ_REQUIRE_PYTHON=1` is set. A second one with another libzmq, such as Debian's, is used where it is
//! there: `ZINCMQ_DEBIAN_PYTHON`, or `/usr/bin/python3`.
//!
//! Two tests are ignored, and are run one at a time:
//!
//! ```text
//! ZINCMQ_SOAK_SECONDS=600 cargo test --test zmtp_interop -- --ignored --exact --nocapture soak::honest_peers_lose_nothing_among_vandals
//! cargo test --release --test zmtp_interop -- --ignored --exact --nocapture crowd::ten_thousand_connections_are_held_by_one_process
//! ```
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

#[path = "zmtp_interop/any.rs"]
mod any;
#[path = "zmtp_interop/bounds.rs"]
mod bounds;
#[path = "zmtp_interop/crowd.rs"]
mod crowd;
#[path = "common/dice.rs"]
mod dice;
#[path = "zmtp_interop/faults.rs"]
mod faults;
#[path = "zmtp_interop/heartbeats.rs"]
mod heartbeats;
#[path = "zmtp_interop/other.rs"]
mod other;
#[path = "zmtp_interop/pairs.rs"]
mod pairs;
#[path = "zmtp_interop/party.rs"]
mod party;
#[path = "common/process.rs"]
mod process;
#[path = "zmtp_interop/python.rs"]
mod python;
#[path = "zmtp_interop/soak.rs"]
mod soak;
#[path = "zmtp_interop/subscriptions.rs"]
mod subscriptions;

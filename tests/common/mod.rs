//! What the integration tests share.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]
#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use zincmq::{Address, Host};

/// The transports that every behaviour is tested over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Ipc,
    Inproc,
}

/// Waits for what should happen at once; a minute allows for a machine that is busy with other things.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("did not happen within a minute")
}

fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An address to bind that nobody else uses.
pub(crate) fn address(kind: Kind) -> Address {
    match kind {
        Kind::Tcp => Address::Tcp { host: "127.0.0.1".into(), port: 0 },
        Kind::Ipc => Address::Ipc("*".into()),
        Kind::Inproc => Address::Inproc(unique()),
    }
}

/// An address that is known before it is bound, and stays the same when bound again.
pub(crate) async fn fixed_address(kind: Kind) -> Address {
    match kind {
        Kind::Tcp => {
            // The kernel chooses a port that is free now; on Linux it does not give it out again soon.
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let port = listener.local_addr().expect("a bound port").port();
            Address::Tcp { host: "127.0.0.1".into(), port }
        }
        Kind::Ipc => Address::Ipc(std::env::temp_dir().join(format!("zincmq-test-{}", unique()))),
        Kind::Inproc => Address::Inproc(unique()),
    }
}

/// Binds where a host was dropped just now: its sockets may take a moment to close.
pub(crate) async fn bind_again(address: Address) -> Host {
    let bind = async {
        loop {
            match Host::builder().bind(address.clone()).await {
                Ok(host) => return host,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    soon(bind).await
}

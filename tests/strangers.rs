//! What those can do to a parent that are no children of it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

mod common;

use bytes::Bytes;
use common::{Kind, address, soon};
use futures::{FutureExt, StreamExt};
use zincmq::SessionToken;
use zincmq::transport::{
    BindAddresses, ParentEvent, ParentLimits, ParentLink, PeerId, Transport, ZmtpTransport,
};
use zincmq::zmtp::{Bound, MonitorEvent, Options, SubSocket};

async fn bind(kind: Kind) -> ParentLink {
    let addresses = BindAddresses { control: address(kind), broadcast: None, submit: None };
    let limits = ParentLimits { bytes: 64 << 10, ..ParentLimits::default() };
    ZmtpTransport::new().bind(&addresses, &limits).await.unwrap()
}

/// A subscriber to everything that takes one message from the system, and no more until that is taken from it. It has been served.
async fn reluctant(link: &mut ParentLink, identity: &[u8]) -> SubSocket {
    let mut options = Options::default();
    options.identity = identity.try_into().unwrap();
    options.recv_hwm = Bound::new(1, 1);
    let mut subscriber = SubSocket::with_options(options);
    subscriber.subscribe("");
    subscriber.connect(&*link.addresses.broadcast.to_string()).unwrap();
    soon(async {
        let first = subscriber.recv();
        tokio::pin!(first);
        while futures::poll!(&mut first).is_pending() {
            link.channels.broadcast("hello".into(), Bytes::new());
            tokio::task::yield_now().await;
        }
    })
    .await;
    subscriber
}

/// Publishes until it is so.
async fn publish_until(link: &mut ParentLink, mut is_so: impl FnMut(&mut ParentLink) -> bool) {
    soon(async {
        while !is_so(link) {
            link.channels.broadcast("W".into(), vec![0; 4096].into());
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn is_cut(link: &mut ParentLink) {
    publish_until(link, |link| matches!(link.events.try_recv(), Ok(ParentEvent::SubscriberCut { .. }))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_names_itself_is_cut_off_like_any_other_unless_it_has_a_session() {
    for kind in [Kind::Tcp, Kind::Ipc] {
        let mut link = bind(kind).await;
        let named = reluctant(&mut link, b"x").await;
        is_cut(&mut link).await;
        drop(named);
        let session = SessionToken::from_bytes([7; 16]).unwrap();
        link.channels.open_session(&PeerId::new("a child".into()), session);
        // Of this one the host knows; what finds no room is dropped until it has judged.
        let member = reluctant(&mut link, session.as_bytes()).await;
        let before = link.channels.dropped();
        publish_until(&mut link, |link| link.channels.dropped() > before + 1_000).await;
        while let Ok(event) = link.events.try_recv() {
            assert!(matches!(event, ParentEvent::SubscriberCut { .. }), "{event:?}");
        }
        assert!(link.channels.backlog(session).is_some());
        link.channels.end_session(session);
        // It is evicted, and comes again.
        is_cut(&mut link).await;
        drop(member);
        let _evicted = reluctant(&mut link, session.as_bytes()).await;
        assert!(link.channels.backlog(session).is_some());
        is_cut(&mut link).await;
    }
}

/// `I`, a thousand and twenty-four topics, and a barrier, on a broadcast connection that nobody vouches for: libzmq's tell no identity.
#[tokio::test]
async fn as_many_prefixes_as_a_child_may_have_find_room() {
    let mut link = bind(Kind::Tcp).await;
    let mut subscriber = SubSocket::new();
    for number in 0..1_024 {
        subscriber.subscribe(format!("T{number:0>127}"));
    }
    subscriber.subscribe("I");
    subscriber.subscribe("barrier");
    let mut monitor = subscriber.monitor();
    subscriber.connect(&*link.addresses.broadcast.to_string()).unwrap();
    let heard = async {
        let message = subscriber.recv();
        tokio::pin!(message);
        while futures::poll!(&mut message).is_pending() {
            link.channels.broadcast("barrier".into(), Bytes::new());
            tokio::task::yield_now().await;
            if let Some(Some(event)) = monitor.next().now_or_never() {
                assert!(!matches!(event, MonitorEvent::Disconnected { .. }), "{event:?}");
            }
        }
    };
    soon(heard).await;
}

#[tokio::test]
async fn a_prefix_longer_than_any_lane_ends_the_connection() {
    let link = bind(Kind::Tcp).await;
    let subscriber = SubSocket::new();
    subscriber.subscribe("x".repeat(257));
    let mut monitor = subscriber.monitor();
    subscriber.connect(&*link.addresses.broadcast.to_string()).unwrap();
    let ended = async { while !matches!(monitor.next().await, Some(MonitorEvent::Disconnected { .. })) {} };
    soon(ended).await;
}

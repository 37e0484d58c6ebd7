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
    BindAddresses, ParentEvent, ParentLimits, ParentLink, PeerId, Protocol, Transport, ZmtpTransport,
};
use zincmq::zmtp::{Bound, DealerSocket, Message, Monitor, MonitorEvent, Options, PushSocket, SubSocket};

async fn bind(kind: Kind) -> ParentLink {
    let addresses = BindAddresses { control: address(kind), broadcast: None, submit: None };
    let limits = ParentLimits { bytes: 64 << 10, ..ParentLimits::default() };
    ZmtpTransport::new().bind(&addresses, &limits, Protocol::default()).await.unwrap()
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
        link.channels.open_session(&PeerId::new(Bytes::from_static(b"no connection")), session);
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

/// The first octets of a hello, as far as a link reads it.
const HELLO: &[u8] = &[0x5A, 1, 0x20];

/// A message on the submit channel that names this session.
fn submit(session: SessionToken) -> Message {
    let head = [&[0x5A, 1, 0x10], &session.as_bytes()[..]].concat();
    Message::from_frames([Bytes::from(head), Bytes::from("a batch")]).unwrap()
}

async fn is_disconnected(monitor: &mut Monitor) {
    soon(async { while !matches!(monitor.next().await, Some(MonitorEvent::Disconnected { .. })) {} }).await;
}

#[tokio::test]
async fn a_control_connection_says_hello_once_until_it_has_a_session() {
    for kind in [Kind::Tcp, Kind::Ipc] {
        let mut link = bind(kind).await;
        let address = link.addresses.control.to_string();
        for wrong in [
            Message::from(""),
            Message::from("rubbish"),
            Message::from(Bytes::from(vec![0; 8 << 20])),
            Message::from_frames([Bytes::from(HELLO), Bytes::new()]).unwrap(),
        ] {
            let dealer = DealerSocket::new();
            let mut monitor = dealer.monitor();
            dealer.connect(&*address).unwrap();
            dealer.send(wrong).await.unwrap();
            is_disconnected(&mut monitor).await;
        }
        let dealer = DealerSocket::new();
        let mut monitor = dealer.monitor();
        dealer.connect(&*address).unwrap();
        dealer.send(Bytes::from(HELLO)).await.unwrap();
        // It is the first that the link tells of.
        let event = soon(link.events.recv()).await.unwrap();
        let ParentEvent::Control { peer, frames, .. } = event else { panic!("{event:?}") };
        assert_eq!(frames, [HELLO]);
        dealer.send(Bytes::from(HELLO)).await.unwrap();
        is_disconnected(&mut monitor).await;
        let event = soon(link.events.recv()).await.unwrap();
        assert!(matches!(&event, ParentEvent::ControlClosed { peer: gone } if *gone == peer), "{event:?}");
    }
}

#[tokio::test]
async fn a_submit_connection_names_a_session_before_anything_else_is_taken_of_it() {
    for kind in [Kind::Tcp, Kind::Ipc] {
        let mut link = bind(kind).await;
        let address = link.addresses.submit.to_string();
        let (session, other) =
            (SessionToken::from_bytes([7; 16]).unwrap(), SessionToken::from_bytes([8; 16]).unwrap());
        let peer = PeerId::new(Bytes::from_static(b"no connection"));
        link.channels.open_session(&peer, session);
        let large = Message::from_frames([vec![0; 19].into(), Bytes::from(vec![0; 1 << 20])]).unwrap();
        for wrong in [Message::from(""), Message::from("rubbish"), submit(other), large] {
            let push = PushSocket::new();
            let mut monitor = push.monitor();
            push.connect(&*address).unwrap();
            push.send(wrong).await.unwrap();
            is_disconnected(&mut monitor).await;
        }
        // One that tells no identity, as libzmq's, and one that does.
        let mut options = Options::default();
        options.identity = session.as_bytes()[..].try_into().unwrap();
        for push in [PushSocket::new(), PushSocket::with_options(options)] {
            let mut monitor = push.monitor();
            push.connect(&*address).unwrap();
            push.send(submit(session)).await.unwrap();
            assert_eq!(soon(link.submits.recv()).await.unwrap()[1], "a batch");
            push.send(submit(session)).await.unwrap();
            assert_eq!(soon(link.submits.recv()).await.unwrap()[1], "a batch");
            link.channels.disconnect(&peer, Some(session));
            is_disconnected(&mut monitor).await;
        }
        assert!(link.submits.try_recv().is_err());
    }
}

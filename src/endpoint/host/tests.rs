//! A host over channels whose other ends the test holds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Host, HostBuilder};
use crate::config::PER_WAKE;
use crate::endpoint::{Client, Endpoint, Event, Events, Messages, authenticate_fn};
use crate::error::{RecvError, RefusalReason};
use crate::id::{EndpointId, PeerId, SessionToken};
use crate::message::Message;
use crate::role::Role;
use crate::transport::{
    Address, Backlog, BoundAddresses, ChannelError, ChildEvent, Frames, InprocTransport, ParentChannels,
    ParentEvent, ParentLink, PeerAddress, Transport,
};
use crate::wire::{ChildMessage, Hello, PROTOCOL_VERSION, ParentMessage, RefusalCode};

/// How many control events wait for the host, if a test has no reason for more.
const QUEUE: usize = 512;
/// How long a test waits for anything (a guess: far above what a busy machine takes).
const PATIENCE: Duration = Duration::from_secs(30);

/// The host's end: what it sends on control goes to the test.
#[derive(Debug)]
struct Channels(mpsc::UnboundedSender<(PeerId, ParentMessage)>);

impl ParentChannels for Channels {
    fn broadcast(&mut self, _lane: Bytes, _body: Bytes) {}

    fn send_control(&mut self, peer: &PeerId, frame: Bytes) -> Result<(), ChannelError> {
        // A test that has ended does not listen.
        let _ = self.0.send((peer.clone(), ParentMessage::decode(&frame).expect("a message")));
        Ok(())
    }

    fn disconnect(&mut self, _peer: &PeerId, _session: Option<SessionToken>) {}

    fn cut_broadcast(&mut self, _session: SessionToken) {}

    fn backlog(&self, _session: SessionToken) -> Option<Backlog> {
        None
    }

    fn dropped(&self) -> u64 {
        0
    }
}

/// The children's end.
struct Peers {
    says: mpsc::Sender<ParentEvent>,
    hears: mpsc::UnboundedReceiver<(PeerId, ParentMessage)>,
    _submits: mpsc::Sender<Frames>,
}

/// A host, and the ends of its channels, of which the one for control events holds this many.
fn start(builder: HostBuilder, capacity: usize) -> (Host, Peers) {
    let (says, events) = mpsc::channel(capacity);
    let (_submits, submits) = mpsc::channel(1);
    let (out, hears) = mpsc::unbounded_channel();
    let control: Address = "tcp://127.0.0.1:1".parse().unwrap();
    let addresses = BoundAddresses { broadcast: control.clone(), submit: control.clone(), control };
    let channels = Box::new(Channels(out));
    let host = builder.start(ParentLink { addresses, channels, events, submits });
    (host, Peers { says, hears, _submits })
}

fn peer(n: u64) -> PeerId {
    PeerId::new(Bytes::copy_from_slice(&n.to_be_bytes()))
}

/// An id that tells which try it is of, and in which part.
fn id(part: u64, n: u64) -> EndpointId {
    EndpointId::from_bytes((u128::from(part) << 64 | u128::from(n + 1)).to_be_bytes())
}

fn address(host: u8) -> PeerAddress {
    PeerAddress::Tcp(([10, 0, 0, host], 1).into())
}

fn control(peer: &PeerId, from: u8, message: &ChildMessage) -> ParentEvent {
    ParentEvent::Control { peer: peer.clone(), address: address(from), frames: vec![message.encode()] }
}

fn hello(id: EndpointId, token: &'static str) -> ChildMessage {
    ChildMessage::Hello(Hello {
        version: PROTOCOL_VERSION,
        cluster: "default".into(),
        id,
        resume: None,
        incarnation: 0,
        epoch: 0,
        first_open: 0,
        next_origin_seq: 1,
        token: Bytes::from_static(token.as_bytes()),
    })
}

impl Peers {
    async fn say(&self, event: ParentEvent) {
        self.says.send(event).await.expect("the host is up");
    }

    async fn hear(&mut self) -> (PeerId, ParentMessage) {
        timeout(PATIENCE, self.hears.recv()).await.expect("in time").expect("the host is up")
    }
}

/// Something that means nothing.
fn noise() -> ParentEvent {
    ParentEvent::Control { peer: peer(u64::MAX), address: address(3), frames: Vec::new() }
}

/// Makes noise all the time, so that the host is never without something to hear.
fn flood(says: mpsc::Sender<ParentEvent>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while says.send(noise()).await.is_ok() {} });
    tasks
}

/// A hello with a good token, a hang-up, and a hello with a wrong one on a connection of the same
/// name.
async fn try_to_get_in(tries: u64, is_slow: bool, is_flooded: bool) {
    let authenticator = authenticate_fn(move |request: crate::JoinRequest| async move {
        if is_slow {
            // From less to more than it takes the next hello to come.
            let tenths = u64::from(request.id.as_bytes()[15] % 16);
            tokio::time::sleep(Duration::from_micros(tenths * 100)).await;
        }
        if request.token == "good" { Ok(Role::Member) } else { Err("wrong token".to_owned()) }
    });
    let (host, mut peers) = start(Host::builder().authenticator(authenticator), QUEUE);
    let mut events = host.events();
    let (begun, mut told) = (std::time::Instant::now(), 0);
    let _noise = is_flooded.then(|| flood(peers.says.clone()));
    for n in 0..tries {
        let reused = peer(n);
        peers.say(control(&reused, 1, &hello(id(1, n), "good"))).await;
        peers.say(ParentEvent::ControlClosed { peer: reused.clone() }).await;
        peers.say(control(&reused, 2, &hello(id(2, n), "wrong"))).await;
        loop {
            let (to, message) = peers.hear().await;
            assert_eq!(to, reused);
            match message {
                // Of the first connection, or else of the second, which would now become a member.
                ParentMessage::Welcome(_) => {
                    let subscribe = ChildMessage::Subscribe { nonce: 1, prefixes: Vec::new() };
                    peers.say(control(&reused, 2, &subscribe)).await;
                    peers.say(control(&reused, 2, &ChildMessage::Live { nonce: 1 })).await;
                }
                ParentMessage::Refused(refusal) => {
                    assert_eq!(refusal.code, RefusalCode::Unauthorized);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        peers.say(ParentEvent::ControlClosed { peer: reused }).await;
        while let Some(event) = events.next().now_or_never() {
            match event.expect("the host is up") {
                Event::JoinRefused { id: who, address: from, reason } => {
                    assert_eq!((&who.as_bytes()[..8], from), (&id(2, n).as_bytes()[..8], address(2)));
                    assert_eq!(reason, RefusalReason::Unauthorized("wrong token".into()));
                    told += 1;
                }
                other => panic!("try {n}: {other:?}"),
            }
        }
    }
    assert!(host.stats().refused_joins >= tries - 1, "the last one may not be counted yet");
    let seconds = begun.elapsed().as_secs() + 1;
    assert!((1..=seconds * 100).contains(&told), "{told} of {tries} were told in {seconds} s");
    assert_eq!(host.members().len(), 1, "the host alone");
}

async fn try_to_get_in_every_way(tries: u64) {
    for is_slow in [false, true] {
        for is_flooded in [false, true] {
            try_to_get_in(tries / 4, is_slow, is_flooded).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_gets_nobody_in() {
    try_to_get_in_every_way(2_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long form of the test above"]
async fn a_wrong_token_gets_nobody_in_with_many_tries() {
    try_to_get_in_every_way(10_000).await;
}

#[tokio::test]
async fn joiners_get_in_while_others_keep_a_slow_authenticator_busy() {
    let authenticator = authenticate_fn(|request: crate::JoinRequest| async move {
        if request.token != "good" {
            std::future::pending::<()>().await;
        }
        Ok(Role::Member)
    });
    let builder = Host::builder().authenticator(authenticator).handshake_timeout(Duration::from_secs(5));
    let (_host, mut peers) = start(builder, QUEUE);
    // As many sources as it takes to fill the table with calls under way, and each comes again as
    // often as it is refused.
    const SOURCES: u64 = 20;
    for n in 0..SOURCES * 50 {
        peers.say(control(&peer(n), 10 + (n % SOURCES) as u8, &hello(id(1, n), "slow"))).await;
    }
    for n in 0..50 {
        let honest = peer(1_000_000 + n);
        peers.say(control(&honest, 1, &hello(id(2, n), "good"))).await;
        let joining = async {
            loop {
                match peers.hear().await {
                    (to, ParentMessage::Welcome(_)) if to == honest => return,
                    (to, ParentMessage::Refused(refusal)) => {
                        assert_ne!(to, honest, "{refusal:?}");
                        let n = u64::from_be_bytes(to.as_bytes()[..].try_into().unwrap());
                        peers.say(ParentEvent::ControlClosed { peer: to.clone() }).await;
                        peers.say(control(&to, 10 + (n % SOURCES) as u8, &hello(id(1, n), "slow"))).await;
                    }
                    (_, ParentMessage::Membership { .. } | ParentMessage::Pulse { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(Duration::from_secs(2), joining).await.expect("a welcome within two seconds");
    }
}

#[tokio::test]
async fn a_flood_of_control_messages_does_not_delay_verdicts() {
    let authenticator = authenticate_fn(|_| async { Ok(Role::Member) });
    let (host, mut peers) = start(Host::builder().authenticator(authenticator), 100_000);
    peers.say(control(&peer(1), 1, &hello(id(1, 1), "good"))).await;
    while peers.says.try_send(noise()).is_ok() {}
    let (_, message) = peers.hear().await;
    assert!(matches!(message, ParentMessage::Welcome(_)), "{message:?}");
    // It takes a few turns, in each of which the host hears a bounded number of messages.
    let heard = host.stats().malformed_control;
    assert!(heard <= 10 * PER_WAKE as u64, "the verdict came after {heard} other messages");
}

/// Says when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        // A test that has ended does not listen.
        let _ = self.0.take().map(|dropped| dropped.send(()));
    }
}

#[tokio::test]
async fn a_call_to_the_authenticator_ends_with_its_connection() {
    let (dropped, is_dropped) = oneshot::channel();
    let (begun, has_begun) = oneshot::channel();
    let parts = Arc::new(Mutex::new(Some((begun, Dropped(Some(dropped))))));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let authenticator = authenticate_fn(move |_| {
        let parts = crate::sync::lock(&parts).take();
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let guard = parts.map(|(begun, guard)| (begun.send(()), guard));
            std::future::pending::<()>().await;
            drop(guard);
            Ok(Role::Member)
        }
    });
    let (_host, peers) = start(Host::builder().authenticator(authenticator), QUEUE);
    peers.say(control(&peer(1), 1, &hello(id(1, 1), "good"))).await;
    timeout(PATIENCE, has_begun).await.expect("in time").expect("a call");
    peers.say(ParentEvent::ControlClosed { peer: peer(1) }).await;
    timeout(PATIENCE, is_dropped).await.expect("in time").expect("a drop");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_authenticator_that_panics_refuses() {
    let (_host, mut peers) =
        start(Host::builder().authenticator(authenticate_fn(|_| async { panic!("no") })), QUEUE);
    peers.say(control(&peer(1), 1, &hello(id(1, 1), "good"))).await;
    let (_, message) = peers.hear().await;
    let ParentMessage::Refused(refusal) = message else { panic!("{message:?}") };
    assert_eq!((refusal.code, &*refusal.reason), (RefusalCode::Unauthorized, "the authenticator panicked"));
}

/// Waits for an event that matters.
async fn until<T>(events: &mut Events, mut matters: impl FnMut(Event) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = matters(events.next().await.expect("the endpoint is up")) {
                return found;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("in time")
}

async fn next(messages: &mut Messages) -> Result<Message, RecvError> {
    timeout(PATIENCE, messages.next()).await.expect("in time").expect("no end")
}

#[tokio::test]
async fn a_hello_of_the_far_future_does_not_keep_others_from_coming_back() {
    let quarantine = Duration::from_millis(10);
    let host = Host::builder().quarantine(quarantine, quarantine).bind("inproc://far-future").await.unwrap();
    let honest = Client::builder().join(host.address()).await.unwrap();
    let mut events = honest.events();
    let before = honest.joined_at();
    for epoch in [before.epoch + 1, before.epoch + (1 << 40), 1 << 62] {
        let mut link = InprocTransport::new().dial(host.address(), PATIENCE).await.unwrap();
        let ChildMessage::Hello(hello) = hello(EndpointId::random(), "") else { unreachable!() };
        let hello = ChildMessage::Hello(Hello { incarnation: 7, epoch, ..hello });
        link.channels.send_control(hello.encode()).unwrap();
        let event = timeout(PATIENCE, link.events.recv()).await.expect("in time").expect("a word");
        let ChildEvent::Control(frames) = event else { panic!("{event:?}") };
        assert!(matches!(ParentMessage::decode(&frames[0]), Ok(ParentMessage::Welcome(_))));

        assert!(host.kick(honest.id(), "come again").await);
        let connected = until(&mut events, |event| match event {
            Event::Connected { position, .. } => Some(position),
            Event::Refused { reason } => panic!("{reason}"),
            _ => None,
        });
        assert_eq!(connected.await.epoch, before.epoch);
    }
    let newcomer = Client::builder().join(host.address()).await.unwrap();
    assert_eq!(newcomer.joined_at().epoch, before.epoch);
}

#[tokio::test]
async fn a_client_follows_a_host_whose_clock_is_behind() {
    const ADDRESS: &str = "inproc://behind";
    let host = Host::builder().bind(ADDRESS).await.unwrap();
    let client = Client::builder().join(ADDRESS).await.unwrap();
    let (mut messages, mut unread) = (client.messages(), client.messages());
    host.sender().rise_above(client.joined_at().epoch + (1 << 35)).await;
    host.send(Message::new("t", "old").unwrap()).await.unwrap();
    let old = next(&mut messages).await.unwrap();
    assert_eq!(old.payload(), "old");
    drop(host);
    let host = timeout(PATIENCE, async {
        loop {
            match Host::builder().bind(ADDRESS).await {
                Ok(host) => return host,
                // The last one is about to let go of the name.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    let host = host.await.expect("in time");
    let reset = next(&mut messages).await;
    let Err(RecvError::Reset { after, resume_at }) = reset else { panic!("{reset:?}") };
    assert_eq!(after, old.position());
    assert!(resume_at < old.position().unwrap());
    let receipt = client.send(Message::new("t", "mine").unwrap()).await.unwrap();
    let place = timeout(PATIENCE, receipt.ordered()).await.expect("in time").unwrap();
    assert_eq!(place, resume_at);
    host.send(Message::new("t", "new").unwrap()).await.unwrap();
    let new = next(&mut messages).await.unwrap();
    assert_eq!((&new.payload()[..], new.position().unwrap().epoch), (&b"new"[..], resume_at.epoch));

    // One stream has not come to this host's messages yet: nothing of them is handled, whatever the
    // other one has done.
    assert!(messages.next().now_or_never().is_none());
    let handled = || host.stats().members.first().map(|member| (member.handled.seq, member.lag.messages));
    let until_handled = async |seq, lag| {
        let settled = async {
            while handled() != Some((seq, lag)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, settled).await.unwrap_or_else(|_| panic!("{:?}", handled()));
    };
    until_handled(0, 2).await;
    for _ in 0..3 {
        // What is old, the word of the reset, and what is new.
        drop(next(&mut unread).await);
    }
    assert!(unread.next().now_or_never().is_none());
    until_handled(2, 0).await;
}

//! What every transport must do, written once and run on TCP, IPC and in process; then what only one of them does.

#![allow(clippy::disallowed_methods, reason = "tests watch the clock")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::time::timeout;
use zincmq::transport::{
    BindAddresses, BindError, Carrier, Channel, ChannelError, ChildEvent, ChildLink, DialError, Frames,
    ParentEvent, ParentLimits, ParentLink, PeerAddress, PeerId, Protocol, Transport,
    for_address as for_address_over,
};
use zincmq::{Address, SessionToken};

/// How long anything may take that must happen: generous, for loaded machines. Nothing waits for it to pass.
const LIMIT: Duration = Duration::from_secs(20);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

tokio::task_local! {
    /// What carries TCP and IPC in a test. Tasks beside it have the default one, which is to make no difference.
    static CARRIER: Carrier;
}

fn for_address(address: &Address) -> Arc<dyn Transport> {
    for_address_over(address, CARRIER.try_with(|carrier| *carrier).unwrap_or_default())
}

/// Where a test binds.
struct Site {
    address: Address,
    /// Keeps a TCP port from others while nobody listens at it.
    _port: Option<TcpSocket>,
    _dir: Option<TempDir>,
}

impl Site {
    fn tcp() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = format!("tcp://{}", socket.local_addr().unwrap()).parse().unwrap();
        Self { address, _port: Some(socket), _dir: None }
    }

    fn ipc() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { address: Address::Ipc(dir.path().join("socket")), _port: None, _dir: Some(dir) }
    }

    fn inproc() -> Self {
        Self { address: Address::Inproc(uuid::Uuid::new_v4().to_string()), _port: None, _dir: None }
    }

    async fn bind(&self) -> Parent {
        Parent { link: bind(&self.address).await.unwrap() }
    }
}

async fn bind(address: &Address) -> Result<ParentLink, BindError> {
    let addresses = BindAddresses { control: address.clone(), broadcast: None, submit: None };
    within("bind", for_address(address).bind(&addresses, &ParentLimits::default(), PROTOCOL)).await
}

async fn dial(address: &Address) -> ChildLink {
    within("dial", for_address(address).dial(address, LIMIT)).await.unwrap()
}

/// Of no meaning to the links, which these tests are about.
const PROTOCOL: Protocol = Protocol { is_hello: |_| true, session_of: |_| None };

fn token(n: u8) -> SessionToken {
    SessionToken::from_bytes([n; 16]).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

struct Parent {
    link: ParentLink,
}

impl Parent {
    async fn event(&mut self) -> ParentEvent {
        within("an event at the parent", self.link.events.recv()).await.expect("the parent's events go on")
    }

    /// The next control message, with its sender and where that is.
    async fn control(&mut self) -> (PeerId, PeerAddress, Frames) {
        loop {
            if let ParentEvent::Control { peer, address, frames } = self.event().await {
                return (peer, address, frames);
            }
        }
    }

    async fn submit(&mut self) -> Frames {
        within("a submit", self.link.submits.recv()).await.expect("submits go on")
    }

    fn broadcast(&mut self, lane: &str, body: &str) {
        self.link.channels.broadcast(bytes(lane), bytes(body));
    }

    fn send(&mut self, peer: &PeerId, frame: &str) {
        self.link.channels.send_control(peer, bytes(frame)).unwrap();
    }
}

struct Child {
    link: ChildLink,
    peer: PeerId,
    session: SessionToken,
}

impl Child {
    /// A child that said hello, attached and subscribed to its barrier.
    async fn join(parent: &mut Parent, n: u8) -> Self {
        let addresses = parent.link.addresses.clone();
        let mut link = dial(&addresses.control).await;
        link.channels.send_control(bytes(&format!("hello {n}"))).unwrap();
        let (peer, _, frames) = parent.control().await;
        assert_eq!(frames, [bytes(&format!("hello {n}"))]);
        let session = token(n);
        parent.link.channels.open_session(&peer, session);
        within("attach", link.channels.attach(&addresses.broadcast, &addresses.submit, session, LIMIT))
            .await
            .unwrap();
        let mut child = Self { link, peer, session };
        child.barrier(parent, 0).await;
        child
    }

    /// Returns once all earlier changes of subscriptions are in force, and what came by until then, barriers aside.
    ///
    /// No subscription of a test may match the barrier's lane before the barrier's own does.
    async fn barrier(&mut self, parent: &mut Parent, n: u32) -> Vec<Frames> {
        let lane = format!("|barrier {:?} {n};", self.session);
        self.link.channels.subscribe(&lane).unwrap();
        let mut seen = Vec::new();
        within("a barrier", async {
            loop {
                parent.broadcast(&lane, "");
                while let Ok(frames) = timeout(Duration::from_millis(20), self.link.broadcasts.recv()).await {
                    let frames = frames.expect("broadcasts go on");
                    if frames[0] == lane {
                        return;
                    }
                    seen.push(frames);
                }
            }
        })
        .await;
        seen.retain(|frames: &Frames| !frames[0].starts_with(b"|barrier"));
        seen
    }

    /// The next broadcast that is no barrier's.
    async fn broadcast(&mut self) -> Frames {
        loop {
            let frames = within("a broadcast", self.link.broadcasts.recv()).await.expect("broadcasts go on");
            if !frames[0].starts_with(b"|barrier") {
                return frames;
            }
        }
    }

    async fn event(&mut self) -> ChildEvent {
        within("an event at the child", self.link.events.recv()).await.expect("the child's events go on")
    }

    async fn control(&mut self) -> Frames {
        match self.event().await {
            ChildEvent::Control(frames) => frames,
            other => panic!("{other:?}"),
        }
    }

    /// The control and broadcast channels are told to be lost, each once.
    async fn is_lost(&mut self) {
        let mut lost = Vec::new();
        while !(lost.contains(&Channel::Control) && lost.contains(&Channel::Broadcast)) {
            match self.event().await {
                ChildEvent::Lost(channel) => {
                    assert!(!lost.contains(&channel), "{channel} is lost twice");
                    lost.push(channel);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn submit(&mut self, head: &str, body: &str) {
        self.link.channels.submit(bytes(head), bytes(body)).unwrap();
    }
}

fn strings(frames: &[Bytes]) -> Vec<&str> {
    frames.iter().map(|frame| std::str::from_utf8(frame).unwrap()).collect()
}

/// A module of tests for each transport.
macro_rules! on_every_transport {
    ($($behaviour:ident)*) => {
        on_every_transport!(@module tcp, tcp, Zmtp [$($behaviour)*]);
        on_every_transport!(@module ipc, ipc, Zmtp [$($behaviour)*]);
        on_every_transport!(@module inproc, inproc, Zmtp [$($behaviour)*]);
        on_every_transport!(@module zeromq_tcp, tcp, Zeromq [$($behaviour)*]);
        on_every_transport!(@module zeromq_ipc, ipc, Zeromq [$($behaviour)*]);
    };
    (@module $module:ident, $transport:ident, $carrier:ident [$($behaviour:ident)*]) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    let work = super::$behaviour(super::Site::$transport());
                    super::CARRIER.scope(super::Carrier::$carrier, work).await;
                }
            )*
        }
    };
}

on_every_transport! {
    tells_children_apart_and_answers_the_right_one
    says_where_a_peer_comes_from
    keeps_the_order_of_control_messages
    ignores_control_messages_to_unknown_peers
    broadcasts_to_matching_prefixes_in_order
    takes_up_further_subscriptions
    takes_subscriptions_back
    counts_subscriptions
    subscribes_while_broadcasts_wait_to_be_read
    goes_on_publishing_while_subscriptions_change
    broadcasts_nothing_to_a_child_that_has_not_attached
    refuses_to_speak_on_channels_not_attached
    refuses_to_attach_twice
    keeps_the_order_of_each_childs_submits
    holds_submits_back_while_they_are_not_read
    carries_large_frames
    carries_empty_frames
    tells_the_parent_that_a_child_is_gone
    tells_what_a_child_said_before_that_it_is_gone
    tells_a_child_that_its_parent_is_gone
    tells_a_child_that_submits_to_a_parent_that_is_gone
    disconnects_one_child_and_no_other
    carries_last_words
    publishes_without_waiting_for_a_child_that_does_not_read
    waits_for_a_parent_that_comes_later
    gives_up_dialling_at_the_timeout
    stops_dialling_when_cancelled
    refuses_an_address_in_use
    binds_again_what_was_dropped
    replaces_a_child_that_dials_again
}

async fn tells_children_apart_and_answers_the_right_one(site: Site) {
    let mut parent = site.bind().await;
    let mut children = Vec::new();
    for n in 1..=3 {
        children.push(Child::join(&mut parent, n).await);
    }
    for (n, child) in children.iter().enumerate() {
        parent.send(&child.peer, &format!("answer {n}"));
    }
    for (n, child) in children.iter_mut().enumerate() {
        assert_eq!(strings(&child.control().await), [format!("answer {n}")]);
        child.link.channels.send_control(bytes("thanks")).unwrap();
        let (peer, _, frames) = parent.control().await;
        assert_eq!((peer, strings(&frames)), (child.peer.clone(), vec!["thanks"]));
    }
}

async fn says_where_a_peer_comes_from(site: Site) {
    let mut parent = site.bind().await;
    let mut child = dial(&site.address).await;
    // The first message is the one that may overtake the news of the connection.
    child.channels.send_control(bytes("hello")).unwrap();
    let (_, address, _) = parent.control().await;
    match site.address {
        Address::Tcp { .. } => {
            assert!(matches!(address, PeerAddress::Tcp(from) if from.ip().is_loopback()), "{address}");
        }
        Address::Ipc(_) => assert_eq!(address, PeerAddress::Ipc),
        Address::Inproc(_) => assert_eq!(address, PeerAddress::Inproc),
    }
}

async fn keeps_the_order_of_control_messages(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    for n in 0..500 {
        child.link.channels.send_control(bytes(&format!("up {n}"))).unwrap();
        parent.send(&child.peer, &format!("down {n}"));
    }
    for n in 0..500 {
        assert_eq!(strings(&parent.control().await.2), [format!("up {n}")]);
        assert_eq!(strings(&child.control().await), [format!("down {n}")]);
    }
}

async fn ignores_control_messages_to_unknown_peers(site: Site) {
    let mut parent = site.bind().await;
    for name in [&b"nobody"[..], b"", &[1; 300]] {
        let nobody = PeerId::new(Bytes::copy_from_slice(name));
        parent.link.channels.send_control(&nobody, bytes("lost")).unwrap();
        parent.link.channels.disconnect(&nobody, Some(token(9)));
    }
    let mut child = Child::join(&mut parent, 1).await;
    parent.send(&child.peer, "still here");
    assert_eq!(strings(&child.control().await), ["still here"]);
}

async fn broadcasts_to_matching_prefixes_in_order(site: Site) {
    let mut parent = site.bind().await;
    let (mut a, mut b) = (Child::join(&mut parent, 1).await, Child::join(&mut parent, 2).await);
    a.link.channels.subscribe("Tapples").unwrap();
    b.link.channels.subscribe("T").unwrap();
    a.barrier(&mut parent, 1).await;
    b.barrier(&mut parent, 1).await;
    for n in 0..200 {
        parent.broadcast("Tapples/red", &n.to_string());
        parent.broadcast("Tapple", &n.to_string());
        parent.broadcast("Wapples", &n.to_string());
    }
    for n in 0..200 {
        assert_eq!(strings(&a.broadcast().await), ["Tapples/red", &n.to_string()]);
        assert_eq!(strings(&b.broadcast().await), ["Tapples/red", &n.to_string()]);
        assert_eq!(strings(&b.broadcast().await), ["Tapple", &n.to_string()]);
    }
    assert!(a.barrier(&mut parent, 2).await.is_empty());
    assert!(b.barrier(&mut parent, 2).await.is_empty());
}

async fn takes_up_further_subscriptions(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    for (n, lane) in ["a", "b", "c"].into_iter().enumerate() {
        parent.broadcast(lane, "before");
        child.link.channels.subscribe(lane).unwrap();
        let seen = child.barrier(&mut parent, 1 + u32::try_from(n).unwrap()).await;
        assert!(seen.iter().all(|frames| frames[0] == lane), "{seen:?}");
        parent.broadcast(lane, "after");
        loop {
            let frames = child.broadcast().await;
            assert_eq!(frames[0], lane);
            if frames[1] == "after" {
                break;
            }
        }
    }
    for lane in ["a", "b", "c"] {
        parent.broadcast(lane, "all");
        assert_eq!(strings(&child.broadcast().await), [lane, "all"]);
    }
}

async fn takes_subscriptions_back(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    child.link.channels.subscribe("a").unwrap();
    child.link.channels.subscribe("b").unwrap();
    child.barrier(&mut parent, 1).await;
    child.link.channels.unsubscribe("a").unwrap();
    child.link.channels.unsubscribe("never subscribed").unwrap();
    child.barrier(&mut parent, 2).await;
    parent.broadcast("a", "no longer");
    parent.broadcast("b", "still");
    assert_eq!(strings(&child.broadcast().await), ["b", "still"]);
}

async fn counts_subscriptions(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    child.link.channels.subscribe("a").unwrap();
    child.link.channels.subscribe("a").unwrap();
    child.link.channels.unsubscribe("a").unwrap();
    child.barrier(&mut parent, 1).await;
    parent.broadcast("a", "one left, and once only");
    assert_eq!(strings(&child.broadcast().await), ["a", "one left, and once only"]);
    child.link.channels.unsubscribe("a").unwrap();
    assert!(child.barrier(&mut parent, 2).await.is_empty());
    parent.broadcast("a", "none left");
    assert!(child.barrier(&mut parent, 3).await.is_empty());
}

async fn subscribes_while_broadcasts_wait_to_be_read(site: Site) {
    let mut parent = site.bind().await;
    let (mut idle, mut other) = (Child::join(&mut parent, 1).await, Child::join(&mut parent, 2).await);
    idle.link.channels.subscribe("flood").unwrap();
    other.link.channels.subscribe("flood").unwrap();
    idle.barrier(&mut parent, 1).await;
    other.barrier(&mut parent, 1).await;
    // More than the child's queue takes, fewer than are dropped anywhere.
    for n in 0..3_000 {
        parent.broadcast("flood", &n.to_string());
    }
    for n in 0..3_000 {
        assert_eq!(strings(&other.broadcast().await), ["flood", &n.to_string()]);
    }
    idle.link.channels.subscribe("late").unwrap();
    // Not a barrier, for that would read, and the subscription must come through although the child does not. That
    // cannot be seen from outside, so the lane is published long enough for any machine before the child reads on.
    for _ in 0..200 {
        parent.broadcast("late", "");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for n in 0..3_000 {
        assert_eq!(strings(&idle.broadcast().await), ["flood", &n.to_string()]);
    }
    assert_eq!(strings(&idle.broadcast().await), ["late", ""]);
}

/// In the zeromq crate, run by several threads, this is enough to stop a publisher for ever.
async fn goes_on_publishing_while_subscriptions_change(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    child.link.channels.subscribe("always").unwrap();
    child.barrier(&mut parent, 1).await;
    for round in 0..20 {
        for n in 0..100 {
            child.link.channels.subscribe("now and then").unwrap();
            child.link.channels.unsubscribe("now and then").unwrap();
            parent.broadcast("always", &n.to_string());
            // So that what changes subscriptions and what publishes take turns, or meet.
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        for n in 0..100 {
            assert_eq!(strings(&child.broadcast().await), ["always", &n.to_string()]);
        }
        assert!(child.barrier(&mut parent, 2 + round).await.is_empty());
    }
}

async fn broadcasts_nothing_to_a_child_that_has_not_attached(site: Site) {
    let mut parent = site.bind().await;
    let mut bystander = dial(&site.address).await;
    let mut child = Child::join(&mut parent, 1).await;
    child.link.channels.subscribe("").unwrap();
    child.barrier(&mut parent, 1).await;
    parent.broadcast("a", "x");
    assert_eq!(strings(&child.broadcast().await), ["a", "x"]);
    assert!(bystander.broadcasts.try_recv().is_err());
}

async fn refuses_to_speak_on_channels_not_attached(site: Site) {
    let _parent = site.bind().await;
    let mut child = dial(&site.address).await;
    let closed = ChannelError::Closed(Channel::Broadcast);
    assert_eq!(child.channels.subscribe("a"), Err(closed.clone()));
    assert_eq!(child.channels.unsubscribe("a"), Err(closed));
    assert_eq!(child.channels.submit(Bytes::new(), Bytes::new()), Err(ChannelError::Closed(Channel::Submit)));
}

async fn refuses_to_attach_twice(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    let addresses = parent.link.addresses.clone();
    let again = child.link.channels.attach(&addresses.broadcast, &addresses.submit, token(2), LIMIT);
    assert!(matches!(within("attach", again).await, Err(DialError::Unsupported { .. })));
}

async fn keeps_the_order_of_each_childs_submits(site: Site) {
    let mut parent = site.bind().await;
    let mut children = Vec::new();
    for n in 1..=3 {
        children.push(Child::join(&mut parent, n).await);
    }
    for n in 0..300 {
        for (index, child) in children.iter_mut().enumerate() {
            child.submit(&index.to_string(), &n.to_string());
        }
    }
    let mut next = [0; 3];
    for _ in 0..3 * 300 {
        let frames = parent.submit().await;
        let [head, body] = strings(&frames)[..] else { panic!("{frames:?}") };
        let next = &mut next[head.parse::<usize>().unwrap()];
        assert_eq!(body, next.to_string());
        *next += 1;
    }
    assert_eq!(next, [300; 3]);
}

async fn holds_submits_back_while_they_are_not_read(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    let mut accepted = 0;
    // Full is an answer, too: what was accepted until then arrives.
    while accepted < 5_000 && child.link.channels.submit(bytes("head"), bytes(&accepted.to_string())).is_ok()
    {
        accepted += 1;
    }
    assert!(accepted >= 1_000, "{accepted}");
    parent.send(&child.peer, "the other channels go on");
    assert_eq!(strings(&child.control().await), ["the other channels go on"]);
    for n in 0..accepted {
        assert_eq!(strings(&parent.submit().await), ["head", &n.to_string()]);
    }
}

async fn carries_large_frames(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    child.link.channels.subscribe("large").unwrap();
    child.barrier(&mut parent, 1).await;
    let large: Bytes = (0..8 << 20).map(|n: u32| n.to_le_bytes()[n as usize % 3]).collect::<Vec<u8>>().into();

    parent.link.channels.broadcast(bytes("large"), large.clone());
    assert!(child.broadcast().await == [bytes("large"), large.clone()]);
    child.link.channels.submit(large.clone(), large.clone()).unwrap();
    assert!(parent.submit().await == [large.clone(), large.clone()]);
    // Nothing that a child has to say on control is larger than this, and more need not be taken from strangers.
    let largest = large.slice(..1 << 20);
    child.link.channels.send_control(largest.clone()).unwrap();
    assert!(parent.control().await.2 == [largest]);
    parent.link.channels.send_control(&child.peer, large.clone()).unwrap();
    assert!(child.control().await == [large]);
}

async fn carries_empty_frames(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    child.link.channels.subscribe("").unwrap();
    child.barrier(&mut parent, 1).await;

    parent.broadcast("", "");
    assert_eq!(strings(&child.broadcast().await), ["", ""]);
    child.submit("", "");
    assert_eq!(strings(&parent.submit().await), ["", ""]);
    child.link.channels.send_control(Bytes::new()).unwrap();
    assert_eq!(strings(&parent.control().await.2), [""]);
    parent.send(&child.peer, "");
    assert_eq!(strings(&child.control().await), [""]);
}

/// Waits until the parent knows that both connections of a child have closed.
async fn is_gone(parent: &mut Parent, child: &(PeerId, SessionToken)) {
    let (mut control, mut broadcast) = (false, false);
    while !(control && broadcast) {
        match parent.event().await {
            ParentEvent::ControlClosed { peer } => {
                assert_eq!(peer, child.0);
                control = true;
            }
            ParentEvent::BroadcastClosed { session } => {
                assert_eq!(session, child.1);
                broadcast = true;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn tells_the_parent_that_a_child_is_gone(site: Site) {
    let mut parent = site.bind().await;
    let mut stays = Child::join(&mut parent, 1).await;
    let goes = Child::join(&mut parent, 2).await;
    let gone = (goes.peer.clone(), goes.session);
    drop(goes);
    is_gone(&mut parent, &gone).await;
    parent.send(&gone.0, "too late");
    parent.send(&stays.peer, "in time");
    assert_eq!(strings(&stays.control().await), ["in time"]);
}

async fn tells_what_a_child_said_before_that_it_is_gone(site: Site) {
    let mut parent = site.bind().await;
    for round in 0..20 {
        let mut child = dial(&site.address).await;
        let count = 1 + round % 3;
        // The last words are read before the child goes; that nothing comes after the closing is the point.
        let mut heard = None;
        for n in 0..count {
            child.channels.send_control(bytes(&n.to_string())).unwrap();
            let (peer, _, frames) = parent.control().await;
            assert_eq!(strings(&frames), [n.to_string()]);
            // From here on it may say more than one thing.
            parent.link.channels.open_session(&peer, token(1));
            heard = Some(peer);
        }
        drop(child);
        match parent.event().await {
            ParentEvent::ControlClosed { peer } => assert_eq!(Some(peer), heard),
            other => panic!("{other:?}"),
        }
    }
}

async fn tells_a_child_that_its_parent_is_gone(site: Site) {
    let mut parent = site.bind().await;
    let mut children = Vec::new();
    for n in 1..=2 {
        children.push(Child::join(&mut parent, n).await);
    }
    drop(parent);
    for child in &mut children {
        child.is_lost().await;
        let Err(ChannelError::Closed(Channel::Control)) = child.link.channels.send_control(bytes("too late"))
        else {
            panic!("the control channel is closed");
        };
    }
}

async fn tells_a_child_that_submits_to_a_parent_that_is_gone(site: Site) {
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    drop(parent);
    within("the submit channel's end", async {
        while child.link.channels.submit(bytes("head"), bytes("body")).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        loop {
            if let Some(ChildEvent::Lost(Channel::Submit)) = child.link.events.recv().await {
                return;
            }
        }
    })
    .await;
}

async fn disconnects_one_child_and_no_other(site: Site) {
    let mut parent = site.bind().await;
    let (mut stays, mut goes) = (Child::join(&mut parent, 1).await, Child::join(&mut parent, 2).await);
    for child in [&mut stays, &mut goes] {
        child.link.channels.subscribe("a").unwrap();
        child.barrier(&mut parent, 1).await;
    }
    parent.link.channels.disconnect(&goes.peer, Some(goes.session));
    goes.is_lost().await;
    drop(goes);
    parent.broadcast("a", "x");
    assert_eq!(strings(&stays.broadcast().await), ["a", "x"]);
    stays.submit("head", "body");
    assert_eq!(strings(&parent.submit().await), ["head", "body"]);
    parent.send(&stays.peer, "x");
    assert_eq!(strings(&stays.control().await), ["x"]);
}

/// What is queued for a peer may be lost with its connection, but not where nothing stands in its way.
async fn carries_last_words(site: Site) {
    let mut parent = site.bind().await;
    let (mut evicted, mut left) = (Child::join(&mut parent, 1).await, Child::join(&mut parent, 2).await);
    parent.send(&evicted.peer, "you are evicted");
    parent.link.channels.disconnect(&evicted.peer, Some(evicted.session));
    parent.send(&left.peer, "farewell");
    drop(parent);
    for (child, words) in [(&mut evicted, "you are evicted"), (&mut left, "farewell")] {
        loop {
            match child.event().await {
                ChildEvent::Control(frames) => {
                    assert_eq!(strings(&frames), [words]);
                    break;
                }
                ChildEvent::Lost(Channel::Control) => panic!("lost before the last words"),
                _ => {}
            }
        }
    }
}

async fn publishes_without_waiting_for_a_child_that_does_not_read(site: Site) {
    let mut parent = site.bind().await;
    let mut idle = Child::join(&mut parent, 1).await;
    idle.link.channels.subscribe("a").unwrap();
    idle.barrier(&mut parent, 1).await;
    for n in 0..10_000 {
        parent.broadcast("a", &n.to_string());
    }
    match parent.link.channels.backlog(idle.session) {
        None => assert_eq!(parent.link.channels.dropped(), 0),
        Some(backlog) => {
            // What the system has taken does not wait any more.
            assert!(backlog.messages <= 10_000 && backlog.bytes >= backlog.messages);
        }
    }
    // In order as far as they go, and all where none was dropped.
    let left = 10_000 - parent.link.channels.dropped();
    for n in 0..left {
        assert_eq!(strings(&idle.broadcast().await), ["a", &n.to_string()]);
    }
    let mut other = Child::join(&mut parent, 2).await;
    parent.send(&other.peer, "x");
    assert_eq!(strings(&other.control().await), ["x"]);
}

async fn waits_for_a_parent_that_comes_later(site: Site) {
    let address = site.address.clone();
    let dialling = tokio::spawn(async move { dial(&address).await });
    // So that some attempts fail. Should this pass before the first, the test still holds.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!dialling.is_finished());
    let mut parent = site.bind().await;
    let mut child = within("the dial", dialling).await.unwrap();
    child.channels.send_control(bytes("at last")).unwrap();
    assert_eq!(strings(&parent.control().await.2), ["at last"]);
}

async fn gives_up_dialling_at_the_timeout(site: Site) {
    let start = Instant::now();
    let error =
        within("dial", for_address(&site.address).dial(&site.address, Duration::from_millis(600))).await;
    assert!(
        matches!(&error, Err(DialError::Unreachable { address, .. }) if *address == site.address),
        "{error:?}"
    );
    assert!(start.elapsed() >= Duration::from_millis(600));
    assert!(start.elapsed() < Duration::from_secs(10));
}

async fn stops_dialling_when_cancelled(site: Site) {
    let transport = for_address(&site.address);
    assert!(timeout(Duration::from_millis(200), transport.dial(&site.address, LIMIT)).await.is_err());
    let mut parent = site.bind().await;
    let child = Child::join(&mut parent, 1).await;
    drop(child);
    // Had the cancelled dial gone on, it would not have been heard, so this only shows that nothing is disturbed.
    assert!(matches!(
        parent.event().await,
        ParentEvent::ControlClosed { .. } | ParentEvent::BroadcastClosed { .. }
    ));
}

async fn refuses_an_address_in_use(site: Site) {
    let mut parent = site.bind().await;
    let bound = parent.link.addresses.control.clone();
    match bind(&bound).await {
        Err(BindError::InUse { address }) => assert_eq!(address, bound),
        other => panic!("{other:?}"),
    }
    // Who holds the address is not harmed.
    let mut child = Child::join(&mut parent, 1).await;
    parent.send(&child.peer, "x");
    assert_eq!(strings(&child.control().await), ["x"]);
}

async fn binds_again_what_was_dropped(site: Site) {
    for round in 0..5 {
        let mut parent = within("the address to be free", async {
            loop {
                match bind(&site.address).await {
                    Ok(link) => return Parent { link },
                    // A TCP port is free a moment later.
                    Err(BindError::InUse { .. }) if matches!(site.address, Address::Tcp { .. }) => {
                        tokio::task::yield_now().await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await;
        let mut child = Child::join(&mut parent, 1 + round).await;
        parent.send(&child.peer, "x");
        assert_eq!(strings(&child.control().await), ["x"]);
    }
}

async fn replaces_a_child_that_dials_again(site: Site) {
    let mut parent = site.bind().await;
    for _ in 0..5 {
        let child = Child::join(&mut parent, 1).await;
        let gone = (child.peer.clone(), child.session);
        drop(child);
        is_gone(&mut parent, &gone).await;
    }
}

async fn bound(text: &str) -> Parent {
    Parent { link: bind(&text.parse().unwrap()).await.unwrap() }
}

fn port(address: &Address) -> u16 {
    match address {
        Address::Tcp { port, .. } => *port,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_keeps_the_host_and_resolves_the_ports() {
    for host in ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"] {
        let mut parent = bound(&format!("tcp://{host}:0")).await;
        let addresses = parent.link.addresses.clone();
        let mut ports = Vec::new();
        for address in [&addresses.control, &addresses.broadcast, &addresses.submit] {
            ports.push(port(address));
            assert_eq!(address.to_string(), format!("tcp://{host}:{}", port(address)));
        }
        ports.sort_unstable();
        ports.dedup();
        assert!(ports.len() == 3 && ports[0] != 0, "{ports:?}");
        let mut child = Child::join(&mut parent, 1).await;
        child.submit("head", "body");
        assert_eq!(strings(&parent.submit().await), ["head", "body"]);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_bound_to_all_interfaces_is_reached_by_each_address() {
    let mut parent = bound("tcp://0.0.0.0:0").await;
    let address = format!("tcp://127.0.0.2:{}", port(&parent.link.addresses.control)).parse().unwrap();
    let mut child = dial(&address).await;
    child.channels.send_control(bytes("hello")).unwrap();
    assert_eq!(strings(&parent.control().await.2), ["hello"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_binds_channels_where_it_is_told() {
    let (broadcast, submit) = (Site::tcp(), Site::ipc());
    let control: Address = "tcp://127.0.0.1:0".parse().unwrap();
    let addresses = BindAddresses {
        control: control.clone(),
        broadcast: Some(broadcast.address.clone()),
        submit: Some(submit.address.clone()),
    };
    let link = within("bind", for_address(&control).bind(&addresses, &ParentLimits::default(), PROTOCOL))
        .await
        .unwrap();
    assert_eq!(link.addresses.broadcast, broadcast.address);
    assert_eq!(link.addresses.submit, submit.address);
    Child::join(&mut Parent { link }, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_leaves_nothing_bound_when_a_channel_cannot_be() {
    let (control, taken) = (Site::tcp(), bound("tcp://127.0.0.1:0").await);
    let addresses = BindAddresses {
        control: control.address.clone(),
        broadcast: None,
        submit: Some(taken.link.addresses.submit.clone()),
    };
    let refused =
        within("bind", for_address(&control.address).bind(&addresses, &ParentLimits::default(), PROTOCOL))
            .await;
    assert!(matches!(refused, Err(BindError::InUse { .. })), "{refused:?}");
    control.bind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_gives_up_a_peer_that_never_greets_and_a_name_without_address() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("tcp://{}", mute.local_addr().unwrap()).parse().unwrap();
    let nameless = "tcp://does-not-exist.invalid:1".parse().unwrap();
    for address in [&mute, &nameless] {
        let outcome = within("dial", for_address(address).dial(address, Duration::from_millis(500))).await;
        assert!(matches!(outcome, Err(DialError::Unreachable { .. })), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_cannot_be_dialled_are_told_at_once() {
    for text in ["tcp://127.0.0.1:0", "ipc://*"] {
        let address: Address = text.parse().unwrap();
        let outcome = within("dial", for_address(&address).dial(&address, LIMIT * 2)).await;
        assert!(matches!(outcome, Err(DialError::Unsupported { .. })), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inproc_serves_all_channels_under_one_name() {
    let site = Site::inproc();
    let addresses =
        BindAddresses { control: site.address.clone(), broadcast: Some(site.address.clone()), submit: None };
    let transport = for_address(&site.address);
    let link = within("bind", transport.bind(&addresses, &ParentLimits::default(), PROTOCOL)).await.unwrap();
    assert_eq!([&link.addresses.broadcast, &link.addresses.submit], [&site.address; 2]);
    drop(link);
    let other = BindAddresses { submit: Some(Site::inproc().address), ..addresses };
    let refused = within("bind", transport.bind(&other, &ParentLimits::default(), PROTOCOL)).await;
    assert!(matches!(refused, Err(BindError::Unsupported { .. })), "{refused:?}");
    site.bind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inproc_bounds_what_waits_for_a_child_by_bytes_and_counts_what_it_drops() {
    let site = Site::inproc();
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    child.link.channels.subscribe("a").unwrap();
    let body = Bytes::from(vec![0; (8 << 20) - 1]);
    for _ in 0..10 {
        parent.link.channels.broadcast(bytes("a"), body.clone());
    }
    let backlog = parent.link.channels.backlog(child.session).unwrap();
    assert_eq!((backlog.messages, backlog.bytes), (8, 64 << 20));
    assert_eq!(parent.link.channels.dropped(), 2);
    child.broadcast().await;
    assert_eq!(parent.link.channels.backlog(child.session).unwrap().bytes, 56 << 20);
    parent.link.channels.broadcast(bytes("a"), body);
    assert_eq!(parent.link.channels.dropped(), 2);
    assert_eq!(parent.link.channels.backlog(token(9)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inproc_refuses_control_messages_beyond_its_queues_and_still_tells_who_is_gone() {
    let site = Site::inproc();
    let mut parent = site.bind().await;
    let mut child = Child::join(&mut parent, 1).await;
    let accepted = (0..5_000).take_while(|_| child.link.channels.send_control(bytes("up")).is_ok()).count();
    assert_eq!(accepted, 1_024);
    let mut refusal = Ok(());
    while refusal.is_ok() {
        refusal = parent.link.channels.send_control(&child.peer, bytes("down"));
    }
    assert_eq!(refusal, Err(ChannelError::Full(Channel::Control)));
    let gone = (child.peer.clone(), child.session);
    drop(child);
    for _ in 0..accepted {
        parent.control().await;
    }
    is_gone(&mut parent, &gone).await;
}

#[cfg(unix)]
mod unix {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn path(address: &Address) -> &std::path::Path {
        match address {
            Address::Ipc(path) => path,
            other => panic!("{other}"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ipc_puts_the_channels_beside_the_control_and_removes_them_when_dropped() {
        let site = Site::ipc();
        let mut parent = site.bind().await;
        let dir = path(&site.address).parent().unwrap();
        let files = || {
            let mut names: Vec<_> = dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(files(), ["socket", "socket.pub", "socket.pull"]);
        assert_eq!(parent.link.addresses.broadcast, site.address.with_suffix(".pub"));
        assert_eq!(parent.link.addresses.submit, site.address.with_suffix(".pull"));
        let _child = Child::join(&mut parent, 1).await;
        drop(parent);
        assert!(files().is_empty(), "{:?}", files());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ipc_takes_the_place_of_a_socket_nobody_answers_on() {
        let site = Site::ipc();
        for suffix in ["", ".pub", ".pull"] {
            drop(UnixListener::bind(path(&site.address.with_suffix(suffix))).unwrap());
        }
        let mut parent = site.bind().await;
        Child::join(&mut parent, 1).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ipc_leaves_alone_what_is_in_use_or_no_socket() {
        let site = Site::ipc();
        let theirs = site.address.with_suffix(".pull");
        let listener = UnixListener::bind(path(&theirs)).unwrap();
        match bind(&site.address).await {
            Err(BindError::InUse { address }) => assert_eq!(address, theirs),
            other => panic!("{other:?}"),
        }
        assert!(UnixStream::connect(path(&theirs)).is_ok());
        assert!(!path(&site.address).exists(), "nothing stays bound");
        drop(listener);

        std::fs::write(path(&site.address), "precious").unwrap();
        let refused = bind(&site.address).await;
        assert!(matches!(refused, Err(BindError::Io { .. })), "{refused:?}");
        assert_eq!(std::fs::read_to_string(path(&site.address)).unwrap(), "precious");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ipc_finds_a_fresh_path_for_the_wildcard() {
        let (mut one, two) = (bound("ipc://*").await, bound("ipc://*").await);
        let control = one.link.addresses.control.clone();
        assert_ne!(control, two.link.addresses.control);
        assert!(path(&control).starts_with(std::env::temp_dir()));
        Child::join(&mut one, 1).await;
        drop(one);
        assert!(!path(&control).exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ipc_never_removes_the_file_of_a_successor() {
        let site = Site::ipc();
        let first = site.bind().await;
        for suffix in ["", ".pub", ".pull"] {
            std::fs::remove_file(path(&site.address.with_suffix(suffix))).unwrap();
        }
        let mut second = site.bind().await;
        drop(first);
        // The crate removes its files when its tasks end; what it would have removed must survive that.
        for n in 1..=20 {
            drop(Child::join(&mut second, n).await);
            while timeout(Duration::from_millis(1), second.link.events.recv()).await.is_ok() {}
        }
    }

    #[tokio::test]
    async fn works_on_a_single_thread() {
        for site in [Site::tcp(), Site::ipc(), Site::inproc()] {
            let mut parent = site.bind().await;
            let mut child = Child::join(&mut parent, 1).await;
            child.link.channels.subscribe("a").unwrap();
            child.barrier(&mut parent, 1).await;
            parent.broadcast("a", "x");
            assert_eq!(strings(&child.broadcast().await), ["a", "x"]);
            let gone = (child.peer.clone(), child.session);
            parent.link.channels.disconnect(&child.peer, Some(child.session));
            child.is_lost().await;
            drop(child);
            is_gone(&mut parent, &gone).await;
        }
    }
}

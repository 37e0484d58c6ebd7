//! Who is admitted, and what a joiner's word is worth.

use std::net::SocketAddr;

use crate::proto::host::{AuthQuery, Event, Input, Output};
use crate::wire::Refusal;

use super::*;

fn peer(n: u16) -> PeerId {
    PeerId::new(Bytes::copy_from_slice(&n.to_be_bytes()))
}

fn token(n: u8) -> SessionToken {
    SessionToken::from_bytes([n; 16]).unwrap()
}

/// A host, and what it says.
struct Door {
    host: Host,
    now: Instant,
}

impl Door {
    fn new(change: impl FnOnce(&mut host::Config)) -> Self {
        let mut config = host_config();
        change(&mut config);
        let now = Instant::START;
        Self { host: Host::new(config, now), now }
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        self.host.handle_input(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.host.poll_output()).collect()
    }

    /// A hello on this connection, from this IPv4 address.
    fn hello(&mut self, peer: &PeerId, address: u8, id: EndpointId) -> Vec<Output> {
        let frames = vec![hello(id, |_| {})];
        let address = Some(SocketAddr::from(([10, 0, 0, address], 1)));
        self.input(Input::Control { peer: peer.clone(), address, frames })
    }

    fn admit(&mut self, query: AuthQuery, session: u8) -> Vec<Output> {
        let verdict = Verdict::Admit { role: Role::Member, session: token(session) };
        self.input(Input::Verdict { query, verdict })
    }

    /// Lets an endpoint join that takes nothing, up to its membership.
    fn join(&mut self, peer: &PeerId, id: EndpointId, session: u8) -> Vec<Output> {
        let outputs = self.hello(peer, 1, id);
        let [(query, _)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
        assert_eq!(welcomed(&self.admit(query, session)), std::slice::from_ref(peer));
        let mut outputs = Vec::new();
        let messages =
            [ChildMessage::Subscribe { nonce: 1, prefixes: Vec::new() }, ChildMessage::Live { nonce: 1 }];
        for message in messages {
            let frames = vec![message.encode()];
            self.host.handle_input(self.now, Input::Control { peer: peer.clone(), address: None, frames });
            // The barrier comes before the answer to it.
            outputs.extend(self.input(Input::Flush));
        }
        outputs
    }

    fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.now = self.now + time;
        self.host.handle_timeout(self.now);
        self.drain()
    }
}

fn hello(id: EndpointId, change: impl FnOnce(&mut Hello)) -> Bytes {
    let mut hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: CLUSTER.into(),
        id,
        resume: None,
        incarnation: 0,
        epoch: 0,
        first_open: 0,
        next_origin_seq: 1,
        token: Bytes::from_static(b"token"),
    };
    change(&mut hello);
    ChildMessage::Hello(hello).encode()
}

/// The questions to the authenticator among these.
fn asked(outputs: &[Output]) -> Vec<(AuthQuery, EndpointId)> {
    let asked = |output: &Output| match output {
        Output::Authenticate { query, id, .. } => Some((*query, *id)),
        _ => None,
    };
    outputs.iter().filter_map(asked).collect()
}

fn cancelled(outputs: &[Output]) -> Vec<AuthQuery> {
    let cancelled = |output: &Output| match output {
        Output::CancelAuthentication { query } => Some(*query),
        _ => None,
    };
    outputs.iter().filter_map(cancelled).collect()
}

/// Whom a welcome goes to.
fn welcomed(outputs: &[Output]) -> Vec<PeerId> {
    let welcomed = |output: &Output| match output {
        Output::Control { peer, frame } => {
            matches!(ParentMessage::decode(frame), Ok(ParentMessage::Welcome(_))).then(|| peer.clone())
        }
        _ => None,
    };
    outputs.iter().filter_map(welcomed).collect()
}

/// Whom a refusal goes to, and why.
fn refused(outputs: &[Output]) -> Vec<(PeerId, RefusalCode)> {
    let refused = |output: &Output| match output {
        Output::Control { peer, frame } => match ParentMessage::decode(frame) {
            Ok(ParentMessage::Refused(Refusal { code, .. })) => Some((peer.clone(), code)),
            _ => None,
        },
        _ => None,
    };
    outputs.iter().filter_map(refused).collect()
}

#[test]
fn a_verdict_admits_only_the_hello_it_was_asked_about() {
    let mut door = Door::new(|_| {});
    let reused = peer(1);
    let outputs = door.hello(&reused, 1, id(1));
    let [(first, _)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
    let outputs = door.input(Input::ControlClosed { peer: reused.clone() });
    assert_eq!(cancelled(&outputs), [first]);
    let outputs = door.hello(&reused, 2, id(2));
    let [(second, _)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
    assert_ne!(first, second);

    // The first verdict comes all the same, and admits nobody.
    assert!(door.admit(first, 1).is_empty());
    let verdict = Verdict::Refuse { reason: "wrong token".into() };
    let outputs = door.input(Input::Verdict { query: second, verdict });
    assert_eq!(refused(&outputs), [(reused.clone(), RefusalCode::Unauthorized)]);
    let told = outputs.iter().find_map(|output| match output {
        Output::Event(Event::Refused { address, id, .. }) => Some((*address, *id)),
        _ => None,
    });
    assert_eq!(told, Some((Some(([10, 0, 0, 2], 1).into()), id(2))), "the address of the hello refused");
    // A verdict counts once.
    assert!(door.admit(second, 1).is_empty());
    assert!(door.admit(first, 1).is_empty());
    door.input(Input::ControlClosed { peer: reused });
    assert!(door.host.is_alone());
}

#[test]
fn a_second_hello_before_the_verdict_cuts_the_connection() {
    let mut door = Door::new(|_| {});
    let reused = peer(1);
    let outputs = door.hello(&reused, 1, id(1));
    let [(query, _)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
    let outputs = door.hello(&reused, 1, id(2));
    assert_eq!(cancelled(&outputs), [query]);
    assert!(asked(&outputs).is_empty());
    assert!(matches!(&outputs[..], [.., Output::Disconnect { peer, session: None }] if *peer == reused));
    assert!(door.admit(query, 1).is_empty());
    assert!(door.host.is_alone());
}

#[test]
fn hellos_of_one_source_wait_for_one_another_and_for_nobody_else() {
    let mut door =
        Door::new(|config| config.authentication = AuthLimits { pending: 4, running_per_source: 2 });
    // The authenticator takes its time about a source that fills the table.
    let mut slow = Vec::new();
    for n in 1..=4 {
        slow.extend(asked(&door.hello(&peer(n), 1, id(n as u8))));
    }
    assert_eq!(slow.len(), 2);
    let outputs = door.hello(&peer(5), 1, id(5));
    assert_eq!(refused(&outputs), [(peer(5), RefusalCode::Busy)]);
    // Another source is asked about at once. The newest of the large share gives way, and may come
    // again.
    let outputs = door.hello(&peer(6), 2, id(6));
    assert_eq!(refused(&outputs), [(peer(4), RefusalCode::Busy)]);
    assert!(cancelled(&outputs).is_empty(), "it waited");
    let [(honest, who)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!(who, id(6));
    assert_eq!(welcomed(&door.admit(honest, 6)), [peer(6)]);
    // The one that waits has its turn when one of its source is done with, by hang-up or verdict.
    let outputs = door.input(Input::ControlClosed { peer: peer(1) });
    assert_eq!(cancelled(&outputs), [slow[0].0]);
    assert_eq!(asked(&outputs).iter().map(|(_, id)| *id).collect::<Vec<_>>(), [id(3)]);
}

#[test]
fn a_verdict_that_takes_too_long_is_not_waited_for() {
    let mut door =
        Door::new(|config| config.authentication = AuthLimits { pending: 4, running_per_source: 1 });
    let outputs = door.hello(&peer(1), 1, id(1));
    let [(query, _)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
    door.now = door.now + Duration::from_secs(1);
    assert!(asked(&door.hello(&peer(2), 1, id(2))).is_empty());
    let outputs = door.pass(Duration::from_secs(4));
    assert_eq!(cancelled(&outputs), [query]);
    assert_eq!(refused(&outputs), [(peer(1), RefusalCode::Busy)]);
    let [(next, who)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!(who, id(2));
    assert!(door.admit(query, 1).is_empty());
    assert_eq!(welcomed(&door.admit(next, 2)), [peer(2)]);
}

/// Peers that come and go leave nothing behind, however fast they do.
#[test]
fn hellos_that_hang_up_leave_nothing() {
    let mut door = Door::new(|_| {});
    for n in 0..10_000 {
        let outputs = door.hello(&peer(n), 1, id(1));
        assert_eq!(asked(&outputs).len(), 1);
        door.input(Input::ControlClosed { peer: peer(n) });
    }
    assert!(door.host.is_alone());
}

#[test]
fn what_a_joiner_says_of_epochs_moves_nobody_elses() {
    let mut door = Door::new(|_| {});
    let epochs = [1, 999, 1000, 1001, 1 << 41, 1 << 62];
    for (n, epoch) in (1..).zip(epochs) {
        for (m, incarnation) in [(0, 0), (50, 77), (100, 78)] {
            let frames =
                vec![hello(id(n + m), |hello| (hello.epoch, hello.incarnation) = (epoch, incarnation))];
            let peer = peer(u16::from(n + m));
            let outputs = door.input(Input::Control { peer: peer.clone(), address: None, frames });
            let [(query, _)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
            let outputs = door.admit(query, n + m);
            let welcome = outputs.iter().find_map(|output| match output {
                Output::Control { frame, .. } => match ParentMessage::decode(frame) {
                    Ok(ParentMessage::Welcome(welcome)) => Some(welcome),
                    _ => None,
                },
                _ => None,
            });
            assert_eq!(welcome.map(|welcome| welcome.at.epoch), Some(1000), "{epoch}, {incarnation}");
            door.input(Input::ControlClosed { peer });
        }
    }
    assert_eq!(door.host.usage().end.epoch, 1000);
}

#[test]
fn a_hello_for_another_cluster_is_not_told_the_real_name() {
    let mut door = Door::new(|config| config.cluster = "orchid".into());
    let long = "x".repeat(255);
    for (n, named) in (1..).zip(["default", "orchi", &long]) {
        let frames = vec![hello(id(1), |hello| hello.cluster = named.into())];
        let outputs = door.input(Input::Control { peer: peer(n), address: None, frames });
        assert_eq!(refused(&outputs), [(peer(n), RefusalCode::Cluster)]);
        let [Output::Control { frame, .. }, Output::Event(Event::Refused { reason, .. })] = &outputs[..]
        else {
            panic!("{outputs:?}")
        };
        assert_eq!(*reason, format!("the host belongs to another cluster than {named:?}"));
        assert!(!frame.windows(6).any(|octets| octets == b"orchid"));
    }
}

#[test]
fn who_comes_and_goes_all_the_time_costs_the_others_few_messages() {
    let mut door = Door::new(|_| {});
    let stays = peer(1);
    door.join(&stays, id(1), 1);
    let (mut told, mut joined) = (0, 0);
    for _ in 0..8_000 {
        let comes = peer(2);
        let mut outputs = door.join(&comes, id(2), 2);
        outputs.extend(door.input(Input::ControlClosed { peer: comes }));
        outputs.extend(door.input(Input::Flush));
        outputs.extend(door.pass(Duration::from_millis(1)));
        for output in outputs {
            match output {
                Output::Control { peer, .. } => told += u64::from(peer == stays),
                Output::Event(Event::Joined { .. }) => joined += 1,
                _ => {}
            }
        }
    }
    assert_eq!(joined, 8_000);
    // A hundred at once, and a hundred in each of eight seconds; and a few signs of life. It has
    // not answered any.
    assert!((800..950).contains(&told), "{told} messages");
    assert_eq!(door.host.members().count(), 1);
}

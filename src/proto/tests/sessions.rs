//! Sessions begin and end.

use super::*;

#[test]
fn nothing_missed_is_no_reset() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["x"]);
    world.run();
    world.cut(a);
    world.run_for(Duration::from_secs(3));
    assert!(world.children[a].machine.can_submit());
    assert!(world.resets(a).is_empty());
}

#[test]
fn a_member_the_host_still_holds_for_live_takes_its_own_place() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    // Only the member learns of the loss.
    world.packets.push_back(Packet::ToChild(a, member::Input::Lost { reason: "cut".into() }));
    world.run_for(Duration::from_secs(3));
    assert!(world.children[a].machine.can_submit());
    assert_eq!(world.left(), [(id(1), LeaveReason::Closed(CloseReason::Replaced))]);
    assert_eq!(world.host.members().count(), 1);
    // A stranger with the same id has no such claim.
    let stranger = world.add(member_config(1, &[""]));
    world.run();
    let end = world.children[stranger].end.clone();
    assert!(matches!(end, Some(End::Refused { code: RefusalCode::DuplicateId, .. })), "{end:?}");
}

#[test]
fn refusals_end_a_first_join_and_are_reported() {
    let mut world = World::new();
    world.verdict = |_, _| Err("not you".into());
    let mut wrong_cluster = member_config(2, &[""]);
    wrong_cluster.cluster = "other".into();
    let (a, b) = (world.add(member_config(1, &[""])), world.add(wrong_cluster));
    world.run();
    let refused = |child: usize| match world.children[child].end.clone() {
        Some(End::Refused { code, reason }) => (code, reason),
        end => panic!("{end:?}"),
    };
    assert_eq!(refused(a), (RefusalCode::Unauthorized, "not you".into()));
    assert_eq!(refused(b).0, RefusalCode::Cluster);
    assert_eq!(world.host_events.len(), 2);
    // Those that do not hang up are cut off, and nothing is left of them.
    world.run_for(Duration::from_secs(10));
    assert!(world.host.is_alone());
}

#[test]
fn a_full_host_and_too_many_at_once_are_refused() {
    let mut world = World::new();
    for n in 1..=10 {
        world.join(n, &[""]);
    }
    let late = world.add(member_config(11, &[""]));
    world.run();
    assert!(matches!(world.children[late].end, Some(End::Refused { code: RefusalCode::Full, .. })));
}

#[test]
fn a_joiner_that_falls_silent_is_dropped_at_the_handshake_limit() {
    let mut world = World::new();
    world.loses = Box::new(|_, lane| lane.starts_with('B'));
    let a = world.add(member_config(1, &[""]));
    world.run_for(Duration::from_secs(4));
    assert_eq!(world.children[a].connections, 1);
    world.run_for(Duration::from_secs(7));
    assert!(matches!(world.children[a].end, Some(End::TimedOut { .. })));
    assert_eq!(world.host.members().count(), 0);
    world.run_for(Duration::from_secs(10));
    assert!(world.host.is_alone(), "nothing is left of it");
}

#[test]
fn members_that_join_at_once_know_each_other() {
    let mut world = World::new();
    let authentication = AuthLimits { pending: 10, running_per_source: 10 };
    world.host = Host::new(host::Config { authentication, ..host_config() }, world.now);
    for n in 1..=8 {
        world.add(member_config(n, &[""]));
    }
    world.run();
    for (n, child) in (1..=8).zip(&world.children) {
        let mut known = BTreeSet::new();
        for event in &child.events {
            match event {
                member::Event::Joined(joined) => known = joined.members.iter().map(|m| m.id).collect(),
                member::Event::Membership { joined, .. } => known.extend(joined.iter().map(|m| m.id)),
                _ => {}
            }
        }
        let others: BTreeSet<EndpointId> = (1..=8).filter(|other| *other != n).map(id).collect();
        assert_eq!(known, others, "as member {n} knows");
    }
}

#[test]
fn a_joiner_that_finds_others_joining_tries_again() {
    let mut world = World::new();
    for n in 1..=8 {
        world.add(member_config(n, &[""]));
    }
    // More than the host examines at once.
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.host.members().count(), 8);
}

#[test]
fn a_member_whose_host_falls_silent_in_its_farewell_comes_back() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.input(host::Input::Drain);
    world.collect();
    let Some(Packet::ToChild(_, closing)) = world.packets.pop_front() else { panic!("the word of the end") };
    world.children[a].machine.handle_input(world.now, closing);
    // Nothing arrives any more; a new host is there.
    world.packets.clear();
    world.host = Host::new(host::Config { incarnation: 78, ..host_config() }, world.now);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.children[a].end, None);
    assert!(world.children[a].machine.can_submit());
}

#[test]
fn garbage_on_control_is_counted_and_changes_nothing() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    let stranger = PeerId::new(Bytes::from_static(b"stranger"));
    let known = world.children[a].peer.clone();
    let live = ChildMessage::Live { nonce: 1 }.encode();
    let cases = [
        (stranger.clone(), vec![]),
        (stranger.clone(), vec![Bytes::from_static(b"")]),
        (stranger.clone(), vec![Bytes::from_static(b"\x5a\x01\xff")]),
        (stranger, vec![live.clone()]),
        (known, vec![live, Bytes::new()]),
    ];
    let count = cases.len() as u64;
    for (peer, frames) in cases {
        world.input(host::Input::Control { peer, address: None, frames });
    }
    world.run();
    assert_eq!(world.host.counters().malformed_control, count);
    assert_eq!(world.host.members().count(), 1);
}

#[test]
fn a_malformed_hello_is_refused_in_words() {
    let mut world = World::new();
    let hello = ChildMessage::Hello(Hello {
        version: PROTOCOL_VERSION,
        cluster: CLUSTER.into(),
        id: id(1),
        resume: None,
        incarnation: 0,
        epoch: 0,
        first_open: 0,
        next_origin_seq: 1,
        token: Bytes::from_static(b"token"),
    });
    let peer = PeerId::new(Bytes::from_static(b"peer"));
    let frames = vec![hello.encode().slice(..20)];
    world.input(host::Input::Control { peer, address: None, frames });
    world.run();
    assert!(
        matches!(world.host_events[..], [host::Event::Refused { code: RefusalCode::Malformed, .. }]),
        "{:?}",
        world.host_events
    );
}

#[test]
fn a_child_that_answers_late_is_told_its_places_together_and_not_cut_off() {
    let mut world = World::new();
    let (_, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    let is_report = |packet: &Packet| {
        matches!(packet, Packet::ToHost(host::Input::Control { frames, .. })
            if matches!(ChildMessage::decode(&frames[0]), Ok(ChildMessage::Received { .. })))
    };
    let (mut held, mut told, mut submitted) = (Vec::new(), 0, 0);
    while submitted < 2 * MAX_UNANSWERED && world.children[b].machine.can_submit() {
        world.submit(b, "z", &["x"]);
        submitted += 1;
        loop {
            world.collect();
            let Some(packet) = world.packets.pop_front() else { break };
            match packet {
                packet if is_report(&packet) => held.push(packet),
                Packet::ToHost(input) => world.input(input),
                Packet::ToChild(child, input) => {
                    told += u64::from(child == b && matches!(input, member::Input::Control { .. }));
                    world.children[child].machine.handle_input(world.now, input);
                }
            }
        }
    }
    assert!(told <= MAX_UNANSWERED / 4 + submitted / 100 + 10, "{told} messages, and no answer");
    assert_eq!(world.host.members().count(), 2);
    world.packets.extend(held);
    world.run();
    assert_eq!(world.children[b].machine.usage().outbox_batches, 0, "it has been told all");
    assert_eq!(world.left(), []);
}

#[test]
fn a_loss_that_overtakes_the_farewell_is_told_as_the_hosts_end() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.input(host::Input::Drain);
    world.collect();
    let Some(Packet::ToChild(_, closing)) = world.packets.pop_front() else { panic!("the word of the end") };
    world.children[a].machine.handle_input(world.now, closing);
    world.children[a].machine.handle_input(world.now, member::Input::Lost { reason: "cut".into() });
    world.run();
    let reason = "the host shut down".to_owned();
    assert!(world.children[a].events.contains(&member::Event::Disconnected { reason }));
}

#[test]
fn a_host_whose_clock_was_set_back_is_followed_from_its_own_beginning() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.children[a].stalled = true;
    world.submit(a, "t", &["x", "y"]);
    world.run();
    assert_eq!(world.children[a].delivered[1].position(), Some(Position { epoch: 1000, seq: 2 }));
    // The host is restarted, by a clock that is behind.
    let before = world.children[a].up_to;
    world.host = Host::new(host::Config { incarnation: 78, epoch: 10, ..host_config() }, world.now);
    world.cut(a);
    world.run_for(Duration::from_secs(3));
    assert!(world.children[a].machine.can_submit());
    assert_eq!(world.resets(a), [Position { epoch: 10, seq: 1 }]);
    world.submit(a, "t", &["z"]);
    world.run();
    assert_eq!(world.children[a].delivered[2].position(), Some(Position { epoch: 10, seq: 1 }));
    assert_eq!(world.children[a].delivered[2].origin_seq(), 3);
    // Acknowledgements of the last host's positions count for nothing here, however high they are.
    let handled = |world: &World| world.host.lags(world.now)[0].handled;
    let up_to = before.unwrap();
    world.children[a].machine.handle_input(world.now, member::Input::Handled { up_to });
    world.run_for(Duration::from_secs(1));
    assert_eq!(handled(&world), Position { epoch: 10, seq: 0 });
    world.go_on(a);
    world.run_for(Duration::from_secs(1));
    assert_eq!(handled(&world), Position { epoch: 10, seq: 1 });
    assert_eq!(world.left(), []);
    assert_eq!(world.texts(a), ["x", "y", "z"]);
}

#[test]
fn draining_waits_for_what_is_under_way_and_for_farewells() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    world.submit(a, "t", &["last"]);
    world.collect();
    world.input(host::Input::Drain);
    world.run();
    assert!(world.drained);
    assert_eq!(world.texts(a), ["last"]);
    assert_eq!(world.left().len(), 2);
    assert!(world.left().iter().all(|(_, reason)| *reason == LeaveReason::Left));
    for child in [a, b] {
        assert!(world.children[child].unknown.is_empty());
        assert_eq!(world.children[child].end, None, "they try to come back");
    }
    // Until then they are refused, and go on trying.
    world.run_for(Duration::from_secs(5));
    assert!(world.children[a].connections > 2);
}

#[test]
fn leaving_waits_until_everything_has_its_place() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["x"]);
    world.children[a].machine.handle_input(world.now, member::Input::Leave);
    world.run();
    assert_eq!(world.children[a].end, Some(End::Left));
    assert_eq!(world.children[a].ordered.len(), 1);
    assert!(world.children[a].unknown.is_empty());
    assert_eq!(world.left(), [(id(1), LeaveReason::Left)]);
}

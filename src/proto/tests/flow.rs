//! Who keeps up, who sets the pace, and who has to go.

use super::*;

/// A host with four members of which the last handles nothing, and marks of ten messages.
fn with_a_snail(change: impl FnOnce(&mut host::Config)) -> World {
    let mut world = World::new();
    let mut config = host_config();
    config.marks = HighWaterMark::new().messages(10);
    change(&mut config);
    world.host = Host::new(config, world.now);
    for n in 1..=4 {
        world.join(n, &[""]);
    }
    world.run_for(Duration::from_millis(100));
    world.children[3].stalled = true;
    world
}

fn evicted(world: &World) -> Vec<(EndpointId, EvictReason, u64)> {
    let events = world.host_events.iter();
    events
        .filter_map(|event| match event {
            host::Event::Evicted { id, eviction } => Some((*id, eviction.reason, eviction.lag.messages)),
            _ => None,
        })
        .collect()
}

/// Sends one message and gives everyone the time to acknowledge it.
fn send_one(world: &mut World) {
    world.submit(0, "t", &["x"]);
    world.run_for(Duration::from_millis(30));
}

#[test]
fn a_snail_is_evicted_past_its_mark_and_nobody_else_is_disturbed() {
    let mut world = with_a_snail(|_| {});
    for _ in 0..10 {
        send_one(&mut world);
    }
    assert_eq!(evicted(&world), []);
    send_one(&mut world);
    assert_eq!(evicted(&world), [(id(4), EvictReason::Messages, 11)]);
    assert_eq!(world.left(), [(id(4), LeaveReason::Evicted)]);
    send_one(&mut world);
    for child in 0..3 {
        assert_eq!(world.texts(child).len(), 12);
        assert!(world.resets(child).is_empty());
    }
    // It knows why, stays away for as long as it was told, and comes back without having missed anything.
    let notice = world.children[3].events.iter().find_map(|event| match event {
        member::Event::Evicted(eviction) => Some(eviction.clone()),
        _ => None,
    });
    let notice = notice.expect("word of the eviction");
    assert_eq!((notice.reason, notice.retry_after), (EvictReason::Messages, Duration::from_secs(1)));
    world.go_on(3);
    world.run_for(Duration::from_millis(900));
    assert_eq!(world.host.members().count(), 3);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.host.members().count(), 4);
    assert_eq!(world.texts(3).len(), 12);
    assert!(world.resets(3).is_empty());
}

/// The log holds as much as the mark allows, and the lag is more.
#[test]
fn a_snail_is_evicted_past_its_mark_in_bytes_though_the_ring_is_no_longer() {
    let mut world = with_a_snail(|config| {
        config.marks = HighWaterMark::new().bytes(1_000);
        config.log.bytes = 1_000;
    });
    for _ in 0..10 {
        send_one(&mut world);
    }
    let [(who, EvictReason::Bytes, behind)] = evicted(&world)[..] else { panic!("{:?}", evicted(&world)) };
    assert_eq!(who, id(4));
    assert!((2..10).contains(&behind), "it went in time, {behind} messages behind");
}

#[test]
fn a_slow_member_is_evicted_past_its_mark_in_age_though_the_ring_is_shorter() {
    let mut world = with_a_snail(|config| {
        config.marks = HighWaterMark::new().bytes(1_000).age(Duration::from_millis(500));
        config.marks.grace = Duration::from_millis(200);
        config.log.bytes = 1_000;
    });
    for _ in 0..40 {
        send_one(&mut world);
    }
    assert_eq!(evicted(&world).len(), 1);
}

#[test]
fn grace_lets_a_member_catch_up() {
    let mut world = with_a_snail(|config| config.marks.grace = Duration::from_millis(500));
    for _ in 0..12 {
        send_one(&mut world);
    }
    world.run_for(Duration::from_millis(300));
    assert_eq!(evicted(&world), []);
    let up_to = world.children[3].up_to.unwrap();
    let now = world.now;
    world.children[3].machine.handle_input(now, member::Input::Handled { up_to });
    world.run_for(Duration::from_secs(1));
    assert_eq!(evicted(&world), []);
    for _ in 0..12 {
        send_one(&mut world);
    }
    world.run_for(Duration::from_millis(700));
    assert_eq!(evicted(&world).len(), 1);
}

#[test]
fn a_pack_that_is_behind_slows_the_senders_and_loses_nobody() {
    let mut world = with_a_snail(|_| {});
    for child in &mut world.children {
        child.stalled = true;
    }
    for _ in 0..5 {
        send_one(&mut world);
    }
    assert!(world.host.takes_submits());
    send_one(&mut world);
    assert!(!world.host.takes_submits(), "above half of the mark");
    // What was under way all the same evicts nobody: the pack is as far behind.
    for _ in 0..10 {
        send_one(&mut world);
    }
    assert_eq!(evicted(&world), []);
    for child in &mut world.children {
        let up_to = child.up_to.unwrap();
        child.machine.handle_input(world.now, member::Input::Handled { up_to });
    }
    world.run_for(Duration::from_millis(30));
    assert!(world.host.takes_submits());
}

#[test]
fn what_is_taken_before_a_flush_does_not_run_over_the_pack() {
    let mut world = with_a_snail(|config| config.marks.messages = 10_000);
    world.children.iter_mut().for_each(|child| child.stalled = true);
    let mut taken = 0;
    while world.host.takes_submits() && taken < 50_000 {
        let mut batch = BatchBuilder::new(taken + 1);
        for _ in 0..1000 {
            assert!(batch.push(&Message::new("t", "x").unwrap()));
        }
        world.host.handle_input(world.now, host::Input::Local { body: batch.finish() });
        taken += 1000;
    }
    // Half of the mark, an open window, and the batch with which that was passed.
    assert!(taken <= 5_000 + 1_024 + 1_000, "{taken} messages at once");
}

#[test]
fn even_the_pack_goes_when_it_stands_still() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.children[a].stalled = true;
    world.submit(a, "t", &["x"]);
    world.run_for(Duration::from_millis(4900));
    assert_eq!(evicted(&world), []);
    world.run_for(Duration::from_millis(400));
    assert_eq!(evicted(&world), [(id(1), EvictReason::Stalled, 1)]);
}

#[test]
fn one_that_blocks_waits_for_the_slowest() {
    let mut world = with_a_snail(|config| config.pace_percentile = 100);
    for _ in 0..6 {
        send_one(&mut world);
    }
    assert!(!world.host.takes_submits());
    for _ in 0..10 {
        send_one(&mut world);
    }
    assert_eq!(evicted(&world), []);
}

#[test]
fn a_straggler_that_moves_is_waited_for_though_not_for_long() {
    let mut world = with_a_snail(|_| {});
    for _ in 0..8 {
        send_one(&mut world);
        assert!(world.host.takes_submits(), "nobody waits for one that does not move");
    }
    world.handle_first(3, 1);
    world.run_for(Duration::from_millis(30));
    assert!(!world.host.takes_submits(), "it is behind, and moves");
    world.run_for(Duration::from_millis(50));
    assert!(world.host.takes_submits(), "half a heartbeat is enough");
    world.handle_first(3, 2);
    world.run_for(Duration::from_millis(30));
    assert!(world.host.takes_submits(), "patience has to come back first");
    let counters = world.host.counters();
    assert_eq!((counters.straggler_waits, counters.pauses), (1, 0));
    world.handle_first(3, 8);
    world.run_for(Duration::from_millis(100));
    assert!(world.host.takes_submits());
}

/// All at full speed for five seconds, the last of four members at a share of the others' speed, in percent. How many were evicted, and how many messages came through.
fn race(share: usize) -> (usize, usize) {
    const IN_A_MILLISECOND: usize = 5;
    let mut world = with_a_snail(|config| config.marks.messages = 500);
    let (mut sent, mut able) = (0, 0);
    for _ in 0..5_000 {
        if world.host.takes_submits() {
            let mut batch = BatchBuilder::new(sent as u64 + 1);
            for _ in 0..IN_A_MILLISECOND {
                assert!(batch.push(&Message::new("t", "x").unwrap()));
            }
            sent += IN_A_MILLISECOND;
            world.input(host::Input::Local { body: batch.finish() });
        }
        world.run_for(Duration::from_millis(1));
        // In hundredths of a message. What it could do while it had nothing to do is lost.
        able = (able + IN_A_MILLISECOND * share).min(world.texts(3).len() * 100);
        world.handle_first(3, able / 100);
    }
    (evicted(&world).len(), sent)
}

#[test]
fn one_that_does_half_of_what_the_others_do_stays_and_one_that_does_less_goes() {
    let (evicted, sent) = race(70);
    assert_eq!(evicted, 0);
    assert!(sent > 25_000 * 65 / 100, "{sent}");
    let (evicted, sent) = race(30);
    assert_eq!(evicted, 1);
    assert!(
        sent > 25_000 / 2,
        "a slow one costs the others half of their time, and only until it goes: {sent}"
    );
}

#[test]
fn without_patience_nobody_is_waited_for() {
    let mut world = with_a_snail(|config| config.patience = Duration::ZERO);
    for n in 0..10 {
        send_one(&mut world);
        world.handle_first(3, n / 4);
        assert!(world.host.takes_submits());
    }
}

#[test]
fn evictions_in_a_row_keep_away_for_longer() {
    let mut world = with_a_snail(|_| {});
    for round in 1..=3 {
        world.input(host::Input::Kick { id: id(4), text: "out".into() });
        let now = world.now;
        let pause = Duration::from_secs(1 << (round - 1));
        world.run_for(pause);
        assert_eq!(world.host.members().count(), 3, "round {round}");
        world.run_for(pause + Duration::from_secs(4));
        assert_eq!(world.host.members().count(), 4, "round {round}, {:?}", world.now.since(now));
    }
    assert!(evicted(&world).iter().all(|(_, reason, _)| *reason == EvictReason::Kicked));
}

#[test]
fn one_that_is_not_to_come_back_ends() {
    let mut world = World::new();
    let mut config = member_config(1, &[""]);
    config.rejoin = false;
    let a = world.add(config);
    world.run();
    world.input(host::Input::Kick { id: id(1), text: "enough".into() });
    world.run();
    let Some(End::Evicted(eviction)) = &world.children[a].end else { panic!("{:?}", world.children[a].end) };
    assert_eq!((eviction.reason, eviction.text.as_str()), (EvictReason::Kicked, "enough"));
}

#[test]
fn a_member_whose_consumers_have_all_overrun_evicts_itself() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.children[b].machine.handle_input(world.now, member::Input::Overrun);
    world.run();
    assert_eq!(world.left(), [(id(2), LeaveReason::Left)]);
    let told = |event: &member::Event| matches!(event, member::Event::Evicted(eviction) if eviction.reason == EvictReason::Overrun);
    assert!(world.children[b].events.iter().any(told));
    world.submit(a, "t", &["x"]);
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.texts(b), ["x"], "repaired");
}

#[test]
fn a_member_that_falls_silent_loses_its_lease_and_a_silent_host_its_members() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    // Nothing gets through to or from the second member, and no connection closes.
    for _ in 0..110 {
        world.now = world.now + Duration::from_millis(100);
        world.host.handle_timeout(world.now);
        world.children[a].machine.handle_timeout(world.now);
        world.children[b].machine.handle_timeout(world.now);
        loop {
            world.collect();
            let peer = world.children[b].peer.clone();
            world.packets.retain(|packet| match packet {
                Packet::ToHost(host::Input::Control { peer: from, .. }) => *from != peer,
                Packet::ToHost(_) => true,
                Packet::ToChild(child, _) => *child != b,
            });
            match world.packets.pop_front() {
                Some(Packet::ToHost(input)) => world.input(input),
                Some(Packet::ToChild(child, input)) => {
                    world.children[child].machine.handle_input(world.now, input)
                }
                None => break,
            }
        }
    }
    assert_eq!(evicted(&world), [(id(2), EvictReason::Silent, 0)]);
    let lost = |event: &member::Event| matches!(event, member::Event::Disconnected { .. });
    assert!(world.children[b].events.iter().any(lost));
    assert!(!world.children[a].events.iter().any(lost));
}

#[test]
fn a_host_that_slept_holds_that_against_nobody() {
    let mut world = with_a_snail(|_| {});
    world.go_on(3);
    send_one(&mut world);
    world.now = world.now + Duration::from_secs(60);
    world.run_for(Duration::from_secs(2));
    assert_eq!(evicted(&world), []);
    assert_eq!(world.host.members().count(), 4);
}

#[test]
fn acks_that_claim_what_was_not_published_end_the_session() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    let peer = world.children[a].peer.clone();
    let nowhere = Position { epoch: 1000, seq: 5 };
    let ack = ChildMessage::Ack(Ack { stored: nowhere, handled: nowhere, confirmed: 0 }).encode();
    world.input(host::Input::Control { peer, address: None, frames: vec![ack] });
    world.run();
    assert_eq!(world.left(), [(id(1), LeaveReason::Closed(CloseReason::Violation))]);
}

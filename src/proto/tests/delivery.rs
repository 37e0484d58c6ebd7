//! What is ordered arrives: whole, in order, once, or the hole is named.

use super::*;

#[test]
fn members_join_and_see_one_order() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["a1", "a2"]);
    world.submit(b, "t", &["b1"]);
    world.submit(a, "t", &["a3"]);
    world.run();
    assert_eq!(world.texts(a).len(), 4);
    assert_eq!(world.children[a].delivered, world.children[b].delivered);
    assert_eq!(world.children[a].ordered.iter().map(|o| u64::from(o.count)).sum::<u64>(), 3);
    assert!(world.resets(a).is_empty());
    assert_eq!(world.host.members().count(), 2);
    let joined = |event: &member::Event| matches!(event, member::Event::Membership { joined, .. } if joined[0].id == id(2));
    assert!(world.children[a].events.iter().any(joined));
}

#[test]
fn the_first_message_after_joining_is_the_first_after_the_named_position() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["before"]);
    world.run();
    let b = world.join(2, &[""]);
    world.submit(a, "t", &["after"]);
    world.run();
    assert_eq!(world.texts(b), ["after"]);
    let position = world.children[b].events.iter().find_map(|event| match event {
        member::Event::Joined(joined) => Some(joined.position),
        _ => None,
    });
    assert_eq!(position, Some(Position { epoch: 1000, seq: 1 }));
}

#[test]
fn a_lost_window_is_repaired_and_nothing_else_is_disturbed() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    let mut windows = 0;
    world.loses = Box::new(move |child, lane| {
        windows += u32::from(child == b && lane == "W");
        child == b && lane == "W" && windows == 2
    });
    for text in ["one", "two", "three"] {
        world.submit(a, "t", &[text]);
        world.run();
    }
    assert_eq!(world.texts(a), ["one", "two", "three"]);
    assert_eq!(world.texts(b), ["one", "two", "three"]);
    assert!(world.resets(a).is_empty() && world.resets(b).is_empty());
    let counters = world.children[b].machine.counters();
    assert_eq!((counters.missed_windows, counters.repaired_windows, counters.lost_windows), (1, 1, 0));
    assert_eq!(world.host.counters().repaired_windows, 1);
}

#[test]
fn a_lost_tail_is_found_by_the_next_heartbeat() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["t"]));
    let (c, d) = (world.join(3, &[""]), world.join(4, &["t"]));
    let mut lost = 0;
    world.loses = Box::new(move |child, lane| {
        lost += u32::from(child >= c && !lane.starts_with('B'));
        // All of the first window, on any lane.
        child >= c && lost <= 3 && !lane.starts_with('B')
    });
    world.submit(a, "t", &["the last word"]);
    world.run();
    assert!(world.texts(c).is_empty() && world.texts(d).is_empty());
    world.run_for(Duration::from_millis(200));
    for child in [a, b, c, d] {
        assert_eq!(world.texts(child), ["the last word"]);
        assert!(world.resets(child).is_empty());
    }
}

#[test]
fn what_the_ring_has_no_more_is_told_as_a_reset() {
    let mut world = World::new();
    world.host =
        Host::new(host::Config { log: LogLimit { messages: 3, bytes: 1 << 20 }, ..host_config() }, world.now);
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.loses = Box::new(move |child, lane| child == b && lane == "W");
    for text in ["1", "2", "3", "4", "5"] {
        world.submit(a, "t", &[text]);
        world.run();
    }
    world.loses = Box::new(|_, _| false);
    world.submit(a, "t", &["6"]);
    world.run();
    world.submit(a, "t", &["7"]);
    world.run();
    // What is still there is repaired.
    assert_eq!(world.texts(b), ["4", "5", "6", "7"]);
    assert_eq!(world.resets(b), [Position { epoch: 1000, seq: 4 }]);
    assert_eq!(world.children[b].machine.counters().lost_windows, 3);
    assert_eq!(world.host.counters().missed_repairs, 1);
}

#[test]
fn filtered_members_see_their_topics_and_learn_the_places_of_their_own_messages() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x", "yy"]));
    world.submit(a, "x1", &["1"]);
    world.submit(a, "z", &["2"]);
    world.submit(a, "yy", &["3"]);
    world.submit(a, "y", &["4"]);
    world.submit(b, "z", &["5"]);
    world.submit(b, "x", &["6"]);
    world.run();
    assert_eq!(world.texts(b), ["1", "3", "6"]);
    assert_eq!(world.texts(a).len(), 6);
    let seqs: Vec<u64> = world.children[b].ordered.iter().map(|ordered| ordered.first_seq).collect();
    assert_eq!(seqs, [5, 6]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn a_window_whose_topic_part_was_lost_is_repaired_whole() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x", "y"]));
    let mut parts = 0;
    world.loses = Box::new(move |child, lane| {
        parts += u32::from(child == b && lane == "Tx");
        child == b && lane == "Tx" && parts == 1
    });
    let mut batch = BatchBuilder::new(1);
    for (topic, text) in [("x", "1"), ("z", "not asked for"), ("y", "2")] {
        batch.push(&Message::new(topic, text).unwrap());
    }
    let input = member::Input::Submit { first_origin_seq: 1, count: 3, body: batch.finish() };
    world.children[a].machine.handle_input(world.now, input);
    world.children[a].next_origin_seq = 4;
    world.run();
    world.submit(a, "x", &["3"]);
    world.run();
    assert_eq!(world.texts(b), ["1", "2", "3"]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn a_lost_index_shows_with_the_next_and_is_repaired() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    let mut indexes = 0;
    world.loses = Box::new(move |child, lane| {
        indexes += u32::from(child == b && lane == "I");
        child == b && lane == "I" && indexes == 1
    });
    world.submit(a, "x", &["1"]);
    world.run();
    world.submit(a, "x", &["2"]);
    world.run();
    assert_eq!(world.texts(b), ["1", "2"]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn repairs_keep_to_the_filter_that_was_in_force_at_each_window() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    world.loses = Box::new(move |child, lane| child == b && !lane.starts_with('B'));
    for _ in 0..2 {
        world.submit(a, "x", &["x before"]);
        world.submit(a, "y", &["y before"]);
        world.run();
    }
    // The first gap is seen by the barrier, and repaired after it.
    world.subscribe(b, &["y"], 1);
    world.run();
    world.submit(a, "x", &["x after"]);
    world.submit(a, "y", &["y after"]);
    world.run();
    world.loses = Box::new(|_, _| false);
    world.run_for(Duration::from_millis(200));
    assert_eq!(world.texts(b), ["x before", "x before", "y after"]);
    assert_eq!(world.children[b].subscribed, [1]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn a_change_of_subscription_takes_effect_at_its_barrier_even_if_the_first_is_lost() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    let mut barriers = 0;
    world.loses = Box::new(move |_, lane| {
        barriers += u32::from(lane.starts_with('B'));
        lane.starts_with('B') && barriers < 3
    });
    world.subscribe(b, &["y"], 7);
    world.run();
    assert!(world.children[b].subscribed.is_empty());
    // Until the barrier comes, the old subscription is in force.
    world.submit(a, "x", &["old"]);
    world.submit(a, "y", &["too early"]);
    world.run();
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.children[b].subscribed, [7]);
    world.submit(a, "x", &["too late"]);
    world.submit(a, "y", &["new"]);
    world.run();
    assert_eq!(world.texts(b), ["old", "new"]);
    assert!(world.resets(b).is_empty());
}

#[test]
fn subscriptions_may_change_between_all_and_some_in_mid_traffic() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    let wishes: [&[&str]; 5] = [&["x"], &["", "x"], &["y"], &[], &[""]];
    for (ticket, wish) in (1..).zip(wishes) {
        world.subscribe(b, wish, ticket);
        world.submit(a, "x", &["x"]);
        world.submit(b, "y", &["y"]);
        world.run();
    }
    assert_eq!(world.children[b].subscribed, [1, 2, 3, 4, 5]);
    assert!(world.resets(b).is_empty());
    assert!(world.children[b].unknown.is_empty());
    assert_eq!(world.children[b].ordered.iter().map(|o| u64::from(o.count)).sum::<u64>(), 5);
    world.submit(a, "z", &["z"]);
    world.run();
    assert_eq!(world.texts(b).last(), Some(&"z"));
    assert_eq!(world.texts(a).len(), 11);
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let run = || {
        let mut world = World::new();
        let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
        world.submit(a, "x", &["1"]);
        world.submit(b, "y", &["2"]);
        world.cut(a);
        world.run_for(Duration::from_secs(3));
        let counts: BTreeMap<usize, usize> = (0..2).map(|i| (i, world.children[i].events.len())).collect();
        (world.now, counts, world.children[a].delivered.clone(), world.host_windows)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_parent_that_counts_to_the_end_again_and_again_overflows_nothing() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    let other = Message::new("t", "far").unwrap();
    let mut batch = BatchBuilder::new(1);
    assert!(batch.push(&other));
    let batch = Batch::decode(batch.finish(), 1 << 20).unwrap();
    let mut window = WindowBuilder::new();
    assert!(batch.records_in(0..batch.len()).all(|(_, tail)| window.push(&other.topic, id(9), 1, tail)));
    let body = window.finish(1000, u64::MAX - 1, u64::MAX - 2).body;
    let missed = ParentMessage::Missed(Barrier { epoch: 1000, number: u64::MAX - 2, last_seq: u64::MAX - 3 });
    for _ in 0..3 {
        let frames = vec![Bytes::from_static(b"W"), body.clone()];
        world.packets.push_back(Packet::ToChild(a, member::Input::Broadcast { frames }));
        world.packets.push_back(Packet::ToChild(a, member::Input::Control { frames: vec![missed.encode()] }));
        world.run_for(Duration::from_secs(1));
        // In the next session the host that it claimed to be is not there.
        world.cut(a);
        world.run_for(Duration::from_secs(3));
    }
    assert_eq!(world.texts(a), ["far"], "the same message again is not shown again");
    assert_eq!(world.children[a].machine.counters().lost_windows, u64::MAX);
    assert_eq!(world.resets(a).len(), 6);
    world.submit(a, "t", &["near"]);
    world.run();
    assert_eq!(world.texts(a).last(), Some(&"near"));
}

#[test]
fn repairs_are_spread_over_time_by_the_members_rate() {
    let mut world = World::new();
    let rate = RepairRate { burst: 1000, per_second: 10_000 };
    world.host = Host::new(host::Config { repair_rate: rate, ..host_config() }, world.now);
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.loses = Box::new(move |child, lane| child == b && lane == "W");
    for _ in 0..20 {
        world.submit(a, "t", &[&"x".repeat(400)]);
        world.run();
    }
    world.loses = Box::new(|_, _| false);
    world.submit(a, "t", &["last"]);
    world.run();
    assert!(world.texts(b).len() < 5, "{}", world.texts(b).len());
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.texts(b).len(), 21);
    assert!(world.resets(b).is_empty());
}

#[test]
fn one_that_takes_nothing_can_take_something_later() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[]));
    world.run_for(Duration::from_secs(1));
    world.subscribe(b, &["x"], 1);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.children[b].subscribed, [1]);
    world.subscribe(b, &["x", "y"], 2);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.children[b].subscribed, [1, 2]);
    world.submit(a, "xa", &["1"]);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.texts(b), ["1"]);
}

//! The cost of subscriptions at the host.

use super::*;
use crate::wire::{MAX_PREFIXES, MAX_RECORDS};

const FLOOD: u64 = 10_000;

fn subscribe(world: &mut World, child: usize, nonce: u64, prefixes: &[String]) {
    let peer = world.children[child].peer.clone();
    let frames = vec![ChildMessage::Subscribe { nonce, prefixes: prefixes.to_vec() }.encode()];
    world.input(host::Input::Control { peer, address: None, frames });
}

/// The first frames of the host's broadcasts since the last call, and the number of windows.
fn broadcasts(world: &mut World) -> (Vec<Bytes>, usize) {
    let (mut lanes, mut windows) = (Vec::new(), 0);
    while let Some(output) = world.host.poll_output() {
        match output {
            host::Output::Broadcast { lane, .. } => lanes.push(lane),
            host::Output::Window { .. } => windows += 1,
            _ => {}
        }
    }
    (lanes, windows)
}

fn barriers(lanes: &[Bytes]) -> usize {
    lanes.iter().filter(|lane| lane.starts_with(b"B")).count()
}

/// Lets the host's timers fire for so long.
fn wait(world: &mut World, duration: Duration) {
    let end = world.now + duration;
    while let Some(next) = world.host.poll_timeout().filter(|next| *next <= end) {
        world.now = next.max(world.now);
        world.host.handle_timeout(world.now);
    }
    world.now = end;
}

#[test]
fn a_flood_of_changes_makes_few_barriers_and_cuts_no_window() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &["x"]));
    world.submit(a, "x", &["before"]);
    world.run();
    broadcasts(&mut world);
    let began = world.now;
    let mut total = (0, 0);
    for nonce in 1..=FLOOD {
        subscribe(&mut world, b, nonce, &[format!("p{nonce}")]);
        wait(&mut world, Duration::from_micros(100));
        let (lanes, windows) = broadcasts(&mut world);
        total = (total.0 + barriers(&lanes), total.1 + windows);
    }
    assert_eq!(world.now.since(began), Duration::from_secs(1));
    // 256 small changes at once and as many in a second, each at once where it may be.
    assert!((256..=512).contains(&total.0), "{} barriers", total.0);
    assert_eq!(total.1, 0, "no window is cut for a change");

    // The last filter is the one that stays, and its barrier comes within the rate.
    wait(&mut world, Duration::from_millis(50));
    let last = Lane::Barrier(Nonce(FLOOD)).encode();
    assert_eq!(broadcasts(&mut world).0.iter().filter(|lane| **lane == last).count(), 1);
}

#[test]
fn a_rare_change_waits_for_no_flood_of_others() {
    let mut world = World::new();
    let (flooder, rare) = (world.join(1, &["x"]), world.join(2, &["y"]));
    for nonce in 1..=FLOOD {
        subscribe(&mut world, flooder, nonce, &["z".to_owned()]);
        broadcasts(&mut world);
    }
    subscribe(&mut world, rare, 1, &["w".to_owned()]);
    wait(&mut world, Duration::from_millis(2));
    assert_eq!(broadcasts(&mut world).0, [Lane::Barrier(Nonce(1)).encode()]);
}

#[test]
fn changes_of_the_largest_size_wait_for_the_rate() {
    let mut world = World::new();
    let member = world.join(1, &["x"]);
    let prefixes: Vec<String> = (0..MAX_PREFIXES).map(|number| format!("{number:0250}")).collect();
    let mut count = 0;
    for nonce in 1..=100 {
        subscribe(&mut world, member, nonce, &prefixes);
        count += barriers(&broadcasts(&mut world).0);
    }
    // A quarter of a mebibyte each, of one mebibyte.
    assert_eq!(count, 3);
}

#[test]
fn a_window_of_many_topics_is_put_out_once_for_each_that_is_wanted() {
    let mut world = World::new();
    let sender = world.join(1, &[]);
    let topics: Vec<String> = (0..MAX_RECORDS).map(|number| format!("t{number:04}")).collect();
    let wanted: Vec<&str> = topics.iter().map(String::as_str).collect();
    world.join(2, &wanted);
    world.join(3, &wanted);
    world.join(4, &["t0000", "elsewhere"]);
    broadcasts(&mut world);
    let mut batch = BatchBuilder::new(1);
    for topic in &topics {
        assert!(batch.push(&Message::new(topic.as_str(), "").unwrap()));
    }
    let input =
        member::Input::Submit { first_origin_seq: 1, count: MAX_RECORDS as u16, body: batch.finish() };
    world.children[sender].machine.handle_input(world.now, input);
    world.collect();
    let Some(Packet::ToHost(submit)) = world.packets.pop_front() else { panic!("a batch") };
    world.input(submit);
    let (lanes, windows) = broadcasts(&mut world);
    assert_eq!(windows, 1);
    // A part for each topic, whoever and however many take it, and the index.
    assert_eq!(lanes.len(), MAX_RECORDS + 1);
}

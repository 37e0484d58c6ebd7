//! What is sent gets its place, once, or its sender is told.

use super::*;
use crate::message::MessageKind;

#[test]
fn what_was_under_way_at_a_loss_is_sent_again_and_what_was_missed_is_repaired() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.cut(a);
    world.submit(a, "t", &["into the void"]);
    // The batch is dropped with the connection.
    world.packets.retain(|packet| !matches!(packet, Packet::ToHost(host::Input::Submit { .. })));
    world.collect();
    world.packets.retain(|packet| !matches!(packet, Packet::ToHost(host::Input::Submit { .. })));
    world.run();
    assert_eq!(world.left(), [(id(1), LeaveReason::Disconnected)]);
    world.submit(b, "t", &["meanwhile"]);
    world.run_for(Duration::from_secs(3));
    assert!(world.children[a].machine.can_submit());
    world.submit(a, "t", &["back"]);
    world.run();
    for child in [a, b] {
        assert_eq!(world.texts(child), ["meanwhile", "into the void", "back"]);
        assert!(world.resets(child).is_empty());
    }
    assert!(world.children[a].unknown.is_empty());
    assert_eq!(world.children[a].machine.counters().resent_batches, 1);
}

#[test]
fn a_place_whose_word_was_lost_is_told_in_the_next_session_and_nothing_is_ordered_twice() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["x", "y"]);
    world.collect();
    let Some(Packet::ToHost(submit)) = world.packets.pop_front() else { panic!("the batch") };
    world.input(submit);
    // All that the host says of it is lost on the way to its sender.
    world.collect();
    world.packets.retain(|packet| !matches!(packet, Packet::ToChild(child, _) if *child == a));
    world.cut(a);
    world.run_for(Duration::from_secs(3));
    assert_eq!(
        world.children[a].ordered,
        [Ordered { epoch: 1000, first_origin_seq: 1, first_seq: 1, count: 2 }]
    );
    assert!(world.children[a].unknown.is_empty());
    for child in [a, b] {
        assert_eq!(world.texts(child), ["x", "y"]);
    }
    assert_eq!(world.host.counters().ordered, 2);
}

#[test]
fn of_places_told_again_together_with_new_ones_only_the_new_ones_count() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["x"]);
    world.run();
    world.submit(a, "t", &["y", "z"]);
    world.collect();
    let Some(Packet::ToHost(submit)) = world.packets.pop_front() else { panic!("the batch") };
    world.input(submit);
    // The host's word is lost, and what is told once more begins with what was told before.
    world.collect();
    world.packets.clear();
    let run = |first, count| Ordered { epoch: 1000, first_origin_seq: first, first_seq: first, count };
    let frames = vec![ParentMessage::Ordered(vec![run(1, 3)]).encode()];
    world.packets.push_back(Packet::ToChild(a, member::Input::Control { frames }));
    world.run();
    assert_eq!(world.children[a].ordered, [run(1, 1), run(2, 2)]);
    assert!(world.children[a].unknown.is_empty());
}

#[test]
fn a_batch_that_comes_again_before_its_place_is_told_is_not_told_ahead_of_those_before_it() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["1"]);
    world.submit(a, "t", &["2", "3"]);
    world.collect();
    let submits: Vec<Packet> = std::mem::take(&mut world.packets).into();
    for (packet, times) in submits.into_iter().zip([1, 2]) {
        let Packet::ToHost(host::Input::Submit { frames }) = packet else { panic!("a batch") };
        for _ in 0..times {
            world.host.handle_input(world.now, host::Input::Submit { frames: frames.clone() });
        }
        if times == 1 {
            // Another's stands in between.
            let mut batch = BatchBuilder::new(1);
            assert!(batch.push(&Message::new("t", "host's").unwrap()));
            world.host.handle_input(world.now, host::Input::Local { body: batch.finish() });
        }
    }
    world.run();
    assert_eq!(world.children[a].unknown, [0; 0]);
    world.input(host::Input::Flush);
    world.run();
    let told = world.children[a].ordered.iter().map(|run| (run.first_origin_seq, run.count));
    assert_eq!(told.collect::<Vec<_>>(), [(1, 1), (2, 2)]);
    assert_eq!(world.children[a].unknown, [0; 0]);
    // Once it was told, it is told again.
    let session = world.children[a].attached.unwrap();
    let mut batch = BatchBuilder::new(2);
    assert!(batch.push(&Message::new("t", "2").unwrap()));
    let frames = vec![SubmitHead { session }.encode(), batch.finish()];
    world.input(host::Input::Submit { frames });
    let place = Ordered { epoch: 1000, first_origin_seq: 2, first_seq: 3, count: 1 };
    let told = std::iter::from_fn(|| world.host.poll_output()).find_map(|output| match output {
        host::Output::Control { frame, .. } => ParentMessage::decode(&frame).ok(),
        _ => None,
    });
    assert_eq!(told, Some(ParentMessage::Ordered(vec![place])));
}

#[test]
fn a_host_without_memory_is_sent_again_what_it_had_not_confirmed_and_nothing_is_shown_twice() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["confirmed"]);
    world.run();
    world.submit(a, "t", &["shown, not confirmed"]);
    world.collect();
    let Some(Packet::ToHost(submit)) = world.packets.pop_front() else { panic!("the batch") };
    world.input(submit);
    world.collect();
    let to_b =
        world.packets.iter().position(|packet| matches!(packet, Packet::ToChild(child, _) if *child == b));
    let Some(Packet::ToChild(_, window)) = world.packets.remove(to_b.unwrap()) else { panic!("the window") };
    world.children[b].machine.handle_input(world.now, window);
    // The host dies, and with it what it had said.
    world.packets.clear();
    world.host = Host::new(host::Config { incarnation: 78, epoch: 2000, ..host_config() }, world.now);
    world.cut(a);
    world.cut(b);
    world.run_for(Duration::from_secs(3));
    world.submit(a, "t", &["later"]);
    world.run();
    assert_eq!(world.texts(b), ["confirmed", "shown, not confirmed", "later"]);
    assert_eq!(world.resets(b).len(), 1);
    assert_eq!(world.host.counters().ordered, 2);
    let last = world.children[a].ordered.last().unwrap();
    assert_eq!((last.epoch, last.first_origin_seq, last.first_seq), (2000, 3, 2));
    assert!(world.children[a].unknown.is_empty());
}

#[test]
fn a_client_that_comes_back_without_memory_goes_on_above_what_another_may_have_in_its_outbox() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["1", "2"]);
    world.run();
    world.cut(a);
    world.children[a].end = Some(End::Left);
    world.children[a].machine = Member::new(member_config(99, &[""]));
    world.run();
    let again = world.join(1, &[""]);
    let next = world.children[again].events.iter().find_map(|event| match event {
        member::Event::Joined(joined) => Some(joined.next_origin_seq),
        _ => None,
    });
    let next = next.unwrap();
    assert!(next > 1 << 20);
    world.children[again].next_origin_seq = next;
    world.submit(again, "t", &["3"]);
    world.run();
    assert_eq!(world.texts(b), ["1", "2", "3"]);
}

#[test]
fn an_origin_that_was_forgotten_is_told_that_the_fate_of_its_outbox_is_unknown() {
    let mut world = World::new();
    world.host = Host::new(host::Config { origin_ttl: Duration::from_secs(1), ..host_config() }, world.now);
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["ordered or not"]);
    world.children[a].machine.handle_input(world.now, member::Input::Lost { reason: "cut".into() });
    world.collect();
    world.packets.clear();
    let peer = world.children[a].peer.clone();
    world.input(host::Input::ControlClosed { peer });
    for _ in 0..20 {
        world.now = world.now + Duration::from_millis(100);
        world.host.handle_timeout(world.now);
    }
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.children[a].unknown, [1]);
    world.submit(a, "t", &["afterwards"]);
    world.run();
    assert_eq!(world.texts(a), ["afterwards"]);
    assert_eq!(world.host.counters().forgotten_origins, 1);
}

#[test]
fn an_origin_that_gave_way_to_newcomers_is_told_so_and_ordered_once() {
    let mut world = World::new();
    world.host = Host::new(host::Config { max_origins: 2, ..host_config() }, world.now);
    let (witness, a) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["ordered"]);
    // The place is on its way when the connections break.
    world.collect();
    let Some(Packet::ToHost(submit)) = world.packets.pop_front() else { panic!("a submit") };
    world.input(submit);
    world.collect();
    world.packets.retain(|packet| matches!(packet, Packet::ToChild(child, _) if *child == witness));
    world.cut(a);
    world.collect();
    let cut: Vec<Packet> = world.packets.drain(..).collect();
    let (first, later): (Vec<_>, Vec<_>) =
        cut.into_iter().partition(|packet| !matches!(packet, Packet::ToChild(child, _) if *child == a));
    world.packets.extend(first);
    world.run();
    // A newcomer takes the only room there is.
    let b = world.join(3, &[""]);
    assert_eq!(world.host.counters().forgotten_origins, 1);
    world.cut(b);
    world.children[b].end = Some(End::Left);
    world.children[b].machine = Member::new(member_config(99, &[""]));
    world.packets.extend(later);
    world.run_for(Duration::from_secs(3));
    assert!(world.children[a].machine.can_submit(), "there is room for it again");
    assert_eq!((&world.children[a].unknown[..], &world.children[a].ordered[..]), (&[1][..], &[][..]));
    world.submit(a, "t", &["afterwards"]);
    world.run();
    assert_eq!(world.texts(witness), ["ordered", "afterwards"]);
}

#[test]
fn who_was_not_confirmed_as_a_member_is_not_taken_for_forgotten() {
    let mut world = World::new();
    let (a, b) = (world.join(1, &[""]), world.join(2, &[""]));
    world.submit(a, "t", &["x"]);
    world.children[a].machine.handle_input(world.now, member::Input::Lost { reason: "cut".into() });
    world.collect();
    world.packets.clear();
    // The next host takes it up to the barrier, and its word that the endpoint is a member is lost.
    world.host =
        Host::new(host::Config { incarnation: 78, epoch: 2000, max_origins: 1, ..host_config() }, world.now);
    world.children[b].machine = Member::new(member_config(99, &[""]));
    world.children[b].end = Some(End::Left);
    world.now = world.now + Duration::from_secs(3);
    world.children[a].machine.handle_timeout(world.now);
    let is_membership = |packet: &Packet| {
        matches!(packet, Packet::ToChild(_, member::Input::Control { frames })
            if matches!(ParentMessage::decode(&frames[0]), Ok(ParentMessage::Membership { .. })))
    };
    loop {
        world.collect();
        match world.packets.pop_front().expect("a membership") {
            packet if is_membership(&packet) => break,
            Packet::ToHost(input) => world.input(input),
            Packet::ToChild(child, input) => world.children[child].machine.handle_input(world.now, input),
        }
    }
    // The host learns first that the connections broke. Somebody else takes the room in its memory,
    // and leaves.
    world.cut(a);
    let peer = world.children[a].peer.clone();
    world.input(host::Input::ControlClosed { peer });
    let c = world.add(member_config(3, &[""]));
    while !world.children[c].machine.can_submit() {
        world.collect();
        let at = world.packets.iter().position(|packet| match packet {
            Packet::ToHost(_) => true,
            Packet::ToChild(child, _) => *child == c,
        });
        match world.packets.remove(at.expect("it joins")).unwrap() {
            Packet::ToHost(input) => world.input(input),
            Packet::ToChild(child, input) => world.children[child].machine.handle_input(world.now, input),
        }
    }
    assert_eq!(world.host.counters().forgotten_origins, 1);
    world.children[c].machine.handle_input(world.now, member::Input::Leave);
    world.run_for(Duration::from_secs(5));
    assert!(world.children[a].machine.can_submit());
    assert_eq!(world.children[a].unknown, [0; 0], "it had sent this host nothing");
    assert_eq!(world.texts(a), ["x"]);
}

#[test]
fn submits_out_of_turn_unknown_and_malformed_are_counted_and_change_nothing() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    let session = world.children[a].attached.unwrap();
    let batch = |first| {
        let mut batch = BatchBuilder::new(first);
        batch.push(&Message::new("t", "x").unwrap());
        batch.finish()
    };
    let head = SubmitHead { session }.encode();
    let stranger = SubmitHead { session: SessionToken::from_bytes([9; 16]).unwrap() }.encode();
    world.input(host::Input::Submit { frames: vec![head.clone(), batch(1)] });
    world.input(host::Input::Submit { frames: vec![head.clone(), batch(1)] });
    world.input(host::Input::Submit { frames: vec![stranger, batch(2)] });
    world.input(host::Input::Submit { frames: vec![head.clone()] });
    world.input(host::Input::Submit { frames: vec![head.clone(), batch(2).slice(..9)] });
    world.input(host::Input::Submit { frames: vec![Bytes::from_static(b"junk"), batch(2)] });
    world.run();
    let counters = world.host.counters();
    assert_eq!((counters.ordered, counters.duplicates), (1, 1));
    assert_eq!((counters.unknown_sessions, counters.malformed_submits), (1, 3));
    assert_eq!(world.host.members().count(), 1);
    // A hole in a member's numbers shows a loss: it is asked, once, to send again.
    world.input(host::Input::Submit { frames: vec![head.clone(), batch(5)] });
    world.input(host::Input::Submit { frames: vec![head, batch(6)] });
    world.run();
    assert_eq!(world.host.counters().resends_asked, 1);
    assert_eq!(world.host.members().count(), 1);
}

#[test]
fn full_batches_of_honest_senders_that_take_little_do_not_look_like_silence() {
    let mut world = World::new();
    let marks = HighWaterMark::new().messages(10_000_000).bytes(1 << 30);
    world.host = Host::new(host::Config { marks, ..host_config() }, world.now);
    let limit = member::Limit { batches: 800, bytes: 1 << 30 };
    let senders: Vec<usize> = (1..=2)
        .map(|n| {
            let mut config = member_config(n, &["nothing"]);
            config.outbox = limit;
            world.add(config)
        })
        .collect();
    world.run();
    let texts = vec!["x"; 700];
    for _ in 0..limit.batches {
        for sender in &senders {
            world.submit(*sender, "t", &texts);
        }
    }
    // All of it is under way at once, interleaved, and ordered before any child answers.
    world.collect();
    let mut submits: Vec<VecDeque<host::Input>> = vec![VecDeque::new(), VecDeque::new()];
    for (i, packet) in std::mem::take(&mut world.packets).into_iter().enumerate() {
        let Packet::ToHost(input) = packet else { continue };
        submits[usize::from(i >= limit.batches)].push_back(input);
    }
    for _ in 0..limit.batches {
        for queue in &mut submits {
            world.host.handle_input(world.now, queue.pop_front().unwrap());
        }
        world.host.handle_input(world.now, host::Input::Flush);
    }
    world.run();
    assert_eq!(world.left(), []);
    for sender in senders {
        let told: u64 = world.children[sender].ordered.iter().map(|run| u64::from(run.count)).sum();
        assert_eq!(told, 700 * limit.batches as u64);
    }
}

#[test]
fn a_read_only_member_cannot_submit() {
    let mut world = World::new();
    world.verdict = |_, _| Ok(Role::ReadOnly);
    let a = world.join(1, &[""]);
    world.submit(a, "t", &["no"]);
    world.run();
    assert_eq!(world.host.counters().forbidden_submits, 1);
    assert_eq!(world.host.counters().ordered, 0);
}

#[test]
fn a_read_only_member_may_ask_for_documents() {
    let mut world = World::new();
    world.verdict = |_, _| Ok(Role::ReadOnly);
    let a = world.join(1, &[""]);
    let head = SubmitHead { session: world.children[a].attached.unwrap() }.encode();
    for (topic, kind, payload, is_ordered) in [
        ("doc/it/f", MessageKind::FullDocumentRequest, "?", true),
        ("doc/it/f", MessageKind::DocumentFragment, "!", false),
        ("other", MessageKind::FullDocumentRequest, "?", false),
        ("doc/it/f", MessageKind::FullDocumentRequest, &*"?".repeat(65), false),
    ] {
        let (ordered, forbidden) = (world.host.counters().ordered, world.host.counters().forbidden_submits);
        let mut batch = BatchBuilder::new(ordered + 1);
        batch.push(&Message::new(topic, payload.to_owned()).unwrap().with_kind(kind));
        world.input(host::Input::Submit { frames: vec![head.clone(), batch.finish()] });
        world.run();
        let counters = world.host.counters();
        let expected = (ordered + u64::from(is_ordered), forbidden + u64::from(!is_ordered));
        assert_eq!((counters.ordered, counters.forbidden_submits), expected, "{topic} {kind:?}");
    }
}

#[test]
fn reports_keep_a_busy_session_alive() {
    let mut world = World::new();
    let b = world.join(2, &["x"]);
    for _ in 0..3 * MAX_UNANSWERED {
        world.submit(b, "z", &["x"]);
        world.run();
    }
    assert_eq!(world.host.members().count(), 1);
    assert_eq!(world.children[b].ordered.len() as u64, 3 * MAX_UNANSWERED);
}

#[test]
fn small_batches_that_are_ordered_together_are_told_together() {
    let mut world = World::new();
    let mut config = member_config(2, &["x"]);
    config.outbox.batches = 2 * MAX_UNANSWERED as usize;
    let b = world.add(config);
    world.run();
    // All under way at once: word of each by itself would be more than may be left unanswered.
    for _ in 0..2 * MAX_UNANSWERED {
        world.submit(b, "z", &["x"]);
    }
    world.collect();
    for packet in std::mem::take(&mut world.packets) {
        let Packet::ToHost(input) = packet else { continue };
        world.host.handle_input(world.now, input);
    }
    world.host.handle_input(world.now, host::Input::Flush);
    world.run();
    assert_eq!(world.host.members().count(), 1, "{:?}", world.left());
    let told = &world.children[b].ordered;
    assert_eq!(told.iter().map(|run| u64::from(run.count)).sum::<u64>(), 2 * MAX_UNANSWERED);
    assert!(told.len() <= world.host_windows, "{} in {} windows", told.len(), world.host_windows);
    assert!(told.windows(2).all(|pair| pair[0].last_origin_seq() + 1 == pair[1].first_origin_seq));
}

#[test]
fn the_outbox_is_bounded_in_batches() {
    let mut world = World::new();
    let a = world.join(1, &[""]);
    for _ in 0..4 {
        assert!(world.children[a].machine.can_submit());
        world.submit(a, "t", &["x"]);
    }
    assert!(!world.children[a].machine.can_submit());
    world.run();
    assert!(world.children[a].machine.can_submit());
}

#[test]
fn the_outbox_is_bounded_in_bytes_and_comes_out_even() {
    let mut world = World::new();
    let mut config = member_config(1, &[""]);
    config.outbox.bytes = 100;
    let a = world.add(config);
    world.run();
    for _ in 0..3 {
        assert!(world.children[a].machine.can_submit());
        world.submit(a, "t", &["0123456789", &"x".repeat(100)]);
        assert!(!world.children[a].machine.can_submit());
        world.run();
    }
    assert!(world.children[a].machine.can_submit());
}

//! What keepers have in their stores, and how much they keep.

use super::mirrors::{MIRROR, content};
use super::*;

/// What is in the store of a keeper elsewhere, as a document.
fn stored<D: Document>(net: &mut Net<D>, mirror: usize) -> Option<Vec<u8>> {
    let stored = net.mirrors[mirror].store.load(NAME).expect("a store")?;
    let mut again = keeper(true, true);
    again.load(NAME.into(), stored).expect("what it stored itself");
    content::<D>(&again)
}

#[test]
fn what_a_keeper_elsewhere_has_stored_has_no_holes_at_any_time() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.write(first, "b");
    net.place_all();
    let mirror = net.mirror();
    // Somebody's first update is none that something is seen to be missing before.
    net.write(second, "c");
    let check = |net: &mut Net<Line>| {
        while net.place() {
            let stored = stored(net, mirror).unwrap_or_default();
            assert!(b"abcdef".starts_with(&stored), "{stored:?}");
        }
    };
    check(&mut net);
    net.has(mirror, b"abc");
    // Nor is it, behind what was missed.
    let third = net.open();
    net.place_all();
    net.mirrors[mirror].is_deaf = true;
    net.write(first, "d");
    net.place_all();
    net.reset_mirror(mirror);
    let questions = std::mem::take(&mut net.said);
    net.write(third, "e");
    assert!(net.place());
    net.said.extend(questions);
    assert_eq!(stored(&mut net, mirror).as_deref(), Some(&b"abc"[..]));
    check(&mut net);
    net.has(mirror, b"abcde");
    net.write(first, "f");
    check(&mut net);
    net.has(mirror, b"abcdef");
}

#[test]
fn what_nobody_tells_a_keeper_elsewhere_it_stores_all_the_same() {
    let mut net = Net::<Line> { keeper: None, ..Net::new() };
    let mirror = net.mirror();
    net.say_as(77, 5, 1, &(b"a".to_vec(), None));
    net.place_all();
    assert_eq!(stored(&mut net, mirror), None);
    net.say_as(77, 5, 2, &(b"b".to_vec(), None));
    for _ in 0..8 {
        net.place_all();
        net.pass(Duration::from_secs(1));
    }
    net.has(mirror, b"ab");
    net.say_as(77, 5, 3, &(b"c".to_vec(), None));
    net.place_all();
    net.has(mirror, b"abc");
}

#[test]
fn a_keeper_elsewhere_that_asks_again_stores_what_it_lacks_and_no_more() {
    let (mut net, first, second) = Net::<Line>::of_two();
    for text in ["a", "b"] {
        net.write(first, text);
        net.place_all();
    }
    let mirror = net.mirror();
    net.place_all();
    net.write(first, "c");
    net.place_all();
    let all =
        |net: &mut Net<Line>| net.mirrors[mirror].store.load(NAME).expect("a store").expect("it is stored");
    let before = all(&mut net);
    assert_eq!((before.base.is_some(), before.records.len()), (true, 1));
    // Nothing was missed.
    net.reset_mirror(mirror);
    net.place_all();
    assert_eq!(all(&mut net), before);
    net.has(mirror, b"abc");
    // Something was.
    net.mirrors[mirror].is_deaf = true;
    net.write(second, "d");
    net.place_all();
    net.reset_mirror(mirror);
    net.place_all();
    let after = all(&mut net);
    assert_eq!((after.base.clone(), after.records.len()), (before.base.clone(), 2));
    assert_eq!(after.records[0], before.records[0]);
    net.write(first, "e");
    net.place_all();
    net.has(mirror, b"abcde");
    // The host comes back with its store, and has the same.
    net.restart(true);
    net.keeper.as_mut().expect("it is there").begin(true);
    net.take_down_keeper();
    net.reset(first);
    net.reset(second);
    net.reset_mirror(mirror);
    net.place_all();
    let again = all(&mut net);
    assert_eq!((again.base, again.records.len()), (before.base.clone(), 3));
    // It comes back without, and another has begun the document anew.
    net.ones.clear();
    net.restart(false);
    net.mirrors[mirror].is_deaf = true;
    let third = net.open();
    net.place_all();
    net.write(third, "x");
    net.place_all();
    net.reset_mirror(mirror);
    net.place_all();
    net.has(mirror, b"x");
}

#[test]
fn what_the_host_has_folded_meanwhile_is_stored_whole() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    let mirror = net.mirror();
    net.place_all();
    net.mirrors[mirror].is_deaf = true;
    let mut expected = b"a".to_vec();
    for n in 0..150_u8 {
        let text = vec![n; 900];
        expected.extend_from_slice(&text);
        net.update(if n % 2 == 0 { first } else { second }, vec![(text, None)]).expect("room");
        net.place_all();
    }
    net.reset_mirror(mirror);
    net.place_all();
    net.has(mirror, &expected);
}

#[test]
fn an_answer_that_stands_behind_its_question_is_none() {
    let mut net = Net::<Line> { keeper: None, ..Net::new() };
    let mirror = net.mirror();
    net.say_as(77, 5, 1, &(b"a".to_vec(), None));
    net.place_all();
    // It asks anyone in the end, and somebody offers what is of no place that there is.
    let state = wire::State {
        kind: Some(Line::KIND.into()),
        at: Some(Position { epoch: u64::MAX, seq: 1 }),
        snapshot: Bytes::from_static(b"x"),
        ..wire::State::default()
    };
    for _ in 0..8 {
        net.pass(Duration::from_secs(1));
        while let Some((node, message)) = net.said.front() {
            let (node, live) = (*node, Live::decode(message.payload()));
            assert!(net.place());
            let words = match live {
                Ok(Live::Ask { nonce, of: None, anyone: true }) => Some((nonce, Word::Offer)),
                Ok(Live::Ask { nonce, of, .. }) if of == Some(id(77)) => {
                    Some((nonce, Word::Part { index: 0, of: 1, bytes: state.encode() }))
                }
                _ => None,
            };
            if let Some((nonce, word)) = words.filter(|_| node == MIRROR) {
                net.say_on(&wire::answer_topic(id(MIRROR)), 77, Answer { nonce, word }.encode());
            }
        }
    }
    let kept = &net.mirrors[mirror].keeper;
    assert_eq!((kept.last_epoch(), kept.malformed() > 0), (Some(1), true));
    net.say_as(77, 5, 2, &(b"b".to_vec(), None));
    net.place_all();
    net.has(mirror, b"ab");
}

/// A keeper at the host that keeps so much.
fn bounded(document: usize, bytes: usize, knows: bool) -> Net<Line> {
    let limits = keeper::Limits { document, documents: 1_000, bytes };
    let config = keeper::Config { limits, ..keeper_config(true, knows) };
    Net { keeper: Some(Keeper::new(config)), ..Net::new() }
}

fn update(replica: u64, number: u64, bytes: usize) -> Bytes {
    wire::Update::new(Line::KIND, replica, number, [&Line::encode(&(vec![b'x'; bytes], None))[..]]).encode()
}

#[test]
fn a_document_that_is_too_large_is_given_up_though_there_is_always_more_of_it() {
    let mut net = bounded(10_000, 1 << 30, true);
    let keeper = net.keeper.as_mut().expect("it is there");
    let mut folds: VecDeque<(String, Result<wire::State, Malformed>)> = VecDeque::new();
    for number in 1..=1_000 {
        let message = Message::new(wire::live_topic(NAME), update(5, number, 100)).expect("a topic");
        let mut message = message.with_kind(MessageKind::DocumentFragment);
        message.position = Some(Position { epoch: 1, seq: number });
        message.origin = id(77);
        keeper.on_message(net.now, &message);
        // What was to be folded is, and something has come meanwhile.
        if number % 4 == 0
            && let Some((name, folded)) = folds.pop_front()
        {
            keeper.on_folded(&name, folded);
        }
        while let Some(output) = keeper.poll_output() {
            if let keeper::Output::Fold { name, state, fold } = output {
                folds.push_back((name, fold(&state)));
            }
        }
        assert!(keeper.bytes() < 16_000, "{} bytes", keeper.bytes());
    }
    assert_eq!((keeper.given_up(), keeper.state(NAME).is_some()), (1, true));
    assert!(keeper.dropped() > 800);
    assert!(keeper.state(NAME).expect("it is known").snapshot.is_empty());
}

#[test]
fn of_what_is_more_than_may_be_kept_the_largest_goes_and_new_ones_are_not_begun() {
    for knows in [false, true] {
        let mut net = bounded(60_000, 100_000, knows);
        let bytes = |net: &Net<Line>| net.keeper.as_ref().expect("it is there").bytes();
        for (name, size) in [("large", 50_000), ("small", 10_000), ("middle", 20_000)] {
            net.say_on(&wire::live_topic(name), 77, update(5, 1, size));
        }
        net.place_all();
        let before = bytes(&net);
        assert!((80_000..85_000).contains(&before), "{before}");
        // One that does not fit is not begun.
        net.say_on(&wire::live_topic("new"), 77, update(5, 1, 30_000));
        net.place_all();
        assert_eq!(bytes(&net), before);
        let keeper = net.keeper.as_ref().expect("it is there");
        assert_eq!((keeper.dropped(), keeper.given_up(), keeper.documents().count()), (1, 0, 3));
        // Another grows, and the largest goes.
        let mut given_up = Vec::new();
        for number in 2..=30 {
            net.say_on(&wire::live_topic("small"), 77, update(5, number, 1_000));
            while let Some((_, message)) = net.said.front() {
                if let Ok(Live::GivenUp(reason)) = Live::decode(message.payload()) {
                    given_up.push((message.topic().as_str().to_owned(), reason));
                }
                net.place();
            }
            assert!(bytes(&net) <= 125_000, "{}", bytes(&net));
        }
        let [(topic, reason)] = &given_up[..] else { panic!("{given_up:?}") };
        assert_eq!(*topic, wire::live_topic("large"));
        assert!(reason.contains("100000"), "{reason}");
        let keeper = net.keeper.as_ref().expect("it is there");
        assert_eq!(keeper.given_up(), 1);
        assert!(keeper.documents().all(|(name, _, size)| (size == 0) == (name == "large")));
        // Who asks for it is told why.
        net.say_on(&wire::live_topic("large"), 77, Live::Ask { nonce: 7, of: None, anyone: false }.encode());
        net.place();
        let answers = net.said.iter().filter_map(|(_, message)| Answer::decode(message.payload()).ok());
        let refused =
            |answer: Answer| matches!(answer.word, Word::Refused(reason) if reason.contains("100000"));
        assert!(answers.into_iter().any(refused));
    }
}

#[test]
fn who_opens_a_new_document_where_there_is_no_room_is_told() {
    let mut net = bounded(60_000, 10_000, true);
    net.say_on(&wire::live_topic("other"), 77, update(5, 1, 9_000));
    net.place_all();
    let one = net.open();
    net.place_all();
    assert!(
        matches!(net.ones[one].failure(), Some(DocumentError::Refused { reason, .. }) if reason.contains("10000"))
    );
}

#[test]
fn what_a_keeper_elsewhere_is_made_to_miss_takes_no_more_room_than_documents_do() {
    let mut net = Net::<Line> { keeper: None, ..Net::new() };
    let mirror = net.mirror();
    for n in 0..100 {
        net.say_on(&wire::live_topic(&format!("{n}")), 77, update(5, 2, 1));
    }
    net.place_all();
    let kept = &net.mirrors[mirror].keeper;
    assert_eq!((kept.wanted(), kept.dropped()), (3, 97));
}

#[test]
fn a_keeper_elsewhere_asks_for_no_more_than_its_store_can_take() {
    let mut net = Net::<Line>::new();
    let limits = keeper::Limits { documents: 100, ..keeper_config(true, true).limits };
    let config = || keeper::Config { limits, max_message: 64 << 20, ..keeper_config(true, false) };
    net.keeper = Some(Keeper::new(config()));
    net.max_message = 64 << 20;
    for n in 0..10 {
        net.say_on(&wire::live_topic(&format!("{n}")), 77, update(5, 1, 20 << 20));
    }
    net.place_all();
    // Its store takes nothing for now.
    let mut mirror = Keeper::new(keeper::Config { me: id(MIRROR), is_hosts: false, ..config() });
    mirror.begin(true);
    let mut unstored = VecDeque::new();
    let run = |net: &mut Net<Line>, mirror: &mut Keeper, unstored: &mut VecDeque<StoreChange>| {
        drive(net, mirror, |output| match output {
            keeper::Output::Store(change) => unstored.push_back(change),
            output => panic!("{output:?}"),
        });
    };
    let (mut rounds, mut most) = (0, 0);
    loop {
        run(&mut net, &mut mirror, &mut unstored);
        most = most.max(unstored.iter().map(StoreChange::bytes).sum::<usize>());
        let Some(change) = unstored.pop_front() else { break };
        let (name, position) = change.up_to().expect("a document");
        mirror.on_stored(net.now, name, position);
        rounds += 1;
    }
    assert_eq!((rounds, mirror.documents().count(), mirror.has_caught_up()), (10, 10, true));
    assert!(most < 110 << 20, "{most}");
    // Without a store it takes all that there is.
    mirror.on_reset(net.now);
    run(&mut net, &mut mirror, &mut unstored);
    assert!(mirror.has_caught_up());
    let mut mirror = Keeper::new(keeper::Config { me: id(MIRROR), is_hosts: false, ..config() });
    mirror.begin(true);
    run(&mut net, &mut mirror, &mut unstored);
    assert!(!mirror.has_caught_up());
    mirror.on_store_lost();
    run(&mut net, &mut mirror, &mut unstored);
    assert!(mirror.has_caught_up());
}

/// Tells a keeper elsewhere, which is none of the net's, what has its place, and gives what it says a place, until there is no more. What else it wants is left to the test.
fn drive<D: Document>(net: &mut Net<D>, mirror: &mut Keeper, mut wants: impl FnMut(keeper::Output)) {
    loop {
        while let Some(output) = mirror.poll_output() {
            match output {
                keeper::Output::Say { topic, kind, payload } => {
                    let message = Message::new(topic, payload).expect("a topic").with_kind(kind);
                    net.said.push_back((MIRROR, message));
                }
                output => wants(output),
            }
        }
        let Some((from, mut message)) = net.said.front().cloned() else { return };
        net.place();
        let topic = message.topic().as_str();
        if topic.starts_with(wire::ROOT) || topic == wire::answer_topic(id(MIRROR)) {
            message.origin = id(from);
            message.position = Some(Position { epoch: net.epoch, seq: net.seq });
            mirror.on_message(net.now, &message);
        }
    }
}

#[test]
fn what_takes_long_to_compare_is_held_meanwhile_and_of_no_use_once_it_is_asked_for_anew() {
    let (mut net, _) = mirrors::lost(Net::<Set>::new(), vec![vec![1], vec![2]]);
    let mut mirror = net.mirrors.remove(0).keeper;
    let mut comparisons = Vec::new();
    let mut run = |net: &mut Net<Set>, mirror: &mut Keeper| {
        drive(net, mirror, |output| {
            if let keeper::Output::Compare { name, nonce, comparison } = output {
                comparisons.push((name, nonce, comparison));
            }
        });
        std::mem::take(&mut comparisons)
    };
    mirror.on_reset(net.now);
    let first = run(&mut net, &mut mirror);
    // Long after.
    net.now = net.now + Duration::from_secs(60);
    mirror.on_reset(net.now);
    let second = run(&mut net, &mut mirror);
    assert_eq!((first.len(), second.len(), mirror.has_caught_up()), (1, 1, false));
    let mut compared =
        |net: &mut Net<Set>, mirror: &mut Keeper, comparisons: Vec<(String, u64, keeper::Comparison)>| {
            for (name, nonce, comparison) in comparisons {
                mirror.on_compared(&name, nonce, comparison.run());
            }
            run(net, mirror)
        };
    assert!(compared(&mut net, &mut mirror, first).is_empty());
    assert!(net.keeper.as_ref().and_then(|keeper| keeper.state(NAME)).is_none());
    // Somebody begins it anew meanwhile: the offer comes too late, and what is lacking is given.
    net.say_as(77, 5, 1, &vec![3]);
    let third = compared(&mut net, &mut mirror, second);
    assert_eq!((third.len(), mirror.has_caught_up()), (1, false));
    assert!(compared(&mut net, &mut mirror, third).is_empty());
    assert!(mirror.has_caught_up());
    let hosts = content::<Set>(net.keeper.as_ref().expect("it is there"));
    assert_eq!((hosts.as_deref(), content::<Set>(&mirror)), (Some(&[1, 2, 3][..]), hosts.clone()));
}

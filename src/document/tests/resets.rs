//! Who misses something again and again.

use super::*;

/// How many questions for the document these have said that have no place yet.
fn questions<D: Document>(net: &Net<D>, node: usize) -> usize {
    let is_question = |message: &Message| {
        message.kind() == MessageKind::FullDocumentRequest
            && message.topic().as_str() == wire::live_topic(NAME)
    };
    net.said.iter().filter(|(from, message)| *from == node && is_question(message)).count()
}

const LONG: Duration = Duration::from_secs(60);

/// Resets that come as soon as the document is there again: how long each question waits.
fn delays<D: Document>(net: &mut Net<D>, index: usize, count: usize) -> Vec<Duration> {
    let mut next = || {
        let (before, node) = (net.now, net.ones[index].node);
        net.miss(index);
        assert!(!net.ones[index].replica.is_synced());
        if questions(net, node) == 0 {
            let due = net.ones[index].replica.poll_timeout().expect("it is to be asked for");
            // More that is missed meanwhile changes nothing.
            net.miss(index);
            assert_eq!(net.ones[index].replica.poll_timeout(), Some(due));
            net.pass((due.elapsed() - net.now.elapsed()).saturating_sub(Duration::from_nanos(1)));
            assert_eq!(questions(net, node), 0, "too early");
            net.pass(Duration::from_nanos(1));
        }
        assert_eq!(questions(net, node), 1);
        net.place_all();
        assert!(net.ones[index].replica.is_synced());
        net.now.elapsed() - before.elapsed()
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn who_misses_something_again_and_again_asks_more_slowly() {
    let (mut net, first, second) = Net::<Line>::of_two();
    let slower = delays(&mut net, first, 12);
    assert_eq!(slower[0], Duration::ZERO);
    assert!(slower[1] > Duration::ZERO && slower[1] <= Duration::from_millis(50), "{slower:?}");
    // Whatever the jitter, the one after the next is not shorter.
    assert!(slower.windows(3).take(7).all(|delays| delays[2] > delays[0]), "{slower:?}");
    let bound = Duration::from_millis(3_200)..=Duration::from_millis(6_400);
    assert!(slower[8..].iter().all(|delay| bound.contains(delay)), "{slower:?}");
    let others = delays(&mut net, second, 12);
    assert_eq!(others[0], Duration::ZERO, "another's affair");
    assert!(slower.iter().zip(&others).skip(1).all(|(one, other)| one != other), "not in lock-step");
    // It was calm meanwhile.
    net.pass(LONG);
    assert_eq!(delays(&mut net, first, 1), [Duration::ZERO]);
}

#[test]
fn who_misses_something_now_and_then_asks_at_once() {
    let (mut net, first, _) = Net::<Set>::of_two();
    for _ in 0..20 {
        assert_eq!(delays(&mut net, first, 1), [Duration::ZERO]);
        net.pass(Duration::from_secs(1));
    }
}

/// One that has missed something again, and waits before it asks.
fn waiting<D: Document>() -> (Net<D>, usize, usize) {
    let (mut net, first, second) = Net::<D>::of_two();
    delays(&mut net, first, 4);
    net.miss(first);
    assert_eq!(questions(&net, net.ones[first].node), 0);
    (net, first, second)
}

/// What is changed while a question waits goes out, and is in the document in the end, whatever else happens.
fn works_on_while_it_waits<D: Document>(fragments: [D::Fragment; 3], expected: &[u8]) {
    let (mut net, first, second) = waiting::<D>();
    let [own, others, last] = fragments;
    net.ones[first].is_deaf = true;
    net.update(second, vec![others]).expect("room");
    net.place_all();
    net.ones[first].is_deaf = false;
    net.update(first, vec![own]).expect("room");
    assert!(!net.said.is_empty(), "it goes out at once");
    net.place_all();
    assert!(!net.ones[first].replica.is_synced() && net.ones[first].replica.state().is_none());
    net.update(first, vec![last]).expect("room");
    // It may have no place, and is said again. The question waits on.
    net.ones[first].replica.on_unknown();
    net.take_down(first);
    let node = net.ones[first].node;
    net.say_on(&wire::live_topic(NAME), HOST, Live::AskAgain.encode());
    assert_eq!(questions(&net, node), 0);
    net.place_all();
    assert_eq!((questions(&net, node), net.ones[first].replica.is_synced()), (0, false));
    net.pass(LONG);
    assert_eq!(questions(&net, node), 1);
    net.place_all();
    net.all_have(expected);
    assert!(net.ones.iter().all(|one| one.refused() == 0));
}

#[test]
fn what_is_changed_while_a_question_waits_is_not_lost() {
    works_on_while_it_waits::<Line>(
        [(b"a".to_vec(), None), (b"b".to_vec(), None), (b"c".to_vec(), None)],
        b"bac",
    );
    works_on_while_it_waits::<Set>([vec![1], vec![2], vec![3]], &[1, 2, 3]);
}

#[test]
fn who_waits_and_has_failed_asks_no_more() {
    let (mut net, first, _) = waiting::<Line>();
    net.ones[first].replica.fail(DocumentError::Closed { name: NAME.to_owned() });
    assert_eq!(net.ones[first].replica.poll_timeout(), None);
    net.pass(LONG);
    assert_eq!(questions(&net, net.ones[first].node), 0);
}

#[test]
fn who_opens_it_asks_at_once_and_so_after_the_first_reset() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    let node = net.ones[first].node;
    assert_eq!(questions(&net, node), 1);
    net.miss(first);
    assert_eq!(questions(&net, node), 2);
    net.place_all();
    assert!(net.ones[first].replica.is_synced());
}

#[test]
fn a_keeper_elsewhere_that_misses_something_again_and_again_asks_more_slowly() {
    let (mut net, first, _) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    let mirror = net.mirror();
    net.place_all();
    let mut delays = Vec::new();
    for _ in 0..12 {
        let before = net.now;
        if !net.miss_mirror(mirror) {
            assert!(!net.mirrors[mirror].keeper.has_caught_up());
            let due = net.mirrors[mirror].keeper.poll_timeout().expect("it is to ask");
            // Neither what else it is to ask for, nor what is missed meanwhile, makes it ask sooner.
            net.say_on(wire::KEEPER_TOPIC, HOST, Live::AskAgain.encode());
            net.place_all();
            assert!(!net.miss_mirror(mirror));
            assert_eq!(net.mirrors[mirror].keeper.poll_timeout(), Some(due));
            net.pass(Duration::from_nanos((due.elapsed() - net.now.elapsed()).as_nanos() as u64));
        }
        // The list, and the document.
        assert_eq!(net.said.len(), 2, "{:?}", net.said);
        net.place_all();
        assert!(net.mirrors[mirror].keeper.has_caught_up());
        delays.push(net.now.elapsed() - before.elapsed());
    }
    assert_eq!(delays[0], Duration::ZERO);
    assert!(delays[1] > Duration::ZERO && delays[1] <= Duration::from_millis(50), "{delays:?}");
    let bound = Duration::from_millis(3_200)..=Duration::from_millis(6_400);
    assert!(delays[8..].iter().all(|delay| bound.contains(delay)), "{delays:?}");
    net.pass(LONG);
    assert!(net.miss_mirror(mirror));
    assert_eq!(net.said.len(), 2);
    net.place_all();
    assert!(net.mirrors[mirror].keeper.has_caught_up());
}

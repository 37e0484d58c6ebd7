//! Keepers on other nodes than the host.

use super::*;

/// The first of them is this node.
pub(super) const MIRROR: usize = 80;

impl<D: Document> Net<D> {
    pub(super) fn tell_mirrors(&mut self, message: &Message) {
        let topic = message.topic().as_str();
        for index in 0..self.mirrors.len() {
            let mirror = &mut self.mirrors[index];
            let concerns = topic.starts_with(wire::ROOT) || topic == wire::answer_topic(id(mirror.node));
            if !mirror.is_deaf && concerns {
                mirror.keeper.set_host(Some(id(HOST)));
                mirror.keeper.on_message(self.now, message);
                self.take_down_mirror(index);
            }
        }
    }

    pub(super) fn pass_mirrors(&mut self) {
        for index in 0..self.mirrors.len() {
            self.mirrors[index].keeper.handle_timeout(self.now);
            self.take_down_mirror(index);
        }
    }

    pub(super) fn take_down_mirror(&mut self, index: usize) {
        let Mirror { node, keeper, store, .. } = &mut self.mirrors[index];
        let said = perform(keeper, store, self.now, true, &self.access);
        let node = *node;
        self.said.extend(said.into_iter().map(|message| (node, message)));
    }

    /// A keeper begins on another node, with what is in a store.
    fn mirror_with(&mut self, config: keeper::Config, mut store: MemoryStore) -> usize {
        let index = self.mirrors.len();
        let node = MIRROR + index;
        let mut keeper = Keeper::new(keeper::Config { me: id(node), is_hosts: false, ..config });
        for name in store.names().expect("a store") {
            let stored = store.load(&name).expect("a store").expect("it is there");
            keeper.load(name, stored).expect("what it stored itself");
        }
        keeper.begin(true);
        self.mirrors.push(Mirror { node, keeper, store, is_deaf: false });
        self.take_down_mirror(index);
        index
    }

    pub(super) fn mirror(&mut self) -> usize {
        let config = keeper::Config { max_message: self.max_message, ..keeper_config(true, true) };
        self.mirror_with(config, MemoryStore::new())
    }

    /// It has missed something, and asks for everything again, as soon as it may.
    pub(super) fn reset_mirror(&mut self, index: usize) {
        if !self.miss_mirror(index) {
            let keeper = &mut self.mirrors[index].keeper;
            self.now = keeper.poll_timeout().expect("it is to ask");
            keeper.handle_timeout(self.now);
            self.take_down_mirror(index);
        }
    }

    /// It has missed something. Whether it asks at once.
    pub(super) fn miss_mirror(&mut self, index: usize) -> bool {
        let before = self.said.len();
        self.mirrors[index].is_deaf = false;
        self.mirrors[index].keeper.on_reset(self.now);
        self.take_down_mirror(index);
        self.said.len() > before
    }

    /// It has caught up, and what it has, and has stored, is what the host's keeper has.
    fn is_mirrored(&mut self, index: usize, expected: &[u8]) {
        self.all_have(expected);
        self.has(index, expected);
        let theirs = self.keeper.as_ref().and_then(|keeper| keeper.state(NAME)).expect("it is kept");
        let ours = self.mirrors[index].keeper.state(NAME).expect("it is kept");
        let folded = |state| super::super::fold::Folded::<D>::of(state, None).expect("good").state();
        assert_eq!(folded(&ours).numbers, folded(&theirs).numbers);
    }

    /// It has caught up, and has this, and has it stored.
    pub(super) fn has(&mut self, index: usize, expected: &[u8]) {
        let mirror = &mut self.mirrors[index];
        assert!(mirror.keeper.has_caught_up());
        assert_eq!(content::<D>(&mirror.keeper).as_deref(), Some(expected));
        let mut stored = keeper(true, true);
        let is_stored = mirror.store.load(NAME).expect("a store").expect("it is stored");
        stored.load(NAME.into(), is_stored).expect("what it stored itself");
        assert_eq!(content::<D>(&stored).as_deref(), Some(expected), "stored");
    }
}

pub(super) fn content<D: Document>(keeper: &Keeper) -> Option<Vec<u8>> {
    let state = keeper.state(NAME)?;
    Some(super::super::fold::Folded::<D>::of(&state, None).expect("a document").document.snapshot())
}

fn is_question(message: &Message) -> bool {
    message.kind() == MessageKind::FullDocumentRequest
}

#[test]
fn a_keeper_elsewhere_that_comes_late_has_what_there_is_and_what_is_changed_meanwhile() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    let mirror = net.mirror();
    net.write(second, "b");
    // The list, "b", and the question.
    while !net.mirrors[mirror].keeper.documents().any(|_| true) {
        assert!(net.place());
    }
    net.write(first, "c");
    net.place_all();
    net.is_mirrored(mirror, b"abc");
    net.write(second, "d");
    net.write_here(first, "e");
    net.write_here(second, "f");
    net.place_all();
    let expected = net.shown(first);
    net.is_mirrored(mirror, &expected);
    // A document that begins while it is there.
    let mut net = Net::<Line>::new();
    let (mirror, first) = (net.mirror(), net.open());
    net.place_all();
    assert!(net.mirrors[mirror].keeper.has_caught_up());
    net.write(first, "a");
    net.write(first, "b");
    net.place_all();
    net.is_mirrored(mirror, b"ab");
    assert_eq!(net.mirrors[mirror].keeper.malformed(), 0);
}

#[test]
fn what_comes_behind_its_question_is_held_until_the_answer_is_there() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    let mirror = net.mirror();
    net.place_all();
    net.mirrors[mirror].is_deaf = true;
    net.write(first, "b");
    net.place_all();
    net.reset_mirror(mirror);
    net.write(first, "c");
    while net.said.iter().any(|(node, _)| *node != HOST) {
        assert!(net.place());
    }
    // The answers are late, and there is more before them.
    let answers = std::mem::take(&mut net.said);
    net.write(first, "d");
    net.place_all();
    assert!(!net.mirrors[mirror].keeper.has_caught_up());
    net.said = answers;
    net.place_all();
    net.is_mirrored(mirror, b"abcd");
}

#[test]
fn a_keeper_elsewhere_that_missed_something_asks_again() {
    let mut net = Net::<Set>::new();
    let first = net.open();
    let mirror = net.mirror();
    net.place_all();
    net.update(first, vec![vec![1]]).expect("room");
    net.place_all();
    // Its stream says so.
    net.mirrors[mirror].is_deaf = true;
    net.update(first, vec![vec![2]]).expect("room");
    net.place_all();
    net.reset_mirror(mirror);
    net.place_all();
    net.is_mirrored(mirror, &[1, 2]);
    // It sees so.
    net.mirrors[mirror].is_deaf = true;
    net.update(first, vec![vec![3]]).expect("room");
    net.place_all();
    net.mirrors[mirror].is_deaf = false;
    net.update(first, vec![vec![4]]).expect("room");
    net.place_all();
    net.is_mirrored(mirror, &[1, 2, 3, 4]);
    // Its question was lost.
    net.reset_mirror(mirror);
    net.said.clear();
    net.mirrors[mirror].keeper.on_unknown();
    net.take_down_mirror(mirror);
    net.place_all();
    net.is_mirrored(mirror, &[1, 2, 3, 4]);
}

/// A document, a keeper elsewhere that has it, and a host that forgets it; nobody has it open.
pub(super) fn lost<D: Document>(mut net: Net<D>, fragments: Vec<D::Fragment>) -> (Net<D>, Vec<u8>) {
    let first = net.open();
    net.mirror();
    net.place_all();
    for fragment in fragments {
        net.update(first, vec![fragment]).expect("room");
        net.place_all();
    }
    let expected = net.shown(first);
    net.is_mirrored(0, &expected);
    net.ones.clear();
    net.restart(false);
    net.keeper.as_mut().expect("it is there").begin(true);
    net.take_down_keeper();
    (net, expected)
}

#[test]
fn a_host_that_lost_all_gets_it_back_from_a_keeper_elsewhere() {
    fn run<D: Document>(net: Net<D>, fragments: Vec<D::Fragment>) {
        let (mut net, expected) = lost(net, fragments);
        net.reset_mirror(0);
        net.place_all();
        net.is_mirrored(0, &expected);
        let second = net.open();
        net.place_all();
        net.is_mirrored(0, &expected);
        assert_eq!(net.shown(second), expected);
    }
    let lines = |n: usize| -> Vec<Part> { (0..n).map(|n| (vec![b'a' + n as u8; 20], None)).collect() };
    run(Net::<Line>::new(), lines(3));
    run(Net::<Set>::new(), vec![vec![1], vec![2], vec![3]]);
    // Larger than a message may be.
    run(short::<Line>(), lines(9));
    run(short::<Set>(), (0..240).collect::<Vec<u8>>().chunks(30).map(<[u8]>::to_vec).collect());
}

#[test]
fn what_it_offers_and_is_lost_it_offers_again() {
    let (mut net, expected) = lost(Net::<Line>::new(), vec![(b"a".to_vec(), None)]);
    net.reset_mirror(0);
    let is_seed =
        |(_, message): &(usize, Message)| matches!(Live::decode(message.payload()), Ok(Live::Seed(_)));
    while !net.said.iter().any(is_seed) {
        assert!(net.place());
    }
    net.said.clear();
    net.mirrors[0].keeper.on_unknown();
    net.take_down_mirror(0);
    net.place_all();
    // The list's answer was lost, too.
    net.pass(Duration::from_secs(1));
    net.place_all();
    net.is_mirrored(0, &expected);
}

#[test]
fn what_was_begun_anew_before_it_could_offer_it_counts_and_of_a_set_both_do() {
    let (mut net, _) = lost(Net::<Line>::new(), vec![(b"a".to_vec(), None)]);
    net.mirrors[0].is_deaf = true;
    let second = net.open();
    net.place_all();
    net.write(second, "b");
    net.place_all();
    net.reset_mirror(0);
    net.place_all();
    net.is_mirrored(0, b"b");
    let (mut net, _) = lost(Net::<Set>::new(), vec![vec![1], vec![2]]);
    net.mirrors[0].is_deaf = true;
    let second = net.open();
    net.place_all();
    net.update(second, vec![vec![2, 3]]).expect("room");
    net.place_all();
    net.reset_mirror(0);
    net.place_all();
    net.is_mirrored(0, &[1, 2, 3]);
    // Another's offer comes before its own.
    let (mut net, _) = lost(Net::<Set>::new(), vec![vec![1], vec![2]]);
    net.reset_mirror(0);
    let state = wire::State {
        kind: Some(Set::KIND.into()),
        at: Some(Position { epoch: 1, seq: 1 }),
        snapshot: Bytes::from_static(&[7]),
        ..wire::State::default()
    };
    let is_seed =
        |(_, message): &(usize, Message)| matches!(Live::decode(message.payload()), Ok(Live::Seed(_)));
    while !net.said.iter().any(is_seed) {
        assert!(net.place());
    }
    let own = std::mem::take(&mut net.said);
    net.say(77, Live::Seed(state.encode()).encode());
    net.said.extend(own);
    net.place_all();
    net.is_mirrored(0, &[1, 2, 7]);
}

#[test]
fn who_has_a_set_open_that_another_offers_gives_what_it_lacks_and_goes_on() {
    let mut net = Net::<Set>::new();
    let first = net.open();
    net.place_all();
    net.update(first, vec![vec![1]]).expect("room");
    net.place_all();
    net.restart(false);
    net.reset(first);
    while net.said.iter().all(|(_, message)| message.kind() != MessageKind::DocumentFragment) {
        assert!(net.place());
    }
    let own = std::mem::take(&mut net.said);
    let state = wire::State {
        kind: Some(Set::KIND.into()),
        at: Some(Position { epoch: 1, seq: 1 }),
        snapshot: Bytes::from_static(&[7]),
        ..wire::State::default()
    };
    net.say(77, Live::Seed(state.encode()).encode());
    net.said.extend(own);
    net.place();
    net.update(first, vec![vec![2]]).expect("room");
    net.place_all();
    net.say_as(77, 5, 1, &vec![3]);
    net.place_all();
    net.all_have(&[1, 2, 3, 7]);
}

#[test]
fn a_host_whose_store_is_behind_gets_from_a_keeper_elsewhere_what_a_set_lacks() {
    let mut net = Net::<Set>::new();
    let first = net.open();
    let mirror = net.mirror();
    net.place_all();
    net.update(first, vec![vec![1]]).expect("room");
    net.place_all();
    let stored = net.store.load(NAME).expect("a store");
    net.update(first, vec![vec![2]]).expect("room");
    net.place_all();
    net.ones.clear();
    net.replace_keeper(None);
    let mut behind = keeper(true, true);
    behind.load(NAME.into(), stored.expect("it is stored")).expect("what it stored itself");
    behind.begin(true);
    net.keeper = Some(behind);
    net.take_down_keeper();
    net.place_all();
    net.is_mirrored(mirror, &[1, 2]);
    // There is no end to it otherwise.
    assert!(net.said.is_empty());
}

#[test]
fn a_few_documents_are_asked_for_at_once() {
    let mut net = Net::<Line>::new();
    let limits = keeper::Limits { documents: 1_000, ..keeper_config(true, true).limits };
    let config = || keeper::Config { limits, ..keeper_config(true, true) };
    net.keeper = Some(Keeper::new(config()));
    for n in 0..100_u64 {
        let update = wire::Update::new(Line::KIND, 5, 1, [&Line::encode(&(vec![b'x'], None))[..]]);
        net.say_on(&wire::live_topic(&format!("{n}")), 77, update.encode());
    }
    net.place_all();
    let mirror = net.mirror_with(config(), MemoryStore::new());
    let mut most = 0;
    loop {
        most =
            most.max(net.said.iter().filter(|(node, message)| *node != HOST && is_question(message)).count());
        if !net.place() {
            break;
        }
    }
    assert_eq!(most, 4);
    let keeper = &net.mirrors[mirror].keeper;
    assert_eq!((keeper.documents().count(), keeper.has_caught_up(), keeper.dropped()), (100, true, 0));
    // Where there is no room for all, it takes some.
    let mirror = net.mirror_with(keeper_config(true, true), MemoryStore::new());
    net.place_all();
    let keeper = &net.mirrors[mirror].keeper;
    assert_eq!((keeper.documents().count(), keeper.has_caught_up(), keeper.dropped()), (3, true, 97));
}

#[test]
fn where_the_host_keeps_nothing_a_keeper_elsewhere_has_what_is_open_and_gives_it() {
    let mut net = Net::<Line> { keeper: None, ..Net::new() };
    let config = replica::Config { create: true, ..net.config(1) };
    net.ones.push(One { node: 1, replica: Replica::new(config), events: Vec::new(), is_deaf: false });
    net.take_down(0);
    let mirror = net.mirror();
    let pass = |net: &mut Net<Line>| {
        for _ in 0..5 {
            net.place_all();
            net.pass(Duration::from_secs(1));
        }
        net.place_all();
    };
    pass(&mut net);
    assert!(net.mirrors[mirror].keeper.has_caught_up());
    net.write(0, "a");
    net.write(0, "b");
    pass(&mut net);
    net.has(mirror, b"ab");
    // Nobody has it open but the keeper.
    net.ones.clear();
    net.reset_mirror(mirror);
    pass(&mut net);
    net.has(mirror, b"ab");
    let second = net.open();
    pass(&mut net);
    assert_eq!(net.shown(second), b"ab");
    net.write(second, "c");
    pass(&mut net);
    net.has(mirror, b"abc");
    // A keeper comes to the host.
    net.keeper = Some(keeper(true, true));
    net.keeper.as_mut().expect("it is there").begin(true);
    net.take_down_keeper();
    pass(&mut net);
    net.is_mirrored(mirror, b"abc");
}

#[test]
fn what_the_host_gives_up_stays_as_it_was_and_is_given_to_nobody() {
    let mut net = Net::<Line> { keeper: Some(limited_keeper((300, 8 << 20), true, true)), ..Net::new() };
    let first = net.open();
    let mirror = net.mirror();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    net.is_mirrored(mirror, b"a");
    while net.ones[first].failure().is_none() {
        net.write(first, &"b".repeat(100));
        net.place_all();
    }
    let before = content::<Line>(&net.mirrors[mirror].keeper).expect("it is there");
    assert!(before.len() > 200);
    net.say_as(77, 5, 1, &(b"x".to_vec(), None));
    net.place_all();
    assert_eq!(content::<Line>(&net.mirrors[mirror].keeper), Some(before.clone()));
    net.say(77, Live::Ask { nonce: 7, of: None, anyone: true }.encode());
    net.place();
    let is_offer = |(node, message): &(usize, Message)| {
        *node == MIRROR
            && matches!(Answer::decode(message.payload()), Ok(Answer { nonce: 7, word: Word::Offer }))
    };
    assert!(!net.said.iter().any(is_offer));
    // A larger keeper comes, which has nothing.
    net.restart(false);
    net.keeper.as_mut().expect("it is there").begin(true);
    net.take_down_keeper();
    net.ones.clear();
    net.place_all();
    net.is_mirrored(mirror, &before);
    // Nobody but the host may say it.
    net.say(77, Live::GivenUp("ha".into()).encode());
    net.place_all();
    net.is_mirrored(mirror, &before);
    assert_eq!(net.mirrors[mirror].keeper.malformed(), 1);
}

#[test]
fn who_may_only_read_keeps_and_gives_nothing() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    let config = keeper::Config { read_only: true, ..keeper_config(true, true) };
    let mirror = net.mirror_with(config, MemoryStore::new());
    net.place_all();
    net.write(first, "a");
    net.place_all();
    net.is_mirrored(mirror, b"a");
    net.ones.clear();
    net.restart(false);
    net.keeper.as_mut().expect("it is there").begin(true);
    net.take_down_keeper();
    net.say(77, Live::Ask { nonce: 7, of: Some(id(MIRROR)), anyone: true }.encode());
    while let Some((node, message)) = net.said.front() {
        assert!(*node != MIRROR || is_question(message), "{message:?}");
        net.place();
    }
    net.has(mirror, b"a");
    // Somebody begins it anew.
    let second = net.open();
    net.place_all();
    net.write(second, "b");
    net.place_all();
    net.is_mirrored(mirror, b"b");
}

#[test]
fn a_keeper_that_comes_back_with_its_store_goes_on() {
    let mut net = Net::<Line> { epoch: 7, ..Net::new() };
    let first = net.open();
    let mirror = net.mirror();
    net.place_all();
    for text in ["a", "b"] {
        net.write(first, text);
        net.place_all();
    }
    net.is_mirrored(mirror, b"ab");
    let Mirror { store, .. } = net.mirrors.remove(mirror);
    net.write(first, "c");
    net.place_all();
    let mirror = net.mirror_with(keeper_config(true, true), store);
    net.write(first, "d");
    net.place_all();
    net.is_mirrored(mirror, b"abcd");
    // The host comes back without its store and with a clock that was set back.
    let Mirror { store, .. } = net.mirrors.remove(mirror);
    net.ones.clear();
    net.restart(false);
    net.epoch = 3;
    let mirror = net.mirror_with(keeper_config(true, true), store);
    net.place_all();
    net.is_mirrored(mirror, b"abcd");
    let second = net.open();
    net.place_all();
    net.write(second, "e");
    net.place_all();
    net.is_mirrored(mirror, b"abcde");
}

#[test]
fn a_keeper_at_the_host_goes_on_from_the_store_of_one_elsewhere() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    for text in ["a", "b"] {
        net.write(first, text);
        net.place_all();
    }
    let mirror = net.mirror();
    net.place_all();
    net.write(first, "c");
    net.place_all();
    net.is_mirrored(mirror, b"abc");
    net.epoch += 1;
    net.seq = 0;
    let Mirror { mut store, .. } = net.mirrors.remove(mirror);
    let stored = store.load(NAME).expect("a store");
    net.replace_keeper(stored);
    net.store = store;
    net.reset(first);
    net.write(first, "d");
    net.place_all();
    net.all_have(b"abcd");
}

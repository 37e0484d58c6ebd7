//! What goes wrong around documents: who is forgotten, who says what is not theirs, who keeps and has missed something, what is broken.

use std::collections::BTreeSet;

use super::super::fold::{Numbers, Taken};
use super::*;

/// So many others write that who was silent meanwhile is forgotten.
fn forget<D: Document>(net: &mut Net<D>, fragment: &D::Fragment) {
    for other in 0..Numbers::MOST as u64 {
        net.say_as(77, 1 << 32 | other, 1, fragment);
        net.place_all();
    }
}

#[test]
fn who_was_forgotten_among_many_others_goes_on_as_somebody_else() {
    let (mut net, first, _) = Net::<Line>::of_two();
    for text in ["a", "b", "c"] {
        net.write(first, text);
        net.place_all();
    }
    forget(&mut net, &(b"".to_vec(), None));
    net.write(first, "d");
    net.write(first, "e");
    net.place_all();
    net.all_have(b"abcde");

    let (mut net, first, _) = Net::<Set>::of_two();
    for n in 1..4 {
        net.update(first, vec![vec![n]]).expect("room");
        net.place_all();
    }
    forget(&mut net, &vec![100]);
    net.update(first, vec![vec![4]]).expect("room");
    net.update(first, vec![vec![5]]).expect("room");
    net.place_all();
    net.all_have(&[1, 2, 3, 4, 5, 100]);
}

/// Somebody says something under the name of another, just before that one does.
fn forge<D: Document>(before: usize, own: Vec<D::Fragment>, others: D::Fragment) -> Net<D> {
    let (mut net, first, _) = Net::<D>::of_two();
    for fragment in &own[..before] {
        net.update(first, vec![fragment.clone()]).expect("room");
        net.place_all();
    }
    let (replica, number) = (net.ones[first].replica.id(), before as u64 + 1);
    net.say_as(77, replica, number, &others);
    for fragment in &own[before..] {
        net.update(first, vec![fragment.clone()]).expect("room");
    }
    net.place_all();
    // A number behind the next one looks like a loss, and a commutative document that was asked for again has another name.
    assert!(before > 0 || net.ones[first].replica.id() == replica, "nobody takes another's name away");
    net
}

#[test]
fn what_another_says_in_ones_name_is_no_next_update_of_ones_own() {
    let own = ["a", "b", "c"].map(|text| (text.as_bytes().to_vec(), None)).to_vec();
    let net = forge::<Line>(1, own, (b"x".to_vec(), None));
    net.all_have(b"abc");
    let net = forge::<Set>(1, vec![vec![1], vec![2], vec![3]], vec![100]);
    net.all_have(&[1, 2, 3]);
}

#[test]
fn a_name_that_another_used_first_is_as_good_as_any() {
    let own = ["a", "b", "c"].map(|text| (text.as_bytes().to_vec(), None)).to_vec();
    let net = forge::<Line>(0, own, (b"x".to_vec(), None));
    net.all_have(b"xabc");
    let net = forge::<Set>(0, vec![vec![1], vec![2], vec![3]], vec![100]);
    net.all_have(&[1, 2, 3, 100]);
}

#[test]
fn who_says_last_pieces_alone_has_the_others_ask_once_in_a_while() {
    let (mut net, first, _) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    let say_ends = |net: &mut Net<Line>| {
        for nonce in 1..=50 {
            let bytes = Bytes::from_static(b"end");
            net.say(77, Live::Piece(wire::Piece { nonce, index: 1, of: 2, bytes }).encode());
        }
    };
    // How many questions they have asked by the time that nothing is to be said.
    let place_all = |net: &mut Net<Line>| {
        let mut asked = 0;
        while let Some((node, message)) = net.said.front() {
            asked += usize::from(*node <= 2 && message.kind() == MessageKind::FullDocumentRequest);
            net.place();
        }
        asked
    };
    // The keeper's own way of asking for what it has missed is not meant here: it is not there when they come.
    let keeper = net.keeper.take();
    say_ends(&mut net);
    (0..50).for_each(|_| _ = net.place());
    say_ends(&mut net);
    assert_eq!(place_all(&mut net), 2);
    net.keeper = keeper;
    net.pass(Duration::from_secs(1));
    assert_eq!(place_all(&mut net), 4, "that are not answered, and once more for what came behind them");
    net.place_all();
    net.all_have(b"a");
}

#[test]
fn numbers_that_cannot_be_are_no_state() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    let state = net.ones[first].replica.state().expect("in sync");
    let with = |number: u64, refused: &[(u64, u64)]| {
        let mut state = state.clone();
        let position = Position { epoch: 1, seq: 1 };
        let taken = Taken { number, position, refused: refused.to_vec() };
        state.numbers.set(id(7), 7, taken);
        wire::State::decode(&state.encode())
    };
    assert!(with(9, &[(2, 3), (5, 5)]).is_ok());
    for (number, refused) in [
        (0, vec![]),
        (u64::MAX, vec![]),
        (9, vec![(3, 2)]),
        (9, vec![(5, 5), (2, 3)]),
        (9, vec![(0, 3)]),
        (9, vec![(9, 10)]),
    ] {
        assert!(with(number, &refused).is_err(), "{number} {refused:?}");
    }
    // And no update has such a number.
    net.say_as(77, 5, u64::MAX, &(b"x".to_vec(), None));
    net.place_all();
    assert_eq!(net.ones[first].replica.malformed(), 1);
}

#[test]
fn what_is_said_beside_a_documents_topics_is_nothing_of_it() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    let update = wire::Update::new(Line::KIND, 5, 1, [&Line::encode(&(b"x".to_vec(), None))[..]]).encode();
    net.say_on(&wire::presence_topic(NAME), 77, update.clone());
    net.say_on(&format!("doc/{NAME}/x"), 77, update.clone());
    net.say_on("doc//f", 77, update);
    net.place_all();
    net.all_have(b"a");
    assert!(net.ones[first].replica.malformed() >= 2);
    assert_eq!(net.keeper.as_ref().expect("it is there").documents().count(), 1);
}

#[test]
fn only_who_was_asked_may_answer() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    net.reset(first);
    let (_, question) = net.said.back().expect("its question");
    let Ok(Live::Ask { nonce, .. }) = Live::decode(question.payload()) else { panic!("no question") };
    assert!(net.place(), "the question");
    let answers = net.said.clone();
    net.said.clear();
    for word in [Word::Empty { read_only: true }, Word::Refused("ha".into())] {
        net.say_on(&wire::answer_topic(id(first + 1)), 77, Answer { nonce, word }.encode());
    }
    net.place_all();
    assert_eq!(net.ones[first].replica.malformed(), 2);
    net.said = answers;
    net.place_all();
    net.all_have(b"a");
}

#[test]
fn who_may_only_read_may_do_no_more_when_another_answers_for_the_host() {
    let mut net = Net::<Line> { access: Access::Read, ..Net::new() };
    let (first, second) = (net.open(), net.open());
    net.place_all();
    // The host says nothing.
    let keeper = net.keeper.take();
    net.reset(second);
    for _ in 0..4 {
        net.place_all();
        net.pass(Duration::from_secs(1));
    }
    assert!(net.ones[second].replica.is_synced() && net.ones[second].replica.is_alone());
    let refused = net.update(second, vec![(b"b".to_vec(), None)]);
    assert!(matches!(refused, Err(UpdateError::ReadOnly { .. })), "{refused:?}");
    net.keeper = keeper;
    assert!(net.ones[first].replica.is_synced());
}

#[test]
fn a_state_of_a_type_that_no_document_can_have_is_none() {
    let state = |kind: &str| wire::State { kind: Some(kind.into()), ..wire::State::default() }.encode();
    assert!(wire::State::decode(&state(&"x".repeat(64))).is_ok());
    assert!(wire::State::decode(&state(&"x".repeat(65))).is_err());
}

#[test]
fn a_keeper_that_has_missed_something_gets_it_from_those_that_have_it() {
    // By what it sees, or since it says that it is there.
    for says_so in [false, true] {
        for model in [Model::Ordered, Model::Commutative] {
            match model {
                Model::Ordered => {
                    let texts = |text: &str| (text.as_bytes().to_vec(), None);
                    miss::<Line>(says_so, ["a", "b", "c", "d"].map(texts), b"abcd");
                }
                Model::Commutative => miss::<Set>(says_so, [1, 2, 3, 4].map(|n| vec![n]), &[1, 2, 3, 4]),
            }
        }
    }
}

fn miss<D: Document>(says_so: bool, fragments: [D::Fragment; 4], expected: &[u8]) {
    let (mut net, first, second) = Net::<D>::of_two();
    let mut stored = None;
    for (n, fragment) in fragments.into_iter().enumerate() {
        if n == 3 {
            net.replace_keeper(None);
            if says_so {
                net.keeper.as_mut().expect("it is there").begin(true);
                net.take_down_keeper();
                net.place_all();
                // Nobody has changed anything.
                net.all_have(&expected[..3]);
            }
        }
        net.update(if n == 1 { second } else { first }, vec![fragment]).expect("room");
        net.place_all();
        stored = stored.or(net.store.load(NAME).expect("a store"));
    }
    net.open();
    net.place_all();
    net.all_have(expected);
    // One that is behind.
    net.replace_keeper(stored);
    net.keeper.as_mut().expect("it is there").begin(true);
    net.take_down_keeper();
    net.place_all();
    let expected: Vec<u8> = net.shown(first);
    net.all_have(&expected);
}

#[test]
fn a_keeper_does_not_ask_for_what_it_misses_more_than_once_in_a_second() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    let count = |net: &mut Net<Line>| {
        for number in 2..9 {
            net.say_as(77, 5, number, &(b"x".to_vec(), None));
        }
        let mut count = 0;
        let is_it = |message: &Message| Live::decode(message.payload()) == Ok(Live::AskAgain);
        while let Some((_, message)) = net.said.front() {
            count += usize::from(is_it(message));
            net.place();
        }
        count
    };
    assert_eq!(count(&mut net), 1);
    net.pass(Duration::from_secs(1));
    assert_eq!(count(&mut net), 1);
    net.all_have(b"a");
    // Nobody but the host may say it.
    let before = net.seq;
    net.say(77, Live::AskAgain.encode());
    net.say_on(wire::KEEPER_TOPIC, 77, Live::AskAgain.encode());
    net.place_all();
    assert_eq!((net.seq - before, net.ones[first].replica.malformed()), (2, 2));
}

#[test]
fn who_has_a_document_open_that_is_given_up_is_told() {
    let too_large = |knows, stored: Option<Stored>| {
        let mut keeper = limited_keeper((300, 8 << 20), true, knows);
        stored
            .into_iter()
            .for_each(|stored| keeper.load(NAME.into(), stored).expect("what it stored itself"));
        keeper
    };
    for knows in [true, false] {
        let mut net = Net::<Line> { keeper: Some(too_large(knows, None)), ..Net::new() };
        let first = net.open();
        net.place_all();
        while net.ones[first].failure().is_none() {
            net.write(first, &"a".repeat(100));
            net.place_all();
        }
        let failure = net.ones[first].failure();
        assert!(
            matches!(failure, Some(DocumentError::Refused { reason, .. }) if reason.contains("300")),
            "{failure:?}"
        );
        let second = net.open();
        net.place_all();
        assert_eq!(net.ones[second].failure(), net.ones[first].failure());
        // What is stored is no smaller.
        let stored = net.store.load(NAME).expect("a store");
        net.keeper = Some(too_large(knows, stored));
        net.take_down_keeper();
        let third = net.open();
        net.place_all();
        assert!(matches!(net.ones[third].failure(), Some(DocumentError::Refused { .. })));
    }
    // Nobody but the host may say it.
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.say(77, Live::GivenUp("ha".into()).encode());
    net.place_all();
    assert_eq!((net.ones[first].failure(), net.ones[first].replica.malformed()), (None, 1));
}

#[test]
fn a_document_is_folded_before_it_is_too_large() {
    let mut net = Net::<Set> { keeper: Some(limited_keeper((400, 8 << 20), true, true)), ..Net::new() };
    let first = net.open();
    net.place_all();
    let all: Vec<u8> = (0..250).collect();
    for part in [&all[..], &all[..95], &all[..95], &all[..95]] {
        net.update(first, vec![part.to_vec()]).expect("room");
        net.place_all();
    }
    net.all_have(&all);
}

/// Bytes that were there; 255 breaks it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Brittle(BTreeSet<u8>);

const POISON: u8 = 255;

impl Document for Brittle {
    const KIND: &'static str = "test.brittle";
    const MODEL: Model = Model::Commutative;
    type Fragment = Vec<u8>;
    type Change = ();

    fn empty() -> Self {
        Self::default()
    }

    fn apply(&mut self, bytes: &Vec<u8>) -> Result<(), Conflict> {
        if self.is_broken() {
            return Err(Conflict::new("it is broken"));
        }
        self.0.extend(bytes);
        Ok(())
    }

    fn is_broken(&self) -> bool {
        self.0.contains(&POISON)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.iter().copied().collect()
    }

    fn restore(snapshot: &[u8]) -> Result<Self, Malformed> {
        Self::rebuild(Some(snapshot), &[], None)
    }

    fn rebuild(snapshot: Option<&[u8]>, fragments: &[Vec<u8>], _: Option<u64>) -> Result<Self, Malformed> {
        if snapshot.is_some_and(|snapshot| snapshot.contains(&POISON)) {
            return Err(Malformed::new("poison"));
        }
        let fragments = fragments.iter().filter(|fragment| !fragment.contains(&POISON));
        Ok(Self(snapshot.into_iter().flatten().chain(fragments.flatten()).copied().collect()))
    }

    fn encode(bytes: &Vec<u8>) -> Vec<u8> {
        bytes.clone()
    }

    fn decode(fragment: &[u8]) -> Result<Vec<u8>, Malformed> {
        Ok(fragment.to_vec())
    }

    fn merge(&mut self, other: Self) -> Result<Merged<Self>, Conflict> {
        let lacking: Vec<u8> = self.0.difference(&other.0).copied().collect();
        self.0.extend(other.0);
        Ok(Merged { change: None, lacking: (!lacking.is_empty()).then_some(lacking) })
    }
}

#[test]
fn what_breaks_a_document_has_its_place_and_no_effect_and_what_comes_behind_it_has() {
    let (mut net, first, second) = Net::<Brittle>::of_two();
    net.update(first, vec![vec![1]]).expect("room");
    net.say_as(77, 5, 1, &vec![POISON]);
    net.say_as(77, 5, 2, &vec![2]);
    net.update(second, vec![vec![3]]).expect("room");
    net.update(second, vec![vec![4]]).expect("room");
    net.place_all();
    net.open();
    net.place_all();
    net.all_have(&[1, 2, 3, 4]);
    net.update(first, vec![vec![5]]).expect("room");
    net.place_all();
    net.all_have(&[1, 2, 3, 4, 5]);
}

#[test]
fn who_may_only_read_after_an_outage_is_told_what_of_theirs_is_refused() {
    fn run<D: Document>(own: D::Fragment, others: D::Fragment, expected: &[u8]) {
        let (mut net, first, second) = Net::<D>::of_two();
        net.ones[first].is_deaf = true;
        net.update(first, vec![own]).expect("room");
        net.said.clear();
        net.update(second, vec![others]).expect("room");
        net.place_all();
        net.access = Access::Read;
        net.reset(first);
        net.place_all();
        net.all_have(expected);
        assert_eq!(net.ones[first].refused(), 1);
    }
    run::<Line>((b"a".to_vec(), None), (b"b".to_vec(), None), b"b");
    run::<Set>(vec![1], vec![2], &[2]);
    run::<Brittle>(vec![1], vec![2], &[2]);
}

#[test]
fn a_whole_document_that_makes_no_sense_takes_no_name() {
    let mut net = Net::<Brittle>::new();
    let first = net.open();
    net.place_all();
    let state = wire::State {
        kind: Some(Brittle::KIND.into()),
        at: Some(Position { epoch: 1, seq: 1 }),
        snapshot: Bytes::from_static(&[POISON]),
        ..wire::State::default()
    };
    net.say(77, Live::Seed(state.encode()).encode());
    net.place_all();
    let keeper = net.keeper.as_ref().expect("it is there");
    assert_eq!((keeper.documents().count(), keeper.malformed()), (0, 1));
    assert!(matches!(net.ones[first].failure(), Some(DocumentError::Malformed { .. })));
    let second = net.open();
    net.place_all();
    net.update(second, vec![vec![1]]).expect("room");
    net.place_all();
    assert_eq!((net.shown(second), net.kept()), (vec![1], vec![1]));
}

#[test]
fn what_does_not_count_takes_no_name() {
    let mut net = Net::<Line>::new();
    for n in 0..9 {
        let update = wire::Update::new(Line::KIND, 5, 2, [&b"x"[..]]);
        net.say_on(&wire::live_topic(&format!("{n}")), 77, update.encode());
        net.say_on(&wire::live_topic(&format!("{n}")), 77, Live::Seed(Bytes::from_static(b"x")).encode());
    }
    net.place_all();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    net.all_have(b"a");
}

#[test]
fn who_opens_a_document_is_told_so_and_nothing_else() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    let second = net.open();
    net.place_all();
    let events = &net.ones[second].events;
    assert!(matches!(events[..], [DocumentEvent::Opened, DocumentEvent::Synced]), "{events:?}");
}

#[test]
fn what_comes_behind_a_question_is_held_up_to_a_bound() {
    let mut net = Net::<Line> { max_message: 9 << 20, ..Net::new() };
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    // The host is slow.
    let keeper = net.keeper.take();
    net.reset(first);
    net.place_all();
    let large = (vec![b'x'; 8 << 20], None);
    for number in 1..9 {
        assert!(net.said.is_empty(), "{number}");
        net.say_as(77, 5, number, &large);
        net.place_all();
    }
    assert_eq!(net.seq, 4 + 8 + 1, "it asked again");
    net.keeper = keeper;
}

#[cfg(feature = "crdt")]
mod texts {
    use super::super::super::crdt::{Text, Undo};
    use super::*;

    fn insert(net: &mut Net<Text>, index: usize, at: usize, text: &str) {
        let done = net.ones[index].replica.update(|draft| draft.insert(at, text));
        done.expect("room").expect("it fits");
        net.take_down(index);
    }

    fn all_show(net: &Net<Text>, expected: &str) {
        for one in &net.ones {
            assert_eq!(one.replica.document().to_string(), expected);
            assert!(one.replica.is_synced());
        }
        let state = net.keeper.as_ref().and_then(|keeper| keeper.state(NAME)).expect("it is kept");
        let folded = (KnownType::of::<Text>().fold)(&state).expect("it is good");
        assert_eq!(Text::restore(&folded.snapshot).expect("it is good").to_string(), expected);
    }

    #[test]
    fn items_that_name_each_other_have_no_effect_and_what_comes_behind_them_has() {
        let (mut net, first, _) = Net::<Text>::of_two();
        insert(&mut net, first, 0, "a");
        let circle = [2, 1, 2, 0, 0x84, 1, 0, 1, b'x', 1, 1, 0, 0x84, 2, 0, 1, b'y', 0];
        net.say_as(77, 5, 1, &Bytes::copy_from_slice(&circle));
        insert(&mut net, first, 1, "b");
        net.place_all();
        net.open();
        net.place_all();
        all_show(&net, "ab");
    }

    #[test]
    fn what_was_done_can_be_undone_after_a_reset() {
        let (mut net, first, second) = Net::<Text>::of_two();
        insert(&mut net, first, 0, "a");
        net.place_all();
        net.reset(first);
        net.place_all();
        insert(&mut net, second, 1, "b");
        net.place_all();
        assert!(net.ones[first].replica.document().can_undo());
        let undone = net.ones[first].replica.update(|draft| draft.undo());
        assert_eq!(undone.expect("room"), Ok(true));
        net.take_down(first);
        net.place_all();
        all_show(&net, "b");
    }
}

#[test]
fn what_a_host_that_is_slow_has_by_one_name_is_not_said_by_another_while_it_may_yet_answer() {
    for answers in [true, false] {
        let (mut net, first, second) = Net::<Line>::of_two();
        net.write(first, "a");
        net.place_all();
        net.ones[second].is_deaf = true;
        net.say_as(77, 5, 1, &(b"b".to_vec(), None));
        net.write_here(first, "x");
        net.write(first, "c");
        net.place_all();
        assert_eq!((net.ones[first].refused(), net.kept()), (1, b"abc".to_vec()));
        // The keeper says nothing; who is behind gives up before the other does, and offers what it has.
        let be_silent = |net: &mut Net<Line>, tenths: u32| {
            for _ in 0..tenths {
                while net.place() {
                    net.said.retain(|(node, _)| *node != HOST);
                }
                net.pass(Duration::from_millis(100));
                net.said.retain(|(node, _)| *node != HOST);
            }
        };
        net.miss(second);
        be_silent(&mut net, 5);
        net.miss(first);
        be_silent(&mut net, 60);
        assert!(net.ones.iter().all(|one| one.replica.is_alone()));
        // Behind that nothing is said, either.
        net.write(first, "d");
        if answers {
            net.keeper.as_mut().expect("a keeper").on_access_changed(Some(NAME));
            net.take_down_keeper();
            net.place_all();
            net.all_have(b"abcd");
        } else {
            // Nobody waits for ever.
            assert_eq!((net.ones[first].replica.unsynced(), net.shown(second)), (2, b"a".to_vec()));
            be_silent(&mut net, 400);
            assert_eq!((net.ones[first].replica.unsynced(), net.shown(second)), (0, b"acd".to_vec()));
        }
    }
}

/// A host that comes back without memory, and with a clock that is behind, has lower positions than
/// replicas and stores know.
fn goes_on_in_a_lower_epoch<D: Document>(fragments: [D::Fragment; 3], expected: &[u8]) {
    let mut net = Net::<D>::new();
    net.epoch = 9;
    let (first, mirror) = (net.open(), net.mirror());
    net.place_all();
    let [one, two, three] = fragments;
    net.update(first, vec![one]).expect("room");
    net.update(first, vec![two]).expect("room");
    net.place_all();
    let stored = net.ones[first].replica.position().expect("a place");
    net.say(HOST, Live::Stored(stored).encode());
    net.place_all();
    assert_eq!(net.ones[first].replica.stored(), Some(stored));

    net.restart(false);
    net.epoch = 2;
    net.reset(first);
    net.reset_mirror(mirror);
    net.place_all();
    let second = net.open();
    net.place_all();
    net.update(second, vec![three]).expect("room");
    net.place_all();
    net.all_have(expected);
    net.has(mirror, expected);
    // Nothing of what is ordered now is stored.
    assert!(net.ones[first].replica.position() < Some(stored));
    assert_eq!(net.ones[first].replica.stored(), None);
    let again = net.ones[first].replica.position().expect("a place");
    net.say(HOST, Live::Stored(again).encode());
    net.place_all();
    assert_eq!(net.ones[first].replica.stored(), Some(again));
}

#[test]
fn a_document_goes_on_in_a_lower_epoch() {
    goes_on_in_a_lower_epoch::<Line>([b"a", b"b", b"c"].map(|text| (text.to_vec(), None)), b"abc");
    goes_on_in_a_lower_epoch::<Set>([vec![1], vec![2], vec![3]], &[1, 2, 3]);
}

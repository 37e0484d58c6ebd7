//! What the host does not let have a place: its sender learns what it may do, and does not say it for ever.

use super::trouble::Brittle;
use super::*;

impl<D: Document> Net<D> {
    /// What was said first is refused by the host, and its sender is told.
    fn refuse(&mut self) {
        let (node, message) = self.said.pop_front().expect("something was said");
        if let Some(one) = self.ones.iter_mut().find(|one| one.node == node) {
            one.replica.on_refused(message.kind());
            self.take_down(node - 1);
        } else if let Some(at) = self.mirrors.iter().position(|mirror| mirror.node == node) {
            self.mirrors[at].keeper.on_refused(message.topic());
            self.take_down_mirror(at);
        }
    }

    /// Lets the host place what it lets have a place, with its keeper's word: of others than the host nothing but questions. How often it refused something.
    fn place_what_may_be(&mut self, most: usize) -> usize {
        let mut refused = 0;
        while let Some((node, message)) = self.said.front() {
            if *node != HOST && message.kind() == MessageKind::DocumentFragment {
                refused += 1;
                self.refuse();
                assert!(refused <= most, "for ever");
            } else {
                self.place();
            }
        }
        refused
    }
}

#[test]
fn whose_updates_are_refused_is_told_and_may_only_read_from_then_on() {
    fn run<D: Document>(own: [D::Fragment; 2], others: D::Fragment, more: D::Fragment, expected: &[u8]) {
        let (mut net, first, second) = Net::<D>::of_two();
        net.update(second, vec![others]).expect("room");
        net.place_all();
        net.access = Access::Read;
        for own in own {
            net.update(first, vec![own]).expect("it does not know yet");
        }
        net.place_what_may_be(2);
        net.all_have(expected);
        assert_eq!(net.ones[first].refused(), 2);
        let refused = net.update(first, vec![more]);
        assert!(matches!(refused, Err(UpdateError::ReadOnly { .. })), "{refused:?}");
        assert_eq!(net.ones[second].refused(), 0);
    }
    let text = |text: &[u8]| (text.to_vec(), None);
    run::<Line>([text(b"a"), text(b"b")], text(b"c"), text(b"d"), b"c");
    run::<Set>([vec![1], vec![2]], vec![3], vec![4], &[3]);
    run::<Brittle>([vec![1], vec![2]], vec![3], vec![4], &[3]);
}

#[test]
fn who_may_not_even_read_any_more_has_it_no_more() {
    let (mut net, first, _) = Net::<Line>::of_two();
    net.access = Access::Denied("not any more".into());
    net.write(first, "a");
    assert_eq!(net.place_what_may_be(1), 1);
    let failure = net.ones[first].failure();
    assert!(matches!(failure, Some(DocumentError::Refused { reason, .. }) if reason == "not any more"));
}

#[test]
fn what_was_refused_counts_after_all_where_the_keeper_says_that_it_may() {
    fn run<D: Document>(own: D::Fragment, meanwhile: D::Fragment, expected: &[u8]) {
        let (mut net, first, _) = Net::<D>::of_two();
        net.update(first, vec![own]).expect("room");
        net.refuse();
        // It goes on while it asks.
        net.update(first, vec![meanwhile]).expect("room");
        net.place_all();
        net.all_have(expected);
        assert_eq!(net.ones[first].refused(), 0);
    }
    run::<Line>((b"a".to_vec(), None), (b"b".to_vec(), None), b"ab");
    run::<Set>(vec![1], vec![2], &[1, 2]);
}

#[test]
fn where_the_host_and_its_keeper_contradict_each_other_the_document_is_of_no_use() {
    let (mut net, first, _) = Net::<Line>::of_two();
    net.write(first, "a");
    let refused = net.place_what_may_be(20);
    assert!(refused > 1, "once is no contradiction");
    assert!(matches!(net.ones[first].failure(), Some(DocumentError::Refused { .. })));
    let (mut net, first, _) = Net::<Set>::of_two();
    net.update(first, vec![vec![1]]).expect("room");
    net.place_what_may_be(20);
    assert!(matches!(net.ones[first].failure(), Some(DocumentError::Refused { .. })));
}

#[test]
fn a_question_that_is_refused_is_asked_of_the_host_again() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(second, "a");
    net.place_all();
    let keeper = net.keeper.take();
    net.reset(first);
    // The host is silent until the other one is asked, who may not give it by now.
    while !net.said.iter().any(|(_, message)| {
        matches!(Live::decode(message.payload()), Ok(Live::Ask { of: Some(of), .. }) if of == id(second + 1))
    }) {
        if !net.place() {
            net.pass(Duration::from_secs(1));
        }
    }
    assert_eq!(net.said.len(), 1);
    net.refuse();
    net.keeper = keeper;
    net.place_all();
    net.all_have(b"a");
    assert!(!net.ones[first].replica.is_alone());
}

#[test]
fn an_offer_that_is_refused_holds_nobody_up() {
    let (mut net, first, _) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    net.restart(false);
    net.access = Access::Read;
    net.reset(first);
    net.place_what_may_be(2);
    assert!(net.ones[first].replica.is_synced());
    // It thought that it might.
    let (mut net, first, _) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    net.restart(false);
    net.reset(first);
    while net.said.front().is_some_and(|(_, message)| message.kind() != MessageKind::DocumentFragment) {
        net.place();
    }
    net.access = Access::Read;
    assert_eq!(net.place_what_may_be(1), 1);
    assert!(net.ones[first].replica.is_synced());
}

#[test]
fn a_keeper_elsewhere_whose_gift_is_refused_keeps_what_the_cluster_has() {
    let (mut net, first, _) = Net::<Set>::of_two();
    let mirror = net.mirror();
    net.update(first, vec![vec![1]]).expect("room");
    net.place_all();
    // It has more than the host, which came back behind.
    net.ones.clear();
    net.restart(false);
    net.reset_mirror(mirror);
    assert_eq!(net.place_what_may_be(3), 1);
    assert!(net.mirrors[mirror].keeper.has_caught_up());
    assert_eq!(net.mirrors[mirror].keeper.documents().count(), 1, "what there was stays as it was");
    // It may again, and is told.
    net.keeper.as_mut().expect("a keeper").on_access_changed(Some(NAME));
    net.take_down_keeper();
    net.place_all();
    assert_eq!(net.kept(), [1]);
}

#[test]
fn whose_rights_change_while_it_opens_the_document_has_those_that_it_has_by_then() {
    for (before, after) in [(Access::Read, Access::Write), (Access::Write, Access::Read)] {
        let mut net = Net::<Line>::new();
        let first = net.open();
        net.place_all();
        net.write(first, "a");
        net.place_all();
        let (second, mirror) = (net.open(), net.mirror());
        net.access = before;
        // Their questions have their places, and are answered.
        while net.said.iter().any(|(_, message)| message.kind() == MessageKind::FullDocumentRequest) {
            net.place();
        }
        net.access = after.clone();
        net.keeper.as_mut().expect("a keeper").on_access_changed(Some(NAME));
        let answers = net.said.len();
        net.take_down_keeper();
        assert_eq!((answers > 0, net.said.len()), (true, answers + 1));
        // What is live is said before answers.
        net.said.rotate_right(1);
        net.place_all();
        net.all_have(b"a");
        let written = net.update(second, vec![(b"b".to_vec(), None)]);
        assert_eq!(written.is_ok(), after == Access::Write, "{written:?}");
        assert!(net.mirrors[mirror].keeper.has_caught_up());
    }
}

#[test]
fn the_host_reads_of_whom_a_question_is_asked() {
    let of = |live: &Live, kind| {
        let message = Message::new(wire::live_topic(NAME), live.encode()).expect("a topic").with_kind(kind);
        let mut batch = crate::wire::BatchBuilder::new(1);
        assert!(batch.push(&message));
        crate::wire::Batch::decode(batch.finish(), 1 << 20).expect("good").asked_of(0)
    };
    let ask = |of| Live::Ask { nonce: 1 << 62, of, anyone: true };
    assert_eq!(of(&ask(Some(id(7))), MessageKind::FullDocumentRequest), Some(id(7)));
    assert_eq!(of(&ask(None), MessageKind::FullDocumentRequest), Some(EndpointId::NIL));
    assert_eq!(of(&ask(Some(id(7))), MessageKind::DocumentFragment), None);
    let more = Live::More { nonce: 3, of: id(7), next: 8 };
    assert_eq!(of(&more, MessageKind::FullDocumentRequest), Some(EndpointId::NIL));
}

#[test]
fn what_the_application_thinks_about_for_long_is_given_as_it_was_where_the_question_stands() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    let mut keeper = net.keeper.take().expect("a keeper");
    let mut positions = 100..;
    let mut say = |keeper: &mut Keeper, from: usize, live: Live, kind| {
        let mut message =
            Message::new(wire::live_topic(NAME), live.encode()).expect("a topic").with_kind(kind);
        message.origin = id(from);
        message.position = Some(Position { epoch: 1, seq: positions.next().expect("for ever") });
        keeper.on_message(net.now, &message);
    };
    let question = |nonce| Live::Ask { nonce, of: None, anyone: false };
    let update = |number, text: &str| {
        let fragment = Line::encode(&(text.as_bytes().to_vec(), None));
        Live::Update(wire::Update::new(Line::KIND, 5, number, [&fragment[..]]))
    };
    let asks = |keeper: &mut Keeper| {
        std::iter::from_fn(|| keeper.poll_output()).find_map(|output| match output {
            keeper::Output::Ask(question) => Some(question),
            _ => None,
        })
    };
    let given = |keeper: &mut Keeper| {
        let Some(keeper::Output::Answer { payload, .. }) = keeper.poll_part() else { panic!("an answer") };
        let Ok(Answer { nonce, word: Word::Part { bytes, .. } }) = Answer::decode(&payload) else {
            panic!("a part")
        };
        (nonce, wire::State::decode(&bytes).expect("a document").tail.len())
    };
    say(&mut keeper, second, question(1), MessageKind::FullDocumentRequest);
    let asked = asks(&mut keeper).expect("it has to be found out");
    say(&mut keeper, 77, update(1, "b"), MessageKind::DocumentFragment);
    keeper.on_decided(net.now, asked.put_to(|_, _| Access::Write));
    assert_eq!(given(&mut keeper), (1, 1), "without what came behind it");
    // Who asks again is answered as it is where that stands, and nobody thinks about it once more.
    say(&mut keeper, second, question(2), MessageKind::FullDocumentRequest);
    let asked = asks(&mut keeper).expect("it has to be found out");
    say(&mut keeper, 77, update(2, "c"), MessageKind::DocumentFragment);
    say(&mut keeper, second, question(3), MessageKind::FullDocumentRequest);
    assert!(asks(&mut keeper).is_none());
    say(&mut keeper, 77, update(3, "d"), MessageKind::DocumentFragment);
    keeper.on_decided(net.now, asked.clone().put_to(|_, _| Access::Write));
    assert_eq!(given(&mut keeper), (3, 3));
    // What was said before it changed counts no more.
    say(&mut keeper, second, question(4), MessageKind::FullDocumentRequest);
    let before = asks(&mut keeper).expect("it has to be found out");
    keeper.on_access_changed(Some(NAME));
    let after = asks(&mut keeper).expect("it has to be found out again");
    keeper.on_decided(net.now, before.put_to(|_, _| Access::Write));
    assert!(keeper.poll_part().is_none());
    keeper.on_decided(net.now, after.put_to(|_, _| Access::Denied("not any more".to_owned())));
    assert!(keeper.poll_part().is_none());
    assert!(matches!(keeper.poll_output(), Some(keeper::Output::Answer { .. })));
}

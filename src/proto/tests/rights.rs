//! What a member says about a document gets a place as far as it may say it, and otherwise the member is told.

use super::*;
use crate::message::MessageKind;
use crate::proto::host::{Rights, Stamp};

const LASTS: Duration = Duration::from_secs(30);

fn stamp(generation: u64) -> Stamp {
    Stamp { guard: 7, generation }
}

/// A world in which a guard tells who may say what, and a member that takes everything.
fn guarded() -> (World, usize) {
    let mut world = World::new();
    let member = world.join(1, &[""]);
    world.input(host::Input::Guard(Some((stamp(0), LASTS))));
    (world, member)
}

impl World {
    /// The guard says of this member what it may do with the document.
    fn tell(&mut self, n: u8, name: &str, rights: Rights, generation: u64) {
        let (stamp, name) = (stamp(generation), name.to_owned());
        self.input(host::Input::Rights { stamp, id: id(n), name, rights });
    }

    fn submit_messages(&mut self, child: usize, messages: &[Message]) {
        let first = self.children[child].next_origin_seq;
        let mut batch = BatchBuilder::new(first);
        messages.iter().for_each(|message| assert!(batch.push(message)));
        self.children[child].next_origin_seq += messages.len() as u64;
        let (count, body) = (messages.len() as u16, batch.finish());
        let input = member::Input::Submit { first_origin_seq: first, count, body };
        self.children[child].machine.handle_input(self.now, input);
    }

    fn take_asked(&mut self) -> Vec<(EndpointId, String)> {
        std::mem::take(&mut self.asked_rights)
    }

    /// What became of a member's messages, as it was told: those refused, in the order of their numbers.
    fn fates(&self, child: usize) -> Vec<(u64, bool)> {
        let runs = self.children[child].ordered.iter();
        runs.flat_map(|run| (run.first_origin_seq..=run.last_origin_seq()).map(|n| (n, !run.is_refused())))
            .collect()
    }

    fn forbidden(&self) -> Vec<(EndpointId, &str, u64)> {
        let events = self.host_events.iter();
        events
            .filter_map(|event| match event {
                host::Event::Forbidden { id, document, messages } => Some((*id, &**document, *messages)),
                _ => None,
            })
            .collect()
    }
}

fn update(name: &str, text: &str) -> Message {
    Message::new(format!("doc/{name}/f"), text.to_owned()).unwrap().with_kind(MessageKind::DocumentFragment)
}

fn presence(name: &str) -> Message {
    Message::new(format!("doc/{name}/p"), "here").unwrap()
}

/// A question as documents ask it.
fn question(name: &str, of: EndpointId) -> Message {
    let payload = [&[0x10][..], &[1; 8], of.as_bytes(), &[0]].concat();
    Message::new(format!("doc/{name}/f"), payload).unwrap().with_kind(MessageKind::FullDocumentRequest)
}

#[test]
fn what_a_member_may_not_say_has_no_place_and_it_is_told_and_goes_on() {
    let (mut world, a) = guarded();
    world.tell(1, "mine", Rights::Write, 0);
    world.tell(1, "theirs", Rights::Read, 0);
    world.tell(1, "secret", Rights::Nothing, 0);
    let messages = [
        update("mine", "1"),
        update("theirs", "2"),
        update("theirs", "3"),
        presence("theirs"),
        presence("secret"),
        question("secret", EndpointId::NIL),
        Message::new("news", "7").unwrap(),
        Message::new("doc//f", "8").unwrap(),
        Message::new("doc/secret/other", "9").unwrap(),
        update("mine", "10"),
    ];
    world.submit_messages(a, &messages);
    world.run();
    let placed = [true, false, false, true, false, true, true, false, false, true];
    assert_eq!(world.fates(a), (1..).zip(placed).collect::<Vec<_>>());
    assert_eq!(world.host.counters().refused, 5);
    assert_eq!(world.host.counters().ordered, 5);
    assert_eq!(world.children[a].delivered.len(), 5);
    assert_eq!(world.children[a].unknown, [0; 0]);
    assert_eq!(world.children[a].machine.usage().outbox_batches, 0);
    assert_eq!(world.forbidden(), [(id(1), "theirs", 5)]);
    assert_eq!(world.take_asked(), []);
    // At most once a second.
    world.submit_messages(a, &[update("secret", "11")]);
    world.run();
    assert_eq!(world.forbidden().len(), 1);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.forbidden()[1..], [(id(1), "secret", 1)], "whether or not there is more");
    world.submit_messages(a, &[update("theirs", "12")]);
    world.run();
    assert_eq!(world.forbidden().len(), 2);
    assert!(matches!(world.children[a].ordered.last(), Some(run) if run.is_refused()));
}

#[test]
fn what_is_not_known_is_asked_for_once_and_what_waits_for_it_comes_again_in_its_order() {
    let (mut world, a) = guarded();
    let b = world.join(2, &[""]);
    let news = |text: &str| Message::new("news", text.to_owned()).unwrap();
    world.submit_messages(a, &[news("1"), update("it", "2"), news("3")]);
    world.submit_messages(a, &[update("it", "4")]);
    world.submit_messages(a, &[news("5")]);
    world.submit_messages(b, &[news("of another")]);
    world.run();
    assert_eq!(world.texts(b), ["1", "of another"], "nobody else waits");
    assert_eq!(world.take_asked(), [(id(1), "it".to_owned())]);
    assert_eq!(world.host.counters().resends_asked, 0);
    world.tell(1, "it", Rights::Write, 0);
    world.run();
    assert_eq!(world.texts(b), ["1", "of another", "2", "3", "4", "5"]);
    assert_eq!(world.children[a].unknown, [0; 0]);
    assert_eq!(world.host.counters().refused, 0);
}

#[test]
fn an_answer_counts_for_a_while_and_a_new_one_is_asked_for_in_good_time() {
    let (mut world, a) = guarded();
    world.tell(1, "it", Rights::Write, 0);
    let say = |world: &mut World, text: &str| {
        world.submit_messages(a, &[update("it", text)]);
        world.run();
        world.host.counters().ordered
    };
    assert_eq!(say(&mut world, "1"), 1);
    assert_eq!(world.take_asked(), []);
    world.run_for(LASTS / 2);
    assert_eq!(say(&mut world, "2"), 2, "it counts still");
    assert_eq!(say(&mut world, "3"), 3);
    assert_eq!(world.take_asked(), [(id(1), "it".to_owned())]);
    world.tell(1, "it", Rights::Read, 0);
    assert_eq!(say(&mut world, "4"), 3);
    assert_eq!(world.host.counters().refused, 1);
    world.run_for(LASTS);
    assert_eq!(say(&mut world, "5"), 3, "nothing goes by what is older");
    assert_eq!(world.host.counters().refused, 1);
    assert_eq!(world.take_asked(), [(id(1), "it".to_owned())]);
    world.tell(1, "it", Rights::Write, 0);
    world.run();
    assert_eq!(world.host.counters().ordered, 4);
}

#[test]
fn what_was_told_before_something_changed_counts_no_more() {
    let (mut world, a) = guarded();
    for name in ["it", "other"] {
        world.tell(1, name, Rights::Write, 0);
    }
    world.submit_messages(a, &[update("new", "waits")]);
    world.run();
    assert_eq!(world.take_asked(), [(id(1), "new".to_owned())]);
    world.input(host::Input::ForgetRights { stamp: stamp(1), name: Some("it".to_owned()) });
    // What waited is asked for once more: an answer that is under way may be from before.
    world.run();
    assert_eq!(world.take_asked(), [(id(1), "new".to_owned())]);
    world.tell(1, "new", Rights::Write, 0);
    world.run();
    assert_eq!(world.host.counters().ordered, 0);
    world.tell(1, "new", Rights::Read, 1);
    world.run();
    assert_eq!((world.host.counters().ordered, world.host.counters().refused), (0, 1));
    world.submit_messages(a, &[update("other", "as before")]);
    world.submit_messages(a, &[update("it", "who knows")]);
    world.run();
    assert_eq!(world.host.counters().ordered, 1);
    assert_eq!(world.take_asked(), [(id(1), "it".to_owned())]);
    // Another guard knows nothing of what this one said; without any, all may be said.
    world.input(host::Input::Guard(None));
    world.run();
    assert_eq!(world.host.counters().ordered, 2);
}

#[test]
fn who_is_left_without_a_guard_goes_by_what_was_told_while_that_lasts() {
    let (mut world, a) = guarded();
    world.tell(1, "it", Rights::Write, 0);
    world.submit_messages(a, &[update("it", "1"), update("new", "2")]);
    world.run();
    world.input(host::Input::Deaf { guard: 7 });
    world.run();
    assert_eq!(world.fates(a), [(1, true), (2, false)]);
    world.submit_messages(a, &[update("it", "3")]);
    world.run();
    assert_eq!(world.host.counters().ordered, 2);
    world.run_for(LASTS * 2);
    world.submit_messages(a, &[update("it", "4")]);
    world.run();
    assert_eq!(world.host.counters().ordered, 2);
}

#[test]
fn who_may_not_change_a_document_gives_it_to_nobody() {
    let (mut world, a) = guarded();
    let _ = world.join(2, &[""]);
    let ask = |world: &mut World, of| {
        let before = world.host.counters().ordered;
        world.submit_messages(a, &[question("it", of)]);
        world.run();
        world.host.counters().ordered > before
    };
    assert!(ask(&mut world, EndpointId::NIL));
    assert!(ask(&mut world, id(100)), "the host");
    assert!(!ask(&mut world, id(9)), "it could come, and answer");
    assert!(!ask(&mut world, id(2)), "who knows");
    assert_eq!(world.take_asked(), [(id(2), "it".to_owned())]);
    world.tell(2, "it", Rights::Read, 0);
    assert!(!ask(&mut world, id(2)));
    world.tell(2, "it", Rights::Write, 0);
    assert!(ask(&mut world, id(2)));
}

#[test]
fn what_is_known_of_members_is_bounded() {
    let (mut world, a) = guarded();
    // One that speaks of ever new documents, and a guard that answers.
    for round in 0..40 {
        let messages: Vec<Message> = (0..40).map(|n| update(&format!("{round}-{n}"), "x")).collect();
        world.submit_messages(a, &messages);
        world.run();
        for (_, name) in world.take_asked() {
            world.tell(1, &name, Rights::Nothing, 0);
        }
        world.run();
    }
    assert_eq!(world.host.counters().refused, 1_600);
    assert_eq!(world.host.rights_known(), 1_024);
    // More than may be asked at once, in one batch: what is known goes on.
    let messages: Vec<Message> = (0..200).map(|n| update(&format!("at once {n}"), "x")).collect();
    world.submit_messages(a, &messages);
    let mut most = 0;
    loop {
        world.run();
        let asked = world.take_asked();
        if asked.is_empty() {
            break;
        }
        most = most.max(asked.len());
        asked.into_iter().for_each(|(_, name)| world.tell(1, &name, Rights::Write, 0));
    }
    assert_eq!((most, world.host.counters().ordered), (64, 200));
    world.cut(a);
    world.run();
    assert_eq!(world.host.rights_known(), 0);
}

#[test]
fn a_refusal_that_was_not_heard_is_told_in_the_next_session() {
    let (mut world, a) = guarded();
    world.tell(1, "it", Rights::Nothing, 0);
    world.submit_messages(a, &[update("it", "1")]);
    world.collect();
    let Some(Packet::ToHost(submit)) = world.packets.pop_front() else { panic!("a batch") };
    world.input(submit);
    // The word of it is lost with the connection.
    while world.host.poll_output().is_some() {}
    world.packets.clear();
    world.cut(a);
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.fates(a), [(1, false)]);
    assert_eq!(world.children[a].unknown, [0; 0]);
    assert_eq!(world.host.counters().refused, 1);
}

#[test]
fn what_was_refused_is_not_ordered_by_the_next_host_with_the_rest_of_its_batch() {
    let (mut world, a) = guarded();
    world.tell(1, "closed", Rights::Nothing, 0);
    world.submit_messages(a, &[update("closed", "1"), update("unknown", "2")]);
    world.run();
    assert_eq!(world.take_asked(), [(id(1), "unknown".to_owned())]);
    assert_eq!(world.fates(a), [(1, false)]);
    // One without memory, in which nobody says who may do what.
    world.host = Host::new(host::Config { incarnation: 78, epoch: 2000, ..host_config() }, world.now);
    world.cut(a);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.fates(a), [(1, false), (2, true)]);
    assert_eq!(world.host.counters().ordered, 1);
}

#[test]
fn what_others_ask_of_a_member_does_not_keep_it_waiting() {
    let (mut world, a) = guarded();
    let b = world.join(2, &[""]);
    world.tell(1, "known", Rights::Write, 0);
    // Somebody asks it, again and again, for documents that nobody ever heard of; and nothing of that is ever answered.
    let mut asked = 0;
    let mut bother = |world: &mut World, round: u32| {
        let questions: Vec<Message> = (0..800).map(|n| question(&format!("{round}-{n}"), id(1))).collect();
        world.submit_messages(b, &questions);
        world.run();
        asked += world.take_asked().iter().filter(|(_, name)| name.starts_with(char::is_numeric)).count();
    };
    bother(&mut world, 0);
    world.submit_messages(a, &[update("it", "1")]);
    world.run();
    assert_eq!(world.take_asked(), [(id(1), "it".to_owned())]);
    bother(&mut world, 1);
    world.tell(1, "it", Rights::Write, 0);
    world.run();
    bother(&mut world, 2);
    world.submit_messages(a, &[update("known", "2"), update("it", "3")]);
    world.run();
    assert_eq!(world.fates(a), [(1, true), (2, true), (3, true)]);
    assert_eq!((world.host.rights_known(), asked), (2, 16));
    // What it says itself about one of these is its own, and waits for an answer.
    world.submit_messages(a, &[update("0-3", "4")]);
    world.run();
    assert_eq!(world.fates(a).len(), 3);
    world.tell(1, "0-3", Rights::Nothing, 0);
    world.run();
    assert_eq!(world.fates(a)[3..], [(4, false)]);
}

#[test]
fn every_fate_of_what_was_under_way_is_told_after_a_loss_however_often_they_change() {
    let mut world = World::new();
    let mut config = member_config(1, &["nothing"]);
    config.outbox = member::Limit { batches: 800, bytes: 1 << 30 };
    let a = world.add(config);
    let b = world.join(2, &["nothing"]);
    world.input(host::Input::Guard(Some((stamp(0), LASTS))));
    world.tell(1, "mine", Rights::Write, 0);
    world.tell(1, "theirs", Rights::Read, 0);
    let messages: Vec<Message> =
        (0..8).map(|n| update(if n % 2 == 0 { "mine" } else { "theirs" }, "x")).collect();
    for _ in 0..800 {
        world.submit_messages(a, &messages);
    }
    world.collect();
    let head = SubmitHead { session: world.children[b].attached.unwrap() }.encode();
    for (input, n) in std::mem::take(&mut world.packets).into_iter().zip(1..) {
        let Packet::ToHost(input) = input else { panic!("a batch") };
        world.host.handle_input(world.now, input);
        // Another's come in between.
        let mut batch = BatchBuilder::new(n);
        assert!(batch.push(&Message::new("news", "x").unwrap()));
        let frames = vec![head.clone(), batch.finish()];
        world.host.handle_input(world.now, host::Input::Submit { frames });
    }
    world.host.handle_input(world.now, host::Input::Flush);
    // The word of all is lost with the connection.
    while world.host.poll_output().is_some() {}
    world.cut(a);
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.children[a].unknown, [0; 0]);
    assert_eq!(world.fates(a), (1..=6_400).map(|n| (n, n % 2 == 1)).collect::<Vec<_>>());
    assert_eq!(world.host.counters().refused, 3_200);
}

#[test]
fn of_all_that_is_refused_the_application_is_told_before_it_is_told_that_the_member_is_gone() {
    let (mut world, a) = guarded();
    let b = world.join(2, &[""]);
    for n in [1, 2] {
        world.tell(n, "it", Rights::Nothing, 0);
        world.tell(n, "other", Rights::Nothing, 0);
    }
    let told = |world: &World, n| -> u64 {
        let mut of = world.forbidden();
        of.retain(|(who, ..)| *who == id(n));
        of.iter().map(|(.., messages)| messages).sum()
    };
    let say = |world: &mut World, child| {
        for name in ["it", "other"] {
            world.submit_messages(child, &[update(name, "x"), update(name, "y")]);
            world.run();
        }
    };
    // One that leaves, one that is replaced, and comes again.
    say(&mut world, a);
    assert_eq!(told(&world, 1), 2);
    world.children[a].machine.handle_input(world.now, member::Input::Leave);
    world.run();
    assert_eq!(told(&world, 1), 4);
    let last = &world.host_events[world.host_events.len() - 2..];
    assert!(
        matches!(last, [host::Event::Forbidden { document, .. }, host::Event::Left { .. }] if document == "other")
    );
    say(&mut world, b);
    let reason = "lost".to_owned();
    world.children[b].machine.handle_input(world.now, member::Input::Lost { reason });
    world.run_for(Duration::from_secs(3));
    assert!(world.children[b].machine.can_submit());
    assert_eq!(world.left().last(), Some(&(id(2), LeaveReason::Closed(CloseReason::Replaced))));
    assert_eq!(told(&world, 2), 4);
    // One that is there when the host ends.
    for name in ["it", "other"] {
        world.tell(2, name, Rights::Nothing, 0);
    }
    say(&mut world, b);
    assert_eq!((told(&world, 2), world.host.counters().refused), (6, 12));
    world.host.handle_end(world.now);
    world.collect();
    assert_eq!(told(&world, 1) + told(&world, 2), world.host.counters().refused);
}

/// Messages about documents that nobody has heard of.
fn about(prefix: &str, count: usize) -> Vec<Message> {
    (0..count).map(|n| update(&format!("{prefix} {n}"), "x")).collect()
}

#[test]
fn a_member_that_comes_again_and_again_has_no_more_asked_than_one_that_stays() {
    let (mut world, a) = guarded();
    world.submit_messages(a, &about("first", 200));
    world.run();
    let mut asked = world.take_asked();
    assert_eq!(asked.len(), 64);
    for _ in 0..5 {
        world.cut(a);
        world.run_for(Duration::from_secs(3));
        assert!(world.children[a].machine.can_submit());
        world.run();
        assert_eq!(world.take_asked(), []);
    }
    // What is answered while it is away is outstanding no more, and it goes on when all is answered that was asked before.
    world.cut(a);
    world.run();
    asked.drain(..32).for_each(|(_, name)| world.tell(1, &name, Rights::Write, 0));
    world.run_for(Duration::from_secs(3));
    let mut again = world.take_asked();
    assert_eq!(again.len(), 32);
    asked.append(&mut again);
    loop {
        asked.drain(..).for_each(|(_, name)| world.tell(1, &name, Rights::Write, 0));
        world.run();
        asked = world.take_asked();
        if asked.is_empty() {
            break;
        }
        assert!(asked.len() <= 64);
    }
    assert_eq!(world.host.counters().ordered, 200);
    assert_eq!(world.children[a].unknown, [0; 0]);
    // Another is asked about as before, whatever that one has left behind.
    world.submit_messages(a, &about("second", 200));
    world.run();
    world.cut(a);
    world.run();
    assert_eq!(world.take_asked().len(), 64);
    let b = world.join(2, &[""]);
    world.submit_messages(b, &about("third", 200));
    world.run();
    assert_eq!(world.take_asked().iter().filter(|(who, _)| *who == id(2)).count(), 64);
    // Another guard has nothing to do with what was asked of this one.
    world.input(host::Input::Guard(Some((Stamp { guard: 8, generation: 0 }, LASTS))));
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.take_asked().len(), 2 * 64);
}

#[test]
fn what_others_ask_of_a_member_is_asked_no_more_often_when_it_comes_again() {
    let (mut world, a) = guarded();
    let b = world.join(2, &[""]);
    let mut asked = Vec::new();
    for round in 0..5 {
        let questions: Vec<Message> = (0..40).map(|n| question(&format!("{round}-{n}"), id(1))).collect();
        world.submit_messages(b, &questions);
        world.run();
        asked.append(&mut world.take_asked());
        world.cut(a);
        world.run_for(Duration::from_secs(3));
    }
    assert_eq!(asked.len(), 16);
    // Nor by two who work together: what it says itself about these is asked already, and counts as its own as far as there is room.
    let say = |world: &mut World, names: &[(EndpointId, String)]| {
        let mut batch = BatchBuilder::new(1);
        names.iter().for_each(|(_, name)| assert!(batch.push(&update(name, "x"))));
        let head = SubmitHead { session: world.children[a].attached.unwrap() }.encode();
        world.input(host::Input::Submit { frames: vec![head, batch.finish()] });
        world.run();
    };
    for round in 0..10 {
        say(&mut world, &asked);
        let questions: Vec<Message> =
            (0..16).map(|n| question(&format!("more {round}-{n}"), id(1))).collect();
        world.submit_messages(b, &questions);
        world.run();
        asked.append(&mut world.take_asked());
    }
    assert_eq!(asked.len(), 64 + 16);
    let names = asked.clone();
    asked.into_iter().for_each(|(_, name)| world.tell(1, &name, Rights::Write, 0));
    let before = world.host.counters().ordered;
    say(&mut world, &names);
    assert_eq!(world.host.counters().ordered - before, 80);
}

#[test]
fn what_changes_again_and_again_does_not_have_more_asked_at_once() {
    let (mut world, a) = guarded();
    world.submit_messages(a, &about("some", 40));
    world.run();
    let mut asked = vec![(0, world.take_asked())];
    for generation in 1..10 {
        world.input(host::Input::ForgetRights { stamp: stamp(generation), name: None });
        world.run();
        asked.push((generation, world.take_asked()));
    }
    assert_eq!(
        asked.iter().map(|(_, asked)| asked.len()).collect::<Vec<_>>(),
        [40, 24, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    // Answers from before count no more, but who gave them can be asked again.
    for (generation, asked) in asked {
        asked.into_iter().for_each(|(_, name)| world.tell(1, &name, Rights::Write, generation));
    }
    world.run();
    assert_eq!(world.host.counters().ordered, 0);
    let asked = world.take_asked();
    assert_eq!(asked.len(), 40);
    asked.into_iter().for_each(|(_, name)| world.tell(1, &name, Rights::Write, 9));
    world.run();
    assert_eq!(world.host.counters().ordered, 40);
}

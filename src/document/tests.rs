//! The machines of documents without IO: replicas, a keeper and one order, in which a test places what was said when it likes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::keeper::{self, Keeper, KnownType};
use super::replica::{self, Output, Replica};
use super::store::{MemoryStore, Store, StoreChange, Stored};
use super::wire::{self, Answer, Live, Word};
use super::{
    Access, Conflict, Document, DocumentError, DocumentEvent, Malformed, Merged, Model, UpdateError,
};
use crate::id::EndpointId;
use crate::message::{Message, MessageKind, Position};
use crate::proto::Instant;

mod keeping;
mod mirrors;
mod net;
mod refusals;
mod resets;
mod trouble;
mod types;

use net::{HOST, Mirror, Net, One, id, keeper, keeper_config, limited_keeper, perform};
pub(super) use types::Set;
use types::{Line, Part};

const NAME: &str = "it";

#[test]
fn who_opens_it_amid_traffic_has_all_of_it_once() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    let second = net.open();
    net.write(first, "b");
    assert!(net.place(), "the question");
    net.write(first, "c");
    // Its answer is said behind "b", and "c" behind that.
    net.place_all();
    net.write(second, "d");
    net.place_all();
    net.all_have(b"abcd");
    assert!(net.ones[second].events.iter().any(|event| matches!(event, DocumentEvent::Opened)));
}

#[test]
fn a_large_document_comes_in_parts_and_no_more_than_were_asked_for() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    let mut expected = Vec::new();
    for n in 0..700_u32 {
        let text = vec![n as u8; 1_000 - 1];
        expected.extend_from_slice(&text);
        net.update(first, vec![(text, None)]).expect("room");
        net.place_all();
    }
    let second = net.open();
    assert!(net.place(), "the question");
    let is_part = |message: &Message| {
        matches!(Answer::decode(message.payload()), Ok(Answer { word: Word::Part { .. }, .. }))
    };
    let mut most = 0;
    loop {
        let parts = net.said.iter().filter(|(node, message)| *node == HOST && is_part(message)).count();
        most = most.max(parts);
        if !net.place() {
            break;
        }
    }
    assert!((9..=16).contains(&most), "{most} at once");
    assert!(net.ones[second].replica.is_synced());
    assert_eq!(net.shown(second), expected);
}

#[test]
fn who_may_only_read_does() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    net.access = Access::Read;
    let second = net.open();
    net.place_all();
    assert_eq!(net.shown(second), b"a");
    let refused = net.update(second, vec![(b"b".to_vec(), None)]);
    assert!(matches!(refused, Err(UpdateError::ReadOnly { .. })), "{refused:?}");
    net.access = Access::Denied("not you".into());
    let third = net.open();
    net.place_all();
    let failure = net.ones[third].failure();
    assert!(
        matches!(failure, Some(DocumentError::Refused { reason, .. }) if reason == "not you"),
        "{failure:?}"
    );
}

#[test]
fn who_is_told_to_wait_asks_again() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    for n in 0..500 {
        let text = vec![n as u8; 999];
        net.update(first, vec![(text, None)]).expect("room");
        net.place_all();
    }
    // So many that ask, and never go on.
    for node in 1_000..1_256 {
        let question = Live::Ask { nonce: 1, of: None, anyone: false };
        let message = Message::new(wire::live_topic(NAME), question.encode()).expect("a topic");
        net.said.push_back((node, message));
    }
    net.place_all();
    // Who has it, too, would help out.
    net.ones[first].is_deaf = true;
    let second = net.open();
    net.place_all();
    for _ in 0..6 {
        net.pass(Duration::from_secs(1));
        net.place_all();
        assert_eq!(net.ones[second].failure(), None);
        assert!(!net.ones[second].replica.has_begun());
    }
    net.pass(Duration::from_secs(10));
    net.place_all();
    assert!(net.ones[second].replica.is_synced());
}

#[test]
fn a_document_of_another_type_is_not_taken_for_this_one() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    net.place_all();
    let mut sets = Net::<Set> { keeper: net.keeper.take(), ..Net::new() };
    (sets.epoch, sets.seq) = (net.epoch, net.seq);
    let one = sets.open();
    sets.place_all();
    let failure = sets.ones[one].failure();
    assert!(matches!(failure, Some(DocumentError::Kind { found, .. }) if found == Line::KIND), "{failure:?}");
}

#[test]
fn a_type_that_panics_ends_its_own_document_alone() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.ones[second].is_deaf = true;
    net.say_as(55, 5, 1, &(b"panic".to_vec(), None));
    net.place_all();
    assert!(matches!(net.ones[first].failure(), Some(DocumentError::Panicked { .. })));
    assert_eq!(net.ones[second].failure(), None);
    let refused = net.update(first, vec![(b"b".to_vec(), None)]);
    assert!(matches!(refused, Err(UpdateError::Document(DocumentError::Panicked { .. }))), "{refused:?}");
}

#[test]
fn an_update_that_is_too_large_leaves_an_ordered_document_as_it_was() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    net.place_all();
    net.write(first, "a");
    let refused = net.update(first, vec![(vec![b'x'; 2_000], None)]);
    assert!(matches!(refused, Err(UpdateError::TooLarge { .. })), "{refused:?}");
    assert_eq!(net.shown(first), b"a");
    net.place_all();
    net.all_have(b"a");

    let mut net = Net::<Set>::new();
    let first = net.open();
    net.place_all();
    let refused = net.update(first, vec![vec![1; 2_000]]);
    assert!(matches!(refused, Err(UpdateError::TooLarge { .. })), "{refused:?}");
    assert!(matches!(net.ones[first].failure(), Some(DocumentError::TooLarge { .. })));
}

#[test]
fn what_came_first_counts_and_who_was_too_late_is_told() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write_here(first, "a");
    net.write_here(second, "b");
    net.write(second, "c");
    assert_eq!(net.shown(second), b"bc");
    net.place_all();
    net.all_have(b"ac");
    assert_eq!((net.ones[first].refused(), net.ones[second].refused()), (0, 1));
}

#[test]
fn who_was_not_there_when_it_was_too_late_is_told_all_the_same() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write_here(first, "a");
    net.write_here(second, "b");
    net.ones[second].is_deaf = true;
    net.place_all();
    assert_eq!(net.ones[second].refused(), 0);
    net.reset(second);
    net.place_all();
    net.all_have(b"a");
    assert_eq!(net.ones[second].refused(), 1);
}

#[test]
fn a_host_that_lost_it_gets_it_back_from_the_first_and_from_the_others_what_they_did() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.write(second, "b");
    net.place_all();
    // The first does not see the last.
    net.ones[first].is_deaf = true;
    net.write(second, "c");
    net.place_all();
    net.restart(false);
    net.reset(first);
    net.reset(second);
    net.place_all();
    net.all_have(b"abc");
    // Again, after all have asked once more: what was had by then is still remembered.
    net.reset(second);
    net.place_all();
    net.restart(false);
    net.reset(first);
    net.reset(second);
    net.place_all();
    net.all_have(b"abc");
}

#[test]
fn a_host_whose_store_is_behind_gets_what_it_lacks() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.write(second, "b");
    net.place_all();
    let stored = net.store.load(NAME).expect("a store");
    net.write(first, "c");
    net.place_all();
    net.restart(false);
    let mut behind = keeper(true, true);
    behind.load(NAME.into(), stored.expect("it is stored")).expect("what it stored itself");
    net.keeper = Some(behind);
    net.reset(first);
    net.reset(second);
    net.place_all();
    net.all_have(b"abc");
    net.restart(false);
    net.reset(second);
    net.reset(first);
    net.place_all();
    net.all_have(b"abc");
}

#[test]
fn what_was_refused_once_is_not_tried_again_for_a_host_that_forgot_it() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    let stored = net.store.load(NAME).expect("a store");
    net.write_here(first, "b");
    net.write_here(second, "c");
    net.write(second, "d");
    net.place_all();
    net.all_have(b"abd");
    assert_eq!(net.ones[second].refused(), 1);
    net.restart(false);
    let mut behind = keeper(true, true);
    behind.load(NAME.into(), stored.expect("it is stored")).expect("what it stored itself");
    net.keeper = Some(behind);
    // Its author comes first, and "c" would fit now.
    let before = net.ones[second].replica.id();
    net.reset(second);
    net.place_all();
    assert_ne!(net.ones[second].replica.id(), before, "its numbers have a hole");
    net.reset(first);
    net.place_all();
    net.write(second, "e");
    net.place_all();
    // "b" was made for a place that is taken.
    net.all_have(b"ade");
    assert_eq!((net.ones[first].refused(), net.ones[second].refused()), (1, 1));
}

#[test]
fn what_came_back_under_another_name_counts_once_where_the_first_one_is_kept() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    let stored = |net: &mut Net<Line>| net.store.load(NAME).expect("a store").expect("it is stored");
    let early = stored(&mut net);
    net.write_here(first, "b");
    net.write_here(second, "c");
    net.write(second, "d");
    net.place_all();
    net.all_have(b"abd");
    let late = stored(&mut net);
    let come_back_with = |net: &mut Net<Line>, stored| {
        net.restart(false);
        let mut behind = keeper(true, true);
        behind.load(NAME.into(), stored).expect("what it stored itself");
        net.keeper = Some(behind);
        for index in [second, first] {
            net.reset(index);
            net.place_all();
        }
    };
    // "c" was refused, and "d" comes back without it.
    let before = net.ones[second].replica.id();
    come_back_with(&mut net, early);
    net.all_have(b"ad");
    assert_ne!(net.ones[second].replica.id(), before, "its numbers have a hole");
    come_back_with(&mut net, late);
    net.all_have(b"abd");
}

#[test]
fn what_is_remembered_no_more_is_no_hole_that_others_fall_into() {
    let mut net = Net::<Line> { recent: 1, ..Net::new() };
    let (first, second) = (net.open(), net.open());
    net.place_all();
    net.write(first, "a");
    net.place_all();
    let stored = net.store.load(NAME).expect("a store");
    for text in ["b", "c", "d"] {
        net.write(first, text);
        net.place_all();
    }
    net.restart(false);
    let mut behind = keeper(true, true);
    behind.load(NAME.into(), stored.expect("it is stored")).expect("what it stored itself");
    net.keeper = Some(behind);
    net.reset(first);
    net.reset(second);
    net.place_all();
    net.write(first, "e");
    net.place_all();
    net.all_have(b"ade");
}

#[test]
fn a_set_comes_together_whatever_was_lost() {
    let (mut net, first, second) = Net::<Set>::of_two();
    net.update(first, vec![vec![1]]).expect("room");
    net.update(second, vec![vec![2]]).expect("room");
    net.place_all();
    net.restart(false);
    net.update(first, vec![vec![3]]).expect("room");
    net.reset(first);
    net.reset(second);
    net.place_all();
    net.all_have(&[1, 2, 3]);
}

#[test]
fn who_goes_on_without_an_answer_asks_again_when_one_comes() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write(first, "a");
    net.place_all();
    net.ones[second].is_deaf = true;
    net.write(first, "b");
    net.place_all();
    // The host gives its answers to the second one places much later.
    net.ones[first].is_deaf = true;
    let mut held = VecDeque::new();
    net.reset(second);
    for _ in 0..6 {
        while !net.said.is_empty() {
            let (late, rest) = std::mem::take(&mut net.said).into_iter().partition(|(node, _)| *node == HOST);
            held.extend::<VecDeque<_>>(late);
            net.said = rest;
            net.place();
        }
        net.pass(Duration::from_secs(1));
    }
    assert_eq!(net.shown(second), b"a", "it went on with what it had");
    assert!(net.ones[second].replica.state().is_none());
    net.said.extend(held);
    net.place_all();
    assert_eq!(net.shown(second), b"ab");
    net.reset(first);
    net.place_all();
    net.all_have(b"ab");
}

#[test]
fn what_nobody_knows_the_fate_of_is_sent_again_and_a_question_asked_again() {
    let mut net = Net::<Line>::new();
    let first = net.open();
    // The question is lost.
    net.said.clear();
    net.ones[first].replica.on_unknown();
    net.take_down(first);
    net.place_all();
    net.write(first, "a");
    net.write(first, "b");
    // One of the two is lost, and the other does not count without it.
    net.said.pop_front();
    net.place();
    assert_eq!(net.ones[first].replica.unsynced(), 2);
    net.ones[first].replica.on_unknown();
    net.take_down(first);
    net.place_all();
    net.all_have(b"ab");
    // A whole document, offered to a host that forgot, is lost: it is asked for anew.
    net.restart(false);
    net.reset(first);
    while net.said.iter().all(|(_, message)| !matches!(Live::decode(message.payload()), Ok(Live::Seed(_)))) {
        assert!(net.place());
    }
    net.said.clear();
    net.ones[first].replica.on_unknown();
    net.take_down(first);
    net.place_all();
    net.all_have(b"ab");
}

#[test]
fn nobody_there_is_another_thing_than_nothing_there() {
    let mut net = Net::<Line> { keeper: None, ..Net::new() };
    let first = net.open();
    net.place_all();
    for _ in 0..5 {
        net.pass(Duration::from_secs(1));
        net.place_all();
    }
    assert!(matches!(net.ones[first].failure(), Some(DocumentError::Unavailable { .. })));
}

#[test]
fn without_a_keeper_who_has_it_gives_it() {
    let mut net = Net::<Line> { keeper: None, ..Net::new() };
    let config = replica::Config { create: true, ..net.config(1) };
    net.ones.push(One { node: 1, replica: Replica::new(config), events: Vec::new(), is_deaf: false });
    net.take_down(0);
    net.place_all();
    for _ in 0..5 {
        net.pass(Duration::from_secs(1));
        net.place_all();
    }
    net.write(0, "a");
    net.place_all();
    let second = net.open();
    net.place_all();
    for _ in 0..3 {
        net.pass(Duration::from_secs(1));
        net.place_all();
    }
    assert_eq!(net.shown(second), b"a");
    assert!(net.ones.iter().all(|one| one.replica.is_synced()));
}

#[test]
fn a_state_says_what_was_refused() {
    let (mut net, first, second) = Net::<Line>::of_two();
    net.write_here(first, "a");
    net.write_here(second, "b");
    net.place_all();
    let state = net.ones[first].replica.state().expect("in sync");
    let again = wire::State::decode(&state.encode()).expect("a state");
    assert_eq!(again, state);
    assert!(again.numbers.was_refused(id(second + 1), net.ones[second].replica.id(), 1));
    assert!(!again.numbers.was_refused(id(first + 1), net.ones[first].replica.id(), 1));
}

/// A net of messages that are too short for the documents.
fn short<D: Document>() -> Net<D> {
    let max_message = 120;
    Net { max_message, keeper: Some(limited_keeper((64 << 20, max_message), true, true)), ..Net::new() }
}

#[test]
fn a_document_larger_than_a_message_comes_back_to_a_host_that_lost_it() {
    let mut net = short::<Line>();
    let (first, second) = (net.open(), net.open());
    net.place_all();
    let expected: Vec<u8> = (0..200).map(|n| b'a' + n % 26).collect();
    for text in expected.chunks(50) {
        net.update(first, vec![(text.to_vec(), None)]).expect("room");
        net.place_all();
    }
    net.restart(false);
    net.reset(first);
    net.reset(second);
    // The questions and their answers, and a first piece of the first's.
    let is_piece = |message: &Message| matches!(Live::decode(message.payload()), Ok(Live::Piece(_)));
    while !net.said.front().is_some_and(|(_, message)| is_piece(message)) {
        assert!(net.place());
    }
    net.place();
    // Who asks now does not have all pieces.
    let third = net.open();
    net.said.rotate_right(1);
    net.place_all();
    for _ in 0..6 {
        net.pass(Duration::from_secs(1));
        net.place_all();
    }
    net.all_have(&expected);
    net.write(third, "!");
    net.place_all();
    net.all_have(&[&expected[..], b"!"].concat());
}

#[test]
fn what_a_host_lacks_may_be_larger_than_a_message() {
    let mut net = short::<Set>();
    let (first, second) = (net.open(), net.open());
    net.place_all();
    let expected: Vec<u8> = (0..=255).collect();
    for bytes in expected.chunks(30) {
        net.update(first, vec![bytes.to_vec()]).expect("room");
        net.place_all();
    }
    net.restart(false);
    net.reset(first);
    net.reset(second);
    net.place_all();
    net.all_have(&expected);
}

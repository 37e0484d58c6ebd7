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

mod mirrors;
mod trouble;
mod types;

pub(super) use types::Set;
use types::{Line, Part};

const NAME: &str = "it";

fn id(n: usize) -> EndpointId {
    let mut bytes = [n as u8; 16];
    bytes[0] = (n >> 8) as u8;
    EndpointId::from_bytes(bytes)
}

const HOST: usize = 99;

/// One on a node, and what its application was told.
struct One<D: Document> {
    node: usize,
    replica: Replica<D>,
    events: Vec<DocumentEvent<D>>,
    /// Whether it is cut off: it hears nothing.
    is_deaf: bool,
}

impl<D: Document> One<D> {
    fn failure(&self) -> Option<&DocumentError> {
        self.replica.failure()
    }

    fn refused(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, DocumentEvent::Refused { .. })).count()
    }
}

/// A keeper on a node that is not the host, and its store.
struct Mirror {
    node: usize,
    keeper: Keeper,
    store: MemoryStore,
    /// Whether it is cut off: it hears nothing.
    is_deaf: bool,
}

/// A host with or without a keeper, replicas, and keepers elsewhere.
struct Net<D: Document> {
    now: Instant,
    epoch: u64,
    seq: u64,
    keeper: Option<Keeper>,
    store: MemoryStore,
    access: Access,
    ones: Vec<One<D>>,
    mirrors: Vec<Mirror>,
    /// What was said and has no place yet.
    said: VecDeque<(usize, Message)>,
    recent: usize,
    max_message: usize,
}

fn keeper(stores: bool, knows: bool) -> Keeper {
    limited_keeper((64 << 20, 8 << 20), stores, knows)
}

/// One that keeps no document larger than the first of these, and sends no message larger than the second.
fn limited_keeper((max_document, max_message): (usize, usize), stores: bool, knows: bool) -> Keeper {
    let config = keeper_config(stores, knows);
    Keeper::new(keeper::Config { max_document, max_message, ..config })
}

fn keeper_config(stores: bool, knows: bool) -> keeper::Config {
    let mut types: std::collections::BTreeMap<String, KnownType> = Default::default();
    if knows {
        types.insert(Line::KIND.into(), KnownType::of::<Line>());
        types.insert(Set::KIND.into(), KnownType::of::<Set>());
        types.insert(trouble::Brittle::KIND.into(), KnownType::of::<trouble::Brittle>());
        #[cfg(feature = "crdt")]
        types.insert(super::crdt::Text::KIND.into(), KnownType::of::<super::crdt::Text>());
    }
    keeper::Config {
        me: id(HOST),
        is_hosts: true,
        seed: 1,
        read_only: false,
        max_document: 64 << 20,
        max_documents: 3,
        max_message: 8 << 20,
        stores,
        types,
        mutant: None,
    }
}

/// What a keeper wants done, but for what it has said.
fn perform(keeper: &mut Keeper, store: &mut MemoryStore) -> Vec<Message> {
    let mut said = Vec::new();
    while let Some(output) = keeper.poll_output().or_else(|| keeper.poll_part()) {
        let (topic, kind, payload) = match output {
            keeper::Output::Say { topic, kind, payload } => (topic, kind, payload),
            keeper::Output::Answer { to, payload } => {
                (wire::answer_topic(to), MessageKind::FullDocument, payload)
            }
            keeper::Output::Store(change) => {
                store.commit(&[change]).expect("in order");
                continue;
            }
            keeper::Output::Fold { name, state, fold } => {
                keeper.on_folded(&name, fold(&state));
                continue;
            }
        };
        said.push(Message::new(topic, payload).expect("a topic").with_kind(kind));
    }
    said
}

impl<D: Document> Net<D> {
    fn new() -> Self {
        Self {
            now: Instant::START,
            epoch: 1,
            seq: 0,
            keeper: Some(keeper(true, true)),
            max_message: 8 << 20,
            store: MemoryStore::new(),
            access: Access::Write,
            ones: Vec::new(),
            mirrors: Vec::new(),
            said: VecDeque::new(),
            recent: 100,
        }
    }

    fn config(&self, node: usize) -> replica::Config {
        replica::Config {
            name: NAME.into(),
            me: id(node),
            seed: node as u64 * 1_000,
            create: false,
            max_unsynced: (10, 1 << 20),
            max_update: 1_000,
            max_message: self.max_message,
            read_only: false,
            recent: self.recent,
            mutant: None,
        }
    }

    /// Opens the document on one more node, and takes down its question.
    fn open(&mut self) -> usize {
        let node = self.ones.len() + 1;
        let mut replica = Replica::new(self.config(node));
        replica.set_host(Some(id(HOST)));
        self.ones.push(One { node, replica, events: Vec::new(), is_deaf: false });
        self.take_down(node - 1);
        node - 1
    }

    fn take_down(&mut self, index: usize) {
        let one = &mut self.ones[index];
        while let Some(output) = one.replica.poll_output().or_else(|| one.replica.poll_part()) {
            let (topic, kind, payload) = match output {
                Output::Say { kind, payload } => (wire::live_topic(NAME), kind, payload),
                Output::Answer { to, payload } => {
                    (wire::answer_topic(to), MessageKind::FullDocument, payload)
                }
                Output::Event(event) => {
                    one.events.push(event);
                    continue;
                }
            };
            let message = Message::new(topic, payload).expect("a topic").with_kind(kind);
            self.said.push_back((one.node, message));
        }
    }

    fn take_down_keeper(&mut self) {
        let Some(keeper) = &mut self.keeper else { return };
        let said = perform(keeper, &mut self.store);
        self.said.extend(said.into_iter().map(|message| (HOST, message)));
    }

    /// Gives what was said first its place; whether there was anything.
    fn place(&mut self) -> bool {
        let Some((node, mut message)) = self.said.pop_front() else { return false };
        assert!(message.payload().len() <= self.max_message, "{message:?}");
        self.seq += 1;
        message.origin = id(node);
        message.position = Some(Position { epoch: self.epoch, seq: self.seq });
        if let Some(keeper) =
            self.keeper.as_mut().filter(|_| message.topic().as_str().starts_with(wire::ROOT))
        {
            let access = self.access.clone();
            keeper.on_message(self.now, &message, |_, _| access.clone());
        }
        self.take_down_keeper();
        for index in 0..self.ones.len() {
            let one = &mut self.ones[index];
            let topic = message.topic().as_str();
            if !one.is_deaf && (topic.starts_with(wire::ROOT) || topic == wire::answer_topic(id(one.node))) {
                one.replica.on_message(self.now, &message);
                one.replica.settle();
                self.take_down(index);
            }
        }
        self.tell_mirrors(&message);
        true
    }

    fn place_all(&mut self) {
        while self.place() {}
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for index in 0..self.ones.len() {
            self.ones[index].replica.handle_timeout(self.now);
            self.take_down(index);
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.handle_timeout(self.now);
        }
        self.take_down_keeper();
        self.pass_mirrors();
    }

    fn reset(&mut self, index: usize) {
        self.ones[index].is_deaf = false;
        self.ones[index].replica.on_reset();
        self.take_down(index);
    }

    /// The host comes back, with what was stored or without.
    fn restart(&mut self, with_store: bool) {
        self.epoch += 1;
        self.seq = 0;
        self.said.retain(|(node, _)| *node != HOST);
        let mut keeper = limited_keeper((64 << 20, self.max_message), true, true);
        if with_store {
            let stored = self.store.load(NAME).expect("a store").expect("the document");
            keeper.load(NAME.into(), stored).expect("what it stored itself");
        } else {
            self.store.commit(&[StoreChange::Remove { name: NAME.into() }]).expect("a store");
        }
        self.keeper = Some(keeper);
    }

    /// A node says this, as this replica.
    fn say_as(&mut self, node: usize, replica: u64, number: u64, fragment: &D::Fragment) {
        let update = wire::Update::new(D::KIND, replica, number, [&D::encode(fragment)[..]]);
        self.say(node, update.encode());
    }

    fn say(&mut self, node: usize, payload: Bytes) {
        self.say_on(&wire::live_topic(NAME), node, payload);
    }

    fn say_on(&mut self, topic: &str, node: usize, payload: Bytes) {
        let message = Message::new(topic, payload).expect("a topic");
        self.said.push_back((node, message.with_kind(MessageKind::DocumentFragment)));
    }

    /// Another keeper comes, with what is stored or without.
    fn replace_keeper(&mut self, stored: Option<Stored>) {
        let mut keeper = keeper(true, true);
        match stored {
            Some(stored) => keeper.load(NAME.into(), stored).expect("what it stored itself"),
            None => self.store.commit(&[StoreChange::Remove { name: NAME.into() }]).expect("a store"),
        }
        self.keeper = Some(keeper);
    }

    fn update(&mut self, index: usize, fragments: Vec<D::Fragment>) -> Result<(), UpdateError> {
        let result = self.ones[index].replica.update(|draft| {
            for fragment in fragments {
                draft.push(fragment).expect("it applies here");
            }
        });
        self.take_down(index);
        result
    }

    fn kept(&self) -> Vec<u8> {
        let state = self.keeper.as_ref().and_then(|keeper| keeper.state(NAME)).expect("it is kept");
        super::fold::Folded::<D>::of(&state, None).expect("a document").document.snapshot()
    }

    fn shown(&self, index: usize) -> Vec<u8> {
        self.ones[index].replica.document().snapshot()
    }

    /// All have the same, and nothing is open.
    fn all_have(&self, expected: &[u8]) {
        assert_eq!(self.kept(), expected, "the keeper");
        for (index, one) in self.ones.iter().enumerate() {
            assert_eq!(self.shown(index), expected, "{index}");
            assert!(one.replica.is_synced(), "{index}");
        }
    }
}

impl Net<Line> {
    fn write(&mut self, index: usize, text: &str) {
        self.update(index, vec![(text.as_bytes().to_vec(), None)]).expect("room");
    }

    /// Only if it is as long as here.
    fn write_here(&mut self, index: usize, text: &str) {
        let at = self.shown(index).len() as u8;
        self.update(index, vec![(text.as_bytes().to_vec(), Some(at))]).expect("room");
    }
}

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
    let mut net = Net::<Line>::new();
    let (first, second) = (net.open(), net.open());
    net.place_all();
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
    let mut net = Net::<Line>::new();
    let (first, second) = (net.open(), net.open());
    net.place_all();
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
    let mut net = Net::<Line>::new();
    let (first, second) = (net.open(), net.open());
    net.place_all();
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
    let mut net = Net::<Line>::new();
    let (first, second) = (net.open(), net.open());
    net.place_all();
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
    let mut net = Net::<Line>::new();
    let (first, second) = (net.open(), net.open());
    net.place_all();
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
    let mut net = Net::<Line>::new();
    let (first, second) = (net.open(), net.open());
    net.place_all();
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
    let mut net = Net::<Set>::new();
    let (first, second) = (net.open(), net.open());
    net.place_all();
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
    let mut net = Net::<Line>::new();
    let (first, second) = (net.open(), net.open());
    net.place_all();
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
    let mut net = Net::<Line>::new();
    let (first, second) = (net.open(), net.open());
    net.place_all();
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

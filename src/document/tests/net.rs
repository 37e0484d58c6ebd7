//! A host, its keeper and others', replicas, and one order between them, in which a test places what was said when it likes.

use super::*;

pub(super) fn id(n: usize) -> EndpointId {
    let mut bytes = [n as u8; 16];
    bytes[0] = (n >> 8) as u8;
    EndpointId::from_bytes(bytes)
}

pub(super) const HOST: usize = 99;

/// One on a node, and what its application was told.
pub(super) struct One<D: Document> {
    pub(super) node: usize,
    pub(super) replica: Replica<D>,
    pub(super) events: Vec<DocumentEvent<D>>,
    /// Whether it is cut off: it hears nothing.
    pub(super) is_deaf: bool,
}

impl<D: Document> One<D> {
    pub(super) fn failure(&self) -> Option<&DocumentError> {
        self.replica.failure()
    }

    pub(super) fn refused(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, DocumentEvent::Refused { .. })).count()
    }
}

/// A keeper on a node that is not the host, and its store.
pub(super) struct Mirror {
    pub(super) node: usize,
    pub(super) keeper: Keeper,
    pub(super) store: MemoryStore,
    /// Whether it is cut off: it hears nothing.
    pub(super) is_deaf: bool,
}

/// A host with or without a keeper, replicas, and keepers elsewhere.
pub(super) struct Net<D: Document> {
    pub(super) now: Instant,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) keeper: Option<Keeper>,
    pub(super) store: MemoryStore,
    pub(super) access: Access,
    pub(super) ones: Vec<One<D>>,
    pub(super) mirrors: Vec<Mirror>,
    /// What was said and has no place yet.
    pub(super) said: VecDeque<(usize, Message)>,
    pub(super) recent: usize,
    pub(super) max_message: usize,
}

pub(super) fn keeper(stores: bool, knows: bool) -> Keeper {
    limited_keeper((64 << 20, 8 << 20), stores, knows)
}

/// One that keeps no document larger than the first of these, and sends no message larger than the second.
pub(super) fn limited_keeper((document, max_message): (usize, usize), stores: bool, knows: bool) -> Keeper {
    let config = keeper_config(stores, knows);
    let limits = keeper::Limits { document, ..config.limits };
    Keeper::new(keeper::Config { limits, max_message, ..config })
}

pub(super) fn keeper_config(stores: bool, knows: bool) -> keeper::Config {
    let mut types: std::collections::BTreeMap<String, KnownType> = Default::default();
    if knows {
        types.insert(Line::KIND.into(), KnownType::of::<Line>());
        types.insert(Set::KIND.into(), KnownType::of::<Set>());
        types.insert(trouble::Brittle::KIND.into(), KnownType::of::<trouble::Brittle>());
        #[cfg(feature = "crdt")]
        types.insert(super::super::crdt::Text::KIND.into(), KnownType::of::<super::super::crdt::Text>());
    }
    keeper::Config {
        me: id(HOST),
        is_hosts: true,
        seed: 1,
        read_only: false,
        limits: keeper::Limits { document: 64 << 20, documents: 3, bytes: 1 << 30 },
        max_message: 8 << 20,
        restricts: true,
        stores,
        types,
        mutant: None,
    }
}

/// What a keeper wants done, but for what it has said. Of what is stored it is told, if it is, and of what everybody may do.
pub(super) fn perform(
    keeper: &mut Keeper,
    store: &mut MemoryStore,
    now: Instant,
    is_told: bool,
    access: &Access,
) -> Vec<Message> {
    let mut said = Vec::new();
    while let Some(output) = keeper.poll_output().or_else(|| keeper.poll_part()) {
        let (topic, kind, payload) = match output {
            keeper::Output::Say { topic, kind, payload } => (topic, kind, payload),
            keeper::Output::Answer { to, payload } => {
                (wire::answer_topic(to), MessageKind::FullDocument, payload)
            }
            keeper::Output::Store(change) => {
                store.commit(std::slice::from_ref(&change)).expect("in order");
                if let Some((name, position)) = change.up_to()
                    && is_told
                {
                    keeper.on_stored(now, name, position);
                }
                continue;
            }
            keeper::Output::Compare { name, nonce, comparison } => {
                keeper.on_compared(&name, nonce, comparison.run());
                continue;
            }
            keeper::Output::Ask(question) => {
                keeper.on_decided(now, question.put_to(|_, _| access.clone()));
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
    /// With a keeper, and the document open on two nodes, which are told of.
    pub(super) fn of_two() -> (Self, usize, usize) {
        let mut net = Self::new();
        let (first, second) = (net.open(), net.open());
        net.place_all();
        (net, first, second)
    }

    pub(super) fn new() -> Self {
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

    pub(super) fn config(&self, node: usize) -> replica::Config {
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
    pub(super) fn open(&mut self) -> usize {
        let node = self.ones.len() + 1;
        let mut replica = Replica::new(self.config(node));
        replica.set_host(Some(id(HOST)));
        self.ones.push(One { node, replica, events: Vec::new(), is_deaf: false });
        self.take_down(node - 1);
        node - 1
    }

    pub(super) fn take_down(&mut self, index: usize) {
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

    pub(super) fn take_down_keeper(&mut self) {
        let Some(keeper) = &mut self.keeper else { return };
        let said = perform(keeper, &mut self.store, self.now, false, &self.access);
        self.said.extend(said.into_iter().map(|message| (HOST, message)));
    }

    /// Gives what was said first its place; whether there was anything.
    pub(super) fn place(&mut self) -> bool {
        let Some((node, mut message)) = self.said.pop_front() else { return false };
        assert!(message.payload().len() <= self.max_message, "{message:?}");
        self.seq += 1;
        message.origin = id(node);
        message.position = Some(Position { epoch: self.epoch, seq: self.seq });
        if let Some(keeper) =
            self.keeper.as_mut().filter(|_| message.topic().as_str().starts_with(wire::ROOT))
        {
            keeper.on_message(self.now, &message);
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

    pub(super) fn place_all(&mut self) {
        while self.place() {}
    }

    pub(super) fn pass(&mut self, time: Duration) {
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

    /// It has missed something, and asks for the document again, as soon as it may.
    pub(super) fn reset(&mut self, index: usize) {
        self.miss(index);
        let replica = &mut self.ones[index].replica;
        if let Some(due) = replica.poll_timeout() {
            self.now = self.now.max(due);
            replica.handle_timeout(self.now);
            self.take_down(index);
        }
    }

    /// It has missed something.
    pub(super) fn miss(&mut self, index: usize) {
        self.ones[index].is_deaf = false;
        self.ones[index].replica.on_reset(self.now);
        self.take_down(index);
    }

    /// The host comes back, with what was stored or without.
    pub(super) fn restart(&mut self, with_store: bool) {
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
    pub(super) fn say_as(&mut self, node: usize, replica: u64, number: u64, fragment: &D::Fragment) {
        let update = wire::Update::new(D::KIND, replica, number, [&D::encode(fragment)[..]]);
        self.say(node, update.encode());
    }

    pub(super) fn say(&mut self, node: usize, payload: Bytes) {
        self.say_on(&wire::live_topic(NAME), node, payload);
    }

    pub(super) fn say_on(&mut self, topic: &str, node: usize, payload: Bytes) {
        let message = Message::new(topic, payload).expect("a topic");
        self.said.push_back((node, message.with_kind(MessageKind::DocumentFragment)));
    }

    /// Another keeper comes, with what is stored or without.
    pub(super) fn replace_keeper(&mut self, stored: Option<Stored>) {
        let mut keeper = keeper(true, true);
        match stored {
            Some(stored) => keeper.load(NAME.into(), stored).expect("what it stored itself"),
            None => self.store.commit(&[StoreChange::Remove { name: NAME.into() }]).expect("a store"),
        }
        self.keeper = Some(keeper);
    }

    pub(super) fn update(&mut self, index: usize, fragments: Vec<D::Fragment>) -> Result<(), UpdateError> {
        let result = self.ones[index].replica.update(|draft| {
            for fragment in fragments {
                draft.push(fragment).expect("it applies here");
            }
        });
        self.take_down(index);
        result
    }

    pub(super) fn kept(&self) -> Vec<u8> {
        let state = self.keeper.as_ref().and_then(|keeper| keeper.state(NAME)).expect("it is kept");
        super::super::fold::Folded::<D>::of(&state, None).expect("a document").document.snapshot()
    }

    pub(super) fn shown(&self, index: usize) -> Vec<u8> {
        self.ones[index].replica.document().snapshot()
    }

    /// All have the same, and nothing is open.
    pub(super) fn all_have(&self, expected: &[u8]) {
        assert_eq!(self.kept(), expected, "the keeper");
        for (index, one) in self.ones.iter().enumerate() {
            assert_eq!(self.shown(index), expected, "{index}");
            assert!(one.replica.is_synced(), "{index}");
        }
    }
}

impl Net<Line> {
    pub(super) fn write(&mut self, index: usize, text: &str) {
        self.update(index, vec![(text.as_bytes().to_vec(), None)]).expect("room");
    }

    /// Only if it is as long as here.
    pub(super) fn write_here(&mut self, index: usize, text: &str) {
        let at = self.shown(index).len() as u8;
        self.update(index, vec![(text.as_bytes().to_vec(), Some(at))]).expect("room");
    }
}

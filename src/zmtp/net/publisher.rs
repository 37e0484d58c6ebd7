//! What is published goes to many, encoded once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;

use super::changes::Changes;
use super::hub::Peer;
use super::options::{OnFull, Options};
use super::queue::Chunk;
use super::subscriptions::{Place, Subscriptions};
use super::untrusted::Untrusted;
use crate::sync::lock;
use crate::zmtp::frame::Encoded;
use crate::zmtp::{Limits, Message, Violation};

/// At how many octets a run of messages goes into the queues, whether or not somebody asks for it.
const RUN_BYTES: usize = 64 * 1024;
/// Which part of a queue's bound a run may be, in messages: so much it may go over.
const RUN_SHARE: usize = 8;

/// The subscribers of a socket, and what is on its way to them.
///
/// Messages in a row for the same subscribers are collected into a *run*, which goes into all their queues as one shared chunk when one of them
/// asks for more, when it is full, or when the next message is for others. So a message costs an encoding and a look-up, not a step for each subscriber.
#[derive(Debug)]
pub(super) struct Publisher {
    state: Mutex<State>,
    /// Whether the application sees the subscriptions.
    is_seen: bool,
    run_messages: usize,
    /// What becomes of subscribers that are full: trusted ones, and all others.
    on_full: (OnFull, OnFull),
    untrusted: Arc<Untrusted>,
}

#[derive(Debug, Default)]
struct State {
    subscriptions: Subscriptions,
    /// What the application was not told of them. Under the same lock, so that it is told in order, whoever subscribes.
    changes: Changes,
    /// Whether it is woken to ask for that.
    is_woken: bool,
    /// By place.
    peers: Vec<Option<Subscriber>>,
    /// Places that are free.
    free: Vec<Place>,
    by_key: BTreeMap<u64, Place>,
    run: Encoded,
    /// Who gets the run.
    targets: Arc<[Place]>,
    run_at: Option<Instant>,
    /// Those whose queues are full, and who are waited for.
    full: Vec<Place>,
}

#[derive(Debug)]
struct Subscriber {
    peer: Arc<Peer>,
    /// How often each prefix was subscribed to.
    prefixes: BTreeMap<Bytes, u32>,
    /// Their octets.
    bytes: usize,
}

/// What a change of a subscription comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that anybody would have to be told now.
    None,
    /// Who sees the subscriptions is to be woken.
    Woken,
    /// It goes over what one peer may have.
    Refused(Violation),
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// It is on its way to all who want it; with this one a run was complete.
    Sent { run_ended: bool },
    /// It has to wait for those who are behind.
    Full,
}

impl Publisher {
    pub(super) fn new(options: &Options, is_seen: bool, untrusted: Arc<Untrusted>) -> Self {
        let run_messages = (options.send_hwm.messages / RUN_SHARE).clamp(1, 4096);
        let on_full = (options.on_full_trusted.unwrap_or(options.on_full), options.on_full);
        Self { state: Mutex::default(), is_seen, run_messages, on_full, untrusted }
    }

    pub(super) fn add(&self, peer: &Arc<Peer>) {
        let mut state = lock(&self.state);
        let subscriber = Subscriber { peer: Arc::clone(peer), prefixes: BTreeMap::new(), bytes: 0 };
        let place = match state.free.pop() {
            Some(free) => {
                state.peers[free as usize] = Some(subscriber);
                free
            }
            None => {
                state.peers.push(Some(subscriber));
                state.peers.len() as Place - 1
            }
        };
        state.by_key.insert(peer.key, place);
    }

    /// The peer is gone.
    pub(super) fn remove(&self, peer: &Peer) -> Change {
        let mut state = lock(&self.state);
        let Some(place) = state.by_key.remove(&peer.key) else { return Change::None };
        self.flush_run(&mut state);
        state.full.retain(|other| *other != place);
        let Some(subscriber) = state.peers[place as usize].take() else { return Change::None };
        state.free.push(place);
        let mut change = Change::None;
        for prefix in subscriber.prefixes.keys() {
            if state.subscriptions.remove(prefix, place) && self.see(&mut state, false, prefix) {
                change = Change::Woken;
            }
        }
        change
    }

    /// Notes a change for who sees the subscriptions. Whether that one is to be woken.
    fn see(&self, state: &mut State, subscribe: bool, prefix: &Bytes) -> bool {
        if !self.is_seen {
            return false;
        }
        // Its own piece of memory, not a part of what was read.
        state.changes.push(subscribe, Bytes::copy_from_slice(prefix));
        !std::mem::replace(&mut state.is_woken, true)
    }

    /// What has changed for who sees the subscriptions since this was asked last: whether there is a first one, or no more, and of which prefix.
    pub(super) fn changes(&self) -> Vec<(bool, Bytes)> {
        let mut state = lock(&self.state);
        state.is_woken = false;
        std::iter::from_fn(|| state.changes.pop()).collect()
    }

    pub(super) fn subscribe(&self, peer: &Peer, prefix: &Bytes, limits: &Limits) -> Change {
        let mut state = lock(&self.state);
        let Some(place) = state.by_key.get(&peer.key).copied() else { return Change::None };
        // A run stays: it goes to those who had subscribed when it began.
        let State { subscriptions, peers, .. } = &mut *state;
        let Some(subscriber) = &mut peers[place as usize] else { return Change::None };
        if let Some(count) = subscriber.prefixes.get_mut(prefix) {
            *count = count.saturating_add(1);
            return Change::None;
        }
        if subscriber.prefixes.len() >= limits.subscriptions {
            return Change::Refused(Violation::Subscriptions { limit: limits.subscriptions });
        }
        if prefix.len() > limits.prefix {
            return Change::Refused(Violation::PrefixSize { limit: limits.prefix });
        }
        if prefix.len() > limits.subscription_bytes.saturating_sub(subscriber.bytes) {
            return Change::Refused(Violation::SubscriptionBytes { limit: limits.subscription_bytes });
        }
        subscriber.bytes += prefix.len();
        // Its own piece of memory, not a part of what was read.
        subscriber.prefixes.insert(Bytes::copy_from_slice(prefix), 1);
        self.untrusted.charge_subscriptions(peer, subscriber.prefixes.len(), subscriber.bytes);
        if subscriptions.add(prefix, place) && self.see(&mut state, true, prefix) {
            Change::Woken
        } else {
            Change::None
        }
    }

    pub(super) fn cancel(&self, peer: &Peer, prefix: &Bytes) -> Change {
        let mut state = lock(&self.state);
        let Some(place) = state.by_key.get(&peer.key).copied() else { return Change::None };
        let State { subscriptions, peers, .. } = &mut *state;
        let Some(subscriber) = &mut peers[place as usize] else { return Change::None };
        match subscriber.prefixes.get_mut(prefix) {
            // One that was not made is no error: libzmq passes it over, too.
            None => Change::None,
            Some(count) if *count > 1 => {
                *count -= 1;
                Change::None
            }
            Some(_) => {
                subscriber.prefixes.remove(prefix);
                subscriber.bytes -= prefix.len();
                self.untrusted.charge_subscriptions(peer, subscriber.prefixes.len(), subscriber.bytes);
                if subscriptions.remove(prefix, place) && self.see(&mut state, false, prefix) {
                    Change::Woken
                } else {
                    Change::None
                }
            }
        }
    }

    /// Publishes a message to those who subscribe to its first frame.
    pub(super) fn publish(&self, message: &Message) -> Published {
        let mut state = lock(&self.state);
        if state.is_full() {
            return Published::Full;
        }
        let targets = state.subscriptions.matching(message.first());
        if targets.is_empty() {
            return Published::Sent { run_ended: false };
        }
        if !Arc::ptr_eq(&targets, &state.targets) {
            self.flush_run(&mut state);
            state.targets = targets;
        }
        let begins = state.run.is_empty();
        state.run.push(message);
        let run_ended = state.run.bytes() >= RUN_BYTES || state.run.messages() >= self.run_messages;
        if run_ended {
            state.run_at.get_or_insert_with(Instant::now);
            self.flush_run(&mut state);
        } else if begins {
            state.run_at = Some(Instant::now());
            for place in state.targets.iter() {
                if let Some(subscriber) = &state.peers[*place as usize] {
                    subscriber.peer.queue.nudge();
                }
            }
        }
        Published::Sent { run_ended }
    }

    /// How many different prefixes somebody subscribes to.
    pub(super) fn prefixes(&self) -> usize {
        lock(&self.state).subscriptions.prefixes()
    }

    /// Puts what was published into the queues.
    pub(super) fn flush(&self) {
        self.flush_run(&mut lock(&self.state));
    }

    fn flush_run(&self, state: &mut State) {
        if state.run.is_empty() {
            return;
        }
        let at = state.run_at.take().unwrap_or_else(Instant::now);
        let chunk = Chunk::for_many(&mut state.run, at);
        let mut charged = None;
        let State { targets, peers, full, .. } = state;
        for place in targets.iter() {
            let Some(subscriber) = &peers[*place as usize] else { continue };
            let queue = &subscriber.peer.queue;
            let has_room = if subscriber.peer.is_trusted() {
                queue.push_shared(&chunk, self.on_full.0)
            } else {
                let charged = charged.get_or_insert_with(|| Chunk {
                    charge: Some(self.untrusted.charge_published(chunk.bytes)),
                    ..chunk.clone()
                });
                queue.push_shared(charged, self.on_full.1)
            };
            if !has_room && !full.contains(place) {
                full.push(*place);
            }
        }
        if charged.take().is_some() {
            self.untrusted.enforce();
        }
    }
}

impl State {
    /// Whether somebody is behind who is waited for.
    fn is_full(&mut self) -> bool {
        let peers = &self.peers;
        self.full.retain(|place| {
            peers[*place as usize].as_ref().is_some_and(|subscriber| !subscriber.peer.queue.has_room())
        });
        !self.full.is_empty()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;

    use super::super::PeerAddress;
    use super::super::hub::Hub;
    use super::*;
    use crate::zmtp::{PeerInfo, SocketType};

    /// A peer that is ready and subscribes to a prefix.
    pub(in super::super) fn subscriber(hub: &Hub, prefix: &'static str) -> Arc<Peer> {
        let peer = hub.admit(PeerAddress::Ipc, false).unwrap();
        let info = PeerInfo { kind: SocketType::Sub, identity: Bytes::new(), minor: 1 };
        hub.on_ready(&peer, info).unwrap();
        hub.on_subscription(&peer, true, &prefix.into()).unwrap();
        peer
    }

    #[test]
    fn who_changes_subscriptions_all_the_time_does_not_cut_the_runs_of_others() {
        let hub = Hub::new(SocketType::Pub, Options::default(), false);
        let (honest, restless) = (subscriber(&hub, "news"), subscriber(&hub, "other"));
        for number in 0..100_u8 {
            for (subscribe, prefix) in [(true, "other"), (false, "other"), (true, "else"), (false, "else")] {
                hub.on_subscription(&restless, subscribe, &prefix.into()).unwrap();
            }
            hub.publisher()
                .unwrap()
                .publish(&Message::from_frames([Bytes::from("news"), vec![number].into()]).unwrap());
        }
        hub.flush();
        let mut pending = VecDeque::new();
        honest.queue.take(&mut pending, 1);
        assert_eq!(pending.len(), 1, "all of them together");
        restless.queue.take(&mut pending, 1);
        assert_eq!(pending.len(), 1, "and nothing for the other");
    }
}

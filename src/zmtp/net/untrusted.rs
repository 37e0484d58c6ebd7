//! Connections whose peers are not trusted yet: how many a socket takes, and what they may hold in
//! memory. Sockets may share one [`Untrusted`], and so one memory budget.
//!
//! A socket trusts a peer that has finished the handshake. A socket with a
//! [`Vetting`](super::vetting::Vetting) trusts only peers that the application named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::hub::Peer;
use super::monitor::DisconnectReason;
use crate::source::Source;
use crate::sync::lock;

/// Memory that any connection is charged: its task, its queues and its read buffer (measured: 3.2
/// to 3.9 KiB).
const CONNECTION: usize = 4 * 1024;

/// Memory that a subscription is charged beside twice its prefix, in bytes (measured: 511 bytes for
/// each of 2,050 prefixes of 122 bytes).
const SUBSCRIPTION: usize = 300;

/// The untrusted connections of the sockets that share it.
#[derive(Debug)]
pub(crate) struct Untrusted {
    state: Mutex<State>,
    /// Bytes of published messages that untrusted subscribers hold, each message counted once.
    published: AtomicUsize,
    /// The memory budget, in bytes.
    memory: usize,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    entries: BTreeMap<u64, Entry>,
    sockets: BTreeMap<usize, Socket>,
    /// What all entries are charged.
    bytes: usize,
}

/// The untrusted connections of one socket.
#[derive(Debug, Default)]
struct Socket {
    entries: BTreeMap<Source, BTreeSet<u64>>,
    /// Displaced connections that have not ended yet.
    ending: usize,
}

#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    socket: usize,
    source: Source,
    /// What it is charged for reading, and for subscriptions.
    reading: usize,
    subscribed: usize,
}

impl Entry {
    fn bytes(&self) -> usize {
        CONNECTION + self.reading + self.subscribed
    }
}

impl State {
    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        self.bytes -= entry.bytes();
        if let Some(socket) = self.sockets.get_mut(&entry.socket)
            && let Some(numbers) = socket.entries.get_mut(&entry.source)
        {
            numbers.remove(&number);
            if numbers.is_empty() {
                socket.entries.remove(&entry.source);
            }
        }
        Some(entry)
    }

    /// The oldest connection of the source that has most connections at a socket.
    fn oldest_of_largest_share(&self, socket: usize) -> Option<u64> {
        let shares = self.sockets.get(&socket)?.entries.values();
        shares.max_by_key(|numbers| numbers.len())?.first().copied()
    }

    fn count(&self, socket: usize) -> usize {
        self.sockets.get(&socket).map_or(0, |socket| socket.entries.values().map(BTreeSet::len).sum())
    }

    /// Ends a connection. Returns whether it was there.
    fn displace(&mut self, number: u64, reason: DisconnectReason) -> bool {
        let Some(entry) = self.remove(number) else { return false };
        self.sockets.entry(entry.socket).or_default().ending += 1;
        entry.peer.queue.cut(reason);
        true
    }

    /// The connection that holds the most memory.
    fn largest(&self) -> Option<u64> {
        let held = |entry: &Entry| entry.bytes() + entry.peer.queue.backlog().bytes;
        self.entries.iter().max_by_key(|(_, entry)| held(entry)).map(|(number, _)| *number)
    }
}

impl Untrusted {
    /// A registry with a memory budget in bytes.
    pub(crate) fn new(memory: usize) -> Self {
        Self { state: Mutex::default(), published: AtomicUsize::new(0), memory }
    }

    /// Registers a connection of a socket that takes at most `most` untrusted ones. Above that, the
    /// oldest connection of the source that has most of them is displaced.
    pub(super) fn enter(&self, peer: &Arc<Peer>, socket: usize, most: usize) {
        let mut state = lock(&self.state);
        while state.count(socket) >= most.max(1) {
            let Some(number) = state.oldest_of_largest_share(socket) else { break };
            state.displace(number, DisconnectReason::Displaced);
        }
        state.last += 1;
        let (number, source) = (state.last, peer.address.source());
        let entry = Entry { peer: Arc::clone(peer), socket, source, reading: 0, subscribed: 0 };
        state.entries.insert(number, entry);
        let socket = state.sockets.entry(socket).or_default();
        socket.entries.entry(source).or_default().insert(number);
        state.bytes += CONNECTION;
        peer.set_untrusted(number);
        self.relieve(&mut state);
    }

    /// Ends a connection of this socket to make room, if there is an untrusted one. Returns whether
    /// there was.
    pub(super) fn displace_one(&self, socket: usize) -> bool {
        let mut state = lock(&self.state);
        let number = state.oldest_of_largest_share(socket);
        number.is_some_and(|number| state.displace(number, DisconnectReason::Displaced))
    }

    /// Whether all displaced connections of a socket have ended.
    pub(super) fn is_settled(&self, socket: usize) -> bool {
        lock(&self.state).sockets.get(&socket).is_none_or(|socket| socket.ending == 0)
    }

    /// Charges a connection for the bytes that it was read and that make no whole message yet.
    pub(super) fn charge_reading(&self, peer: &Peer, bytes: usize) {
        self.charge_entry(peer, |entry| entry.reading = bytes);
    }

    /// Charges a connection for so many subscriptions, whose prefixes have so many bytes together.
    pub(super) fn charge_subscriptions(&self, peer: &Peer, count: usize, bytes: usize) {
        self.charge_entry(peer, |entry| entry.subscribed = 2 * bytes + count * SUBSCRIPTION);
    }

    fn charge_entry(&self, peer: &Peer, change: impl FnOnce(&mut Entry)) {
        let Some(number) = peer.untrusted() else { return };
        let mut state = lock(&self.state);
        let Some(entry) = state.entries.get_mut(&number) else { return };
        let before = entry.bytes();
        change(entry);
        let after = entry.bytes();
        state.bytes = state.bytes - before + after;
        if after > before {
            self.relieve(&mut state);
        }
    }

    /// Trusts a peer, unless it was displaced already.
    pub(super) fn trust(&self, peer: &Peer) {
        let mut state = lock(&self.state);
        if peer.untrusted().is_some_and(|number| state.remove(number).is_some()) {
            peer.set_trusted();
        }
    }

    /// Forgets a connection of a socket that has ended.
    pub(super) fn leave(&self, peer: &Peer, socket: usize) {
        let mut state = lock(&self.state);
        let is_displaced = peer.untrusted().is_some_and(|number| state.remove(number).is_none());
        if is_displaced && let Some(socket) = state.sockets.get_mut(&socket) {
            socket.ending -= 1;
        }
    }

    /// Charges for published messages of so many bytes, which untrusted subscribers are about to
    /// hold, until the last clone of the charge is dropped.
    pub(super) fn charge_published(self: &Arc<Self>, bytes: usize) -> Arc<Charge> {
        self.published.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Charge { bytes, untrusted: Arc::clone(self) })
    }

    /// Displaces connections until the budget holds.
    pub(super) fn enforce(&self) {
        self.relieve(&mut lock(&self.state));
    }

    fn relieve(&self, state: &mut State) {
        while state.bytes + self.published.load(Ordering::Relaxed) > self.memory {
            let Some(number) = state.largest() else { break };
            let is_slow = |entry: &Entry| entry.peer.queue.backlog().bytes > entry.bytes();
            let is_slow = state.entries.get(&number).is_some_and(is_slow);
            let reason = if is_slow { DisconnectReason::TooSlow } else { DisconnectReason::Displaced };
            state.displace(number, reason);
        }
    }

    #[cfg(test)]
    pub(super) fn usage(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.entries.len(), state.bytes + self.published.load(Ordering::Relaxed))
    }
}

/// A charge for published messages. Untrusted subscribers hold clones of it beside the messages.
#[derive(Debug)]
pub(super) struct Charge {
    bytes: usize,
    untrusted: Arc<Untrusted>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.untrusted.published.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::endpoint::PeerAddress;
    use super::super::hub::Hub;
    use super::super::options::Options;
    use super::super::publisher::tests::subscriber;
    use super::super::vetting::{Opening, Vetting};
    use super::*;
    use crate::zmtp::{Message, SocketType};

    fn hub(kind: SocketType, half_open: usize, untrusted: &Arc<Untrusted>) -> Arc<Hub> {
        let vetting = Some(Vetting { untrusted: Arc::clone(untrusted), opening: Opening::Subscriptions });
        let mut options = Options { vetting, ..Options::default() };
        options.limits.half_open = half_open;
        Hub::new(kind, options, false)
    }

    fn tcp(address: &str) -> PeerAddress {
        PeerAddress::Tcp(address.parse().unwrap())
    }

    #[test]
    fn the_oldest_connection_of_the_largest_share_gives_way() {
        let untrusted = Arc::new(Untrusted::new(1 << 20));
        let (one, other) = (hub(SocketType::Pull, 5, &untrusted), hub(SocketType::Router, 5, &untrusted));
        let admit = |address: &str| one.admit(tcp(address), false).unwrap();
        let honest = admit("192.0.2.1:1");
        // Two addresses of one user.
        let many: Vec<_> = (0..4).map(|host| admit(&format!("[2001:db8::{}:{host}]:1", host % 2))).collect();
        let elsewhere = other.admit(tcp("[2001:db8::1]:1"), false).unwrap();
        let ended = |peer: &Arc<Peer>| peer.queue.ended();
        assert!(many.iter().all(|peer| ended(peer).is_none()));
        let next = admit("192.0.2.2:1");
        assert_eq!(ended(&many[0]), Some(DisconnectReason::Displaced));
        let trusted = admit("192.0.2.3:1");
        assert_eq!(ended(&many[1]), Some(DisconnectReason::Displaced));
        untrusted.trust(&trusted);
        // The trusted one counts no more.
        let last = admit("192.0.2.4:1");
        for peer in [&honest, &next, &trusted, &last, &elsewhere, &many[2], &many[3]] {
            assert_eq!(ended(peer), None);
        }
        assert!(one.displace_one());
        assert!(ended(&many[2]).is_some());
    }

    #[test]
    fn memory_of_all_sockets_is_within_the_budget_and_the_largest_gives_way() {
        let budget = 64 * CONNECTION;
        let untrusted = Arc::new(Untrusted::new(budget));
        let (pull, publisher) =
            (hub(SocketType::Pull, 1_000, &untrusted), hub(SocketType::Pub, 1_000, &untrusted));
        let readers: Vec<_> = (0..20).map(|_| pull.admit(PeerAddress::Ipc, false).unwrap()).collect();
        for (index, peer) in readers.iter().enumerate() {
            untrusted.charge_reading(peer, index * 100);
        }
        let honest = subscriber(&publisher, "honest");
        let hoarder = subscriber(&publisher, "0");
        for number in 1..500 {
            let prefix = format!("{number:0>200}");
            publisher.on_subscription(&hoarder, true, &prefix.into()).unwrap();
            assert!(untrusted.usage().1 <= budget);
        }
        assert_eq!(hoarder.queue.ended(), Some(DisconnectReason::Displaced));
        assert_eq!(honest.queue.ended(), None);
        untrusted.charge_reading(&readers[3], budget);
        assert_eq!(readers[3].queue.ended(), Some(DisconnectReason::Displaced));
        assert!(readers.iter().enumerate().all(|(index, peer)| index == 3 || peer.queue.ended().is_none()));
        readers.iter().chain([&honest, &hoarder]).for_each(|peer| untrusted.leave(peer, 0));
        assert_eq!(untrusted.usage(), (0, 0));
    }

    #[test]
    fn what_untrusted_subscribers_hold_of_the_broadcast_counts_once_and_the_slowest_gives_way() {
        let budget = 1 << 20;
        let untrusted = Arc::new(Untrusted::new(budget));
        let hub = hub(SocketType::Pub, 100, &untrusted);
        let publisher = hub.publisher().unwrap();
        let member = subscriber(&hub, "news");
        untrusted.trust(&member);
        let slow: Vec<_> = (0..10).map(|_| subscriber(&hub, "news")).collect();
        let quick = subscriber(&hub, "news");
        let message = Message::from_frames([Bytes::from("news"), vec![0; 32 << 10].into()]).unwrap();
        let mut published = 0;
        while slow[0].queue.ended().is_none() {
            publisher.publish(&message);
            hub.flush();
            published += 1;
            // It has written all that it takes here by the next time.
            quick.queue.take(&mut std::collections::VecDeque::new(), 1);
            assert!(untrusted.usage().1 <= budget);
        }
        assert!((30..=33).contains(&published), "{published} x 32 KiB, whoever holds them");
        assert!(slow.iter().all(|peer| peer.queue.ended() == Some(DisconnectReason::TooSlow)));
        for peer in [&quick, &member] {
            assert_eq!(peer.queue.ended(), None);
        }
        assert_eq!(member.queue.backlog().messages, published);
        assert!(untrusted.usage().1 <= 3 * CONNECTION + 2 * (32 << 10) + 1_000);
    }
}

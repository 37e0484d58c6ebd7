//! The channel listener: turns what the driver takes in into messages for every consumer.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::error::RecvError;
use crate::message::Message;
use crate::proto::{Instant, Reached};
use crate::sync::lock;
use crate::wire::{EncodedWindow, Window};

use super::consumer::Outcome;
use super::event::Event;
use super::node::Node;

/// Fans each window out to the streams and handlers of an endpoint, and knows how far they have come. Owned by the driver; never waits.
#[derive(Debug)]
pub(super) struct ChannelListener {
    node: Arc<Node>,
    /// Whether own messages are shown.
    echo: bool,
    max_message: usize,
    /// Prefixes of which one must match, where the driver does not filter.
    subscriptions: Option<Arc<Mutex<BTreeSet<String>>>>,
    /// Up to where messages were given.
    delivered: Option<Reached>,
}

impl ChannelListener {
    /// One that is given what is asked for, and nothing else.
    pub(super) fn new(node: Arc<Node>, echo: bool) -> Self {
        Self { node, echo, max_message: 0, subscriptions: None, delivered: None }
    }

    /// One that is given everything, as windows, and shows what is subscribed to.
    pub(super) fn of_windows(
        node: Arc<Node>,
        echo: bool,
        max_message: usize,
        subscriptions: Arc<Mutex<BTreeSet<String>>>,
    ) -> Self {
        Self { max_message, subscriptions: Some(subscriptions), ..Self::new(node, echo) }
    }

    /// A window of our own making. Decoded only where somebody wants to see it.
    pub(super) fn on_window(&mut self, window: &EncodedWindow, is_own: bool) {
        let last = Reached { reign: 0, position: window.last() };
        if (!is_own || self.echo || self.node.consumers.want_echo()) && !self.node.consumers.is_empty() {
            match Window::decode(&window.body, self.max_message) {
                Ok(window) => self.deliver(window.messages, last),
                Err(malformed) => debug_assert!(false, "our own window is {malformed}"),
            }
        }
        self.delivered = Some(last);
    }

    /// Messages in order, all that are asked for up to this position.
    pub(super) fn deliver(&mut self, mut messages: Vec<Message>, up_to: Reached) {
        self.delivered = Some(up_to);
        let id = self.node.id;
        // Whose messages are for consumers with an echo alone, if such are among these.
        let mut own = None;
        if !self.echo && messages.iter().any(|message| message.origin() == id) {
            if self.node.consumers.want_echo() {
                own = Some(id);
            } else {
                messages.retain(|message| message.origin() != id);
            }
        }
        if let Some(subscriptions) = &self.subscriptions {
            let subscriptions = lock(subscriptions);
            if !subscriptions.contains("") {
                messages.retain(|m| subscriptions.iter().any(|p| m.topic().as_str().starts_with(p.as_str())));
            }
        }
        if !messages.is_empty() {
            let outcome = self.node.consumers.deliver(messages, own, up_to.reign);
            self.report(outcome);
        }
    }

    /// Says a word to all consumers, behind what they were given.
    pub(super) fn tell(&mut self, word: &RecvError) {
        self.node.consumers.tell(word);
    }

    /// Up to where all consumers are done; without any, what was given. `None` while that is nothing.
    pub(super) fn handled(&self) -> Option<Reached> {
        self.node.consumers.handled().or(self.delivered)
    }

    /// Ends consumers that stand still while others get on.
    pub(super) fn check(&mut self, now: Instant) {
        let outcome = self.node.consumers.check(now);
        self.report(outcome);
    }

    fn report(&self, outcome: Outcome) {
        let counters = &self.node.counters;
        counters.delivered.fetch_add(outcome.delivered, Ordering::Relaxed);
        counters.conflated.fetch_add(outcome.conflated, Ordering::Relaxed);
        for consumer in outcome.overrun {
            counters.overruns.fetch_add(1, Ordering::Relaxed);
            self.node.emit(Event::ConsumerOverrun { consumer });
        }
    }

    /// Ends all consumers: nothing more comes.
    pub(super) fn end(self) {
        self.node.consumers.end();
    }
}

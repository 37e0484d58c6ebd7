//! The connections between members and the host: what goes in, when it comes out, and what breaks.

use std::cmp::Reverse;

use crate::proto::host;
use crate::proto::member;
use crate::wire::ChildMessage;

use super::super::network::{Item, Pipe};
use super::super::oracle::Broken;
use super::{Entry, Event, World, describe, trace};

impl World<'_> {
    pub(super) fn send(&mut self, link: usize, pipe: Pipe, item: Item) {
        let latency = self.latency();
        let now = self.now;
        let connection = &mut self.links[link];
        if connection.black_hole {
            return;
        }
        let line = connection.line(pipe);
        if line.closed {
            return;
        }
        line.closed = matches!(item, Item::Closed);
        line.items.push_back(item);
        line.last_at = line.last_at.max(now + latency);
        let after = line.last_at - now;
        self.push(after, Event::Arrive { link, pipe });
    }

    /// Closes one direction. What was in it may be lost from some point on.
    pub(in crate::sim) fn close(&mut self, link: usize, pipe: Pipe, lossy: bool) {
        if self.links[link].line(pipe).closed {
            return;
        }
        if lossy {
            let keep = self.dice.below(self.links[link].line(pipe).items.len() as u64 + 1);
            self.links[link].line(pipe).items.truncate(keep as usize);
        }
        self.send(link, pipe, Item::Closed);
    }

    /// Nobody listens at this end any more.
    pub(in crate::sim) fn forsake(&mut self, link: usize, pipe: Pipe) {
        let line = self.links[link].line(pipe);
        line.items.clear();
        line.closed = true;
    }

    /// One side of a connection is gone: it hears nothing more, and the other side is told.
    pub(in crate::sim) fn hang_up(&mut self, link: usize, by_host: bool, lossy: bool) {
        for pipe in Pipe::ALL {
            if pipe.is_up() == by_host {
                self.forsake(link, pipe);
            } else {
                self.close(link, pipe, lossy);
            }
        }
    }

    pub(super) fn on_arrive(&mut self, index: usize, pipe: Pipe, tie: u64) -> Result<(), Broken> {
        let link = &mut self.links[index];
        let held_until = self.members[link.member].held_until[pipe as usize];
        if held_until > self.now && !link.line(pipe).items.is_empty() {
            let entry = Entry { at: held_until, tie, event: Event::Arrive { link: index, pipe } };
            self.heap.push(Reverse(entry));
            return Ok(());
        }
        let Some(item) = link.line(pipe).items.pop_front() else { return Ok(()) };
        let member = link.member;
        if pipe.is_up() {
            if link.host_life != self.host.life || self.host.machine.is_none() {
                return Ok(());
            }
            return self.arrives_at_host(index, pipe, item);
        }
        if self.members[member].link != Some(index) {
            return Ok(());
        }
        let input = match (pipe, item) {
            (Pipe::ControlDown, Item::Frames(frames)) => member::Input::Control { frames },
            (Pipe::ControlDown, Item::Closed) => member::Input::Lost { reason: "the host closed".into() },
            (Pipe::BroadcastDown, Item::Frames(frames)) => member::Input::Broadcast { frames },
            (_, Item::Closed) => member::Input::LostChannel { reason: "the host closed".into() },
            _ => return Ok(()),
        };
        trace!(self, "m{member} <- {}", describe(pipe, &input));
        self.tell_member(member, input)
    }

    pub(super) fn arrives_at_host(&mut self, index: usize, pipe: Pipe, item: Item) -> Result<(), Broken> {
        let link = &mut self.links[index];
        let (peer, link_member) = (link.peer.clone(), link.member);
        match (pipe, item) {
            (Pipe::ControlUp, Item::Frames(frames)) => {
                let now = self.host.clock.now(self.now);
                let mut acked = None;
                match frames.first().map(ChildMessage::decode) {
                    Some(Ok(ChildMessage::Repair { first, last })) => {
                        self.asked.insert(index, (first, last));
                    }
                    Some(Ok(ChildMessage::Ack(ack))) => {
                        let here = self.oracle.last_seq(self.host.life) >= ack.handled.seq;
                        let machine = self.host.machine.as_ref();
                        if here && machine.is_some_and(|machine| machine.is_here(ack.handled)) {
                            acked = Some(ack.handled.seq);
                        }
                    }
                    _ => {}
                }
                self.news.push((index, now, acked));
                let address = Some(([10, 0, 0, link_member as u8], 1).into());
                self.tell_host(host::Input::Control { peer, address, frames })
            }
            (Pipe::ControlUp, Item::Closed) => self.tell_host(host::Input::ControlClosed { peer }),
            (Pipe::BroadcastUp, Item::Subscribe(prefix)) => {
                link.subscriptions.insert(prefix);
                Ok(())
            }
            (Pipe::BroadcastUp, Item::Unsubscribe(prefix)) => {
                link.subscriptions.remove(&prefix);
                Ok(())
            }
            (Pipe::BroadcastUp, Item::Closed) => match link.session {
                Some(session) => self.tell_host(host::Input::BroadcastClosed { session }),
                None => Ok(()),
            },
            (Pipe::SubmitUp, Item::Frames(frames)) => {
                self.host.submits.push_back(frames);
                self.host_stepped()
            }
            _ => Ok(()),
        }
    }
}

//! The members' processes, and their drivers.

use std::time::Duration;

use bytes::Bytes;

use crate::id::SessionToken;
use crate::message::{Message, Position};
use crate::proto::Reached;
use crate::proto::member::{self, End, Member};
use crate::wire::ChildMessage;

use super::super::Fault;
use super::super::dice::{MILLI, SECOND};
use super::super::network::{Item, Link, Pipe};
use super::super::node::{Consumer, LocalClock, MemberNode};
use super::super::oracle::{Broken, Seen};
use super::super::scenario::draw_filter;
use super::{Event, Phase, World, trace};

impl World<'_> {
    pub(super) fn start_member(&mut self, index: usize) -> Result<(), Broken> {
        let member = &mut self.members[index];
        member.starting = false;
        if member.machine.is_some() {
            return Ok(());
        }
        member.life += 1;
        let life = member.life;
        let config = member::Config {
            id: member.id,
            cluster: "sim".into(),
            token: Bytes::new(),
            prefixes: member.filter.clone(),
            outbox: self.scenario.outbox,
            // As of an endpoint whose id is given: above all that it ever sent under it.
            first_origin_seq: (self.now + 1) << 8 | index as u64,
            rejoin: member.rejoins,
            origin_ttl: self.scenario.origin_ttl,
            mutant: self.mutant,
            handshake_timeout: self.scenario.handshake,
            join_timeout: Duration::from_secs(10),
            backoff: self.scenario.backoff,
            seed: self.dice.any(),
        };
        member.machine = Some(Member::new(config));
        member.timer_at = None;
        member.link = None;
        member.joined_once = false;
        member.ticket = 0;
        member.consumer = Consumer::default();
        self.seen[index] = Seen::new(member.filter.clone());
        trace!(self, "m{index} begins life {life}");
        self.push(0, Event::MemberTick { member: index, life });
        self.start_documents(index);
        self.tell_member(index, member::Input::Start)
    }

    /// A member's process is gone. It comes back after a while.
    pub(in crate::sim) fn kill_member(&mut self, index: usize, silently: bool) {
        self.members[index].machine = None;
        self.members[index].asleep_until = 0;
        self.end_documents(index);
        if let Some(link) = self.members[index].link.take() {
            if silently {
                self.links[link].black_hole = true;
                Pipe::ALL.into_iter().for_each(|pipe| self.links[link].line(pipe).items.clear());
            } else {
                self.hang_up(link, false, true);
            }
        }
        self.start_again(index);
    }

    pub(super) fn start_again(&mut self, index: usize) {
        let gone_for_good = self.members[index].is_twin;
        if !gone_for_good && !std::mem::replace(&mut self.members[index].starting, true) {
            let after = self.dice.scale(MILLI, 2 * SECOND);
            self.push(after, Event::StartMember { member: index });
        }
    }

    pub(in crate::sim) fn tell_member(&mut self, index: usize, input: member::Input) -> Result<(), Broken> {
        let member = &mut self.members[index];
        let now = member.clock.now(self.now);
        let Some(machine) = &mut member.machine else { return Ok(()) };
        machine.handle_input(now, input);
        self.member_stepped(index)
    }

    pub(super) fn on_member_timer(&mut self, index: usize) -> Result<(), Broken> {
        let member = &mut self.members[index];
        if member.timer_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        member.timer_at = None;
        let now = member.clock.now(self.now);
        let Some(machine) = &mut member.machine else { return Ok(()) };
        machine.handle_timeout(now);
        self.member_stepped(index)
    }

    /// As [`host_moved`](Self::host_moved).
    pub(in crate::sim) fn member_moved(&mut self, index: usize) -> Result<(), Broken> {
        self.members[index].timer_at = None;
        self.documents_moved(index)?;
        self.member_stepped(index)
    }

    pub(super) fn member_stepped(&mut self, index: usize) -> Result<(), Broken> {
        while let Some(output) = self.members[index].machine.as_mut().and_then(Member::poll_output) {
            self.on_member_output(index, output)?;
        }
        let member = &mut self.members[index];
        let Some(machine) = &member.machine else { return Ok(()) };
        let usage = machine.usage();
        let (outbox, marks) = (self.scenario.outbox, self.scenario.marks);
        let documents = if self.documents.is_some() { 16 << 10 } else { 0 };
        let batch = (self.scenario.payload + 64) * self.scenario.batch + 64 + documents;
        if usage.outbox_batches > outbox.batches || usage.outbox_bytes as u64 > outbox.bytes as u64 + batch {
            return Err((10, format!("the outbox of m{index} holds {usage:?}")));
        }
        if usage.ahead_messages > marks.messages || usage.ahead_bytes > marks.bytes {
            return Err((10, format!("m{index} holds {usage:?} ahead of a gap")));
        }
        if let Some(deadline) = machine.poll_timeout() {
            let at = member.clock.when(self.now, deadline);
            if member.timer_at.is_none_or(|armed| at < armed) {
                member.timer_at = Some(at);
                let life = member.life;
                self.spin(at)?;
                self.push(at - self.now, Event::MemberTimer { member: index, life });
            }
        }
        self.submit_of_documents(index)
    }

    pub(super) fn on_member_output(&mut self, index: usize, output: member::Output) -> Result<(), Broken> {
        let life = self.members[index].life;
        match output {
            member::Output::Dial => {
                let after = self.latency() * 2;
                self.push(after, Event::Dialled { member: index, life });
            }
            member::Output::Hangup => {
                self.seen[index].on_session_over();
                trace!(self, "m{index} hangs up");
                if let Some(link) = self.members[index].link.take() {
                    let lossy = self.dice.percent(50);
                    self.hang_up(link, false, lossy);
                }
            }
            member::Output::Control { frame } => {
                if let Ok(ChildMessage::Ack(ack)) = ChildMessage::decode(&frame) {
                    let front = self.members[index].consumer.queue.front();
                    // What is left of another life of the host is none of this one's business.
                    let same_life = |up_to: Position| self.oracle.are_of_one_life(up_to, ack.handled);
                    if let Some(up_to) = front
                        .map(|(_, up_to)| up_to.position)
                        .filter(|up_to| *up_to <= ack.handled && same_life(*up_to))
                    {
                        let handled = ack.handled;
                        return Err((
                            9,
                            format!(
                                "m{index} says it has handled {handled}, and is at what leads to {up_to}"
                            ),
                        ));
                    }
                    if ack.handled > ack.stored {
                        return Err((9, format!("m{index} acknowledges {ack:?}")));
                    }
                }
                trace!(self, "m{index} -> {:?}", ChildMessage::decode(&frame));
                if let Some(link) = self.members[index].link {
                    self.send(link, Pipe::ControlUp, Item::Frames(vec![frame]));
                }
            }
            member::Output::Attach { session, .. } => {
                if let Some(link) = self.members[index].link {
                    let after = self.latency() * 2;
                    self.push(after, Event::Attached { member: index, life, link, session });
                }
            }
            member::Output::AddLane { prefix } => {
                if let Some(link) = self.members[index].link {
                    self.send(link, Pipe::BroadcastUp, Item::Subscribe(prefix));
                }
            }
            member::Output::RemoveLane { prefix } => {
                if let Some(link) = self.members[index].link {
                    self.send(link, Pipe::BroadcastUp, Item::Unsubscribe(prefix));
                }
            }
            member::Output::Submit { head, body } => {
                if let Some(link) = self.members[index].link {
                    if self.phase == Phase::Faults
                        && self.scenario.has(Fault::SubmitLoss)
                        && self.dice.percent(5)
                    {
                        self.count(Fault::SubmitLoss);
                    } else {
                        self.send(link, Pipe::SubmitUp, Item::Frames(vec![head, body]));
                    }
                }
            }
            member::Output::Deliver { messages, up_to } => self.on_delivered(index, &messages, up_to)?,
            member::Output::Ordered(run) if run.is_refused() => {
                let (id, life) = (self.members[index].id, self.host.life);
                let last = run.last_origin_seq();
                trace!(self, "m{index} is told that {} to {last} are refused", run.first_origin_seq);
                self.oracle.on_refused(&mut self.seen[index], life, id, run)?;
                self.documents_refused(index, run.first_origin_seq, last);
            }
            member::Output::Ordered(run) => {
                let id = self.members[index].id;
                let last = run.last_origin_seq();
                self.documents_placed(index, run.first_origin_seq, last);
                self.oracle.on_ordered(&mut self.seen[index], id, run)?;
            }
            member::Output::Unknown { up_to } => self.on_unknown(index, up_to)?,
            member::Output::Subscribed { ticket } => {
                self.seen[index].on_subscribed(ticket);
                self.documents_subscribed(index, ticket)?;
            }
            member::Output::Event(event) => self.on_member_event(index, event)?,
            member::Output::Ended(end) => {
                trace!(self, "m{index} ends: {end:?}");
                self.unrest = true;
                if matches!(end, End::Evicted(_)) {
                    self.report.evictions += 1;
                }
                if !self.seen[index].open.is_empty() {
                    let open = self.seen[index].open.len();
                    return Err((6, format!("m{index} ended without a word on {open} messages")));
                }
                self.members[index].machine = None;
                self.members[index].link = None;
                self.end_documents(index);
                self.start_again(index);
            }
        }
        Ok(())
    }

    pub(super) fn on_unknown(&mut self, index: usize, up_to: u64) -> Result<(), Broken> {
        let open = &mut self.seen[index].open;
        let later = open.split_off(&(up_to + 1));
        let unknown = std::mem::replace(open, later).len() as u64;
        self.report.unknown += unknown;
        self.documents_unknown(index, up_to);
        trace!(self, "m{index} is told that the fate of {unknown} messages is unknown");
        // Nobody may be left in the dark while the host's memory is whole.
        let ended = self.members[index].machine.as_ref().is_none_or(Member::is_ended);
        let forgot =
            self.host.machine.as_ref().is_none_or(|machine| machine.counters().forgotten_origins > 0);
        if unknown > 0 && !ended && !forgot && !self.scenario.has(Fault::Twin) && self.host.life == 1 {
            return Err((
                6,
                format!("the fate of {unknown} messages of m{index} is unknown, and the host forgot nothing"),
            ));
        }
        Ok(())
    }

    pub(super) fn on_member_event(&mut self, index: usize, event: member::Event) -> Result<(), Broken> {
        trace!(self, "m{index}: {event:?}");
        match event {
            member::Event::Joined(joined) => {
                let member = &mut self.members[index];
                if !std::mem::replace(&mut member.joined_once, true) {
                    member.next_origin_seq = joined.next_origin_seq;
                    if self.scenario.has(Fault::Twin) {
                        self.oracle.on_begun(member.id, joined.next_origin_seq);
                    }
                }
                // A fresh one takes the place of those that overran.
                member.consumer.gone = false;
                let life = member.link.map_or(0, |link| self.links[link].host_life);
                let end = self.oracle.last_seq(life);
                self.seen[index].on_joined(life, joined.position, end)?;
            }
            member::Event::Reset { after, resume_at } => {
                self.report.resets += 1;
                self.unrest = true;
                self.oracle.on_reset(&mut self.seen[index], after, resume_at)?;
                self.documents_reset(index, false);
            }
            member::Event::Disconnected { .. } | member::Event::Evicted(_) => {
                self.unrest = true;
                self.seen[index].on_session_over();
            }
            member::Event::Membership { .. } => {}
        }
        Ok(())
    }

    pub(super) fn on_delivered(
        &mut self,
        index: usize,
        messages: &[Message],
        up_to: Reached,
    ) -> Result<(), Broken> {
        self.oracle.on_delivered(&mut self.seen[index], messages, up_to.position)?;
        self.documents_delivered(index, messages);
        let member = &mut self.members[index];
        let consumer = &mut member.consumer;
        consumer.up_to = Some(up_to);
        if consumer.gone || (messages.is_empty() && consumer.queue.is_empty()) {
            return self.tell_member(index, member::Input::Handled { up_to });
        }
        if messages.is_empty() {
            return Ok(());
        }
        let was_empty = consumer.queue.is_empty();
        consumer.queue.push_back((messages.len() as u64, up_to));
        if consumer.messages() > self.scenario.marks.messages && !was_empty {
            trace!(self, "m{index}'s consumer overruns");
            let consumer = &mut self.members[index].consumer;
            consumer.queue.clear();
            consumer.gone = true;
            self.documents_reset(index, true);
            self.tell_member(index, member::Input::Overrun)?;
            return self.tell_member(index, member::Input::Handled { up_to });
        }
        self.consume(index)
    }

    /// Lets a member's consumer take what waits.
    pub(super) fn consume(&mut self, index: usize) -> Result<(), Broken> {
        let consumer = &mut self.members[index].consumer;
        if consumer.busy || consumer.stalled {
            return Ok(());
        }
        let Some((messages, _)) = consumer.queue.front().copied() else { return Ok(()) };
        if consumer.pace == 0 {
            return match consumer.take() {
                Some(up_to) => self.tell_member(index, member::Input::Handled { up_to }),
                None => Ok(()),
            };
        }
        consumer.busy = true;
        let (after, life) = (consumer.pace * messages, self.members[index].life);
        self.push(after, Event::Handled { member: index, life });
        Ok(())
    }

    pub(super) fn on_handled(&mut self, index: usize) -> Result<(), Broken> {
        let consumer = &mut self.members[index].consumer;
        consumer.busy = false;
        if consumer.stalled {
            return Ok(());
        }
        if let Some(up_to) = consumer.take() {
            self.tell_member(index, member::Input::Handled { up_to })?;
        }
        // At full speed again, it takes all at once.
        while self.members[index].consumer.pace == 0 && !self.members[index].consumer.queue.is_empty() {
            if self.members[index].consumer.stalled {
                break;
            }
            self.consume(index)?;
        }
        self.consume(index)
    }

    pub(super) fn on_dialled(&mut self, index: usize) -> Result<(), Broken> {
        let held = self.members[index].held_until[Pipe::ControlUp as usize] > self.now;
        if held || self.host.machine.is_none() || self.host.asleep_until > self.now {
            return self.tell_member(index, member::Input::DialFailed { reason: "nobody answers".into() });
        }
        let peer = self.fresh_peer();
        let link = self.links.len();
        self.links.push(Link::new(index, self.host.life, peer.clone()));
        self.peers.insert(peer, link);
        self.members[index].link = Some(link);
        self.tell_member(index, member::Input::Connected)
    }

    pub(super) fn on_attached(
        &mut self,
        index: usize,
        link: usize,
        session: SessionToken,
    ) -> Result<(), Broken> {
        if self.links[link].host_life != self.host.life || self.host.machine.is_none() {
            return self.tell_member(index, member::Input::AttachFailed { reason: "nobody answers".into() });
        }
        self.links[link].session = Some(session);
        self.sessions.insert(session, link);
        for frames in std::mem::take(&mut self.members[index].stale) {
            self.send(link, Pipe::BroadcastDown, Item::Frames(frames));
        }
        self.tell_member(index, member::Input::Attached)
    }

    pub(super) fn on_member_tick(&mut self, index: usize) -> Result<(), Broken> {
        if self.phase != Phase::Faults {
            return Ok(());
        }
        let (every, life) = (self.scenario.send_every, self.members[index].life);
        let next = self.dice.scale(every / 4, every * 2);
        self.push(next, Event::MemberTick { member: index, life });
        let burst = if self.dice.percent(10) { self.dice.between(1, 10) } else { 1 };
        for _ in 0..burst {
            let count = self.dice.between(1, self.scenario.batch);
            self.member_sends(index, count)?;
        }
        Ok(())
    }

    pub(super) fn member_sends(&mut self, index: usize, count: u64) -> Result<(), Broken> {
        let member = &mut self.members[index];
        let can = member.machine.as_ref().is_some_and(Member::can_submit);
        if !can || !member.joined_once {
            return Ok(());
        }
        let (id, first) = (member.id, member.next_origin_seq);
        member.next_origin_seq += count;
        let body = self.batch(id, first, count)?;
        self.seen[index].open.extend(first..first + count);
        let input = member::Input::Submit { first_origin_seq: first, count: count as u16, body };
        self.tell_member(index, input)
    }

    pub(in crate::sim) fn resubscribe(&mut self, index: usize) -> Result<(), Broken> {
        self.members[index].filter = draw_filter(&mut self.dice);
        self.subscribe_again(index)
    }

    /// A member subscribes to what it and its documents want now.
    pub(in crate::sim) fn subscribe_again(&mut self, index: usize) -> Result<(), Broken> {
        let filter = self.with_documents(index, self.members[index].filter.clone());
        let member = &mut self.members[index];
        member.ticket += 1;
        let ticket = member.ticket;
        self.seen[index].on_subscribe(ticket, filter.clone());
        self.tell_member(index, member::Input::Subscribe { prefixes: filter, ticket })
    }

    /// Another process comes up under a member's id.
    pub(in crate::sim) fn add_twin(&mut self, of: usize) {
        let original = &self.members[of];
        let twin = MemberNode {
            id: original.id,
            life: 0,
            machine: None,
            clock: LocalClock::new(self.now, 0),
            asleep_until: 0,
            timer_at: None,
            link: None,
            next_origin_seq: 1,
            joined_once: false,
            filter: original.filter.clone(),
            ticket: 0,
            consumer: Consumer::default(),
            rejoins: true,
            is_twin: true,
            starting: true,
            stale: Vec::new(),
            held_until: [0; 5],
            loss: (0, 0),
        };
        self.seen.push(Seen::new(twin.filter.clone()));
        self.members.push(twin);
        self.push(0, Event::StartMember { member: self.members.len() - 1 });
    }
}

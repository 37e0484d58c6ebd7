//! The host's process, and its driver.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::id::EndpointId;
use crate::message::Message;
use crate::proto::host::{self, AuthLimits, Host};
use crate::proto::{Instant, Reached};
use crate::wire::{BatchBuilder, Lane, ParentMessage};

use super::super::Fault;
use super::super::dice::{MICRO, MILLI, Nanos, SECOND};
use super::super::documents::Documents;
use super::super::network::{Item, Pipe};
use super::super::node::Consumer;
use super::super::oracle::Broken;
use super::super::scenario::TOPICS;
use super::strangers::WRONG;
use super::{Event, Phase, SPINS, World, is_heartbeat, trace};

impl World<'_> {
    pub(super) fn start_host(&mut self) -> Result<(), Broken> {
        if self.host.machine.is_some() {
            return Ok(());
        }
        let scenario = &self.scenario;
        self.host.life += 1;
        let life = self.host.life;
        // The wall clock may be wrong by seconds. That it shows the same moment in two lives is left out, as is that two draw the same
        // incarnation: both share an epoch then, until a member tells.
        let wall = 1_000_000 + self.now / MILLI + self.dice.below(4_000);
        let drawn = self.dice.any() | 1;
        let config = host::Config {
            id: self.host.id,
            cluster: "sim".into(),
            incarnation: drawn,
            epoch: (wall << 22) + (u64::from(life) << 14),
            first_origin_seq: u64::from(life) << 32,
            max_message: 1 << 20,
            max_members: scenario.members + 3,
            authentication: AuthLimits { pending: 3, running_per_source: 1 },
            handshake_timeout: scenario.handshake,
            marks: scenario.marks,
            pace_percentile: scenario.pace_percentile,
            patience: scenario.patience,
            conflatable: Vec::new(),
            log: scenario.log,
            heartbeat: scenario.heartbeat,
            lease: scenario.lease,
            origin_ttl: scenario.origin_ttl,
            max_origins: scenario.max_origins,
            quarantine: scenario.quarantine,
            repair_rate: scenario.repair_rate,
            mutant: self.mutant,
            broadcast: ":1".into(),
            submit: ":2".into(),
        };
        trace!(self, "host begins life {life} in epoch {}", config.epoch);
        self.oracle.on_host_start(life, config.epoch)?;
        self.host.next_origin_seq = config.first_origin_seq;
        self.host.machine = Some(Host::new(config, self.host.clock.now(self.now)));
        self.host.timer_at = None;
        self.host.flush_due = false;
        self.host.undrained_since = None;
        self.host.submits.clear();
        self.host.consumer = Consumer::default();
        self.start_keeper()?;
        self.start_guard();
        if let Some((machine, epoch)) =
            self.host.machine.as_mut().zip(self.documents.as_ref().and_then(Documents::last_epoch))
        {
            machine.handle_input(self.host.clock.now(self.now), host::Input::RiseAbove { epoch });
        }
        self.push(0, Event::HostTick { life });
        if let Some(machine) = &self.host.machine {
            self.oracle.on_reign(life, machine.usage().end.epoch);
        }
        self.flush()
    }

    /// The host is gone. Its machine may be gone with it, so that nobody is told.
    pub(in crate::sim) fn kill_host(&mut self, silently: bool) {
        if self.host.machine.take().is_none() {
            return;
        }
        self.end_keeper();
        let keep = self.scenario.has(Fault::StaleQueue);
        for link in 0..self.links.len() {
            if self.links[link].host_life != self.host.life {
                continue;
            }
            if keep {
                self.keep_stale(link);
            }
            if silently {
                self.links[link].black_hole = true;
                Pipe::ALL.into_iter().for_each(|pipe| self.links[link].line(pipe).items.clear());
            } else {
                self.hang_up(link, true, true);
            }
        }
        self.host.asleep_until = 0;
        if std::mem::take(&mut self.host.is_draining) {
            let after = self.dice.scale(MILLI, 2 * SECOND);
            self.push(after, Event::StartHost);
        }
    }

    /// What is on its way may come to the next host, and what it said by the next connections.
    pub(super) fn keep_stale(&mut self, link: usize) {
        for pipe in [Pipe::ControlUp, Pipe::SubmitUp, Pipe::BroadcastDown] {
            let items: Vec<Item> = self.links[link].line(pipe).items.iter().cloned().collect();
            for item in items {
                let Item::Frames(frames) = item else { continue };
                if !self.dice.percent(30) {
                    continue;
                }
                self.count(Fault::StaleQueue);
                if pipe == Pipe::BroadcastDown {
                    let member = self.links[link].member;
                    self.members[member].stale.push(frames);
                } else {
                    let after = self.dice.scale(MILLI, 2 * SECOND);
                    self.push(after, Event::Stray { pipe, frames });
                }
            }
        }
    }

    pub(in crate::sim) fn tell_host(&mut self, input: host::Input) -> Result<(), Broken> {
        let now = self.host.clock.now(self.now);
        let Some(machine) = &mut self.host.machine else { return Ok(()) };
        machine.handle_input(now, input);
        self.host.undrained_since.get_or_insert(now);
        self.host_stepped()
    }

    /// Something went into the host: it is to come out, at once or together with what comes soon.
    pub(super) fn host_stepped(&mut self) -> Result<(), Broken> {
        if self.dice.percent(self.scenario.eager) {
            return self.flush();
        }
        if !std::mem::replace(&mut self.host.flush_due, true) {
            let after = self.dice.scale(10 * MICRO, 5 * MILLI);
            self.push(after, Event::Flush { life: self.host.life });
        }
        Ok(())
    }

    /// Its clock is not what it was: timers are to be set anew.
    pub(in crate::sim) fn host_moved(&mut self) -> Result<(), Broken> {
        self.host.timer_at = None;
        self.flush()
    }

    pub(super) fn on_host_timer(&mut self) -> Result<(), Broken> {
        // One that was armed for later before this one was.
        if self.host.timer_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        self.host.timer_at = None;
        let now = self.host.clock.now(self.now);
        let Some(machine) = &mut self.host.machine else { return Ok(()) };
        machine.handle_timeout(now);
        self.flush()?;
        self.check_snails(now)
    }

    /// Whoever is past the mark while the pack is not has to go in time.
    pub(super) fn check_snails(&mut self, now: Instant) -> Result<(), Broken> {
        let Some(machine) = &self.host.machine else { return Ok(()) };
        let marks = self.scenario.marks;
        let lags = machine.lags(now);
        let mut shares: Vec<f64> = lags.iter().map(|member| marks.share(&member.lag)).collect();
        shares.extend(machine.local_lag(now).map(|lag| marks.share(&lag)));
        shares.sort_by(f64::total_cmp);
        // The fastest, to be on the safe side: whatever sets the pace is not faster.
        let pack_is_past = shares.first().is_none_or(|share| *share > 1.0);
        let limit = marks.grace + marks.age * 2 + self.scenario.heartbeat * 3;
        // A host that slept, or whose clock jumped, holds that against nobody.
        if now.since(std::mem::replace(&mut self.past_looked_at, now)) > self.scenario.heartbeat * 10 {
            self.past.clear();
        }
        let mut past = BTreeMap::new();
        for member in lags {
            let is_past =
                marks.exceeded_by(&member.lag).is_some() && member.lag.messages > self.scenario.batch * 64;
            if is_past && !pack_is_past && self.scenario.pace_percentile == 0 {
                let (since, least) = *self.past.get(&member.session).unwrap_or(&(now, u64::MAX));
                // One that comes back is let be for as long as it catches up.
                let since = if member.lag.messages < least { now } else { since };
                if now.since(since) > limit {
                    let (id, lag) = (member.id, member.lag);
                    return Err((
                        11,
                        format!("{id} is {lag} behind since {:?}, and was not evicted", since.elapsed()),
                    ));
                }
                past.insert(member.session, (since, least.min(member.lag.messages)));
            }
        }
        self.past = past;
        Ok(())
    }

    pub(in crate::sim) fn flush(&mut self) -> Result<(), Broken> {
        const AT_ONCE: usize = 8;
        self.host.flush_due = false;
        let now = self.host.clock.now(self.now);
        let life = self.host.life;
        loop {
            let handled = self.host_handled();
            let Some(machine) = &mut self.host.machine else { return Ok(()) };
            for _ in 0..AT_ONCE {
                if !machine.takes_submits() {
                    break;
                }
                let Some(frames) = self.host.submits.pop_front() else { break };
                machine.handle_input(now, host::Input::Submit { frames });
            }
            machine.handle_input(now, host::Input::LocalHandled { seq: handled });
            machine.handle_input(now, host::Input::Flush);
            while let Some(output) = self.host.machine.as_mut().and_then(Host::poll_output) {
                self.on_host_output(output)?;
            }
            let Some(machine) = &mut self.host.machine else { return Ok(()) };
            self.oracle.on_epoch(life, machine.usage().end.epoch)?;
            if self.host.submits.is_empty() || !machine.takes_submits() {
                break;
            }
        }
        self.host.undrained_since = None;
        let Some(machine) = &mut self.host.machine else { return Ok(()) };
        for (link, at, acked) in self.news.drain(..) {
            self.heard.insert(link, at);
            self.acked.extend(acked.map(|acked| (link, acked)));
        }
        let usage = machine.usage();
        let (windows, messages, bytes) = usage.log;
        let limit = self.scenario.log;
        if windows > 1 && (messages > limit.messages || bytes > limit.bytes) {
            return Err((10, format!("the log holds {messages} messages and {bytes} bytes")));
        }
        if usage.origins > self.scenario.max_origins {
            return Err((10, format!("the host remembers {} origins", usage.origins)));
        }
        if let Some(deadline) = machine.poll_timeout() {
            let at = self.host.clock.when(self.now, deadline);
            if self.host.timer_at.is_none_or(|armed| at < armed) {
                self.spin(at)?;
                self.host.timer_at = Some(at);
                self.push(at - self.now, Event::HostTimer { life });
            }
        }
        Ok(())
    }

    /// A machine whose deadline is not served by serving it would run for ever.
    pub(in crate::sim) fn spin(&mut self, at: Nanos) -> Result<(), Broken> {
        if at > self.now {
            return Ok(());
        }
        let (when, times) = self.spins;
        self.spins = if when == self.now { (when, times + 1) } else { (self.now, 1) };
        if self.spins.1 > SPINS {
            return Err((0, "a deadline in the past is not served".to_owned()));
        }
        Ok(())
    }

    pub(super) fn host_handled(&self) -> Option<u64> {
        let consumer = &self.host.consumer;
        let waits = consumer.queue.front().map(|(_, up_to)| up_to.position.seq - 1);
        self.scenario.host_consumes.then(|| waits.unwrap_or(self.oracle.last_seq(self.host.life)))
    }

    pub(super) fn on_host_output(&mut self, output: host::Output) -> Result<(), Broken> {
        match output {
            host::Output::Window { window, is_own } => {
                let (last, body) = (window.last(), window.body);
                trace!(self, "host publishes a window up to {last}");
                let at = self.host.undrained_since.unwrap_or(self.host.clock.now(self.now));
                self.oracle.on_window(self.host.life, &body, at, self.scenario.log)?;
                self.documents_ordered(&body)?;
                if !is_own && self.scenario.host_consumes {
                    self.host.consumer.queue.push_back((1, Reached { reign: 0, position: last }));
                    if !self.host.consumer.busy && !self.host.consumer.stalled {
                        self.host.consumer.busy = true;
                        let after = self.dice.below(MILLI);
                        self.push(after, Event::HostHandled { life: self.host.life });
                    }
                }
                self.publish(Lane::Whole.encode(), &body);
            }
            host::Output::Broadcast { lane, body } => self.publish(lane, &body),
            host::Output::Control { peer, frame } => {
                self.check_stranger(&peer, &frame)?;
                let Some(link) = self.peers.get(&peer).copied() else { return Ok(()) };
                if matches!(ParentMessage::decode(&frame), Ok(ParentMessage::Missed(_))) {
                    let asked = self.asked.get(&link).copied().unwrap_or((u64::MAX, u64::MAX));
                    self.oracle.on_missed(self.host.life, asked)?;
                }
                self.send(link, Pipe::ControlDown, Item::Frames(vec![frame]));
            }
            host::Output::Session { .. } => {}
            host::Output::CutBroadcast { session } => {
                if let Some(link) = self.sessions.get(&session).copied() {
                    self.forsake(link, Pipe::BroadcastUp);
                    self.close(link, Pipe::BroadcastDown, true);
                }
            }
            host::Output::Disconnect { peer, .. } => {
                if let Some(link) = self.peers.remove(&peer) {
                    self.hang_up(link, true, true);
                }
            }
            host::Output::Authenticate { query, token, .. } => {
                let after = self.dice.below(2 * MILLI);
                let admits = token != WRONG;
                self.push(after, Event::Verdict { life: self.host.life, query, admits });
            }
            // The answer comes all the same, to be ignored.
            host::Output::CancelAuthentication { .. } => {}
            host::Output::Ordered(_) => {}
            host::Output::AskRights { id, name, .. } => self.on_ask_rights(id, name),
            host::Output::Event(event) => {
                trace!(self, "host: {event:?}");
                if let host::Event::Evicted { eviction, .. } = event {
                    self.report.evictions += 1;
                    self.unrest = true;
                    let link = eviction.resume.and_then(|session| self.sessions.get(&session).copied());
                    let now = self.host.clock.now(self.now);
                    let acked = link.and_then(|link| self.acked.get(&link).copied()).unwrap_or(0);
                    let heard =
                        link.and_then(|link| self.heard.get(&link).copied()).unwrap_or(Instant::START);
                    self.oracle.on_evicted(self.host.life, &self.scenario, &eviction, now, acked, heard)?;
                }
            }
            host::Output::Drained => self.kill_host(false),
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, lane: Bytes, body: &Bytes) {
        let key = std::str::from_utf8(&lane).unwrap_or_default();
        for index in 0..self.links.len() {
            let link = &mut self.links[index];
            let takes = link.session.is_some()
                && !link.line(Pipe::BroadcastDown).closed
                && link.subscriptions.iter().any(|prefix| key.starts_with(prefix.as_str()));
            if !takes {
                continue;
            }
            let full = link.line(Pipe::BroadcastDown).items.len() >= self.scenario.broadcast_queue;
            let (percent, until) = self.members[link.member].loss;
            let is_lost_tail = matches!(self.phase, Phase::LostTail { .. })
                && link.member == 0
                && body.len() > 2
                && !is_heartbeat(body);
            if full || is_lost_tail || (until > self.now && self.dice.percent(percent)) {
                self.count(Fault::BroadcastLoss);
                continue;
            }
            self.send(index, Pipe::BroadcastDown, Item::Frames(vec![lane.clone(), body.clone()]));
        }
    }

    pub(super) fn on_host_tick(&mut self) -> Result<(), Broken> {
        let every = self.scenario.send_every;
        if matches!(self.phase, Phase::Faults) {
            let next = self.dice.scale(every / 4, every * 2);
            self.push(next, Event::HostTick { life: self.host.life });
            let most = self.scenario.batch;
            let count = self.dice.between(1, most);
            return self.host_sends(count);
        }
        Ok(())
    }

    pub(super) fn host_sends(&mut self, count: u64) -> Result<(), Broken> {
        let Some(machine) = &mut self.host.machine else { return Ok(()) };
        if !machine.takes_submits() {
            return Ok(());
        }
        let first = self.host.next_origin_seq;
        self.host.next_origin_seq += count;
        let body = self.batch(self.host.id, first, count)?;
        self.tell_host(host::Input::Local { body })
    }

    pub(super) fn on_host_handled(&mut self) -> Result<(), Broken> {
        self.host.consumer.busy = false;
        if self.host.consumer.stalled {
            return Ok(());
        }
        self.host.consumer.queue.pop_front();
        if !self.host.consumer.queue.is_empty() {
            self.host.consumer.busy = true;
            let after = self.dice.below(MILLI);
            self.push(after, Event::HostHandled { life: self.host.life });
        }
        self.host_stepped()
    }

    /// Messages of an origin, as a batch.
    pub(super) fn batch(&mut self, id: EndpointId, first: u64, count: u64) -> Result<Bytes, Broken> {
        let mut builder = BatchBuilder::new(first);
        for origin_seq in first..first + count {
            let topic = self.dice.pick(&TOPICS);
            self.counter += 1;
            let length = self.dice.below(self.scenario.payload) as usize;
            let mut payload = self.counter.to_be_bytes().to_vec();
            payload.resize(8 + length, self.counter as u8);
            let Ok(message) = Message::new(topic, payload) else { continue };
            builder.push(&message);
            self.oracle.on_accepted(id, origin_seq, &message)?;
        }
        Ok(builder.finish())
    }
}

//! The end of the faults: all has to come to rest, and to stay so.

use super::super::dice::{MILLI, Nanos, SECOND};
use super::super::network::Pipe;
use super::super::oracle::Broken;
use super::{Event, LAST_MESSAGES, Phase, REST_WITHIN, World, trace};

impl World<'_> {
    pub(in crate::sim) fn recover(&mut self, member: Option<usize>) -> Result<(), Broken> {
        let Some(index) = member else {
            self.host.consumer.stalled = false;
            if !self.host.consumer.busy && !self.host.consumer.queue.is_empty() {
                self.host.consumer.busy = true;
                self.push(0, Event::HostHandled { life: self.host.life });
            }
            return Ok(());
        };
        let consumer = &mut self.members[index].consumer;
        consumer.stalled = false;
        consumer.pace = 0;
        if consumer.busy { Ok(()) } else { self.on_handled_again(index) }
    }

    pub(super) fn on_handled_again(&mut self, index: usize) -> Result<(), Broken> {
        while !self.members[index].consumer.queue.is_empty() && !self.members[index].consumer.busy {
            self.consume(index)?;
        }
        Ok(())
    }

    pub(super) fn heal(&mut self) -> Result<(), Broken> {
        trace!(self, "the faults are over");
        self.phase = Phase::Healing { until: self.now + REST_WITHIN };
        self.host.asleep_until = 0;
        for index in 0..self.members.len() {
            self.members[index].asleep_until = 0;
            self.members[index].held_until = [0; 5];
            self.members[index].loss = (0, 0);
            self.members[index].rejoins = true;
            if self.members[index].is_twin {
                self.kill_member(index, false);
            } else if self.members[index].machine.is_none() {
                self.start_again(index);
            }
            self.recover(Some(index))?;
            self.member_moved(index)?;
        }
        // What stood still goes on.
        for link in 0..self.links.len() {
            for pipe in Pipe::ALL {
                for _ in 0..self.links[link].line(pipe).items.len() {
                    let after = self.latency();
                    self.push(after, Event::Arrive { link, pipe });
                }
            }
        }
        self.recover(None)?;
        self.host_moved()?;
        self.heal_documents()?;
        if self.host.machine.is_none() {
            self.push(MILLI, Event::StartHost);
        }
        self.push(10 * MILLI, Event::Look);
        Ok(())
    }

    pub(super) fn look(&mut self) -> Result<bool, Broken> {
        const LOOK_EVERY: Nanos = 20 * MILLI;
        if self.phase != Phase::Faults {
            self.reopen_documents()?;
        }
        let restless = self.restless().or_else(|| self.documents_restless());
        let unrest = std::mem::take(&mut self.unrest);
        match self.phase {
            Phase::Faults => {}
            Phase::Healing { until } => {
                if restless.is_none() && self.last_messages < LAST_MESSAGES {
                    self.last_messages += 1;
                    self.host_sends(1)?;
                    for index in 0..self.members.len() {
                        self.member_sends(index, 1)?;
                    }
                    self.last_edits()?;
                } else if restless.is_none() {
                    trace!(self, "the cluster has come to rest");
                    self.check_documents()?;
                    let quiet = self.scenario.lease.as_nanos() as Nanos * 2 + SECOND / 2;
                    self.phase = Phase::Resting { until: self.now + quiet };
                } else if self.now > until {
                    let what = restless.unwrap_or_default();
                    return Err((17, format!("the cluster does not come to rest: {what}")));
                }
            }
            Phase::Resting { until } => {
                if let Some(what) = restless {
                    return Err((17, format!("the cluster was at rest, and is not any more: {what}")));
                }
                if unrest {
                    return Err((17, "a session ended in a cluster at rest".to_owned()));
                }
                if self.now > until {
                    self.check_documents()?;
                    let heartbeats = self.scenario.heartbeat.as_nanos() as Nanos * 2;
                    // There and back three times, for each of two clocks that may be slow by a twentieth.
                    let slack = self.scenario.latency.1 * 6 + heartbeats / 10 + 5 * MILLI;
                    self.phase = Phase::LostTail { until: self.now + heartbeats + slack };
                    self.host_sends(1)?;
                }
            }
            Phase::LostTail { until } => {
                if self.now > until {
                    if self.scenario.is_clean() {
                        self.check_clean()?;
                    }
                    self.report.repaired = self.repaired();
                    return match restless {
                        Some(what) => {
                            Err((17, format!("a lost tail was not found within two heartbeats: {what}")))
                        }
                        None => Ok(false),
                    };
                }
            }
        }
        self.push(LOOK_EVERY, Event::Look);
        Ok(true)
    }

    pub(super) fn repaired(&self) -> u64 {
        self.host.machine.as_ref().map_or(0, |machine| machine.counters().repaired_windows)
    }

    /// What keeps the cluster from being at rest, if anything does.
    pub(super) fn restless(&self) -> Option<String> {
        let Some(host) = &self.host.machine else { return Some("the host is down".to_owned()) };
        let end = host.usage().end;
        for (index, member) in self.members.iter().enumerate().filter(|(_, member)| !member.is_twin) {
            let Some(machine) = &member.machine else { return Some(format!("m{index} is down")) };
            let seen = &self.seen[index];
            if !machine.is_live() {
                return Some(format!("m{index} is not live"));
            }
            if !seen.open.is_empty() || machine.usage().outbox_batches > 0 {
                return Some(format!("m{index} waits for word of {} messages", seen.open.len()));
            }
            let at = seen.at().map(|(life, at)| (life, at.seq));
            if at != Some((self.host.life, end.last_seq)) {
                return Some(format!("m{index} is at {at:?}, and the host at {:?}", (self.host.life, end)));
            }
        }
        let behind =
            host.lags(self.host.clock.now(self.now)).into_iter().find(|member| member.lag.messages > 0);
        if let (Some(member), Phase::Healing { .. } | Phase::Resting { .. }) = (behind, self.phase) {
            return Some(format!("the host holds {} to be {} behind", member.id, member.lag));
        }
        let live = host.members().count();
        (live != self.scenario.members).then(|| format!("the host has {live} members"))
    }

    /// Without faults, nothing may have gone wrong.
    pub(super) fn check_clean(&self) -> Result<(), Broken> {
        let report = &self.report;
        if report.evictions + report.resets + report.unknown > 0 {
            return Err((11, "an eviction, a reset or an unknown fate in a run without faults".to_owned()));
        }
        Ok(())
    }
}

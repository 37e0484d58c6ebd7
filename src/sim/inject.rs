//! How faults come about.

use super::Fault;
use super::dice::{MILLI, SECOND};
use super::network::Pipe;
use super::oracle::Broken;
use super::world::{Event, World, trace};
use crate::proto::{host, member};

/// The most processes under ids of others, in one run.
const MAX_TWINS: usize = 3;

impl World<'_> {
    /// Lets one of the scenario's faults happen to somebody.
    pub(super) fn inject(&mut self) -> Result<(), Broken> {
        let fault = self.dice.pick(&self.scenario.faults.clone());
        let member = self.dice.below(self.members.len() as u64) as usize;
        let lasts = self.dice.scale(10 * MILLI, 4 * SECOND);
        let until = self.now + lasts;
        trace!(self, "fault: {}, m{member} or host, {:.3} s", fault.name(), lasts as f64 / SECOND as f64);
        let link = self.members[member].link;
        match fault {
            Fault::BroadcastLoss => self.members[member].loss = (self.dice.between(5, 100), until),
            // They come by themselves.
            Fault::SubmitLoss | Fault::StaleQueue => return Ok(()),
            Fault::Clog => {
                let pipe = self.dice.pick(&Pipe::ALL);
                self.members[member].held_until[pipe as usize] = until;
            }
            Fault::Partition => self.members[member].held_until = [until; 5],
            Fault::OneWayPartition => {
                let up = self.dice.percent(50);
                for pipe in Pipe::ALL.into_iter().filter(|pipe| pipe.is_up() == up) {
                    self.members[member].held_until[pipe as usize] = until;
                }
            }
            Fault::Reset => {
                let Some(link) = link else { return Ok(()) };
                Pipe::ALL.into_iter().for_each(|pipe| self.close(link, pipe, true));
            }
            Fault::ChannelReset => {
                let Some(link) = link else { return Ok(()) };
                match self.dice.below(3) {
                    0 => [Pipe::ControlUp, Pipe::ControlDown]
                        .into_iter()
                        .for_each(|pipe| self.close(link, pipe, true)),
                    1 => [Pipe::BroadcastUp, Pipe::BroadcastDown]
                        .into_iter()
                        .for_each(|pipe| self.close(link, pipe, true)),
                    _ => {
                        self.close(link, Pipe::SubmitUp, true);
                        let life = self.members[member].life;
                        let after = self.dice.below(50 * MILLI);
                        self.push(after, Event::SubmitLost { member, life, link });
                    }
                }
            }
            Fault::BlackHole => {
                let Some(link) = link else { return Ok(()) };
                self.links[link].black_hole = true;
                Pipe::ALL.into_iter().for_each(|pipe| self.links[link].line(pipe).items.clear());
            }
            Fault::HostCrash | Fault::HostPowerLoss => {
                if self.host.machine.is_none() {
                    return Ok(());
                }
                self.kill_host(fault == Fault::HostPowerLoss);
                self.push(lasts, Event::StartHost);
            }
            Fault::HostShutdown => {
                if self.host.machine.is_none() || self.host.is_draining {
                    return Ok(());
                }
                self.host.is_draining = true;
                let life = self.host.life;
                self.push(lasts, Event::StopHost { life });
                self.tell_host(host::Input::Drain)?;
            }
            Fault::MemberCrash | Fault::MemberPowerLoss | Fault::MemberReplaced => {
                if self.members[member].machine.is_none() {
                    return Ok(());
                }
                self.kill_member(member, fault == Fault::MemberPowerLoss);
                if fault == Fault::MemberReplaced {
                    self.members[member].id = self.fresh_id();
                }
            }
            Fault::MemberLeaves => self.tell_member(member, member::Input::Leave)?,
            Fault::Twin => {
                let twins = self.members.iter().filter(|member| member.is_twin).count();
                if twins == MAX_TWINS || self.members[member].is_twin {
                    return Ok(());
                }
                self.add_twin(member);
            }
            Fault::HostPause => self.host.asleep_until = until,
            Fault::MemberPause => self.members[member].asleep_until = until,
            Fault::ClockJump => {
                let now = self.now;
                if self.dice.percent(30) {
                    self.host.clock.jump(now, lasts);
                    self.host_moved()?;
                } else {
                    self.members[member].clock.jump(now, lasts);
                    self.member_moved(member)?;
                }
            }
            Fault::SlowConsumer => {
                self.members[member].consumer.pace = self.dice.scale(MILLI / 10, 100 * MILLI);
                self.push(lasts, Event::Recover { member: Some(member) });
            }
            Fault::StalledConsumer => {
                self.members[member].consumer.stalled = true;
                self.push(lasts, Event::Recover { member: Some(member) });
            }
            Fault::StalledHostConsumer => {
                self.host.consumer.stalled = true;
                self.push(lasts, Event::Recover { member: None });
            }
            Fault::Kick => {
                let id = self.members[member].id;
                self.tell_host(host::Input::Kick { id, text: "at will".to_owned() })?;
            }
            Fault::Resubscribe => self.resubscribe(member)?,
        }
        self.count(fault);
        Ok(())
    }
}

//! Peers that do not belong, or lie in their hello. Nothing they say may touch anybody else.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::id::{EndpointId, PeerId};
use crate::proto::host;
use crate::wire::{ChildMessage, Hello, MAX_EPOCH, MAX_ORIGIN_SEQ, PROTOCOL_VERSION, ParentMessage};

use super::super::dice::{Dice, MILLI};
use super::super::oracle::Broken;
use super::{Event, World, trace};

/// The access token that the simulated authenticator refuses.
pub(super) const WRONG: &[u8] = b"wrong";

/// The strangers of a run.
#[derive(Debug)]
pub(super) struct Strangers {
    /// Not the run's own: other runs are what they were before there were strangers.
    dice: Dice,
    /// Connections that last said hello with a wrong token.
    wrong: BTreeSet<PeerId>,
    count: u64,
}

impl Strangers {
    /// Whether they come in this run.
    pub(super) fn draw(seed: u64) -> Option<Self> {
        let mut dice = Dice::new(seed ^ 0x5354_5241_4e47_4552);
        dice.percent(12).then(|| Self { dice, wrong: BTreeSet::new(), count: 0 })
    }

    fn id(&mut self) -> EndpointId {
        self.count += 1;
        EndpointId::from_bytes((u128::from(self.count) | 99 << 120).to_be_bytes())
    }

    fn peer(&mut self) -> PeerId {
        self.count += 1;
        PeerId::new(Bytes::from(format!("stranger {}", self.count)))
    }

    fn hello(&mut self, token: &'static [u8]) -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            cluster: "sim".into(),
            id: self.id(),
            resume: None,
            incarnation: 0,
            epoch: 0,
            first_open: 0,
            next_origin_seq: 1,
            token: Bytes::from_static(token),
        }
    }

    fn number(&mut self, most: u64) -> u64 {
        let low = self.dice.below(most);
        let near = self.dice.below(10);
        self.dice.pick(&[1, low, most - near])
    }
}

fn says(peer: &PeerId, hello: Hello) -> host::Input {
    let address = Some(SocketAddr::from(([10, 0, 1, 1], 1)));
    let frames = vec![ChildMessage::Hello(hello).encode()];
    host::Input::Control { peer: peer.clone(), address, frames }
}

impl World<'_> {
    /// Strangers come, and more of them after a while.
    pub(super) fn on_strangers(&mut self) -> Result<(), Broken> {
        let Some(mut strangers) = self.strangers.take() else { return Ok(()) };
        let next = strangers.dice.scale(5 * MILLI, 500 * MILLI);
        self.push(next, Event::Strangers);
        let mut inputs = Vec::new();
        match strangers.dice.below(3) {
            // One shows a good token, hangs up, and comes again by a connection of the same name,
            // with a wrong one.
            0 => {
                let peer = strangers.peer();
                inputs.push(says(&peer, strangers.hello(b"")));
                inputs.push(host::Input::ControlClosed { peer: peer.clone() });
                inputs.push(says(&peer, strangers.hello(WRONG)));
                strangers.wrong.insert(peer);
            }
            // One is admitted, and claims what it likes of epochs and numbers.
            1 => {
                let epoch = strangers.number(MAX_EPOCH);
                let incarnation = strangers.dice.any();
                let next_origin_seq = strangers.number(MAX_ORIGIN_SEQ);
                let hello = Hello { incarnation, epoch, next_origin_seq, ..strangers.hello(b"") };
                inputs.push(says(&strangers.peer(), hello));
            }
            // Some come one after the other, each under an id of its own.
            _ => {
                for _ in 0..strangers.dice.between(1, 10) {
                    let peer = strangers.peer();
                    inputs.push(says(&peer, strangers.hello(b"")));
                    inputs.push(host::Input::ControlClosed { peer });
                }
            }
        }
        for input in &inputs {
            if let host::Input::Control { peer, .. } = input {
                let (peer, after) = (peer.clone(), strangers.dice.below(20 * MILLI));
                self.push(after, Event::StrangerGone { life: self.host.life, peer });
            }
        }
        self.strangers = Some(strangers);
        inputs.into_iter().try_for_each(|input| self.tell_host(input))
    }

    /// The host says something to a connection that may be a stranger's.
    pub(super) fn check_stranger(&mut self, peer: &PeerId, frame: &Bytes) -> Result<(), Broken> {
        let is_wrong = self.strangers.as_ref().is_some_and(|strangers| strangers.wrong.contains(peer));
        if is_wrong && matches!(ParentMessage::decode(frame), Ok(ParentMessage::Welcome(_))) {
            trace!(self, "{peer:?} is welcomed with a wrong token");
            return Err((14, "a hello with a wrong token was admitted".to_owned()));
        }
        Ok(())
    }
}

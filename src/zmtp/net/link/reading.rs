//! How a connection takes in what its peer says: read, parsed as far as there is room, vetted while
//! the peer is untrusted, and handed to the socket.

use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::{Link, PER_TURN};
use crate::zmtp::connection::later;
use crate::zmtp::net::monitor::DisconnectReason;
use crate::zmtp::net::unfinished::FREE;
use crate::zmtp::net::vetting::{Opening, Rate, Vetting};
use crate::zmtp::{Event, Message};

/// How much is read at once: at first, and at most. It grows with reads that fill it, and shrinks with those that do not fill a quarter, so that
/// a message does not hold much more memory than it has. Measured with 32, 64 and 256 KiB: with more than 64 the allocator gives the memory back to the system each
/// time, and takes a third more of the processors.
pub(super) const READ: (usize, usize) = (2 * 1024, FREE);

/// How many frames a connection takes in before others have their turn: of a trusted peer, and of
/// another one (guesses: some hundred microseconds of work, and some ten).
const STEPS: (usize, usize) = (2_048, 64);
/// How many steps a changed subscription counts for (measured: about a microsecond, where a small
/// message takes a tenth of that).
const STEPS_PER_CHANGE: usize = 8;
/// Why an untrusted peer is cut off that says something else than its socket expects of it.
const REJECTED: DisconnectReason =
    DisconnectReason::Rejected("it does not speak the protocol of this cluster, or not in turn");

impl Link {
    /// Whether what comes next of the peer is taken in now.
    pub(super) fn may_take_in(&self) -> bool {
        let is_slowed = |rate: &Rate| rate.empty_until(Instant::now()).is_some();
        self.peer.credit.room() > 0 && !self.rate.as_ref().is_some_and(is_slowed)
    }

    /// The peer has all rights of its socket's from now on.
    pub(super) fn on_trusted(&mut self) {
        self.is_trusted = true;
        self.opening_due = None;
        let limits = self.hub.options.limits.clone();
        let changes = limits.subscription_rate.filter(|_| self.hub.kind.publishes());
        self.rate = changes.map(|rate| {
            let burst = u32::try_from(limits.subscriptions).unwrap_or(u32::MAX);
            Rate::new((burst, rate), Instant::now())
        });
        self.connection.set_limits(limits);
    }

    /// Reads what is there. Whether there may be more, and others are to have their turn first.
    pub(super) fn read(&mut self) -> Result<bool, DisconnectReason> {
        let mut steps = if self.is_trusted { STEPS.0 } else { STEPS.1 };
        for _ in 0..PER_TURN {
            if !self.take_in(&mut steps)? {
                return Ok(steps == 0);
            }
            if !self.is_readable {
                self.on_read_all();
                return Ok(false);
            }
            // Of a large frame as much as is allowed at once; never what it only announces.
            let most = if self.is_trusted { READ.1 } else { READ.0 };
            let missing = self.connection.missing(&self.buffer).min(most);
            self.buffer.reserve(self.chunk.max(missing));
            let room = self.buffer.capacity() - self.buffer.len();
            let read = match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return Err(DisconnectReason::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.on_read_all();
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(DisconnectReason::Failed(error.to_string())),
            };
            let is_full = read == room;
            if is_full {
                self.chunk = (self.chunk * 2).min(most);
            } else if read < self.chunk / 4 {
                self.chunk = (self.chunk / 2).max(READ.0);
            }
            self.is_unparsed = true;
            let has_taken_all = self.take_in(&mut steps)?;
            self.charge()?;
            if !is_full {
                // That was all: the system says when there is more.
                self.on_read_all();
            }
            if !has_taken_all {
                return Ok(steps == 0);
            }
        }
        Ok(true)
    }

    /// Takes complete frames out of the buffer, as long as there is room for what they say, the peer
    /// is not too fast, and there are steps left. Whether all were taken.
    fn take_in(&mut self, steps: &mut usize) -> Result<bool, DisconnectReason> {
        while self.is_unparsed {
            let room = self.peer.credit.room();
            // One at a time if what one says decides upon the next.
            let one_by_one = !self.is_trusted || self.rate.is_some();
            let most = if one_by_one { 1.min(room) } else { room };
            let most = most.min(*steps);
            if most == 0 || !self.may_take_in() {
                return Ok(false);
            }
            let before = self.buffer.len();
            let outcome = self.connection.handle_frames(Instant::now(), &mut self.buffer, most);
            self.uncounted += before - self.buffer.len();
            let changes = self.take_events()?;
            let taken = outcome.map_err(DisconnectReason::Violation)?;
            self.is_unparsed = taken == most;
            *steps = steps.saturating_sub(taken + changes * STEPS_PER_CHANGE);
            if let Some(rate) = &mut self.rate {
                let cost = if self.is_trusted { changes } else { taken };
                (0..cost).for_each(|_| rate.take(Instant::now()));
            }
            if !self.is_trusted && self.is_ready {
                self.vet_partial()?;
            }
            if self.connection.partial.is_empty() {
                // The other frames were commands, which are no part of a message.
                self.uncounted = 0;
            }
        }
        Ok(true)
    }

    /// Counts what the connection holds of a message that is not complete.
    fn charge(&mut self) -> Result<(), DisconnectReason> {
        let held = self.uncounted + self.buffer.len();
        if !self.is_trusted {
            self.hub.untrusted.charge_reading(&self.peer, held);
        }
        self.hub.unfinished.hold(&mut self.ticket, &self.peer, held)
    }

    /// Judges an untrusted peer by the first frame of a message that goes on.
    fn vet_partial(&mut self) -> Result<(), DisconnectReason> {
        let Some(first) = self.connection.partial.first().cloned() else { return Ok(()) };
        match self.hub.vetting().map(|vetting| &vetting.opening) {
            Some(Opening::Message(_)) => Err(REJECTED),
            Some(Opening::Name(name_of)) => {
                let name = name_of(&first);
                self.trust_by_name(name)
            }
            Some(Opening::Subscriptions) | None => Ok(()),
        }
    }

    /// Judges an untrusted peer by a message. Whether the message counts.
    fn vet(&mut self, message: &Message) -> Result<bool, DisconnectReason> {
        let Some(Vetting { opening, .. }) = self.hub.vetting() else { return Ok(true) };
        match opening {
            Opening::Message(is_opening) => {
                if self.peer.has_spoken() || message.len() > 1 || !is_opening(message.first()) {
                    return Err(REJECTED);
                }
                self.opening_due = None;
                Ok(true)
            }
            Opening::Name(name_of) => {
                let name = name_of(message.first());
                self.trust_by_name(name).map(|()| true)
            }
            Opening::Subscriptions => Ok(false),
        }
    }

    fn trust_by_name(&mut self, name: Option<Bytes>) -> Result<(), DisconnectReason> {
        if !name.is_some_and(|name| self.hub.trust_as(&self.peer, name)) {
            return Err(REJECTED);
        }
        self.on_trusted();
        Ok(())
    }

    fn on_read_all(&mut self) {
        self.is_readable = false;
        if self.buffer.is_empty() {
            // A connection that rests holds no memory for reading.
            self.buffer = BytesMut::new();
        }
    }

    /// Handles what the machine has understood. Gives how many subscriptions that changed.
    fn take_events(&mut self) -> Result<usize, DisconnectReason> {
        let (mut messages, mut changes) = (Vec::new(), 0);
        let mut result = Ok(());
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Message(message) if self.is_trusted => messages.push(message),
                Event::Message(message) => match self.vet(&message) {
                    Ok(true) => messages.push(message),
                    Ok(false) => self.hub.pass_over(1),
                    Err(reason) => result = Err(reason),
                },
                Event::Ready(info) => {
                    self.is_ready = true;
                    result = self.hub.on_ready(&self.peer, info);
                    if self.peer.is_trusted() {
                        self.on_trusted();
                    } else if let Some(Vetting { opening: Opening::Message(_), .. }) = self.hub.vetting() {
                        self.opening_due = Some(later(Instant::now(), self.hub.options.limits.handshake));
                    }
                }
                Event::Subscribe(prefix) => {
                    changes += 1;
                    result = self.on_subscription(true, &prefix);
                }
                Event::Cancel(prefix) => {
                    changes += 1;
                    result = self.on_subscription(false, &prefix);
                }
            }
            if result.is_err() {
                break;
            }
        }
        if !messages.is_empty() {
            // A large one came in many reads.
            self.hub.on_messages(&self.peer, messages, std::mem::take(&mut self.uncounted));
        }
        result.map(|()| changes)
    }

    fn on_subscription(&self, subscribe: bool, prefix: &Bytes) -> Result<(), DisconnectReason> {
        self.hub.on_subscription(&self.peer, subscribe, prefix).map_err(DisconnectReason::Violation)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use crate::zmtp::net::{Arrival, Bound, Core, Endpoint, Options};
    use crate::zmtp::{SocketType, greeting};

    /// A READY command of a PUSH.
    const READY: &[u8] = b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH";

    #[tokio::test]
    async fn parses_no_further_than_the_receive_mark() {
        let options = Options { recv_hwm: Bound::new(10, 1 << 20), ..Options::default() };
        let mut pull = Core::new(SocketType::Pull, options, false);
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 0 };
        let listening = pull.bind(&endpoint).await.unwrap();
        let Endpoint::Tcp { port, .. } = pull.listen(listening) else { unreachable!() };
        let mut raw = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        // A thousand empty messages, in the same segment as the handshake.
        let octets = [&greeting::ours()[..], READY, &[0; 2_000]].concat();
        raw.write_all(&octets).await.unwrap();
        let mut count = 0;
        while count < 1_000 {
            let Some(Arrival::Messages(batch)) = pull.arrival().await else { panic!("no messages") };
            let messages = batch.count();
            assert!(messages <= 10, "{messages} at once");
            count += messages;
        }
        assert_eq!(count, 1_000);
    }
}

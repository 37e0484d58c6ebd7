//! The task of one connection: reads, writes, keeps time.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::Interest;

use super::endpoint::Stream;
use super::hub::{Hub, Peer};
use super::monitor::DisconnectReason;
use crate::zmtp::{Config, Connection, Event, Violation};

/// How often a connection writes, and reads, before others have their turn (a guess: some hundred microseconds of work).
const PER_TURN: usize = 8;
/// How many pieces go into one write (what Linux takes is 1,024; more than a few dozen gain nothing measurable).
const SLICES: usize = 64;
/// How much is read at once: at first, and at most. It grows with reads that fill it, and shrinks with those that do not fill a quarter, so that
/// a message does not hold much more memory than it has. Measured with 32, 64 and 256 KiB: with more than 64 the allocator gives the memory back to the system each
/// time, and takes a third more of the processors.
const READ: (usize, usize) = (2 * 1024, 64 * 1024);

struct Link {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    stream: Stream,
    connection: Box<Connection>,
    buffer: BytesMut,
    chunk: usize,
    /// What is being written, in order.
    pending: VecDeque<Bytes>,
    is_ready: bool,
    is_ours: bool,
}

/// Why a turn of writing ended.
#[derive(PartialEq, Eq)]
enum Wrote {
    /// There is no more.
    All,
    /// The system takes no more for now.
    Blocked,
    /// Others have their turn.
    Enough,
}

/// Serves a connection to its end.
pub(super) async fn run(hub: Arc<Hub>, peer: Arc<Peer>, stream: Stream, is_ours: bool) {
    let config = Config {
        kind: hub.kind,
        identity: hub.options.identity.clone(),
        limits: hub.options.limits.clone(),
        heartbeat: hub.options.heartbeat,
    };
    let prepared = stream.prepare(&hub.options);
    let mut link = Link {
        connection: Box::new(Connection::new(config, Instant::now())),
        hub,
        peer,
        stream,
        buffer: BytesMut::new(),
        chunk: READ.0,
        pending: VecDeque::new(),
        is_ready: false,
        is_ours,
    };
    let reason = match prepared {
        Ok(()) => link.serve().await,
        Err(error) => DisconnectReason::Failed(error.to_string()),
    };
    if let (Some(until), DisconnectReason::Asked, true) =
        (link.hub.lingers_until(), &reason, link.pending.is_empty())
    {
        // What is not taken by then is lost, as with all that lingers.
        let _ = tokio::time::timeout_at(until, link.part()).await;
    }
    let Link { hub, peer, is_ready, .. } = link;
    if !is_ready {
        hub.on_introduced(is_ours);
    }
    hub.on_gone(&peer, is_ours, reason);
}

impl Link {
    async fn serve(&mut self) -> DisconnectReason {
        loop {
            let wrote = match self.write() {
                Ok(wrote) => wrote,
                Err(error) => return DisconnectReason::Failed(error.to_string()),
            };
            if let Some(reason) = self.peer.queue.ended() {
                return reason;
            }
            let may_read = self.peer.credit.has_room();
            let mut read_enough = false;
            if may_read {
                match self.read() {
                    Ok(enough) => read_enough = enough,
                    Err(reason) => return reason,
                }
            }
            match self.keep_time(may_read) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(reason) => return reason,
            }
            if wrote == Wrote::Enough || read_enough {
                tokio::task::yield_now().await;
                if self.hub.cancel.is_cancelled() {
                    return DisconnectReason::Asked;
                }
                continue;
            }
            if let Err(reason) = self.wait(may_read, wrote == Wrote::Blocked).await {
                return reason;
            }
        }
    }

    /// Everything was handed to the system, which has not sent all of it, perhaps: where there is something unread when a connection is closed it is
    /// reset, and what was not sent is gone. So that is read, and dropped, until the peer has come to the end, and closes.
    async fn part(&mut self) {
        let mut is_shut = false;
        loop {
            self.buffer.clear();
            self.buffer.reserve(READ.0);
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return,
                Ok(_) if is_shut => tokio::task::yield_now().await,
                Ok(_) if self.stream.shut_down_writing().is_ok() => is_shut = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_shut => {
                    if self.stream.ready(Interest::READABLE).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Does what is due; whether anything was. After reading, so that a peer is not taken for silent whose octets were there, and had to wait.
    fn keep_time(&mut self, may_read: bool) -> Result<bool, DisconnectReason> {
        let Some(due) = self.connection.poll_timeout() else { return Ok(false) };
        let now = Instant::now();
        if now < due {
            return Ok(false);
        }
        if !may_read {
            self.connection.handle_unread(now);
        }
        self.connection.handle_timeout(now).map_err(DisconnectReason::Violation)?;
        Ok(true)
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, may_read: bool, blocked: bool) -> Result<(), DisconnectReason> {
        let interest = match (may_read, blocked) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        };
        // What the machine has to say was taken before: only a deadline can add to it.
        let deadline = self.connection.poll_timeout();
        let (peer, stream, wants_work) = (&self.peer, &self.stream, self.is_ready && !blocked);
        tokio::select! {
            ready = async {
                match interest {
                    Some(interest) => stream.ready(interest).await,
                    None => std::future::pending().await,
                }
            } => ready.map_err(|error| DisconnectReason::Failed(error.to_string())),
            () = std::future::poll_fn(|cx| peer.queue.poll_work(cx, wants_work)) => Ok(()),
            () = std::future::poll_fn(|cx| peer.credit.poll_room(cx)), if !may_read => Ok(()),
            () = sleep_until(deadline) => Ok(()),
            () = self.hub.cancel.cancelled() => Err(DisconnectReason::Asked),
        }
    }

    fn write(&mut self) -> io::Result<Wrote> {
        for _ in 0..PER_TURN {
            // Between messages: what is pending ends with a whole one. What the machine has to say stays there while nothing goes out, for there it
            // is bounded.
            if self.pending.is_empty() {
                self.pending.extend(std::iter::from_fn(|| self.connection.poll_transmit()));
            }
            if self.pending.is_empty() && self.is_ready {
                if self.peer.queue.begin_turn() {
                    self.hub.flush();
                }
                if self.peer.queue.take(&mut self.pending) {
                    self.hub.room.notify_waiters();
                }
            }
            if self.pending.is_empty() {
                if self.hub.is_closing() {
                    self.hub.room.notify_waiters();
                }
                return Ok(Wrote::All);
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.pending.len().min(SLICES);
            for (slice, bytes) in slices.iter_mut().zip(&self.pending) {
                *slice = IoSlice::new(bytes);
            }
            match self.stream.try_write(&slices[..count]) {
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Wrote::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Wrote::Enough)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.pending.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.pending.pop_front();
        }
    }

    /// Reads what is there. Whether there may be more, and others are to have their turn first.
    fn read(&mut self) -> Result<bool, DisconnectReason> {
        for _ in 0..PER_TURN {
            // Of a large frame as much as is allowed at once; never what it only announces.
            let missing = self.connection.missing(&self.buffer).min(READ.1);
            self.buffer.reserve(self.chunk.max(missing));
            let room = self.buffer.capacity() - self.buffer.len();
            let read = match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return Err(DisconnectReason::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.buffer.is_empty() {
                        // A connection that rests holds no memory for reading.
                        self.buffer = BytesMut::new();
                    }
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(DisconnectReason::Failed(error.to_string())),
            };
            let is_full = read == room;
            if is_full {
                self.chunk = (self.chunk * 2).min(READ.1);
            } else if read < self.chunk / 4 {
                self.chunk = (self.chunk / 2).max(READ.0);
            }
            let outcome = self.connection.handle_bytes(Instant::now(), &mut self.buffer);
            self.take_events(read)?;
            outcome.map_err(DisconnectReason::Violation)?;
            if !is_full {
                // Most likely that was all: the system says when there is more.
                return Ok(false);
            }
            if !self.peer.credit.has_room() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take_events(&mut self, read: usize) -> Result<(), DisconnectReason> {
        let mut messages = Vec::new();
        let mut result = Ok(());
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Message(message) => messages.push(message),
                Event::Ready(info) => {
                    self.is_ready = true;
                    self.hub.on_introduced(self.is_ours);
                    result = self.hub.on_ready(&self.peer, info);
                }
                Event::Subscribe(prefix) => result = self.on_subscription(true, &prefix, &mut messages),
                Event::Cancel(prefix) => result = self.on_subscription(false, &prefix, &mut messages),
            }
            if result.is_err() {
                break;
            }
        }
        self.hub.on_messages(&self.peer, messages, read);
        result
    }

    fn on_subscription(
        &self,
        subscribe: bool,
        prefix: &Bytes,
        messages: &mut Vec<crate::zmtp::Message>,
    ) -> Result<(), DisconnectReason> {
        let outcome: Result<(), Violation> =
            self.hub.on_subscription(&self.peer, subscribe, prefix, messages);
        outcome.map_err(DisconnectReason::Violation)
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

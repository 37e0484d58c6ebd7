//! The task of one connection: reads, writes, keeps time.

mod reading;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::endpoint::Stream;
use super::hub::{Hub, Peer};
use super::monitor::DisconnectReason;
use super::unfinished::Ticket;
use super::vetting::{FRAMES, Rate};
use crate::zmtp::connection::SIGN_PACE;
use crate::zmtp::{Config, Connection};
use reading::READ;

/// How often a connection writes, and reads, before others have their turn (a guess: some hundred microseconds of work).
const PER_TURN: usize = 8;
/// How many pieces go into one write (what Linux takes is 1,024; more than a few dozen gain nothing measurable).
const SLICES: usize = 64;
/// How often a connection that is not read looks whether it has ended, and whether the peer is to be told that this side lives. Nobody is woken for the end
/// alone while there is something unread.
const LOOK: Duration = SIGN_PACE;

/// For how long in all, after a connection has ended, nothing may be there to read of what was said before, although there is room for it (a guess: the system has
/// all of it).
const HEARING: Duration = Duration::from_secs(1);

/// How long a connection that is closed waits at most for its peer to close, too, where lingering may take longer: a peer may never do (a guess).
const PARTING: Duration = Duration::from_secs(30);

struct Link {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    stream: Stream,
    connection: Box<Connection>,
    buffer: BytesMut,
    chunk: usize,
    /// Whether the buffer may hold complete frames that were not taken in yet.
    is_unparsed: bool,
    /// How many octets were taken in that no message was counted with yet.
    uncounted: usize,
    /// Whether the peer's limits are those of a trusted one.
    is_trusted: bool,
    /// How fast frames are taken of an untrusted peer, or subscriptions of a trusted one.
    rate: Option<Rate>,
    /// Until when the peer has to say its first word.
    opening_due: Option<Instant>,
    /// Where it counts among those with a message that is not complete.
    ticket: Ticket,
    /// What is being written, in order.
    pending: VecDeque<Bytes>,
    /// Whether there may be something to read.
    is_readable: bool,
    is_ready: bool,
    /// Whether the system took no more when it was given something last.
    is_blocked: bool,
    /// Whether the connection has ended before all was read that the peer had said.
    is_unheard: bool,
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
    let now = Instant::now();
    let config = Config {
        kind: hub.kind,
        identity: hub.options.identity.clone(),
        limits: if is_ours { hub.options.limits.clone() } else { hub.untrusted_limits() },
        heartbeat: hub.options.heartbeat,
    };
    let prepared = stream.prepare(&hub.options);
    let mut link = Link {
        rate: hub.vetting().map(|_| Rate::new(FRAMES, now)),
        connection: Box::new(Connection::new(config, now)),
        hub,
        peer,
        stream,
        buffer: BytesMut::new(),
        chunk: READ.0,
        is_unparsed: false,
        uncounted: 0,
        is_trusted: false,
        opening_due: None,
        ticket: Ticket::default(),
        pending: VecDeque::new(),
        is_readable: true,
        is_ready: false,
        is_blocked: false,
        is_unheard: false,
    };
    let reason = match prepared {
        Ok(()) => link.serve().await,
        Err(error) => DisconnectReason::Failed(error.to_string()),
    };
    if let (Some(until), DisconnectReason::Asked, true) =
        (link.hub.lingers_until(), &reason, link.pending.is_empty())
    {
        // What is not taken by then is lost, as with all that lingers.
        let until = until.min(tokio::time::Instant::now() + PARTING);
        let _ = tokio::time::timeout_at(until, link.part()).await;
    }
    // An untrusted peer has said all that counts before its first word was taken in.
    let is_heard_out = !link.is_ready || !link.is_trusted || link.hear_at_once();
    link.hub.on_ended(&link.peer, is_ours, &reason, is_heard_out);
    if !is_heard_out {
        // By itself, so that a connection to the endpoint can be made again meanwhile.
        let hub = Arc::clone(&link.hub);
        hub.tasks.spawn(async move {
            link.hear_out().await;
            link.hub.on_heard_out(&link.peer, is_ours, &reason);
        });
    }
}

impl Link {
    async fn serve(&mut self) -> DisconnectReason {
        // Kept from wait to wait, so that not each of them queues up with all other connections.
        let cancelled = self.hub.cancel.clone().cancelled_owned();
        tokio::pin!(cancelled);
        loop {
            // Where it is to end, what was said before that still goes out, as far as the system takes it now.
            let ended = self.peer.queue.ended();
            if !self.is_trusted && self.peer.is_trusted() {
                self.on_trusted();
            }
            let may_read = ended.is_none() && self.may_take_in();
            let mut read_enough = false;
            if may_read && (self.is_readable || self.is_unparsed) {
                match self.read() {
                    Ok(enough) => read_enough = enough,
                    Err(reason) => return reason,
                }
            }
            // What was taken in may have used up the room, or the rate.
            let may_read = may_read && self.may_take_in();
            if let Err(reason) = self.keep_time(may_read) {
                return reason;
            }
            // At last, since what came may have to be answered.
            let wrote = match self.write() {
                Ok(wrote) => wrote,
                Err(error) => {
                    self.is_unheard = ended.is_none() && is_end(&error);
                    return DisconnectReason::Failed(error.to_string());
                }
            };
            self.is_blocked = wrote == Wrote::Blocked;
            if let Some(reason) = ended {
                return reason;
            }
            if !may_read && let Some(reason) = self.end_unread() {
                self.is_unheard = true;
                return reason;
            }
            if wrote == Wrote::Enough || read_enough || (may_read && self.is_unparsed) {
                tokio::task::yield_now().await;
                self.is_readable = true;
                if self.hub.cancel.is_cancelled() {
                    return DisconnectReason::Asked;
                }
                continue;
            }
            if let Err(reason) = self.wait(may_read, cancelled.as_mut()).await {
                return reason;
            }
        }
    }

    /// Why the connection has ended, if it has: looked at where that is not found by reading.
    fn end_unread(&self) -> Option<DisconnectReason> {
        match self.stream.is_ended() {
            Ok(false) => None,
            Ok(true) => Some(DisconnectReason::Closed),
            Err(error) => Some(DisconnectReason::Failed(error.to_string())),
        }
    }

    /// Reads what the peer had said before its end, as far as there is room and it takes no time: mostly that is all. Whether it is.
    fn hear_at_once(&mut self) -> bool {
        for _ in 0..PER_TURN {
            if !self.is_unheard || !self.peer.credit.has_room() {
                break;
            }
            self.is_readable = true;
            self.is_unheard = self.read().is_ok();
        }
        !self.is_unheard
    }

    /// Reads what the peer had said before its end, as there is room for it, until the peer is cut off.
    async fn hear_out(&mut self) {
        // A peer that only reads no more may go on for ever otherwise. If it fails there is no connection that could.
        let _ = self.stream.shut_down_reading();
        let cancel = self.hub.cancel.clone();
        let (peer, mut patience) = (Arc::clone(&self.peer), HEARING);
        let reading = async {
            loop {
                std::future::poll_fn(|cx| peer.credit.poll_room(cx)).await;
                self.is_readable = true;
                match self.read() {
                    Ok(true) => tokio::task::yield_now().await,
                    Ok(false) if !peer.credit.has_room() => {}
                    // The end follows, which is known to the system already.
                    Ok(false) => {
                        let since = Instant::now();
                        let more = std::future::poll_fn(|cx| self.stream.poll_readable(cx));
                        if !matches!(tokio::time::timeout(patience, more).await, Ok(Ok(()))) {
                            return;
                        }
                        patience = patience.saturating_sub(since.elapsed());
                    }
                    Err(_) => return,
                }
            }
        };
        let cut = std::future::poll_fn(|cx| peer.queue.poll_work(cx, false));
        // Where the socket itself ends, nobody is left to hear it.
        let _ = cancel.run_until_cancelled(futures::future::select(pin!(reading), pin!(cut))).await;
    }

    /// Everything was handed to the system, which has not sent all of it, perhaps: where there is something unread when a connection is closed, or something comes
    /// afterwards, it is reset, and what was not sent is gone. So what comes is read, and dropped, until the peer has come to the end, and closes.
    async fn part(&mut self) {
        if !self.stream.may_lose_what_was_written() || self.stream.shut_down_writing().is_err() {
            return;
        }
        loop {
            self.buffer.clear();
            self.buffer.reserve(READ.0);
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return,
                Ok(_) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if std::future::poll_fn(|cx| self.stream.poll_readable(cx)).await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Does what is due. After reading, so that a peer is not taken for silent whose octets were there, and had to wait.
    fn keep_time(&mut self, may_read: bool) -> Result<(), DisconnectReason> {
        let due = self.connection.poll_timeout();
        if may_read && due.is_none() && self.opening_due.is_none() {
            return Ok(());
        }
        let now = Instant::now();
        if self.opening_due.is_some_and(|due| due <= now) {
            return Err(DisconnectReason::Rejected("it said nothing in time"));
        }
        if !may_read {
            self.connection.handle_unread(now);
        }
        if self.is_blocked {
            self.connection.handle_blocked(now);
        }
        if due.is_none_or(|due| now < due) {
            return Ok(());
        }
        self.connection.handle_timeout(now).map_err(DisconnectReason::Violation)
    }

    /// Waits until there is something to do.
    async fn wait(
        &mut self,
        may_read: bool,
        mut cancelled: Pin<&mut WaitForCancellationFutureOwned>,
    ) -> Result<(), DisconnectReason> {
        // What the machine has to say was taken before: only a deadline can add to it.
        let now = Instant::now();
        let look = (!may_read).then(|| now + LOOK);
        let refill = self.rate.as_ref().and_then(|rate| rate.empty_until(now));
        let due = [self.connection.poll_timeout(), self.opening_due, look, refill];
        let deadline = due.into_iter().flatten().min();
        let blocked = self.is_blocked;
        let (peer, stream, is_readable) = (&self.peer, &self.stream, &mut self.is_readable);
        let wants_work = self.is_ready && !blocked;
        let something = std::future::poll_fn(|cx| {
            if cancelled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(DisconnectReason::Asked));
            }
            let mut woken = peer.queue.poll_work(cx, wants_work).is_ready();
            if !may_read {
                if refill.is_none() && peer.credit.poll_room(cx).is_ready() {
                    *is_readable = true;
                    woken = true;
                }
            } else if let Poll::Ready(outcome) = stream.poll_readable(cx) {
                outcome.map_err(|error| DisconnectReason::Failed(error.to_string()))?;
                *is_readable = true;
                woken = true;
            }
            if blocked && let Poll::Ready(outcome) = stream.poll_writable(cx) {
                outcome.map_err(|error| DisconnectReason::Failed(error.to_string()))?;
                woken = true;
            }
            if woken { Poll::Ready(Ok(())) } else { Poll::Pending }
        });
        match deadline {
            None => something.await,
            // At its end the deadline has come.
            Some(deadline) => tokio::time::timeout_at(deadline.into(), something).await.unwrap_or(Ok(())),
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
                if self.peer.queue.take(&mut self.pending, self.peer.minor()) {
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
}

impl Drop for Link {
    fn drop(&mut self) {
        self.hub.unfinished.release(&mut self.ticket);
    }
}

/// Whether an error of writing says that the connection is at its end in both directions, so that reading comes to the end, too.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut)
}

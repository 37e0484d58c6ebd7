//! One connection, without IO: octets go in, messages and subscriptions come out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::command::{self, Command, Metadata};
use super::frame::{COMMAND, Head, MORE};
use super::violation::Violation;
use super::{Heartbeat, Identity, Limits, Message, SocketType, greeting};

/// How many commands may wait to be sent: far more than a peer that reads lets wait (a guess).
pub(super) const MAX_TRANSMITS: usize = 64;
/// How often a peer that is not read is given a sign of life: libzmq waits for one as long as it pauses between two PINGs, which is seconds (a guess).
pub(super) const SIGN_PACE: Duration = Duration::from_millis(500);

/// The least pause between two PINGs: with none at all there would be no end of them.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// How much has to come of a message within [`Limits::message_time`] for it to go on.
const PROGRESS: u64 = 4 * 1024;

/// What takes so long never happens: 30 years (as in tokio).
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The moment so long after another; what cannot be counted is as good as never.
pub(super) fn later(moment: Instant, duration: Duration) -> Instant {
    moment.checked_add(duration).unwrap_or_else(|| moment + NEVER)
}

/// What a connection is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The type of the socket it belongs to.
    pub kind: SocketType,
    /// The identity to introduce oneself with.
    pub identity: Identity,
    /// What is taken of the peer.
    pub limits: Limits,
    /// Whether to ask for signs of life.
    pub heartbeat: Option<Heartbeat>,
}

/// What a peer said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// The type of its socket.
    pub kind: SocketType,
    /// Its identity; empty for none.
    pub identity: Bytes,
    /// Its minor version: 0 speaks of subscriptions by messages, 1 by commands.
    pub minor: u8,
}

/// What came of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Both have introduced themselves: messages may be sent.
    Ready(PeerInfo),
    /// A message.
    Message(Message),
    /// The peer subscribes to a prefix.
    Subscribe(Bytes),
    /// The peer takes a subscription back.
    Cancel(Bytes),
}

#[derive(Debug)]
enum State {
    Greeting,
    /// The greeting is there, of this minor version; READY is due.
    Introducing(u8),
    Up(PeerInfo),
}

/// The state machine of a connection.
///
/// Whoever owns it
///
/// 1. sends what [`poll_transmit`](Self::poll_transmit) gives, at once and whenever something was put in;
/// 2. puts received octets behind each other into a buffer, and calls [`handle_bytes`](Self::handle_bytes) with it, which takes away what is
///    complete; or [`handle_timeout`](Self::handle_timeout) when the moment that [`poll_timeout`](Self::poll_timeout) names has come;
/// 3. takes the events from [`poll_event`](Self::poll_event);
/// 4. closes the connection when a call gives a [`Violation`], or the peer closes it. Events before that count.
///
/// Messages to the peer do not go through it: when [`Event::Ready`] has come they may be sent as [`encode`] gives them, whole, and between what
/// `poll_transmit` gives.
///
/// ```
/// use std::time::Instant;
/// use bytes::BytesMut;
/// use zincmq::zmtp::{Config, Connection, Event, Identity, Limits, Message, SocketType, encode};
///
/// let now = Instant::now();
/// let config = |kind| Config { kind, identity: Identity::default(), limits: Limits::default(), heartbeat: None };
/// let (mut push, mut pull) = (Connection::new(config(SocketType::Push), now), Connection::new(config(SocketType::Pull), now));
/// let (mut to_pull, mut to_push) = (BytesMut::new(), BytesMut::new());
/// for _ in 0..3 {
///     std::iter::from_fn(|| push.poll_transmit()).for_each(|bytes| to_pull.extend_from_slice(&bytes));
///     std::iter::from_fn(|| pull.poll_transmit()).for_each(|bytes| to_push.extend_from_slice(&bytes));
///     push.handle_bytes(now, &mut to_push)?;
///     pull.handle_bytes(now, &mut to_pull)?;
/// }
/// assert!(matches!(push.poll_event(), Some(Event::Ready(_))));
/// to_pull.extend_from_slice(&encode(&Message::from("work")));
/// pull.handle_bytes(now, &mut to_pull)?;
/// assert!(matches!(pull.poll_event(), Some(Event::Ready(_))));
/// assert_eq!(pull.poll_event(), Some(Event::Message("work".into())));
/// # Ok::<(), zincmq::zmtp::Violation>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    config: Config,
    state: State,
    /// When the handshake must be done.
    deadline: Instant,
    /// The frames so far of a message that is not complete, and their octets.
    pub(super) partial: Vec<Bytes>,
    pub(super) partial_bytes: u64,
    /// Until when what is not complete has to go on, and how much there was of it when that was set.
    unfinished: Option<(Instant, u64)>,
    heard_at: Instant,
    /// After how long of silence the peer wants to be taken for dead.
    peer_ttl: Option<Duration>,
    next_ping: Option<Instant>,
    /// Whether the peer has asked for signs of life.
    asks: bool,
    /// Since when it may have asked, and neither was that read nor did it get a sign of life.
    unanswered_since: Instant,
    /// When nothing must have been heard since a PING for the peer to be dead.
    answer_due: Option<Instant>,
    pub(super) transmits: VecDeque<Bytes>,
    events: VecDeque<Event>,
}

impl Connection {
    /// A connection that was made just now.
    #[must_use]
    pub fn new(mut config: Config, now: Instant) -> Self {
        if let Some(heartbeat) = &mut config.heartbeat {
            heartbeat.interval = heartbeat.interval.max(MIN_INTERVAL);
        }
        let ours = Bytes::copy_from_slice(&greeting::ours());
        Self {
            deadline: later(now, config.limits.handshake),
            config,
            state: State::Greeting,
            partial: Vec::new(),
            partial_bytes: 0,
            unfinished: None,
            heard_at: now,
            peer_ttl: None,
            next_ping: None,
            asks: false,
            unanswered_since: now,
            answer_due: None,
            transmits: VecDeque::from([ours]),
            events: VecDeque::new(),
        }
    }

    /// What the peer said of itself; `None` during the handshake.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerInfo> {
        match &self.state {
            State::Up(peer) => Some(peer),
            _ => None,
        }
    }

    /// What to send next; `None` when there is nothing.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmits.pop_front()
    }

    /// What came; `None` when there is nothing new.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, at the earliest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !matches!(self.state, State::Up(_)) {
            return Some(self.deadline);
        }
        let ttl = self.peer_ttl.map(|ttl| self.heard_at + ttl);
        let unfinished = self.unfinished.map(|(due, _)| due);
        [self.next_ping, self.answer_due, ttl, unfinished].into_iter().flatten().min()
    }

    /// Does what is due. An early call does nothing.
    ///
    /// # Errors
    /// [`Violation`]: the connection is to be closed.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Violation> {
        if !matches!(self.state, State::Up(_)) {
            return if now >= self.deadline { Err(Violation::HandshakeTimeout) } else { Ok(()) };
        }
        let ttl = self.peer_ttl.map(|ttl| self.heard_at + ttl);
        if self.answer_due.is_some_and(|due| due <= now) || ttl.is_some_and(|due| due <= now) {
            return Err(Violation::Silent);
        }
        if self.unfinished.is_some_and(|(due, _)| due <= now) {
            return Err(Violation::MessageTime);
        }
        if let (Some(heartbeat), Some(due)) = (self.config.heartbeat, self.next_ping)
            && due <= now
        {
            self.next_ping = Some(later(now, heartbeat.interval));
            self.answer_due.get_or_insert(later(now, heartbeat.timeout));
            self.unanswered_since = now;
            self.transmit(command::ping(heartbeat.wire_ttl()));
        }
        Ok(())
    }

    /// Tells that octets of the peer's may have come that are not read, since what came before was not taken yet: that it is silent is not known. If it has
    /// asked for signs of life before, it may have asked again, and is given one now and then. Due before [`handle_timeout`](Self::handle_timeout) and twice a
    /// second as long as it is so.
    pub fn handle_unread(&mut self, now: Instant) {
        self.heard_at = now;
        self.answer_due = None;
        if let Some((due, _)) = &mut self.unfinished {
            *due = later(now, self.config.limits.message_time);
        }
        // Not to one that never asked: where it has closed, and its system has not sent all yet, that is lost with the first octets that arrive there.
        if self.asks && now >= self.unanswered_since + SIGN_PACE {
            self.unanswered_since = now;
            // Whatever comes counts (RFC 37): it need not answer a question that was read.
            self.transmit(command::pong(b""));
        }
    }

    /// Tells that the system takes nothing of what is to be sent, so that a question may not have gone out: that the peer does not answer is not known. Due before
    /// [`handle_timeout`](Self::handle_timeout) as long as it is so.
    pub fn handle_blocked(&mut self, now: Instant) {
        if let (Some(due), Some(heartbeat)) = (&mut self.answer_due, self.config.heartbeat) {
            *due = later(now, heartbeat.timeout);
        }
    }

    /// Takes what is complete out of the buffer. Limits are checked on what a frame declares, before its body has come.
    ///
    /// # Errors
    /// [`Violation`]: the connection is to be closed.
    pub fn handle_bytes(&mut self, now: Instant, buffer: &mut BytesMut) -> Result<(), Violation> {
        self.handle_frames(now, buffer, usize::MAX).map(drop)
    }

    /// Takes at most `most` complete frames out of the buffer, as [`handle_bytes`](Self::handle_bytes)
    /// takes all. Returns how many those were: fewer than `most` when no further frame is complete.
    ///
    /// # Errors
    /// [`Violation`]: the connection is to be closed.
    pub fn handle_frames(
        &mut self,
        now: Instant,
        buffer: &mut BytesMut,
        most: usize,
    ) -> Result<usize, Violation> {
        self.heard_at = now;
        self.unanswered_since = now;
        self.answer_due = None;
        if matches!(self.state, State::Greeting) {
            let Some(minor) = greeting::check(buffer)? else { return Ok(0) };
            buffer.advance(greeting::LENGTH);
            self.transmits.push_back(command::ready(self.config.kind, self.config.identity.as_bytes()));
            self.state = State::Introducing(minor);
        }
        let mut is_new = false;
        let mut taken = 0;
        while taken < most
            && let Some(head) = Head::read(buffer)?
        {
            // In the handshake there are commands only, and small ones.
            if matches!(self.state, State::Introducing(_)) && head.flags & COMMAND == 0 {
                return Err(Violation::OutOfTurn("a message"));
            }
            let length = head.check(&self.config.limits)?;
            if head.flags & COMMAND == 0 {
                self.check_message(length)?;
            }
            let Some(size) = head.size.checked_add(length).filter(|size| *size <= buffer.len()) else {
                break;
            };
            taken += 1;
            let mut frame = buffer.split_to(size);
            frame.advance(head.size);
            let body = frame.freeze();
            if head.flags & COMMAND != 0 {
                self.on_command(now, &body)?;
            } else {
                let more = head.flags & MORE != 0;
                is_new |= !more;
                self.on_frame(body, more);
            }
        }
        self.note_unfinished(now, buffer.len(), is_new);
        Ok(taken)
    }

    /// Changes what is taken of the peer from now on. The handshake limit stays.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.config.limits = limits;
    }

    /// What is not complete has to go on. `is_new`: it began only now.
    fn note_unfinished(&mut self, now: Instant, buffered: usize, is_new: bool) {
        if buffered == 0 && self.partial.is_empty() {
            self.unfinished = None;
            return;
        }
        let held = self.partial_bytes.saturating_add(buffered as u64);
        if self.unfinished.is_none_or(|(_, known)| is_new || held >= known.saturating_add(PROGRESS)) {
            self.unfinished = Some((later(now, self.config.limits.message_time), held));
        }
    }

    /// How many octets of the frame at the head of the buffer are still to come, as far as it is known and allowed.
    #[must_use]
    pub fn missing(&self, buffer: &[u8]) -> usize {
        match Head::read(buffer) {
            Ok(Some(head)) if !matches!(self.state, State::Greeting) => match head.check(&self.config.limits)
            {
                Ok(length) => head.size.saturating_add(length).saturating_sub(buffer.len()),
                Err(_) => 0,
            },
            _ => 0,
        }
    }

    /// Sends a sign of life, unless so many wait already that one more would tell nothing: a peer that asks and does not listen is not to fill our
    /// memory with answers.
    fn transmit(&mut self, command: Bytes) {
        if self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back(command);
        }
    }

    /// Whether one more frame of this length may belong to the message.
    fn check_message(&self, length: usize) -> Result<(), Violation> {
        let limits = &self.config.limits;
        if self.partial.len() >= limits.frames {
            return Err(Violation::FrameCount { limit: limits.frames });
        }
        if self.partial_bytes.checked_add(length as u64).is_none_or(|bytes| bytes > limits.message) {
            return Err(Violation::MessageSize { limit: limits.message });
        }
        Ok(())
    }

    fn on_frame(&mut self, body: Bytes, more: bool) {
        if more {
            self.partial_bytes += body.len() as u64;
            self.partial.push(body);
            return;
        }
        let message = if self.partial.is_empty() {
            Message::from(body)
        } else {
            self.partial_bytes = 0;
            let frames = std::mem::take(&mut self.partial).into_iter().chain([body]);
            match Message::from_frames(frames) {
                Some(message) => message,
                None => return,
            }
        };
        self.events.push_back(self.interpret(message));
    }

    /// Peers of 3.0 speak of subscriptions by messages of one frame.
    fn interpret(&self, message: Message) -> Event {
        if self.config.kind.publishes() && message.len() == 1 {
            let frame = message.first();
            match frame.first() {
                Some(1) => return Event::Subscribe(frame.slice(1..)),
                Some(0) => return Event::Cancel(frame.slice(1..)),
                _ => {}
            }
        }
        Event::Message(message)
    }

    fn on_command(&mut self, now: Instant, body: &Bytes) -> Result<(), Violation> {
        let command = Command::read(body)?;
        if let State::Introducing(minor) = self.state {
            return match command {
                Command::Ready(metadata) => self.on_ready(now, minor, metadata),
                Command::Error(reason) => Err(Violation::Refused(reason)),
                _ => Err(Violation::OutOfTurn("another command than READY")),
            };
        }
        // RFC 37 has commands between messages only. Between the frames of one they are taken all the same, whichever they are, and are no part of
        // it: libzmq puts its signs of life there.
        match command {
            Command::Ready(_) => return Err(Violation::OutOfTurn("a second READY")),
            Command::Error(reason) => return Err(Violation::Refused(reason)),
            Command::Ping(ttl, context) => {
                self.peer_ttl = (ttl > 0).then(|| Duration::from_millis(u64::from(ttl) * 100));
                self.asks = true;
                self.transmit(command::pong(&context));
            }
            Command::Subscribe(prefix) if self.config.kind.publishes() => {
                self.events.push_back(Event::Subscribe(prefix));
            }
            Command::Cancel(prefix) if self.config.kind.publishes() => {
                self.events.push_back(Event::Cancel(prefix))
            }
            // What is not known, or means nothing here, is passed over (RFC 23).
            Command::Pong | Command::Subscribe(_) | Command::Cancel(_) | Command::Other => {}
        }
        Ok(())
    }

    fn on_ready(&mut self, now: Instant, minor: u8, metadata: Metadata) -> Result<(), Violation> {
        let theirs = metadata.kind.ok_or(Violation::SocketType)?;
        let ours = self.config.kind;
        if !ours.talks_to(theirs) {
            return Err(Violation::Incompatible { ours, theirs });
        }
        let peer = PeerInfo { kind: theirs, identity: metadata.identity, minor };
        self.next_ping = self.config.heartbeat.map(|heartbeat| later(now, heartbeat.interval));
        self.state = State::Up(peer.clone());
        self.events.push_back(Event::Ready(peer));
        Ok(())
    }
}

/// A message as it goes over the wire.
#[must_use]
pub fn encode(message: &Message) -> Bytes {
    let mut encoded = super::frame::Encoded::default();
    encoded.push(message);
    let (parts, _, bytes) = encoded.take();
    match <[Bytes; 1]>::try_from(parts) {
        Ok([part]) => part,
        Err(parts) => {
            let mut whole = BytesMut::with_capacity(bytes);
            parts.iter().for_each(|part| whole.extend_from_slice(part));
            whole.freeze()
        }
    }
}

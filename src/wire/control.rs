//! Control messages: one frame each, between a child and its parent.

use bytes::{BufMut, Bytes, BytesMut};

use std::time::Duration;

use crate::flow::{EvictReason, Eviction, HighWaterMark, Lag};
use crate::id::{EndpointId, SessionToken};
use crate::message::Position;
use crate::role::Role;

use super::lane::Barrier;
use super::{MAX_PREFIXES, Malformed, Reader, kind, put_prefix};

/// The version of the protocol: what the messages mean, as against how they look ([`super::VERSION`]).
pub(crate) const PROTOCOL_VERSION: u16 = 2;
/// The highest epoch: far above any Unix time in milliseconds, and low enough that no sum overflows (a guess).
pub(crate) const MAX_EPOCH: u64 = 1 << 62;
/// The highest origin_seq a child may begin with: nobody gets there by counting, and from here nobody counts beyond 64 bits.
pub(crate) const MAX_ORIGIN_SEQ: u64 = 1 << 62;
/// The longest access token, in bytes (a guess: room for a signed web token).
pub(crate) const MAX_TOKEN: usize = 4096;

/// A child introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    pub(crate) cluster: String,
    pub(crate) id: EndpointId,
    /// The session this one continues, if any: it is replaced.
    pub(crate) resume: Option<SessionToken>,
    /// The incarnation of the last host it was a member of; 0 for none.
    pub(crate) incarnation: u64,
    /// The highest epoch the child has seen; 0 for none.
    pub(crate) epoch: u64,
    /// The origin_seq of the first message in its outbox; 0 when that is empty.
    pub(crate) first_open: u64,
    /// The origin_seq of the next message it will submit.
    pub(crate) next_origin_seq: u64,
    /// What it shows to the parent's authenticator.
    pub(crate) token: Bytes,
}

/// An endpoint of the cluster, as told to its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemberEntry {
    pub(crate) id: EndpointId,
    pub(crate) role: Role,
}

/// What a parent knows of what a child sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum OriginState {
    /// Nothing: it begins with what the hello says.
    New = 0,
    /// What is ordered: the rest is to be sent again.
    Known = 1,
    /// It was known, and has been forgotten: the fate of what is in the outbox can not be told.
    Forgotten = 2,
}

/// What a parent expects of its children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How far they may fall behind. The grace is the parent's own affair, and zero here.
    pub(crate) marks: HighWaterMark,
    /// How often something is to be heard.
    pub(crate) heartbeat: Duration,
    /// After how long without a word a peer counts as dead.
    pub(crate) lease: Duration,
    /// Prefixes of the topics of which a consumer that falls behind keeps the newest message.
    pub(crate) conflatable: Vec<String>,
}

/// A parent admits a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) session: SessionToken,
    pub(crate) host: EndpointId,
    /// Tells this life of the host from all others.
    pub(crate) incarnation: u64,
    pub(crate) role: Role,
    /// The epoch, the last window and the last seq there are.
    pub(crate) at: Barrier,
    pub(crate) origin: OriginState,
    /// The last origin_seq of the child's that is ordered, or will never be: it goes on with the next.
    pub(crate) last_origin_seq: u64,
    pub(crate) terms: Terms,
    /// The largest payload, in bytes.
    pub(crate) max_message: u32,
    /// The broadcast channel: `:PORT`, a suffix, or a whole address.
    pub(crate) broadcast: String,
    /// The submit channel, likewise.
    pub(crate) submit: String,
    /// Everyone who is live, the host and the joiner left out.
    pub(crate) members: Vec<MemberEntry>,
}

/// Why a parent does not admit a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RefusalCode {
    Cluster = 1,
    Version = 2,
    Unauthorized = 3,
    DuplicateId = 4,
    Full = 5,
    Closing = 6,
    Malformed = 7,
    Busy = 8,
    Quarantined = 9,
}

/// A parent does not admit a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: RefusalCode,
    /// After how long another attempt may fare better; zero where the parent cannot tell.
    pub(crate) retry_after: Duration,
    /// For people.
    pub(crate) reason: String,
}

impl RefusalCode {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Cluster,
            2 => Self::Version,
            3 => Self::Unauthorized,
            4 => Self::DuplicateId,
            5 => Self::Full,
            6 => Self::Closing,
            7 => Self::Malformed,
            8 => Self::Busy,
            9 => Self::Quarantined,
            _ => return None,
        })
    }
}

/// The places of a run of an endpoint's messages: the k-th has `first_origin_seq + k` and `first_seq + k`. Or what is [refused](Self::refused): they have none, and never will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ordered {
    pub(crate) epoch: u64,
    pub(crate) first_origin_seq: u64,
    pub(crate) first_seq: u64,
    pub(crate) count: u32,
}

impl Ordered {
    /// Messages that are not ordered, since their sender may not say them.
    pub(crate) fn refused(first_origin_seq: u64, count: u32) -> Self {
        Self { epoch: 0, first_origin_seq, first_seq: 0, count }
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.first_seq == 0
    }

    /// Leaves out this many messages at the beginning; there are more.
    pub(crate) fn skip(&mut self, messages: u64) {
        debug_assert!(messages < self.count.into());
        self.first_origin_seq += messages;
        self.count -= messages as u32;
        if !self.is_refused() {
            self.first_seq += messages;
        }
    }

    /// The origin_seq of the run's last message.
    pub(crate) fn last_origin_seq(&self) -> u64 {
        self.first_origin_seq + u64::from(self.count) - 1
    }

    /// Takes in the run that follows, if it goes on where this one ends.
    pub(crate) fn extend(&mut self, next: &Self) -> bool {
        let adjacent = self.epoch == next.epoch
            && self.last_origin_seq() + 1 == next.first_origin_seq
            && self.is_refused() == next.is_refused()
            && (self.is_refused() || self.first_seq + u64::from(self.count) == next.first_seq);
        match self.count.checked_add(next.count).filter(|_| adjacent) {
            Some(count) => {
                self.count = count;
                true
            }
            None => false,
        }
    }

    /// The encoded length of a run.
    const BYTES: usize = 8 * 3 + 4;

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let run = Self {
            epoch: reader.u64()?,
            first_origin_seq: reader.u64()?,
            first_seq: reader.u64()?,
            count: reader.u32()?,
        };
        let in_range = |first: u64| first > 0 && first.checked_add(run.count.into()).is_some();
        let is_refused = (run.epoch, run.first_seq) == (0, 0);
        if run.count == 0 || !in_range(run.first_origin_seq) || !(is_refused || in_range(run.first_seq)) {
            return Err(Malformed("seqs out of range"));
        }
        Ok(run)
    }
}

/// Why a parent ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CloseReason {
    /// The answer to `Leave`.
    Left = 1,
    /// The parent shuts down.
    Shutdown = 2,
    /// Another session of the same endpoint took over.
    Replaced = 3,
    /// The child broke the protocol.
    Violation = 4,
    /// The child leaves too many control messages unanswered.
    Unresponsive = 5,
}

impl CloseReason {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Left,
            2 => Self::Shutdown,
            3 => Self::Replaced,
            4 => Self::Violation,
            5 => Self::Unresponsive,
            _ => return None,
        })
    }
}

/// How far a child has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    /// All windows up to here have arrived.
    pub(crate) stored: Position,
    /// All consumers are done with all messages up to here.
    pub(crate) handled: Position,
    /// Up to this origin_seq the child knows what became of its messages.
    pub(crate) confirmed: u64,
}

/// What a child says to its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChildMessage {
    Hello(Hello),
    /// What the child takes from now on, and a request for the barrier that proves it. An empty prefix takes everything.
    Subscribe {
        nonce: u64,
        prefixes: Vec<String>,
    },
    /// The barrier of this nonce arrived: its subscription is in force, and the child is a member.
    Live {
        nonce: u64,
    },
    /// The child wants to go.
    Leave,
    Ack(Ack),
    /// The windows of these numbers did not arrive.
    Repair {
        first: u64,
        last: u64,
    },
    /// How many control messages arrived in this session.
    Received {
        count: u64,
    },
}

/// What a parent says to its child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ParentMessage {
    Welcome(Welcome),
    Refused(Refusal),
    /// Where the child's messages stand.
    Ordered(Vec<Ordered>),
    /// Who came and who went.
    Membership {
        joined: Vec<MemberEntry>,
        left: Vec<EndpointId>,
    },
    /// The session ends. The last window that the child will have been sent is named.
    Closing {
        reason: CloseReason,
        epoch: u64,
        number: u64,
    },
    /// A window that was asked for: encoded as on the broadcast channel.
    Repaired(Bytes),
    /// The windows that were asked for are not there any more: delivery goes on behind this one.
    Missed(Barrier),
    /// The session ends, because the child is too slow or unwanted.
    Evicted(Eviction),
    /// Messages are missing on the submit channel: what is in the outbox from this origin_seq on is to be sent again.
    Resend {
        from: u64,
    },
    /// A sign of life.
    Pulse {
        /// Whether the parent leaves submissions unread for now, because its members are behind.
        paced: bool,
    },
    /// How many control messages arrived in this session.
    Received {
        count: u64,
    },
}

impl ChildMessage {
    pub(crate) fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        match self {
            Self::Hello(hello) => {
                put_prefix(&mut buffer, kind::HELLO);
                buffer.put_u16(hello.version);
                put_text(&mut buffer, &hello.cluster);
                buffer.put_slice(hello.id.as_bytes());
                buffer.put_slice(&hello.resume.map_or([0; SessionToken::LENGTH], |token| *token.as_bytes()));
                buffer.put_u64(hello.incarnation);
                buffer.put_u64(hello.epoch);
                buffer.put_u64(hello.first_open);
                buffer.put_u64(hello.next_origin_seq);
                buffer.put_u16(hello.token.len() as u16);
                buffer.put_slice(&hello.token);
            }
            Self::Subscribe { nonce, prefixes } => {
                put_prefix(&mut buffer, kind::SUBSCRIBE);
                buffer.put_u64(*nonce);
                buffer.put_u16(prefixes.len() as u16);
                for prefix in prefixes {
                    put_text(&mut buffer, prefix);
                }
            }
            Self::Live { nonce } => {
                put_prefix(&mut buffer, kind::LIVE);
                buffer.put_u64(*nonce);
            }
            Self::Leave => put_prefix(&mut buffer, kind::LEAVE),
            Self::Ack(ack) => {
                put_prefix(&mut buffer, kind::ACK);
                put_position(&mut buffer, ack.stored);
                put_position(&mut buffer, ack.handled);
                buffer.put_u64(ack.confirmed);
            }
            Self::Repair { first, last } => {
                put_prefix(&mut buffer, kind::REPAIR);
                buffer.put_u64(*first);
                buffer.put_u64(*last);
            }
            Self::Received { count } => put_received(&mut buffer, *count),
        }
        buffer.freeze()
    }

    /// Whether this is meant to be a hello, well-formed or not.
    pub(crate) fn is_hello(frame: &Bytes) -> bool {
        Reader::open(frame, kind::HELLO).is_ok()
    }

    pub(crate) fn decode(frame: &Bytes) -> Result<Self, Malformed> {
        let (kind, mut reader) = Reader::open_any(frame)?;
        let message = match kind {
            kind::HELLO => {
                let version = reader.u16()?;
                if version != PROTOCOL_VERSION {
                    // What follows may look different: say no more than that.
                    return Ok(Self::Hello(Hello::of_version(version)));
                }
                let cluster = reader.text()?.to_owned();
                let id = reader.id()?;
                if id.is_nil() {
                    return Err(Malformed("the nil id belongs to nobody"));
                }
                let resume = SessionToken::from_slice(reader.slice(SessionToken::LENGTH)?);
                let (incarnation, epoch) = (reader.u64()?, reader.u64()?);
                let (first_open, next_origin_seq) = (reader.u64()?, reader.u64()?);
                if next_origin_seq == 0 || next_origin_seq > MAX_ORIGIN_SEQ || epoch > MAX_EPOCH {
                    return Err(Malformed("origin_seq or epoch out of range"));
                }
                if first_open >= next_origin_seq {
                    return Err(Malformed("the outbox begins behind its end"));
                }
                let length = usize::from(reader.u16()?);
                if length > MAX_TOKEN {
                    return Err(Malformed("token over the limit"));
                }
                let token = Bytes::copy_from_slice(reader.slice(length)?);
                Self::Hello(Hello {
                    version,
                    cluster,
                    id,
                    resume,
                    incarnation,
                    epoch,
                    first_open,
                    next_origin_seq,
                    token,
                })
            }
            kind::SUBSCRIBE => Self::Subscribe { nonce: reader.u64()?, prefixes: prefixes(&mut reader)? },
            kind::LIVE => Self::Live { nonce: reader.u64()? },
            kind::LEAVE => Self::Leave,
            kind::ACK => Self::Ack(Ack {
                stored: position(&mut reader)?,
                handled: position(&mut reader)?,
                confirmed: reader.u64()?,
            }),
            kind::REPAIR => {
                let (first, last) = (reader.u64()?, reader.u64()?);
                if first == 0 || first > last || last >= u64::MAX - 1 {
                    return Err(Malformed("window numbers out of range"));
                }
                Self::Repair { first, last }
            }
            kind::RECEIVED => Self::Received { count: reader.u64()? },
            _ => return Err(Malformed("unknown type of control message")),
        };
        reader.end()?;
        Ok(message)
    }
}

impl Hello {
    /// The hello of another version of the protocol, of which only the version is known.
    fn of_version(version: u16) -> Self {
        Self {
            version,
            cluster: String::new(),
            id: EndpointId::NIL,
            resume: None,
            incarnation: 0,
            epoch: 0,
            first_open: 0,
            next_origin_seq: 1,
            token: Bytes::new(),
        }
    }
}

impl ParentMessage {
    pub(crate) fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        match self {
            Self::Welcome(welcome) => {
                put_prefix(&mut buffer, kind::WELCOME);
                buffer.put_slice(welcome.session.as_bytes());
                buffer.put_slice(welcome.host.as_bytes());
                buffer.put_u64(welcome.incarnation);
                buffer.put_u8(welcome.role as u8);
                welcome.at.put_place(&mut buffer);
                buffer.put_u8(welcome.origin as u8);
                buffer.put_u64(welcome.last_origin_seq);
                put_terms(&mut buffer, &welcome.terms);
                buffer.put_u32(welcome.max_message);
                put_text(&mut buffer, &welcome.broadcast);
                put_text(&mut buffer, &welcome.submit);
                put_members(&mut buffer, &welcome.members);
            }
            Self::Refused(refusal) => {
                put_prefix(&mut buffer, kind::REFUSED);
                buffer.put_u8(refusal.code as u8);
                put_millis(&mut buffer, refusal.retry_after);
                put_text(&mut buffer, &refusal.reason);
            }
            Self::Repaired(window) => return window.clone(),
            Self::Missed(at) => {
                put_prefix(&mut buffer, kind::MISSED);
                at.put_place(&mut buffer);
            }
            Self::Evicted(eviction) => {
                put_prefix(&mut buffer, kind::EVICTED);
                buffer.put_u8(eviction.reason as u8);
                buffer.put_u64(eviction.lag.messages);
                buffer.put_u64(eviction.lag.bytes);
                put_millis(&mut buffer, eviction.lag.age);
                put_position(&mut buffer, eviction.position);
                put_millis(&mut buffer, eviction.retry_after);
                buffer
                    .put_slice(&eviction.resume.map_or([0; SessionToken::LENGTH], |token| *token.as_bytes()));
                put_text(&mut buffer, &eviction.text);
            }
            Self::Resend { from } => {
                put_prefix(&mut buffer, kind::RESEND);
                buffer.put_u64(*from);
            }
            Self::Pulse { paced } => {
                put_prefix(&mut buffer, kind::PULSE);
                buffer.put_u8(u8::from(*paced));
            }
            Self::Ordered(runs) => {
                put_prefix(&mut buffer, kind::ORDERED);
                buffer.put_u16(runs.len() as u16);
                for run in runs {
                    buffer.put_u64(run.epoch);
                    buffer.put_u64(run.first_origin_seq);
                    buffer.put_u64(run.first_seq);
                    buffer.put_u32(run.count);
                }
            }
            Self::Membership { joined, left } => {
                put_prefix(&mut buffer, kind::MEMBERSHIP);
                put_members(&mut buffer, joined);
                buffer.put_u32(left.len() as u32);
                for id in left {
                    buffer.put_slice(id.as_bytes());
                }
            }
            Self::Closing { reason, epoch, number } => {
                put_prefix(&mut buffer, kind::CLOSING);
                buffer.put_u8(*reason as u8);
                buffer.put_u64(*epoch);
                buffer.put_u64(*number);
            }
            Self::Received { count } => put_received(&mut buffer, *count),
        }
        buffer.freeze()
    }

    pub(crate) fn decode(frame: &Bytes) -> Result<Self, Malformed> {
        let (kind, mut reader) = Reader::open_any(frame)?;
        let message = match kind {
            // Its own decoder reads it, and knows how large a payload may be.
            kind::WINDOW => return Ok(Self::Repaired(frame.clone())),
            kind::WELCOME => Self::Welcome(Welcome {
                session: SessionToken::from_slice(reader.slice(SessionToken::LENGTH)?)
                    .ok_or(Malformed("invalid session token"))?,
                host: reader.id()?,
                incarnation: reader.u64()?,
                role: role(&mut reader)?,
                at: Barrier::read_place(&mut reader)?,
                origin: origin_state(&mut reader)?,
                last_origin_seq: origin_seq(&mut reader)?,
                terms: terms(&mut reader)?,
                max_message: reader.u32()?,
                broadcast: reader.text()?.to_owned(),
                submit: reader.text()?.to_owned(),
                members: members(&mut reader)?,
            }),
            kind::REFUSED => Self::Refused(Refusal {
                code: RefusalCode::from_byte(reader.u8()?).ok_or(Malformed("unknown refusal"))?,
                retry_after: millis(&mut reader)?,
                reason: reader.text()?.to_owned(),
            }),
            kind::MISSED => Self::Missed(Barrier::read_place(&mut reader)?),
            kind::EVICTED => Self::Evicted(Eviction {
                reason: EvictReason::from_byte(reader.u8()?).ok_or(Malformed("unknown reason"))?,
                lag: Lag { messages: reader.u64()?, bytes: reader.u64()?, age: millis(&mut reader)? },
                position: position(&mut reader)?,
                retry_after: millis(&mut reader)?,
                resume: SessionToken::from_slice(reader.slice(SessionToken::LENGTH)?),
                text: reader.text()?.to_owned(),
            }),
            kind::RESEND => Self::Resend { from: origin_seq(&mut reader)? },
            kind::PULSE => Self::Pulse { paced: flag(&mut reader)? },
            kind::ORDERED => {
                let count = reader.u16()?;
                reader.at_most(count, Ordered::BYTES)?;
                Self::Ordered((0..count).map(|_| Ordered::read(&mut reader)).collect::<Result<_, _>>()?)
            }
            kind::MEMBERSHIP => {
                let joined = members(&mut reader)?;
                let count = reader.u32()?;
                let left = (0..count).map(|_| reader.id()).collect::<Result<_, _>>()?;
                Self::Membership { joined, left }
            }
            kind::CLOSING => Self::Closing {
                reason: CloseReason::from_byte(reader.u8()?).ok_or(Malformed("unknown reason"))?,
                epoch: reader.u64()?,
                number: reader.u64()?,
            },
            kind::RECEIVED => Self::Received { count: reader.u64()? },
            _ => return Err(Malformed("unknown type of control message")),
        };
        reader.end()?;
        Ok(message)
    }
}

fn put_received(buffer: &mut BytesMut, count: u64) {
    put_prefix(buffer, kind::RECEIVED);
    buffer.put_u64(count);
}

/// Puts text behind a length octet; what is over 255 bytes is cut at a character.
fn put_text(buffer: &mut BytesMut, text: &str) {
    let text = &text[..text.floor_char_boundary_at(255)];
    buffer.put_u8(text.len() as u8);
    buffer.put_slice(text.as_bytes());
}

/// `str::floor_char_boundary`, which is newer than the MSRV.
pub(crate) trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        (0..=index.min(self.len())).rev().find(|at| self.is_char_boundary(*at)).unwrap_or(0)
    }
}

fn put_position(buffer: &mut BytesMut, position: Position) {
    buffer.put_u64(position.epoch);
    buffer.put_u64(position.seq);
}

fn position(reader: &mut Reader<'_>) -> Result<Position, Malformed> {
    let position = Position { epoch: reader.u64()?, seq: reader.u64()? };
    if position.epoch > MAX_EPOCH || position.seq >= u64::MAX - 1 {
        return Err(Malformed("epoch or seq out of range"));
    }
    Ok(position)
}

/// Puts a span of time in milliseconds; 49 days stand for all that are longer.
fn put_millis(buffer: &mut BytesMut, span: Duration) {
    buffer.put_u32(u32::try_from(span.as_millis()).unwrap_or(u32::MAX));
}

fn millis(reader: &mut Reader<'_>) -> Result<Duration, Malformed> {
    Ok(Duration::from_millis(reader.u32()?.into()))
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed("a flag is 0 or 1")),
    }
}

fn origin_seq(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let origin_seq = reader.u64()?;
    if origin_seq > MAX_ORIGIN_SEQ {
        return Err(Malformed("origin_seq out of range"));
    }
    Ok(origin_seq)
}

fn origin_state(reader: &mut Reader<'_>) -> Result<OriginState, Malformed> {
    match reader.u8()? {
        0 => Ok(OriginState::New),
        1 => Ok(OriginState::Known),
        2 => Ok(OriginState::Forgotten),
        _ => Err(Malformed("unknown state of an origin")),
    }
}

fn put_terms(buffer: &mut BytesMut, terms: &Terms) {
    buffer.put_u64(terms.marks.messages);
    buffer.put_u64(terms.marks.bytes);
    put_millis(buffer, terms.marks.age);
    put_millis(buffer, terms.heartbeat);
    put_millis(buffer, terms.lease);
    buffer.put_u16(terms.conflatable.len() as u16);
    for prefix in &terms.conflatable {
        put_text(buffer, prefix);
    }
}

fn terms(reader: &mut Reader<'_>) -> Result<Terms, Malformed> {
    let marks = HighWaterMark::new().messages(reader.u64()?).bytes(reader.u64()?).age(millis(reader)?);
    let (heartbeat, lease) = (millis(reader)?, millis(reader)?);
    let none = [marks.age, heartbeat, lease].iter().any(Duration::is_zero);
    if none || marks.messages == 0 || marks.bytes == 0 {
        return Err(Malformed("a mark, heartbeat or lease of nothing"));
    }
    let conflatable = prefixes(reader)?;
    Ok(Terms { marks, heartbeat, lease, conflatable })
}

fn prefixes(reader: &mut Reader<'_>) -> Result<Vec<String>, Malformed> {
    let count = usize::from(reader.u16()?);
    if count > MAX_PREFIXES {
        return Err(Malformed("too many prefixes"));
    }
    (0..count).map(|_| prefix(reader)).collect()
}

fn prefix(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let text = reader.text()?;
    crate::message::check_prefix(text).map_err(|_| Malformed("invalid prefix"))?;
    Ok(text.to_owned())
}

fn put_members(buffer: &mut BytesMut, members: &[MemberEntry]) {
    buffer.put_u32(members.len() as u32);
    for member in members {
        buffer.put_slice(member.id.as_bytes());
        buffer.put_u8(member.role as u8);
    }
}

fn members(reader: &mut Reader<'_>) -> Result<Vec<MemberEntry>, Malformed> {
    let count = reader.u32()?;
    (0..count).map(|_| Ok(MemberEntry { id: reader.id()?, role: role(reader)? })).collect()
}

fn role(reader: &mut Reader<'_>) -> Result<Role, Malformed> {
    Role::from_byte(reader.u8()?).ok_or(Malformed("unknown role"))
}

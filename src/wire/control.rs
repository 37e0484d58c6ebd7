//! Control messages: one frame each, between a child and its parent.

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::{EndpointId, SessionToken};
use crate::role::Role;

use super::{MAX_PREFIXES, Malformed, Reader, kind, put_prefix};

/// The version of the protocol: what the messages mean, as against how they look ([`super::VERSION`]).
pub(crate) const PROTOCOL_VERSION: u16 = 1;
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
    /// The highest epoch the child has seen; 0 for none.
    pub(crate) epoch: u64,
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

/// A parent admits a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) session: SessionToken,
    pub(crate) host: EndpointId,
    pub(crate) role: Role,
    /// The epoch, the last window and the last seq there are.
    pub(crate) epoch: u64,
    pub(crate) number: u64,
    pub(crate) last_seq: u64,
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
            _ => return None,
        })
    }
}

/// The places of a run of an endpoint's messages: the k-th has `first_origin_seq + k` and `first_seq + k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ordered {
    pub(crate) epoch: u64,
    pub(crate) first_origin_seq: u64,
    pub(crate) first_seq: u64,
    pub(crate) count: u32,
}

impl Ordered {
    /// The origin_seq of the run's last message.
    pub(crate) fn last_origin_seq(&self) -> u64 {
        self.first_origin_seq + u64::from(self.count) - 1
    }

    /// Takes in the run that follows, if it goes on where this one ends.
    pub(crate) fn extend(&mut self, next: &Self) -> bool {
        let adjacent = self.epoch == next.epoch
            && self.last_origin_seq() + 1 == next.first_origin_seq
            && self.first_seq + u64::from(self.count) == next.first_seq;
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
        if run.count == 0 || !in_range(run.first_origin_seq) || !in_range(run.first_seq) {
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
    /// How many control messages arrived in this session.
    Received {
        count: u64,
    },
}

/// What a parent says to its child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ParentMessage {
    Welcome(Welcome),
    /// No admission; `reason` is for people.
    Refused {
        code: RefusalCode,
        reason: String,
    },
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
                buffer.put_u64(hello.epoch);
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
                let (epoch, next_origin_seq) = (reader.u64()?, reader.u64()?);
                if next_origin_seq == 0 || next_origin_seq > MAX_ORIGIN_SEQ || epoch > MAX_EPOCH {
                    return Err(Malformed("origin_seq or epoch out of range"));
                }
                let length = usize::from(reader.u16()?);
                if length > MAX_TOKEN {
                    return Err(Malformed("token over the limit"));
                }
                let token = Bytes::copy_from_slice(reader.slice(length)?);
                Self::Hello(Hello { version, cluster, id, resume, epoch, next_origin_seq, token })
            }
            kind::SUBSCRIBE => {
                let nonce = reader.u64()?;
                let count = usize::from(reader.u16()?);
                if count > MAX_PREFIXES {
                    return Err(Malformed("too many prefixes"));
                }
                let prefixes = (0..count).map(|_| prefix(&mut reader)).collect::<Result<_, _>>()?;
                Self::Subscribe { nonce, prefixes }
            }
            kind::LIVE => Self::Live { nonce: reader.u64()? },
            kind::LEAVE => Self::Leave,
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
            epoch: 0,
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
                buffer.put_u8(welcome.role as u8);
                buffer.put_u64(welcome.epoch);
                buffer.put_u64(welcome.number);
                buffer.put_u64(welcome.last_seq);
                buffer.put_u32(welcome.max_message);
                put_text(&mut buffer, &welcome.broadcast);
                put_text(&mut buffer, &welcome.submit);
                put_members(&mut buffer, &welcome.members);
            }
            Self::Refused { code, reason } => {
                put_prefix(&mut buffer, kind::REFUSED);
                buffer.put_u8(*code as u8);
                put_text(&mut buffer, reason);
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
            kind::WELCOME => Self::Welcome(Welcome {
                session: SessionToken::from_slice(reader.slice(SessionToken::LENGTH)?)
                    .ok_or(Malformed("invalid session token"))?,
                host: reader.id()?,
                role: role(&mut reader)?,
                epoch: reader.u64()?,
                number: reader.u64()?,
                last_seq: reader.u64()?,
                max_message: reader.u32()?,
                broadcast: reader.text()?.to_owned(),
                submit: reader.text()?.to_owned(),
                members: members(&mut reader)?,
            }),
            kind::REFUSED => Self::Refused {
                code: RefusalCode::from_byte(reader.u8()?).ok_or(Malformed("unknown refusal"))?,
                reason: reader.text()?.to_owned(),
            },
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
trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        (0..=index.min(self.len())).rev().find(|at| self.is_char_boundary(*at)).unwrap_or(0)
    }
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

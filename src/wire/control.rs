//! Control messages: one frame each, between a child and its parent.

mod codec;

use std::time::Duration;

use bytes::Bytes;

use crate::flow::{Eviction, HighWaterMark};
use crate::id::{EndpointId, SessionToken};
use crate::message::Position;
use crate::role::Role;

use super::lane::Barrier;
use super::{Malformed, Reader};

/// The version of the protocol: what the messages mean, as against how they look ([`super::VERSION`]).
pub(crate) const PROTOCOL_VERSION: u16 = 3;
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
    /// The incarnation of the last host that confirmed it as a member; 0 for none.
    pub(crate) incarnation: u64,
    /// The highest epoch the child has seen of the last host whose barrier came; 0 for none. No
    /// more than a claim.
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

//! Defaults of what can be configured, with their reasons.

use std::time::Duration;

use crate::proto::host::{AuthLimits, RepairRate};
use crate::proto::member::Limit;

/// The largest payload by default: 8 MiB (design, section 4).
pub(crate) const MAX_MESSAGE: usize = 8 * 1024 * 1024;
/// The largest `max_message` that can be configured: 1 GiB, well inside the 32 bits it travels in (a guess at what anyone wants to hold in memory several times).
pub(crate) const MAX_MAX_MESSAGE: usize = 1024 * 1024 * 1024;
/// How many messages wait in the send queue by default (a guess: some tens of full batches).
pub(crate) const SEND_QUEUE_MESSAGES: usize = 65_536;
/// How many bytes wait in the send queue by default (a guess: twice the largest message).
pub(crate) const SEND_QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// How much a client may have in its outbox, on its way to the host. The queues of the zeromq crate hold 100,000 batches and are never let fill
/// (design, section 3: at most 1,000). A child may be owed one control message for each of these
/// batches, and is cut off at 1,000 unanswered ones: 800 leave room for reports and membership. The bytes are a guess.
pub(crate) const OUTBOX: Limit = Limit { batches: 800, bytes: 64 * 1024 * 1024 };
/// How many members a host takes by default (a guess).
pub(crate) const MAX_MEMBERS: usize = 10_000;
/// Unauthenticated connections of each channel, and their memory over all channels, in bytes (guesses).
pub(crate) const UNAUTHENTICATED: (usize, usize) = (1_024, 32 << 20);
/// Limits on hellos without a verdict: in all (the default of half-open connections), and on running
/// calls of one source (a guess: sixteen sources fill the table).
pub(crate) const AUTHENTICATION: AuthLimits = AuthLimits { pending: 256, running_per_source: 16 };
/// How long each step of a join may take by default (design: the handshake limit, 5 s).
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a first join may take by default (a guess: two handshakes).
pub(crate) const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an orderly end may take by default (a guess).
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before a client tries again: at first and at most (guesses: quick after a restart, gentle with an absent host).
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long one attempt to connect may take; the next follows after the back-off (a guess: several round trips around the world).
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How many events of each kind a driver handles before it looks after the others (a guess: a few hundred microseconds of work).
pub(crate) const PER_WAKE: usize = 64;
/// For how long a host handles events of one kind before it looks after the others: some cost more than others, and whoever
/// sends them chooses (a guess: one of the dearest, or a dozen full batches).
pub(crate) const TIME_PER_WAKE: Duration = Duration::from_millis(1);
/// How often the order's end is told by default (design, section 4: 100 ms).
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);
/// After how long without a word a peer counts as dead by default (a guess: as in zenoh; above the age mark, so that slow members are told
/// apart from dead ones).
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// How long what an endpoint sent is remembered by default once it has no session (design, section 4: 1 h).
pub(crate) const ORIGIN_TTL: Duration = Duration::from_secs(60 * 60);
/// Of how many endpoints that is remembered by default (a guess: ten times as many as there may be members).
pub(crate) const MAX_ORIGINS: usize = 100_000;
/// How long an evicted member stays away by default: at first and at most (guesses: long enough for a burst to pass; a minute).
pub(crate) const QUARANTINE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Which member sets the pace by default, in percent (design, section 5: the median).
pub(crate) const PACE_PERCENTILE: u8 = 50;
/// For how long at a stretch the pack waits for stragglers by default, as a share of the heartbeat (a guess: nobody is without a word for a heartbeat
/// because of others, and a process that is ready to run rarely waits that long for a processor).
pub(crate) const PATIENCE_PER_HEARTBEAT: u32 = 2;
/// How many bytes of repairs a member gets at once, and in each second (guesses: a quarter of the log at once; what a gigabit link carries).
pub(crate) const REPAIR_RATE: RepairRate = RepairRate { burst: 16 << 20, per_second: 128 << 20 };
/// How often a host's figures on its members are brought up to date (a guess: often enough for people and scrapers).
pub(crate) const LAGS_EVERY: Duration = Duration::from_millis(20);
/// The cluster that endpoints are of when none is named.
pub(crate) const DEFAULT_CLUSTER: &str = "default";

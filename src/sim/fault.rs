//! What can go wrong.

/// A kind of fault, or of what applications do at awkward times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// Broadcasts to one member are lost here and there, as on full queues.
    BroadcastLoss,
    /// A submitted batch is lost.
    SubmitLoss,
    /// One channel of a member stops for a while, and then goes on.
    Clog,
    /// Nothing passes between a member and the host for a while.
    Partition,
    /// As that, in one direction alone.
    OneWayPartition,
    /// A member's connections break, each with a random part of what was in it.
    Reset,
    /// One channel of a member breaks.
    ChannelReset,
    /// A member's connections lead nowhere any more, and neither side is told.
    BlackHole,
    /// The host is killed, and comes back without memory.
    HostCrash,
    /// The host shuts down in order, and comes back without memory.
    HostShutdown,
    /// As [`HostCrash`](Self::HostCrash); its machine is gone with it, so that nobody is told.
    HostPowerLoss,
    /// A member is killed, and comes back under its old id.
    MemberCrash,
    /// As that; its machine is gone with it, so that the host is not told.
    MemberPowerLoss,
    /// A member is killed, and another one comes in its place.
    MemberReplaced,
    /// A member leaves in order, and comes back under its old id.
    MemberLeaves,
    /// A second process comes up under the id of a member that lives.
    Twin,
    /// The host sleeps for a while.
    HostPause,
    /// A member sleeps for a while.
    MemberPause,
    /// The clock of a member or of the host jumps forward.
    ClockJump,
    /// The consumers of a member are slow for a while.
    SlowConsumer,
    /// They handle nothing at all for a while.
    StalledConsumer,
    /// The host's own consumers handle nothing for a while.
    StalledHostConsumer,
    /// The host evicts a member at its application's wish.
    Kick,
    /// A member changes what it subscribes to.
    Resubscribe,
    /// What was on its way when the host died reaches the next one, or comes from the last one.
    StaleQueue,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 25] = [
        Self::BroadcastLoss,
        Self::SubmitLoss,
        Self::Clog,
        Self::Partition,
        Self::OneWayPartition,
        Self::Reset,
        Self::ChannelReset,
        Self::BlackHole,
        Self::HostCrash,
        Self::HostShutdown,
        Self::HostPowerLoss,
        Self::MemberCrash,
        Self::MemberPowerLoss,
        Self::MemberReplaced,
        Self::MemberLeaves,
        Self::Twin,
        Self::HostPause,
        Self::MemberPause,
        Self::ClockJump,
        Self::SlowConsumer,
        Self::StalledConsumer,
        Self::StalledHostConsumer,
        Self::Kick,
        Self::Resubscribe,
        Self::StaleQueue,
    ];

    /// A few words for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BroadcastLoss => "broadcast loss",
            Self::SubmitLoss => "submit loss",
            Self::Clog => "clog",
            Self::Partition => "partition",
            Self::OneWayPartition => "one-way partition",
            Self::Reset => "reset",
            Self::ChannelReset => "channel reset",
            Self::BlackHole => "black hole",
            Self::HostCrash => "host crash",
            Self::HostShutdown => "host shutdown",
            Self::HostPowerLoss => "host power loss",
            Self::MemberCrash => "member crash",
            Self::MemberPowerLoss => "member power loss",
            Self::MemberReplaced => "member replaced",
            Self::MemberLeaves => "member leaves",
            Self::Twin => "twin",
            Self::HostPause => "host pause",
            Self::MemberPause => "member pause",
            Self::ClockJump => "clock jump",
            Self::SlowConsumer => "slow consumer",
            Self::StalledConsumer => "stalled consumer",
            Self::StalledHostConsumer => "stalled host consumer",
            Self::Kick => "kick",
            Self::Resubscribe => "resubscribe",
            Self::StaleQueue => "stale queue",
        }
    }
}

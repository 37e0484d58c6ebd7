//! Plausible bugs that can be put back, to show that the simulator finds them. Not in builds for use.

/// A bug that can be put back into a machine by its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mutant {
    /// The host takes a verdict for that of whatever hello has come by a connection of the same
    /// name since.
    StaleVerdict,
    /// The host orders whatever is submitted, had or not.
    SkipDedupe,
    /// The host passes over a request for the window before its oldest, and tells nobody.
    RingEdge,
    /// A member acknowledges as handled what was delivered.
    AckBeforeHandling,
    /// The heartbeat is not armed again after one that had no news.
    LostTimer,
    /// A filtered member takes the index alone for the window, whether or not the parts have come.
    GapOnLane,
    /// A member delivers windows ahead of a gap instead of waiting for the repair.
    DeliverAhead,
    /// A receiver forgets, with a new incarnation of the host, what it has had of each origin.
    ForgetOrigins,
    /// A replica applies an update of others whether or not its number is the next.
    CountTwice,
    /// A replica forgets what came behind its question when the answer is there.
    ForgetHeld,
    /// A replica does not send again what has no place after it has missed something.
    KeepOwn,
    /// A keeper that has folded a document drops what came meanwhile.
    DropTail,
    /// A host goes on by what it was told of who may say what before that changed.
    KeepRights,
    /// A replica takes no notice when the host refuses what it said.
    KeepRefused,
    /// A keeper on a member stores what comes of a document that it asks for, whatever is missing before it.
    StoreAhead,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::StaleVerdict,
        Self::SkipDedupe,
        Self::RingEdge,
        Self::AckBeforeHandling,
        Self::LostTimer,
        Self::GapOnLane,
        Self::DeliverAhead,
        Self::ForgetOrigins,
        Self::CountTwice,
        Self::ForgetHeld,
        Self::KeepOwn,
        Self::DropTail,
        Self::KeepRights,
        Self::KeepRefused,
        Self::StoreAhead,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StaleVerdict => "mutant_stale_verdict",
            Self::SkipDedupe => "mutant_skip_dedupe",
            Self::RingEdge => "mutant_ring_edge",
            Self::AckBeforeHandling => "mutant_ack_before_handling",
            Self::LostTimer => "mutant_lost_timer",
            Self::GapOnLane => "mutant_gap_on_lane",
            Self::DeliverAhead => "mutant_deliver_ahead",
            Self::ForgetOrigins => "mutant_forget_origins",
            Self::CountTwice => "mutant_count_twice",
            Self::ForgetHeld => "mutant_forget_held",
            Self::KeepOwn => "mutant_keep_own",
            Self::DropTail => "mutant_drop_tail",
            Self::KeepRights => "mutant_keep_rights",
            Self::KeepRefused => "mutant_keep_refused",
            Self::StoreAhead => "mutant_store_ahead",
        }
    }
}

//! Plausible bugs that can be put back, to show that the simulator finds them. Not in builds for use.

/// A bug that can be put back into a machine by its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mutant {
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
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::SkipDedupe,
        Self::RingEdge,
        Self::AckBeforeHandling,
        Self::LostTimer,
        Self::GapOnLane,
        Self::DeliverAhead,
        Self::ForgetOrigins,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SkipDedupe => "mutant_skip_dedupe",
            Self::RingEdge => "mutant_ring_edge",
            Self::AckBeforeHandling => "mutant_ack_before_handling",
            Self::LostTimer => "mutant_lost_timer",
            Self::GapOnLane => "mutant_gap_on_lane",
            Self::DeliverAhead => "mutant_deliver_ahead",
            Self::ForgetOrigins => "mutant_forget_origins",
        }
    }
}

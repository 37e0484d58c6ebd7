//! Socket types, and which of them talk to each other.

use std::fmt;

/// The type of a socket, as READY names it (RFC 23, 28 to 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SocketType {
    /// One to one.
    Pair,
    /// Publishes, and knows nothing of its subscribers.
    Pub,
    /// Subscribes.
    Sub,
    /// Asks, and waits for the answer.
    Req,
    /// Answers.
    Rep,
    /// Asks many, without waiting.
    Dealer,
    /// Answers by address.
    Router,
    /// Takes work from many.
    Pull,
    /// Deals work out to many.
    Push,
    /// Publishes, and sees its subscriptions.
    Xpub,
    /// Subscribes by messages.
    Xsub,
}

impl SocketType {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Pair,
        Self::Pub,
        Self::Sub,
        Self::Req,
        Self::Rep,
        Self::Dealer,
        Self::Router,
        Self::Pull,
        Self::Push,
        Self::Xpub,
        Self::Xsub,
    ];

    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pair => "PAIR",
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Req => "REQ",
            Self::Rep => "REP",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
            Self::Pull => "PULL",
            Self::Push => "PUSH",
            Self::Xpub => "XPUB",
            Self::Xsub => "XSUB",
        }
    }

    /// The type of this name; `None` for one that is not known.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }

    /// Whether a socket of this type may be connected to one of the other.
    #[must_use]
    pub const fn talks_to(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Pair, Self::Pair)
                | (Self::Pub | Self::Xpub, Self::Sub | Self::Xsub)
                | (Self::Sub | Self::Xsub, Self::Pub | Self::Xpub)
                | (Self::Req, Self::Rep | Self::Router)
                | (Self::Rep, Self::Req | Self::Dealer)
                | (Self::Dealer, Self::Rep | Self::Dealer | Self::Router)
                | (Self::Router, Self::Req | Self::Dealer | Self::Router)
                | (Self::Pull, Self::Push)
                | (Self::Push, Self::Pull)
        )
    }

    /// Whether it is sent subscriptions.
    pub(crate) const fn publishes(self) -> bool {
        matches!(self, Self::Pub | Self::Xpub)
    }

    /// Whether it may be sent messages.
    pub(crate) const fn receives(self) -> bool {
        !matches!(self, Self::Pub | Self::Push)
    }
}

impl fmt::Display for SocketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_talks_to_whom_is_mutual_and_as_the_rfcs_say() {
        let mut pairs = 0;
        for one in SocketType::ALL {
            for other in SocketType::ALL {
                assert_eq!(one.talks_to(other), other.talks_to(one), "{one} and {other}");
                pairs += usize::from(one.talks_to(other));
            }
            assert_eq!(SocketType::from_name(one.name().as_bytes()), Some(one));
        }
        // PAIR, DEALER and ROUTER among themselves; eleven pairs of two, each seen from both ends.
        assert_eq!(pairs, 3 + 2 * 9);
        assert_eq!(SocketType::from_name(b"pub"), None);
    }
}

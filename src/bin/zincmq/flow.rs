//! How far members may fall behind, and what becomes of those that fall further: the options, and what they mean to the library.

use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, ValueEnum};
use zincmq::{HighWaterMark, Rejoin, SlowPolicy};

use crate::args::Args;

/// The longest span that travels between host and members, in milliseconds: 49 days.
pub(crate) const MAX_SPAN: u64 = u32::MAX as u64;

/// When a member is too slow, and what to do then.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Slow members")]
pub(crate) struct FlowArgs {
    /// How many messages a member may be behind: ordered, and not handled by it. Below 10,000 or so, bursts evict healthy ones
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = clap::value_parser!(u64).range(1..))]
    hwm_messages: u64,

    /// How many bytes a member may be behind, as they travel, with 128 for each batch published
    #[arg(long, value_name = "N", default_value = "67108864", value_parser = clap::value_parser!(u64).range(1..))]
    hwm_bytes: u64,

    /// How old the oldest message may be that a member has not handled, in milliseconds
    #[arg(long, value_name = "MS", default_value = "5000", value_parser = clap::value_parser!(u64).range(1..=MAX_SPAN))]
    hwm_age: u64,

    /// How long a member may be past its mark before it has to go, in milliseconds
    #[arg(long, value_name = "MS", default_value = "0", value_parser = clap::value_parser!(u64).range(..=MAX_SPAN))]
    hwm_grace: u64,

    /// What to do about members that are slower than the others
    #[arg(long, default_value = "evict")]
    policy: Policy,

    /// With --policy drop-oldest: of the topics that begin with PREFIX only the newest message counts; may be given more
    /// than once [default: all topics]
    #[arg(long, value_name = "PREFIX")]
    conflatable: Vec<String>,
}

/// What a host does about slow members, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// The median member sets the pace; one that falls past its mark while the others do not is sent away
    Evict,
    /// The slowest member sets the pace: senders wait for it. One that stands still for --hwm-age is sent away
    Block,
    /// As evict; and a member that falls behind skips to the newest message of each topic, and is told how many it missed
    DropOldest,
}

impl FlowArgs {
    /// Refuses what does not go together.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        if self.conflatable.is_empty() || self.policy == Policy::DropOldest {
            return Ok(());
        }
        let message = "--conflatable has a meaning with --policy drop-oldest only";
        Err(Args::command().error(ErrorKind::ArgumentConflict, message))
    }

    /// How far a member may fall behind.
    pub(crate) fn marks(&self) -> HighWaterMark {
        HighWaterMark::new()
            .messages(self.hwm_messages)
            .bytes(self.hwm_bytes)
            .age(Duration::from_millis(self.hwm_age))
            .grace(Duration::from_millis(self.hwm_grace))
    }

    /// What to do about one that falls further.
    pub(crate) fn policy(&self) -> SlowPolicy {
        match self.policy {
            Policy::Evict => SlowPolicy::Evict,
            Policy::Block => SlowPolicy::Block,
            Policy::DropOldest if self.conflatable.is_empty() => {
                SlowPolicy::DropOldest { conflatable: vec![String::new()] }
            }
            Policy::DropOldest => SlowPolicy::DropOldest { conflatable: self.conflatable.clone() },
        }
    }
}

/// What to do after an eviction, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RejoinArg {
    /// Come back as soon as the host allows, and go on
    Auto,
    /// End, with exit code 3
    Never,
}

impl From<RejoinArg> for Rejoin {
    fn from(typed: RejoinArg) -> Self {
        match typed {
            RejoinArg::Auto => Self::Auto,
            RejoinArg::Never => Self::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Command;

    fn flow(options: &[&str]) -> FlowArgs {
        match Args::parse_from([&["zincmq", "host"], options].concat()).command {
            Command::Host(host) => host.flow,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let defaults = flow(&[]);
        assert_eq!(defaults.marks(), HighWaterMark::default());
        assert_eq!(defaults.policy(), SlowPolicy::default());
    }

    #[test]
    fn marks_are_in_messages_bytes_and_milliseconds() {
        let options = ["--hwm-messages=10", "--hwm-bytes=2000", "--hwm-age=300", "--hwm-grace=40"];
        let ms = Duration::from_millis;
        let marks = HighWaterMark::new().messages(10).bytes(2000).age(ms(300)).grace(ms(40));
        assert_eq!(flow(&options).marks(), marks);
    }

    #[test]
    fn all_topics_are_conflatable_unless_some_are_named() {
        let drop_oldest = |conflatable: &[&str]| SlowPolicy::DropOldest {
            conflatable: conflatable.iter().map(|prefix| (*prefix).to_owned()).collect(),
        };
        assert_eq!(flow(&["--policy=drop-oldest"]).policy(), drop_oldest(&[""]));
        let named = flow(&["--policy=drop-oldest", "--conflatable=a.", "--conflatable=b."]);
        assert!(named.check().is_ok());
        assert_eq!(named.policy(), drop_oldest(&["a.", "b."]));
        assert!(flow(&["--policy=block", "--conflatable=a."]).check().is_err());
    }
}

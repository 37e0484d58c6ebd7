//! A parent's end of the channels.

use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::control::Command;
use super::listen::{Listening, refused};
use super::thread::{self, Parts, Publisher};
use crate::id::SessionToken;
use crate::transport::{
    Address, Backlog, BindAddresses, BindError, BoundAddresses, Channel, ChannelError, ParentChannels,
    ParentLimits, ParentLink, PeerId,
};
#[cfg(unix)]
use crate::zmtp::ipc::IpcFile;

/// The capacity of the queues to the driver, in messages.
const QUEUE: usize = 1_024;

/// How many control frames may wait for the sockets' thread.
const CONTROL_QUEUE: usize = 4_096;

/// How many orders to disconnect find room behind them: more than there can be peers.
const DISCONNECTS: usize = 65_536;

/// Binds a parent. Cancel safe: a cancelled call leaves nothing bound.
pub(super) async fn bind(addresses: &BindAddresses, limits: &ParentLimits) -> Result<ParentLink, BindError> {
    let control = Listening::open(&addresses.control, limits.stalled).await?;
    let beside = |asked: &Option<Address>, suffix| {
        let default = || control.address.with_port(0).with_suffix(suffix);
        asked.clone().unwrap_or_else(default)
    };
    let broadcast = Listening::open(&beside(&addresses.broadcast, ".pub"), limits.stalled).await?;
    let submit = Listening::open(&beside(&addresses.submit, ".pull"), limits.stalled).await?;
    if !broadcast.gives_up {
        tracing::warn!(
            address = %broadcast.address,
            "the zeromq transport cannot cut a subscriber there that stops reading: what is queued for it stays as long as it does"
        );
    }
    let bound =
        BoundAddresses { control: control.address, broadcast: broadcast.address, submit: submit.address };

    let (events, events_out) = mpsc::channel(QUEUE);
    let (submits, submits_out) = mpsc::channel(QUEUE);
    let (commands, commands_out) = mpsc::channel(CONTROL_QUEUE + DISCONNECTS);
    let publisher = thread::start(Parts {
        control: control.listener,
        broadcast: broadcast.listener,
        submit: submit.listener,
        commands: commands_out,
        events,
        submits,
    })
    .await
    .map_err(|error| refused(&bound.control, error))?;
    let channels = ZeromqParent {
        #[cfg(unix)]
        _files: [control.file, broadcast.file, submit.file],
        commands,
        publisher,
    };
    Ok(ParentLink {
        addresses: bound,
        channels: Box::new(channels),
        events: events_out,
        submits: submits_out,
    })
}

/// What the driver holds of a bound parent. The sockets' thread ends with it.
struct ZeromqParent {
    /// Before the listeners, which the publisher takes along: see [`IpcFile`].
    #[cfg(unix)]
    _files: [Option<IpcFile>; 3],
    commands: mpsc::Sender<Command>,
    publisher: Publisher,
}

impl fmt::Debug for ZeromqParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZeromqParent").finish_non_exhaustive()
    }
}

impl ParentChannels for ZeromqParent {
    fn broadcast(&mut self, lane: Bytes, body: Bytes) {
        self.publisher.send(lane, body);
    }

    fn send_control(&mut self, peer: &PeerId, frame: Bytes) -> Result<(), ChannelError> {
        if self.commands.max_capacity() - self.commands.capacity() >= CONTROL_QUEUE {
            return Err(ChannelError::Full(Channel::Control));
        }
        let command = Command::Send { peer: peer.clone(), frame };
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => ChannelError::Full(Channel::Control),
            TrySendError::Closed(_) => ChannelError::Closed(Channel::Control),
        })
    }

    fn disconnect(&mut self, peer: &PeerId, session: Option<SessionToken>) {
        // If nobody takes it, all connections are closed; and there is room for one for each peer.
        let _ = self.commands.try_send(Command::Disconnect { peer: peer.clone(), session });
    }

    fn cut_broadcast(&mut self, session: SessionToken) {
        // As above.
        let _ = self.commands.try_send(Command::CutBroadcast { session });
    }

    fn backlog(&self, _session: SessionToken) -> Option<Backlog> {
        None
    }

    fn dropped(&self) -> u64 {
        0
    }
}

//! A parent's three sockets.

use std::fmt;
use std::io;

use ::zeromq::util::PeerIdentity;
use ::zeromq::{PubSocket, PullSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqError, ZmqMessage};
use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::control::{Command, ControlTask};
#[cfg(unix)]
use super::ipc::IpcFile;
use super::listen::{Listening, refused};
use super::options;
use crate::id::SessionToken;
use crate::transport::{
    Address, Backlog, BindAddresses, BindError, BoundAddresses, Channel, ChannelError, Frames,
    ParentChannels, ParentLink, PeerId,
};

/// The capacity of the queues to the driver, in messages.
const QUEUE: usize = 1_024;

/// How many control frames may wait for the task.
const CONTROL_QUEUE: usize = 4_096;

/// How many orders to disconnect find room behind them: more than there can be peers.
const DISCONNECTS: usize = 65_536;

/// Binds a parent. Cancel safe: a cancelled call leaves nothing bound.
pub(super) async fn bind(addresses: &BindAddresses) -> Result<ParentLink, BindError> {
    let control = Listening::open(&addresses.control).await?;
    let beside = |asked: &Option<Address>, suffix| {
        asked.clone().unwrap_or_else(|| control.address.with_port(0).with_suffix(suffix))
    };
    let broadcast = Listening::open(&beside(&addresses.broadcast, ".pub")).await?;
    let submit = Listening::open(&beside(&addresses.submit, ".pull")).await?;
    let bound = BoundAddresses {
        control: control.address.clone(),
        broadcast: broadcast.address.clone(),
        submit: submit.address.clone(),
    };
    #[cfg(unix)]
    let mut files = Vec::new();

    let mut router = RouterSocket::new();
    let mut publisher = PubSocket::new();
    let mut puller = Puller(PullSocket::with_options(options()));
    let monitor = router.monitor();
    let broadcast_monitor = publisher.monitor();
    for (listening, channel) in
        [(control, Channel::Control), (broadcast, Channel::Broadcast), (submit, Channel::Submit)]
    {
        #[cfg(unix)]
        files.extend(listening.file);
        match channel {
            Channel::Control => router.bind_listener(listening.listener).await,
            Channel::Broadcast => publisher.bind_listener(listening.listener).await,
            Channel::Submit => puller.0.bind_listener(listening.listener).await,
        }
        .map_err(|error| refused(&listening.address, into_io(error)))?;
    }

    let (events, events_out) = mpsc::channel(QUEUE);
    let (submits, submits_out) = mpsc::channel(QUEUE);
    let (commands, commands_out) = mpsc::channel(CONTROL_QUEUE + DISCONNECTS);
    let mut tasks = JoinSet::new();
    tasks.spawn(ControlTask::new(router, monitor, broadcast_monitor, commands_out, events).run());
    tasks.spawn(puller.run(submits));
    let channels = ZeromqParent {
        #[cfg(unix)]
        _files: files,
        publisher,
        commands,
        _tasks: tasks,
    };
    Ok(ParentLink {
        addresses: bound,
        channels: Box::new(channels),
        events: events_out,
        submits: submits_out,
    })
}

fn into_io(error: ZmqError) -> io::Error {
    match error {
        ZmqError::Network(error) => error,
        other => io::Error::other(other),
    }
}

/// The sockets of a bound parent. Whatever its tasks hold closes on drop, so they are simply aborted with it.
struct ZeromqParent {
    /// Before the sockets: see [`IpcFile`].
    #[cfg(unix)]
    _files: Vec<IpcFile>,
    publisher: PubSocket,
    commands: mpsc::Sender<Command>,
    _tasks: JoinSet<()>,
}

impl fmt::Debug for ZeromqParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZeromqParent").finish_non_exhaustive()
    }
}

impl ParentChannels for ZeromqParent {
    fn broadcast(&mut self, lane: Bytes, body: Bytes) {
        let mut message = ZmqMessage::from(lane);
        message.push_back(body);
        // Ready at once, and never an error: the crate drops what finds no room.
        let _ = self.publisher.send(message).now_or_never();
    }

    fn send_control(&mut self, peer: &PeerId, frame: Bytes) -> Result<(), ChannelError> {
        let queued = self.commands.max_capacity() - self.commands.capacity();
        if self.commands.is_closed() {
            return Err(ChannelError::Closed(Channel::Control));
        }
        if queued >= CONTROL_QUEUE {
            return Err(ChannelError::Full(Channel::Control));
        }
        self.commands.try_send(Command::Send { peer: peer.clone(), frame }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ChannelError::Full(Channel::Control),
            mpsc::error::TrySendError::Closed(_) => ChannelError::Closed(Channel::Control),
        })
    }

    fn disconnect(&mut self, peer: &PeerId, session: Option<SessionToken>) {
        // A task that has ended has closed all connections; and there is room for one order for each peer.
        let _ = self.commands.try_send(Command::Disconnect { peer: peer.clone() });
        if let Some(session) = session
            && let Ok(identity) = PeerIdentity::try_from(&session.as_bytes()[..])
        {
            self.publisher.backend().peer_disconnected(&identity);
        }
    }

    fn backlog(&self, _session: SessionToken) -> Option<Backlog> {
        None
    }

    fn dropped(&self) -> u64 {
        0
    }
}

/// The PULL socket. Unlike the others of the crate it does not close its connections when dropped.
struct Puller(PullSocket);

impl Puller {
    async fn run(mut self, submits: mpsc::Sender<Frames>) {
        loop {
            // An error concerns one peer, which the crate has disconnected.
            if let Ok(message) = self.0.recv().await
                && submits.send(message.into_vec()).await.is_err()
            {
                return;
            }
        }
    }
}

impl Drop for Puller {
    fn drop(&mut self) {
        self.0.backend().shutdown();
    }
}

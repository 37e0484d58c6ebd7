//! A child's three sockets.

use std::fmt;
use std::time::Duration;

use ::zeromq::util::PeerIdentity;
use ::zeromq::{
    DealerRecvHalf, DealerSendHalf, DealerSocket, PushSocket, SocketEvent, SocketRecv, SocketSend, SubSocket,
    ZmqMessage, ZmqResult,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::Monitor;
use super::connect::connect;
use super::subscriber::{SubscriberTask, Subscription};
use crate::id::SessionToken;
use crate::transport::{
    Address, Channel, ChannelError, ChildChannels, ChildEvent, ChildLink, DialError, Frames,
};

/// The capacity of the queues to the driver, in messages.
const QUEUE: usize = 1_024;

/// How many changes of subscriptions may be under way.
const SUBSCRIPTIONS: usize = 1_024;

/// Dials a parent's control channel. Cancel safe.
pub(super) async fn dial(control: &Address, timeout: Duration) -> Result<ChildLink, DialError> {
    let deadline = Instant::now() + timeout;
    let mut identity = *Uuid::new_v4().as_bytes();
    // ZMTP reserves identities that begin with a zero octet.
    identity[0] |= 0x80;
    let (socket, monitor) =
        connect::<DealerSocket>(control, PeerIdentity::try_from(&identity[..]).ok(), deadline).await?;
    let (sender, receiver) = socket.split();

    let (events, events_out) = mpsc::channel(QUEUE);
    let (broadcasts, broadcasts_out) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    tasks.spawn(receive_control(receiver, monitor, events.clone()));
    let channels = ZeromqChild {
        control: sender,
        attached: None,
        unattached: Some(Unattached { events, broadcasts }),
        tasks,
    };
    Ok(ChildLink { channels: Box::new(channels), events: events_out, broadcasts: broadcasts_out })
}

/// Hands up control messages until the connection is lost.
async fn receive_control(mut socket: DealerRecvHalf, mut monitor: Monitor, events: mpsc::Sender<ChildEvent>) {
    loop {
        tokio::select! {
            // Messages first: a closed connection is told only once all that came by it was read.
            biased;
            message = socket.recv() => match message {
                Ok(message) => {
                    if events.send(ChildEvent::Control(message.into_vec())).await.is_err() {
                        return;
                    }
                }
                Err(_) => break,
            },
            event = monitor.next() => {
                if is_loss(event) {
                    break;
                }
            }
        }
    }
    drop(socket);
    // No receiver, no interest in the loss.
    let _ = events.send(ChildEvent::Lost(Channel::Control)).await;
}

/// Waits for the loss of the submit channel.
async fn watch_submit(mut monitor: Monitor, events: mpsc::Sender<ChildEvent>) {
    while !is_loss(monitor.next().await) {}
    // No receiver, no interest in the loss.
    let _ = events.send(ChildEvent::Lost(Channel::Submit)).await;
}

fn is_loss(event: Option<SocketEvent>) -> bool {
    matches!(event, None | Some(SocketEvent::Disconnected(_)))
}

/// The sockets of a dialled child. Whatever its tasks hold closes on drop, so they are simply aborted with it.
struct ZeromqChild {
    control: DealerSendHalf,
    attached: Option<Attached>,
    unattached: Option<Unattached>,
    tasks: JoinSet<()>,
}

struct Attached {
    submit: PushSocket,
    subscriptions: mpsc::Sender<Subscription>,
}

/// What the tasks of the broadcast and submit channels will need.
struct Unattached {
    events: mpsc::Sender<ChildEvent>,
    broadcasts: mpsc::Sender<Frames>,
}

impl fmt::Debug for ZeromqChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZeromqChild").field("attached", &self.attached.is_some()).finish_non_exhaustive()
    }
}

impl ZeromqChild {
    fn change(&mut self, subscription: Subscription) -> Result<(), ChannelError> {
        let Some(attached) = &self.attached else {
            return Err(ChannelError::Closed(Channel::Broadcast));
        };
        attached.subscriptions.try_send(subscription).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ChannelError::Full(Channel::Broadcast),
            mpsc::error::TrySendError::Closed(_) => ChannelError::Closed(Channel::Broadcast),
        })
    }
}

#[async_trait]
impl ChildChannels for ZeromqChild {
    fn send_control(&mut self, frame: Bytes) -> Result<(), ChannelError> {
        sent(self.control.send(ZmqMessage::from(frame)).now_or_never(), Channel::Control)
    }

    async fn attach(
        &mut self,
        broadcast: &Address,
        submit: &Address,
        session: SessionToken,
        timeout: Duration,
    ) -> Result<(), DialError> {
        if self.unattached.is_none() {
            return Err(DialError::Unsupported {
                address: broadcast.clone(),
                reason: "the link is attached already",
            });
        }
        let deadline = Instant::now() + timeout;
        let identity = PeerIdentity::try_from(&session.as_bytes()[..]).ok();
        let (socket, monitor) = connect::<SubSocket>(broadcast, identity.clone(), deadline).await?;
        let (submit, submit_monitor) = connect::<PushSocket>(submit, identity, deadline).await?;

        let Some(Unattached { events, broadcasts }) = self.unattached.take() else {
            return Ok(());
        };
        let (subscriptions, subscriptions_out) = mpsc::channel(SUBSCRIPTIONS);
        self.tasks.spawn(watch_submit(submit_monitor, events.clone()));
        self.tasks.spawn(
            SubscriberTask { socket, monitor, subscriptions: subscriptions_out, broadcasts, events }.run(),
        );
        self.attached = Some(Attached { submit, subscriptions });
        Ok(())
    }

    fn subscribe(&mut self, prefix: &str) -> Result<(), ChannelError> {
        self.change(Subscription::Add(prefix.to_owned()))
    }

    fn unsubscribe(&mut self, prefix: &str) -> Result<(), ChannelError> {
        self.change(Subscription::Remove(prefix.to_owned()))
    }

    fn submit(&mut self, head: Bytes, body: Bytes) -> Result<(), ChannelError> {
        let Some(attached) = &mut self.attached else {
            return Err(ChannelError::Closed(Channel::Submit));
        };
        let mut message = ZmqMessage::from(head);
        message.push_back(body);
        sent(attached.submit.send(message).now_or_never(), Channel::Submit)
    }
}

/// What one poll of a send came to. With its one peer a socket of the crate waits only for a full queue.
fn sent(outcome: Option<ZmqResult<()>>, channel: Channel) -> Result<(), ChannelError> {
    match outcome {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) => Err(ChannelError::Closed(channel)),
        None => Err(ChannelError::Full(channel)),
    }
}

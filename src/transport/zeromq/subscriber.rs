//! The task of a child's SUB: it alone may touch the socket, which wants `&mut` both to receive and to subscribe.

use ::zeromq::{SocketEvent, SocketRecv, SubSocket, ZmqResult};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Monitor, has_room};
use crate::transport::{Channel, ChildEvent, Frames};

/// A change to what is subscribed.
#[derive(Debug)]
pub(super) enum Subscription {
    /// Add a prefix.
    Add(String),
    /// Take a prefix back.
    Remove(String),
}

/// See the module.
pub(super) struct SubscriberTask {
    pub(super) socket: SubSocket,
    pub(super) monitor: Monitor,
    pub(super) subscriptions: mpsc::Receiver<Subscription>,
    pub(super) broadcasts: mpsc::Sender<Frames>,
    pub(super) events: mpsc::Sender<ChildEvent>,
}

impl SubscriberTask {
    /// Runs until the connection is lost, which it tells, or the link is dropped.
    pub(super) async fn run(mut self) {
        let mut held = None;
        if !self.receive(&mut held).await {
            return;
        }
        // At once, since the socket would connect again by itself in 100 ms.
        drop(self.socket);
        if let Some(frames) = held {
            // No receiver, no interest in the message.
            let _ = self.broadcasts.send(frames).await;
        }
        drop(self.broadcasts);
        // No receiver, no interest in the loss.
        let _ = self.events.send(ChildEvent::Lost(Channel::Broadcast)).await;
    }

    /// Receives until the connection is lost (true) or nobody is interested any more (false). A message that found no
    /// room is left in `held`.
    async fn receive(&mut self, held: &mut Option<Frames>) -> bool {
        loop {
            tokio::select! {
                event = self.monitor.next() => {
                    if matches!(event, None | Some(SocketEvent::Disconnected(_))) {
                        return true;
                    }
                }
                subscription = self.subscriptions.recv() => match subscription {
                    Some(subscription) => {
                        if self.apply(subscription).await.is_err() {
                            return true;
                        }
                    }
                    None => return false,
                },
                open = has_room(&self.broadcasts), if held.is_some() => {
                    if !open {
                        return false;
                    }
                    *held = held.take().and_then(|frames| self.hand_up(frames));
                }
                message = self.socket.recv(), if held.is_none() => match message {
                    Ok(message) => *held = self.hand_up(message.into_vec()),
                    Err(_) => return true,
                },
            }
        }
    }

    /// Hands up a message, or hands it back when there is no room.
    fn hand_up(&self, frames: Frames) -> Option<Frames> {
        match self.broadcasts.try_send(frames) {
            Err(TrySendError::Full(frames)) => Some(frames),
            // Without a receiver the link is about to be dropped.
            Ok(()) | Err(TrySendError::Closed(_)) => None,
        }
    }

    async fn apply(&mut self, subscription: Subscription) -> ZmqResult<()> {
        match subscription {
            Subscription::Add(prefix) => self.socket.subscribe(&prefix).await,
            Subscription::Remove(prefix) => self.socket.unsubscribe(&prefix).await,
        }
    }
}

//! A child's end of the channels.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::{LINGER, endpoint};
use crate::id::SessionToken;
use crate::transport::{
    Address, Channel, ChannelError, ChildChannels, ChildEvent, ChildLink, DialError, Frames,
};
use crate::zmtp::{
    Arrival, Bound, Core, DisconnectReason, Handle, Identity, Limits, Message, Options, SocketType,
};

/// The capacity of the queue of control messages to the driver.
const CONTROL_QUEUE: usize = 1_024;
/// The capacity of the queue of broadcasts to the driver. With full windows 16 MiB, or as many large messages.
const BROADCAST_QUEUE: usize = 256;
/// How much may wait for the parent: more than may be unanswered on control, and than an outbox holds.
const OUTBOUND: Bound = Bound::new(2_048, 128 << 20);
/// How much that came may wait to be handed up, on each channel.
const INBOUND: Bound = Bound::new(256, 4 << 20);
/// The largest frame taken of a parent: the largest message there can be, and what is around it. What a frame announces is not kept before it comes.
const FRAME: usize = (1 << 30) + (1 << 20);
/// How long one attempt may take: three seconds let a lost SYN be sent again.
const ATTEMPT: Duration = Duration::from_secs(3);
/// The least pause between attempts; as much again at random keeps many children apart.
const PAUSE: Duration = Duration::from_millis(20);

/// Dials a parent's control channel. Cancel safe.
pub(super) async fn dial(control: &Address, timeout: Duration) -> Result<ChildLink, DialError> {
    let deadline = Instant::now() + timeout;
    let mut identity = *Uuid::new_v4().as_bytes();
    // ZMTP reserves identities that begin with a zero octet.
    identity[0] |= 0x80;
    let socket = connect(SocketType::Dealer, control, &identity, deadline).await?;

    let (events, events_out) = mpsc::channel(CONTROL_QUEUE);
    let (broadcasts, broadcasts_out) = mpsc::channel(BROADCAST_QUEUE);
    let dropped = CancellationToken::new();
    let channels = ZmtpChild {
        control: socket.handle(),
        attached: None,
        events: events.clone(),
        broadcasts: Some(broadcasts),
        dropped: dropped.clone(),
        _guard: dropped.clone().drop_guard(),
    };
    // It ends when the link is dropped and its last words are out, or have had their time. So do those below.
    tokio::spawn(hand_up(socket, dropped, async move |socket: &mut Core| {
        while let Some(Arrival::Messages(batch)) = next(socket).await {
            for message in batch {
                if events.send(ChildEvent::Control(message.into_frames())).await.is_err() {
                    return;
                }
            }
        }
        // No receiver, no interest in the loss.
        let _ = events.send(ChildEvent::Lost(Channel::Control)).await;
    }));
    Ok(ChildLink { channels: Box::new(channels), events: events_out, broadcasts: broadcasts_out })
}

/// What comes next, the introduction left out; anything but messages is the end of the connection.
async fn next(socket: &mut Core) -> Option<Arrival> {
    loop {
        match socket.arrival().await {
            Some(Arrival::Ready) => {}
            other => return other,
        }
    }
}

/// Lets a socket's task go on until the link is dropped; then lets its last words out.
async fn hand_up(mut socket: Core, dropped: CancellationToken, work: impl AsyncFnOnce(&mut Core)) {
    // What is left of the work when the link is dropped is of interest to nobody.
    let _ = dropped.run_until_cancelled(work(&mut socket)).await;
    socket.close().await;
}

/// A socket whose peer has introduced itself. Tries again and again, since the parent may be about to start.
async fn connect(
    kind: SocketType,
    address: &Address,
    identity: &[u8],
    deadline: Instant,
) -> Result<Core, DialError> {
    let unsupported = |reason| Err(DialError::Unsupported { address: address.clone(), reason });
    let endpoint = match endpoint(address) {
        Some(_) if address.is_ipc_wildcard() => return unsupported("the wildcard is for binding"),
        Some(_) if matches!(address, Address::Tcp { port: 0, .. }) => {
            return unsupported("port 0 is for binding");
        }
        Some(endpoint) => endpoint,
        None => return unsupported("the ZMTP transport dials tcp:// everywhere, and ipc:// on Unix"),
    };
    let Ok(identity) = Identity::try_from(identity) else {
        return unsupported("a session whose token begins with a zero has no name here");
    };
    let mut reason = "there was no time to connect".to_owned();
    while Instant::now() < deadline {
        let options = Options {
            identity: identity.clone(),
            send_hwm: OUTBOUND,
            recv_hwm: INBOUND,
            linger: LINGER,
            limits: Limits { frame: FRAME, message: FRAME as u64 + 1024, frames: 8, ..Limits::default() },
            ..Options::default()
        };
        let mut socket = Core::new(kind, options, true);
        let attempt = async {
            socket.connect_once(&endpoint).await.map_err(|error| error.to_string())?;
            match socket.arrival().await {
                Some(Arrival::Ready) => Ok(()),
                Some(Arrival::Gone(_, DisconnectReason::Violation(violation))) => Err(violation.to_string()),
                _ => Err("the connection was closed before the peer had introduced itself".to_owned()),
            }
        };
        match timeout_at(deadline.min(Instant::now() + ATTEMPT), attempt).await {
            Ok(Ok(())) => return Ok(socket),
            Ok(Err(error)) => reason = error,
            Err(_) => "connections are not answered, or no ZMTP greeting comes".clone_into(&mut reason),
        }
        let jitter = PAUSE.mul_f32(f32::from(Uuid::new_v4().as_bytes()[0]) / 256.0);
        sleep_until(deadline.min(Instant::now() + PAUSE + jitter)).await;
    }
    Err(DialError::Unreachable { address: address.clone(), reason })
}

/// What the driver holds of a dialled child.
#[derive(Debug)]
struct ZmtpChild {
    control: Handle,
    attached: Option<Attached>,
    events: mpsc::Sender<ChildEvent>,
    broadcasts: Option<mpsc::Sender<Frames>>,
    dropped: CancellationToken,
    /// Ends the tasks.
    _guard: DropGuard,
}

#[derive(Debug)]
struct Attached {
    broadcast: Handle,
    submit: Handle,
}

impl ZmtpChild {
    fn subscriber(&self) -> Result<&Handle, ChannelError> {
        match &self.attached {
            Some(attached) if attached.broadcast.peer_count() > 0 => Ok(&attached.broadcast),
            _ => Err(ChannelError::Closed(Channel::Broadcast)),
        }
    }
}

/// What became of a message for the only peer.
fn sent(socket: &Handle, message: &Message, channel: Channel) -> Result<(), ChannelError> {
    match socket.try_deal(message) {
        Some(_) => Ok(()),
        None if socket.peer_count() == 0 => Err(ChannelError::Closed(channel)),
        None => Err(ChannelError::Full(channel)),
    }
}

#[async_trait]
impl ChildChannels for ZmtpChild {
    fn send_control(&mut self, frame: Bytes) -> Result<(), ChannelError> {
        sent(&self.control, &frame.into(), Channel::Control)
    }

    async fn attach(
        &mut self,
        broadcast: &Address,
        submit: &Address,
        session: SessionToken,
        timeout: Duration,
    ) -> Result<(), DialError> {
        let Some(broadcasts) = self.broadcasts.take() else {
            return Err(DialError::Unsupported {
                address: broadcast.clone(),
                reason: "the link is attached already",
            });
        };
        let deadline = Instant::now() + timeout;
        let subscriber = connect(SocketType::Sub, broadcast, session.as_bytes(), deadline).await?;
        let pusher = connect(SocketType::Push, submit, session.as_bytes(), deadline).await?;
        self.attached = Some(Attached { broadcast: subscriber.handle(), submit: pusher.handle() });

        let events = self.events.clone();
        tokio::spawn(hand_up(subscriber, self.dropped.clone(), async move |socket: &mut Core| {
            while let Some(Arrival::Messages(batch)) = next(socket).await {
                for message in batch {
                    if broadcasts.send(message.into_frames()).await.is_err() {
                        return;
                    }
                }
            }
            // No receiver, no interest in the loss.
            let _ = events.send(ChildEvent::Lost(Channel::Broadcast)).await;
        }));
        let events = self.events.clone();
        tokio::spawn(hand_up(pusher, self.dropped.clone(), async move |socket: &mut Core| {
            // A PULL has nothing to say.
            while let Some(Arrival::Messages(_)) = next(socket).await {}
            // As above.
            let _ = events.send(ChildEvent::Lost(Channel::Submit)).await;
        }));
        Ok(())
    }

    fn subscribe(&mut self, prefix: &str) -> Result<(), ChannelError> {
        self.subscriber()?.subscribe(Bytes::copy_from_slice(prefix.as_bytes()));
        Ok(())
    }

    fn unsubscribe(&mut self, prefix: &str) -> Result<(), ChannelError> {
        self.subscriber()?.unsubscribe(Bytes::copy_from_slice(prefix.as_bytes()));
        Ok(())
    }

    fn submit(&mut self, head: Bytes, body: Bytes) -> Result<(), ChannelError> {
        let Some(attached) = &self.attached else { return Err(ChannelError::Closed(Channel::Submit)) };
        match Message::from_frames([head, body]) {
            Some(message) => sent(&attached.submit, &message, Channel::Submit),
            None => Ok(()),
        }
    }
}

//! The task that sends what an open document has to say, and hears what becomes of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::endpoint::{Receipt, Sender};
use crate::error::SendError;
use crate::message::MessageKind;
use crate::sync::lock;

use super::super::outgoing::{Lost, Queue, next_lost};
use super::super::replica::Replica;
use super::super::wire;
use super::super::{Document, DocumentError};
use super::shared::{Alive, Shared};
use super::subscribe_error;

/// Sends what the document has to say, in its order.
pub(super) async fn write<D: Document>(shared: Arc<Shared<D>>, sender: Sender, mut queue: Queue) {
    let _alive = Alive(Arc::clone(&shared));
    let _done = shared.done.clone().drop_guard();
    let topics = [wire::answer_topic(shared.me), wire::KEEPER_TOPIC.to_owned(), wire::prefix(&shared.name)];
    // Not given up when the document is closed meanwhile: what was taken up is to be released, once.
    let taken_up = sender.take_up(&topics).await;
    if let Err(error) = &taken_up {
        shared.with(|replica| replica.fail(subscribe_error(&shared.name, error)));
    }
    // The messages whose fates are open, in their order: the last one's fate does not tell those of the others.
    let mut open: VecDeque<(MessageKind, Receipt)> = VecDeque::new();
    loop {
        let part = || {
            let part = lock(&shared.replica).poll_part();
            part.and_then(|part| shared.message(part))
        };
        let message = tokio::select! {
            biased;
            lost = next_lost(&mut open) => {
                match lost {
                    (Lost::Unknown, _) => shared.with(Replica::on_unknown),
                    (Lost::Refused, kind) => shared.with(|replica| replica.on_refused(kind)),
                }
                continue;
            }
            () = shared.closing.cancelled() => queue.try_next(),
            message = queue.next(&shared.part, part) => message,
        };
        let Some(message) = message else { break };
        let kind = message.kind();
        match sender.send(message).await {
            Ok(receipt) => open.push_back((kind, receipt)),
            Err(error) => on_unsent(&shared, error),
        }
    }
    if taken_up.is_ok() {
        // An endpoint that has ended takes nothing any more anyway.
        let _ = sender.release(&topics).await;
    }
}

/// What is said for others is missed by them, and they ask again. Without what it has to say for itself a document is of no use.
fn on_unsent<D: Document>(shared: &Shared<D>, error: SendError) {
    let reason = error.to_string();
    match error.into_message().kind() {
        MessageKind::DocumentFragment | MessageKind::FullDocumentRequest => {
            let name = shared.name.clone();
            shared.with(|replica| replica.fail(DocumentError::Refused { name, reason }));
        }
        _ => {
            tracing::warn!(document = shared.name, reason, "an answer to another endpoint was not sent");
            shared.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

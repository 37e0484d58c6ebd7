//! Tells the host what members may say about documents, as the application's `access` has it, so that it orders nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::endpoint::{Guard, Sender, Told};
use crate::id::EndpointId;
use crate::proto::host::{Rights, Stamp};

use super::super::Access;
use super::super::handle::random;

fn rights(access: &Access) -> Rights {
    match access {
        Access::Write => Rights::Write,
        Access::Read => Rights::Read,
        Access::Denied(_) => Rights::Nothing,
    }
}

/// The way to the host.
#[derive(Debug)]
pub(super) struct Veto {
    /// No more waits here than was asked, about: the host bounds that.
    told: mpsc::UnboundedSender<Told>,
    /// Of all keepers there have been, this one; and how often it was told that something has changed.
    guard: u64,
    generation: AtomicU64,
}

impl Veto {
    /// And what the host is to hear.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Told>) {
        let (told, queue) = mpsc::unbounded_channel();
        (Self { told, guard: random(), generation: AtomicU64::new(0) }, queue)
    }

    /// From when this returns on nothing is ordered but what is allowed by whoever answers `asks`: until the host asks another, or is told to ask nobody.
    pub(super) async fn start(
        &self,
        sender: &Sender,
        lasts: Duration,
        asks: mpsc::UnboundedSender<(EndpointId, String)>,
        told: mpsc::UnboundedReceiver<Told>,
    ) {
        sender.set_guard(Some(Guard { stamp: self.stamp(), lasts, asks, told, is_deaf: false })).await;
    }

    /// To be taken before the application is asked.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp { guard: self.guard, generation: self.generation.load(Ordering::SeqCst) }
    }

    /// What the application has said.
    pub(super) fn tell(&self, stamp: Stamp, id: EndpointId, name: String, access: &Access) {
        self.say(Told::Rights { stamp, id, name, rights: rights(access) });
    }

    /// What the application has said before counts no more, from when this returns.
    pub(super) async fn forget(&self, name: Option<String>) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let (done, answer) = oneshot::channel();
        self.say(Told::Forget { stamp: self.stamp(), name, done });
        let _ = answer.await;
    }

    /// Everybody may say everything.
    pub(super) fn release(&self) {
        self.say(Told::Release);
    }

    fn say(&self, told: Told) {
        // A host that has ended orders nothing, and one that asks another goes by that one.
        let _ = self.told.send(told);
    }
}

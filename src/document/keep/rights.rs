//! Tells the host what members may say about documents, as the application's `access` has it, so that it orders nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::endpoint::{Guard, Sender, Told};
use crate::id::EndpointId;
use crate::proto::host::{Rights, Stamp};

use super::super::Access;
use super::super::handle::random;
use super::AccessFn;

/// How many answers may wait for the host (a guess).
const WAITING: usize = 64;
/// How many answers are being thought about at once (a guess: threads that wait for a database, say).
const AT_ONCE: usize = 16;
/// How long the application may think about one. What it has not said by then is a denial (a guess: as for authenticators).
const TOO_LONG: Duration = Duration::from_secs(5);

/// What the application says; who it cannot tell about may do nothing.
pub(super) fn ask(access: &AccessFn, who: EndpointId, name: &str) -> Access {
    catch_unwind(AssertUnwindSafe(|| access(who, name))).unwrap_or_else(|_| {
        tracing::error!(%who, name, "the keeper's access callback panicked: taken for a denial");
        Access::Denied("the keeper cannot tell who may have it".to_owned())
    })
}

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
    told: mpsc::Sender<Told>,
    /// Of all keepers there have been, this one; and how often it was told that something has changed.
    guard: u64,
    generation: AtomicU64,
}

impl Veto {
    /// From when this returns on nothing is ordered that `access` does not allow.
    pub(super) async fn start(sender: &Sender, access: AccessFn, lasts: Duration) -> Starting {
        let (asks, asked) = mpsc::unbounded_channel();
        let (told, queue) = mpsc::channel(WAITING);
        let veto = Arc::new(Self { told, guard: random(), generation: AtomicU64::new(0) });
        let starting = Starting(Some(Arc::clone(&veto)));
        tokio::spawn(answer(Arc::clone(&veto), access, asked));
        sender.set_guard(Some(Guard { stamp: veto.stamp(), lasts, asks, told: queue })).await;
        starting
    }

    /// To be taken before the application is asked.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp { guard: self.guard, generation: self.generation.load(Ordering::SeqCst) }
    }

    /// The application was asked by the keeper itself. Where the host has no time for it, it asks when it has to know.
    pub(super) fn tell(&self, stamp: Stamp, id: EndpointId, name: &str, access: &Access) {
        let told = Told::Rights { stamp, id, name: name.to_owned(), rights: rights(access) };
        let _ = self.told.try_send(told);
    }

    /// What the application has said before counts no more, from when this returns.
    pub(super) async fn forget(&self, name: Option<String>) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let (done, answer) = oneshot::channel();
        // A host that has ended orders nothing.
        let _ = self.told.send(Told::Forget { stamp: self.stamp(), name, done }).await;
        let _ = answer.await;
    }

    /// Everybody may say everything.
    pub(super) async fn release(&self) {
        // As above.
        let _ = self.told.send(Told::Release).await;
    }
}

/// A veto whose keeper has not started yet: it ends with this, unless that comes to be.
#[derive(Debug)]
pub(super) struct Starting(Option<Arc<Veto>>);

impl Starting {
    pub(super) fn has_started(mut self) -> Option<Arc<Veto>> {
        self.0.take()
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(veto) = &self.0 {
            let _ = veto.told.try_send(Told::Release);
        }
    }
}

/// Answers what the host asks, until that has ended or asks another. The application is asked on threads where it keeps nobody waiting.
async fn answer(veto: Arc<Veto>, access: AccessFn, mut asked: mpsc::UnboundedReceiver<(EndpointId, String)>) {
    let mut thinking = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = thinking.join_next() => {}
            next = asked.recv(), if thinking.len() < AT_ONCE => {
                let Some((id, name)) = next else { break };
                thinking.spawn(decide(Arc::clone(&veto), Arc::clone(&access), id, name));
            }
        }
    }
}

async fn decide(veto: Arc<Veto>, access: AccessFn, id: EndpointId, name: String) {
    let stamp = veto.stamp();
    let about = name.clone();
    let asking = tokio::task::spawn_blocking(move || rights(&ask(&access, id, &about)));
    let rights = match tokio::time::timeout(TOO_LONG, asking).await {
        Ok(Ok(rights)) => rights,
        Ok(Err(_)) | Err(_) => {
            tracing::error!(%id, name, "the keeper's access callback took too long: taken for a denial");
            Rights::Nothing
        }
    };
    // A host that has ended, or asks another, needs no answer.
    let _ = veto.told.send(Told::Rights { stamp, id, name, rights }).await;
}

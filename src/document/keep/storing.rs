//! The store on a thread of its own, which commits what has come together.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;

use tokio::sync::{mpsc, oneshot};

use crate::message::Position;

use super::super::keeper::Keeper;
use super::super::store::{Store, StoreChange};
use super::KeeperError;
use super::driver::Done;

/// How much may wait for the store, in bytes (a guess: seconds of the fastest traffic). Beyond, the store is given up.
const MOST_WAITING: usize = 256 << 20;
/// How many changes are committed at once, at most.
const MOST_AT_ONCE: usize = 4_096;

/// A store, and what it had.
pub(super) struct Storing(Box<dyn Store>);

/// What was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Up to where documents are stored.
    pub(super) positions: BTreeMap<String, Position>,
    pub(super) error: Option<KeeperError>,
}

impl Storing {
    /// Loads all that is stored into the machine, on a blocking thread: there may be much of it to be read, and looked at. Dropped before its end, it lets go of the store
    /// when it has got that far.
    pub(super) async fn start(
        mut store: Box<dyn Store>,
        mut machine: Keeper,
    ) -> Result<(Self, Keeper), KeeperError> {
        let load = move || {
            for name in store.names()? {
                let Some(stored) = store.load(&name)? else { continue };
                machine
                    .load(name.clone(), stored)
                    .map_err(|malformed| KeeperError::Malformed { name, reason: malformed.to_string() })?;
            }
            Ok((Self(store), machine))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        loaded.map_err(|error| KeeperError::Store(error.to_string()))?
    }

    /// Starts the thread.
    pub(super) fn run(self, results: mpsc::UnboundedSender<Done>) -> Writer {
        self.run_with(results, MOST_WAITING)
    }

    fn run_with(self, results: mpsc::UnboundedSender<Done>, most: usize) -> Writer {
        let (changes, queue) = std_mpsc::channel();
        let (done, ended) = oneshot::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&waiting);
        std::thread::spawn(move || {
            write(self.0, &queue, &counter, &results);
            // Nobody may be waiting for it.
            let _ = done.send(());
        });
        Writer { changes, waiting, most, ended }
    }
}

fn size(change: &StoreChange) -> usize {
    let (StoreChange::Append { name, .. } | StoreChange::Replace { name, .. } | StoreChange::Remove { name }) =
        change;
    size_of::<StoreChange>() + name.len() + change.bytes()
}

fn write(
    mut store: Box<dyn Store>,
    queue: &std_mpsc::Receiver<StoreChange>,
    waiting: &AtomicUsize,
    results: &mpsc::UnboundedSender<Done>,
) {
    while let Ok(first) = queue.recv() {
        let mut changes = vec![first];
        changes.extend(queue.try_iter().take(MOST_AT_ONCE - 1));
        let bytes: usize = changes.iter().map(size).sum();
        let committed = catch_unwind(AssertUnwindSafe(|| store.commit(&changes)));
        let error = match committed {
            Ok(committed) => committed.err().map(KeeperError::from),
            Err(_) => Some(KeeperError::Store("the store panicked".to_owned())),
        };
        waiting.fetch_sub(bytes, Ordering::Relaxed);
        let failed = error.is_some();
        let mut positions = BTreeMap::new();
        if !failed {
            for (name, up_to) in changes.iter().filter_map(StoreChange::up_to) {
                let position = positions.entry(name.to_owned()).or_insert(up_to);
                *position = up_to.max(*position);
            }
        }
        // A driver that is gone needs no word.
        let _ = results.send(Done::Written(Written { positions, error }));
        if failed {
            // What is behind a hole is of no use: no more is stored.
            return;
        }
    }
}

/// Where changes go.
#[derive(Debug)]
pub(super) struct Writer {
    changes: std_mpsc::Sender<StoreChange>,
    waiting: Arc<AtomicUsize>,
    most: usize,
    ended: oneshot::Receiver<()>,
}

impl Writer {
    /// Whether there was room. Otherwise the store is to be given up: what is behind a hole is of no use.
    pub(super) fn store(&self, change: StoreChange) -> bool {
        let size = size(&change);
        let waiting = self.waiting.load(Ordering::Relaxed);
        // One document may be larger than that, where it has the store for itself.
        if waiting > 0 && waiting + size > self.most {
            return false;
        }
        self.waiting.fetch_add(size, Ordering::Relaxed);
        // The thread ends after an error, which was told.
        let _ = self.changes.send(change);
        true
    }

    /// Waits until all is written.
    pub(super) async fn end(self) {
        drop(self.changes);
        // An error is the thread's end, too.
        let _ = self.ended.await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::super::store::{Record, StoreError, Stored};
    use super::*;

    /// A store that hangs until nobody can tell it to go on.
    struct Hung(std_mpsc::Receiver<()>);

    impl Store for Hung {
        fn names(&mut self) -> Result<Vec<String>, StoreError> {
            Ok(Vec::new())
        }

        fn load(&mut self, _: &str) -> Result<Option<Stored>, StoreError> {
            Ok(None)
        }

        fn commit(&mut self, _: &[StoreChange]) -> Result<(), StoreError> {
            // As above.
            let _ = self.0.recv();
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_waits_for_a_store_that_hangs_is_bounded() {
        let (go, told) = std_mpsc::channel();
        let (results, mut written) = mpsc::unbounded_channel();
        let writer = Storing(Box::new(Hung(told))).run_with(results, 10_000);
        let append = |seq| StoreChange::Append {
            name: "it".to_owned(),
            record: Record { position: Position { epoch: 1, seq }, bytes: Bytes::from(vec![0; 1_000]) },
        };
        let stored = (1..=1_000).take_while(|seq| writer.store(append(*seq))).count();
        assert!((7..=9).contains(&stored), "{stored}");
        drop(go);
        writer.end().await;
        let mut last = 0;
        while let Some(Done::Written(Written { positions, error })) = written.recv().await {
            assert_eq!(error, None);
            last = positions["it"].seq;
        }
        assert_eq!(last, stored as u64, "what it was told before is stored");
    }
}

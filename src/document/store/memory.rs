//! The simplest store: a map.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Store, StoreChange, StoreError, Stored};
use crate::message::Position;
use crate::sync::lock;

/// What stands for the path in the errors of a store that has none.
const NO_PATH: &str = "memory";

/// Keeps documents in memory: for tests, and for keepers whose documents need not outlive the process.
///
/// Clones are one store: keep one to see what a keeper stores, or to give it to the next keeper.
///
/// ```
/// use zincmq::Position;
/// use zincmq::document::store::{MemoryStore, Record, Store, StoreChange};
///
/// let mut store = MemoryStore::new();
/// let record = Record { position: Position { epoch: 1, seq: 1 }, bytes: "one".into() };
/// store.clone().commit(&[StoreChange::Append { name: "counter".into(), record }])?;
/// assert_eq!(store.names()?, ["counter"]);
/// # Ok::<(), zincmq::document::store::StoreError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    documents: Arc<Mutex<BTreeMap<String, Stored>>>,
}

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn names(&mut self) -> Result<Vec<String>, StoreError> {
        Ok(lock(&self.documents).keys().cloned().collect())
    }

    fn load(&mut self, name: &str) -> Result<Option<Stored>, StoreError> {
        Ok(lock(&self.documents).get(name).cloned())
    }

    fn commit(&mut self, changes: &[StoreChange]) -> Result<(), StoreError> {
        let mut documents = lock(&self.documents);
        // What comes of the documents that change, aside until all changes have gone well.
        let mut changed: BTreeMap<&str, Option<Stored>> = BTreeMap::new();
        for change in changes {
            let (StoreChange::Append { name, .. }
            | StoreChange::Replace { name, .. }
            | StoreChange::Remove { name }) = change;
            let document = changed.entry(name).or_insert_with(|| documents.get(name).cloned());
            apply(document, change).map_err(|(position, last)| StoreError::OutOfOrder {
                path: NO_PATH.into(),
                name: name.clone(),
                position,
                last,
            })?;
        }
        for (name, document) in changed {
            match document {
                Some(document) => documents.insert(name.to_owned(), document),
                None => documents.remove(name),
            };
        }
        Ok(())
    }
}

/// Changes one document; or says which position is not behind which.
fn apply(document: &mut Option<Stored>, change: &StoreChange) -> Result<(), (Position, Position)> {
    match change {
        StoreChange::Append { record, .. } => {
            let document = document.get_or_insert_default();
            let base = document.base.as_ref().map(|base| base.position);
            match document.records.last().map(|record| record.position).or(base) {
                Some(last) if record.position <= last => return Err((record.position, last)),
                _ => document.records.push(record.clone()),
            }
        }
        StoreChange::Replace { base, .. } => {
            let document = document.get_or_insert_default();
            match &document.base {
                Some(last) if base.position < last.position => return Err((base.position, last.position)),
                _ => document.base = Some(base.clone()),
            }
            document.records.retain(|record| record.position > base.position);
        }
        StoreChange::Remove { .. } => *document = None,
    }
    Ok(())
}

//! Starts the tasks of an open document: one reads, another sends, and the application's threads change it in between.

use std::sync::Arc;

use crate::endpoint::Endpoint;

use super::super::Document;
use super::super::outgoing::Queue;
use super::super::replica::Config;
use super::DocumentOptions;
use super::reader::Reader;
use super::shared::Shared;
use super::writer::write;

/// How many of its own updates an ordered document remembers (a guess).
const MOST_RECENT: usize = 1_024;

/// Starts the tasks of a document.
pub(super) fn start<D: Document, E: Endpoint + ?Sized>(
    endpoint: &E,
    name: &str,
    options: &DocumentOptions,
) -> Arc<Shared<D>> {
    let config = Config {
        name: name.to_owned(),
        me: endpoint.id(),
        seed: options.replica.unwrap_or_else(random),
        create: options.create,
        max_unsynced: options.max_unsynced,
        max_update: options.max_update,
        read_only: !endpoint.role().may_send(),
        max_message: endpoint.sender().max_message(),
        recent: MOST_RECENT,
        #[cfg(any(test, feature = "test-utils"))]
        mutant: None,
    };
    let (outgoing, queue) = Queue::new();
    let shared = Shared::new(config, outgoing);
    let reader = Reader::new(&shared, endpoint);
    // What it has to say from the beginning.
    shared.with(|_| ());
    tokio::spawn(reader.run());
    tokio::spawn(write(Arc::clone(&shared), endpoint.sender(), queue));
    shared
}

/// A number of the system's generator; where that fails, of the process's hasher.
pub(in crate::document) fn random() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes).max(1),
        Err(_) => {
            use std::hash::{BuildHasher, Hasher, RandomState};
            RandomState::new().build_hasher().finish().max(1)
        }
    }
}

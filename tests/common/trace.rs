//! Texts as they were typed, from `tests/data/traces`.
#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

/// A change to a text: a position and a length, in code points, and what comes in place of that.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Patch(pub(crate) usize, pub(crate) usize, pub(crate) String);

/// What was typed at once, by somebody who saw just its parents and what they had seen.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Transaction {
    #[serde(default)]
    pub(crate) parents: Vec<usize>,
    #[serde(default)]
    pub(crate) agent: usize,
    pub(crate) patches: Vec<Patch>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    pub(crate) txns: Vec<Transaction>,
    pub(crate) end_content: String,
}

impl Trace {
    pub(crate) fn load(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/traces/{name}.json.gz"));
        let file = std::fs::File::open(path).expect("the trace is there");
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("it is whole");
        serde_json::from_str(&text).expect("it is a trace")
    }

    /// What one of two agents typed: how many of the other's transactions it had seen by then, and the patches.
    pub(crate) fn of_agent(&self, agent: usize) -> Vec<(u64, &[Patch])> {
        // How many of each agent's were seen, up to each transaction.
        let mut seen: Vec<[u64; 2]> = Vec::with_capacity(self.txns.len());
        for txn in &self.txns {
            let mut sees = [0, 0];
            for parent in &txn.parents {
                for (mine, theirs) in sees.iter_mut().zip(seen[*parent]) {
                    *mine = theirs.max(*mine);
                }
            }
            sees[txn.agent] += 1;
            seen.push(sees);
        }
        let own = self.txns.iter().zip(seen).filter(|(txn, _)| txn.agent == agent);
        own.map(|(txn, seen)| (seen[1 - agent], txn.patches.as_slice())).collect()
    }
}

//! What is typed: texts that people typed, from `tests/data/traces`, and a long one that is made up. An edit is one or more patches, as one author sees them,
//! with positions in UTF-16 units, which all sides can take.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use zincmq::document::crdt::Text;
use zincmq::document::{Conflict, Document, Draft};

use crate::Failure;

/// At a position, what goes and what comes in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Patch(pub usize, pub usize, pub String);

pub type Edit = Vec<Patch>;

#[derive(Deserialize)]
struct Transaction {
    #[serde(default)]
    parents: Vec<usize>,
    #[serde(default)]
    agent: usize,
    patches: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    txns: Vec<Transaction>,
    end_content: String,
}

fn load(name: &str) -> Result<Trace, Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/data/traces/{name}.json.gz"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn typed(text: &mut Text, patches: &[Patch]) -> Result<Vec<<Text as Document>::Fragment>, Failure> {
    let ((), fragments) = Draft::alone(text, |draft| {
        patches
            .iter()
            .try_for_each(|Patch(position, deleted, inserted)| draft.replace(*position, *deleted, inserted))
    })?;
    Ok(fragments)
}

/// Of a text that one person typed.
pub fn of_one(name: &str) -> Result<Vec<Edit>, Failure> {
    let trace = load(name)?;
    let edits: Vec<Edit> = trace.txns.into_iter().map(|txn| txn.patches).collect();
    let edits = in_utf16(edits)?;
    if result(&edits)? == trace.end_content { Ok(edits) } else { Err("another text came out".into()) }
}

/// Of a text that two people typed at once: what somebody saw who watched both, in the trace's order. Each of the two sees what they saw; the watcher takes in
/// what both make of it, and an edit is what that changed.
pub fn of_two(name: &str) -> Result<Vec<Edit>, Failure> {
    let trace = load(name)?;
    let mut authors = [Text::empty(), Text::empty()];
    for (author, number) in authors.iter_mut().zip(1..) {
        author.set_replica(number << 32);
    }
    let mut watcher = Text::empty();
    let mut edits = Vec::new();
    // How many transactions of each author were seen, up to each; what each author made, and how much of it the other has taken in.
    let mut seen: Vec<[usize; 2]> = Vec::new();
    let mut made = [Vec::new(), Vec::new()];
    let mut taken = [0, 0];
    for txn in &trace.txns {
        let mut sees = [0, 0];
        for parent in &txn.parents {
            sees = [sees[0].max(seen[*parent][0]), sees[1].max(seen[*parent][1])];
        }
        let (own, other) = (txn.agent, 1 - txn.agent);
        let missing: &[Vec<_>] = &made[other][taken[own]..sees[other]];
        for fragment in missing.iter().flatten() {
            authors[own].apply(fragment)?;
        }
        taken[own] = taken[own].max(sees[other]);
        let fragments = typed(&mut authors[own], &txn.patches)?;
        let mut edit = Edit::new();
        for fragment in &fragments {
            let patches = watcher.apply(fragment)?;
            edit.extend(
                patches.into_iter().map(|patch| Patch(patch.position, patch.deleted, patch.inserted)),
            );
        }
        made[own].push(fragments);
        sees[own] += 1;
        seen.push(sees);
        // What one deletes that the other deleted before does nothing.
        if !edit.is_empty() {
            edits.push(edit);
        }
    }
    let edits = in_utf16(edits)?;
    if result(&edits)? == trace.end_content { Ok(edits) } else { Err("another text came out".into()) }
}

/// A long text, an edit for each character, about as people type: runs, some of them far from the last, and deletions, three in ten. The same every time.
pub fn made_up(count: usize) -> Vec<Edit> {
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % below.max(1)
    };
    let (mut edits, mut length, mut at) = (Vec::with_capacity(count), 0_usize, 0_usize);
    while edits.len() < count {
        match random(100) {
            // Far away, or a few lines up or down, or on where it is.
            0..5 => at = random(length + 1),
            5..35 => at = (at + random(400)).saturating_sub(200).min(length),
            _ => {}
        }
        if random(100) < 45 {
            for _ in 0..1 + random(14) {
                if at == 0 {
                    break;
                }
                at -= 1;
                length -= 1;
                edits.push(vec![Patch(at, 1, String::new())]);
            }
        } else {
            for _ in 0..1 + random(28) {
                let letter = b"etaoin shrdlu cmfwyp vbgkjqxz\n"[random(30)] as char;
                edits.push(vec![Patch(at, 0, letter.to_string())]);
                at += 1;
                length += 1;
            }
        }
    }
    edits.truncate(count);
    edits
}

/// Positions in code points become those in UTF-16 units.
fn in_utf16(edits: Vec<Edit>) -> Result<Vec<Edit>, Failure> {
    let mut text = Text::empty();
    text.set_replica(1);
    let mut result = Vec::with_capacity(edits.len());
    for edit in edits {
        let mut patches = Edit::new();
        for patch in edit {
            let position = text.to_utf16(patch.0)?;
            let deleted = text.to_utf16(patch.0 + patch.1)? - position;
            typed(&mut text, std::slice::from_ref(&patch))?;
            patches.push(Patch(position, deleted, patch.2));
        }
        result.push(patches);
    }
    Ok(result)
}

/// The text that comes of these.
pub fn result(edits: &[Edit]) -> Result<String, Failure> {
    let mut units: Vec<u16> = Vec::new();
    for Patch(position, deleted, inserted) in edits.iter().flatten() {
        if position + deleted > units.len() {
            return Err(Conflict::new("a patch past the end").into());
        }
        units.splice(*position..position + deleted, inserted.encode_utf16());
    }
    Ok(String::from_utf16(&units)?)
}

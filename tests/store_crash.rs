//! A process that commits to a store is killed as by `kill -9`, again and again: whatever the moment, the file opens, and of every document there is
//! everything that was acknowledged, and nothing with a hole in it.
#![cfg(all(target_os = "linux", feature = "store"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the sans-IO machines"
)]

#[path = "common/dice.rs"]
mod dice;
#[path = "common/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use dice::Dice;
use process::{Process, Role, say};
use serde_json::{Value, json};
use zincmq::Position;
use zincmq::document::store::{Base, Record, RedbStore, Store, StoreChange};

const KILLS: u64 = 200;
/// After this time there are no more kills, if the machine is slow.
const TIME: Duration = Duration::from_secs(45);
const DOCUMENTS: u64 = 5;
/// So many there must be in that time.
const ENOUGH: u64 = 20;

#[test]
#[ignore = "a process of the test below"]
fn committer_role() {
    process::play(async |role| commit(&role));
}

/// How far each document is: the number of its last record.
type Progress = BTreeMap<String, u64>;

fn position(number: u64) -> Position {
    // Each epoch begins at 1 again: the order does not go by seq alone.
    Position { epoch: number / 100, seq: 1 + number % 100 }
}

/// What is stored at a number of a document: no two are alike.
fn content(name: &str, number: u64) -> Vec<u8> {
    let line = format!("{name} {number}\n");
    line.as_bytes().repeat(1 + (number * 37 % 101) as usize)
}

/// What is stored as the base up to a number.
fn base(name: &str, number: u64) -> Vec<u8> {
    let line = format!("{name} up to {number}\n");
    line.as_bytes().repeat(1 + (number * 41 % 3001) as usize)
}

/// How far each document is in this store. Panics when there is a hole in it, or something that is not what was stored there.
fn progress(store: &mut RedbStore) -> Progress {
    let mut progress = Progress::new();
    for name in store.names().expect("it reads") {
        let stored = store.load(&name).expect("it reads").expect("it is named");
        let mut number = 0;
        if let Some(Base { position: at, bytes }) = stored.base {
            let text =
                std::str::from_utf8(&bytes).expect("a text").lines().next().expect("a line").to_owned();
            number = text.rsplit(' ').next().expect("a number").parse().expect("a number");
            assert_eq!((at, bytes), (position(number), base(&name, number).into()), "{name}");
        }
        for Record { position: at, bytes } in stored.records {
            number += 1;
            assert_eq!((at, bytes), (position(number), content(&name, number).into()), "{name}");
        }
        progress.insert(name, number);
    }
    progress
}

/// Commits until it is killed, and says after each commit how far the documents are that changed.
fn commit(role: &Role) {
    let mut dice = Dice::new(role.number("seed"));
    let mut store = RedbStore::open(role.text("path")).expect("it opens whatever the moment was");
    let mut at = progress(&mut store);
    say(&json!({ "event": "opened", "progress": at }));
    loop {
        let mut changes = Vec::new();
        let mut changed = BTreeMap::new();
        for _ in 0..=dice.below(6) {
            let name = format!("document {}", dice.below(DOCUMENTS));
            let number = at.entry(name.clone()).or_insert(0);
            changes.push(if dice.below(8) == 0 && *number > 0 {
                // Up to here, or with some records behind it; but not before the last one.
                let base = Base { position: position(*number), bytes: base(&name, *number).into() };
                StoreChange::Replace { name: name.clone(), base }
            } else {
                *number += 1;
                let record = Record { position: position(*number), bytes: content(&name, *number).into() };
                StoreChange::Append { name: name.clone(), record }
            });
            changed.insert(name, *number);
        }
        store.commit(&changes).expect("room");
        say(&json!({ "event": "stored", "progress": changed }));
    }
}

/// Notes what a line says.
fn note(progress: &mut Progress, line: &Value) {
    for (name, number) in line["progress"].as_object().expect("numbers by name") {
        progress.insert(name.clone(), number.as_u64().expect("a number"));
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_at_any_moment() {
    let directory = tempfile::tempdir().expect("room");
    let path = directory.path().join("documents");
    let mut dice = Dice::new(42);
    let mut acknowledged = Progress::new();
    let (begun, mut kills, mut commits, mut while_opening) = (Instant::now(), 0, 0, 0);
    while kills < KILLS && (kills < ENOUGH || begun.elapsed() < TIME) {
        // The moment: a few are while it starts and opens the file, the others after some commits. The rest is a part of a commit's time.
        let acknowledgements = if dice.below(8) == 0 { None } else { Some(dice.below(12)) };
        // While it starts, it may also be that it makes the file.
        let fresh = (acknowledgements.is_none() && dice.below(2) == 0)
            .then(|| directory.path().join(format!("fresh {kills}")));
        let file = fresh.as_ref().unwrap_or(&path);
        let setting = json!({ "path": file.to_str().expect("a text"), "seed": kills });
        let mut process = Process::start("committer_role", &setting);
        if let Some(count) = acknowledgements {
            let opened = process.next("opened");
            covers(&opened, &acknowledged, kills);
            note(&mut acknowledged, &opened);
            for _ in 0..count {
                note(&mut acknowledged, &process.next("stored"));
                commits += 1;
            }
        }
        let moment = Instant::now();
        let delay =
            Duration::from_micros(dice.below(if acknowledgements.is_some() { 6_000 } else { 20_000 }));
        while moment.elapsed() < delay {
            std::hint::spin_loop();
        }
        process.kill();
        kills += 1;
        let mut of_fresh = Progress::new();
        let known = if fresh.is_some() { &mut of_fresh } else { &mut acknowledged };
        for line in process.rest() {
            if line["event"] == "opened" {
                covers(&line, known, kills);
            }
            note(known, &line);
            commits += 1;
        }
        if let Some(fresh) = &fresh {
            covers(&json!({ "progress": settled(fresh) }), known, kills);
        }
        while_opening += u64::from(acknowledgements.is_none());
    }
    let last = settled(&path);
    covers(&json!({ "progress": last }), &acknowledged, kills);
    let size = std::fs::metadata(&path).expect("there").len();
    println!(
        "{kills} kills, {while_opening} of them at the start, {commits} commits, {last:?}, {size} bytes"
    );
}

/// Whether all that was acknowledged is there.
fn covers(opened: &Value, acknowledged: &Progress, kills: u64) {
    for (name, number) in acknowledged {
        let there = opened["progress"][name].as_u64();
        assert!(there >= Some(*number), "after {kills} kills {name} is at {there:?}, and was at {number}");
    }
}

fn settled(path: &Path) -> Progress {
    progress(&mut RedbStore::open(path).expect("it opens"))
}

//! Damaged store files: the command and the library report each as an error that names the file, and
//! no panic message is printed.
#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the sans-IO machines")]

#[path = "common/cli.rs"]
mod cli;
#[path = "common/dice.rs"]
mod dice;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use cli::{Zincmq, host};
use dice::Dice;
use serde_json::Value;
use zincmq::Position;
use zincmq::document::store::{Base, Record, RedbStore, Store, StoreChange, StoreError};

const DOCUMENTS: usize = 6;
const PAGE: usize = 4096;
/// The header of a redb file: 64 bytes and two commit slots of 128.
const HEADER: usize = 320;
/// The first byte of a leaf and of a branch.
const PAGE_TYPES: [u8; 2] = [1, 2];

fn path(path: &Path) -> &str {
    path.to_str().expect("a text")
}

/// Makes a store through the command. Returns the file as a host leaves it that is killed, and as one
/// leaves it that is shut down.
fn stores(directory: &Path) -> [Vec<u8>; 2] {
    let store = directory.join("documents");
    let (mut host, address) = host(&["--store", path(&store)]);
    let edit = |name: &str| {
        let mut edit = Zincmq::start(&["--json", "doc", "edit", &address, name]);
        edit.feed(format!("[0, 0, {:?}]\n", format!("{name} ").repeat(5_000)).repeat(5).as_bytes());
        edit.next_event("edited");
        edit.ends_well();
    };
    for number in 0..DOCUMENTS {
        edit(&format!("document-{number}"));
    }
    host.signal("TERM");
    host.next_event("closed");
    host.ends_well();
    let closed = fs::read(&store).expect("there");
    let killed_store = directory.join("killed");
    fs::write(&killed_store, &closed).expect("room");
    let (mut killed, _) = open_host(&killed_store).expect("it opens");
    killed.kill();
    killed.wait();
    [fs::read(&killed_store).expect("there"), closed]
}

/// A host that has loaded the documents of this file, and their number; or what it says on standard error.
fn open_host(store: &Path) -> Result<(Zincmq, Value), String> {
    let mut host = Zincmq::start(&["--json", "host", "--store", path(store)]);
    match host.next_line() {
        Some(_) => {
            let documents = host.next_event("keeping")["documents"].clone();
            Ok((host, documents))
        }
        None => Err(host.fails(1)),
    }
}

/// Ways to damage a file of these contents: a description, and the damaged contents.
fn damages(bytes: &[u8], dice: &mut Dice) -> Vec<(String, Vec<u8>)> {
    let length = bytes.len();
    let mut cuts =
        vec![0, 1, 8, 9, 31, 32, 63, 64, 200, HEADER - 1, HEADER, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE];
    cuts.extend([length / 4, length / 2, length - PAGE, length - 512, length - 1]);
    cuts.extend((0..4).map(|_| dice.below((length / PAGE) as u64) as usize * PAGE));
    // redb panics on a page of an unknown type.
    let mut retyped = bytes.to_vec();
    retyped
        .chunks_mut(PAGE)
        .skip(1)
        .filter(|page| PAGE_TYPES.contains(&page[0]))
        .for_each(|page| page[0] ^= 64);
    let mut damages = vec![("the type of every page changed".to_owned(), retyped)];
    damages.extend(cuts.into_iter().map(|cut| (format!("cut to {cut} bytes"), bytes[..cut].to_vec())));
    // Most of the file is free pages, whose contents do not matter.
    let used: Vec<_> = (HEADER..length).filter(|&place| bytes[place] != 0).collect();
    let mut places: Vec<_> = (0..32).chain((32..HEADER).step_by(24)).collect();
    places.extend((0..20).map(|_| used[dice.below(used.len() as u64) as usize]));
    let pages: Vec<_> =
        (PAGE..length).step_by(PAGE).filter(|&place| PAGE_TYPES.contains(&bytes[place])).collect();
    places.extend((0..20).map(|_| pages[dice.below(pages.len() as u64) as usize] + dice.below(8) as usize));
    for place in places {
        let mut flipped = bytes.to_vec();
        flipped[place] ^= 1 << dice.below(8);
        damages.push((format!("a bit flipped at {place}"), flipped));
    }
    let mut starts: Vec<_> = (0..HEADER).step_by(40).collect();
    starts.extend((0..10).map(|_| used[dice.below(used.len() as u64) as usize]));
    for start in starts {
        let end = (start + 1 + dice.below(600) as usize).min(length);
        let mut zeroed = bytes.to_vec();
        zeroed[start..end].fill(0);
        damages.push((format!("zeroed from {start} to {end}"), zeroed));
    }
    damages
}

#[test]
fn the_command_reports_a_damaged_store_without_a_panic_message_and_leaves_the_file_as_it_is() {
    let directory = tempfile::tempdir().expect("room");
    let mut dice = Dice::new(21);
    let [killed, closed] = stores(directory.path());
    let (_others, address) = host(&[]);
    let store = directory.path().join("damaged");
    let (mut refused, mut panicked, mut opened) = (0, 0, 0);
    let damages =
        damages(&closed, &mut dice).into_iter().chain(damages(&killed, &mut dice).into_iter().step_by(3));
    for (round, (damage, bytes)) in damages.enumerate() {
        fs::write(&store, &bytes).expect("room");
        let check = |said: &str| {
            assert!(said.starts_with("error: ") && said.contains(path(&store)), "{damage}: {said}");
            let remedy =
                ["bring back a copy", "give another path"].iter().any(|remedy| said.contains(remedy));
            assert!(remedy, "{damage}: {said}");
            for word in ["panicked", "RUST_BACKTRACE"] {
                assert!(!said.contains(word), "{damage}: {said}");
            }
            assert!(fs::read(&store).expect("there") == bytes, "{damage}: {said} But the file has changed.");
        };
        match open_host(&store) {
            Ok((mut host, documents)) => {
                // The flags of redb say which of the last two commits counts.
                assert!(documents == DOCUMENTS || damage.ends_with(" at 9"), "{damage}: {documents}");
                host.kill();
                let (_, said) = host.wait();
                assert_eq!(said, "", "{damage}");
                opened += 1;
            }
            Err(said) => {
                check(&said);
                assert!(!damage.starts_with("cut") || !said.contains("make sense"), "{damage}: {said}");
                if round % 8 == 0 {
                    let keep = ["--json", "doc", "keep", &address, "--store", path(&store)];
                    check(&Zincmq::start(&keep).fails(1));
                }
                refused += 1;
                panicked += u32::from(said.contains("make sense"));
            }
        }
    }
    println!("{refused} refused, {panicked} of them by a panic of redb, {opened} opened");
    assert!(refused > 80 && panicked == 0 && opened > 5, "{refused}, {panicked}, {opened}");
}

thread_local! {
    /// How many panics of this thread were printed.
    static PRINTED: Cell<u32> = const { Cell::new(0) };
}

fn change(number: u64, dice: &mut Dice) -> StoreChange {
    let name = format!("document {}", dice.below(8));
    let position = Position { epoch: 1, seq: number };
    let bytes = vec![number as u8; dice.below(6_000) as usize].into();
    match dice.below(10) {
        0 => StoreChange::Remove { name },
        1..=3 => StoreChange::Replace { name, base: Base { position, bytes } },
        _ => StoreChange::Append { name, record: Record { position, bytes } },
    }
}

/// Reads and changes all there is.
fn use_store(store: &mut RedbStore, dice: &mut Dice) -> Result<(), StoreError> {
    for name in store.names()? {
        store.load(&name)?;
    }
    for number in 0..8 {
        store.commit(&[change(1_000 + number, dice)])?;
    }
    Ok(())
}

#[test]
fn the_library_prints_no_panic_message_for_damage_before_or_after_it_opens_a_store() {
    std::panic::set_hook(Box::new(|_| PRINTED.set(PRINTED.get() + 1)));
    RedbStore::silence_panics();
    RedbStore::silence_panics();
    let directory = tempfile::tempdir().expect("room");
    let original = directory.path().join("original");
    let mut dice = Dice::new(22);
    let mut store = RedbStore::open(&original).expect("it opens");
    for number in 1..=100 {
        store.commit(&[change(number, &mut dice)]).expect("in order");
    }
    drop(store);
    let bytes = fs::read(&original).expect("there");

    let damaged = directory.path().join("damaged");
    let (mut failed, mut panicked) = ([0; 2], [0; 2]);
    for (damage, contents) in damages(&bytes, &mut dice) {
        for after_opening in [false, true] {
            fs::write(&damaged, if after_opening { &bytes } else { &contents }).expect("room");
            let outcome = RedbStore::open(&damaged).and_then(|mut store| {
                if after_opening {
                    // Through the file that the store has open: redb reads it again, and finds it changed.
                    fs::write(&damaged, &contents).expect("room");
                }
                use_store(&mut store, &mut dice)
            });
            if let Err(error) = outcome {
                let said = error.to_string();
                assert!(said.contains(path(&damaged)), "{damage}: {said}");
                failed[usize::from(after_opening)] += 1;
                panicked[usize::from(after_opening)] += u32::from(said.contains("make sense"));
            }
            assert_eq!(PRINTED.get(), 0, "{damage}, after opening: {after_opening}");
        }
    }
    println!("{failed:?} failed before and after opening, {panicked:?} of them by a panic of redb");
    assert!(panicked[1] > 0, "{panicked:?} of {failed:?}");

    // Every other panic is still printed, also one on another thread and one after a store caught one.
    let printed = std::thread::spawn(|| {
        std::panic::catch_unwind(|| panic!("not of a store")).expect_err("it panics");
        PRINTED.get()
    });
    assert_eq!(printed.join().expect("it ends"), 1);
    std::panic::catch_unwind(|| panic!("not of a store")).expect_err("it panics");
    assert_eq!(PRINTED.get(), 1);
}

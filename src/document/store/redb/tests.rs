//! What is special about a file: others may have made it, damaged it or opened it, and the power may fail.

use std::collections::BTreeMap;

use super::super::tests::{Dice, all, append, at, random_change, replace};
use super::gate::Step;
use super::*;
use crate::sync::lock;

struct Place {
    directory: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let directory = tempfile::tempdir().expect("room");
    let path = directory.path().join("documents");
    Place { directory, path }
}

fn open(path: &Path) -> RedbStore {
    RedbStore::open(path).expect("it opens")
}

/// The error, which must name the path; the file is as it was.
fn refused(path: &Path) -> StoreError {
    let before = fs::read(path).ok();
    let error = RedbStore::open(path).expect_err("it is refused");
    assert!(error.to_string().contains(&text(path)), "{error}");
    assert!(fs::read(path).ok() == before, "{error}: the file has changed");
    error
}

#[track_caller]
fn foreign(path: &Path, why: &str) {
    let error = refused(path);
    assert!(matches!(&error, StoreError::Foreign { .. }) && error.to_string().contains(why), "{error}");
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
    let Place { directory, path } = place();
    foreign(directory.path(), "a directory");
    for (text, why) in [("", "empty"), ("redb", "begin"), ("a letter to someone, of some length", "begin")] {
        fs::write(&path, text).expect("written");
        foreign(&path, why);
    }
    fs::remove_file(&path).expect("it is there");
    let other = TableDefinition::<u64, u64>::new("documents");
    for closed_in_order in [true, false] {
        let database = Database::create(&path).expect("room");
        let transaction = database.begin_write().expect("alone");
        transaction.open_table(other).expect("new").insert(1, 1).expect("room");
        transaction.commit().expect("room");
        if closed_in_order {
            drop(database);
            foreign(&path, "another program");
        } else {
            // As it is after `kill -9`: redb would repair it.
            let copy = directory.path().join("copy");
            fs::copy(&path, &copy).expect("room");
            foreign(&copy, "another program");
        }
    }
    #[cfg(target_os = "linux")]
    foreign(Path::new("/dev/null"), "not a regular file");
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_as_it_is() {
    let Place { path, directory: _directory } = place();
    drop(open(&path));
    let database = Database::open(&path).expect("it is one");
    let transaction = database.begin_write().expect("alone");
    transaction.open_table(META).expect("there").insert(FORMAT_KEY, FORMAT + 1).expect("room");
    transaction.commit().expect("room");
    drop(database);
    foreign(&path, "format 3");
}

#[test]
fn where_the_system_says_no_the_path_is_told() {
    let Place { directory, path } = place();
    let nowhere = path.join("documents");
    assert!(refused(&nowhere).to_string().contains("directory is not there"));
    drop(open(&path));
    assert!(matches!(refused(&nowhere), StoreError::Io { .. }), "a file in the place of a directory");
    let mut permissions = fs::metadata(&path).expect("there").permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).expect("it is ours");
    // Some users may do everything.
    if File::options().write(true).open(&path).is_err() {
        assert!(refused(&path).to_string().contains("permissions"));
    }
    let left: Vec<_> = fs::read_dir(directory.path()).expect("there").collect();
    assert_eq!(left.len(), 1, "nothing is left lying about: {left:?}");
}

#[test]
fn a_store_is_open_once_until_it_is_closed() {
    let Place { path, directory: _directory } = place();
    let store = open(&path);
    assert!(matches!(refused(&path), StoreError::InUse { .. }));
    drop(store);
    open(&path);
}

#[test]
fn those_that_make_a_store_at_once_make_one() {
    let Place { directory, path } = place();
    std::thread::scope(|scope| {
        for i in 1..=4 {
            let path = &path;
            scope.spawn(move || {
                let mut store = loop {
                    match RedbStore::open(path) {
                        Ok(store) => break store,
                        Err(StoreError::InUse { .. }) => std::thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                };
                store.commit(&[append(&i.to_string(), at(1, 1), "x")]).expect("in order");
            });
        }
    });
    assert_eq!(open(&path).names().expect("it reads"), ["1", "2", "3", "4"]);
    assert_eq!(fs::read_dir(directory.path()).expect("there").count(), 1);
}

#[test]
fn a_store_that_cannot_write_stops_and_keeps_what_was_committed() {
    let Place { path, directory: _directory } = place();
    let mut store = open(&path);
    store.commit(&[append("a", at(1, 1), "x")]).expect("in order");
    store.gate.shut();
    for seq in [2, 3] {
        let error = store.commit(&[append("a", at(1, seq), "y")]).expect_err("no file");
        assert!(matches!(&error, StoreError::Io { path: told, .. } if *told == text(&path)), "{error}");
    }
    assert!(store.names().is_err() && store.load("a").is_err());
    // It has let go of the file.
    let stored = open(&path).load("a").expect("it reads").expect("it is there");
    assert_eq!(stored.records.len(), 1);
}

#[test]
fn space_is_taken_again_and_given_back_on_opening() {
    let Place { path, directory: _directory } = place();
    let length = || fs::metadata(&path).expect("there").len();
    let mut store = open(&path);
    let mut dice = Dice(3);
    let base = dice.bytes(1_000_000);
    for i in 1..=20 {
        store.commit(&[replace("again", at(1, i), base.clone())]).expect("room");
    }
    assert!(length() < 8_000_000, "{} bytes for one of 1000000", length());
    for i in 0..20 {
        store.commit(&[replace(&format!("{i}"), at(1, 1), base.clone())]).expect("room");
        store.commit(&[append("records", at(1, i + 1), vec![1; 1000])]).expect("room");
    }
    let full = length();
    for i in 0..20 {
        store.commit(&[StoreChange::Remove { name: format!("{i}") }]).expect("in order");
    }
    let before = all(&mut store).expect("it reads");
    // As after a kill: nobody has had the time to give back what is free at the end.
    let copy = path.with_file_name("copy");
    fs::copy(&path, &copy).expect("room");
    let mut copied = open(&copy);
    let after = fs::metadata(&copy).expect("there").len();
    assert!(full > 20_000_000 && after < 4_000_000, "{full} bytes before, {after} after");
    assert!(all(&mut copied).expect("it reads") == before);
}

type State = BTreeMap<String, Stored>;

/// Commits random batches: what there is after each, beginning with before the first.
fn fill(
    store: &mut RedbStore,
    dice: &mut Dice,
    batches: usize,
    mut after: impl FnMut(&RedbStore),
) -> Vec<State> {
    let mut states = vec![all(store).expect("it reads")];
    let mut seq = 0;
    while states.len() <= batches {
        let batch: Vec<_> = (0..=dice.below(5)).map(|_| random_change(dice, &mut seq)).collect();
        if store.commit(&batch).is_ok() {
            states.push(all(store).expect("it reads"));
            after(store);
        }
    }
    states
}

#[test]
fn a_damaged_file_is_refused_as_it_is_or_gives_what_was_committed() {
    const GOD_BYTE: usize = 9;
    let Place { directory, path } = place();
    let mut dice = Dice(11);
    let mut store = open(&path);
    let states = fill(&mut store, &mut dice, 40, |_| {});
    let killed = fs::read(&path).expect("there");
    drop(store);
    let closed = fs::read(&path).expect("there");
    let (mut worked, mut told, mut older) = (0, BTreeMap::<String, u32>::new(), 0);
    for round in 0..400_u64 {
        let mut bytes = if round % 2 == 0 { killed.clone() } else { closed.clone() };
        let length = bytes.len() as u64;
        let end = if dice.below(3) == 0 { 320 } else { length };
        let place = dice.below(end) as usize;
        let mut at_god_byte = false;
        match dice.below(6) {
            // Each bit of the byte that says which commit counts.
            _ if round < 16 => {
                bytes[GOD_BYTE] ^= 1 << (round / 2);
                at_god_byte = true;
            }
            0 => bytes.truncate(place),
            1 => bytes.extend_from_slice(&dice.bytes(place % 10_000)),
            2 => {
                let end = (place + 512).min(bytes.len());
                bytes[place..end].fill(0);
                at_god_byte = place <= GOD_BYTE;
            }
            3 => {
                let end = (place + dice.below(5000) as usize).min(bytes.len());
                let garbage = dice.bytes(end - place);
                bytes[place..end].copy_from_slice(&garbage);
                at_god_byte = place <= GOD_BYTE;
            }
            _ => {
                bytes[place] ^= 1 << dice.below(8);
                at_god_byte = place == GOD_BYTE;
            }
        }
        let copy = directory.path().join(format!("{round}"));
        fs::write(&copy, &bytes).expect("room");
        match RedbStore::open(&copy) {
            Ok(mut store) => {
                worked += 1;
                let found = all(&mut store).expect("all of it was checked");
                if at_god_byte && states.iter().rev().nth(1) == Some(&found) {
                    older += 1;
                } else {
                    assert!(states.last() == Some(&found), "round {round}, at {place}");
                }
                store.commit(&[append("more", at(9, 9), "x")]).expect("it goes on");
                drop(store);
                assert_eq!(open(&copy).names().expect("it reads").len(), found.len() + 1);
            }
            Err(error @ (StoreError::Damaged { .. } | StoreError::Foreign { .. })) => {
                assert!(fs::read(&copy).expect("there") == bytes, "round {round}: {error}");
                let kind =
                    error.to_string().replace(&text(&copy), "").replace(|c: char| c.is_ascii_digit(), "");
                *told.entry(kind).or_default() += 1;
            }
            Err(error) => panic!("round {round}, at {place}: {error}"),
        }
        fs::remove_file(&copy).expect("there");
    }
    println!("{} bytes; {worked} worked, {older} of them as one commit before; {told:#?}", closed.len());
    assert!(worked > 20 && told.len() > 3);
}

#[test]
fn a_file_that_was_cut_off_is_refused_before_redb_opens_it() {
    let Place { directory, path } = place();
    drop(open(&path));
    let bytes = fs::read(&path).expect("there");
    let length = bytes.len();
    let cuts = [9, 31, 32, 319, 320, 4095, 4096, 4097, 8192, length / 2, length - 4096, length - 1];
    for cut in cuts {
        fs::write(&path, &bytes[..cut]).expect("room");
        let error = refused(&path).to_string();
        let header = if cut < 4096 { "takes 4096" } else { &format!("says {length}") };
        let told = format!("is damaged: it is {cut} bytes long, and its header {header};");
        assert!(error.contains(&told), "{error}");
    }
    for cut in [1, 8] {
        fs::write(&path, &bytes[..cut]).expect("room");
        foreign(&path, "bring back a copy");
    }
    // Longer, as while it grows: redb takes whole pages into use.
    let longer = directory.path().join("longer");
    for (added, opens) in [(4096, true), (1, false)] {
        fs::write(&longer, [&bytes[..], &vec![0; added]].concat()).expect("room");
        match opens {
            true => drop(open(&longer)),
            false => assert!(refused(&longer).to_string().contains("multiple of 4096")),
        }
    }
}

#[test]
fn what_a_commit_stored_is_there_after_the_power_fails_at_any_moment() {
    const SECTOR: usize = 512;
    let Place { directory, path } = place();
    let mut dice = Dice(5);
    let mut store = open(&path);
    let mut image = fs::read(&path).expect("there");
    *lock(&store.gate.watched) = Some(Vec::new());
    // How many steps there were when each state was acknowledged.
    let mut acknowledged = vec![0];
    let states = fill(&mut store, &mut dice, 40, |store| {
        acknowledged.push(lock(&store.gate.watched).as_ref().expect("it is watched").len());
    });
    let commits = lock(&store.gate.watched).as_ref().expect("it is watched").len();
    // As on opening a file that is large enough: what is stored does not change.
    assert!(store.database.as_mut().expect("it is open").compact().expect("room"));
    let steps = lock(&store.gate.watched).take().expect("it is watched");
    let apply = |image: &mut Vec<u8>, step: &Step, mut survives: Box<dyn FnMut() -> bool + '_>| match step {
        Step::Length(length) if survives() => image.resize(*length as usize, 0),
        Step::Write(offset, data) => {
            for (i, sector) in data.chunks(SECTOR).enumerate().filter(|_| survives()) {
                let start = *offset as usize + i * SECTOR;
                image.resize(image.len().max(start + sector.len()), 0);
                image[start..start + sector.len()].copy_from_slice(sector);
            }
        }
        _ => {}
    };
    let mut rounds = 0;
    // How many steps are certainly on the disk: `image` has them.
    let mut synced = 0;
    for cut in 1..=steps.len() {
        if matches!(steps[cut - 1], Step::Sync) {
            for step in &steps[synced..cut] {
                apply(&mut image, step, Box::new(|| true));
            }
            synced = cut;
        } else if dice.below(4) != 0 {
            continue;
        }
        // The rest is in part, and within a write in any order.
        let mut left = image.clone();
        for step in &steps[synced..cut] {
            apply(&mut left, step, Box::new(|| dice.below(2) == 0));
        }
        let copy = directory.path().join("copy");
        fs::write(&copy, &left).expect("room");
        let found = all(&mut open(&copy)).expect("it reads");
        let last = acknowledged.iter().rposition(|steps| *steps <= cut).expect("the first");
        let expected = &states[last..states.len().min(last + 2)];
        assert!(expected.contains(&found), "after step {cut} of {}, which is {last}", steps.len());
        rounds += 1;
    }
    println!("{} steps, {commits} of them of commits; {rounds} failures of the power", steps.len());
    assert!(rounds > 100);
}

#[test]
fn large_bases_are_stored_and_read() {
    let Place { path, directory: _directory } = place();
    let base = Bytes::from(vec![7; 20 << 20]);
    let mut store = open(&path);
    store.commit(&[replace("a", at(1, 1), "small"), replace("a", at(1, 2), base.clone())]).expect("room");
    drop(store);
    let stored = open(&path).load("a").expect("it reads").expect("it is there");
    assert!(stored.base.expect("there is one").bytes == base);
}

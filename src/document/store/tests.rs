//! What every store does, asked of each of them.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;

/// A seeded generator: SplitMix64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub(super) fn bytes(&mut self, length: usize) -> Bytes {
        std::iter::repeat_with(|| self.below(256) as u8).take(length).collect()
    }
}

pub(super) fn at(epoch: u64, seq: u64) -> Position {
    Position { epoch, seq }
}

pub(super) fn append(name: &str, position: Position, bytes: impl Into<Bytes>) -> StoreChange {
    StoreChange::Append { name: name.into(), record: Record { position, bytes: bytes.into() } }
}

pub(super) fn replace(name: &str, position: Position, bytes: impl Into<Bytes>) -> StoreChange {
    StoreChange::Replace { name: name.into(), base: Base { position, bytes: bytes.into() } }
}

pub(super) fn remove(name: &str) -> StoreChange {
    StoreChange::Remove { name: name.into() }
}

/// All there is.
pub(super) fn all(store: &mut dyn Store) -> Result<BTreeMap<String, Stored>, StoreError> {
    let names = store.names()?;
    assert!(names.is_sorted());
    names.into_iter().map(|name| Ok((name.clone(), store.load(&name)?.expect("it is named")))).collect()
}

fn positions(store: &mut dyn Store, name: &str) -> (Option<Position>, Vec<Position>) {
    let stored = store.load(name).expect("it reads").expect("it is there");
    let base = stored.base.map(|base| base.position);
    (base, stored.records.into_iter().map(|record| record.position).collect())
}

/// Runs a check on a new store of each kind, which can be opened again.
fn each(check: impl Fn(&dyn Fn() -> Box<dyn Store>)) {
    let memory = MemoryStore::new();
    check(&|| Box::new(memory.clone()));
    #[cfg(feature = "store")]
    {
        let directory = tempfile::tempdir().expect("room");
        let path = directory.path().join("documents");
        check(&|| Box::new(RedbStore::open(&path).expect("it opens")));
    }
}

#[test]
fn keeps_what_was_committed_by_document_and_position() {
    each(|open| {
        let mut store = open();
        assert_eq!(store.names().expect("it reads"), Vec::<String>::new());
        assert_eq!(store.load("a").expect("it reads"), None);
        store.commit(&[]).expect("nothing");
        let batch = [
            append("b", at(1, 300), "late"),
            append("a", at(1, 2), "first"),
            append("", at(7, 7), ""),
            append("a", at(1, 256), "second"),
            append("a", at(2, 1), "a new epoch begins at 1"),
            append("a\0", at(1, 1), "a neighbour"),
            append("ä", at(u64::MAX, u64::MAX), "the last"),
        ];
        store.commit(&batch).expect("in order");
        drop(store);
        let mut store = open();
        assert_eq!(store.names().expect("it reads"), ["", "a", "a\0", "b", "ä"]);
        assert_eq!(positions(&mut *store, "a"), (None, vec![at(1, 2), at(1, 256), at(2, 1)]));
        let stored = store.load("").expect("it reads").expect("it is there");
        assert_eq!(stored.records, [Record { position: at(7, 7), bytes: Bytes::new() }]);
        assert_eq!(store.load("c").expect("it reads"), None);
    });
}

#[test]
fn a_base_takes_the_place_of_the_records_up_to_it_and_of_no_others() {
    each(|open| {
        let mut store = open();
        let records = |name| [(1, 5), (1, 6), (2, 1), (2, 300)].map(|(e, s)| append(name, at(e, s), "x"));
        for name in ["a", "b", "c"] {
            store.commit(&records(name)).expect("in order");
        }
        store.commit(&[replace("b", at(2, 1), "base")]).expect("in order");
        assert_eq!(positions(&mut *store, "b"), (Some(at(2, 1)), vec![at(2, 300)]));
        store.commit(&[replace("b", at(2, 1), "again"), append("b", at(2, 301), "y")]).expect("in order");
        assert_eq!(positions(&mut *store, "b"), (Some(at(2, 1)), vec![at(2, 300), at(2, 301)]));
        store.commit(&[replace("b", at(3, 0), ""), replace("new", at(1, 1), "base")]).expect("in order");
        drop(store);
        let mut store = open();
        assert_eq!(positions(&mut *store, "b"), (Some(at(3, 0)), vec![]));
        assert_eq!(positions(&mut *store, "new"), (Some(at(1, 1)), vec![]));
        for name in ["a", "c"] {
            assert_eq!(positions(&mut *store, name).1.len(), 4);
        }
    });
}

#[test]
fn a_removed_document_leaves_nothing_behind() {
    each(|open| {
        let mut store = open();
        store.commit(&[remove("never there")]).expect("no error");
        let make = |name| [replace(name, at(1, 1), vec![1; 300_000]), append(name, at(1, 2), "x")];
        store.commit(&make("a")).expect("in order");
        store.commit(&make("b")).expect("in order");
        store.commit(&[remove("a"), append("a", at(1, 1), "anew")]).expect("in order");
        assert_eq!(positions(&mut *store, "a"), (None, vec![at(1, 1)]));
        store.commit(&[remove("a")]).expect("in order");
        assert_eq!(store.names().expect("it reads"), ["b"]);
        assert_eq!(store.load("a").expect("it reads"), None);
        assert_eq!(positions(&mut *store, "b"), (Some(at(1, 1)), vec![at(1, 2)]));
    });
}

#[test]
fn what_is_out_of_order_is_refused_with_all_that_came_with_it() {
    each(|open| {
        let mut store = open();
        let begin = [replace("a", at(2, 5), "base"), append("b", at(1, 9), "x")];
        store.commit(&begin).expect("in order");
        let before = all(&mut *store).expect("it reads");
        let wrong = [
            (append("a", at(2, 5), "in the base"), at(2, 5)),
            (append("a", at(1, 6), "of an older epoch"), at(2, 5)),
            (append("b", at(1, 9), "there already"), at(1, 9)),
            (append("b", at(1, 8), "before it"), at(1, 9)),
            (replace("a", at(2, 4), "older"), at(2, 5)),
        ];
        for (change, expected) in wrong {
            let with = [append("c", at(1, 1), "x"), remove("b"), begin[1].clone(), change];
            let error = store.commit(&with).expect_err("out of order");
            let StoreError::OutOfOrder { last, .. } = &error else { panic!("{error}") };
            assert_eq!(*last, expected);
            assert_eq!(all(&mut *store).expect("it reads"), before);
        }
        store.commit(&[append("b", at(1, 10), "y")]).expect("it goes on");
    });
}

#[test]
fn bases_and_records_of_any_size_come_back() {
    each(|open| {
        let sizes = [0, 1, 4095, 260_095, 260_096, 260_097, 2 * 260_096, 1_000_000];
        let mut dice = Dice(1);
        let contents = sizes.map(|size| dice.bytes(size));
        let mut store = open();
        for (i, bytes) in (1..).zip(&contents) {
            let name = format!("{i}");
            store
                .commit(&[replace(&name, at(1, i), bytes.clone()), append(&name, at(2, i), bytes.clone())])
                .expect("room");
        }
        // A shorter one in the place of a longer one.
        store.commit(&[replace("8", at(1, 9), contents[5].clone())]).expect("room");
        drop(store);
        let mut store = open();
        for (i, bytes) in (1..).zip(&contents) {
            let stored = store.load(&format!("{i}")).expect("it reads").expect("it is there");
            let base = stored.base.expect("there is one");
            assert!(base.bytes == if i == 8 { contents[5].clone() } else { bytes.clone() });
            assert!(stored.records[0].bytes == *bytes);
        }
    });
}

#[test]
fn random_batches_come_to_the_same_in_every_store() {
    each(|open| {
        let mut model = MemoryStore::new();
        let mut dice = Dice(7);
        let mut seq = 0;
        let mut store = open();
        for round in 0..150 {
            let batch: Vec<_> = (0..=dice.below(8)).map(|_| random_change(&mut dice, &mut seq)).collect();
            let outcomes = (store.commit(&batch), model.commit(&batch));
            assert_eq!(outcomes.0.is_ok(), outcomes.1.is_ok(), "{outcomes:?}");
            if round % 10 == 0 {
                drop(store);
                store = open();
            }
            assert_eq!(all(&mut *store).expect("it reads"), all(&mut model).expect("it reads"));
        }
    });
}

/// Something that is in order more often than not.
pub(super) fn random_change(dice: &mut Dice, seq: &mut u64) -> StoreChange {
    let name = ["a", "b", "bb", "c"][dice.below(4) as usize];
    *seq += 1;
    match dice.below(30) {
        0 => remove(name),
        1 => append(name, at(1, dice.below(*seq)), "out of order, or not"),
        2..6 => {
            let length = dice.below(20_000) as usize;
            replace(name, at(1, *seq - dice.below(6).min(*seq)), vec![*seq as u8; length])
        }
        _ => append(name, at(1, *seq), vec![*seq as u8; dice.below(500) as usize]),
    }
}

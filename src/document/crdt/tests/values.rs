use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{Array, Canvas, CanvasChange, KeyChange, Map, Sheet, SheetChange, Splice, Value};
use super::*;

fn value(choice: usize) -> Value {
    match choice {
        0 => Value::Null,
        1 => true.into(),
        2 => i64::MIN.into(),
        3 => 0.5.into(),
        4 => "text 🌍".into(),
        5 => Bytes::from_static(b"\x00\xff").into(),
        6 => vec![1, 2].into(),
        _ => Value::Map(BTreeMap::from([
            ("a".into(), 1.into()),
            ("b".into(), Value::Null),
            ("c".into(), "d".into()),
        ])),
    }
}

fn send<D: Document<Fragment = Bytes>>(fragments: &[Bytes], to: &mut D) {
    for fragment in fragments {
        to.apply(fragment).unwrap();
    }
}

#[test]
fn values_come_out_as_they_went_in() {
    let values = [
        Value::Null,
        Value::Bool(false),
        Value::Int(0),
        Value::Int(-1),
        Value::Int(i64::MAX),
        Value::Int(i64::MIN),
        Value::Int(1 << 31),
        Value::Int((1 << 53) + 1),
        Value::Float(0.1),
        Value::Float(-1e300),
        Value::Text("🌍".into()),
        Value::Bytes(Bytes::from_static(b"\0")),
        Value::List(vec![Value::List(vec![]), Value::Null]),
        value(7),
    ];
    let (mut here, mut there): (Map, Map) = (replica(1), replica(2));
    for (n, value) in values.iter().enumerate() {
        send(&edit(&mut here, |draft| draft.set(&n.to_string(), value.clone())), &mut there);
    }
    for (n, value) in values.iter().enumerate() {
        assert_eq!(there.get(&n.to_string()), Some(value));
        assert_eq!(here.get(&n.to_string()), Some(value));
    }
    assert_eq!(Value::from(2.0), Value::Int(2));
}

#[test]
fn values_nested_too_deep_are_refused_before_they_go_out() {
    let nested = |depth| (0..depth).fold(Value::Null, |value, _| Value::List(vec![value]));
    let mut here: Map = replica(1);
    assert!(Draft::alone(&mut here, |draft| draft.set("x", nested(33))).is_err());
    let fragments = edit(&mut here, |draft| draft.set("x", nested(32)));
    let mut there = Map::empty();
    there.apply(&Map::decode(&Map::encode(&fragments[0])).unwrap()).unwrap();
    assert_eq!(there.get("x"), Some(&nested(32)));
}

#[test]
fn a_cell_stays_with_its_row_and_a_removed_row_takes_its_cells() {
    let (mut here, mut there): (Sheet, Sheet) = (replica(1), replica(2));
    let start = edit(&mut here, |draft| {
        draft.insert_rows(0, 3)?;
        draft.insert_columns(0, 2)?;
        draft.set(1, 1, "middle")
    });
    send(&start, &mut there);
    let ours = edit(&mut here, |draft| draft.remove_rows(1..2));
    let theirs = edit(&mut there, |draft| {
        draft.insert_rows(1, 1)?;
        draft.set(2, 0, "too late")?;
        draft.set(3, 1, "last")
    });
    send(&ours, &mut there);
    send(&theirs, &mut here);
    for sheet in [&here, &there] {
        assert_eq!((sheet.rows(), sheet.columns()), (3, 2));
        assert_eq!(sheet.cell(2, 1), Some(&"last".into()));
        assert_eq!(sheet.cell(1, 1), None);
    }
    // What was removed comes back, with what both had put in.
    send(&edit(&mut here, |draft| draft.undo().map(drop)), &mut there);
    for sheet in [&here, &there] {
        assert_eq!(sheet.rows(), 4);
        assert_eq!(sheet.cell(2, 1), Some(&"middle".into()));
        assert_eq!(sheet.cell(2, 0), Some(&"too late".into()));
    }
    let error = Draft::alone(&mut here, |draft| draft.set(9, 0, 1)).unwrap_err();
    assert_eq!(error.to_string(), "no row 9 in a sheet of 4 rows");
    assert!(Draft::alone(&mut here, |draft| draft.remove_columns(1..3)).is_err());
    assert!(Draft::alone(&mut here, |draft| draft.insert_rows(5, 1)).is_err());
}

#[test]
fn an_edit_that_changes_nothing_to_be_seen_goes_out_as_well() {
    let (mut here, mut there): (Sheet, Sheet) = (replica(1), replica(2));
    send(&edit(&mut here, |draft| draft.insert_rows(0, 1)), &mut there);
    send(&edit(&mut here, |draft| draft.insert_columns(0, 1)), &mut there);
    for _ in 0..2 {
        send(&edit(&mut here, |draft| draft.set(0, 0, 1)), &mut there);
        assert!(edit(&mut here, |draft| draft.insert_rows(0, 0)).is_empty());
    }
    send(&edit(&mut here, |draft| draft.insert_rows(0, 1)), &mut there);
    assert_eq!(there.rows(), 2);
    assert!(here.same_history(&there));
}

#[test]
fn a_row_that_two_bring_back_is_there_once() {
    let (mut here, mut there): (Sheet, Sheet) = (replica(1), replica(2));
    send(&edit(&mut here, |draft| draft.insert_rows(0, 3)), &mut there);
    let remove = |draft: &mut Draft<'_, Sheet>| draft.remove_rows(1..2);
    let (ours, theirs) = (edit(&mut here, remove), edit(&mut there, remove));
    let undo = |draft: &mut Draft<'_, Sheet>| draft.undo().map(drop);
    let (ours2, theirs2) = (edit(&mut here, undo), edit(&mut there, undo));
    send(&[ours, ours2].concat(), &mut there);
    send(&[theirs, theirs2].concat(), &mut here);
    assert_eq!((here.rows(), there.rows()), (3, 3));
    send(&edit(&mut here, remove), &mut there);
    assert_eq!((here.rows(), there.rows()), (2, 2));
    send(&edit(&mut here, |draft| draft.insert_rows(2, 1)), &mut there);
    assert_eq!((here.rows(), there.rows()), (3, 3));
}

fn kinds(canvas: &Canvas) -> String {
    canvas.shapes().map(|shape| shape.kind().to_owned()).collect()
}

#[test]
fn shapes_go_where_they_are_put() {
    let mut canvas: Canvas = replica(1);
    let mut names = Vec::new();
    for kind in ["a", "b", "c", "d"] {
        edit(&mut canvas, |draft| draft.add(kind, []).map(|name| names.push(name)));
    }
    assert_eq!(kinds(&canvas), "abcd");
    edit(&mut canvas, |draft| draft.bring_to_front(&names[0]));
    assert_eq!(kinds(&canvas), "bcda");
    edit(&mut canvas, |draft| draft.send_to_back(&names[3]));
    assert_eq!(kinds(&canvas), "dbca");
    edit(&mut canvas, |draft| draft.put_above(&names[0], &names[3]));
    assert_eq!(kinds(&canvas), "dabc");
    edit(&mut canvas, |draft| draft.put_below(&names[2], &names[0]));
    assert_eq!(kinds(&canvas), "dcab");
    edit(&mut canvas, |draft| draft.put_above(&names[2], &names[3]));
    assert_eq!(kinds(&canvas), "dcab");
    edit(&mut canvas, |draft| draft.remove(&names[1]));
    assert_eq!(kinds(&canvas), "dca");
    edit(&mut canvas, |draft| draft.undo().map(drop));
    assert_eq!(kinds(&canvas), "dcab");
    assert!(Draft::alone(&mut canvas, |draft| draft.put_above(&names[1], &names[1])).is_err());
    assert!(Draft::alone(&mut canvas, |draft| draft.set("nobody", "x", 1)).is_err());
}

#[test]
fn a_shape_removed_stays_removed_whatever_else_happens_to_it() {
    let (mut here, mut there): (Canvas, Canvas) = (replica(1), replica(2));
    let mut name = None;
    send(&edit(&mut here, |draft| draft.add("a", [("x", 1.into())]).map(|n| name = Some(n))), &mut there);
    let name = name.unwrap();
    let ours = edit(&mut here, |draft| draft.remove(&name));
    let theirs = edit(&mut there, |draft| {
        draft.set(&name, "x", 2)?;
        draft.bring_to_front(&name)
    });
    send(&ours, &mut there);
    send(&theirs, &mut here);
    assert!(here.is_empty() && there.is_empty());
    assert_eq!((here.shapes().count(), there.shapes().count()), (0, 0));
}

#[test]
fn makes_room_where_keys_are_equal() {
    // As a program might that numbers shapes itself.
    let doc = yrs::Doc::with_client_id(9);
    let (kinds_map, order) = (doc.get_or_insert_map("shapes"), doc.get_or_insert_map("order"));
    let update = {
        use yrs::{Map as _, Transact as _};
        let mut txn = doc.transact_mut();
        for name in ["a", "b", "c"] {
            kinds_map.insert(&mut txn, name, name);
            order.insert(&mut txn, name, "");
        }
        txn.encode_update_v1()
    };
    let mut canvas: Canvas = replica(1);
    canvas.apply(&Canvas::decode(&update).unwrap()).unwrap();
    assert_eq!(kinds(&canvas), "abc");
    edit(&mut canvas, |draft| draft.put_above("c", "a"));
    assert_eq!(kinds(&canvas), "acb");
    edit(&mut canvas, |draft| draft.send_to_back("b"));
    assert_eq!(kinds(&canvas), "bac");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn maps_converge(size in 2_usize..5, steps in 1_usize..60, seed: u64) {
        let mut cluster = Cluster::<Map>::new(size, seed);
        let mut models = vec![BTreeMap::new(); size];
        cluster.run(
            steps,
            |draft, below| {
                let key = ["a", "b", "c"][below(3)];
                if below(4) == 0 { draft.remove(key).map(drop).unwrap() } else { draft.set(key, value(below(8))).unwrap() }
            },
            |to, changes: &Vec<KeyChange>| {
                for change in changes {
                    let before = match change.after.clone() {
                        Some(after) => models[to].insert(change.key.clone(), after),
                        None => models[to].remove(&change.key),
                    };
                    assert_eq!(before, change.before);
                }
            },
        );
        let first = &cluster.replicas[0];
        for (other, model) in cluster.replicas.iter().zip(&models) {
            prop_assert!(first.iter().eq(other.iter()));
            prop_assert!(other.iter().eq(model.iter().map(|(key, value)| (key.as_str(), value))));
            prop_assert!(first.same_history(other));
            prop_assert_eq!(first.snapshot(), other.snapshot());
            prop_assert!(Map::restore(&other.snapshot()).unwrap().iter().eq(first.iter()));
        }
    }

    #[test]
    fn arrays_converge(size in 2_usize..5, steps in 1_usize..60, seed: u64) {
        let mut cluster = Cluster::<Array>::new(size, seed);
        let mut models: Vec<Vec<Value>> = vec![Vec::new(); size];
        cluster.run(
            steps,
            |draft, below| {
                let start = below(draft.len() + 1);
                let end = (start + below(3)).min(draft.len());
                let values: Vec<_> = (0..below(4)).map(|_| value(below(8))).collect();
                draft.replace(start..end, values).unwrap();
            },
            |to, splices: &Vec<Splice>| {
                for splice in splices {
                    models[to].splice(splice.position..splice.position + splice.deleted, splice.inserted.iter().cloned());
                }
            },
        );
        let first = &cluster.replicas[0];
        for (other, model) in cluster.replicas.iter().zip(&models) {
            prop_assert_eq!(first.values(), other.values());
            prop_assert_eq!(other.values(), &model[..]);
            prop_assert!(first.same_history(other));
            prop_assert_eq!(first.snapshot(), other.snapshot());
            let restored = Array::restore(&other.snapshot()).unwrap();
            prop_assert_eq!(restored.values(), first.values());
        }
    }

    #[test]
    fn sheets_converge(size in 2_usize..5, steps in 1_usize..60, seed: u64) {
        let mut cluster = Cluster::<Sheet>::new(size, seed);
        // Rows of cells.
        let mut sizes = vec![(0, 0); size];
        cluster.run(
            steps,
            |draft, below| {
                let (row, column) = (below(draft.rows() + 1), below(draft.columns() + 1));
                match below(8) {
                    0 => draft.insert_rows(row, below(3)).unwrap(),
                    1 => draft.insert_columns(column, below(3)).unwrap(),
                    2 => draft.remove_rows(row..(row + below(2)).min(draft.rows())).unwrap(),
                    3 => draft.remove_columns(column..(column + below(2)).min(draft.columns())).unwrap(),
                    4 => drop(draft.clear(row, column)),
                    _ => drop(draft.set(row, column, value(below(8)))),
                }
            },
            |to, changes: &Vec<SheetChange>| {
                for change in changes {
                    match change {
                        SheetChange::Rows(lines) => sizes[to].0 = sizes[to].0 - lines.removed + lines.inserted,
                        SheetChange::Columns(lines) => sizes[to].1 = sizes[to].1 - lines.removed + lines.inserted,
                        SheetChange::Cell { row, column, .. } => assert!(*row < sizes[to].0 && *column < sizes[to].1),
                    }
                }
            },
        );
        let cells = |sheet: &Sheet| -> Vec<Vec<Option<Value>>> {
            (0..sheet.rows()).map(|row| (0..sheet.columns()).map(|column| sheet.cell(row, column).cloned()).collect()).collect()
        };
        let first = &cluster.replicas[0];
        for (other, size) in cluster.replicas.iter().zip(&sizes) {
            prop_assert_eq!((other.rows(), other.columns()), *size);
            prop_assert_eq!(cells(first), cells(other));
            prop_assert!(first.same_history(other));
            prop_assert_eq!(first.snapshot(), other.snapshot());
            prop_assert_eq!(cells(&Sheet::restore(&other.snapshot()).unwrap()), cells(first));
        }
    }

    #[test]
    fn canvases_converge(size in 2_usize..5, steps in 1_usize..60, seed: u64) {
        let mut cluster = Cluster::<Canvas>::new(size, seed);
        let mut models = vec![BTreeMap::new(); size];
        cluster.run(
            steps,
            |draft, below| {
                let names: Vec<_> = draft.shapes().map(|shape| shape.name().clone()).collect();
                if names.is_empty() || below(4) == 0 {
                    drop(draft.add(["a", "b", "c"][below(3)], [("x", value(below(8)))]).unwrap());
                    return;
                }
                let (shape, other) = (&names[below(names.len())], &names[below(names.len())]);
                match below(8) {
                    0 => draft.remove(shape).unwrap(),
                    1 => draft.bring_to_front(shape).unwrap(),
                    2 => draft.send_to_back(shape).unwrap(),
                    3 => drop(draft.put_above(shape, other)),
                    4 => drop(draft.put_below(shape, other)),
                    5 => draft.unset(shape, "x").map(drop).unwrap(),
                    _ => draft.set(shape, ["x", "y"][below(2)], value(below(8))).unwrap(),
                }
            },
            |to, changes: &Vec<CanvasChange>| {
                for change in changes {
                    match change {
                        CanvasChange::Added { shape } => assert!(models[to].insert(shape.clone(), ()).is_none()),
                        CanvasChange::Removed { shape } => assert!(models[to].remove(shape).is_some()),
                        CanvasChange::Moved { shape } | CanvasChange::Property { shape, .. } => {
                            assert!(models[to].contains_key(shape));
                        }
                    }
                }
            },
        );
        let contents = |canvas: &Canvas| -> Vec<_> {
            canvas.shapes().map(|shape| {
                let properties: Vec<_> = shape.properties().map(|(name, value)| (name.to_owned(), value.clone())).collect();
                (shape.name().clone(), shape.kind().to_owned(), properties)
            }).collect()
        };
        let first = &cluster.replicas[0];
        for (other, model) in cluster.replicas.iter().zip(&models) {
            prop_assert_eq!(other.len(), model.len());
            prop_assert_eq!(other.shapes().count(), model.len());
            prop_assert_eq!(contents(first), contents(other));
            prop_assert!(first.same_history(other));
            prop_assert_eq!(first.snapshot(), other.snapshot());
            prop_assert_eq!(contents(&Canvas::restore(&other.snapshot()).unwrap()), contents(first));
        }
    }
}

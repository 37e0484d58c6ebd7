use proptest::prelude::*;

use super::super::scan::put_number;
use super::super::{Array, Canvas, Map, Sheet, Text, Undo};
use super::*;

/// A document of each type, and what somebody may do to it.
trait Subject: Undo {
    fn change(draft: &mut Draft<'_, Self>, step: usize) -> Result<(), Conflict>;
}

impl Subject for Text {
    fn change(draft: &mut Draft<'_, Self>, step: usize) -> Result<(), Conflict> {
        let position = draft.len() * (step % 4) / 4;
        draft.replace(position, (draft.len() - position).min(2), ["x🌍", "𝄞", "abc", ""][step / 2 % 4])
    }
}

impl Subject for Map {
    fn change(draft: &mut Draft<'_, Self>, step: usize) -> Result<(), Conflict> {
        let key = ["a", "b", "c"][step % 3];
        if step % 5 == 4 { draft.remove(key).map(drop) } else { draft.set(key, vec![step as i64; step % 3]) }
    }
}

impl Subject for Array {
    fn change(draft: &mut Draft<'_, Self>, step: usize) -> Result<(), Conflict> {
        let position = draft.len() * (step % 4) / 4;
        draft.replace(position..(position + step % 2).min(draft.len()), ["x", "y"])
    }
}

impl Subject for Sheet {
    fn change(draft: &mut Draft<'_, Self>, step: usize) -> Result<(), Conflict> {
        draft.insert_rows(draft.rows() / 2, step % 2)?;
        draft.insert_columns(draft.columns() / 3, step % 3)?;
        if draft.columns() > 2 {
            draft.remove_columns(1..2)?;
        }
        if draft.rows() > 0 && draft.columns() > 0 {
            draft.set(step % draft.rows(), 0, step as i64)
        } else {
            Ok(())
        }
    }
}

impl Subject for Canvas {
    fn change(draft: &mut Draft<'_, Self>, step: usize) -> Result<(), Conflict> {
        let first = draft.shapes().next().map(|shape| shape.name().clone());
        let added = draft.add("shape", [("x", (step as i64).into())])?;
        let Some(first) = first else { return Ok(()) };
        match step % 4 {
            0 => draft.remove(&first),
            1 => draft.put_above(&first, &added),
            2 => draft.send_to_back(&added),
            _ => draft.set(&first, "y", "text"),
        }
    }
}

/// Fragments of two that worked at once.
fn fragments<D: Subject>() -> Vec<Bytes> {
    let (mut here, mut there): (D, D) = (replica(1), replica(2));
    let mut all = edit(&mut here, |draft| D::change(draft, 1));
    for fragment in &all {
        there.apply(fragment).unwrap();
    }
    for step in 2..10 {
        all.extend(edit(&mut here, |draft| D::change(draft, step)));
        all.extend(edit(&mut there, |draft| D::change(draft, step + 1)));
    }
    all.extend(edit(&mut here, |draft| draft.undo().map(drop)));
    all.push(here.snapshot().into());
    all
}

fn feed<D: Subject>(document: &mut D, bytes: &[u8]) {
    if let Ok(fragment) = D::decode(bytes) {
        let _ = document.apply(&fragment);
    }
    if let Ok(mut restored) = D::restore(bytes) {
        restored.set_replica(4);
        let _ = Draft::alone(&mut restored, |draft| D::change(draft, 1));
    }
}

type Order = Vec<(prop::sample::Index, Option<(prop::sample::Index, u8)>)>;

/// Fragments with some bytes changed, in any order: what comes of it is anybody's guess, but no panic, and other documents do not notice.
fn harmless<D: Subject>(order: &Order) {
    let fragments = fragments::<D>();
    let mut document: D = replica(3);
    for (step, (index, mutation)) in order.iter().enumerate() {
        let mut bytes = index.get(&fragments).to_vec();
        if let Some((at, byte)) = mutation {
            *at.get_mut(&mut bytes) = *byte;
        }
        feed(&mut document, &bytes);
        let _ = Draft::alone(&mut document, |draft| D::change(draft, step));
        let _ = Draft::alone(&mut document, |draft| if step % 3 == 0 { draft.undo() } else { Ok(false) });
    }
    let _ = document.snapshot();
    let _ = document.fork().merge(document);
}

#[test]
fn no_length_makes_it_reserve() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    for prefix in [
        &[][..],
        &[1],
        &[1, 1, 1, 0, 4, 1],
        &[1, 1, 1, 0, 4, 1, 1, b't'],
        &[1, 1, 1, 0, 8, 1, 1, b't'],
        &[1, 1, 1, 0, 8, 1, 1, b't', 1, 117],
        &[1, 1, 1, 0, 8, 1, 1, b't', 1, 118],
        &[1, 1, 1, 0, 3, 1, 1, b't'],
        &[0],
        &[0, 1, 1],
    ] {
        let bytes = [prefix, &huge, &[0, 0]].concat();
        assert!(Text::decode(&bytes).is_err(), "{bytes:?}");
        assert!(Map::decode(&bytes).is_err(), "{bytes:?}");
        feed(&mut Text::empty(), &bytes);
        feed(&mut Map::empty(), &bytes);
    }
}

#[test]
fn no_nesting_exhausts_the_stack() {
    let mut lists = vec![1, 1, 1, 0, 8, 1, 3, b'm', b'a', b'p', 1];
    lists.extend([117, 1].repeat(1_000_000));
    lists.extend([126, 0]);
    assert!(Map::decode(&lists).is_err());
    let json = "[".repeat(1_000);
    let mut embed = vec![1, 1, 1, 0, 5, 1, 4, b't', b'e', b'x', b't', 0xe8, 0x07];
    embed.extend(json.bytes());
    embed.push(0);
    assert!(Text::decode(&embed).is_err());
}

/// An update of these blocks, and no deletions.
fn update(clients: &[(u64, u64, Vec<Vec<u8>>)]) -> Bytes {
    let mut bytes = Vec::new();
    put_number(&mut bytes, clients.len() as u64);
    for (client, clock, blocks) in clients {
        put_number(&mut bytes, blocks.len() as u64);
        put_number(&mut bytes, *client);
        put_number(&mut bytes, *clock);
        bytes.extend(blocks.iter().flatten());
    }
    bytes.push(0);
    bytes.into()
}

/// A block of which but its length is left, and one that is left out.
const GARBAGE: [u8; 2] = [0, 1];
const SKIP: [u8; 2] = [10, 1];

/// Each item compared with each range would be 8 * 10^9 comparisons.
#[test]
fn a_megabyte_of_holes_and_of_what_stands_behind_them_takes_no_longer_than_another() {
    let ranges = 130_000;
    let holes = [GARBAGE.to_vec(), SKIP.to_vec()].into_iter().cycle().take(2 * ranges - 1).collect();
    let mut beside = vec![0x84];
    put_number(&mut beside, 1);
    put_number(&mut beside, 2 * ranges as u64 - 2);
    beside.extend([1, b'x']);
    let update = update(&[(2, 0, vec![beside; 60_000]), (1, 0, holes)]);
    assert!((900_000..1 << 20).contains(&update.len()), "{}", update.len());
    let mut text: Text = replica(3);
    text.apply(&update).unwrap();
    assert_eq!(text.to_string(), "", "it waits for what is in the holes");
}

/// Likewise, for each client that is brought and each fragment that waits.
#[test]
fn a_megabyte_of_clients_is_taken_in_however_many_fragments_wait() {
    let mut text: Text = replica(3);
    let waiting: Vec<Bytes> = (0..4_000)
        .map(|n| update(&[([1, 1 << 40][n as usize % 2], 10 + 2 * n, vec![GARBAGE.to_vec()])]))
        .collect();
    text.replay(&waiting);
    let clients: Vec<_> = (0..140_000).rev().map(|n| (10 + n, 0, vec![GARBAGE.to_vec()])).collect();
    let update = update(&clients);
    assert!((900_000..1 << 20).contains(&update.len()), "{}", update.len());
    text.apply(&update).unwrap();
    // What waited comes when its turn does.
    let missing = vec![GARBAGE.to_vec(); 10];
    text.apply(&self::update(&[(1 << 40, 0, missing)])).unwrap();
}

#[test]
fn who_has_to_wait_for_too_much_is_told_and_forgets_nothing_in_silence() {
    let mut map: Map = replica(3);
    let large = |clock: u64| {
        let mut item = vec![0x83, 9];
        put_number(&mut item, clock);
        put_number(&mut item, 8 << 20);
        item.resize(item.len() + (8 << 20), b'x');
        update(&[(1, 0, vec![item])])
    };
    for clock in 0..7 {
        map.apply(&large(clock)).unwrap();
        map.apply(&large(clock)).unwrap();
    }
    let error = map.apply(&large(7)).unwrap_err();
    assert!(error.to_string().contains("more waits"), "{error}");
    assert!(Draft::alone(&mut map, |draft| draft.set("x", 1)).is_err());
}

#[test]
fn a_document_that_broke_says_so_and_stays_apart() {
    let mut text: Text = replica(1);
    edit(&mut text, |draft| draft.insert(0, "abc"));
    text.break_for_test();
    assert!(Draft::alone(&mut text, |draft| draft.insert(0, "x")).is_err());
    assert!(text.apply(&Bytes::from_static(&[0, 0])).is_err());
    assert!(replica::<Text>(2).merge(text).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        feed(&mut replica::<Text>(3), &bytes);
        feed(&mut replica::<Sheet>(3), &bytes);
    }

    #[test]
    fn mutated_fragments_do_no_harm(
        order in prop::collection::vec((any::<prop::sample::Index>(), prop::option::weighted(0.7, (any::<prop::sample::Index>(), any::<u8>()))), 1..40),
    ) {
        harmless::<Text>(&order);
        harmless::<Map>(&order);
        harmless::<Array>(&order);
        harmless::<Sheet>(&order);
        harmless::<Canvas>(&order);
    }
}

use proptest::prelude::*;

use super::super::{Patch, Text, Undo};
use super::*;

fn follow(model: &mut Vec<char>, patches: &[Patch]) {
    for patch in patches {
        model.splice(patch.position..patch.position + patch.deleted, patch.inserted.chars());
    }
}

#[test]
fn positions_count_code_points_or_utf_16_as_the_name_says() {
    let mut text: Text = replica(1);
    edit(&mut text, |draft| draft.insert(0, "a🌍b"));
    assert_eq!((text.len(), text.len_utf16()), (3, 4));
    edit(&mut text, |draft| draft.insert(2, "é"));
    edit(&mut text, |draft| draft.insert_utf16(3, "𝄞"));
    assert_eq!(text, "a🌍𝄞éb");
    assert_eq!((text.to_utf16(3).unwrap(), text.from_utf16(5).unwrap()), (5, 3));
    edit(&mut text, |draft| draft.delete_utf16(1, 4));
    assert_eq!(text, "aéb");
    edit(&mut text, |draft| draft.replace(1, 1, "e"));
    assert_eq!(text.slice(1..3).unwrap(), "eb");
}

#[test]
fn refuses_positions_past_the_end_and_says_which() {
    let mut text: Text = replica(1);
    edit(&mut text, |draft| draft.insert(0, "a🌍"));
    let mut refused = |change: fn(&mut Draft<'_, Text>) -> Result<(), Conflict>| {
        let error = Draft::alone(&mut text, change).unwrap_err().to_string();
        assert_eq!(text, "a🌍");
        error
    };
    assert_eq!(
        refused(|draft| draft.insert(3, "x")),
        "position 3 is past the end of a text of 2 code points (3 UTF-16 units)"
    );
    assert_eq!(
        refused(|draft| draft.delete(1, 2)),
        "2 code points at position 1 go past the end of a text of 2 code points (3 UTF-16 units)"
    );
    assert_eq!(
        refused(|draft| draft.insert_utf16(2, "x")),
        "position 2 in UTF-16 units is within a code point"
    );
    refused(|draft| draft.delete(usize::MAX, 2));
    refused(|draft| draft.delete_utf16(1, usize::MAX));
}

#[test]
fn makes_no_fragment_without_a_number() {
    let mut text = Text::empty();
    assert!(Draft::alone(&mut text, |draft| draft.insert(0, "x")).is_err());
    let mut numbered: Text = replica(1);
    edit(&mut numbered, |draft| draft.insert(0, "x"));
    assert!(Draft::alone(&mut numbered.fork(), |draft| draft.insert(0, "x")).is_err());
}

#[test]
fn undoes_what_was_done_here_and_leaves_the_rest() {
    let (mut here, mut there): (Text, Text) = (replica(1), replica(2));
    let sync = |from: Vec<Bytes>, to: &mut Text| from.iter().for_each(|f| drop(to.apply(f).unwrap()));
    sync(edit(&mut here, |draft| draft.insert(0, "Hello")), &mut there);
    sync(edit(&mut there, |draft| draft.append(" world")), &mut here);
    // One step: two edits of an update, and another that joins it.
    let step = edit(&mut here, |draft| {
        draft.delete(0, 1)?;
        draft.insert(0, "J")
    });
    sync(step, &mut there);
    let step = edit(&mut here, |draft| {
        draft.same_step();
        draft.insert(0, ">")
    });
    sync(step, &mut there);
    assert_eq!(there, ">Jello world");
    assert!(here.can_undo() && !here.can_redo());

    let undo = |draft: &mut Draft<'_, Text>| draft.undo().map(|done| assert!(done));
    sync(edit(&mut here, undo), &mut there);
    assert_eq!((here.to_string(), there.to_string()), ("Hello world".into(), "Hello world".into()));
    sync(edit(&mut here, undo), &mut there);
    assert_eq!((here.to_string(), there.to_string()), (" world".into(), " world".into()));
    edit(&mut here, |draft| draft.undo().map(|done| assert!(!done)));
    for _ in 0..2 {
        sync(edit(&mut here, |draft| draft.redo().map(|done| assert!(done))), &mut there);
    }
    assert_eq!((here.to_string(), there.to_string()), (">Jello world".into(), ">Jello world".into()));
    sync(edit(&mut there, undo), &mut here);
    assert_eq!((here.to_string(), there.to_string()), (">Jello".into(), ">Jello".into()));
}

#[test]
fn keeps_the_last_steps_of_undo_and_forgets_the_others() {
    let mut text: Text = replica(1);
    for _ in 0..1_200 {
        edit(&mut text, |draft| draft.append("x"));
    }
    for _ in 0..500 {
        edit(&mut text, |draft| draft.undo().map(|done| assert!(done)));
    }
    assert_eq!(text.len(), 700);
}

#[test]
fn merging_brings_two_together_and_says_what_each_lacked() {
    let (mut here, mut there): (Text, Text) = (replica(1), replica(2));
    for fragment in edit(&mut here, |draft| draft.insert(0, "abcdef")) {
        there.apply(&fragment).unwrap();
    }
    edit(&mut here, |draft| draft.delete(0, 1));
    edit(&mut there, |draft| draft.replace(5, 1, "🌍"));
    let before = there.fork();
    let merged = here.merge(there.fork()).unwrap();
    assert_eq!(here, "bcde🌍");
    assert_eq!(merged.change, Some(vec![Patch { position: 4, deleted: 1, inserted: "🌍".into() }]));
    let patches = there.apply(&merged.lacking.unwrap()).unwrap();
    assert_eq!(patches, [Patch { position: 0, deleted: 1, inserted: String::new() }]);
    assert!(here.same_history(&there) && !here.same_history(&before));
    let merged = here.merge(there).unwrap();
    assert!(merged.change.is_none() && merged.lacking.is_none());
}

#[test]
fn what_comes_too_early_waits_for_all_it_builds_on() {
    let (mut here, mut there): (Text, Text) = (replica(1), replica(2));
    let mut fragments = edit(&mut here, |draft| draft.insert(0, "a"));
    for _ in 0..3 {
        for fragment in &fragments {
            there.apply(fragment).unwrap();
        }
        fragments.extend(edit(&mut there, |draft| draft.append("b")));
        here.apply(fragments.last().unwrap()).unwrap();
        fragments.extend(edit(&mut here, |draft| draft.append("a")));
        fragments.extend(edit(&mut here, |draft| draft.delete(0, 1)));
    }
    let mut late: Text = replica(3);
    let mut model = Vec::new();
    for (left, fragment) in fragments.iter().enumerate().rev() {
        // What waits is not lost with a snapshot, nor by copying.
        late = Text::restore(&late.snapshot()).unwrap().fork();
        assert!(late.is_empty() && !late.same_history(&here));
        late.set_replica(3);
        let patches = late.apply(fragment).unwrap();
        assert_eq!(patches.is_empty(), left > 0);
        follow(&mut model, &patches);
    }
    assert_eq!(late.to_string(), here.to_string());
    assert_eq!(model.iter().collect::<String>(), here.to_string());
    assert!(late.same_history(&here));
    assert_eq!(late.snapshot(), here.snapshot());
}

#[test]
fn a_new_number_does_not_change_the_text() {
    let mut text: Text = replica(1);
    edit(&mut text, |draft| draft.insert(0, "a🌍b"));
    edit(&mut text, |draft| draft.delete(0, 1));
    text.set_replica(u64::MAX);
    assert_eq!(text, "🌍b");
    edit(&mut text, |draft| draft.append("c"));
    assert_eq!(Text::restore(&text.snapshot()).unwrap(), "🌍bc");
}

/// Types as people do: mostly on where it was.
fn type_on(text: &mut Text, at: &mut usize, random: &mut impl FnMut(usize) -> usize) -> Vec<Bytes> {
    *at = (*at).min(text.len());
    if random(8) == 0 {
        *at = random(text.len() + 1);
    }
    let deleted = if random(3) == 0 { random(4).min(*at) } else { 0 };
    *at -= deleted;
    let inserted = if deleted == 0 || random(6) == 0 { ["a", "bc", "🌍", "d🌍e"][random(4)] } else { "" };
    let fragments = edit(text, |draft| draft.replace(*at, deleted, inserted));
    *at += inserted.chars().count();
    fragments
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn typing_on_makes_the_same_fragments(steps in 1_usize..200, seed: u64) {
        let mut rng = crate::proto::Rng::new(seed);
        let mut random = |below: usize| (rng.next() % below as u64) as usize;
        let (mut text, mut slow): (Text, Text) = (replica(300), replica(300));
        let mut at = 0;
        for _ in 0..steps {
            let was = text.to_string();
            if random(20) == 0 {
                // yrs brings things back in any order.
                for fragment in edit(&mut text, |draft| draft.undo().map(drop)) {
                    slow.apply(&fragment).unwrap();
                }
            } else {
                let before = text.fork();
                let fragments = type_on(&mut text, &mut at, &mut random);
                let mut patches = Vec::new();
                let mut other = before;
                fragments.iter().for_each(|fragment| patches.extend(other.apply(fragment).unwrap()));
                slow.forget_what_was_typed();
                let mut again = Vec::new();
                for Patch { position, deleted, inserted } in patches {
                    again.extend(edit(&mut slow, |draft| draft.replace(position, deleted, &inserted)));
                }
                prop_assert_eq!(fragments, again, "{:?}", was);
            }
            prop_assert_eq!(text.to_string(), slow.to_string());
        }
        prop_assert_eq!(text.snapshot(), slow.snapshot());
    }

    #[test]
    fn typing_on_among_others_is_seen_by_all(steps in 1_usize..200, seed: u64) {
        let mut rng = crate::proto::Rng::new(seed);
        let mut random = |below: usize| (rng.next() % below as u64) as usize;
        let mut texts: Vec<Text> = (1..=3).map(replica).collect();
        let mut inboxes: Vec<Vec<Bytes>> = vec![Vec::new(); 3];
        let mut at = [0; 3];
        for _ in 0..steps {
            let who = random(3);
            if random(3) == 0 {
                let batch: Vec<Bytes> = inboxes[who].drain(..).collect();
                let mut model: Vec<char> = texts[who].to_string().chars().collect();
                texts[who].replay(&batch).iter().for_each(|patches| follow(&mut model, patches));
                prop_assert_eq!(texts[who].to_string(), model.into_iter().collect::<String>());
            } else {
                let fragments = type_on(&mut texts[who], &mut at[who], &mut random);
                (0..3).filter(|other| *other != who).for_each(|other| inboxes[other].extend(fragments.clone()));
            }
            // What is shown is what yrs has.
            prop_assert_eq!(texts[who].to_string(), texts[who].fork().to_string());
        }
        for (text, inbox) in texts.iter_mut().zip(inboxes) {
            text.replay(&inbox);
        }
        prop_assert_eq!(texts[0].to_string(), texts[1].to_string());
        prop_assert_eq!(texts[0].to_string(), texts[2].to_string());
        prop_assert_eq!(texts[0].snapshot(), texts[2].snapshot());
        // So has a document that is made of it all in one go.
        let rebuilt = Text::rebuild(Some(&texts[1].snapshot()), &[], Some(9)).unwrap();
        prop_assert_eq!(rebuilt.to_string(), texts[1].to_string());
    }
}

#[test]
fn is_send() {
    fn send<T: Send>() {}
    send::<Text>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any number of replicas, any edits at the same time, fragments in any order and twice: the text comes out equal, and whoever followed the patches
    /// has it too.
    #[test]
    fn converges(size in 2_usize..5, steps in 1_usize..60, seed: u64) {
        let mut cluster = Cluster::<Text>::new(size, seed);
        let mut models = vec![Vec::new(); size];
        cluster.run(
            steps,
            |draft, below| {
                let length = draft.len();
                let position = below(length + 1);
                let deleted = below(length - position + 1).min(3) * below(2);
                draft.replace(position, deleted, ["x", "🌍y", "", "ab\r\n", "𝄞"][below(5)]).unwrap();
            },
            |to, patches| follow(&mut models[to], patches),
        );
        let first = &cluster.replicas[0];
        for (other, model) in cluster.replicas.iter().zip(&models) {
            prop_assert_eq!(other.to_string(), first.to_string());
            prop_assert_eq!(other.to_string(), model.iter().collect::<String>());
            prop_assert!(first.same_history(other));
            prop_assert_eq!(other.snapshot(), first.snapshot());
            prop_assert_eq!(Text::restore(&other.snapshot()).unwrap().to_string(), first.to_string());
        }
    }
}

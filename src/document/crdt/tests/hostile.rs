use proptest::prelude::*;

use super::super::Text;
use super::*;

/// Fragments of two that typed at once.
fn fragments() -> Vec<Bytes> {
    let (mut here, mut there): (Text, Text) = (replica(1), replica(2));
    let mut all = edit(&mut here, |draft| draft.insert(0, "Hello 🌍, how are you?"));
    for fragment in &all {
        there.apply(fragment).unwrap();
    }
    for n in 0..6 {
        all.extend(edit(&mut here, |draft| draft.replace(n * 2, 1, "here 𝄞")));
        all.extend(edit(&mut there, |draft| draft.replace(n, 2, "there")));
    }
    all.extend(edit(&mut here, |draft| draft.undo().map(drop)));
    all.push(here.snapshot().into());
    all
}

fn feed<D: Document<Fragment = Bytes>>(document: &mut D, bytes: &[u8]) {
    if let Ok(fragment) = D::decode(bytes) {
        let _ = document.apply(&fragment);
    }
    let _ = D::restore(bytes);
}

#[test]
fn no_length_makes_it_reserve() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let mut text = Text::empty();
    for prefix in [&[][..], &[1], &[1, 1, 1, 0, 4, 1], &[1, 1, 1, 0, 4, 1, 1, b't'], &[0], &[0, 1, 1]] {
        let bytes = [prefix, &huge, &[0, 0]].concat();
        assert!(Text::decode(&bytes).is_err(), "{bytes:?}");
        feed(&mut text, &bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        feed(&mut replica::<Text>(3), &bytes);
    }

    /// Fragments with some bytes changed, in any order: what comes of it is anybody's guess, but no panic, and other documents do not notice.
    #[test]
    fn mutated_fragments_do_no_harm(
        order in prop::collection::vec((any::<prop::sample::Index>(), prop::option::weighted(0.7, (any::<prop::sample::Index>(), any::<u8>()))), 1..40),
    ) {
        let fragments = fragments();
        let mut text: Text = replica(3);
        for (index, mutation) in order {
            let mut bytes = index.get(&fragments).to_vec();
            if let Some((at, byte)) = mutation {
                *at.get_mut(&mut bytes) = byte;
            }
            feed(&mut text, &bytes);
            if let Ok(((), made)) = Draft::alone(&mut text, |draft| draft.insert(draft.len() / 2, "x🌍")) {
                prop_assert!(!made.is_empty());
            }
        }
        let _ = text.snapshot();
        let _ = text.to_string();
    }
}

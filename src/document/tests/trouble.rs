//! What goes wrong around documents: who is forgotten, who says what is not theirs, who keeps and has missed something, what is broken.

use super::super::fold::Numbers;
use super::*;

/// So many others write that who was silent meanwhile is forgotten.
fn forget<D: Document>(net: &mut Net<D>, fragment: &D::Fragment) {
    for other in 0..Numbers::MOST as u64 {
        net.say_as(77, 1 << 32 | other, 1, fragment);
        net.place_all();
    }
}

#[test]
fn who_was_forgotten_among_many_others_goes_on_as_somebody_else() {
    let mut net = Net::<Line>::new();
    let (first, _) = (net.open(), net.open());
    net.place_all();
    for text in ["a", "b", "c"] {
        net.write(first, text);
        net.place_all();
    }
    forget(&mut net, &(b"".to_vec(), None));
    net.write(first, "d");
    net.write(first, "e");
    net.place_all();
    net.all_have(b"abcde");

    let mut net = Net::<Set>::new();
    let (first, _) = (net.open(), net.open());
    net.place_all();
    for n in 1..4 {
        net.update(first, vec![vec![n]]).expect("room");
        net.place_all();
    }
    forget(&mut net, &vec![100]);
    net.update(first, vec![vec![4]]).expect("room");
    net.update(first, vec![vec![5]]).expect("room");
    net.place_all();
    net.all_have(&[1, 2, 3, 4, 5, 100]);
}

//! The fuzz targets of ZMTP without a fuzzer: what one has found worth keeping (`tests/fuzz/corpus`), and inputs at random.
//!
//! `ZINCMQ_FUZZ_SECONDS=900 cargo test --release --test zmtp_fuzz` takes its time; `ZINCMQ_TEST_SEED` begins elsewhere.

#![allow(clippy::disallowed_methods, reason = "the bans are for modules without IO")]

#[path = "common/dice.rs"]
mod dice;
#[path = "common/zmtp_fuzz.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets use it, too")]
mod zmtp_fuzz;

use std::path::Path;
use std::time::{Duration, Instant};

use dice::Dice;

/// How many inputs are tried at random, where no time is given.
const INPUTS: u32 = 20_000;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is in the repository") {
        let path = entry.expect("it can be listed").path();
        println!("{}", path.display());
        run(&std::fs::read(path).expect("it can be read"));
        count += 1;
    }
    assert!(count > 0, "an empty corpus");
}

fn at_random(seed: u64, mut input: impl FnMut(&mut Dice) -> Vec<u8>, run: fn(&[u8])) {
    let seconds =
        std::env::var("ZINCMQ_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut dice = Dice::new(seed);
    let mut count = 0_u64;
    while until.map_or(count < INPUTS.into(), |until| Instant::now() < until) {
        let data = input(&mut dice);
        if let Err(panic) = std::panic::catch_unwind(|| run(&data)) {
            println!("input {count}: {data:02x?}");
            std::panic::resume_unwind(panic);
        }
        count += 1;
    }
    println!("{count} inputs");
}

fn octets(dice: &mut Dice, most: u64) -> Vec<u8> {
    let count = dice.below(most + 1);
    (0..count).map(|_| dice.below(256) as u8).collect()
}

/// Something that looks like frames, and is spoiled now and then.
fn frames(dice: &mut Dice) -> Vec<u8> {
    let mut data = octets(dice, 4);
    data.resize(4, 0);
    if dice.below(8) > 0 {
        data[1] |= 2;
    }
    for _ in 0..dice.below(12) {
        let flags = dice.pick(&[0, 0, 0, 1, 1, 2, 3, 4, 4, 6, 5, 0xf8]);
        let name = dice.pick(&[
            &b"\x04PING\0\x03"[..],
            b"\x04PONG",
            b"\x09SUBSCRIBE",
            b"\x06CANCEL",
            b"\x05READY",
            b"\x05ERROR",
            b"\x01X",
        ]);
        let mut body = if flags & 4 == 0 { Vec::new() } else { name.to_vec() };
        body.extend(octets(dice, 60));
        data.push(flags);
        if flags & 2 == 0 {
            data.push(body.len() as u8);
        } else {
            data.extend((body.len() as u64).to_be_bytes());
        }
        data.extend(body);
    }
    if dice.below(4) == 0 && data.len() > 4 {
        let at = 4 + dice.below(data.len() as u64 - 4) as usize;
        data[at] = dice.below(256) as u8;
    }
    data
}

#[test]
fn what_was_worth_keeping_is_taken_as_octets() {
    replay("zmtp_bytes", zmtp_fuzz::bytes);
}

#[test]
fn what_was_worth_keeping_is_taken_as_operations() {
    replay("zmtp_operations", zmtp_fuzz::operations);
}

#[test]
fn octets_at_random_are_taken_or_refused() {
    at_random(1, frames, zmtp_fuzz::bytes);
}

#[test]
fn operations_at_random_lose_and_change_nothing() {
    at_random(2, |dice| octets(dice, 400), zmtp_fuzz::operations);
}

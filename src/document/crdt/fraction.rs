//! Places in an order that has always room in between: texts of the digits below, compared as bytes.

/// In the order of their bytes.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// As long as a key is by itself: room for 2e14.
const WIDTH: usize = 8;
/// As many digits as fit into the arithmetic, after what two keys have in common.
const MOST: usize = 18;
/// Keys at either end go this far on, at the most: room in between, and two that do so at once hardly meet.
const STRIDE: u128 = 1 << 20;
/// With less room than this, keys get longer.
const ROOM: u128 = 1 << 10;

/// A key after `low` and before `high`; `None` where there is no room, as between equal ones. `chance` picks among those there are, so that two who look at
/// once come upon different ones.
pub(super) fn between(low: Option<&str>, high: Option<&str>, chance: u64) -> Option<String> {
    let (a, b) = (low.unwrap_or("").as_bytes(), high.unwrap_or("").as_bytes());
    // What is missing of the lower one counts as the lowest digit.
    let padded = a.iter().chain(std::iter::repeat(&DIGITS[0]));
    let common = if high.is_some() { padded.zip(b).take_while(|(a, b)| a == b).count() } else { 0 };
    for width in (WIDTH.saturating_sub(common).max(3)..=MOST).step_by(3) {
        let all = 62_u128.pow(width as u32);
        let bottom = if low.is_some() { number(a.get(common..).unwrap_or_default(), width)? } else { 0 };
        let top = if high.is_some() { number(&b[common..], width)? } else { all };
        let (bottom, top) = match (low, high) {
            (None, None) => (all / 2, all / 2 + STRIDE),
            (None, Some(_)) => (top.saturating_sub(STRIDE), top),
            (Some(_), None) => (bottom, top.min(bottom + STRIDE)),
            (Some(_), Some(_)) => (bottom, top),
        };
        let gap = top.saturating_sub(bottom);
        if gap < ROOM {
            continue;
        }
        let mut at = bottom + 1 + u128::from(chance) % (gap - 2);
        if at.is_multiple_of(62) {
            // A key that ends in the lowest digit would have none before it that is not shorter.
            at += 1;
        }
        let mut key = b[..common].to_vec();
        key.extend((0..width).rev().map(|digit| DIGITS[(at / 62_u128.pow(digit as u32) % 62) as usize]));
        let key = String::from_utf8(key).ok()?;
        return (low.is_none_or(|low| low < key.as_str()) && high.is_none_or(|high| key.as_str() < high))
            .then_some(key);
    }
    None
}

/// So many keys from the bottom up, for when there is no room left.
pub(super) fn spread(count: usize, chance: u64) -> Option<Vec<String>> {
    let mut keys: Vec<String> = Vec::with_capacity(count);
    for _ in 0..count {
        keys.push(between(keys.last().map(String::as_str), None, chance)?);
    }
    Some(keys)
}

/// The first digits as a number; `None` where there is something else. What is missing counts as the lowest.
fn number(key: &[u8], width: usize) -> Option<u128> {
    (0..width).try_fold(0, |number, index| {
        let digit = match key.get(index) {
            Some(byte) => DIGITS.binary_search(byte).ok()?,
            None => 0,
        };
        Some(number * 62 + digit as u128)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::Rng;

    #[test]
    fn keys_at_either_end_stay_short() {
        let mut rng = Rng::new(1);
        let (mut low, mut high) = (between(None, None, 7).unwrap(), between(None, None, 8).unwrap());
        for _ in 0..10_000 {
            let higher = between(Some(&high), None, rng.next()).unwrap();
            let lower = between(None, Some(&low), rng.next()).unwrap();
            assert!(lower < low && high < higher);
            (low, high) = (lower, higher);
        }
        assert_eq!((low.len(), high.len()), (WIDTH, WIDTH));
    }

    #[test]
    fn keys_in_between_grow_slowly() {
        let mut rng = Rng::new(1);
        let low = between(None, None, 0).unwrap();
        let mut high = between(Some(&low), None, 500_000).unwrap();
        for _ in 0..1_000 {
            let key = between(Some(&low), Some(&high), rng.next()).unwrap();
            assert!(low < key && key < high);
            high = key;
        }
        assert!(high.len() < 400, "{} {high}", high.len());
    }

    proptest! {
        #[test]
        fn is_between_or_nothing(low in prop::option::of("[0-9A-Za-z]{0,24}|.{0,4}"), high in prop::option::of("[0-9A-Za-z]{0,24}|.{0,4}"), chance: u64) {
            if let Some(key) = between(low.as_deref(), high.as_deref(), chance) {
                prop_assert!(low.is_none_or(|low| low < key));
                prop_assert!(high.is_none_or(|high| key < high));
            }
        }
    }
}

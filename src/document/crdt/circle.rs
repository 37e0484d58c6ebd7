//! Whether what an update brings stands in a circle: each beside something that has to be there before it. yrs would put in some of it, and leave a gap for the rest.

use std::collections::BTreeMap;

use super::super::Malformed;
use super::scan::Outline;

/// A client, and a clock of it.
type Id = (u64, u64);

/// An item, and something of another client that it was put beside.
pub(super) type Beside = (Id, Id);

/// Checks those of an update, in its order. What is not in it does not count: all of the update waits for that.
pub(super) fn check(outline: &Outline, besides: &[Beside]) -> Result<(), Malformed> {
    let mut left: BTreeMap<u64, &[Beside]> =
        besides.chunk_by(|a, b| a.0.0 == b.0.0).map(|of_one| (of_one[0].0.0, of_one)).collect();
    // Up to which clock what each client brings can be put in is where the first item is that cannot.
    let is_there = |left: &BTreeMap<u64, &[Beside]>, (client, clock): Id| {
        let first = left.get(&client).and_then(|left| left.first());
        !outline.has(client, clock) || first.is_none_or(|((_, blocked), _)| clock < *blocked)
    };
    let mut waiting: BTreeMap<Id, Vec<u64>> = BTreeMap::new();
    let mut movable: Vec<u64> = left.keys().copied().collect();
    while let Some(client) = movable.pop() {
        let of_one = left.get(&client).copied().unwrap_or_default();
        let can = of_one.iter().take_while(|(_, needs)| is_there(&left, *needs)).count();
        let of_one = &of_one[can..];
        left.insert(client, of_one);
        let up_to = match of_one.first() {
            Some(((_, blocked), needs)) => {
                waiting.entry(*needs).or_default().push(client);
                *blocked
            }
            None => u64::MAX,
        };
        let freed: Vec<Id> = waiting.range((client, 0)..(client, up_to)).map(|(needs, _)| *needs).collect();
        movable.extend(freed.iter().filter_map(|needs| waiting.remove(needs)).flatten());
    }
    if waiting.is_empty() { Ok(()) } else { Err(Malformed::new("items that each stand beside another")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(brings: &[(u64, u64)], besides: &[Beside]) -> bool {
        let mut outline = Outline::default();
        outline.brings = brings.iter().map(|(client, end)| (*client, 0..*end)).collect();
        check(&outline, besides).is_ok()
    }

    #[test]
    fn what_stands_in_a_circle_is_told_from_what_does_not() {
        assert!(of(&[(2, 1), (1, 1)], &[((2, 0), (1, 0))]));
        assert!(!of(&[(2, 1), (1, 1)], &[((2, 0), (1, 0)), ((1, 0), (2, 0))]));
        // Each beside what the other made before.
        assert!(of(&[(2, 3), (1, 3)], &[((2, 2), (1, 1)), ((1, 1), (2, 0)), ((1, 2), (2, 1))]));
        assert!(!of(&[(2, 3), (1, 3)], &[((2, 1), (1, 1)), ((1, 1), (2, 2))]));
        // Within the item that it blocks.
        assert!(!of(&[(2, 9), (1, 9)], &[((2, 2), (1, 0)), ((1, 0), (2, 5))]));
        // Of three, and of what is not in it.
        assert!(!of(&[(3, 1), (2, 1), (1, 1)], &[((3, 0), (2, 0)), ((2, 0), (1, 0)), ((1, 0), (3, 0))]));
        assert!(of(&[(3, 1), (2, 1), (1, 1)], &[((3, 0), (2, 0)), ((2, 0), (1, 0)), ((1, 0), (4, 0))]));
    }
}

//! The greeting: the first 64 octets in each direction (RFC 23, RFC 37).

use super::violation::Violation;

/// Its length.
pub(super) const LENGTH: usize = 64;

/// How this side begins.
pub(super) fn ours() -> [u8; LENGTH] {
    let mut greeting = [0; LENGTH];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    (greeting[10], greeting[11]) = (3, 1);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// Checks what has come of the peer's greeting as early as it can be told: the minor version once it is complete.
pub(super) fn check(bytes: &[u8]) -> Result<Option<u8>, Violation> {
    let wrong = |at: usize, due: u8| bytes.get(at).is_some_and(|octet| *octet != due);
    if wrong(0, 0xff) || wrong(9, 0x7f) {
        return Err(Violation::Signature);
    }
    let major = bytes.get(10).copied().unwrap_or(3);
    if major < 3 {
        return Err(Violation::Version { major });
    }
    let Some(greeting) = bytes.get(..LENGTH) else { return Ok(None) };
    let mechanism = &greeting[12..32];
    if mechanism[..4] != *b"NULL" || mechanism[4..].iter().any(|octet| *octet != 0) {
        let name = mechanism.split(|octet| *octet == 0).next().unwrap_or_default();
        return Err(Violation::Mechanism(String::from_utf8_lossy(name).into_owned()));
    }
    // A later major version has to understand this one; what its minor version means is not known.
    Ok(Some(if major == 3 { greeting[11] } else { 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_greeting_is_complete_with_its_last_octet_alone() {
        for length in 0..LENGTH {
            assert_eq!(check(&ours()[..length]), Ok(None));
        }
        assert_eq!(check(&ours()), Ok(Some(1)));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_first_octet_that_shows_it() {
        assert_eq!(check(b"G"), Err(Violation::Signature));
        let mut greeting = ours();
        greeting[9] = 1;
        assert_eq!(check(&greeting[..9]), Ok(None));
        assert_eq!(check(&greeting[..10]), Err(Violation::Signature));
        let mut greeting = ours();
        greeting[10] = 1;
        assert_eq!(check(&greeting[..11]), Err(Violation::Version { major: 1 }));
        let mut greeting = ours();
        greeting[16] = b'X';
        assert_eq!(check(&greeting), Err(Violation::Mechanism("NULLX".to_owned())));
    }

    #[test]
    fn padding_and_filler_may_hold_anything_and_later_majors_count_as_ours() {
        let mut greeting = ours();
        greeting[1..9].fill(0xaa);
        greeting[32..].fill(0xaa);
        (greeting[10], greeting[11]) = (4, 9);
        assert_eq!(check(&greeting), Ok(Some(1)));
        (greeting[10], greeting[11]) = (3, 0);
        assert_eq!(check(&greeting), Ok(Some(0)));
    }
}

//! The header fields of a redb file that redb uses before it verifies a checksum. redb asserts that
//! they fit the file, so a store checks them first.
//!
//! The offsets are those of redb's file format 3: `docs/design.md` ("Database header") and
//! `src/tree_store/page_store/header.rs` of redb 4.1.0.

/// The length of these fields, from the start of the file.
pub(super) const LENGTH: usize = 32;

pub(super) const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// The offset of the byte with redb's flags.
pub(super) const FLAGS: u64 = 9;
/// The flags: the second commit slot counts, the file was not closed in order, the last commit was in
/// two phases.
const SECOND_SLOT: u8 = 1;
const UNCLEAN: u8 = 2;
const TWO_PHASE: u8 = 4;
/// The offset of the checksum of the first commit slot, its length, and the length of a slot.
const SLOT_CHECKSUM: (u64, usize) = (64 + 112, 16);
const SLOT: u64 = 128;

pub(super) fn is_in_two_phases(flags: u8) -> bool {
    flags & TWO_PHASE != 0
}

/// What to write where so that redb verifies all checksums of the commit that counts before it uses a
/// page: the file was not closed in order, and the commit was in one phase. The other commit slot is
/// void, since redb would prefer a later commit in it.
pub(super) fn disbelieved(flags: u8) -> Vec<(u64, Vec<u8>)> {
    let mut changes = vec![(FLAGS, vec![(flags | UNCLEAN) & !TWO_PHASE])];
    if is_in_two_phases(flags) {
        let other_slot = if flags & SECOND_SLOT == 0 { SLOT } else { 0 };
        let (offset, length) = SLOT_CHECKSUM;
        changes.push((offset + other_slot, vec![0; length]));
    }
    changes
}

/// redb's page size outside its own tests.
const PAGE_SIZE: u32 = 4096;
/// The largest number of pages in a region: redb numbers them with 20 bits.
const MOST_REGION_PAGES: u32 = 1 << 20;

/// Says what is wrong with the header of a file of `length` bytes, if anything is.
pub(super) fn fault(header: &[u8; LENGTH], length: u64) -> Option<String> {
    if length < u64::from(PAGE_SIZE) {
        return Some(format!("it is {length} bytes long, and its header takes {PAGE_SIZE}"));
    }
    let field = |offset: usize| {
        u32::from_le_bytes([header[offset], header[offset + 1], header[offset + 2], header[offset + 3]])
    };
    let (page_size, region_header_pages, region_pages) = (field(12), field(16), field(20));
    let (full_regions, last_region_pages) = (field(24), field(28));
    if page_size != PAGE_SIZE {
        return Some(format!("its header gives a page size of {page_size} bytes, not {PAGE_SIZE}"));
    }
    if !(1..=MOST_REGION_PAGES).contains(&region_pages) || last_region_pages > region_pages {
        return Some(format!(
            "its header gives regions of {region_pages} pages, and {last_region_pages} in the last one"
        ));
    }
    if full_regions == 0 && last_region_pages == 0 {
        return Some("its header gives no regions".to_owned());
    }
    let pages_with_header = |pages| u128::from(region_header_pages) + u128::from(pages);
    let last_region = if last_region_pages == 0 { 0 } else { pages_with_header(last_region_pages) };
    let pages = 1 + u128::from(full_regions) * pages_with_header(region_pages) + last_region;
    let declared = pages * u128::from(page_size);
    // A file may be longer: redb grows it before it writes the header.
    if declared > u128::from(length) {
        return Some(format!("it is {length} bytes long, and its header says {declared}"));
    }
    if !length.is_multiple_of(u64::from(page_size)) {
        return Some(format!("it is {length} bytes long, which is not a multiple of {page_size}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(fields: [u32; 5]) -> [u8; LENGTH] {
        let mut header = [0; LENGTH];
        for (field, bytes) in fields.iter().zip(header[12..].chunks_mut(4)) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        header
    }

    #[test]
    fn every_field_is_checked_and_none_overflows() {
        let sound: [u32; 5] = [4096, 0, 1 << 20, 0, 9];
        assert_eq!(fault(&header(sound), 10 * 4096), None);
        assert_eq!(fault(&header(sound), 11 * 4096), None, "a file that is growing");
        let full = (1 + (3 << 20)) * 4096;
        assert_eq!(fault(&header([4096, 0, 1 << 20, 3, 0]), full), None);
        assert_eq!(fault(&header([4096, 0, 1 << 20, 2, 1 << 20]), full), None);
        assert_eq!(fault(&header([4096, 2, 5, 2, 3]), 20 * 4096), None, "as older redb made files");
        for length in [10 * 4096 - 1, 10 * 4096 + 1, 9 * 4096, 0] {
            assert!(fault(&header(sound), length).is_some(), "{length}");
        }
        for (field, values) in [
            (0, &[0, 512, 4095, u32::MAX][..]),
            (1, &[1, u32::MAX]),
            (2, &[0, 8, (1 << 20) + 1, u32::MAX]),
            (3, &[1, u32::MAX]),
            (4, &[0, 10, 1 << 20, u32::MAX]),
        ] {
            for value in values {
                let mut fields = sound;
                fields[field] = *value;
                assert!(fault(&header(fields), 10 * 4096).is_some(), "field {field} is {value}");
            }
        }
        assert!(fault(&header([4096, u32::MAX, 1 << 20, u32::MAX, 1 << 20]), u64::MAX).is_some());
    }
}

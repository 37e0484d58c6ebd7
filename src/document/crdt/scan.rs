//! Looks through the bytes of an update before yrs gets them. They come from other nodes, and yrs trusts them in places: it reserves what a length says
//! before it has read the bytes, recurses as deep as values are nested, and adds clocks without a check.
//!
//! The verdict depends on the bytes alone, so that all replicas come to the same.

use std::ops::{ControlFlow, Range};

use super::super::Malformed;
use super::circle::{self, Beside};
use super::workload::{self, Collected, Content, Workload};

/// The highest clock of a client that is let in, and the greatest length: half of what fits, so that sums fit.
pub(super) const MAX_CLOCK: u64 = 1 << 30;
/// How deep values may nest. JSON parsers stop at 128; nobody comes near.
pub(super) const MAX_DEPTH: usize = 32;
/// Client identifiers have 53 bits, for JavaScript's sake.
pub(super) const MAX_CLIENT: u64 = (1 << 53) - 1;

/// A block that was deleted, and of which but its length is left.
const GARBAGE: u8 = 0;
/// A block that is left out.
const SKIP: u8 = 10;
pub(super) const HAS_ORIGIN: u8 = 0x80;
pub(super) const HAS_RIGHT_ORIGIN: u8 = 0x40;
const HAS_PARENT_SUB: u8 = 0x20;

/// What a document's items may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// Text, embedded values and marks of formatting; no keys.
    Text,
    /// Values and bytes.
    Values,
}

/// What an update brings, and what it builds on.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// Clients, and from which clock to before which it has something of them.
    pub brings: Vec<(u64, Range<u64>)>,
    /// Clients, and clocks of theirs that must be there before, or come with it.
    pub needs: Vec<(u64, u64)>,
    /// Items that stand beside what another client has made, and what that is.
    besides: Vec<Beside>,
    /// How much there is of what makes work.
    pub size: workload::Size,
    /// Clients of the delete set, and where what it says of them is.
    deleted: Vec<(u64, Range<usize>)>,
    /// Where the delete set begins.
    pub deletes: usize,
    /// Where it ends.
    pub end: usize,
}

impl Outline {
    /// Whether it brings this. Clients come from the greatest to the least, and the ranges of each from the first to the last.
    pub(super) fn has(&self, client: u64, clock: u64) -> bool {
        let begins_before =
            |(of, clocks): &(u64, Range<u64>)| *of > client || (*of == client && clocks.start <= clock);
        let behind = self.brings.partition_point(begins_before);
        self.brings[..behind].last().is_some_and(|(of, clocks)| *of == client && clocks.contains(&clock))
    }
}

/// Checks a Yjs v1 update.
pub(super) fn check(update: &[u8], contents: Contents) -> Result<Outline, Malformed> {
    let (outline, rest) = check_first(update, contents)?;
    if rest.is_empty() { Ok(outline) } else { Err(Malformed::new("the update goes on after its end")) }
}

/// Checks a Yjs v1 update that something else comes after.
pub(super) fn check_first(update: &[u8], contents: Contents) -> Result<(Outline, &[u8]), Malformed> {
    let (outline, rest) = outline(update, contents)?;
    if outline.size.may_be_too_much() {
        let mut workload = Workload::of_update(contents);
        workload.add(&update[..outline.end])?;
        workload.finish()?;
    }
    Ok((outline, rest))
}

/// What is in a Yjs v1 update, and what comes after it, whatever work it makes.
pub(super) fn outline(update: &[u8], contents: Contents) -> Result<(Outline, &[u8]), Malformed> {
    let mut cursor = Cursor::new(update);
    walk(&mut cursor, contents)?;
    Ok((cursor.outline, &update[cursor.at..]))
}

/// Adds what a checked update brings and deletes to `collected`, in its order.
pub(super) fn collect(
    update: &[u8],
    contents: Contents,
    collected: Collected,
) -> Result<Collected, Malformed> {
    let mut cursor = Cursor { collected: Some(collected), ..Cursor::new(update) };
    walk(&mut cursor, contents)?;
    Ok(cursor.collected.unwrap_or_default())
}

/// A text of so many bytes, as its length says, and what comes after.
pub(super) fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut cursor = Cursor::new(bytes);
    let length = cursor.count()?;
    let taken = cursor.take(length)?;
    Ok((taken, &bytes[cursor.at..]))
}

/// A number as updates hold it.
pub(super) fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A piece of text.
pub(super) struct Piece {
    pub client: u64,
    pub clocks: Range<u64>,
    /// What stood behind it when it was put in.
    pub right: Option<(u64, u64)>,
}

/// The text that an update of a text brings; `None` where it brings anything else.
pub(super) fn piece(update: &[u8]) -> Option<Piece> {
    let mut cursor = Cursor::new(update);
    if (cursor.count().ok()?, cursor.count().ok()?) != (1, 1) {
        return None;
    }
    let (client, clock) = cursor.id().ok()?;
    let info = cursor.byte().ok()?;
    if info & 0x1f != 4 {
        return None;
    }
    if info & HAS_ORIGIN != 0 {
        cursor.id().ok()?;
    }
    let right = if info & HAS_RIGHT_ORIGIN != 0 { Some(cursor.id().ok()?) } else { None };
    if info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN) == 0 {
        // The text it is in.
        cursor.number().ok()?;
        cursor.text().ok()?;
    }
    let length = cursor.text().ok()?.encode_utf16().count() as u64;
    Some(Piece { client, clocks: clock..clock + length, right })
}

/// Puts the entries of maps in the order of their keys, and the clients of the delete set in that of their numbers: yrs puts them in any. An update that is
/// malformed stays as it is.
pub(super) fn sort(update: &mut [u8], contents: Contents) {
    let mut cursor = Cursor { maps: Some(Vec::new()), ..Cursor::new(update) };
    if walk(&mut cursor, contents).is_err() {
        return;
    }
    let (maps, mut deletes) = (cursor.maps.unwrap_or_default(), cursor.outline.deleted);
    // Those within others come first.
    for mut entries in maps {
        let bounds = bounds(entries.iter().map(|entry| &entry.whole));
        entries.sort_by(|a, b| update[a.key.clone()].cmp(&update[b.key.clone()]));
        rearrange(update, bounds, entries.into_iter().map(|entry| entry.whole));
    }
    let bounds = bounds(deletes.iter().map(|(_, whole)| whole));
    deletes.sort_by_key(|(client, _)| std::cmp::Reverse(*client));
    rearrange(update, bounds, deletes.into_iter().map(|(_, whole)| whole));
}

/// From where to where parts go that follow on one another.
fn bounds<'a>(parts: impl Iterator<Item = &'a Range<usize>>) -> Range<usize> {
    parts.cloned().reduce(|first, next| first.start..next.end).unwrap_or_default()
}

fn rearrange(bytes: &mut [u8], bounds: Range<usize>, parts: impl Iterator<Item = Range<usize>>) {
    let arranged: Vec<u8> = parts.flat_map(|part| bytes[part].to_vec()).collect();
    bytes[bounds].copy_from_slice(&arranged);
}

fn walk(cursor: &mut Cursor<'_>, contents: Contents) -> Result<(), Malformed> {
    // yrs would put blocks into one another that come twice, and then use what it has freed.
    let mut last = None;
    let clients = cursor.count()?;
    for _ in 0..clients {
        let client = blocks(cursor, contents)?;
        if last.replace(client).is_some_and(|last| last <= client) {
            return Err(Malformed::new(format!("client {client} after one that is not greater")));
        }
    }
    cursor.outline.deletes = cursor.at;
    let clients = cursor.count()?;
    for _ in 0..clients {
        let start = cursor.at;
        let client = cursor.client()?;
        for _ in 0..cursor.count()? {
            let (start, end) = cursor.range()?;
            cursor.outline.needs.push((client, end.saturating_sub(1)));
            cursor.outline.size.ranges += 1;
            if let Some(collected) = &mut cursor.collected {
                collected.delete(client, start..end);
            }
        }
        cursor.outline.deleted.push((client, start..cursor.at));
    }
    cursor.outline.end = cursor.at;
    let besides = std::mem::take(&mut cursor.outline.besides);
    circle::check(&cursor.outline, &besides)
}

fn blocks(cursor: &mut Cursor<'_>, contents: Contents) -> Result<u64, Malformed> {
    let blocks = cursor.count()?;
    let client = cursor.client()?;
    let mut start = cursor.number()?;
    let mut clock = start;
    for _ in 0..blocks {
        let info = cursor.byte()?;
        cursor.outline.size.blocks += 1;
        let length = match info {
            GARBAGE | SKIP => {
                let length = cursor.number()?;
                let content = if info == SKIP { Content::Skip } else { Content::Garbage };
                if let Some(collected) = &mut cursor.collected {
                    collected.block((client, clock), length, [None; 2], None, content);
                }
                length
            }
            _ => item(cursor, info, contents, (client, clock))?,
        };
        if info == SKIP {
            cursor.bring(client, start..clock);
            start = clock.saturating_add(length);
        }
        clock = clock.saturating_add(length);
        if length == 0 || clock > MAX_CLOCK {
            return Err(Malformed::new(format!("a block of length {length} that ends at clock {clock}")));
        }
    }
    cursor.bring(client, start..clock);
    Ok(client)
}

fn item(cursor: &mut Cursor<'_>, info: u8, contents: Contents, own: (u64, u64)) -> Result<u64, Malformed> {
    let mut besides = [None; 2];
    for (flag, beside) in [HAS_ORIGIN, HAS_RIGHT_ORIGIN].into_iter().zip(&mut besides) {
        if info & flag != 0 {
            let (client, clock) = cursor.id()?;
            if client == own.0 && clock >= own.1 {
                return Err(Malformed::new("an item beside one that was made after it"));
            }
            // What its own client made before is there if this may come.
            if client != own.0 {
                cursor.outline.needs.push((client, clock));
                cursor.outline.besides.push((own, (client, clock)));
            }
            *beside = Some((client, clock));
        }
    }
    let mut list = None;
    if info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN) == 0 {
        if cursor.number()? != 1 {
            return Err(Malformed::new("an item within another: documents of this crate are flat"));
        }
        let root = cursor.text()?;
        let key = if info & HAS_PARENT_SUB != 0 { Some(cursor.text()?) } else { None };
        list = Some((root, key));
    }
    if info & HAS_PARENT_SUB != 0 && contents == Contents::Text {
        return Err(Malformed::new("a key in a text"));
    }
    let (length, content) = content(cursor, info, contents)?;
    if let Some(collected) = &mut cursor.collected {
        collected.block(own, length, besides, list, content);
    }
    Ok(length)
}

/// The content of an item, and how long it is.
fn content<'a>(
    cursor: &mut Cursor<'a>,
    info: u8,
    contents: Contents,
) -> Result<(u64, Content<&'a str>), Malformed> {
    match (info & 0x1f, contents) {
        (1, _) => Ok((cursor.number()?, Content::Deleted)),
        (4, Contents::Text) => {
            let length = cursor.text()?.encode_utf16().count() as u64;
            cursor.outline.size.units += length;
            Ok((length, Content::Text))
        }
        (5, Contents::Text) => {
            // yrs cannot tell a string from text.
            if cursor.json()?.trim_start().starts_with('"') {
                return Err(Malformed::new("an embedded string in a text"));
            }
            Ok((1, Content::One))
        }
        (6, Contents::Text) => {
            let key = cursor.text()?;
            let is_set = cursor.json()?.trim() != "null";
            Ok((1, Content::Mark { key, is_set }))
        }
        (3, Contents::Values) => {
            let length = cursor.count()?;
            cursor.take(length)?;
            Ok((1, Content::One))
        }
        (8, Contents::Values) => {
            let length = cursor.count()?;
            for _ in 0..length {
                cursor.value(0)?;
            }
            cursor.outline.size.units += length as u64;
            Ok((length as u64, Content::Values))
        }
        (kind, _) => {
            Err(Malformed::new(format!("an item with content of kind {kind}, which has no place here")))
        }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The entries of each map, if they are wanted.
    maps: Option<Vec<Vec<Entry>>>,
    /// The blocks and what is deleted, if they are wanted.
    collected: Option<Collected>,
    outline: Outline,
}

#[derive(Clone)]
struct Entry {
    key: Range<usize>,
    whole: Range<usize>,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, maps: None, collected: None, outline: Outline::default() }
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or_else(cut)?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or_else(cut)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(cut)?;
        self.at = end;
        Ok(taken)
    }

    /// A whole number of at most 53 bits, 7 bits a byte, the low ones first.
    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..56).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if number <= MAX_CLIENT { Ok(number) } else { Err(large()) };
            }
        }
        Err(large())
    }

    /// A number of things to come, each of one byte at least.
    fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.number()?;
        if count > (self.bytes.len() - self.at) as u64 { Err(cut()) } else { Ok(count as usize) }
    }

    fn client(&mut self) -> Result<u64, Malformed> {
        self.number()
    }

    fn id(&mut self) -> Result<(u64, u64), Malformed> {
        let (client, clock) = (self.client()?, self.number()?);
        if clock > MAX_CLOCK { Err(large()) } else { Ok((client, clock)) }
    }

    fn range(&mut self) -> Result<(u64, u64), Malformed> {
        let start = self.number()?;
        let end = start.saturating_add(self.number()?);
        if end > MAX_CLOCK { Err(large()) } else { Ok((start, end)) }
    }

    fn bring(&mut self, client: u64, clocks: Range<u64>) {
        if clocks.is_empty() {
            return;
        }
        if clocks.start > 0 {
            self.outline.needs.push((client, clocks.start - 1));
        }
        self.outline.brings.push((client, clocks));
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::new("a text that is no UTF-8"))
    }

    /// JSON as text. Only its nesting is looked at; yrs says whether it is JSON.
    fn json(&mut self) -> Result<&'a str, Malformed> {
        let json = self.text()?;
        let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
        let deep = json.bytes().try_for_each(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'[' | b'{' if !quoted => depth += 1,
                b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > MAX_DEPTH { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if deep.is_break() { Err(nested()) } else { Ok(json) }
    }

    fn value(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(nested());
        }
        match self.byte()? {
            // undefined, null, true, false
            127 | 126 | 121 | 120 => Ok(()),
            // A whole number: a sign, and 6 bits in the first byte.
            125 => {
                for _ in 0..10 {
                    if self.byte()? < 0x80 {
                        return Ok(());
                    }
                }
                Err(large())
            }
            124 => self.take(4).map(drop),
            123 | 122 => self.take(8).map(drop),
            119 => self.text().map(drop),
            118 => {
                let mut entries = Vec::new();
                for _ in 0..self.count()? {
                    let start = self.at;
                    let length = self.text()?.len();
                    let key = self.at - length..self.at;
                    self.value(depth + 1)?;
                    if self.maps.is_some() {
                        entries.push(Entry { key, whole: start..self.at });
                    }
                }
                if let Some(maps) = &mut self.maps {
                    maps.push(entries);
                }
                Ok(())
            }
            117 => {
                for _ in 0..self.count()? {
                    self.value(depth + 1)?;
                }
                Ok(())
            }
            116 => {
                let length = self.count()?;
                self.take(length).map(drop)
            }
            kind => Err(Malformed::new(format!("a value of kind {kind}, which there is not"))),
        }
    }
}

fn cut() -> Malformed {
    Malformed::new("the update ends too early")
}

fn large() -> Malformed {
    Malformed::new("a number beyond its bound")
}

fn nested() -> Malformed {
    Malformed::new(format!("a value nested deeper than {MAX_DEPTH} levels"))
}

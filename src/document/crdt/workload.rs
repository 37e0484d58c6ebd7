//! The work that yrs has with updates, counted before yrs gets them.
//!
//! yrs puts an item in by walking over what others put at the same place, cuts blocks in two by copying them, and joins
//! them by counting their characters again: all of that is quadratic for updates that are made for it. Here the same is
//! done with the identifiers alone, and counted in steps. One step is about 40 ns of yrs, measured on one machine with
//! optimisation.
//!
//! The count depends on the bytes alone, in their order, so that all replicas come to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::super::Malformed;
use super::scan::{self, Contents};

/// How many steps any update may take: 0.16 s. (A guess, as the next two: of what people write none takes a tenth of it.)
const ANY: u64 = 4_000_000;
/// How many more it may take for each of its bytes: 0.3 us, which is about what it takes to read one.
const PER_BYTE: u64 = 8;
/// How many times as many steps a document may take that several updates make. Those that worked apart for long make much work
/// for each other; and such a document is lost, where such an update just has no effect.
const TOGETHER: u64 = 16;

/// No piece, and no list.
const NONE: u32 = u32::MAX;

/// How much an update, or a document, has of what makes work.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    /// Blocks of any kind.
    pub blocks: usize,
    /// UTF-16 units of text, and values.
    pub units: u64,
    /// Ranges that are deleted.
    pub ranges: usize,
}

impl Size {
    /// Whether an update of this size may take more steps by itself than any may take. It is a guess on the safe side: each block is walked over, and
    /// cut, for each other one.
    pub(super) fn may_be_too_much(self) -> bool {
        self.times(self) > ANY / 8
    }

    /// Whether an update of this size may take more steps than any may take where it comes to a document of the other size.
    pub(super) fn may_be_too_much_for(self, document: Self) -> bool {
        self.times(document) > ANY
    }

    fn times(self, document: Self) -> u64 {
        let of_each = document.pieces() as u64 + document.units / UNITS_READ;
        of_each.saturating_mul((self.blocks + self.ranges) as u64)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.units += other.units;
        self.ranges += other.ranges;
    }

    /// How many pieces there may be of it: each range is cut out.
    pub(super) fn pieces(self) -> usize {
        self.blocks + 2 * self.ranges
    }
}

/// How many UTF-16 units of text yrs reads in a step, to find a place in it or to count it.
const UNITS_READ: u64 = 32;
/// How many it copies.
const UNITS_COPIED: u64 = 512;
/// How many values it copies.
const VALUES_COPIED: u64 = 4;
/// How many entries of a list of pieces it moves.
const ENTRIES_MOVED: u64 = 64;
/// How many pieces of a key it goes back over.
const KEYS_PASSED: u64 = 5;
/// How many pieces that are deleted already it goes over.
const DELETED_PASSED: u64 = 8;
/// How many steps it takes to copy a mark that is in force, which it does wherever one begins or ends.
const MARK_COPIED: u64 = 6;

/// A client, by its place among the names, and a clock of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    client: u32,
    clock: u32,
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<K> {
    /// Nothing that was ever seen here.
    Skip,
    /// Nothing any more, and no place either.
    Garbage,
    /// Nothing any more.
    Deleted,
    Text,
    Values,
    /// What cannot be cut.
    One,
    /// The begin or the end of a mark of formatting.
    Mark { key: K, is_set: bool },
}

#[derive(Debug, Clone, Copy)]
struct Block {
    id: Id,
    length: u32,
    origin: Option<Id>,
    right_origin: Option<Id>,
    /// The list that it says it is in.
    list: u32,
    content: Content<u32>,
}

/// Blocks and what is deleted, as they are in an update, with small numbers in the place of names.
#[derive(Debug, Default)]
pub(super) struct Collected {
    blocks: Vec<Block>,
    deleted: Vec<(u32, Range<u32>)>,
    clients: BTreeMap<u64, u32>,
    client_ids: Vec<u64>,
    lists: BTreeMap<(String, Option<String>), u32>,
    /// Of each list, whether it is what a key had.
    have_key: Vec<bool>,
    marks: BTreeMap<String, u32>,
}

impl Collected {
    pub(super) fn block(
        &mut self,
        id: (u64, u64),
        length: u64,
        besides: [Option<(u64, u64)>; 2],
        list: Option<(&str, Option<&str>)>,
        content: Content<&str>,
    ) {
        let [origin, right_origin] = besides.map(|beside| beside.map(|id| self.id(id)));
        let list = list.map_or(NONE, |(root, key)| {
            let new = || {
                self.have_key.push(key.is_some());
                self.have_key.len() as u32 - 1
            };
            *self.lists.entry((root.to_owned(), key.map(ToOwned::to_owned))).or_insert_with(new)
        });
        let content = match content {
            Content::Skip => Content::Skip,
            Content::Garbage => Content::Garbage,
            Content::Deleted => Content::Deleted,
            Content::Text => Content::Text,
            Content::Values => Content::Values,
            Content::One => Content::One,
            Content::Mark { key, is_set } => {
                let next = self.marks.len() as u32;
                Content::Mark { key: *self.marks.entry(key.to_owned()).or_insert(next), is_set }
            }
        };
        let id = self.id(id);
        self.blocks.push(Block { id, length: length as u32, origin, right_origin, list, content });
    }

    pub(super) fn delete(&mut self, client: u64, clocks: Range<u64>) {
        let client = self.client(client);
        self.deleted.push((client, clocks.start as u32..clocks.end as u32));
    }

    /// Clocks fit: they were checked.
    fn id(&mut self, (client, clock): (u64, u64)) -> Id {
        Id { client: self.client(client), clock: clock as u32 }
    }

    fn client(&mut self, client: u64) -> u32 {
        let new = || {
            self.client_ids.push(client);
            self.client_ids.len() as u32 - 1
        };
        *self.clients.entry(client).or_insert_with(new)
    }
}

/// A part of a block that stands in a list.
#[derive(Debug, Clone, Copy)]
struct Piece {
    id: Id,
    length: u32,
    origin: Option<Id>,
    right_origin: Option<Id>,
    left: u32,
    right: u32,
    list: u32,
    content: Content<u32>,
    /// In which walk it was met last, and since when in that walk nothing else decided.
    met: u32,
    disputed: u32,
}

impl Piece {
    fn end(&self) -> u32 {
        self.id.clock + self.length
    }
}

/// What a client has made.
#[derive(Debug, Default)]
struct Client {
    id: u64,
    /// By their clocks.
    pieces: Vec<u32>,
    /// Up to where it is there; `None` where nothing was heard of that.
    next: Option<u32>,
    /// Up to where it was there before the transaction.
    before: u32,
}

#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    pieces: u64,
    has_key: bool,
}

/// What a client's blocks are, of an update, that are still to come.
#[derive(Debug)]
struct Coming {
    blocks: Range<usize>,
    end: u32,
}

/// Takes updates in, one behind the other, as yrs would, and counts.
///
/// Of what they build on and is not there it knows nothing, and takes it to be there with nothing around it.
#[derive(Debug)]
pub(super) struct Workload {
    contents: Contents,
    steps: u64,
    limit: u64,
    times: u64,
    bytes: usize,
    names: Collected,
    clients: Vec<Client>,
    lists: Vec<List>,
    pieces: Vec<Piece>,
    /// What was deleted in the transaction.
    deleted: Vec<(u32, Range<u32>)>,
    walks: u32,
    decisions: u32,
}

impl Workload {
    /// Of one update.
    pub(super) fn of_update(contents: Contents) -> Self {
        Self::new(contents, 1)
    }

    /// Of a document that several updates make.
    pub(super) fn of_document(contents: Contents) -> Self {
        Self::new(contents, TOGETHER)
    }

    fn new(contents: Contents, times: u64) -> Self {
        Self {
            contents,
            steps: 0,
            limit: ANY * times,
            times,
            bytes: 0,
            names: Collected::default(),
            clients: Vec::new(),
            lists: Vec::new(),
            pieces: Vec::new(),
            deleted: Vec::new(),
            walks: 0,
            decisions: 0,
        }
    }

    /// Takes in an update that was checked.
    pub(super) fn add(&mut self, update: &[u8]) -> Result<(), Malformed> {
        self.bytes += update.len();
        self.limit += PER_BYTE * self.times * update.len() as u64;
        let mut collected = scan::collect(update, self.contents, std::mem::take(&mut self.names))?;
        let (blocks, deleted) = (std::mem::take(&mut collected.blocks), std::mem::take(&mut collected.deleted));
        self.names = collected;
        for id in &self.names.client_ids[self.clients.len()..] {
            self.clients.push(Client { id: *id, ..Client::default() });
        }
        for has_key in &self.names.have_key[self.lists.len()..] {
            self.lists.push(List { first: NONE, pieces: 0, has_key: *has_key });
        }
        self.put_in(&blocks)?;
        self.delete(&deleted)?;
        self.deleted.extend(deleted);
        Ok(())
    }

    fn take(&mut self, steps: u64) -> Result<(), Malformed> {
        self.steps += steps;
        if self.steps <= self.limit { Ok(()) } else { Err(self.too_much()) }
    }

    fn too_much(&self) -> Malformed {
        let Self { limit, bytes, .. } = self;
        Malformed::new(format!(
            "{bytes} bytes that take more than {limit} steps to put together, the limit for so many: too many pieces are at one \
             place, or cut others in two; make smaller updates, or a new document with the same content"
        ))
    }

    /// In the order of yrs: the greatest client first, and before each block what that builds on.
    fn put_in(&mut self, blocks: &[Block]) -> Result<(), Malformed> {
        let mut coming: BTreeMap<u32, Coming> = BTreeMap::new();
        let mut order = Vec::new();
        let mut start = 0;
        for of_one in blocks.chunk_by(|a, b| a.id.client == b.id.client) {
            let (first, last) = (of_one[0], of_one[of_one.len() - 1]);
            let end = last.id.clock + last.length;
            coming.insert(first.id.client, Coming { blocks: start..start + of_one.len(), end });
            order.push(first.id.client);
            start += of_one.len();
        }
        let pop = |coming: &mut BTreeMap<u32, Coming>, client| {
            coming.get_mut(&client).and_then(|coming| coming.blocks.next()).map(|index| blocks[index])
        };
        let mut stack = Vec::new();
        for current in order {
            let mut next = None;
            while let Some(block) = next.take().or_else(|| stack.pop()).or_else(|| pop(&mut coming, current)) {
                if block.content == Content::Skip {
                    continue;
                }
                match self.missing(&block, &coming, blocks) {
                    Some(client) => {
                        stack.push(block);
                        next = pop(&mut coming, client);
                    }
                    None => self.integrate(block)?,
                }
            }
        }
        Ok(())
    }

    /// A client of which something is still to come that this stands beside.
    fn missing(&self, block: &Block, coming: &BTreeMap<u32, Coming>, blocks: &[Block]) -> Option<u32> {
        [block.origin, block.right_origin].into_iter().flatten().find_map(|Id { client, clock }| {
            let of_it = coming.get(&client).filter(|_| client != block.id.client)?;
            let first = blocks.get(of_it.blocks.start).filter(|_| !of_it.blocks.is_empty())?;
            let is_known = self.clients[client as usize].next.is_some_and(|next| clock < next);
            (!is_known && first.id.clock <= clock && clock < of_it.end).then_some(client)
        })
    }

    fn integrate(&mut self, mut block: Block) -> Result<(), Malformed> {
        self.take(1)?;
        let client = &mut self.clients[block.id.client as usize];
        let known = client.next.unwrap_or(block.id.clock);
        let end = block.id.clock + block.length;
        if end <= known {
            return Ok(());
        }
        client.next = Some(end);
        if block.id.clock < known {
            block.length = end - known;
            block.id.clock = known;
            block.origin = Some(Id { clock: known - 1, ..block.id });
        }
        let mut piece = Piece {
            id: block.id,
            length: block.length,
            origin: block.origin,
            right_origin: block.right_origin,
            left: NONE,
            right: NONE,
            list: block.list,
            content: block.content,
            met: 0,
            disputed: 0,
        };
        if block.content != Content::Garbage {
            if let Some(id) = block.origin {
                piece.left = self.ending_with(id)?;
            }
            if let Some(id) = block.right_origin {
                piece.right = self.beginning_with(id)?;
            }
            self.link(&mut piece)?;
        }
        self.enter(piece);
        Ok(())
    }

    /// Puts it where it belongs.
    fn link(&mut self, piece: &mut Piece) -> Result<(), Malformed> {
        let beside = [piece.left, piece.right].into_iter().find(|beside| *beside != NONE);
        match beside {
            Some(beside) => piece.list = self.pieces[beside as usize].list,
            // What it stood beside is gone, and so is it.
            None if piece.list == NONE => {
                piece.content = Content::Garbage;
                return Ok(());
            }
            None => {}
        }
        self.place(piece)?;
        let own = self.pieces.len() as u32;
        if piece.left == NONE {
            piece.right = self.first(piece.list)?;
            if let Some(list) = self.lists.get_mut(piece.list as usize) {
                list.first = own;
            }
        } else {
            piece.right = std::mem::replace(&mut self.pieces[piece.left as usize].right, own);
        }
        if piece.right != NONE {
            self.pieces[piece.right as usize].left = own;
        }
        if let Some(list) = self.lists.get_mut(piece.list as usize) {
            list.pieces += 1;
            // Of a key the last one counts.
            if list.has_key && piece.right != NONE {
                piece.content = Content::Deleted;
            } else if list.has_key && piece.left != NONE {
                self.pieces[piece.left as usize].content = Content::Deleted;
            }
        }
        Ok(())
    }

    /// Finds out which piece it stands behind, among those that others put at the same place.
    fn place(&mut self, piece: &mut Piece) -> Result<(), Malformed> {
        let is_alone = match self.pieces.get(piece.left as usize) {
            Some(left) => left.right == piece.right,
            None => self.pieces.get(piece.right as usize).is_some_and(|right| right.left == NONE),
        };
        if is_alone {
            return Ok(());
        }
        let mut at = match self.pieces.get(piece.left as usize) {
            Some(left) => left.right,
            None => self.first(piece.list)?,
        };
        let own = self.clients[piece.id.client as usize].id;
        self.walks += 1;
        self.decisions += 1;
        while at != NONE && at != piece.right {
            self.take(1)?;
            let other = &mut self.pieces[at as usize];
            (other.met, other.disputed) = (self.walks, self.decisions);
            let other = *other;
            if other.origin == piece.origin {
                if self.clients[other.id.client as usize].id < own {
                    piece.left = at;
                    self.decisions += 1;
                } else if other.right_origin == piece.right_origin {
                    break;
                }
            } else {
                let origin = other.origin.and_then(|origin| self.find(origin));
                match origin.map(|origin| &self.pieces[origin as usize]) {
                    Some(origin) if origin.met == self.walks => {
                        if origin.disputed != self.decisions {
                            piece.left = at;
                            self.decisions += 1;
                        }
                    }
                    _ => break,
                }
            }
            at = other.right;
        }
        Ok(())
    }

    /// The first piece of a list. Where that has a key, yrs goes back to it from the last.
    fn first(&mut self, list: u32) -> Result<u32, Malformed> {
        let Some(List { first, pieces, has_key }) = self.lists.get(list as usize).copied() else {
            return Ok(NONE);
        };
        if has_key {
            self.take(pieces / KEYS_PASSED)?;
        }
        Ok(first)
    }

    /// Which piece of a client has this clock in it, or is the first one behind it: by its place among them.
    fn search(&self, Id { client, clock }: Id) -> usize {
        let of_client = &self.clients[client as usize].pieces;
        // Mostly it is the last one.
        match of_client.last().map(|last| &self.pieces[*last as usize]) {
            Some(last) if clock >= last.end() => of_client.len(),
            Some(last) if clock >= last.id.clock => of_client.len() - 1,
            _ => of_client.partition_point(|piece| self.pieces[*piece as usize].end() <= clock),
        }
    }

    fn find(&self, id: Id) -> Option<u32> {
        let number = *self.clients[id.client as usize].pieces.get(self.search(id))?;
        let piece = &self.pieces[number as usize];
        (piece.id.clock..piece.end()).contains(&id.clock).then_some(number)
    }

    fn enter(&mut self, piece: Piece) -> u32 {
        let at = self.search(piece.id);
        let number = self.pieces.len() as u32;
        self.pieces.push(piece);
        self.clients[piece.id.client as usize].pieces.insert(at, number);
        number
    }

    /// The piece that has this in it: one that stands alone where there is none.
    fn at(&mut self, id: Id) -> u32 {
        self.find(id).unwrap_or_else(|| {
            let (origin, right_origin) = (None, None);
            let (left, right, list, content) = (NONE, NONE, NONE, Content::One);
            let alone =
                Piece { id, length: 1, origin, right_origin, left, right, list, content, met: 0, disputed: 0 };
            self.enter(alone)
        })
    }

    /// The piece that ends with this, which is cut for it.
    fn ending_with(&mut self, id: Id) -> Result<u32, Malformed> {
        let number = self.at(id);
        let piece = self.pieces[number as usize];
        if piece.content == Content::Garbage {
            return Ok(NONE);
        }
        if id.clock + 1 < piece.end() {
            self.cut(number, id.clock + 1)?;
        }
        Ok(number)
    }

    /// The piece that begins with this, which is cut for it.
    fn beginning_with(&mut self, id: Id) -> Result<u32, Malformed> {
        let number = self.at(id);
        let piece = self.pieces[number as usize];
        match piece.content {
            Content::Garbage => Ok(NONE),
            _ if piece.id.clock < id.clock => self.cut(number, id.clock),
            _ => Ok(number),
        }
    }

    /// Cuts a piece before this clock. The new one is what is behind.
    fn cut(&mut self, number: u32, clock: u32) -> Result<u32, Malformed> {
        let own = self.pieces.len() as u32;
        let piece = &mut self.pieces[number as usize];
        let (before, behind) = (clock - piece.id.clock, piece.end() - clock);
        let new = Piece {
            id: Id { clock, ..piece.id },
            length: behind,
            origin: Some(Id { clock: clock - 1, ..piece.id }),
            left: number,
            ..*piece
        };
        piece.length = before;
        piece.right = own;
        if new.right != NONE {
            self.pieces[new.right as usize].left = own;
        }
        if let Some(list) = self.lists.get_mut(new.list as usize) {
            list.pieces += 1;
        }
        let copied = match new.content {
            Content::Text => u64::from(before) / UNITS_READ + u64::from(behind) / UNITS_COPIED,
            Content::Values => u64::from(before + behind) / VALUES_COPIED,
            _ => 0,
        };
        let of_client = &self.clients[new.id.client as usize].pieces;
        let moved = (of_client.len() - self.search(new.id)) as u64;
        self.take(1 + copied + moved / ENTRIES_MOVED)?;
        Ok(self.enter(new))
    }

    fn delete(&mut self, deleted: &[(u32, Range<u32>)]) -> Result<(), Malformed> {
        let mut before: Option<&(u32, Range<u32>)> = None;
        for (number, range) in deleted.iter().enumerate() {
            let (client, clocks) = range;
            let start = Id { client: *client, clock: clocks.start };
            let mut index = self.search(start);
            let is_behind = before.is_some_and(|before| before.0 == *client && before.1.start > clocks.start);
            self.take(1 + if is_behind { number as u64 / ENTRIES_MOVED } else { 0 })?;
            before = Some(range);
            let mut passed = 0;
            while let Some(number) = self.clients[*client as usize].pieces.get(index).copied() {
                let piece = self.pieces[number as usize];
                if piece.id.clock >= clocks.end {
                    break;
                }
                index += 1;
                if matches!(piece.content, Content::Deleted | Content::Garbage) {
                    passed += 1;
                    if passed == DELETED_PASSED {
                        self.take(1)?;
                        passed = 0;
                    }
                    continue;
                }
                self.take(2)?;
                if piece.id.clock < clocks.start {
                    // What is behind comes next.
                    if clocks.start < piece.end() {
                        self.cut(number, clocks.start)?;
                    }
                    continue;
                }
                if clocks.end < piece.end() {
                    self.cut(number, clocks.end)?;
                }
                self.pieces[number as usize].content = Content::Deleted;
            }
        }
        Ok(())
    }

    /// Counts what goes with the end of a transaction: pieces are joined, from the last to the first.
    pub(super) fn commit(&mut self) -> Result<(), Malformed> {
        let mut deleted = std::mem::take(&mut self.deleted);
        deleted.sort_unstable_by_key(|(client, clocks)| (*client, clocks.start));
        deleted.dedup_by(|next, last| {
            let joins = next.0 == last.0 && next.1.start <= last.1.end;
            last.1.end = if joins { last.1.end.max(next.1.end) } else { last.1.end };
            joins
        });
        for (client, clocks) in deleted.into_iter().rev() {
            let of_client = self.clients[client as usize].pieces.len();
            let end = self.search(Id { client, clock: clocks.end });
            let mut index = (end + 1).min(of_client);
            while index > 1 {
                index -= 1;
                self.join(client, index)?;
                let Some(piece) = self.clients[client as usize].pieces.get(index) else { continue };
                if self.pieces[*piece as usize].id.clock < clocks.start {
                    break;
                }
            }
        }
        for client in 0..self.clients.len() as u32 {
            let Client { next: Some(next), before, .. } = self.clients[client as usize] else { continue };
            if next > before {
                let first = self.search(Id { client, clock: before }).max(1);
                for index in (first..self.clients[client as usize].pieces.len()).rev() {
                    self.join(client, index)?;
                }
                self.clients[client as usize].before = next;
            }
        }
        Ok(())
    }

    /// Joins a piece of a client to the one before, where the two are one text, say.
    fn join(&mut self, client: u32, index: usize) -> Result<(), Malformed> {
        let of_client = &self.clients[client as usize].pieces;
        let (left, right) = (of_client[index - 1], of_client[index]);
        let behind = (of_client.len() - index) as u64;
        let (before, after) = (self.pieces[left as usize], self.pieces[right as usize]);
        let joins = before.content == after.content
            && before.end() == after.id.clock
            && match before.content {
                Content::Garbage => true,
                Content::Text | Content::Values | Content::Deleted => {
                    before.right == right
                        && after.origin == Some(Id { clock: after.id.clock - 1, client })
                        && before.right_origin == after.right_origin
                }
                _ => false,
            };
        if !joins {
            return Ok(());
        }
        let counted = match before.content {
            Content::Text => u64::from(before.length + after.length) / UNITS_READ,
            Content::Values => u64::from(after.length) / VALUES_COPIED,
            _ => 0,
        };
        self.take(1 + counted + behind / ENTRIES_MOVED)?;
        self.clients[client as usize].pieces.remove(index);
        let left_one = &mut self.pieces[left as usize];
        left_one.length += after.length;
        if before.content != Content::Garbage {
            left_one.right = after.right;
            if after.right != NONE {
                self.pieces[after.right as usize].left = left;
            }
            if let Some(list) = self.lists.get_mut(before.list as usize) {
                list.pieces -= 1;
            }
        }
        // It is in no list any more.
        self.pieces[right as usize].content = Content::Garbage;
        Ok(())
    }

    /// Counts what goes with the end of it all: the text is read with its marks.
    pub(super) fn finish(&mut self) -> Result<(), Malformed> {
        self.commit()?;
        for number in 0..self.pieces.len() {
            if self.pieces[number].left == NONE && self.pieces[number].content != Content::Garbage {
                self.read(number as u32)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, first: u32) -> Result<(), Malformed> {
        let mut in_force = BTreeSet::new();
        let mut at = first;
        while at != NONE {
            let piece = self.pieces[at as usize];
            if let Content::Mark { key, is_set } = piece.content {
                if is_set {
                    in_force.insert(key);
                } else {
                    in_force.remove(&key);
                }
                self.take(MARK_COPIED * in_force.len() as u64)?;
            }
            at = piece.right;
        }
        Ok(())
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> usize {
        self.clients.iter().map(|client| client.pieces.len()).sum()
    }

    #[cfg(test)]
    pub(super) fn steps(&self) -> (u64, u64) {
        (self.steps, self.limit)
    }
}

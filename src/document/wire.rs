//! What is said about documents, as bytes: changes, requests and answers, and whole documents.
//!
//! Everything goes through the cluster's one order. What concerns all that have a document open is said on its topic; what answers one endpoint, on a topic of
//! that endpoint. Integers are varints where nothing else is said; see docs/protocol.md.

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::EndpointId;
/// Where all documents are.
pub(crate) use crate::message::DOCUMENTS as ROOT;
use crate::message::{ANSWERS, MAX_DOCUMENT_NAME, Position, Topic};
use crate::wire::{ASK, Malformed, Reader, TARGET_BYTES, put_varint};

use super::fold::{Numbers, Taken};

/// The longest name of a type, in bytes.
const MAX_KIND: usize = 64;
/// The highest number of an update: there is always one more.
const MAX_NUMBER: u64 = 1 << 62;

/// Whether a text can name a document: 1 to 200 bytes, no `/` and no control character, so that no name is the beginning of another's topic.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_DOCUMENT_NAME).contains(&name.len())
        && !name.contains('/')
        && !name.chars().any(char::is_control)
}

/// What has to do with a document begins with this.
pub(crate) fn prefix(name: &str) -> String {
    format!("{ROOT}{name}/")
}

/// Changes, requests, and what is stored.
pub(crate) fn live_topic(name: &str) -> String {
    format!("{ROOT}{name}/f")
}

/// What is there for a while: cursors, names.
pub(crate) fn presence_topic(name: &str) -> String {
    format!("{ROOT}{name}/p")
}

/// Answers to an endpoint.
pub(crate) fn answer_topic(id: EndpointId) -> String {
    format!("{ANSWERS}{id}")
}

/// Questions for what documents there are: where a document without a name would have its topics, so that whoever takes all documents takes them, too.
/// [`Live::Ask`] of the host, and [`Live::More`].
pub(crate) const LIST_TOPIC: &str = "doc//q";

/// What a keeper says of all documents: on the topic of changes of a document without a name, [`Live::AskAgain`].
pub(crate) const KEEPER_TOPIC: &str = "doc//f";

/// What comes behind a number that began at random, and is not to be met again soon (a linear congruential generator, with Knuth's constants for 64 bits).
pub(crate) fn following(number: u64) -> u64 {
    number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// The nonces of keepers' questions have this bit, others have not: a keeper may ask for what its endpoint has open as well.
pub(crate) const KEEPERS: u64 = 1 << 63;

/// Whether it is a keeper's question that has this nonce.
pub(crate) fn is_a_keepers(nonce: u64) -> bool {
    nonce & KEEPERS != 0
}

/// The document's name in one of its own topics, and whether it is the one of changes.
pub(crate) fn name_of(topic: &Topic) -> Option<(&str, bool)> {
    let (name, rest) = topic.as_str().strip_prefix(ROOT)?.split_once('/')?;
    match rest {
        "f" if is_name(name) => Some((name, true)),
        "p" if is_name(name) => Some((name, false)),
        _ => None,
    }
}

/// A change: what one call of `update` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Update {
    /// The type of the document.
    pub(crate) kind: String,
    /// Who made it: a random number of an open document.
    pub(crate) replica: u64,
    /// 1, 2, 3 … for each replica.
    pub(crate) number: u64,
    /// The fragments, each with its length before it, as they travel: there may be as many as there are bytes.
    pub(super) fragments: Bytes,
}

/// A piece of an update or a seed that is larger than a message may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Tells what one sender cuts up apart.
    pub(crate) nonce: u64,
    pub(crate) index: u64,
    pub(crate) of: u64,
    pub(crate) bytes: Bytes,
}

/// A message on a document's topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Live {
    Update(Update),
    /// A whole document, for a cluster that has lost it.
    Seed(Bytes),
    /// Up to where a keeper has the document where it survives the keeper.
    Stored(Position),
    /// A keeper has missed something, or has just come: who has the document open is to ask for it again, and so to give what is missing.
    AskAgain,
    /// A keeper keeps the document no more, for this reason.
    GivenUp(String),
    Piece(Piece),
    /// Somebody wants the document as it is where this stands in the order.
    Ask {
        nonce: u64,
        /// Of whom; without it, of the host.
        of: Option<EndpointId>,
        /// Whoever has it is to say so.
        anyone: bool,
    },
    /// The parts before this one have come.
    More {
        nonce: u64,
        of: EndpointId,
        next: u64,
    },
}

const UPDATE: u8 = 0x01;
const SEED: u8 = 0x02;
const STORED: u8 = 0x03;
const ASK_AGAIN: u8 = 0x04;
const GIVEN_UP: u8 = 0x05;
const PIECE: u8 = 0x06;
const MORE: u8 = 0x11;

/// A message on an endpoint's topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Of the question.
    pub(crate) nonce: u64,
    pub(crate) word: Word,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// A part of the document as it was where the question stands.
    Part { index: u64, of: u64, bytes: Bytes },
    /// There is no such document.
    Empty { read_only: bool },
    /// Ask me.
    Offer,
    /// Not for you, or not at all.
    Refused(String),
    /// Ask again later.
    Busy,
}

const PART: u8 = 0x20;
const EMPTY: u8 = 0x21;
const OFFER: u8 = 0x22;
const REFUSED: u8 = 0x23;
const BUSY: u8 = 0x24;

fn put_text(bytes: &mut BytesMut, text: &str) {
    debug_assert!(text.len() <= 255);
    bytes.put_u8(text.len() as u8);
    bytes.put_slice(text.as_bytes());
}

fn put_bytes(bytes: &mut BytesMut, put: &[u8]) {
    put_varint(bytes, put.len() as u64);
    bytes.put_slice(put);
}

fn put_position(bytes: &mut BytesMut, position: Position) {
    put_varint(bytes, position.epoch);
    put_varint(bytes, position.seq);
}

/// These bytes, to be kept: a part of a window would keep all of it, which only what is larger than one has for itself.
pub(super) fn own(bytes: &Bytes) -> Bytes {
    if bytes.len() > TARGET_BYTES { bytes.clone() } else { Bytes::copy_from_slice(bytes) }
}

fn position(reader: &mut Reader<'_>) -> Result<Position, Malformed> {
    Ok(Position { epoch: reader.varint()?, seq: reader.varint()? })
}

fn some_bytes(reader: &mut Reader<'_>) -> Result<Bytes, Malformed> {
    let length = reader.length(usize::MAX, "too long")?;
    reader.bytes(length)
}

/// A text up to the end.
fn rest(bytes: &Bytes, reader: &Reader<'_>) -> Result<String, Malformed> {
    let text = std::str::from_utf8(&bytes[reader.position()..]);
    text.map(ToOwned::to_owned).map_err(|_| Malformed("text is not UTF-8"))
}

fn kind(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let kind = reader.text()?;
    if (1..=MAX_KIND).contains(&kind.len()) { Ok(kind.to_owned()) } else { Err(Malformed("no type")) }
}

impl Update {
    pub(crate) fn new<'a>(
        kind: &str,
        replica: u64,
        number: u64,
        fragments: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let mut bytes = BytesMut::new();
        fragments.into_iter().for_each(|fragment| put_bytes(&mut bytes, fragment));
        Self { kind: kind.to_owned(), replica, number, fragments: bytes.freeze() }
    }

    /// All of them apply, or none.
    pub(crate) fn fragments(&self) -> impl Iterator<Item = Bytes> {
        let mut reader = Reader::new(&self.fragments);
        // Their lengths were looked at.
        std::iter::from_fn(move || some_bytes(&mut reader).ok())
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.fragments.len() + self.kind.len() + 24);
        bytes.put_u8(UPDATE);
        put_text(&mut bytes, &self.kind);
        bytes.put_u64(self.replica);
        put_varint(&mut bytes, self.number);
        bytes.put_slice(&self.fragments);
        bytes.freeze()
    }

    fn read(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let kind = kind(reader)?;
        let (replica, number) = (reader.u64()?, reader.varint()?);
        let fragments = bytes.slice(reader.position()..);
        if replica == 0 || !(1..=MAX_NUMBER).contains(&number) || fragments.is_empty() {
            return Err(Malformed("an update of nothing, or of nobody"));
        }
        while reader.position() < bytes.len() {
            some_bytes(reader)?;
        }
        Ok(Self { kind, replica, number, fragments })
    }
}

/// An encoded update under another name.
pub(crate) fn renumbered(update: &Bytes, replica: u64, number: u64) -> Bytes {
    match Live::decode(update) {
        Ok(Live::Update(update)) => Update { replica, number, ..update }.encode(),
        // We made it ourselves.
        _ => update.clone(),
    }
}

impl Live {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        match self {
            Self::Update(update) => return update.encode(),
            Self::Seed(state) => {
                bytes.put_u8(SEED);
                bytes.put_slice(state);
            }
            Self::Stored(position) => {
                bytes.put_u8(STORED);
                put_position(&mut bytes, *position);
            }
            Self::AskAgain => bytes.put_u8(ASK_AGAIN),
            Self::GivenUp(reason) => {
                bytes.put_u8(GIVEN_UP);
                bytes.put_slice(reason.as_bytes());
            }
            Self::Piece(piece) => {
                bytes.put_u8(PIECE);
                bytes.put_u64(piece.nonce);
                put_varint(&mut bytes, piece.index);
                put_varint(&mut bytes, piece.of);
                bytes.put_slice(&piece.bytes);
            }
            Self::Ask { nonce, of, anyone } => {
                bytes.put_u8(ASK);
                bytes.put_u64(*nonce);
                bytes.put_slice(of.unwrap_or(EndpointId::NIL).as_bytes());
                bytes.put_u8(u8::from(*anyone));
            }
            Self::More { nonce, of, next } => {
                bytes.put_u8(MORE);
                bytes.put_u64(*nonce);
                bytes.put_slice(of.as_bytes());
                put_varint(&mut bytes, *next);
            }
        }
        bytes.freeze()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let live = match reader.u8()? {
            UPDATE => return Update::read(bytes, &mut reader).map(Self::Update),
            SEED => return Ok(Self::Seed(bytes.slice(1..))),
            STORED => Self::Stored(position(&mut reader)?),
            ASK_AGAIN => Self::AskAgain,
            GIVEN_UP => return Ok(Self::GivenUp(rest(bytes, &reader)?)),
            PIECE => {
                let (nonce, index, of) = (reader.u64()?, reader.varint()?, reader.varint()?);
                let bytes = bytes.slice(reader.position()..);
                return Ok(Self::Piece(Piece { nonce, index, of, bytes }));
            }
            ASK => Self::Ask {
                nonce: reader.u64()?,
                of: Some(reader.id()?).filter(|id| !id.is_nil()),
                anyone: reader.u8()? != 0,
            },
            MORE => Self::More { nonce: reader.u64()?, of: reader.id()?, next: reader.varint()? },
            _ => return Err(Malformed("unknown type")),
        };
        reader.end()?;
        Ok(live)
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(match &self.word {
            Word::Part { .. } => PART,
            Word::Empty { .. } => EMPTY,
            Word::Offer => OFFER,
            Word::Refused(_) => REFUSED,
            Word::Busy => BUSY,
        });
        bytes.put_u64(self.nonce);
        match &self.word {
            Word::Part { index, of, bytes: part } => {
                put_varint(&mut bytes, *index);
                put_varint(&mut bytes, *of);
                bytes.put_slice(part);
            }
            Word::Empty { read_only } => bytes.put_u8(u8::from(*read_only)),
            Word::Refused(reason) => bytes.put_slice(reason.as_bytes()),
            Word::Offer | Word::Busy => {}
        }
        bytes.freeze()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let (kind, nonce) = (reader.u8()?, reader.u64()?);
        let word = match kind {
            PART => {
                let (index, of) = (reader.varint()?, reader.varint()?);
                return Ok(Self {
                    nonce,
                    word: Word::Part { index, of, bytes: bytes.slice(reader.position()..) },
                });
            }
            REFUSED => {
                return Ok(Self { nonce, word: Word::Refused(rest(bytes, &reader)?) });
            }
            EMPTY => Word::Empty { read_only: reader.u8()? != 0 },
            OFFER => Word::Offer,
            BUSY => Word::Busy,
            _ => return Err(Malformed("unknown type")),
        };
        reader.end()?;
        Ok(Self { nonce, word })
    }
}

/// A record of a document: an update, where it stands and who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) origin: EndpointId,
    /// The encoded update.
    pub(crate) update: Bytes,
}

/// A document as a keeper has it and as it travels: a snapshot, and the records after it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// The type; `None` before the first update.
    pub(crate) kind: Option<String>,
    /// Up to where the snapshot goes; `None` where there is none.
    pub(crate) at: Option<Position>,
    /// What had been taken of each replica by then.
    pub(crate) numbers: Numbers,
    pub(crate) snapshot: Bytes,
    /// What comes after it.
    pub(crate) tail: Vec<Entry>,
    /// Whether whoever gets it may not change it.
    pub(crate) read_only: bool,
}

impl State {
    /// The snapshot and what belongs to it, as it is stored, without the tail.
    pub(crate) fn encode_base(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.snapshot.len() + 64 + self.numbers.len() * 40);
        self.put_base(&mut bytes);
        bytes.freeze()
    }

    fn put_base(&self, bytes: &mut BytesMut) {
        bytes.put_u8(u8::from(self.read_only));
        put_text(bytes, self.kind.as_deref().unwrap_or(""));
        put_position(bytes, self.at.unwrap_or(Position { epoch: 0, seq: 0 }));
        put_varint(bytes, self.numbers.len() as u64);
        for (origin, replica, taken) in self.numbers.iter() {
            bytes.put_u64(replica);
            bytes.put_slice(origin.as_bytes());
            put_varint(bytes, taken.number);
            put_position(bytes, taken.position);
            put_varint(bytes, taken.refused.len() as u64);
            for (first, last) in &taken.refused {
                put_varint(bytes, *first);
                put_varint(bytes, *last);
            }
        }
        put_bytes(bytes, &self.snapshot);
    }

    /// All of it.
    pub(crate) fn encode(&self) -> Bytes {
        let tail: usize = self.tail.iter().map(|entry| entry.update.len() + 48).sum();
        let mut bytes = BytesMut::with_capacity(self.snapshot.len() + tail + 64 + self.numbers.len() * 40);
        self.put_base(&mut bytes);
        for entry in &self.tail {
            put_position(&mut bytes, entry.position);
            bytes.put_slice(entry.origin.as_bytes());
            put_bytes(&mut bytes, &entry.update);
        }
        bytes.freeze()
    }

    /// Of [`encode`](Self::encode) or [`encode_base`](Self::encode_base).
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let read_only = reader.u8()? != 0;
        let kind = match reader.text()? {
            "" => None,
            text if text.len() <= MAX_KIND => Some(text.to_owned()),
            _ => return Err(Malformed("no type")),
        };
        let at = Some(position(&mut reader)?).filter(|at| at.epoch > 0);
        let mut numbers = Numbers::default();
        for _ in 0..reader.length(Numbers::MOST, "too many replicas")? {
            let (replica, origin) = (reader.u64()?, reader.id()?);
            let (number, position) = (reader.varint()?, position(&mut reader)?);
            let mut refused = Vec::new();
            let mut before = 0;
            for _ in 0..reader.length(Numbers::MOST_REFUSED, "too many refused")? {
                let (first, last) = (reader.varint()?, reader.varint()?);
                if !(before < first && first <= last && last <= number) {
                    return Err(Malformed("refused ones that are in no order"));
                }
                before = last;
                refused.push((first, last));
            }
            if !(1..=MAX_NUMBER).contains(&number) {
                return Err(Malformed("a number that is too high"));
            }
            numbers.set(origin, replica, Taken { number, position, refused });
        }
        let snapshot = some_bytes(&mut reader)?;
        let mut tail = Vec::new();
        while reader.position() < bytes.len() {
            let (position, origin) = (position(&mut reader)?, reader.id()?);
            tail.push(Entry { position, origin, update: some_bytes(&mut reader)? });
        }
        Ok(Self { kind, at, numbers, snapshot, tail, read_only })
    }
}

/// A document in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) size: u64,
}

/// A list of documents, as it travels in parts on the asker's topic. Of each document: its name and its type, each with its length in one byte before it, and
/// its size as a varint. Nothing else, and nothing at all where there is no document.
pub(crate) fn encode_list<'a>(documents: impl Iterator<Item = (&'a str, &'a str, usize)>) -> Bytes {
    let mut bytes = BytesMut::new();
    for (name, kind, size) in documents {
        put_text(&mut bytes, name);
        put_text(&mut bytes, kind);
        put_varint(&mut bytes, size as u64);
    }
    bytes.freeze()
}

pub(crate) fn decode_list(bytes: &Bytes) -> Result<Vec<Listed>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut list = Vec::new();
    while reader.position() < bytes.len() {
        let name = reader.text()?;
        if !is_name(name) {
            return Err(Malformed("no name of a document"));
        }
        let name = name.to_owned();
        list.push(Listed { name, kind: kind(&mut reader)?, size: reader.varint()? });
    }
    Ok(list)
}

/// A stored record.
pub(crate) fn encode_record(origin: EndpointId, update: &Bytes) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16 + update.len());
    bytes.put_slice(origin.as_bytes());
    bytes.put_slice(update);
    bytes.freeze()
}

pub(crate) fn decode_record(position: Position, bytes: &Bytes) -> Result<Entry, Malformed> {
    let mut reader = Reader::new(bytes);
    let origin = reader.id()?;
    Ok(Entry { position, origin, update: bytes.slice(reader.position()..) })
}

//! One file, by way of [redb](https://docs.rs/redb).

mod gate;
mod header;
mod panics;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ::redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, Table,
    TableDefinition, TableError, WriteTransaction,
};
use bytes::Bytes;

use self::gate::Gate;
use self::panics::caught;
use super::{Base, Record, Store, StoreChange, StoreError, Stored};
use crate::message::Position;

/// What says that a file of redb is one of ours: the format of it, under [`FORMAT_KEY`].
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("zincmq documents");
const FORMAT_KEY: &str = "format";
/// The format this version of the crate reads and writes. Another arrangement of the tables below is another one.
const FORMAT: u64 = 2;
/// Every document: the epoch and seq of its base, and its length.
const DOCUMENTS: TableDefinition<'_, &str, Option<(u64, u64, u64)>> = TableDefinition::new("documents");
/// The bases, in pieces: redb keeps a value in one run of pages, a power of two of them, so a large one would need much memory and leave large holes.
const BASES: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("bases");
/// Every record, by its document, epoch and seq.
const RECORDS: TableDefinition<'_, (&str, u64, u64), &[u8]> = TableDefinition::new("records");
/// How much of a base is one value: with its key it just fits into 256 KiB of pages.
const PIECE: usize = 256 * 1024 - 2048;
/// What redb may keep in memory. It has 1 GiB by default; a store is read whole once, and written to from then on.
const CACHE: usize = 16 * 1024 * 1024;
/// A file up to this size is never compacted: there is little to win.
const SMALL: u64 = 8 * 1024 * 1024;

/// Keeps documents in one file.
///
/// What a commit stored is there after `kill -9`, a crash of the machine or a loss of power at any moment, as far as the disk keeps its word. A commit is
/// one transaction in two phases, each of which is synced: first what it stores, then that it counts. Large ones do not need more memory than small ones:
/// redb keeps 16 MiB at most, beside what the changes themselves take.
///
/// # Opening
///
/// [`open`](Self::open) makes the file if there is none: whole, or not at all. One that is there it reads from end to end, with the checksums of everything
/// that counts in it, so damage shows then and not later. What was under way when the last process was killed is undone. Until the file is known to be a
/// good one of this crate, not a byte of it is changed: one that is refused is as it was. An empty file is refused, too; none of ours is ever empty, so
/// something has cut it off.
///
/// One damage is not told from a crash: that of the bit which says which of the last two commits is the newer one. The file is then as it was before the
/// last commit.
///
/// The file is locked while it is open, where the system has locks. The lock ends with the process, however that ends.
///
/// # Size
///
/// Space that changes leave free is taken by later ones; while it grows, a file doubles. What is free at its end is given back when the store is dropped. When
/// a file is opened that is larger than 8 MiB and more than half free, it is compacted, which takes about as long as to read and write what is in it.
/// Nothing compacts it while it is open.
///
/// # When something fails
///
/// After an error other than [`StoreError::OutOfOrder`] the store lets go of the file and does nothing more: open it again. What was committed before is in
/// it.
///
/// redb panics on some damage. The store catches that panic and returns [`StoreError::Damaged`], but
/// the program's panic hook runs first, and the default one prints a message to standard error.
/// [`silence_panics`](Self::silence_panics) leaves that message out. A program built with
/// `panic = "abort"` ends at the panic. The store checks the length and the header of the file before
/// redb opens it, so a file that was cut off causes no panic there.
///
/// ```
/// use zincmq::Position;
/// use zincmq::document::store::{Record, RedbStore, Store, StoreChange, StoreError};
///
/// # let directory = tempfile::tempdir()?;
/// let path = directory.path().join("documents");
/// let record = Record { position: Position { epoch: 1, seq: 1 }, bytes: "one".into() };
/// let mut store = RedbStore::open(&path)?;
/// store.commit(&[StoreChange::Append { name: "counter".into(), record: record.clone() }])?;
/// assert!(matches!(RedbStore::open(&path), Err(StoreError::InUse { .. })));
/// drop(store);
///
/// let mut store = RedbStore::open(&path)?;
/// assert_eq!(store.names()?, ["counter"]);
/// assert_eq!(store.load("counter")?.expect("it is there").records, [record]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RedbStore {
    path: PathBuf,
    gate: Gate,
    /// `None` once something has failed.
    database: Option<Database>,
}

impl RedbStore {
    /// Opens the store in this file, or makes one there. The directory must be there.
    ///
    /// # Errors
    /// [`StoreError`]: the file is none of ours, or damaged, or open already, or the system does not let us. It is as it was.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let file = match open_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create(path).map_err(|error| no_access(path, &error))?;
                open_file(path)
            }
            opened => opened,
        }
        .map_err(|error| no_access(path, &error))?;
        let foreign = |reason: &str| Err(StoreError::Foreign { path: text(path), reason: reason.into() });
        let metadata = file.metadata().map_err(|error| no_access(path, &error))?;
        if metadata.is_dir() {
            return foreign("it is a directory; give the path of a file in it");
        }
        if !metadata.is_file() {
            return foreign("it is not a regular file; give another path");
        }
        lock_file(path, &file)?;
        // Only now nobody changes it.
        let length = file.metadata().map_err(|error| no_access(path, &error))?.len();
        if length == 0 {
            return foreign(
                "it is empty, which no store is; remove it to begin a new one, or bring back a copy",
            );
        }
        let gate = Gate::on_trial(file).map_err(|error| no_access(path, &error))?;
        // A field beyond the end of the file reads as zero.
        let mut start = [0; header::LENGTH];
        let there = length.min(header::LENGTH as u64) as usize;
        gate.read(0, &mut start[..there]).map_err(|error| no_access(path, &error))?;
        if !start.starts_with(header::MAGIC) {
            return foreign(
                "it does not begin as a store of documents does; give another path, or bring back a copy",
            );
        }
        if let Some(fault) = header::fault(&start, length) {
            return Err(damaged(path, fault));
        }
        let mut store = Self { path: path.to_owned(), gate, database: None };
        store.judge()?;
        store.compact()?;
        Ok(store)
    }

    /// Installs a panic hook that prints nothing for the panics of redb that a store catches.
    ///
    /// The hook passes every other panic to the hook that was installed before it, also a panic on
    /// another thread at the same time. A store still returns [`StoreError::Damaged`], with the message
    /// of the panic. With `panic = "abort"` no panic is caught, and the hook passes on all of them.
    ///
    /// The panic hook belongs to the program, so nothing else in this crate changes it. Call this early
    /// in `main`, before a store is opened. A hook that the program installs later replaces this one
    /// unless it calls the hook before it. Every call but the first does nothing.
    ///
    /// # Panics
    /// If the thread is panicking.
    ///
    /// ```
    /// zincmq::document::store::RedbStore::silence_panics();
    /// ```
    pub fn silence_panics() {
        panics::silence();
    }

    /// Has redb verify and open the file; when it is good, what redb wrote is written.
    ///
    /// redb verifies no checksum of a file that it believes: one that was closed in order, or whose last
    /// commit was in two phases. It allocates as much memory as a damaged page of such a file says, which
    /// may be more than there is. So the header is changed, on trial, to one that redb does not believe.
    fn judge(&mut self) -> Result<(), StoreError> {
        let mut opened = None;
        let judged = caught(|| -> Result<(), Fault> {
            let mut flags = [0];
            self.gate.read(header::FLAGS, &mut flags)?;
            for (offset, bytes) in header::disbelieved(flags[0]) {
                self.gate.write(offset, &bytes)?;
            }
            let mut builder = Builder::new();
            // redb tells of this progress only when the checksums of the last commit are wrong, and goes
            // back to the commit before. That one counts only where the last one was in one phase.
            let is_last = header::is_in_two_phases(flags[0]);
            builder.set_cache_size(CACHE).set_repair_callback(move |session| {
                if is_last && (0.1..0.5).contains(&session.progress()) {
                    session.abort();
                }
            });
            // redb would make a database of a file without a byte in it: this one is not empty.
            let database = opened.insert(builder.create_with_backend(self.gate.clone())?);
            is_ours(&self.path, &database.begin_read()?)
        });
        self.database = opened;
        let error = match judged {
            Ok(Ok(())) => match self.gate.approve() {
                Ok(()) => return Ok(()),
                Err(error) => no_access(&self.path, &error),
            },
            Ok(Err(fault)) => fault.told(&self.path),
            Err(panic) => damaged(&self.path, panic),
        };
        self.give_up();
        Err(error)
    }

    /// Compacts the file if that is worth it. When that goes wrong, the file is opened once more and stays as large as it is.
    fn compact(&mut self) -> Result<(), StoreError> {
        let gate = self.gate.clone();
        let compacted = self.run(|database| {
            let length = gate.len().map_err(::redb::Error::Io)?;
            if length > SMALL {
                let transaction = database.begin_write()?;
                let stats = transaction.stats()?;
                let used = stats.allocated_pages() * stats.page_size() as u64;
                transaction.abort()?;
                if used < length / 2 {
                    database.compact()?;
                }
            }
            Ok(())
        });
        if compacted.is_err() {
            let file = open_file(&self.path).map_err(|error| no_access(&self.path, &error))?;
            lock_file(&self.path, &file)?;
            self.gate = Gate::on_trial(file).map_err(|error| no_access(&self.path, &error))?;
            self.judge()?;
        }
        Ok(())
    }

    /// Does something with the database. When it fails for another reason than the caller's mistake, that was the last thing.
    fn run<T>(&mut self, work: impl FnOnce(&mut Database) -> Result<T, Fault>) -> Result<T, StoreError> {
        let Some(database) = &mut self.database else {
            let reason = "an earlier call has failed, and the file is closed; open it again".into();
            return Err(StoreError::Io { path: text(&self.path), reason });
        };
        let error = match caught(|| work(database)) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(Fault::Refused(error))) => return Err(error),
            Ok(Err(fault)) => fault.told(&self.path),
            Err(panic) => damaged(&self.path, panic),
        };
        self.give_up();
        Err(error)
    }

    /// Closes the file, and lets redb write nothing more to it.
    fn give_up(&mut self) {
        self.gate.shut();
        let database = self.database.take();
        // It may be in a state of which redb does not think that it can be. What it has to say is of no use.
        let _ = caught(|| drop(database));
    }
}

impl Store for RedbStore {
    fn names(&mut self) -> Result<Vec<String>, StoreError> {
        self.run(|database| {
            let documents = database.begin_read()?.open_table(DOCUMENTS)?;
            documents.iter()?.map(|entry| Ok(entry?.0.value().to_owned())).collect()
        })
    }

    fn load(&mut self, name: &str) -> Result<Option<Stored>, StoreError> {
        let gate = self.gate.clone();
        self.run(|database| {
            let transaction = database.begin_read()?;
            let documents = transaction.open_table(DOCUMENTS)?;
            let Some(document) = documents.get(name)?.map(|document| document.value()) else {
                return Ok(None);
            };
            let mut stored = Stored::default();
            if let Some((epoch, seq, length)) = document {
                // What the file says is believed as far as there is as much in it.
                let room = length.min(gate.len().map_err(::redb::Error::Io)?);
                let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or(0));
                for piece in transaction.open_table(BASES)?.range((name, 0)..=(name, u32::MAX))? {
                    bytes.extend_from_slice(piece?.1.value());
                }
                if bytes.len() as u64 != length {
                    let reason =
                        format!("of the base of {name:?}, {} of {length} bytes are there", bytes.len());
                    return Err(::redb::Error::Corrupted(reason).into());
                }
                stored.base = Some(Base { position: Position { epoch, seq }, bytes: bytes.into() });
            }
            let all = (name, 0, 0)..=(name, u64::MAX, u64::MAX);
            for record in transaction.open_table(RECORDS)?.range(all)? {
                let (key, bytes) = record?;
                let (_, epoch, seq) = key.value();
                let bytes = Bytes::copy_from_slice(bytes.value());
                stored.records.push(Record { position: Position { epoch, seq }, bytes });
            }
            Ok(Some(stored))
        })
    }

    fn commit(&mut self, changes: &[StoreChange]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        self.run(|database| {
            let transaction = begin(database)?;
            let mut tables = Tables::of(&transaction)?;
            for change in changes {
                tables.apply(&path, change)?;
            }
            drop(tables);
            Ok(transaction.commit()?)
        })
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        // Everything is stored. redb notes that the file was closed in order, and gives back space at its end.
        let database = self.database.take();
        let _ = caught(|| drop(database));
        self.gate.shut();
    }
}

/// A transaction of which everything is on the disk before it counts, and before it returns.
fn begin(database: &Database) -> Result<WriteTransaction, Fault> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // In one phase, one sync would do; but then redb cannot tell a commit that was not finished from a finished one that was damaged later, and goes
    // back to the one before in silence.
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

struct Tables<'a> {
    documents: Table<'a, &'static str, Option<(u64, u64, u64)>>,
    bases: Table<'a, (&'static str, u32), &'static [u8]>,
    records: Table<'a, (&'static str, u64, u64), &'static [u8]>,
}

impl<'a> Tables<'a> {
    fn of(transaction: &'a WriteTransaction) -> Result<Self, Fault> {
        Ok(Self {
            documents: transaction.open_table(DOCUMENTS)?,
            bases: transaction.open_table(BASES)?,
            records: transaction.open_table(RECORDS)?,
        })
    }

    fn apply(&mut self, path: &Path, change: &StoreChange) -> Result<(), Fault> {
        let out_of_order = |name: &str, position, last| {
            Fault::Refused(StoreError::OutOfOrder { path: text(path), name: name.into(), position, last })
        };
        match change {
            StoreChange::Append { name, record } => {
                let Position { epoch, seq } = record.position;
                let document = self.documents.get(&**name)?.map(|document| document.value());
                let last = match self.last_record(name)? {
                    Some(last) => Some(last),
                    None => position_of(document),
                };
                if let Some(last) = last.filter(|last| record.position <= *last) {
                    return Err(out_of_order(name, record.position, last));
                }
                if document.is_none() {
                    self.documents.insert(&**name, None)?;
                }
                self.records.insert((&**name, epoch, seq), &*record.bytes)?;
            }
            StoreChange::Replace { name, base } => {
                let Position { epoch, seq } = base.position;
                let document = self.documents.get(&**name)?.map(|document| document.value());
                if let Some(last) = position_of(document).filter(|last| base.position < *last) {
                    return Err(out_of_order(name, base.position, last));
                }
                self.documents.insert(&**name, Some((epoch, seq, base.bytes.len() as u64)))?;
                self.remove_base(name)?;
                for (number, piece) in (0..).zip(base.bytes.chunks(PIECE)) {
                    self.bases.insert((&**name, number), piece)?;
                }
                self.records.retain_in((&**name, 0, 0)..=(&**name, epoch, seq), |_, _| false)?;
            }
            StoreChange::Remove { name } => {
                self.documents.remove(&**name)?;
                self.remove_base(name)?;
                self.records.retain_in((&**name, 0, 0)..=(&**name, u64::MAX, u64::MAX), |_, _| false)?;
            }
        }
        Ok(())
    }

    fn last_record(&self, name: &str) -> Result<Option<Position>, Fault> {
        let last = self.records.range((name, 0, 0)..=(name, u64::MAX, u64::MAX))?.next_back().transpose()?;
        Ok(last.map(|(key, _)| Position { epoch: key.value().1, seq: key.value().2 }))
    }

    fn remove_base(&mut self, name: &str) -> Result<(), Fault> {
        Ok(self.bases.retain_in((name, 0)..=(name, u32::MAX), |_, _| false)?)
    }
}

/// Where the base of a document is.
fn position_of(document: Option<Option<(u64, u64, u64)>>) -> Option<Position> {
    document.flatten().map(|(epoch, seq, _)| Position { epoch, seq })
}

/// Makes a store at a path where there is nothing. Either all of it is there afterwards, or none; when someone else is faster, theirs stays.
fn create(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    #[allow(clippy::disallowed_methods, reason = "for a name that no other process takes")]
    let aside = directory.join(format!(".zincmq-{}.new", uuid::Uuid::new_v4().simple()));
    let made = make(&aside).and_then(|()| match fs::hard_link(&aside, path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        // A file system without links. Between the question and the answer someone may make the file: nobody has committed anything to it yet.
        Err(_) if !path.exists() => fs::rename(&aside, path),
        Err(error) => Err(error),
    });
    // Gone already, where it was renamed.
    let _ = fs::remove_file(&aside);
    made?;
    // The name, too, is to survive the machine. Only on Unix a directory is a file that can be synced, and not on every file system.
    #[cfg(unix)]
    match File::open(directory)?.sync_all() {
        Err(error) if !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Err(error)?
        }
        _ => {}
    }
    Ok(())
}

/// Makes an empty store in a file of its own.
fn make(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    let fill = || {
        let database =
            Builder::new().set_cache_size(CACHE).create_with_backend(Gate::open(file.try_clone()?))?;
        let transaction = begin(&database)?;
        transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
        Tables::of(&transaction)?;
        Ok(transaction.commit()?)
    };
    fill().map_err(|fault: Fault| match fault {
        Fault::Redb(error) => match *error {
            ::redb::Error::Io(error) => error,
            error => io::Error::other(error),
        },
        Fault::Refused(error) => io::Error::other(error),
    })?;
    file.sync_all()
}

/// Whether this file of redb is one of ours.
fn is_ours(path: &Path, transaction: &ReadTransaction) -> Result<(), Fault> {
    let foreign = |reason| Err(Fault::Refused(StoreError::Foreign { path: text(path), reason }));
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return foreign("it is a redb database of another program; give another path".into()),
    };
    match meta.get(FORMAT_KEY)?.map(|format| format.value()) {
        Some(FORMAT) => {}
        Some(newer) => {
            return foreign(format!(
                "it is of format {newer}, and this version of zincmq knows {FORMAT}: open it with the version that \
                 made it, or a newer one"
            ));
        }
        None => return Err(::redb::Error::Corrupted("its format is missing".into()).into()),
    }
    transaction.open_table(DOCUMENTS)?;
    transaction.open_table(BASES)?;
    transaction.open_table(RECORDS)?;
    Ok(())
}

fn open_file(path: &Path) -> io::Result<File> {
    match File::options().read(true).write(true).open(path) {
        // To say what it is. Nothing is read from it.
        Err(error) if error.kind() == ErrorKind::IsADirectory => File::open(path),
        opened => opened,
    }
}

fn lock_file(path: &Path, file: &File) -> Result<(), StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: text(path) }),
        // A file system without locks: whoever has such a one must see to it that a file is opened once.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(no_access(path, &error)),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn damaged(path: &Path, reason: String) -> StoreError {
    StoreError::Damaged { path: text(path), reason }
}

fn no_access(path: &Path, error: &io::Error) -> StoreError {
    let reason = match error.kind() {
        ErrorKind::NotFound => format!("its directory is not there, make it first ({error})"),
        ErrorKind::PermissionDenied => {
            format!("this process may not read and write it, or make it; see to the permissions ({error})")
        }
        _ => error.to_string(),
    };
    StoreError::Io { path: text(path), reason }
}

/// Why something did not work.
enum Fault {
    /// We do not do it. The database is as it was.
    Refused(StoreError),
    /// redb cannot do it.
    Redb(Box<::redb::Error>),
}

impl<E> From<E> for Fault
where
    ::redb::Error: From<E>,
{
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

impl Fault {
    /// As the store tells it.
    fn told(self, path: &Path) -> StoreError {
        use ::redb::Error;
        let error = match self {
            Self::Refused(error) => return error,
            Self::Redb(error) => *error,
        };
        match error {
            Error::DatabaseAlreadyOpen => StoreError::InUse { path: text(path) },
            Error::UpgradeRequired(format) => StoreError::Foreign {
                path: text(path),
                reason: format!(
                    "it is of format {format} of redb, which is older than any store; give another path"
                ),
            },
            Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
                damaged(path, "it ends before something that it refers to".to_owned())
            }
            Error::Io(error) if error.kind() == ErrorKind::InvalidData => damaged(path, error.to_string()),
            Error::Io(error) => no_access(path, &error),
            Error::Corrupted(reason) => damaged(path, reason),
            Error::RepairAborted => damaged(path, "its checksums do not match what is in it".to_owned()),
            error @ (Error::TableTypeMismatch { .. }
            | Error::TableIsMultimap(_)
            | Error::TableIsNotMultimap(_)
            | Error::TypeDefinitionChanged { .. }
            | Error::TableDoesNotExist(_)
            | Error::LockPoisoned(_)) => damaged(path, error.to_string()),
            error => StoreError::Io { path: text(path), reason: error.to_string() },
        }
    }
}

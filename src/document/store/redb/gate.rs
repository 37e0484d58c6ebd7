//! The file under redb. redb writes as it opens a file, also one that turns out to be no good: here that is held back until the file is found to be
//! good, and once something is wrong with it, nothing is written any more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex};

use ::redb::StorageBackend;

use crate::sync::lock;

/// In what pieces the trial keeps what was written. redb writes little while it opens a file: its header, which is in the first.
const BLOCK: u64 = 4096;

/// The file, for redb, and for the store that looks after both. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    state: Arc<Mutex<State>>,
    /// What reaches the file, for those who want to know what is in it when the power fails.
    #[cfg(test)]
    pub(super) watched: Arc<Mutex<Option<Vec<Step>>>>,
}

#[derive(Debug)]
enum State {
    /// What is written is seen by who reads, and is not in the file.
    Trial(File, Trial),
    Open(File),
    /// The file is closed, and its lock is free.
    Shut,
}

#[derive(Debug, Default)]
struct Trial {
    /// What was written, in order.
    journal: Vec<Step>,
    /// The blocks it was written to, as they are now, by their number.
    blocks: BTreeMap<u64, Vec<u8>>,
    length: u64,
    /// How much of the file shows: what was cut off does not come back.
    shown: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

impl Gate {
    fn new(state: State) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
            #[cfg(test)]
            watched: Arc::default(),
        }
    }

    /// Holds back what is written.
    pub(super) fn on_trial(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let trial = Trial { length, shown: length, ..Trial::default() };
        Ok(Self::new(State::Trial(file, trial)))
    }

    /// Lets everything through.
    pub(super) fn open(file: File) -> Self {
        Self::new(State::Open(file))
    }

    /// The file is good: writes what was held back, in its order, which is one that survives a crash at any point, and lets everything through
    /// from now on. When that fails, the gate is shut.
    pub(super) fn approve(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        let (file, trial) = match std::mem::replace(&mut *state, State::Shut) {
            State::Trial(file, trial) => (file, trial),
            other => {
                *state = other;
                return Ok(());
            }
        };
        for step in trial.journal {
            match step {
                Step::Write(offset, data) => write_at(&file, offset, &data)?,
                Step::Length(length) => file.set_len(length)?,
                Step::Sync => file.sync_data()?,
            }
        }
        *state = State::Open(file);
        Ok(())
    }

    #[cfg_attr(not(test), allow(clippy::unused_self, reason = "only tests watch"))]
    fn note(&self, _step: impl FnOnce() -> Step) {
        #[cfg(test)]
        if let Some(steps) = &mut *lock(&self.watched) {
            steps.push(_step());
        }
    }

    /// Lets nothing through from now on, forgets what was held back, and closes the file.
    pub(super) fn shut(&self) {
        *lock(&self.state) = State::Shut;
    }
}

fn shut() -> io::Error {
    io::Error::other("the file is closed")
}

// Seeking first, every system has, and redb is used by one thread here.
fn read_at(mut file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(out)
}

fn write_at(mut file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(data)
}

impl Trial {
    fn read(&self, file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.length);
        let end = end.ok_or(ErrorKind::UnexpectedEof)?;
        let shown = self.shown.clamp(offset, end) - offset;
        let (in_file, behind) = out.split_at_mut(shown as usize);
        read_at(file, offset, in_file)?;
        behind.fill(0);
        for (number, block) in self.blocks.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let start = number * BLOCK;
            let (from, to) = (offset.max(start), end.min(start + BLOCK));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&block[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn write(&mut self, file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= self.length);
        let end = end.ok_or(ErrorKind::UnexpectedEof)?;
        for number in offset / BLOCK..end.div_ceil(BLOCK) {
            let start = number * BLOCK;
            let mut block = vec![0; BLOCK as usize];
            let there = BLOCK.min(self.length - start) as usize;
            self.read(file, start, &mut block[..there])?;
            let (from, to) = (offset.max(start), end.min(start + BLOCK));
            block[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            self.blocks.insert(number, block);
        }
        self.journal.push(Step::Write(offset, data.to_vec()));
        Ok(())
    }

    fn set_length(&mut self, length: u64) {
        self.shown = self.shown.min(length);
        self.blocks.split_off(&length.div_ceil(BLOCK));
        if let Some(last) = self.blocks.get_mut(&(length / BLOCK)) {
            last[(length % BLOCK) as usize..].fill(0);
        }
        self.length = length;
        self.journal.push(Step::Length(length));
    }
}

impl StorageBackend for Gate {
    fn len(&self) -> io::Result<u64> {
        match &*lock(&self.state) {
            State::Trial(_, trial) => Ok(trial.length),
            State::Open(file) => Ok(file.metadata()?.len()),
            State::Shut => Err(shut()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*lock(&self.state) {
            State::Trial(file, trial) => trial.read(file, offset, out),
            State::Open(file) => read_at(file, offset, out),
            State::Shut => Err(shut()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match &mut *lock(&self.state) {
            State::Trial(_, trial) => {
                trial.set_length(len);
                Ok(())
            }
            State::Open(file) => {
                self.note(|| Step::Length(len));
                file.set_len(len)
            }
            State::Shut => Err(shut()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match &mut *lock(&self.state) {
            State::Trial(_, trial) => {
                trial.journal.push(Step::Sync);
                Ok(())
            }
            State::Open(file) => {
                self.note(|| Step::Sync);
                file.sync_data()
            }
            State::Shut => Err(shut()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &mut *lock(&self.state) {
            State::Trial(file, trial) => trial.write(file, offset, data),
            State::Open(file) => {
                self.note(|| Step::Write(offset, data.to_vec()));
                write_at(file, offset, data)
            }
            State::Shut => Err(shut()),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.shut();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::Dice;
    use super::*;

    fn contents(gate: &Gate) -> Vec<u8> {
        let mut all = vec![0; gate.len().expect("open") as usize];
        gate.read(0, &mut all).expect("all of it");
        all
    }

    #[test]
    fn a_file_on_trial_reads_as_if_it_were_written_and_changes_when_it_is_approved() {
        for seed in 0..50 {
            let mut dice = Dice(seed);
            let mut model: Vec<u8> = (0..9_000).map(|i| (i % 251) as u8 + 1).collect();
            let original = model.clone();
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), &model).expect("written");
            let reopened = File::options().read(true).write(true).open(file.path()).expect("there");
            let gate = Gate::on_trial(reopened).expect("there");
            for step in 0..30 {
                if dice.below(4) == 0 {
                    let length = dice.below(20_000);
                    gate.set_len(length).expect("open");
                    model.resize(length as usize, 0);
                } else if !model.is_empty() {
                    let start = dice.below(model.len() as u64) as usize;
                    let end = start + dice.below((model.len() - start) as u64 + 1) as usize;
                    gate.write(start as u64, &vec![step; end - start]).expect("within");
                    model[start..end].fill(step);
                }
                gate.sync_data().expect("open");
                assert_eq!(contents(&gate), model, "seed {seed}");
            }
            assert!(gate.read(1, &mut vec![0; model.len()]).is_err(), "beyond the end");
            assert_eq!(std::fs::read(file.path()).expect("there"), original);
            gate.approve().expect("room");
            assert_eq!(std::fs::read(file.path()).expect("there"), model, "seed {seed}");
            gate.shut();
            assert!(gate.write(0, b"x").is_err() && gate.len().is_err());
        }
    }
}

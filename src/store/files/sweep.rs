//! Removes stored files that no record names: what a crash left between the storage and the database.

use super::unnamed::{COUNT_MAX, Unnamed};
use super::{FilePath, Storage, journal, table, unnamed};
use crate::base::clock::DAY_MS;
use crate::base::error::{Error, Kind, Result};
use crate::base::threads::Stop;
use crate::base::{clock, log};
use crate::store::db::Databases;

/// Deletions that are noted in the journal at a time.
const NOTED_AT_A_TIME: usize = 500;
/// How long a file has to have been without a row before it goes. Its database may be missing a part that
/// comes back: an older copy was put in place, or the wrong one.
const PATIENCE_MS: i64 = DAY_MS;

/// What was found.
#[derive(Default)]
pub struct Swept {
    pub deleted: usize,
    /// Without a row, and not yet for so long.
    pub waiting: usize,
    /// One of those that were not found before.
    pub new: Option<FilePath>,
}

struct Sweep<'a> {
    databases: &'a Databases,
    storage: &'a Storage,
    before_ms: i64,
    now_ms: i64,
    known: Unnamed,
    /// What is known from now on.
    kept: Unnamed,
    swept: Swept,
    /// Deleted, and not noted in the journal.
    gone: Vec<FilePath>,
}

/// Removes files that have been without a row for [`PATIENCE_MS`], that were written before this moment
/// (milliseconds since 1970) and that no request is about to name.
pub fn run(databases: &Databases, storage: &Storage, before_ms: i64, stop: &Stop) -> Result<Swept> {
    let mut sweep = Sweep {
        databases,
        storage,
        before_ms,
        now_ms: clock::now_ms(),
        known: unnamed::load(databases.local())?,
        kept: Unnamed::new(),
        swept: Swept::default(),
        gone: Vec::new(),
    };
    let walked = storage.walk(&mut |path, written_ms| match stop.is_set() {
        true => Err(Error::unavailable("The server stops.")),
        false => sweep.look(path, written_ms),
    });
    sweep.note()?;
    walked?;
    if sweep.kept != sweep.known {
        unnamed::save(databases.local(), sweep.kept)?;
    }
    Ok(sweep.swept)
}

impl Sweep<'_> {
    fn look(&mut self, path: FilePath, written_ms: i64) -> Result<()> {
        // In this order: whoever has placed it keeps it only after its row is there.
        let is_wanted = written_ms >= self.before_ms
            || self.storage.is_placing(&path)
            || is_named(self.databases, &path)?;
        if is_wanted {
            return Ok(());
        }
        let name = path.to_string();
        let found_ms = self.known.get(&name).copied();
        // A clock that was ahead then begins the wait again.
        let found_ms = found_ms.filter(|found_ms| *found_ms <= self.now_ms);
        if found_ms.is_none_or(|found_ms| self.now_ms - found_ms < PATIENCE_MS) {
            self.wait(path, name, found_ms);
            return Ok(());
        }
        log::debug(format_args!("file {path} belongs to no record; deleted"));
        self.storage.remove(&path)?;
        self.swept.deleted += 1;
        self.gone.push(path);
        match self.gone.len() < NOTED_AT_A_TIME {
            true => Ok(()),
            false => self.note(),
        }
    }

    fn wait(&mut self, path: FilePath, name: String, found_ms: Option<i64>) {
        self.swept.waiting += 1;
        if self.kept.len() < COUNT_MAX {
            self.kept.insert(name, found_ms.unwrap_or(self.now_ms));
        }
        if found_ms.is_none() {
            self.swept.new.get_or_insert(path);
        }
    }

    /// Replicas may have them: a database may have been put back to before them.
    fn note(&mut self) -> Result<()> {
        let gone = std::mem::take(&mut self.gone);
        if gone.is_empty() || !self.storage.has_journal() {
            return Ok(());
        }
        self.databases.default().write(move |tx| {
            let entries = gone.iter().map(|path| (path, "delete", 0, ""));
            journal::write(tx, entries)
        })
    }
}

/// The files of a database that is not there stay: it may come back.
fn is_named(databases: &Databases, path: &FilePath) -> Result<bool> {
    let database = match databases.get(&path.database) {
        Ok(database) => database,
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => return Ok(true),
        Err(error) => return Err(error),
    };
    let found = database
        .read(|connection| table::find(connection, &path.collection, &path.record, &path.name))?;
    Ok(found.is_some())
}

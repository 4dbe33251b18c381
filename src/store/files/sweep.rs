//! Deletes orphans: stored files that no record names, which a crash can leave behind.
//!
//! `local.db` remembers orphans and when each was first found.

use std::collections::BTreeMap;

use super::{FilePath, Storage, journal, table};
use crate::base::clock::DAY_MS;
use crate::base::error::{Error, Kind, Result};
use crate::base::threads::Stop;
use crate::base::{clock, log};
use crate::store::db::{Database, Databases};

/// Deletions written to the journal at a time.
const JOURNAL_BATCH: usize = 500;
/// Time that a file has to be an orphan before it is deleted. Its row may come back, if an older
/// copy of the database, or the wrong one, was put in place.
const GRACE_MS: i64 = DAY_MS;
/// Orphans remembered; further ones wait until these are deleted.
const ORPHANS_MAX: usize = 10_000;

/// Paths, and when each was first found, in milliseconds since 1970.
pub type Orphans = BTreeMap<String, i64>;

/// The result of a sweep.
#[derive(Default)]
pub struct SweepResult {
    pub deleted: usize,
    /// Orphans that are younger than [`GRACE_MS`].
    pub waiting: usize,
    /// One that was found for the first time.
    pub new: Option<FilePath>,
}

struct Sweep<'a> {
    databases: &'a Databases,
    storage: &'a Storage,
    before_ms: i64,
    now_ms: i64,
    known: Orphans,
    /// Orphans to remember for the next sweep.
    kept: Orphans,
    result: SweepResult,
    /// Deleted, and not yet written to the journal.
    gone: Vec<FilePath>,
}

/// Deletes files that have been orphans for [`GRACE_MS`], were written before `before_ms`
/// (milliseconds since 1970) and are not staged by a request.
pub fn run(
    databases: &Databases,
    storage: &Storage,
    before_ms: i64,
    stop: &Stop,
) -> Result<SweepResult> {
    let mut sweep = Sweep {
        databases,
        storage,
        before_ms,
        now_ms: clock::now_ms(),
        known: orphans(databases.local())?,
        kept: Orphans::new(),
        result: SweepResult::default(),
        gone: Vec::new(),
    };
    let walked = storage.walk(&mut |path, written_ms| match stop.is_set() {
        true => Err(Error::unavailable("The server is stopping.")),
        false => sweep.visit(path, written_ms),
    });
    sweep.write_journal()?;
    walked?;
    if sweep.kept != sweep.known {
        save_orphans(databases.local(), sweep.kept)?;
    }
    Ok(sweep.result)
}

impl Sweep<'_> {
    fn visit(&mut self, path: FilePath, written_ms: i64) -> Result<()> {
        // In this order: a request unstages a file only after its row is committed.
        let is_wanted = written_ms >= self.before_ms
            || self.storage.is_staged(&path)
            || is_named(self.databases, &path)?;
        if is_wanted {
            return Ok(());
        }
        let name = path.to_string();
        let found_ms = self.known.get(&name).copied();
        // If the clock was ahead at that time, the wait starts again.
        let found_ms = found_ms.filter(|found_ms| *found_ms <= self.now_ms);
        if found_ms.is_none_or(|found_ms| self.now_ms - found_ms < GRACE_MS) {
            self.wait(path, name, found_ms);
            return Ok(());
        }
        log::debug(format_args!("file {path} belongs to no record; deleted"));
        self.storage.remove(&path)?;
        self.result.deleted += 1;
        self.gone.push(path);
        match self.gone.len() < JOURNAL_BATCH {
            true => Ok(()),
            false => self.write_journal(),
        }
    }

    fn wait(&mut self, path: FilePath, name: String, found_ms: Option<i64>) {
        self.result.waiting += 1;
        if self.kept.len() < ORPHANS_MAX {
            self.kept.insert(name, found_ms.unwrap_or(self.now_ms));
        }
        if found_ms.is_none() {
            self.result.new.get_or_insert(path);
        }
    }

    /// Tells replicas of deleted orphans: they may have them, if the database was put back to an
    /// earlier state.
    fn write_journal(&mut self) -> Result<()> {
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

/// True if a row names the file. The files of a missing database stay, since it may come back.
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

/// The orphans that the last sweep found.
pub fn orphans(local: &Database) -> Result<Orphans> {
    local.read(|connection| {
        let mut statement = connection.prepare_cached("SELECT path, found_ms FROM _unnamed")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<Orphans>>()?)
    })
}

/// Replaces the remembered orphans.
fn save_orphans(local: &Database, unnamed: Orphans) -> Result<()> {
    local.write(move |tx| {
        tx.execute("DELETE FROM _unnamed", [])?;
        let sql = "INSERT INTO _unnamed (path, found_ms) VALUES (?1, ?2)";
        let mut statement = tx.prepare_cached(sql)?;
        for (path, found_ms) in &unnamed {
            statement.execute((path, found_ms))?;
        }
        Ok(())
    })
}

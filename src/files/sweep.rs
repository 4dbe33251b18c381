//! Removes stored files that no record names: what a crash left between the storage and the database.

use super::FilePath;
use super::Storage;
use super::journal;
use super::table;
use crate::db::Databases;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::log;
use crate::threads::Stop;

/// Deletions that are noted in the journal at a time.
const NOTED_AT_A_TIME: usize = 500;

/// Removes files without a row that were written before this moment (milliseconds since 1970) and that
/// no request is about to name. Returns how many went.
pub fn run(databases: &Databases, storage: &Storage, before_ms: i64, stop: &Stop) -> Result<usize> {
    let (mut count, mut gone) = (0, Vec::new());
    let walked = storage.walk(&mut |path, written_ms| {
        if stop.is_set() {
            return Err(Error::unavailable("The server stops."));
        }
        // In this order: whoever has placed it keeps it only after its row is there.
        let is_wanted =
            written_ms >= before_ms || storage.is_placing(&path) || is_named(databases, &path)?;
        if !is_wanted {
            log::debug(format_args!("file {path} belongs to no record; deleted"));
            storage.remove(&path)?;
            gone.push(path);
            count += 1;
        }
        if gone.len() >= NOTED_AT_A_TIME {
            note(databases, storage, std::mem::take(&mut gone))?;
        }
        Ok(())
    });
    note(databases, storage, gone)?;
    walked.map(|()| count)
}

/// Replicas may have them: a database may have been put back to before them.
fn note(databases: &Databases, storage: &Storage, gone: Vec<FilePath>) -> Result<()> {
    if gone.is_empty() || !storage.has_journal() {
        return Ok(());
    }
    databases.default().write(move |tx| {
        let entries = gone.iter().map(|path| (path, "delete", 0, ""));
        journal::write(tx, entries)
    })
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

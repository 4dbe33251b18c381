//! What is still to be done about files that came or went: the notes of `_file_outbox`.
//!
//! A note is written in the transaction of the record, so it is there if and only if the change is. One
//! thread works through the notes of a database in their order: files that went are deleted, both kinds
//! are copied to the journal, then the notes are deleted. After a crash in between the same is done once
//! more: deleting is idempotent, and a repeated stretch of the journal ends where the first ended.

use std::sync::Arc;

use rusqlite::Connection;

use super::storage::Storage;
use super::{FilePath, journal};
use crate::base::error::Result;
use crate::base::threads::Stop;
use crate::store::db::{Database, Databases};

/// Notes that are worked on at a time.
const BATCH: i64 = 500;

/// One note.
struct Note {
    id: i64,
    is_deletion: bool,
    path: FilePath,
    size: i64,
    sha256: String,
}

/// Works through all notes of one database.
pub fn empty(databases: &Databases, storage: &Storage, name: &str, stop: &Stop) -> Result<()> {
    while !stop.is_set() {
        // Anew each time: somebody may want to delete it.
        let database = databases.get(name)?;
        let notes = read(&database, name)?;
        let Some(last) = notes.last().map(|note| note.id) else {
            return Ok(());
        };
        for note in notes.iter().filter(|note| note.is_deletion) {
            if stop.is_set() {
                return Ok(());
            }
            storage.remove(&note.path)?;
        }
        let default = databases.default();
        if storage.has_journal() && !Arc::ptr_eq(&database, default) {
            // Two files: first the one that may be written twice.
            default.write(move |tx| write_journal(tx, &notes))?;
            database.write(move |tx| forget(tx, last))?;
            continue;
        }
        let has_journal = storage.has_journal();
        database.write(move |tx| {
            if has_journal {
                write_journal(tx, &notes)?;
            }
            forget(tx, last)
        })?;
    }
    Ok(())
}

fn forget(tx: &Connection, last: i64) -> Result<()> {
    tx.prepare_cached("DELETE FROM _file_outbox WHERE id <= ?1")?
        .execute([last])?;
    Ok(())
}

fn read(database: &Arc<Database>, name: &str) -> Result<Vec<Note>> {
    database.read(|connection| {
        let mut statement = connection.prepare_cached(
            "SELECT id, op, collection, record, name, size, sha256
             FROM _file_outbox ORDER BY id LIMIT ?1",
        )?;
        let notes = statement.query_map([BATCH], |row| {
            Ok(Note {
                id: row.get(0)?,
                is_deletion: row.get::<_, String>(1)? == "delete",
                path: FilePath {
                    database: name.to_owned(),
                    collection: row.get(2)?,
                    record: row.get(3)?,
                    name: row.get(4)?,
                },
                size: row.get(5)?,
                sha256: row.get(6)?,
            })
        })?;
        Ok(notes.collect::<rusqlite::Result<_>>()?)
    })
}

fn write_journal(tx: &Connection, notes: &[Note]) -> Result<()> {
    let entries = notes.iter().map(|note| {
        let op = if note.is_deletion { "delete" } else { "add" };
        (&note.path, op, note.size, note.sha256.as_str())
    });
    journal::write(tx, entries)
}

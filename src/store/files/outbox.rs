//! The outbox of file changes that the storage and the journal have yet to follow: the table
//! `_file_outbox`.
//!
//! A row is written in the transaction of the record, so it exists if and only if the change does.
//! One thread processes the rows of a database in order: it deletes the files of deletions, copies
//! all rows to the journal, then deletes the rows. After a crash it repeats the batch: deleting a
//! file is idempotent, and repeated journal entries leave replicas in the same state.

use std::sync::Arc;

use rusqlite::Connection;

use super::storage::Storage;
use super::{FilePath, journal};
use crate::base::error::Result;
use crate::base::threads::Stop;
use crate::store::db::{Database, Databases};

/// Rows processed at a time.
const BATCH: i64 = 500;

struct Row {
    id: i64,
    is_deletion: bool,
    path: FilePath,
    size: i64,
    sha256: String,
}

/// Processes all rows of one database.
pub fn process(databases: &Databases, storage: &Storage, name: &str, stop: &Stop) -> Result<()> {
    while !stop.is_set() {
        // Looked up each time, so that the database can be deleted in between.
        let database = databases.get(name)?;
        let rows = read(&database, name)?;
        let Some(last) = rows.last().map(|row| row.id) else {
            return Ok(());
        };
        for row in rows.iter().filter(|row| row.is_deletion) {
            if stop.is_set() {
                return Ok(());
            }
            storage.remove(&row.path)?;
        }
        let default = databases.default();
        if storage.has_journal() && !Arc::ptr_eq(&database, default) {
            // Two files cannot commit together; the journal comes first, since repeating its
            // entries is harmless.
            default.write(move |tx| write_journal(tx, &rows))?;
            database.write(move |tx| delete_until(tx, last))?;
            continue;
        }
        let has_journal = storage.has_journal();
        database.write(move |tx| {
            if has_journal {
                write_journal(tx, &rows)?;
            }
            delete_until(tx, last)
        })?;
    }
    Ok(())
}

fn delete_until(tx: &Connection, last: i64) -> Result<()> {
    tx.prepare_cached("DELETE FROM _file_outbox WHERE id <= ?1")?
        .execute([last])?;
    Ok(())
}

fn read(database: &Arc<Database>, name: &str) -> Result<Vec<Row>> {
    database.read(|connection| {
        let mut statement = connection.prepare_cached(
            "SELECT id, op, collection, record, name, size, sha256
             FROM _file_outbox ORDER BY id LIMIT ?1",
        )?;
        let rows = statement.query_map([BATCH], |r| {
            Ok(Row {
                id: r.get(0)?,
                is_deletion: r.get::<_, String>(1)? == "delete",
                path: FilePath {
                    database: name.to_owned(),
                    collection: r.get(2)?,
                    record: r.get(3)?,
                    name: r.get(4)?,
                },
                size: r.get(5)?,
                sha256: r.get(6)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    })
}

fn write_journal(tx: &Connection, rows: &[Row]) -> Result<()> {
    let entries = rows.iter().map(|row| {
        let op = if row.is_deletion { "delete" } else { "add" };
        (&row.path, op, row.size, row.sha256.as_str())
    });
    journal::write(tx, entries)
}

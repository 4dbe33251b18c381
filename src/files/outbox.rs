//! What is still to be done about files that came or went: the notes of `_file_outbox`.
//!
//! A note is written in the transaction of the record, so it is there if and only if the change is. One
//! thread works through the notes of a database in their order: files that went are deleted, both kinds
//! are copied to the journal, then the notes are deleted. After a crash in between the same is done once
//! more: deleting is idempotent, and a repeated stretch of the journal ends where the first ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::params;

use super::FilePath;
use super::Local;
use crate::clock;
use crate::db::Database;
use crate::db::Databases;
use crate::error::Result;
use crate::log;
use crate::threads::Stop;
use crate::threads::lock;
use crate::threads::wait_timeout;

/// Notes that are worked on at a time.
const BATCH: i64 = 500;
/// Pause after a failure, and between looks for what was missed.
const PAUSE: Duration = Duration::from_secs(30);

/// Databases whose outboxes are to be looked at.
#[derive(Default)]
pub struct Signal {
    names: Mutex<BTreeSet<String>>,
    changed: Condvar,
}

impl Signal {
    /// There is something new in the outbox of this database.
    pub fn notify(&self, database: &str) {
        lock(&self.names).insert(database.to_owned());
        self.changed.notify_one();
    }

    /// Wakes the thread that waits, to see that it shall stop.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    fn wait(&self) -> BTreeSet<String> {
        let mut names = lock(&self.names);
        if names.is_empty() {
            names = wait_timeout(&self.changed, names, PAUSE);
        }
        std::mem::take(&mut *names)
    }
}

/// One note.
struct Note {
    id: i64,
    is_deletion: bool,
    path: FilePath,
    size: i64,
    sha256: String,
}

/// Empties the outboxes that are signalled, until it is stopped.
pub fn run(databases: &Databases, local: &Local, signal: &Signal, stop: &Stop) {
    while !stop.is_set() {
        for name in signal.wait() {
            if let Err(error) = empty(databases, local, &name, stop) {
                log::warn(format_args!("files of database {name}: {error}"));
                signal.notify(&name);
                stop.wait(PAUSE);
            }
        }
    }
}

/// Works through all notes of one database.
pub fn empty(databases: &Databases, local: &Local, name: &str, stop: &Stop) -> Result<()> {
    let database = databases.get(name)?;
    while !stop.is_set() {
        let notes = read(&database, name)?;
        let Some(last) = notes.last().map(|note| note.id) else {
            return Ok(());
        };
        for note in notes.iter().filter(|note| note.is_deletion) {
            local.remove(&note.path)?;
        }
        write_journal(databases.default(), notes)?;
        database.write(move |tx| {
            tx.prepare_cached("DELETE FROM _file_outbox WHERE id <= ?1")?
                .execute([last])?;
            Ok(())
        })?;
    }
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

fn write_journal(default: &Arc<Database>, notes: Vec<Note>) -> Result<()> {
    default.write(move |tx| {
        let now = clock::now();
        let mut statement = tx.prepare_cached(
            "INSERT INTO _file_journal (path, op, size, sha256, created)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for note in &notes {
            let op = if note.is_deletion { "delete" } else { "add" };
            let path = note.path.to_string();
            statement.execute(params![path, op, note.size, note.sha256, now])?;
        }
        Ok(())
    })
}

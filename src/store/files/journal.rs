//! The journal of files in `default.db`: additions and deletions, in order, for replicas to follow.
//!
//! Ids are contiguous, so a replica whose next entry was deleted sees the gap, and fetches the
//! manifest instead, the list of all files. It does the same when the epoch changes: the journal is
//! no longer the one that the replica followed, since a whole database was added or removed, or
//! `default.db` was put back to an earlier state. To detect the latter, the last entry sent to any
//! replica is saved in `local.db` before it is sent. The set of databases is saved too, to detect
//! those added or removed while no server ran.

use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::path::FilePath;
use super::table;
use super::table::StoredFile;
use crate::base::clock::DAY_MS;
use crate::base::error::{Kind, Result};
use crate::base::threads::lock;
use crate::base::{clock, crypto, ids, log};
use crate::store::db::{Database, Databases};
use crate::store::node;
use crate::store::replicas::Replicas;

/// Entries in one response, and files in one page of the manifest.
pub const PAGE: usize = 1000;
/// Entries that one transaction deletes, so that other writes run in between.
const DELETE_BATCH: i64 = 5000;
/// Settings in `local.db`.
const EPOCH: &str = "files_epoch";
const ANNOUNCED: &str = "files_told";
const DATABASES: &str = "files_databases";
/// The time of the last [`Journal::delete_expired_when_due`].
const EXPIRED: &str = "files_cleaned";

/// The journal of a master with local storage.
pub struct Journal {
    default: Arc<Database>,
    local: Arc<Database>,
    epoch: Mutex<String>,
    /// The last entry that a replica may know.
    announced: Mutex<i64>,
}

/// An entry: a file was added or deleted.
#[derive(Debug, Serialize)]
pub struct FileChange {
    pub id: i64,
    /// `add` or `delete`.
    pub op: String,
    pub path: String,
    pub size: i64,
    pub sha256: String,
    pub created: String,
}

/// A page of the journal.
#[derive(Debug)]
pub struct FileJournalPage {
    /// The oldest entry that is kept; `last + 1` if there is none.
    pub oldest: i64,
    /// The last entry ever written.
    pub last: i64,
    pub entries: Vec<FileChange>,
}

/// Makes the next server that opens the journal begin an epoch: the data was put back to an earlier
/// state, and replicas may have followed a different continuation.
pub fn forget_epoch(local: &Database) -> Result<()> {
    node::save_setting(local, EPOCH, String::new())
}

/// A hash of the names of all databases.
fn fingerprint(databases: &Databases) -> Result<String> {
    let mut names = databases.list()?;
    names.sort();
    Ok(ids::hex(&crypto::sha256(names.join("\n").as_bytes())))
}

impl Journal {
    /// Opens the journal. It begins an epoch if replicas may know entries that no longer exist, or
    /// may not know a database.
    pub fn open(databases: &Databases, replicas: &Replicas) -> Result<Journal> {
        let (default, local) = (databases.default(), databases.local());
        let announced = node::setting(local, ANNOUNCED)?.and_then(|text| text.parse().ok());
        let announced: i64 = announced.unwrap_or(0);
        let journal = Journal {
            default: Arc::clone(default),
            local: Arc::clone(local),
            epoch: Mutex::new(node::setting(local, EPOCH)?.unwrap_or_default()),
            announced: Mutex::new(announced),
        };
        let present = fingerprint(databases)?;
        let known = node::setting(local, DATABASES)?;
        if journal.epoch().is_empty() || announced > default.read(last)? {
            *lock(&journal.announced) = 0;
            node::save_setting(local, ANNOUNCED, "0".to_owned())?;
            journal.begin_epoch(replicas)?;
        } else if known.is_some_and(|known| known != present) {
            journal.begin_epoch(replicas)?;
        }
        node::save_setting(local, DATABASES, present)?;
        Ok(journal)
    }

    /// Saves the set of databases that replicas know by now, through an epoch or from the start.
    pub fn save_databases(&self, databases: &Databases) -> Result<()> {
        node::save_setting(&self.local, DATABASES, fingerprint(databases)?)
    }

    /// The random id of this journal.
    pub fn epoch(&self) -> String {
        lock(&self.epoch).clone()
    }

    /// Begins another epoch, so that replicas fetch the manifest: files were added or deleted
    /// without an entry.
    pub fn begin_epoch(&self, replicas: &Replicas) -> Result<()> {
        replicas.forget_acknowledgements()?;
        let epoch = ids::hex(&ids::random_bytes::<16>()?);
        node::save_setting(&self.local, EPOCH, epoch.clone())?;
        *lock(&self.epoch) = epoch;
        Ok(())
    }

    /// The entries after this one, at most [`PAGE`]; none if some of them were deleted, or if this
    /// entry never existed.
    pub fn since(&self, since: i64) -> Result<Option<FileJournalPage>> {
        let page = self.default.snapshot(|connection| {
            let last = last(connection)?;
            let sql = "SELECT min(id) FROM _file_journal";
            let oldest: Option<i64> = connection.query_row(sql, [], |row| row.get(0))?;
            let oldest = oldest.unwrap_or(last + 1);
            if since < oldest - 1 || since > last {
                return Ok(None);
            }
            Ok(Some(FileJournalPage {
                oldest,
                last,
                entries: entries(connection, since)?,
            }))
        })?;
        if let Some(page) = &page {
            self.save_announced(page.last)?;
        }
        Ok(page)
    }

    /// The last entry ever written; a replica that fetches the manifest continues after it.
    pub fn last(&self) -> Result<i64> {
        let last = self.default.read(last)?;
        self.save_announced(last)?;
        Ok(last)
    }

    fn save_announced(&self, last: i64) -> Result<()> {
        let mut announced = lock(&self.announced);
        if last > *announced {
            node::save_setting(&self.local, ANNOUNCED, last.to_string())?;
            *announced = last;
        }
        Ok(())
    }

    /// Deletes the entries up to this one, which all replicas have. Returns their number.
    pub fn delete_until(&self, id: i64) -> Result<usize> {
        let mut count = 0;
        loop {
            let deleted = self.default.write(move |tx| {
                let sql = "DELETE FROM _file_journal WHERE id IN
                           (SELECT id FROM _file_journal WHERE id <= ?1 ORDER BY id LIMIT ?2)";
                Ok(tx.prepare_cached(sql)?.execute([id, DELETE_BATCH])?)
            })?;
            count += deleted;
            if deleted == 0 {
                return Ok(count);
            }
        }
    }

    /// Deletes the entries written before this time, even if a replica lacks them.
    pub fn delete_before(&self, moment: &str) -> Result<usize> {
        let newest: Option<i64> = self.default.read(|connection| {
            let sql = "SELECT max(id) FROM _file_journal WHERE created < ?1";
            Ok(connection.query_row(sql, [moment], |row| row.get(0))?)
        })?;
        newest.map_or(Ok(0), |id| self.delete_until(id))
    }

    /// Deletes entries and replicas that are older than `retention_ms`, once a day.
    pub fn delete_expired_when_due(&self, replicas: &Replicas, retention_ms: i64) -> Result<()> {
        let now_ms = clock::now_ms();
        let done = node::setting(&self.local, EXPIRED)?;
        let done = done.and_then(|text| clock::parse_datetime(&text));
        // A time in the future was written while the clock was wrong.
        if done.is_some_and(|done_ms| (0..DAY_MS).contains(&(now_ms - done_ms))) {
            return Ok(());
        }
        let before_ms = now_ms - retention_ms;
        let entries = self.delete_before(&clock::format_ms(before_ms))?;
        let replicas = replicas.delete_before(before_ms)?;
        node::save_setting(&self.local, EXPIRED, clock::format_ms(now_ms))?;
        if entries + replicas > 0 {
            log::info(format_args!(
                "cleaned up journal_entries={entries} replicas={replicas}"
            ));
        }
        Ok(())
    }
}

/// Adds entries in this order.
pub fn write<'a>(
    tx: &Connection,
    entries: impl Iterator<Item = (&'a FilePath, &'static str, i64, &'a str)>,
) -> Result<()> {
    let now = clock::now();
    let mut statement = tx.prepare_cached(
        "INSERT INTO _file_journal (path, op, size, sha256, created) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (path, op, size, sha256) in entries {
        statement.execute(params![path.to_string(), op, size, sha256, now])?;
    }
    Ok(())
}

/// All files after this one, in the order of their paths; at most [`PAGE`].
pub fn manifest(
    databases: &Databases,
    after: Option<&FilePath>,
) -> Result<Vec<(FilePath, StoredFile)>> {
    let mut names = databases.list()?;
    names.sort();
    let mut found: Vec<(FilePath, StoredFile)> = Vec::new();
    for name in names {
        let after = after.filter(|after| after.database >= name);
        if after.is_some_and(|after| after.database > name) {
            continue;
        }
        let database = match databases.get(&name) {
            Ok(database) => database,
            // It was deleted meanwhile.
            Err(error) if error.kind() == Kind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let room = PAGE - found.len();
        found.extend(database.read(|it| table::list(it, &name, after, room))?);
        if found.len() >= PAGE {
            break;
        }
    }
    Ok(found)
}

/// The id of the last entry ever written.
pub fn last(connection: &Connection) -> Result<i64> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = '_file_journal'";
    let found = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(0))
}

fn entries(connection: &Connection, since: i64) -> Result<Vec<FileChange>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, op, path, size, sha256, created
         FROM _file_journal WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
    let rows = statement.query_map([since, limit], |row| {
        Ok(FileChange {
            id: row.get(0)?,
            op: row.get(1)?,
            path: row.get(2)?,
            size: row.get(3)?,
            sha256: row.get(4)?,
            created: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

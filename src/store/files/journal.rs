//! The journal of files in `default.db`: what came and went, in order, for replicas to follow (FR-2).
//!
//! Ids are contiguous, so a replica that asks from where nothing is kept any more is told so (a
//! gap) and takes the manifest instead, the list of all files there are. The same when
//! the epoch is another one: the journal is no longer the one that the replica has followed, since
//! a whole database came or went, or `default.db` was put back to an earlier state. To notice the latter,
//! the last entry that any replica was told of is noted in `local.db` before it is told; and the databases
//! there were, for those that came or went while no server ran.

use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::table::Stored;
use super::{FilePath, table};
use crate::base::error::{Kind, Result};
use crate::base::threads::lock;
use crate::base::{clock, crypto, ids};
use crate::store::db::{Database, Databases};
use crate::store::node;
use crate::store::replicas::Replicas;

/// Entries in one answer, and files in one part of the manifest.
pub const PAGE: usize = 1000;
/// Entries that one transaction deletes: others write in between.
const DELETED_AT_A_TIME: i64 = 5000;
/// Facts in `local.db`.
const EPOCH: &str = "files_epoch";
const TOLD: &str = "files_told";
const DATABASES: &str = "files_databases";

/// The journal of a master with local storage.
pub struct Journal {
    default: Arc<Database>,
    local: Arc<Database>,
    epoch: Mutex<String>,
    /// The last entry that a replica may know of.
    told: Mutex<i64>,
}

/// A file that came or went.
#[derive(Debug, Serialize)]
pub struct Entry {
    pub id: i64,
    /// `add` or `delete`.
    pub op: String,
    pub path: String,
    pub size: i64,
    pub sha256: String,
    pub created: String,
}

/// A stretch of the journal.
#[derive(Debug)]
pub struct Stretch {
    /// The first entry that is kept; behind the last one when none is.
    pub oldest: i64,
    /// The last entry that there ever was.
    pub last: i64,
    pub entries: Vec<Entry>,
}

/// Lets the next server that opens it begin an epoch: the data was put back to an earlier state, of which
/// replicas may have followed another continuation.
pub fn forget_epoch(local: &Database) -> Result<()> {
    node::set_fact(local, EPOCH, String::new())
}

/// Tells which databases there are from others.
fn fingerprint(databases: &Databases) -> Result<String> {
    let mut names = databases.list()?;
    names.sort();
    Ok(ids::hex(&crypto::sha256(names.join("\n").as_bytes())))
}

impl Journal {
    /// Opens the journal; begins an epoch if replicas may know of entries that are not there, or not know
    /// of a database that is.
    pub fn open(databases: &Databases, replicas: &Replicas) -> Result<Journal> {
        let (default, local) = (databases.default(), databases.local());
        let told = node::fact(local, TOLD)?.and_then(|text| text.parse().ok());
        let told: i64 = told.unwrap_or(0);
        let journal = Journal {
            default: Arc::clone(default),
            local: Arc::clone(local),
            epoch: Mutex::new(node::fact(local, EPOCH)?.unwrap_or_default()),
            told: Mutex::new(told),
        };
        let there = fingerprint(databases)?;
        let known = node::fact(local, DATABASES)?;
        if journal.epoch().is_empty() || told > default.read(last)? {
            *lock(&journal.told) = 0;
            node::set_fact(local, TOLD, "0".to_owned())?;
            journal.begin_epoch(replicas)?;
        } else if known.is_some_and(|known| known != there) {
            journal.begin_epoch(replicas)?;
        }
        node::set_fact(local, DATABASES, there)?;
        Ok(journal)
    }

    /// Replicas know of these databases: they came by an epoch, or are those that there were at the start.
    pub fn note_databases(&self, databases: &Databases) -> Result<()> {
        node::set_fact(&self.local, DATABASES, fingerprint(databases)?)
    }

    /// Which journal it is; random.
    pub fn epoch(&self) -> String {
        lock(&self.epoch).clone()
    }

    /// From now on it is another one: replicas shall take the manifest, since files came or went that it
    /// does not tell of.
    pub fn begin_epoch(&self, replicas: &Replicas) -> Result<()> {
        replicas.forget_acknowledgements()?;
        let epoch = ids::hex(&ids::random_bytes::<16>()?);
        node::set_fact(&self.local, EPOCH, epoch.clone())?;
        *lock(&self.epoch) = epoch;
        Ok(())
    }

    /// The entries that follow this one, at most [`PAGE`]; none when some of them are not kept, or when
    /// there never was such an entry.
    pub fn since(&self, since: i64) -> Result<Option<Stretch>> {
        let stretch = self.default.snapshot(|connection| {
            let last = last(connection)?;
            let sql = "SELECT min(id) FROM _file_journal";
            let oldest: Option<i64> = connection.query_row(sql, [], |row| row.get(0))?;
            let oldest = oldest.unwrap_or(last + 1);
            if since < oldest - 1 || since > last {
                return Ok(None);
            }
            Ok(Some(Stretch {
                oldest,
                last,
                entries: entries(connection, since)?,
            }))
        })?;
        if let Some(stretch) = &stretch {
            self.note_told(stretch.last)?;
        }
        Ok(stretch)
    }

    /// The last entry that there ever was; whoever takes the manifest from now on goes on behind it.
    pub fn last(&self) -> Result<i64> {
        let last = self.default.read(last)?;
        self.note_told(last)?;
        Ok(last)
    }

    fn note_told(&self, last: i64) -> Result<()> {
        let mut told = lock(&self.told);
        if last > *told {
            node::set_fact(&self.local, TOLD, last.to_string())?;
            *told = last;
        }
        Ok(())
    }

    /// Deletes the entries up to this one; all replicas have followed them (FR-7). Returns how many.
    pub fn forget_until(&self, id: i64) -> Result<usize> {
        let mut count = 0;
        loop {
            let deleted = self.default.write(move |tx| {
                let sql = "DELETE FROM _file_journal WHERE id IN
                           (SELECT id FROM _file_journal WHERE id <= ?1 ORDER BY id LIMIT ?2)";
                Ok(tx.prepare_cached(sql)?.execute([id, DELETED_AT_A_TIME])?)
            })?;
            count += deleted;
            if deleted == 0 {
                return Ok(count);
            }
        }
    }

    /// Deletes the entries written before this moment, whoever has followed them (FR-8).
    pub fn forget_before(&self, moment: &str) -> Result<usize> {
        let newest: Option<i64> = self.default.read(|connection| {
            let sql = "SELECT max(id) FROM _file_journal WHERE created < ?1";
            Ok(connection.query_row(sql, [moment], |row| row.get(0))?)
        })?;
        newest.map_or(Ok(0), |id| self.forget_until(id))
    }
}

/// Adds what came or went, in this order.
pub fn write<'a>(
    tx: &Connection,
    notes: impl Iterator<Item = (&'a FilePath, &'static str, i64, &'a str)>,
) -> Result<()> {
    let now = clock::now();
    let mut statement = tx.prepare_cached(
        "INSERT INTO _file_journal (path, op, size, sha256, created) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (path, op, size, sha256) in notes {
        statement.execute(params![path.to_string(), op, size, sha256, now])?;
    }
    Ok(())
}

/// All files there are, sorted by the parts of their paths, after this one; at most [`PAGE`].
pub fn manifest(
    databases: &Databases,
    after: Option<&FilePath>,
) -> Result<Vec<(FilePath, Stored)>> {
    let mut names = databases.list()?;
    names.sort();
    let mut found: Vec<(FilePath, Stored)> = Vec::new();
    for name in names {
        let after = after.filter(|after| after.database >= name);
        if after.is_some_and(|after| after.database > name) {
            continue;
        }
        let database = match databases.get(&name) {
            Ok(database) => database,
            // It was deleted just now.
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

/// The id of the last entry that was ever written.
pub fn last(connection: &Connection) -> Result<i64> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = '_file_journal'";
    let found = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(0))
}

fn entries(connection: &Connection, since: i64) -> Result<Vec<Entry>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, op, path, size, sha256, created
         FROM _file_journal WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
    let rows = statement.query_map([since, limit], |row| {
        Ok(Entry {
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

//! Writes pages into a database of a replica, as one transaction beside its readers.
//!
//! The file is attached to an empty connection and is never its main database. Otherwise SQLite
//! would prepare the statement again when page 1 changes, and read a schema that is half written.
//! Pages are written through SQLite's pager like those of any transaction: readers see the state
//! before or after it, and a crash leaves either state.
//!
//! A connection is used for one transaction; its cached schema is wrong afterwards.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::types::Null;
use rusqlite::{Connection, OpenFlags, params};

use super::connection::{BUSY_WAIT, WAL_BYTES_KEPT, distrust_schema};
use crate::base::error::{Error, Result, ResultExt as _};

/// The name of the attached file.
const FILE: &str = "file";
/// Page cache, in KiB; further pages are written to the WAL before the commit.
const CACHE_KIB: i64 = 8_000;
/// Values of `PRAGMA auto_vacuum`: at every commit, and on demand.
const AUTO_VACUUM_FULL: i64 = 1;
const AUTO_VACUUM_INCREMENTAL: i64 = 2;

/// A transaction of pages; dropping it rolls back.
pub struct PageWriter {
    connection: Connection,
    page_size: u32,
    pages_before: u32,
}

impl PageWriter {
    /// Begins a transaction on an existing file.
    pub fn begin(path: &Path) -> Result<PageWriter> {
        let connection = attach(path).context(format!("attach {}", path.display()))?;
        connection.execute_batch("PRAGMA writable_schema = ON")?;
        for (name, value) in [
            ("cache_size", -CACHE_KIB),
            // The caller runs checkpoints.
            ("wal_autocheckpoint", 0),
            ("journal_size_limit", WAL_BYTES_KEPT),
        ] {
            connection.pragma_update(Some(FILE), name, value)?;
        }
        // After a power cut the file may be older than the saved position; its hashes will show it.
        connection.pragma_update(Some(FILE), "synchronous", "NORMAL")?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let number = |name| -> rusqlite::Result<i64> {
            connection.pragma_query_value(Some(FILE), name, |row| row.get(0))
        };
        if number("auto_vacuum")? == AUTO_VACUUM_FULL {
            // The commit would vacuum by the old state, among pages of the new one. This pragma
            // changes page 1, which the page of the master overwrites.
            connection.pragma_update(Some(FILE), "auto_vacuum", AUTO_VACUUM_INCREMENTAL)?;
        }
        let (page_size, pages) = (number("page_size")?, number("page_count")?);
        Ok(PageWriter {
            page_size: u32::try_from(page_size).unwrap_or(0),
            pages_before: u32::try_from(pages).unwrap_or(0),
            connection,
        })
    }

    /// True if SQLite was built with the required virtual table.
    pub fn is_supported() -> Result<bool> {
        let sql = "SELECT sqlite_compileoption_used('ENABLE_DBPAGE_VTAB')";
        Ok(open_memory()?.query_row(sql, [], |row| row.get(0))?)
    }

    /// Page size of the present file, in bytes.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Writes one page. Page 1 must be the last.
    pub fn write(&self, number: u32, page: &[u8]) -> Result<()> {
        self.insert(number, Some(page))
            .context(format!("write page {number}"))
    }

    /// Commits a database of `pages` pages; durable after the next sync of the WAL.
    pub fn commit(&self, pages: u32) -> Result<()> {
        if pages < self.pages_before {
            // Last: writing a page afterwards would undo the truncation.
            self.insert(pages + 1, None).context("truncate the file")?;
        }
        self.connection.execute_batch("COMMIT").context("commit")
    }

    fn insert(&self, number: u32, page: Option<&[u8]>) -> Result<()> {
        let sql = "INSERT INTO sqlite_dbpage (pgno, data, schema) VALUES (?1, ?2, ?3)";
        let mut statement = self.connection.prepare_cached(sql)?;
        match page {
            Some(page) => statement.execute(params![number, page, FILE])?,
            None => statement.execute(params![number, Null, FILE])?,
        };
        Ok(())
    }
}

impl Drop for PageWriter {
    fn drop(&mut self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

/// Attaches the file. It must have the text encoding of the main database, which has to be set
/// first.
fn attach(path: &Path) -> Result<Connection> {
    let path = path
        .to_str()
        .ok_or_else(|| Error::internal("the path of the data directory is not UTF-8"))?;
    let mut refusal = None;
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        let connection = open_memory()?;
        connection.pragma_update(None, "encoding", encoding)?;
        let attached = connection.execute(&format!("ATTACH ?1 AS {FILE}"), [path]);
        // SQLite reads the schema, and with it the encoding, at the first use.
        let attached = attached.and_then(|_| {
            let sql = format!("SELECT count(*) FROM {FILE}.sqlite_schema");
            connection.query_row(&sql, [], |_| Ok(()))
        });
        match attached {
            Ok(()) => return Ok(connection),
            Err(error) if error.to_string().contains("encoding") => refusal = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(refusal.map_or_else(|| Error::internal("no encoding"), Error::from))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens files to write their pages"
)]
fn open_memory() -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(":memory:", flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    distrust_schema(&connection)?;
    // The defensive mode forbids writing pages.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    Ok(connection)
}

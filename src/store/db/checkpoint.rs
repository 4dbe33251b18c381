//! Checkpoints: they copy the write-ahead log (WAL) into the database file, on the writer's thread
//! between commits.
//!
//! By default SQLite tries after every commit once the WAL has 1,000 pages. While readers overlap
//! without end the WAL cannot restart, and every commit pays for an attempt, with two fsyncs. Here
//! an attempt is made once per [`PAGES_PER_TRY`] pages of growth. Above [`PAGES_TO_INSIST`] it
//! waits for the readers of the old part of the WAL to end, so that the WAL restarts; new readers
//! do not prolong the wait, since they find everything in the file. The wait grows with the WAL
//! ([`restart_timeout`]): the WAL stays near [`PAGES_TO_INSIST`] pages while queries are short, and
//! within a few times that size when slow ones overlap all the time. Only another program can make
//! it grow further. When nothing is committed for a minute, its disk space is freed.

use std::time::Duration;

use rusqlite::Connection;

use crate::base::error::{Result, ResultExt as _};

/// Growth of the WAL between two attempts, in pages (of 4 KiB).
const PAGES_PER_TRY: i64 = 1_000;
/// Size of the WAL above which an attempt waits for readers, in pages.
const PAGES_TO_INSIST: i64 = 8_000;
/// Time that such an attempt holds up writers at this size.
const INSIST_WAIT: Duration = Duration::from_millis(250);

/// Decides when the next checkpoint of a file is due.
#[derive(Default)]
pub struct Checkpoints {
    /// Size of the WAL at the last attempt, in pages.
    tried: i64,
    /// Something was committed since [`Checkpoints::now`].
    has_grown: bool,
    /// The WAL is empty, unless something was committed since.
    is_truncated: bool,
}

impl Checkpoints {
    /// Runs a checkpoint if one is due after a commit. `pages` is the present size of the WAL.
    pub fn after_commit(
        &mut self,
        connection: &Connection,
        pages: i64,
        busy_wait: Duration,
    ) -> Result<()> {
        self.has_grown = true;
        if pages < self.tried {
            // The WAL has restarted.
            self.tried = 0;
        }
        if pages - self.tried < PAGES_PER_TRY {
            return Ok(());
        }
        self.tried = pages;
        if pages < PAGES_TO_INSIST {
            return wal_pages(connection, "PRAGMA wal_checkpoint(PASSIVE)").map(drop);
        }
        connection.busy_timeout(restart_timeout(pages).min(busy_wait))?;
        let result = wal_pages(connection, "PRAGMA wal_checkpoint(RESTART)");
        connection.busy_timeout(busy_wait)?;
        result.map(drop)
    }

    /// Copies as much as readers allow without waiting. If nothing was committed since the last
    /// call and no reader uses the WAL, its disk space is freed.
    pub fn now(&mut self, connection: &Connection, busy_wait: Duration) -> Result<()> {
        if std::mem::take(&mut self.has_grown) {
            self.tried = wal_pages(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
            self.is_truncated = false;
        } else if !self.is_truncated {
            connection.busy_timeout(Duration::ZERO)?;
            let result = truncate_wal(connection);
            connection.busy_timeout(busy_wait)?;
            self.is_truncated = result?;
        }
        Ok(())
    }
}

/// The time to wait for the readers of a WAL of this size: four times as long at twice the size.
fn restart_timeout(pages: i64) -> Duration {
    let ratio = pages as f64 / PAGES_TO_INSIST as f64;
    INSIST_WAIT.mul_f64((ratio * ratio).clamp(1.0, 1000.0))
}

/// Copies everything and truncates the WAL; false when another user of the WAL prevents it.
pub fn truncate_wal(connection: &Connection) -> Result<bool> {
    let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
    let busy: i64 = connection
        .query_row(sql, [], |row| row.get(0))
        .context("checkpoint")?;
    Ok(busy == 0)
}

/// Runs a checkpoint; returns the pages in the WAL (0 when it is empty).
pub fn wal_pages(connection: &Connection, sql: &str) -> Result<i64> {
    let pages: i64 = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(1))
        .context("checkpoint")?;
    Ok(pages.max(0))
}

//! Folding the log (WAL) into the database file, on the writer's own thread between commits.
//!
//! SQLite by itself tries after every commit once the log has 1,000 pages. While readers overlap
//! without end the log can then not start over, and every commit pays for a try, with two fsyncs.
//! Here a try comes once per [`PAGES_PER_TRY`] pages of growth; above [`PAGES_TO_INSIST`] it waits
//! for the readers of the old part to end, so that the log starts over. New readers do not prolong
//! that: they find everything in the file. It waits longer the larger the log is ([`patience`]), so
//! the log stays near [`PAGES_TO_INSIST`] pages while queries are short, and within a few times that
//! when slow ones overlap all the time. Only another program can make it grow beyond.

use std::time::Duration;

use rusqlite::Connection;

use crate::base::error::{Result, ResultExt as _};

/// Growth of the log between two tries, pages (of 4 KiB).
const PAGES_PER_TRY: i64 = 1_000;
/// Size of the log above which readers are waited for, pages.
const PAGES_TO_INSIST: i64 = 8_000;
/// How long writers are held up for that at this size.
const INSIST_WAIT: Duration = Duration::from_millis(250);

/// When the next try is due.
#[derive(Default)]
pub struct Checkpoints {
    /// Size of the log at the last try, pages.
    tried: i64,
    /// The same after the last commit.
    seen: i64,
}

impl Checkpoints {
    /// Folds the log in after a commit when that is due, now that it has this many pages.
    pub fn after_commit(
        &mut self,
        connection: &Connection,
        pages: i64,
        busy_wait: Duration,
    ) -> Result<()> {
        self.seen = pages;
        if pages < self.tried {
            // It has started over.
            self.tried = 0;
        }
        if pages - self.tried < PAGES_PER_TRY {
            return Ok(());
        }
        self.tried = pages;
        if pages < PAGES_TO_INSIST {
            return log_pages(connection, "PRAGMA wal_checkpoint(PASSIVE)").map(drop);
        }
        connection.busy_timeout(patience(pages).min(busy_wait))?;
        let result = log_pages(connection, "PRAGMA wal_checkpoint(RESTART)");
        connection.busy_timeout(busy_wait)?;
        result.map(drop)
    }

    /// Pages in the log after the last commit.
    pub fn seen(&self) -> i64 {
        self.seen
    }

    /// Folds in what there is, as far as readers allow it without waiting.
    pub fn now(&mut self, connection: &Connection) -> Result<()> {
        self.tried = log_pages(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
        Ok(())
    }
}

/// How long a try to let a log of this size start over waits: four times as long when it is twice
/// as large.
fn patience(pages: i64) -> Duration {
    let ratio = pages as f64 / PAGES_TO_INSIST as f64;
    INSIST_WAIT.mul_f64((ratio * ratio).clamp(1.0, 1000.0))
}

/// Folds in everything and empties the log; false when another user of the log prevents it.
pub fn fold(connection: &Connection) -> Result<bool> {
    let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
    let busy: i64 = connection
        .query_row(sql, [], |row| row.get(0))
        .context("checkpoint")?;
    Ok(busy == 0)
}

/// Runs a checkpoint; returns the pages in the log (0 when it is empty).
pub fn log_pages(connection: &Connection, sql: &str) -> Result<i64> {
    let pages: i64 = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(1))
        .context("checkpoint")?;
    Ok(pages.max(0))
}

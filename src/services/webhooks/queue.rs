//! The rows of `_webhook_logs` as the engine reads and writes them.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::core::{Head, Outcome, Verdict};
use crate::base::clock::DAY_MS;
use crate::base::error::Result;
use crate::model::triggers::Target;

/// Hosts whose rows are looked at, those that are due first.
const HOSTS: i64 = 256;
/// Rows of one host; more than can be under way, so that there is always a next one.
const PER_HOST: i64 = 16;
/// Rows that are counted; beyond that it is many.
pub const COUNT_MAX: i64 = 10_000;

/// The soonest rows of each host. Costs some look-ups per host, however many rows wait.
pub fn look(db: &Connection) -> Result<Vec<Head>> {
    let mut statement = db.prepare_cached(
        "WITH RECURSIVE hosts (host) AS (
             SELECT min(host) FROM _webhook_logs WHERE status = 'pending'
             UNION ALL
             SELECT (SELECT min(host) FROM _webhook_logs
                     WHERE status = 'pending' AND host > hosts.host)
             FROM hosts WHERE hosts.host IS NOT NULL
         )
         SELECT host, (SELECT min(due_ms) FROM _webhook_logs
                       WHERE status = 'pending' AND host = hosts.host) AS due
         FROM hosts WHERE host IS NOT NULL ORDER BY due, host LIMIT ?1",
    )?;
    let hosts = statement.query_map([HOSTS], |row| row.get(0))?;
    let hosts: Vec<String> = hosts.collect::<rusqlite::Result<_>>()?;
    let mut statement = db.prepare_cached(
        "SELECT id, due_ms, created_ms FROM _webhook_logs
         WHERE status = 'pending' AND host = ?1 ORDER BY due_ms, id LIMIT ?2",
    )?;
    let mut heads = Vec::new();
    for host in hosts {
        let rows = statement.query_map(params![host, PER_HOST], |row| {
            Ok(Head {
                id: row.get(0)?,
                host: host.clone(),
                due_ms: row.get(1)?,
                created_ms: row.get(2)?,
            })
        })?;
        heads.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    Ok(heads)
}

/// How many rows wait, up to [`COUNT_MAX`].
pub fn count(db: &Connection) -> Result<u64> {
    let count: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM _webhook_logs WHERE status = 'pending' LIMIT ?1)",
        )?
        .query_row([COUNT_MAX], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Whether there ever was a call that is still known.
pub fn has_rows(db: &Connection) -> Result<bool> {
    let found = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM _webhook_logs)")?
        .query_row([], |row| row.get(0))?;
    Ok(found)
}

/// A row that is to be sent.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: i64,
    pub collection: String,
    pub record: String,
    /// None: it cannot be read.
    pub target: Option<Target>,
    pub payload: String,
    /// Attempts that were made.
    pub attempts: u32,
    pub created_ms: i64,
}

/// A row that still waits.
pub fn load(db: &Connection, id: i64, created_ms: i64) -> Result<Option<Row>> {
    let row = db
        .prepare_cached(
            "SELECT collection, record, spec, payload, attempts
             FROM _webhook_logs WHERE id = ?1 AND created_ms = ?2 AND status = 'pending'",
        )?
        .query_row([id, created_ms], |row| {
            let spec: String = row.get(2)?;
            Ok(Row {
                id,
                collection: row.get(0)?,
                record: row.get(1)?,
                target: Target::restore(&spec).ok(),
                payload: row.get(3)?,
                attempts: row.get(4)?,
                created_ms,
            })
        });
    Ok(row.optional()?)
}

/// What a row is told.
#[derive(Clone, Debug)]
pub struct Written {
    pub id: i64,
    pub created_ms: i64,
    pub verdict: Verdict,
}

/// Writes what came of an attempt. A row of the same number in another database of the same name stays as
/// it is.
pub fn write(tx: &Connection, written: &Written, now_ms: i64) -> Result<()> {
    let Verdict {
        outcome,
        attempts,
        due_ms,
        code,
        error,
        answer,
    } = &written.verdict;
    tx.prepare_cached(
        "UPDATE _webhook_logs SET status = ?1, attempts = ?2, due_ms = ?3, code = ?4, error = ?5,
             answer = ?6, updated_ms = ?7
         WHERE id = ?8 AND created_ms = ?9 AND status = 'pending' AND attempts = ?2 - 1",
    )?
    .execute(params![
        outcome.name(),
        attempts,
        due_ms,
        code,
        error,
        answer,
        now_ms,
        written.id,
        written.created_ms,
    ])?;
    Ok(())
}

/// Rows that are deleted at a time.
const BIT: i64 = 500;

/// What is kept of calls that have ended: for how long, and how many.
const KEPT: [(Outcome, i64, i64); 2] = [
    (Outcome::Success, 7 * DAY_MS, 10_000),
    (Outcome::Failed, 30 * DAY_MS, 100_000),
];

/// What is old or too much: of which outcome, and what was written when or before.
pub fn excess(db: &Connection, now_ms: i64) -> Result<Vec<(Outcome, i64)>> {
    let mut found = Vec::new();
    for (outcome, age_ms, most) in KEPT {
        // The part about pending rows is what lets SQLite use the index.
        let last: Option<i64> = db
            .prepare_cached(
                "SELECT updated_ms FROM _webhook_logs WHERE status <> 'pending' AND status = ?1
                 ORDER BY updated_ms DESC LIMIT 1 OFFSET ?2",
            )?
            .query_row(params![outcome.name(), most], |row| row.get(0))
            .optional()?;
        let until = last.unwrap_or(0).max(now_ms - age_ms);
        let exists = db
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM _webhook_logs
                     WHERE status <> 'pending' AND status = ?1 AND updated_ms <= ?2)",
            )?
            .query_row(params![outcome.name(), until], |row| row.get(0))?;
        if exists {
            found.push((outcome, until));
        }
    }
    Ok(found)
}

/// Deletes some of it; whether there may be more.
pub fn delete(tx: &Connection, outcome: Outcome, until_ms: i64) -> Result<bool> {
    let deleted = tx
        .prepare_cached(
            "DELETE FROM _webhook_logs WHERE id IN (
                 SELECT id FROM _webhook_logs
                 WHERE status <> 'pending' AND status = ?1 AND updated_ms <= ?2
                 ORDER BY updated_ms LIMIT ?3)",
        )?
        .execute(params![outcome.name(), until_ms, BIT])?;
    Ok(deleted == usize::try_from(BIT).unwrap_or(0))
}

//! The rows of `_webhook_logs` as the dispatcher reads and writes them.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::core::{CallOutcome, CallState, PendingCall};
use crate::base::clock::DAY_MS;
use crate::base::error::Result;
use crate::model::triggers::{Target, changes};

/// Limit on hosts per read, earliest due first.
const HOSTS: i64 = 256;
/// Rows per host; more than can be in flight, so that one always follows.
const PER_HOST: i64 = 16;
/// Limit of the count.
pub const COUNT_MAX: i64 = 10_000;

/// The earliest due rows of each host. The cost is a few lookups per host, however many rows are
/// pending.
pub fn next_calls(db: &Connection) -> Result<Vec<PendingCall>> {
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
    let mut calls = Vec::new();
    for host in hosts {
        let rows = statement.query_map(params![host, PER_HOST], |row| {
            Ok(PendingCall {
                id: row.get(0)?,
                host: host.clone(),
                due_ms: row.get(1)?,
                created_ms: row.get(2)?,
            })
        })?;
        calls.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    Ok(calls)
}

/// The number of pending rows and of calls that are not queued yet, each up to [`COUNT_MAX`].
pub fn count_pending(db: &Connection) -> Result<u64> {
    let count_pending: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM _webhook_logs WHERE status = 'pending' LIMIT ?1)",
        )?
        .query_row([COUNT_MAX], |row| row.get(0))?;
    Ok(count_pending.unsigned_abs() + changes::count_calls(db, COUNT_MAX)?)
}

/// Reports whether there is any row, or a change whose calls are not queued yet.
pub fn has_rows(db: &Connection) -> Result<bool> {
    let found = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM _webhook_logs)")?
        .query_row([], |row| row.get::<_, bool>(0))?;
    Ok(found || changes::has_any(db)?)
}

/// A row to send.
#[derive(Clone, Debug)]
pub struct QueuedCall {
    pub id: i64,
    pub collection: String,
    pub record: String,
    /// `None` if it cannot be read.
    pub target: Option<Target>,
    pub payload: String,
    /// Attempts so far.
    pub attempts: u32,
    pub created_ms: i64,
}

/// Loads a row if it is still pending.
pub fn load(db: &Connection, id: i64, created_ms: i64) -> Result<Option<QueuedCall>> {
    let row = db
        .prepare_cached(
            "SELECT collection, record, spec, payload, attempts
             FROM _webhook_logs WHERE id = ?1 AND created_ms = ?2 AND status = 'pending'",
        )?
        .query_row([id, created_ms], |row| {
            let spec: String = row.get(2)?;
            Ok(QueuedCall {
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

/// The new state of a row.
#[derive(Clone, Debug)]
pub struct CallUpdate {
    pub id: i64,
    pub created_ms: i64,
    pub verdict: CallState,
}

/// Writes the result of an attempt. A row with the same id in a later database of the same name is
/// unaffected.
pub fn update(tx: &Connection, update: &CallUpdate, now_ms: i64) -> Result<()> {
    let CallState {
        outcome,
        attempts,
        due_ms,
        code,
        error,
        answer,
    } = &update.verdict;
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
        update.id,
        update.created_ms,
    ])?;
    Ok(())
}

/// Rows deleted per statement.
const BATCH_ROWS: i64 = 500;

/// Retention of finished calls: maximum age and number.
const RETENTION: [(CallOutcome, i64, i64); 2] = [
    (CallOutcome::Success, 7 * DAY_MS, 10_000),
    (CallOutcome::Failed, 30 * DAY_MS, 100_000),
];

/// Rows beyond the retention: outcome and latest time of the rows to delete.
pub fn expired(db: &Connection, now_ms: i64) -> Result<Vec<(CallOutcome, i64)>> {
    let mut found = Vec::new();
    for (outcome, age_ms, most) in RETENTION {
        // The condition on pending rows lets SQLite use the partial index.
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

/// Deletes a batch of them. Returns whether more may remain.
pub fn delete(tx: &Connection, outcome: CallOutcome, until_ms: i64) -> Result<bool> {
    let deleted = tx
        .prepare_cached(
            "DELETE FROM _webhook_logs WHERE id IN (
                 SELECT id FROM _webhook_logs
                 WHERE status <> 'pending' AND status = ?1 AND updated_ms <= ?2
                 ORDER BY updated_ms LIMIT ?3)",
        )?
        .execute(params![outcome.name(), until_ms, BATCH_ROWS])?;
    Ok(deleted == usize::try_from(BATCH_ROWS).unwrap_or(0))
}

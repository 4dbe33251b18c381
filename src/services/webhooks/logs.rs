//! The log of calls as users see it, and retries by hand.
//!
//! The log shows the payload of a call. Headers and secrets stay in the row.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::{Value, json};

use super::core::CallOutcome;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::paging::Page;
use crate::model::triggers::Target;
use crate::store::db::Database;

/// Limit on ids in a retry request, and on rows changed per transaction.
pub const IDS_MAX: usize = 1000;
const SOURCES: [&str; 3] = ["trigger", "webhook", "cron"];
/// All columns but the long ones; `spec` is read only for the method.
const COLUMNS: &str =
    "id, source, name, collection, action, record, target, status, attempts, due_ms, code,
     error, answer, created_ms, updated_ms, spec";

/// Selects calls.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    pub collection: Option<String>,
    pub status: Option<String>,
    pub source: Option<String>,
    pub name: Option<String>,
}

const MATCHES: &str = "(?1 IS NULL OR collection = ?1) AND (?2 IS NULL OR status = ?2)
     AND (?3 IS NULL OR source = ?3) AND (?4 IS NULL OR name = ?4)";

impl LogFilter {
    /// Refuses values that no row can match.
    pub fn check(&self) -> Result<()> {
        let statuses = CallOutcome::ALL.map(CallOutcome::name);
        for (name, value, known) in [
            ("status", &self.status, &statuses),
            ("source", &self.source, &SOURCES),
        ] {
            if let Some(value) = value
                && !known.contains(&value.as_str())
            {
                return Err(Error::invalid(format!(
                    "{name}={value}: expected one of {}.",
                    known.join(", ")
                )));
            }
        }
        Ok(())
    }
}

/// One page, newest first, as a list response.
pub fn list(db: &Connection, filter: &LogFilter, page: Page) -> Result<Value> {
    let LogFilter {
        collection,
        status,
        source,
        name,
    } = filter;
    let total: i64 = db
        .prepare_cached(&format!(
            "SELECT count(*) FROM _webhook_logs WHERE {MATCHES}"
        ))?
        .query_row(params![collection, status, source, name], |row| row.get(0))?;
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM _webhook_logs WHERE {MATCHES} ORDER BY id DESC LIMIT ?5 OFFSET ?6"
    ))?;
    let (limit, offset) = (page.size.cast_signed(), page.skip().cast_signed());
    let items = statement.query_map(
        params![collection, status, source, name, limit, offset],
        to_json,
    )?;
    let items: Vec<Value> = items.collect::<rusqlite::Result<_>>()?;
    Ok(page.envelope(total.unsigned_abs(), &items))
}

pub fn get(db: &Connection, id: i64) -> Result<Value> {
    let mut found = db
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM _webhook_logs WHERE id = ?1"
        ))?
        .query_row([id], to_json)
        .optional()?
        .ok_or_else(not_found)?;
    let payload: String = db
        .prepare_cached("SELECT payload FROM _webhook_logs WHERE id = ?1")?
        .query_row([id], |row| row.get(0))?;
    found["payload"] = serde_json::from_str(&payload).unwrap_or(Value::String(payload));
    Ok(found)
}

fn to_json(row: &Row<'_>) -> rusqlite::Result<Value> {
    let (status, due_ms): (String, i64) = (row.get(7)?, row.get(9)?);
    let (created_ms, updated_ms) = (row.get(13)?, row.get(14)?);
    let method = match Target::restore(&row.get::<_, String>(15)?) {
        Ok(Target::Http(call)) => Some(call.method),
        _ => None,
    };
    let text = |at: usize| row.get::<_, String>(at);
    // Empty unless a change to a record caused the call.
    let some = |at: usize| text(at).map(|it| (!it.is_empty()).then_some(it));
    Ok(json!({
        "id": row.get::<_, i64>(0)?,
        "source": text(1)?,
        "name": some(2)?,
        "collection": some(3)?,
        "action": some(4)?,
        "record": some(5)?,
        "target": text(6)?,
        "method": method,
        "status": status,
        "attempts": row.get::<_, i64>(8)?,
        "nextAttempt": (status == CallOutcome::Pending.name()).then(|| clock::format_ms(due_ms)),
        "code": row.get::<_, Option<i64>>(10)?,
        "error": text(11)?,
        "answer": text(12)?,
        "created": clock::format_ms(created_ms),
        "updated": clock::format_ms(updated_ms),
    }))
}

/// Makes failed calls pending again, with no attempts. Returns how many.
pub fn retry(tx: &Connection, ids: &[i64]) -> Result<usize> {
    let now_ms = clock::now_ms();
    let mut statement = tx.prepare_cached(
        "UPDATE _webhook_logs SET status = 'pending', attempts = 0, due_ms = ?1, updated_ms = ?1
         WHERE id = ?2 AND status = 'failed'",
    )?;
    let mut count = 0;
    for id in ids {
        count += statement.execute(params![now_ms, id])?;
    }
    Ok(count)
}

/// The ids of a batch of calls that failed before a time.
pub fn failed(db: &Connection, before_ms: i64) -> Result<Vec<i64>> {
    let mut statement = db.prepare_cached(
        "SELECT id FROM _webhook_logs
         WHERE status <> 'pending' AND status = 'failed' AND updated_ms <= ?1
         ORDER BY updated_ms LIMIT ?2",
    )?;
    let most = i64::try_from(IDS_MAX).unwrap_or(i64::MAX);
    let ids = statement.query_map(params![before_ms, most], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// Retries all calls that have failed until now. Bound: calls that fail meanwhile are not included.
pub fn retry_failed(database: &Database) -> Result<usize> {
    let before_ms = clock::now_ms();
    let mut count = 0;
    loop {
        let ids = database.read(|db| failed(db, before_ms))?;
        if ids.is_empty() {
            return Ok(count);
        }
        let changed = database.write(move |tx| retry(tx, &ids))?;
        count += changed;
        if changed == 0 {
            return Ok(count);
        }
    }
}

fn not_found() -> Error {
    Error::not_found("No such call in the log.")
}

//! Changes whose calls are not queued yet, in the table `_webhook_outbox` of each database.
//!
//! A change costs its transaction one row, however many calls it makes: the row names the list of
//! its calls, in `_webhook_lists`, which is shared by all changes of the same kind until a webhook
//! or trigger changes. So a change makes the calls that were defined when it was committed.
//! [`queue_calls`] replaces the rows by rows of calls, in order, a bounded number per transaction.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::outbox::{CallSource, OutboxEntry, TargetSpec};
use super::{RecordAction, Triggers, outbox};
use crate::base::clock;
use crate::base::error::{Error, Kind, Result};

/// Limit on the bytes of all calls of one change.
const CALLS_BYTES_MAX: u64 = 64 << 20;
/// Calls, and bytes of their rows, after which [`queue_calls`] leaves further changes to the next
/// transaction.
const PORTION_CALLS: usize = 250;
const PORTION_BYTES: usize = 1 << 20;

/// The calls that a kind of change of a collection makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallList {
    id: i64,
    /// Number of the calls.
    calls: u32,
    /// Bytes of their rows without payloads.
    bytes: u32,
}

/// The present list for a kind of change of the collection with this name and these triggers.
pub fn list_for(
    tx: &Connection,
    collection: &str,
    action: RecordAction,
    triggers: &Triggers,
) -> Result<CallList> {
    let found = tx
        .prepare_cached(
            "SELECT id, calls, bytes, triggers = ?3 FROM _webhook_lists
             WHERE collection = ?1 AND action = ?2",
        )?
        .query_row(
            params![collection, action.name(), triggers.digest()],
            |row| {
                let list = CallList {
                    id: row.get(0)?,
                    calls: row.get(1)?,
                    bytes: row.get(2)?,
                };
                Ok((list, row.get(3)?))
            },
        )
        .optional()?;
    match found {
        Some((list, true)) => Ok(list),
        Some((CallList { id, .. }, false)) => {
            tx.execute(
                "UPDATE _webhook_lists SET collection = NULL WHERE id = ?1",
                [id],
            )?;
            create_list(tx, collection, action, triggers)
        }
        None => create_list(tx, collection, action, triggers),
    }
}

fn create_list(
    tx: &Connection,
    collection: &str,
    action: RecordAction,
    triggers: &Triggers,
) -> Result<CallList> {
    let triggers_for = triggers.iter().filter(|it| it.actions.contains(&action));
    let mut calls: Vec<(String, TargetSpec)> = triggers_for
        .map(|trigger| (String::new(), TargetSpec::of(&trigger.target)))
        .collect();
    calls.extend(outbox::webhooks_for(tx, collection, action)?);
    let bytes: usize = calls.iter().map(|(_, spec)| spec.bytes()).sum();
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let count = u32::try_from(calls.len()).unwrap_or(u32::MAX);
    let specs = calls.iter().map(|(name, spec)| (&**name, spec.text()));
    let specs: Vec<(&str, &str)> = specs.collect();
    tx.execute(
        "INSERT INTO _webhook_lists (collection, action, triggers, calls, bytes, specs)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            collection,
            action.name(),
            triggers.digest(),
            count,
            bytes,
            serde_json::to_string(&specs)?,
        ],
    )?;
    Ok(CallList {
        id: tx.last_insert_rowid(),
        calls: count,
        bytes,
    })
}

/// Adds a change of the record of a collection, whose calls get this payload.
pub fn add(
    tx: &Connection,
    list: CallList,
    (collection, action, record): (&str, RecordAction, &str),
    payload: &str,
) -> Result<()> {
    list.check_size(payload)?;
    tx.prepare_cached(
        "INSERT INTO _webhook_outbox (list, collection, action, record, created_ms, payload)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        list.id,
        collection,
        action.name(),
        record,
        clock::now_ms(),
        payload
    ])?;
    Ok(())
}

impl CallList {
    pub fn is_empty(self) -> bool {
        self.calls == 0
    }

    /// Each call will store a copy of the payload. Without a limit, a record of several MiB with
    /// many webhooks would fill the disk.
    fn check_size(self, payload: &str) -> Result<()> {
        let bytes = u64::from(self.bytes) + u64::from(self.calls) * payload.len() as u64;
        if bytes <= CALLS_BYTES_MAX {
            return Ok(());
        }
        let message = format!(
            "The record is too large for {} webhooks: their calls would exceed {} MiB.",
            self.calls,
            CALLS_BYTES_MAX >> 20
        );
        Err(Error::new(Kind::TooLarge, message))
    }
}

/// Reports whether there is any change.
pub fn has_any(db: &Connection) -> Result<bool> {
    let found = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM _webhook_outbox)")?
        .query_row([], |row| row.get(0))?;
    Ok(found)
}

/// The number of calls of the first `limit` changes.
pub fn count_calls(db: &Connection, limit: i64) -> Result<u64> {
    let count: i64 = db
        .prepare_cached(
            "SELECT coalesce(sum(calls), 0) FROM (
                 SELECT calls FROM _webhook_outbox JOIN _webhook_lists
                 ON _webhook_lists.id = list LIMIT ?1)",
        )?
        .query_row([limit], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// A change that waits.
struct Change {
    id: i64,
    list: i64,
    collection: String,
    action: String,
    record: String,
    created_ms: i64,
    payload: String,
}

/// Queues the calls of the first changes and deletes these. Returns whether more may remain.
pub fn queue_calls(tx: &Connection) -> Result<bool> {
    let mut lists = HashMap::new();
    let mut changes = Vec::new();
    let (mut calls, mut bytes) = (0, 0);
    {
        let mut statement = tx.prepare_cached(
            "SELECT id, list, collection, action, record, created_ms, payload
             FROM _webhook_outbox ORDER BY id",
        )?;
        let mut rows = statement.query([])?;
        while calls < PORTION_CALLS && bytes < PORTION_BYTES {
            let Some(row) = rows.next()? else { break };
            let change = Change {
                id: row.get(0)?,
                list: row.get(1)?,
                collection: row.get(2)?,
                action: row.get(3)?,
                record: row.get(4)?,
                created_ms: row.get(5)?,
                payload: row.get(6)?,
            };
            let list: &Vec<(String, TargetSpec)> = match lists.entry(change.list) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(read_list(tx, change.list)?),
            };
            calls += list.len();
            bytes += list.len() * change.payload.len();
            changes.push(change);
        }
    }
    let Some(last) = changes.last() else {
        return Ok(false);
    };
    for change in &changes {
        queue_change(tx, change, &lists[&change.list])?;
    }
    tx.prepare_cached("DELETE FROM _webhook_outbox WHERE id <= ?1")?
        .execute([last.id])?;
    // Lists that have ended are needed by the changes that wait.
    tx.prepare_cached(
        "DELETE FROM _webhook_lists
         WHERE collection IS NULL AND NOT EXISTS (SELECT 1 FROM _webhook_outbox)",
    )?
    .execute([])?;
    has_any(tx)
}

fn read_list(tx: &Connection, id: i64) -> Result<Vec<(String, TargetSpec)>> {
    let text: String = tx
        .prepare_cached("SELECT specs FROM _webhook_lists WHERE id = ?1")?
        .query_row([id], |row| row.get(0))?;
    let specs: Vec<(String, String)> = serde_json::from_str(&text)?;
    let specs = specs.into_iter();
    Ok(specs
        .map(|(name, text)| (name, TargetSpec::stored(text)))
        .collect())
}

fn queue_change(tx: &Connection, change: &Change, list: &[(String, TargetSpec)]) -> Result<()> {
    for (name, spec) in list {
        let source = match name.as_str() {
            "" => CallSource::Trigger,
            name => CallSource::Webhook(name),
        };
        let entry = OutboxEntry {
            source,
            spec,
            payload: &change.payload,
            change: Some((&change.collection, &change.action, &change.record)),
            dedupe: None,
            created_ms: change.created_ms,
        };
        outbox::add(tx, &entry)?;
    }
    Ok(())
}

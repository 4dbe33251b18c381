//! The outbox: waiting calls, in the table `_webhook_logs` of each database.
//!
//! A row is written in the transaction that causes the call, or replaces the change in
//! [`super::changes`] that does. So the call is made if and only if its cause was committed.
//! Afterwards the row is the log entry of the call, until it is old enough to be deleted.

use rusqlite::{Connection, params};

use super::{RecordAction, Target};
use crate::base::error::Result;

/// The label of a target that this version cannot read.
const UNREADABLE: &str = "unreadable";

/// The cause of a call.
#[derive(Clone, Copy, Debug)]
pub enum CallSource<'a> {
    /// A trigger of a collection.
    Trigger,
    Webhook(&'a str),
    Cron(&'a str),
}

/// A target in the form in which rows store it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    text: String,
    label: String,
    host: String,
}

impl TargetSpec {
    pub fn of(target: &Target) -> TargetSpec {
        TargetSpec {
            text: serde_json::Value::Object(target.to_json()).to_string(),
            label: target.label(),
            host: target.host(),
        }
    }

    /// A stored target may be from another version. If it cannot be read, the call is queued all
    /// the same, and fails: it is in the log, and the write that causes it succeeds.
    pub fn stored(text: String) -> TargetSpec {
        match Target::restore(&text) {
            Ok(target) => TargetSpec::of(&target),
            Err(_) => TargetSpec {
                text,
                label: UNREADABLE.to_owned(),
                host: UNREADABLE.to_owned(),
            },
        }
    }

    /// The JSON that [`TargetSpec::stored`] reads back.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Bytes of a row with this target, without the payload.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.label.len()
    }
}

/// A call to queue.
pub struct OutboxEntry<'a> {
    pub source: CallSource<'a>,
    pub spec: &'a TargetSpec,
    /// The JSON to send, unless the target has its own body.
    pub payload: &'a str,
    /// The change that causes the call: name of the collection, action, id of the record.
    pub change: Option<(&'a str, &'a str, &'a str)>,
    /// If an entry with this key exists, no other is added.
    pub dedupe: Option<&'a str>,
    /// When the call was caused. It is due at once.
    pub created_ms: i64,
}

/// The active webhooks for a change: name and target of each.
pub fn webhooks_for(
    tx: &Connection,
    collection: &str,
    action: RecordAction,
) -> Result<Vec<(String, TargetSpec)>> {
    let mut statement = tx.prepare_cached(
        "SELECT name, spec FROM _webhooks
         WHERE active = 1 AND collection IN (?1, '*') AND instr(actions, ?2) > 0
         ORDER BY name",
    )?;
    let mut rows = statement.query(params![collection, format!(" {action} ")])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, TargetSpec::stored(row.get(1)?)));
    }
    Ok(found)
}

/// Queues a call, which is made after the commit. Returns its row id, or none if its key exists
/// already.
pub fn add(tx: &Connection, entry: &OutboxEntry<'_>) -> Result<Option<i64>> {
    let (source, name) = match entry.source {
        CallSource::Trigger => ("trigger", ""),
        CallSource::Webhook(name) => ("webhook", name),
        CallSource::Cron(name) => ("cron", name),
    };
    let (collection, action, record) = entry.change.unwrap_or_default();
    let added = tx
        .prepare_cached(
            "INSERT INTO _webhook_logs (source, name, collection, action, record, target, host,
                 dedupe, status, due_ms, created_ms, updated_ms, spec, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', ?9, ?9, ?9, ?10, ?11)
             ON CONFLICT (dedupe) DO NOTHING",
        )?
        .execute(params![
            source,
            name,
            collection,
            action,
            record,
            entry.spec.label,
            entry.spec.host,
            entry.dedupe,
            entry.created_ms,
            entry.spec.text,
            entry.payload,
        ])?;
    Ok((added > 0).then(|| tx.last_insert_rowid()))
}

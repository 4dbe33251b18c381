//! Calls that are to be made: the table `_webhook_logs`, which every database has (WH-7).
//!
//! A row is written in the transaction that causes the call, so it is there if and only if the cause is. It
//! stays as the record of what became of the call until it is old.

use rusqlite::{Connection, params};

use super::{RecordAction, Target};
use crate::base::clock;
use crate::base::error::Result;

/// Whom a call is for that this version cannot read.
const UNREADABLE: &str = "unreadable";

/// What causes a call.
#[derive(Clone, Copy, Debug)]
pub enum CallSource<'a> {
    /// A trigger of a collection.
    Trigger,
    /// A webhook, by name.
    Webhook(&'a str),
    /// A cron job, by name.
    Cron(&'a str),
}

/// A target as rows have it.
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

    /// What another version of the program has stored may mean nothing to this one. Then the call is
    /// queued all the same, and fails: it is in the log, and the write that causes it goes on.
    fn stored(text: String) -> TargetSpec {
        match Target::restore(&text) {
            Ok(target) => TargetSpec::of(&target),
            Err(_) => TargetSpec {
                text,
                label: UNREADABLE.to_owned(),
                host: UNREADABLE.to_owned(),
            },
        }
    }

    /// What a row of it needs, besides what is sent.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.label.len()
    }
}

/// A call that is to be made.
pub struct OutboxEntry<'a> {
    pub source: CallSource<'a>,
    pub spec: &'a TargetSpec,
    /// JSON: what is sent, unless the target has a body of its own.
    pub payload: &'a str,
    /// Which change of a record: collection by name, what happened, id.
    pub change: Option<(&'a str, RecordAction, &'a str)>,
    /// A second entry of this name is passed over.
    pub dedupe: Option<&'a str>,
}

/// The webhooks that a change of a record is for: the name of each, and whom it calls.
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

/// Queues a call; it is made after the commit. Returns its number, or none when it is there already.
pub fn add(tx: &Connection, entry: &OutboxEntry<'_>) -> Result<Option<i64>> {
    let (source, name) = match entry.source {
        CallSource::Trigger => ("trigger", ""),
        CallSource::Webhook(name) => ("webhook", name),
        CallSource::Cron(name) => ("cron", name),
    };
    let (collection, action, record) = match entry.change {
        Some((collection, action, record)) => (collection, action.name(), record),
        None => ("", "", ""),
    };
    let now = clock::now_ms();
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
            now,
            entry.spec.text,
            entry.payload,
        ])?;
    Ok((added > 0).then(|| tx.last_insert_rowid()))
}

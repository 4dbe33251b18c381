//! Publishes changes of records: to subscribers, and to webhooks and triggers.
//!
//! Runs inside the transaction, after an insert or update and before a delete. The row is read only
//! if something receives the change.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::Scope;
use super::json::write_value;
use super::row::Rowid;
use crate::base::clock;
use crate::base::error::{Error, Kind, Result};
use crate::base::json::write_text;
use crate::model::collections::{Collection, Field};
use crate::model::events::{RecordChange, RecordState, SqlValue};
use crate::model::triggers::outbox::{CallSource, OutboxEntry, TargetSpec};
use crate::model::triggers::{RecordAction, outbox};
use crate::store::db;
use crate::store::db::quote;

/// Limit on the bytes of all queued calls of one change.
const CALLS_BYTES_MAX: usize = 64 << 20;

/// Queues the calls for a change of a row, and publishes it to subscribers after the commit.
pub fn publish(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    action: RecordAction,
    rowid: Rowid,
) -> Result<()> {
    let triggers = collection.triggers.iter();
    let mut calls: Vec<(String, TargetSpec)> = triggers
        .filter(|trigger| trigger.actions.contains(&action))
        .map(|trigger| (String::new(), TargetSpec::of(&trigger.target)))
        .collect();
    calls.extend(outbox::webhooks_for(tx, &collection.name, action)?);
    let is_watched = scope.events.is_watched(&collection.id);
    if calls.is_empty() && !is_watched {
        return Ok(());
    }
    let Some(definition) = scope.collections.by_id(&collection.id) else {
        return Ok(());
    };
    let values = read_row(tx, collection, rowid)?;
    let state = RecordState {
        collection: Arc::clone(definition),
        values,
    };
    if !calls.is_empty() {
        enqueue_calls(tx, scope, &state, action, &calls)?;
    }
    if is_watched {
        let events = Arc::clone(&scope.events);
        db::on_commit(move || events.publish(RecordChange { action, state }));
    }
    Ok(())
}

fn read_row(tx: &Connection, collection: &Collection, rowid: Rowid) -> Result<Vec<SqlValue>> {
    let mut columns: Vec<String> = RecordState::SYSTEM.map(str::to_owned).to_vec();
    columns.extend(
        collection
            .fields
            .iter()
            .map(|field| match field.is_secret() {
                true => "NULL".to_owned(),
                false => quote(&field.name),
            }),
    );
    let count = columns.len();
    let sql = format!(
        "SELECT {} FROM {} WHERE rowid = ?1",
        columns.join(", "),
        quote(&collection.name)
    );
    let mut statement = tx.prepare_cached(&sql)?;
    Ok(statement.query_row([rowid], |row| (0..count).map(|at| row.get(at)).collect())?)
}

/// Queues the calls; they are sent after the commit.
fn enqueue_calls(
    tx: &Connection,
    scope: &Scope,
    state: &RecordState,
    action: RecordAction,
    calls: &[(String, TargetSpec)],
) -> Result<()> {
    let payload = payload(state, action);
    check_calls_size(&payload, calls)?;
    for (name, spec) in calls {
        let source = match name.as_str() {
            "" => CallSource::Trigger,
            name => CallSource::Webhook(name),
        };
        let entry = OutboxEntry {
            source,
            spec,
            payload: &payload,
            change: Some((&state.collection.name, action, state.id())),
            dedupe: None,
        };
        outbox::add(tx, &entry)?;
    }
    let (events, database) = (Arc::clone(&scope.events), state.collection.database.clone());
    db::on_commit(move || events.notify_calls(&database));
    Ok(())
}

/// Each call stores a copy of the payload. Without a limit, a record of several MiB with many
/// webhooks would fill the disk.
fn check_calls_size(payload: &str, calls: &[(String, TargetSpec)]) -> Result<()> {
    let bytes: usize = calls.iter().map(|(_, it)| it.bytes() + payload.len()).sum();
    if bytes <= CALLS_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "The record is too large for {} webhooks: their calls would exceed {} MiB.",
        calls.len(),
        CALLS_BYTES_MAX >> 20
    );
    Err(Error::new(Kind::TooLarge, message))
}

/// The payload `{action, database, collection, record, time}`. Hidden fields are left out, because
/// the rules of the collection do not apply to the receiver.
fn payload(state: &RecordState, action: RecordAction) -> String {
    let collection = &state.collection;
    let mut out = Vec::with_capacity(512);
    let texts = [
        ("{\"action\":", action.name()),
        (",\"database\":", &collection.database),
        (",\"collection\":", &collection.name),
        (",\"time\":", &clock::now()),
        (",\"record\":{\"collectionId\":", &collection.id),
        (",\"collectionName\":", &collection.name),
    ];
    for (before, text) in texts {
        out.extend_from_slice(before.as_bytes());
        write_text(text.as_bytes(), &mut out);
    }
    for (at, value) in state.values.iter().enumerate() {
        let field = at.checked_sub(RecordState::SYSTEM.len());
        let field: Option<&Field> = field.and_then(|at| collection.fields.get(at));
        if field.is_some_and(|field| field.hidden || field.is_secret()) {
            continue;
        }
        let name = field.map_or_else(|| RecordState::SYSTEM[at], |field| &field.name);
        out.push(b',');
        write_text(name.as_bytes(), &mut out);
        out.push(b':');
        match (field, ValueRef::from(value)) {
            (Some(field), value) => write_value(field, value, &mut out),
            (None, ValueRef::Text(text)) => write_text(text, &mut out),
            (None, _) => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(b"}}");
    String::from_utf8_lossy(&out).into_owned()
}

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
use crate::base::error::Result;
use crate::base::json::write_text;
use crate::model::collections::{Collection, Field};
use crate::model::events::{RecordChange, RecordState, SqlValue};
use crate::model::triggers::{RecordAction, changes};
use crate::store::db;
use crate::store::db::quote;

/// Records a change of a row for the calls that it makes, and publishes it to subscribers after the
/// commit.
pub fn publish(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    action: RecordAction,
    rowid: Rowid,
) -> Result<()> {
    let calls = changes::list_for(tx, &collection.name, action, &collection.triggers)?;
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
        let change = (&*collection.name, action, state.id());
        changes::add(tx, calls, change, &payload(&state, action))?;
        let (events, database) = (Arc::clone(&scope.events), collection.database.clone());
        db::on_commit(move || events.notify_calls(&database));
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

//! Updates or deletes several records in one transaction, all or none.

use std::sync::Arc;

use rusqlite::Connection;

use super::delete::delete_rows;
use super::row::find_permitted;
use super::update::update;
use super::{Draft, Scope, Shape};
use crate::base::error::{Error, Kind, Result};
use crate::model::collections::Collection;
use crate::model::rules::Operation;

/// Maximum number of records in a bulk request.
pub const BULK_MAX: usize = 1000;

/// Applies one draft to several records; returns them as `{"items": [...]}`.
pub fn bulk_update(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    ids: &[String],
    draft: &Draft,
    shape: &Shape,
) -> Result<Vec<u8>> {
    let mut out = br#"{"items":["#.to_vec();
    for (at, id) in ids.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let record = update(tx, scope, collection, id, draft.clone(), shape)
            .map_err(|error| missing_record(error, id))?;
        out.extend_from_slice(&record.json);
        scope.check_size(&out)?;
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

pub fn bulk_delete(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    ids: &[String],
) -> Result<()> {
    scope.collections.check_current()?;
    let grant = scope.admit(collection, Operation::Delete)?;
    let mut rows = Vec::new();
    for id in ids {
        let rowid = find_permitted(tx, scope, collection, id, &grant.access, None)
            .map_err(|error| missing_record(error, id))?;
        rows.push((rowid, id.clone()));
    }
    delete_rows(tx, scope, collection, rows)
}

/// Adds the id of the missing record to the error.
fn missing_record(error: Error, id: &str) -> Error {
    match error.kind() {
        Kind::NotFound => Error::not_found(format!("There is no record {id}.")),
        _ => error,
    }
}

//! Reading one record.

use std::sync::Arc;

use rusqlite::Connection;

use super::record_key::RecordKey;
use super::row::record_not_found;
use super::{Precondition, RenderedRecord, Scope, Shape};
use crate::base::error::Result;
use crate::model::collections::Collection;
use crate::model::rules::Operation;

/// The JSON of a record. Returns an error if its version does not meet `expected`.
pub fn get(
    connection: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    shape: &Shape,
    expected: &Precondition,
) -> Result<RenderedRecord> {
    let grant = scope.admit(collection, Operation::View)?;
    let plan = scope.plan(collection, shape, &RecordKey::Id, &grant)?;
    let shown = plan.read(connection, &id);
    scope.collections.check_current()?;
    let shown = shown?.ok_or_else(record_not_found)?;
    expected.check(&shown.updated)?;
    Ok(shown)
}

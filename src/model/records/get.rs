//! Reading one record.

use std::sync::Arc;

use rusqlite::Connection;

use super::plan::Key;
use super::row::no_record;
use super::{Precondition, Scope, Shape, Shown};
use crate::base::error::Result;
use crate::model::collections::Collection;
use crate::model::rules::Operation;

/// The JSON of one record.
pub fn get(
    connection: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    shape: &Shape,
    expected: &Precondition,
) -> Result<Shown> {
    let grant = scope.admit(collection, Operation::View)?;
    let plan = scope.plan(collection, shape, &Key::Id, &grant)?;
    let shown = plan.read(connection, &id);
    scope.collections.check_current()?;
    let shown = shown?.ok_or_else(no_record)?;
    expected.check(&shown.updated)?;
    Ok(shown)
}

//! Creates a record.

use std::sync::Arc;

use rusqlite::Connection;

use super::draft::new_id;
use super::publish::publish;
use super::record_key::RecordKey;
use super::row::holds;
use super::{Draft, RenderedRecord, Scope, Shape, resolve, write};
use crate::base::error::{Error, Result};
use crate::model::collections::Collection;
use crate::model::rules::{Access, Identity, Operation};
use crate::model::triggers::RecordAction;

/// Inserts a record and returns it as the caller may see it.
pub fn create(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    draft: Draft,
    shape: &Shape,
) -> Result<RenderedRecord> {
    scope.collections.check_current()?;
    let grant = scope.admit(collection, Operation::Create)?;
    let id = match &draft.id {
        Some(id) => id.clone(),
        None => new_id(collection)?,
    };
    let resolved = resolve::create(tx, scope, collection, &id, draft)?;
    let rule = match &grant.access {
        Access::When(rule) => Some(rule.as_ref()),
        Access::Free | Access::Denied => None,
    };
    let rowid = write::insert(tx, scope, collection, &id, &resolved, rule)?;
    // The rule is evaluated on the stored row; an error rolls back the insert.
    if let Access::When(rule) = &grant.access
        && !holds(tx, scope, collection, rowid, rule, Some(&resolved.body))?
    {
        return Err(write::create_rule_violated());
    }
    publish(tx, scope, collection, RecordAction::Create, rowid)?;
    // The caller sees its own record without the view rule: it wrote everything in it.
    let view = collection.grant(Operation::View, &scope.identity);
    if view.access == Access::Denied && matches!(scope.identity, Identity::Key(_)) {
        // An API key without the scope `read` gets only the id.
        return Ok(RenderedRecord::only_id(&id));
    }
    let plan = scope.plan(collection, shape, &RecordKey::New, &view.unconditional())?;
    let shown = plan.read(tx, &rowid)?;
    shown.ok_or_else(|| Error::internal("a new record is not there"))
}

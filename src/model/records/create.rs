//! Creating a record.

use std::sync::Arc;

use rusqlite::Connection;

use super::draft::new_id;
use super::plan::Key;
use super::publish::publish;
use super::row::holds;
use super::{Draft, Scope, Shape, Shown, resolve, write};
use crate::base::error::{Error, Result};
use crate::model::collections::Collection;
use crate::model::rules::{Access, Identity, Operation};
use crate::model::triggers::RecordAction;

/// Writes a new record and shows it.
pub fn create(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    draft: Draft,
    shape: &Shape,
) -> Result<Shown> {
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
    // The rule judges the record as it would be stored; a refusal undoes the insert.
    if let Access::When(rule) = &grant.access
        && !holds(tx, scope, collection, rowid, rule, Some(&resolved.sent))?
    {
        return Err(write::not_allowed());
    }
    publish(tx, scope, collection, RecordAction::Create, rowid)?;
    // It is the caller's own: there is nothing in it that the caller did not write.
    let view = collection.grant(Operation::View, &scope.identity);
    if view.access == Access::Denied && matches!(scope.identity, Identity::Key(_)) {
        // But a key has scopes.
        return Ok(Shown::only_id(&id));
    }
    let plan = scope.plan(collection, shape, &Key::New, &view.unconditional())?;
    let shown = plan.read(tx, &rowid)?;
    shown.ok_or_else(|| Error::internal("a new record is not there"))
}

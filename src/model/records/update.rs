//! Updates a record, or creates it if it does not exist (upsert).

use std::sync::Arc;

use rusqlite::Connection;

use super::create::create;
use super::publish::publish;
use super::record_key::RecordKey;
use super::row::{find_permitted, record_not_found, rowid_of};
use super::{Draft, RenderedRecord, Scope, Shape, account, resolve, write};
use crate::base::error::{Error, Result};
use crate::model::collections::Collection;
use crate::model::rules::Operation;
use crate::model::triggers::RecordAction;

/// Updates a record and returns it as the caller may see it.
pub fn update(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    mut draft: Draft,
    shape: &Shape,
) -> Result<RenderedRecord> {
    scope.collections.check_current()?;
    let grant = scope.admit(collection, Operation::Update)?;
    if scope.is_account(collection, id) {
        draft.allow_own_email_visibility(collection);
    }
    let rowid = rowid_of(tx, collection, id)?.ok_or_else(record_not_found)?;
    let (given, proof) = (draft.id.clone(), draft.proof.clone());
    let expected = std::mem::take(&mut draft.expected);
    let resolved = resolve::update(tx, scope, collection, rowid, draft)?;
    let sent = Some(&resolved.body);
    find_permitted(tx, scope, collection, id, &grant.access, sent)?;
    expected.check_row(tx, collection, rowid)?;
    if given.is_some_and(|given| given != id) {
        return Err(Error::field(
            "id",
            "validation_pk_change",
            "The id of a record cannot change.",
        ));
    }
    account::check_proof(tx, collection, id, &proof)?;
    write::update(tx, scope, collection, (rowid, id), &resolved)?;
    publish(tx, scope, collection, RecordAction::Update, rowid)?;
    // The right to update a record does not include the right to view it.
    let view = collection.grant(Operation::View, &scope.identity);
    let plan = scope.plan(collection, shape, &RecordKey::Rowid, &view)?;
    let shown = plan.read(tx, &rowid)?;
    Ok(shown.unwrap_or_else(|| RenderedRecord::only_id(id)))
}

/// The drafts of both outcomes of an upsert. One of them may be invalid.
pub struct Upsert {
    pub update: Result<Draft>,
    pub create: Result<Draft>,
}

/// Updates the record with this id, or creates it.
pub fn upsert(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    drafts: Upsert,
    shape: &Shape,
) -> Result<RenderedRecord> {
    match rowid_of(tx, collection, id)? {
        Some(_) => update(tx, scope, collection, id, drafts.update?, shape),
        None => create(tx, scope, collection, drafts.create?, shape),
    }
}

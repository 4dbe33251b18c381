//! Changing a record, or creating it if there is none.

use std::sync::Arc;

use rusqlite::Connection;

use super::create::create;
use super::plan::Key;
use super::publish::publish;
use super::row::{find, no_record, rowid_of};
use super::{Draft, Scope, Shape, Shown, account, resolve, write};
use crate::base::error::{Error, Result};
use crate::model::collections::Collection;
use crate::model::rules::Operation;
use crate::model::triggers::RecordAction;

/// Changes a record and shows it.
pub fn update(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    mut draft: Draft,
    shape: &Shape,
) -> Result<Shown> {
    scope.collections.check_current()?;
    let grant = scope.admit(collection, Operation::Update)?;
    if scope.is_account(collection, id) {
        draft.is_by_account_itself(collection);
    }
    let rowid = rowid_of(tx, collection, id)?.ok_or_else(no_record)?;
    let (given, proof) = (draft.id.clone(), draft.proof.clone());
    let expected = std::mem::take(&mut draft.expected);
    let resolved = resolve::update(tx, scope, collection, rowid, draft)?;
    let sent = Some(&resolved.sent);
    find(tx, scope, collection, id, &grant.access, sent)?;
    expected.check_row(tx, collection, rowid)?;
    if given.is_some_and(|given| given != id) {
        return Err(Error::field(
            "id",
            "validation_unchangeable",
            "The id of a record cannot change.",
        ));
    }
    account::check_proof(tx, collection, id, &proof)?;
    write::update(tx, scope, collection, (rowid, id), &resolved)?;
    publish(tx, scope, collection, RecordAction::Update, rowid)?;
    // Who may change a record may yet not see it.
    let view = collection.grant(Operation::View, &scope.identity);
    let plan = scope.plan(collection, shape, &Key::Rowid, &view)?;
    let shown = plan.read(tx, &rowid)?;
    Ok(shown.unwrap_or_else(|| Shown::only_id(id)))
}

/// The two things that an upsert may come to.
pub struct Upsert {
    pub update: Result<Draft>,
    /// What is refused as a new record may still be right as a change, and the reverse.
    pub create: Result<Draft>,
}

/// Changes the record with the id of the draft, or makes it.
pub fn upsert(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    drafts: Upsert,
    shape: &Shape,
) -> Result<Shown> {
    match rowid_of(tx, collection, id)? {
        Some(_) => update(tx, scope, collection, id, drafts.update?, shape),
        None => create(tx, scope, collection, drafts.create?, shape),
    }
}

//! The definition of `_superusers`: the admins in the form of an auth collection.
//!
//! It is stored in no table and cannot be changed. Its rows are those of the view `_superusers` of
//! `default.db`, without passwords. It has no rules, so only admins read it.

use serde_json::json;

use super::collection::SUPERUSERS;
use super::definition::CollectionDraft;
use super::{Collection, CollectionKind};
use crate::base::error::Result;
use crate::model::rules::Rule;
use crate::store::db;

/// Its id, the same as in every PocketBase. Clients compare it.
pub const SUPERUSERS_ID: &str = "pbc_3142635823";

/// The definition of the collection of admins.
pub fn superusers() -> Result<Collection> {
    let fields = json!([
        {"id": "password901924565", "name": "password", "type": "password", "required": true, "hidden": true},
        {"id": "email3885137012", "name": "email", "type": "email", "required": true, "unique": true},
        {"id": "bool1547992806", "name": "emailVisibility", "type": "bool"},
        {"id": "bool256245529", "name": "verified", "type": "bool"},
    ]);
    let draft = CollectionDraft::parse(&json!({"fields": fields}))?;
    let mut collection = Collection::new(SUPERUSERS_ID.to_owned(), db::DEFAULT, SUPERUSERS);
    collection.kind = CollectionKind::Auth;
    collection.rules.auth = Some(Rule::everyone());
    collection.set_fields(draft.fields.unwrap_or_default());
    "2026-01-01T00:00:00.000Z".clone_into(&mut collection.created);
    collection.updated.clone_from(&collection.created);
    Ok(collection)
}

//! The definition of `_superusers`: the admins in the form of an auth collection.
//!
//! It is stored in no table and cannot be changed. Its rows are those of the view `_superusers` of
//! `default.db`, without passwords. It has no rules, so only admins read it.

use serde_json::{Map, json};

use super::definition::CollectionDraft;
use super::{Collection, CollectionKind, Rules};
use crate::base::error::Result;
use crate::model::triggers::Triggers;
use crate::store::db;

/// The name of the collection of admins.
pub const SUPERUSERS: &str = "_superusers";
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
    Ok(Collection {
        id: SUPERUSERS_ID.to_owned(),
        database: db::DEFAULT.to_owned(),
        name: SUPERUSERS.to_owned(),
        kind: CollectionKind::Auth,
        fields: draft.fields.unwrap_or_default(),
        indexes: Vec::new(),
        rules: Rules::default(),
        options: Map::new(),
        triggers: Triggers::default(),
        view: None,
        named_views: Vec::new(),
        created: "2026-01-01T00:00:00.000Z".to_owned(),
        updated: "2026-01-01T00:00:00.000Z".to_owned(),
    })
}

//! Empty definitions, from which a client starts a new one.

use serde_json::{Value, json};

use super::parse::Problems;
use super::{Collection, CollectionKind, auth};
use crate::model::rules::Rule;
use crate::store::db;

/// A definition without a name for each type.
pub fn scaffolds() -> Value {
    let base = Collection::new(String::new(), db::DEFAULT, "");
    let mut accounts = base.clone();
    accounts.kind = CollectionKind::Auth;
    accounts.rules.auth = Some(Rule::everyone());
    auth::complete_fields(&mut accounts, &mut Problems::default());
    json!({"base": base.to_json(), "auth": accounts.to_json()})
}

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
    let mut view = base.clone();
    view.kind = CollectionKind::View;
    let mut view = form(&view);
    view["viewQuery"] = json!("");
    view["fields"] = json!([]);
    json!({"base": form(&base), "auth": form(&accounts), "view": view})
}

/// Without the second list of fields: a client changes one.
fn form(collection: &Collection) -> Value {
    let mut form = collection.to_json();
    if let Value::Object(form) = &mut form {
        form.remove("schema");
    }
    form
}

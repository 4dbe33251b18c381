//! Collections: what a table of records is made of (reference 5.1, COL-1 to COL-9).
//!
//! A [`Collection`] is an immutable, shared definition; a change makes a new one. The folder:
//! `definition`, `field` and `index` read and write its JSON form, `change` makes a whole one of what a
//! client wants, `auth` is what auth collections have besides, `schema` keeps its SQL table in step,
//! `stored` is the table of definitions, `catalog` changes them and hands out the present ones.
//!
//! Schemas only grow (DB-13, DB-14): a field or collection that is deleted is no longer shown or
//! written, and its column or table stays on disk. Renaming is refused; so is changing a type,
//! except among the four plain text types and between one value and several.

pub use auth::{EMAIL_VISIBILITY, TOKEN_KEY};
pub use catalog::Catalog;
pub use change::Editor;
pub use collection::{Collection, CollectionKind, Rules};
pub use definition::check_name;
pub use field::{
    DomainOptions, Field, FieldKind, FileOptions, RelationOptions, TextOptions, TimeOptions,
};
pub use index::Index;
pub use set::Collections;
pub use stored::{databases, definitions, has_open_accounts, is_applied, stable_definitions};

mod auth;
mod catalog;
mod change;
mod collection;
mod definition;
mod field;
mod field_json;
mod index;
mod parse;
mod purge;
mod schema;
mod set;
mod stored;

/// A field from its JSON form, for tests of other modules.
#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub fn test_field(definition: serde_json::Value) -> Field {
    let draft =
        definition::CollectionDraft::parse(&serde_json::json!({"fields": [definition]})).unwrap();
    draft.fields.unwrap().remove(0)
}

/// A collection from its JSON form, for tests of other modules.
#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub fn test_collection(id: &str, name: &str, fields: serde_json::Value) -> Collection {
    let draft = definition::CollectionDraft::parse(&serde_json::json!({"fields": fields})).unwrap();
    Collection {
        id: id.to_owned(),
        database: crate::store::db::DEFAULT.to_owned(),
        name: name.to_owned(),
        kind: CollectionKind::Base,
        fields: draft.fields.unwrap(),
        indexes: Vec::new(),
        rules: Rules::default(),
        options: serde_json::Map::new(),
        triggers: Vec::new(),
        created: String::new(),
        updated: String::new(),
    }
}

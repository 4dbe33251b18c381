//! Collections: typed definitions of tables of records.
//!
//! A [`Collection`] is an immutable, shared definition; a change creates a new one. `definition`,
//! `field_json` and `index` read and write its JSON form. `change` applies a request to a
//! definition. `auth` has the fields and options of auth collections. `schema` creates and alters
//! the SQL table. `stored` is the table of definitions, `set` those of one database, and `catalog`
//! changes and caches them; `several` changes more than one at once. `console` runs statements that
//! administrators write.
//!
//! A schema only grows: a deleted field or collection is no longer shown or written, but its column
//! or table stays on disk until a purge. A type can change only among the four plain text types,
//! and between one value and several. `renames` carries along what mentions a changed name.

pub use auth::EMAIL_VISIBILITY;
pub use auth_settings::TokenKind;
pub use catalog::{Catalog, Checks};
pub use change::Editor;
pub use collection::{
    Collection, CollectionKind, NamedViewQuery, Rules, SUPERUSERS, SavedQuery, TOKEN_KEY,
};
pub use console::{ConsoleAnswer, ConsoleQuery};
pub use definition::check_name;
pub use field::{
    DomainOptions, Field, FieldKind, FieldLabels, FileOptions, PasswordLimits, RelationOptions,
    TextOptions, TimeOptions,
};
pub use index::{Index, IndexColumn};
pub use scaffold::scaffolds;
pub use set::Collections;
pub use stored::{databases, definitions, has_open_accounts, is_applied, stable_definitions};
pub use superusers::{SUPERUSERS_ID, superusers};

mod auth;
mod auth_settings;
mod catalog;
mod change;
mod check;
mod collection;
mod console;
mod definition;
mod field;
mod field_json;
mod field_kind;
mod field_options;
mod follow_renames;
mod import;
mod index;
mod index_sql;
mod named_view;
mod parse;
mod pattern;
mod purge;
mod renames;
mod scaffold;
mod schema;
mod set;
mod several;
mod stored;
mod superusers;
mod table_indexes;
mod trial;
mod view;
mod view_sql;
mod views;

/// A field from its JSON form, for tests of other modules.
#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub fn test_field(definition: serde_json::Value) -> Field {
    let draft =
        definition::CollectionDraft::parse(&serde_json::json!({"fields": [definition]})).unwrap();
    draft.fields.unwrap().fields.remove(0)
}

/// A collection from its JSON form, for tests of other modules.
#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub fn test_collection(id: &str, name: &str, fields: serde_json::Value) -> Collection {
    let draft = definition::CollectionDraft::parse(&serde_json::json!({"fields": fields})).unwrap();
    let mut collection = Collection::new(id.to_owned(), crate::store::db::DEFAULT, name);
    collection.set_fields(draft.fields.unwrap());
    collection
}

/// An index on one field, for tests of other modules.
#[cfg(test)]
pub fn test_index(name: &str, field: &str) -> Index {
    Index {
        name: name.to_owned(),
        columns: vec![IndexColumn {
            tokens: vec![index_sql::Token::Name(field.to_owned())],
            collation: None,
            descending: false,
        }],
        unique: false,
        condition: Vec::new(),
    }
}

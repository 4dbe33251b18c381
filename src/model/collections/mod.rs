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

use regex_lite::Regex;
use serde_json::{Map, Value};

pub use auth::{EMAIL_VISIBILITY, TOKEN_KEY};
pub use catalog::{Catalog, Collections};
pub use change::Editor;
pub use definition::check_name;
pub use stored::{databases, definitions, has_open_accounts, is_applied, settled_definitions};

use crate::base::error::Result;
use crate::model::rules;
use crate::model::rules::{FieldRules, Grant, Identity, Operation};
use crate::model::triggers::Trigger;

mod auth;
mod catalog;
mod change;
mod definition;
mod field;
mod index;
mod purge;
mod schema;
mod stored;

/// The definition of one collection.
#[derive(Clone, Debug)]
pub struct Collection {
    pub id: String,
    /// Which database its table is in.
    pub database: String,
    /// Also the name of its table.
    pub name: String,
    pub kind: CollectionKind,
    /// In the order in which they were defined.
    pub fields: Vec<Field>,
    pub indexes: Vec<Index>,
    pub rules: Rules,
    /// Free form, kept for the parts that read it (COL-8).
    pub options: Map<String, Value>,
    /// What `options.triggers` says.
    pub triggers: Vec<Trigger>,
    pub created: String,
    pub updated: String,
}

/// What a collection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectionKind {
    /// Records.
    Base,
    /// Records that can sign in: they have `email`, `password` and what belongs to them.
    Auth,
}

/// Filter expressions that say who may do what. None: admins only. Empty: everyone (RUL-6 is our
/// choice, as in PocketBase).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub list: Option<String>,
    pub view: Option<String>,
    pub create: Option<String>,
    pub update: Option<String>,
    pub delete: Option<String>,
    /// Who may start workflows on the collection (WF-16).
    pub execute: Option<String>,
    /// The workflows that those may start.
    pub workflows: Vec<String>,
    /// Admits callers to the addresses of all accounts of an auth collection.
    pub manage: Option<String>,
    /// Which groups read which fields, in place of `list` and `view` (FLD-3).
    pub fields: Option<FieldRules>,
    /// Which groups write which fields, in place of `create` and `update`.
    pub field_edits: Option<FieldRules>,
}

/// An index that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub name: String,
    /// Field name and whether it is descending, in order.
    pub columns: Vec<(String, bool)>,
    pub unique: bool,
}

/// One field of a collection.
#[derive(Clone, Debug)]
pub struct Field {
    /// UUID, or what the client gave (COL-5).
    pub id: String,
    /// Also the name of its column.
    pub name: String,
    pub kind: FieldKind,
    pub required: bool,
    pub unique: bool,
    /// Shown to admins only.
    pub hidden: bool,
}

/// The type of a field with its options.
#[derive(Clone, Debug)]
pub enum FieldKind {
    Text(TextOptions),
    Email(DomainOptions),
    Url(DomainOptions),
    /// Rich text; bounded in bytes.
    Editor {
        bytes_max: usize,
    },
    Number {
        min: Option<f64>,
        max: Option<f64>,
        integers_only: bool,
    },
    Bool,
    /// A day, `YYYY-MM-DD`.
    Date(TimeOptions),
    /// A moment, as `clock` writes it.
    Datetime(TimeOptions),
    Select {
        values: Vec<String>,
        select_max: usize,
    },
    Json {
        bytes_max: usize,
    },
    Relation(RelationOptions),
    /// Names of files that are stored for the record.
    File(FileOptions),
    /// Only `password` of auth collections: written, hashed, never shown.
    Password {
        chars_min: usize,
    },
}

/// Options of `text`; lengths in characters.
#[derive(Clone, Debug, Default)]
pub struct TextOptions {
    pub chars_min: usize,
    pub chars_max: Option<usize>,
    pub pattern: Option<Regex>,
}

/// Options of `email` and `url`: domains that alone, or never, are taken.
#[derive(Clone, Debug, Default)]
pub struct DomainOptions {
    pub only: Vec<String>,
    pub except: Vec<String>,
}

/// Options of `date` and `datetime`: bounds in the stored form.
#[derive(Clone, Debug, Default)]
pub struct TimeOptions {
    pub min: Option<String>,
    pub max: Option<String>,
}

/// Options of `relation`.
#[derive(Clone, Debug)]
pub struct RelationOptions {
    /// Id of the target, in the same database.
    pub collection_id: String,
    pub select_max: usize,
    /// Deleting the target deletes the record that points to it; else the pointer is cleared, or,
    /// when the field is required, the deletion is refused.
    pub cascade_delete: bool,
}

/// Options of `file`.
#[derive(Clone, Debug)]
pub struct FileOptions {
    pub select_max: usize,
    /// Of each file.
    pub bytes_max: u64,
    /// Media types that alone are taken; none means all.
    pub media_types: Vec<String>,
    /// Downloaded only with a token of somebody who may view the record.
    pub protected: bool,
}

impl Collection {
    /// What a caller may do with its records.
    pub fn grant(&self, operation: Operation, identity: &Identity) -> Result<Grant> {
        let rules = &self.rules;
        let (rule, fields) = match operation {
            Operation::List => (&rules.list, &rules.fields),
            Operation::View => (&rules.view, &rules.fields),
            Operation::Create => (&rules.create, &rules.field_edits),
            Operation::Update => (&rules.update, &rules.field_edits),
            Operation::Delete => (&rules.delete, &None),
            Operation::Execute => (&rules.execute, &None),
        };
        let (rule, fields) = (rule.as_deref(), fields.as_ref());
        rules::grant(operation, &self.name, rule, fields, identity)
    }

    /// Whether its records have files.
    pub fn has_files(&self) -> bool {
        self.fields.iter().any(|field| field.file().is_some())
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl Field {
    /// Whether its value is a list.
    pub fn is_multiple(&self) -> bool {
        match &self.kind {
            FieldKind::Select { select_max, .. } => *select_max > 1,
            FieldKind::Relation(options) => options.select_max > 1,
            FieldKind::File(options) => options.select_max > 1,
            _ => false,
        }
    }

    /// The target and the rest, if this is a relation.
    pub fn relation(&self) -> Option<&RelationOptions> {
        match &self.kind {
            FieldKind::Relation(options) => Some(options),
            _ => None,
        }
    }

    /// The options of files, if it holds some.
    pub fn file(&self) -> Option<&FileOptions> {
        match &self.kind {
            FieldKind::File(options) => Some(options),
            _ => None,
        }
    }

    /// Whether it is the stored hash of a password, which nobody ever sees.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, FieldKind::Password { .. })
    }
}

impl FieldKind {
    /// The public name of the type.
    pub fn name(&self) -> &'static str {
        match self {
            FieldKind::Text(_) => "text",
            FieldKind::Email(_) => "email",
            FieldKind::Url(_) => "url",
            FieldKind::Editor { .. } => "editor",
            FieldKind::Number { .. } => "number",
            FieldKind::Bool => "bool",
            FieldKind::Date(_) => "date",
            FieldKind::Datetime(_) => "datetime",
            FieldKind::Select { .. } => "select",
            FieldKind::Json { .. } => "json",
            FieldKind::Relation(_) => "relation",
            FieldKind::File(_) => "file",
            FieldKind::Password { .. } => "password",
        }
    }

    /// The affinity of its column, which decides how SQLite compares what is in it.
    pub fn affinity(&self) -> &'static str {
        match self {
            FieldKind::Number { .. } => "NUMERIC",
            FieldKind::Bool => "INTEGER",
            _ => "TEXT",
        }
    }

    /// Types that share a storage form and may replace each other.
    fn is_plain_text(&self) -> bool {
        matches!(
            self,
            FieldKind::Text(_) | FieldKind::Email(_) | FieldKind::Url(_) | FieldKind::Editor { .. }
        )
    }
}

impl CollectionKind {
    pub fn name(self) -> &'static str {
        match self {
            CollectionKind::Base => "base",
            CollectionKind::Auth => "auth",
        }
    }
}

/// A field from its JSON form, for tests of other modules.
#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub fn test_field(definition: Value) -> Field {
    let draft = definition::Draft::parse(&serde_json::json!({"fields": [definition]})).unwrap();
    draft.fields.unwrap().remove(0)
}

/// A collection from its JSON form, for tests of other modules.
#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub fn test_collection(id: &str, name: &str, fields: Value) -> Collection {
    let draft = definition::Draft::parse(&serde_json::json!({"fields": fields})).unwrap();
    Collection {
        id: id.to_owned(),
        database: crate::store::db::DEFAULT.to_owned(),
        name: name.to_owned(),
        kind: CollectionKind::Base,
        fields: draft.fields.unwrap(),
        indexes: Vec::new(),
        rules: Rules::default(),
        options: Map::new(),
        triggers: Vec::new(),
        created: String::new(),
        updated: String::new(),
    }
}

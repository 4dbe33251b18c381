//! A field of a collection: its type, with the options of that type.

use regex_lite::Regex;

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
    pub(super) fn is_plain_text(&self) -> bool {
        matches!(
            self,
            FieldKind::Text(_) | FieldKind::Email(_) | FieldKind::Url(_) | FieldKind::Editor { .. }
        )
    }
}

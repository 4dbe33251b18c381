//! A field of a collection: its type, with the options of that type.

use regex_lite::Regex;
use serde_json::Value;

use super::pattern::Generator;

#[derive(Clone, Debug)]
pub struct Field {
    /// Generated, or given by the client.
    pub id: String,
    /// Also the name of its column.
    pub name: String,
    pub kind: FieldKind,
    pub required: bool,
    pub unique: bool,
    /// Visible to admins and API keys only.
    pub hidden: bool,
    /// An unset value is answered as `null`, and a number can be unset.
    pub nullable: bool,
    /// The value of a new record that does not mention the field.
    pub default: Option<Value>,
    pub labels: FieldLabels,
}

/// Attributes for tools. They have no effect on records.
#[derive(Clone, Debug, Default)]
pub struct FieldLabels {
    /// A dashboard shows it where it names the record.
    pub presentable: bool,
    /// It belongs to the type of its collection.
    pub system: bool,
    pub help: String,
}

#[derive(Clone, Debug)]
pub enum FieldKind {
    Text(TextOptions),
    Email(DomainOptions),
    Url(DomainOptions),
    /// Rich text.
    Editor {
        bytes_max: usize,
        /// For the editor of a dashboard: keep URLs as they are or make them relative.
        converts_urls: bool,
    },
    Number {
        min: Option<f64>,
        max: Option<f64>,
        integers_only: bool,
    },
    Bool,
    /// A day, `YYYY-MM-DD`.
    Date(TimeOptions),
    /// A point in time, in the format of `clock`.
    Datetime(TimeOptions),
    Select {
        values: Vec<String>,
        select_max: usize,
    },
    Json {
        bytes_max: usize,
    },
    Relation(RelationOptions),
    /// Names of the stored files of the record.
    File(FileOptions),
    /// It is written, hashed, and never shown.
    Password {
        chars_min: usize,
        limits: PasswordLimits,
    },
    /// The time of the creation of the record, of its last change, or both.
    Autodate {
        on_create: bool,
        on_update: bool,
    },
    /// A place, `{"lon": 0, "lat": 0}`.
    GeoPoint,
}

/// Options of `text`; lengths in characters.
#[derive(Clone, Debug, Default)]
pub struct TextOptions {
    pub chars_min: usize,
    pub chars_max: Option<usize>,
    pub pattern: Option<Regex>,
    /// Makes the value of a new record that does not mention the field.
    pub autogenerate: Option<Generator>,
}

/// Options of `password` besides its least length.
#[derive(Clone, Debug, Default)]
pub struct PasswordLimits {
    pub chars_max: Option<usize>,
    pub pattern: Option<Regex>,
    /// The cost of bcrypt, for tools; passwords are hashed by argon2id.
    pub cost: usize,
}

/// Options of `email` and `url`: allowed or excluded domains.
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
    /// The least number of values, unless there are none.
    pub select_min: usize,
    pub select_max: usize,
    /// If the target is deleted, this record is deleted too. Otherwise the reference is cleared,
    /// or, if the field is required, the deletion fails.
    pub cascade_delete: bool,
}

/// Options of `file`.
#[derive(Clone, Debug)]
pub struct FileOptions {
    pub select_max: usize,
    /// The size limit of each file.
    pub bytes_max: u64,
    /// Allowed media types; empty for all.
    pub media_types: Vec<String>,
    /// A download needs the token of a caller that can view the record.
    pub protected: bool,
    /// Sizes of smaller pictures, for tools.
    pub thumbs: Vec<String>,
}

impl Field {
    /// True if its value is a list.
    pub fn is_multiple(&self) -> bool {
        match &self.kind {
            FieldKind::Select { select_max, .. } => *select_max > 1,
            FieldKind::Relation(options) => options.select_max > 1,
            FieldKind::File(options) => options.select_max > 1,
            FieldKind::Text(_)
            | FieldKind::Email(_)
            | FieldKind::Url(_)
            | FieldKind::Editor { .. }
            | FieldKind::Number { .. }
            | FieldKind::Bool
            | FieldKind::Date(_)
            | FieldKind::Datetime(_)
            | FieldKind::Json { .. }
            | FieldKind::Autodate { .. }
            | FieldKind::GeoPoint
            | FieldKind::Password { .. } => false,
        }
    }

    /// The options, if this is a relation.
    pub fn relation(&self) -> Option<&RelationOptions> {
        match &self.kind {
            FieldKind::Relation(options) => Some(options),
            _ => None,
        }
    }

    /// The options, if this is a file field.
    pub fn file(&self) -> Option<&FileOptions> {
        match &self.kind {
            FieldKind::File(options) => Some(options),
            _ => None,
        }
    }

    /// True if its values are JSON text, into which a path can lead.
    pub fn is_json(&self) -> bool {
        matches!(self.kind, FieldKind::Json { .. } | FieldKind::GeoPoint)
    }

    /// True if it holds the hash of a password, which is never shown.
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
            FieldKind::Autodate { .. } => "autodate",
            FieldKind::GeoPoint => "geoPoint",
        }
    }

    /// The affinity of its column, which decides how SQLite compares values.
    pub fn affinity(&self) -> &'static str {
        match self {
            FieldKind::Number { .. } => "NUMERIC",
            FieldKind::Bool => "INTEGER",
            FieldKind::Text(_)
            | FieldKind::Email(_)
            | FieldKind::Url(_)
            | FieldKind::Editor { .. }
            | FieldKind::Date(_)
            | FieldKind::Datetime(_)
            | FieldKind::Select { .. }
            | FieldKind::Json { .. }
            | FieldKind::Relation(_)
            | FieldKind::File(_)
            | FieldKind::Autodate { .. }
            | FieldKind::GeoPoint
            | FieldKind::Password { .. } => "TEXT",
        }
    }

    /// True for types with the same storage form, which can replace each other.
    pub(super) fn is_plain_text(&self) -> bool {
        match self {
            FieldKind::Text(_)
            | FieldKind::Email(_)
            | FieldKind::Url(_)
            | FieldKind::Editor { .. } => true,
            FieldKind::Number { .. }
            | FieldKind::Bool
            | FieldKind::Date(_)
            | FieldKind::Datetime(_)
            | FieldKind::Select { .. }
            | FieldKind::Json { .. }
            | FieldKind::Relation(_)
            | FieldKind::File(_)
            | FieldKind::Autodate { .. }
            | FieldKind::GeoPoint
            | FieldKind::Password { .. } => false,
        }
    }
}

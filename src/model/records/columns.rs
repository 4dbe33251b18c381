//! Columns of records as a plan selects and writes them.

use rusqlite::types::ValueRef;

use super::excerpt::Excerpt;
use super::json::write_value;
use super::shape::FieldTree;
use crate::base::json::write_text;
use crate::model::collections::{Collection, Field};
use crate::model::events::RecordState;
use crate::model::rules::Fields;
use crate::store::db::quote;

/// A selected column; its index in the plan is its index in the row.
pub struct Column {
    /// Index in `Collection::fields`; none for id, created and updated.
    pub field: Option<usize>,
    pub name: &'static str,
    /// Selected but not written.
    pub hidden: bool,
    /// The column is NULL if the caller may not see the value, and is then left out.
    pub is_guarded: bool,
    pub excerpt: Option<Excerpt>,
}

impl Column {
    /// A column that is only selected.
    pub fn hidden(field: Option<usize>, name: &'static str) -> Column {
        Column {
            field,
            name,
            hidden: true,
            is_guarded: false,
            excerpt: None,
        }
    }
}

/// The fields wanted of the records of a relation. Without names below it all are. `*` stands for
/// the relations that are not named.
pub fn below<'a>(fields: Option<&'a FieldTree>, name: &str) -> Option<&'a FieldTree> {
    let tree = fields.and_then(|it| it.children.get(name).or_else(|| it.children.get("*")));
    tree.filter(|tree| !tree.children.is_empty())
}

/// True if an expansion shows this relation: it names it, or none at all.
pub fn wants_below(fields: Option<&FieldTree>, name: &str) -> bool {
    fields.is_none_or(|tree| tree.children.is_empty() || tree.has(name))
}

/// Approximate length of a value in the response.
pub fn length_of(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
    }
}

/// A `SELECT` that makes a row from parameters, with the column types of the table.
pub fn row_of_parameters(collection: &Collection) -> String {
    let system = RecordState::SYSTEM.map(|name| (name.to_owned(), "TEXT"));
    let fields = collection.fields.iter();
    let fields = fields.map(|field| (quote(&field.name), field.kind.affinity()));
    let columns = system.into_iter().chain(fields).enumerate();
    let columns =
        columns.map(|(at, (name, kind))| format!("CAST(?{} AS {kind}) AS {name}", at + 1));
    format!("SELECT {}", columns.collect::<Vec<_>>().join(", "))
}

pub fn is_readable(fields: &Fields, field: &Field) -> bool {
    !field.is_secret() && fields.has(&field.name, field.hidden)
}

/// Writes the excerpt of a text field if one is requested, else the value.
pub fn write_excerpt(
    field: &Field,
    excerpt: Option<Excerpt>,
    value: ValueRef<'_>,
    out: &mut Vec<u8>,
) {
    let is_text = !field.is_multiple() && !field.is_json();
    match (excerpt.filter(|_| is_text), value) {
        (Some(part), ValueRef::Text(text)) => {
            write_text(part.apply(&String::from_utf8_lossy(text)).as_bytes(), out);
        }
        _ => write_value(field, value, out),
    }
}

pub fn text_of(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(text) => text,
        _ => b"",
    }
}

//! Writes stored values as JSON, for responses, events and webhooks.

use rusqlite::types::ValueRef;

use super::value::ORIGIN;
use crate::base::json::{write_json, write_text};
use crate::model::collections::{Field, FieldKind};

/// Writes a stored value as JSON. An unset value is `null` if the field is nullable; else `""`,
/// `[]`, `false` or 0, depending on its type, and `null` for json.
pub fn write_value(field: &Field, value: ValueRef<'_>, out: &mut Vec<u8>) {
    if field.nullable && value == ValueRef::Null {
        out.extend_from_slice(b"null");
        return;
    }
    match &field.kind {
        FieldKind::Bool => {
            let is_true = matches!(value, ValueRef::Integer(number) if number != 0);
            out.extend_from_slice(if is_true { b"true" } else { b"false" });
        }
        FieldKind::Number { .. } => match value {
            ValueRef::Integer(number) => write_json(&number, out),
            ValueRef::Real(number) => write_json(&number, out),
            _ => out.extend_from_slice(b"0"),
        },
        FieldKind::GeoPoint => match value {
            // Written by this program.
            ValueRef::Text(text) => out.extend_from_slice(text),
            _ => out.extend_from_slice(ORIGIN.as_bytes()),
        },
        FieldKind::Json { .. } => match value {
            ValueRef::Null => out.extend_from_slice(b"null"),
            // Validated as JSON when it was stored.
            ValueRef::Text(text) => out.extend_from_slice(text),
            value => write_as_text(value, out),
        },
        FieldKind::Text(_)
        | FieldKind::Email(_)
        | FieldKind::Url(_)
        | FieldKind::Editor { .. }
        | FieldKind::Date(_)
        | FieldKind::Datetime(_)
        | FieldKind::Select { .. }
        | FieldKind::Relation(_)
        | FieldKind::File(_)
        | FieldKind::Autodate { .. }
        | FieldKind::Password { .. } => match value {
            ValueRef::Text(text) if field.is_multiple() => out.extend_from_slice(text),
            ValueRef::Null if field.is_multiple() => out.extend_from_slice(b"[]"),
            value => write_as_text(value, out),
        },
    }
}

fn write_as_text(value: ValueRef<'_>, out: &mut Vec<u8>) {
    match value {
        ValueRef::Text(text) => write_text(text, out),
        ValueRef::Integer(number) => write_text(number.to_string().as_bytes(), out),
        ValueRef::Real(number) => write_text(number.to_string().as_bytes(), out),
        ValueRef::Null | ValueRef::Blob(_) => out.extend_from_slice(b"\"\""),
    }
}

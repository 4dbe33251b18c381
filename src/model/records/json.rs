//! Writes stored values as JSON, for responses, events and webhooks.

use rusqlite::types::ValueRef;

use crate::base::json::{write_json, write_text};
use crate::model::collections::{Field, FieldKind};

/// Writes a stored value as JSON. An unset value is `""`, `[]`, `false` or `null`, depending on the
/// type of the field.
pub fn write_value(field: &Field, value: ValueRef<'_>, out: &mut Vec<u8>) {
    match (&field.kind, value) {
        (FieldKind::Bool, value) => {
            let is_true = matches!(value, ValueRef::Integer(number) if number != 0);
            out.extend_from_slice(if is_true { b"true" } else { b"false" });
        }
        (FieldKind::Number { .. }, ValueRef::Integer(number)) => write_json(&number, out),
        (FieldKind::Number { .. }, ValueRef::Real(number)) => write_json(&number, out),
        (FieldKind::Number { .. }, _) | (FieldKind::Json { .. }, ValueRef::Null) => {
            out.extend_from_slice(b"null");
        }
        // Validated as JSON when it was stored.
        (FieldKind::Json { .. }, ValueRef::Text(text)) => out.extend_from_slice(text),
        (_, ValueRef::Text(text)) if field.is_multiple() => out.extend_from_slice(text),
        (_, ValueRef::Null) if field.is_multiple() => out.extend_from_slice(b"[]"),
        (_, ValueRef::Text(text)) => write_text(text, out),
        (_, ValueRef::Integer(number)) => write_text(number.to_string().as_bytes(), out),
        (_, ValueRef::Real(number)) => write_text(number.to_string().as_bytes(), out),
        (_, ValueRef::Null | ValueRef::Blob(_)) => out.extend_from_slice(b"\"\""),
    }
}

//! Writes stored values as JSON, for responses, events and webhooks.

use rusqlite::types::ValueRef;

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

/// Writes a JSON string. Bytes that are not UTF-8 are replaced; only another program can have
/// stored them.
pub fn write_text(text: &[u8], out: &mut Vec<u8>) {
    if is_plain(text) {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
        return;
    }
    match std::str::from_utf8(text) {
        Ok(text) => write_json(&text, out),
        Err(_) => write_json(&String::from_utf8_lossy(text), out),
    }
}

/// True if the string is ASCII without characters that JSON escapes. Each piece is checked without
/// a branch per byte.
fn is_plain(text: &[u8]) -> bool {
    const PIECE_BYTES: usize = 128;
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\');
    let is_plain_piece = |piece: &[u8]| {
        let bytes = piece.iter();
        bytes.fold(true, |so_far, byte| so_far & is_plain(*byte))
    };
    text.chunks(PIECE_BYTES).all(is_plain_piece)
}

fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let result = serde_json::to_writer(out, value);
    debug_assert!(result.is_ok(), "text and numbers always have a JSON form");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_serde_writes_them() {
        let check = |text: &str| {
            let mut out = Vec::new();
            write_text(text.as_bytes(), &mut out);
            assert_eq!(out, serde_json::to_vec(text).unwrap(), "{text:?}");
        };
        check("");
        for char in ('\0'..='\u{200}').chain(['\u{2028}', '\u{1f600}']) {
            for before in [0, 1, 127, 128, 300] {
                check(&format!("{}{char}end", "x".repeat(before)));
            }
        }
    }

    #[test]
    fn what_is_no_utf8_is_replaced() {
        let mut out = Vec::new();
        write_text(b"a\xffb", &mut out);
        assert_eq!(out, "\"a\u{fffd}b\"".as_bytes());
    }
}

//! Shared by the parsers of definitions: errors by attribute, and common forms of attributes.

use serde_json::{Map, Value};

use crate::base::error::{Error, Result};

/// The key of a field in errors. It differs from the name of every attribute.
pub fn key_of_field(name: &str) -> String {
    format!("fields.{name}")
}

/// An error of an attribute of a definition; for a field, see [`key_of_field`].
pub fn invalid(name: &str, message: impl Into<String>) -> Error {
    Error::field(name, "validation_invalid_definition", message)
}

/// True if a field or collection can have this name.
pub fn is_word(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Reads an object, also as a JSON string.
pub fn object_or_string(name: &str, value: &Value) -> Result<Map<String, Value>> {
    let parsed = match value {
        Value::Null => return Ok(Map::new()),
        Value::Object(object) => return Ok(object.clone()),
        Value::String(text) => serde_json::from_str(text).ok(),
        _ => None,
    };
    parsed.ok_or_else(|| {
        invalid(
            name,
            "options must be an object, or an object as a JSON string.",
        )
    })
}

pub fn optional_string(name: &str, value: &Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(invalid(name, "Must be a string or null.")),
    }
}

//! Shared by the readers of definitions: errors by attribute, and the forms that several attributes have.

use serde_json::{Map, Value};

use crate::base::error::{Error, Result};

/// The key of a field among what is wrong: none of an attribute is like it.
pub fn key_of_field(name: &str) -> String {
    format!("fields.{name}")
}

/// The error of an attribute of a definition, or with a field by its [`key_of_field`].
pub fn invalid(name: &str, message: impl Into<String>) -> Error {
    Error::field(name, "validation_invalid_definition", message)
}

/// Whether a field or collection may be called so.
pub fn is_word(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// An object, also as a JSON string.
pub fn object_or_text(name: &str, value: &Value) -> Result<Map<String, Value>> {
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

pub fn optional_text(name: &str, value: &Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(invalid(name, "Must be text or null.")),
    }
}

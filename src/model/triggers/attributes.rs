//! Extracts attributes of triggers, webhooks and jobs from JSON objects.

use serde_json::{Map, Value};

use crate::base::error::{Error, Result};

/// Default and largest number of retries.
pub const RETRIES: u32 = 5;
pub const RETRIES_MAX: u32 = 100;
/// Largest body or input. Each waiting call has a copy.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// Refuses the attributes that remain in an object.
pub fn refuse_unknown(name: &str, object: &Map<String, Value>) -> Result<()> {
    match object.keys().next() {
        None => Ok(()),
        Some(key) => Err(invalid_value(
            if name.is_empty() {
                key.clone()
            } else {
                format!("{name}.{key}")
            },
            "There is no such attribute.",
        )),
    }
}

/// Removes a string from an object. An empty one counts as none.
pub fn extract_string(
    name: &str,
    key: &str,
    object: &mut Map<String, Value>,
) -> Result<Option<String>> {
    match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(_) => Err(invalid_value(name, "Must be a string.")),
    }
}

pub fn extract_retries(name: &str, object: &mut Map<String, Value>) -> Result<u32> {
    let value = match object.remove("retryLimit") {
        None | Some(Value::Null) => return Ok(RETRIES),
        Some(value) => value.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    let value = value.filter(|number| (1..=RETRIES_MAX).contains(number));
    value.ok_or_else(|| invalid_value(name, format!("Must be 1 to {RETRIES_MAX}.")))
}

pub fn too_long(name: String) -> Error {
    invalid_value(name, format!("At most {} KiB.", BODY_BYTES_MAX >> 10))
}

/// An error of an attribute.
pub fn invalid_value(name: impl Into<String>, message: impl Into<String>) -> Error {
    Error::field(name.into(), "validation_invalid_value", message.into())
}

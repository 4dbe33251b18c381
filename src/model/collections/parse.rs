//! Shared by the parsers of definitions: errors by attribute, and common forms of attributes.

use serde_json::{Map, Value};

use crate::base::error::{Error, FieldError, FieldErrors, Result};

/// Largest number of errors of one definition that are named.
const PROBLEMS_MAX: usize = 100;
/// Longest name of a field or collection.
const NAME_BYTES_MAX: usize = 100;

pub const INVALID: &str = "validation_invalid_definition";
pub const REQUIRED: &str = "validation_required";

/// The errors of one definition, by attribute: all are named in one answer. Attributes within
/// attributes are joined by dots (`fields.3.name`); an answer nests them.
#[derive(Debug, Default)]
pub struct Problems {
    errors: FieldErrors,
    /// The names of the fields, and the position of each in the request.
    positions: Vec<(String, usize)>,
}

impl Problems {
    /// Adds an error; the first one of an attribute counts.
    pub fn add(&mut self, key: &str, code: &'static str, message: impl Into<String>) {
        let error = FieldError::new(code, message);
        let key = self.with_position(key);
        if self.errors.len() < PROBLEMS_MAX {
            self.errors.entry(key).or_insert(error);
        }
    }

    /// Adds the error of a check, as that of `key` if it names no attribute itself. Fails with an
    /// error that is none of the definition's.
    pub fn take(&mut self, key: &str, result: Result<()>) -> Result<()> {
        use crate::base::error::Kind;
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() != Kind::Invalid => Err(error),
            Err(error) if error.field_errors().is_empty() => {
                self.add(key, INVALID, error.message());
                Ok(())
            }
            Err(error) => {
                for (key, field) in error.field_errors() {
                    self.add(key, field.code, field.message.clone());
                }
                Ok(())
            }
        }
    }

    /// Records the position of a field.
    pub fn place(&mut self, name: &str, position: usize) {
        self.positions.push((name.to_owned(), position));
    }

    /// Replaces the name of a field in [`key_of_field`] by its position.
    fn with_position(&self, key: &str) -> String {
        let rest = key.strip_prefix(FIELD_PREFIX);
        let named = rest.map(|rest| rest.split_once('.').unwrap_or((rest, "")));
        let position = named.and_then(|(name, attribute)| {
            let (_, at) = self.positions.iter().find(|(known, _)| known == name)?;
            Some((at, attribute))
        });
        match position {
            Some((at, "")) => format!("fields.{at}.name"),
            Some((at, attribute)) => format!("fields.{at}.{attribute}"),
            None => key.replacen(FIELD_PREFIX, "fields.", 1),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    pub fn into_errors(self) -> FieldErrors {
        self.errors
    }

    /// An error that names all of them, if there are any.
    pub fn check(self, message: &str) -> Result<()> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(Error::fields(message, self.errors)),
        }
    }
}

/// Begins the keys of fields by name until [`Problems`] knows their positions.
const FIELD_PREFIX: &str = "fields:";

/// The key of a field, or of an attribute of it, in errors.
pub fn key_of_field(name: &str) -> String {
    format!("{FIELD_PREFIX}{name}")
}

/// An error of an attribute of a definition; for a field, see [`key_of_field`].
pub fn invalid(name: &str, message: impl Into<String>) -> Error {
    Error::field(name, INVALID, message)
}

/// True if a field or collection can have this name.
pub fn is_word(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
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

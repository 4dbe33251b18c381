//! Errors of the values of fields.

use crate::base::error::FieldError;

pub type FieldResult<T> = Result<T, FieldError>;

pub fn required_error() -> FieldError {
    FieldError::new("validation_required", "Cannot be blank.")
}

/// Shortens a string from the client for an error message.
pub fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

pub fn field_error<T>(code: &'static str, message: &str) -> FieldResult<T> {
    Err(FieldError::new(code, message))
}

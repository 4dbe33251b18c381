//! Checks of strings against the options of their fields: length, pattern, address, domain.

use rusqlite::types::Value as Stored;

use super::error::{FieldResult, field_error};
use crate::model::collections::{DomainOptions, Field, FieldKind, PasswordLimits, TextOptions};
use crate::net::mail;

/// Maximum length of a field with a pattern and no `max`: the time of a match grows with both
/// lengths.
const PATTERN_CHARS_MAX: usize = 5000;

/// Checks a password before it is hashed.
pub fn check_password(text: &str, chars_min: usize, limits: &PasswordLimits) -> FieldResult<()> {
    const BYTES_MAX: usize = 256;
    if text.chars().count() < chars_min {
        return field_error(
            "validation_min_text_constraint",
            &format!("Must have at least {chars_min} characters."),
        );
    }
    if text.len() > BYTES_MAX {
        return field_error(
            "validation_max_text_constraint",
            "Must have at most 256 bytes.",
        );
    }
    let is_too_long = |max: &usize| text.chars().count() > *max;
    if let Some(max) = limits.chars_max.filter(is_too_long) {
        return field_error(
            "validation_max_text_constraint",
            &format!("Must have at most {max} characters."),
        );
    }
    if limits.pattern.as_ref().is_some_and(|it| !it.is_match(text)) {
        return field_error(
            "validation_invalid_format",
            "Does not match the required pattern.",
        );
    }
    Ok(())
}

fn text_or_null(text: String) -> Stored {
    if text.is_empty() {
        Stored::Null
    } else {
        Stored::Text(text)
    }
}

/// Checks an id against the field `id` of its collection.
pub fn check_id(field: &Field, id: &str) -> FieldResult<()> {
    match &field.kind {
        FieldKind::Text(options) => check_text(id.to_owned(), options).map(|_| ()),
        _ => Ok(()),
    }
}

pub fn check_text(text: String, options: &TextOptions) -> FieldResult<Stored> {
    if text.is_empty() {
        return Ok(Stored::Null);
    }
    let chars = text.chars().count();
    if chars < options.chars_min {
        let message = format!("Must have at least {} characters.", options.chars_min);
        return field_error("validation_min_text_constraint", &message);
    }
    let chars_max = match (options.chars_max, &options.pattern) {
        (None, Some(_)) => Some(PATTERN_CHARS_MAX),
        (max, _) => max,
    };
    if let Some(max) = chars_max.filter(|max| chars > *max) {
        return field_error(
            "validation_max_text_constraint",
            &format!("Must have at most {max} characters."),
        );
    }
    if options
        .pattern
        .as_ref()
        .is_some_and(|pattern| !pattern.is_match(&text))
    {
        return field_error(
            "validation_invalid_format",
            "Does not match the required pattern.",
        );
    }
    Ok(Stored::Text(text))
}

pub fn check_bytes(text: String, bytes_max: usize, code: &'static str) -> FieldResult<Stored> {
    if text.len() > bytes_max {
        return field_error(code, &format!("Must have at most {bytes_max} bytes."));
    }
    Ok(text_or_null(text))
}

pub fn check_email(text: String, options: &DomainOptions) -> FieldResult<Stored> {
    if text.is_empty() {
        return Ok(Stored::Null);
    }
    match text.rsplit_once('@') {
        Some((_, domain)) if mail::is_address(&text) => {
            check_domain(domain, options, "validation_email_domain_not_allowed")?;
            Ok(Stored::Text(text))
        }
        _ => field_error("validation_is_email", "Must be an e-mail address."),
    }
}

pub fn check_url(text: String, options: &DomainOptions) -> FieldResult<Stored> {
    if text.is_empty() {
        return Ok(Stored::Null);
    }
    match url_host(&text) {
        Some(host) => {
            check_domain(host, options, "validation_url_domain_not_allowed")?;
            Ok(Stored::Text(text))
        }
        None => field_error(
            "validation_invalid_url",
            "Must be a URL such as https://example.com/path.",
        ),
    }
}

/// The host of an absolute URL, without user and port.
fn url_host(text: &str) -> Option<&str> {
    if text
        .chars()
        .any(|char| char.is_whitespace() || char.is_control())
    {
        return None;
    }
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.split(']').next()?,
        None => host.split(':').next()?,
    };
    (is_scheme && !host.is_empty()).then_some(host)
}

fn check_domain(domain: &str, options: &DomainOptions, code: &'static str) -> FieldResult<()> {
    let is_listed = |list: &[String]| list.iter().any(|known| known.eq_ignore_ascii_case(domain));
    if (!options.only.is_empty() && !is_listed(&options.only)) || is_listed(&options.except) {
        return field_error(code, "Addresses of this domain are not accepted.");
    }
    Ok(())
}

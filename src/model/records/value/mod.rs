//! Parses and validates the JSON values of fields; each field gets its own error.
//!
//! An unset value (absent on create, `null`, the empty string, the empty list) is stored as NULL,
//! unless the field is `required`. Numbers and booleans may be strings, since forms send strings.

use std::collections::BTreeMap;

use rusqlite::types::Value as Stored;
use serde_json::Value;
use serde_json::value::RawValue;

pub use error::{field_error, required_error, shorten};
pub use field_value::FieldValue;
pub use point::ORIGIN;
pub use text::check_id;

use error::FieldResult;
use text::{check_bytes, check_email, check_password, check_text, check_url};

use crate::base::error::Error;
use crate::base::{clock, ids};
use crate::model::collections::{Field, FieldKind, TimeOptions};

mod error;
mod field_value;
mod point;
mod strict;
mod text;

/// A JSON object with unparsed values, so that json fields keep their text as sent.
pub type RawBody = BTreeMap<String, Box<RawValue>>;

/// The change of one field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldChange {
    Set(FieldValue),
    /// `field+` or `field-` of a number; an integer or a real.
    Add(Stored),
    /// `field+` of a list.
    Append(Vec<String>),
    /// `+field` of a list.
    Prepend(Vec<String>),
    /// `field-` of a list.
    Remove(Vec<String>),
    /// A password to hash.
    Hash(String),
}

/// Parses the new value of a field.
pub fn parse(field: &Field, raw: &RawValue) -> FieldResult<FieldChange> {
    let text = raw.get();
    if let FieldKind::Json { bytes_max } = field.kind {
        let stored = parse_json(field, text, bytes_max)?;
        return Ok(FieldChange::Set(FieldValue::Scalar(stored)));
    }
    if let FieldKind::GeoPoint = field.kind {
        let value = FieldValue::Scalar(point::parse_point(text)?);
        return set(field, value);
    }
    let value = scalar_or_list(field, text)?;
    if let (FieldKind::Password { chars_min, limits }, Value::String(text)) = (&field.kind, &value)
    {
        check_password(text, *chars_min, limits)?;
        return Ok(FieldChange::Hash(text.clone()));
    }
    let value = match field.kind {
        FieldKind::Select { .. } | FieldKind::Relation(_) | FieldKind::File(_) => {
            parse_choices(field, &value)?
        }
        _ => FieldValue::Scalar(parse_scalar(field, &value)?),
    };
    set(field, value)
}

/// The change to a value, which an unset one is replaced by that of the field.
fn set(field: &Field, value: FieldValue) -> FieldResult<FieldChange> {
    let value = match value.is_unset() {
        true => unset_value(field),
        false => value,
    };
    if field.required && is_blank(field, &value) {
        return Err(required_error());
    }
    Ok(FieldChange::Set(value))
}

/// True for a value that a required field does not accept: an unset one, 0 of a number that is not
/// nullable, and false.
pub fn is_blank(field: &Field, value: &FieldValue) -> bool {
    match value {
        FieldValue::Scalar(Stored::Integer(0)) => !field.nullable,
        FieldValue::Scalar(Stored::Real(number)) => !field.nullable && *number == 0.0,
        FieldValue::Scalar(Stored::Text(text)) => {
            matches!(field.kind, FieldKind::GeoPoint) && text == ORIGIN
        }
        value => value.is_unset(),
    }
}

/// Refuses a default that the field does not accept.
pub fn check_default(field: &Field) -> Result<(), Error> {
    match default_of(field) {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(Error::invalid(error.message)),
    }
}

/// The default that the definition of the field gives.
fn default_of(field: &Field) -> Option<FieldResult<FieldValue>> {
    let default = field.default.as_ref()?;
    let has_default = !matches!(
        field.kind,
        FieldKind::Password { .. } | FieldKind::File(_) | FieldKind::Autodate { .. }
    );
    let refused = || field_error("validation_invalid_value", "This type has no default.");
    let raw = serde_json::value::to_raw_value(default)
        .ok()
        .filter(|_| has_default);
    Some(match raw.map(|raw| parse(field, &raw)) {
        Some(Ok(FieldChange::Set(value))) => Ok(value),
        Some(Err(error)) => Err(error),
        _ => refused(),
    })
}

/// Parses the value of `field+`, `+field` or `field-`.
pub fn parse_modifier(
    field: &Field,
    modifier: Modifier,
    raw: &RawValue,
) -> FieldResult<FieldChange> {
    let value = scalar_or_list(field, raw.get())?;
    if matches!(field.kind, FieldKind::Number { .. }) && modifier != Modifier::Prepend {
        let Some(number) = number_of(&value) else {
            return field_error("validation_invalid_value", "Must be a number.");
        };
        let is_negative = modifier == Modifier::Remove;
        let whole = number.as_i64().and_then(|n| {
            if is_negative {
                n.checked_neg()
            } else {
                Some(n)
            }
        });
        let real = number.as_f64().unwrap_or(f64::NAN) * if is_negative { -1.0 } else { 1.0 };
        return Ok(FieldChange::Add(
            whole.map_or(Stored::Real(real), Stored::Integer),
        ));
    }
    if !field.is_multiple() && field.file().is_none() {
        return field_error(
            "validation_invalid_modifier",
            "Modifiers (+/-) apply to numbers and lists only.",
        );
    }
    let list = strings_of(&value)?;
    if modifier != Modifier::Remove {
        for text in &list {
            check_choice(field, text)?;
        }
    }
    Ok(match modifier {
        Modifier::Append => FieldChange::Append(list),
        Modifier::Prepend => FieldChange::Prepend(list),
        Modifier::Remove => FieldChange::Remove(list),
    })
}

/// The operator of a key such as `tags+`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modifier {
    Append,
    Prepend,
    Remove,
}

impl Modifier {
    /// Splits `tags+`, `+tags` or `tags-` into the name and the modifier.
    pub fn split(key: &str) -> Option<(&str, Modifier)> {
        if let Some(name) = key.strip_prefix('+') {
            return Some((name, Modifier::Prepend));
        }
        let modifier = if key.ends_with('+') {
            Modifier::Append
        } else {
            Modifier::Remove
        };
        key.strip_suffix(['+', '-']).map(|name| (name, modifier))
    }
}

/// The value of a field that a new record does not mention; an error if the field is required.
pub fn default_value(field: &Field) -> FieldResult<FieldValue> {
    if let Some(value) = default_of(field) {
        return value;
    }
    match field.required {
        true => Err(required_error()),
        false => Ok(unset_value(field)),
    }
}

/// The unset value, even of a required field.
pub fn unset_value(field: &Field) -> FieldValue {
    match field.kind {
        FieldKind::Bool => FieldValue::Scalar(Stored::Integer(0)),
        FieldKind::Number { .. } if !field.nullable => FieldValue::Scalar(Stored::Integer(0)),
        FieldKind::GeoPoint if !field.nullable => {
            FieldValue::Scalar(Stored::Text(ORIGIN.to_owned()))
        }
        _ => FieldValue::load(field, Stored::Null),
    }
}

/// Checks a number against the options of its field.
pub fn check_number(field: &Field, number: f64) -> FieldResult<()> {
    let FieldKind::Number {
        min,
        max,
        integers_only,
    } = field.kind
    else {
        return Ok(());
    };
    if integers_only && number.fract() != 0.0 {
        return field_error("validation_only_int_constraint", "Must be a whole number.");
    }
    let message = || format!("Must be {}.", range(min, max));
    if min.is_some_and(|min| number < min) {
        return field_error("validation_min_number_constraint", &message());
    }
    if max.is_some_and(|max| number > max) {
        return field_error("validation_max_number_constraint", &message());
    }
    Ok(())
}

/// Checks the number of values of a list.
pub fn check_count(field: &Field, count: usize) -> FieldResult<()> {
    let most = match &field.kind {
        FieldKind::Select { select_max, .. } => *select_max,
        FieldKind::Relation(options) => options.select_max,
        FieldKind::File(options) => options.select_max,
        _ => return Ok(()),
    };
    let least = field.relation().map_or(0, |options| options.select_min);
    if count > 0 && count < least {
        return field_error(
            "validation_not_enough_values",
            &format!("Select at least {least}."),
        );
    }
    if count > most {
        return field_error(
            "validation_too_many_values",
            &format!("Accepts at most {most} values."),
        );
    }
    if count == 0 && field.required {
        return Err(required_error());
    }
    Ok(())
}

fn parse_scalar(field: &Field, value: &Value) -> FieldResult<Stored> {
    match &field.kind {
        FieldKind::Text(options) => string_of(value).and_then(|text| check_text(text, options)),
        FieldKind::Editor { bytes_max, .. } => {
            let code = "validation_content_size_limit";
            string_of(value).and_then(|text| check_bytes(text, *bytes_max, code))
        }
        FieldKind::Email(options) => string_of(value).and_then(|text| check_email(text, options)),
        FieldKind::Url(options) => string_of(value).and_then(|text| check_url(text, options)),
        FieldKind::Number { .. } => parse_number(field, value),
        FieldKind::Bool => parse_bool(value),
        FieldKind::Date(options) => {
            string_of(value).and_then(|text| check_time(&text, options, clock::day_or_moment))
        }
        FieldKind::Datetime(options) => {
            string_of(value).and_then(|text| check_time(&text, options, as_datetime))
        }
        FieldKind::Autodate { .. } => string_of(value)
            .and_then(|text| check_time(&text, &TimeOptions::default(), as_datetime)),
        FieldKind::Select { .. }
        | FieldKind::Relation(_)
        | FieldKind::File(_)
        | FieldKind::Password { .. }
        | FieldKind::GeoPoint
        | FieldKind::Json { .. } => match value {
            Value::Null => Ok(Stored::Null),
            _ => field_error("validation_invalid_value", "Must be a string."),
        },
    }
}

/// Parses the JSON of a scalar or list. Objects and lists that the field cannot hold are refused
/// before they are parsed.
fn scalar_or_list(field: &Field, text: &str) -> FieldResult<Value> {
    /// Four times the size of a thousand ids.
    const LIST_BYTES_MAX: usize = 256 << 10;
    match text.as_bytes().first() {
        Some(b'{') => return field_error("validation_invalid_value", "Must not be an object."),
        Some(b'[')
            if !matches!(
                field.kind,
                FieldKind::Select { .. } | FieldKind::Relation(_) | FieldKind::File(_)
            ) =>
        {
            return field_error("validation_invalid_value", "Must not be a list.");
        }
        Some(b'[') if text.len() > LIST_BYTES_MAX => {
            return field_error("validation_too_many_values", "Has too many values.");
        }
        _ => {}
    }
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(_) => field_error(
            "validation_invalid_value",
            "Must be a string, number or list.",
        ),
    }
}

fn parse_json(field: &Field, text: &str, bytes_max: usize) -> FieldResult<Stored> {
    /// JSON parsers stop at 128 levels, some of which the enclosing record needs.
    const DEPTH_MAX: usize = 100;
    let is_blank = matches!(text, "null" | "\"\"" | "[]" | "{}");
    if text == "null" || (is_blank && field.required) {
        return if field.required {
            Err(required_error())
        } else {
            Ok(Stored::Null)
        };
    }
    if depth_of(text) > DEPTH_MAX {
        return field_error("validation_invalid_value", "Is nested too deeply.");
    }
    if text.len() <= bytes_max
        && let Err(error) = serde_json::from_str::<strict::Strict>(text)
    {
        return field_error(
            "validation_invalid_value",
            &format!("Cannot be stored: {error}."),
        );
    }
    check_bytes(text.to_owned(), bytes_max, "validation_json_size_limit")
}

/// Maximum nesting of arrays and objects in valid JSON.
fn depth_of(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The string of a value; `null` is the empty string. NUL is refused because SQLite's text
/// functions stop there.
fn string_of(value: &Value) -> FieldResult<String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) if text.contains('\0') => field_error(
            "validation_invalid_text",
            "Must not contain a NUL character.",
        ),
        Value::String(text) => Ok(text.clone()),
        _ => field_error("validation_invalid_value", "Must be a string."),
    }
}

fn strings_of(value: &Value) -> FieldResult<Vec<String>> {
    let list = match value {
        Value::Array(list) => list
            .iter()
            .map(string_of)
            .collect::<FieldResult<Vec<_>>>()?,
        single => vec![string_of(single)?],
    };
    let mut distinct: Vec<String> = Vec::new();
    for text in list {
        if !text.is_empty() && !distinct.contains(&text) {
            distinct.push(text);
        }
    }
    Ok(distinct)
}

fn number_of(value: &Value) -> Option<serde_json::Number> {
    match value {
        Value::Number(number) => Some(number.clone()),
        Value::String(text) => serde_json::from_str(text.trim()).ok(),
        _ => None,
    }
}

fn parse_number(field: &Field, value: &Value) -> FieldResult<Stored> {
    if value.is_null() || value.as_str() == Some("") {
        return Ok(Stored::Null);
    }
    let Some(number) = number_of(value) else {
        return field_error("validation_not_a_number", "Must be a number.");
    };
    let real = number.as_f64().unwrap_or(f64::NAN);
    check_number(field, real)?;
    Ok(match number.as_i64() {
        Some(integer) => Stored::Integer(integer),
        None => Stored::Real(real),
    })
}

fn parse_bool(value: &Value) -> FieldResult<Stored> {
    let flag = match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) if number.as_i64() == Some(0) => false,
        Value::Number(number) if number.as_i64() == Some(1) => true,
        Value::String(text) if matches!(text.as_str(), "" | "false" | "0") => false,
        Value::String(text) if matches!(text.as_str(), "true" | "1") => true,
        _ => return field_error("validation_invalid_bool", "Must be true or false."),
    };
    Ok(Stored::Integer(i64::from(flag)))
}

fn as_datetime(text: &str) -> Option<String> {
    clock::parse_datetime(text).map(clock::format_ms)
}

fn check_time(
    text: &str,
    options: &TimeOptions,
    read: fn(&str) -> Option<String>,
) -> FieldResult<Stored> {
    if text.is_empty() {
        return Ok(Stored::Null);
    }
    let (Some(time), Some(ms)) = (read(text), clock::parse_datetime(text)) else {
        let message = "Must be a date such as 2026-01-31 or 2026-01-31T12:00:00Z.";
        return field_error("validation_invalid_date", message);
    };
    let bound = |text: &Option<String>| text.as_deref().and_then(clock::parse_datetime);
    let message = || {
        let range = range(options.min.as_deref(), options.max.as_deref());
        format!("Must be {range}.")
    };
    if bound(&options.min).is_some_and(|min| ms < min) {
        let code = "validation_min_greater_equal_than_required";
        return field_error(code, &message());
    }
    if bound(&options.max).is_some_and(|max| ms > max) {
        let code = "validation_max_less_equal_than_required";
        return field_error(code, &message());
    }
    Ok(Stored::Text(time))
}

fn parse_choices(field: &Field, value: &Value) -> FieldResult<FieldValue> {
    let list = strings_of(value)?;
    for text in &list {
        check_choice(field, text)?;
    }
    if field.is_multiple() {
        check_count(field, list.len())?;
    } else if list.len() > 1 {
        return field_error("validation_too_many_values", "Accepts only one value.");
    }
    Ok(FieldValue::from_list(field, list))
}

fn check_choice(field: &Field, text: &String) -> FieldResult<()> {
    match &field.kind {
        FieldKind::Select { values, .. } if !values.contains(text) => field_error(
            "validation_invalid_value",
            &format!("{} is not one of its values.", shorten(text)),
        ),
        FieldKind::Relation(_) if !ids::is_valid_id(text) => field_error(
            "validation_missing_rel_records",
            &format!("There is no record {}.", shorten(text)),
        ),
        _ => Ok(()),
    }
}

fn range<T: std::fmt::Display>(min: Option<T>, max: Option<T>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("from {min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "anything".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(definition: Value) -> Field {
        crate::model::collections::test_field(definition)
    }

    /// The stored value as a string, or the code of the error.
    fn check(definition: &Value, input: &str, expected: &str) {
        let mut definition = definition.clone();
        definition["name"] = json!("f");
        let raw = RawValue::from_string(input.to_owned()).unwrap();
        let shown = match parse(&field(definition.clone()), &raw) {
            Ok(FieldChange::Set(value)) => match &*value.to_stored() {
                Stored::Null => "unset".to_owned(),
                Stored::Integer(number) => number.to_string(),
                Stored::Real(number) => format!("{number:?}"),
                Stored::Text(text) => format!("'{text}'"),
                Stored::Blob(_) => "a blob".to_owned(),
            },
            Ok(other) => format!("{other:?}"),
            Err(error) => error.code.trim_start_matches("validation_").to_owned(),
        };
        assert_eq!(shown, expected, "{definition} {input}");
    }

    #[test]
    fn texts() {
        let text = json!({"type": "text", "min": 2, "max": 4, "pattern": "^[a-z\u{fc}]+$"});
        check(&text, r#""ab""#, "'ab'");
        check(
            &text,
            r#""\u00fc\u00fc\u00fc\u00fc""#,
            "'\u{fc}\u{fc}\u{fc}\u{fc}'",
        );
        check(&text, r#""a""#, "min_text_constraint");
        check(&text, r#""abcde""#, "max_text_constraint");
        check(&text, r#""AB""#, "invalid_format");
        check(&text, r#""""#, "unset");
        check(&text, "null", "unset");
        check(&text, "5", "invalid_value");
        check(&json!({"type": "text"}), r#""a\u0000b""#, "invalid_text");
        check(
            &json!({"type": "text", "required": true}),
            r#""""#,
            "required",
        );
        check(
            &json!({"type": "editor", "maxSize": 3}),
            r#""abcd""#,
            "content_size_limit",
        );
    }

    #[test]
    fn addresses() {
        let email = json!({"type": "email", "exceptDomains": ["bad.org"]});
        check(&email, r#""a@b""#, "'a@b'");
        for wrong in ["a", "@b", "a@", "a b@c", "a@b\\n"] {
            check(&email, &format!("\"{wrong}\""), "is_email");
        }
        check(&email, r#""a@BAD.org""#, "email_domain_not_allowed");
        let url = json!({"type": "url", "onlyDomains": ["ok.org"]});
        check(
            &url,
            r#""https://u:p@ok.org:80/x?y""#,
            "'https://u:p@ok.org:80/x?y'",
        );
        check(&url, r#""https://other.org""#, "url_domain_not_allowed");
        for wrong in [
            "ok.org",
            "://ok.org",
            "https://",
            "1a://ok.org",
            "https://ok.org/a b",
        ] {
            check(&url, &format!("\"{wrong}\""), "invalid_url");
        }
    }

    #[test]
    fn numbers_and_booleans() {
        let number = json!({"type": "number", "min": -5, "max": 10});
        check(&number, "7", "7");
        check(&number, "7.5", "7.5");
        check(&number, r#""7""#, "7");
        check(&number, "11", "max_number_constraint");
        check(&number, "null", "0");
        let nullable = json!({"type": "number", "nullable": true});
        check(&nullable, "null", "unset");
        check(&number, r#""x""#, "not_a_number");
        check(&number, "[1]", "invalid_value");
        check(
            &json!({"type": "number", "onlyInt": true}),
            "1.5",
            "only_int_constraint",
        );
        check(
            &json!({"type": "number"}),
            "9223372036854775807",
            "9223372036854775807",
        );
        check(
            &json!({"type": "number", "required": true}),
            "0",
            "required",
        );
        let nullable = json!({"type": "number", "required": true, "nullable": true});
        check(&nullable, "0", "0");
        check(&nullable, "null", "required");
        check(
            &json!({"type": "bool", "required": true}),
            "false",
            "required",
        );
        check(
            &json!({"type": "number", "required": true}),
            "null",
            "required",
        );
        check(&json!({"type": "bool"}), "true", "1");
        check(&json!({"type": "bool"}), r#""false""#, "0");
        check(&json!({"type": "bool"}), "2", "invalid_bool");
    }

    #[test]
    fn times() {
        check(&json!({"type": "date"}), r#""2026-02-28""#, "'2026-02-28'");
        check(&json!({"type": "date"}), r#""2026-02-30""#, "invalid_date");
        check(
            &json!({"type": "date"}),
            r#""2026-02-28T10:00Z""#,
            "'2026-02-28T10:00:00.000Z'",
        );
        check(
            &json!({"type": "date"}),
            r#""2026-02-28 00:00:00 UTC""#,
            "'2026-02-28T00:00:00.000Z'",
        );
        check(
            &json!({"type": "date"}),
            r#""2026-02-28 10""#,
            "invalid_date",
        );
        let days = json!({"type": "date", "min": "2026-01-01 12:00", "max": "2026-01-31"});
        check(&days, r#""2026-01-01""#, "min_greater_equal_than_required");
        check(&days, r#""2026-01-01 12:00""#, "'2026-01-01T12:00:00.000Z'");
        check(&days, r#""2026-01-31 00:00""#, "'2026-01-31T00:00:00.000Z'");
        check(
            &days,
            r#""2026-01-31 00:00:00.001""#,
            "max_less_equal_than_required",
        );
        let moment = json!({"type": "datetime", "min": "2026-01-01"});
        check(
            &moment,
            r#""2026-02-28 10:00:00.1Z""#,
            "'2026-02-28T10:00:00.100Z'",
        );
        check(
            &moment,
            r#""2025-02-28""#,
            "min_greater_equal_than_required",
        );
    }

    #[test]
    fn choices() {
        let one = json!({"type": "select", "values": ["a", "b"]});
        check(&one, r#""a""#, "'a'");
        check(&one, r#"["a"]"#, "'a'");
        check(&one, r#""c""#, "invalid_value");
        check(&one, r#"["a","b"]"#, "too_many_values");
        let two = json!({"type": "select", "values": ["a", "b", "c"], "maxSelect": 2});
        check(&two, r#"["b","a","b"]"#, r#"'["b","a"]'"#);
        check(&two, "[]", "unset");
        check(&two, r#"["a","b","c"]"#, "too_many_values");
        check(
            &json!({"type": "relation", "collectionId": "x"}),
            r#""a/b""#,
            "missing_rel_records",
        );
    }

    #[test]
    fn json_keeps_its_text_and_refuses_what_sqlite_could_not_read() {
        let json = json!({"type": "json"});
        check(&json, r#"{"b":1, "a":[1.10]}"#, r#"'{"b":1, "a":[1.10]}'"#);
        check(&json, "null", "unset");
        check(&json, r#""""#, r#"'""'"#);
        check(
            &json,
            &format!("{}{}", "[".repeat(500), "]".repeat(500)),
            "invalid_value",
        );
    }

    #[test]
    fn modifiers() {
        assert_eq!(Modifier::split("tags+"), Some(("tags", Modifier::Append)));
        assert_eq!(Modifier::split("+tags"), Some(("tags", Modifier::Prepend)));
        assert_eq!(Modifier::split("tags-"), Some(("tags", Modifier::Remove)));
        assert_eq!(Modifier::split("tags"), None);
        let number = field(json!({"name": "n", "type": "number"}));
        let raw = RawValue::from_string("3".to_owned()).unwrap();
        assert_eq!(
            parse_modifier(&number, Modifier::Remove, &raw),
            Ok(FieldChange::Add(Stored::Integer(-3)))
        );
    }
}

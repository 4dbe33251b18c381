//! Types of comparisons, and conversion of constants to the stored form of a type.

use rusqlite::types::Value as Stored;

use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::collections::{Field, FieldKind};
use crate::model::records::value::shorten;

/// The type with which a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparisonType {
    Text,
    Number,
    Bool,
    Date,
    Datetime,
    Json,
}

impl ComparisonType {
    /// True for datetimes and dates; a date stands for its midnight.
    pub fn is_moment(self) -> bool {
        matches!(self, ComparisonType::Date | ComparisonType::Datetime)
    }
}

/// The type with which values of a field are compared.
pub fn type_of(field: &Field) -> ComparisonType {
    match field.kind {
        FieldKind::Number { .. } => ComparisonType::Number,
        FieldKind::Bool => ComparisonType::Bool,
        FieldKind::Date(_) => ComparisonType::Date,
        FieldKind::Datetime(_) | FieldKind::Autodate { .. } => ComparisonType::Datetime,
        // The path of a json field decides its type (`field_path`).
        FieldKind::Json { .. }
        | FieldKind::Text(_)
        | FieldKind::Email(_)
        | FieldKind::Url(_)
        | FieldKind::Editor { .. }
        | FieldKind::Select { .. }
        | FieldKind::Relation(_)
        | FieldKind::File(_)
        | FieldKind::GeoPoint
        | FieldKind::Password { .. } => ComparisonType::Text,
    }
}

/// Converts a constant to the form in which values of `kind` are stored.
pub fn coerce(value: Stored, kind: Option<ComparisonType>) -> Result<Stored> {
    let kind = match (kind, &value) {
        (Some(ComparisonType::Json), _) | (_, Stored::Null) => return Ok(value),
        (_, Stored::Text(text)) if text.is_empty() => return Ok(Stored::Null),
        (None, _) => return Ok(value),
        (Some(kind), _) => kind,
    };
    let refuse = |text: &str, kind: &str, accepts: &str| {
        Err(Error::invalid(format!(
            "The filter compares {kind} with {}, which is not {accepts}.",
            shorten(text)
        )))
    };
    Ok(match (kind, value) {
        (ComparisonType::Number, Stored::Text(text)) => {
            match serde_json::from_str::<serde_json::Number>(&text) {
                Ok(number) => match (number.as_i64(), number.as_f64()) {
                    (Some(integer), _) => Stored::Integer(integer),
                    (None, Some(real)) => Stored::Real(real),
                    (None, None) => return refuse(&text, "a number", "a number"),
                },
                Err(_) => return refuse(&text, "a number", "a number"),
            }
        }
        (ComparisonType::Bool, Stored::Text(text)) => match text.as_str() {
            "true" => Stored::Integer(1),
            "false" => Stored::Integer(0),
            _ => return refuse(&text, "a boolean", "true or false"),
        },
        (ComparisonType::Date | ComparisonType::Datetime, Stored::Text(text)) => {
            Stored::Text(moment(&text)?)
        }
        (ComparisonType::Date | ComparisonType::Datetime, Stored::Integer(number)) => {
            Stored::Text(moment(&number.to_string())?)
        }
        (ComparisonType::Date | ComparisonType::Datetime, Stored::Real(number)) => {
            Stored::Text(moment(&number.to_string())?)
        }
        (ComparisonType::Text, Stored::Integer(number)) => Stored::Text(number.to_string()),
        (ComparisonType::Text, Stored::Real(number)) => Stored::Text(number.to_string()),
        (_, value) => value,
    })
}

fn moment(text: &str) -> Result<String> {
    let ms = clock::parse_datetime(text).ok_or_else(|| {
        Error::invalid(format!(
            "The filter compares a date with {}; a date is written like 2026-01-31, \
             2026-01-31 12:00:00 or 2026-01-31T12:00:00Z.",
            shorten(text)
        ))
    })?;
    Ok(clock::format_ms(ms))
}

/// The SQLite JSON path of these names: integers are array positions, other names are quoted.
pub fn json_path(names: &[String]) -> Result<String> {
    let mut path = "$".to_owned();
    for name in names {
        if name.contains(['"', '\\']) {
            return Err(Error::invalid(format!(
                "{name} is not a valid name in a JSON path."
            )));
        }
        path += &match name.parse::<u32>() {
            Ok(position) => format!("[{position}]"),
            Err(_) => format!(".\"{name}\""),
        };
    }
    Ok(path)
}

//! The value of a `geoPoint`: a place on the earth.

use rusqlite::types::Value as Stored;
use serde_json::{Map, Value};

use super::error::{FieldResult, field_error};

/// The value that a new record has.
pub const ORIGIN: &str = "{\"lon\":0,\"lat\":0}";

/// Parses `{"lon": 12.5, "lat": 48.1}`, also as a JSON string, in the form that is stored. A
/// missing part is 0.
pub fn parse_point(text: &str) -> FieldResult<Stored> {
    let invalid = || {
        field_error(
            "validation_invalid_value",
            "Must be {\"lon\": 0, \"lat\": 0}.",
        )
    };
    let value: Option<Value> = serde_json::from_str(text).ok();
    let value = match value {
        Some(Value::String(text)) if !text.is_empty() => serde_json::from_str(&text).ok(),
        value => value,
    };
    let point: Map<String, Value> = match value {
        Some(Value::Null | Value::String(_)) => return Ok(Stored::Null),
        Some(Value::Object(point)) => point,
        _ => return invalid(),
    };
    let part = |name: &str| match point.get(name) {
        None | Some(Value::Null) => Some(0.0),
        Some(value) => value.as_f64(),
    };
    let (Some(lon), Some(lat)) = (part("lon"), part("lat")) else {
        return invalid();
    };
    if !(-180.0..=180.0).contains(&lon) {
        return field_error(
            "validation_invalid_longitude",
            "Longitude must be between -180 and 180 degrees.",
        );
    }
    if !(-90.0..=90.0).contains(&lat) {
        return field_error(
            "validation_invalid_latitude",
            "Latitude must be between -90 and 90 degrees.",
        );
    }
    Ok(Stored::Text(format!("{{\"lon\":{lon},\"lat\":{lat}}}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_stored_in_one_form() {
        let stored = |text: &str| match parse_point(text) {
            Ok(Stored::Text(text)) => text,
            Ok(_) => "unset".to_owned(),
            Err(error) => error.code.to_owned(),
        };
        assert_eq!(
            stored("{\"lat\": 1.5, \"lon\": -2}"),
            "{\"lon\":-2,\"lat\":1.5}"
        );
        assert_eq!(stored("\"{\\\"lat\\\": 1}\""), "{\"lon\":0,\"lat\":1}");
        assert_eq!(stored("null"), "unset");
        assert_eq!(stored("\"\""), "unset");
        assert_eq!(stored("{\"lon\": 181}"), "validation_invalid_longitude");
        assert_eq!(stored("{\"lat\": -91}"), "validation_invalid_latitude");
        for wrong in ["5", "[]", "{\"lon\": \"x\"}", "\"x\""] {
            assert_eq!(stored(wrong), "validation_invalid_value", "{wrong}");
        }
    }
}

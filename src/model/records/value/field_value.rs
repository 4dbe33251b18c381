//! The value of one field between the request and the row.

use std::borrow::Cow;
use std::slice;

use rusqlite::types::Value as Stored;
use serde_json::Value;

use crate::model::collections::Field;

/// The value of a field. The list of a field with several values stays a list until its row is
/// written, where it becomes JSON text.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// The value of a field with at most one; NULL if it is unset.
    Scalar(Stored),
    /// The strings of a field with several values; empty if it is unset.
    List(Vec<String>),
}

impl FieldValue {
    /// Decodes the value in a row.
    pub fn load(field: &Field, stored: Stored) -> FieldValue {
        match (field.is_multiple(), stored) {
            (true, Stored::Text(text)) => {
                FieldValue::List(serde_json::from_str(&text).unwrap_or_default())
            }
            (true, _) => FieldValue::List(Vec::new()),
            (false, stored) => FieldValue::Scalar(stored),
        }
    }

    /// The value of a field that holds strings. A field with at most one value gets the first.
    pub fn from_list(field: &Field, list: Vec<String>) -> FieldValue {
        match field.is_multiple() {
            true => FieldValue::List(list),
            false => {
                let first = list.into_iter().next();
                FieldValue::Scalar(first.map_or(Stored::Null, Stored::Text))
            }
        }
    }

    pub fn is_unset(&self) -> bool {
        match self {
            FieldValue::Scalar(stored) => *stored == Stored::Null,
            FieldValue::List(list) => list.is_empty(),
        }
    }

    /// The strings of the value: those of a list, or the one of a scalar.
    pub fn strings(&self) -> &[String] {
        match self {
            FieldValue::List(list) => list,
            FieldValue::Scalar(Stored::Text(text)) => slice::from_ref(text),
            FieldValue::Scalar(_) => &[],
        }
    }

    /// The form in which a row stores the value; NULL if it is unset.
    pub fn to_stored(&self) -> Cow<'_, Stored> {
        match self {
            FieldValue::Scalar(stored) => Cow::Borrowed(stored),
            FieldValue::List(list) if list.is_empty() => Cow::Owned(Stored::Null),
            FieldValue::List(list) => {
                let list: Vec<Value> = list.iter().map(|it| Value::from(it.as_str())).collect();
                Cow::Owned(Stored::Text(Value::from(list).to_string()))
            }
        }
    }
}

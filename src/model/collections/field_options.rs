//! The attributes of one field of a request, read one after the other.

use serde_json::{Map, Value};

use super::parse::{INVALID, Problems};

/// Attributes for dashboards that have no effect here or there.
const IGNORED: [&str; 2] = ["displayFields", "primaryKey"];

/// The attributes of a field, from all places. Each is removed when it is read; [`Options::finish`]
/// refuses those that remain. An invalid value is a problem, and read as missing.
pub struct Options<'a> {
    key: String,
    values: Map<String, Value>,
    /// The attributes were under `options`, as PocketBase had them before 0.23.
    pub is_nested: bool,
    problems: &'a mut Problems,
}

impl<'a> Options<'a> {
    pub fn new(
        position: usize,
        object: &Map<String, Value>,
        problems: &'a mut Problems,
    ) -> Options<'a> {
        let mut values = object.clone();
        let (key, mut is_nested) = (format!("fields.{position}"), false);
        let parsed = match values.remove("options") {
            // The values of a select as a plain list.
            Some(Value::Array(list)) => {
                values.insert("values".to_owned(), Value::Array(list));
                None
            }
            Some(Value::String(text)) => serde_json::from_str(&text).ok().or_else(|| {
                let message = "options must be an object, or an object as a JSON string.";
                problems.add(&format!("{key}.options"), INVALID, message);
                None
            }),
            nested => nested,
        };
        match parsed {
            None | Some(Value::Null) => {}
            Some(Value::Object(nested)) => {
                is_nested = true;
                values.extend(nested);
            }
            Some(_) => problems.add(
                &format!("{key}.options"),
                INVALID,
                "options must be an object, or an object as a JSON string.",
            ),
        }
        values.remove("name");
        Options {
            key,
            values,
            is_nested,
            problems,
        }
    }

    pub fn refuse_at(&mut self, option: &str, message: impl Into<String>) {
        self.refuse(option, INVALID, message);
    }

    pub fn refuse(&mut self, option: &str, code: &'static str, message: impl Into<String>) {
        let key = format!("{}.{option}", self.key);
        self.problems.add(&key, code, message);
    }

    /// A value of any form; none if it is missing or `null`.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    /// True if the attribute is given, and `null`.
    pub fn is_null(&self, name: &str) -> bool {
        self.values.get(name) == Some(&Value::Null)
    }

    fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(name)?;
        let converted = convert(&value);
        if converted.is_none() {
            self.refuse_at(name, format!("Must be {expected}."));
        }
        converted
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        self.read(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub fn texts(&mut self, name: &str) -> Vec<String> {
        let list = self.read(name, "a list of strings", |value| {
            let list = value.as_array()?.iter();
            list.map(|value| value.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        list.unwrap_or_default()
    }

    pub fn flag(&mut self, name: &str) -> bool {
        let flag = self.read(name, "true or false", Value::as_bool);
        flag.unwrap_or(false)
    }

    pub fn number(&mut self, name: &str) -> Option<f64> {
        self.read(name, "a number", Value::as_f64)
    }

    pub fn count(&mut self, name: &str) -> Option<usize> {
        self.read(name, "a whole number", |value| {
            value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
        })
    }

    /// A count of which 0 means that it is not given.
    pub fn count_above_zero(&mut self, name: &str) -> Option<usize> {
        self.count(name).filter(|count| *count > 0)
    }

    pub fn finish(self) {
        let left = self.values.iter();
        for (key, value) in left {
            if !IGNORED.contains(&key.as_str()) && !is_empty(value) {
                let message = "This option has no effect on a field of this type; leave it out.";
                self.problems.add(
                    &format!("{}.{key}", self.key),
                    "validation_unknown",
                    message,
                );
            }
        }
    }
}

/// True for the default values that tools send for options of all types.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(true) => false,
    }
}

//! The JSON form of a field: attributes at the top level, under `options`, or as tools of
//! PocketBase send them.

use regex_lite::Regex;
use serde_json::{Map, Value, json};

use super::parse::{invalid, is_word, key_of_field, object_or_string};
use super::{
    DomainOptions, Field, FieldKind, FileOptions, RelationOptions, TextOptions, TimeOptions,
};
use crate::base::error::{Error, Result};
use crate::base::{clock, ids};

/// Largest number of fields of a collection.
const FIELDS_MAX: usize = 200;
/// Largest `maxSelect` of a select, relation or file.
const SELECT_MAX: usize = 1000;
/// Default size limit of a json or editor value.
const BYTES_MAX_DEFAULT: usize = 1 << 20;
/// Default size limit of a file.
const FILE_BYTES_MAX_DEFAULT: u64 = 5 << 20;
const PATTERN_BYTES_MAX: usize = 1000;
const PASSWORD_CHARS_MIN: usize = 8;

/// Fields that every record has. Definitions of them are ignored.
const AUTOMATIC: [&str; 3] = ["id", "created", "updated"];
/// Names with another meaning in records or in SQL.
const RESERVED_FIELDS: [&str; 8] = [
    "id",
    "created",
    "updated",
    "collectionid",
    "collectionname",
    "expand",
    "rowid",
    "oid",
];
/// Keywords of the filter language, which a path cannot begin with.
const FILTER_WORDS: [&str; 8] = ["and", "or", "not", "in", "is", "null", "true", "false"];
/// Attributes that tools of PocketBase send with every field, for its own dashboard. Options that
/// would have an effect there, and have none here, are refused, so that users do not rely on them.
const IGNORED: [&str; 3] = ["system", "presentable", "help"];

/// Reads a list of fields with distinct names and ids.
pub fn parse_fields(key: &str, value: &Value) -> Result<Vec<Field>> {
    let Some(list) = value.as_array() else {
        return Err(invalid(key, "Must be a list of fields."));
    };
    let mut fields: Vec<Field> = Vec::new();
    for (position, value) in list.iter().enumerate() {
        let Some(field) = parse_field(position, value)? else {
            continue;
        };
        let key = key_of_field(&field.name);
        if fields
            .iter()
            .any(|other| other.name.eq_ignore_ascii_case(&field.name))
        {
            return Err(invalid(&key, "Another field has this name."));
        }
        if fields.iter().any(|other| other.id == field.id) {
            return Err(invalid(&key, "Another field has this id."));
        }
        fields.push(field);
    }
    if fields.len() > FIELDS_MAX {
        return Err(invalid(key, format!("At most {FIELDS_MAX} fields.")));
    }
    Ok(fields)
}

/// None for a definition of `id`, `created` or `updated`, which every record has.
fn parse_field(position: usize, value: &Value) -> Result<Option<Field>> {
    // Errors name a field by its position until its name is known.
    let key = key_of_field(&position.to_string());
    let Some(object) = value.as_object() else {
        return Err(invalid(&key, "A field must be a JSON object."));
    };
    let key = format!("{key}.name");
    let Some(name) = object.get("name").and_then(Value::as_str) else {
        return Err(invalid(&key, "A field needs a name."));
    };
    if AUTOMATIC.contains(&name) {
        return Ok(None);
    }
    let lower = name.to_ascii_lowercase();
    let is_reserved =
        RESERVED_FIELDS.contains(&lower.as_str()) || FILTER_WORDS.contains(&lower.as_str());
    if !is_word(name) || is_reserved {
        return Err(invalid(
            &key,
            "Must have 1 to 64 characters of A-Z, a-z, 0-9 and _, begin with a letter, and not be reserved.",
        ));
    }
    let mut options = Options::new(name, object)?;
    let field = Field {
        id: match options.text("id")? {
            Some(id) if !id.is_empty() => id,
            _ => ids::record_id()?,
        },
        name: name.to_owned(),
        required: options.flag("required")?,
        unique: options.flag("unique")?,
        hidden: options.flag("hidden")?,
        kind: parse_field_kind(&mut options)?,
    };
    options.finish()?;
    Ok(Some(field))
}

fn parse_field_kind(options: &mut Options<'_>) -> Result<FieldKind> {
    let kind = options.text("type")?.unwrap_or_default();
    Ok(match kind.as_str() {
        "text" => FieldKind::Text(parse_text_options(options)?),
        "email" => FieldKind::Email(parse_domains(options)?),
        "url" => FieldKind::Url(parse_domains(options)?),
        "editor" => FieldKind::Editor {
            bytes_max: options.bytes_max()?,
        },
        "number" => FieldKind::Number {
            min: options.number("min")?,
            max: options.number("max")?,
            integers_only: options.flag("onlyInt")? | options.flag("noDecimal")?,
        },
        "bool" => FieldKind::Bool,
        "date" => FieldKind::Date(parse_times(options, clock::day_or_moment)?),
        "datetime" => FieldKind::Datetime(parse_times(options, |text| {
            clock::parse_datetime(text).map(clock::format_ms)
        })?),
        "select" => FieldKind::Select {
            values: options.select_values()?,
            select_max: options.select_max()?,
        },
        "json" => FieldKind::Json {
            bytes_max: options.bytes_max()?,
        },
        "relation" => FieldKind::Relation(RelationOptions {
            collection_id: options
                .text("collectionId")?
                .filter(|id| !id.is_empty())
                .ok_or_else(|| {
                    options.refuse_at("collectionId", "A relation needs a collectionId.")
                })?,
            select_max: options.select_max()?,
            cascade_delete: options.flag("cascadeDelete")?,
        }),
        "file" => FieldKind::File(FileOptions {
            select_max: options.select_max()?,
            bytes_max: options
                .count("maxSize")?
                .filter(|size| *size > 0)
                .map_or(FILE_BYTES_MAX_DEFAULT, |size| size as u64),
            media_types: options.texts("mimeTypes")?,
            protected: options.flag("protected")?,
        }),
        "password" => FieldKind::Password {
            chars_min: options.count("min")?.unwrap_or(PASSWORD_CHARS_MIN).max(1),
        },
        _ => {
            return Err(options.refuse_at(
                "type",
                "The type must be text, email, url, editor, number, bool, date, datetime, select, \
                 json, relation or file.",
            ));
        }
    })
}

fn parse_text_options(options: &mut Options<'_>) -> Result<TextOptions> {
    let pattern = match options.text("pattern")? {
        Some(pattern) if !pattern.is_empty() => {
            if pattern.len() > PATTERN_BYTES_MAX {
                return Err(options.refuse_at("pattern", "The pattern is longer than 1000 bytes."));
            }
            let plain = pattern.replace(r"\\", "");
            if plain.contains(r"\p") || plain.contains(r"\P") {
                let message = r"Classes such as \p{L} are not supported in patterns; list the letters, as in [A-Za-z].";
                return Err(options.refuse_at("pattern", message));
            }
            let refuse =
                |error| options.refuse_at("pattern", format!("The pattern is invalid: {error}."));
            Some(Regex::new(&pattern).map_err(refuse)?)
        }
        _ => None,
    };
    Ok(TextOptions {
        chars_min: options.count("min")?.unwrap_or(0),
        chars_max: options.count("max")?.filter(|max| *max > 0),
        pattern,
    })
}

fn parse_domains(options: &mut Options<'_>) -> Result<DomainOptions> {
    Ok(DomainOptions {
        only: options.texts("onlyDomains")?,
        except: options.texts("exceptDomains")?,
    })
}

fn parse_times(
    options: &mut Options<'_>,
    read: impl Fn(&str) -> Option<String>,
) -> Result<TimeOptions> {
    let mut bound = |name: &str| match options.text(name)? {
        Some(text) if !text.is_empty() => match read(&text) {
            Some(time) => Ok(Some(time)),
            None => Err(options.refuse_at(name, "Must be a date such as 2026-01-31.")),
        },
        _ => Ok(None),
    };
    Ok(TimeOptions {
        min: bound("min")?,
        max: bound("max")?,
    })
}

/// The form for clients, which [`parse_fields`] reads back.
pub fn field_to_json(field: &Field) -> Value {
    let mut json = json!({
        "id": field.id,
        "name": field.name,
        "type": field.kind.name(),
        "required": field.required,
        "unique": field.unique,
        "hidden": field.hidden,
    });
    let options = match &field.kind {
        FieldKind::Text(options) => json!({
            "min": options.chars_min,
            "max": options.chars_max,
            "pattern": options.pattern.as_ref().map_or("", Regex::as_str),
        }),
        FieldKind::Email(options) | FieldKind::Url(options) => json!({
            "onlyDomains": options.only,
            "exceptDomains": options.except,
        }),
        FieldKind::Editor { bytes_max } | FieldKind::Json { bytes_max } => {
            json!({"maxSize": bytes_max})
        }
        FieldKind::Number {
            min,
            max,
            integers_only,
        } => {
            json!({"min": min, "max": max, "onlyInt": integers_only})
        }
        FieldKind::Date(options) | FieldKind::Datetime(options) => {
            json!({"min": options.min, "max": options.max})
        }
        FieldKind::Select { values, select_max } => {
            json!({"values": values, "maxSelect": select_max})
        }
        FieldKind::Relation(options) => json!({
            "collectionId": options.collection_id,
            "maxSelect": options.select_max,
            "cascadeDelete": options.cascade_delete,
        }),
        FieldKind::File(options) => json!({
            "maxSelect": options.select_max,
            "maxSize": options.bytes_max,
            "mimeTypes": options.media_types,
            "protected": options.protected,
        }),
        FieldKind::Password { chars_min } => json!({"min": chars_min}),
        FieldKind::Bool => json!({}),
    };
    if let (Value::Object(json), Value::Object(options)) = (&mut json, options) {
        json.extend(options);
    }
    json
}

/// The attributes of a field, from all places. Each is removed when it is read; [`Options::finish`]
/// refuses those that remain.
struct Options<'a> {
    field: &'a str,
    values: Map<String, Value>,
}

impl<'a> Options<'a> {
    fn new(field: &'a str, object: &Map<String, Value>) -> Result<Options<'a>> {
        let mut values = object.clone();
        match values.remove("options") {
            None | Some(Value::Null) => {}
            // The values of a select as a plain list.
            Some(Value::Array(list)) => {
                values.insert("values".to_owned(), Value::Array(list));
            }
            Some(nested) => {
                let key = format!("{}.options", key_of_field(field));
                values.extend(object_or_string(&key, &nested)?);
            }
        }
        values.remove("name");
        Ok(Options { field, values })
    }

    fn refuse_at(&self, option: &str, message: impl Into<String>) -> Error {
        invalid(&format!("{}.{option}", key_of_field(self.field)), message)
    }

    fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match convert(&value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.refuse_at(name, format!("Must be {expected}."))),
            },
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>> {
        self.read(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>> {
        let list = self.read(name, "a list of strings", |value| {
            let list = value.as_array()?.iter();
            list.map(|value| value.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        })?;
        Ok(list.unwrap_or_default())
    }

    fn flag(&mut self, name: &str) -> Result<bool> {
        Ok(self
            .read(name, "true or false", Value::as_bool)?
            .unwrap_or(false))
    }

    fn number(&mut self, name: &str) -> Result<Option<f64>> {
        self.read(name, "a number", Value::as_f64)
    }

    fn count(&mut self, name: &str) -> Result<Option<usize>> {
        self.read(name, "a whole number", |value| {
            value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
        })
    }

    fn bytes_max(&mut self) -> Result<usize> {
        Ok(self
            .count("maxSize")?
            .filter(|size| *size > 0)
            .unwrap_or(BYTES_MAX_DEFAULT))
    }

    fn select_max(&mut self) -> Result<usize> {
        match self.count("maxSelect")?.unwrap_or(1).max(1) {
            count if count <= SELECT_MAX => Ok(count),
            _ => Err(self.refuse_at("maxSelect", format!("Must be at most {SELECT_MAX}."))),
        }
    }

    fn select_values(&mut self) -> Result<Vec<String>> {
        let values = self.texts("values")?;
        // A value with a leading bracket would look like a list of values.
        let is_wrong =
            |value: &String| value.is_empty() || value.contains('\0') || value.starts_with('[');
        let has_twice = |value: &&String| values.iter().filter(|other| other == value).count() > 1;
        if values.is_empty() || values.iter().any(is_wrong) {
            return Err(self.refuse_at(
                "values",
                "A select needs values, none of them empty or beginning with [.",
            ));
        }
        if let Some(value) = values.iter().find(has_twice) {
            return Err(self.refuse_at("values", format!("The value {value} is listed twice.")));
        }
        Ok(values)
    }

    fn finish(self) -> Result<()> {
        let is_left = |key: &&String| !IGNORED.contains(&key.as_str());
        match self
            .values
            .iter()
            .find(|(key, value)| is_left(key) && !is_empty(value))
        {
            Some((key, _)) => Err(self.refuse_at(
                key,
                "This option has no effect on a field of this type; leave it out.",
            )),
            None => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
    fn fields(value: Value) -> Result<Vec<Field>> {
        parse_fields("fields", &value)
    }

    #[test]
    fn all_public_forms_of_a_select_mean_the_same() {
        for form in [
            json!([{"name": "s", "type": "select", "values": ["a", "b"]}]),
            json!([{"name": "s", "type": "select", "options": ["a", "b"]}]),
            json!([{"name": "s", "type": "select", "options": {"values": ["a", "b"]}}]),
            json!([{"name": "s", "type": "select", "options": "{\"values\": [\"a\", \"b\"]}"}]),
        ] {
            let fields = fields(form).unwrap();
            let FieldKind::Select { values, select_max } = &fields[0].kind else {
                panic!("no select");
            };
            assert_eq!((values.len(), *select_max), (2, 1));
        }
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let list = json!([
            {"name": "t", "type": "text", "min": 1, "max": 9, "pattern": "^a+$", "unique": true},
            {"name": "e", "type": "email", "onlyDomains": ["a.b"]},
            {"name": "n", "type": "number", "min": -1.5, "onlyInt": true, "hidden": true},
            {"name": "d", "type": "date", "min": "2020-01-01"},
            {"name": "j", "type": "json", "maxSize": 10},
            {"name": "r", "type": "relation", "collectionId": "x", "maxSelect": 5, "cascadeDelete": true},
        ]);
        let first: Vec<Value> = fields(list).unwrap().iter().map(field_to_json).collect();
        let again: Vec<Value> = fields(Value::Array(first.clone()))
            .unwrap()
            .iter()
            .map(field_to_json)
            .collect();
        assert_eq!(first, again);
    }

    #[test]
    fn wrong_fields_are_refused() {
        for field in [
            json!({"type": "text"}),
            json!({"name": "", "type": "text"}),
            json!({"name": "a b", "type": "text"}),
            json!({"name": "_a", "type": "text"}),
            json!({"name": "rowid", "type": "text"}),
            json!({"name": "Expand", "type": "text"}),
            json!({"name": "a"}),
            json!({"name": "a", "type": "file", "maxSelect": 5000}),
            json!({"name": "a", "type": "text", "typo": 1}),
            json!({"name": "a", "type": "text", "pattern": "("}),
            json!({"name": "a", "type": "text", "pattern": "^\\p{L}+$"}),
            json!({"name": "a", "type": "text", "autogeneratePattern": "[a-z]{5}"}),
            json!({"name": "a", "type": "file", "thumbs": ["100x100"]}),
            json!({"name": "a", "type": "editor", "convertURLs": true}),
            json!({"name": "a", "type": "text", "min": -1}),
            json!({"name": "a", "type": "text", "required": "yes"}),
            json!({"name": "a", "type": "select"}),
            json!({"name": "a", "type": "select", "values": ["x", "x"]}),
            json!({"name": "a", "type": "relation"}),
            json!({"name": "a", "type": "relation", "collectionId": "x", "maxSelect": 5000}),
            json!("a"),
        ] {
            assert!(fields(json!([field])).is_err(), "{field}");
        }
        assert!(
            fields(json!([{"name": "a", "type": "text"}, {"name": "A", "type": "text"}])).is_err()
        );
    }
}

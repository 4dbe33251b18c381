//! The JSON form of a field: attributes at the top level, under `options`, or as tools of
//! PocketBase send them.
//!
//! Every error of a list is added to [`Problems`], and the field keeps the default of that option,
//! so that later checks find the other errors.

use serde_json::{Value, json};

use super::field_kind::{kind_to_json, parse_field_kind};
use super::field_options::Options;
use super::parse::{INVALID, Problems, REQUIRED, is_word};
use super::{Field, FieldKind, FieldLabels, TextOptions};
use crate::base::error::Result;
use crate::base::{crypto, ids};

/// Largest number of fields of a collection.
const FIELDS_MAX: usize = 200;

pub const ID: &str = "id";
pub const CREATED: &str = "created";
pub const UPDATED: &str = "updated";
/// Names with another meaning in records or in SQL, in lower case.
const RESERVED_FIELDS: [&str; 8] = [
    "collectionid",
    "collectionname",
    "expand",
    "rowid",
    "_rowid_",
    "oid",
    "_token_key",
    "null",
];
/// Keywords of the filter language, which a path cannot begin with.
const FILTER_WORDS: [&str; 7] = ["and", "or", "not", "in", "is", "true", "false"];
/// Begins the second part of the name of a back-relation.
const VIA: &str = "_via_";

/// The fields of a request: those that the collection defines, and those that every record has.
#[derive(Clone, Debug, Default)]
pub struct FieldList {
    pub fields: Vec<Field>,
    pub id: Option<Field>,
    pub created: Option<Field>,
    pub updated: Option<Field>,
    /// The names of the fields whose ids the request does not give.
    generated: Vec<String>,
}

impl FieldList {
    /// The fields of a definition.
    pub fn new(
        fields: Vec<Field>,
        id: Option<Field>,
        created: Option<Field>,
        updated: Option<Field>,
    ) -> FieldList {
        FieldList {
            fields,
            id,
            created,
            updated,
            generated: Vec::new(),
        }
    }

    /// True if the request does not give the id of the field with this name.
    pub fn has_generated_id(&self, name: &str) -> bool {
        self.generated.iter().any(|it| it == name)
    }

    /// The form for clients.
    pub fn to_json(&self) -> Vec<Value> {
        let own = self.fields.iter();
        let all = self
            .id
            .iter()
            .chain(own)
            .chain(&self.created)
            .chain(&self.updated);
        all.map(field_to_json).collect()
    }

    /// True if the request lists the fields of the system too, as PocketBase does. Otherwise it
    /// means the fields that the collection defines.
    pub fn is_complete(&self) -> bool {
        self.id.is_some()
    }
}

/// Reads a list of fields with distinct names and ids.
pub fn parse_fields(key: &str, value: &Value, problems: &mut Problems) -> Result<FieldList> {
    let Some(list) = value.as_array() else {
        problems.add(key, INVALID, "Must be a list of fields.");
        return Ok(FieldList::default());
    };
    let has_id = list.iter().any(|field| field["name"] == ID);
    let mut result = FieldList::default();
    let mut ids: Vec<String> = Vec::new();
    let chosen: Vec<&str> = list
        .iter()
        .filter_map(|field| field["id"].as_str())
        .collect();
    for (position, value) in list.iter().enumerate() {
        // The field `id` comes first, also if the request leaves it out.
        let position = position + usize::from(!has_id);
        let Some(mut field) = parse_field(position, value, problems)? else {
            continue;
        };
        if has_name(&result, &field.name) {
            let key = format!("fields.{position}.name");
            problems.add(
                &key,
                "validation_duplicated_field_name",
                "Another field has this name.",
            );
            continue;
        }
        let is_chosen = value["id"].as_str().is_some_and(|id| !id.is_empty());
        if is_chosen && ids.contains(&field.id) {
            let key = format!("fields.{position}.id");
            problems.add(
                &key,
                "validation_duplicated_field_id",
                "Another field has this id.",
            );
        }
        while !is_chosen && (chosen.contains(&field.id.as_str()) || ids.contains(&field.id)) {
            field.id += "_";
        }
        ids.push(field.id.clone());
        if !is_chosen {
            result.generated.push(field.name.clone());
        }
        place(&mut result, field, position, problems);
    }
    if result.fields.len() > FIELDS_MAX {
        problems.add(key, INVALID, format!("At most {FIELDS_MAX} fields."));
        result.fields.truncate(FIELDS_MAX);
    }
    Ok(result)
}

fn has_name(list: &FieldList, name: &str) -> bool {
    let system = list.id.iter().chain(&list.created).chain(&list.updated);
    let mut all = list.fields.iter().chain(system);
    all.any(|other| other.name.eq_ignore_ascii_case(name))
}

/// Adds a field to the list, or sets the one that every record has.
fn place(list: &mut FieldList, field: Field, position: usize, problems: &mut Problems) {
    let refuse = |problems: &mut Problems, message: &str| {
        problems.add(&format!("fields.{position}.type"), INVALID, message);
    };
    match (field.name.as_str(), &field.kind) {
        (ID, FieldKind::Text(_)) => list.id = Some(field),
        (ID, _) => refuse(problems, "The field id must be a text field."),
        (
            CREATED,
            FieldKind::Autodate {
                on_create: true,
                on_update: false,
            },
        ) => {
            list.created = Some(field);
        }
        (
            UPDATED,
            FieldKind::Autodate {
                on_create: true,
                on_update: true,
            },
        ) => {
            list.updated = Some(field);
        }
        (CREATED, FieldKind::Date(_) | FieldKind::Datetime(_)) if field.labels.system => {
            list.created = Some(automatic(CREATED));
        }
        (UPDATED, FieldKind::Date(_) | FieldKind::Datetime(_)) if field.labels.system => {
            list.updated = Some(automatic(UPDATED));
        }
        (CREATED, _) => refuse(
            problems,
            "The field created must be an autodate with onCreate and without onUpdate; give another one another name.",
        ),
        (UPDATED, _) => refuse(
            problems,
            "The field updated must be an autodate with onCreate and onUpdate; give another one another name.",
        ),
        _ => list.fields.push(field),
    }
}

/// The field `created` or `updated` of a definition that does not give it.
pub fn automatic(name: &str) -> Field {
    let kind = FieldKind::Autodate {
        on_create: true,
        on_update: name == UPDATED,
    };
    Field::new(name, kind)
}

/// The field `id` of a definition that does not give it: each id that the server accepts.
pub fn record_id() -> Field {
    let kind = FieldKind::Text(TextOptions {
        chars_min: 1,
        chars_max: Some(ids::ID_CHARS_MAX),
        ..TextOptions::default()
    });
    Field {
        required: true,
        ..Field::new(ID, kind)
    }
}

impl Field {
    /// A field of an auth collection or of every record.
    pub fn new(name: &str, kind: FieldKind) -> Field {
        Field {
            id: generated_id(name, &kind),
            name: name.to_owned(),
            kind,
            required: false,
            unique: false,
            hidden: false,
            nullable: false,
            default: None,
            labels: FieldLabels {
                system: name != CREATED && name != UPDATED,
                ..FieldLabels::default()
            },
        }
    }
}

/// The id that PocketBase gives to a field.
fn generated_id(name: &str, kind: &FieldKind) -> String {
    format!("{}{}", kind.name(), crypto::crc32(name.as_bytes()))
}

/// None for a field without a valid name or type.
fn parse_field(position: usize, value: &Value, problems: &mut Problems) -> Result<Option<Field>> {
    let key = format!("fields.{position}");
    let Some(object) = value.as_object() else {
        problems.add(&key, INVALID, "A field must be a JSON object.");
        return Ok(None);
    };
    let key = format!("{key}.name");
    let name = object
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if name.is_empty() {
        problems.add(&key, REQUIRED, "A field needs a name.");
        return Ok(None);
    }
    let lower = name.to_ascii_lowercase();
    let is_reserved = RESERVED_FIELDS.contains(&lower.as_str())
        || FILTER_WORDS.contains(&lower.as_str())
        || ([ID, CREATED, UPDATED].contains(&lower.as_str()) && name != lower);
    if !is_word(name) || is_reserved {
        let (code, message) = match is_reserved {
            true => (
                "validation_not_in_invalid",
                "This name is reserved; choose another one.",
            ),
            false => (
                "validation_match_invalid",
                "Must have 1 to 100 characters of A-Z, a-z, 0-9 and _.",
            ),
        };
        problems.add(&key, code, message);
        return Ok(None);
    }
    if lower.contains(VIA) {
        let message = "The name must not contain _via_, which stands for a back-relation.";
        problems.add(&key, "validation_found_via", message);
    }
    problems.place(name, position);
    let mut options = Options::new(position, object, problems);
    let Some(kind) = parse_field_kind(&mut options) else {
        return Ok(None);
    };
    let field = Field {
        id: match options.text("id") {
            Some(id) if !id.is_empty() => id,
            _ => generated_id(name, &kind),
        },
        name: name.to_owned(),
        required: options.flag("required"),
        unique: options.flag("unique"),
        hidden: options.flag("hidden"),
        nullable: parse_nullable(&mut options, &kind),
        default: options.value("default"),
        labels: FieldLabels {
            presentable: options.flag("presentable"),
            system: options.flag("system"),
            help: options.text("help").unwrap_or_default(),
        },
        kind,
    };
    options.finish();
    Ok(Some(field))
}

/// Values that are never unset, or unset in a way of their own, cannot be `null`.
fn parse_nullable(options: &mut Options<'_>, kind: &FieldKind) -> bool {
    let nullable = options.flag("nullable");
    let has_null = !matches!(
        kind,
        FieldKind::Bool
            | FieldKind::Json { .. }
            | FieldKind::Password { .. }
            | FieldKind::Autodate { .. }
    );
    if nullable && !has_null {
        options.refuse_at("nullable", "A field of this type cannot be nullable.");
    }
    nullable && has_null
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
        "nullable": field.nullable,
        "presentable": field.labels.presentable,
        "system": field.labels.system,
        "help": field.labels.help,
    });
    if let Some(default) = &field.default {
        json["default"] = default.clone();
    }
    if let (Value::Object(json), Value::Object(options)) = (&mut json, kind_to_json(&field.kind)) {
        json.extend(options);
    }
    if field.name == ID {
        json["primaryKey"] = json!(true);
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
    fn fields(value: Value) -> Result<Vec<Field>> {
        let mut problems = Problems::default();
        let list = parse_fields("fields", &value, &mut problems)?;
        problems.check("").map(|()| list.fields)
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
            {"name": "r", "type": "relation", "collectionId": "x", "minSelect": 2, "maxSelect": 5000, "cascadeDelete": true},
            {"name": "1k", "type": "text", "autogeneratePattern": "[a-z]{5}", "default": "x", "nullable": true},
            {"name": "_f", "type": "file", "thumbs": ["100x100"], "help": "h", "presentable": true},
            {"name": "ed", "type": "editor", "convertURLs": true},
            {"name": "pw", "type": "password", "min": 5, "max": 20, "cost": 11},
            {"name": "when", "type": "autodate", "onUpdate": true},
            {"name": "g", "type": "geoPoint", "required": true},
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
            json!({"name": "a_via_b", "type": "text"}),
            json!({"name": "created", "type": "text"}),
            json!({"name": "updated", "type": "autodate", "onCreate": true}),
            json!({"name": "ID", "type": "text"}),
            json!({"name": "a", "type": "autodate"}),
            json!({"name": "a", "type": "bool", "nullable": true}),
            json!({"name": "rowid", "type": "text"}),
            json!({"name": "Expand", "type": "text"}),
            json!({"name": "a"}),
            json!({"name": "a", "type": "text", "typo": 1}),
            json!({"name": "a", "type": "text", "pattern": "("}),
            json!({"name": "a", "type": "text", "pattern": "^\\p{L}+$"}),
            json!({"name": "a", "type": "text", "autogeneratePattern": "[a-z"}),
            json!({"name": "a", "type": "number", "min": 5, "max": 1}),
            json!({"name": "a", "type": "text", "min": -1}),
            json!({"name": "a", "type": "text", "required": "yes"}),
            json!({"name": "a", "type": "select"}),
            json!({"name": "a", "type": "select", "values": ["x", "x"]}),
            json!({"name": "a", "type": "relation"}),
            json!({"name": "a", "type": "relation", "collectionId": "x", "minSelect": 5, "maxSelect": 2}),
            json!("a"),
        ] {
            assert!(fields(json!([field])).is_err(), "{field}");
        }
        assert!(
            fields(json!([{"name": "a", "type": "text"}, {"name": "A", "type": "text"}])).is_err()
        );
    }
}

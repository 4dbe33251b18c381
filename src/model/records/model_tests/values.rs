//! Parses and applies the change of one field, written from the documentation.

use serde_json::Value as Json;

use super::world::{Number, Value};
use super::writes::{Body, Outcome};
use crate::base::error::Kind;
use crate::base::{clock, ids};
use crate::model::collections::{Field, FieldKind, TimeOptions};

/// The change of one field.
#[derive(Clone)]
pub enum ModelChange {
    Set(Value),
    Add(Number),
    Append(Vec<String>),
    Prepend(Vec<String>),
    Remove(Vec<String>),
}

pub fn default_value(field: &Field) -> Value {
    match field.kind {
        FieldKind::Bool => Value::Flag(false),
        _ => Value::Unset,
    }
}

pub fn read_id(body: &Body) -> Outcome<Option<String>> {
    match body.get("id") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(id)) if id.is_empty() => Ok(None),
        Some(Json::String(id)) if ids::is_valid_id(id) => Ok(Some(id.clone())),
        Some(_) => Err(Kind::Invalid),
    }
}

pub fn apply_action(field: &Field, before: &Value, action: ModelChange) -> Outcome<Value> {
    let mut list = before.texts();
    match action {
        ModelChange::Set(value) => return Ok(value),
        ModelChange::Add(amount) => return add(field, before, amount).ok_or(Kind::Invalid),
        // Added values move to the end, even if they were in the list before.
        ModelChange::Append(more) => {
            list.retain(|text| !more.contains(text));
            list.extend(more);
        }
        ModelChange::Prepend(more) => {
            list.retain(|text| !more.contains(text));
            list.splice(0..0, more);
        }
        ModelChange::Remove(less) => list.retain(|text| !less.contains(text)),
    }
    let is_allowed = list.len() <= most(field) && !(list.is_empty() && field.required);
    if is_allowed {
        Ok(list_value(field, list))
    } else {
        Err(Kind::Invalid)
    }
}

pub fn add(field: &Field, before: &Value, amount: Number) -> Option<Value> {
    let before = match before {
        Value::Number(number) => *number,
        _ => Number::Integer(0),
    };
    let exact = match (before, amount) {
        (Number::Integer(a), Number::Integer(b)) => a.checked_add(b).map(Number::Integer),
        _ => None,
    };
    let sum = exact.unwrap_or_else(|| Number::stored(before.as_real() + amount.as_real()));
    (sum.as_real().is_finite() && is_in_bounds(field, sum)).then_some(Value::Number(sum))
}

pub fn is_in_bounds(field: &Field, number: Number) -> bool {
    let FieldKind::Number {
        min,
        max,
        integers_only,
    } = field.kind
    else {
        return true;
    };
    let real = number.as_real();
    !(integers_only && real.fract() != 0.0)
        && min.is_none_or(|min| real >= min)
        && max.is_none_or(|max| real <= max)
}

pub fn most(field: &Field) -> usize {
    match &field.kind {
        FieldKind::Select { select_max, .. } => *select_max,
        FieldKind::Relation(options) => options.select_max,
        _ => 0,
    }
}

pub fn list_value(field: &Field, mut list: Vec<String>) -> Value {
    match (list.is_empty(), field.is_multiple()) {
        (true, _) => Value::Unset,
        (false, true) => Value::List(list),
        (false, false) => Value::Text(list.remove(0)),
    }
}

pub fn read_number(json: &Json) -> Option<Number> {
    match json {
        Json::Number(number) => Some(match number.as_i64() {
            Some(integer) => Number::Integer(integer),
            None => Number::stored(number.as_f64()?),
        }),
        Json::String(text) => read_number(&serde_json::from_str(text).ok()?),
        _ => None,
    }
}

/// Distinct, non-empty strings, each valid for the field.
pub fn read_list(field: &Field, json: &Json, known_only: bool) -> Option<Vec<String>> {
    let list = match json {
        Json::Array(list) => list.clone(),
        single => vec![single.clone()],
    };
    let mut texts: Vec<String> = Vec::new();
    for json in list {
        let text = match json {
            Json::Null => String::new(),
            Json::String(text) => text,
            _ => return None,
        };
        let is_known = match &field.kind {
            FieldKind::Select { values, .. } => values.contains(&text),
            _ => ids::is_valid_id(&text),
        };
        if !text.is_empty() && !texts.contains(&text) {
            if known_only && !is_known {
                return None;
            }
            texts.push(text);
        }
    }
    Some(texts)
}

fn read_date(options: &TimeOptions, text: &str) -> Option<Value> {
    let ms = clock::parse_datetime(text)?;
    let bound = |text: &Option<String>| clock::parse_datetime(text.as_deref()?);
    let is_allowed = bound(&options.min).is_none_or(|min| ms >= min)
        && bound(&options.max).is_none_or(|max| ms <= max);
    is_allowed.then(|| match text.len() {
        10 => Value::Text(text.to_owned()),
        _ => Value::Text(clock::format_ms(ms)),
    })
}

/// The value that a body sets; none if it is invalid.
pub fn read_value(field: &Field, json: &Json) -> Option<Value> {
    match &field.kind {
        FieldKind::Text(options) => match json {
            Json::Null => Some(Value::Unset),
            Json::String(text) if text.is_empty() => Some(Value::Unset),
            Json::String(text) => {
                let chars = text.chars().count();
                let is_allowed =
                    chars >= options.chars_min && options.chars_max.is_none_or(|max| chars <= max);
                is_allowed.then(|| Value::Text(text.clone()))
            }
            _ => None,
        },
        FieldKind::Number { .. } => match json {
            Json::Null => Some(Value::Unset),
            Json::String(text) if text.is_empty() => Some(Value::Unset),
            json => {
                let number = read_number(json)?;
                is_in_bounds(field, number).then_some(Value::Number(number))
            }
        },
        FieldKind::Bool => match json {
            Json::Null => Some(Value::Flag(false)),
            Json::Bool(flag) => Some(Value::Flag(*flag)),
            Json::String(text) => match text.as_str() {
                "" | "0" | "false" => Some(Value::Flag(false)),
                "1" | "true" => Some(Value::Flag(true)),
                _ => None,
            },
            json => match json.as_i64() {
                Some(0) => Some(Value::Flag(false)),
                Some(1) => Some(Value::Flag(true)),
                _ => None,
            },
        },
        FieldKind::Json { .. } => match json {
            Json::Null => Some(Value::Unset),
            json => Some(Value::Json(json.clone())),
        },
        FieldKind::Select { .. } | FieldKind::Relation(_) => {
            let list = read_list(field, json, true)?;
            (list.len() <= most(field)).then(|| list_value(field, list))
        }
        FieldKind::Email(_) => match json {
            Json::Null => Some(Value::Unset),
            Json::String(text) if text.is_empty() => Some(Value::Unset),
            Json::String(text) => {
                let (local, domain) = text.rsplit_once('@')?;
                let is_address =
                    !local.is_empty() && !domain.is_empty() && !text.contains(char::is_whitespace);
                is_address.then(|| Value::Text(text.clone()))
            }
            _ => None,
        },
        FieldKind::Date(options) => match json {
            Json::Null => Some(Value::Unset),
            Json::String(text) if text.is_empty() => Some(Value::Unset),
            Json::String(text) => read_date(options, text),
            _ => None,
        },
        // Never returned nor compared.
        FieldKind::Password { chars_min, .. } => match json {
            Json::String(text) if text.chars().count() >= *chars_min => {
                Some(Value::Text("a hash".to_owned()))
            }
            _ => None,
        },
        kind => unreachable!("no {} in these sequences", kind.name()),
    }
}

pub fn read_modifier(field: &Field, sign: &str, json: &Json) -> Option<ModelChange> {
    if let (FieldKind::Number { .. }, "*+" | "*-") = (&field.kind, sign) {
        let amount = read_number(json)?;
        return Some(ModelChange::Add(match (sign, amount) {
            ("*+", amount) => amount,
            (_, Number::Integer(amount)) => amount
                .checked_neg()
                .map_or(Number::Real(-(amount as f64)), Number::Integer),
            (_, Number::Real(amount)) => Number::Real(-amount),
        }));
    }
    if !field.is_multiple() {
        return None;
    }
    Some(match sign {
        "*+" => ModelChange::Append(read_list(field, json, true)?),
        "+*" => ModelChange::Prepend(read_list(field, json, true)?),
        "*-" => ModelChange::Remove(read_list(field, json, false)?),
        _ => return None,
    })
}

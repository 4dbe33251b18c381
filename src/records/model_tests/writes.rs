//! What creating, changing and deleting lead to, told from the documentation.
//!
//! Errors come in this order: whether the caller may at all, whether there is such a record, what
//! is wrong with the body.

use std::collections::BTreeSet;

use serde_json::Map;
use serde_json::Value as Json;

use super::world::Caller;
use super::world::Number;
use super::world::Record;
use super::world::Rule;
use super::world::Value;
use super::world::World;
use crate::collections::Field;
use crate::collections::FieldKind;
use crate::error::Kind;
use crate::ids;

pub type Outcome<T> = Result<T, Kind>;
pub type Body = Map<String, Json>;

/// What a body does to one field.
enum Action {
    Set(Value),
    Add(Number),
    Append(Vec<String>),
    Prepend(Vec<String>),
    Remove(Vec<String>),
}

/// Fields by position and what happens to each.
type Actions = Vec<(usize, Action)>;

impl World {
    /// Makes a record; its id is the one of the body, else `made_id`.
    pub fn create(
        &mut self,
        table: usize,
        body: &Body,
        made_id: &str,
        caller: Caller,
    ) -> Outcome<()> {
        let rule = self.tables[table].rules.create.clone();
        admit(&rule, caller)?;
        let mut actions = self.read_body(table, body, caller)?;
        for (at, field) in self.tables[table].collection.fields.iter().enumerate() {
            if actions.iter().all(|(known, _)| *known != at) {
                // What does not exist for the caller cannot be asked of them.
                if field.required && !(field.hidden && caller == Caller::Nobody) {
                    return Err(Kind::Invalid);
                }
                actions.push((at, Action::Set(default_value(field))));
            }
        }
        let id = read_id(body)?.unwrap_or_else(|| made_id.to_owned());
        if self.find(table, &id).is_some() {
            return Err(Kind::Invalid);
        }
        let fields = &self.tables[table].collection.fields;
        let values = fields.iter().map(default_value).collect();
        let record = Record {
            id,
            created: String::new(),
            updated: String::new(),
            values,
        };
        self.tables[table].records.push(record);
        let at = self.tables[table].records.len() - 1;
        self.apply(table, at, actions)?;
        let is_allowed = self.allows(&rule, table, &self.tables[table].records[at], caller);
        if is_allowed {
            Ok(())
        } else {
            Err(Kind::Invalid)
        }
    }

    pub fn update(&mut self, table: usize, id: &str, body: &Body, caller: Caller) -> Outcome<()> {
        let rule = self.tables[table].rules.update.clone();
        admit(&rule, caller)?;
        let at = self.find_for(table, id, &rule, caller)?;
        let actions = self.read_body(table, body, caller)?;
        if read_id(body)?.is_some_and(|given| given != id) {
            return Err(Kind::Invalid);
        }
        self.apply(table, at, actions)
    }

    pub fn upsert(&mut self, table: usize, id: &str, body: &Body, caller: Caller) -> Outcome<()> {
        match self.find(table, id) {
            Some(_) => self.update(table, id, body, caller),
            None => self.create(table, body, id, caller),
        }
    }

    pub fn delete(&mut self, table: usize, id: &str, caller: Caller) -> Outcome<()> {
        let rule = self.tables[table].rules.delete.clone();
        admit(&rule, caller)?;
        self.find_for(table, id, &rule, caller)?;
        self.delete_found(table, std::slice::from_ref(&id.to_owned()))
    }

    fn delete_found(&mut self, table: usize, ids: &[String]) -> Outcome<()> {
        let doomed = self.doomed(table, ids);
        for from in 0..self.tables.len() {
            let fields = self.tables[from].collection.fields.clone();
            let records = &mut self.tables[from].records;
            records.retain(|record| !doomed.contains(&(from, record.id.clone())));
            for (at, field) in fields.iter().enumerate() {
                let Some(target) = self.target(field) else {
                    continue;
                };
                for record in &mut self.tables[from].records {
                    let before = record.values[at].texts();
                    let mut list = before.clone();
                    list.retain(|id| !doomed.contains(&(target, id.clone())));
                    if list.is_empty() && !before.is_empty() && field.required {
                        return Err(Kind::Conflict);
                    }
                    record.values[at] = list_value(field, list);
                }
            }
        }
        Ok(())
    }

    /// All go at once: what points from one to another is in nobody's way.
    pub fn delete_all(&mut self, table: usize, ids: &[String], caller: Caller) -> Outcome<()> {
        let rule = self.tables[table].rules.delete.clone();
        admit(&rule, caller)?;
        for id in ids {
            self.find_for(table, id, &rule, caller)?;
        }
        self.delete_found(table, ids)
    }

    fn find_for(&self, table: usize, id: &str, rule: &Rule, caller: Caller) -> Outcome<usize> {
        let records = &self.tables[table].records;
        let at = records
            .iter()
            .position(|record| record.id == id)
            .ok_or(Kind::NotFound)?;
        let is_allowed = self.allows(rule, table, &records[at], caller);
        if is_allowed {
            Ok(at)
        } else {
            Err(Kind::NotFound)
        }
    }

    /// The records and all that cascades from them.
    fn doomed(&self, table: usize, ids: &[String]) -> BTreeSet<(usize, String)> {
        let mut doomed: BTreeSet<_> = ids.iter().map(|id| (table, id.clone())).collect();
        loop {
            let before = doomed.len();
            for (from, table) in self.tables.iter().enumerate() {
                for (at, field) in table.collection.fields.iter().enumerate() {
                    if !field
                        .relation()
                        .is_some_and(|options| options.cascade_delete)
                    {
                        continue;
                    }
                    let target = self.target(field).unwrap();
                    for record in &table.records {
                        let mut ids = record.values[at].texts().into_iter();
                        if ids.any(|id| doomed.contains(&(target, id))) {
                            doomed.insert((from, record.id.clone()));
                        }
                    }
                }
            }
            if doomed.len() == before {
                return doomed;
            }
        }
    }

    fn read_body(&self, table: usize, body: &Body, caller: Caller) -> Outcome<Actions> {
        let mut actions: Actions = Vec::new();
        let fields = &self.tables[table].collection.fields;
        // To others than admins a hidden field does not exist.
        let is_shown = |field: &Field| caller == Caller::Admin || !field.hidden;
        let position = |name: &str| {
            fields
                .iter()
                .position(|field| field.name == name && is_shown(field))
        };
        for (key, json) in body {
            if key == "id" {
                continue;
            }
            if let Some(at) = position(key) {
                let value = read_value(&fields[at], json).ok_or(Kind::Invalid)?;
                if value == Value::Unset && fields[at].required {
                    return Err(Kind::Invalid);
                }
                actions.push((at, Action::Set(value)));
                continue;
            }
            let name = key.trim_matches(['+', '-']);
            let at = position(name).ok_or(Kind::Invalid)?;
            let sign = key.replace(name, "*");
            let action = read_modifier(&fields[at], &sign, json).ok_or(Kind::Invalid)?;
            actions.push((at, action));
        }
        // A field is mentioned once, with or without a sign.
        let mut seen = BTreeSet::new();
        if actions.iter().all(|(at, _)| seen.insert(*at)) {
            Ok(actions)
        } else {
            Err(Kind::Invalid)
        }
    }

    fn apply(&mut self, table: usize, at: usize, actions: Actions) -> Outcome<()> {
        for (field_at, action) in actions {
            let field = self.tables[table].collection.fields[field_at].clone();
            let before = self.tables[table].records[at].values[field_at].clone();
            let value = apply_action(&field, &before, action)?;
            if let Some(target) = self.target(&field)
                && value
                    .texts()
                    .iter()
                    .any(|id| self.find(target, id).is_none())
            {
                return Err(Kind::Invalid);
            }
            let is_taken = |other: &Record| other.values[field_at] == value;
            let mut others = self.tables[table].records.iter().enumerate();
            if field.unique
                && value != Value::Unset
                && others.any(|(other_at, other)| other_at != at && is_taken(other))
            {
                return Err(Kind::Invalid);
            }
            self.tables[table].records[at].values[field_at] = value;
        }
        Ok(())
    }

    /// Every id in a relation is the id of a record.
    pub fn check_relations(&self) {
        for table in &self.tables {
            for (at, field) in table.collection.fields.iter().enumerate() {
                let Some(target) = self.target(field) else {
                    continue;
                };
                for record in &table.records {
                    for id in record.values[at].texts() {
                        let is_there = self.find(target, &id).is_some();
                        assert!(is_there, "{} of {} points to {id}", field.name, record.id);
                    }
                }
            }
        }
    }
}

fn admit(rule: &Rule, caller: Caller) -> Outcome<()> {
    let is_refused = caller == Caller::Nobody && *rule == Rule::Admins;
    if is_refused {
        Err(Kind::Forbidden)
    } else {
        Ok(())
    }
}

fn default_value(field: &Field) -> Value {
    match field.kind {
        FieldKind::Bool => Value::Flag(false),
        _ => Value::Unset,
    }
}

fn read_id(body: &Body) -> Outcome<Option<String>> {
    match body.get("id") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(id)) if id.is_empty() => Ok(None),
        Some(Json::String(id)) if ids::is_valid_id(id) => Ok(Some(id.clone())),
        Some(_) => Err(Kind::Invalid),
    }
}

fn apply_action(field: &Field, before: &Value, action: Action) -> Outcome<Value> {
    let mut list = before.texts();
    match action {
        Action::Set(value) => return Ok(value),
        Action::Add(amount) => return add(field, before, amount).ok_or(Kind::Invalid),
        // What is added stands at its end, even if it was there before.
        Action::Append(more) => {
            list.retain(|text| !more.contains(text));
            list.extend(more);
        }
        Action::Prepend(more) => {
            list.retain(|text| !more.contains(text));
            list.splice(0..0, more);
        }
        Action::Remove(less) => list.retain(|text| !less.contains(text)),
    }
    let is_allowed = list.len() <= most(field) && !(list.is_empty() && field.required);
    if is_allowed {
        Ok(list_value(field, list))
    } else {
        Err(Kind::Invalid)
    }
}

fn add(field: &Field, before: &Value, amount: Number) -> Option<Value> {
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

fn is_in_bounds(field: &Field, number: Number) -> bool {
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

fn most(field: &Field) -> usize {
    match &field.kind {
        FieldKind::Select { select_max, .. } => *select_max,
        FieldKind::Relation(options) => options.select_max,
        _ => 0,
    }
}

fn list_value(field: &Field, mut list: Vec<String>) -> Value {
    match (list.is_empty(), field.is_multiple()) {
        (true, _) => Value::Unset,
        (false, true) => Value::List(list),
        (false, false) => Value::Text(list.remove(0)),
    }
}

fn read_number(json: &Json) -> Option<Number> {
    match json {
        Json::Number(number) => Some(match number.as_i64() {
            Some(integer) => Number::Integer(integer),
            None => Number::stored(number.as_f64()?),
        }),
        Json::String(text) => read_number(&serde_json::from_str(text).ok()?),
        _ => None,
    }
}

/// Distinct texts, none of them empty, each one that the field takes.
fn read_list(field: &Field, json: &Json, known_only: bool) -> Option<Vec<String>> {
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

/// The value that a body sets; none when it is refused.
fn read_value(field: &Field, json: &Json) -> Option<Value> {
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
        kind => unreachable!("no {} in these sequences", kind.name()),
    }
}

fn read_modifier(field: &Field, sign: &str, json: &Json) -> Option<Action> {
    if let (FieldKind::Number { .. }, "*+" | "*-") = (&field.kind, sign) {
        let amount = read_number(json)?;
        return Some(Action::Add(match (sign, amount) {
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
        "*+" => Action::Append(read_list(field, json, true)?),
        "+*" => Action::Prepend(read_list(field, json, true)?),
        "*-" => Action::Remove(read_list(field, json, false)?),
        _ => return None,
    })
}

//! `@request...` in conditions: the account of the caller, and the body of the request.
//!
//! `@request.auth.NAME` is a field of the signed-in account, `@request.auth.team.name` one of a
//! record that it references. `@request.body.NAME` is the value of a field after the change, if the
//! request sends one, with or without a modifier; `@request.body.NAME:isset` is true if it does;
//! `@request.body.owner.role` is a field of the record that the change references. Of several
//! values all must match, as with fields.

use rusqlite::types::Value as Stored;
use serde_json::Value;

use super::builder::{PathRoot, Query, Trust};
use super::coercion::{ComparisonType, coerce, type_of};
use super::operand::{JoinPath, OperandValue, ResolvedOperand};
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, CollectionKind, Field};
use crate::model::records::value::FieldValue;
use crate::model::rules::{Identity, User};

/// Columns that every account has; none of them is a relation.
const ALWAYS: [&str; 5] = ["id", "created", "updated", "collectionId", "collectionName"];
/// The collection of admins, as clients of PocketBase know it.
pub const ADMINS: &str = "_superusers";

impl<'a> Query<'a> {
    /// The operand for a path that starts with `@request`.
    pub(super) fn request_value(
        &mut self,
        path: &[String],
        root: PathRoot<'_>,
    ) -> Result<ResolvedOperand> {
        match path {
            [_, part, first, rest @ ..] if part == "auth" => {
                self.auth_value(path, first, rest, root.trust)
            }
            // A filter of the caller reads records and has no body.
            [_, part, first, rest @ ..] if part == "body" && root.trust == Trust::Rule => {
                self.body_value(path, first, rest, root)
            }
            _ => Err(unknown(path)),
        }
    }

    fn auth_value(
        &mut self,
        path: &[String],
        first: &str,
        rest: &[String],
        trust: Trust,
    ) -> Result<ResolvedOperand> {
        let is_always = ALWAYS.contains(&first);
        if is_always && !rest.is_empty() {
            return Err(unknown(path));
        }
        let kind = match first {
            "created" | "updated" => Some(ComparisonType::Datetime),
            _ => None,
        };
        if self.is_check {
            return Ok(missing().of_kind(match is_always {
                true => kind,
                false => self.check_auth_path(path, first, rest)?,
            }));
        }
        let user = match self.request.identity {
            Identity::User(user) => user,
            Identity::Admin(id) if first == "id" => {
                return Ok(request_constant(Stored::Text(id.clone())));
            }
            Identity::Admin(_) if first == "collectionName" => {
                return Ok(request_constant(Stored::Text(ADMINS.to_owned())));
            }
            _ => return Ok(missing().of_kind(kind)),
        };
        match first {
            "collectionId" => Ok(request_constant(Stored::Text(user.collection_id.clone()))),
            "collectionName" => Ok(request_constant(Stored::Text(user.collection_name.clone()))),
            _ if is_always => {
                Ok(request_constants(request_values(user.record.get(first))).of_kind(kind))
            }
            _ => self.auth_field(user, path, rest, trust),
        }
    }

    fn auth_field(
        &mut self,
        user: &User,
        path: &[String],
        rest: &[String],
        trust: Trust,
    ) -> Result<ResolvedOperand> {
        let collections = self.collections;
        let Some(collection) = collections.by_id(&user.collection_id) else {
            return Ok(missing());
        };
        let Some(field) = collection.field(&path[2]).filter(|it| !it.is_secret()) else {
            // Another auth collection may have the field.
            return Ok(missing());
        };
        if !self
            .fields_of(collection, trust)?
            .has(&field.name, field.hidden)
        {
            return Err(unknown(path));
        }
        let value = user.record.get(&field.name);
        if field.is_json() {
            // Json has the same value as in conditions on records; only the list `groups` counts as
            // several values.
            let value = value.and_then(|value| json_lookup(value, rest));
            return Ok(match field.name == "groups" && rest.is_empty() {
                true => request_constants(request_values(value)),
                false => request_constant(value.map_or(Stored::Null, scalar)),
            });
        }
        if rest.is_empty() {
            return Ok(request_constants(request_values(value)).of_kind(moment_kind(field)));
        }
        let Some(target) = self.target(field) else {
            return Ok(missing());
        };
        let bound = self.params.len();
        match self.related_values(&strings(value), target, rest, path, trust) {
            // The rule may refer to fields of accounts in another collection.
            Err(_) if trust == Trust::Rule => {
                self.params.truncate(bound);
                Ok(missing())
            }
            side => side,
        }
    }

    /// The target of a relation.
    fn target(&self, field: &Field) -> Option<&'a Collection> {
        let options = field.relation()?;
        let target = self.collections.by_id(&options.collection_id)?;
        Some(target)
    }

    /// The values at `rest` in the records of `target` with these ids, which come from the request.
    fn related_values(
        &mut self,
        ids: &[String],
        target: &Collection,
        rest: &[String],
        path: &[String],
        trust: Trust,
    ) -> Result<ResolvedOperand> {
        if ids.is_empty() {
            return Ok(missing());
        }
        let mut join = JoinPath::from_request(ids.len() > 1);
        let id = self.bind_ids(&mut join, ids)?;
        self.step_into(&mut join, &id, target, trust, &|| unknown(path))?;
        let root = PathRoot {
            alias: "",
            collection: target,
            trust,
        };
        Ok(self.field_path(join, rest, path, root)?.of_request())
    }

    /// Validates a path into the account. A rule may refer to fields of any auth collection of the
    /// database. Returns the type if one of them is a date there, since it can then only be
    /// compared with dates.
    fn check_auth_path(
        &mut self,
        path: &[String],
        first: &str,
        rest: &[String],
    ) -> Result<Option<ComparisonType>> {
        let collections = self.collections;
        let mut found = None;
        let mut refusal = Error::invalid(format!("No auth collection has a field {first}."));
        for collection in collections.all() {
            let Some(field) = collection
                .field(first)
                .filter(|field| collection.kind == CollectionKind::Auth && !field.is_secret())
            else {
                continue;
            };
            match self.check_auth_field(field, path, rest) {
                Ok(kind) => found = Some(found.flatten().or(kind)),
                Err(error) => refusal = error,
            }
        }
        found.ok_or(refusal)
    }

    fn check_auth_field(
        &mut self,
        field: &Field,
        path: &[String],
        rest: &[String],
    ) -> Result<Option<ComparisonType>> {
        if rest.is_empty() || field.is_json() {
            return Ok(moment_kind(field));
        }
        let target = self.target(field).ok_or_else(|| unknown(path))?;
        let root = PathRoot {
            alias: "",
            collection: target,
            trust: Trust::Rule,
        };
        let bound = self.params.len();
        let side = self.field_path(JoinPath::from_request(false), rest, path, root)?;
        self.params.truncate(bound);
        Ok(side.kind.filter(|kind| kind.is_moment()))
    }

    fn body_value(
        &mut self,
        path: &[String],
        first: &str,
        rest: &[String],
        root: PathRoot<'_>,
    ) -> Result<ResolvedOperand> {
        let (name, asks_if_set) = match first.strip_suffix(":isset") {
            Some(name) => (name, true),
            None => (first, false),
        };
        let field = root.collection.field(name).filter(|it| !it.is_secret());
        if (name != "id" && field.is_none()) || (asks_if_set && !rest.is_empty()) {
            return Err(unknown(path));
        }
        let sent = self.request.body.and_then(|sent| sent.get(name));
        if asks_if_set {
            return Ok(ResolvedOperand::constant(Stored::Integer(i64::from(
                sent.is_some(),
            ))));
        }
        let Some(field) = field else {
            return match rest.is_empty() {
                true => Ok(body_operand(sent)),
                false => Err(unknown(path)),
            };
        };
        if field.is_json() {
            let Some(FieldValue::Scalar(Stored::Text(text))) = sent else {
                return Ok(missing());
            };
            let value: Value = serde_json::from_str(text)?;
            let value = json_lookup(&value, rest);
            return Ok(request_constant(value.map_or(Stored::Null, scalar)));
        }
        if !rest.is_empty() {
            let target = self.target(field).ok_or_else(|| unknown(path))?;
            // Validation of a rule has no ids, but resolves and compares the path as if it had.
            let unknown_ids = vec![String::new(); if field.is_multiple() { 2 } else { 1 }];
            let ids = match (self.is_check, sent) {
                (true, _) => &unknown_ids,
                (false, Some(value)) => value.strings(),
                (false, None) => &[],
            };
            return self.related_values(ids, target, rest, path, Trust::Rule);
        }
        Ok(body_operand(sent).of_kind(moment_kind(field)))
    }

    /// Converts several constants to rows.
    pub(super) fn expand_multi(&mut self, side: ResolvedOperand) -> Result<ResolvedOperand> {
        let OperandValue::Constants(values) = &side.value else {
            return Ok(side);
        };
        let json = |value: &Stored| match value {
            Stored::Integer(number) => Value::from(*number),
            Stored::Real(number) => Value::from(*number),
            Stored::Text(text) => Value::from(text.as_str()),
            Stored::Null | Stored::Blob(_) => Value::Null,
        };
        let mut join = JoinPath::from_request(true);
        let sql = self.over_json(&mut join, &values.iter().map(json).collect())?;
        Ok(ResolvedOperand {
            from_request: true,
            ..join.end(sql, side.kind.unwrap_or(ComparisonType::Text))
        })
    }

    /// Binds one id, or joins several.
    fn bind_ids(&mut self, join: &mut JoinPath, ids: &[String]) -> Result<String> {
        match ids {
            [id] => Ok(self.bind(Stored::Text(id.clone()))),
            _ => self.over_json(join, &Value::from(ids)),
        }
    }

    fn over_json(&mut self, join: &mut JoinPath, list: &Value) -> Result<String> {
        let (alias, list) = (self.alias(), self.bind(Stored::Text(list.to_string())));
        join.joins += &format!(" LEFT JOIN json_each({list}) AS {alias}");
        Ok(format!("{alias}.value"))
    }
}

impl ResolvedOperand {
    /// Marks an operand as one of the request, where the empty string counts as unset, also inside
    /// json.
    fn of_request(mut self) -> ResolvedOperand {
        if let OperandValue::One { sql } | OperandValue::Many { sql, .. } = &mut self.value
            && self.kind == Some(ComparisonType::Json)
        {
            *sql = format!("nullif({sql}, '')");
        }
        ResolvedOperand {
            from_request: true,
            ..self
        }
    }

    /// Converts a value of the request to the type of the other operand. A value that does not fit
    /// counts as missing. A literal that does not fit is an error, see
    /// [`ResolvedOperand::to_sql_operand`].
    pub(super) fn align_to(&mut self, other: &ResolvedOperand, is_like: bool) {
        let (Some(kind), true) = (other.kind, self.from_request) else {
            return;
        };
        let fit = |value: &mut Stored| match coerce(value.clone(), Some(kind)) {
            Ok(_) if is_like => {}
            Ok(fitting) => *value = fitting,
            Err(_) => *value = Stored::Null,
        };
        match &mut self.value {
            OperandValue::Constant(value) => fit(value),
            OperandValue::Constants(values) => {
                values.iter_mut().for_each(fit);
                self.kind = Some(ComparisonType::Datetime).filter(|_| kind.is_moment() && !is_like);
            }
            OperandValue::One { sql } | OperandValue::Many { sql, .. } => {
                *sql = aligned_sql(sql, kind, is_like);
            }
        }
    }
}

/// SQL for the same: the value, or NULL if it is a string that does not fit `kind`.
fn aligned_sql(sql: &str, kind: ComparisonType, is_like: bool) -> String {
    let (yes, no) = match is_like {
        true => (sql, sql),
        false => ("1", "0"),
    };
    match kind {
        ComparisonType::Number => format!(
            "CASE WHEN typeof({sql}) <> 'text' THEN {sql} \
             WHEN json_valid({sql}) AND json_type({sql}) IN ('integer', 'real') THEN {sql} END"
        ),
        ComparisonType::Bool => format!(
            "CASE WHEN typeof({sql}) <> 'text' THEN {sql} \
             WHEN {sql} = 'true' THEN {yes} WHEN {sql} = 'false' THEN {no} END"
        ),
        ComparisonType::Text
        | ComparisonType::Date
        | ComparisonType::Datetime
        | ComparisonType::Json => sql.to_owned(),
    }
}

impl JoinPath {
    fn from_request(is_many: bool) -> JoinPath {
        JoinPath {
            alias: String::new(),
            joins: String::new(),
            is_many,
            guard: None,
        }
    }
}

fn unknown(path: &[String]) -> Error {
    Error::invalid(format!("Unknown name {}.", path.join(".")))
}

fn request_constant(value: Stored) -> ResolvedOperand {
    ResolvedOperand {
        from_request: true,
        ..ResolvedOperand::constant(value)
    }
}

/// The type of a field with dates, which can only be compared with dates.
fn moment_kind(field: &Field) -> Option<ComparisonType> {
    Some(type_of(field)).filter(|kind| kind.is_moment())
}

/// The operand for a value of the body.
fn body_operand(value: Option<&FieldValue>) -> ResolvedOperand {
    match value {
        Some(FieldValue::List(list)) => {
            request_constants(list.iter().cloned().map(Stored::Text).collect())
        }
        Some(FieldValue::Scalar(stored)) => request_constant(stored.clone()),
        None => missing(),
    }
}

fn missing() -> ResolvedOperand {
    request_constant(Stored::Null)
}

/// An operand for any number of values; none counts as missing.
fn request_constants(mut values: Vec<Stored>) -> ResolvedOperand {
    let value = match values.len() {
        0 => OperandValue::Constant(Stored::Null),
        1 => OperandValue::Constant(values.remove(0)),
        _ => OperandValue::Constants(values),
    };
    ResolvedOperand {
        value,
        kind: None,
        from_request: true,
        guard: None,
    }
}

/// The values of a JSON value; a list counts as its elements.
fn request_values(value: Option<&Value>) -> Vec<Stored> {
    let list = match value {
        Some(Value::Array(list)) => list.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    let stored = list.iter().map(scalar);
    stored.filter(|value| *value != Stored::Null).collect()
}

fn scalar(value: &Value) -> Stored {
    match value {
        Value::Null => Stored::Null,
        Value::Bool(flag) => Stored::Integer(i64::from(*flag)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Stored::Integer(integer),
            (None, Some(real)) => Stored::Real(real),
            (None, None) => Stored::Null,
        },
        Value::String(text) if text.is_empty() => Stored::Null,
        Value::String(text) => Stored::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => Stored::Text(value.to_string()),
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

/// The value at a path inside json, as `json_extract` finds it: integers are array positions only.
fn json_lookup<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter()
        .try_fold(value, |value, name| match (value, name.parse::<u32>()) {
            (Value::Array(list), Ok(position)) => list.get(usize::try_from(position).ok()?),
            (Value::Object(object), Err(_)) => object.get(name),
            _ => None,
        })
}

//! `@request...` in conditions: the account of the caller, the parameters, the headers, the method
//! and the context of the request. The body has a file of its own.
//!
//! `@request.auth.NAME` is a field of the signed-in account, `@request.auth.team.name` one of a
//! record that it references. Of several values all must match, as with fields.

use rusqlite::types::Value as Stored;
use serde_json::Value;

use super::builder::{PathRoot, Query, Trust};
use super::coercion::{ComparisonType, coerce, type_of};
use super::joins::JoinPath;
use super::modifier;
use super::modifier::Modifier;
use super::operand::{OperandValue, ResolvedOperand};
use super::path::misplaced;
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, CollectionKind, Field};
use crate::model::filter::REQUEST;
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
        if let [_, part, first, rest @ ..] = path
            && part == "auth"
        {
            return self.auth_value(path, first, rest, root.trust);
        }
        if let [_, part, first, rest @ ..] = path
            && part == "body"
        {
            // A filter of the caller reads records and has no body.
            return match root.trust {
                Trust::Rule => self.body_value(path, first, rest, root),
                Trust::Caller => Err(unknown(path)),
            };
        }
        self.check_superuser(root.trust, REQUEST)?;
        let facts = self.request.facts;
        let sent = facts.sent.as_deref();
        match path {
            [_, part] if part == "method" => Ok(request_text(Some(facts.method))),
            [_, part] if part == "context" => Ok(request_text(Some(facts.context))),
            [_, part, name] if part == "query" => sent_text(name, sent.map(|it| &it.query)),
            [_, part, name] if part == "headers" => sent_text(name, sent.map(|it| &it.headers)),
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
        let (first, modifier) = modifier::split(first)?;
        let is_always = ALWAYS.contains(&first);
        if (is_always || modifier.is_some()) && !rest.is_empty() {
            return Err(unknown(path));
        }
        let side = self.plain_auth_value(path, first, rest, trust)?;
        let side = modified(side, modifier, first)?;
        Ok(match modifier {
            Some(Modifier::Each) => self.expand_multi(side),
            _ => side,
        })
    }

    fn plain_auth_value(
        &mut self,
        path: &[String],
        first: &str,
        rest: &[String],
        trust: Trust,
    ) -> Result<ResolvedOperand> {
        let is_always = ALWAYS.contains(&first);
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
            "collectionName" => {
                // The name that rules mean now, also if the account was read before a rename.
                let collection = self.collections.by_id(&user.collection_id);
                let name = collection.map_or(&user.collection_name, |it| &it.name);
                Ok(request_constant(Stored::Text(name.clone())))
            }
            _ if is_always => {
                Ok(request_constants(request_values(user.record.get(first))).of_kind(kind))
            }
            _ => self.auth_field(user, path, first, rest, trust),
        }
    }

    fn auth_field(
        &mut self,
        user: &User,
        path: &[String],
        first: &str,
        rest: &[String],
        trust: Trust,
    ) -> Result<ResolvedOperand> {
        let collections = self.collections;
        let Some(collection) = collections.by_id(&user.collection_id) else {
            return Ok(missing());
        };
        let Some(field) = collection.field(first).filter(|it| !it.is_secret()) else {
            // Another auth collection may have the field.
            return Ok(missing());
        };
        if !self
            .fields_of(collection, trust)?
            .has(&field.name, field.hidden)
        {
            return Err(unknown(path));
        }
        let value = user.value(&field.id, &field.name);
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
            let side = request_constants(request_values(value)).of_kind(moment_kind(field));
            return Ok(side.of_field());
        }
        let Some(target) = self.target(field) else {
            return Ok(missing());
        };
        let mark = self.mark();
        match self.related_values(&strings(value), target, rest, path, trust) {
            // The rule may refer to fields of accounts in another collection.
            Err(_) if trust == Trust::Rule => {
                self.rewind(&mark);
                Ok(missing())
            }
            side => side,
        }
    }

    /// The target of a relation.
    pub(super) fn target(&self, field: &Field) -> Option<&'a Collection> {
        let options = field.relation()?;
        let target = self.collections.by_id(&options.collection_id)?;
        Some(target)
    }

    /// The values at `rest` in the records of `target` with these ids, which come from the request.
    pub(super) fn related_values(
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
        let key = path[..3].join(".");
        let mut join = JoinPath::begin("", REQUEST);
        let id = match ids {
            // The rows of another comparison begin with these ids already.
            _ if self.has_rows(&key) => String::new(),
            [id] => self.bind(Stored::Text(id.clone())),
            _ => {
                let list = self.bind(Stored::Text(Value::from(ids).to_string()));
                self.step_over_values(&mut join, &key, &list)?
            }
        };
        self.step_into(&mut join, key, &id, target, trust, &|| unknown(path))?;
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
        let mark = self.mark();
        let side = self.field_path(JoinPath::begin("", REQUEST), rest, path, root)?;
        self.rewind(&mark);
        Ok(side.kind.filter(|kind| kind.is_moment()))
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
            exact: None,
            ..self
        }
    }

    /// Marks a value of the request as that of a field, which is empty without one.
    pub(super) fn of_field(self) -> ResolvedOperand {
        let is_empty = matches!(self.value, OperandValue::Constant(Stored::Null));
        ResolvedOperand {
            exact: is_empty.then(|| "''".to_owned()),
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
            // The strings of a list are only searched.
            OperandValue::One { .. } if self.is_list => {}
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

/// A parameter or header of the request.
fn sent_text(name: &str, list: Option<&Vec<(String, String)>>) -> Result<ResolvedOperand> {
    let (name, modifier) = modifier::split(name)?;
    let found = list.into_iter().flatten().find(|(it, _)| it == name);
    let side = request_text(found.map(|(_, value)| value.as_str()));
    match modifier {
        Some(Modifier::Isset) => Ok(is_set(found.is_some())),
        modifier => modified(side, modifier, name),
    }
}

fn request_text(text: Option<&str>) -> ResolvedOperand {
    let text = text.filter(|text| !text.is_empty());
    request_constant(text.map_or(Stored::Null, |text| Stored::Text(text.to_owned())))
}

/// The truth of a question about the request, which is never missing itself.
pub(super) fn is_set(is_set: bool) -> ResolvedOperand {
    ResolvedOperand::constant(Stored::Integer(i64::from(is_set)))
}

/// A value of the request with a modifier.
pub(super) fn modified(
    side: ResolvedOperand,
    modifier: Option<Modifier>,
    name: &str,
) -> Result<ResolvedOperand> {
    let values = match &side.value {
        OperandValue::Constant(Stored::Null) => Vec::new(),
        OperandValue::Constant(value) => vec![value.clone()],
        OperandValue::Constants(values) => values.clone(),
        OperandValue::One { .. } | OperandValue::Many { .. } => match modifier {
            None => return Ok(side),
            Some(_) => return Err(misplaced(name)),
        },
    };
    let count = i64::try_from(values.len()).unwrap_or(i64::MAX);
    let lower = |value| match value {
        Stored::Text(text) => Stored::Text(text.to_ascii_lowercase()),
        value => value,
    };
    match modifier {
        None => Ok(side),
        // An empty list has no values.
        Some(Modifier::Each) => Ok(ResolvedOperand {
            exact: None,
            ..side
        }),
        Some(Modifier::Isset) => Ok(is_set(count > 0)),
        // Without the field there is no number either: not even 0.
        Some(Modifier::Length) if count == 0 && side.exact.is_none() => Ok(missing()),
        Some(Modifier::Length) => Ok(ResolvedOperand::constant(Stored::Integer(count))),
        Some(Modifier::Lower) => Ok(ResolvedOperand {
            exact: side.exact,
            ..request_constants(values.into_iter().map(lower).collect())
        }),
        Some(Modifier::Changed) => Err(misplaced(name)),
    }
}

pub(super) fn unknown(path: &[String]) -> Error {
    Error::invalid(format!("Unknown name {}.", path.join(".")))
}

pub(super) fn request_constant(value: Stored) -> ResolvedOperand {
    ResolvedOperand {
        from_request: true,
        ..ResolvedOperand::constant(value)
    }
}

/// The type of a field with dates, which can only be compared with dates.
pub(super) fn moment_kind(field: &Field) -> Option<ComparisonType> {
    Some(type_of(field)).filter(|kind| kind.is_moment())
}

pub(super) fn missing() -> ResolvedOperand {
    request_constant(Stored::Null)
}

/// An operand for any number of values; none counts as missing.
pub(super) fn request_constants(mut values: Vec<Stored>) -> ResolvedOperand {
    let value = match values.len() {
        0 => OperandValue::Constant(Stored::Null),
        1 => OperandValue::Constant(values.remove(0)),
        _ => OperandValue::Constants(values),
    };
    ResolvedOperand {
        value,
        from_request: true,
        ..ResolvedOperand::constant(Stored::Null)
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

pub(super) fn scalar(value: &Value) -> Stored {
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
pub(super) fn json_lookup<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter()
        .try_fold(value, |value, name| match (value, name.parse::<u32>()) {
            (Value::Array(list), Ok(position)) => list.get(usize::try_from(position).ok()?),
            (Value::Object(object), Err(_)) => object.get(name),
            _ => None,
        })
}

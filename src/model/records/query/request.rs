//! `@request...` in conditions: the account of the caller, and what is being written.
//!
//! `@request.auth.NAME` is a field of the signed-in record, `@request.auth.team.name` one of a record
//! that it points to. `@request.body.NAME` is what a field would hold after the change, if the request
//! sends anything for it, with or without a sign; `@request.body.NAME:isset` whether it does;
//! `@request.body.owner.role` a field of the record that the change points to. Several values ask for all of
//! them, as with fields.

use rusqlite::types::Value as Stored;
use serde_json::Value;

use super::builder::{PathRoot, Query, Trust};
use super::coercion::{ComparisonType, coerce, type_of};
use super::operand::{JoinPath, OperandValue, ResolvedOperand};
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, CollectionKind, Field, FieldKind};
use crate::model::records::value;
use crate::model::rules::{Identity, User};

/// What every account has; never a way to other records.
const ALWAYS: [&str; 5] = ["id", "created", "updated", "collectionId", "collectionName"];
/// What admins are the records of, to clients of PocketBase.
pub const ADMINS: &str = "_superusers";

impl<'a> Query<'a> {
    /// The side that `path`, which begins with `@request`, stands for.
    pub(super) fn request(
        &mut self,
        path: &[String],
        root: PathRoot<'_>,
    ) -> Result<ResolvedOperand> {
        match path {
            [_, part, first, rest @ ..] if part == "auth" => {
                self.account(path, first, rest, root.trust)
            }
            // A caller's own filter is about records, and writes none.
            [_, part, first, rest @ ..] if part == "body" && root.trust == Trust::Rule => {
                self.body(path, first, rest, root)
            }
            _ => Err(unknown(path)),
        }
    }

    fn account(
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
            return Ok(nothing().of_kind(match is_always {
                true => kind,
                false => self.check_account(path, first, rest)?,
            }));
        }
        let user = match self.request.identity {
            Identity::User(user) => user,
            Identity::Admin(id) if first == "id" => return Ok(known(Stored::Text(id.clone()))),
            Identity::Admin(_) if first == "collectionName" => {
                return Ok(known(Stored::Text(ADMINS.to_owned())));
            }
            _ => return Ok(nothing().of_kind(kind)),
        };
        match first {
            "collectionId" => Ok(known(Stored::Text(user.collection_id.clone()))),
            "collectionName" => Ok(known(Stored::Text(user.collection_name.clone()))),
            _ if is_always => Ok(several(values(user.record.get(first))).of_kind(kind)),
            _ => self.account_field(user, path, rest, trust),
        }
    }

    fn account_field(
        &mut self,
        user: &User,
        path: &[String],
        rest: &[String],
        trust: Trust,
    ) -> Result<ResolvedOperand> {
        let collections = self.collections;
        let Some(collection) = collections.by_id(&user.collection_id) else {
            return Ok(nothing());
        };
        let Some(field) = collection.field(&path[2]).filter(|it| !it.is_secret()) else {
            // Another auth collection may have it.
            return Ok(nothing());
        };
        if !self
            .fields_of(collection, trust)?
            .has(&field.name, field.hidden)
        {
            return Err(unknown(path));
        }
        let value = user.record.get(&field.name);
        if let FieldKind::Json { .. } = field.kind {
            // As conditions on records see json; only a list of groups stands for its values.
            let value = value.and_then(|value| inside(value, rest));
            return Ok(match field.name == "groups" && rest.is_empty() {
                true => several(values(value)),
                false => known(value.map_or(Stored::Null, scalar)),
            });
        }
        if rest.is_empty() {
            return Ok(several(values(value)).of_kind(moment_kind(field)));
        }
        let Some(target) = self.target(field) else {
            return Ok(nothing());
        };
        let bound = self.params.len();
        match self.of_related(&texts(value), target, rest, path, trust) {
            // What the rule speaks of, accounts of another collection have.
            Err(_) if trust == Trust::Rule => {
                self.params.truncate(bound);
                Ok(nothing())
            }
            side => side,
        }
    }

    /// The collection that a relation leads to.
    fn target(&self, field: &Field) -> Option<&'a Collection> {
        let options = field.relation()?;
        let target = self.collections.by_id(&options.collection_id)?;
        Some(target)
    }

    /// The values at `rest` in the records of `target` with these ids, which the request names.
    fn of_related(
        &mut self,
        ids: &[String],
        target: &Collection,
        rest: &[String],
        path: &[String],
        trust: Trust,
    ) -> Result<ResolvedOperand> {
        if ids.is_empty() {
            return Ok(nothing());
        }
        let mut join = JoinPath::from_request(ids.len() > 1);
        let id = self.one_of(&mut join, ids)?;
        self.step_into(&mut join, &id, target, trust, &|| unknown(path))?;
        let root = PathRoot {
            alias: "",
            collection: target,
            trust,
        };
        Ok(self.field_path(join, rest, path, root)?.of_request())
    }

    /// A rule may speak of the fields of any auth collection of the database. Returns the type if
    /// one of them holds moments there: what it is compared with must be one then.
    fn check_account(
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
            match self.check_account_field(field, path, rest) {
                Ok(kind) => found = Some(found.flatten().or(kind)),
                Err(error) => refusal = error,
            }
        }
        found.ok_or(refusal)
    }

    fn check_account_field(
        &mut self,
        field: &Field,
        path: &[String],
        rest: &[String],
    ) -> Result<Option<ComparisonType>> {
        if rest.is_empty() || matches!(field.kind, FieldKind::Json { .. }) {
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

    fn body(
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
                true => Ok(sent.map_or_else(nothing, |id| known(id.clone()))),
                false => Err(unknown(path)),
            };
        };
        if let FieldKind::Json { .. } = field.kind {
            let Some(Stored::Text(text)) = sent else {
                return Ok(nothing());
            };
            let value: Value = serde_json::from_str(text)?;
            return Ok(known(inside(&value, rest).map_or(Stored::Null, scalar)));
        }
        let ids = |sent: &Stored| value::load_list(field, sent);
        if !rest.is_empty() {
            let target = self.target(field).ok_or_else(|| unknown(path))?;
            let ids = match (self.is_check, field.is_multiple()) {
                (false, _) => sent.map(ids).unwrap_or_default(),
                // No ids; but the path is walked, and compared, as if there were some.
                (true, false) => vec![String::new()],
                (true, true) => vec![String::new(), String::new()],
            };
            return self.of_related(&ids, target, rest, path, Trust::Rule);
        }
        let side = match sent {
            Some(stored) if field.is_multiple() => {
                several(ids(stored).into_iter().map(Stored::Text).collect())
            }
            Some(stored) => known(stored.clone()),
            None => nothing(),
        };
        Ok(side.of_kind(moment_kind(field)))
    }

    /// Makes rows of several known values.
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

    /// Binds an id, or joins several.
    fn one_of(&mut self, join: &mut JoinPath, ids: &[String]) -> Result<String> {
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
    /// The same, of the request: there an empty text is nothing, also inside json.
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

    /// A value of the request that cannot be one of the other side's is nothing to it. The same in
    /// the text of a filter is a mistake, which [`ResolvedOperand::to_sql_operand`] tells of.
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
                *sql = fitting(sql, kind, is_like);
            }
        }
    }
}

/// The same in SQL: the value, or NULL where it is a text that is none of `kind`.
fn fitting(sql: &str, kind: ComparisonType, is_like: bool) -> String {
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
    Error::invalid(format!("{} is not known.", path.join(".")))
}

fn known(value: Stored) -> ResolvedOperand {
    ResolvedOperand {
        from_request: true,
        ..ResolvedOperand::constant(value)
    }
}

/// The type of a field that holds moments: what it is compared with must be one.
fn moment_kind(field: &Field) -> Option<ComparisonType> {
    Some(type_of(field)).filter(|kind| kind.is_moment())
}

fn nothing() -> ResolvedOperand {
    known(Stored::Null)
}

/// No values are nothing.
fn several(mut values: Vec<Stored>) -> ResolvedOperand {
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

/// A value of the request; a list is its values.
fn values(value: Option<&Value>) -> Vec<Stored> {
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

fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

/// What lies at a path inside json, as `json_extract` has it: whole numbers are positions in lists and
/// nothing else.
fn inside<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter()
        .try_fold(value, |value, name| match (value, name.parse::<u32>()) {
            (Value::Array(list), Ok(position)) => list.get(usize::try_from(position).ok()?),
            (Value::Object(object), Err(_)) => object.get(name),
            _ => None,
        })
}

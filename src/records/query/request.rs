//! `@request...` in conditions: the account of the caller, and what is being written.
//!
//! `@request.auth.NAME` is a field of the signed-in record, `@request.auth.team.name` one of a record
//! that it points to. `@request.body.NAME` is what the request sends for a field, with or without a
//! sign; `@request.body.NAME:isset` whether it sends anything. Several values ask for all of
//! them, as with fields.

use rusqlite::types::Value as Stored;
use serde_json::Value;

use super::Place;
use super::Query;
use super::Side;
use super::SideValue;
use super::Trust;
use super::Walk;
use super::coerce;
use super::kind_of;
use crate::collections::CollectionKind;
use crate::collections::Field;
use crate::collections::FieldKind;
use crate::error::Error;
use crate::error::Result;
use crate::records::kind::Kind;
use crate::records::value::Modifier;
use crate::rules::Identity;
use crate::rules::User;

/// What every account has; never a way to other records.
const ALWAYS: [&str; 5] = ["id", "created", "updated", "collectionId", "collectionName"];
/// What admins are the records of, to clients of PocketBase.
pub const ADMINS: &str = "_superusers";

impl Query<'_> {
    /// The side that `path`, which begins with `@request`, stands for.
    pub(super) fn request(&mut self, path: &[String], place: Place<'_>) -> Result<Side> {
        match path {
            [_, part, first, rest @ ..] if part == "auth" => {
                self.account(path, first, rest, place.trust)
            }
            [_, part, first, rest @ ..] if part == "body" => self.body(path, first, rest, place),
            _ => Err(unknown(path)),
        }
    }

    fn account(
        &mut self,
        path: &[String],
        first: &str,
        rest: &[String],
        trust: Trust,
    ) -> Result<Side> {
        let is_always = ALWAYS.contains(&first);
        if is_always && !rest.is_empty() {
            return Err(unknown(path));
        }
        if self.is_check {
            if !is_always {
                self.check_account(path, first, rest)?;
            }
            return Ok(nothing());
        }
        let user = match self.input.identity {
            Identity::User(user) => user,
            Identity::Admin(id) if first == "id" => return Ok(known(Stored::Text(id.clone()))),
            Identity::Admin(_) if first == "collectionName" => {
                return Ok(known(Stored::Text(ADMINS.to_owned())));
            }
            _ => return Ok(nothing()),
        };
        match first {
            "collectionId" => Ok(known(Stored::Text(user.collection_id.clone()))),
            "collectionName" => Ok(known(Stored::Text(user.collection_name.clone()))),
            _ if is_always => self.side(user.record.get(first)),
            _ => self.account_field(user, path, rest, trust),
        }
    }

    fn account_field(
        &mut self,
        user: &User,
        path: &[String],
        rest: &[String],
        trust: Trust,
    ) -> Result<Side> {
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
        if rest.is_empty() {
            return self.side(value);
        }
        match field
            .relation()
            .map(|to| collections.by_id(&to.collection_id))
        {
            Some(Some(target)) => {
                let ids = texts(value);
                if ids.is_empty() {
                    return Ok(nothing());
                }
                let mut walk = Walk::from_request(ids.len() > 1);
                let id = self.one_of(&mut walk, &ids)?;
                self.step_into(&mut walk, &id, target, trust, &|| unknown(path))?;
                let place = Place {
                    alias: "",
                    collection: target,
                    trust,
                };
                let side = self.field_path(walk, rest, path, place)?;
                Ok(Side {
                    from_request: true,
                    ..side
                })
            }
            Some(None) => Ok(nothing()),
            None => self.side(value.and_then(|value| inside(value, rest))),
        }
    }

    /// A rule may speak of the fields of any auth collection of the database.
    fn check_account(&mut self, path: &[String], first: &str, rest: &[String]) -> Result<()> {
        let collections = self.collections;
        let mut refusal = Error::invalid(format!("No auth collection has a field {first}."));
        for collection in collections.all() {
            let Some(field) = collection
                .field(first)
                .filter(|field| collection.kind == CollectionKind::Auth && !field.is_secret())
            else {
                continue;
            };
            match self.check_account_field(field, path, rest) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn check_account_field(
        &mut self,
        field: &Field,
        path: &[String],
        rest: &[String],
    ) -> Result<()> {
        if rest.is_empty() || matches!(field.kind, FieldKind::Json { .. }) {
            return Ok(());
        }
        let collections = self.collections;
        let target = field
            .relation()
            .map(|to| collections.by_id(&to.collection_id));
        let Some(Some(target)) = target else {
            return Err(unknown(path));
        };
        let place = Place {
            alias: "",
            collection: target,
            trust: Trust::Rule,
        };
        let bound = self.params.len();
        self.field_path(Walk::from_request(false), rest, path, place)?;
        self.params.truncate(bound);
        Ok(())
    }

    fn body(
        &mut self,
        path: &[String],
        first: &str,
        rest: &[String],
        place: Place<'_>,
    ) -> Result<Side> {
        let (name, asks_if_set) = match first.strip_suffix(":isset") {
            Some(name) => (name, true),
            None => (first, false),
        };
        let field = place.collection.field(name).filter(|it| !it.is_secret());
        if (name != "id" && field.is_none()) || (asks_if_set && !rest.is_empty()) {
            return Err(unknown(path));
        }
        let raw = self.input.body.and_then(|body| {
            let is_it = |key: &str| {
                key == name || Modifier::split(key).is_some_and(|(plain, _)| plain == name)
            };
            let found = body.get(name);
            found.or_else(|| body.iter().find(|(key, _)| is_it(key)).map(|(_, raw)| raw))
        });
        if asks_if_set {
            return Ok(Side::constant(Stored::Integer(i64::from(raw.is_some()))));
        }
        let value: Option<Value> = raw.and_then(|raw| serde_json::from_str(raw.get()).ok());
        if !rest.is_empty() {
            return self.side(value.as_ref().and_then(|value| inside(value, rest)));
        }
        let mut side = self.side(value.as_ref())?;
        if let (SideValue::Constant(stored), Some(field)) = (&mut side.value, field)
            && !matches!(field.kind, FieldKind::Json { .. })
        {
            // As it will be stored; what cannot be is refused anyway.
            let fitting = coerce(stored.clone(), Some(kind_of(field)));
            *stored = fitting.unwrap_or(Stored::Null);
        }
        Ok(side)
    }

    /// A value of the request; a list is its values.
    fn side(&mut self, value: Option<&Value>) -> Result<Side> {
        let Some(Value::Array(list)) = value else {
            return Ok(known(value.map_or(Stored::Null, scalar)));
        };
        let values: Vec<Stored> = list
            .iter()
            .map(scalar)
            .filter(|value| *value != Stored::Null)
            .collect();
        match values.as_slice() {
            [] => Ok(nothing()),
            [one] => Ok(known(one.clone())),
            _ => {
                let mut walk = Walk::from_request(true);
                let texts: Vec<Value> = list.iter().filter(|it| !it.is_null()).cloned().collect();
                let sql = self.over_json(&mut walk, &Value::Array(texts))?;
                Ok(Side {
                    from_request: true,
                    ..walk.end(sql, Kind::Text)
                })
            }
        }
    }

    /// Binds an id, or joins several.
    fn one_of(&mut self, walk: &mut Walk, ids: &[String]) -> Result<String> {
        match ids {
            [id] => Ok(self.bind(Stored::Text(id.clone()))),
            _ => self.over_json(walk, &Value::from(ids)),
        }
    }

    fn over_json(&mut self, walk: &mut Walk, list: &Value) -> Result<String> {
        let (alias, list) = (self.alias(), self.bind(Stored::Text(list.to_string())));
        walk.joins += &format!(" LEFT JOIN json_each({list}) AS {alias}");
        Ok(format!("{alias}.value"))
    }
}

impl Walk {
    fn from_request(is_many: bool) -> Walk {
        Walk {
            alias: String::new(),
            joins: String::new(),
            is_many,
        }
    }
}

fn unknown(path: &[String]) -> Error {
    Error::invalid(format!("{} is not known.", path.join(".")))
}

fn known(value: Stored) -> Side {
    Side {
        value: SideValue::Constant(value),
        from_request: true,
    }
}

fn nothing() -> Side {
    known(Stored::Null)
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

/// What lies at a path inside json.
fn inside<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| match value {
        Value::Array(list) => list.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

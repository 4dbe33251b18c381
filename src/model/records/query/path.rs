//! Resolves the paths of conditions: from a record through its relations to a column.
//!
//! A name leads to a field, or over a relation to the record that it names. `comments_via_post`
//! leads back over the relation `post` of the collection `comments`, to the comments that name the
//! record. `@collection.NAME` leads to every record of a collection.

use std::sync::Arc;

use rusqlite::types::Value as Stored;

use super::builder::{PathRoot, Query, Trust};
use super::coercion::{ComparisonType, json_path, type_of};
use super::email_visibility::is_guarded;
use super::joins::{JoinPath, JoinStep, is_indexed, is_unique};
use super::macros;
use super::modifier;
use super::modifier::Modifier;
use super::operand::ResolvedOperand;
use crate::base::error::{Error, Kind, Result};
use crate::model::collections::{Collection, Collections, Field, FieldKind};
use crate::model::filter::{COLLECTION, REQUEST};
use crate::model::rules::{Access, Fields, Operation};
use crate::store::db::quote;

/// Between the collection and the relation of a name that leads back: `comments_via_post`.
pub const VIA: &str = "_via_";

impl<'a> Query<'a> {
    pub fn path(&mut self, path: &[String], root: PathRoot<'_>) -> Result<ResolvedOperand> {
        let first = path.first().map_or("", String::as_str);
        match first {
            REQUEST => return self.request_value(path, root),
            COLLECTION => return self.collection_path(path, root.trust),
            _ => {}
        }
        if let Some(name) = first.strip_prefix('@') {
            let value = macros::value(name, self.now_ms).filter(|_| path.len() == 1);
            return value
                .ok_or_else(|| Error::invalid(format!("Unknown name {}.", path.join("."))));
        }
        self.field_path(JoinPath::begin(root.alias, root.alias), path, path, root)
    }

    /// Resolves `@collection.NAME.field` or `@collection.NAME:ALIAS.field`.
    fn collection_path(&mut self, path: &[String], trust: Trust) -> Result<ResolvedOperand> {
        let unknown = || Error::invalid(format!("Unknown name {}.", path.join(".")));
        self.check_superuser(trust, COLLECTION)?;
        let [_, name, rest @ ..] = path else {
            return Err(unknown());
        };
        let collections = self.collections;
        let plain = name
            .split_once(':')
            .map_or(name.as_str(), |(plain, _)| plain);
        let target = collections.find(plain).ok_or_else(unknown)?;
        let mut join = JoinPath::begin("", COLLECTION);
        self.step(
            &mut join,
            format!("{COLLECTION}.{name}"),
            true,
            |query, alias| {
                let condition = query.view_condition(alias, target, trust, &unknown)?;
                Ok(JoinStep::table(target, alias, None, condition))
            },
        )?;
        let root = PathRoot {
            alias: "",
            collection: target,
            trust,
        };
        self.field_path(join, rest, path, root)
    }

    /// Only admins and keys filter by what does not belong to a record or an account.
    pub fn check_superuser(&self, trust: Trust, name: &str) -> Result<()> {
        match trust == Trust::Rule || self.request.identity.manages() {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Forbidden,
                format!("Only admins may filter by {name}."),
            )),
        }
    }

    /// Resolves the names of a path (`author.name`, `tags`, `meta.colour`) from the record that
    /// `join` has reached, one of `root.collection`. `path` is the whole path, for errors.
    pub fn field_path(
        &mut self,
        mut join: JoinPath,
        names: &[String],
        path: &[String],
        root: PathRoot<'_>,
    ) -> Result<ResolvedOperand> {
        let trust = root.trust;
        let (mut at, mut names) = (root.collection, names);
        let unknown = || no_field(path, root.collection);
        loop {
            let fields = self.fields_of(at, trust)?;
            let (name, rest) = names.split_first().ok_or_else(unknown)?;
            let (name, modifier) = modifier::split(name)?;
            if modifier.is_some() && !rest.is_empty() {
                return Err(unknown());
            }
            let column = format!("{}.{}", join.alias, quote(name));
            if let Some(field) = at.system_field(name) {
                if !fields.has_system(field.hidden) {
                    return Err(unknown());
                }
                let end = system_column(join, name, column, modifier).filter(|_| rest.is_empty());
                return end.ok_or_else(unknown);
            }
            let Some(field) = at.field(name) else {
                let target = self.step_back(&mut join, name, at, trust, &unknown)?;
                (at, names) = (target, rest);
                continue;
            };
            if field.is_secret() || !fields.has(name, field.hidden) {
                return Err(unknown());
            }
            if rest.is_empty() {
                if is_guarded(at, field, &fields) {
                    join.guard = Some(self.sees_email(&join.alias, at)?);
                }
                let has_index = is_indexed(at, field);
                let end = self.end_at_field(join, field, column, modifier)?;
                return Ok(end.indexed(has_index && modifier.is_none()));
            }
            match (&field.kind, field.relation()) {
                (FieldKind::Json { .. } | FieldKind::GeoPoint, _) => {
                    return self.end_in_json(join, &column, rest);
                }
                (_, Some(options)) => {
                    let target = self
                        .collections
                        .by_id(&options.collection_id)
                        .ok_or_else(unknown)?;
                    let is_id = matches!(rest, [name] if name == "id");
                    if is_id && trust == Trust::Rule && !field.is_multiple() {
                        // A relation without a record does not exist, so its id is the value.
                        let has_index = is_indexed(at, field);
                        return Ok(join.end(column, ComparisonType::Text).indexed(has_index));
                    }
                    let key = format!("{}.{name}", join.key);
                    let id = match field.is_multiple() {
                        true => self.step_over_values(&mut join, &key, &column)?,
                        false => column,
                    };
                    self.step_into(&mut join, key, &id, target, trust, &unknown)?;
                    (at, names) = (target, rest);
                }
                _ => return Err(unknown()),
            }
        }
    }

    pub fn fields_of(&self, collection: &Collection, trust: Trust) -> Result<Fields> {
        match trust {
            Trust::Rule => Ok(Fields::All),
            Trust::Caller => Ok(collection
                .grant(Operation::View, self.request.identity)
                .fields),
        }
    }

    fn end_at_field(
        &mut self,
        mut join: JoinPath,
        field: &Field,
        column: String,
        modifier: Option<Modifier>,
    ) -> Result<ResolvedOperand> {
        let is_list = field.is_multiple();
        let column = match field.kind {
            // The unary plus keeps SQLite from replacing the column with a constant that it is
            // compared with.
            FieldKind::Json { .. } | FieldKind::GeoPoint => {
                format!("json_extract(+{column}, '$')")
            }
            _ => column,
        };
        let kind = match field.kind {
            FieldKind::Json { .. } | FieldKind::GeoPoint => ComparisonType::Json,
            _ => type_of(field),
        };
        let is_text = kind == ComparisonType::Text || kind.is_moment();
        let end = |join: JoinPath, sql: String| match is_text && !field.nullable {
            true if is_list => join.end_at_column(sql, kind, "[]"),
            true => join.end_at_column(sql, kind, ""),
            false => join.end(sql, kind),
        };
        match modifier {
            None => Ok(ResolvedOperand {
                is_list,
                ..end(join, column)
            }),
            Some(Modifier::Lower) if kind == ComparisonType::Text && !is_list => {
                Ok(end(join, lower(&column)))
            }
            Some(Modifier::Each) if is_list => {
                let key = format!("{}.{}:each", join.key, field.name);
                let value = self.step_over_values(&mut join, &key, &column)?;
                Ok(join.end(value, kind))
            }
            Some(Modifier::Each) if holds_values(field) => Ok(end(join, column)),
            Some(Modifier::Length) if holds_values(field) => {
                let count = match is_list {
                    true => format!("coalesce(json_array_length({column}), 0)"),
                    false => format!("coalesce({column}, '') <> ''"),
                };
                // The cast makes SQLite compare it as a column of numbers.
                let sql = format!("CAST({count} AS INTEGER)");
                Ok(join.end(sql, ComparisonType::Number))
            }
            Some(_) => Err(misplaced(&field.name)),
        }
    }

    fn end_in_json(
        &mut self,
        join: JoinPath,
        column: &str,
        rest: &[String],
    ) -> Result<ResolvedOperand> {
        let mut names = rest.to_vec();
        let is_lower = match names.last_mut() {
            Some(last) => {
                let (plain, modifier) = modifier::split(last)?;
                let (plain, modifier) = (plain.to_owned(), modifier);
                *last = plain;
                match modifier {
                    None => false,
                    Some(Modifier::Lower) => true,
                    Some(_) => return Err(misplaced(last)),
                }
            }
            None => false,
        };
        let path = self.bind(Stored::Text(json_path(&names)?));
        let sql = format!("json_extract({column}, {path})");
        Ok(match is_lower {
            true => join.end(lower(&sql), ComparisonType::Text),
            false => join.end(sql, ComparisonType::Json),
        })
    }

    /// Joins the record of `target` with this id. In a filter of the caller, a record that the view
    /// rule hides does not exist.
    pub fn step_into(
        &mut self,
        join: &mut JoinPath,
        key: String,
        id: &str,
        target: &Collection,
        trust: Trust,
        unknown: &dyn Fn() -> Error,
    ) -> Result<()> {
        self.step(join, key, false, |query, alias| {
            let condition = query.view_condition(alias, target, trust, unknown)?;
            let link = (format!("{alias}.id"), id.to_owned());
            Ok(JoinStep::table(target, alias, Some(link), condition))
        })
    }

    /// Joins the records that a name such as `comments_via_post` stands for: those whose relation
    /// names the record that `join` has reached, one of `at`. Returns their collection.
    fn step_back(
        &mut self,
        join: &mut JoinPath,
        name: &str,
        at: &Collection,
        trust: Trust,
        unknown: &dyn Fn() -> Error,
    ) -> Result<&'a Collection> {
        let collections = self.collections;
        let (target, relation) = back_relation(collections, at, name).ok_or_else(unknown)?;
        let fields = self.fields_of(target, trust)?;
        if !fields.has(&relation.name, relation.hidden) {
            return Err(unknown());
        }
        let key = format!("{}.{name}", join.key);
        let id = format!("{}.id", join.alias);
        let is_many = relation.is_multiple() || !is_unique(target, relation);
        self.step(join, key, is_many, |query, alias| {
            let view = query.view_condition(alias, target, trust, unknown)?;
            let column = format!("{alias}.{}", quote(&relation.name));
            if !relation.is_multiple() {
                return Ok(JoinStep::table(target, alias, Some((column, id)), view));
            }
            let value = query.alias();
            let names = format!(
                "EXISTS (SELECT 1 FROM json_each(coalesce({column}, '[]')) AS {value} \
                 WHERE {value}.value = {id})"
            );
            let condition = match view {
                Some(view) => format!("{view} AND {names}"),
                None => names,
            };
            Ok(JoinStep::table(target, alias, None, Some(condition)))
        })?;
        Ok(target)
    }

    /// The condition under which a record of `target` exists for the author of the path.
    fn view_condition(
        &mut self,
        alias: &str,
        target: &Collection,
        trust: Trust,
        unknown: &dyn Fn() -> Error,
    ) -> Result<Option<String>> {
        if trust == Trust::Rule {
            return Ok(None);
        }
        match target.grant(Operation::View, self.request.identity).access {
            Access::Free => Ok(None),
            Access::Denied => Err(unknown()),
            Access::When(rule) => {
                let root = PathRoot {
                    alias,
                    collection: target,
                    trust: Trust::Rule,
                };
                self.apart(|query| query.expr(&rule, true, root)).map(Some)
            }
        }
    }

    /// Joins the values of a list. Returns the SQL of the value.
    pub fn step_over_values(
        &mut self,
        join: &mut JoinPath,
        key: &str,
        list: &str,
    ) -> Result<String> {
        let key = format!("{key}[]");
        self.step(join, key, true, |_, alias| {
            Ok(JoinStep::values(list, alias))
        })?;
        Ok(format!("{}.value", join.alias))
    }
}

/// The end of a path at a column that every record has; none for a wrong modifier.
fn system_column(
    join: JoinPath,
    name: &str,
    column: String,
    modifier: Option<Modifier>,
) -> Option<ResolvedOperand> {
    let kind = match name {
        "id" => ComparisonType::Text,
        _ => ComparisonType::Datetime,
    };
    match modifier {
        None => Some(join.end(column, kind).indexed(name == "id")),
        Some(Modifier::Lower) if name == "id" => Some(join.end(lower(&column), kind)),
        Some(_) => None,
    }
}

/// The collection and the relation to `at` that a name such as `comments_via_post` stands for.
pub fn back_relation<'a>(
    collections: &'a Collections,
    at: &Collection,
    name: &str,
) -> Option<(&'a Arc<Collection>, &'a Field)> {
    let (target, relation) = name.rsplit_once(VIA)?;
    let target = collections.find(target)?;
    let relation = target.field(relation)?;
    let options = relation.relation()?;
    (options.collection_id == at.id).then_some((target, relation))
}

/// True for the types that can have several values, also where the field has one at most.
pub fn holds_values(field: &Field) -> bool {
    matches!(
        field.kind,
        FieldKind::Select { .. } | FieldKind::Relation(_) | FieldKind::File(_)
    )
}

pub fn lower(sql: &str) -> String {
    format!("lower({sql})")
}

pub fn misplaced(name: &str) -> Error {
    Error::invalid(format!("{name} cannot have this modifier."))
}

fn no_field(path: &[String], collection: &Collection) -> Error {
    Error::invalid(format!(
        "{} has no field {}.",
        collection.name,
        path.join(".")
    ))
}

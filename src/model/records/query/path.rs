//! Resolves the paths of conditions: from a record through its relations to a column.

use rusqlite::types::Value as Stored;

use super::builder::{PathRoot, Query, Trust};
use super::coercion::{ComparisonType, json_path, type_of};
use super::email_visibility::is_guarded;
use super::operand::{JoinPath, ResolvedOperand};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, Field, FieldKind};
use crate::model::filter::REQUEST;
use crate::model::rules::{Access, Fields, Operation};
use crate::store::db::quote;

impl Query<'_> {
    pub fn path(&mut self, path: &[String], root: PathRoot<'_>) -> Result<ResolvedOperand> {
        let first = path.first().map_or("", String::as_str);
        if first == REQUEST {
            return self.request_value(path, root);
        }
        if let Some(name) = first.strip_prefix('@') {
            let value = Stored::Text(self.time_macro(name, path)?);
            return Ok(ResolvedOperand::constant(value).of_kind(Some(ComparisonType::Datetime)));
        }
        let join = JoinPath {
            alias: root.alias.to_owned(),
            joins: String::new(),
            is_many: false,
            guard: None,
        };
        self.field_path(join, path, path, root)
    }

    /// The time macros, in UTC, with the names that PocketBase uses.
    fn time_macro(&self, name: &str, path: &[String]) -> Result<String> {
        let day = self.now_ms.div_euclid(clock::DAY_MS) * clock::DAY_MS;
        let ms = match name {
            "now" => self.now_ms,
            "todayStart" => day,
            "todayEnd" => day + clock::DAY_MS - 1,
            "yesterday" => self.now_ms - clock::DAY_MS,
            "tomorrow" => self.now_ms + clock::DAY_MS,
            "monthStart" => {
                let text = clock::format_ms(day);
                clock::parse_datetime(&format!("{}-01", &text[..7])).unwrap_or(day)
            }
            "yearStart" => {
                let text = clock::format_ms(day);
                clock::parse_datetime(&format!("{}-01-01", &text[..4])).unwrap_or(day)
            }
            _ => return Err(Error::invalid(format!("Unknown name {}.", path.join(".")))),
        };
        if path.len() > 1 {
            return Err(Error::invalid(format!("Unknown name {}.", path.join("."))));
        }
        Ok(clock::format_ms(ms))
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
        let (mut at, trust, mut names) = (root.collection, root.trust, names);
        let unknown = || no_field(path, root.collection);
        let mut fields = self.fields_of(at, trust)?;
        loop {
            let (name, rest) = names.split_first().ok_or_else(unknown)?;
            let column = format!("{}.{}", join.alias, quote(name));
            if let Some(field) = at.system_field(name) {
                if !fields.has_system(field.hidden) {
                    return Err(unknown());
                }
                let kind = if name == "id" {
                    ComparisonType::Text
                } else {
                    ComparisonType::Datetime
                };
                return if rest.is_empty() {
                    Ok(join.end(column, kind))
                } else {
                    Err(unknown())
                };
            }
            let field = at.field(name).ok_or_else(unknown)?;
            if field.is_secret() || !fields.has(name, field.hidden) {
                return Err(unknown());
            }
            if rest.is_empty() {
                if is_guarded(at, field, &fields) {
                    join.guard = Some(self.sees_email(&join.alias, at)?);
                }
                return Ok(self.end_at_field(join, field, column));
            }
            match (&field.kind, field.relation()) {
                (FieldKind::Json { .. } | FieldKind::GeoPoint, _) => {
                    let path = self.bind(Stored::Text(json_path(rest)?));
                    return Ok(join.end(
                        format!("json_extract({column}, {path})"),
                        ComparisonType::Json,
                    ));
                }
                (_, Some(options)) => {
                    let target = self
                        .collections
                        .by_id(&options.collection_id)
                        .ok_or_else(unknown)?;
                    let id = if field.is_multiple() {
                        self.step_over_values(&mut join, &column)
                    } else {
                        column
                    };
                    self.step_into(&mut join, &id, target, trust, &unknown)?;
                    fields = self.fields_of(target, trust)?;
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
    ) -> ResolvedOperand {
        if field.is_json() {
            // The unary plus keeps SQLite from replacing the column with a constant that it is
            // compared with.
            return join.end(
                format!("json_extract(+{column}, '$')"),
                ComparisonType::Json,
            );
        }
        if !field.is_multiple() {
            return join.end(column, type_of(field));
        }
        let values = self.step_over_values(&mut join, &column);
        join.end(values, type_of(field))
    }

    /// Joins the record of `target` with this id. In a filter of the caller, a record that the view
    /// rule hides does not exist.
    pub fn step_into(
        &mut self,
        join: &mut JoinPath,
        id: &str,
        target: &Collection,
        trust: Trust,
        unknown: &dyn Fn() -> Error,
    ) -> Result<()> {
        let (alias, table) = (self.alias(), target.source());
        join.joins += &format!(" LEFT JOIN {table} AS {alias} ON {alias}.id = {id}");
        if trust == Trust::Caller {
            match target.grant(Operation::View, self.request.identity).access {
                Access::Free => {}
                Access::Denied => return Err(unknown()),
                Access::When(rule) => {
                    let root = PathRoot {
                        alias: &alias,
                        collection: target,
                        trust: Trust::Rule,
                    };
                    let condition = self.expr(&rule, true, root)?;
                    join.joins += &format!(" AND {condition}");
                }
            }
        }
        join.alias = alias;
        Ok(())
    }

    /// Joins the values of a list; an empty list counts as one unset value. Returns the SQL of the
    /// value.
    fn step_over_values(&mut self, join: &mut JoinPath, column: &str) -> String {
        let alias = self.alias();
        join.joins += &format!(" LEFT JOIN json_each(coalesce({column}, '[null]')) AS {alias}");
        join.is_many = true;
        format!("{alias}.value")
    }
}

fn no_field(path: &[String], collection: &Collection) -> Error {
    Error::invalid(format!(
        "{} has no field {}.",
        collection.name,
        path.join(".")
    ))
}

//! `@request.body...` in conditions: the changes that a request asks for.
//!
//! `@request.body.NAME` is the value of a field after the change, if the request sends one, with or
//! without a modifier such as `+`; `:isset` is true if it does, `:changed` if that value is also
//! another than that of the record. `@request.body.owner.role` is a field of the record that the
//! change references.

use rusqlite::types::Value as Stored;
use serde_json::Value;

use super::builder::{PathRoot, Query, Trust};
use super::coercion::ComparisonType;
use super::joins::JoinPath;
use super::modifier;
use super::modifier::Modifier;
use super::operand::ResolvedOperand;
use super::path::{holds_values, misplaced};
use super::request::{
    is_set, json_lookup, missing, modified, moment_kind, request_constant, request_constants,
    scalar, unknown,
};
use crate::base::error::Result;
use crate::model::collections::Field;
use crate::model::records::value::FieldValue;
use crate::store::db::quote;

impl Query<'_> {
    pub(super) fn body_value(
        &mut self,
        path: &[String],
        first: &str,
        rest: &[String],
        root: PathRoot<'_>,
    ) -> Result<ResolvedOperand> {
        let (name, modifier) = modifier::split(first)?;
        let field = root.collection.field(name).filter(|it| !it.is_secret());
        if (name != "id" && field.is_none()) || (modifier.is_some() && !rest.is_empty()) {
            return Err(unknown(path));
        }
        let sent = self.request.body.and_then(|sent| sent.get(name));
        match (modifier, field) {
            (Some(Modifier::Isset), _) => return Ok(is_set(sent.is_some())),
            (Some(Modifier::Changed), Some(field)) => return Ok(self.changed(field, sent, root)),
            (Some(Modifier::Changed), None) => return Err(misplaced(name)),
            (Some(Modifier::Length | Modifier::Each), field)
                if !field.is_some_and(holds_values) =>
            {
                return Err(misplaced(name));
            }
            _ => {}
        }
        let Some(field) = field else {
            return match rest.is_empty() {
                true => modified(body_operand(sent), modifier, name),
                false => Err(unknown(path)),
            };
        };
        if field.is_json() {
            let Some(FieldValue::Scalar(Stored::Text(text))) = sent else {
                return Ok(missing());
            };
            let value: Value = serde_json::from_str(text)?;
            let value = json_lookup(&value, rest);
            let side = request_constant(value.map_or(Stored::Null, scalar));
            return modified(side, modifier, name);
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
        let side = modified(body_operand(sent), modifier, name)?;
        match modifier {
            None => Ok(side.of_kind(moment_kind(field))),
            Some(Modifier::Each) => Ok(self.expand_multi(side)),
            Some(_) => Ok(side),
        }
    }

    /// True if the request sends a value for the field other than that of the record.
    fn changed(
        &mut self,
        field: &Field,
        sent: Option<&FieldValue>,
        root: PathRoot<'_>,
    ) -> ResolvedOperand {
        let Some(sent) = sent else {
            return is_set(false);
        };
        let value = match sent {
            FieldValue::Scalar(value) => value.clone(),
            FieldValue::List(list) if list.is_empty() => Stored::Null,
            FieldValue::List(list) => Stored::Text(Value::from(list.as_slice()).to_string()),
        };
        let (column, value) = (quote(&field.name), self.bind(value));
        let sql = format!("({}.{column} IS NOT {value})", root.alias);
        JoinPath::begin(root.alias, root.alias).end(sql, ComparisonType::Bool)
    }
}

/// The operand for a value of the body.
fn body_operand(value: Option<&FieldValue>) -> ResolvedOperand {
    match value {
        Some(FieldValue::List(list)) => {
            request_constants(list.iter().cloned().map(Stored::Text).collect()).of_field()
        }
        Some(FieldValue::Scalar(stored)) => request_constant(stored.clone()).of_field(),
        None => missing(),
    }
}

//! Applies a draft to a record: computes the values to store, before any row is written.

use rusqlite::Connection;
use rusqlite::types::Value as Stored;

use super::draft::{Draft, NewFile, Times, invalid_record};
use super::query::RequestBody;
use super::row::{Rowid, holds, rowid_of};
use super::value::{FieldChange, FieldValue};
use super::{Scope, draft, value};
use crate::base::error::{Error, FieldError, FieldErrors, Result};
use crate::model::collections::{Collection, Field};
use crate::model::rules::{Access, Identity, Operation};
use crate::store::db::quote;

/// The values of a draft that was applied to a record.
pub struct Resolved {
    /// Each with its position in `Collection::fields`.
    pub values: Vec<(usize, FieldValue)>,
    /// The values that a rule reads as `@request.body`.
    pub body: RequestBody,
    pub times: Times,
    /// The uploaded files.
    pub files: Vec<NewFile>,
    /// Names of files that the record no longer names.
    pub removed: Vec<String>,
    errors: FieldErrors,
}

/// The record that a draft is applied to.
#[derive(Clone, Copy)]
enum Base<'a> {
    /// A new record with this id.
    New(&'a str),
    Existing(Rowid),
}

impl Resolved {
    /// Returns an error that names every invalid field.
    pub fn check(&self) -> Result<()> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(invalid_record(self.errors.clone())),
        }
    }

    /// Checks that each file that a field names is stored already or uploaded with the request.
    fn check_files(
        &self,
        field: &Field,
        value: FieldValue,
        current: &FieldValue,
    ) -> Result<FieldValue, FieldError> {
        if field.file().is_none() {
            return Ok(value);
        }
        let is_new = |name: &String| self.files.iter().any(|file| file.stored.name == *name);
        let is_unknown = |name: &&String| !current.strings().contains(name) && !is_new(name);
        match value.strings().iter().find(is_unknown) {
            Some(name) => {
                let message = format!("There is no file {} here.", value::shorten(name));
                value::field_error("validation_invalid_file", &message)
            }
            None => Ok(value),
        }
    }

    fn collect_removed_files(&mut self, field: &Field, value: &FieldValue, current: &FieldValue) {
        if field.file().is_some() {
            let removed = current.strings().iter();
            let removed = removed.filter(|name| !value.strings().contains(name));
            self.removed.extend(removed.cloned());
        }
    }
}

/// Applies a draft to a new record with this id.
pub fn create(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
    draft: Draft,
) -> Result<Resolved> {
    resolve_all(tx, scope, collection, draft, Base::New(id))
}

/// Applies a draft to the record in this row.
pub fn update(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    rowid: Rowid,
    draft: Draft,
) -> Result<Resolved> {
    resolve_all(tx, scope, collection, draft, Base::Existing(rowid))
}

fn resolve_all(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    draft: Draft,
    base: Base<'_>,
) -> Result<Resolved> {
    let mut resolved = Resolved {
        values: Vec::new(),
        body: RequestBody::new(),
        times: draft.times,
        files: draft.files,
        removed: Vec::new(),
        errors: draft.errors,
    };
    if let Some(id) = draft.id {
        let id = FieldValue::Scalar(Stored::Text(id));
        resolved.body.insert("id".to_owned(), id);
    }
    for (at, change) in draft.changes {
        let field = &collection.fields[at];
        let must_be_unchanged = draft.unchanged.contains(&at);
        let needs_current = field.relation().is_some()
            || field.file().is_some()
            || must_be_unchanged
            || !matches!(change, FieldChange::Set(_));
        let current = match base {
            Base::Existing(rowid) if needs_current => current_value(tx, collection, field, rowid)?,
            _ => FieldValue::load(field, Stored::Null),
        };
        let is_exempt = |target: &Collection, id: &String| match base {
            // A new record may reference itself.
            Base::New(own) => target.id == collection.id && id == own,
            // A reference that the record has already stays valid.
            Base::Existing(_) => current.strings().contains(id),
        };
        let result = match apply(field, change, &current)? {
            Ok(value) if must_be_unchanged && value != current => Err(draft::reserved_field(field)),
            Ok(value) => check_targets(tx, scope, field, value, &is_exempt)?,
            Err(error) => Err(error),
        };
        let result = result.and_then(|value| resolved.check_files(field, value, &current));
        match result {
            Ok(value) => {
                resolved.collect_removed_files(field, &value, &current);
                if draft.sent.contains(&at) {
                    resolved.body.insert(field.name.clone(), value.clone());
                }
                resolved.values.push((at, value));
            }
            // An error of the draft comes first: it says why a file was refused, and this one only
            // that the file is missing.
            Err(error) => drop(resolved.errors.entry(field.name.clone()).or_insert(error)),
        }
    }
    Ok(resolved)
}

fn current_value(
    tx: &Connection,
    collection: &Collection,
    field: &Field,
    rowid: Rowid,
) -> Result<FieldValue> {
    let (table, column) = (quote(&collection.name), quote(&field.name));
    let sql = format!("SELECT {column} FROM {table} WHERE rowid = ?1");
    let mut statement = tx.prepare_cached(&sql)?;
    let stored = statement.query_row([rowid], |row| row.get(0))?;
    Ok(FieldValue::load(field, stored))
}

/// Applies one change to the current value.
fn apply(
    field: &Field,
    change: FieldChange,
    current: &FieldValue,
) -> Result<Result<FieldValue, FieldError>> {
    let current_except = |removed: &[String]| -> Vec<String> {
        let kept = current.strings().iter();
        kept.filter(|it| !removed.contains(it)).cloned().collect()
    };
    let list = match change {
        FieldChange::Set(value) => return Ok(Ok(value)),
        FieldChange::Add(amount) => return Ok(add(field, current, &amount)),
        FieldChange::Hash(_) => return Err(Error::internal("a password was not hashed")),
        // A field for a single file replaces the file.
        FieldChange::Append(more) if !field.is_multiple() => more,
        FieldChange::Append(more) => {
            let mut list = current_except(&more);
            list.extend(more);
            list
        }
        FieldChange::Prepend(mut more) => {
            more.extend(current_except(&more));
            more
        }
        FieldChange::Remove(removed) => current_except(&removed),
    };
    Ok(value::check_count(field, list.len()).map(|()| FieldValue::from_list(field, list)))
}

/// Adds to a number. Integers stay exact as long as their sum fits into 64 bits.
fn add(field: &Field, current: &FieldValue, amount: &Stored) -> Result<FieldValue, FieldError> {
    let current = &*current.to_stored();
    let real = |stored: &Stored| match stored {
        Stored::Integer(number) => *number as f64,
        Stored::Real(number) => *number,
        _ => 0.0,
    };
    let whole = |stored: &Stored| match stored {
        Stored::Null => Some(0),
        Stored::Integer(number) => Some(*number),
        _ => None,
    };
    let exact = whole(current)
        .zip(whole(amount))
        .and_then(|(a, b)| a.checked_add(b));
    let sum = real(current) + real(amount);
    if !sum.is_finite() {
        return value::field_error("validation_max_number_constraint", "The sum is too large.");
    }
    value::check_number(field, sum)?;
    let sum = FieldValue::Scalar(exact.map_or(Stored::Real(sum), Stored::Integer));
    match field.required && value::is_blank(field, &sum) {
        true => Err(value::required_error()),
        false => Ok(sum),
    }
}

/// Checks that every record that a relation names exists and that the caller may view it. A hidden
/// record gets the same error as a missing one. `is_exempt` names records that need no check.
fn check_targets(
    tx: &Connection,
    scope: &Scope,
    field: &Field,
    value: FieldValue,
    is_exempt: &dyn Fn(&Collection, &String) -> bool,
) -> Result<Result<FieldValue, FieldError>> {
    let Some(options) = field.relation() else {
        return Ok(Ok(value));
    };
    let missing = |message: &str| {
        Ok(value::field_error(
            "validation_missing_rel_records",
            message,
        ))
    };
    let Some(target) = scope.collections.by_id(&options.collection_id) else {
        return missing("The collection it relates to is gone.");
    };
    for id in value.strings() {
        if !is_exempt(target, id) && !may_reference(tx, scope, target, id)? {
            return missing(&format!("There is no record {id}."));
        }
    }
    Ok(Ok(value))
}

fn may_reference(tx: &Connection, scope: &Scope, target: &Collection, id: &str) -> Result<bool> {
    let Some(rowid) = rowid_of(tx, target, id)? else {
        return Ok(false);
    };
    let is_own = scope.is_account(target, id);
    let opens = match &scope.identity {
        Identity::Admin(_) => true,
        Identity::Key(key) => key.opens(&target.name),
        _ => false,
    };
    if is_own || opens {
        return Ok(true);
    }
    match target.grant(Operation::View, &scope.identity).access {
        Access::Free => Ok(true),
        Access::Denied => Ok(false),
        Access::When(rule) => holds(tx, scope, target, rowid, &rule, None),
    }
}

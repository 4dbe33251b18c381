//! Inserts and updates rows of a collection inside a write transaction.

use std::borrow::Cow;

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

use super::Scope;
use super::draft::invalid_record;
use super::query::{MAIN, Query, RequestBody, Trust};
use super::resolve::Resolved;
use super::row::{Rowid, rowid_of};
use super::version::next_updated;
use crate::base::error::{Error, FieldError, FieldErrors, Kind, Result};
use crate::base::{clock, ids};
use crate::model::collections::{Collection, CollectionKind, TOKEN_KEY};
use crate::model::filter::Expr;
use crate::store::db::quote;
use crate::store::files::table;

/// Inserts a row. `rule` is the create rule, if it is conditional.
pub fn insert(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
    resolved: &Resolved,
    rule: Option<&Expr>,
) -> Result<Rowid> {
    resolved.check()?;
    let row = new_row(collection, id, resolved);
    check_bytes(row.iter().map(|(_, stored)| &**stored))?;
    let result = check_is_new_account(tx, scope, collection, id)
        .and_then(|()| insert_row(tx, collection, &row));
    // Without the right to create, do not reveal that the id or value exists.
    if let (Err(error), Some(rule)) = (&result, rule)
        && error.kind() == Kind::Invalid
        && !is_admitted(tx, scope, collection, rule, &resolved.body, &row)?
    {
        return Err(create_rule_violated());
    }
    add_files(tx, collection, id, resolved)?;
    result
}

/// Adds rows for the uploaded files that the record names.
fn add_files(
    tx: &Connection,
    collection: &Collection,
    id: &str,
    resolved: &Resolved,
) -> Result<()> {
    for file in &resolved.files {
        let is_named = resolved.values.iter().any(|(at, value)| {
            let field = &collection.fields[*at];
            field.name == file.field && value.strings().contains(&file.stored.name)
        });
        if is_named {
            table::add(tx, &collection.id, id, &file.stored)?;
        }
    }
    Ok(())
}

/// Columns and values of a new row.
pub type Row<'a> = Vec<(&'a str, Cow<'a, Stored>)>;

fn new_row<'a>(collection: &'a Collection, id: &str, resolved: &'a Resolved) -> Row<'a> {
    let now = clock::now();
    let text = |text: &str| Cow::Owned(Stored::Text(text.to_owned()));
    let time = |given: &Option<String>| text(given.as_ref().unwrap_or(&now));
    let times = &resolved.times;
    let system = [
        ("id", text(id)),
        ("created", time(&times.created)),
        ("updated", time(&times.updated)),
    ];
    let values = resolved.values.iter();
    let values = values.map(|(at, value)| {
        let name = collection.fields[*at].name.as_str();
        (name, value.to_stored())
    });
    system.into_iter().chain(values).collect()
}

pub fn insert_row(tx: &Connection, collection: &Collection, row: &Row<'_>) -> Result<Rowid> {
    let token_key = match collection.kind {
        CollectionKind::Base | CollectionKind::View => None,
        CollectionKind::Auth => Some(Stored::Text(ids::token_key()?)),
    };
    let mut columns = String::with_capacity(24 * row.len());
    let mut places = String::with_capacity(2 * row.len());
    for (name, _) in row {
        columns += &quote(name);
        columns += ",";
        places += "?,";
    }
    match token_key {
        Some(_) => {
            columns += TOKEN_KEY;
            places += "?";
        }
        // The trailing comma.
        None => {
            columns.pop();
            places.pop();
        }
    }
    let table = quote(&collection.name);
    let sql = [
        "INSERT INTO ",
        &table,
        " (",
        &columns,
        ") VALUES (",
        &places,
        ")",
    ]
    .concat();
    let params = row.iter().map(|(_, stored)| &**stored).chain(&token_key);
    let mut statement = tx.prepare_cached(&sql)?;
    statement
        .execute(params_from_iter(params))
        .map_err(|error| constraint_error(collection, error))?;
    Ok(tx.last_insert_rowid())
}

/// Evaluates a rule on a row that could not be inserted.
fn is_admitted(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    rule: &Expr,
    sent: &RequestBody,
    row: &Row<'_>,
) -> Result<bool> {
    let values = row.iter().map(|(_, stored)| Stored::clone(stored));
    let values = values.collect();
    let mut query = Query::new(
        &scope.collections,
        scope.request_context(Some(sent)),
        values,
    );
    let condition = query.condition(rule, collection, Trust::Rule)?;
    let columns: Vec<String> = row
        .iter()
        .enumerate()
        .map(|(at, (name, _))| format!("?{} AS {}", at + 1, quote(name)))
        .collect();
    let columns = columns.join(", ");
    let sql = format!("SELECT 1 FROM (SELECT {columns}) AS {MAIN} WHERE {condition}");
    let mut statement = tx.prepare_cached(&sql)?;
    let found = statement.query_row(params_from_iter(query.into_params()), |_| Ok(()));
    Ok(found.optional()?.is_some())
}

/// Updates a row.
pub fn update(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    (rowid, id): (Rowid, &str),
    resolved: &Resolved,
) -> Result<()> {
    resolved.check()?;
    let table = quote(&collection.name);
    let mut params = vec![Stored::Integer(rowid), Stored::Text(clock::now())];
    let next = next_updated("?2");
    let mut sql = format!("UPDATE {table} SET updated = {next}");
    if let Some(updated) = &resolved.times.updated {
        params.push(Stored::Text(updated.clone()));
        // A client that returns the record as it was read does not mean to set its time.
        sql =
            format!("UPDATE {table} SET updated = CASE WHEN updated = ?3 THEN {next} ELSE ?3 END");
    }
    if let Some(created) = &resolved.times.created {
        params.push(Stored::Text(created.clone()));
        sql += &format!(", created = ?{}", params.len());
    }
    let is_auth = collection.kind == CollectionKind::Auth;
    let (mut new_email, mut renews) = (None, false);
    let mut verified = "verified".to_owned();
    for (at, value) in &resolved.values {
        let field = &collection.fields[*at];
        params.push(value.to_stored().into_owned());
        let place = params.len();
        match field.name.as_str() {
            "email" if is_auth => new_email = Some(place),
            "verified" if is_auth => verified = format!("?{place}"),
            _ => {}
        }
        renews |= is_auth && (field.name == "email" || field.is_secret());
        sql += &format!(", {} = ?{place}", quote(&field.name));
    }
    if let Some(email) = new_email
        && !scope.identity.manages()
    {
        // A new email is not verified.
        sql += &format!(
            ", verified = CASE WHEN email = ?{email} COLLATE NOCASE THEN {verified} ELSE 0 END"
        );
    }
    if renews {
        params.push(Stored::Text(ids::token_key()?));
        sql += &format!(", {TOKEN_KEY} = ?{}", params.len());
    }
    sql += " WHERE rowid = ?1";
    let bytes = check_bytes(&params)?;
    let mut statement = tx.prepare_cached(&sql)?;
    statement
        .execute(params_from_iter(params))
        .map_err(|error| constraint_error(collection, error))?;
    if bytes > BYTES_UNCOUNTED {
        check_stored_bytes(tx, collection, rowid)?;
    }
    for name in &resolved.removed {
        table::remove(tx, &collection.id, id, name)?;
    }
    add_files(tx, collection, id, resolved)
}

/// Rules identify accounts by id only, so an id is unique among all accounts of a database.
fn check_is_new_account(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
) -> Result<()> {
    if collection.kind != CollectionKind::Auth {
        return Ok(());
    }
    let all = scope.collections.all();
    let others = all
        .iter()
        .filter(|other| other.kind == CollectionKind::Auth && other.id != collection.id);
    for other in others {
        if rowid_of(tx, other, id)?.is_some() {
            let message = "Another account already has this id.";
            let error = FieldError::new("validation_not_unique", message);
            return Err(invalid_record(FieldErrors::from([(
                "id".to_owned(),
                error,
            )])));
        }
    }
    Ok(())
}

/// Maximum size of all values of a record.
const BYTES_MAX: usize = 4 << 20;
/// Updates smaller than this skip the check of the stored size: one such update per field stays
/// below [`BYTES_MAX`].
const BYTES_UNCOUNTED: usize = 16 << 10;

/// Returns the size of the values, or an error if they exceed [`BYTES_MAX`].
fn check_bytes<'a>(values: impl IntoIterator<Item = &'a Stored>) -> Result<usize> {
    let size = |stored: &Stored| match stored {
        Stored::Text(text) => text.len(),
        _ => 8,
    };
    let bytes = values.into_iter().map(size).sum();
    if bytes > BYTES_MAX {
        Err(too_large())
    } else {
        Ok(bytes)
    }
}

fn check_stored_bytes(tx: &Connection, collection: &Collection, rowid: Rowid) -> Result<()> {
    let sizes: Vec<String> = collection
        .fields
        .iter()
        .map(|field| format!("coalesce(octet_length({}), 0)", quote(&field.name)))
        .collect();
    let table = quote(&collection.name);
    let sql = format!("SELECT {} FROM {table} WHERE rowid = ?1", sizes.join(" + "));
    let bytes: i64 = tx
        .prepare_cached(&sql)?
        .query_row([rowid], |row| row.get(0))?;
    if usize::try_from(bytes).is_ok_and(|bytes| bytes <= BYTES_MAX) {
        Ok(())
    } else {
        Err(too_large())
    }
}

fn too_large() -> Error {
    Error::new(Kind::TooLarge, "A record must not exceed 4 MiB.")
}

/// Converts a violated UNIQUE constraint to a field error. SQLite's message names the columns
/// (`UNIQUE constraint failed: table.a, table.b`).
pub fn constraint_error(collection: &Collection, error: rusqlite::Error) -> Error {
    let text = error.to_string();
    let Some(columns) = text.split("UNIQUE constraint failed: ").nth(1) else {
        return error.into();
    };
    let prefix = format!("{}.", collection.name);
    // An index on expressions is named instead of its columns.
    let index = columns
        .strip_prefix("index '")
        .map(|it| it.trim_end_matches('\''));
    let names: Vec<&str> = match index.and_then(|index| collection.columns_of_index(index)) {
        Some(names) => names,
        None => {
            let names = columns.split(", ");
            names
                .map(|it| it.strip_prefix(&prefix).unwrap_or("id"))
                .collect()
        }
    };
    let errors = names.into_iter().map(|name| {
        let message = "Another record already has this value.".to_owned();
        (
            name.to_owned(),
            FieldError {
                code: "validation_not_unique",
                message,
            },
        )
    });
    invalid_record(errors.collect())
}

pub fn create_rule_violated() -> Error {
    Error::invalid("The createRule does not allow this record.")
}

//! The statements that insert and change rows of a collection, inside a write transaction.

use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::params_from_iter;
use rusqlite::types::Value as Stored;

use super::Scope;
use super::draft::Draft;
use super::draft::NewFile;
use super::query::MAIN;
use super::query::Query;
use super::query::Trust;
use super::value;
use super::value::Body;
use super::value::Change;
use crate::clock;
use crate::collections::Collection;
use crate::collections::CollectionKind;
use crate::collections::Field;
use crate::db::quote;
use crate::error::Error;
use crate::error::FieldError;
use crate::error::FieldErrors;
use crate::error::Kind;
use crate::error::Result;
use crate::files::table;
use crate::filter::Expr;
use crate::ids;
use crate::rules::Access;
use crate::rules::Identity;
use crate::rules::Operation;

/// SQLite's own key of a row.
pub type Rowid = i64;

/// Inserts a record; returns its row.
pub fn insert(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    draft: Draft,
) -> Result<Rowid> {
    let id = match draft.id {
        Some(id) => id,
        None => ids::record_id()?,
    };
    let now = clock::now();
    let mut params = vec![
        Stored::Text(id.clone()),
        Stored::Text(now.clone()),
        Stored::Text(now),
    ];
    let mut sql = format!(
        "INSERT INTO {} (id, created, updated",
        quote(&collection.name)
    );
    let mut errors = draft.errors;
    for (at, change) in draft.changes {
        let field = &collection.fields[at];
        sql += ", ";
        sql += &quote(&field.name);
        let result = resolve(field, change, || Ok(Stored::Null))?
            .and_then(|stored| check_targets(tx, scope, field, stored, &own(collection, &id)))
            .and_then(|stored| check_files(field, stored, &Stored::Null, &draft.files));
        match result {
            Ok(stored) => params.push(stored),
            Err(error) => drop(errors.insert(field.name.clone(), error)),
        }
    }
    if !errors.is_empty() {
        return Err(not_valid(errors));
    }
    sql += ") VALUES (?1";
    for at in 2..=params.len() {
        sql += &format!(",?{at}");
    }
    sql.push(')');
    check_bytes(&params)?;
    let mut statement = tx.prepare_cached(&sql)?;
    statement
        .execute(params_from_iter(params))
        .map_err(|error| refuse(collection, error))?;
    let rowid = tx.last_insert_rowid();
    add_files(tx, collection, &id, &draft.files)?;
    Ok(rowid)
}

/// Changes a row.
pub fn update(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    rowid: Rowid,
    draft: Draft,
) -> Result<()> {
    let table = quote(&collection.name);
    let mut params = vec![Stored::Integer(rowid), Stored::Text(clock::now())];
    let mut sql = format!("UPDATE {table} SET updated = ?2");
    let mut errors = draft.errors;
    let mut new_email = None;
    let mut removed = Vec::new();
    for (at, change) in draft.changes {
        let field = &collection.fields[at];
        let column = quote(&field.name);
        let before = || {
            let sql = format!("SELECT {column} FROM {table} WHERE rowid = ?1");
            Ok(tx
                .prepare_cached(&sql)?
                .query_row([rowid], |row| row.get(0))?)
        };
        let was = match field.relation().is_some() || field.file().is_some() {
            true => before()?,
            false => Stored::Null,
        };
        let kept = match field.relation() {
            Some(options) => Known {
                collection: &options.collection_id,
                ids: value::load_list(field, &was),
            },
            None => Known::default(),
        };
        let result = resolve(field, change, before)?
            .and_then(|stored| check_targets(tx, scope, field, stored, &kept))
            .and_then(|stored| check_files(field, stored, &was, &draft.files));
        match result {
            Ok(stored) => {
                if field.file().is_some() {
                    let left = value::load_list(field, &stored);
                    let gone = value::load_list(field, &was).into_iter();
                    removed.extend(gone.filter(|name| !left.contains(name)));
                }
                params.push(stored);
                sql += &format!(", {column} = ?{}", params.len());
                let is_email = collection.kind == CollectionKind::Auth && field.name == "email";
                new_email = new_email.or(is_email.then_some(params.len()));
            }
            Err(error) => drop(errors.insert(field.name.clone(), error)),
        }
    }
    if !errors.is_empty() {
        return Err(not_valid(errors));
    }
    if let Some(email) = new_email
        && !scope.identity.manages()
    {
        // A new address is one that nobody has verified.
        sql += &format!(
            ", verified = CASE WHEN email = ?{email} COLLATE NOCASE THEN verified ELSE 0 END"
        );
    }
    sql += " WHERE rowid = ?1";
    let bytes = check_bytes(&params)?;
    let mut statement = tx.prepare_cached(&sql)?;
    statement
        .execute(params_from_iter(params))
        .map_err(|error| refuse(collection, error))?;
    if bytes > BYTES_UNCOUNTED {
        check_stored_bytes(tx, collection, rowid)?;
    }
    if removed.is_empty() && draft.files.is_empty() {
        return Ok(());
    }
    let id = id_of(tx, collection, rowid)?;
    for name in removed {
        table::remove(tx, &collection.id, &id, &name)?;
    }
    add_files(tx, collection, &id, &draft.files)
}

fn add_files(tx: &Connection, collection: &Collection, id: &str, files: &[NewFile]) -> Result<()> {
    for file in files {
        table::add(tx, &collection.id, id, &file.stored)?;
    }
    Ok(())
}

fn id_of(tx: &Connection, collection: &Collection, rowid: Rowid) -> Result<String> {
    let sql = format!(
        "SELECT id FROM {} WHERE rowid = ?1",
        quote(&collection.name)
    );
    let mut statement = tx.prepare_cached(&sql)?;
    Ok(statement.query_row([rowid], |row| row.get(0))?)
}

/// Every file that a field names was there, or comes with the request.
fn check_files(
    field: &Field,
    stored: Stored,
    was: &Stored,
    new: &[NewFile],
) -> Result<Stored, FieldError> {
    if field.file().is_none() {
        return Ok(stored);
    }
    let was = value::load_list(field, was);
    let is_new = |name: &String| new.iter().any(|file| file.stored.name == *name);
    let is_unknown = |name: &&String| !was.contains(name) && !is_new(name);
    match value::load_list(field, &stored).iter().find(is_unknown) {
        Some(name) => {
            let message = format!("There is no file {} here.", value::shorten(name));
            value::wrong("validation_missing_file", &message)
        }
        None => Ok(stored),
    }
}

/// Most bytes of all values of a record.
const BYTES_MAX: usize = 4 << 20;
/// A change of fewer bytes is not followed by counting the record: even one such change for each of
/// its fields would not exceed [`BYTES_MAX`].
const BYTES_UNCOUNTED: usize = 16 << 10;

/// The bytes of what is written.
fn check_bytes(params: &[Stored]) -> Result<usize> {
    let size = |stored: &Stored| match stored {
        Stored::Text(text) => text.len(),
        _ => 8,
    };
    let bytes = params.iter().map(size).sum();
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
    Error::new(Kind::TooLarge, "A record holds at most 4 MiB.")
}

/// The row of the record with this id.
pub fn rowid_of(tx: &Connection, collection: &Collection, id: &str) -> Result<Option<Rowid>> {
    let sql = format!(
        "SELECT rowid FROM {} WHERE id = ?1",
        quote(&collection.name)
    );
    Ok(tx
        .prepare_cached(&sql)?
        .query_row([id], |row| row.get(0))
        .optional()?)
}

/// Whether a rule holds for a row.
pub fn holds(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    rowid: Rowid,
    rule: &Expr,
    body: Option<&Body>,
) -> Result<bool> {
    let input = scope.input(body);
    let mut query = Query::new(&scope.collections, input, vec![Stored::Integer(rowid)]);
    let condition = query.condition(rule, collection, Trust::Rule)?;
    let table = quote(&collection.name);
    let sql = format!("SELECT 1 FROM {table} AS {MAIN} WHERE {MAIN}.rowid = ?1 AND {condition}");
    let mut statement = tx.prepare_cached(&sql)?;
    let found = statement
        .query_row(params_from_iter(query.into_params()), |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

/// The value that a change comes to; `before` reads the present one when that matters.
fn resolve(
    field: &Field,
    change: Change,
    before: impl FnOnce() -> Result<Stored>,
) -> Result<Result<Stored, FieldError>> {
    let mut list = match &change {
        Change::Append(_) | Change::Prepend(_) | Change::Remove(_) => {
            value::load_list(field, &before()?)
        }
        Change::Add(amount) => return Ok(add(field, &before()?, amount)),
        Change::Set(stored) => return Ok(Ok(stored.clone())),
        Change::Hash(_) => return Err(Error::internal("a password was not hashed")),
    };
    match change {
        // A single file makes place for another.
        Change::Append(more) if !field.is_multiple() => list = more,
        Change::Append(more) => {
            list.retain(|known| !more.contains(known));
            list.extend(more);
        }
        Change::Prepend(mut more) => {
            list.retain(|known| !more.contains(known));
            more.append(&mut list);
            list = more;
        }
        Change::Remove(less) => list.retain(|known| !less.contains(known)),
        Change::Set(_) | Change::Add(_) | Change::Hash(_) => {}
    }
    Ok(value::check_count(field, list.len()).map(|()| value::store(field, &list)))
}

fn add(field: &Field, before: &Stored, amount: &Stored) -> Result<Stored, FieldError> {
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
    // Whole numbers stay exact as long as their sum is one of 64 bits.
    let exact = whole(before)
        .zip(whole(amount))
        .and_then(|(a, b)| a.checked_add(b));
    let sum = real(before) + real(amount);
    if !sum.is_finite() {
        return value::wrong("validation_out_of_range", "The sum is too large.");
    }
    value::check_number(field, sum).map(|()| exact.map_or(Stored::Real(sum), Stored::Integer))
}

/// Records that a relation may name without being looked for.
#[derive(Default)]
struct Known<'a> {
    /// Id of their collection.
    collection: &'a str,
    ids: Vec<String>,
}

/// A new record may name itself.
fn own<'a>(collection: &'a Collection, id: &str) -> Known<'a> {
    Known {
        collection: &collection.id,
        ids: vec![id.to_owned()],
    }
}

/// Every record that a relation names exists, and the caller may view it: what is hidden is
/// answered as if it did not exist. What was named before may be named again.
fn check_targets(
    tx: &Connection,
    scope: &Scope,
    field: &Field,
    stored: Stored,
    known: &Known<'_>,
) -> Result<Stored, FieldError> {
    let Some(options) = field.relation() else {
        return Ok(stored);
    };
    let Some(target) = scope.collections.by_id(&options.collection_id) else {
        return value::wrong(
            "validation_missing_relation",
            "The collection it relates to is gone.",
        );
    };
    for id in value::load_list(field, &stored) {
        if known.collection == target.id && known.ids.contains(&id) {
            continue;
        }
        match may_point_to(tx, scope, target, &id) {
            Ok(true) => {}
            Ok(false) => {
                let message = format!("There is no record {id}.");
                return value::wrong("validation_missing_relation", &message);
            }
            Err(error) => {
                crate::log::error(format_args!("look for a related record: {error}"));
                return value::wrong("validation_missing_relation", "It cannot be looked up now.");
            }
        }
    }
    Ok(stored)
}

fn may_point_to(tx: &Connection, scope: &Scope, target: &Collection, id: &str) -> Result<bool> {
    let Some(rowid) = rowid_of(tx, target, id)? else {
        return Ok(false);
    };
    let is_own = matches!(&scope.identity, Identity::User(user)
        if user.collection_id == target.id && user.id == id);
    if is_own || scope.identity.manages() {
        return Ok(true);
    }
    match target.grant(Operation::View, &scope.identity)?.access {
        Access::Free => Ok(true),
        Access::Denied => Ok(false),
        Access::When(rule) => holds(tx, scope, target, rowid, &rule, None),
    }
}

fn not_valid(errors: FieldErrors) -> Error {
    Error::fields("The record is not valid.", errors)
}

/// Turns SQLite's refusal of a duplicate into an error of the field: its text names the columns
/// (`UNIQUE constraint failed: table.a, table.b`).
pub fn refuse(collection: &Collection, error: rusqlite::Error) -> Error {
    let text = error.to_string();
    let Some(columns) = text.split("UNIQUE constraint failed: ").nth(1) else {
        return error.into();
    };
    let prefix = format!("{}.", collection.name);
    let errors = columns.split(", ").map(|column| {
        let name = column.strip_prefix(&prefix).unwrap_or("id");
        let message = "Another record has this value already.".to_owned();
        (
            name.to_owned(),
            FieldError {
                code: "validation_not_unique",
                message,
            },
        )
    });
    not_valid(errors.collect())
}

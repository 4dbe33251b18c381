//! The statements that insert and change rows of a collection, inside a write transaction.

use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::params_from_iter;
use rusqlite::types::Value as Stored;

use super::Scope;
use super::draft;
use super::draft::Draft;
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
use crate::collections::TOKEN_KEY;
use crate::db::quote;
use crate::error::Error;
use crate::error::FieldError;
use crate::error::FieldErrors;
use crate::error::Kind;
use crate::error::Result;
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
    rule: Option<&Expr>,
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
    let mut columns = ["id", "created", "updated"].map(str::to_owned).to_vec();
    for (at, change) in draft.changes {
        let field = &collection.fields[at];
        sql += ", ";
        sql += &quote(&field.name);
        columns.push(field.name.clone());
        let result = match resolve(field, change, || Ok(Stored::Null))? {
            Ok(stored) => check_targets(tx, scope, field, stored, &own(collection, &id))?,
            Err(error) => Err(error),
        };
        match result {
            Ok(stored) => params.push(stored),
            Err(error) => drop(errors.insert(field.name.clone(), error)),
        }
    }
    if !errors.is_empty() {
        return Err(not_valid(errors));
    }
    if collection.kind == CollectionKind::Auth {
        check_is_new_account(tx, scope, collection, &id)?;
        sql += &format!(", {TOKEN_KEY}");
        params.push(Stored::Text(ids::token_key()?));
    }
    if let Some(rule) = rule {
        let columns = &columns;
        judge(
            tx,
            scope,
            collection,
            rule,
            draft.body.as_deref(),
            columns,
            &params,
        )?;
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
    Ok(tx.last_insert_rowid())
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
    let is_auth = collection.kind == CollectionKind::Auth;
    let (mut new_email, mut renews) = (None, false);
    for (at, change) in draft.changes {
        let field = &collection.fields[at];
        let column = quote(&field.name);
        let before = || {
            let sql = format!("SELECT {column} FROM {table} WHERE rowid = ?1");
            Ok(tx
                .prepare_cached(&sql)?
                .query_row([rowid], |row| row.get(0))?)
        };
        let kept = match field.relation() {
            Some(options) => Known {
                collection: &options.collection_id,
                ids: value::load_list(field, &before()?),
            },
            None => Known::default(),
        };
        let result = match resolve(field, change, before)? {
            Ok(stored) if draft.unchanged.contains(&at) && stored != before()? => {
                Err(draft::reserved())
            }
            Ok(stored) => check_targets(tx, scope, field, stored, &kept)?,
            Err(error) => Err(error),
        };
        match result {
            Ok(stored) => {
                params.push(stored);
                sql += &format!(", {column} = ?{}", params.len());
                let is_email = is_auth && field.name == "email";
                new_email = new_email.or(is_email.then_some(params.len()));
                renews |= is_email || field.is_secret();
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
    if is_auth && renews {
        params.push(Stored::Text(ids::token_key()?));
        sql += &format!(", {TOKEN_KEY} = ?{}", params.len());
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
    Ok(())
}

/// Refuses a new record that the rule does not admit, before the table is asked whether it has room
/// for it: whoever may not make a record shall not learn which ones there are.
fn judge(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    rule: &Expr,
    body: Option<&Body>,
    columns: &[String],
    values: &[Stored],
) -> Result<()> {
    let mut query = Query::new(&scope.collections, scope.input(body), values.to_vec());
    let condition = query.condition(rule, collection, Trust::Rule)?;
    let columns: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(at, name)| format!("?{} AS {}", at + 1, quote(name)))
        .collect();
    let row = columns.join(", ");
    let sql = format!("SELECT 1 FROM (SELECT {row}) AS {MAIN} WHERE {condition}");
    let mut statement = tx.prepare_cached(&sql)?;
    let found = statement.query_row(params_from_iter(query.into_params()), |_| Ok(()));
    match found.optional()? {
        Some(()) => Ok(()),
        None => Err(super::not_allowed()),
    }
}

/// The id of a row.
pub fn id_of(tx: &Connection, collection: &Collection, rowid: Rowid) -> Result<String> {
    let sql = format!(
        "SELECT id FROM {} WHERE rowid = ?1",
        quote(&collection.name)
    );
    let mut statement = tx.prepare_cached(&sql)?;
    Ok(statement.query_row([rowid], |row| row.get(0))?)
}

/// Rules know accounts by their ids alone, so no two accounts of a database have the same.
fn check_is_new_account(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
) -> Result<()> {
    let all = scope.collections.all();
    let others = all
        .iter()
        .filter(|other| other.kind == CollectionKind::Auth && other.id != collection.id);
    for other in others {
        if rowid_of(tx, other, id)?.is_some() {
            let message = "Another account has this id already.";
            let error = FieldError::new("validation_not_unique", message);
            return Err(not_valid(FieldErrors::from([("id".to_owned(), error)])));
        }
    }
    Ok(())
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
    Ok(value::check_count(field, list.len()).map(|()| value::store_list(&list)))
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
) -> Result<Result<Stored, FieldError>> {
    let Some(options) = field.relation() else {
        return Ok(Ok(stored));
    };
    let missing = |message: &str| Ok(value::wrong("validation_missing_relation", message));
    let Some(target) = scope.collections.by_id(&options.collection_id) else {
        return missing("The collection it relates to is gone.");
    };
    for id in value::load_list(field, &stored) {
        if known.collection == target.id && known.ids.contains(&id) {
            continue;
        }
        if !may_point_to(tx, scope, target, &id)? {
            return missing(&format!("There is no record {id}."));
        }
    }
    Ok(Ok(stored))
}

fn may_point_to(tx: &Connection, scope: &Scope, target: &Collection, id: &str) -> Result<bool> {
    let Some(rowid) = rowid_of(tx, target, id)? else {
        return Ok(false);
    };
    let is_own = matches!(&scope.identity, Identity::User(user)
        if user.collection_id == target.id && user.id == id);
    let opens = match &scope.identity {
        Identity::Admin(_) => true,
        Identity::Key(key) => key.opens(&target.name),
        _ => false,
    };
    if is_own || opens {
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

//! Finds rows by record id and evaluates rules on them.

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

use super::Scope;
use super::query::{MAIN, Query, RequestBody, Trust};
use crate::base::error::{Error, Result};
use crate::model::collections::Collection;
use crate::model::filter::Expr;
use crate::model::rules::Access;
use crate::store::db::quote;

/// The rowid of SQLite.
pub type Rowid = i64;

/// The row of the record with this id, whatever the rules say.
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

/// Evaluates a rule on a row. `sent` is `@request.body`.
pub fn holds(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    rowid: Rowid,
    rule: &Expr,
    sent: Option<&RequestBody>,
) -> Result<bool> {
    let input = scope.request_context(sent);
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

/// The row of a record; an error that the record does not exist if access to it is denied.
pub fn find_permitted(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
    access: &Access,
    sent: Option<&RequestBody>,
) -> Result<Rowid> {
    let rowid = rowid_of(tx, collection, id)?.ok_or_else(record_not_found)?;
    match access {
        Access::When(rule) if !holds(tx, scope, collection, rowid, rule, sent)? => {
            Err(record_not_found())
        }
        _ => Ok(rowid),
    }
}

pub fn record_not_found() -> Error {
    Error::not_found("There is no such record.")
}

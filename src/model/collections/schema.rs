//! Creates the SQL table of a collection, and alters it when the definition changes.
//!
//! [`apply`] reads the schema that the database really has, so running it again after a crash
//! between the file of a tenant and the definition in `default.db` ends in the same state. Tables
//! and columns that no definition names stay on disk. If their name is used again, the old table or
//! column is renamed (`_deleted_...`) and never reused: a new field starts empty.
//!
//! Columns: text types and lists are TEXT, `number` is NUMERIC, `bool` is INTEGER 0 or 1, a place
//! is JSON text. An unset value is NULL, so an empty string is never stored, and `unique` allows
//! several unset values; a number or place that is not nullable is 0 instead.

use std::collections::HashSet;
use std::fmt::Write as _;

use rusqlite::Connection;

use super::table_indexes::{apply_indexes, indexes};
use super::{Collection, CollectionKind, Field, FieldKind, TOKEN_KEY};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{clock, ids};
use crate::store::db::quote;

/// Prefix of tables and columns that were moved aside.
pub const ASIDE: &str = "_deleted_";

/// Creates the table of `collection`, or alters it from `previous`, the stored definition.
pub fn apply(
    tx: &Connection,
    collection: &Collection,
    previous: Option<&Collection>,
) -> Result<()> {
    if collection.is_view() {
        return Ok(());
    }
    let mut columns = columns(tx, &collection.name)?;
    if previous.is_none() && !columns.is_empty() {
        move_table_aside(tx, &collection.name)?;
        columns.clear();
    }
    if columns.is_empty() {
        create_table(tx, collection)?;
    } else {
        for field in &collection.fields {
            apply_field(tx, collection, field, previous, &columns)?;
        }
        if lacks_token_key(collection, &columns) {
            let table = quote(&collection.name);
            tx.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {TOKEN_KEY} TEXT"))?;
        }
    }
    apply_indexes(tx, collection)
}

fn create_table(tx: &Connection, collection: &Collection) -> Result<()> {
    let mut sql = format!(
        "CREATE TABLE {} (id TEXT PRIMARY KEY NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL",
        quote(&collection.name)
    );
    for field in &collection.fields {
        let _ = write!(sql, ", {} {}", quote(&field.name), column_type(field));
    }
    if collection.kind == CollectionKind::Auth {
        let _ = write!(sql, ", {TOKEN_KEY} TEXT");
    }
    sql.push(')');
    tx.execute_batch(&sql)
        .context(format!("create table {}", collection.name))
}

fn lacks_token_key(collection: &Collection, columns: &HashSet<String>) -> bool {
    collection.kind == CollectionKind::Auth && !columns.contains(TOKEN_KEY)
}

/// The type of a column. Records that exist get the default of a new column.
fn column_type(field: &Field) -> String {
    let unset = match field.kind {
        FieldKind::Bool => " NOT NULL DEFAULT 0",
        FieldKind::Number { .. } if !field.nullable => " DEFAULT 0",
        FieldKind::GeoPoint if !field.nullable => " DEFAULT '{\"lon\":0,\"lat\":0}'",
        _ => "",
    };
    [field.kind.affinity(), unset].concat()
}

fn apply_field(
    tx: &Connection,
    collection: &Collection,
    field: &Field,
    previous: Option<&Collection>,
    columns: &HashSet<String>,
) -> Result<()> {
    let table = quote(&collection.name);
    let is_there = columns.contains(&field.name.to_ascii_lowercase());
    let same = |before: &&Field| before.id == field.id;
    match previous.and_then(|previous| previous.fields.iter().find(same)) {
        Some(before) if is_there => {
            change_number_of_values(tx, &table, before, field)?;
            return fill_unset(tx, &table, before, field);
        }
        None if is_there => move_column_aside(tx, &collection.name, &field.name)?,
        // A known field without a column: the file is a restored backup, older than the definition.
        _ => {}
    }
    let (column, kind) = (quote(&field.name), column_type(field));
    tx.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}")).map_err(|error| {
        if error.to_string().contains("too many columns") {
            return Error::conflict(
                "The table has too many columns; purge the database to drop those of deleted fields.",
            );
        }
        Error::from(error).context(format!("add field {}", field.name))
    })
}

/// Gives the numbers of a field that is no longer nullable the value that unset ones have then.
fn fill_unset(tx: &Connection, table: &str, before: &Field, now: &Field) -> Result<()> {
    if before.nullable && !now.nullable && matches!(now.kind, FieldKind::Number { .. }) {
        let column = quote(&now.name);
        tx.execute(
            &format!("UPDATE {table} SET {column} = 0 WHERE {column} IS NULL"),
            [],
        )?;
    }
    Ok(())
}

/// True if the table lacks a column of the definition, because the file is older.
pub fn is_behind(connection: &Connection, collection: &Collection) -> Result<bool> {
    if collection.is_view() {
        return Ok(false);
    }
    let columns = columns(connection, &collection.name)?;
    let lacks = |field: &Field| !columns.contains(&field.name.to_ascii_lowercase());
    Ok(columns.is_empty()
        || collection.fields.iter().any(lacks)
        || lacks_token_key(collection, &columns))
}

/// Turns single values into lists or back. Fails if a list has several values.
fn change_number_of_values(
    tx: &Connection,
    table: &str,
    before: &Field,
    now: &Field,
) -> Result<()> {
    let column = quote(&now.name);
    match (before.is_multiple(), now.is_multiple()) {
        (false, true) => {
            // The column may hold lists already, after a crash.
            let sql = format!(
                "UPDATE {table} SET {column} = json_array({column}) \
                 WHERE {column} IS NOT NULL AND {column} NOT LIKE '[%'"
            );
            tx.execute(&sql, [])?;
        }
        (true, false) => {
            let lists = format!("{column} LIKE '[%' AND json_array_length({column}) > 1");
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {lists})");
            if tx.query_row(&sql, [], |row| row.get(0))? {
                return Err(Error::conflict(format!(
                    "The field {} cannot be limited to one value: some records have several.",
                    now.name
                )));
            }
            let sql = format!(
                "UPDATE {table} SET {column} = json_extract({column}, '$[0]') WHERE {column} LIKE '[%'"
            );
            tx.execute(&sql, [])?;
        }
        _ => {}
    }
    Ok(())
}

/// The names of all tables.
pub fn tables(tx: &Connection) -> Result<Vec<String>> {
    let mut statement = tx.prepare_cached("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The columns of a table in lower case; empty if there is no such table.
pub fn columns(tx: &Connection, table: &str) -> Result<HashSet<String>> {
    let mut statement = tx.prepare_cached("SELECT lower(name) FROM pragma_table_info(?1)")?;
    let rows = statement.query_map([table], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub fn move_table_aside(tx: &Connection, table: &str) -> Result<()> {
    for name in indexes(tx, table)?.keys() {
        tx.execute_batch(&format!("DROP INDEX {}", quote(name)))?;
    }
    let aside = quote(&format!("{ASIDE}{table}_{}", stamp()?));
    tx.execute_batch(&format!("ALTER TABLE {} RENAME TO {aside}", quote(table)))
        .context(format!("move table {table} aside"))
}

pub fn move_column_aside(tx: &Connection, table: &str, column: &str) -> Result<()> {
    // The indexes on it would follow the new name and keep their own; `apply_indexes` creates the
    // wanted ones again.
    for (name, sql) in indexes(tx, table)? {
        if sql.contains(&quote(column)) {
            tx.execute_batch(&format!("DROP INDEX {}", quote(&name)))?;
        }
    }
    let aside = quote(&format!("{ASIDE}{column}_{}", stamp()?));
    let (table, column) = (quote(table), quote(column));
    tx.execute_batch(&format!(
        "ALTER TABLE {table} RENAME COLUMN {column} TO {aside}"
    ))
    .context(format!("move column {column} aside"))
}

/// A suffix that distinguishes deleted tables or columns of the same name.
fn stamp() -> Result<String> {
    Ok(format!(
        "{}_{}",
        clock::now_ms(),
        ids::hex(&ids::random_bytes::<3>()?)
    ))
}

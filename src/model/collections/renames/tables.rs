//! Renames tables and columns.
//!
//! Names may be swapped, and SQLite compares them without case, so each gets a name in between that
//! nothing has. What has the wanted name and belongs to no definition any more is moved aside.
//! SQLite rewrites the views and triggers that an administrator added to the file.

use rusqlite::Connection;

use super::names::{NamePair, REFUSED, renamed_fields};
use super::references;
use crate::base::error::{Error, Result};
use crate::base::failpoints;
use crate::model::collections::Collection;
use crate::model::collections::schema::{columns, move_column_aside, move_table_aside};
use crate::model::collections::table_indexes::indexes;
use crate::store::db::quote;

/// Prefix of names in between.
const BETWEEN: &str = "_renamed_";

/// Renames the tables and columns of changed definitions, each given before and after the change.
pub fn rename(tx: &Connection, changes: &[(&Collection, &Collection)]) -> Result<()> {
    let is_renamed = |(previous, next): &&(&Collection, &Collection)| previous.name != next.name;
    let pairs: Vec<NamePair> = changes
        .iter()
        .filter(is_renamed)
        .map(|(previous, next)| NamePair {
            old: previous.name.clone(),
            new: next.name.clone(),
        })
        .collect();
    let pairs: Vec<&NamePair> = pairs.iter().collect();
    if !pairs.is_empty() {
        references::rename_in_webhooks(tx, &pairs)?;
    }
    let tables = changes.iter().filter(|(previous, _)| !previous.is_view());
    let tables: Vec<_> = tables.filter(is_renamed).collect();
    for (at, (previous, _)) in tables.iter().enumerate() {
        // Their names contain that of the table, and another one may need them now.
        drop_indexes(tx, &previous.name, |_| true)?;
        if !columns(tx, &previous.name)?.is_empty() {
            rename_table(tx, &previous.name, &format!("{BETWEEN}{at}"))?;
        }
    }
    for (at, (_, next)) in tables.iter().enumerate() {
        let between = format!("{BETWEEN}{at}");
        if columns(tx, &between)?.is_empty() {
            continue;
        }
        if !columns(tx, &next.name)?.is_empty() {
            move_table_aside(tx, &next.name)?;
        }
        rename_table(tx, &between, &next.name)?;
    }
    for (previous, next) in changes {
        rename_columns(tx, previous, next)?;
    }
    if !tables.is_empty() {
        failpoints::reach("tables-renamed");
    }
    Ok(())
}

fn rename_columns(tx: &Connection, previous: &Collection, next: &Collection) -> Result<()> {
    let (table, renamed) = (&next.name, renamed_fields(previous, next));
    let present = columns(tx, table)?;
    let has = |name: &str| present.contains(&name.to_ascii_lowercase());
    let pairs: Vec<&NamePair> = renamed.values().filter(|pair| has(&pair.old)).collect();
    for pair in &pairs {
        drop_indexes(tx, table, |sql| sql.contains(&quote(&pair.old)))?;
    }
    for pair in &pairs {
        let is_it = |other: &&NamePair| other.old.eq_ignore_ascii_case(&pair.new);
        if has(&pair.new) && !pairs.iter().any(is_it) {
            move_column_aside(tx, table, &pair.new)?;
        }
    }
    for (at, pair) in pairs.iter().enumerate() {
        rename_column(tx, table, &pair.old, &format!("{BETWEEN}{at}"))?;
    }
    for (at, pair) in pairs.iter().enumerate() {
        rename_column(tx, table, &format!("{BETWEEN}{at}"), &pair.new)?;
    }
    Ok(())
}

fn drop_indexes(tx: &Connection, table: &str, is_it: impl Fn(&str) -> bool) -> Result<()> {
    for (name, sql) in indexes(tx, table)? {
        if is_it(&sql) {
            tx.execute_batch(&format!("DROP INDEX {}", quote(&name)))?;
        }
    }
    Ok(())
}

fn rename_table(tx: &Connection, from: &str, to: &str) -> Result<()> {
    let sql = format!("ALTER TABLE {} RENAME TO {}", quote(from), quote(to));
    alter(tx, &sql)
}

fn rename_column(tx: &Connection, table: &str, from: &str, to: &str) -> Result<()> {
    let (table, from, to) = (quote(table), quote(from), quote(to));
    alter(
        tx,
        &format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}"),
    )
}

/// SQLite names the view or trigger of an administrator that it cannot rewrite.
fn alter(tx: &Connection, sql: &str) -> Result<()> {
    tx.execute_batch(sql).map_err(|error| {
        let error = Error::from(error);
        let Some(message) = error.sqlite_message() else {
            return error;
        };
        let message = format!("SQLite cannot rename it: {message}.");
        Error::field("name", REFUSED, message).context(sql.to_owned())
    })
}

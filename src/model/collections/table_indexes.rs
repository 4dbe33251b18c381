//! Creates and drops the indexes of a table as its definition asks.
//!
//! An unset text is NULL in the table and an empty string in a definition, as in PocketBase. So a
//! condition is rewritten: `a != ''` becomes `a IS NOT NULL`, which the planner can use. A unique
//! index gets a second one for records with unset values, which PocketBase compares like others.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::index::{Index, IndexColumn};
use super::index_sql::Token;
use super::{Collection, CollectionKind, Field, FieldKind};
use crate::base::error::{Error, Result};
use crate::store::db::quote;

/// An index that a definition wants, by its name in the database.
struct Wanted {
    sql: String,
    /// The attribute that asks for it.
    key: String,
}

/// Names include the collection, because all indexes of a database share one namespace.
fn wanted_indexes(collection: &Collection) -> BTreeMap<String, Wanted> {
    let table = &collection.name;
    let mut all = BTreeMap::new();
    let mut want = |name: String, unique: bool, columns: &str, condition: &str, key: String| {
        let unique = if unique { "UNIQUE " } else { "" };
        let condition = match condition {
            "" => String::new(),
            condition => format!(" WHERE {condition}"),
        };
        let sql = format!(
            "CREATE {unique}INDEX {} ON {} ({columns}){condition}",
            quote(&name),
            quote(table)
        );
        all.insert(name, Wanted { sql, key });
    };
    for field in &collection.fields {
        let (column, key) = (quote(&field.name), format!("fields:{}.unique", field.name));
        if field.unique {
            // A log-in ignores the case of an e-mail address.
            let is_identity = collection.kind == CollectionKind::Auth && field.name == "email";
            let collation = if is_identity { " COLLATE NOCASE" } else { "" };
            let name = format!("unique:{table}:{}", field.name);
            want(name, true, &format!("{column}{collation}"), "", key);
        } else if field.relation().is_some() && !field.is_multiple() {
            // A deletion looks for the records that refer to it.
            let name = format!("relation:{table}:{}", field.name);
            want(name, false, &column, "", key);
        }
    }
    for (position, index) in collection.indexes.iter().enumerate() {
        let key = format!("indexes.{position}");
        if is_redundant(collection, index) {
            continue;
        }
        let columns = index.columns.iter();
        let columns: Vec<String> = columns.map(|it| column_sql(collection, it)).collect();
        let condition = condition_sql(collection, &index.condition);
        let name = format!("index:{table}:{}", index.name);
        want(
            name,
            index.unique,
            &columns.join(", "),
            &condition,
            key.clone(),
        );
        if let Some((columns, unset)) = unset_columns(collection, index) {
            let condition = match condition.as_str() {
                "" => unset,
                condition => format!("({unset}) AND ({condition})"),
            };
            let name = format!("index:{table}:{}:unset", index.name);
            want(name, true, &columns, &condition, key);
        }
    }
    all
}

/// True if a `unique` field has this index already.
fn is_redundant(collection: &Collection, index: &Index) -> bool {
    let column = index
        .unique_column()
        .filter(|_| !index.condition.is_empty());
    let field = column.and_then(|it| collection.field(it.plain()?));
    field.is_some_and(|field| field.unique)
}

fn column_sql(collection: &Collection, column: &IndexColumn) -> String {
    let mut sql = match column.plain() {
        Some(name) => quote(collection.column(name).unwrap_or(name)),
        None => Token::join(&column.tokens, |name| valued(collection, name)),
    };
    if let Some(collation) = &column.collation {
        sql = format!("{sql} COLLATE {collation}");
    }
    if column.descending {
        sql += " DESC";
    }
    sql
}

/// The columns and the condition of the index that covers the records with unset values; none if a
/// unique index has no column that can be unset.
fn unset_columns(collection: &Collection, index: &Index) -> Option<(String, String)> {
    let names = index.columns.iter().filter_map(IndexColumn::plain);
    let unset: Vec<String> = names
        .filter(|name| has_empty_text(collection, name).is_some())
        // An index with `a != ''` covers no unset a.
        .filter(|name| !excludes_unset(&index.condition, name))
        .map(|name| format!("{} IS NULL", quote(name)))
        .collect();
    if !index.unique || unset.is_empty() {
        return None;
    }
    let columns = index.columns.iter().map(|column| {
        let sql = Token::join(&column.tokens, |name| valued(collection, name));
        match &column.collation {
            Some(collation) => format!("{sql} COLLATE {collation}"),
            None => sql,
        }
    });
    let columns: Vec<String> = columns.collect();
    Some((columns.join(", "), unset.join(" OR ")))
}

/// True if one of the terms of a conjunction is `name != ''`.
fn excludes_unset(condition: &[Token], name: &str) -> bool {
    let is_or = |token: &Token| matches!(token, Token::Word(it) if it == "OR" || it == "NOT");
    !condition.iter().any(is_or)
        && condition
            .windows(3)
            .any(|three| empty_test(three) == Some((name, false)))
}

/// A comparison with the empty string: the name, and true for `=`.
fn empty_test(tokens: &[Token]) -> Option<(&str, bool)> {
    match tokens {
        [
            Token::Name(name),
            Token::Operator(operator),
            Token::Text(text),
        ] if text.is_empty() => match operator.as_str() {
            "=" | "==" => Some((name, true)),
            "!=" | "<>" => Some((name, false)),
            _ => None,
        },
        _ => None,
    }
}

fn condition_sql(collection: &Collection, tokens: &[Token]) -> String {
    let mut sql = String::new();
    let mut rest = tokens;
    while let Some(first) = rest.first() {
        let test = rest.get(..3).and_then(empty_test);
        let test = test.filter(|(name, _)| has_empty_text(collection, name).is_some());
        let (part, length) = match test {
            Some((name, true)) => (format!("{} IS NULL", quote(name)), 3),
            Some((name, false)) => (format!("{} IS NOT NULL", quote(name)), 3),
            None => {
                let one = std::slice::from_ref(first);
                (Token::join(one, |name| valued(collection, name)), 1)
            }
        };
        if !sql.is_empty() {
            sql.push(' ');
        }
        sql += &part;
        rest = &rest[length..];
    }
    sql
}

/// The value of a column as PocketBase stores it, if that is a string for unset values.
fn has_empty_text(collection: &Collection, name: &str) -> Option<&'static str> {
    let field: &Field = collection.field(name)?;
    match field.kind {
        _ if field.nullable => None,
        _ if field.is_multiple() => Some("[]"),
        FieldKind::Number { .. }
        | FieldKind::Bool
        | FieldKind::Json { .. }
        | FieldKind::GeoPoint => None,
        FieldKind::Text(_)
        | FieldKind::Email(_)
        | FieldKind::Url(_)
        | FieldKind::Editor { .. }
        | FieldKind::Date(_)
        | FieldKind::Datetime(_)
        | FieldKind::Select { .. }
        | FieldKind::Relation(_)
        | FieldKind::File(_)
        | FieldKind::Autodate { .. }
        | FieldKind::Password { .. } => Some(""),
    }
}

fn valued(collection: &Collection, name: &str) -> String {
    let column = quote(collection.column(name).unwrap_or(name));
    match has_empty_text(collection, name) {
        Some(empty) => format!("ifnull({column}, '{empty}')"),
        None => column,
    }
}

/// Makes the indexes of the table those of its definition.
pub fn apply_indexes(tx: &Connection, collection: &Collection) -> Result<()> {
    let wanted = wanted_indexes(collection);
    let present = indexes(tx, &collection.name)?;
    for (name, sql) in &present {
        if wanted.get(name).map(|it| &it.sql) != Some(sql) {
            tx.execute_batch(&format!("DROP INDEX {}", quote(name)))?;
        }
    }
    for (name, index) in &wanted {
        if present.get(name) == Some(&index.sql) {
            continue;
        }
        tx.execute_batch(&index.sql)
            .map_err(|error| creation_error(name, index, error))?;
    }
    Ok(())
}

fn creation_error(name: &str, index: &Wanted, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => Error::conflict(format!(
            "{} cannot be unique: some records have the same value.",
            name.split(':').nth(2).unwrap_or(name)
        )),
        // The expression is of the client.
        Some(rusqlite::ErrorCode::Unknown) if index.key.starts_with("indexes.") => Error::field(
            &index.key,
            "validation_invalid_index_expression",
            "SQLite refuses this index; check its expressions.",
        )
        .context(format!("create index {name}: {error}")),
        _ => Error::from(error).context(format!("create index {name}")),
    }
}

/// The indexes of a table that [`apply_indexes`] created: names and statements.
pub fn indexes(tx: &Connection, table: &str) -> Result<BTreeMap<String, String>> {
    let mut statement = tx.prepare_cached(
        "SELECT name, sql
         FROM sqlite_schema
         WHERE type = 'index' AND tbl_name = ?1 COLLATE NOCASE AND sql IS NOT NULL
             AND (name LIKE 'unique:%' OR name LIKE 'relation:%' OR name LIKE 'index:%')",
    )?;
    let rows = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

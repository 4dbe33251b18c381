//! Queries about fields that hold file names.

use rusqlite::Connection;

use super::value::FieldValue;
use crate::base::error::Result;
use crate::model::collections::{Collection, Field};
use crate::store::db::quote;

/// The field of a record that names this file. A file of a deleted field has none.
pub fn field_of_file<'a>(
    connection: &Connection,
    collection: &'a Collection,
    id: &str,
    name: &str,
) -> Result<Option<&'a Field>> {
    let fields = collection
        .fields
        .iter()
        .filter(|field| field.file().is_some());
    let fields: Vec<&Field> = fields.collect();
    if fields.is_empty() {
        return Ok(None);
    }
    let columns: Vec<String> = fields.iter().map(|field| quote(&field.name)).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE id = ?1",
        columns.join(", "),
        collection.source()
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    for (at, field) in fields.into_iter().enumerate() {
        let names = FieldValue::load(field, row.get(at)?);
        if names.strings().iter().any(|other| other == name) {
            return Ok(Some(field));
        }
    }
    Ok(None)
}

/// Files that records of a collection name but that have no row in `_files`, as (record id, file
/// name).
pub fn files_without_row(
    connection: &Connection,
    collection: &Collection,
) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let table = quote(&collection.name);
    for field in collection
        .fields
        .iter()
        .filter(|field| field.file().is_some())
    {
        let column = quote(&field.name);
        let (names, name) = match field.is_multiple() {
            true => (
                format!(", json_each({column}) AS item"),
                "item.value".to_owned(),
            ),
            false => (String::new(), column.clone()),
        };
        let sql = format!(
            "SELECT record.id, {name} FROM {table} AS record{names}
             WHERE {column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM _files AS file
                 WHERE file.collection = ?1 AND file.record = record.id AND file.name = {name})"
        );
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([&collection.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for row in rows {
            found.push(row?);
        }
    }
    Ok(found)
}

//! Inserts records that come from another program: with their ids, times and password hashes,
//! without rules, checks of values, subscribers or calls.

use std::borrow::Cow;

use rusqlite::Connection;
use rusqlite::types::Value as Stored;

use super::row::rowid_of;
use super::value::FieldValue;
use super::write::insert_row;
use crate::base::error::Result;
use crate::model::collections::{Collection, CollectionKind, Collections};

/// A record of another program.
pub struct ImportedRecord {
    pub id: String,
    pub created: String,
    pub updated: String,
    /// By index in `Collection::fields`.
    pub values: Vec<(usize, FieldValue)>,
}

/// Inserts a record; false if an account of another collection has its id.
pub fn insert_imported(
    tx: &Connection,
    collections: &Collections,
    collection: &Collection,
    record: &ImportedRecord,
) -> Result<bool> {
    if collection.kind == CollectionKind::Auth {
        for other in collections.all() {
            let is_other = other.kind == CollectionKind::Auth && other.id != collection.id;
            if is_other && rowid_of(tx, other, &record.id)?.is_some() {
                return Ok(false);
            }
        }
    }
    let text = |text: &String| Cow::Owned(Stored::Text(text.clone()));
    let system = [
        ("id", text(&record.id)),
        ("created", text(&record.created)),
        ("updated", text(&record.updated)),
    ];
    let values = record.values.iter();
    let values = values.map(|(at, value)| {
        let name = collection.fields[*at].name.as_str();
        (name, value.to_stored())
    });
    let row = system.into_iter().chain(values).collect();
    insert_row(tx, collection, &row)?;
    Ok(true)
}

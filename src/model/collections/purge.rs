//! Removes deleted data from a database for good: tables of collections, columns of fields, and
//! their files.

use rusqlite::Connection;

use super::{Collections, TOKEN_KEY, schema};
use crate::base::error::{Error, Result};
use crate::store::db::quote;
use crate::store::files::table;
use crate::store::files::table::FileColumns;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub collections: usize,
    pub fields: usize,
    pub files: usize,
}

/// Drops tables and columns that no definition names. `deleted` are the names of deleted
/// collections; tables of other programs stay.
pub fn run(tx: &Connection, collections: &Collections, deleted: &[String]) -> Result<Purged> {
    let mut purged = Purged::default();
    for table in schema::tables(tx)? {
        let is_live = collections
            .all()
            .iter()
            .any(|live| !live.is_view() && live.name.eq_ignore_ascii_case(&table));
        let is_deleted = deleted.contains(&table) || table.starts_with(schema::ASIDE);
        if is_deleted && !is_live {
            drop_from(tx, &format!("DROP TABLE {}", quote(&table)), &table)?;
            purged.collections += 1;
        }
    }
    let mut named = Vec::new();
    let all = collections.all();
    for collection in all.into_iter().filter(|it| !it.is_view()) {
        for column in schema::columns(tx, &collection.name)? {
            let is_system = ["id", "created", "updated", TOKEN_KEY].contains(&column.as_str());
            let is_field = |field: &super::Field| field.name.eq_ignore_ascii_case(&column);
            if !is_system && !collection.fields.iter().any(is_field) {
                let table = quote(&collection.name);
                let sql = format!("ALTER TABLE {table} DROP COLUMN {}", quote(&column));
                drop_from(tx, &sql, &column)?;
                purged.fields += 1;
            }
        }
        let files = collection
            .fields
            .iter()
            .filter(|field| field.file().is_some());
        named.push(FileColumns {
            collection: &collection.id,
            table: &collection.name,
            columns: files.map(|field| field.name.as_str()).collect(),
        });
    }
    purged.files = table::remove_orphans(tx, &named)?;
    Ok(purged)
}

/// Fails if a view or trigger of another program depends on it.
fn drop_from(tx: &Connection, sql: &str, name: &str) -> Result<()> {
    tx.execute_batch(sql).map_err(|error| {
        Error::conflict(format!(
            "{name} cannot be dropped; a view or trigger depends on it."
        ))
        .context(format!("{sql}: {error}"))
    })
}

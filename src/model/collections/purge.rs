//! Makes final what was deleted from a database and kept: tables of collections, columns of fields, and
//! the files that belong to them (DB-14).

use rusqlite::Connection;

use super::{Collections, TOKEN_KEY, schema};
use crate::base::error::{Error, Result};
use crate::store::db::quote;
use crate::store::files::table;
use crate::store::files::table::FileColumns;

/// How much went for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub collections: usize,
    pub fields: usize,
    pub files: usize,
}

/// Drops what no definition names any more. `deleted` are the names of the deleted collections: a
/// table of another program stays.
pub fn run(tx: &Connection, collections: &Collections, deleted: &[String]) -> Result<Purged> {
    let mut purged = Purged::default();
    for table in schema::tables(tx)? {
        let is_live = collections
            .all()
            .iter()
            .any(|live| live.name.eq_ignore_ascii_case(&table));
        let is_deleted = deleted.contains(&table) || table.starts_with(schema::ASIDE);
        if is_deleted && !is_live {
            drop_from(tx, &format!("DROP TABLE {}", quote(&table)), &table)?;
            purged.collections += 1;
        }
    }
    let mut named = Vec::new();
    for collection in collections.all() {
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

/// What another program has built on it, a view or a trigger, is in the way.
fn drop_from(tx: &Connection, sql: &str, what: &str) -> Result<()> {
    tx.execute_batch(sql).map_err(|error| {
        Error::conflict(format!(
            "{what} cannot be dropped; something depends on it."
        ))
        .context(format!("{sql}: {error}"))
    })
}

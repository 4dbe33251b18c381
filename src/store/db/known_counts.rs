//! Counts of whole tables that a read connection remembers while its database does not change.
//!
//! A count is kept with the `data_version` of the connection: the number changes whenever the
//! connection sees a state with another commit, of this process or another one, and with each
//! application of pages on a replica. Readers commit nothing themselves, so a remembered count is
//! exactly that of the snapshot. The writer changes its own state without changing the number, so
//! it has no such memory.
//!
//! The memory belongs to the connection, as the state of two SQL functions.
//!
//! Bound: [`TABLES_MAX`] counts of each reader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, params};

use super::connection::data_version;
use crate::base::error::Result;
use crate::base::threads::lock;

const TABLES_MAX: usize = 256;

/// The counts of one version of the database, by table.
#[derive(Default)]
struct Known {
    version: i64,
    counts: HashMap<String, i64>,
}

/// Makes [`known_count`] work on a connection that does not write.
pub fn register(connection: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
    let known = Arc::new(Mutex::new(Known::default()));
    let found = Arc::clone(&known);
    connection.create_scalar_function("vski_known_count", 2, flags, move |context| {
        let (version, table): (i64, String) = (context.get(0)?, context.get(1)?);
        let known = lock(&found);
        let count = known.counts.get(&table).copied();
        Ok(count.filter(|_| known.version == version))
    })?;
    connection.create_scalar_function("vski_keep_count", 3, flags, move |context| {
        let (version, table, count) = (context.get(0)?, context.get(1)?, context.get(2)?);
        let mut known = lock(&known);
        if known.version != version || known.counts.len() >= TABLES_MAX {
            known.counts.clear();
            known.version = version;
        }
        known.counts.insert(table, count);
        Ok(count)
    })?;
    Ok(())
}

/// The number of rows of a table in the present snapshot, which `count` finds if it is not known.
/// Requires a transaction of a reader.
pub fn known_count(
    connection: &Connection,
    table: &str,
    count: impl FnOnce() -> Result<i64>,
) -> Result<i64> {
    let version = data_version(connection)?;
    let mut find = connection.prepare_cached("SELECT vski_known_count(?1, ?2)")?;
    let found: Option<i64> = find.query_row(params![version, table], |row| row.get(0))?;
    if let Some(found) = found {
        return Ok(found);
    }
    let count = count()?;
    let mut keep = connection.prepare_cached("SELECT vski_keep_count(?1, ?2, ?3)")?;
    keep.query_row(params![version, table, count], |_| Ok(()))?;
    Ok(count)
}

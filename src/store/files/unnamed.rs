//! Which stored files were found without a row, and when first; in `local.db`.

use std::collections::BTreeMap;

use crate::base::error::Result;
use crate::store::db::Database;

/// More are not kept in mind: they wait until these have gone.
pub const COUNT_MAX: usize = 10_000;

/// Paths, and when each was first found (milliseconds since 1970).
pub type Unnamed = BTreeMap<String, i64>;

pub fn load(local: &Database) -> Result<Unnamed> {
    local.read(|connection| {
        let mut statement = connection.prepare_cached("SELECT path, found_ms FROM _unnamed")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<Unnamed>>()?)
    })
}

/// Keeps these in place of those before.
pub fn save(local: &Database, unnamed: Unnamed) -> Result<()> {
    local.write(move |tx| {
        tx.execute("DELETE FROM _unnamed", [])?;
        let sql = "INSERT INTO _unnamed (path, found_ms) VALUES (?1, ?2)";
        let mut statement = tx.prepare_cached(sql)?;
        for (path, found_ms) in &unnamed {
            statement.execute((path, found_ms))?;
        }
        Ok(())
    })
}

//! This node: facts about it, kept in `local.db` and never replicated.

use rusqlite::OptionalExtension as _;

use crate::db::Database;
use crate::error::Result;
use crate::ids;

/// The id of this node; a random one the first time.
pub fn id(local: &Database) -> Result<String> {
    if let Some(id) = fact(local, "id")? {
        return Ok(id);
    }
    let id = ids::hex(&ids::random_bytes::<8>()?);
    set_fact(local, "id", id.clone())?;
    Ok(id)
}

/// What is noted under a name.
pub fn fact(local: &Database, name: &str) -> Result<Option<String>> {
    local.read(|connection| {
        let sql = "SELECT value FROM _node WHERE name = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    })
}

/// Notes it, in place of what was noted before.
pub fn set_fact(local: &Database, name: &'static str, value: String) -> Result<()> {
    local.write(move |tx| {
        tx.prepare_cached("INSERT OR REPLACE INTO _node (name, value) VALUES (?1, ?2)")?
            .execute([name, &value])?;
        Ok(())
    })
}

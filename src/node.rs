//! This node: the name under which it is known, made once and kept in `local.db`.

use rusqlite::OptionalExtension as _;

use crate::db::Database;
use crate::error::Result;
use crate::ids;

/// The id of this node; a random one the first time.
pub fn id(local: &Database) -> Result<String> {
    let kept = local.read(|connection| {
        let sql = "SELECT value FROM _node WHERE name = 'id'";
        Ok(connection.query_row(sql, [], |row| row.get(0)).optional()?)
    })?;
    if let Some(id) = kept {
        return Ok(id);
    }
    let id = ids::hex(&ids::random_bytes::<8>()?);
    local.write(move |tx| {
        tx.execute("INSERT INTO _node (name, value) VALUES ('id', ?1)", [&id])?;
        Ok(id)
    })
}

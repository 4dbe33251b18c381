//! This node: facts about it, kept in `local.db` and never replicated.

use rusqlite::OptionalExtension as _;

use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::store::db::{Connection, Database, Role};

/// The id of this node; a random one the first time.
pub fn id(local: &Database) -> Result<String> {
    if let Some(id) = fact(local, "id")? {
        return Ok(id);
    }
    let id = ids::hex(&ids::random_bytes::<8>()?);
    set_fact(local, "id", id.clone())?;
    Ok(id)
}

/// Refuses to go on with data of another role: a replica would overwrite what a master alone has, and
/// a master that was one would have replicas of its own believe it.
/// Where there is data but no word of whose (`is_new` is false), it is a master's.
pub fn take_role(local: &Database, role: Role, is_new: bool) -> Result<()> {
    let noted = fact(local, "role")?;
    let is_replicas = match (noted.as_deref(), is_new) {
        (Some(word), _) => word == "replica",
        (None, true) => role == Role::Replica,
        (None, false) => false,
    };
    match (role, is_replicas) {
        (Role::Master, true) => Err(Error::unavailable(
            "The data is that of a replica. vski replica promote makes a master of it; \
             REPLICA_MODE=replica goes on following.",
        )),
        (Role::Replica, false) => Err(Error::unavailable(
            "The data is that of a master, which following another one would overwrite. Give the \
             replica a DATA_DIR of its own.",
        )),
        _ if noted.is_some() => Ok(()),
        (Role::Master, false) => set_fact(local, "role", "master".to_owned()),
        (Role::Replica, true) => set_fact(local, "role", "replica".to_owned()),
    }
}

/// Whether the data is a replica's.
pub fn is_replica(local: &Database) -> Result<bool> {
    Ok(fact(local, "role")?.is_some_and(|role| role == "replica"))
}

/// The same for a copy of `local.db`; false when it says nothing.
pub fn is_replica_in(local: &Connection) -> bool {
    let sql = "SELECT value = 'replica' FROM _node WHERE name = 'role'";
    local.query_row(sql, [], |row| row.get(0)).unwrap_or(false)
}

/// Makes a master of a replica.
pub fn promote(local: &Database) -> Result<()> {
    set_fact(local, "role", "master".to_owned())
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

//! This node: its id, its role and its settings, kept in `local.db` and never replicated.

use rusqlite::OptionalExtension as _;

use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::store::db::{Connection, Database, Role};

/// The id of this node; a random one is chosen the first time.
pub fn id(local: &Database) -> Result<String> {
    if let Some(id) = setting(local, "id")? {
        return Ok(id);
    }
    let id = ids::hex(&ids::random_bytes::<8>()?);
    save_setting(local, "id", id.clone())?;
    Ok(id)
}

/// Saves the role of new data, and refuses data of the other role: a replica would overwrite data
/// that only this master has, and the replicas of a former replica would trust it as their master.
/// Existing data (`is_new` is false) without a saved role belongs to a master.
pub fn claim_role(local: &Database, role: Role, is_new: bool) -> Result<()> {
    let saved = setting(local, "role")?;
    let is_replicas = match (saved.as_deref(), is_new) {
        (Some(word), _) => word == "replica",
        (None, true) => role == Role::Replica,
        (None, false) => false,
    };
    match (role, is_replicas) {
        (Role::Master, true) => Err(Error::unavailable(
            "The data belongs to a replica; run vski replica promote to make it a master, or set \
             REPLICA_MODE=replica to continue as a replica.",
        )),
        (Role::Replica, false) => Err(Error::unavailable(
            "The data belongs to a master, and following another master would overwrite it; give the \
             replica its own DATA_DIR.",
        )),
        _ if saved.is_some() => Ok(()),
        (Role::Master, false) => save_setting(local, "role", "master".to_owned()),
        (Role::Replica, true) => save_setting(local, "role", "replica".to_owned()),
    }
}

/// True if the data belongs to a replica.
pub fn is_replica(local: &Database) -> Result<bool> {
    Ok(setting(local, "role")?.is_some_and(|role| role == "replica"))
}

/// Like [`is_replica`], for a copy of `local.db`; false if it has no role.
pub fn is_replica_in(local: &Connection) -> bool {
    let sql = "SELECT value = 'replica' FROM _node WHERE name = 'role'";
    local.query_row(sql, [], |row| row.get(0)).unwrap_or(false)
}

/// Makes a replica a master.
pub fn promote(local: &Database) -> Result<()> {
    save_setting(local, "role", "master".to_owned())
}

/// The value of a setting.
pub fn setting(local: &Database, name: &str) -> Result<Option<String>> {
    local.read(|connection| {
        let sql = "SELECT value FROM _node WHERE name = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    })
}

/// Saves a setting; it replaces the old value.
pub fn save_setting(local: &Database, name: &'static str, value: String) -> Result<()> {
    local.write(move |tx| {
        tx.prepare_cached("INSERT OR REPLACE INTO _node (name, value) VALUES (?1, ?2)")?
            .execute([name, &value])?;
        Ok(())
    })
}

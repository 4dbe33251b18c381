//! The databases of a data directory, opened by a command.

use std::path::Path;

use crate::base::error::{Error, Result};
use crate::model::records;
use crate::store::{db, node};

/// Refuses the data of a replica, whose changes the next sync with the master would overwrite.
pub fn refuse_replica(data_dir: &Path) -> Result<()> {
    if !db::local_file(data_dir).exists() {
        return Ok(());
    }
    let local = db::open_existing(data_dir, db::LOCAL, SETTINGS)?;
    let is_replica = node::is_replica(&local)?;
    local.close()?;
    match is_replica {
        true => Err(Error::conflict(
            "The data directory belongs to a replica; run the command on its master.",
        )),
        false => Ok(()),
    }
}

/// Opens `default.db`, which must exist.
pub fn open_existing(data_dir: &Path) -> Result<db::Database> {
    refuse_empty(data_dir)?;
    open_default(data_dir)
}

pub fn refuse_empty(data_dir: &Path) -> Result<()> {
    match db::default_file(data_dir).exists() {
        true => Ok(()),
        false => Err(Error::not_found(format!(
            "There is no data in {}.",
            data_dir.display()
        ))),
    }
}

/// Settings of databases that are opened while a server may run.
pub const SETTINGS: db::ConnectionSettings = db::ConnectionSettings {
    role: db::Role::Master,
    synchronous: db::Synchronous::Full,
    prepare: records::register,
};

/// Opens or creates `default.db`. A server may run: SQLite locks the file for both processes.
pub fn open_default(data_dir: &Path) -> Result<db::Database> {
    db::Database::open(&db::default_file(data_dir), db::Schema::Default, SETTINGS)
}

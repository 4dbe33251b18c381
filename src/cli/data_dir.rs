//! The databases of a data directory, opened by a command.

use std::path::Path;

use crate::base::error::{Error, Result};
use crate::model::records;
use crate::store::{db, node};

/// Whatever is written to a replica's data is overwritten by what its master has.
pub fn refuse_replica(data_dir: &Path) -> Result<()> {
    if !db::local_file(data_dir).exists() {
        return Ok(());
    }
    let local = db::open_existing(data_dir, db::LOCAL, SETTINGS)?;
    let is_replica = node::is_replica(&local)?;
    local.close()?;
    match is_replica {
        true => Err(Error::conflict(
            "The data is that of a replica; do this on its master.",
        )),
        false => Ok(()),
    }
}

/// Opens what is there, and makes nothing.
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

/// What holds for databases that are opened beside a running server.
pub const SETTINGS: db::Settings = db::Settings {
    role: db::Role::Master,
    synchronous: db::Synchronous::Full,
    prepare: records::register,
};

/// Opens `default.db`, also beside a running server: SQLite arbitrates between the two.
pub fn open_default(data_dir: &Path) -> Result<db::Database> {
    db::Database::open(&db::default_file(data_dir), db::Schema::Default, SETTINGS)
}

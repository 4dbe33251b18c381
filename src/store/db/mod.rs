//! The database files of a data directory: `default.db`, one file per tenant, `local.db`,
//! `stats.db`, `workflows.db`.
//!
//! [`Databases`] owns the directory and opens its files. A [`Database`] is one file with one writer
//! connection (`writer`: group commit) and a pool of read connections (`readers`); `connection` has
//! the pragmas of both, `migrate` the versions of the system tables. `pages`, `page_writer` and
//! `wal_tracker` read and write databases as pages, for replication; `offline` opens files without
//! a server.

use std::fs;
use std::fs::File;
use std::path::Path;

pub use rusqlite::Connection;

pub use changed_databases::ChangedDatabases;
pub use checkpoint::Checkpoints;
pub use commit_hooks::on_commit;
pub use commit_position::take_commit_positions;
pub use connection::{ConnectionSettings, Role, Synchronous, is_damaged};
pub use database::{Database, not_replicated_yet};
pub use databases::{Databases, is_useless, open_existing, open_to_inspect};
pub use deadline::Deadline;
pub use dir::{NOFOLLOW, RESTORING, create_dir, lock_dir, refuse_emptied};
pub use known_counts::known_count;
pub use migrate::Schema;
pub use names::{
    DEFAULT, LOCAL, STATS, WORKFLOWS, default_file, is_valid_name, local_file, name_of_file, names,
    schema_of, workflows_file,
};
pub use page_writer::PageWriter;
pub use readers::QueryCaller;
pub use tenants::{CONNECTION_DESCRIPTORS, connections_max};
pub use writer::CommitBarrier;

use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::failpoints;
use connection::remove_wal;

pub mod authorizer;
mod changed_databases;
mod checkpoint;
mod commit_hooks;
mod commit_position;
mod connection;
mod database;
mod databases;
mod deadline;
mod dir;
mod known_counts;
mod lazy_writer;
mod migrate;
mod names;
pub mod offline;
mod page_writer;
pub mod pages;
mod readers;
mod tenants;
mod wal_tracker;
mod writer;

/// Refuses to run with a SQLite library that lacks a feature that replication needs.
pub fn check_build() -> Result<()> {
    match PageWriter::is_supported()? {
        true => Ok(()),
        false => Err(Error::unavailable(
            "This vski was built without SQLITE_ENABLE_DBPAGE_VTAB: build it in its own directory, \
             where .cargo/config.toml sets LIBSQLITE3_FLAGS.",
        )),
    }
}

/// The versions of the system tables of `default.db` and of tenants in this program.
pub fn schema_versions() -> (i64, i64) {
    (Schema::Default.version(), Schema::Tenant.version())
}

/// Quotes an identifier for use in SQL.
pub fn quote(identifier: &str) -> String {
    match identifier.contains('"') {
        true => ["\"", &identifier.replace('"', "\"\""), "\""].concat(),
        false => ["\"", identifier, "\""].concat(),
    }
}

/// Replaces the file of a database that no process has open. A crash in between leaves no file
/// rather than one without its WAL.
pub fn replace_file(new: &Path, path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if path.exists() {
        fs::remove_file(path).context(format!("remove {}", path.display()))?;
        failpoints::reach("old-removed");
    }
    remove_wal(path);
    fs::rename(new, path).context(format!("rename {} into place", new.display()))?;
    failpoints::reach("replaced");
    Ok(File::open(dir)?.sync_all()?)
}

/// Removes a database that no process has open.
pub fn remove(dir: &Path, name: &str) -> std::io::Result<()> {
    let path = names::file(dir, name);
    fs::remove_file(&path)?;
    remove_wal(&path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_cannot_end_its_quotes() {
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }
}

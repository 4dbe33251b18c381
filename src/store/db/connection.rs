//! Connections to database files: the pragmas that hold for all of them, each with its reason, and
//! the files that SQLite keeps beside a database.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rustix::fs::Access;
use rustix::io::Errno;

use super::authorizer;
use super::deadline::Deadline;
use crate::base::error::{Error, Result};

/// Time that SQLite waits for a lock of another process (a backup, the command line).
pub const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Bytes of the WAL file that stay on disk when the WAL restarts.
pub const WAL_BYTES_KEPT: i64 = 16 << 20;
/// Prepared statements cached per connection.
const STATEMENTS_MAX: usize = 96;
/// Longest value or row, in bytes; the largest legitimate ones, records and payloads, have some
/// MiB.
const VALUE_BYTES_MAX: i32 = 64 << 20;
/// Size of the header of a database file.
const HEADER_BYTES: u64 = 100;
/// Without the name of the file, which clients must not see.
const DAMAGED: &str =
    "The database file is corrupt or not a SQLite database; restore it from a backup.";

/// The role of a server for the databases of a data directory: it writes them, or follows a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This server.
    Master,
    /// The master that this server follows; `local.db` is its own even so.
    Replica,
}

/// The durability of a commit, SQLite's `synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// A commit waits for the disk: an acknowledged write survives a power cut.
    Full,
    /// A commit is handed to the operating system: it survives a kill, not a power cut.
    Normal,
}

/// Registers SQL functions on a connection. A function that may take long has to check the deadline
/// itself.
pub type Prepare = fn(&Connection, &Deadline) -> Result<()>;

/// ConnectionSettings of every connection of every file.
#[derive(Clone, Copy)]
pub struct ConnectionSettings {
    pub role: Role,
    pub synchronous: Synchronous,
    /// Called for each new connection.
    pub prepare: Prepare,
}

/// The number of connections that are open in a group of databases.
#[derive(Clone, Default)]
pub struct ConnectionCount(Arc<AtomicUsize>);

impl ConnectionCount {
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts a connection until the result is dropped.
    pub fn add(&self) -> CountedConnection {
        self.0.fetch_add(1, Ordering::Relaxed);
        CountedConnection(self.clone())
    }
}

/// A connection in a [`ConnectionCount`].
pub struct CountedConnection(ConnectionCount);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sets the pragmas that readers and the writer share. Returns the deadline that the connection
/// obeys.
pub fn prepare(
    connection: &mut Connection,
    cache_kib: i64,
    settings: ConnectionSettings,
) -> Result<Deadline> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    // `records` enforces relations; this is for tables that operators add themselves.
    connection.pragma_update(None, "foreign_keys", true)?;
    distrust_schema(connection)?;
    // No statement of a client may write to the schema or the shadow tables.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A misspelt column in double quotes is an error, not a string.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    // SQLite's own limit is a gigabyte, which a cron script could allocate with one function call.
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.authorizer(Some(authorizer::authorize))?;
    let deadline = Deadline::new();
    deadline.attach(connection)?;
    (settings.prepare)(connection, &deadline)?;
    Ok(deadline)
}

/// Sets the pragmas of every connection: a master, a backup or another program may have written the
/// file.
pub fn distrust_schema(connection: &Connection) -> rusqlite::Result<()> {
    // Views, triggers, defaults and indexes of the file can call harmless functions only.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // A cell that points outside its page is detected when the page is read.
    connection.pragma_update(None, "cell_size_check", true)
}

/// Explains why SQLite could not open the file for this access. It also refuses a truncated file:
/// SQLite would take it for a new one and delete its WAL.
pub fn refuse_unusable(path: &Path, access: Access) -> Result<()> {
    // Not opened: closing it would drop locks that this process may hold.
    match rustix::fs::access(path, access) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => {
            let message = format!("The database cannot be opened: {error}.");
            return Err(Error::unavailable(message));
        }
    }
    let is_truncated = match fs::metadata(path).map(|data| data.len()) {
        Ok(0) => wal_bytes(path) > 0,
        // A first page that was only partly written has a journal, from which SQLite repairs it.
        Ok(1..HEADER_BYTES) => !beside(path, "-journal").exists(),
        Ok(_) | Err(_) => false,
    };
    if is_truncated {
        Err(damaged().context("the file is truncated"))
    } else {
        Ok(())
    }
}

/// True if this user may write a file or folder.
pub fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK).is_ok()
}

/// The size of the WAL. It is read from the directory: opening and closing a file of SQLite's would
/// drop the locks that this process holds on it.
pub fn wal_bytes(path: &Path) -> u64 {
    fs::metadata(beside(path, "-wal")).map_or(0, |data| data.len())
}

/// The path of a file that SQLite keeps beside a database.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes the files that SQLite keeps beside a database that no longer exists.
pub fn remove_wal(path: &Path) {
    for suffix in ["-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(beside(path, suffix));
    }
}

/// A number that changes after each commit of another connection, in whatever process.
pub fn data_version(connection: &Connection) -> Result<i64> {
    let mut statement = connection.prepare_cached("PRAGMA data_version")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// Adds advice to an error by which SQLite reports a corrupt file.
pub fn explain_damage(error: Error) -> Error {
    match is_damaged(&error) && !error.to_string().contains(DAMAGED) {
        true => damaged().context(error.to_string()),
        false => error,
    }
}

/// True if SQLite has reported that a file is corrupt or not a database.
pub fn is_damaged(error: &Error) -> bool {
    let text = error.to_string();
    ["not a database", "malformed", DAMAGED]
        .iter()
        .any(|it| text.contains(it))
}

/// The error for a corrupt file.
pub fn damaged() -> Error {
    Error::unavailable(DAMAGED)
}

//! Databases that no server has open: copies in backups, files to inspect, and checks of their
//! integrity.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::connection::{Prepare, distrust_schema, is_damaged, is_writable, wal_bytes};
use super::deadline::Deadline;
use super::migrate;
use super::migrate::Schema;
use crate::base::error::{Error, Result, ResultExt as _};

/// Opens a file that no process writes to and that has no WAL. Creates no file beside it, so it may
/// be on a read-only medium.
pub fn open(path: &Path, prepare: Prepare) -> Result<Connection> {
    let connection = open_uri(path, "immutable=1")?;
    distrust_schema(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    prepare(&connection, &Deadline::new())?;
    Ok(connection)
}

/// Opens a database of another program for reading. No process writes to it; changes that a crash
/// has left in its WAL are read too.
pub fn open_foreign(path: &Path) -> Result<Connection> {
    let connection = match wal_bytes(path) {
        0 => open_uri(path, "immutable=1")?,
        _ => {
            let connection = open_uri(path, "mode=ro&vfs=unix-none")?;
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            connection
        }
    };
    distrust_schema(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(connection)
}

/// Opens a file of a data directory for inspection. If this user cannot write, as on a disk that
/// the kernel has remounted read-only after errors, SQLite cannot create a WAL or its index; if no
/// server runs, it works without a WAL, or with an index in memory.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens databases for inspection"
)]
pub fn open_to_inspect(path: &Path) -> Result<Connection> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if is_writable(path) && is_writable(dir) || lock_shared(dir)?.is_none() {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        return Ok(Connection::open_with_flags(path, flags)?);
    }
    if wal_bytes(path) == 0 {
        return open_uri(path, "immutable=1");
    }
    let connection = open_uri(path, "mode=ro&vfs=unix-none")?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    Ok(connection)
}

/// Locks a directory against servers until the result is dropped. None if a server runs there.
fn lock_shared(dir: &Path) -> Result<Option<SharedLock>> {
    let path = dir.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(SharedLock(None))),
        Err(error) => {
            return Err(Error::unavailable(format!(
                "{} cannot be opened: {error}.",
                path.display()
            )));
        }
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        // A server cannot run on a file system without locks.
        Err(_) | Ok(()) => Ok(Some(SharedLock(Some(file)))),
    }
}

/// Like [`lock_shared`], for a command that inspects a directory in which this user cannot write.
pub fn lock_read_only(dir: &Path) -> Result<Option<SharedLock>> {
    if is_writable(dir) {
        return Ok(None);
    }
    lock_shared(dir)
}

/// See [`lock_shared`].
pub struct SharedLock(
    #[expect(dead_code, reason = "closing the descriptor releases the lock")] Option<File>,
);

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens copies of databases"
)]
fn open_uri(path: &Path, parameters: &str) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let path = std::path::absolute(path)?;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(*byte));
            }
            _ => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    let _ = write!(uri, "?{parameters}");
    Connection::open_with_flags(uri, flags)
        .map_err(Error::from)
        .context(format!("open {}", path.display()))
}

/// The faults of a file, one sentence each: of its pages and indexes, and of its system tables.
pub fn faults(connection: &Connection, schema: Schema) -> Result<Vec<String>> {
    let result = integrity(connection).and_then(|mut found| {
        if found.is_empty() {
            match migrate::check(connection, schema) {
                Ok(()) => found = migrate::differences(connection, schema)?,
                Err(error) => found.push(error.message().to_owned()),
            }
        }
        Ok(found)
    });
    match result {
        Err(error) if is_damaged(&error) => Ok(vec![error.to_string()]),
        result => result,
    }
}

fn integrity(connection: &Connection) -> Result<Vec<String>> {
    let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    let mut found: Vec<String> = rows.collect::<rusqlite::Result<_>>()?;
    found.retain(|line| line != "ok");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::pages::PageReader;
    use super::super::{ConnectionSettings, Database, Role, Synchronous};
    use super::*;
    use rusqlite::functions::FunctionFlags;

    /// A file may come from a master, a backup or another program: no way of opening it trusts its
    /// views and triggers.
    #[test]
    fn no_connection_trusts_the_schema_of_a_file() {
        let dir = std::env::temp_dir().join(format!("vski-distrust-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("it.db");
        let settings = ConnectionSettings {
            role: Role::Master,
            synchronous: Synchronous::Normal,
            prepare: crate::model::records::register,
        };
        let check = |connection: &Connection| {
            let number = |name: &str| -> i64 {
                let value = connection.pragma_query_value(None, name, |row| row.get(0));
                value.unwrap()
            };
            assert_eq!(
                (number("trusted_schema"), number("cell_size_check")),
                (0, 1)
            );
            let costly = FunctionFlags::SQLITE_UTF8;
            connection.create_scalar_function("costly", 0, costly, |_| Ok(1))?;
            let direct: i64 = connection.query_row("SELECT costly()", [], |row| row.get(0))?;
            assert_eq!(direct, 1);
            let sql = "SELECT * FROM harmless";
            let found: i64 = connection.query_row(sql, [], |row| row.get(0))?;
            assert_eq!(found, 1);
            let refusal = connection.prepare("SELECT * FROM hostile").unwrap_err();
            assert!(
                refusal.to_string().contains("unsafe use of costly"),
                "{refusal}"
            );
            Ok(())
        };
        let database = Database::open(&path, Schema::Tenant, settings).unwrap();
        let views = "CREATE VIEW hostile AS SELECT costly(); CREATE VIEW harmless AS SELECT vski_like('ab', 'b');";
        database
            .write(move |tx| Ok(tx.execute_batch(views)?))
            .unwrap();
        database.write(move |tx| check(tx)).unwrap();
        database.read(check).unwrap();
        let pages = PageReader::open(&path).unwrap();
        crate::model::records::register(pages.snapshot().unwrap().connection(), &Deadline::new())
            .unwrap();
        check(pages.snapshot().unwrap().connection()).unwrap();
        drop(pages);
        database.close().unwrap();
        check(&open(&path, settings.prepare).unwrap()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

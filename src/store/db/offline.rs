//! Databases that are only looked at: copies that nobody writes to, and what SQLite and the system tables
//! say of any.

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

/// Opens a file that no process writes to and that has no log, and leaves nothing beside it. It may be on a medium that
/// takes nothing.
pub fn open(path: &Path, prepare: Prepare) -> Result<Connection> {
    let connection = open_uri(path, "immutable=1")?;
    distrust_schema(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    prepare(&connection, &Deadline::new())?;
    Ok(connection)
}

/// Opens a file of a data directory to look at it. Where this user may not write, as on a disk that the kernel has made
/// read-only after errors, SQLite cannot make a log or the index of one: it then does without, or gets an index in
/// memory, if no server runs.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens databases to look at them"
)]
pub fn open_to_inspect(path: &Path) -> Result<Connection> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if is_writable(path) && is_writable(dir) || hold(dir)?.is_none() {
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

/// Keeps servers out of a directory for as long as the result lives. None when one runs there.
fn hold(dir: &Path) -> Result<Option<Held>> {
    let path = dir.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Held(None))),
        Err(error) => {
            return Err(Error::unavailable(format!(
                "{} cannot be opened: {error}.",
                path.display()
            )));
        }
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        // Where there are no locks no server can run.
        Err(_) | Ok(()) => Ok(Some(Held(Some(file)))),
    }
}

/// The same where this user cannot write, for as long as a command looks at it.
pub fn hold_unwritable(dir: &Path) -> Result<Option<Held>> {
    if is_writable(dir) {
        return Ok(None);
    }
    hold(dir)
}

/// See [`hold`].
pub struct Held(#[expect(dead_code, reason = "the lock goes with the descriptor")] Option<File>);

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens copies of databases"
)]
fn open_uri(path: &Path, how: &str) -> Result<Connection> {
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
    let _ = write!(uri, "?{how}");
    Connection::open_with_flags(uri, flags)
        .map_err(Error::from)
        .context(format!("open {}", path.display()))
}

/// What is wrong with a file, a sentence each: with its pages and indexes, with its system tables.
pub fn faults(connection: &Connection, schema: Schema) -> Result<Vec<String>> {
    let looked = integrity(connection).and_then(|mut found| {
        if found.is_empty() {
            match migrate::check(connection, schema) {
                Ok(()) => found = migrate::differences(connection, schema)?,
                Err(error) => found.push(error.message().to_owned()),
            }
        }
        Ok(found)
    });
    match looked {
        Err(error) if is_damaged(&error) => Ok(vec![error.to_string()]),
        looked => looked,
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
    use super::super::{Database, Role, Settings, Synchronous};
    use super::*;
    use rusqlite::functions::FunctionFlags;

    /// A file may come from a master, a backup or another program: its views and triggers are not trusted on any way
    /// on which it is opened.
    #[test]
    fn no_connection_trusts_the_schema_of_a_file() {
        let dir = std::env::temp_dir().join(format!("vski-distrust-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("it.db");
        let settings = Settings {
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
            let dear = FunctionFlags::SQLITE_UTF8;
            connection.create_scalar_function("dear", 0, dear, |_| Ok(1))?;
            let direct: i64 = connection.query_row("SELECT dear()", [], |row| row.get(0))?;
            assert_eq!(direct, 1);
            let sql = "SELECT * FROM harmless";
            let found: i64 = connection.query_row(sql, [], |row| row.get(0))?;
            assert_eq!(found, 1);
            let refusal = connection.prepare("SELECT * FROM hostile").unwrap_err();
            assert!(
                refusal.to_string().contains("unsafe use of dear"),
                "{refusal}"
            );
            Ok(())
        };
        let database = Database::open(&path, Schema::Tenant, settings).unwrap();
        let views = "CREATE VIEW hostile AS SELECT dear(); CREATE VIEW harmless AS SELECT vski_like('ab', 'b');";
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

//! Databases that are only looked at: copies that nobody writes to, and what SQLite and the system tables
//! say of any.

use std::fmt::Write as _;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::OpenFlags;

use super::Prepare;
use super::database::is_damaged;
use super::deadline::Deadline;
use super::migrate;
use super::migrate::Schema;
use crate::error::Error;
use crate::error::Result;
use crate::error::ResultExt as _;

/// Opens a file that nobody writes to, and leaves nothing beside it. It may be on a medium that takes
/// nothing.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens copies of databases"
)]
pub fn open(path: &Path, prepare: Prepare) -> Result<Connection> {
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
    uri.push_str("?immutable=1");
    let connection = Connection::open_with_flags(uri, flags)
        .map_err(Error::from)
        .context(format!("open {}", path.display()))?;
    prepare(&connection, &Deadline::new())?;
    Ok(connection)
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

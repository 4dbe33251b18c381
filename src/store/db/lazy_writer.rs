//! The writer of a database, opened when it is first used.
//!
//! Opening it may create the file and migrates the system tables. A tenant that is only read needs
//! none: then a reader finds out that the tables are current ([`LazyWriter::is_current`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::Access;

use super::commit_position::NextPosition;
use super::connection::{
    BUSY_WAIT, ConnectionCount, ConnectionSettings, CountedConnection, Synchronous, WAL_BYTES_KEPT,
    explain_damage, prepare, refuse_unusable, wal_bytes,
};
use super::deadline::Deadline;
use super::migrate;
use super::migrate::Schema;
use super::writer::WriteQueue;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads;
use crate::base::threads::lock;

/// Page cache of the writer, in KiB.
const WRITER_CACHE_KIB: i64 = 8_000;

/// See the module documentation.
pub struct LazyWriter {
    schema: Schema,
    settings: ConnectionSettings,
    pub count: ConnectionCount,
    next_position: Option<NextPosition>,
    opened: OnceLock<(WriteQueue, CountedConnection)>,
    opening: Mutex<()>,
    is_current: AtomicBool,
}

impl LazyWriter {
    pub fn new(schema: Schema, settings: ConnectionSettings) -> LazyWriter {
        LazyWriter {
            schema,
            settings,
            count: ConnectionCount::default(),
            next_position: None,
            opened: OnceLock::new(),
            opening: Mutex::new(()),
            is_current: AtomicBool::new(false),
        }
    }

    /// Shares the position of the next commits with [`super::ChangedDatabases`].
    pub fn set_next_position(&mut self, next_position: NextPosition) {
        match self.opened.get_mut() {
            Some((queue, _)) => queue.set_next_position(next_position),
            None => self.next_position = Some(next_position),
        }
    }

    /// The queue, if it is open.
    pub fn opened(&self) -> Option<&WriteQueue> {
        self.opened.get().map(|(queue, _)| queue)
    }

    /// The queue; opens it if it is closed.
    pub fn queue(&self, path: &Path) -> Result<&WriteQueue> {
        if let Some(queue) = self.opened() {
            return Ok(queue);
        }
        let _opening = lock(&self.opening);
        if self.opened().is_none() {
            let counted = self.count.add();
            let queue = self.open(path)?;
            let _ = self.opened.set((queue, counted));
            self.is_current.store(true, Ordering::Release);
        }
        self.opened().ok_or_else(|| Error::internal("no writer"))
    }

    fn open(&self, path: &Path) -> Result<WriteQueue> {
        let mut queue = refuse_unusable(path, Access::READ_OK | Access::WRITE_OK)
            .and_then(|()| open_writer(path, self.schema, self.settings))
            .and_then(|(connection, deadline)| WriteQueue::new(connection, deadline))
            .map_err(explain_damage)
            .context(format!("open database {}", path.display()))?;
        if let Some(next_position) = &self.next_position {
            queue.set_next_position(NextPosition::clone(next_position));
        }
        Ok(queue)
    }

    /// True if the file is known to have the system tables of this program, and a WAL.
    pub fn is_current(&self) -> bool {
        self.is_current.load(Ordering::Acquire)
    }

    /// Finds out whether the file is current, with a reader. A file that is refused is left
    /// unchanged, with its WAL.
    pub fn check_current(&self, reader: &Connection) -> Result<bool> {
        reader.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        migrate::check(reader, self.schema)?;
        let mode: String = reader.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        let is_current = mode == "wal" && migrate::is_current(reader, self.schema)?;
        if is_current {
            reader.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
            self.is_current.store(true, Ordering::Release);
        }
        Ok(is_current)
    }

    pub fn close(self) -> rusqlite::Result<()> {
        match self.opened.into_inner() {
            Some((queue, _counted)) => queue.into_connection().close().map_err(|(_, it)| it),
            None => Ok(()),
        }
    }
}

/// Creates the file so that only its owner can read it; SQLite gives the WAL the same mode.
fn make_private(path: &Path) -> Result<()> {
    match File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::unavailable(
            format!("The file cannot be created: {error}."),
        )),
        // An existing file is not opened: closing it would drop locks that this process holds.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens database files"
)]
fn open_writer(
    path: &Path,
    schema: Schema,
    settings: ConnectionSettings,
) -> Result<(Connection, Deadline)> {
    make_private(path)?;
    let has_wal = wal_bytes(path) > 0;
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    let deadline = prepare(&mut connection, WRITER_CACHE_KIB, settings)?;
    if schema == Schema::Workflows {
        // Its jobs are many small commands, each with a savepoint: their rollback journals stay in
        // memory instead of a file.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
    }
    // A file that is refused is left unchanged, with its WAL.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_wal)?;
    migrate::check(&connection, schema)?;
    if connection.is_readonly("main")? {
        return Err(Error::unavailable("The file is read-only."));
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    // Readers never wait for the writer nor the writer for them.
    let mode = enable_wal(&connection)?;
    if mode != "wal" {
        return Err(Error::internal(format!("journal mode is {mode}, not wal")));
    }
    let level = match settings.synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", level)?;
    // `checkpoint` decides when a checkpoint runs.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A WAL that grew is truncated again.
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    migrate::run(&mut connection, schema)?;
    Ok((connection, deadline))
}

/// Turns on the WAL; returns the journal mode in effect. SQLite reports a busy database, without
/// waiting, while another process creates the same file.
fn enable_wal(connection: &Connection) -> rusqlite::Result<String> {
    let begun = Instant::now();
    loop {
        let mode =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        match mode {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begun.elapsed() < BUSY_WAIT => {}
            other => return other,
        }
        threads::pause(Duration::from_millis(5));
    }
}

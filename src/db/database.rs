//! One database file: one writer, a few readers, and the pragmas, each with its reason.
//!
//! [`Database::read`] and [`Database::snapshot`] run a closure on a pooled read-only connection;
//! [`Database::write`] runs one inside a group commit (see `commit`). No connection escapes.
//!
//! Bounds: readers are opened as needed up to [`READERS_MAX`] ([`READERS`] of them with a large page
//! cache; more only while slow queries keep others waiting), waiting for one and running a query
//! both end ([`READER_WAIT`], [`QUERY_LIMIT`]); `checkpoint` bounds the log. No reader is held while a
//! peer is talked to, so none can pin the log for longer than a query.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;

use super::Settings;
use super::checkpoint;
use super::commit::Queue;
use super::deadline::Deadline;
use super::migrate;
use super::migrate::Schema;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::error::ResultExt as _;
use crate::threads;
use crate::threads::lock;

/// What a commit waits for; SQLite's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// The disk has it: an acknowledged write survives a power cut.
    Full,
    /// The system has it: survives a kill, not a power cut.
    Normal,
}

/// Read connections per file in ordinary times. Reading is work for processors; more would only
/// hold memory.
const READERS: usize = 4;
/// Read connections per file when queries are slow, so that quick ones get through.
const READERS_MAX: usize = 12;
/// How long a request waits for one of [`READERS`] before another is opened.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a request waits for a read connection.
const READER_WAIT: Duration = Duration::from_secs(10);
/// How long the queries of a request may run.
const QUERY_LIMIT: Duration = Duration::from_secs(20);
/// How long a write may hold up the others.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// The same for changes of tables, which may have to go through all rows.
const LONG_WRITE_LIMIT: Duration = Duration::from_secs(600);
/// Page cache of a reader, KiB: a table of 10,000 ordinary records is scanned twice as fast when
/// it fits.
const READER_CACHE_KIB: i64 = 8_000;
/// Page cache of the readers above [`READERS`], KiB.
const EXTRA_CACHE_KIB: i64 = 1_000;
/// Page cache of the writer, KiB.
const WRITER_CACHE_KIB: i64 = 8_000;
/// Prepared statements kept per connection.
const STATEMENTS_MAX: usize = 96;
/// Size of the log that is left on disk when it starts over.
const WAL_BYTES_KEPT: i64 = 16 << 20;
/// Size of the header that every database file begins with.
const HEADER_BYTES: u64 = 100;
/// How long SQLite waits for a lock that another process holds (a backup, the command line).
pub const BUSY_WAIT: Duration = Duration::from_secs(5);

/// An open database file.
pub struct Database {
    path: PathBuf,
    queue: Queue,
    readers: Readers,
}

impl Database {
    /// Opens the file, making it when there is none, and migrates its system tables.
    pub fn open(path: &Path, schema: Schema, settings: Settings) -> Result<Database> {
        let writer = refuse_cut_off(path)
            .and_then(|()| open_writer(path, schema, settings))
            .map_err(refuse_broken)
            .context(format!("open database {}", path.display()))?;
        Ok(Database {
            path: path.to_owned(),
            queue: Queue::new(writer)?,
            readers: Readers::new(path, settings),
        })
    }

    /// Runs `body` on a read connection; each statement of it sees the latest commit.
    pub fn read<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let reader = self.readers.take()?;
        body(reader.connection()).map_err(|error| self.locate("read", error))
    }

    /// Runs `body` on a read connection; all of its statements see one and the same state.
    pub fn snapshot<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.read(|connection| {
            connection.prepare_cached("BEGIN")?.execute([])?;
            let result = body(connection);
            let end = connection.prepare_cached("ROLLBACK")?.execute([]);
            if !connection.is_autocommit() {
                end?;
            }
            result
        })
    }

    /// Runs `job` in a transaction and returns when its result is durable. Jobs that arrive
    /// together share one commit; an error or a panic undoes its own job only. The job runs on
    /// whichever thread leads the commit, so it owns what it uses.
    pub fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.queue
            .write(WRITE_LIMIT, job)
            .map_err(|error| self.locate("write", error))
    }

    /// Like [`Database::write`], for a job that may have to go through whole tables.
    pub fn write_for_long<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.queue
            .write(LONG_WRITE_LIMIT, job)
            .map_err(|error| self.locate("write", error))
    }

    /// Folds the log into the file when there is much of it and refreshes what SQLite knows of
    /// the data for planning queries; bounded work, for the timer.
    pub fn maintain(&self) -> Result<()> {
        self.queue.maintain(|connection| {
            connection
                .execute_batch("PRAGMA optimize(0x10012)")
                .context("optimize")
        })
    }

    /// Folds the whole log into the file, which then stands for itself; fails while another
    /// process reads the log.
    pub fn fold(&self) -> Result<()> {
        self.queue
            .maintain(|connection| match checkpoint::fold(connection)? {
                true => Ok(()),
                false => Err(Error::unavailable(
                    "Another program uses the database; try again.",
                )),
            })
    }

    /// Folds the log in and closes all connections.
    pub fn close(self) -> Result<()> {
        drop(self.readers);
        let writer = self.queue.into_connection();
        writer
            .close()
            .map_err(|(_, error)| Error::from(error))
            .context(format!("close database {}", self.path.display()))
    }

    /// Names the file for the log, when it is to blame and not the caller.
    fn locate(&self, verb: &str, error: Error) -> Error {
        match error.kind() {
            Kind::Internal | Kind::Unavailable => {
                error.context(format!("{verb} {}", self.path.display()))
            }
            _ => error,
        }
    }
}

/// The size of the log; asked of the directory, never by opening a file of SQLite's, which would
/// drop the locks that this process holds on it.
pub fn wal_bytes(path: &Path) -> u64 {
    std::fs::metadata(beside(path, "-wal")).map_or(0, |data| data.len())
}

/// The path of a file that SQLite keeps beside a database.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// SQLite takes a file that was cut off for a new one and deletes its log.
fn refuse_cut_off(path: &Path) -> Result<()> {
    let is_cut_off = match std::fs::metadata(path).map(|data| data.len()) {
        Ok(0) => wal_bytes(path) > 0,
        // A first page that was only partly written has a journal, from which SQLite repairs it.
        Ok(1..HEADER_BYTES) => !beside(path, "-journal").exists(),
        Ok(_) | Err(_) => false,
    };
    if is_cut_off {
        Err(damaged().context("the file was cut off"))
    } else {
        Ok(())
    }
}

/// Makes the file so that its owner alone can read it; SQLite gives its log the same mode.
fn make_private(path: &Path) -> Result<()> {
    match File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::unavailable(
            format!("The file cannot be made: {error}."),
        )),
        // Not opened when it was there: closing it would drop locks that this process holds.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens database files"
)]
fn open_writer(path: &Path, schema: Schema, settings: Settings) -> Result<Connection> {
    make_private(path)?;
    let has_log = wal_bytes(path) > 0;
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    prepare(&connection, WRITER_CACHE_KIB, settings)?;
    // What is refused is left as it is, its log too.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    migrate::check(&connection, schema)?;
    if connection.is_readonly("main")? {
        return Err(Error::unavailable("The file is read-only."));
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    // Readers never wait for the writer nor the writer for them.
    let mode = use_log(&connection)?;
    if mode != "wal" {
        return Err(Error::internal(format!("journal mode is {mode}, not wal")));
    }
    let level = match settings.synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", level)?;
    // `checkpoint` decides when the log is folded in.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A log that once grew gives its space back.
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    migrate::run(&mut connection, schema)?;
    Ok(connection)
}

/// Turns the log on; returns the mode that holds. When another process makes the same file at this
/// moment SQLite says that it is busy, and does not wait by itself.
fn use_log(connection: &Connection) -> rusqlite::Result<String> {
    let (pause, begun) = (threads::Stop::new(), Instant::now());
    loop {
        let mode =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        match mode {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begun.elapsed() < BUSY_WAIT => {}
            other => return other,
        }
        pause.wait(Duration::from_millis(5));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens database files"
)]
fn open_reader(path: &Path, settings: Settings, cache_kib: i64) -> Result<(Connection, Deadline)> {
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    prepare(&connection, cache_kib, settings)?;
    connection.pragma_update(None, "query_only", true)?;
    let deadline = Deadline::attach(&mut connection)?;
    Ok((connection, deadline))
}

/// What holds for readers and the writer alike.
fn prepare(connection: &Connection, cache_kib: i64, settings: Settings) -> Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    // Relations are kept right by `records`; this is for tables that people add themselves.
    connection.pragma_update(None, "foreign_keys", true)?;
    // No statement of a client may write to the schema or the shadow tables.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A misspelt column in double quotes is an error, not a string.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    (settings.prepare)(connection)
}

/// Names the way out when SQLite says that a file is no database or damaged.
fn refuse_broken(error: Error) -> Error {
    let text = error.to_string();
    if text.contains("not a database") || text.contains("malformed") {
        return damaged().context(text);
    }
    error
}

/// Without the name of the file, which is no business of a client.
fn damaged() -> Error {
    Error::unavailable("The database is damaged or none of SQLite's; restore it from a backup.")
}

/// The pool of read connections. Invariants: `idle.len() + taken == open <= READERS_MAX`; of the
/// open ones at most [`READERS`] have the large cache, and idle ones with it are at the end of
/// `idle`, from where they are taken.
struct Readers {
    path: PathBuf,
    settings: Settings,
    state: Mutex<ReadersState>,
    returned: Condvar,
}

struct ReadersState {
    idle: VecDeque<Reader>,
    open: usize,
    large: usize,
}

struct Reader {
    connection: Connection,
    deadline: Deadline,
    size: Size,
}

/// Which page cache a reader has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Large,
    Small,
}

/// A reader out of the pool, or leave to open one.
enum Turn {
    Idle(Reader),
    Open(Size),
}

/// A read connection that goes back to the pool by itself.
struct Taken<'a> {
    readers: &'a Readers,
    reader: Option<Reader>,
}

impl Readers {
    fn new(path: &Path, settings: Settings) -> Readers {
        Readers {
            path: path.to_owned(),
            settings,
            state: Mutex::new(ReadersState {
                idle: VecDeque::new(),
                open: 0,
                large: 0,
            }),
            returned: Condvar::new(),
        }
    }

    fn take(&self) -> Result<Taken<'_>> {
        let reader = match self.turn()? {
            Turn::Idle(reader) => reader,
            Turn::Open(size) => self.open(size).inspect_err(|_| self.forget(size))?,
        };
        reader.deadline.set(QUERY_LIMIT);
        Ok(Taken {
            readers: self,
            reader: Some(reader),
        })
    }

    /// An idle reader, or leave to open one, which is counted already.
    fn turn(&self) -> Result<Turn> {
        let mut state = lock(&self.state);
        let mut begun = None;
        loop {
            if let Some(reader) = state.idle.pop_back() {
                return Ok(Turn::Idle(reader));
            }
            if state.large < READERS {
                state.open += 1;
                state.large += 1;
                return Ok(Turn::Open(Size::Large));
            }
            let waited = begun.get_or_insert_with(Instant::now).elapsed();
            if waited >= PATIENCE && state.open < READERS_MAX {
                state.open += 1;
                return Ok(Turn::Open(Size::Small));
            }
            let limit = if state.open < READERS_MAX {
                PATIENCE
            } else {
                READER_WAIT
            };
            let Some(left) = limit.checked_sub(waited) else {
                return Err(Error::unavailable(
                    "Too many queries are running; try again.",
                ));
            };
            state = threads::wait_timeout(&self.returned, state, left);
        }
    }

    fn open(&self, size: Size) -> Result<Reader> {
        let cache_kib = match size {
            Size::Large => READER_CACHE_KIB,
            Size::Small => EXTRA_CACHE_KIB,
        };
        let (connection, deadline) = open_reader(&self.path, self.settings, cache_kib)
            .context(format!("open reader of {}", self.path.display()))?;
        Ok(Reader {
            connection,
            deadline,
            size,
        })
    }

    fn forget(&self, size: Size) {
        let mut state = lock(&self.state);
        state.open -= 1;
        state.large -= usize::from(size == Size::Large);
        self.returned.notify_one();
    }
}

impl Taken<'_> {
    fn connection(&self) -> &Connection {
        let reader = self.reader.as_ref();
        &reader.expect("held until the drop").connection
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        match self.reader.take() {
            // A panic may have left a transaction open: such a connection is not used again.
            Some(reader) if reader.connection.is_autocommit() => {
                let mut state = lock(&self.readers.state);
                match reader.size {
                    Size::Large => state.idle.push_back(reader),
                    Size::Small => state.idle.push_front(reader),
                }
                self.readers.returned.notify_one();
            }
            Some(reader) => self.readers.forget(reader.size),
            None => {}
        }
    }
}

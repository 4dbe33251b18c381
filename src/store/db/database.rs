//! One database file: one writer, a few readers, and the pragmas, each with its reason.
//!
//! [`Database::read`] and [`Database::snapshot`] run a closure on a pooled read-only connection;
//! [`Database::write`] runs one inside a group commit (see `commit`). No connection escapes.
//!
//! Bounds: `readers` bounds connections and queries, `checkpoint` the log.
//!
//! A file that follows a master has no writer here: [`Database::write`] is refused, and `apply`
//! brings in what the master has.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::Access;
use rustix::io::Errno;

use super::changes::Changes;
use super::commit::{Company, Fence, Queue};
use super::deadline::Deadline;
use super::feed::Feed;
use super::migrate::Schema;
use super::pages::{PageReader, Snapshot};
use super::readers::{Asker, Readers, Taken, Use};
use super::{Settings, checkpoint, guard, migrate};
use crate::base::error::{Error, Kind, Result, ResultExt as _};
use crate::base::threads;

/// What a commit waits for; SQLite's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// The disk has it: an acknowledged write survives a power cut.
    Full,
    /// The system has it: survives a kill, not a power cut.
    Normal,
}

/// How long a write may hold up the others.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long a write waits for others: longer than a script of a job may hold up the engine of workflows.
/// One that may take long itself may wait as long.
const WRITE_WAIT: Duration = Duration::from_secs(15);
/// The same for changes of tables, which may have to go through all rows.
const LONG_WRITE_LIMIT: Duration = Duration::from_secs(600);
/// Between two looks at whether a batch has ended.
const WRITER_PAUSE: Duration = Duration::from_millis(2);
/// Page cache of the writer, KiB.
const WRITER_CACHE_KIB: i64 = 8_000;
/// Prepared statements kept per connection.
const STATEMENTS_MAX: usize = 96;
/// Longest value or row; the largest that there are, records and payloads, have some MiB.
const VALUE_BYTES_MAX: i32 = 64 << 20;
/// Size of the log that is left on disk when it starts over.
pub const WAL_BYTES_KEPT: i64 = 16 << 20;
/// Size of the header that every database file begins with.
const HEADER_BYTES: u64 = 100;
/// Without the name of the file, which is no business of a client.
const DAMAGED: &str = "The database is damaged or none of SQLite's; restore it from a backup.";
/// How long SQLite waits for a lock that another process holds (a backup, the command line).
pub const BUSY_WAIT: Duration = Duration::from_secs(5);

/// An open database file.
pub struct Database {
    path: PathBuf,
    /// None: it follows a master.
    queue: Option<Queue>,
    readers: Readers,
    /// Where its commits are noted, and under which name.
    changes: Option<(String, Arc<Changes>)>,
}

impl Database {
    /// Opens the file, making it when there is none, and migrates its system tables.
    pub fn open(path: &Path, schema: Schema, settings: Settings) -> Result<Database> {
        let (writer, deadline) = refuse_unusable(path, Access::READ_OK | Access::WRITE_OK)
            .and_then(|()| open_writer(path, schema, settings))
            .map_err(refuse_broken)
            .context(format!("open database {}", path.display()))?;
        Ok(Database {
            path: path.to_owned(),
            queue: Some(Queue::new(writer, deadline)),
            readers: Readers::new(path, settings),
            changes: None,
        })
    }

    /// A file that follows a master; there need not be one yet.
    pub fn follow(path: &Path, settings: Settings) -> Database {
        Database {
            path: path.to_owned(),
            queue: None,
            readers: Readers::new(path, settings),
            changes: None,
        }
    }

    /// Its commits are noted there under this name.
    pub fn with_changes(mut self, name: &str, changes: &Arc<Changes>) -> Database {
        if let Some(queue) = &mut self.queue {
            queue.share_mark(changes.next_mark(name));
        }
        self.changes = Some((name.to_owned(), Arc::clone(changes)));
        self
    }

    /// Runs `body` on a read connection; each statement of it sees the latest commit.
    pub fn read<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let reader = self.reader(Use::Own)?;
        body(reader.connection()).map_err(|error| self.locate("read", error))
    }

    /// Like [`Database::read`], for reading by a key: the identity of a caller, how something is defined, where a file is. It
    /// does not wait for queries.
    pub fn look_up<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let reader = self.reader(Use::LookUp)?;
        body(reader.connection()).map_err(|error| self.locate("read", error))
    }

    /// Like [`Database::read`], for a query that a caller asks and pays for.
    pub fn read_for<T>(
        &self,
        asker: Asker<'_>,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let reader = self.reader(Use::Query(asker))?;
        match body(reader.connection()) {
            Err(error) if error.was_stopped() => Err(reader.why_stopped(error)),
            result => result.map_err(|error| self.locate("read", error)),
        }
    }

    /// Like [`Database::snapshot`], for queries that a caller asks and pays for.
    pub fn snapshot_for<T>(
        &self,
        asker: Asker<'_>,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.read_for(asker, |connection| in_snapshot(connection, body))
    }

    fn reader(&self, wanted: Use<'_>) -> Result<Taken<'_>> {
        match self.readers.take(wanted) {
            Err(_) if self.queue.is_none() && !self.path.exists() => Err(not_here()),
            taken => taken,
        }
    }

    /// Runs `body` on a read connection; all of its statements see one and the same state.
    pub fn snapshot<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.read(|connection| in_snapshot(connection, body))
    }

    /// Like [`Database::snapshot`], for what must be done within this time, a moment: it does not wait
    /// for queries either.
    pub fn snapshot_within<T>(
        &self,
        limit: Duration,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.snapshot_by(&self.reader(Use::LookUp)?, limit, body)
    }

    /// Like [`Database::snapshot`], for what may have to go through whole tables.
    pub fn snapshot_for_long<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.snapshot_by(&self.reader(Use::Own)?, LONG_WRITE_LIMIT, body)
    }

    fn snapshot_by<T>(
        &self,
        reader: &Taken<'_>,
        limit: Duration,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        reader.allow(limit);
        in_snapshot(reader.connection(), body).map_err(|error| self.locate("read", error))
    }

    /// Runs `job` in a transaction and returns when its result is durable. Jobs that arrive
    /// together share one commit; an error or a panic undoes its own job only. The job runs on
    /// whichever thread leads the commit, so it owns what it uses.
    pub fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_within(WRITE_LIMIT, Company::Others, job)
    }

    /// Like [`Database::write`], for a job that may have to go through whole tables.
    pub fn write_for_long<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_within(LONG_WRITE_LIMIT, Company::Others, job)
    }

    /// Like [`Database::write`], with a limit of its own and in a commit of its own: SQLite gives up a
    /// whole transaction when it is stopped in the middle, and that shall be nobody else's.
    pub fn write_alone<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_within(limit, Company::None, job)
    }

    fn write_within<T: Send + 'static>(
        &self,
        limit: Duration,
        company: Company,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let is_short = limit == WRITE_LIMIT && company == Company::Others;
        let patience = if is_short {
            WRITE_WAIT
        } else {
            LONG_WRITE_LIMIT
        };
        let result = self.queue()?.write(patience, limit, company, job);
        if result.is_ok()
            && let Some((name, changes)) = &self.changes
        {
            changes.note(name);
        }
        result.map_err(|error| self.locate("write", error))
    }

    /// Folds the log into the file when there is much of it and refreshes what SQLite knows of
    /// the data for planning queries; bounded work, for the timer.
    pub fn maintain(&self) -> Result<()> {
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        queue.maintain(|connection| {
            connection
                .execute_batch("PRAGMA optimize(0x10012)")
                .context("optimize")
        })
    }

    /// Folds the whole log into the file, which then stands for itself; fails while another
    /// process reads the log.
    pub fn fold(&self) -> Result<()> {
        let check = |is_done| match is_done {
            true => Ok(()),
            false => Err(Error::unavailable(
                "Another program uses the database; try again.",
            )),
        };
        match &self.queue {
            Some(queue) => {
                queue.maintain(|connection| checkpoint::fold(connection).and_then(check))
            }
            None => PageReader::open(&self.path)?.fold().and_then(check),
        }
    }

    /// Opens a state of the file that no commit comes between. Returns with it the pages that have
    /// changed since the last call, if that is known; see [`Queue::cut`].
    pub fn cut<'a>(
        &self,
        pages: &'a PageReader,
        history: &Arc<str>,
        version: u64,
    ) -> Result<(Snapshot<'a>, Option<BTreeSet<u32>>)> {
        let page_size = pages.page_size()?;
        let feed = || Feed::new(&self.path, page_size);
        self.queue()?
            .cut(feed, history, version, || pages.snapshot())
            .map_err(|error| self.locate("cut", error))
    }

    /// The write jobs that run now; none on a file that follows a master.
    pub fn fence(&self) -> Option<Fence> {
        self.queue.as_ref().map(Queue::fence)
    }

    /// Waits until the write jobs that run now have ended; refused when that takes longer. For those who
    /// have other databases to see to meanwhile.
    pub fn wait_for_writer(&self, limit: Duration) -> Result<()> {
        let (pause, deadline) = (threads::Stop::new(), Instant::now() + limit);
        let fence = self.fence();
        while fence.as_ref().is_some_and(|fence| !fence.has_passed()) {
            if Instant::now() >= deadline {
                return Err(Error::unavailable("A write takes long; try again."));
            }
            pause.wait(WRITER_PAUSE);
        }
        Ok(())
    }

    /// Runs `body`, which may give the file another history, while nobody reads.
    pub fn alone<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        self.readers.exclusively(body)
    }

    /// No connection of before is used for new reads.
    pub fn renew_readers(&self) {
        self.readers.renew();
    }

    /// Fails when SQLite finds the file damaged.
    pub fn check(&self) -> Result<()> {
        let found: String = self.read(|connection| {
            let sql = "PRAGMA quick_check(1)";
            Ok(connection.query_row(sql, [], |row| row.get(0))?)
        })?;
        match found.as_str() {
            "ok" => Ok(()),
            found => Err(damaged().context(found.to_owned())),
        }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folds the log in and closes all connections.
    pub fn close(self) -> Result<()> {
        drop(self.readers);
        let Some(queue) = self.queue else {
            return Ok(());
        };
        queue
            .into_connection()
            .close()
            .map_err(|(_, error)| Error::from(error))
            .context(format!("close database {}", self.path.display()))
    }

    fn queue(&self) -> Result<&Queue> {
        self.queue.as_ref().ok_or_else(Error::read_only)
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

fn in_snapshot<T>(
    connection: &Connection,
    body: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    connection.prepare_cached("BEGIN")?.execute([])?;
    let result = body(connection);
    let end = connection.prepare_cached("ROLLBACK")?.execute([]);
    if !connection.is_autocommit() {
        end?;
    }
    result
}

/// A replica has no such file yet.
pub fn not_here() -> Error {
    Error::unavailable("This replica has not received the database yet; try again.")
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

/// Says why SQLite could not open the file for this access; and takes care of one that was cut off, which SQLite takes
/// for a new one and deletes its log.
pub fn refuse_unusable(path: &Path, access: Access) -> Result<()> {
    // Not opened: closing it would drop locks that this process may hold.
    match rustix::fs::access(path, access) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => {
            let message = format!("The database cannot be opened: {error}.");
            return Err(Error::unavailable(message));
        }
    }
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
fn open_writer(path: &Path, schema: Schema, settings: Settings) -> Result<(Connection, Deadline)> {
    make_private(path)?;
    let has_log = wal_bytes(path) > 0;
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    let deadline = prepare(&mut connection, WRITER_CACHE_KIB, settings)?;
    if schema == Schema::Workflows {
        // Its jobs are many commands, each with a savepoint and none of them large: what undoing them
        // takes stays in memory instead of going through a file.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
    }
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
    Ok((connection, deadline))
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

/// Sets up what holds for readers and the writer alike. Returns the deadline that the connection obeys.
pub fn prepare(
    connection: &mut Connection,
    cache_kib: i64,
    settings: Settings,
) -> Result<Deadline> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    // Relations are kept right by `records`; this is for tables that people add themselves.
    connection.pragma_update(None, "foreign_keys", true)?;
    distrust(connection)?;
    // No statement of a client may write to the schema or the shadow tables.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A misspelt column in double quotes is an error, not a string.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    // SQLite's own bound is a gigabyte, which a script of a job has in memory with one call of a function.
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.authorizer(Some(guard::authorize))?;
    let deadline = Deadline::new();
    deadline.attach(connection)?;
    (settings.prepare)(connection, &deadline)?;
    Ok(deadline)
}

/// Sets up what holds for every connection to a file, since a master, a backup or another program may have written it.
pub fn distrust(connection: &Connection) -> rusqlite::Result<()> {
    // Views, triggers, defaults and indexes of the file can call harmless functions only.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // A cell that leads out of its page is noticed when the page is read.
    connection.pragma_update(None, "cell_size_check", true)
}

/// Names the way out when SQLite says that a file is no database or damaged.
fn refuse_broken(error: Error) -> Error {
    match is_damaged(&error) && !error.to_string().contains(DAMAGED) {
        true => damaged().context(error.to_string()),
        false => error,
    }
}

/// Whether SQLite has said that a file is no database or damaged.
pub fn is_damaged(error: &Error) -> bool {
    let text = error.to_string();
    ["not a database", "malformed", DAMAGED]
        .iter()
        .any(|it| text.contains(it))
}

fn damaged() -> Error {
    Error::unavailable(DAMAGED)
}

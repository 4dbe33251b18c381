//! One database file: one writer connection and a pool of readers.
//!
//! [`Database::read`] and [`Database::snapshot`] run a closure on a pooled read-only connection;
//! [`Database::write`] runs one inside a group commit (see `commit`). No connection escapes.
//!
//! Bounds: `readers` bounds connections and queries, `checkpoint` the WAL.
//!
//! A database of a replica has no writer: [`Database::write`] is refused, and `page_writer` applies
//! the pages of the master.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::fs::Access;

use super::changed_databases::ChangedDatabases;
use super::checkpoint;
use super::connection::{
    ConnectionCount, ConnectionSettings, damaged, explain_damage, refuse_unusable,
};
use super::lazy_writer::LazyWriter;
use super::migrate::Schema;
use super::pages::{PageReader, Snapshot};
use super::readers::{PooledReader, QueryCaller, ReaderUse, Readers};
use super::wal_tracker::WalTracker;
use super::writer::{Batching, CommitBarrier, WriteQueue};
use crate::base::error::{Error, Kind, Result, ResultExt as _};
use crate::base::threads;

/// Time that a write may run.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Time that a write waits for its turn: longer than a cron script may hold up the workflow engine.
/// A long write may wait for as long as it may run.
const WRITE_WAIT: Duration = Duration::from_secs(15);
/// Time that a change of tables may run: it may have to read all rows.
const LONG_WRITE_LIMIT: Duration = Duration::from_secs(600);
/// Pause between two checks whether a batch has ended.
const WRITER_PAUSE: Duration = Duration::from_millis(2);

/// An open database file.
pub struct Database {
    path: PathBuf,
    /// None on a replica.
    writer: Option<LazyWriter>,
    readers: Readers,
    /// The set to which commits add this database, and its name there.
    changes: Option<(String, Arc<ChangedDatabases>)>,
}

impl Database {
    /// Opens the file, creating it if needed, and migrates its system tables.
    pub fn open(path: &Path, schema: Schema, settings: ConnectionSettings) -> Result<Database> {
        let database = Database::new(path, Some(schema), settings);
        database.open_writer()?;
        Ok(database)
    }

    /// Like [`Database::open`], but opens connections when they are first used, and migrates the
    /// file then.
    pub fn open_lazily(
        path: &Path,
        schema: Schema,
        settings: ConnectionSettings,
    ) -> Result<Database> {
        refuse_unusable(path, Access::READ_OK | Access::WRITE_OK)
            .context(format!("open database {}", path.display()))?;
        Ok(Database::new(path, Some(schema), settings))
    }

    /// A database of a replica; the file need not exist yet.
    pub fn open_replica(path: &Path, settings: ConnectionSettings) -> Database {
        Database::new(path, None, settings)
    }

    fn new(path: &Path, schema: Option<Schema>, settings: ConnectionSettings) -> Database {
        Database {
            path: path.to_owned(),
            writer: schema.map(|schema| LazyWriter::new(schema, settings)),
            readers: Readers::new(path, settings),
            changes: None,
        }
    }

    /// From now on, new connections are counted in `count` too.
    pub fn counted(mut self, count: &ConnectionCount) -> Database {
        if let Some(writer) = &mut self.writer {
            writer.count = count.clone();
        }
        self.readers.count = count.clone();
        self
    }

    /// From now on, commits add the database to `changes` under this name.
    pub fn with_changes(mut self, name: &str, changes: &Arc<ChangedDatabases>) -> Database {
        if let Some(writer) = &mut self.writer {
            writer.set_next_position(changes.next_position(name));
        }
        self.changes = Some((name.to_owned(), Arc::clone(changes)));
        self
    }

    /// Opens the writer, creating the file if needed; later writes need not.
    pub fn open_writer(&self) -> Result<()> {
        self.queue().map(drop)
    }

    /// Runs `body` on a read connection; each of its statements sees the latest commit.
    pub fn read<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let reader = self.reader(ReaderUse::Internal)?;
        body(reader.connection()).map_err(|error| self.locate("read", error))
    }

    /// Like [`Database::read`], for a look-up by key: the identity of a caller, a definition, the
    /// row of a file. It does not wait for queries.
    pub fn look_up<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let reader = self.reader(ReaderUse::LookUp)?;
        body(reader.connection()).map_err(|error| self.locate("read", error))
    }

    /// Like [`Database::read`], for a query that is charged to its caller.
    pub fn read_for<T>(
        &self,
        caller: QueryCaller<'_>,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let reader = self.reader(ReaderUse::Query(caller))?;
        match body(reader.connection()) {
            Err(error) if error.is_interrupted() => Err(reader.interrupt_error(error)),
            result => result.map_err(|error| self.locate("read", error)),
        }
    }

    /// Like [`Database::snapshot`], for queries that are charged to their caller.
    pub fn snapshot_for<T>(
        &self,
        caller: QueryCaller<'_>,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.read_for(caller, |connection| in_snapshot(connection, body))
    }

    fn reader(&self, purpose: ReaderUse<'_>) -> Result<PooledReader<'_>> {
        if let Some(writer) = &self.writer
            && !writer.is_current()
        {
            self.make_current(writer)
                .map_err(explain_damage)
                .context(format!("open database {}", self.path.display()))?;
        }
        match self.readers.acquire(purpose) {
            Err(_) if self.writer.is_none() && !self.path.exists() => Err(not_replicated_yet()),
            reader => reader,
        }
    }

    /// Migrates the file if that is necessary before its first read.
    fn make_current(&self, writer: &LazyWriter) -> Result<()> {
        let reader = self.readers.acquire(ReaderUse::LookUp)?;
        let is_current = writer.check_current(reader.connection());
        if !matches!(is_current, Ok(true)) {
            // The next look is at the file as it is then.
            self.readers.renew();
        }
        drop(reader);
        match is_current? {
            true => Ok(()),
            false => self.open_writer(),
        }
    }

    /// Runs `body` on a read connection; all of its statements see the same snapshot.
    pub fn snapshot<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.read(|connection| in_snapshot(connection, body))
    }

    /// Like [`Database::snapshot`], with a short time limit; it does not wait for queries either.
    pub fn snapshot_within<T>(
        &self,
        limit: Duration,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.snapshot_by(&self.reader(ReaderUse::LookUp)?, limit, body)
    }

    /// Like [`Database::snapshot`], for work that may read whole tables.
    pub fn snapshot_for_long<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.snapshot_by(&self.reader(ReaderUse::Internal)?, LONG_WRITE_LIMIT, body)
    }

    fn snapshot_by<T>(
        &self,
        reader: &PooledReader<'_>,
        limit: Duration,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        reader.set_limit(limit);
        in_snapshot(reader.connection(), body).map_err(|error| self.locate("read", error))
    }

    /// Runs `job` in a transaction and returns when its result is durable. Jobs that arrive
    /// together share one commit; an error or a panic rolls back its own job only. The job runs on
    /// the thread that leads the commit, so it owns the values that it uses.
    pub fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_within(WRITE_LIMIT, Batching::Shared, job)
    }

    /// Like [`Database::write`], for a job that may read whole tables.
    pub fn write_for_long<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_within(LONG_WRITE_LIMIT, Batching::Shared, job)
    }

    /// Like [`Database::write`], with its own time limit and its own commit: an interrupt makes
    /// SQLite roll back the whole transaction, which must not contain other jobs.
    pub fn write_exclusive<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_within(limit, Batching::Exclusive, job)
    }

    fn write_within<T: Send + 'static>(
        &self,
        limit: Duration,
        batching: Batching,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let is_short = limit == WRITE_LIMIT && batching == Batching::Shared;
        let timeout = if is_short {
            WRITE_WAIT
        } else {
            LONG_WRITE_LIMIT
        };
        let result = self.queue()?.write(timeout, limit, batching, job);
        if result.is_ok()
            && let Some((name, changes)) = &self.changes
        {
            changes.add(name);
        }
        result.map_err(|error| self.locate("write", error))
    }

    /// Runs a checkpoint and refreshes the statistics of the query planner, if the writer is open;
    /// bounded work, for the timer.
    pub fn maintain(&self) -> Result<()> {
        let Some(queue) = self.writer.as_ref().and_then(LazyWriter::opened) else {
            return Ok(());
        };
        queue.maintain(|connection| {
            connection
                .execute_batch("PRAGMA optimize(0x10012)")
                .context("optimize")
        })
    }

    /// Copies the whole WAL into the file, which is then complete by itself; fails while another
    /// process reads the WAL.
    pub fn checkpoint(&self) -> Result<()> {
        let check = |is_done| match is_done {
            true => Ok(()),
            false => Err(Error::unavailable(
                "Another program uses the database; try again.",
            )),
        };
        match &self.writer {
            Some(writer) => writer
                .queue(&self.path)?
                .maintain(|connection| checkpoint::truncate_wal(connection).and_then(check)),
            None => PageReader::open(&self.path)?.truncate_wal().and_then(check),
        }
    }

    /// Begins a snapshot of the pages while no commit can happen. Also returns the pages that
    /// changed since the last call, if that is known; see [`WriteQueue::begin_snapshot`].
    pub fn begin_snapshot<'a>(
        &self,
        pages: &'a PageReader,
        history: &Arc<str>,
        version: u64,
    ) -> Result<(Snapshot<'a>, Option<BTreeSet<u32>>)> {
        let page_size = pages.page_size()?;
        let tracker = || WalTracker::new(&self.path, page_size);
        self.queue()?
            .begin_snapshot(tracker, history, version, || pages.snapshot())
            .map_err(|error| self.locate("snapshot", error))
    }

    /// A barrier that passes when the write jobs that run now have ended; none if there was none.
    pub fn commit_barrier(&self) -> Option<CommitBarrier> {
        let writer = self.writer.as_ref()?;
        writer.opened().map(WriteQueue::commit_barrier)
    }

    /// Waits until the write jobs that run now have ended; fails if that takes longer. For threads
    /// that serve other databases too.
    pub fn wait_for_writer(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let commit_barrier = self.commit_barrier();
        while commit_barrier
            .as_ref()
            .is_some_and(|commit_barrier| !commit_barrier.has_passed())
        {
            if Instant::now() >= deadline {
                return Err(Error::unavailable("A long write is running; try again."));
            }
            threads::pause(WRITER_PAUSE);
        }
        Ok(())
    }

    /// Runs `body`, which may replace the history of the file, while there is no reader.
    pub fn with_exclusive_access<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        self.readers.exclusively(body)
    }

    /// Replaces all pooled readers; reads in progress finish on the old ones.
    pub fn renew_readers(&self) {
        self.readers.renew();
    }

    /// Fails if SQLite finds the file damaged.
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

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes all connections; SQLite runs a last checkpoint.
    pub fn close(self) -> Result<()> {
        drop(self.readers);
        let Some(writer) = self.writer else {
            return Ok(());
        };
        writer
            .close()
            .context(format!("close database {}", self.path.display()))
    }

    fn writer(&self) -> Result<&LazyWriter> {
        self.writer.as_ref().ok_or_else(Error::read_only)
    }

    fn queue(&self) -> Result<&WriteQueue> {
        self.writer()?.queue(&self.path)
    }

    /// Adds the path for the log, unless the caller caused the error.
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

/// The error for a database that a replica has not received yet.
pub fn not_replicated_yet() -> Error {
    Error::unavailable("This replica has not received the database yet; try again.")
}

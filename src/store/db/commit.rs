//! Group commit: writers that arrive together share one transaction and one fsync.
//!
//! Whoever comes first leads: it takes all queued jobs, runs each in its own savepoint, commits
//! once, and hands out the results. Jobs that arrive meanwhile wait for the next batch, whose
//! first job's thread is made the leader before the results of this one are handed out, so the
//! disk is never idle while there is work.
//!
//! Invariants:
//! - At most one thread leads (`State::leading`), and only the leader runs jobs.
//! - A result is handed out only after the commit that it depends on has succeeded; when the
//!   commit fails, every job of the batch fails, whatever it had returned.
//! - A job that wants a transaction for itself is the only one of its batch.
//! - The queue holds at most one job per waiting thread, so the request pool bounds it.
//! - A job that does not get its turn is withdrawn by the thread that waits for it, while nobody has begun it:
//!   else one long job would keep all threads of the pool, and the server would answer nobody.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ffi};

use super::after::Batch;
use super::changes::NextMark;
use super::checkpoint::{Checkpoints, log_pages};
use super::database::BUSY_WAIT;
use super::deadline::Deadline;
use super::feed::Feed;
use crate::base::error::{Error, Kind, Result};
use crate::base::threads::lock;
use crate::base::{log, threads};

/// The writer connection and those who wait for it.
pub struct Queue {
    writer: Mutex<Writer>,
    state: Mutex<State>,
    /// Counts the beginnings and the ends of batches: odd while one runs.
    rounds: Arc<AtomicU64>,
}

/// With whom a job shares its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// With whoever comes at the same time.
    Others,
    None,
}

/// The batch that ran at one moment, if any did.
#[derive(Clone, Debug)]
pub struct Fence {
    rounds: Arc<AtomicU64>,
    at: u64,
}

impl Fence {
    /// Whether all jobs that had begun at that moment have ended, and their notes have been done.
    pub fn has_passed(&self) -> bool {
        self.at.is_multiple_of(2) || self.rounds.load(Ordering::SeqCst) != self.at
    }
}

struct Writer {
    connection: Connection,
    deadline: Deadline,
    checkpoints: Checkpoints,
    /// Once replicas follow this file.
    feed: Option<(Feed, Arc<str>)>,
    next_mark: NextMark,
}

/// The first state for replicas that a write is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The history, as its owner calls it.
    pub history: Arc<str>,
    pub version: u64,
}

thread_local! {
    static MARKS: RefCell<Vec<Mark>> = const { RefCell::new(Vec::new()) };
}

/// Marks kept for a thread that does not take them.
const MARKS_MAX: usize = 16;

/// What this thread has written to files that replicas follow, since it was last asked.
pub fn take_marks() -> Vec<Mark> {
    MARKS.take()
}

fn keep_mark(mark: Mark) {
    MARKS.with_borrow_mut(|marks| {
        marks.retain(|other| other.history != mark.history);
        if marks.len() < MARKS_MAX {
            marks.push(mark);
        }
    });
}

struct State {
    jobs: Vec<Box<dyn Job>>,
    leading: bool,
    /// That of the next job.
    number: u64,
}

impl State {
    /// The jobs of the next transaction: all, or up to the first that wants one for itself.
    fn take_batch(&mut self) -> Vec<Box<dyn Job>> {
        let mut companies = self.jobs.iter().map(|job| job.company());
        let count = match companies.position(|company| company == Company::None) {
            Some(at) => at.max(1),
            None => self.jobs.len(),
        };
        self.jobs.drain(..count).collect()
    }
}

impl Queue {
    /// `deadline` is the one that the connection obeys.
    pub fn new(connection: Connection, deadline: Deadline) -> Queue {
        let state = State {
            jobs: Vec::new(),
            leading: false,
            number: 0,
        };
        let writer = Writer {
            connection,
            deadline,
            checkpoints: Checkpoints::default(),
            feed: None,
            next_mark: NextMark::default(),
        };
        Queue {
            writer: Mutex::new(writer),
            state: Mutex::new(state),
            rounds: Arc::default(),
        }
    }

    /// The jobs that run now.
    pub fn fence(&self) -> Fence {
        let at = self.rounds.load(Ordering::SeqCst);
        let rounds = Arc::clone(&self.rounds);
        Fence { rounds, at }
    }

    /// Says where it stands which state the next writes are in.
    pub fn share_mark(&mut self, next_mark: NextMark) {
        let writer = self.writer.get_mut();
        let writer = writer.unwrap_or_else(std::sync::PoisonError::into_inner);
        writer.next_mark = next_mark;
    }

    /// See [`super::Database::write`]; the job is refused when it has not begun after `patience`, and
    /// stopped after `limit`.
    pub fn write<T: Send + 'static>(
        &self,
        patience: Duration,
        limit: Duration,
        company: Company,
        body: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let waiter = Arc::new(Waiter::new());
        let (leads, number) = {
            let mut state = lock(&self.state);
            let number = state.number;
            state.number += 1;
            state.jobs.push(Box::new(Pending {
                number,
                body: Some(body),
                limit,
                company,
                result: None,
                waiter: Arc::clone(&waiter),
            }));
            (!std::mem::replace(&mut state.leading, true), number)
        };
        if leads || self.wait_for_turn(&waiter, number, patience)? {
            self.lead();
        }
        waiter.take_result()
    }

    /// True when this thread is to lead, false when its result is there.
    fn wait_for_turn<T>(
        &self,
        waiter: &Waiter<T>,
        number: u64,
        patience: Duration,
    ) -> Result<bool> {
        if let Some(leads) = waiter.wait(patience) {
            return Ok(leads);
        }
        // The leader takes jobs and names its successor under this lock.
        let withdrawn = {
            let mut state = lock(&self.state);
            let at = state.jobs.iter().position(|job| job.number() == number);
            at.filter(|_| !waiter.is_called())
                .map(|at| state.jobs.remove(at))
        };
        match withdrawn {
            Some(_) => Err(Error::unavailable(
                "Another write takes long; nothing was saved, try again.",
            )),
            None => Ok(waiter.wait_for_turn()),
        }
    }

    /// Calls `open` while nobody can commit, in whatever process. Returns what it does, and the pages
    /// that have changed since the last such call, if that is known. Writes from then on are marked
    /// as part of the state `version` of `history`, or a later one.
    pub fn cut<T>(
        &self,
        new_feed: impl FnOnce() -> Feed,
        history: &Arc<str>,
        version: u64,
        open: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Option<BTreeSet<u32>>)> {
        let mut writer = lock(&self.writer);
        let Writer {
            connection,
            feed,
            next_mark,
            ..
        } = &mut *writer;
        let is_known = feed.as_ref().is_some_and(|(_, known)| known == history);
        if !is_known {
            let mut new = new_feed();
            // Before the lock: what another process adds meanwhile is read twice.
            new.begin(|| log_pages(connection, "PRAGMA wal_checkpoint(NOOP)"))?;
            *feed = Some((new, Arc::clone(history)));
        }
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let opened = open();
        let changed = match (&opened, feed.as_mut()) {
            (Ok(_), Some((feed, history))) => {
                let history = Arc::clone(history);
                *lock(next_mark) = Some(Mark { history, version });
                feed.take(connection)
            }
            _ => None,
        };
        connection.execute_batch("ROLLBACK")?;
        Ok((opened?, changed))
    }

    /// Folds the log in and runs `body` on the connection, between two batches.
    pub fn maintain(&self, body: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
        let mut writer = lock(&self.writer);
        let Writer {
            connection,
            checkpoints,
            feed,
            ..
        } = &mut *writer;
        checkpoints.now(connection)?;
        let result = body(connection);
        if let Some((feed, _)) = feed {
            let pages = log_pages(connection, "PRAGMA wal_checkpoint(NOOP)")?;
            feed.capture(connection, pages);
        }
        result
    }

    pub fn into_connection(self) -> Connection {
        let writer = self.writer.into_inner();
        writer
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .connection
    }

    fn lead(&self) {
        let mut writer = lock(&self.writer);
        let mut batch = lock(&self.state).take_batch();
        self.rounds.fetch_add(1, Ordering::SeqCst);
        let notes = Batch::begin();
        let Writer {
            connection,
            deadline,
            checkpoints,
            feed,
            next_mark,
        } = &mut *writer;
        let changes = connection.total_changes();
        let outcome = run(connection, deadline, &mut batch);
        // A schema changes without being counted; then the feed knows.
        let mut has_changed = connection.total_changes() != changes;
        let followed = log_pages(connection, "PRAGMA wal_checkpoint(NOOP)").and_then(|pages| {
            match feed {
                Some((feed, _)) => has_changed = feed.capture(connection, pages),
                None => has_changed |= pages != checkpoints.seen(),
            }
            checkpoints.after_commit(connection, pages, BUSY_WAIT)
        });
        if let Err(error) = followed {
            log::warn(format_args!("checkpoint: {error}"));
        }
        notes.end(outcome.is_ok());
        self.rounds.fetch_add(1, Ordering::SeqCst);
        // What has changed nothing is in no state of its own, and nobody need wait for one.
        let mark = lock(next_mark).clone().filter(|_| has_changed);
        drop(writer);
        {
            let mut state = lock(&self.state);
            match state.jobs.first() {
                Some(next) => next.promote(),
                None => state.leading = false,
            }
        }
        for job in batch {
            job.finish(&outcome, mark.as_ref());
        }
    }
}

/// Runs a batch in one transaction. An error means that nothing of it was kept.
fn run(
    connection: &Connection,
    deadline: &Deadline,
    batch: &mut [Box<dyn Job>],
) -> Result<(), Failure> {
    execute(connection, "BEGIN IMMEDIATE")?;
    for job in batch {
        deadline.set(job.limit());
        let result = run_in_savepoint(connection, job.as_mut());
        deadline.clear();
        if let Err(failure) = result {
            // The rest of the batch is not run: its jobs fail with the transaction.
            if !connection.is_autocommit() {
                execute(connection, "ROLLBACK")?;
            }
            return Err(failure);
        }
    }
    execute(connection, "COMMIT").inspect_err(|failure| {
        failure.end_process_in_doubt();
        if !connection.is_autocommit()
            && let Err(failure) = execute(connection, "ROLLBACK")
        {
            log::error(format_args!(
                "roll back a failed commit: {}",
                failure.detail
            ));
        }
    })
}

/// An error here concerns the whole transaction; the job's own stays in the job.
fn run_in_savepoint(connection: &Connection, job: &mut dyn Job) -> Result<(), Failure> {
    execute(connection, "SAVEPOINT job")?;
    let mark = Batch::mark();
    let is_ok = job.run(connection);
    if connection.is_autocommit() {
        // SQLite gave up the whole transaction (full disk, I/O error, a change that was stopped).
        return Err(Failure::lost(job.error()));
    }
    if !is_ok {
        Batch::undo(mark);
        execute(connection, "ROLLBACK TO job")?;
    }
    execute(connection, "RELEASE job")
}

fn execute(connection: &Connection, sql: &str) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute([])?;
    Ok(())
}

/// Why a batch was not kept; each of its jobs gets an error made from this.
struct Failure {
    kind: Kind,
    message: String,
    detail: String,
    code: i32,
}

impl Failure {
    /// What made one job fail may concern all of them, such as a full disk, or it alone.
    fn lost(cause: Option<&Error>) -> Failure {
        let shared = cause.filter(|error| error.kind() == Kind::Unavailable);
        let message = shared.map_or(
            "The write could not be finished; nothing was saved, try again.",
            Error::message,
        );
        let cause = cause.map_or_else(|| "unknown".to_owned(), Error::to_string);
        Failure {
            kind: Kind::Unavailable,
            message: message.to_owned(),
            detail: format!("transaction given up by SQLite, cause: {cause}"),
            code: 0,
        }
    }

    fn to_error(&self) -> Error {
        Error::new(self.kind, self.message.clone()).context(self.detail.clone())
    }

    /// After a failed fsync nobody knows what the disk has, and after corruption nothing can be
    /// believed. Starting again from what is on disk is the simple and safe way on.
    fn end_process_in_doubt(&self) {
        let in_doubt = [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC];
        if in_doubt.contains(&self.code) || self.code & 0xff == ffi::SQLITE_CORRUPT {
            log::error(format_args!("commit in doubt, ending: {}", self.detail));
            threads::Stop::new().wait(Duration::from_millis(100));
            std::process::exit(70);
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        let code = error.sqlite_error().map_or(0, |error| error.extended_code);
        let detail = error.to_string();
        let error = Error::from(error);
        let kind = match error.kind() {
            // Whatever it is, it is no fault of the jobs in the batch.
            Kind::Unavailable | Kind::Internal => error.kind(),
            _ => Kind::Internal,
        };
        Failure {
            kind,
            message: error.message().to_owned(),
            detail,
            code,
        }
    }
}

/// A queued write, whatever its result type.
trait Job: Send {
    fn number(&self) -> u64;
    /// How long it may take.
    fn limit(&self) -> Duration;
    fn company(&self) -> Company;
    /// Runs it and keeps the result; true when it may be committed.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Why it failed by itself, once it has run.
    fn error(&self) -> Option<&Error>;
    /// Makes the waiting thread the leader.
    fn promote(&self);
    /// Hands the result to the waiting thread.
    fn finish(self: Box<Self>, outcome: &Result<(), Failure>, mark: Option<&Mark>);
}

struct Pending<T, F> {
    number: u64,
    body: Option<F>,
    limit: Duration,
    company: Company,
    result: Option<Result<T>>,
    waiter: Arc<Waiter<T>>,
}

impl<T, F> Job for Pending<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T> + Send,
{
    fn number(&self) -> u64 {
        self.number
    }

    fn limit(&self) -> Duration {
        self.limit
    }

    fn company(&self) -> Company {
        self.company
    }

    fn run(&mut self, connection: &Connection) -> bool {
        let Some(body) = self.body.take() else {
            return false;
        };
        let result = catch_unwind(AssertUnwindSafe(|| body(connection)));
        let result = result.unwrap_or_else(|_| Err(Error::internal("a write job panicked")));
        let is_ok = result.is_ok();
        self.result = Some(result);
        is_ok
    }

    fn error(&self) -> Option<&Error> {
        self.result.as_ref()?.as_ref().err()
    }

    fn promote(&self) {
        self.waiter.set(Turn::Lead);
    }

    fn finish(self: Box<Self>, outcome: &Result<(), Failure>, mark: Option<&Mark>) {
        let result = match (self.result, outcome) {
            (Some(Ok(value)), Ok(())) => Ok((value, mark.cloned())),
            // A job that failed by itself keeps its own error in a batch that was kept.
            (Some(Err(error)), Ok(())) => Err(error),
            (_, Err(failure)) => Err(failure.to_error()),
            (None, Ok(())) => Err(Error::internal("a write job was not run")),
        };
        self.waiter.set(Turn::Done(result));
    }
}

enum Turn<T> {
    Wait,
    Lead,
    Done(Result<(T, Option<Mark>)>),
    Taken,
}

/// Where a thread waits for its result, or to be made the leader.
struct Waiter<T> {
    turn: Mutex<Turn<T>>,
    changed: Condvar,
}

impl<T> Waiter<T> {
    fn new() -> Waiter<T> {
        Waiter {
            turn: Mutex::new(Turn::Wait),
            changed: Condvar::new(),
        }
    }

    fn set(&self, turn: Turn<T>) {
        *lock(&self.turn) = turn;
        self.changed.notify_one();
    }

    /// True when this thread is to lead, false when its result is there. It waits without a
    /// limit because the leader always ends: each of its jobs is bounded, panics are caught.
    fn wait_for_turn(&self) -> bool {
        let mut turn = lock(&self.turn);
        loop {
            match leads(&turn) {
                Some(leads) => return leads,
                None => turn = threads::wait(&self.changed, turn),
            }
        }
    }

    /// The same within a time; none when it is over.
    fn wait(&self, limit: Duration) -> Option<bool> {
        let deadline = Instant::now() + limit;
        let mut turn = lock(&self.turn);
        loop {
            if let Some(leads) = leads(&turn) {
                return Some(leads);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            turn = threads::wait_timeout(&self.changed, turn, left);
        }
    }

    fn is_called(&self) -> bool {
        leads(&lock(&self.turn)).is_some()
    }

    fn take_result(&self) -> Result<T> {
        match std::mem::replace(&mut *lock(&self.turn), Turn::Taken) {
            Turn::Done(Ok((value, mark))) => {
                mark.into_iter().for_each(keep_mark);
                Ok(value)
            }
            Turn::Done(Err(error)) => Err(error),
            Turn::Wait | Turn::Lead | Turn::Taken => Err(Error::internal("no result of a write")),
        }
    }
}

fn leads<T>(turn: &Turn<T>) -> Option<bool> {
    match turn {
        Turn::Wait => None,
        Turn::Lead => Some(true),
        Turn::Done(_) | Turn::Taken => Some(false),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests of a bare connection")]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn queue() -> Arc<Queue> {
        let mut connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE t (x UNIQUE)")
            .unwrap();
        let deadline = Deadline::new();
        deadline.attach(&mut connection).unwrap();
        Arc::new(Queue::new(connection, deadline))
    }

    fn insert(queue: &Queue, x: i64) -> Result<usize> {
        queue.write(LIMIT, LIMIT, Company::Others, move |c| {
            Ok(c.execute("INSERT INTO t VALUES (?1)", [x])?)
        })
    }

    fn count(queue: &Queue) -> i64 {
        queue
            .write(LIMIT, LIMIT, Company::Others, |c| {
                Ok(c.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?)
            })
            .unwrap()
    }

    #[test]
    fn writers_that_come_together_all_get_their_own_result() {
        let queue = queue();
        let writers: Vec<_> = (0..32)
            .map(|n| {
                let queue = Arc::clone(&queue);
                threads::spawn("writer", move || {
                    // Each number is written by two threads: one of them must be refused.
                    (0..50)
                        .filter(|i| insert(&queue, (n / 2) * 50 + i).is_ok())
                        .count()
                })
                .unwrap()
            })
            .collect();
        let kept: usize = writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum();
        assert_eq!(kept, 16 * 50);
        assert_eq!(count(&queue), 16 * 50);
    }

    #[test]
    fn a_panicking_or_failing_job_undoes_only_itself() {
        let queue = queue();
        let panicked: Result<()> = queue.write(LIMIT, LIMIT, Company::Others, |c| {
            c.execute("INSERT INTO t VALUES (1)", [])?;
            panic!("a bug in a job");
        });
        assert_eq!(panicked.unwrap_err().kind(), Kind::Internal);
        let failed: Result<()> = queue.write(LIMIT, LIMIT, Company::Others, |c| {
            c.execute("INSERT INTO t VALUES (2)", [])?;
            Err(Error::invalid("no"))
        });
        assert_eq!(failed.unwrap_err().message(), "no");
        assert_eq!(count(&queue), 0);
        insert(&queue, 3).unwrap();
        assert_eq!(count(&queue), 1);
    }

    #[test]
    fn notes_are_done_after_the_commit_and_only_for_what_was_kept() {
        let queue = queue();
        let (sender, done) = std::sync::mpsc::channel();
        let note = |text: &'static str| {
            let sender = sender.clone();
            move || sender.send(text).unwrap()
        };
        let fence = queue.fence();
        assert!(fence.has_passed());
        let (first, second, undone) = (note("first"), note("second"), note("undone"));
        let inner = queue.fence();
        let running = Arc::clone(&queue);
        let begun: Fence = queue
            .write(LIMIT, LIMIT, Company::Others, move |c| {
                c.execute("INSERT INTO t VALUES (1)", [])?;
                super::super::after_commit(|| panic!("a bug in a note"));
                super::super::after_commit(first);
                super::super::after_commit(second);
                let fence = running.fence();
                assert!(!fence.has_passed());
                Ok(fence)
            })
            .unwrap();
        assert!(begun.has_passed() && inner.has_passed());
        let failed: Result<()> = queue.write(LIMIT, LIMIT, Company::Others, move |_| {
            super::super::after_commit(undone);
            Err(Error::invalid("no"))
        });
        assert!(failed.is_err());
        drop(sender);
        assert_eq!(done.iter().collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn a_job_that_does_not_get_its_turn_is_refused_and_never_run() {
        let queue = queue();
        let (begin, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let running = Arc::clone(&queue);
        let long = threads::spawn("long", move || {
            running.write(LIMIT, LIMIT, Company::None, move |_| {
                begin.send(()).unwrap();
                let _ = ended.recv_timeout(Duration::from_secs(60));
                Ok(())
            })
        });
        begun.recv().unwrap();
        let next = Arc::clone(&queue);
        let next = threads::spawn("next", move || insert(&next, 2)).unwrap();
        let refused: Result<usize> =
            queue.write(Duration::from_millis(20), LIMIT, Company::Others, |c| {
                Ok(c.execute("INSERT INTO t VALUES (1)", [])?)
            });
        assert_eq!(refused.unwrap_err().kind(), Kind::Unavailable);
        end.send(()).unwrap();
        long.unwrap().join().unwrap().unwrap();
        next.join().unwrap().unwrap();
        assert_eq!(count(&queue), 1, "the one that could wait");
    }

    #[test]
    fn a_job_that_takes_too_long_is_stopped_and_the_next_one_works() {
        let queue = queue();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                       SELECT count(*) FROM n";
        let stopped: Result<i64> = queue.write(
            LIMIT,
            Duration::from_millis(50),
            Company::Others,
            move |c| {
                c.execute("INSERT INTO t VALUES (1)", [])?;
                Ok(c.query_row(endless, [], |row| row.get(0))?)
            },
        );
        assert!(stopped.is_err());
        assert_eq!(count(&queue), 0);
        insert(&queue, 1).unwrap();
    }

    #[test]
    fn when_the_disk_is_full_every_job_fails_and_the_next_one_works() {
        let queue = queue();
        let fill: Result<()> = queue.write(LIMIT, LIMIT, Company::Others, |c| {
            c.execute_batch("PRAGMA max_page_count = 10")?;
            c.execute("INSERT INTO t VALUES (zeroblob(1000000))", [])?;
            Ok(())
        });
        assert_eq!(fill.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(count(&queue), 0);
        insert(&queue, 1).unwrap();
    }
}

//! Group commit: writes that arrive together share one transaction and one fsync.
//!
//! The thread of the first job leads: it takes all queued jobs, runs each in its own savepoint,
//! commits once, and hands out the results. Jobs that arrive meanwhile wait for the next batch. The
//! next leader, the thread of its first job, is chosen before the current batch hands out its
//! results, so the disk is never idle while there is work.
//!
//! Invariants:
//! - At most one thread leads (`State::has_leader`), and only the leader runs jobs.
//! - A result is handed out only after the commit that it depends on has succeeded; if the commit
//!   fails, every job of the batch fails, whatever it had returned.
//! - An exclusive job is the only one of its batch.
//! - The queue holds at most one job per waiting thread, so the request pool bounds it.
//! - A thread withdraws its job if it has not begun in time. Without this, one long job would block
//!   all threads of the pool, and the server would answer no request.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::checkpoint::{Checkpoints, wal_pages};
use super::commit_hooks::CommitHooks;
use super::commit_position::{CommitPosition, NextPosition};
use super::connection::BUSY_WAIT;
use super::deadline::Deadline;
use super::wal_tracker::WalTracker;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::threads::lock;
use job::{BatchFailure, QueuedJob, Waiter, WriteJob};

pub use job::Batching;

mod job;

/// The writer connection and the jobs that wait for it.
pub struct WriteQueue {
    writer: Mutex<Writer>,
    state: Mutex<State>,
    /// Counts the starts and the ends of batches: odd while one runs.
    batch_count: Arc<AtomicU64>,
}

/// Passes when the batch that ran at one moment, if any, has ended.
#[derive(Clone, Debug)]
pub struct CommitBarrier {
    batch_count: Arc<AtomicU64>,
    at: u64,
}

impl CommitBarrier {
    /// True if all jobs that had begun at that moment have ended, and their commit hooks have run.
    pub fn has_passed(&self) -> bool {
        self.at.is_multiple_of(2) || self.batch_count.load(Ordering::SeqCst) != self.at
    }
}

struct Writer {
    connection: Connection,
    deadline: Deadline,
    checkpoints: Checkpoints,
    /// The tracker and its history, once replicas follow this file.
    tracker: Option<(WalTracker, Arc<str>)>,
    next_position: NextPosition,
    /// Pages of the WAL after a commit that added some; 0 once that is taken.
    added: Arc<AtomicI64>,
}

struct State {
    jobs: Vec<Box<dyn WriteJob>>,
    has_leader: bool,
    next_number: u64,
}

impl State {
    /// The jobs of the next transaction: all up to the first exclusive one, or that one alone.
    fn take_batch(&mut self) -> Vec<Box<dyn WriteJob>> {
        let mut jobs = self.jobs.iter();
        let count = match jobs.position(|job| job.batching() == Batching::Exclusive) {
            Some(at) => at.max(1),
            None => self.jobs.len(),
        };
        self.jobs.drain(..count).collect()
    }
}

impl WriteQueue {
    /// `deadline` is the one that the connection obeys.
    pub fn new(mut connection: Connection, deadline: Deadline) -> Result<WriteQueue> {
        let added = Arc::new(AtomicI64::new(0));
        let seen = Arc::clone(&added);
        // SQLite calls this after each commit that has added frames to the WAL.
        connection.wal_hook(Some(move |_: &mut Wal, pages| {
            seen.store(i64::from(pages), Ordering::Relaxed);
            Ok(())
        }))?;
        let state = State {
            jobs: Vec::new(),
            has_leader: false,
            next_number: 0,
        };
        let writer = Writer {
            connection,
            deadline,
            checkpoints: Checkpoints::default(),
            tracker: None,
            next_position: NextPosition::default(),
            added,
        };
        Ok(WriteQueue {
            writer: Mutex::new(writer),
            state: Mutex::new(state),
            batch_count: Arc::default(),
        })
    }

    /// A barrier that passes when the jobs that run now have ended.
    pub fn commit_barrier(&self) -> CommitBarrier {
        let at = self.batch_count.load(Ordering::SeqCst);
        let batch_count = Arc::clone(&self.batch_count);
        CommitBarrier { batch_count, at }
    }

    /// Shares the position of the next commits with [`super::ChangedDatabases`].
    pub fn set_next_position(&mut self, next_position: NextPosition) {
        let writer = self.writer.get_mut();
        let writer = writer.unwrap_or_else(PoisonError::into_inner);
        writer.next_position = next_position;
    }

    /// See [`super::Database::write`]. The job fails if it has not begun after `timeout`, and is
    /// interrupted after running for `limit`.
    pub fn write<T: Send + 'static>(
        &self,
        timeout: Duration,
        limit: Duration,
        batching: Batching,
        body: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let waiter = Arc::new(Waiter::new());
        let (leads, number) = {
            let mut state = lock(&self.state);
            let number = state.next_number;
            state.next_number += 1;
            let job = QueuedJob::new(number, body, limit, batching, &waiter);
            state.jobs.push(Box::new(job));
            (!std::mem::replace(&mut state.has_leader, true), number)
        };
        if leads || self.wait_for_turn(&waiter, number, timeout)? {
            self.lead();
        }
        waiter.take_result()
    }

    /// True if this thread becomes the leader, false if its result is available.
    fn wait_for_turn<T>(&self, waiter: &Waiter<T>, number: u64, timeout: Duration) -> Result<bool> {
        if let Some(leads) = waiter.wait_timeout(timeout) {
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
                "Timed out waiting for another write; nothing was saved, try again.",
            )),
            None => Ok(waiter.wait()),
        }
    }

    /// Calls `open` while no process can commit. Returns its result, and the pages that changed
    /// since the last such call, if that is known. The position of later commits is `version` of
    /// `history`, until the next call.
    pub fn begin_snapshot<T>(
        &self,
        new_tracker: impl FnOnce() -> WalTracker,
        history: &Arc<str>,
        version: u64,
        open: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Option<BTreeSet<u32>>)> {
        let mut writer = lock(&self.writer);
        let Writer {
            connection,
            tracker,
            next_position,
            ..
        } = &mut *writer;
        let is_known = tracker.as_ref().is_some_and(|(_, known)| known == history);
        if !is_known {
            let mut new = new_tracker();
            // Before the lock: frames that another process adds meanwhile are read twice.
            new.begin(|| wal_pages(connection, "PRAGMA wal_checkpoint(NOOP)"))?;
            *tracker = Some((new, Arc::clone(history)));
        }
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let opened = open();
        let changed = match (&opened, tracker.as_mut()) {
            (Ok(_), Some((tracker, history))) => {
                let history = Arc::clone(history);
                *lock(next_position) = Some(CommitPosition { history, version });
                tracker.take_changed(connection)
            }
            _ => None,
        };
        connection.execute_batch("ROLLBACK")?;
        Ok((opened?, changed))
    }

    /// Runs a checkpoint and `body` on the connection, between two batches.
    pub fn maintain(&self, body: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
        let mut writer = lock(&self.writer);
        let Writer {
            connection,
            checkpoints,
            tracker,
            added,
            ..
        } = &mut *writer;
        checkpoints.now(connection, BUSY_WAIT)?;
        let result = body(connection);
        let pages = added.swap(0, Ordering::Relaxed);
        if pages > 0 {
            if let Some((tracker, _)) = tracker {
                tracker.capture(pages);
            }
            checkpoints.after_commit(connection, pages, BUSY_WAIT)?;
        }
        result
    }

    pub fn into_connection(self) -> Connection {
        let writer = self.writer.into_inner();
        writer.unwrap_or_else(PoisonError::into_inner).connection
    }

    fn lead(&self) {
        let mut writer = lock(&self.writer);
        let mut batch = lock(&self.state).take_batch();
        self.batch_count.fetch_add(1, Ordering::SeqCst);
        let hooks = CommitHooks::begin();
        let Writer {
            connection,
            deadline,
            checkpoints,
            tracker,
            next_position,
            added,
        } = &mut *writer;
        let outcome = run(connection, deadline, &mut batch);
        let pages = added.swap(0, Ordering::Relaxed);
        let has_changed = pages > 0;
        if has_changed {
            if let Some((tracker, _)) = tracker {
                tracker.capture(pages);
            }
            if let Err(error) = checkpoints.after_commit(connection, pages, BUSY_WAIT) {
                log::warn(format_args!("checkpoint: {error}"));
            }
        }
        hooks.end(outcome.is_ok());
        self.batch_count.fetch_add(1, Ordering::SeqCst);
        // A batch without a change has no position, and no read waits for it.
        let position = lock(next_position).clone().filter(|_| has_changed);
        drop(writer);
        {
            let mut state = lock(&self.state);
            match state.jobs.first() {
                Some(next) => next.promote(),
                None => state.has_leader = false,
            }
        }
        for job in batch {
            job.finish(&outcome, position.as_ref());
        }
    }
}

/// Runs a batch in one transaction. After an error, no part of it is committed.
fn run(
    connection: &Connection,
    deadline: &Deadline,
    batch: &mut [Box<dyn WriteJob>],
) -> Result<(), BatchFailure> {
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
        failure.exit_if_in_doubt();
        if !connection.is_autocommit()
            && let Err(failure) = execute(connection, "ROLLBACK")
        {
            log::error(format_args!(
                "roll back a failed commit: {}",
                failure.detail()
            ));
        }
    })
}

/// Fails if the whole transaction has failed; the job keeps an error of its own.
fn run_in_savepoint(connection: &Connection, job: &mut dyn WriteJob) -> Result<(), BatchFailure> {
    execute(connection, "SAVEPOINT job")?;
    let hooks = CommitHooks::len();
    let is_ok = job.run(connection);
    if connection.is_autocommit() {
        // SQLite has rolled back the whole transaction (full disk, I/O error, an interrupted
        // change).
        return Err(BatchFailure::rolled_back(job.error()));
    }
    if !is_ok {
        CommitHooks::truncate(hooks);
        execute(connection, "ROLLBACK TO job")?;
    }
    execute(connection, "RELEASE job")
}

fn execute(connection: &Connection, sql: &str) -> Result<(), BatchFailure> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests;

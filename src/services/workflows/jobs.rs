//! Jobs: the state of runs that have not ended.
//!
//! Invariants, kept by these statements and by the indexes: a run has a job exactly while it has
//! not ended; a hand-out increments the epoch in the same commit that makes the job leased; of the
//! runs with one concurrency key at most one is neither blocked nor delayed (`holds_key`).

use rusqlite::{OptionalExtension as _, Row, params};

use crate::base::error::Result;
use crate::services::workflows::codes::{EventKind, JobState};
use crate::services::workflows::limits;
use crate::services::workflows::sql::sql;
use crate::services::workflows::tx::{Job, NewEvent, Tx};

pub struct NewJob<'a> {
    pub run: i64,
    pub workflow: &'a str,
    pub version: &'a str,
    pub priority: i64,
    pub concurrency_key: Option<&'a str>,
    /// The earliest time.
    pub due: Option<i64>,
}

/// A job that can be dispatched.
#[derive(Clone, Debug)]
pub struct ReadyJob {
    pub run: i64,
    pub version: String,
    pub priority: i64,
    pub since: i64,
    /// The worker that held it last.
    pub worker: String,
    /// The deadline of its run.
    pub expires: Option<i64>,
}

impl Tx<'_> {
    /// Creates the job of a new run.
    pub fn add_job(&mut self, job: &NewJob<'_>) -> Result<()> {
        let sql =
            "INSERT INTO jobs (run, workflow, version, state, priority, due, epoch, lost, retries,
                                     concurrency_key, holds_key, worker)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 0, ?7, 0, '')";
        self.db.prepare_cached(sql)?.execute(params![
            job.run,
            job.workflow,
            job.version,
            JobState::Delayed,
            job.priority,
            job.due,
            job.concurrency_key
        ])?;
        if job.due.is_some_and(|due| due > self.now) {
            return Ok(());
        }
        self.make_ready(job.run)
    }

    /// Makes a job ready that no worker holds, or blocks it while another run holds its concurrency
    /// key.
    pub fn make_ready(&mut self, run: i64) -> Result<()> {
        let sql = "SELECT workflow, concurrency_key, holds_key FROM jobs WHERE run = ?1";
        let found = self
            .db
            .prepare_cached(sql)?
            .query_row([run], key_of)
            .optional()?;
        let Some((workflow, key, holds_key)) = found else {
            return Ok(());
        };
        let is_free = match (&key, holds_key) {
            (Some(key), false) => !self.is_key_held(&workflow, key)?,
            _ => true,
        };
        let state = match is_free {
            true => JobState::Ready,
            false => JobState::Blocked,
        };
        let sql = sql!(
            "UPDATE jobs SET state = ?2, due = ?3, note = NULL,
                    holds_key = (concurrency_key IS NOT NULL AND ?2 = {JobState::Ready})
             WHERE run = ?1"
        );
        self.db
            .prepare_cached(sql)?
            .execute(params![run, state, self.now])?;
        if is_free {
            self.effects.ready.insert(workflow);
        }
        Ok(())
    }

    /// True if a run of the workflow holds the concurrency key.
    pub fn is_key_held(&self, workflow: &str, key: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM jobs
                   WHERE workflow = ?1 AND concurrency_key = ?2 AND holds_key = 1)";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([workflow, key], |row| row.get(0))?)
    }

    /// Parks a job until `due`, or until an event wakes it.
    pub fn park_job(&mut self, run: i64, due: Option<i64>) -> Result<()> {
        let sql = "UPDATE jobs SET state = ?2, due = ?3 WHERE run = ?1";
        self.db
            .prepare_cached(sql)?
            .execute(params![run, JobState::Parked, due])?;
        self.effects.released.push(run);
        Ok(())
    }

    /// Pauses a job until it is resumed by a request.
    pub fn pause_job(&mut self, run: i64, note: &str) -> Result<()> {
        let sql = "UPDATE jobs SET state = ?2, due = NULL, note = ?3 WHERE run = ?1";
        self.db
            .prepare_cached(sql)?
            .execute(params![run, JobState::Paused, note])?;
        self.effects.released.push(run);
        Ok(())
    }

    /// Releases a leased job, ready at `due`. `lost` is the number of workers lost in a row.
    pub fn release_job(&mut self, run: i64, due: i64, lost: i64) -> Result<()> {
        let sql = "UPDATE jobs SET state = ?2, due = ?3, lost = ?4 WHERE run = ?1";
        self.db
            .prepare_cached(sql)?
            .execute(params![run, JobState::Delayed, due, lost])?;
        if due <= self.now {
            self.make_ready(run)?;
        }
        self.effects.released.push(run);
        Ok(())
    }

    /// Schedules another attempt of the whole run; `error` is the reason as JSON.
    pub fn retry_job(&mut self, run: i64, job: Job, due: i64, error: &str) -> Result<()> {
        limits::check_payload("An error", error)?;
        let event = NewEvent::new(EventKind::RunRetrying, "").data(error);
        self.append(run, event.info(due).attempt(job.retries + 1))?;
        let sql = "UPDATE jobs SET retries = retries + 1 WHERE run = ?1";
        self.db.prepare_cached(sql)?.execute([run])?;
        self.release_job(run, due, job.lost)
    }

    /// Resets the count of lost workers after the run made progress.
    pub fn reset_lost_count(&self, run: i64) -> Result<()> {
        let sql = "UPDATE jobs SET lost = 0 WHERE run = ?1";
        self.db.prepare_cached(sql)?.execute([run])?;
        Ok(())
    }

    /// Leases a ready job to a worker; returns the new epoch.
    pub fn lease_job(&self, run: i64, version: &str, worker: &str) -> Result<i64> {
        let sql =
            "UPDATE jobs SET state = ?2, epoch = epoch + 1, version = ?3, worker = ?4, due = NULL
                   WHERE run = ?1 AND state = ?5 RETURNING epoch";
        let mut statement = self.db.prepare_cached(sql)?;
        let values = params![run, JobState::Leased, version, worker, JobState::Ready];
        Ok(statement.query_row(values, |row| row.get(0))?)
    }

    /// Deletes the job of a run that ended, and releases its concurrency key.
    pub fn remove_job(&mut self, run: i64) -> Result<()> {
        let sql = "DELETE FROM jobs WHERE run = ?1 RETURNING workflow, concurrency_key, holds_key";
        let removed = self
            .db
            .prepare_cached(sql)?
            .query_row([run], key_of)
            .optional()?;
        match removed {
            Some((workflow, Some(key), true)) => self.release_key(&workflow, &key),
            _ => Ok(()),
        }
    }

    /// Makes the next run ready that waits for a concurrency key; no run may hold the key.
    pub fn release_key(&mut self, workflow: &str, key: &str) -> Result<()> {
        let sql = sql!(
            "SELECT run FROM jobs
             WHERE workflow = ?1 AND concurrency_key = ?2 AND state = {JobState::Blocked}
             ORDER BY priority DESC, run LIMIT 1"
        );
        let next: Option<i64> = self
            .db
            .prepare_cached(sql)?
            .query_row([workflow, key], |row| row.get(0))
            .optional()?;
        match next {
            Some(next) => self.make_ready(next),
            None => Ok(()),
        }
    }

    /// The first ready jobs of a workflow bound to this version, or with an empty string those that
    /// are bound to none.
    pub fn ready_jobs(&self, workflow: &str, version: &str, max: usize) -> Result<Vec<ReadyJob>> {
        let sql = sql!(
            "SELECT run, version, priority, due, worker,
                    (SELECT expires FROM runs WHERE runs.id = jobs.run) FROM jobs
             WHERE workflow = ?1 AND version = ?2 AND state = {JobState::Ready}
             ORDER BY priority DESC, due, run LIMIT ?3"
        );
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map(params![workflow, version, max], |row| {
            Ok(ReadyJob {
                run: row.get(0)?,
                version: row.get(1)?,
                priority: row.get(2)?,
                since: row.get(3)?,
                worker: row.get(4)?,
                expires: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The time at which the next parked or delayed job is due.
    pub fn next_due(&self) -> Result<Option<i64>> {
        let sql = sql!(
            "SELECT min(due) FROM jobs WHERE state IN ({JobState::TIMED}) AND due IS NOT NULL"
        );
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }
}

/// The workflow, the concurrency key, and whether the job holds the key.
fn key_of(row: &Row<'_>) -> rusqlite::Result<(String, Option<String>, bool)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

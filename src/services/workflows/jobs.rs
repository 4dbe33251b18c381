//! Jobs: what a run that has not ended waits for.
//!
//! Invariants, kept by the statements here and by the indexes: a run has a job exactly while it has
//! not ended; a hand-out makes the epoch grow in the commit that makes the job leased; of the runs of
//! a concurrency key at most one is neither blocked nor still to come (`holds_key`).

use rusqlite::{OptionalExtension as _, Row, params};

use crate::base::error::Result;
use crate::services::workflows::codes::{EventKind, JobState};
use crate::services::workflows::limits;
use crate::services::workflows::sql::sql;
use crate::services::workflows::tx::{Job, NewEvent, Tx};

/// What a new job is like.
pub struct NewJob<'a> {
    pub run: i64,
    pub workflow: &'a str,
    pub version: &'a str,
    pub priority: i64,
    pub concurrency_key: Option<&'a str>,
    /// Not before.
    pub due: Option<i64>,
}

/// A job that can be handed out.
#[derive(Clone, Debug)]
pub struct ReadyJob {
    pub run: i64,
    pub version: String,
    pub priority: i64,
    pub since: i64,
    /// Who had it last.
    pub worker: String,
    /// The deadline of its run.
    pub expires: Option<i64>,
}

impl Tx<'_> {
    /// Makes the job of a new run.
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

    /// A job that is not with a worker can be handed out, as soon as its concurrency key is free.
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

    /// Whether a run of the workflow holds the concurrency key.
    pub fn is_key_held(&self, workflow: &str, key: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM jobs
                   WHERE workflow = ?1 AND concurrency_key = ?2 AND holds_key = 1)";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([workflow, key], |row| row.get(0))?)
    }

    /// The job waits; until then, or for something to happen.
    pub fn park_job(&mut self, run: i64, due: Option<i64>) -> Result<()> {
        let sql = "UPDATE jobs SET state = ?2, due = ?3 WHERE run = ?1";
        self.db
            .prepare_cached(sql)?
            .execute(params![run, JobState::Parked, due])?;
        self.effects.released.push(run);
        Ok(())
    }

    /// The job waits for somebody to resume it.
    pub fn pause_job(&mut self, run: i64, note: &str) -> Result<()> {
        let sql = "UPDATE jobs SET state = ?2, due = NULL, note = ?3 WHERE run = ?1";
        self.db
            .prepare_cached(sql)?
            .execute(params![run, JobState::Paused, note])?;
        self.effects.released.push(run);
        Ok(())
    }

    /// Puts a job that was leased back, ready at a time. `lost` is how many workers it has lost in a
    /// row by now.
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

    /// The whole is tried again at a time; `error` is why, as JSON.
    pub fn retry_job(&mut self, run: i64, job: Job, due: i64, error: &str) -> Result<()> {
        limits::check_payload("An error", error)?;
        let event = NewEvent::new(EventKind::RunRetrying, "").data(error);
        self.append(run, event.info(due).attempt(job.retries + 1))?;
        let sql = "UPDATE jobs SET retries = retries + 1 WHERE run = ?1";
        self.db.prepare_cached(sql)?.execute([run])?;
        self.release_job(run, due, job.lost)
    }

    /// Something was achieved, so workers lost before are not held against the run.
    pub fn reset_lost_count(&self, run: i64) -> Result<()> {
        let sql = "UPDATE jobs SET lost = 0 WHERE run = ?1";
        self.db.prepare_cached(sql)?.execute([run])?;
        Ok(())
    }

    /// Gives a job that is ready to a worker; returns the epoch.
    pub fn lease_job(&self, run: i64, version: &str, worker: &str) -> Result<i64> {
        let sql =
            "UPDATE jobs SET state = ?2, epoch = epoch + 1, version = ?3, worker = ?4, due = NULL
                   WHERE run = ?1 AND state = ?5 RETURNING epoch";
        let mut statement = self.db.prepare_cached(sql)?;
        let values = params![run, JobState::Leased, version, worker, JobState::Ready];
        Ok(statement.query_row(values, |row| row.get(0))?)
    }

    /// Takes the job of a run that has ended away, and lets the next one of its concurrency key go.
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

    /// Lets the next run go that waits for a concurrency key, which nobody holds.
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

    /// The first jobs of a workflow that can go to this version of its code, or, with an empty one,
    /// to any.
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

    /// When the next parked job is due.
    pub fn next_due(&self) -> Result<Option<i64>> {
        let sql = sql!(
            "SELECT min(due) FROM jobs WHERE state IN ({JobState::TIMED}) AND due IS NOT NULL"
        );
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }
}

/// Workflow, concurrency key, and whether the job holds it.
fn key_of(row: &Row<'_>) -> rusqlite::Result<(String, Option<String>, bool)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

//! Steps: attempts and their results. The first recorded result of a key is final.

use std::time::Duration;

use rusqlite::{OptionalExtension as _, params};
use serde_json::Value;

use crate::base::backoff::Backoff;
use crate::base::error::{Error, Kind, Result};
use crate::services::stats::RunEvent;
use crate::services::workflows::codes::{EventKind, RunStatus, StepStatus};
use crate::services::workflows::limits;
use crate::services::workflows::runs::{CreatedRun, NewRun};
use crate::services::workflows::sql::sql;
use crate::services::workflows::tx::{Lease, NewEvent, Run, Tx, check_lease, lost_lease};

/// The pause after the first failure of a step; it doubles with each failure.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(3600));

/// The result of an attempt.
#[derive(Clone, Copy, Debug)]
pub enum StepOutcome<'a> {
    /// JSON.
    Ok(&'a str),
    Err(StepFailure<'a>),
}

#[derive(Clone, Copy, Debug)]
pub struct StepFailure<'a> {
    /// JSON, as the worker sent it.
    pub error: &'a str,
    pub is_fatal: bool,
    pub retry_after_ms: Option<i64>,
    /// The number of the failed attempt, from 1, if the worker sent it.
    pub attempt: Option<i64>,
    /// The number of failures after which the step is tried again.
    pub retries: i64,
}

/// The state of a step after a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepResolution {
    Completed,
    /// It failed for good.
    Failed,
    /// It can be tried again at `at`, as number `attempt`.
    Retry {
        at: i64,
        attempt: i64,
    },
}

/// A row of the table of steps.
pub struct Step {
    pub status: StepStatus,
    pub attempt: i64,
    pub retry: Option<i64>,
    result: Option<i64>,
    pub child: Option<i64>,
}

impl Tx<'_> {
    pub fn step(&self, run: i64, key: &str) -> Result<Option<Step>> {
        let sql =
            "SELECT status, attempt, retry, result, child FROM steps WHERE run = ?1 AND key = ?2";
        let mut statement = self.db.prepare_cached(sql)?;
        let step = statement.query_row(params![run, key], |row| {
            Ok(Step {
                status: row.get(0)?,
                attempt: row.get(1)?,
                retry: row.get(2)?,
                result: row.get(3)?,
                child: row.get(4)?,
            })
        });
        Ok(step.optional()?)
    }

    /// Records the report of a worker. A repeated report gets the same answer as before, even from
    /// a worker that no longer holds the run.
    pub fn report_step(
        &mut self,
        lease: &Lease,
        key: &str,
        name: &str,
        started: Option<i64>,
        outcome: StepOutcome<'_>,
    ) -> Result<StepResolution> {
        limits::check_key("key", key)?;
        limits::check_key("name", name)?;
        let run = self.run(&lease.run)?.ok_or_else(lost_lease)?;
        let step = self.step(run.id, key)?;
        if step.as_ref().is_some_and(|step| step.child.is_some()) {
            return Err(key_conflict());
        }
        if let Some(step) = &step
            && let Some(same) = self.recorded_reply(&run, step, outcome)?
        {
            return Ok(same);
        }
        check_lease(&run, lease.epoch)?;
        if let Some(step) = &step
            && let Some(said) = repeated_reply(step, outcome)?
        {
            return Ok(said);
        }
        if run.job.is_some_and(|job| job.lost > 0) {
            self.reset_lost_count(run.id)?;
        }
        self.record(&run, step.as_ref(), key, name, started, outcome)
    }

    /// The answer to a report that is already recorded in the same form.
    fn recorded_reply(
        &self,
        run: &Run,
        step: &Step,
        outcome: StepOutcome<'_>,
    ) -> Result<Option<StepResolution>> {
        let stored = self.step_result(run.id, step)?;
        Ok(match (step.status, outcome) {
            (StepStatus::Completed, StepOutcome::Ok(value)) if stored == value => {
                Some(StepResolution::Completed)
            }
            (StepStatus::Failed, StepOutcome::Err(failure)) if stored == failure.error => {
                Some(StepResolution::Failed)
            }
            (StepStatus::Pending, StepOutcome::Err(failure))
                if failure.attempt == Some(step.attempt) && stored == failure.error =>
            {
                next_attempt(step)
            }
            _ => None,
        })
    }

    fn record(
        &mut self,
        run: &Run,
        step: Option<&Step>,
        key: &str,
        name: &str,
        started: Option<i64>,
        outcome: StepOutcome<'_>,
    ) -> Result<StepResolution> {
        let before = step.map_or(0, |step| step.attempt);
        let was_begun = step.is_some_and(|step| step.status == StepStatus::Running);
        let attempt = match was_begun {
            true => before,
            false => before + 1,
        };
        let event = match outcome {
            StepOutcome::Ok(value) => {
                limits::check_payload("A result", value)?;
                NewEvent::new(EventKind::StepCompleted, key).data(value)
            }
            StepOutcome::Err(failure) => {
                limits::check_payload("An error", failure.error)?;
                let is_last = failure.is_fatal || attempt > failure.retries;
                match is_last {
                    true => NewEvent::new(EventKind::StepFailed, key).data(failure.error),
                    false => {
                        let at = self.now + self.backoff(attempt, failure.retry_after_ms);
                        NewEvent::new(EventKind::StepRetrying, key)
                            .data(failure.error)
                            .info(at)
                    }
                }
            }
        };
        let retry = event.info;
        let seq = self.append(run.id, event.attempt(attempt))?;
        let (status, counted, reported) = match (event.kind, retry) {
            (EventKind::StepCompleted, _) => (
                StepStatus::Completed,
                RunEvent::Step,
                StepResolution::Completed,
            ),
            (_, Some(at)) => {
                let attempt = attempt + 1;
                let reported = StepResolution::Retry { at, attempt };
                (StepStatus::Pending, RunEvent::StepRetried, reported)
            }
            _ => (
                StepStatus::Failed,
                RunEvent::StepFailed,
                StepResolution::Failed,
            ),
        };
        let ended = status.is_terminal().then_some(self.now);
        let sql = "INSERT INTO steps (run, key, name, status, attempt, started, ended, retry, result)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                   ON CONFLICT DO UPDATE SET status = ?4, attempt = ?5, started = coalesce(started, ?6),
                                             ended = ?7, retry = ?8, result = ?9";
        let started = started.unwrap_or(self.now).clamp(0, self.now);
        self.db.prepare_cached(sql)?.execute(params![
            run.id, key, name, status, attempt, started, ended, retry, seq
        ])?;
        self.count(&run.workflow, counted);
        Ok(reported)
    }

    /// The JSON of the output of a step, or of its latest error.
    pub fn step_result(&self, run: i64, step: &Step) -> Result<String> {
        match step.result {
            Some(seq) => Ok(self.event_data(run, seq)?.unwrap_or_default()),
            None => Ok(String::new()),
        }
    }

    /// Creates a step, before its first attempt, as an event of its own.
    pub fn create_step(&mut self, run: &Run, key: &str, input: &str) -> Result<()> {
        if self.step(run.id, key)?.is_some() {
            return Err(Error::conflict(format!(
                "The run already has the step {key}."
            )));
        }
        self.append(
            run.id,
            NewEvent::new(EventKind::StepCreated, key).data(input),
        )?;
        let sql = sql!(
            "INSERT INTO steps (run, key, name, status, attempt)
             VALUES (?1, ?2, ?3, {StepStatus::Pending}, 0)"
        );
        self.db
            .prepare_cached(sql)?
            .execute(params![run.id, key, name_of(key)])?;
        Ok(())
    }

    /// Records the result of an attempt as an event of its own.
    pub fn write_result(
        &mut self,
        run: &Run,
        step: &Step,
        kind: EventKind,
        key: &str,
        data: &str,
    ) -> Result<()> {
        if step.child.is_some() {
            return Err(Error::conflict(
                "The step is a child run, which reports its own result.",
            ));
        }
        let failure = StepFailure {
            error: data,
            is_fatal: kind == EventKind::StepFailed,
            retry_after_ms: None,
            attempt: None,
            retries: i64::MAX,
        };
        let outcome = match kind {
            EventKind::StepCompleted => StepOutcome::Ok(data),
            _ => StepOutcome::Err(failure),
        };
        self.record(run, Some(step), key, name_of(key), None, outcome)?;
        Ok(())
    }

    /// Begins an attempt; returns its number. A claimed number makes the call idempotent.
    pub fn begin_step(
        &mut self,
        run: &Run,
        key: &str,
        name: &str,
        claimed: Option<i64>,
    ) -> Result<i64> {
        limits::check_key("key", key)?;
        limits::check_key("name", name)?;
        let step = self.step(run.id, key)?;
        if let Some(step) = &step {
            if step.status.is_terminal() || step.child.is_some() {
                return Err(Error::conflict("The step already has a result."));
            }
            if step.status == StepStatus::Running && claimed == Some(step.attempt) {
                return Ok(step.attempt);
            }
            check_due(step.retry, self.now)?;
        }
        let attempt = step.map_or(0, |step| step.attempt) + 1;
        self.append(
            run.id,
            NewEvent::new(EventKind::StepStarted, key).attempt(attempt),
        )?;
        let sql = sql!(
            "INSERT INTO steps (run, key, name, status, attempt, started)
             VALUES (?1, ?2, ?3, {StepStatus::Running}, ?4, ?5)
             ON CONFLICT DO UPDATE SET status = {StepStatus::Running}, attempt = ?4,
                                       started = coalesce(started, ?5), retry = NULL"
        );
        self.db
            .prepare_cached(sql)?
            .execute(params![run.id, key, name, attempt, self.now])?;
        Ok(attempt)
    }

    /// Starts a child run, or a detached run that has no parent. The same key returns the same run.
    pub fn start_child(
        &mut self,
        run: &Run,
        key: &str,
        new: &NewRun,
        is_detached: bool,
    ) -> Result<(String, RunStatus)> {
        limits::check_key("key", key)?;
        if let Some(step) = self.step(run.id, key)? {
            return self.existing_child(run, key, &step);
        }
        let parent = (!is_detached).then_some((run, key));
        if parent.is_some() && new.idempotency_key.is_some() {
            // An existing run with the idempotency key has another parent, or none.
            return Err(Error::invalid(
                "Only a detached run accepts an idempotencyKey; a child is identified by the key of the call.",
            ));
        }
        let made = self.create_run(new, parent)?;
        self.record_child(run, key, &made, is_detached)?;
        let made = match parent {
            Some(_) => self.expire_new(made, new.expires_at)?,
            None => made,
        };
        Ok((made.run, made.status))
    }

    /// The child of a step. A child that ended long ago may already be deleted.
    fn existing_child(&self, run: &Run, key: &str, step: &Step) -> Result<(String, RunStatus)> {
        let child = step.child.ok_or_else(key_conflict)?;
        if let Some(child) = self.run_by_id(child)? {
            return Ok((child.run, child.status));
        }
        let sql = sql!(
            "SELECT data ->> '$' FROM events
             WHERE run = ?1 AND key = ?2 AND kind IN ({EventKind::StepCreated}, {EventKind::StepCompleted})
             ORDER BY seq LIMIT 1"
        );
        let child = self
            .db
            .prepare_cached(sql)?
            .query_row(params![run.id, key], |row| row.get(0))?;
        Ok((child, RunStatus::Completed))
    }

    fn record_child(
        &mut self,
        run: &Run,
        key: &str,
        made: &CreatedRun,
        is_detached: bool,
    ) -> Result<()> {
        let data = Value::from(made.run.clone()).to_string();
        let event = match is_detached {
            true => NewEvent::new(EventKind::StepCompleted, key).data(&data),
            false => NewEvent::new(EventKind::StepCreated, key)
                .data(&data)
                .info(made.id),
        };
        let seq = self.append(run.id, event)?;
        let (status, ended) = match is_detached {
            true => (StepStatus::Completed, Some(self.now)),
            false => (StepStatus::Running, None),
        };
        let sql =
            "INSERT INTO steps (run, key, name, status, attempt, started, ended, result, child)
                   VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7, ?8)";
        self.db.prepare_cached(sql)?.execute(params![
            run.id,
            key,
            name_of(key),
            status,
            self.now,
            ended,
            ended.map(|_| seq),
            made.id
        ])?;
        Ok(())
    }

    /// Milliseconds until the next attempt.
    fn backoff(&mut self, attempt: i64, wanted_ms: Option<i64>) -> i64 {
        if let Some(ms) = wanted_ms {
            return ms.clamp(0, limits::YEARS_MS);
        }
        let pause = BACKOFF.pause_ms(u32::try_from(attempt.max(1)).unwrap_or(u32::MAX));
        let jitter = (self.random)() % u64::try_from(pause / 4).unwrap_or(1).max(1);
        pause + i64::try_from(jitter).unwrap_or(0)
    }

    /// Milliseconds until the whole run is tried again.
    pub fn run_backoff(&mut self, retries: i64, wanted_ms: Option<i64>) -> i64 {
        self.backoff(retries + 1, wanted_ms)
    }
}

/// The answer to a repeated report of the worker that holds the run; refuses a different result.
fn repeated_reply(step: &Step, outcome: StepOutcome<'_>) -> Result<Option<StepResolution>> {
    match (step.status, outcome) {
        (StepStatus::Pending, StepOutcome::Err(failure)) => {
            let is_old = failure.attempt.is_some_and(|it| it <= step.attempt);
            Ok(next_attempt(step).filter(|_| is_old))
        }
        (status, _) if status.is_terminal() => Err(Error::conflict(
            "The step already has another result; the first result is final.",
        )),
        _ => Ok(None),
    }
}

fn next_attempt(step: &Step) -> Option<StepResolution> {
    let attempt = step.attempt + 1;
    step.retry.map(|at| StepResolution::Retry { at, attempt })
}

/// Refuses an attempt before its time.
fn check_due(due: Option<i64>, now: i64) -> Result<()> {
    match due
        .and_then(|due| u64::try_from(due - now).ok())
        .filter(|left| *left > 0)
    {
        None => Ok(()),
        Some(left) => Err(Error::new(
            Kind::TooEarly,
            format!("The step may be tried again in {left} ms."),
        )
        .with_retry_after(Duration::from_millis(left))),
    }
}

fn key_conflict() -> Error {
    Error::conflict("The key belongs to another operation of the run.")
}

/// The name in a key `name#n`.
pub fn name_of(key: &str) -> &str {
    key.rsplit_once('#').map_or(key, |(name, _)| name)
}

//! Parking a run on conditions, and waking it by time.

use rusqlite::{OptionalExtension as _, params};

use crate::base::error::{Error, Kind, Result};
use crate::services::workflows::codes::{EventKind, StepStatus};
use crate::services::workflows::limits;
use crate::services::workflows::run_request::Ms;
use crate::services::workflows::sql::sql;
use crate::services::workflows::tx::{NewEvent, Run, Tx};

/// Conditions in one park.
const CONDITIONS_MAX: usize = 1_000;

/// A condition that wakes a parked run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WakeCondition {
    /// A time; the first one given for a key is kept.
    Sleep { key: String, until: WakeTime },
    /// A payload that the worker has not seen.
    Hook { key: String },
    /// The end of a child.
    Child { key: String },
    /// The time at which a step may be tried again.
    Retry { key: String },
}

/// The end of a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeTime {
    /// Milliseconds since 1970.
    At(i64),
    /// Milliseconds from now.
    In(i64),
}

/// The result of a park.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkOutcome {
    /// The run is parked.
    Waits,
    /// A condition already holds; the worker keeps the run.
    Holds,
}

enum ConditionState {
    Now,
    At(i64),
    /// After an event.
    Later,
}

impl Tx<'_> {
    /// Parks a run, unless a condition holds or there are new events after `seen`.
    pub fn park(
        &mut self,
        run: &Run,
        seen: i64,
        conditions: &[WakeCondition],
    ) -> Result<ParkOutcome> {
        if conditions.is_empty() || conditions.len() > CONDITIONS_MAX {
            return Err(Error::invalid(format!(
                "on must have 1 to {CONDITIONS_MAX} conditions."
            )));
        }
        if seen > self.last_seq(run.id)? {
            return Err(Error::invalid(
                "seen is greater than the last seq of the journal.",
            ));
        }
        let has_new_events = self.has_new_events(run.id, seen)?;
        let mut holds = has_new_events;
        let mut due: Option<i64> = None;
        for condition in conditions {
            match self.check_condition(run.id, condition) {
                Ok(ConditionState::Now) => holds = true,
                Ok(ConditionState::At(at)) => due = Some(due.map_or(at, |due| due.min(at))),
                Ok(ConditionState::Later) => {}
                // The events that the worker has not seen explain it.
                Err(error) if has_new_events && error.kind() == Kind::Gone => {}
                Err(error) => return Err(error),
            }
        }
        if holds {
            return Ok(ParkOutcome::Holds);
        }
        if run.job.is_some_and(|job| job.lost > 0) {
            self.reset_lost_count(run.id)?;
        }
        self.park_job(run.id, due)?;
        Ok(ParkOutcome::Waits)
    }

    /// True if there are events after `seen` that the worker did not cause itself.
    fn has_new_events(&self, run: i64, seen: i64) -> Result<bool> {
        let sql = sql!(
            "SELECT EXISTS (SELECT 1 FROM events WHERE run = ?1 AND seq > ?2
             AND (kind IN ({EventKind::HookReceived}, {EventKind::HookDisposed}, {EventKind::WaitCompleted})
                  OR (kind IN ({EventKind::StepCompleted}, {EventKind::StepFailed}) AND info IS NOT NULL)))"
        );
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([run, seen], |row| row.get(0))?)
    }

    fn check_condition(&mut self, run: i64, condition: &WakeCondition) -> Result<ConditionState> {
        match condition {
            WakeCondition::Sleep { key, until } => self.check_sleep(run, key, *until),
            WakeCondition::Hook { key } => {
                self.check_hook(run, key).map(|()| ConditionState::Later)
            }
            WakeCondition::Child { key } => match self.step(run, key)? {
                Some(step) if step.child.is_some() => Ok(match step.status.is_terminal() {
                    true => ConditionState::Now,
                    false => ConditionState::Later,
                }),
                _ => Err(Error::not_found(format!("The run has no child {key}."))),
            },
            WakeCondition::Retry { key } => match self.step(run, key)? {
                Some(step) => Ok(match (step.status, step.retry) {
                    (StepStatus::Pending, Some(at)) if at > self.now => ConditionState::At(at),
                    _ => ConditionState::Now,
                }),
                None => Err(Error::not_found(format!("The run has no step {key}."))),
            },
        }
    }

    fn check_sleep(&mut self, run: i64, key: &str, until: WakeTime) -> Result<ConditionState> {
        limits::check_key("sleep", key)?;
        let sql = "SELECT until, ended FROM waits WHERE run = ?1 AND key = ?2";
        let known: Option<(i64, Option<i64>)> = self
            .db
            .prepare_cached(sql)?
            .query_row(params![run, key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let until = match known {
            Some((_, Some(_))) => return Ok(ConditionState::Now),
            Some((until, None)) => until,
            None => {
                let until = match until {
                    WakeTime::At(at) => at,
                    WakeTime::In(ms) => self.now.saturating_add(ms.max(0)),
                };
                let until = limits::check_time("until", until, self.now)?;
                self.append(run, NewEvent::new(EventKind::WaitCreated, key).info(until))?;
                let sql = "INSERT INTO waits (run, key, until) VALUES (?1, ?2, ?3)";
                self.db
                    .prepare_cached(sql)?
                    .execute(params![run, key, until])?;
                until
            }
        };
        if until > self.now {
            return Ok(ConditionState::At(until));
        }
        self.end_wait(run, key)?;
        Ok(ConditionState::Now)
    }

    /// Creates a wait as an event of its own; `data` is its end in milliseconds since 1970.
    pub fn create_wait(&mut self, run: &Run, key: &str, data: &str) -> Result<()> {
        let Ms(until) = serde_json::from_str(data).map_err(|_| {
            Error::invalid("The data of a wait must be its end in milliseconds since 1970.")
        })?;
        let sql = "SELECT 1 FROM waits WHERE run = ?1 AND key = ?2";
        if self.db.prepare_cached(sql)?.exists(params![run.id, key])? {
            return Err(Error::conflict(format!(
                "The run already has the wait {key}."
            )));
        }
        self.check_sleep(run.id, key, WakeTime::At(until))?;
        Ok(())
    }

    /// Ends a wait early; a second call is refused.
    pub fn complete_wait(&mut self, run: &Run, key: &str) -> Result<()> {
        let sql = "SELECT ended IS NOT NULL FROM waits WHERE run = ?1 AND key = ?2";
        let has_ended: Option<bool> = self
            .db
            .prepare_cached(sql)?
            .query_row(params![run.id, key], |row| row.get(0))
            .optional()?;
        match has_ended {
            None => Err(Error::not_found(format!("The run has no wait {key}."))),
            Some(true) => Err(Error::conflict(format!(
                "The wait {key} has already ended."
            ))),
            Some(false) => {
                self.end_wait(run.id, key)?;
                self.wake_parked(run.id)
            }
        }
    }

    fn end_wait(&mut self, run: i64, key: &str) -> Result<()> {
        self.append(run, NewEvent::new(EventKind::WaitCompleted, key))?;
        let sql = "UPDATE waits SET ended = ?3 WHERE run = ?1 AND key = ?2";
        self.db
            .prepare_cached(sql)?
            .execute(params![run, key, self.now])?;
        Ok(())
    }

    /// Runs whose time has come, at most `max`.
    pub fn due_runs(&self, max: usize) -> Result<Vec<i64>> {
        let sql = sql!(
            "SELECT run FROM jobs WHERE state IN ({JobState::TIMED}) AND due <= ?1 ORDER BY due LIMIT ?2"
        );
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        self.ids(sql, [self.now, max])
    }

    /// Wakes a run whose time has come.
    pub fn wake_due(&mut self, run: i64) -> Result<()> {
        let sql = "SELECT key FROM waits WHERE run = ?1 AND ended IS NULL AND until <= ?2";
        let keys: Vec<String> = {
            let mut statement = self.db.prepare_cached(sql)?;
            let rows = statement.query_map([run, self.now], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<_>>()?
        };
        for key in keys {
            self.end_wait(run, &key)?;
        }
        self.make_ready(run)
    }
}

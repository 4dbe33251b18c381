//! Creating, starting and ending runs.

use std::time::Duration;

use rusqlite::{OptionalExtension as _, params};
use serde_json::{Map, Value};

use crate::base::error::{Error, Kind, Result};
use crate::services::stats::RunEvent;
use crate::services::workflows::codes::{EventKind, RunStatus, StepStatus};
use crate::services::workflows::jobs::NewJob;
use crate::services::workflows::sql::sql;
use crate::services::workflows::tx::{NewEvent, Run, Tx};
use crate::services::workflows::{limits, run_id};

/// The pause after which a caller over its limit may try again.
const CALLER_PAUSE: Duration = Duration::from_secs(10);

/// The parameters of a run to create, checked by [`NewRun::check`].
#[derive(Clone, Debug)]
pub struct NewRun {
    pub workflow: String,
    /// JSON, kept byte for byte.
    pub input: String,
    pub version: Option<String>,
    pub idempotency_key: Option<String>,
    pub concurrency_key: Option<String>,
    pub priority: i64,
    pub run_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub attributes: Map<String, Value>,
    /// The caller that starts it under the rule of a collection; its runs are limited.
    pub caller: Option<RunStarter>,
}

/// A caller that starts runs under the rule of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunStarter {
    /// An account: its collection and id.
    Account(String),
    /// A caller without credentials: its network.
    Network(String),
}

/// The prefix of the keys of callers without credentials.
const NETWORKS: &str = "network/";

impl RunStarter {
    fn key(&self) -> String {
        match self {
            RunStarter::Account(account) => format!("account/{account}"),
            RunStarter::Network(network) => format!("{NETWORKS}{network}"),
        }
    }
}

/// A run that was created, or that already existed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedRun {
    pub id: i64,
    pub run: String,
    pub status: RunStatus,
    pub is_new: bool,
}

/// The end of a run; the data is JSON.
#[derive(Clone, Copy, Debug)]
pub enum RunEnd<'a> {
    Completed(&'a str),
    Failed(&'a str),
    /// Failed because its deadline passed.
    Expired(&'a str),
    Cancelled(&'a str),
}

/// The error of a run whose deadline passed.
pub const EXPIRED_ERROR: &str =
    r#"{"kind":"expired","message":"The run was not finished in time."}"#;

impl RunEnd<'_> {
    fn parts(&self) -> (EventKind, RunStatus, &str) {
        match self {
            RunEnd::Completed(data) => (EventKind::RunCompleted, RunStatus::Completed, data),
            RunEnd::Failed(data) | RunEnd::Expired(data) => {
                (EventKind::RunFailed, RunStatus::Failed, data)
            }
            RunEnd::Cancelled(data) => (EventKind::RunCancelled, RunStatus::Cancelled, data),
        }
    }
}

impl NewRun {
    /// A run with default options.
    pub fn new(workflow: &str, input: &str) -> NewRun {
        NewRun {
            workflow: workflow.to_owned(),
            input: input.to_owned(),
            version: None,
            idempotency_key: None,
            concurrency_key: None,
            priority: 0,
            run_at: None,
            expires_at: None,
            attributes: Map::new(),
            caller: None,
        }
    }

    /// Refuses invalid parameters.
    pub fn check(&self, now_ms: i64) -> Result<()> {
        limits::check_workflow(&self.workflow)?;
        limits::check_payload("input", &self.input)?;
        limits::check_priority(self.priority)?;
        limits::check_attributes(&self.attributes)?;
        for (field, ms) in [("runAt", self.run_at), ("expiresAt", self.expires_at)] {
            ms.map(|ms| limits::check_time(field, ms, now_ms))
                .transpose()?;
        }
        if let Some(version) = &self.version {
            limits::check_version(version)?;
        }
        for (field, key) in [
            ("idempotencyKey", &self.idempotency_key),
            ("concurrencyKey", &self.concurrency_key),
        ] {
            if let Some(key) = key {
                limits::check_key(field, key)?;
            }
        }
        Ok(())
    }
}

impl Tx<'_> {
    /// Creates a run. If the workflow already has a run with the idempotency key, returns that one.
    pub fn create_run(&mut self, new: &NewRun, parent: Option<(&Run, &str)>) -> Result<CreatedRun> {
        new.check(self.now)?;
        if let Some(key) = &new.idempotency_key
            && let Some(first) = self.run_by_key(&new.workflow, key)?
        {
            return Ok(first);
        }
        if let Some(caller) = &new.caller {
            self.check_caller(caller)?;
        }
        let depth = parent.map_or(0, |(run, _)| run.depth + 1);
        if depth > limits::DEPTH_MAX {
            return Err(Error::invalid(format!(
                "Child runs can be nested at most {} levels deep.",
                limits::DEPTH_MAX
            )));
        }
        let run = run_id::new(self.now, self.node, (self.random)());
        let version = new.version.as_deref().unwrap_or_default();
        let sql = sql!(
            "INSERT INTO runs (run, workflow, version, status, parent, parent_key, root, depth, idempotency_key,
                               concurrency_key, priority, attributes, created, expires, caller)
             VALUES (?1, ?2, ?3, {RunStatus::Pending}, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
        );
        self.db.prepare_cached(sql)?.execute(params![
            run,
            new.workflow,
            version,
            parent.map(|(run, _)| run.id),
            parent.map(|(_, key)| key),
            parent.map(|(run, _)| run.root),
            depth,
            new.idempotency_key,
            new.concurrency_key,
            new.priority,
            Value::from(new.attributes.clone()).to_string(),
            self.now,
            new.expires_at,
            new.caller.as_ref().map(RunStarter::key),
        ])?;
        let id = self.db.last_insert_rowid();
        self.append(
            id,
            NewEvent::new(EventKind::RunCreated, "").data(&new.input),
        )?;
        self.add_job(&NewJob {
            run: id,
            workflow: &new.workflow,
            version,
            priority: new.priority,
            concurrency_key: new.concurrency_key.as_deref(),
            due: new.run_at,
        })?;
        let made = CreatedRun {
            id,
            run,
            status: RunStatus::Pending,
            is_new: true,
        };
        match parent {
            // The caller first creates the step that receives the result.
            Some(_) => Ok(made),
            None => self.expire_new(made, new.expires_at),
        }
    }

    /// Fails a new run at once if its deadline has already passed.
    pub fn expire_new(&mut self, mut made: CreatedRun, expires: Option<i64>) -> Result<CreatedRun> {
        let is_late = expires.is_some_and(|at| at <= self.now);
        if is_late && let Some(run) = self.run_by_id(made.id)? {
            self.end_run(&run, RunEnd::Expired(EXPIRED_ERROR))?;
            made.status = RunStatus::Failed;
        }
        Ok(made)
    }

    /// Refuses another run if the caller already has its maximum of unfinished runs.
    fn check_caller(&self, caller: &RunStarter) -> Result<()> {
        let (most, who) = match caller {
            RunStarter::Account(_) => (limits::OF_ACCOUNT_MAX, "This account has"),
            RunStarter::Network(_) => (limits::OF_NETWORK_MAX, "This network has"),
        };
        let sql = "SELECT count(*) FROM (SELECT 1 FROM runs WHERE caller = ?1 AND ended IS NULL LIMIT ?2)";
        let key = caller.key();
        let own: i64 = self
            .db
            .prepare_cached(sql)?
            .query_row(params![key, most], |row| row.get(0))?;
        if own >= most {
            return Err(too_many(most, who));
        }
        if matches!(caller, RunStarter::Account(_)) {
            return Ok(());
        }
        // '0' is the character after '/'.
        let sql = "SELECT count(*) FROM (SELECT 1 FROM runs WHERE caller > 'network/' AND caller < 'network0'
                                           AND ended IS NULL LIMIT ?1)";
        let all: i64 = self
            .db
            .prepare_cached(sql)?
            .query_row([limits::OF_NETWORKS_MAX], |row| row.get(0))?;
        match all < limits::OF_NETWORKS_MAX {
            true => Ok(()),
            false => Err(too_many(
                limits::OF_NETWORKS_MAX,
                "Callers without an account have",
            )),
        }
    }

    fn run_by_key(&self, workflow: &str, key: &str) -> Result<Option<CreatedRun>> {
        let sql = "SELECT id, run, status FROM runs WHERE workflow = ?1 AND idempotency_key = ?2";
        let mut statement = self.db.prepare_cached(sql)?;
        let found = statement.query_row([workflow, key], |row| {
            Ok(CreatedRun {
                id: row.get(0)?,
                run: row.get(1)?,
                status: row.get(2)?,
                is_new: false,
            })
        });
        Ok(found.optional()?)
    }

    /// Marks a run as started by its first worker; it keeps this version of the code.
    pub fn start_run(&mut self, run: &Run, version: &str) -> Result<()> {
        if run.status.is_terminal() {
            return Err(ended(run, Kind::Gone));
        }
        if run.status == RunStatus::Running {
            return Ok(());
        }
        self.append(run.id, NewEvent::new(EventKind::RunStarted, ""))?;
        let sql =
            "UPDATE runs SET status = ?2, started = ?3, version = coalesce(nullif(?4, ''), version)
                   WHERE id = ?1";
        self.db.prepare_cached(sql)?.execute(params![
            run.id,
            RunStatus::Running,
            self.now,
            version
        ])?;
        self.count(&run.workflow, RunEvent::Started);
        Ok(())
    }

    /// Ends a run, deletes its hooks and waits, and notifies its parent.
    pub fn end_run(&mut self, run: &Run, end: RunEnd<'_>) -> Result<()> {
        if run.status.is_terminal() {
            return Err(ended(run, Kind::Conflict));
        }
        let (kind, status, data) = end.parts();
        limits::check_payload("The result of a run", data)?;
        self.append(run.id, NewEvent::new(kind, "").data(data))?;
        let sql = "UPDATE runs SET status = ?2, ended = ?3,
                          epoch = coalesce((SELECT epoch FROM jobs WHERE run = ?1), epoch)
                   WHERE id = ?1";
        self.db
            .prepare_cached(sql)?
            .execute(params![run.id, status, self.now])?;
        for sql in [
            "DELETE FROM hooks WHERE run = ?1",
            "DELETE FROM waits WHERE run = ?1",
            sql!(
                "UPDATE steps SET status = {StepStatus::Cancelled}
                 WHERE run = ?1 AND status IN ({StepStatus::Pending}, {StepStatus::Running})"
            ),
        ] {
            self.db.prepare_cached(sql)?.execute([run.id])?;
        }
        self.remove_job(run.id)?;
        if matches!(end, RunEnd::Cancelled(_) | RunEnd::Expired(_)) {
            self.queue_child_cancellation(run.id)?;
        }
        if let Some((parent, key)) = &run.parent {
            self.notify_parent(*parent, key, run, end)?;
        }
        let took = self.now - run.started.unwrap_or(self.now);
        let took = Duration::from_millis(u64::try_from(took).unwrap_or(0));
        let counted = match end {
            RunEnd::Completed(_) => RunEvent::Completed(took),
            RunEnd::Failed(_) | RunEnd::Expired(_) => RunEvent::Failed(took),
            RunEnd::Cancelled(_) => RunEvent::Cancelled,
        };
        self.count(&run.workflow, counted);
        self.effects.ended.push((run.id, status));
        Ok(())
    }

    /// Records the end of a child as the result of a step of its parent.
    fn notify_parent(
        &mut self,
        parent: i64,
        key: &str,
        child: &Run,
        end: RunEnd<'_>,
    ) -> Result<()> {
        let lives = self
            .run_by_id(parent)?
            .is_some_and(|parent| !parent.status.is_terminal());
        // A resumed child ends a second time; the first result is final.
        let is_waited_for = self
            .step(parent, key)?
            .is_some_and(|step| step.child == Some(child.id) && step.status == StepStatus::Running);
        if !lives || !is_waited_for {
            return Ok(());
        }
        let cancelled = error_json("cancelled", "The child run was cancelled.");
        let (kind, status, data) = match end {
            RunEnd::Completed(output) => (EventKind::StepCompleted, StepStatus::Completed, output),
            RunEnd::Failed(error) | RunEnd::Expired(error) => {
                (EventKind::StepFailed, StepStatus::Failed, error)
            }
            RunEnd::Cancelled(_) => (EventKind::StepFailed, StepStatus::Failed, &*cancelled),
        };
        let event = NewEvent::new(kind, key).data(data).info(child.id);
        let seq = self.append(parent, event)?;
        let sql =
            "UPDATE steps SET status = ?3, ended = ?4, result = ?5 WHERE run = ?1 AND key = ?2";
        self.db
            .prepare_cached(sql)?
            .execute(params![parent, key, status, self.now, seq])?;
        self.wake_parked(parent)
    }

    /// Makes a parked run ready after an event that it may wait for.
    pub fn wake_parked(&mut self, run: i64) -> Result<()> {
        let sql = sql!(
            "SELECT EXISTS (SELECT 1 FROM jobs JOIN runs ON runs.id = jobs.run
             WHERE jobs.run = ?1 AND jobs.state = {JobState::Parked} AND runs.status = {RunStatus::Running})"
        );
        let is_parked: bool = self
            .db
            .prepare_cached(sql)?
            .query_row([run], |row| row.get(0))?;
        match is_parked {
            true => self.make_ready(run),
            false => Ok(()),
        }
    }

    /// Queues the children of a run that was cancelled or expired for cancellation, because there
    /// may be many. Children of a run that failed otherwise continue: if it is resumed, it finds
    /// their results.
    fn queue_child_cancellation(&self, run: i64) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO cancelling (run)
                   SELECT ?1 WHERE EXISTS (SELECT 1 FROM runs WHERE parent = ?1 AND ended IS NULL)";
        self.db.prepare_cached(sql)?.execute([run])?;
        Ok(())
    }

    /// Runs whose deadline has passed, at most `max`.
    pub fn expired_runs(&self, max: usize) -> Result<Vec<i64>> {
        // Without runs that are paused because ending them failed before.
        let sql = sql!(
            "SELECT id FROM runs WHERE expires <= ?1 AND ended IS NULL
               AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.run = runs.id AND state = {JobState::Paused}
                                 AND json_valid(note) AND note ->> '$.kind' = 'internal')
             LIMIT ?2"
        );
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        self.ids(sql, [self.now, max])
    }

    /// A parent with queued cancellations and at most `max` of its unfinished children.
    pub fn children_to_cancel(&self, max: usize) -> Result<Option<(i64, Vec<i64>)>> {
        let sql = "SELECT run FROM cancelling LIMIT 1";
        let parent: Option<i64> = self
            .db
            .prepare_cached(sql)?
            .query_row([], |row| row.get(0))
            .optional()?;
        let Some(parent) = parent else {
            return Ok(None);
        };
        let sql = "SELECT id FROM runs WHERE parent = ?1 AND ended IS NULL LIMIT ?2";
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        Ok(Some((parent, self.ids(sql, [parent, max])?)))
    }

    /// Cancels a child because of its parent.
    pub fn cancel_child(&mut self, parent: i64, child: i64) -> Result<()> {
        let Some(child) = self.run_by_id(child)? else {
            return Ok(());
        };
        let parent = self.run_by_id(parent)?;
        let reason = match parent.map(|parent| parent.status) {
            Some(RunStatus::Cancelled) => r#""The parent run was cancelled.""#,
            _ => r#""The parent run has expired.""#,
        };
        self.end_run(&child, RunEnd::Cancelled(reason))
    }

    /// Removes a parent from the queue of cancellations.
    pub fn finish_child_cancellation(&self, parent: i64) -> Result<()> {
        let sql = "DELETE FROM cancelling WHERE run = ?1";
        self.db.prepare_cached(sql)?.execute([parent])?;
        Ok(())
    }
}

fn too_many(most: i64, who: &str) -> Error {
    let message = format!("{who} the maximum of {most} unfinished runs; try again later.");
    Error::new(Kind::TooMany, message).with_retry_after(CALLER_PAUSE)
}

pub fn ended(run: &Run, kind: Kind) -> Error {
    Error::new(
        kind,
        format!("The run {} is {}.", run.run, run.status.word()),
    )
}

/// The JSON of an error of a run or a step.
pub fn error_json(kind: &str, message: &str) -> String {
    serde_json::json!({"kind": kind, "message": message}).to_string()
}

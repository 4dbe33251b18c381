//! The worker threads: run scripts, queue calls and start workflow runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::InterruptHandle;
use serde_json::json;

use crate::base::backoff::Backoff;
use crate::base::clock;
use crate::base::error::{Error, Kind, Result};
use crate::base::threads::lock;
use crate::model::triggers;
use crate::model::triggers::outbox::{CallSource, OutboxEntry, TargetSpec};
use crate::model::triggers::{Target, outbox};
use crate::services::cron::engine::{Cron, WorkerKind};
use crate::services::cron::job::{JobAction, SqlScript};
use crate::services::cron::queue::QueuedRun;
use crate::services::cron::sql::ScriptScope;
use crate::services::cron::{job, sql};
use crate::services::workflows::api_requests::WorkflowRequest;
use crate::services::workflows::{NewRun, WorkerGrant, Workflows};
use crate::store::db;
use crate::store::db::Database;

/// Pauses before a call or run that could not be queued is retried.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    factor: 5,
    max: Duration::from_secs(25),
};
const RETRIES: u32 = 3;

impl Cron {
    /// Runs the worker thread of one kind.
    pub fn work(&self, kind: WorkerKind, workflows: &Workflows) {
        while let Some(work) = self.queues[kind as usize].next() {
            self.run_job(&work, workflows);
        }
    }

    /// Runs a job and records the result.
    fn run_job(&self, work: &QueuedRun, workflows: &Workflows) {
        let started_ms = clock::now_ms();
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.execute(work, started_ms, workflows)
        }));
        let result = result.unwrap_or_else(|_| Err(Error::internal("a cron job panicked")));
        if let Err(error) = &result
            && self.is_deferred(work, error)
        {
            return lock(&self.core).finish(&work.job.id);
        }
        let result = result.map_err(|error| error_text(&error));
        self.record_end(work, started_ms, &result);
    }

    /// Reports whether a stop prevented the job from being queued. Then its time is not recorded as
    /// done, and the next start catches up.
    fn is_deferred(&self, work: &QueuedRun, error: &Error) -> bool {
        let is_script = matches!(work.job.action, JobAction::Sql(_));
        let is_stopped = self.stop.is_set() && error.kind() == Kind::Unavailable;
        is_stopped && !is_script && work.due_ms.is_some()
    }

    fn execute(&self, work: &QueuedRun, started_ms: i64, workflows: &Workflows) -> Result<String> {
        match &work.job.action {
            JobAction::Sql(script) => self.run_script(script),
            JobAction::Http(target) => self.retry(|| self.call(work, started_ms, target)),
            JobAction::Workflow { name, input } => {
                let input = input.clone().unwrap_or_else(|| {
                    let time_ms = work.due_ms.unwrap_or(started_ms);
                    json!([job::payload(&work.job.name, time_ms)])
                });
                let input = input.to_string();
                self.retry(|| {
                    let mut run = NewRun::new(name, &input);
                    run.idempotency_key = Some(dedupe_key(work, started_ms));
                    let answer = workflows.execute(
                        WorkerGrant::default(),
                        WorkflowRequest::Trigger(Box::new(run)),
                    )?;
                    let answer: serde_json::Value = serde_json::from_str(&answer)?;
                    let run = answer["runId"].as_str().unwrap_or_default();
                    Ok(format!("Started {run}."))
                })
            }
        }
    }

    fn call(&self, work: &QueuedRun, started_ms: i64, target: &Target) -> Result<String> {
        let (job, target) = (Arc::clone(&work.job), target.clone());
        let dedupe = dedupe_key(work, started_ms);
        let time_ms = work.due_ms.unwrap_or(started_ms);
        self.databases.default().write(move |tx| {
            let payload = job::payload(&job.name, time_ms).to_string();
            outbox::add(
                tx,
                &OutboxEntry {
                    source: CallSource::Cron(&job.name),
                    spec: &TargetSpec::of(&target),
                    payload: &payload,
                    change: None,
                    dedupe: Some(&dedupe),
                    created_ms: clock::now_ms(),
                },
            )
        })?;
        self.calls.notify(db::DEFAULT);
        Ok("The call was queued.".to_owned())
    }

    /// Retries while the error is temporary.
    fn retry(&self, mut body: impl FnMut() -> Result<String>) -> Result<String> {
        for failures in 1..=RETRIES {
            match body() {
                Err(error) if error.kind() == Kind::Unavailable => {
                    if self.stop.wait(BACKOFF.pause(failures)) {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
        body()
    }

    fn run_script(&self, script: &SqlScript) -> Result<String> {
        let database = self.database(&script.database)?;
        let (scope, limit) = (ScriptScope::of(&script.database), script.limit());
        let (sql, stop) = (script.sql.clone(), self.stop.clone());
        // When SQLite rolls back the transaction, the returned error is not the error of the
        // script.
        let script_error: Arc<Mutex<Option<String>>> = Arc::default();
        let slot_error = Arc::clone(&script_error);
        let slot = Arc::clone(&self.script);
        let result = database.write_exclusive(limit, move |tx| {
            let begun = ScriptGuard::new(slot, tx.get_interrupt_handle());
            let result = sql::run(tx, scope, &sql, || stop.is_set());
            drop(begun);
            result.inspect_err(|error| {
                *lock(&slot_error) = Some(match (error.is_interrupted(), stop.is_set()) {
                    (true, true) => "The server stopped.".to_owned(),
                    (true, false) => sql::timeout_message(limit),
                    (false, _) => error_text(error),
                });
            })
        });
        match (result, lock(&script_error).take()) {
            (Ok(count), _) => Ok(format!("{count} rows changed.")),
            (Err(_), Some(message)) => Err(Error::invalid(message)),
            (Err(error), None) => Err(error),
        }
    }

    fn database(&self, name: &str) -> Result<Arc<Database>> {
        match name {
            db::STATS => Ok(Arc::clone(self.databases.stats())),
            db::WORKFLOWS => Ok(Arc::clone(self.databases.workflows())),
            name => self.databases.get(name),
        }
    }

    /// Refuses a script that cannot run, as far as preparing its statements shows.
    pub fn check_script(&self, script: &SqlScript) -> Result<()> {
        let found = self.database(&script.database);
        let database = found.map_err(|error| match error.kind() {
            Kind::NotFound => triggers::invalid_value("database", error.message()),
            _ => error,
        })?;
        let checked =
            database.read(|db| sql::check(db, ScriptScope::of(&script.database), &script.sql));
        checked.map_err(|error| match error.kind() {
            Kind::Invalid => job::wrong_script(&error),
            _ => error,
        })
    }
}

/// Makes the script interruptible until it is dropped.
struct ScriptGuard(Slot);

type Slot = Arc<Mutex<Option<InterruptHandle>>>;

impl ScriptGuard {
    fn new(slot: Slot, handle: InterruptHandle) -> ScriptGuard {
        *lock(&slot) = Some(handle);
        ScriptGuard(slot)
    }
}

impl Drop for ScriptGuard {
    fn drop(&mut self) {
        lock(&self.0).take();
    }
}

/// The deduplication key of a call or run.
fn dedupe_key(work: &QueuedRun, started_ms: i64) -> String {
    let id = &work.job.id;
    match (work.due_ms, work.run) {
        (Some(due_ms), _) if work.is_repeat => format!("cron/{id}/{due_ms}/{started_ms}"),
        (Some(due_ms), _) => format!("cron/{id}/{due_ms}"),
        (None, run) => format!("cron/{id}/run/{}", run.unwrap_or(started_ms)),
    }
}

/// The error message for the history.
fn error_text(error: &Error) -> String {
    let fields: Vec<String> = error
        .field_errors()
        .iter()
        .map(|(name, field)| format!("{name}: {}", field.message))
        .collect();
    match fields.is_empty() {
        true => error.message().to_owned(),
        false => fields.join(" "),
    }
}

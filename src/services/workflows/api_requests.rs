//! Requests over HTTP that change runs: trigger, cancel, resume and fork, single events, payloads
//! for hooks, and reports of workers without a socket.

use serde_json::value::RawValue;

use crate::base::error::{Error, Kind, Result};
use crate::base::json::{Object, array};
use crate::services::workflows::codes::{EventKind, RunStatus, StepStatus};
use crate::services::workflows::frames::Report;
use crate::services::workflows::runs::{NewRun, RunEnd, ended};
use crate::services::workflows::sessions::WorkerGrant;
use crate::services::workflows::steps::name_of;
use crate::services::workflows::tx::{Run, Tx, no_run};
use crate::services::workflows::{calls, limits};

/// The `ref` of a frame, and the report in it or its error.
pub type ReportFrame = (Option<String>, std::result::Result<Report, String>);

/// See the module documentation.
#[derive(Debug)]
pub enum WorkflowRequest {
    Trigger(Box<NewRun>),
    /// One action on some runs.
    Apply {
        runs: Vec<String>,
        action: RunAction,
        is_bulk: bool,
    },
    Event {
        run: String,
        event: EventRequest,
    },
    Hook {
        token: String,
        payload: String,
    },
    Report {
        reports: Vec<ReportFrame>,
    },
    /// Deletes runs that ended before a time.
    DeleteEnded {
        before: i64,
    },
}

/// An action on a run.
#[derive(Clone, Debug)]
pub enum RunAction {
    Cancel {
        reason: String,
    },
    Resume {
        version: Option<String>,
    },
    Fork {
        from: Option<String>,
        version: Option<String>,
    },
}

/// An event that an external engine writes.
#[derive(Debug)]
pub struct EventRequest {
    pub kind: EventKind,
    pub key: String,
    pub data: Option<Box<RawValue>>,
}

/// Runs deleted in one command, and the number of deleted rows after which it stops.
const DELETE_AT_A_TIME: i64 = 64;
const DELETE_ROWS: usize = 5_000;

/// Executes a request; returns the answer as JSON.
pub fn execute(tx: &mut Tx<'_>, grant: &WorkerGrant, request: &WorkflowRequest) -> Result<String> {
    match request {
        WorkflowRequest::Trigger(new) => {
            grant.check(&new.workflow)?;
            let made = tx.create_run(new, None)?;
            Ok(run_json(&made.run, made.status)
                .bool("isNew", made.is_new)
                .end())
        }
        WorkflowRequest::Apply {
            runs,
            action,
            is_bulk,
        } => apply_to_all(tx, grant, runs, action, *is_bulk),
        WorkflowRequest::Event { run, event } => {
            let run = find(tx, grant, run)?;
            let seq = write_event(tx, &run, event)?;
            Ok(Object::new()
                .text("runId", &run.run)
                .some_int("eventId", seq)
                .end())
        }
        WorkflowRequest::Hook { token, payload } => {
            let run = tx.receive(token, payload)?;
            let run = tx.run_by_id(run)?;
            let run = run.ok_or_else(|| Error::internal("a hook without a run"))?;
            Ok(Object::new().text("runId", &run.run).end())
        }
        WorkflowRequest::DeleteEnded { before } => {
            delete_ended(tx, *before).map(|count| count.to_string())
        }
        WorkflowRequest::Report { .. } => Err(Error::internal("a report is executed by the core")),
    }
}

/// Finds a run that the grant covers.
fn find(tx: &Tx<'_>, grant: &WorkerGrant, run: &str) -> Result<Run> {
    let found = tx.run(run)?.filter(|found| grant.opens(&found.workflow));
    found.ok_or_else(|| no_run(run))
}

fn run_json(run: &str, status: RunStatus) -> Object {
    Object::new()
        .text("runId", run)
        .text("status", status.word())
}

/// Returns the result of a single run, or for a bulk action a list of results and errors.
fn apply_to_all(
    tx: &mut Tx<'_>,
    grant: &WorkerGrant,
    runs: &[String],
    action: &RunAction,
    is_bulk: bool,
) -> Result<String> {
    if !is_bulk {
        let run = runs.first().map_or("", String::as_str);
        return apply(tx, grant, run, action).map(Object::end);
    }
    let mut results = Vec::with_capacity(runs.len());
    for run in runs {
        tx.db.prepare_cached("SAVEPOINT one")?.execute([])?;
        let before = std::mem::take(&mut tx.effects);
        let result = apply(tx, grant, run, action);
        if result.is_err() {
            if tx.db.is_autocommit() {
                return result.map(Object::end);
            }
            tx.db.prepare_cached("ROLLBACK TO one")?.execute([])?;
            tx.effects = before;
        } else {
            let own = std::mem::replace(&mut tx.effects, before);
            tx.effects.add(own);
        }
        tx.db.prepare_cached("RELEASE one")?.execute([])?;
        results.push(match result {
            Ok(done) => done.end(),
            Err(error) => Object::new()
                .text("runId", run)
                .text("error", error.message())
                .end(),
        });
    }
    Ok(format!(r#"{{"items":{}}}"#, array(results)))
}

fn apply(tx: &mut Tx<'_>, grant: &WorkerGrant, run: &str, action: &RunAction) -> Result<Object> {
    let run = find(tx, grant, run)?;
    match action {
        RunAction::Cancel { reason } => {
            if run.status != RunStatus::Cancelled {
                tx.end_run(&run, RunEnd::Cancelled(reason))?;
            }
            Ok(run_json(&run.run, RunStatus::Cancelled))
        }
        RunAction::Resume { version } => {
            tx.resume_run(&run, version.as_deref())?;
            let run = find(tx, grant, &run.run)?;
            Ok(run_json(&run.run, run.status))
        }
        RunAction::Fork { from, version } => {
            let made = tx.fork_run(&run, from.as_deref(), version.clone())?;
            Ok(run_json(&made.run, made.status).text("forkedFrom", &run.run))
        }
    }
}

/// Writes one event under the rules of the model; none if it changes nothing.
fn write_event(tx: &mut Tx<'_>, run: &Run, request: &EventRequest) -> Result<Option<i64>> {
    let EventRequest { kind, key, data } = request;
    let data = data.as_ref().map_or("null", |data| data.get());
    limits::check_payload("data", data)?;
    let is_of_run = matches!(
        kind,
        EventKind::RunCreated
            | EventKind::RunResumed
            | EventKind::RunRetrying
            | EventKind::RunStarted
            | EventKind::RunCompleted
            | EventKind::RunFailed
            | EventKind::RunCancelled
            | EventKind::AttrSet
    );
    if !is_of_run {
        limits::check_key("key", key)?;
    }
    match kind {
        EventKind::RunCreated => return Err(Error::conflict("The run already exists.")),
        EventKind::RunStarted => {
            if run.status == RunStatus::Running {
                return Ok(None);
            }
            tx.start_run(run, "")?;
        }
        EventKind::RunCompleted => tx.end_run(run, RunEnd::Completed(data))?,
        EventKind::RunFailed => tx.end_run(run, RunEnd::Failed(data))?,
        EventKind::RunCancelled if run.status == RunStatus::Cancelled => return Ok(None),
        EventKind::RunCancelled => tx.end_run(run, RunEnd::Cancelled(data))?,
        EventKind::HookConflict | EventKind::RunResumed | EventKind::RunRetrying => {
            return Err(Error::invalid(format!(
                "Only the server writes {}.",
                kind.word()
            )));
        }
        EventKind::HookReceived | EventKind::HookDisposed if run.status.is_terminal() => {
            return Err(Error::not_found(format!("The run has no hook {key}.")));
        }
        _ if run.status.is_terminal() => return Err(ended(run, Kind::Conflict)),
        EventKind::AttrSet => {
            calls::set_attributes_json(tx, run, key, data)?;
        }
        EventKind::HookCreated => return create_hook(tx, run, key, data),
        EventKind::HookReceived => tx.receive_by_key(run, key, data)?,
        EventKind::HookDisposed => tx.dispose_hook(run, key)?,
        EventKind::WaitCreated => tx.create_wait(run, key, data)?,
        EventKind::WaitCompleted => tx.complete_wait(run, key)?,
        EventKind::StepCreated => tx.create_step(run, key, data)?,
        EventKind::StepStarted => return start_step(tx, run, key, request.data.is_some()),
        EventKind::StepCompleted | EventKind::StepFailed | EventKind::StepRetrying => {
            return finish_step(tx, run, *kind, key, data);
        }
    }
    tx.last_seq(run.id).map(Some)
}

fn create_hook(tx: &mut Tx<'_>, run: &Run, key: &str, data: &str) -> Result<Option<i64>> {
    #[derive(serde::Deserialize, Default)]
    struct Hook {
        token: Option<String>,
        metadata: Option<Box<RawValue>>,
    }
    if tx.has_hook(run.id, key)? {
        return Err(Error::conflict(format!(
            "The run already has the hook {key}."
        )));
    }
    let hook: Option<Hook> = serde_json::from_str(data)
        .map_err(|error| Error::invalid(format!("Invalid data of a hook: {error}.")))?;
    let hook = hook.unwrap_or_default();
    let metadata = hook.metadata.as_ref().map(|it| it.get());
    // A conflict is an event too.
    let _ = tx.create_hook(run, key, hook.token.as_deref(), metadata)?;
    tx.last_seq(run.id).map(Some)
}

fn start_step(tx: &mut Tx<'_>, run: &Run, key: &str, has_input: bool) -> Result<Option<i64>> {
    let step = tx.step(run.id, key)?;
    if step.is_none() && !has_input {
        return Err(Error::not_found(format!("The run has no step {key}.")));
    }
    tx.begin_step(run, key, name_of(key), None)?;
    tx.last_seq(run.id).map(Some)
}

fn finish_step(
    tx: &mut Tx<'_>,
    run: &Run,
    kind: EventKind,
    key: &str,
    data: &str,
) -> Result<Option<i64>> {
    let Some(step) = tx.step(run.id, key)? else {
        return Err(Error::not_found(format!("The run has no step {key}.")));
    };
    if step.status.is_terminal() {
        let is_same = matches!(
            (step.status, kind),
            (StepStatus::Completed, EventKind::StepCompleted)
                | (StepStatus::Failed, EventKind::StepFailed)
        ) && tx.step_result(run.id, &step)? == data;
        return match is_same {
            true => Ok(None),
            false => Err(Error::conflict("The step already has a result.")),
        };
    }
    tx.write_result(run, &step, kind, key, data)?;
    tx.last_seq(run.id).map(Some)
}

/// Deletes some runs that ended before a time, with all their rows; returns their number.
fn delete_ended(tx: &mut Tx<'_>, before: i64) -> Result<usize> {
    // The result of a child is needed until its parent ends.
    let sql = "SELECT id FROM runs WHERE ended < ?1
                 AND (parent IS NULL OR NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.run = runs.parent))
               ORDER BY ended LIMIT ?2";
    let runs = tx.ids(sql, [before, DELETE_AT_A_TIME])?;
    let (mut deleted, mut rows) = (0, 0);
    for run in &runs {
        for sql in [
            "DELETE FROM events WHERE run = ?1",
            "DELETE FROM steps WHERE run = ?1",
            "DELETE FROM chunks WHERE run = ?1",
            "DELETE FROM cancelling WHERE run = ?1",
            "DELETE FROM runs WHERE id = ?1",
        ] {
            rows += tx.db.prepare_cached(sql)?.execute([run])?;
        }
        deleted += 1;
        if rows >= DELETE_ROWS {
            break;
        }
    }
    Ok(deleted)
}

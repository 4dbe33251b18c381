//! `/api/cron`: jobs listed, created, updated, deleted and run by hand; their past runs.

use serde_json::{Map, Value, json};

use super::answer::json_response;
use super::call::Call;
use super::parameters::page;
use crate::base::error::Result;
use crate::base::paging::Page;
use crate::base::{clock, ids};
use crate::net::http::Response;
use crate::services::cron::{CronJob, JobAction, JobRow, JobRun, store};
use crate::store::db::{Connection, Role};

pub fn list(call: &Call<'_>) -> Result<Response> {
    let jobs = call.app.databases.default().read(store::jobs)?;
    let cron = &call.app.cron;
    let items = call.app.databases.local().read(|local| {
        let shown = jobs.iter().map(|job| {
            show(
                local,
                job,
                clock::now_ms(),
                cron.role(),
                cron.is_running(&job.id),
            )
        });
        shown.collect::<Result<Vec<_>>>()
    })?;
    Ok(json_response(200, &json!({"items": items})))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    answer(call, &find(call)?)
}

pub fn create(call: &Call<'_>) -> Result<Response> {
    let now = clock::now();
    let body: Map<String, Value> = call.body()?;
    let stored = JobRow::parse(&ids::record_id()?, &now, &now, body)?;
    check(call, &stored)?;
    let job = stored.clone();
    call.app
        .databases
        .default()
        .write(move |tx| store::insert(tx, &job))?;
    call.app.cron.notify();
    answer(call, &stored)
}

pub fn update(call: &Call<'_>) -> Result<Response> {
    let body: Map<String, Value> = call.body()?;
    // The patch is merged again in the transaction, so that concurrent updates do not undo each
    // other.
    let id = find(call)?.id;
    let default = call.app.databases.default();
    let merged = |stored: JobRow| stored.merge(&clock::now(), body.clone());
    check(call, &merged(default.read(|db| store::job(db, &id))?)?)?;
    let (now, patch) = (clock::now(), body.clone());
    let stored = default.write(move |tx| {
        let stored = store::job(tx, &id)?.merge(&now, patch)?;
        store::update(tx, &stored)?;
        Ok(stored)
    })?;
    call.app.cron.notify();
    answer(call, &stored)
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    let id = find(call)?.id;
    call.app
        .databases
        .default()
        .write(move |tx| store::delete(tx, &id))?;
    call.app.cron.notify();
    Ok(Response::empty(204))
}

/// Starts a run and does not wait for it. The list of runs has its result.
pub fn run(call: &Call<'_>) -> Result<Response> {
    let stored = find(call)?;
    let run = call.app.cron.run_now(&stored)?;
    Ok(json_response(
        202,
        &json!({"id": run, "job": stored.id, "status": "running"}),
    ))
}

/// The last runs on this node, newest first.
pub fn runs(call: &Call<'_>) -> Result<Response> {
    let page = page(&call.query()?)?;
    let id = find(call)?.id;
    let local = call.app.databases.local();
    let (runs, total) = local.snapshot(|db| store::runs(db, &id, page))?;
    let items: Vec<Value> = runs.iter().map(run_json).collect();
    Ok(json_response(200, &page.envelope(total, &items)))
}

/// The job that the path names by id or name.
fn find(call: &Call<'_>) -> Result<JobRow> {
    let key = call.param("id");
    call.app.databases.default().read(|db| store::job(db, key))
}

/// Refuses a script that parses but cannot run.
fn check(call: &Call<'_>, stored: &JobRow) -> Result<()> {
    match CronJob::restore(stored)?.action {
        JobAction::Sql(script) => call.app.cron.check_script(&script),
        JobAction::Http(_) | JobAction::Workflow { .. } => Ok(()),
    }
}

fn answer(call: &Call<'_>, job: &JobRow) -> Result<Response> {
    let cron = &call.app.cron;
    let is_running = cron.is_running(&job.id);
    let shown = call
        .app
        .databases
        .local()
        .read(|local| show(local, job, clock::now_ms(), cron.role(), is_running))?;
    Ok(json_response(200, &shown))
}

/// A job with its next due time and its last run on this node.
pub fn show(
    local: &Connection,
    stored: &JobRow,
    now: i64,
    role: Role,
    is_running: bool,
) -> Result<Value> {
    let next = CronJob::restore(stored)
        .ok()
        .and_then(|job| job.next(now, role));
    let (last, _) = store::runs(local, &stored.id, Page::new(1, 1))?;
    let mut object = stored.to_json();
    object.insert("next".to_owned(), next.map(clock::format_ms).into());
    object.insert(
        "last".to_owned(),
        last.first().map_or(Value::Null, run_json),
    );
    object.insert("isRunning".to_owned(), is_running.into());
    Ok(Value::Object(object))
}

pub fn run_json(run: &JobRun) -> Value {
    json!({
        "id": run.id,
        "due": run.due_ms.map(clock::format_ms),
        "started": clock::format_ms(run.started_ms),
        "ended": run.ended_ms.map(clock::format_ms),
        "status": run.status,
        "message": run.message,
    })
}

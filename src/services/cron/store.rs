//! The tables of cron jobs: `_cron` in `default.db`, and states and runs of this node in
//! `local.db`.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::{Map, Value};

use crate::base::error::{Error, Result};
use crate::base::paging::Page;
use crate::services::cron::core::JobState;
use crate::services::cron::job::JobRow;

/// Limit on jobs.
const JOBS_MAX: i64 = 200;
/// Runs kept per job.
const RUNS_KEPT: i64 = 100;
/// Limit on the message of a run, in characters.
const MESSAGE_CHARS_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    Success,
    Failed,
    Skipped,
}

impl RunOutcome {
    pub const ALL: [RunOutcome; 3] = [RunOutcome::Success, RunOutcome::Failed, RunOutcome::Skipped];

    pub fn name(self) -> &'static str {
        match self {
            RunOutcome::Success => "success",
            RunOutcome::Failed => "failed",
            RunOutcome::Skipped => "skipped",
        }
    }
}

/// A run in the history. Times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRun {
    pub id: i64,
    /// `None` if the run was requested by hand.
    pub due_ms: Option<i64>,
    pub started_ms: i64,
    pub ended_ms: Option<i64>,
    pub status: String,
    pub message: String,
}

/// The result of a run.
pub struct FinishedRun<'a> {
    pub job: &'a str,
    /// Its row, if there is one.
    pub run: Option<i64>,
    pub due_ms: Option<i64>,
    pub started_ms: i64,
    pub ended_ms: i64,
    pub outcome: RunOutcome,
    pub message: &'a str,
}

/// All jobs, ordered by name.
pub fn jobs(default: &Connection) -> Result<Vec<JobRow>> {
    let mut statement = default.prepare_cached(
        "SELECT id, name, type, schedule, time_zone, active, spec, created, updated
         FROM _cron ORDER BY name",
    )?;
    let rows = statement.query_map([], row_to_job)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The job with this id or name.
pub fn job(default: &Connection, key: &str) -> Result<JobRow> {
    let found = default
        .prepare_cached(
            "SELECT id, name, type, schedule, time_zone, active, spec, created, updated
             FROM _cron WHERE id = ?1 OR name = ?1 ORDER BY id <> ?1",
        )?
        .query_row([key], row_to_job)
        .optional()?;
    found.ok_or_else(|| Error::not_found(format!("There is no cron job {key}.")))
}

fn row_to_job(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    let spec: String = row.get(6)?;
    Ok(JobRow {
        id: row.get(0)?,
        name: row.get(1)?,
        kind: row.get(2)?,
        schedule: row.get(3)?,
        time_zone: row.get(4)?,
        is_active: row.get(5)?,
        spec: serde_json::from_str(&spec).unwrap_or_default(),
        created: row.get(7)?,
        updated: row.get(8)?,
    })
}

pub fn insert(tx: &Connection, job: &JobRow) -> Result<()> {
    let count = "SELECT count(*) FROM _cron";
    if tx.query_row(count, [], |row| row.get::<_, i64>(0))? >= JOBS_MAX {
        return Err(Error::conflict(format!(
            "There are {JOBS_MAX} jobs already; delete some first."
        )));
    }
    refuse_same_name(tx, job)?;
    let sql = "INSERT INTO _cron
                   (id, name, type, schedule, time_zone, active, spec, created, updated)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    execute(tx, sql, job)
}

pub fn update(tx: &Connection, job: &JobRow) -> Result<()> {
    refuse_same_name(tx, job)?;
    let sql = "UPDATE _cron
               SET name = ?2, type = ?3, schedule = ?4, time_zone = ?5, active = ?6, spec = ?7,
                   created = ?8, updated = ?9
               WHERE id = ?1";
    execute(tx, sql, job)
}

fn execute(tx: &Connection, sql: &str, job: &JobRow) -> Result<()> {
    tx.prepare_cached(sql)?.execute(params![
        job.id,
        job.name,
        job.kind,
        job.schedule,
        job.time_zone,
        job.is_active,
        Value::Object(Map::clone(&job.spec)).to_string(),
        job.created,
        job.updated,
    ])?;
    Ok(())
}

/// Refuses a name that another job has as its name or id, so that a path identifies one job.
fn refuse_same_name(tx: &Connection, job: &JobRow) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _cron WHERE (name = ?1 OR id = ?1) AND id <> ?2)";
    match tx.query_row(sql, [&job.name, &job.id], |row| row.get(0))? {
        false => Ok(()),
        true => Err(Error::field(
            "name",
            "validation_not_unique",
            "Another job has this name.",
        )),
    }
}

pub fn delete(tx: &Connection, id: &str) -> Result<()> {
    tx.execute("DELETE FROM _cron WHERE id = ?1", [id])?;
    Ok(())
}

/// The states of jobs on this node, each with the schedule that it belongs to.
pub fn states(local: &Connection) -> Result<BTreeMap<String, (String, JobState)>> {
    let mut statement = local
        .prepare_cached("SELECT job, schedule, done_until_ms, ahead_until_ms FROM _cron_state")?;
    let rows = statement.query_map([], |row| {
        let state = JobState {
            done_until_ms: row.get(2)?,
            ahead_until_ms: row.get(3)?,
        };
        Ok((row.get(0)?, (row.get(1)?, state)))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub fn set_state(tx: &Connection, job: &str, plan: &str, state: JobState) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO _cron_state (job, schedule, done_until_ms, ahead_until_ms)
               VALUES (?1, ?2, ?3, ?4)";
    tx.prepare_cached(sql)?.execute(params![
        job,
        plan,
        state.done_until_ms,
        state.ahead_until_ms
    ])?;
    Ok(())
}

/// Deletes the states of jobs that are not planned, and the runs of deleted jobs.
pub fn delete_unlisted(
    tx: &Connection,
    planned: &BTreeSet<String>,
    is_gone: impl Fn(&str) -> bool,
) -> Result<()> {
    for job in query_names(tx, "SELECT job FROM _cron_state")? {
        if !planned.contains(&job) {
            let sql = "DELETE FROM _cron_state WHERE job = ?1";
            tx.prepare_cached(sql)?.execute([&job])?;
        }
    }
    for job in query_names(tx, "SELECT DISTINCT job FROM _cron_runs")? {
        if is_gone(&job) {
            let sql = "DELETE FROM _cron_runs WHERE job = ?1";
            tx.prepare_cached(sql)?.execute([&job])?;
        }
    }
    Ok(())
}

fn query_names(db: &Connection, sql: &str) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Records the start of a run. Returns its id.
pub fn begin_run(tx: &Connection, job: &str, due_ms: Option<i64>, now: i64) -> Result<i64> {
    let sql = "INSERT INTO _cron_runs (job, due_ms, started_ms, status)
               VALUES (?1, ?2, ?3, 'running')";
    tx.prepare_cached(sql)?.execute(params![job, due_ms, now])?;
    let run = tx.last_insert_rowid();
    trim_runs(tx, job)?;
    Ok(run)
}

/// Records the end of a run.
pub fn end_run(tx: &Connection, ended: &FinishedRun<'_>) -> Result<()> {
    let message: String = ended.message.chars().take(MESSAGE_CHARS_MAX).collect();
    if let Some(run) = ended.run {
        let sql = "UPDATE _cron_runs SET ended_ms = ?2, status = ?3, message = ?4 WHERE id = ?1";
        let values = params![run, ended.ended_ms, ended.outcome.name(), message];
        tx.prepare_cached(sql)?.execute(values)?;
        return Ok(());
    }
    let sql = "INSERT INTO _cron_runs (job, due_ms, started_ms, ended_ms, status, message)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    tx.prepare_cached(sql)?.execute(params![
        ended.job,
        ended.due_ms,
        ended.started_ms,
        ended.ended_ms,
        ended.outcome.name(),
        message,
    ])?;
    trim_runs(tx, ended.job)
}

fn trim_runs(tx: &Connection, job: &str) -> Result<()> {
    let sql = "DELETE FROM _cron_runs WHERE job = ?1 AND status <> 'running' AND id <=
                   (SELECT id FROM _cron_runs WHERE job = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
    tx.prepare_cached(sql)?.execute(params![job, RUNS_KEPT])?;
    Ok(())
}

/// Marks runs interrupted by a restart as failed; their progress is unknown.
pub fn fail_running(tx: &Connection, now: i64, message: &str) -> Result<()> {
    let sql = "UPDATE _cron_runs SET ended_ms = ?1, status = 'failed', message = ?2
               WHERE status = 'running'";
    tx.execute(sql, params![now, message])?;
    Ok(())
}

/// A page of the runs of a job, latest first, and the total number.
pub fn runs(local: &Connection, job: &str, page: Page) -> Result<(Vec<JobRun>, u64)> {
    let (limit, skip) = (page.size.cast_signed(), page.skip().cast_signed());
    let total = local
        .prepare_cached("SELECT count(*) FROM _cron_runs WHERE job = ?1")?
        .query_row([job], |row| row.get::<_, i64>(0))?;
    let mut statement = local.prepare_cached(
        "SELECT id, due_ms, started_ms, ended_ms, status, message FROM _cron_runs
         WHERE job = ?1 ORDER BY id DESC LIMIT ?2 OFFSET ?3",
    )?;
    let rows = statement.query_map(params![job, limit, skip], |row| {
        Ok(JobRun {
            id: row.get(0)?,
            due_ms: row.get(1)?,
            started_ms: row.get(2)?,
            ended_ms: row.get(3)?,
            status: row.get(4)?,
            message: row.get(5)?,
        })
    })?;
    let runs = rows.collect::<rusqlite::Result<_>>()?;
    Ok((runs, u64::try_from(total).unwrap_or(0)))
}

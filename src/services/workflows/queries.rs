//! Read-only queries for the HTTP API and the command line.

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params, params_from_iter};

use serde_json::Value;

use crate::base::clock;
use crate::base::error::Result;
use crate::base::json::{Object, array};
use crate::services::stats::QueueDepth;
use crate::services::workflows::codes::{EventKind, JobState, RunStatus, StepStatus};
use crate::services::workflows::journal;
use crate::services::workflows::sessions::WorkerGrant;
use crate::services::workflows::sql::sql;
use crate::services::workflows::tx::no_run;

/// Items on a page by default.
pub const PAGE_MAX: usize = 500;
/// Steps on a page.
const STEPS_MAX: usize = 5_000;
/// Bytes on a page of the journal, of events or of a stream.
const PAGE_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    pub workflow: Option<String>,
    pub status: Option<RunStatus>,
    /// The id of the parent.
    pub parent: Option<String>,
    /// Created at or after this time; milliseconds since 1970.
    pub since: Option<i64>,
    /// Attributes that a run must have, as names and strings.
    pub attributes: Vec<(String, String)>,
}

/// A position in the list of runs, newest first.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunCursor(pub Option<i64>);

const RUN: &str = "
    SELECT r.id, r.run, r.workflow, r.version, r.status, p.run, root.run, r.idempotency_key,
           r.concurrency_key, r.priority, r.attributes, r.created, r.started, r.ended, r.expires,
           j.state, j.due, j.note, j.worker, j.lost,
           (SELECT at FROM events e WHERE e.run = r.id ORDER BY seq DESC LIMIT 1)
    FROM runs r LEFT JOIN runs p ON p.id = r.parent LEFT JOIN runs root ON root.id = r.root
                LEFT JOIN jobs j ON j.run = r.id";

/// The runs that match a filter, newest first, as JSON `{items, next}`; `next` is the cursor of the
/// next page.
pub fn list(
    db: &Connection,
    grant: &WorkerGrant,
    filter: &RunFilter,
    cursor: RunCursor,
    limit: usize,
) -> Result<String> {
    let (wheres, values) = conditions(db, grant, filter, cursor)?;
    let sql = format!("{RUN} {wheres} ORDER BY r.id DESC LIMIT {}", limit + 1);
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values.iter()))?;
    let mut items = Vec::new();
    let mut last = 0;
    while let Some(row) = rows.next()? {
        if items.len() == limit {
            let next = Object::new().raw("items", &array(&items));
            return Ok(next.text("next", &format!("{last}")).end());
        }
        last = row.get(0)?;
        items.push(run_json(row)?.end());
    }
    Ok(Object::new()
        .raw("items", &array(&items))
        .raw("next", "null")
        .end())
}

/// The ids of the first runs that match a filter, oldest first.
pub fn ids(
    db: &Connection,
    grant: &WorkerGrant,
    filter: &RunFilter,
    limit: usize,
) -> Result<Vec<String>> {
    let (wheres, values) = conditions(db, grant, filter, RunCursor(None))?;
    let sql = format!("SELECT r.run FROM runs r {wheres} ORDER BY r.id LIMIT {limit}");
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(values.iter()), |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

type Values = Vec<Box<dyn ToSql>>;

fn conditions(
    db: &Connection,
    grant: &WorkerGrant,
    filter: &RunFilter,
    cursor: RunCursor,
) -> Result<(String, Values)> {
    let mut wheres = vec!["1".to_owned()];
    let mut values: Values = Vec::new();
    let mut add = |text: &str, value: Box<dyn ToSql>| {
        values.push(value);
        wheres.push(text.replace('?', &format!("?{}", values.len())));
    };
    if let Some(workflow) = &filter.workflow {
        add("r.workflow = ?", Box::new(workflow.clone()));
    }
    if let Some(status) = filter.status {
        add("r.status = ?", Box::new(status));
    }
    if let Some(parent) = &filter.parent {
        let sql = "SELECT id FROM runs WHERE run = ?1";
        let id: Option<i64> = db
            .prepare_cached(sql)?
            .query_row([parent], |row| row.get(0))
            .optional()?;
        add("r.parent = ?", Box::new(id));
    }
    if let Some(since) = filter.since {
        add("r.created >= ?", Box::new(since));
    }
    for (name, value) in &filter.attributes {
        let path = format!("$.{}", Value::from(name.clone()));
        values.push(Box::new(path));
        let path_at = values.len();
        values.push(Box::new(value.clone()));
        // The operator `->>` turns true and false into numbers.
        wheres.push(format!(
            "CASE json_type(r.attributes, ?{path_at}) WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' \
             ELSE CAST(r.attributes ->> ?{path_at} AS TEXT) END = ?{}",
            values.len()
        ));
    }
    if let Some(before) = cursor.0 {
        values.push(Box::new(before));
        wheres.push(format!("r.id < ?{}", values.len()));
    }
    if let Some(names) = &grant.workflows {
        let names: Vec<String> = names
            .iter()
            .map(|name| {
                values.push(Box::new(name.clone()));
                format!("?{}", values.len())
            })
            .collect();
        wheres.push(format!("r.workflow IN ({})", names.join(", ")));
    }
    Ok((format!("WHERE {}", wheres.join(" AND ")), values))
}

/// One run with its input and its result.
pub fn run(db: &Connection, grant: &WorkerGrant, run: &str) -> Result<String> {
    let id = find(db, grant, run)?;
    let sql = format!("{RUN} WHERE r.id = ?1");
    let mut statement = db.prepare_cached(&sql)?;
    let mut json = statement.query_row([id], |row| Ok(run_json(row)))??;
    json = json.raw("input", &input_of(db, id)?);
    let sql = "SELECT kind, data FROM events WHERE run = ?1 ORDER BY seq DESC LIMIT 1";
    let (kind, data): (EventKind, Option<String>) = db
        .prepare_cached(sql)?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let name = match kind {
        EventKind::RunCompleted => "output",
        EventKind::RunFailed => "error",
        EventKind::RunCancelled => "reason",
        EventKind::RunRetrying => "lastError",
        _ => return Ok(json.end()),
    };
    json = json.raw(name, data.as_deref().unwrap_or("null"));
    Ok(json.end())
}

/// The input of a run, byte for byte.
pub fn input(db: &Connection, grant: &WorkerGrant, run: &str) -> Result<String> {
    input_of(db, find(db, grant, run)?)
}

fn input_of(db: &Connection, id: i64) -> Result<String> {
    let sql = "SELECT data FROM events WHERE run = ?1 AND seq = 1";
    let input: Option<String> = db
        .prepare_cached(sql)?
        .query_row([id], |row| row.get(0))
        .optional()?
        .flatten();
    Ok(input.unwrap_or_else(|| "null".to_owned()))
}

/// The row id of a run that the grant covers.
fn find(db: &Connection, grant: &WorkerGrant, run: &str) -> Result<i64> {
    let sql = "SELECT id, workflow FROM runs WHERE run = ?1";
    let found: Option<(i64, String)> = db
        .prepare_cached(sql)?
        .query_row([run], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let found = found.filter(|(_, workflow)| grant.opens(workflow));
    found.map(|(id, _)| id).ok_or_else(|| no_run(run))
}

fn run_json(row: &Row<'_>) -> Result<Object> {
    let status: RunStatus = row.get(4)?;
    let time = |at: usize| -> Result<Option<String>> {
        let ms: Option<i64> = row.get(at)?;
        Ok(ms.map(clock::format_ms))
    };
    let text = |at: usize| -> Result<Option<String>> { Ok(row.get(at)?) };
    let version: String = row.get(3)?;
    let mut json = Object::new()
        .text("runId", &row.get::<_, String>(1)?)
        .text("workflow", &row.get::<_, String>(2)?)
        .some_text(
            "version",
            Some(version.as_str()).filter(|it| !it.is_empty()),
        )
        .text("status", status.word())
        .some_text("parentRunId", text(5)?.as_deref())
        .some_text("rootRunId", text(6)?.as_deref())
        .some_text("idempotencyKey", text(7)?.as_deref())
        .some_text("concurrencyKey", text(8)?.as_deref())
        .int("priority", row.get(9)?)
        .raw("attributes", &row.get::<_, String>(10)?)
        .some_text("createdAt", time(11)?.as_deref())
        .some_text("startedAt", time(12)?.as_deref())
        .some_text("completedAt", time(13)?.as_deref())
        .some_text("updatedAt", time(20)?.as_deref())
        .some_text("expiresAt", time(14)?.as_deref());
    let state: Option<JobState> = row.get(15)?;
    if let Some(state) = state {
        let worker: String = row.get(18)?;
        json = json.text("state", state.word());
        json = match state {
            JobState::Parked | JobState::Delayed => json.some_text("wakesAt", time(16)?.as_deref()),
            JobState::Paused => json.some_raw("paused", text(17)?.as_deref()),
            JobState::Leased => json.text("worker", &worker),
            JobState::Ready | JobState::Blocked => json,
        };
        let lost: i64 = row.get(19)?;
        if lost > 0 {
            json = json.int("workersLost", lost);
        }
    }
    Ok(json)
}

/// The steps of a run from an offset on, as JSON `{items, next}`.
pub fn steps(db: &Connection, grant: &WorkerGrant, run: &str, from: i64) -> Result<String> {
    let id = find(db, grant, run)?;
    let sql =
        "SELECT s.key, s.name, s.status, s.attempt, s.started, s.ended, s.retry, e.data, c.run
               FROM steps s LEFT JOIN events e ON e.run = s.run AND e.seq = s.result
                            LEFT JOIN runs c ON c.id = s.child
               WHERE s.run = ?1 ORDER BY coalesce(s.started, 0), s.key LIMIT -1 OFFSET ?2";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([id, from])?;
    let (mut items, mut bytes, mut next) = (Vec::new(), 0, from);
    while let Some(row) = rows.next()? {
        if items.len() == STEPS_MAX || bytes > PAGE_BYTES_MAX {
            return Ok(page(&items, Some(next)));
        }
        next += 1;
        let status: StepStatus = row.get(2)?;
        let data: Option<String> = row.get(7)?;
        bytes += data.as_ref().map_or(0, String::len);
        let time = |at: usize| -> Result<Option<String>> {
            let ms: Option<i64> = row.get(at)?;
            Ok(ms.map(clock::format_ms))
        };
        let name = match status {
            StepStatus::Completed => "output",
            _ => "error",
        };
        let json = Object::new()
            .text("runId", run)
            .text("stepId", &row.get::<_, String>(0)?)
            .text("name", &row.get::<_, String>(1)?)
            .text("status", status.word())
            .int("attempt", row.get(3)?)
            .some_text("startedAt", time(4)?.as_deref())
            .some_text("completedAt", time(5)?.as_deref())
            .some_text("retryAfter", time(6)?.as_deref())
            .some_raw(name, data.as_deref())
            .some_text("childRunId", row.get::<_, Option<String>>(8)?.as_deref());
        items.push(json.end());
    }
    Ok(page(&items, None))
}

/// The events of a run after `after`, as JSON `{items, next}`.
pub fn events(
    db: &Connection,
    grant: &WorkerGrant,
    run: &str,
    after: i64,
    limit: usize,
) -> Result<String> {
    let id = find(db, grant, run)?;
    let sql = "SELECT seq, kind, key, data, info, n, at FROM events WHERE run = ?1 AND seq > ?2 ORDER BY seq";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([id, after])?;
    let (mut items, mut bytes, mut last) = (Vec::new(), 0, after);
    let mut next = None;
    while let Some(row) = rows.next()? {
        if items.len() == limit || bytes > PAGE_BYTES_MAX {
            next = Some(last);
            break;
        }
        last = row.get(0)?;
        let kind: EventKind = row.get(1)?;
        let key: String = row.get(2)?;
        let data: Option<String> = row.get(3)?;
        bytes += data.as_ref().map_or(0, String::len);
        let info: Option<i64> = row.get(4)?;
        let is_time = matches!(
            kind,
            EventKind::WaitCreated | EventKind::StepRetrying | EventKind::RunRetrying
        );
        let json = Object::new()
            .int("eventId", last)
            .text("runId", run)
            .text("type", kind.word())
            .some_text(
                "correlationId",
                Some(key.as_str()).filter(|key| !key.is_empty()),
            )
            .some_raw("data", data.as_deref())
            .some_text(
                "resumeAt",
                info.filter(|_| is_time).map(clock::format_ms).as_deref(),
            )
            .some_int("attempt", row.get(5)?)
            .text("createdAt", &clock::format_ms(row.get(6)?));
        items.push(json.end());
    }
    Ok(page(&items, next))
}

/// The last events of a run, as JSON `{items, next}`.
pub fn last_events(
    db: &Connection,
    grant: &WorkerGrant,
    run: &str,
    count: usize,
) -> Result<String> {
    let id = find(db, grant, run)?;
    let sql = "SELECT coalesce(max(seq), 0) FROM events WHERE run = ?1";
    let last: i64 = db.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
    let after = last.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX));
    events(db, grant, run, after, count)
}

fn page(items: &[String], next: Option<i64>) -> String {
    let json = Object::new().raw("items", &array(items));
    match next {
        Some(next) => json.text("next", &next.to_string()).end(),
        None => json.raw("next", "null").end(),
    }
}

/// The journal of a run after `after`, as workers receive it, as JSON `{journal, seq, more}`.
pub fn journal(db: &Connection, grant: &WorkerGrant, run: &str, after: i64) -> Result<String> {
    let id = find(db, grant, run)?;
    let page = journal::read(db, id, after, PAGE_BYTES_MAX, true)?;
    Ok(Object::new()
        .list("journal", &page.entries)
        .int("seq", page.seq)
        .bool("more", page.more)
        .end())
}

/// A stream of a run from an index on, as JSON `{items: [{index, data}], end, next}`.
pub fn stream(
    db: &Connection,
    grant: &WorkerGrant,
    run: &str,
    name: &str,
    from: i64,
) -> Result<String> {
    let id = find(db, grant, run)?;
    let sql = "SELECT idx, data, last FROM chunks WHERE run = ?1 AND name = ?2 AND idx >= ?3 ORDER BY idx";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![id, name, from])?;
    let (mut items, mut bytes, mut next, mut is_end) = (Vec::new(), 0, from, false);
    while let Some(row) = rows.next()? {
        if bytes > PAGE_BYTES_MAX {
            break;
        }
        let data: String = row.get(1)?;
        bytes += data.len();
        let index: i64 = row.get(0)?;
        next = index + 1;
        is_end = row.get(2)?;
        items.push(Object::new().int("index", index).text("data", &data).end());
    }
    Ok(Object::new()
        .raw("items", &array(&items))
        .bool("end", is_end)
        .int("next", next)
        .end())
}

/// Unfinished runs by workflow and version, as JSON objects; `is_served` tells whether a worker has
/// the code.
pub fn queue(
    db: &Connection,
    grant: &WorkerGrant,
    is_served: impl Fn(&str, &str) -> bool,
) -> Result<Vec<String>> {
    let sql = sql!(
        "SELECT workflow, version, count(*), sum(state IN ({JobState::TIMED})),
                sum(state = {JobState::Ready}), sum(state = {JobState::Leased}),
                sum(state = {JobState::Paused}), sum(state = {JobState::Blocked}),
                min(iif(state = {JobState::Ready}, due, NULL))
         FROM jobs GROUP BY workflow, version ORDER BY workflow, version"
    );
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        let workflow: String = row.get(0)?;
        if !grant.opens(&workflow) {
            continue;
        }
        let version: String = row.get(1)?;
        let oldest: Option<i64> = row.get(8)?;
        let json = Object::new()
            .text("workflow", &workflow)
            .some_text(
                "version",
                Some(version.as_str()).filter(|it| !it.is_empty()),
            )
            .int("runs", row.get(2)?)
            .int("waiting", row.get(3)?)
            .int("ready", row.get(4)?)
            .int("leased", row.get(5)?)
            .int("paused", row.get(6)?)
            .int("blocked", row.get(7)?)
            .some_text("oldestReady", oldest.map(clock::format_ms).as_deref())
            .bool("hasWorker", is_served(&workflow, &version));
        items.push(json.end());
    }
    Ok(items)
}

/// The number of unfinished runs by state.
pub fn depth(db: &Connection) -> Result<QueueDepth> {
    let sql = "SELECT state, count(*) FROM jobs GROUP BY state";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut depth = QueueDepth::default();
    while let Some(row) = rows.next()? {
        let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        let state: JobState = row.get(0)?;
        *match state {
            JobState::Ready => &mut depth.ready,
            JobState::Leased => &mut depth.leased,
            JobState::Parked | JobState::Delayed => &mut depth.waiting,
            JobState::Paused => &mut depth.paused,
            JobState::Blocked => &mut depth.blocked,
        } += count;
    }
    Ok(depth)
}

/// Runs that failed because they lost too many workers in a row: dead letters.
pub fn abandoned(db: &Connection, grant: &WorkerGrant) -> Result<Vec<String>> {
    // Only among the latest failures, because each needs a lookup of its last event.
    let sql = sql!(
        "SELECT run, workflow, ended FROM (
           SELECT r.run, r.workflow, r.ended,
                  (SELECT data FROM events WHERE run = r.id ORDER BY seq DESC LIMIT 1) AS error
           FROM runs r WHERE r.status = {RunStatus::Failed} ORDER BY r.ended DESC LIMIT 1000)
         WHERE json_valid(error) AND error ->> '$.kind' = 'abandoned' LIMIT 100"
    );
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        let workflow: String = row.get(1)?;
        if grant.opens(&workflow) {
            let json = Object::new()
                .text("runId", &row.get::<_, String>(0)?)
                .text("workflow", &workflow)
                .text("failedAt", &clock::format_ms(row.get(2)?));
            items.push(json.end());
        }
    }
    Ok(items)
}

//! The tables of `stats.db`.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::count::{MinuteCounts, RequestCounts, RunCounts, Summable as _};
use super::histogram::Histogram;
use super::report::QueueDepth;
use crate::base::error::Result;

/// Minutes deleted per call.
const DELETE_MINUTES: i64 = 60;

/// Deletes old rows, at most [`DELETE_MINUTES`] of them.
const DELETE_OLD: [&str; 3] = [
    "DELETE FROM _queue WHERE minute < min(?1, ?2 + (SELECT min(minute) FROM _queue))",
    "DELETE FROM _requests WHERE minute < min(?1, ?2 + (SELECT min(minute) FROM _requests))",
    "DELETE FROM _runs WHERE minute < min(?1, ?2 + (SELECT min(minute) FROM _runs))",
];

/// Adds minutes to existing rows.
pub fn add(tx: &Connection, minutes: &[(i64, MinuteCounts)]) -> Result<()> {
    for (at, minute) in minutes {
        for (name, count) in &minute.requests {
            add_requests(tx, *at, name, count.clone())?;
        }
        for (name, count) in &minute.runs {
            add_runs(tx, *at, name, count.clone())?;
        }
    }
    Ok(())
}

fn add_requests(tx: &Connection, at: i64, name: &str, mut count: RequestCounts) -> Result<()> {
    let stored = tx
        .prepare_cached(
            "SELECT minute, route, errors_4xx, errors_5xx, micros, micros_max, buckets
             FROM _requests WHERE minute = ?1 AND route = ?2",
        )?
        .query_row(params![at, name], requests)
        .optional()?;
    if let Some(stored) = stored {
        count.add(&stored);
    }
    tx.prepare_cached(
        "INSERT OR REPLACE INTO _requests (minute, route, count, errors_4xx, errors_5xx, micros,
             micros_max, buckets) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        at,
        name,
        signed(count.times.count()),
        signed(count.errors_4xx),
        signed(count.errors_5xx),
        signed(count.times.sum),
        signed(count.times.max),
        count.times.encode(),
    ])?;
    Ok(())
}

fn add_runs(tx: &Connection, at: i64, name: &str, mut count: RunCounts) -> Result<()> {
    let stored = tx
        .prepare_cached(
            "SELECT minute, workflow, started, completed, failed, cancelled, steps, steps_failed,
                 steps_retried, micros, micros_max, buckets
             FROM _runs WHERE minute = ?1 AND workflow = ?2",
        )?
        .query_row(params![at, name], runs)
        .optional()?;
    if let Some(stored) = stored {
        count.add(&stored);
    }
    tx.prepare_cached(
        "INSERT OR REPLACE INTO _runs (minute, workflow, started, completed, failed, cancelled,
             steps, steps_failed, steps_retried, micros, micros_max, buckets)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        at,
        name,
        signed(count.started),
        signed(count.completed),
        signed(count.failed),
        signed(count.cancelled),
        signed(count.steps),
        signed(count.steps_failed),
        signed(count.steps_retried),
        signed(count.times.sum),
        signed(count.times.max),
        count.times.encode(),
    ])?;
    Ok(())
}

/// Deletes rows older than this minute, a limited number per call.
pub fn delete_before(tx: &Connection, minute: i64) -> Result<()> {
    for sql in DELETE_OLD {
        tx.prepare_cached(sql)?
            .execute(params![minute, DELETE_MINUTES])?;
    }
    Ok(())
}

/// Visits the request counts of these minutes in order.
pub fn each_request(
    connection: &Connection,
    minutes: &Range<i64>,
    mut each: impl FnMut(i64, &str, &RequestCounts) -> Result<()>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT minute, route, errors_4xx, errors_5xx, micros, micros_max, buckets
         FROM _requests WHERE minute >= ?1 AND minute < ?2",
    )?;
    let mut rows = statement.query([minutes.start, minutes.end])?;
    while let Some(row) = rows.next()? {
        each(row.get(0)?, text(row)?, &requests(row)?)?;
    }
    Ok(())
}

/// Stores the number of unfinished runs in a minute.
pub fn set_depth(tx: &Connection, minute: i64, depth: &QueueDepth) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO _queue (minute, ready, leased, waiting, paused, blocked)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    tx.prepare_cached(sql)?.execute(params![
        minute,
        signed(depth.ready),
        signed(depth.leased),
        signed(depth.waiting),
        signed(depth.paused),
        signed(depth.blocked),
    ])?;
    Ok(())
}

/// Visits the numbers of unfinished runs of these minutes.
pub fn each_depth(
    connection: &Connection,
    minutes: &Range<i64>,
    mut each: impl FnMut(i64, QueueDepth) -> Result<()>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT minute, ready, leased, waiting, paused, blocked
         FROM _queue WHERE minute >= ?1 AND minute < ?2",
    )?;
    let mut rows = statement.query([minutes.start, minutes.end])?;
    while let Some(row) = rows.next()? {
        let depth = QueueDepth {
            ready: count(row, 1)?,
            leased: count(row, 2)?,
            waiting: count(row, 3)?,
            paused: count(row, 4)?,
            blocked: count(row, 5)?,
        };
        each(row.get(0)?, depth)?;
    }
    Ok(())
}

/// Visits the run counts of these minutes in order.
pub fn each_run(
    connection: &Connection,
    minutes: &Range<i64>,
    mut each: impl FnMut(i64, &str, &RunCounts) -> Result<()>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT minute, workflow, started, completed, failed, cancelled, steps, steps_failed,
             steps_retried, micros, micros_max, buckets
         FROM _runs WHERE minute >= ?1 AND minute < ?2",
    )?;
    let mut rows = statement.query([minutes.start, minutes.end])?;
    while let Some(row) = rows.next()? {
        each(row.get(0)?, text(row)?, &runs(row)?)?;
    }
    Ok(())
}

/// Reads the columns from the third on.
fn requests(row: &Row<'_>) -> rusqlite::Result<RequestCounts> {
    Ok(RequestCounts {
        errors_4xx: count(row, 2)?,
        errors_5xx: count(row, 3)?,
        times: times(row, 4)?,
    })
}

/// Reads the columns from the third on.
fn runs(row: &Row<'_>) -> rusqlite::Result<RunCounts> {
    Ok(RunCounts {
        started: count(row, 2)?,
        completed: count(row, 3)?,
        failed: count(row, 4)?,
        cancelled: count(row, 5)?,
        steps: count(row, 6)?,
        steps_failed: count(row, 7)?,
        steps_retried: count(row, 8)?,
        times: times(row, 9)?,
    })
}

/// Reads the sum, maximum and buckets from this column on.
fn times(row: &Row<'_>, at: usize) -> rusqlite::Result<Histogram> {
    let bytes = row.get_ref(at + 2)?.as_blob()?;
    Ok(Histogram::decode(
        count(row, at)?,
        count(row, at + 1)?,
        bytes,
    ))
}

fn text<'a>(row: &'a Row<'_>) -> Result<&'a str> {
    Ok(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)
}

fn count(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(at)?;
    Ok(u64::try_from(number).unwrap_or(0))
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

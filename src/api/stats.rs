//! `GET /api/stats`: the statistics of this node, counted by the minute.

use serde::Serialize;

use super::call::Call;
use super::parameters::parameter;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::net::http::Response;
use crate::services::stats::{
    Granularity, Histogram, Points, QueueDepth, RequestCounts, RunCounts, StatsQuery, minute_of,
};

const HOUR_MS: i64 = 3_600_000;

#[derive(Serialize)]
struct StatsReport<'a> {
    from: String,
    to: String,
    by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<Vec<RequestRow<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflows: Option<Vec<WorkflowRow<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Vec<QueueRow>>,
}

/// The largest numbers of unfinished runs in the period.
#[derive(Serialize)]
struct QueueRow {
    time: String,
    ready: u64,
    leased: u64,
    waiting: u64,
    paused: u64,
    blocked: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestRow<'a> {
    time: String,
    route: &'a str,
    count: u64,
    errors4xx: u64,
    errors5xx: u64,
    mean_ms: Option<f64>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WorkflowRow<'a> {
    time: String,
    workflow: &'a str,
    started: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
    steps: u64,
    steps_failed: u64,
    steps_retried: u64,
    mean_ms: Option<f64>,
    p95_ms: Option<f64>,
    max_ms: Option<f64>,
}

/// Counts, errors and durations by route and by workflow.
pub fn get(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let (query, to_ms) = parse(&pairs, clock::now_ms())?;
    let report = call.app.stats.report(&query)?;
    let body = StatsReport {
        from: time(query.minutes.start),
        to: clock::format_ms(to_ms),
        by: query.by.name(),
        requests: query
            .wants_requests
            .then(|| rows(&report.requests, request_row)),
        workflows: query
            .wants_workflows
            .then(|| rows(&report.workflows, workflow_row)),
        queue: query
            .wants_workflows
            .then(|| report.queue.iter().map(queue_row).collect()),
    };
    Ok(Response::json(200, serde_json::to_vec(&body)?))
}

/// Parses the query, and the end of its period in milliseconds since 1970.
fn parse(pairs: &[(String, String)], now_ms: i64) -> Result<(StatsQuery, i64)> {
    let to_ms = moment(pairs, "to", now_ms)?;
    let from_ms = moment(pairs, "from", to_ms - HOUR_MS)?;
    if from_ms >= to_ms {
        return Err(Error::invalid("from must be before to."));
    }
    let by = match parameter(pairs, "by") {
        None | Some("") => Granularity::Minute,
        Some(name) => Granularity::parse(name).ok_or_else(|| {
            Error::invalid(format!("by={name}: must be minute, hour, day or total."))
        })?,
    };
    let mut query = StatsQuery::new(minute_of(from_ms)..minute_of(to_ms - 1) + 1, by)?;
    match parameter(pairs, "of") {
        None | Some("") => {}
        Some("requests") => query.wants_workflows = false,
        Some("workflows") => query.wants_requests = false,
        Some(other) => {
            return Err(Error::invalid(format!(
                "of={other}: must be requests or workflows."
            )));
        }
    }
    Ok((query, to_ms))
}

/// A query parameter that is a time, in milliseconds since 1970.
fn moment(pairs: &[(String, String)], name: &str, default: i64) -> Result<i64> {
    match parameter(pairs, name) {
        None | Some("") => Ok(default),
        Some(text) => clock::parse_datetime(text).ok_or_else(|| {
            Error::invalid(format!(
                "{name}={text}: must be a time such as 2026-01-31T12:00:00Z."
            ))
        }),
    }
}

fn rows<'a, T, R>(points: &'a Points<T>, row: fn(i64, &'a str, &T) -> R) -> Vec<R> {
    points
        .iter()
        .flat_map(|(at, counts)| {
            counts
                .iter()
                .map(move |(name, count)| row(*at, name, count))
        })
        .collect()
}

fn request_row<'a>(at: i64, route: &'a str, count: &RequestCounts) -> RequestRow<'a> {
    let times = &count.times;
    RequestRow {
        time: time(at),
        route,
        count: times.count(),
        errors4xx: count.errors_4xx,
        errors5xx: count.errors_5xx,
        mean_ms: times.mean().map(ms),
        p50_ms: times.percentile(0.5).map(ms),
        p95_ms: times.percentile(0.95).map(ms),
        p99_ms: times.percentile(0.99).map(ms),
        max_ms: longest(times),
    }
}

fn queue_row((at, depth): (&i64, &QueueDepth)) -> QueueRow {
    QueueRow {
        time: time(*at),
        ready: depth.ready,
        leased: depth.leased,
        waiting: depth.waiting,
        paused: depth.paused,
        blocked: depth.blocked,
    }
}

fn workflow_row<'a>(at: i64, workflow: &'a str, count: &RunCounts) -> WorkflowRow<'a> {
    let times = &count.times;
    WorkflowRow {
        time: time(at),
        workflow,
        started: count.started,
        completed: count.completed,
        failed: count.failed,
        cancelled: count.cancelled,
        steps: count.steps,
        steps_failed: count.steps_failed,
        steps_retried: count.steps_retried,
        mean_ms: times.mean().map(ms),
        p95_ms: times.percentile(0.95).map(ms),
        max_ms: longest(times),
    }
}

fn longest(times: &Histogram) -> Option<f64> {
    (times.count() > 0).then(|| ms(times.max as f64))
}

/// Microseconds as milliseconds with three decimal places.
fn ms(micros: f64) -> f64 {
    micros.round() / 1000.0
}

/// The time at which a minute begins.
fn time(minute: i64) -> String {
    clock::format_ms(minute * 60_000)
}

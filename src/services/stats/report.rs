//! Queries of the statistics and their reports.

use std::collections::BTreeMap;
use std::ops::Range;

use super::count::{RequestCounts, RunCounts, Summable, add_to};
use crate::base::error::{Error, Result};

/// Limit on points of time in a report.
pub const POINTS_MAX: i64 = 1500;
/// Limit on rows in a report.
const ROWS_MAX: usize = 30_000;

/// The interval of a report's points; hours and days are in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    Minute,
    Hour,
    Day,
    Total,
}

impl Granularity {
    const ALL: [Granularity; 4] = [
        Granularity::Minute,
        Granularity::Hour,
        Granularity::Day,
        Granularity::Total,
    ];

    pub fn parse(name: &str) -> Option<Granularity> {
        Granularity::ALL.into_iter().find(|by| by.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Granularity::Minute => "minute",
            Granularity::Hour => "hour",
            Granularity::Day => "day",
            Granularity::Total => "total",
        }
    }

    fn minutes(self) -> Option<i64> {
        match self {
            Granularity::Minute => Some(1),
            Granularity::Hour => Some(60),
            Granularity::Day => Some(24 * 60),
            Granularity::Total => None,
        }
    }
}

/// The requested minutes and granularity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsQuery {
    pub minutes: Range<i64>,
    pub by: Granularity,
    pub wants_requests: bool,
    pub wants_workflows: bool,
}

impl StatsQuery {
    /// Requests everything of these minutes; fails if that exceeds the limit on points.
    pub fn new(minutes: Range<i64>, by: Granularity) -> Result<StatsQuery> {
        let query = StatsQuery {
            minutes,
            by,
            wants_requests: true,
            wants_workflows: true,
        };
        let points = query.points(by);
        let fits = |by: &Granularity| query.points(*by) <= POINTS_MAX;
        match Granularity::ALL.into_iter().find(fits) {
            Some(coarser) if points > POINTS_MAX => Err(Error::invalid(format!(
                "by={}: the result has {points} points and the limit is {POINTS_MAX}; \
                 use by={}.",
                by.name(),
                coarser.name()
            ))),
            _ => Ok(query),
        }
    }

    fn points(&self, by: Granularity) -> i64 {
        let Some(minutes) = by.minutes() else {
            return 1;
        };
        let last = self.minutes.end - 1;
        last.div_euclid(minutes) - self.minutes.start.div_euclid(minutes) + 1
    }

    /// The first minute of the point that contains this minute.
    fn point(&self, minute: i64) -> i64 {
        match self.by.minutes() {
            Some(minutes) => minute - minute.rem_euclid(minutes),
            None => self.minutes.start,
        }
    }
}

/// Counts by first minute of a point, and by name.
pub type Points<T> = BTreeMap<i64, BTreeMap<String, T>>;

/// Unfinished runs, by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Waiting for a worker.
    pub ready: u64,
    /// Leased by a worker.
    pub leased: u64,
    /// Waiting for a time or an event.
    pub waiting: u64,
    /// Paused until their code is repaired.
    pub paused: u64,
    /// Blocked by another run with the same concurrency key.
    pub blocked: u64,
}

/// The result of a query.
#[derive(Debug, Default)]
pub struct StatsReport {
    /// The maximum of each number within a point.
    pub queue: BTreeMap<i64, QueueDepth>,
    pub requests: Points<RequestCounts>,
    pub workflows: Points<RunCounts>,
    rows: usize,
}

impl StatsReport {
    /// Adds the request counts of a route.
    pub fn add_requests(
        &mut self,
        query: &StatsQuery,
        minute: i64,
        name: &str,
        count: &RequestCounts,
    ) -> Result<()> {
        let points = &mut self.requests;
        add(points, &mut self.rows, query, minute, name, count)
    }

    /// Adds the number of unfinished runs.
    pub fn add_depth(&mut self, query: &StatsQuery, minute: i64, depth: QueueDepth) {
        let most = self.queue.entry(query.point(minute)).or_default();
        most.ready = most.ready.max(depth.ready);
        most.leased = most.leased.max(depth.leased);
        most.waiting = most.waiting.max(depth.waiting);
        most.paused = most.paused.max(depth.paused);
        most.blocked = most.blocked.max(depth.blocked);
    }

    /// Adds the run counts of a workflow.
    pub fn add_runs(
        &mut self,
        query: &StatsQuery,
        minute: i64,
        name: &str,
        count: &RunCounts,
    ) -> Result<()> {
        let points = &mut self.workflows;
        add(points, &mut self.rows, query, minute, name, count)
    }
}

fn add<T: Summable>(
    points: &mut Points<T>,
    rows: &mut usize,
    query: &StatsQuery,
    minute: i64,
    name: &str,
    count: &T,
) -> Result<()> {
    let counts = points.entry(query.point(minute)).or_default();
    let before = counts.len();
    add_to(counts, name, count);
    *rows += counts.len() - before;
    if *rows <= ROWS_MAX {
        return Ok(());
    }
    let advice = match query.by {
        Granularity::Minute => "use by=hour or a shorter time",
        Granularity::Hour => "use by=day or a shorter time",
        Granularity::Day => "use by=total or a shorter time",
        Granularity::Total => "use a shorter time",
    };
    Err(Error::invalid(format!(
        "by={}: a report has at most {ROWS_MAX} rows; {advice}.",
        query.by.name()
    )))
}

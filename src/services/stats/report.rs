//! What is asked of the statistics, and what is answered.

use std::collections::BTreeMap;
use std::ops::Range;

use super::count::{RequestCounts, RunCounts, Summable, add_to};
use crate::base::error::{Error, Result};

/// Points of time in one answer.
pub const POINTS_MAX: i64 = 1500;
/// Rows in one answer.
const ROWS_MAX: usize = 30_000;

/// What the minutes are put together to; hours and days are those of UTC.
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

    /// From its name.
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

/// The minutes that are asked for, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsQuery {
    pub minutes: Range<i64>,
    pub by: Granularity,
    pub wants_requests: bool,
    pub wants_workflows: bool,
}

impl StatsQuery {
    /// Everything of these minutes; refuses more points than an answer has.
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
                "by={}: that would be {points} points and an answer has at most {POINTS_MAX}; \
                 ask with by={}.",
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

    /// The minute that the point of this minute begins with.
    fn point(&self, minute: i64) -> i64 {
        match self.by.minutes() {
            Some(minutes) => minute - minute.rem_euclid(minutes),
            None => self.minutes.start,
        }
    }
}

/// Counts by the minute that a point begins with, and by name.
pub type Points<T> = BTreeMap<i64, BTreeMap<String, T>>;

/// Runs that have not ended, by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// For a worker.
    pub ready: u64,
    /// For the worker that has them.
    pub leased: u64,
    /// For a time, or for something to happen.
    pub waiting: u64,
    /// For somebody to mend their code.
    pub paused: u64,
    /// For another run of their concurrency key.
    pub blocked: u64,
}

/// What is answered.
#[derive(Debug, Default)]
pub struct StatsReport {
    /// The most of each within a point.
    pub queue: BTreeMap<i64, QueueDepth>,
    pub requests: Points<RequestCounts>,
    pub workflows: Points<RunCounts>,
    rows: usize,
}

impl StatsReport {
    /// Adds what happened to requests of a route.
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

    /// Adds how many runs had not ended.
    pub fn add_depth(&mut self, query: &StatsQuery, minute: i64, depth: QueueDepth) {
        let most = self.queue.entry(query.point(minute)).or_default();
        most.ready = most.ready.max(depth.ready);
        most.leased = most.leased.max(depth.leased);
        most.waiting = most.waiting.max(depth.waiting);
        most.paused = most.paused.max(depth.paused);
        most.blocked = most.blocked.max(depth.blocked);
    }

    /// Adds what happened to runs of a workflow.
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
        Granularity::Minute => "ask with by=hour, or for less time",
        Granularity::Hour => "ask with by=day, or for less time",
        Granularity::Day => "ask with by=total, or for less time",
        Granularity::Total => "ask for less time",
    };
    Err(Error::invalid(format!(
        "by={}: an answer has at most {ROWS_MAX} rows; {advice}.",
        query.by.name()
    )))
}

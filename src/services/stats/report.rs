//! What is asked of the statistics, and what is answered.

use std::collections::BTreeMap;
use std::ops::Range;

use super::count::{Count, Requests, Runs, add_to};
use crate::base::error::{Error, Result};

/// Points of time in one answer.
pub const POINTS_MAX: i64 = 1500;
/// Rows in one answer.
const ROWS_MAX: usize = 30_000;

/// What the minutes are put together to; hours and days are those of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Minute,
    Hour,
    Day,
    Total,
}

impl By {
    const ALL: [By; 4] = [By::Minute, By::Hour, By::Day, By::Total];

    /// From its name.
    pub fn parse(name: &str) -> Option<By> {
        By::ALL.into_iter().find(|by| by.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            By::Minute => "minute",
            By::Hour => "hour",
            By::Day => "day",
            By::Total => "total",
        }
    }

    fn minutes(self) -> Option<i64> {
        match self {
            By::Minute => Some(1),
            By::Hour => Some(60),
            By::Day => Some(24 * 60),
            By::Total => None,
        }
    }
}

/// The minutes that are asked for, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub minutes: Range<i64>,
    pub by: By,
    pub wants_requests: bool,
    pub wants_workflows: bool,
}

impl Query {
    /// Everything of these minutes; refuses more points than an answer has.
    pub fn new(minutes: Range<i64>, by: By) -> Result<Query> {
        let query = Query {
            minutes,
            by,
            wants_requests: true,
            wants_workflows: true,
        };
        let points = query.points(by);
        let fits = |by: &By| query.points(*by) <= POINTS_MAX;
        match By::ALL.into_iter().find(fits) {
            Some(coarser) if points > POINTS_MAX => Err(Error::invalid(format!(
                "by={}: that would be {points} points and an answer has at most {POINTS_MAX}; \
                 ask with by={}.",
                by.name(),
                coarser.name()
            ))),
            _ => Ok(query),
        }
    }

    fn points(&self, by: By) -> i64 {
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
pub struct Depth {
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
pub struct Report {
    /// The most of each within a point.
    pub queue: BTreeMap<i64, Depth>,
    pub requests: Points<Requests>,
    pub workflows: Points<Runs>,
    rows: usize,
}

impl Report {
    /// Adds what happened to requests of a route.
    pub fn add_requests(
        &mut self,
        query: &Query,
        minute: i64,
        name: &str,
        count: &Requests,
    ) -> Result<()> {
        let points = &mut self.requests;
        add(points, &mut self.rows, query, minute, name, count)
    }

    /// Adds how many runs had not ended.
    pub fn add_depth(&mut self, query: &Query, minute: i64, depth: Depth) {
        let most = self.queue.entry(query.point(minute)).or_default();
        most.ready = most.ready.max(depth.ready);
        most.leased = most.leased.max(depth.leased);
        most.waiting = most.waiting.max(depth.waiting);
        most.paused = most.paused.max(depth.paused);
        most.blocked = most.blocked.max(depth.blocked);
    }

    /// Adds what happened to runs of a workflow.
    pub fn add_runs(&mut self, query: &Query, minute: i64, name: &str, count: &Runs) -> Result<()> {
        let points = &mut self.workflows;
        add(points, &mut self.rows, query, minute, name, count)
    }
}

fn add<T: Count>(
    points: &mut Points<T>,
    rows: &mut usize,
    query: &Query,
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
        By::Minute => "ask with by=hour, or for less time",
        By::Hour => "ask with by=day, or for less time",
        By::Day => "ask with by=total, or for less time",
        By::Total => "ask for less time",
    };
    Err(Error::invalid(format!(
        "by={}: an answer has at most {ROWS_MAX} rows; {advice}.",
        query.by.name()
    )))
}

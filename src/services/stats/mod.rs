//! Statistics of this node: what happened to requests and to runs of workflows, by the minute
//! (ST-1: a replica has its own, and nothing of it is replicated).
//!
//! Counted in memory (`count`), written to `stats.db` by the timer when a minute is over and at an
//! orderly stop, kept for [`RETENTION_MINUTES`]. Writing adds to what is there, so a minute may be
//! written in parts. What was not written at a crash is lost, a minute or two; what cannot be written is tried
//! again with the next minute.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::base::clock;
use crate::base::error::Result;
use crate::store::db::Database;

mod count;
mod histogram;
mod report;
mod store;
#[cfg(test)]
mod tests;

pub use count::{NO_ROUTE, RequestCounts, RunCounts, RunEvent, minute_of};
pub use histogram::Histogram;
pub use report::{Granularity, Points, QueueDepth, StatsQuery, StatsReport};

use count::{ClockFn, Counters, MinuteCounts};

/// How long they are kept.
const RETENTION_MINUTES: i64 = 30 * 24 * 60;
/// Minutes written in one transaction; there are more only after writing has failed for long.
const WRITE_MINUTES: usize = 30;

/// The statistics of this node.
pub struct Stats {
    database: Arc<Database>,
    counts: Counters,
    /// Held by who moves counts to the file, and shared by those who look in both places.
    flush_lock: RwLock<()>,
}

impl Stats {
    /// Goes on with what is in the file; `routes` has a name for each number of a route.
    pub fn new(database: Arc<Database>, routes: Vec<String>) -> Stats {
        Stats::with_clock(database, routes, Box::new(clock::now_ms))
    }

    fn with_clock(database: Arc<Database>, routes: Vec<String>, now_ms: ClockFn) -> Stats {
        Stats {
            database,
            counts: Counters::new(routes, now_ms),
            flush_lock: RwLock::new(()),
        }
    }

    /// A request was answered with this status after so long. [`NO_ROUTE`] when there is no route
    /// for it.
    pub fn request(&self, route: usize, status: u16, elapsed: Duration) {
        self.counts.request(route, status, elapsed);
    }

    /// Something happened to a run of this workflow.
    pub fn run(&self, workflow: &str, what: RunEvent) {
        self.counts.run(workflow, what);
    }

    /// Keeps how many runs have not ended now.
    pub fn depth(&self, now_ms: i64, depth: QueueDepth) -> Result<()> {
        let minute = minute_of(now_ms);
        self.database
            .write(move |tx| store::set_depth(tx, minute, &depth))
    }

    /// Writes the minutes that are over and deletes what is too old. What cannot be written is kept
    /// for the next time, [`count::MINUTES_MAX`] at most.
    pub fn flush(&self, now_ms: i64) -> Result<()> {
        let minute = minute_of(now_ms);
        self.write(Some(minute), minute)
    }

    /// Writes everything, also of the minute that is not over.
    pub fn finish(&self) -> Result<()> {
        self.write(None, self.counts.minute())
    }

    fn write(&self, but: Option<i64>, present: i64) -> Result<()> {
        let _guard = self
            .flush_lock
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let minutes = Arc::new(self.counts.drain(but));
        let mut written = 0;
        loop {
            let end = minutes.len().min(written + WRITE_MINUTES);
            let (job, part) = (Arc::clone(&minutes), written..end);
            let result = self.database.write(move |tx| {
                store::add(tx, &job[part])?;
                store::delete_before(tx, present - RETENTION_MINUTES)
            });
            if let Err(error) = result {
                self.counts.restore(&minutes[written..]);
                return Err(error);
            }
            written = end;
            if written == minutes.len() {
                self.counts.mark_written();
                return Ok(());
            }
        }
    }

    /// What the file and the memory have.
    pub fn report(&self, query: &StatsQuery) -> Result<StatsReport> {
        let _guard = self
            .flush_lock
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let mut report = StatsReport::default();
        let minutes = &query.minutes;
        self.database.read(|connection| {
            if query.wants_requests {
                store::each_request(connection, minutes, |at, name, count| {
                    report.add_requests(query, at, name, count)
                })?;
            }
            if query.wants_workflows {
                store::each_depth(connection, minutes, |at, depth| {
                    report.add_depth(query, at, depth);
                    Ok(())
                })?;
                store::each_run(connection, minutes, |at, name, count| {
                    report.add_runs(query, at, name, count)
                })?;
            }
            Ok(())
        })?;
        self.counts
            .visit(minutes.clone(), |at, minute: &MinuteCounts| {
                if query.wants_requests {
                    for (name, count) in &minute.requests {
                        report.add_requests(query, at, name, count)?;
                    }
                }
                if query.wants_workflows {
                    for (name, count) in &minute.runs {
                        report.add_runs(query, at, name, count)?;
                    }
                }
                Ok(())
            })?;
        Ok(report)
    }

    /// The runs since the start, by workflow, of a bounded number.
    pub fn totals(&self) -> Vec<(String, RunCounts)> {
        self.counts.totals().into_iter().collect()
    }
}

//! Statistics of this node: requests and workflow runs per minute. A replica has its own;
//! statistics are not replicated.
//!
//! Counts are kept in memory (`count`), written to `stats.db` by the timer after each minute and at
//! a clean stop, and deleted after [`RETENTION_MINUTES`]. A write adds to existing rows, so a
//! minute may be written in parts. A crash loses counts that were not written, a minute or two. A
//! failed write is retried with the next minute.

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

/// Retention of statistics.
const RETENTION_MINUTES: i64 = 30 * 24 * 60;
/// Minutes per transaction; more are pending only after a long failure to write.
const WRITE_MINUTES: usize = 30;

/// The statistics of this node.
pub struct Stats {
    database: Arc<Database>,
    counts: Counters,
    /// Held exclusively while counts move to the file, and shared while both places are read.
    flush_lock: RwLock<()>,
}

impl Stats {
    /// Continues the statistics in the file. `routes` has the name of each route, by its number.
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

    /// Counts a response. Use [`NO_ROUTE`] if no route matches.
    pub fn request(&self, route: usize, status: u16, elapsed: Duration) {
        self.counts.request(route, status, elapsed);
    }

    /// Counts an event of a workflow run.
    pub fn run(&self, workflow: &str, what: RunEvent) {
        self.counts.run(workflow, what);
    }

    /// Stores the number of unfinished runs.
    pub fn depth(&self, now_ms: i64, depth: QueueDepth) -> Result<()> {
        let minute = minute_of(now_ms);
        self.database
            .write(move |tx| store::set_depth(tx, minute, &depth))
    }

    /// Writes completed minutes and deletes old ones. Minutes that cannot be written stay in
    /// memory, at most [`count::MINUTES_MAX`].
    pub fn flush(&self, now_ms: i64) -> Result<()> {
        let minute = minute_of(now_ms);
        self.write(Some(minute), minute)
    }

    /// Writes everything, including the current minute.
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

    /// Combines the counts of the file and the memory.
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

    /// The runs since the start by workflow; the number of workflows is bounded.
    pub fn totals(&self) -> Vec<(String, RunCounts)> {
        self.counts.totals().into_iter().collect()
    }
}

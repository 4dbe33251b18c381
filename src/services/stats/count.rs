//! Counters in memory: cheap to increment, exact to read.
//!
//! Requests are counted in one of [`SHARDS`] tables. Each table has a lock, which threads try
//! without waiting, a counter per route, and the counts of one minute. When the next minute begins,
//! or a reader needs the counts, they move to [`PendingMinutes`], so every count is in exactly one
//! place. Lock order: table, then pending.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use super::histogram::Histogram;
use crate::base::error::Result;
use crate::base::log;
use crate::base::threads::lock;

/// The route number of requests without a route.
pub const NO_ROUTE: usize = usize::MAX;
const NO_ROUTE_NAME: &str = "(no route)";
/// The name for workflows beyond [`NAMES_MAX`].
pub const OTHERS: &str = "(others)";
/// Limit on names of workflows per minute, and in the totals since the start.
pub const NAMES_MAX: usize = 1000;
/// Limit on names of workflows; longer ones are truncated.
const NAME_BYTES_MAX: usize = 200;
/// Limit on minutes that wait to be written.
pub const MINUTES_MAX: usize = 120;
const SHARDS: usize = 8;

/// Counts that can be added.
pub trait Summable: Clone + Default + PartialEq {
    fn add(&mut self, other: &Self);
}

/// Counts of the requests of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    pub errors_4xx: u64,
    pub errors_5xx: u64,
    pub times: Histogram,
}

impl Summable for RequestCounts {
    fn add(&mut self, other: &RequestCounts) {
        self.errors_4xx = self.errors_4xx.saturating_add(other.errors_4xx);
        self.errors_5xx = self.errors_5xx.saturating_add(other.errors_5xx);
        self.times.add(&other.times);
    }
}

/// Counts of the runs of one workflow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunCounts {
    pub started: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub steps: u64,
    pub steps_failed: u64,
    pub steps_retried: u64,
    /// Durations of runs that completed or failed.
    pub times: Histogram,
}

impl Summable for RunCounts {
    fn add(&mut self, other: &RunCounts) {
        for (sum, count) in [
            (&mut self.started, other.started),
            (&mut self.completed, other.completed),
            (&mut self.failed, other.failed),
            (&mut self.cancelled, other.cancelled),
            (&mut self.steps, other.steps),
            (&mut self.steps_failed, other.steps_failed),
            (&mut self.steps_retried, other.steps_retried),
        ] {
            *sum = sum.saturating_add(count);
        }
        self.times.add(&other.times);
    }
}

/// An event of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEvent {
    Started,
    /// After this duration.
    Completed(Duration),
    /// After this duration.
    Failed(Duration),
    Cancelled,
    /// A step succeeded.
    Step,
    /// A step failed permanently.
    StepFailed,
    /// A step failed and is retried.
    StepRetried,
}

impl RunCounts {
    fn record(&mut self, what: RunEvent) {
        match what {
            RunEvent::Started => self.started += 1,
            RunEvent::Completed(elapsed) => {
                self.completed += 1;
                self.times.record(elapsed);
            }
            RunEvent::Failed(elapsed) => {
                self.failed += 1;
                self.times.record(elapsed);
            }
            RunEvent::Cancelled => self.cancelled += 1,
            RunEvent::Step => self.steps += 1,
            RunEvent::StepFailed => self.steps_failed += 1,
            RunEvent::StepRetried => self.steps_retried += 1,
        }
    }
}

/// The counts of one minute, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MinuteCounts {
    pub requests: BTreeMap<String, RequestCounts>,
    pub runs: BTreeMap<String, RunCounts>,
}

impl MinuteCounts {
    fn add(&mut self, other: &MinuteCounts) {
        for (name, count) in &other.requests {
            add_to(&mut self.requests, name, count);
        }
        for (name, count) in &other.runs {
            add_bounded(&mut self.runs, name, count);
        }
    }
}

/// Adds a count under a name.
pub fn add_to<T: Summable>(counts: &mut BTreeMap<String, T>, name: &str, count: &T) {
    match counts.get_mut(name) {
        Some(sum) => sum.add(count),
        None => drop(counts.insert(name.to_owned(), count.clone())),
    }
}

fn add_bounded<T: Summable>(counts: &mut BTreeMap<String, T>, name: &str, count: &T) {
    let is_new = counts.len() >= NAMES_MAX && !counts.contains_key(name);
    add_to(counts, if is_new { OTHERS } else { name }, count);
}

/// The minute since 1970 of a Unix time in milliseconds.
pub fn minute_of(ms: i64) -> i64 {
    ms.div_euclid(60_000)
}

/// Returns the time in Unix milliseconds.
pub type ClockFn = Box<dyn Fn() -> i64 + Send + Sync>;

/// All counts that are not written yet.
pub struct Counters {
    /// The last entry is for requests without a route.
    routes: Vec<String>,
    shards: [Shard; SHARDS],
    runs: Mutex<RunTable>,
    pending: Mutex<PendingMinutes>,
    now_ms: ClockFn,
}

/// Aligned to its own cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<RequestTable>);

/// Counts by route number.
#[derive(Default)]
struct RequestTable {
    minute: i64,
    counts: Vec<RequestCounts>,
}

#[derive(Default)]
struct RunTable {
    minute: i64,
    counts: HashMap<String, RunCounts>,
}

/// Counts that wait to be written.
#[derive(Default)]
struct PendingMinutes {
    minutes: BTreeMap<i64, MinuteCounts>,
    /// Totals of runs since the start.
    totals: BTreeMap<String, RunCounts>,
    /// A warning about dropped minutes was logged.
    has_warned: bool,
}

impl Counters {
    /// Creates empty counters for these routes.
    pub fn new(mut routes: Vec<String>, now_ms: ClockFn) -> Counters {
        routes.push(NO_ROUTE_NAME.to_owned());
        let counts = vec![RequestCounts::default(); routes.len()];
        let shards = std::array::from_fn(|_| {
            let counts = counts.clone();
            Shard(Mutex::new(RequestTable { minute: 0, counts }))
        });
        Counters {
            routes,
            shards,
            runs: Mutex::default(),
            pending: Mutex::default(),
            now_ms,
        }
    }

    /// Counts a response.
    pub fn request(&self, route: usize, status: u16, elapsed: Duration) {
        let minute = self.minute();
        let mut table = self.table();
        if table.minute != minute {
            self.drain_requests(&mut table);
            table.minute = minute;
        }
        let last = table.counts.len() - 1;
        let count = &mut table.counts[route.min(last)];
        match status {
            400..500 => count.errors_4xx += 1,
            500.. => count.errors_5xx += 1,
            _ => {}
        }
        count.times.record(elapsed);
    }

    /// Counts an event of a run.
    pub fn run(&self, workflow: &str, what: RunEvent) {
        let (minute, name) = (self.minute(), truncate_name(workflow));
        let mut table = lock(&self.runs);
        if table.minute != minute {
            self.drain_runs(&mut table);
            table.minute = minute;
        }
        match table.counts.get_mut(name) {
            Some(count) => count.record(what),
            None => {
                let is_one_more = table.counts.len() >= NAMES_MAX;
                let name = if is_one_more { OTHERS } else { name };
                table
                    .counts
                    .entry(name.to_owned())
                    .or_default()
                    .record(what);
            }
        }
    }

    /// The current minute.
    pub fn minute(&self) -> i64 {
        minute_of((self.now_ms)())
    }

    /// Takes the counts of all minutes except `but`.
    pub fn drain(&self, but: Option<i64>) -> Vec<(i64, MinuteCounts)> {
        let mut pending = self.gather();
        let kept = but.and_then(|at| pending.minutes.remove_entry(&at));
        let taken = std::mem::take(&mut pending.minutes);
        pending.minutes.extend(kept);
        taken.into_iter().collect()
    }

    /// Takes back minutes that could not be written.
    pub fn restore(&self, minutes: &[(i64, MinuteCounts)]) {
        let mut pending = lock(&self.pending);
        for (at, minute) in minutes {
            pending.minutes.entry(*at).or_default().add(minute);
        }
        pending.drop_oldest();
    }

    /// Records that everything is written, so that the next drop is logged again.
    pub fn mark_written(&self) {
        lock(&self.pending).has_warned = false;
    }

    /// Visits the counts of these minutes.
    pub fn visit(
        &self,
        minutes: Range<i64>,
        mut each: impl FnMut(i64, &MinuteCounts) -> Result<()>,
    ) -> Result<()> {
        let pending = self.gather();
        let mut found = pending.minutes.range(minutes);
        found.try_for_each(|(at, minute)| each(*at, minute))
    }

    /// Totals of runs since the start, by workflow.
    pub fn totals(&self) -> BTreeMap<String, RunCounts> {
        self.gather().totals.clone()
    }

    /// A free table, preferably the last one of this thread.
    fn table(&self) -> MutexGuard<'_, RequestTable> {
        let own = own_shard();
        for at in 0..SHARDS {
            match self.shards[(own + at) % SHARDS].0.try_lock() {
                Ok(table) => return table,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        lock(&self.shards[own].0)
    }

    /// Moves all counts to the pending minutes.
    fn gather(&self) -> MutexGuard<'_, PendingMinutes> {
        for shard in &self.shards {
            self.drain_requests(&mut lock(&shard.0));
        }
        self.drain_runs(&mut lock(&self.runs));
        lock(&self.pending)
    }

    fn drain_requests(&self, table: &mut RequestTable) {
        let nothing = RequestCounts::default();
        let used = |(_, count): &(_, &mut RequestCounts)| **count != nothing;
        let mut pending = None;
        for (name, count) in self.routes.iter().zip(&mut table.counts).filter(used) {
            let pending = pending.get_or_insert_with(|| lock(&self.pending));
            let minute = pending.minutes.entry(table.minute).or_default();
            add_to(&mut minute.requests, name, &std::mem::take(count));
        }
        if let Some(mut pending) = pending {
            pending.drop_oldest();
        }
    }

    fn drain_runs(&self, table: &mut RunTable) {
        if table.counts.is_empty() {
            return;
        }
        let mut pending = lock(&self.pending);
        for (name, count) in table.counts.drain() {
            add_bounded(&mut pending.totals, &name, &count);
            let minute = pending.minutes.entry(table.minute).or_default();
            add_bounded(&mut minute.runs, &name, &count);
        }
        pending.drop_oldest();
    }
}

impl PendingMinutes {
    /// Drops the oldest minutes if there are too many.
    fn drop_oldest(&mut self) {
        while self.minutes.len() > MINUTES_MAX {
            self.minutes.pop_first();
            if !std::mem::replace(&mut self.has_warned, true) {
                log::warn(format_args!(
                    "statistics of more than {MINUTES_MAX} minutes could not be written; dropping the oldest"
                ));
            }
        }
    }
}

/// The shard of this thread.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.get().unwrap_or_else(|| {
        let own = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        OWN.set(Some(own));
        own
    })
}

/// Truncates a long name.
fn truncate_name(name: &str) -> &str {
    match name.len() {
        0..=NAME_BYTES_MAX => name,
        _ => {
            let end = (0..=NAME_BYTES_MAX)
                .rev()
                .find(|at| name.is_char_boundary(*at));
            &name[..end.unwrap_or(0)]
        }
    }
}

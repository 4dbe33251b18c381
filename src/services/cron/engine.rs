//! The cron engine: a clock thread that finds due jobs, and one worker thread per kind of job.
//!
//! The clock never waits for a job. A job runs at most once at a time, so each queue is bounded by
//! the number of jobs. The order of writes decides what a crash does:
//!
//! - A call or a workflow run is queued under a key made of the job and its due time, and then
//!   recorded as done. After a crash in between it is queued again and dropped because of the key.
//!   So it happens once.
//! - A script is recorded as running, and its due time as done, before it runs. After a crash it
//!   counts as failed and does not run again, because a second run might repeat its effects.
//!
//! Definitions are read again when the API changes them, and periodically, because on a replica
//! they arrive by replication.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::InterruptHandle;

use crate::base::error::{Error, Kind, Result};
use crate::base::queue::Queue;
use crate::base::signal::Signal;
use crate::base::threads::{Stop, lock};
use crate::base::{clock, log, threads};
use crate::services::cron::core::{CronCore, DueRun, JobPlan, JobState};
use crate::services::cron::job::{CronJob, JobAction, JobRow};
use crate::services::cron::queue::QueuedRun;
use crate::services::cron::store;
use crate::services::cron::store::{FinishedRun, RunOutcome};
use crate::store::db;
use crate::store::db::{Databases, Role};

/// The clock is read at the start of each second, because it may be set at any time.
const SECOND_MS: u64 = 1000;
/// Pause after a failed write.
const FAILED_PAUSE: Duration = Duration::from_secs(5);
/// Interval at which definitions are read.
const RELOAD_EVERY: Duration = Duration::from_secs(30);
/// Interval at which schedules are parsed again, because time zone rules may change.
const REPARSE_EVERY: Duration = Duration::from_secs(3600);
/// Interval of attempts to interrupt a script at a stop.
const INTERRUPT_EVERY: Duration = Duration::from_millis(20);

/// The cron jobs of this node.
pub struct Cron {
    pub(super) databases: Arc<Databases>,
    /// Signals the webhook dispatcher.
    pub(super) calls: Arc<Signal<String>>,
    pub(super) core: Mutex<CronCore>,
    jobs: Mutex<Definitions>,
    /// The queues of the worker threads. Bound: a job is in them once.
    pub(super) queues: [Queue<QueuedRun>; 3],
    /// Wakes the clock before the next second.
    signal: Signal<String>,
    pub(super) stop: Stop,
    /// Interrupts the running script.
    pub(super) script: Arc<Mutex<Option<InterruptHandle>>>,
    outcomes: [AtomicU64; 3],
}

/// The definitions as last read.
#[derive(Default)]
struct Definitions {
    rows: Option<Vec<JobRow>>,
    parsed: Option<Instant>,
    by_id: BTreeMap<String, Arc<CronJob>>,
    /// The last error, so that it is logged once.
    error: Option<String>,
}

/// The kind of a worker thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerKind {
    Sql,
    Http,
    Workflow,
}

impl JobAction {
    fn kind(&self) -> WorkerKind {
        match self {
            JobAction::Sql(_) => WorkerKind::Sql,
            JobAction::Http(_) => WorkerKind::Http,
            JobAction::Workflow { .. } => WorkerKind::Workflow,
        }
    }
}

impl Cron {
    /// Opens the engine; nothing runs before [`Cron::run`]. `calls` is notified of queued calls.
    pub fn open(databases: &Arc<Databases>, calls: Arc<Signal<String>>) -> Result<Cron> {
        let now = clock::now_ms();
        databases
            .local()
            .write(move |tx| store::fail_running(tx, now, "The server stopped during the run."))?;
        Ok(Cron {
            databases: Arc::clone(databases),
            calls,
            core: Mutex::default(),
            jobs: Mutex::default(),
            queues: Default::default(),
            signal: Signal::default(),
            stop: Stop::new(),
            script: Arc::default(),
            outcomes: Default::default(),
        })
    }

    /// Reports that definitions have changed.
    pub fn notify(&self) {
        self.signal.notify(db::DEFAULT);
    }

    /// Starts nothing more; a running script is rolled back.
    pub fn stop(&self) {
        self.stop.set();
        self.signal.wake();
        for queue in &self.queues {
            queue.close();
        }
    }

    /// Runs since the start with this outcome.
    pub fn count(&self, outcome: RunOutcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }

    pub fn role(&self) -> Role {
        self.databases.role()
    }

    pub fn is_running(&self, job: &str) -> bool {
        lock(&self.core).is_running(job)
    }

    /// Runs the clock thread.
    pub fn run(&self) {
        let mut reload_at = Instant::now();
        while !self.stop.is_set() {
            if Instant::now() >= reload_at {
                reload_at = Instant::now() + RELOAD_EVERY;
                self.reload_definitions();
            }
            let pause = match self.start_due(clock::now_ms()) {
                Ok(()) => until_next_second(clock::now_ms()),
                Err(error) => {
                    log::warn(format_args!("cron: {error}"));
                    FAILED_PAUSE
                }
            };
            if !self.signal.wait(pause).is_empty() {
                reload_at = Instant::now();
            }
        }
        // An interrupt has no effect between two statements, so repeat it until the script has
        // ended.
        while self.interrupt() {
            threads::pause(INTERRUPT_EVERY);
        }
    }

    /// Interrupts the running script but no other write. Returns false if no script runs.
    fn interrupt(&self) -> bool {
        let script = lock(&self.script);
        script.as_ref().map(InterruptHandle::interrupt).is_some()
    }

    /// Starts due jobs.
    fn start_due(&self, now: i64) -> Result<()> {
        let all = lock(&self.core).tick(now);
        let mut result = Ok(());
        for due in all {
            if let Err(error) = self.begin(&due, now) {
                lock(&self.core).undo(&due);
                result = Err(error);
            }
        }
        result
    }

    fn begin(&self, due: &DueRun, now: i64) -> Result<()> {
        let job = lock(&self.jobs).by_id.get(&due.job).cloned();
        let Some(job) = job else {
            return Err(Error::internal("a planned job has no definition"));
        };
        if due.is_skipped {
            return self.skip(&job, due, now);
        }
        let run = match job.action {
            JobAction::Sql(_) => Some(self.record_start(&job, Some(due.due_ms), now)?),
            _ => None,
        };
        self.enqueue(QueuedRun {
            due_ms: Some(due.due_ms),
            is_repeat: due.is_repeat,
            run,
            job,
        });
        Ok(())
    }

    /// Skips a due time because the previous run is still active.
    fn skip(&self, job: &CronJob, due: &DueRun, now: i64) -> Result<()> {
        // For other jobs the time is recorded at the end of the active run. After a crash both
        // times count as missed.
        let state = match job.action {
            JobAction::Sql(_) => self.state(&job.id),
            _ => None,
        };
        let (id, due_ms) = (job.id.clone(), due.due_ms);
        self.databases.local().write(move |tx| {
            if let Some((plan, state)) = state {
                store::set_state(tx, &id, &plan, state)?;
            }
            store::end_run(
                tx,
                &FinishedRun {
                    job: &id,
                    run: None,
                    due_ms: Some(due_ms),
                    started_ms: now,
                    ended_ms: now,
                    outcome: RunOutcome::Skipped,
                    message: "The previous run is still active.",
                },
            )
        })?;
        self.outcomes[RunOutcome::Skipped as usize].fetch_add(1, Relaxed);
        Ok(())
    }

    /// Records the start of a run, and its due time as done.
    fn record_start(&self, job: &CronJob, due_ms: Option<i64>, now: i64) -> Result<i64> {
        let state = due_ms.and_then(|_| self.state(&job.id));
        let id = job.id.clone();
        self.databases.local().write(move |tx| {
            if let Some((plan, state)) = state {
                store::set_state(tx, &id, &plan, state)?;
            }
            store::begin_run(tx, &id, due_ms, now)
        })
    }

    pub(super) fn state(&self, job: &str) -> Option<(String, JobState)> {
        let core = lock(&self.core);
        core.state(job)
            .map(|(plan, state)| (plan.to_owned(), state))
    }

    fn enqueue(&self, work: QueuedRun) {
        let queue = &self.queues[work.job.action.kind() as usize];
        // A closed queue: the server stops.
        let _ = queue.push(work);
    }

    /// Runs a job now, even if it is not active. Returns the id of the run.
    pub fn run_now(&self, stored: &JobRow) -> Result<i64> {
        let job = Arc::new(CronJob::restore(stored)?);
        if !job.runs_on(self.role()) {
            return Err(Error::new(
                Kind::Forbidden,
                "A replica runs only scripts for stats and workflows; run this job on the master.",
            ));
        }
        if self.stop.is_set() {
            return Err(Error::unavailable("The server is stopping; try again."));
        }
        if !lock(&self.core).start(&job.id) {
            return Err(Error::conflict("The job is already running."));
        }
        let noted = self.record_start(&job, None, clock::now_ms());
        let run = noted.inspect_err(|_| lock(&self.core).finish(&job.id))?;
        self.enqueue(QueuedRun {
            job,
            due_ms: None,
            is_repeat: false,
            run: Some(run),
        });
        Ok(run)
    }

    /// Records the end of a run.
    pub(super) fn record_end(
        &self,
        work: &QueuedRun,
        started_ms: i64,
        result: &Result<String, String>,
    ) {
        let id = work.job.id.clone();
        let (outcome, message) = match result {
            Ok(message) => (RunOutcome::Success, message.clone()),
            Err(message) => {
                log::warn(format_args!(
                    "cron job failed name={:?} {message}",
                    work.job.name
                ));
                (RunOutcome::Failed, message.clone())
            }
        };
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
        let state = work.due_ms.and_then(|_| self.state(&id));
        let (run, due_ms) = (work.run, work.due_ms);
        let is_there = lock(&self.jobs).by_id.contains_key(&id) || run.is_some();
        let ended_ms = clock::now_ms();
        let written = self.databases.local().write(move |tx| {
            if let Some((plan, state)) = state {
                store::set_state(tx, &id, &plan, state)?;
            }
            let ended = FinishedRun {
                job: &id,
                run,
                due_ms,
                started_ms,
                ended_ms,
                outcome,
                message: &message,
            };
            match is_there {
                true => store::end_run(tx, &ended),
                false => Ok(()),
            }
        });
        if let Err(error) = written {
            log::warn(format_args!("record a cron run: {error}"));
        }
        lock(&self.core).finish(&work.job.id);
    }

    /// Reads the definitions; logs an error once.
    fn reload_definitions(&self) {
        let read = self.databases.default().read(store::jobs);
        if self.databases.role() == Role::Replica
            && let Err(error) = &read
            && error.kind() == Kind::Unavailable
        {
            // `default.db` has not arrived yet.
            return;
        }
        let read = read.and_then(|rows| self.apply_definitions(rows));
        let error = read.err().map(|error| error.to_string());
        let mut jobs = lock(&self.jobs);
        if let Some(error) = error.as_ref().filter(|_| jobs.error != error) {
            log::warn(format_args!("read cron jobs: {error}"));
        }
        jobs.error = error;
    }

    fn apply_definitions(&self, rows: Vec<JobRow>) -> Result<()> {
        {
            let jobs = lock(&self.jobs);
            let is_fresh = jobs.parsed.is_some_and(|at| at.elapsed() < REPARSE_EVERY);
            if is_fresh && jobs.rows.as_ref() == Some(&rows) {
                return Ok(());
            }
        }
        let (mut by_id, mut plans) = (BTreeMap::new(), BTreeMap::<String, JobPlan>::new());
        for row in &rows {
            match CronJob::restore(row) {
                Ok(job) => {
                    if job.is_active && job.runs_on(self.role()) {
                        plans.insert(job.id.clone(), job.plan.clone());
                    }
                    by_id.insert(job.id.clone(), Arc::new(job));
                }
                Err(error) => {
                    log::warn(format_args!("cron job {:?} is disabled: {error}", row.name));
                }
            }
        }
        let stored = self.databases.local().read(store::states)?;
        let states: Vec<_> = {
            let mut core = lock(&self.core);
            core.plan(clock::now_ms(), plans, &stored);
            let states = core.planned().filter_map(|job| {
                let (plan, state) = core.state(job)?;
                // A known state is saved only when its run is recorded.
                let is_new = stored.get(job).is_none_or(|(known, _)| known != plan);
                is_new.then(|| (job.clone(), plan.to_owned(), state))
            });
            states.collect()
        };
        let planned: BTreeSet<String> = lock(&self.core).planned().cloned().collect();
        let ids = |rows: &[JobRow]| rows.iter().map(|row| row.id.clone()).collect();
        let there: BTreeSet<String> = ids(&rows);
        let before: Option<BTreeSet<String>> = {
            let mut jobs = lock(&self.jobs);
            jobs.by_id = by_id;
            jobs.rows.as_deref().map(ids)
        };
        // A job with runs but no definition may be newer than the definitions just read.
        let is_gone = move |id: &str| {
            !there.contains(id) && before.as_ref().is_none_or(|before| before.contains(id))
        };
        self.databases.local().write(move |tx| {
            for (job, plan, state) in &states {
                store::set_state(tx, job, plan, *state)?;
            }
            store::delete_unlisted(tx, &planned, is_gone)
        })?;
        let mut jobs = lock(&self.jobs);
        (jobs.rows, jobs.parsed) = (Some(rows), Some(Instant::now()));
        Ok(())
    }
}

fn until_next_second(now: i64) -> Duration {
    let past = u64::try_from(now).unwrap_or(0) % SECOND_MS;
    Duration::from_millis(SECOND_MS - past)
}

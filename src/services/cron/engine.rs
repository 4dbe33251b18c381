//! The threads of the jobs: a clock that finds what is due, and one thread for each kind of job that does it.
//!
//! The clock never waits for a job. A job runs at most once at a time, so each queue is bounded by the number of
//! jobs. In which order things are written decides what a crash does:
//!
//! - A call or a run of a workflow is queued under a key of the job and the time that it was due, and then noted as
//!   done: after a crash in between it is queued again, and passed over because of the key. So it happens once.
//! - A script is noted as running and its time as done, then it runs: after a crash it has failed, and is not
//!   run again, because nobody knows what it would do twice.
//!
//! The definitions are read again when the API has changed them, and now and then, because on a replica they
//! come from elsewhere.

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
use crate::base::{clock, log};
use crate::services::cron::core::{CronCore, DueRun, JobPlan, JobState};
use crate::services::cron::job::{CronJob, JobAction, JobRow};
use crate::services::cron::queue::QueuedRun;
use crate::services::cron::store;
use crate::services::cron::store::{FinishedRun, RunOutcome};
use crate::store::db;
use crate::store::db::{Databases, Role};

/// Between two looks at the clock, which may have been set: when a second begins, as jobs do.
const SECOND_MS: u64 = 1000;
/// After a write that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks at the definitions.
const RELOAD_EVERY: Duration = Duration::from_secs(30);
/// After so long the rules of time zones may be others.
const REPARSE_EVERY: Duration = Duration::from_secs(3600);
/// Between two attempts to end a script at a stop.
const INTERRUPT_EVERY: Duration = Duration::from_millis(20);

/// The jobs of this node.
pub struct Cron {
    pub(super) databases: Arc<Databases>,
    /// Who makes calls hears of them here.
    pub(super) calls: Arc<Signal<String>>,
    pub(super) core: Mutex<CronCore>,
    jobs: Mutex<Definitions>,
    /// The queues of the worker threads. Bound: a job is in them once.
    pub(super) queues: [Queue<QueuedRun>; 3],
    /// Something is to be looked at before the next second.
    signal: Signal<String>,
    pub(super) stop: Stop,
    /// How the script that runs is ended.
    pub(super) script: Arc<Mutex<Option<InterruptHandle>>>,
    outcomes: [AtomicU64; 3],
}

/// The definitions as they were read last.
#[derive(Default)]
struct Definitions {
    rows: Option<Vec<JobRow>>,
    parsed: Option<Instant>,
    by_id: BTreeMap<String, Arc<CronJob>>,
    /// What was wrong the last time, so that it is said once.
    error: Option<String>,
}

/// Which thread does what.
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
    /// Nothing runs before [`Cron::run`]. `calls` is told of calls that are to be made.
    pub fn open(databases: &Arc<Databases>, calls: Arc<Signal<String>>) -> Result<Cron> {
        let now = clock::now_ms();
        databases
            .local()
            .write(move |tx| store::fail_running(tx, now, "The server ended while it ran."))?;
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

    /// The definitions have changed.
    pub fn notify(&self) {
        self.signal.notify(db::DEFAULT);
    }

    /// Nothing is begun any more, and a script that runs is undone.
    pub fn stop(&self) {
        self.stop.set();
        self.signal.wake();
        for queue in &self.queues {
            queue.close();
        }
    }

    /// Runs since the start that came to this.
    pub fn count(&self, outcome: RunOutcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }

    pub fn role(&self) -> Role {
        self.databases.role()
    }

    pub fn is_running(&self, job: &str) -> bool {
        lock(&self.core).is_running(job)
    }

    /// The thread of the clock.
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
        // A script may be between two statements when it is told, and then it does not hear.
        let pause = Stop::new();
        while self.interrupt() {
            pause.wait(INTERRUPT_EVERY);
        }
    }

    /// Stops the script that runs, and nothing else of its writer; false when there is none.
    fn interrupt(&self) -> bool {
        let script = lock(&self.script);
        script.as_ref().map(InterruptHandle::interrupt).is_some()
    }

    /// Begins what is due.
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
            return Err(Error::internal("a plan without a job"));
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

    /// The last run goes on; this time is passed over.
    fn skip(&self, job: &CronJob, due: &DueRun, now: i64) -> Result<()> {
        // What is not noted as done yet is done again after a crash: then this time is one of those missed.
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
                    message: "The run before had not ended.",
                },
            )
        })?;
        self.outcomes[RunOutcome::Skipped as usize].fetch_add(1, Relaxed);
        Ok(())
    }

    /// Notes a run, and that its time is done.
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

    /// Runs a job now, whether it is active or not. Returns the number of the run.
    pub fn run_now(&self, stored: &JobRow) -> Result<i64> {
        let job = Arc::new(CronJob::restore(stored)?);
        if !job.runs_on(self.role()) {
            return Err(Error::new(
                Kind::Forbidden,
                "On a replica only scripts for stats and workflows run; run it on the master.",
            ));
        }
        if self.stop.is_set() {
            return Err(Error::unavailable("The server is stopping; try again."));
        }
        if !lock(&self.core).start(&job.id) {
            return Err(Error::conflict("The job runs already."));
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

    /// Notes what a run came to.
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
            log::warn(format_args!("note a run of a cron job: {error}"));
        }
        lock(&self.core).finish(&work.job.id);
    }

    /// Reads the definitions; what is wrong with them is said once.
    fn reload_definitions(&self) {
        let read = self.databases.default().read(store::jobs);
        if self.databases.role() == Role::Replica
            && let Err(error) = &read
            && error.kind() == Kind::Unavailable
        {
            // It has not come yet.
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
                    log::warn(format_args!("cron job {:?} is not run: {error}", row.name));
                }
            }
        }
        let stored = self.databases.local().read(store::states)?;
        let states: Vec<_> = {
            let mut core = lock(&self.core);
            core.plan(clock::now_ms(), plans, &stored);
            let states = core.planned().filter_map(|job| {
                let (plan, state) = core.state(job)?;
                // What runs is not done before it is noted so.
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
        // One that was not there before may have been made since this was read, and run by hand.
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

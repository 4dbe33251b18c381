//! Decides which jobs are due: a state machine without clock, disk or threads.
//!
//! For each job it stores the time up to which all due times are done (`done_until_ms`). It follows
//! that:
//!
//! - Times that were missed, because the server was down or the clock jumped, cause one run, for
//!   the last of them.
//! - A job that is new here, or has a changed schedule, counts from now on.
//! - A time that comes while the job still runs is skipped and reported as skipped.
//! - When the clock is set back, nothing runs again for a time that is done: the job waits until
//!   the clock catches up.
//!
//! This wait must not be long if the clock had been wrong by much, for example a year ahead. So if
//! the clock is more than [`CLOCK_BEHIND_MAX_MS`] behind, and at least two due times of the job lie
//! in between, the job starts over at the current time and remembers how far it had been
//! (`ahead_until_ms`). Until then a due time that comes normally runs again. A missed one does not,
//! because the clock may be wrong now (a board without a battery starts in 1970) and may have been
//! right before.

use std::collections::{BTreeMap, BTreeSet};

use crate::services::cron::schedule::Schedule;
use crate::services::cron::zone::Zone;

/// Limit on how far the clock may be behind for a job to wait.
pub const CLOCK_BEHIND_MAX_MS: i64 = 3_600_000;
/// A time counts as missed if it is later than this.
pub const LATENESS_MAX_MS: i64 = 60_000;

/// The schedule and time zone of a job.
#[derive(Clone, Debug)]
pub struct JobPlan {
    pub schedule: Schedule,
    pub zone: Zone,
    /// Both as text; a changed text is a changed plan.
    pub text: String,
}

/// The progress of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobState {
    pub done_until_ms: i64,
    pub ahead_until_ms: i64,
}

/// A job that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRun {
    pub job: String,
    pub due_ms: i64,
    /// The job is still running, so this time is skipped.
    pub is_skipped: bool,
    /// The job may have run for this time before the clock was set back by much.
    pub is_repeat: bool,
    /// The state to restore if it cannot start.
    pub before: JobState,
}

/// See the module documentation.
#[derive(Default)]
pub struct CronCore {
    entries: BTreeMap<String, PlannedJob>,
    /// Includes jobs without a plan.
    running: BTreeSet<String>,
}

struct PlannedJob {
    plan: JobPlan,
    state: JobState,
    /// The first due time after `done_until_ms`.
    next: Option<i64>,
}

impl CronCore {
    /// Replaces the jobs. `stored` has the plan text and the state of each job before the start.
    pub fn plan(
        &mut self,
        now: i64,
        plans: BTreeMap<String, JobPlan>,
        stored: &BTreeMap<String, (String, JobState)>,
    ) {
        let mut before = std::mem::take(&mut self.entries);
        for (job, plan) in plans {
            let known = match before.remove(&job) {
                Some(planned_job) => Some((planned_job.plan.text, planned_job.state)),
                None => stored.get(&job).cloned(),
            };
            let known = known.filter(|(text, _)| *text == plan.text);
            let state = known.map_or(
                JobState {
                    done_until_ms: now,
                    ahead_until_ms: i64::MIN,
                },
                |(_, state)| state,
            );
            let mut planned_job = PlannedJob {
                plan,
                state,
                next: None,
            };
            planned_job.find_next();
            self.entries.insert(job, planned_job);
        }
    }

    /// The jobs that are due at `now`. Those that are not skipped count as running.
    pub fn tick(&mut self, now: i64) -> Vec<DueRun> {
        let mut all = Vec::new();
        for (job, planned_job) in &mut self.entries {
            let before = planned_job.state;
            let Some((due_ms, is_repeat)) = planned_job.next_due(now) else {
                continue;
            };
            let is_skipped = self.running.contains(job);
            if !is_skipped {
                self.running.insert(job.clone());
            }
            all.push(DueRun {
                job: job.clone(),
                due_ms,
                is_skipped,
                is_repeat,
                before,
            });
        }
        all
    }

    /// Undoes a due job that could not start; the next tick retries it.
    pub fn undo(&mut self, due: &DueRun) {
        if !due.is_skipped {
            self.running.remove(&due.job);
        }
        if let Some(planned_job) = self.entries.get_mut(&due.job) {
            planned_job.state = due.before;
            planned_job.find_next();
        }
    }

    /// Marks a job as running; returns false if it already is.
    pub fn start(&mut self, job: &str) -> bool {
        self.running.insert(job.to_owned())
    }

    pub fn finish(&mut self, job: &str) {
        self.running.remove(job);
    }

    pub fn is_running(&self, job: &str) -> bool {
        self.running.contains(job)
    }

    /// The plan text and the state of a job, to be stored.
    pub fn state(&self, job: &str) -> Option<(&str, JobState)> {
        let planned_job = self.entries.get(job)?;
        Some((&planned_job.plan.text, planned_job.state))
    }

    pub fn planned(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }
}

impl PlannedJob {
    fn find_next(&mut self) {
        self.next = self
            .plan
            .schedule
            .next(self.state.done_until_ms, &self.plan.zone);
    }

    /// Takes the last due time and reports whether the job may have run for it before.
    fn next_due(&mut self, now: i64) -> Option<(i64, bool)> {
        if self.is_clock_behind(now) {
            let JobState {
                done_until_ms,
                ahead_until_ms,
            } = self.state;
            self.state = JobState {
                done_until_ms: now,
                ahead_until_ms: ahead_until_ms.max(done_until_ms),
            };
            self.find_next();
        }
        self.next.filter(|next| *next <= now)?;
        let JobPlan { schedule, zone, .. } = &self.plan;
        let due = schedule.last(self.state.done_until_ms, now, zone)?;
        self.state.done_until_ms = due;
        self.find_next();
        let is_repeat = due <= self.state.ahead_until_ms;
        (!is_repeat || now - due <= LATENESS_MAX_MS).then_some((due, is_repeat))
    }

    /// Reports whether the clock is too far behind to wait for it.
    fn is_clock_behind(&self, now: i64) -> bool {
        let done = self.state.done_until_ms;
        if done - now <= CLOCK_BEHIND_MAX_MS {
            return false;
        }
        let JobPlan { schedule, zone, .. } = &self.plan;
        let second = schedule
            .next(now, zone)
            .and_then(|first| schedule.next(first, zone));
        second.is_some_and(|second| second <= done)
    }
}

#[cfg(test)]
mod tests;

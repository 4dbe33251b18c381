//! When which job is to run: a state machine that knows no clock, no disk and no thread.
//!
//! Of each job it keeps until when all that was due is done (`done_until_ms`); what is due comes after that.
//! What follows:
//!
//! - Times that were missed, because the server was down or the clock jumped, are one run, that of the last of
//!   them.
//! - A job that is new here, or has another schedule, counts from now on.
//! - A time that comes while the job still runs is passed over, and reported so.
//! - When the clock is set back nothing runs again for a time that it has run for: the job waits until the
//!   clock is where it was.
//!
//! That last wait must not be a long one when the clock had been wrong by much (a year ahead, say). So when the
//! clock is more than [`CLOCK_BEHIND_MAX_MS`] behind, and two times of the job or more lie in between, the job begins anew at
//! the present time and remembers how far it had been (`ahead_until_ms`). Up to there a time that comes while the
//! clock goes on as it should is run once more; one that is found to be missed is not: then it may well be
//! that the clock was wrong now (a board without a battery begins in 1970) and right before.

use std::collections::{BTreeMap, BTreeSet};

use crate::services::cron::schedule::Schedule;
use crate::services::cron::zone::Zone;

/// How far the clock may be behind before a job does not wait for it.
pub const CLOCK_BEHIND_MAX_MS: i64 = 3_600_000;
/// So late at most is what was not missed.
pub const LATENESS_MAX_MS: i64 = 60_000;

/// When a job runs.
#[derive(Clone, Debug)]
pub struct JobPlan {
    pub schedule: Schedule,
    pub zone: Zone,
    /// Both as text: another text is another plan.
    pub text: String,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobState {
    pub done_until_ms: i64,
    pub ahead_until_ms: i64,
}

/// A job whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRun {
    pub job: String,
    pub due_ms: i64,
    /// It still runs; this time is passed over.
    pub is_skipped: bool,
    /// It may have run for this time before the clock was set back by much.
    pub is_repeat: bool,
    /// What to put back if it cannot be begun.
    pub before: JobState,
}

/// See the module documentation.
#[derive(Default)]
pub struct CronCore {
    entries: BTreeMap<String, PlannedJob>,
    /// Also jobs that have no plan.
    running: BTreeSet<String>,
}

struct PlannedJob {
    plan: JobPlan,
    state: JobState,
    /// The first time after `done_until_ms`.
    next: Option<i64>,
}

impl CronCore {
    /// From now on these are the jobs. `stored` has what was known of them before the start, by job: the text
    /// of the plan, and the state.
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

    /// What is due at this time. Those that are not skipped count as running.
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

    /// It could not be begun; the next tick tries again.
    pub fn undo(&mut self, due: &DueRun) {
        if !due.is_skipped {
            self.running.remove(&due.job);
        }
        if let Some(planned_job) = self.entries.get_mut(&due.job) {
            planned_job.state = due.before;
            planned_job.find_next();
        }
    }

    /// Somebody wants it to run now; false when it runs already.
    pub fn start(&mut self, job: &str) -> bool {
        self.running.insert(job.to_owned())
    }

    pub fn finish(&mut self, job: &str) {
        self.running.remove(job);
    }

    pub fn is_running(&self, job: &str) -> bool {
        self.running.contains(job)
    }

    /// What is to be kept of a job: the text of its plan, and its state.
    pub fn state(&self, job: &str) -> Option<(&str, JobState)> {
        let planned_job = self.entries.get(job)?;
        Some((&planned_job.plan.text, planned_job.state))
    }

    /// The jobs that have a plan.
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

    /// The last time that has come, and whether it was there before; it is done then.
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

    /// The clock is so far behind what is done that waiting would be wrong.
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

//! Jobs that run by the clock (CRON-1 to CRON-9): scripts, calls, runs of workflows.
//!
//! `schedule` and `zone` say when, `job` what; `core` decides what is due as a pure state machine, `engine` gives it a
//! clock and threads, `worker` does the work, `sql` runs scripts under guard, `store` is the tables. The definitions are
//! in `default.db`, so replicas have them too; what a node has done of them is its own. Calls are only queued here:
//! whoever works off the outbox makes them. What users see is in `docs/cron.md`.

pub use engine::{Cron, WorkerKind};
pub use job::{CronJob, JobAction, JobRow};
pub use store::{JobRun, RunOutcome};

mod core;
mod engine;
mod job;
mod queue;
mod schedule;
mod sql;
pub mod store;
mod worker;
mod zone;

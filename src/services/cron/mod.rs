//! Cron jobs: SQL scripts, HTTP calls and workflow runs on a schedule.
//!
//! `schedule` and `zone` compute times, `job` is the definition. `core` decides what is due as a
//! pure state machine, and `engine` gives it a clock and threads. `queue` holds the work of each
//! thread, `worker` does it, `sql` runs scripts under an authorizer, and `store` is the tables.
//! Definitions are in `default.db` and therefore replicated; the history of runs belongs to each
//! node. Calls are only queued here; the webhook dispatcher makes them. `docs/cron.md` describes
//! the behaviour for users.

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

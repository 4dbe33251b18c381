//! Jobs that run by the clock (CRON-1 to CRON-9): scripts, calls, runs of workflows.
//!
//! `schedule` and `zone` say when, `job` what; `core` decides what is due as a pure state machine, `engine` gives it a
//! clock and threads, `lane` does the work, `sql` runs scripts under guard, `store` is the tables. The definitions are
//! in `default.db`, so replicas have them too; what a node has done of them is its own. Calls are only queued here:
//! whoever works off the outbox makes them. What users see is in `docs/cron.md`.

pub use engine::{Cron, LaneName};
pub use job::{Action, Job, Stored};
pub use store::{Outcome, Run};

mod core;
mod engine;
mod job;
mod lane;
mod schedule;
mod sql;
pub mod store;
mod zone;

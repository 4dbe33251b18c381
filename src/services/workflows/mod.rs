//! Durable workflows (WF-1 to WF-17): runs of steps, executed by workers outside the server, kept in
//! `workflows.db` of each node, master or replica (WF-9, WF-11).
//!
//! `codes`, `limits`, `run_id` are the words; `tx` is one command in a transaction, and `runs`, `steps`,
//! `waits`, `hooks`, `jobs`, `again`, `calls` are what commands do: each writes events and what follows from
//! them together, so that the two never disagree. `core` is the engine as a pure state machine, with
//! `leases` and `sessions` as its memory, `frames` and `requests` as its input. `engine` gives it a thread, sockets and
//! a clock. `look` reads; `offline` and `transfer` are for the command line: acting where no server runs, and
//! moving runs to another node. What workers see is in `docs/workflows.md`.

pub use codes::{EventKind, RunStatus};
pub use core::ProtocolSettings;
pub use engine::{Workflows, grant_of, on_another_node};
pub use run_id::{NodeTag, tag as node_of};
pub use run_request::{RecordRef, Submission, parse_time};
pub use runs::{Caller, NewRun};
pub use sessions::Grant;

pub mod api_requests;
mod calls;
mod codes;
mod core;
mod engine;
pub mod frames;
mod hooks;
mod jobs;
mod journal;
mod leases;
pub mod limits;
pub mod offline;
pub mod queries;
mod resume_and_fork;
mod run_id;
mod run_request;
mod runs;
mod sessions;
mod sql;
mod steps;
#[cfg(test)]
mod tests;
pub mod transfer;
mod tx;
mod waits;

//! Durable workflows: runs of steps that workers outside the server execute, stored in
//! `workflows.db` of each node, master or replica.
//!
//! `codes`, `limits`, `run_id` and `sql` define the vocabulary. `tx` is one command in a
//! transaction; `runs`, `steps`, `waits`, `hooks`, `jobs`, `resume_and_fork` and `calls` implement
//! the commands. Each command writes its events and the rows derived from them together, so the two
//! always agree. `core` is the engine as a pure state machine: `leases` and `sessions` are its
//! memory, `frames` and `api_requests` its input. `engine` gives it a thread, sockets and a clock.
//! `queries` only reads. `offline` and `transfer` serve the command line: they act while no server
//! runs, and move runs to another node. `docs/workflows.md` describes the protocol of workers.

pub use codes::{EventKind, RunStatus};
pub use core::ProtocolSettings;
pub use engine::{Workflows, grant_of, on_another_node};
pub use run_id::{NodeTag, tag as node_of};
pub use run_request::{RecordRef, Submission, parse_time};
pub use runs::{NewRun, RunStarter};
pub use sessions::WorkerGrant;

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

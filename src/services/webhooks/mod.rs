//! Webhooks: HTTP calls to other servers after an event here. Only masters make them.
//!
//! `triggers::outbox` writes a row for each call in the transaction that causes it, and notifies
//! [`Webhooks::signal`] after the commit. `table` has the webhooks that belong to no collection,
//! and `logs` shows the rows to users. `core` decides which row is sent when and what its result
//! means, without clock, sockets or database; `queue` reads and writes the rows for it. `engine`
//! holds the shared state, `dispatcher` is the thread that runs `core`, and `senders` are the
//! threads that make calls. `send` makes one HTTP call, `address` recognizes private addresses,
//! `runs` starts runs of workflows.
//!
//! Guarantees: a call whose row was committed is made at least once, or the log shows it as failed.
//! It may be made twice if the server stops during the call, and calls may overtake each other.

pub use core::CallOutcome;
pub use dispatcher::Dispatcher;
pub use engine::{WebhookSettings, Webhooks};
pub use runs::StartRun;

mod address;
mod core;
mod dispatcher;
mod engine;
pub mod logs;
mod queue;
mod runs;
mod send;
mod senders;
pub mod table;
#[cfg(test)]
mod tests;

//! Webhooks: calls to others that something here causes (WH-1 to WH-11), on masters only.
//!
//! Whoever wants a call writes a row by `triggers::outbox`, in the transaction of what causes it, and
//! notifies [`Webhooks::signal`] after the commit. `table` has the webhooks that stand for themselves, `logs`
//! what people see of the rows. `core` decides which row is sent when and what becomes of it, without clock,
//! sockets or database; `queue` reads and writes the rows for it; `engine` gives it a thread and senders.
//! `send` makes one HTTP call, `address` knows which addresses are private, `runs` starts runs of workflows.
//!
//! Promises: a call whose row was committed is made at least once, or is in the log as failed. It may be made
//! twice when the server ends while it is under way, and calls may overtake each other.

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

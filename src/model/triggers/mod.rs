//! Calls that changes of records, webhooks and cron jobs make: HTTP requests and workflow runs.
//!
//! A [`Target`] is the HTTP endpoint or workflow to call. A [`Trigger`] adds the kinds of changes
//! that it is for; the triggers of a collection are in its `options.triggers`. Webhooks and cron
//! jobs have targets too. `changes` is the table of changes whose calls are to be queued, `outbox`
//! the table of waiting calls, which `webhooks` sends. A row of one of them is written in the
//! transaction that causes the calls.

pub use action::RecordAction;
pub use attributes::{extract_string, invalid_value, refuse_unknown};
pub use http_call::{HttpCall, secret_bytes};
pub use target::Target;
pub use trigger::{Trigger, Triggers};

mod action;
mod attributes;
pub mod changes;
mod http_call;
pub mod outbox;
pub mod redaction;
mod target;
#[cfg(test)]
mod tests;
mod trigger;

//! What is to be called when something happens: HTTP endpoints and workflows.
//!
//! A [`Target`] says whom to call and how; a [`Trigger`] adds which changes of records it is for. Triggers of
//! a collection are its `options.triggers`; webhooks that stand for themselves and cron jobs have targets
//! too. `outbox` is the table where every call waits that is to be made: it is filled in the transaction that
//! causes the call, and `webhooks` works it off.

pub use action::RecordAction;
pub use attributes::{extract_text, invalid_value, refuse_unknown};
pub use http_call::{HttpCall, secret_bytes};
pub use target::Target;
pub use trigger::Trigger;

mod action;
mod attributes;
mod http_call;
pub mod outbox;
pub mod redaction;
mod target;
#[cfg(test)]
mod tests;
mod trigger;

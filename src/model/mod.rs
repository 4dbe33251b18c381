//! Collections and records: definitions, rules, filters, accounts, and the changes that writes
//! cause.

pub mod auth;
pub mod collections;
pub mod events;
pub mod filter;
pub mod providers;
pub mod records;
pub mod rules;
pub mod triggers;

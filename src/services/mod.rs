//! Services beside the requests: replication, workflows, realtime, webhooks, cron jobs, statistics,
//! backups, imports.

pub mod backup;
pub mod check;
pub mod cron;
pub mod import;
pub mod oauth;
pub mod realtime;
pub mod replication;
pub mod stats;
pub mod webhooks;
pub mod workflows;

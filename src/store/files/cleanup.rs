//! What replicas need no more, every 24 hours and at the start when that is overdue (FR-8).

use super::Files;
use crate::base::clock::DAY_MS;
use crate::base::error::Result;
use crate::base::{clock, log};
use crate::store::db::Databases;
use crate::store::node;
use crate::store::replicas::Replicas;

/// When it was last done, in `local.db`.
const DONE: &str = "files_cleaned";

/// Forgets entries of the journal and replicas that are older than `retention_ms`, once a day.
pub fn run_when_due(
    databases: &Databases,
    files: &Files,
    replicas: &Replicas,
    retention_ms: i64,
) -> Result<()> {
    let Some(journal) = &files.journal else {
        return Ok(());
    };
    let local = databases.local();
    let now_ms = clock::now_ms();
    let done = node::fact(local, DONE)?.and_then(|text| clock::parse_datetime(&text));
    // A time that is yet to come was written by a clock that went wrong.
    if done.is_some_and(|done_ms| (0..DAY_MS).contains(&(now_ms - done_ms))) {
        return Ok(());
    }
    let before_ms = now_ms - retention_ms;
    let entries = journal.forget_before(&clock::format_ms(before_ms))?;
    let replicas = replicas.forget_before(before_ms)?;
    node::set_fact(local, DONE, clock::format_ms(now_ms))?;
    if entries + replicas > 0 {
        log::info(format_args!(
            "cleaned up journal_entries={entries} replicas={replicas}"
        ));
    }
    Ok(())
}

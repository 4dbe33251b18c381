//! The thread that brings the storage in line with the databases: it processes outboxes as they are
//! announced, and sweeps everything at the start and once a day.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::sweep::SweepResult;
use super::{Files, outbox, sweep};
use crate::base::clock::DAY_MS;
use crate::base::error::{Kind, Result};
use crate::base::threads::Stop;
use crate::base::{clock, log};
use crate::store::db::Databases;

/// Pause after a failure, and longest wait for work.
const PAUSE: Duration = Duration::from_secs(30);
/// Time that the first change waits for others, so that they share a commit.
const GATHER: Duration = Duration::from_millis(50);
/// Time between two sweeps: a file without a row at one sweep is deleted at the next, a day later.
const SWEEP_INTERVAL: Duration = Duration::from_secs(86_400 + 60);

/// Runs until it is stopped. Failed work is logged and tried again.
pub fn run(databases: &Databases, files: &Files, stop: &Stop) {
    // A file that was written after the start may be about to get its row.
    sweep_all(
        databases,
        files,
        files.opened_ms - files.storage.clock_skew_ms(),
        stop,
    );
    let mut next_sweep = Instant::now() + SWEEP_INTERVAL;
    let mut retries: BTreeMap<String, Instant> = BTreeMap::new();
    while !stop.is_set() {
        let mut names = files.signal.wait(PAUSE);
        if !names.is_empty() {
            // Changes that arrive together are processed together: requests wait for each commit.
            stop.wait(GATHER);
            names.append(&mut files.signal.wait(Duration::ZERO));
        }
        let now = Instant::now();
        // A database that failed waits for its retry; the others do not wait for it.
        names.retain(|name| retries.get(name).is_none_or(|retry| now >= *retry));
        names.extend(
            retries
                .iter()
                .filter(|(_, retry)| now >= **retry)
                .map(|(name, _)| name.clone()),
        );
        for name in names {
            retries.remove(&name);
            if let Err(error) = process(databases, files, &name, stop) {
                log::warn(format_args!("files of database {name}: {error}"));
                retries.insert(name, Instant::now() + PAUSE);
            }
        }
        if Instant::now() >= next_sweep {
            sweep_all(databases, files, clock::now_ms() - DAY_MS, stop);
            next_sweep = Instant::now() + SWEEP_INTERVAL;
        }
    }
}

/// Repairs the differences that a crash left between the storage and the databases.
fn sweep_all(databases: &Databases, files: &Files, before_ms: i64, stop: &Stop) {
    for name in databases.list().unwrap_or_default() {
        if let Err(error) = process(databases, files, &name, stop) {
            log::warn(format_args!("files of database {name}: {error}"));
            files.signal.notify(&name);
        }
    }
    if stop.is_set() {
        return;
    }
    let result = files
        .storage
        .claim(&files.node)
        .and_then(|()| sweep::run(databases, &files.storage, before_ms, stop));
    if let Err(error) = files.storage.abort_stale_uploads() {
        log::warn(format_args!("{error}"));
    }
    match result {
        Err(_) if stop.is_set() => {}
        Ok(result) => log_result(&result),
        Err(error) => log::warn(format_args!("sweep the storage: {error}")),
    }
}

fn log_result(result: &SweepResult) {
    if result.deleted > 0 {
        log::info(format_args!("storage swept deleted={}", result.deleted));
    }
    if let Some(path) = &result.new {
        log::warn(format_args!(
            "{} stored files belong to no record, for example {path}; they are deleted a day after they \
             were found. A crash leaves some; many mean that an older database was put in place",
            result.waiting
        ));
    }
}

fn process(databases: &Databases, files: &Files, name: &str, stop: &Stop) -> Result<()> {
    match outbox::process(databases, &files.storage, name, stop) {
        // The database was deleted meanwhile.
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        result => result,
    }
}

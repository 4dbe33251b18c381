//! The thread that keeps the storage in step with the databases: it empties the outboxes as it is told
//! of them, and looks through everything at the start and once a day.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::sweep::Swept;
use super::{Files, outbox, sweep};
use crate::base::clock::DAY_MS;
use crate::base::error::{Kind, Result};
use crate::base::threads::Stop;
use crate::base::{clock, log};
use crate::store::db::Databases;

/// Pause after a failure, and longest wait for something to do.
const PAUSE: Duration = Duration::from_secs(30);
/// How long the first change waits for others.
const GATHER: Duration = Duration::from_millis(50);
/// Between two looks through everything: a file goes that was without a row at one and still is a day later.
const ROUND: Duration = Duration::from_secs(86_400 + 60);

/// Works until it is stopped. What fails is logged and tried again.
pub fn run(databases: &Databases, files: &Files, stop: &Stop) {
    // What came after the start may be about to be named.
    look_through(
        databases,
        files,
        files.opened_ms - files.storage.clocks_differ_ms(),
        stop,
    );
    let mut next = Instant::now() + ROUND;
    let mut failed: BTreeMap<String, Instant> = BTreeMap::new();
    while !stop.is_set() {
        let mut names = files.signal.wait(PAUSE);
        if !names.is_empty() {
            // What comes together is noted together: each commit is one that requests wait for.
            stop.wait(GATHER);
            names.append(&mut files.signal.wait(Duration::ZERO));
        }
        let now = Instant::now();
        // Those that failed wait for their time; the others do not wait for them.
        names.retain(|name| failed.get(name).is_none_or(|again| now >= *again));
        names.extend(
            failed
                .iter()
                .filter(|(_, again)| now >= **again)
                .map(|(name, _)| name.clone()),
        );
        for name in names {
            failed.remove(&name);
            if let Err(error) = empty(databases, files, &name, stop) {
                log::warn(format_args!("files of database {name}: {error}"));
                failed.insert(name, Instant::now() + PAUSE);
            }
        }
        if Instant::now() >= next {
            look_through(databases, files, clock::now_ms() - DAY_MS, stop);
            next = Instant::now() + ROUND;
        }
    }
}

/// Puts right what a crash left between the storage and the databases.
fn look_through(databases: &Databases, files: &Files, before_ms: i64, stop: &Stop) {
    for name in databases.list().unwrap_or_default() {
        if let Err(error) = empty(databases, files, &name, stop) {
            log::warn(format_args!("files of database {name}: {error}"));
            files.signal.notify(&name);
        }
    }
    if stop.is_set() {
        return;
    }
    let done = files
        .storage
        .claim(&files.node)
        .and_then(|()| sweep::run(databases, &files.storage, before_ms, stop));
    if let Err(error) = files.storage.abort_stale_uploads() {
        log::warn(format_args!("{error}"));
    }
    match done {
        Err(_) if stop.is_set() => {}
        Ok(swept) => tell(&swept),
        Err(error) => log::warn(format_args!("look through the storage: {error}")),
    }
}

fn tell(swept: &Swept) {
    if swept.deleted > 0 {
        log::info(format_args!(
            "storage looked through deleted={}",
            swept.deleted
        ));
    }
    if let Some(path) = &swept.new {
        log::warn(format_args!(
            "{} stored files belong to no record, {path} is one; they are deleted a day after they were \
             found. A crash leaves some; many mean that an older database was put in place",
            swept.waiting
        ));
    }
}

fn empty(databases: &Databases, files: &Files, name: &str, stop: &Stop) -> Result<()> {
    match outbox::empty(databases, &files.storage, name, stop) {
        // The database was deleted meanwhile.
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        result => result,
    }
}

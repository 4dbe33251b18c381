//! The dispatcher thread. Each round writes the results of calls and queues the calls of changes,
//! one commit per database; reads databases with new rows; and passes due calls to the senders.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::core::{CallKey, CallOutcome, DispatchCore, next_state};
use super::engine::Webhooks;
use super::queue;
use super::queue::CallUpdate;
use super::senders::{FinishedCall, OutgoingCall, SenderPool};
use crate::base::error::{Error, Kind};
use crate::base::threads::{Stop, lock};
use crate::base::{clock, log, threads};
use crate::model::triggers::{Target, changes};

/// Limit on the wait for a database whose writer is busy, for example with a cron script.
const WRITER_WAIT: Duration = Duration::from_secs(1);
/// Pause after a database could not be read or written.
const FAILED_PAUSE: Duration = Duration::from_secs(5);
/// Interval of checks for rows that no signal announced, for example from the command line or after
/// a clock change.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// Minimum interval between counts of pending rows.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Time for calls in progress at a stop.
const STOP_WAIT: Duration = Duration::from_secs(2);
/// Time for the senders to end after their calls were aborted.
const SENDERS_WAIT: Duration = Duration::from_millis(500);

pub struct Dispatcher<'a> {
    webhooks: &'a Webhooks,
    core: DispatchCore,
    /// Databases to read in the next round.
    dirty: BTreeSet<String>,
    /// Databases with more changes than one round queues.
    unqueued: BTreeSet<String>,
    /// Results that are not written yet. Bound: nothing of a database is sent while it cannot be
    /// written.
    unsaved: BTreeMap<String, Vec<CallUpdate>>,
    /// Databases that failed, and when they are tried again.
    suspended: BTreeMap<String, Instant>,
    senders: Vec<JoinHandle<()>>,
    next_refresh: Instant,
    next_count: Instant,
    /// The last database that was checked without a signal.
    last_refreshed: String,
}

impl Dispatcher<'_> {
    pub fn new(webhooks: &Webhooks) -> Dispatcher<'_> {
        Dispatcher {
            webhooks,
            core: DispatchCore::default(),
            dirty: BTreeSet::new(),
            unqueued: BTreeSet::new(),
            unsaved: BTreeMap::new(),
            suspended: BTreeMap::new(),
            senders: Vec::new(),
            next_refresh: Instant::now() + REFRESH_EVERY,
            next_count: Instant::now(),
            last_refreshed: String::new(),
        }
    }

    pub fn run(mut self, stop: &Stop) {
        self.find_databases(stop);
        while !stop.is_set() {
            self.collect_results();
            self.write();
            self.refresh();
            self.dispatch();
            self.dirty.append(&mut self.unqueued);
            let names = self.webhooks.signal.wait(self.idle_time());
            lock(&self.webhooks.known).extend(names.iter().cloned());
            self.dirty.extend(names);
            let now = Instant::now();
            if now >= self.next_refresh {
                self.next_refresh = now + REFRESH_EVERY;
                self.dirty
                    .extend(self.webhooks.next_databases(&mut self.last_refreshed));
            }
            let dirty = &mut self.dirty;
            self.suspended.retain(|name, until| {
                let is_over = *until <= now;
                if is_over {
                    dirty.insert(name.clone());
                }
                !is_over
            });
        }
        self.shut_down();
    }

    /// Finds the databases with rows from before the start.
    fn find_databases(&mut self, stop: &Stop) {
        let databases = &self.webhooks.databases;
        let names = databases.list().unwrap_or_else(|error| {
            log::warn(format_args!("list databases for webhooks: {error}"));
            Vec::new()
        });
        for name in names {
            if stop.is_set() {
                return;
            }
            let found = databases
                .get(&name)
                .and_then(|database| database.read(queue::has_rows));
            match found {
                Ok(false) => {}
                Ok(true) => {
                    lock(&self.webhooks.known).insert(name.clone());
                    self.dirty.insert(name);
                }
                Err(error) => self.suspend(&name, &error),
            }
        }
    }

    /// The time until the next due work, unless a signal arrives.
    fn idle_time(&self) -> Duration {
        if !self.dirty.is_empty() {
            return Duration::ZERO;
        }
        let now_ms = clock::now_ms();
        let due = self.core.next_due_ms(now_ms).map(|due_ms| {
            let left_ms = u64::try_from(due_ms - now_ms).unwrap_or(0);
            Instant::now() + Duration::from_millis(left_ms)
        });
        let first = self.suspended.values().copied().chain(due).min();
        let until = first.map_or(self.next_refresh, |it| it.min(self.next_refresh));
        until.saturating_duration_since(Instant::now())
    }

    /// Determines the next state of rows whose calls have finished.
    fn collect_results(&mut self) {
        let now_ms = clock::now_ms();
        for FinishedCall { job, attempt } in self.webhooks.senders.take_finished() {
            let key = (job.database.clone(), job.row.id, job.row.created_ms);
            self.core.finished(&key, Some(&attempt));
            let retries = job.row.target.as_ref().map_or(0, Target::retries);
            let verdict = next_state(job.row.attempts, retries, attempt, now_ms);
            let line = format_args!(
                "webhook {} database={} id={} host={} attempts={} {}",
                match verdict.outcome {
                    CallOutcome::Success => "sent",
                    CallOutcome::Pending => "delayed",
                    CallOutcome::Failed => "failed",
                },
                job.database,
                job.row.id,
                job.host,
                verdict.attempts,
                verdict.error,
            )
            .to_string();
            match verdict.outcome {
                CallOutcome::Failed => log::warn(format_args!("{}", line.trim_end())),
                _ => log::debug(format_args!("{}", line.trim_end())),
            }
            let of_database = self.unsaved.entry(job.database).or_default();
            of_database.push(CallUpdate {
                id: job.row.id,
                created_ms: job.row.created_ms,
                verdict,
            });
        }
    }

    /// Writes results, and queues calls of changes.
    fn write(&mut self) {
        let names: BTreeSet<String> = self.unsaved.keys().chain(&self.dirty).cloned().collect();
        for name in names {
            if !self.suspended.contains_key(&name) {
                self.write_database(&name);
            }
        }
    }

    fn write_database(&mut self, name: &str) {
        let results = self.unsaved.remove(name).unwrap_or_default();
        let now_ms = clock::now_ms();
        let job = results.clone();
        let written = self.webhooks.databases.get(name).and_then(|database| {
            if job.is_empty() && !database.read(changes::has_any)? {
                return Ok(false);
            }
            database.wait_for_writer(WRITER_WAIT)?;
            database.write(move |tx| {
                job.iter()
                    .try_for_each(|it| queue::update(tx, it, now_ms))?;
                changes::queue_calls(tx)
            })
        });
        match written {
            Ok(true) => {
                self.unqueued.insert(name.to_owned());
            }
            Ok(false) => {}
            Err(error) => {
                self.suspend(name, &error);
                if error.kind() != Kind::NotFound {
                    if !results.is_empty() {
                        self.unsaved.insert(name.to_owned(), results);
                    }
                    return;
                }
            }
        }
        for result in results {
            self.webhooks.counts.count(result.verdict.outcome);
            let key = (name.to_owned(), result.id, result.created_ms);
            self.core.recorded(&key);
        }
        self.dirty.insert(name.to_owned());
    }

    fn refresh(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        // Counting reads all pending rows.
        let counts = !dirty.is_empty() && Instant::now() >= self.next_count;
        if counts {
            self.next_count = Instant::now() + COUNT_EVERY;
        }
        for name in dirty {
            if self.suspended.contains_key(&name) {
                continue;
            }
            let found = self.webhooks.databases.get(&name).and_then(|database| {
                database.read(|db| {
                    let count = counts.then(|| queue::count_pending(db)).transpose()?;
                    Ok((queue::next_calls(db)?, count))
                })
            });
            match found {
                Ok((pending, count)) => {
                    if pending.is_empty() || count.is_some() {
                        let count = count.unwrap_or(0);
                        lock(&self.webhooks.counts.waiting).insert(name.clone(), count);
                    }
                    self.core.set_pending(&name, pending);
                }
                Err(error) => self.suspend(&name, &error),
            }
        }
    }

    /// Passes due calls to the senders.
    fn dispatch(&mut self) {
        let mut by_database: BTreeMap<String, Vec<(CallKey, String)>> = BTreeMap::new();
        for (key, host) in self.core.pick(clock::now_ms()) {
            let of_database = by_database.entry(key.0.clone()).or_default();
            of_database.push((key, host));
        }
        for (name, picked) in by_database {
            self.dispatch_database(&name, picked);
        }
        while self.senders.len() < self.core.running() {
            match SenderPool::spawn(&self.webhooks.senders) {
                Ok(sender) => self.senders.push(sender),
                Err(error) => {
                    log::warn(format_args!("{error}"));
                    return;
                }
            }
        }
    }

    fn dispatch_database(&mut self, name: &str, picked: Vec<(CallKey, String)>) {
        let rows = self.webhooks.databases.get(name).and_then(|database| {
            let rows = picked.iter().map(|(key, _)| key);
            database.read(|db| {
                rows.map(|(_, id, made)| queue::load(db, *id, *made))
                    .collect()
            })
        });
        let rows: Vec<_> = match rows {
            Ok(rows) => rows,
            Err(error) => {
                self.suspend(name, &error);
                picked.iter().map(|_| None).collect()
            }
        };
        for ((key, host), row) in picked.into_iter().zip(rows) {
            match row {
                Some(row) => self.webhooks.senders.push(OutgoingCall {
                    database: key.0,
                    host,
                    row,
                }),
                // The row is no longer due: read the database again.
                None => {
                    self.core.finished(&key, None);
                    self.core.recorded(&key);
                    self.dirty.insert(key.0);
                }
            }
        }
    }

    /// Suspends a database for a while, or forgets it if it was deleted.
    fn suspend(&mut self, name: &str, error: &Error) {
        self.core.forget(name);
        if error.kind() == Kind::NotFound {
            lock(&self.webhooks.known).remove(name);
            lock(&self.webhooks.counts.waiting).remove(name);
            return;
        }
        log::warn(format_args!("webhooks of database {name}: {error}"));
        let until = Instant::now() + FAILED_PAUSE;
        self.suspended.insert(name.to_owned(), until);
    }

    /// Waits briefly for calls in progress, writes the results and stops the senders.
    fn shut_down(mut self) {
        let deadline = Instant::now() + STOP_WAIT;
        loop {
            self.collect_results();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.core.running() == 0 || left.is_zero() {
                break;
            }
            self.webhooks.signal.wait(left);
        }
        self.webhooks.senders.close();
        self.collect_results();
        self.suspended.clear();
        self.dirty.clear();
        self.write();
        let deadline = Instant::now() + SENDERS_WAIT;
        for sender in std::mem::take(&mut self.senders) {
            if !threads::join_until(sender, deadline) {
                log::debug(format_args!("abandoned a webhook sender that did not stop"));
            }
        }
    }
}

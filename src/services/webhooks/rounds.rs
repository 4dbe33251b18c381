//! The rounds of the dispatcher: what came of calls is written, one commit per database; databases in which
//! something happened are looked at; what is due goes to the senders.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::core::{Core, Outcome, Place, settle};
use super::engine::{Desk, Ended, Job, Webhooks};
use super::queue;
use super::queue::Written;
use crate::base::error::{Error, Kind};
use crate::base::threads::{Stop, lock};
use crate::base::{clock, log, threads};
use crate::model::triggers::Target;

/// How long the other databases wait for one in which a write takes long, such as a script of a job.
const WRITER_WAIT: Duration = Duration::from_secs(1);
/// After a database could not be read or written.
const FAILED_PAUSE: Duration = Duration::from_secs(5);
/// So late at most something is noticed that nobody has told of: the command line, or another clock.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often what waits is counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// What calls under way have at a stop.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// What the senders have after their calls were cut.
const SENDERS_WAIT: Duration = Duration::from_millis(500);

pub struct Rounds<'a> {
    webhooks: &'a Webhooks,
    core: Core,
    /// Databases to look at.
    stirred: BTreeSet<String>,
    /// What is still to be written. Bound: nothing of a database is sent while it cannot be written.
    unwritten: BTreeMap<String, Vec<Written>>,
    /// Databases that failed, and until when they are left alone.
    failed: BTreeMap<String, Instant>,
    senders: Vec<JoinHandle<()>>,
    next_look: Instant,
    next_count: Instant,
    /// The last of the databases that were looked at unasked.
    last_looked: String,
}

impl Rounds<'_> {
    pub fn new(webhooks: &Webhooks) -> Rounds<'_> {
        Rounds {
            webhooks,
            core: Core::default(),
            stirred: BTreeSet::new(),
            unwritten: BTreeMap::new(),
            failed: BTreeMap::new(),
            senders: Vec::new(),
            next_look: Instant::now() + LOOK_EVERY,
            next_count: Instant::now(),
            last_looked: String::new(),
        }
    }

    pub fn run(mut self, stop: &Stop) {
        self.look_through(stop);
        while !stop.is_set() {
            self.collect();
            self.write();
            self.look();
            self.send();
            let names = self.webhooks.signal.wait(self.pause());
            lock(&self.webhooks.known).extend(names.iter().cloned());
            self.stirred.extend(names);
            let now = Instant::now();
            if now >= self.next_look {
                self.next_look = now + LOOK_EVERY;
                self.stirred
                    .extend(self.webhooks.some(&mut self.last_looked));
            }
            let stirred = &mut self.stirred;
            self.failed.retain(|name, until| {
                let is_over = *until <= now;
                if is_over {
                    stirred.insert(name.clone());
                }
                !is_over
            });
        }
        self.finish();
    }

    /// Finds what waits from before the start.
    fn look_through(&mut self, stop: &Stop) {
        let databases = &self.webhooks.databases;
        let names = databases.list().unwrap_or_else(|error| {
            log::warn(format_args!("look for webhooks: {error}"));
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
                    self.stirred.insert(name);
                }
                Err(error) => self.has_failed(&name, &error),
            }
        }
    }

    /// How long there is nothing to do unless somebody says otherwise.
    fn pause(&self) -> Duration {
        if !self.stirred.is_empty() {
            return Duration::ZERO;
        }
        let now_ms = clock::now_ms();
        let due = self.core.next_due_ms(now_ms).map(|due_ms| {
            let left_ms = u64::try_from(due_ms - now_ms).unwrap_or(0);
            Instant::now() + Duration::from_millis(left_ms)
        });
        let first = self.failed.values().copied().chain(due).min();
        let until = first.map_or(self.next_look, |it| it.min(self.next_look));
        until.saturating_duration_since(Instant::now())
    }

    /// Finds out what becomes of the rows whose calls were made.
    fn collect(&mut self) {
        let now_ms = clock::now_ms();
        for Ended { job, attempt } in self.webhooks.desk.take_ended() {
            let place = (job.database.clone(), job.row.id, job.row.created_ms);
            self.core.ended(&place, Some(&attempt));
            let retries = job.row.target.as_ref().map_or(0, Target::retries);
            let verdict = settle(job.row.attempts, retries, attempt, now_ms);
            let line = format_args!(
                "webhook {} database={} id={} host={} attempts={} {}",
                match verdict.outcome {
                    Outcome::Success => "sent",
                    Outcome::Pending => "delayed",
                    Outcome::Failed => "failed",
                },
                job.database,
                job.row.id,
                job.host,
                verdict.attempts,
                verdict.error,
            )
            .to_string();
            match verdict.outcome {
                Outcome::Failed => log::warn(format_args!("{}", line.trim_end())),
                _ => log::debug(format_args!("{}", line.trim_end())),
            }
            let of_database = self.unwritten.entry(job.database).or_default();
            of_database.push(Written {
                id: job.row.id,
                created_ms: job.row.created_ms,
                verdict,
            });
        }
    }

    fn write(&mut self) {
        for name in self.unwritten.keys().cloned().collect::<Vec<_>>() {
            if !self.failed.contains_key(&name) {
                self.write_one(&name);
            }
        }
    }

    fn write_one(&mut self, name: &str) {
        let Some(all) = self.unwritten.remove(name) else {
            return;
        };
        let now_ms = clock::now_ms();
        let job = all.clone();
        let written = self.webhooks.databases.get(name).and_then(|database| {
            database.wait_for_writer(WRITER_WAIT)?;
            database.write(move |tx| job.iter().try_for_each(|it| queue::write(tx, it, now_ms)))
        });
        if let Err(error) = written {
            self.has_failed(name, &error);
            if error.kind() != Kind::NotFound {
                self.unwritten.insert(name.to_owned(), all);
                return;
            }
        }
        for written in all {
            self.webhooks.counts.count(written.verdict.outcome);
            let place = (name.to_owned(), written.id, written.created_ms);
            self.core.written(&place);
        }
        self.stirred.insert(name.to_owned());
    }

    fn look(&mut self) {
        let stirred = std::mem::take(&mut self.stirred);
        // Counting goes through all that waits.
        let counts = !stirred.is_empty() && Instant::now() >= self.next_count;
        if counts {
            self.next_count = Instant::now() + COUNT_EVERY;
        }
        for name in stirred {
            if self.failed.contains_key(&name) {
                continue;
            }
            let found = self.webhooks.databases.get(&name).and_then(|database| {
                database.read(|db| {
                    let count = counts.then(|| queue::count(db)).transpose()?;
                    Ok((queue::look(db)?, count))
                })
            });
            match found {
                Ok((heads, count)) => {
                    if heads.is_empty() || count.is_some() {
                        let count = count.unwrap_or(0);
                        lock(&self.webhooks.counts.waiting).insert(name.clone(), count);
                    }
                    self.core.know(&name, heads);
                }
                Err(error) => self.has_failed(&name, &error),
            }
        }
    }

    /// Hands out what is due.
    fn send(&mut self) {
        let mut by_database: BTreeMap<String, Vec<(Place, String)>> = BTreeMap::new();
        for (place, host) in self.core.pick(clock::now_ms()) {
            let of_database = by_database.entry(place.0.clone()).or_default();
            of_database.push((place, host));
        }
        for (name, picked) in by_database {
            self.send_some(&name, picked);
        }
        while self.senders.len() < self.core.running() {
            match Desk::spawn(&self.webhooks.desk) {
                Ok(sender) => self.senders.push(sender),
                Err(error) => {
                    log::warn(format_args!("{error}"));
                    return;
                }
            }
        }
    }

    fn send_some(&mut self, name: &str, picked: Vec<(Place, String)>) {
        let rows = self.webhooks.databases.get(name).and_then(|database| {
            let rows = picked.iter().map(|(place, _)| place);
            database.read(|db| {
                rows.map(|(_, id, made)| queue::load(db, *id, *made))
                    .collect()
            })
        });
        let rows: Vec<_> = match rows {
            Ok(rows) => rows,
            Err(error) => {
                self.has_failed(name, &error);
                picked.iter().map(|_| None).collect()
            }
        };
        for ((place, host), row) in picked.into_iter().zip(rows) {
            match row {
                Some(row) => self.webhooks.desk.put(Job {
                    database: place.0,
                    host,
                    row,
                }),
                // It was not to be sent after all: another look shows what is.
                None => {
                    self.core.ended(&place, None);
                    self.core.written(&place);
                    self.stirred.insert(place.0);
                }
            }
        }
    }

    /// Leaves a database alone for a while, or for ever when it was deleted.
    fn has_failed(&mut self, name: &str, error: &Error) {
        self.core.forget(name);
        if error.kind() == Kind::NotFound {
            lock(&self.webhooks.known).remove(name);
            lock(&self.webhooks.counts.waiting).remove(name);
            return;
        }
        log::warn(format_args!("webhooks of database {name}: {error}"));
        let until = Instant::now() + FAILED_PAUSE;
        self.failed.insert(name.to_owned(), until);
    }

    /// Waits a little for the calls under way, writes what is known, and ends the senders.
    fn finish(mut self) {
        let deadline = Instant::now() + LAST_WAIT;
        loop {
            self.collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.core.running() == 0 || left.is_zero() {
                break;
            }
            self.webhooks.signal.wait(left);
        }
        self.webhooks.desk.close();
        self.collect();
        self.failed.clear();
        self.write();
        let deadline = Instant::now() + SENDERS_WAIT;
        for sender in std::mem::take(&mut self.senders) {
            if !threads::join_until(sender, deadline) {
                log::debug(format_args!("a sender of webhooks is left behind"));
            }
        }
    }
}

//! A replica: the cycle over all databases, and what is known of how far it has come.
//!
//! One thread, `sync`, runs cycles: every so often, and when it is woken because something has changed.
//! A full cycle asks the master for its list and brings along what is behind; being told that some
//! databases have changed saves the list. An error stops one database and not the others; the next
//! cycle tries again.
//!
//! `default.db` defines the collections of all databases. It is fetched first and applied last, so that
//! what it defines is never newer than the tables that the others have.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;

use super::client::Client;
use super::client::Entry;
use super::follower;
use super::follower::Context;
use super::follower::Fetched;
use super::follower::Follower;
use super::positions;
use super::positions::Position;
use crate::clock;
use crate::collections::Catalog;
use crate::db;
use crate::db::Database;
use crate::db::Databases;
use crate::error::Error;
use crate::error::Result;
use crate::log;
use crate::threads;
use crate::threads::Stop;
use crate::threads::lock;

/// Pause after a cycle that failed, at most.
const RETRY: Duration = Duration::from_secs(5);
/// How often positions are written down while changes come all the time.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How often the log tells how far a long transfer is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What an operator chooses.
#[derive(Clone, Debug)]
pub struct Settings {
    pub master_url: String,
    /// Pause between two cycles that nothing wakes.
    pub interval: Duration,
    /// The name of this replica; that of the node when none is given.
    pub id: Option<String>,
}

/// What the sync thread and those who ask it have in common.
pub struct Replica {
    pub client: Arc<Client>,
    interval: Duration,
    local: Arc<Database>,
    state: Arc<Mutex<State>>,
    /// A position has moved.
    moved: Condvar,
    wanted: Mutex<Wanted>,
    woken: Condvar,
}

#[derive(Default)]
struct State {
    positions: BTreeMap<String, Position>,
    status: BTreeMap<String, Status>,
    /// Since the start every database of the master has been looked at.
    is_complete: bool,
    /// When the master answered last, in milliseconds since 1970.
    master_seen_ms: Option<i64>,
    error: Option<String>,
    cycles: u64,
    failures: u64,
}

/// What is going on with one database.
#[derive(Clone, Debug, Default)]
struct Status {
    /// The master's version, as far as it was heard of.
    master_version: u64,
    error: Option<String>,
    failures: u64,
    repairs: u64,
    transfer: Option<Transfer>,
}

#[derive(Clone, Debug)]
struct Transfer {
    begun: Instant,
    told: Instant,
    done: u64,
    length: u64,
}

/// What the sync thread shall do next.
#[derive(Default)]
struct Wanted {
    everything: bool,
    names: BTreeSet<String>,
    stop: bool,
}

/// How far a database has come, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    pub name: String,
    /// `current`, `behind`, `loading`, `failing` or `mending`.
    pub state: &'static str,
    /// Of the master's states; null before the first one is here.
    pub version: Option<u64>,
    pub master_version: u64,
    /// When it last had all that the master had.
    pub synced: Option<String>,
    pub transfer: Option<TransferStatus>,
    pub error: Option<String>,
    pub failures: u64,
    pub repairs: u64,
}

/// How far a transfer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferStatus {
    pub bytes: u64,
    pub bytes_total: u64,
    pub seconds_left: Option<u64>,
}

/// How far this replica has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    pub master: String,
    /// When the master answered last.
    pub master_seen: Option<String>,
    pub complete: bool,
    pub cycles: u64,
    pub failures: u64,
    pub error: Option<String>,
    pub databases: Vec<DatabaseStatus>,
}

impl Replica {
    /// Reads how far it came before.
    pub fn open(local: &Arc<Database>, client: Client, interval: Duration) -> Result<Replica> {
        let state = State {
            positions: positions::load(local)?,
            ..State::default()
        };
        Ok(Replica {
            client: Arc::new(client),
            interval,
            local: Arc::clone(local),
            state: Arc::new(Mutex::new(state)),
            moved: Condvar::new(),
            wanted: Mutex::default(),
            woken: Condvar::new(),
        })
    }

    /// These databases have changed.
    pub fn wake(&self, names: impl IntoIterator<Item = String>) {
        lock(&self.wanted).names.extend(names);
        self.woken.notify_all();
    }

    /// Any database may have changed.
    pub fn wake_for_all(&self) {
        lock(&self.wanted).everything = true;
        self.woken.notify_all();
    }

    /// Ends the sync thread, and what it is waiting for.
    pub fn stop(&self) {
        lock(&self.wanted).stop = true;
        self.woken.notify_all();
        self.client.stop();
    }

    /// Waits until a database has come to a state of the master's; false when it does not in time.
    pub fn wait_for(&self, name: &str, tag: &str, version: u64, deadline: Instant) -> bool {
        let has_reached = |state: &State| {
            let position = state.positions.get(name);
            position.is_some_and(|position| position.has_reached(tag, version))
        };
        if has_reached(&lock(&self.state)) {
            return true;
        }
        self.wake([name.to_owned()]);
        let mut state = lock(&self.state);
        loop {
            if has_reached(&state) {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            state = threads::wait_timeout(&self.moved, state, left);
        }
    }

    /// Whether it has had everything since its start that the master had then.
    pub fn is_complete(&self) -> bool {
        lock(&self.state).is_complete
    }

    /// For how long it may lack something that the master has, in seconds; none before the first
    /// database is here.
    pub fn seconds_behind(&self) -> Option<u64> {
        let state = lock(&self.state);
        let oldest = state.positions.values().map(|it| it.synced_ms).min()?;
        let behind_ms = (clock::now_ms() - oldest).max(0);
        Some(behind_ms.cast_unsigned() / 1000)
    }

    /// How far it is.
    pub fn status(&self) -> ReplicaStatus {
        let state = lock(&self.state);
        let names: BTreeSet<&String> = state.positions.keys().chain(state.status.keys()).collect();
        let databases = names.into_iter().map(|name| state.describe(name));
        ReplicaStatus {
            master: self.client.master_url.clone(),
            master_seen: state.master_seen_ms.map(clock::format_ms),
            complete: state.is_complete,
            cycles: state.cycles,
            failures: state.failures,
            error: state.error.clone(),
            databases: databases.collect(),
        }
    }

    /// What there is to do; none: end. An empty set: everything, which is due then.
    fn next(&self, due: Instant) -> Option<BTreeSet<String>> {
        let mut wanted = lock(&self.wanted);
        loop {
            if wanted.stop {
                return None;
            }
            let left = due.checked_duration_since(Instant::now());
            if wanted.everything || left.is_none() {
                *wanted = Wanted::default();
                return Some(BTreeSet::new());
            }
            if !wanted.names.is_empty() {
                return Some(std::mem::take(&mut wanted.names));
            }
            wanted = threads::wait_timeout(&self.woken, wanted, left.unwrap_or_default());
        }
    }
}

impl State {
    fn describe(&self, name: &str) -> DatabaseStatus {
        let (position, status) = (self.positions.get(name), self.status.get(name));
        let status = status.cloned().unwrap_or_default();
        let version = position.map(|position| position.version);
        let state = match &status {
            _ if status.transfer.is_some() && version.is_none() => "loading",
            Status { error: Some(_), .. } => "failing",
            _ if version.is_some_and(|version| version >= status.master_version) => "current",
            _ => "behind",
        };
        DatabaseStatus {
            name: name.to_owned(),
            state,
            version,
            master_version: status.master_version,
            synced: position.map(|position| clock::format_ms(position.synced_ms)),
            transfer: status.transfer.as_ref().map(Transfer::describe),
            error: status.error,
            failures: status.failures,
            repairs: status.repairs,
        }
    }

    fn of(&mut self, name: &str) -> &mut Status {
        self.status.entry(name.to_owned()).or_default()
    }
}

impl Transfer {
    fn describe(&self) -> TransferStatus {
        let seconds = self.begun.elapsed().as_secs_f64();
        let left = (self.length - self.done.min(self.length)) as f64;
        let rate = self.done as f64 / seconds.max(0.001);
        TransferStatus {
            bytes: self.done,
            bytes_total: self.length,
            seconds_left: (self.done > 0).then(|| (left / rate).ceil() as u64),
        }
    }
}

/// The thread.
pub struct Sync {
    replica: Arc<Replica>,
    context: Context,
    followers: BTreeMap<String, Follower>,
    /// Not with the master any more the last time.
    missing: BTreeSet<String>,
    /// Positions that are not written down.
    unsaved: BTreeSet<String>,
    saved: Instant,
}

impl Sync {
    /// Streams wait in `data_dir`.
    pub fn new(
        replica: &Arc<Replica>,
        databases: &Arc<Databases>,
        catalog: &Arc<Catalog>,
        data_dir: &Path,
    ) -> Result<Sync> {
        follower::remove_leftovers(data_dir)?;
        let state = Arc::clone(&replica.state);
        let context = Context {
            client: Arc::clone(&replica.client),
            databases: Arc::clone(databases),
            catalog: Arc::clone(catalog),
            spool: data_dir.join("spool"),
            progress: Box::new(move |name, done, length| note(&state, name, done, length)),
        };
        Ok(Sync {
            replica: Arc::clone(replica),
            context,
            followers: BTreeMap::new(),
            missing: BTreeSet::new(),
            unsaved: BTreeSet::new(),
            saved: Instant::now(),
        })
    }

    /// Runs cycles until the replica is stopped.
    pub fn run(mut self) {
        let mut due = Instant::now();
        while let Some(names) = self.replica.next(due) {
            let is_good = self.cycle(&names);
            let now = Instant::now();
            if names.is_empty() {
                due = now + self.replica.interval;
            }
            if !is_good {
                // What was named may not be named again.
                due = due.min(now + RETRY.min(self.replica.interval));
            }
            if names.is_empty() || self.saved.elapsed() >= SAVE_EVERY {
                self.save();
            } else if !self.unsaved.is_empty() {
                due = due.min(now + SAVE_EVERY);
            }
        }
        self.save();
    }

    /// Brings along these databases, or all. Returns whether everything went well.
    fn cycle(&mut self, names: &BTreeSet<String>) -> bool {
        let result = match names.is_empty() {
            true => self.everything(),
            false => self.some(names),
        };
        let mut state = lock(&self.replica.state);
        state.cycles += 1;
        let error = result
            .as_ref()
            .err()
            .map(|error| error.message().to_owned());
        if let Err(error) = &result {
            state.failures += 1;
            if state.error.as_deref() != Some(error.message()) {
                log::warn(format_args!("sync: {error}"));
            }
        } else if state.error.is_some() {
            log::info(format_args!("sync: all is well again"));
        }
        state.error = error;
        result.is_ok()
    }

    fn everything(&mut self) -> Result<()> {
        let list = self.context.client.list()?;
        lock(&self.replica.state).master_seen_ms = Some(clock::now_ms());
        if list.schema != db::schema_versions() {
            let is_newer = list.schema > db::schema_versions();
            let word = if is_newer { "newer" } else { "older" };
            return Err(Error::unavailable(format!(
                "The master runs a {word} vski with other system tables; this replica stays as it \
                 is until both run the same."
            )));
        }
        let result = self.bring_along(&list.databases);
        self.drop_vanished(&list.databases, result.is_ok())?;
        if result.is_ok() {
            lock(&self.replica.state).is_complete = true;
        }
        result
    }

    /// Databases of which the master says that they have changed.
    fn some(&mut self, names: &BTreeSet<String>) -> Result<()> {
        let entries: Option<Vec<Entry>> = {
            let state = lock(&self.replica.state);
            let entry = |name: &String| Some(Entry::after(name, state.positions.get(name)?));
            names.iter().map(entry).collect()
        };
        match entries {
            Some(entries) => self.bring_along(&entries),
            None => self.everything(),
        }
    }

    fn bring_along(&mut self, entries: &[Entry]) -> Result<()> {
        let mut failed = None;
        let mut moved = Vec::new();
        let is_default = |entry: &&Entry| entry.name == db::DEFAULT;
        let default = entries.iter().find(is_default);
        let first = default.map(|entry| (entry, self.fetch(entry)));
        for entry in entries.iter().filter(|entry| !is_default(entry)) {
            let result = self.fetch(entry).and_then(|it| self.apply(entry, it));
            self.settle(entry, result, &mut moved, &mut failed);
        }
        if let Some((entry, fetched)) = first {
            let result = fetched.and_then(|it| self.apply(entry, it));
            self.settle(entry, result, &mut moved, &mut failed);
        }
        self.acknowledge(&moved);
        failed.map_or(Ok(()), Err)
    }

    fn fetch(&mut self, entry: &Entry) -> Result<(Option<Fetched>, Option<Position>)> {
        let position = {
            let mut state = lock(&self.replica.state);
            let status = state.of(&entry.name);
            status.master_version = status.master_version.max(entry.version);
            if entry.is_full {
                status.master_version = entry.version;
            }
            state.positions.get(&entry.name).cloned()
        };
        let databases = &self.context.databases;
        let follower = self
            .followers
            .entry(entry.name.clone())
            .or_insert_with(|| Follower::new(&entry.name, databases));
        if let Some(position) = &position
            && entry.is_full
            && follower.is_at(position, entry)
        {
            return Ok((None, Some(position.clone())));
        }
        follower.fetch(&self.context, entry, position.as_ref())
    }

    fn apply(
        &mut self,
        entry: &Entry,
        (fetched, position): (Option<Fetched>, Option<Position>),
    ) -> Result<Option<Position>> {
        let Some(fetched) = fetched else {
            return Ok(position);
        };
        let before = lock(&self.replica.state)
            .positions
            .get(&entry.name)
            .cloned();
        let Some(follower) = self.followers.get_mut(&entry.name) else {
            return Ok(None);
        };
        let next = follower.apply(&self.context, fetched, before.as_ref())?;
        if let Err(error) = follower.fold() {
            log::warn(format_args!("fold the log of {}: {error}", entry.name));
        }
        Ok(Some(next))
    }

    /// Notes how it went with a database.
    fn settle(
        &mut self,
        entry: &Entry,
        result: Result<Option<Position>>,
        moved: &mut Vec<String>,
        failed: &mut Option<Error>,
    ) {
        let is_mending = self
            .followers
            .get(&entry.name)
            .is_some_and(Follower::is_mending);
        let mut state = lock(&self.replica.state);
        let before = state.positions.get(&entry.name).cloned();
        let status = state.of(&entry.name);
        status.transfer = None;
        match result {
            Ok(Some(mut position)) => {
                position.synced_ms = clock::now_ms();
                status.error = None;
                status.master_version = status.master_version.max(position.version);
                let is_same = before.as_ref().is_some_and(|before| {
                    (before.epoch, before.version) == (position.epoch, position.version)
                });
                state.positions.insert(entry.name.clone(), position);
                state.master_seen_ms = Some(clock::now_ms());
                if !is_same {
                    moved.push(entry.name.clone());
                    self.unsaved.insert(entry.name.clone());
                }
            }
            Ok(None) => {}
            Err(error) => {
                log::warn(format_args!("replica of {}: {error}", entry.name));
                status.failures += 1;
                status.repairs += u64::from(is_mending);
                status.error = Some(error.message().to_owned());
                failed.get_or_insert(error);
            }
        }
        drop(state);
        self.replica.moved.notify_all();
    }

    /// Moves aside what the master has not had for two full cycles.
    fn drop_vanished(&mut self, entries: &[Entry], is_good: bool) -> Result<()> {
        let there: BTreeSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let here = self.context.databases.list()?;
        let gone = here
            .into_iter()
            .filter(|name| !there.contains(name.as_str()));
        let gone: BTreeSet<String> = gone.filter(|name| name != db::DEFAULT).collect();
        let twice: Vec<String> = gone.intersection(&self.missing).cloned().collect();
        self.missing = gone;
        for name in twice.iter().filter(|_| is_good) {
            let path = self.context.databases.delete(name)?;
            log::info(format_args!(
                "the master has no database {name} any more; moved to {}",
                path.display()
            ));
            self.followers.remove(name);
            let mut state = lock(&self.replica.state);
            state.positions.remove(name);
            state.status.remove(name);
            self.unsaved.insert(name.clone());
        }
        Ok(())
    }

    fn acknowledge(&self, moved: &[String]) {
        if moved.is_empty() {
            return;
        }
        let positions = {
            let state = lock(&self.replica.state);
            let describe = |name: &String| {
                let at = state.positions.get(name)?;
                let at = json!({"epoch": at.epoch.to_string(), "version": at.version});
                Some((name.clone(), at))
            };
            moved
                .iter()
                .filter_map(describe)
                .collect::<serde_json::Map<_, _>>()
        };
        // The master only shows it; the next one says it again.
        if let Err(error) = self
            .context
            .client
            .acknowledge(&json!({"databases": positions}))
        {
            log::debug(format_args!("acknowledge: {error}"));
        }
    }

    fn save(&mut self) {
        self.saved = Instant::now();
        if self.unsaved.is_empty() {
            return;
        }
        let positions = {
            let state = lock(&self.replica.state);
            let position = |name: &String| (name.clone(), state.positions.get(name).cloned());
            self.unsaved.iter().map(position).collect()
        };
        match positions::save(&self.replica.local, positions) {
            Ok(()) => self.unsaved.clear(),
            // They are found out anew after a start.
            Err(error) => log::warn(format_args!("note how far the replica is: {error}")),
        }
    }
}

/// Notes how far a transfer is, and tells it now and then.
fn note(state: &Mutex<State>, name: &str, done: u64, length: u64) {
    let mut state = lock(state);
    let now = Instant::now();
    let transfer = state.of(name).transfer.get_or_insert(Transfer {
        begun: now,
        told: now,
        done: 0,
        length,
    });
    (transfer.done, transfer.length) = (done, length);
    if transfer.told.elapsed() < TELL_EVERY {
        return;
    }
    transfer.told = now;
    let status = transfer.describe();
    drop(state);
    log::info(format_args!(
        "transfer database={name} mib={} of={} seconds_left={}",
        done >> 20,
        length >> 20,
        status.seconds_left.unwrap_or_default()
    ));
}

/// Cuts connections that bring nothing, until the stop; a thread of its own for as long as nothing
/// else looks.
pub fn watch(replica: &Replica, stop: &Stop) {
    while !stop.wait(Duration::from_secs(1)) {
        if replica.client.cut_if_stalled() {
            log::warn(format_args!("sync: nothing came from the master; cut"));
        }
    }
}

//! A replica: what is known of how far it has come, and what its sync thread (`cycle`) is to do next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::MasterClient;
use super::downloads::Downloads;
use super::file_sync::FilesStatus;
use super::positions;
use super::positions::Position;
use crate::base::error::Result;
use crate::base::threads::lock;
use crate::base::{clock, threads};
use crate::store::db::{Database, Databases};
use crate::store::files::{RemoteFile, Storage};

/// What a clock may be corrected by without its notes being those of another time.
const CLOCK_TOLERANCE_MS: i64 = 1000;
/// How long a request waits for a file that has not arrived.
const FILE_TIMEOUT: Duration = Duration::from_secs(10);

/// What an operator chooses.
#[derive(Clone, Debug)]
pub struct ReplicaSettings {
    pub master_url: String,
    /// Pause between two cycles that nothing wakes.
    pub interval: Duration,
    /// Reads that may wait for a state at a time.
    pub waiters_max: usize,
    /// The name of this replica; that of the node when none is given.
    pub id: Option<String>,
}

/// What the sync thread and those who ask it have in common.
pub struct Replica {
    pub client: Arc<MasterClient>,
    pub interval: Duration,
    pub local: Arc<Database>,
    pub state: Arc<Mutex<ReplicaState>>,
    /// A position has moved.
    pub position_changed: Condvar,
    /// What fetches files; none when they lie in a bucket.
    pub downloads: Option<Arc<Downloads>>,
    pub files: Arc<Mutex<FilesStatus>>,
    waiters: AtomicUsize,
    waiters_max: usize,
    pending: Mutex<PendingWork>,
    woken: Condvar,
}

/// How far everything is.
#[derive(Default)]
pub struct ReplicaState {
    pub positions: BTreeMap<String, Position>,
    pub status: BTreeMap<String, DatabaseState>,
    /// Since the start every database of the master has been looked at.
    pub is_complete: bool,
    /// When the master answered last, in milliseconds since 1970.
    pub master_seen_ms: Option<i64>,
    /// Why the last full cycle came to nothing, or one for some databases since.
    pub error: Option<String>,
    pub cycles: u64,
    pub failures: u64,
    /// Full cycles that have begun, and the last one that has brought everything.
    pub full_started: u64,
    pub full_done: u64,
    /// The databases of the master, as it listed them last.
    pub listed: BTreeSet<String>,
    /// A cycle is under way or about to begin.
    pub is_busy: bool,
    /// Changes are heard of at once.
    is_connected: bool,
    /// When the master, which tells every change, was last heard with nothing left to do, in
    /// milliseconds since 1970.
    pub confirmed_ms: i64,
}

/// What is going on with one database.
#[derive(Clone, Debug, Default)]
pub struct DatabaseState {
    /// The master's version, as far as it was heard of.
    pub master_version: u64,
    pub error: Option<String>,
    pub failures: u64,
    pub repairs: u64,
    pub transfer: Option<Transfer>,
    /// When the master was asked last, it had nothing that is not here.
    pub is_current: bool,
}

/// A stream on its way.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub begun: Instant,
    /// When the log told of it last.
    pub logged: Instant,
    /// Bytes that have come, and of how many.
    pub done: u64,
    pub length: u64,
}

/// What the sync thread does next.
#[derive(Debug)]
pub enum SyncTask {
    /// Bring along every database.
    Everything,
    /// Bring along these.
    Some(BTreeSet<String>),
    /// Go on with what takes long.
    More,
    Stop,
}

/// One that waits, until it is dropped.
struct WaiterGuard<'a>(&'a AtomicUsize);

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What somebody wants of the sync thread.
#[derive(Default)]
struct PendingWork {
    everything: bool,
    names: BTreeSet<String>,
    stop: bool,
}

/// How far a database has come, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    pub name: String,
    /// `current`, `behind`, `loading` or `failing`.
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
    pub connected: bool,
    pub seconds_behind: Option<u64>,
    pub cycles: u64,
    pub failures: u64,
    pub error: Option<String>,
    pub databases: Vec<DatabaseStatus>,
    pub files: FilesStatus,
}

impl Replica {
    /// Reads how far it came before.
    pub fn open(
        local: &Arc<Database>,
        client: MasterClient,
        settings: &ReplicaSettings,
        storage: &Arc<Storage>,
    ) -> Result<Replica> {
        let client = Arc::new(client);
        let state = ReplicaState {
            positions: positions::load(local)?,
            listed: positions::load_listed(local)?,
            ..ReplicaState::default()
        };
        Ok(Replica {
            downloads: storage
                .has_journal()
                .then(|| Arc::new(Downloads::new(&client, storage))),
            files: Arc::new(Mutex::new(FilesStatus {
                state: "off",
                ..FilesStatus::default()
            })),
            client,
            interval: settings.interval,
            waiters: AtomicUsize::new(0),
            waiters_max: settings.waiters_max,
            local: Arc::clone(local),
            state: Arc::new(Mutex::new(state)),
            position_changed: Condvar::new(),
            pending: Mutex::default(),
            woken: Condvar::new(),
        })
    }

    /// How far a database has come.
    pub fn position(&self, name: &str) -> Option<Position> {
        lock(&self.state).positions.get(name).cloned()
    }

    /// These databases have changed.
    pub fn request_sync(&self, names: impl IntoIterator<Item = String>) {
        lock(&self.pending).names.extend(names);
        self.woken.notify_all();
    }

    /// Any database may have changed.
    pub fn request_full_sync(&self) {
        lock(&self.pending).everything = true;
        self.woken.notify_all();
    }

    /// From now on changes are heard of at once, or no longer.
    pub fn set_connected(&self, is_connected: bool) {
        lock(&self.state).is_connected = is_connected;
    }

    /// The master is there. When nothing that it has told is left to do and every database is whole, then
    /// everything is here that it has.
    pub fn confirm_current(&self) {
        let pending = lock(&self.pending);
        let is_idle = pending.names.is_empty() && !pending.everything;
        let mut state = lock(&self.state);
        if is_idle && !state.is_busy && state.error.is_none() && state.is_current() {
            state.confirmed_ms = clock::now_ms();
        }
    }

    /// Ends the sync thread, and what it is waiting for.
    pub fn stop(&self) {
        lock(&self.pending).stop = true;
        self.woken.notify_all();
        if let Some(downloads) = &self.downloads {
            downloads.stop();
        }
        self.client.stop();
    }

    /// Whether every file of the master is here, as far as it is known.
    pub fn has_all_files(&self) -> bool {
        lock(&self.files).state == "current"
    }

    /// Gets a file that has not arrived yet, because somebody wants to read it now. False when that
    /// takes too long, or too many wait already.
    pub fn fetch_file(&self, remote: &RemoteFile) -> Result<bool> {
        let Some(downloads) = &self.downloads else {
            return Ok(false);
        };
        let Some(_waiter) = self.register_waiter() else {
            return Ok(false);
        };
        downloads.fetch_now(remote, Instant::now() + FILE_TIMEOUT)
    }

    /// A place among those who wait.
    fn register_waiter(&self) -> Option<WaiterGuard<'_>> {
        let guard = WaiterGuard(&self.waiters);
        (self.waiters.fetch_add(1, Ordering::SeqCst) < self.waiters_max).then_some(guard)
    }

    /// Waits until a database has come to a state of the master's; false when it does not in time, when
    /// there is no such database here, or when too many others wait already, who would keep everybody
    /// from being served.
    pub fn wait_for(&self, name: &str, tag: &str, version: u64, deadline: Instant) -> bool {
        let is_known_history = {
            let state = lock(&self.state);
            let Some(position) = state.positions.get(name) else {
                return false;
            };
            if position.has_reached(tag, version) {
                return true;
            }
            position.epoch.tag() == tag
        };
        let Some(_waiter) = self.register_waiter() else {
            return false;
        };
        // A history that is not the present one after everything was asked for is one of the past, all of
        // which is in the present one.
        let after = lock(&self.state).full_started;
        match is_known_history {
            true => self.request_sync([name.to_owned()]),
            false => self.request_full_sync(),
        }
        let mut state = lock(&self.state);
        loop {
            let position = state.positions.get(name);
            let has_reached = position.is_some_and(|it| it.has_reached(tag, version));
            let is_past = state.full_done > after
                && position.is_some_and(|position| position.epoch.tag() != tag);
            if has_reached || is_past {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            state = threads::wait_timeout(&self.position_changed, state, left);
        }
    }

    /// Whether the master has such a database and it has not arrived.
    pub fn is_arriving(&self, name: &str, databases: &Databases) -> bool {
        let is_listed = || lock(&self.state).listed.contains(name);
        !databases.file(name).exists() && is_listed()
    }

    /// Whether it has had everything since its start that the master had then.
    pub fn is_complete(&self) -> bool {
        lock(&self.state).is_complete
    }

    /// For how long it may lack something that the master has, in seconds; none before every database is
    /// here, and when that was noted by a clock that was ahead.
    pub fn seconds_behind(&self) -> Option<u64> {
        let state = lock(&self.state);
        let synced = |name: &String| state.positions.get(name).map(|it| it.synced_ms);
        let mut all = state.listed.iter().map(synced);
        let oldest = all.try_fold(i64::MAX, |least, it| it.map(|it| least.min(it)))?;
        let now_ms = clock::now_ms();
        let is_known = |it: &i64| (1..=now_ms + CLOCK_TOLERANCE_MS).contains(it);
        let proofs = [oldest, state.confirmed_ms].into_iter();
        let proven_ms = proofs.filter(is_known).max()?;
        Some((now_ms - proven_ms).max(0).cast_unsigned() / 1000)
    }

    /// How far it is.
    pub fn status(&self) -> ReplicaStatus {
        let seconds_behind = self.seconds_behind();
        let state = lock(&self.state);
        let names: BTreeSet<&String> = state.positions.keys().chain(state.status.keys()).collect();
        let databases = names.into_iter().map(|name| state.describe(name));
        ReplicaStatus {
            master: self.client.master_url.clone(),
            master_seen: state.master_seen_ms.map(clock::format_ms),
            complete: state.is_complete,
            connected: state.is_connected,
            seconds_behind,
            cycles: state.cycles,
            failures: state.failures,
            error: state.error.clone(),
            databases: databases.collect(),
            files: lock(&self.files).clone(),
        }
    }

    /// What there is to do, when everything is due then and what takes long is.
    pub fn next_task(&self, due: Instant, more_due: Option<Instant>) -> SyncTask {
        let mut pending = lock(&self.pending);
        loop {
            if pending.stop {
                return SyncTask::Stop;
            }
            let now = Instant::now();
            // Between being taken and being done there must be no moment in which it seems done.
            if pending.everything || due <= now {
                *pending = PendingWork::default();
                lock(&self.state).is_busy = true;
                return SyncTask::Everything;
            }
            if !pending.names.is_empty() {
                lock(&self.state).is_busy = true;
                return SyncTask::Some(std::mem::take(&mut pending.names));
            }
            let next_task = more_due.map_or(due, |more_due| more_due.min(due));
            if next_task <= now {
                return SyncTask::More;
            }
            pending = threads::wait_timeout(&self.woken, pending, next_task - now);
        }
    }
}

impl ReplicaState {
    fn describe(&self, name: &str) -> DatabaseStatus {
        let (position, status) = (self.positions.get(name), self.status.get(name));
        let status = status.cloned().unwrap_or_default();
        let version = position.map(|position| position.version);
        let state = match &status {
            _ if status.transfer.is_some() && version.is_none() => "loading",
            DatabaseState { error: Some(_), .. } => "failing",
            _ if status.is_current => "current",
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

    /// No database of the master is failing, on its way or not looked at yet.
    fn is_current(&self) -> bool {
        let is_current = |name| self.status.get(name).is_some_and(|it| it.is_current);
        !self.listed.is_empty() && self.listed.iter().all(is_current)
    }

    /// What is going on with a database.
    pub fn database_mut(&mut self, name: &str) -> &mut DatabaseState {
        self.status.entry(name.to_owned()).or_default()
    }
}

impl Transfer {
    /// For people and programs.
    pub fn describe(&self) -> TransferStatus {
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
